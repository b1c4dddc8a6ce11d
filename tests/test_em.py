"""The one loop of the book, around speech priors whose answer is known."""

from itertools import islice
from typing import NamedTuple

import pytest
import torch

from sepriors import gaussian, nmf
from sepriors.em import NMFE, Expectation, Step, em
from sepriors.gaussian import is_divergence
from sepriors.rng import generators

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
