"""The one loop of the book, around speech priors whose answer is known."""

from functools import partial
from itertools import islice, pairwise
from typing import NamedTuple

import pytest
import torch
from conftest import alike, drawn_score, drawn_vae

from sepriors.inference import diffusion, nmf
from sepriors.inference.diffusion import EDM, OUVE, condition, posterior_transition, pseudo_likelihood
from sepriors.inference.em import (
    NMFE,
    Decoder,
    Expectation,
    GibbsE,
    Linearised,
    ReverseE,
    Step,
    StepE,
    VarianceE,
    VariancePosterior,
    em,
    update_gain,
)
from sepriors.inference.latent import MCMC
from sepriors.inference.mcmc import Langevin, RandomWalk
from sepriors.protocols import Denoised
from sepriors.signal import gaussian
from sepriors.signal.gaussian import is_divergence, log_likelihood
from sepriors.signal.rng import clone, generators, randn_like
from sepriors.signal.stft import Compression

B, F, T = 2, 20, 30


def spectrum(seed=0):
    """A complex mixture of two low-rank sources, with the bases of the first."""
    g = torch.Generator().manual_seed(seed)
    W_s, H_s, W_n, H_n = (
        (2 * torch.randn(*shape, generator=g, dtype=torch.float64)).exp()
        for shape in ((F, 4), (B, 4, T), (B, F, 2), (B, 2, T))
    )
    V = W_s @ H_s + W_n @ H_n
    return V.sqrt() * torch.randn(B, F, T, generator=g, dtype=torch.complex128), W_s


class Truth(NamedTuple):
    """An E-step that knows the variance of the speech: what is left for the loop to do is noise NMF."""

    V_s: torch.Tensor

    def start(self, X, generators):
        return 0

    def __call__(self, X, V_n, state):
        P = X.abs().square()[None]
        return state + 1, Expectation(P, self.V_s[None], lambda: gaussian.wiener(X, self.V_s, V_n))


def test_the_loop_unrolled():
    X, W_s = spectrum()
    P, V_s = X.abs().square(), (W_s @ torch.ones(B, 4, T, dtype=W_s.dtype))
    start = nmf.init(P, 3, generators(0, B))
    steps = list(em(X, Truth(V_s), start, iterations=4, generators=generators(0, B)))
    assert [s.iteration for s in steps] == [0, 1, 2, 3]
    noise = start
    for step in steps:
        assert step.noise.W.equal(noise.W)
        assert step.estimate().equal(gaussian.wiener(X, V_s, noise.variance))
        noise = nmf.update(noise, P[None], V_s[None])


def test_a_true_prior_leaves_the_noise_to_be_learned():
    """With the variance of the speech known, the likelihood of the mixture never falls."""
    X, W_s = spectrum()
    P, V_s = X.abs().square(), W_s @ torch.ones(B, 4, T, dtype=W_s.dtype)
    steps = em(X, Truth(V_s), nmf.init(P, 3, generators(0, B)), iterations=40, generators=generators(0, B))
    values = torch.stack([gaussian.log_likelihood(P, V_s + s.noise.variance) for s in steps])
    assert (values.diff(dim=0) >= -1e-9).all()
    assert (values[-1] > values[0] + 1).all()


@pytest.mark.parametrize("bases", [False, True])
def test_both_models_only_ever_come_nearer_to_the_mixture(bases):
    X, W_s = spectrum()
    P = X.abs().square()
    noise = nmf.init(P, 2, generators(0, B))
    estep = NMFE(W_s)
    state = estep.start(X, generators(1, B))
    last = is_divergence(P, state.V_s + noise.variance)
    for _ in range(30):
        state, e = estep(X, noise.variance, state)
        after_e = is_divergence(P, e.offset[0] + noise.variance)
        noise = nmf.update(noise, e.power, e.offset, bases=bases)
        after_m = is_divergence(P, e.offset[0] + noise.variance)
        assert (after_e <= last * (1 + 1e-12)).all()
        assert (after_m <= after_e * (1 + 1e-12)).all()
        last = after_m


def test_known_noise_bases_are_left_alone():
    X, W_s = spectrum()
    start = nmf.init(X.abs().square(), 2, generators(0, B))
    kept = start.W.clone()
    steps = list(em(X, NMFE(W_s), start, iterations=5, generators=generators(0, B), bases=False))
    assert all(s.noise.W.equal(kept) for s in steps)
    assert not steps[-1].noise.H.equal(start.H)
    steps = list(em(X, NMFE(W_s), start, iterations=5, generators=generators(0, B)))
    assert not steps[-1].noise.W.equal(kept)


def test_an_estimate_is_of_its_round_whenever_it_is_asked_for():
    X, W_s = spectrum()

    def rounds():
        noise = nmf.init(X.abs().square(), 2, generators(0, B))
        return em(X, NMFE(W_s), noise, iterations=6, generators=generators(1, B))

    batch_size = [step.estimate() for step in rounds()]
    later = [step.estimate() for step in list(rounds())]
    for a, b in zip(batch_size, later, strict=True):
        assert a.equal(b)
    assert not batch_size[0].equal(batch_size[-1])


def test_nobody_pays_for_estimates_that_nobody_asks_for():
    calls = []

    class Counted(Truth):
        def __call__(self, X, V_n, state):
            state, e = super().__call__(X, V_n, state)
            return state, e._replace(estimate=lambda: calls.append(state))

    X, _ = spectrum()
    noise = nmf.init(X.abs().square(), 2, generators(0, B))
    for step in em(X, Counted(X.abs().square()), noise, iterations=5, generators=None):  # noqa: B007
        pass
    assert calls == []
    step.estimate()
    assert calls == [5]


def test_it_stops_where_the_caller_does():
    X, W_s = spectrum()
    noise = nmf.init(X.abs().square(), 2, generators(0, B))
    steps = em(X, NMFE(W_s), noise, iterations=10**9, generators=generators(0, B))
    assert [s.iteration for s in islice(steps, 3)] == [0, 1, 2]


def test_gradients_are_as_the_caller_left_them():
    X, W_s = spectrum()
    noise = nmf.init(X.abs().square(), 2, generators(0, B))
    for _ in em(X, NMFE(W_s), noise, iterations=2, generators=generators(0, B)):
        assert torch.is_grad_enabled()


def test_speech_starts_at_its_level():
    X, W_s = spectrum()
    P = X.abs().square()
    for level in (1.0, 0.01):
        V_s = NMFE(W_s, level).start(X, generators(0, B)).V_s
        assert (V_s.mean((-2, -1)) / P.mean((-2, -1)) / level).log().abs().max() < 0.5


def test_a_step_is_data():
    step = Step(0, None, lambda: torch.zeros(1))
    assert step._replace(iteration=1).iteration == 1
    assert step.estimate().equal(torch.zeros(1))


# ------------------------------------------------------------- variance priors


def drawn(seed, *shape):
    """Positive, over some orders of magnitude, as spectra are."""
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).exp()


def likelihood(P, V_s, V_n):
    """Of all draws together, a value for each frame."""
    return log_likelihood(P, V_s + V_n, dim=-2).sum(0)


@pytest.mark.parametrize("draws", [1, 2, 7])
@pytest.mark.parametrize("level", [1e-9, 1e-3, 1.0, 1e6])
def test_a_gain_never_lowers_the_likelihood_of_the_draws(draws, level):
    """From any start, step after step."""
    for seed in range(20):
        P, V_n, V_s = drawn(seed, B, F, T), drawn(seed + 50, B, F, T), level * drawn(seed + 99, draws, B, F, T)
        last = likelihood(P, V_s, V_n)
        for _ in range(15):
            kept = [x.clone() for x in (P, V_s, V_n)]
            change = update_gain(P, V_s, V_n)
            assert all(x.equal(k) for x, k in zip((P, V_s, V_n), kept, strict=True))
            V_s = change * V_s
            now = likelihood(P, V_s, V_n)
            assert (now - last >= -1e-12 * last.abs()).all()
            last = now


def test_a_gain_is_found_exactly():
    """Without noise the update leads to the gain that made the power: at once where it is one draw's."""
    V_s, gain = drawn(0, 1, B, F, T), drawn(1, B, 1, T)
    torch.testing.assert_close(update_gain(gain**2 * V_s[0], V_s, torch.zeros(B, F, T).double()), gain)
    V_n = drawn(2, B, F, T)
    P = gain * V_s[0] + V_n  # the mean power: the true gain is the likeliest
    found = torch.ones(B, 1, T).double()
    for _ in range(3000):
        found = found * update_gain(P, found * V_s, V_n)
    torch.testing.assert_close(found * V_s[0] + V_n, P, rtol=1e-3, atol=0)


def test_a_gain_is_the_formula():
    """Against sums written out one by one."""
    P, V_s, V_n = drawn(0, 1, 4, 3), drawn(1, 2, 1, 4, 3), drawn(2, 1, 4, 3)
    got = update_gain(P, V_s, V_n)
    for t in range(3):
        up = down = 0.0
        for r in range(2):
            for f in range(4):
                V_x = V_s[r, 0, f, t] + V_n[0, f, t]
                up += P[0, f, t] * V_s[r, 0, f, t] / V_x**2
                down += V_s[r, 0, f, t] / V_x
        torch.testing.assert_close(got[0, 0, t], (up / down) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [0.0, 1e-14, 1.0])
def test_the_gain_of_a_silent_frame_falls_and_stops_above_zero(dtype, noise):
    P, V = torch.zeros(B, F, T, dtype=dtype), drawn(0, 2, B, F, T).to(dtype)
    V_n, gain = torch.full_like(P, noise), torch.ones(B, 1, T, dtype=dtype)
    for _ in range(200):
        change = update_gain(P, gain * V, V_n)
        assert change.isfinite().all()
        assert (change <= 1).all()
        gain = gain * change
    assert (gain > 0).all()
    assert (gain * V).max() < 1e-9 * max(noise, 1e-3)


def small(T, seed=0):
    """A posterior of the small VAE with drawn mixtures, and some z (R, B, L, T)."""
    made = drawn_vae()
    F = made.stft.bins
    z = torch.randn(4, B, made.latent, T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    V_n, gain = drawn(seed + 1, B, F, T), drawn(seed + 2, B, 1, T)
    return VariancePosterior(Decoder(made), drawn(seed, B, F, T), V_n, gain), z


@pytest.mark.parametrize("inference", [False, True])
def test_the_score_of_a_posterior_is_the_slope_of_its_density(inference):
    target, z = small(7)
    with torch.inference_mode(inference):
        inside = VariancePosterior(target.decoder, *(x.clone() for x in target[1:]))
        z_inside = z.clone()
        of_likelihood, of_all = inside.likelihood_score(z_inside), inside.score(z_inside)
    leaf = z.clone().requires_grad_()
    V_x = target.gain * target.decoder.prior.log_variance(leaf).exp() + target.V_n
    (expected,) = torch.autograd.grad(log_likelihood(target.P, V_x).sum(), leaf)
    assert expected.abs().min() > 1e-6
    torch.testing.assert_close(of_likelihood, expected)
    torch.testing.assert_close(of_all, expected - z)  # the slope of a standard normal is -z


def test_the_density_of_a_posterior():
    target, z = small(7)
    got = target.logp(z)
    assert got.shape == (4, B, 7)
    prior = -0.5 * z.square().sum(-2)
    for r in range(4):
        V_x = target.gain * target.decoder.prior.log_variance(z[r]).exp() + target.V_n
        torch.testing.assert_close((got - prior)[r].diff(), log_likelihood(target.P, V_x, dim=-2).diff())


def test_the_density_of_a_prior_whose_chains_are_utterances():
    """The prior's shape decides what the likelihood is summed over."""
    target, z = small(7)
    frames = target.logp(z)
    made = target.decoder.prior
    made.log_prior = lambda z: type(made).log_prior(made, z).sum(-1)
    whole = target.logp(z)
    assert whole.shape == (4, B)
    torch.testing.assert_close(whole, frames.sum(-1))
    torch.testing.assert_close(target.score(z), small(7)[0].score(z))


def test_a_decoder_that_remembers_says_what_a_fresh_one_says():
    target, z = small(5)
    made, other = target.decoder.prior, z + 1
    calls = []

    class Counted(type(made)):
        def log_variance(self, z):
            calls.append(z)
            return super().log_variance(z)

    made.__class__ = Counted
    decoder = Decoder(made)

    def slope(V):
        return V.sqrt()

    for asked in (z, z, other, z, z.clone(), z[:2], z):
        assert decoder.variance(asked).equal(Decoder(made).variance(asked))
        for _ in range(2):  # the graph is kept
            assert decoder.pullback(asked, slope).equal(Decoder(made).pullback(asked, slope))
    calls.clear()
    decoder.variance(other)
    for _ in range(3):
        decoder.variance(other)
        decoder.pullback(other, slope)
    assert len(calls) == len(other)
    torch.testing.assert_close(decoder.variance(z), made.log_variance(z).exp())


def test_draws_do_not_feel_each_other():
    target, z = small(5)
    for r in range(len(z)):
        alone = small(5)[0]
        assert alike(alone.logp(z[r : r + 1])[0], target.logp(z)[r], 1e-12)
        assert alike(alone.score(z[r : r + 1])[0], target.score(z)[r], 1e-12)


@pytest.mark.parametrize("gain", [True, False])
def test_what_a_variance_prior_tells_the_loop(gain):
    """Power, offset and gain of a round against the same written out."""
    made, X = drawn_vae(), torch.polar(drawn(0, B, 9, 12).sqrt(), drawn(1, B, 9, 12))
    V_n, use = drawn(2, B, 9, 12), MCMC(RandomWalk(0.1), steps=4, keep=3, final_steps=6, final_keep=2)
    estep = VarianceE(made, use, gain=gain, level=0.5)
    g = generators([3, 4], B)
    state = estep.start(X, g)
    assert state.gain.equal(torch.full((B, 1, 12), 0.5).double())
    before = VariancePosterior(Decoder(made), X.abs().square(), V_n, state.gain)
    draws, _ = use(before, state.latent, clone(g))
    V = made.log_variance(draws).exp()
    expected = 0.5 * (update_gain(X.abs().square(), 0.5 * V, V_n) if gain else torch.ones(B, 1, 12).double())
    new, e = estep(X, V_n, state)
    assert new.latent.position.equal(draws[-1:])
    assert e.power.equal(X.abs().square().expand(3, -1, -1, -1))
    torch.testing.assert_close(new.gain, expected)
    torch.testing.assert_close(e.offset, expected * V)
    assert state.gain.equal(torch.full((B, 1, 12), 0.5).double())  # the old state is left as it was
    after = VariancePosterior(Decoder(made), X.abs().square(), V_n, expected)
    final = use.final(after, new.latent, clone(g))
    assert len(final) == 2
    wanted = sum(gaussian.wiener(X, expected * made.log_variance(z).exp(), V_n) for z in final) / 2
    torch.testing.assert_close(e.estimate(), wanted)


def test_a_prior_that_is_right_beats_the_wiener_filter_that_has_none():
    """Speech and noise as the model says: the estimate comes near the oracle's that knows every variance."""
    made = drawn_vae()
    made.decoder["out"].weight.mul_(3)
    g = torch.Generator().manual_seed(0)
    z = torch.randn(B, made.latent, 200, generator=g, dtype=torch.float64)
    V_s = made.log_variance(z).exp()
    V_n = V_s.mean() * torch.ones(B, made.stft.bins, 200).double()
    S, N = (V.sqrt() * torch.randn(V.shape, generator=g, dtype=torch.complex128) for V in (V_s, V_n))
    estep = VarianceE(made, MCMC(Langevin(0.05), steps=20, chains=20, std=1.0), gain=False, level=1.0)
    state = estep.start(S + N, generators(0, B))
    for _ in range(4):
        state, e = estep(S + N, V_n, state)

    def error(estimate):
        return float((estimate - S).abs().square().mean())

    oracle = error(gaussian.wiener(S + N, V_s, V_n))
    blind = error(gaussian.wiener(S + N, V_s.mean((0, 2), keepdim=True).expand_as(V_s), V_n))
    assert oracle < error(e.estimate()) < oracle + 0.5 * (blind - oracle)


# ------------------------------------------------------------- score priors, of which the Gaussian is known


def bell(V, m=0.0):
    """The denoiser of a prior N(m, V) of independent bins."""

    def denoise(x, sigma):
        G = V / (V + sigma**2)
        return Denoised(m + G * (x - m), G * sigma**2 + torch.zeros_like(x.real))

    return denoise


class Bins(NamedTuple):
    """Six bins of two utterances: a Gaussian prior, noise, a mixture louder than they would have it, and Wiener's."""

    m: torch.Tensor
    V_s: torch.Tensor
    V_n: torch.Tensor
    X: torch.Tensor

    @property
    def wiener(self):
        """Mean and variance of the speech."""
        G = self.V_s / (self.V_s + self.V_n)
        return self.m + G * (self.X - self.m), G * self.V_n

    @property
    def denoise(self):
        return bell(self.V_s, self.m)


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


def far(s, mean, variance):
    """Largest distance of the moments of complex draws s (N, ...) from these, in standard errors."""
    N = len(s)
    of_mean = (s - mean).mean(0).abs() / (variance / N).sqrt()
    of_variance = ((s - mean).abs().square().mean(0) / variance - 1).abs() * N**0.5
    return float(torch.maximum(of_mean, of_variance).max())


@pytest.fixture
def quiet(monkeypatch):
    """Noise is left out: what is linear in it then does what it does on average."""
    monkeypatch.setattr("sepriors.inference.em.randn_like", lambda x, generators, dim: torch.zeros_like(x))


def way(posterior, sigma):
    """How much of S is left in the next, and the conditional variance: S ← (m + G (S + σ z - m)) V_n / (v + V_n) + …"""
    G = posterior.V_s / (posterior.V_s + sigma**2)
    v = G * sigma**2
    return G * posterior.V_n / (v + posterior.V_n), v * posterior.V_n / (v + posterior.V_n)


LEVELS = [0.15, 0.4, 3.0]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("sigma", LEVELS)
def test_gibbs_goes_to_the_wiener_posterior_mean_from_any_level(sigma):
    """It begins at the mixture and comes nearer by the same factor in each round."""
    posterior = bins()
    mean, _ = posterior.wiener
    left, _ = way(posterior, sigma)
    for k, (state, e) in enumerate(rounds(GibbsE(posterior.denoise, sigma, burn=1000), posterior.X, posterior.V_n, 800), start=1):
        if k in (1, 2, 3, 10):
            expected = mean + left**k * (posterior.X - mean)
            torch.testing.assert_close(state.position[0], expected)
            torch.testing.assert_close(e.estimate(), expected)
    assert (left**800).max() < 1e-10
    torch.testing.assert_close(state.position[0], mean)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("sigma", LEVELS)
def test_the_wiener_posterior_mean_is_where_gibbs_stays(sigma):
    posterior, estep = bins(), GibbsE(bins().denoise, sigma)
    mean, _ = posterior.wiener
    state = estep.start(posterior.X, generators(0, 2))._replace(position=mean[None])
    state, e = estep(posterior.X, posterior.V_n, state)
    torch.testing.assert_close(state.position[0], mean)
    torch.testing.assert_close(e.power[0], (posterior.X - mean).abs().square() + way(posterior, sigma)[1])


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize("count", [1, 4])
def test_the_draws_of_a_round_of_gibbs(sigma, count):
    """Twenty thousand of them: an autoregression whose noise is a σ z; and what the M-step sees, on average."""
    posterior = bins()
    mean, V = posterior.wiener
    left, conditional = way(posterior, sigma)
    *_, (state, e) = rounds(GibbsE(posterior.denoise, sigma, draws=20_000), posterior.X, posterior.V_n, count)
    there = mean + left**count * (posterior.X - mean)
    std = (left * sigma) ** 2 * (1 - left ** (2 * count)) / (1 - left**2)
    assert state.position.shape == e.power.shape == (20_000, 2, 3, 2)
    assert far(state.position, there, std) < 4
    expected = (posterior.X - there).abs().square() + std + conditional
    torch.testing.assert_close(e.power.mean(0), expected, rtol=0.05, atol=0)
    std = (left * sigma) ** 2 / (1 - left**2)  # where it ends
    assert (std + conditional < V).all()  # a mean is kept, not a draw: less than the posterior's
    assert (std + conditional > V / 2).all()


@pytest.mark.parametrize("sigma", LEVELS)
def test_the_mean_over_many_rounds_of_gibbs_is_wieners(sigma):
    """Within four standard errors of a mean over an autoregression."""
    posterior, K, R = bins(), 300, 100
    mean, _ = posterior.wiener
    left, _ = way(posterior, sigma)
    *_, (_, e) = rounds(GibbsE(posterior.denoise, sigma, draws=R, burn=200), posterior.X, posterior.V_n, 200 + K)
    error = left * sigma / (1 - left) / (K * R) ** 0.5
    assert ((e.estimate() - mean).abs() < 4 * error).all()


@pytest.mark.parametrize("sigma", LEVELS)
def test_a_round_of_gibbs_by_hand(sigma):
    posterior, h = bins(), generators([3, 4], 2)
    S = posterior.X.expand(5, 2, 3, 2)
    V_n = [posterior.V_n, 3 * posterior.V_n, posterior.V_n / 9]
    for i, (state, e) in enumerate(rounds(GibbsE(posterior.denoise, sigma, draws=5), posterior.X, V_n, 3)):
        at = condition(posterior.denoise(S + sigma * randn_like(S, h, dim=1), sigma), posterior.X, V_n[i])
        S = at.mean
        assert state.done == i + 1
        assert state.position.equal(S)
        assert e.power.equal((posterior.X - S).abs().square() + at.variance)
        assert e.offset is None


@pytest.mark.parametrize("burn", [0, 1, 3])
def test_the_estimate_of_gibbs_is_the_mean_of_the_rounds_since_burn(burn):
    """Before, it is that of the round; whenever it is asked for."""
    posterior = bins()
    done = list(rounds(GibbsE(posterior.denoise, draws=3, burn=burn), posterior.X, posterior.V_n, 7))
    means = [state.position.mean(0) for state, _ in done]
    for i, (_, e) in enumerate(done):
        expected = torch.stack(means[burn : i + 1]).mean(0) if i >= burn else means[i]
        torch.testing.assert_close(e.estimate(), expected)


def test_gibbs_without_noise_is_sure_of_the_mixture_and_in_nothing_else_sees_the_prior():
    posterior = bins()
    for state, e in rounds(GibbsE(posterior.denoise, draws=3, burn=0), posterior.X, 0 * posterior.V_n, 4):
        torch.testing.assert_close(state.position, posterior.X.expand(3, 2, 3, 2))
        torch.testing.assert_close(e.estimate(), posterior.X)
        assert e.power.max() < 1e-24
    h, S = generators([3, 4], 2), posterior.X[None]
    for state, e in rounds(GibbsE(posterior.denoise), posterior.X, 1e100 + 0 * posterior.V_n, 4):
        S, v = posterior.denoise(S + 0.4 * randn_like(S, h, dim=1), 0.4)
        torch.testing.assert_close(state.position, S)
        torch.testing.assert_close(e.power, (posterior.X - S).abs().square() + v)


@pytest.mark.usefixtures("quiet")
def test_all_noise_leads_gibbs_to_the_mean_of_the_prior():
    posterior = bins()
    *_, (_, e) = rounds(GibbsE(posterior.denoise, burn=900), posterior.X, 1e100 + 0 * posterior.V_n, 1000)
    torch.testing.assert_close(e.estimate(), posterior.m.expand(2, 3, 2))


SCORE_ESTEPS = [
    partial(ReverseE, steps=4),
    partial(StepE, guide=posterior_transition, steps=6),
    partial(GibbsE, burn=1),
]
ids = ["reverse", "step", "gibbs"]


@pytest.mark.parametrize("make", SCORE_ESTEPS, ids=ids)
def test_utterances_of_a_score_prior_have_each_their_own_generator(make):
    posterior, estep = bins(), make(bins().denoise, draws=3)
    gpu_batch_size = [e for _, e in rounds(estep, posterior.X, posterior.V_n, 3)]
    for b in range(2):
        X, V_n = posterior.X[b : b + 1], posterior.V_n[b : b + 1]
        alone = [e for _, e in rounds(estep, X, V_n, 3, seed=[3 + b])]
        for one, both in zip(alone, gpu_batch_size, strict=True):
            torch.testing.assert_close(one.power[:, 0], both.power[:, b])
            torch.testing.assert_close(one.estimate()[0], both.estimate()[b])


@pytest.mark.parametrize("make", SCORE_ESTEPS, ids=ids)
def test_what_a_score_prior_is_given_stays_and_its_rounds_stay_apart(make):
    """Neither mixture, noise nor an old state is written to, and an estimate is of its round when asked for late."""
    posterior = bins()
    kept = posterior.X.clone(), posterior.V_n.clone()
    batch_size = [(state.position.clone(), e.estimate().clone()) for state, e in rounds(make(posterior.denoise), *kept, 3)]
    later = list(rounds(make(posterior.denoise), posterior.X, posterior.V_n, 3))
    for (state, e), (position, estimate) in zip(later, batch_size, strict=True):
        assert state.position.equal(position)
        assert e.estimate().equal(estimate)
    assert not batch_size[0][1].equal(batch_size[1][1])
    assert posterior.X.equal(kept[0])
    assert posterior.V_n.equal(kept[1])


@pytest.mark.parametrize("make", SCORE_ESTEPS, ids=ids)
def test_the_loop_around_a_score_prior_unrolled(make):
    """The noise is learned from what the speech leaves, less what the prior does not know of it."""
    posterior = bins()
    start = nmf.init(posterior.X.abs().square(), 2, generators(0, 2))
    g, h = generators(1, 2), generators(1, 2)
    steps = list(em(posterior.X, make(posterior.denoise, draws=3), start, iterations=3, generators=g))
    estep, noise = make(posterior.denoise, draws=3), start
    state = estep.start(posterior.X, h)
    for step in steps:
        state, e = estep(posterior.X, noise.variance, state)
        assert step.estimate().equal(e.estimate())
        assert step.noise.W.equal(noise.W)
        noise = nmf.update(noise, e.power, e.offset)


@pytest.mark.parametrize("make", SCORE_ESTEPS, ids=ids)
def test_a_score_network_in_the_loop_on_one_frame(make):
    X = torch.randn(2, 257, 1, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    noise = nmf.init(X.abs().square(), 2, generators(0, 2))
    for step in em(X, make(drawn_score().denoise, draws=2), noise, iterations=3, generators=generators(0, 2)):
        assert step.estimate().shape == X.shape
        assert step.estimate().isfinite().all()
        assert step.noise.variance.isfinite().all()


# ------------------------------------------------------------- the reverse process as an E-step


@pytest.mark.parametrize("schedule", [OUVE(), EDM()], ids=str)
@pytest.mark.parametrize(("weight", "every", "unguided"), [(1.5, 2, 1), (0.7, 1, 0), (1.0, 3, 2)])
def test_a_round_of_reverse_e_is_a_whole_reverse_process(schedule, weight, every, unguided):
    """From the mixture, with the generators where the last round has left them."""
    posterior, h = bins(), generators([3, 4], 2)
    estep = ReverseE(posterior.denoise, schedule, 5, 3, weight, every, unguided)
    V_n = [posterior.V_n, 3 * posterior.V_n, posterior.V_n / 9]
    for i, (state, e) in enumerate(rounds(estep, posterior.X, V_n, 3)):
        guide = lambda to, V=V_n[i]: pseudo_likelihood(to, posterior.X, V, weight)  # noqa: E731
        s = diffusion.start(posterior.X, schedule, 3, h)
        *_, last = diffusion.reverse(
            posterior.denoise, schedule, s, steps=5, generators=h, guide=guide if i >= unguided else None, every=every
        )
        assert state.done == i + 1
        assert e.estimate().equal(last.position.mean(0))
        assert e.power.equal((posterior.X - last.position).abs().square())
        assert e.offset.equal(last.posterior.variance)
        assert e.power.shape == (3, 2, 3, 2)


def test_draws_of_each_round():
    """A round with its own number of draws is that round; past the end the last number goes on."""
    posterior = bins()
    each, two = (
        [e for _, e in rounds(ReverseE(posterior.denoise, steps=3, draws=draws), posterior.X, posterior.V_n, 3)]
        for draws in ((2, 5), 2)
    )
    assert [len(e.power) for e in each] == [2, 5, 5]
    assert each[0].power.equal(two[0].power)
    assert not each[1].power[:2].equal(two[1].power)


@pytest.mark.parametrize("unguided", [0, 1, 2])
def test_the_first_rounds_of_reverse_e_know_nothing_of_the_noise(unguided):
    posterior = bins()
    estep = ReverseE(posterior.denoise, steps=5, unguided=unguided)
    one, two = (list(rounds(estep, posterior.X, V_n, 4)) for V_n in (posterior.V_n, 9 * posterior.V_n))
    for i, ((_, a), (_, b)) in enumerate(zip(one, two, strict=True)):
        assert a.power.equal(b.power) is (i < unguided)
        assert a.estimate().equal(b.estimate()) is (i < unguided)


def test_a_weight_of_zero_is_no_guidance():
    posterior = bins()
    for (_, a), (_, b) in zip(
        rounds(ReverseE(posterior.denoise, steps=5, weight=0.0), posterior.X, posterior.V_n, 3),
        rounds(ReverseE(posterior.denoise, steps=5, unguided=9), posterior.X, posterior.V_n, 3),
        strict=True,
    ):
        assert a.power.equal(b.power)
        assert a.estimate().equal(b.estimate())


@pytest.mark.parametrize("make", [ReverseE, partial(StepE, guide=posterior_transition, every=1), GibbsE], ids=ids)
def test_one_draw_and_one_step_will_do(make):
    """And none will not."""
    posterior = bins()
    one = {"draws": 1} if make is GibbsE else {"draws": 1, "steps": 1}
    ((_, e),) = rounds(make(posterior.denoise, **one), posterior.X, posterior.V_n, 1)
    assert e.power.shape == (1, *posterior.X.shape)
    assert e.estimate().isfinite().all()
    for none in one:
        with pytest.raises(ValueError, match=f"expected one {none.rstrip('s')} at least, got {none}=0"):
            list(rounds(make(posterior.denoise, **{**one, none: 0}), posterior.X, posterior.V_n, 1))


# ------------------------------------------------------------- the noise learned on the way


@pytest.mark.parametrize("schedule", [OUVE(), EDM()], ids=str)
@pytest.mark.parametrize(
    "guide", [posterior_transition, partial(pseudo_likelihood, weight=0.7)], ids=["IL", "weighted"]
)
@pytest.mark.parametrize(("steps", "every"), [(6, 2), (5, 1), (6, 3), (5, 2)])
def test_the_rounds_of_step_e_are_the_steps_of_one_reverse_process(schedule, guide, steps, every):
    """The guide acts in the first of each round, with that round's noise; M sees what the prior took for speech."""
    posterior, h = bins(), generators([3, 4], 2)
    count = -(-steps // every)
    V_n = [posterior.V_n * 2.0**-i for i in range(count)]
    s = diffusion.start(posterior.X, schedule, 3, h)
    hops = list(pairwise(schedule.times(steps)))
    for i, (state, e) in enumerate(rounds(StepE(posterior.denoise, guide, schedule, steps, 3, every), posterior.X, V_n, count)):
        for j, (t, after) in enumerate(hops[i * every : (i + 1) * every]):
            now = None if j else lambda to, V=V_n[i]: guide(to, posterior.X, V)
            s, guess = diffusion.step(posterior.denoise, schedule, s, t, after, generators=h, guide=now)
        assert state.position.equal(s)
        assert e.estimate().equal(s.mean(0))
        assert e.power.equal((posterior.X - guess.mean).abs().square())
        assert e.offset.equal(guess.variance)
        assert not guess.mean.equal(s)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_step_e_in_steady_noise_is_a_guided_reverse_process(every):
    posterior, h = bins(), generators([3, 4], 2)
    *_, (_, e) = rounds(
        StepE(posterior.denoise, posterior_transition, steps=6, every=every), posterior.X, posterior.V_n, 6 // every
    )
    s = diffusion.start(posterior.X, OUVE(), 4, h)
    *_, last = diffusion.reverse(
        posterior.denoise, OUVE(), s, steps=6, generators=h, every=every,
        guide=lambda to: posterior_transition(to, posterior.X, posterior.V_n),
    )  # fmt: skip
    assert e.estimate().equal(last.position.mean(0))
    assert e.power.equal((posterior.X - last.posterior.mean).abs().square())


# ------------------------------------------------------------- through the chord of the compression


class Wiener(NamedTuple):
    """An E-step that knows the speech's variance, and tells of it in the power alone; it notes the noise it is told."""

    V_s: torch.Tensor
    told: list

    def start(self, X, generators):
        return 0

    def __call__(self, X, V_n, state):
        self.told.append(V_n)
        S = gaussian.wiener(X, self.V_s, V_n)
        power = (X - S).abs().square() + self.V_s * V_n / (self.V_s + V_n)
        return state + 1, Expectation(power[None], None, lambda: S)


def loud(compress):
    """A spectrum (B, F, T), its compressed one, and small noise with its variance, sideways to it, to and fro."""
    C = torch.polar(drawn(0, B, 5, 7), drawn(1, B, 5, 7))
    V_n = 1e-10 * C.abs().square() * drawn(2, B, 5, 7).clamp_max(10)
    turns = torch.tensor([1j, -1j]).to(C)[:, None, None, None]
    return C, compress(C), V_n, V_n.sqrt() * C.sgn() * turns


COMPRESSIONS = [Compression(), Compression(0.3, 2.0), Compression(1.0, 0.5)]


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
def test_told_the_noise_a_linearised_e_step_sees_what_it_moves_behind_the_compression(compress):
    C, X, V_n, N = loud(compress)
    estep = Linearised(wiener := Wiener(1e-9 * X.abs().square(), []), compress.secant_gain(X, floor=1e-12))
    estep(X, V_n, estep.start(X, None))
    moved = (X - compress(C - N)).abs().square().mean(0)
    torch.testing.assert_close(wiener.told[0], moved, rtol=1e-3, atol=0)


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
def test_a_linearised_e_step_that_is_right_tells_the_power_of_the_noise(compress):
    """Which it has found behind the compression."""
    C, X, V_n, N = loud(compress)

    class Right(Truth):
        def __call__(self, X, V_n, state):
            S = compress(C - N)
            return state + 1, Expectation((X - S).abs().square(), None, lambda: S.mean(0))

    estep = Linearised(Right(V_n), compress.secant_gain(X, floor=1e-12))
    state, e = estep(X, V_n, estep.start(X, None))
    assert state == 1
    torch.testing.assert_close(e.power.mean(0), V_n, rtol=1e-3, atol=0)
    assert e.estimate().equal(compress(C - N).mean(0))


@pytest.mark.parametrize("bases", [True, False])
@pytest.mark.parametrize("speech", [0.0, 1.0])
def test_the_noise_of_a_linearised_e_step_is_learned_in_linear_units(bases, speech):
    """As in a loop where bins are as they are: a chord is a unit. Without speech all is the noise's."""
    X, W_s = spectrum()
    V_s = speech * (W_s @ torch.ones(B, 4, T, dtype=W_s.dtype))
    secant_gain = drawn(5, B, F, T)
    start = nmf.init(X.abs().square(), 3, generators(0, B))
    plain = em(X, Wiener(V_s, []), start, iterations=5, generators=None, bases=bases)
    there = Linearised(Wiener(secant_gain * V_s, []), secant_gain)
    for one, two in zip(plain, em(secant_gain.sqrt() * X, there, start, iterations=5, generators=None, bases=bases)):
        torch.testing.assert_close(two.noise.W, one.noise.W)
        torch.testing.assert_close(two.noise.H, one.noise.H)
        torch.testing.assert_close(two.estimate(), secant_gain.sqrt() * one.estimate())


@pytest.mark.parametrize("make", SCORE_ESTEPS, ids=ids)
def test_a_chord_of_one_changes_nothing(make):
    posterior = bins()
    estep = make(posterior.denoise)
    for (a, e), (b, f) in zip(
        rounds(estep, posterior.X, posterior.V_n, 3), rounds(Linearised(estep, torch.ones(2, 3, 2)), posterior.X, posterior.V_n, 3)
    ):
        assert a.position.equal(b.position)
        assert e.power.equal(f.power)
        assert e.estimate().equal(f.estimate())


def test_a_linearised_e_step_takes_its_offset_to_linear_units_too():
    X, W_s = spectrum()
    V_s, secant_gain = W_s @ torch.ones(B, 4, T, dtype=W_s.dtype), drawn(5, B, F, T)
    start = nmf.init(X.abs().square(), 3, generators(0, B))
    plain = em(X, Truth(V_s), start, iterations=4, generators=None)
    there = Linearised(Truth(secant_gain * V_s), secant_gain)
    for one, two in zip(plain, em(secant_gain.sqrt() * X, there, start, iterations=4, generators=None), strict=True):
        torch.testing.assert_close(two.noise.variance, one.noise.variance)


def test_a_reverse_process_in_steps_has_an_end():
    posterior = bins()
    with pytest.raises(ValueError, match="expected 2 rounds at most, of 2 of 4 steps, got another"):
        list(rounds(StepE(posterior.denoise, posterior_transition, steps=4, every=2), posterior.X, posterior.V_n, 3))
