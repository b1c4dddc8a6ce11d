"""The one loop of the book, around speech priors whose answer is known."""

from itertools import islice
from typing import NamedTuple

import pytest
import torch
from conftest import drawn_vae

from sepriors import gaussian, nmf
from sepriors.em import NMFE, Decoder, Expectation, Step, VarianceE, VariancePosterior, em, update_gain
from sepriors.gaussian import is_divergence, log_likelihood
from sepriors.latent import MCMC
from sepriors.mcmc import Langevin, RandomWalk
from sepriors.rng import fork, generators

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

    at_once = [step.estimate() for step in rounds()]
    later = [step.estimate() for step in list(rounds())]
    for a, b in zip(at_once, later, strict=True):
        assert a.equal(b)
    assert not at_once[0].equal(at_once[-1])


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
        assert alone.logp(z[r : r + 1])[0].equal(target.logp(z)[r])
        assert alone.score(z[r : r + 1])[0].equal(target.score(z)[r])


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
    draws, _ = use(before, state.latent, fork(g))
    V = made.log_variance(draws).exp()
    expected = 0.5 * (update_gain(X.abs().square(), 0.5 * V, V_n) if gain else torch.ones(B, 1, 12).double())
    new, e = estep(X, V_n, state)
    assert new.latent.position.equal(draws[-1:])
    assert e.power.equal(X.abs().square().expand(3, -1, -1, -1))
    torch.testing.assert_close(new.gain, expected)
    torch.testing.assert_close(e.offset, expected * V)
    assert state.gain.equal(torch.full((B, 1, 12), 0.5).double())  # the old state is left as it was
    after = VariancePosterior(Decoder(made), X.abs().square(), V_n, expected)
    final = use.final(after, new.latent, fork(g))
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
    estep = VarianceE(made, MCMC(Langevin(0.05), steps=20, chains=20, spread=1.0), gain=False, level=1.0)
    state = estep.start(S + N, generators(0, B))
    for _ in range(4):
        state, e = estep(S + N, V_n, state)

    def error(estimate):
        return float((estimate - S).abs().square().mean())

    oracle = error(gaussian.wiener(S + N, V_s, V_n))
    blind = error(gaussian.wiener(S + N, V_s.mean((0, 2), keepdim=True).expand_as(V_s), V_n))
    assert oracle < error(e.estimate()) < oracle + 0.5 * (blind - oracle)
