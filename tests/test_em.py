"""The one loop of the book, around speech priors whose answer is known."""

from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple

import pytest
import torch
from conftest import drawn_vae
from test_diffusion import far
from test_diffusion import gaussian as gaussian_denoiser
from test_nmf import drawn

from sepriors.inference import diffusion, em, nmf
from sepriors.inference.diffusion import EDM, OUVE, posterior_transition, pseudo_likelihood
from sepriors.inference.em import NMFE, Decoder, Expectation, GibbsE, ReverseE, VarianceE, VariancePosterior
from sepriors.inference.latent import MCMC
from sepriors.inference.mcmc import RandomWalk
from sepriors.inference.nmf import NMF
from sepriors.inference.noise_models import Begun, FreeNMF, Linearised, TrainedNMF
from sepriors.protocols import Step
from sepriors.signal import gaussian
from sepriors.signal.front_ends import Compressed
from sepriors.signal.gaussian import is_divergence, log_likelihood
from sepriors.signal.rng import clone, generators
from sepriors.signal.stft import STFT

B, F, T = 2, 9, 12


def complex_normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128)


def spectrum():
    """A complex mixture of two low-rank sources, with the bases of the first, and its variance."""
    W_s, W_n = drawn(0, F, 4), drawn(1, B, F, 2)
    V_s = W_s @ drawn(2, B, 4, T)
    return (V_s + W_n @ drawn(3, B, 2, T)).sqrt() * complex_normal(B, F, T), W_s, V_s


class Truth(NamedTuple):
    """An E-step that knows the variance of the speech: what is left for the loop to do is noise NMF."""

    V_s: torch.Tensor
    calls: list = []  # noqa: RUF012

    def start(self, X, generators):
        return 0

    def __call__(self, X, V_n, state):
        def estimate():
            self.calls.append(state)
            return gaussian.wiener(X, self.V_s, V_n)

        return state + 1, Expectation(X.abs().square()[None], self.V_s[None], estimate)


def test_the_loop_unrolled():
    """Nobody pays for estimates that nobody asks for; it stops where the caller does."""
    X, _, V_s = spectrum()
    P, calls = X.abs().square(), []
    noise = nmf.init(P, 3, generators(0, B))
    steps = list(islice(em.em(X, Truth(V_s, calls), noise, iterations=10**9, generators=None), 4))
    assert [s.iteration for s in steps] == [0, 1, 2, 3]
    assert calls == []
    for step in steps:
        assert step.noise.W.equal(noise.W)
        assert step.estimate().equal(gaussian.wiener(X, V_s, noise.variance))
        noise = nmf.fast_update(noise, P[None], V_s[None])
    assert calls == [0, 1, 2, 3]


# ------------------------------------------------------------- models of the noise


@pytest.mark.parametrize("model", [FreeNMF(2), TrainedNMF(drawn(5, F, 2))], ids=["free", "trained"])
def test_both_models_only_ever_come_nearer_to_the_mixture(model):
    """Speech and noise in turn; bases that are known are kept, whose scale is no matter."""
    X, W_s, _ = spectrum()
    P = X.abs().square()
    begun = noise = model.start(P, X, None, generators(0, B))
    estep = NMFE(W_s)
    state = estep.start(X, generators(1, B))
    last = is_divergence(P, state.V_s + noise.variance)
    for _ in range(30):
        state, e = estep(X, noise.variance, state)
        after_e = is_divergence(P, e.offset[0] + noise.variance)
        noise = model.update(noise, e.power, e.offset)
        after_m = is_divergence(P, e.offset[0] + noise.variance)
        assert (after_e <= last * (1 + 1e-12)).all()
        assert (after_m <= after_e * (1 + 1e-12)).all()
        last = after_m
    assert noise.W.equal(begun.W) == isinstance(model, TrainedNMF)
    if isinstance(model, TrainedNMF):
        torch.testing.assert_close(noise.W, (model.bases / model.bases.sum(0)).expand(B, -1, -1))


def test_speech_starts_at_its_level():
    X, W_s, _ = spectrum()
    for level in (1.0, 0.01):
        V_s = NMFE(W_s, level).start(X, generators(0, B)).V_s
        assert (V_s.mean((-2, -1)) / X.abs().square().mean((-2, -1)) / level).log().abs().max() < 0.7


@pytest.mark.parametrize("with_offset", [True, False])
def test_noise_behind_a_compression_is_learned_in_linear_units(with_offset):
    """As in a loop where bins are as they are: the secant gain is a unit."""
    X, _, V_s = spectrum()
    gain, P = drawn(5, B, F, T), X.abs().square()[None]
    plain, offset = nmf.init(P[0], 3, generators(0, B)), V_s[None] if with_offset else None
    seen = Linearised(plain, gain)
    for _ in range(4):
        torch.testing.assert_close(seen.variance, gain * plain.variance)
        plain = nmf.update(plain, P, offset, bases=False)
        seen = Begun(None).update(seen, gain * P, None if offset is None else gain * offset)
    torch.testing.assert_close(seen.model.H, plain.H)
    assert seen.model.W.equal(plain.W)


class Ended(NamedTuple):
    """A method that ends with a known NMF of white noise."""

    stft: STFT
    seen: list

    def __call__(self, x, *, generators):
        self.seen.append((x, [g.initial_seed() for g in generators]))
        frames = self.stft(x).shape[-1]
        yield Step(0, NMF(torch.zeros(1), torch.zeros(1)), None)
        yield Step(1, NMF(torch.ones(2, self.stft.bins, 1) / self.stft.bins, torch.ones(2, 1, frames)), None)


@pytest.mark.parametrize("ratio", [1, 2])
def test_noise_that_another_method_has_begun(ratio):
    """It hears the mixture at the domain's level; what it ends with is seen by the transform that is here."""
    stft, first = STFT(64, 16), Ended(STFT(ratio * 64, ratio * 16), [])
    x = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    domain = Compressed(stft).bind(x)
    X = domain(x)
    noise = Begun(first).start(x, X, domain, generators([3, 4], 2))
    ((heard, seeds),) = first.seen
    torch.testing.assert_close(heard, domain.normalised(x))
    assert seeds == [3, 4]
    assert noise.variance.shape == X.shape
    expected = domain.compression.secant_gain(X) / first.stft.bins / ratio
    torch.testing.assert_close(noise.variance, expected)
    with pytest.raises(ValueError, match=r"first method with the prior's STFT\(n_fft=64.*got STFT\(n_fft=32"):
        Begun(first._replace(stft=STFT(32, 8))).start(x, X, domain, generators(0, 2))


# ------------------------------------------------------------- variance priors


@pytest.mark.parametrize("level", [1e-9, 1.0, 1e6])
def test_a_gain_never_lowers_the_likelihood_of_the_draws(level):
    """From any start, step after step; of one draw of one frame it is the update of an NMF's activations."""
    for seed, draws in enumerate((1, 2, 7)):
        P, V_n, V_s = drawn(seed, B, F, T), drawn(seed + 50, B, F, T), level * drawn(seed + 99, draws, B, F, T)
        kept = [x.clone() for x in (P, V_n, V_s)]
        em.update_gain(P, V_s, V_n)
        assert all(x.equal(k) for x, k in zip((P, V_n, V_s), kept, strict=True))
        values = []
        for _ in range(15):
            values.append(log_likelihood(P, V_s + V_n, dim=-2).sum(0))
            V_s = em.update_gain(P, V_s, V_n) * V_s
        assert (torch.stack(values).diff(dim=0) >= -1e-12 * values[0].abs()).all()
    one = (P[..., :1], V_s[:1, ..., :1], V_n[..., :1])
    H = nmf.update(NMF(one[1][0], torch.ones(B, 1, 1).double()), one[0][None], one[2][None], bases=False).H
    torch.testing.assert_close(em.update_gain(*one), H)


def test_a_gain_is_found_exactly():
    """Without noise at once; with it the mean power leads to the true gain, the likeliest."""
    V_s, gain, V_n = drawn(0, 1, B, F, T), drawn(1, B, 1, T), drawn(2, B, F, T)
    torch.testing.assert_close(em.update_gain(gain**2 * V_s[0], V_s, 0 * V_n), gain)
    found = torch.ones(B, 1, T).double()
    for _ in range(3000):
        found = found * em.update_gain(gain * V_s[0] + V_n, found * V_s, V_n)
    torch.testing.assert_close(found * V_s[0] + V_n, gain * V_s[0] + V_n, rtol=1e-3, atol=0)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_gain_of_a_silent_frame_falls_and_stops_above_zero(noise):
    P, V, gain = torch.zeros(B, F, T), drawn(0, 2, B, F, T).float(), torch.ones(B, 1, T)
    for _ in range(200):
        change = em.update_gain(P, gain * V, torch.full_like(P, noise))
        assert (change.isfinite() & (change <= 1)).all()
        gain = gain * change
    assert (gain > 0).all()
    assert (gain * V).max() < 1e-9 * max(noise, 1e-3)


def small(seed=0):
    """A posterior of the small VAE with drawn mixtures, and some z (R, B, L, T)."""
    made = drawn_vae()
    z = torch.randn(4, B, made.latent, T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    V_n, gain = drawn(seed + 1, B, F, T), drawn(seed + 2, B, 1, T)
    return VariancePosterior(Decoder(made), drawn(seed, B, F, T), V_n, gain), z


@pytest.mark.parametrize("inference", [False, True])
def test_the_density_of_a_posterior_and_its_slope(inference):
    """Of each frame; or of each utterance, where the shape of the prior's density says so."""
    target, z = small()
    made, leaf = target.decoder.prior, z.clone().requires_grad_()
    V_x = target.gain * made.log_variance(leaf).exp() + target.V_n
    expected = log_likelihood(target.P, V_x, dim=-2) - 0.5 * leaf.square().sum(-2)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    with torch.inference_mode(inference):
        inside = VariancePosterior(target.decoder, *(x.clone() for x in target[1:]))
        logp, score = inside.logp(z.clone()), inside.score(z.clone())
        likelihood_score = inside.likelihood_score(z.clone())
    torch.testing.assert_close(logp.diff(dim=0), expected.detach().diff(dim=0))
    torch.testing.assert_close(score, slope)
    torch.testing.assert_close(likelihood_score, slope + z)  # the slope of a standard normal is -z
    made.log_prior = lambda z: type(made).log_prior(made, z).sum(-1)
    torch.testing.assert_close(target.logp(z), logp.sum(-1))
    torch.testing.assert_close(target.score(z), score)


def test_a_decoder_that_remembers_says_what_a_fresh_one_says():
    target, z = small()
    made, other, calls = target.decoder.prior, z + 1, []
    made.log_variance = lambda z: calls.append(z) or type(made).log_variance(made, z)
    decoder = Decoder(made)
    for asked in (z, z, other, z, z.clone(), z[:2], z):
        assert decoder.variance(asked).equal(Decoder(made).variance(asked))
        for _ in range(2):  # the graph is kept
            assert decoder.pullback(asked, torch.sqrt).equal(Decoder(made).pullback(asked, torch.sqrt))
    calls.clear()
    for _ in range(3):
        decoder.variance(other)
        decoder.pullback(other, torch.sqrt)
    assert len(calls) == len(other)
    torch.testing.assert_close(decoder.variance(z), made.log_variance(z).exp())


@pytest.mark.parametrize("gain", [True, False])
def test_what_a_variance_prior_tells_the_loop(gain):
    """Power, offset, gain and estimate of a round, from the draws it took; the old state is left as it was."""
    made, X, V_n = drawn_vae(), drawn(0, B, F, T).sqrt() * complex_normal(B, F, T), drawn(2, B, F, T)
    use, g = MCMC(RandomWalk(0.1), steps=4, keep=3, final_steps=6, final_keep=2), generators([3, 4], B)
    estep, P = VarianceE(made, use, gain=gain, initial_gain=0.5), X.abs().square()
    state = estep.start(X, g)
    half = torch.full((B, 1, T), 0.5).double()
    draws, _ = use(VariancePosterior(Decoder(made), P, V_n, half), state.latent, clone(g))
    V = made.log_variance(draws).exp()
    expected = half * em.update_gain(P, half * V, V_n) if gain else half
    new, e = estep(X, V_n, state)
    assert state.gain.equal(half)
    assert new.latent.position.equal(draws[-1:])
    assert e.power.equal(P.expand(3, -1, -1, -1))
    torch.testing.assert_close(new.gain, expected)
    torch.testing.assert_close(e.offset, expected * V)
    final = use.final(VariancePosterior(Decoder(made), P, V_n, expected), new.latent, clone(g))
    wanted = [gaussian.wiener(X, expected * made.log_variance(z).exp(), V_n) for z in final]
    torch.testing.assert_close(e.estimate(), torch.stack(wanted).mean(0))


# ------------------------------------------------------------- diffusion priors, of which the Gaussian is known


class Bins(NamedTuple):
    """Bins of two utterances: a Gaussian prior N(m, V_s), noise, a mixture louder than they would have it, Wiener's."""

    m: torch.Tensor
    V_s: torch.Tensor
    V_n: torch.Tensor
    X: torch.Tensor

    @property
    def wiener(self):
        """Mean and variance of the speech."""
        G = self.V_s / (self.V_s + self.V_n)
        return self.m + G * (self.X - self.m), G * self.V_n

    def denoise(self, x, sigma):
        return gaussian_denoiser(self.V_s, self.m)(x, sigma)

    def way(self, sigma):
        """How much of S a round of Gibbs leaves in the next, and the conditional variance."""
        G = self.V_s / (self.V_s + sigma**2)
        v = G * sigma**2
        return G * self.V_n / (v + self.V_n), v * self.V_n / (v + self.V_n)


@pytest.fixture
def bins():
    V_s, V_n = torch.tensor([[0.05], [0.3], [1.0]]).double(), torch.tensor([0.02, 0.4]).double().expand(2, 3, 2)
    turn = torch.tensor([1, -1j])[:, None, None].to(torch.cdouble)
    X = 1.5 * (V_s + V_n).sqrt() * turn * torch.tensor([[1, -1], [-1, 1], [1, 1]])
    return Bins(torch.tensor(0.3 - 0.2j).to(X), V_s, V_n, X)


def rounds(estep, X, V_n, count, seed=(3, 4)):
    """State and expectation of each of `count` rounds; V_n the same in all, or one for each."""
    state = estep.start(X, generators(list(seed), len(X)))
    for i in range(count):
        state, e = estep(X, V_n[i] if isinstance(V_n, list) else V_n, state)
        yield state, e


@pytest.mark.parametrize("sigma", [0.15, 3.0])
@pytest.mark.parametrize("count", [1, 4])
def test_the_draws_of_a_round_of_gibbs(bins, sigma, count):
    """Many of them: an autoregression whose noise is a σ z; and what the M-step sees, on average."""
    mean, (left, conditional) = bins.wiener[0], bins.way(sigma)
    *_, (state, e) = rounds(GibbsE(bins.denoise, sigma, draws=10_000), bins.X, bins.V_n, count)
    there = mean + left**count * (bins.X - mean)
    variance = (left * sigma) ** 2 * (1 - left ** (2 * count)) / (1 - left**2)
    assert far(state.position, there, variance) < 4
    expected = (bins.X - there).abs().square() + variance + conditional
    torch.testing.assert_close(e.power.mean(0), expected, rtol=0.06, atol=0)
    assert e.offset is None


def test_the_mean_over_many_rounds_of_gibbs_is_wieners(bins):
    """Within four standard errors of a mean over an autoregression; over the rounds since `burn`."""
    K, R, sigma = 200, 100, 0.4
    mean, left = bins.wiener[0], bins.way(sigma)[0]
    *_, (_, e) = rounds(GibbsE(bins.denoise, sigma, draws=R, burn=100), bins.X, bins.V_n, 100 + K)
    assert ((e.estimate() - mean).abs() < 4 * left * sigma / (1 - left) / (K * R) ** 0.5).all()
    for burn in (0, 3):
        done = list(rounds(GibbsE(bins.denoise, draws=3, burn=burn), bins.X, bins.V_n, 6))
        means = [state.position.mean(0) for state, _ in done]
        for i, (_, e) in enumerate(done):
            expected = torch.stack(means[burn : i + 1]).mean(0) if i >= burn else means[i]
            torch.testing.assert_close(e.estimate(), expected)


def test_gibbs_without_noise_is_sure_of_the_mixture_and_in_nothing_else_sees_the_prior(bins):
    for state, e in rounds(GibbsE(bins.denoise, draws=3, burn=0), bins.X, 0 * bins.V_n, 4):
        torch.testing.assert_close(state.position, bins.X.expand(3, 2, 3, 2))
        assert e.power.max() < 1e-24
    *_, (state, _) = rounds(GibbsE(bins.denoise, 3.0, draws=10_000), bins.X, 1e100 + 0 * bins.V_n, 30)
    G = bins.V_s / (bins.V_s + 9)
    assert far(state.position, bins.m.expand(2, 3, 2), (9 * G**2 / (1 - G**2)).expand(2, 3, 2)) < 4


# ------------------------------------------------------------- the reverse process as an E-step


@pytest.mark.parametrize(("schedule", "weight", "every", "unguided"), [(OUVE(), 1.5, 2, 1), (EDM(), 0.7, 1, 0)])
def test_a_round_that_restarts_is_a_whole_reverse_process(bins, schedule, weight, every, unguided):
    """From the mixture, with the generators where the last round has left them, and this round's number of draws."""
    h, V_n, each = generators([3, 4], 2), [bins.V_n, 3 * bins.V_n, bins.V_n / 9], (3, 5, 5)
    estep = ReverseE(
        bins.denoise, partial(pseudo_likelihood, weight=weight), True, schedule, 5, each[:2], every, unguided
    )
    for i, (state, e) in enumerate(rounds(estep, bins.X, V_n, 3)):
        guide = lambda to, V=V_n[i]: pseudo_likelihood(to, bins.X, V, weight)  # noqa: E731
        s = diffusion.start(bins.X, schedule, each[i], h)
        *_, last = diffusion.reverse(
            bins.denoise, schedule, s, steps=5, generators=h, guide=guide if i >= unguided else None, every=every
        )
        assert state.round == i + 1
        assert e.estimate().equal(last.position.mean(0))
        assert e.power.equal((bins.X - last.position).abs().square())
        assert e.offset.equal(last.posterior.variance)


@pytest.mark.parametrize(("schedule", "steps", "every"), [(OUVE(), 6, 2), (EDM(), 5, 1), (OUVE(), 5, 2)])
def test_rounds_that_go_on_are_the_steps_of_one_reverse_process(bins, schedule, steps, every):
    """The guide acts in the first of each round, with that round's noise; M sees what the prior took for speech."""
    h, count = generators([3, 4], 2), -(-steps // every)
    estep = ReverseE(bins.denoise, posterior_transition, False, schedule, steps, 3, every)
    V_n, hops = [bins.V_n * 2.0**-i for i in range(count)], list(pairwise(schedule.times(steps)))
    s = diffusion.start(bins.X, schedule, 3, h)
    for i, (state, e) in enumerate(rounds(estep, bins.X, V_n, count)):
        for j, (t, t_next) in enumerate(hops[i * every : (i + 1) * every]):
            guide = None if j else lambda to, V=V_n[i]: posterior_transition(to, bins.X, V)
            s, guess = diffusion.step(bins.denoise, schedule, s, t, t_next, generators=h, guide=guide)
        assert state.position.equal(s)
        assert e.estimate().equal(s.mean(0))
        assert e.power.equal((bins.X - guess.mean).abs().square())
        assert e.offset.equal(guess.variance)
    with pytest.raises(ValueError, match=f"expected {count} rounds at most, of {every} of {steps} steps, got another"):
        list(rounds(estep, bins.X, bins.V_n, count + 1))


@pytest.mark.parametrize("make", [ReverseE, partial(ReverseE, restart=False), GibbsE])
def test_without_a_draw_there_is_nothing_to_learn_from(bins, make):
    with pytest.raises(ValueError, match="expected one draw at least, got draws=0"):
        list(rounds(make(bins.denoise, draws=0), bins.X, bins.V_n, 1))
