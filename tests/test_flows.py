"""Where the posterior is a Gaussian all of it is known: the mode, the mean, the spread, and the latent mode."""

import math
import warnings

import pytest
import torch
from conftest import alike, normal
from torch.distributions import Normal

from sepriors.inference import flows
from sepriors.inference.flows import Gaussian, SignalPosterior, anneal, climb, climb_latent, denoise
from sepriors.protocols import Image
from sepriors.signal.rng import generators

V = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)  # of the noise, an utterance each


def gaussian(x, v=3.0, variance=V):
    return SignalPosterior(Gaussian(torch.tensor(v, dtype=x.dtype)), x, variance[: len(x)].to(x))


def part(target, b):
    """The posterior of one utterance."""
    return target._replace(x=target.x[b : b + 1], variance=target.variance[b : b + 1])


class Family:
    """White signals in white noise: a variance for each place in the window, and the noise's on top."""

    def __init__(self, *v):
        self.window, self.v = len(v), torch.tensor(v, dtype=torch.float64)
        self.rms = float(self.v.mean()) ** 0.5

    def log_prob(self, s, noise):
        v = self.v.to(s).repeat(s.shape[-1] // self.window) + noise[:, None].square()
        return Normal(0.0, v.sqrt()).log_prob(s).sum(-1)


class Linear:
    """s = A z, a matrix for each window of 3."""

    window, A = 3, torch.eye(3, dtype=torch.float64) + 0.4 * normal(3, 3, seed=7)

    def __call__(self, s):
        z = (s.unflatten(-1, (-1, 3)) @ torch.linalg.inv(self.A).mT).flatten(-2)
        return Image(z, -(s.shape[-1] // 3) * torch.linalg.slogdet(self.A).logabsdet.expand(len(s)))

    def inverse(self, z):
        return (z.unflatten(-1, (-1, 3)) @ self.A.mT).flatten(-2)

    def log_prob(self, s):
        z, log_det = self(s)
        return Normal(0, 1).log_prob(z).sum(-1) + log_det


class Cliff:
    """A density with a hill at one, and none at all past one and a half."""

    window, rms = 1, 1.0

    def log_prob(self, s):
        return torch.where(s.abs().amax(-1) > 1.5, math.nan, -50 * (s - 1).square().sum(-1))


def test_the_posterior_is_prior_times_likelihood():
    target, s = gaussian(normal(3, 8)), normal(4, 3, 8, seed=1)
    likelihood = Normal(s, V.sqrt()[:, None]).log_prob(target.x).sum(-1)
    torch.testing.assert_close(target.log_likelihood(s), likelihood)
    torch.testing.assert_close(target.logp(s), likelihood + Normal(0, 3.0**0.5).log_prob(s).sum(-1))
    torch.testing.assert_close(target.score(s), (target.x - s) / V[:, None] - s / 3)


# ------------------------------------------------------------- ascent


def test_the_mode_is_wieners():
    """And the prior's own is silence."""
    target = gaussian(normal(3, 40))
    first, *_, last = climb(target, steps=400, learning_rate=0.05)
    assert first.signal.equal(target.x)
    torch.testing.assert_close(last.signal, target.x * (3 / (3 + V))[:, None], atol=1e-4, rtol=0)
    torch.testing.assert_close(last.logp, target.logp(last.signal))
    torch.testing.assert_close(last.log_prior, target.log_prior(last.signal))
    *_, last = climb(target, steps=400, learning_rate=0.05, data=False)
    assert last.signal.abs().max() < 1e-4
    assert last.logp.equal(last.log_prior)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_the_latent_mode_of_a_linear_flow(weight):
    """(AᵀA / σ² + γ I) z = Aᵀ x / σ²; with γ = 1 it is the mode of the posterior, the determinant being constant."""
    prior, x = Linear(), normal(3, 12)
    target = SignalPosterior(prior, x, V)
    first, *_, last = climb_latent(target, steps=400, learning_rate=0.05, weight=weight)
    torch.testing.assert_close(first.signal, x)
    A = prior.A
    precision = A.mT @ A / V[:, None, None] + weight * torch.eye(3).to(A)
    z = torch.linalg.solve(precision, A.mT @ x.unflatten(-1, (-1, 3)).mT / V[:, None, None]).mT.flatten(-2)
    torch.testing.assert_close(last.signal, prior.inverse(z), atol=1e-4, rtol=0)
    torch.testing.assert_close(last.log_prior, -0.5 * weight * z.square().sum(-1), atol=1e-4, rtol=0)
    assert (target.score(last.signal).abs().max() < 1e-2) == (weight == 1)


RULES = {"clean": flows.clean_likelihood(-2.0), "discrepancy": flows.discrepancy, "never": flows.never}


@pytest.mark.parametrize("ascend", [climb, climb_latent])
@pytest.mark.parametrize("rule", RULES)
def test_each_stops_by_itself(rule, ascend):
    """At the first step where its rule holds, whatever the others do; the last ends the ascent."""
    stop, target = RULES[rule], SignalPosterior(Linear(), 3 * normal(3, 12), V)
    steps = list(ascend(target, steps=60, learning_rate=0.05, stop=stop))
    lengths = []
    for b in range(3):
        alone = list(ascend(part(target, b), steps=60, learning_rate=0.05, stop=stop))
        lengths.append(len(alone))
        for one, all_ in zip(alone, steps):
            assert alike(one.signal[0], all_.signal[b], 1e-9)
        assert all(now.signal[b].equal(steps[len(alone) - 1].signal[b]) for now in steps[len(alone) :])
        assert [bool(stop(part(target, b), now)) for now in alone] == [bool(now.stopped) for now in alone]
        assert not any(bool(now.stopped) for now in alone[:-1])
    assert len(steps) == max(lengths)
    assert len(set(lengths)) == (1 if rule == "never" else 3)


def test_the_rules():
    target = gaussian(normal(3, 8), variance=torch.tensor([1.0, 1.0, 1.0]))
    residual = torch.tensor([0.99, 1.01, 0.0])[:, None].to(V)
    now = flows.MAPStep(target.x - residual, torch.tensor([-7.9, -8.1, 0.0]), torch.zeros(3))
    assert flows.discrepancy(target, now).tolist() == [False, True, False]
    assert flows.clean_likelihood(-1.0)(target, now).tolist() == [True, False, True]
    assert flows.never(target, now).tolist() == [False] * 3


def test_who_leaves_the_density_goes_back_to_its_best_and_the_others_go_on():
    """Adam passes the hill's top and falls off the cliff; a likelihood that is sharp holds the other two back."""
    x = torch.tensor([[0.2, 0.1], [0.2, 0.1], [-0.3, 0.3]], dtype=torch.float64)
    target = SignalPosterior(Cliff(), x, torch.tensor([1e3, 2e-3, 4e-3], dtype=torch.float64))
    with pytest.warns(UserWarning, match=r"no finite density after step \d+ of utterance 0: it keeps its best signal"):
        steps = list(climb(target, steps=15, learning_rate=0.6))
    left = next(i for i, now in enumerate(steps) if now.stopped[0])
    values = [float(now.logp[0]) for now in steps[:left]]
    best = max(range(left), key=values.__getitem__)
    assert 0 < best < left - 1
    assert all(now.signal[0].equal(steps[best].signal[0]) for now in steps[left:])
    assert steps[-1].logp[0] == max(values)
    assert len(steps) == 16
    assert not steps[-1].stopped[1:].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for b in (1, 2):
            *_, alone = climb(part(target, b), steps=15, learning_rate=0.6)
            assert alike(alone.signal[0], steps[-1].signal[b], 1e-9)


def test_who_starts_outside_the_density_stays_there_and_is_named_once():
    target = SignalPosterior(Cliff(), torch.tensor([[9.0], [0.5]]), torch.ones(2))
    with pytest.warns(UserWarning, match="no finite density") as warned:
        *_, last = climb(target, steps=5)
    assert [str(w.message).split(":")[0] for w in warned] == ["no finite density after step 0 of utterance 0"]
    assert last.signal[0] == 9
    assert last.stopped.tolist() == [True, False]


# ------------------------------------------------------------- mean and walk


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_the_mean_is_wieners_at_each_place(offset):
    """Where the first window begins later each sample has the gain of another place; the last goes round."""
    prior, x = Family(0.1, 1.0, 3.0, 10.0), normal(3, 12)
    gain = prior.v.repeat(3) / (prior.v.repeat(3) + V[:, None])
    torch.testing.assert_close(denoise(prior, x, V, offset=offset), x * gain.roll(offset, -1))


@pytest.mark.parametrize("kind", [{}, {"steps": 2}, {"steps": 3, "descend": False}], ids=str)
def test_moments_of_the_walk(kind):
    """A chain in a Gaussian landscape stays Gaussian: its mean and variance follow from step to step, exactly."""
    v, N, R = 3.0, 2000, 20
    x = normal(3, N)
    slope, variance, tau = torch.ones_like(V), torch.zeros_like(V), V.sqrt()  # the mean is slope × x
    each = generators(range(10, 13), 3)
    walks = list(anneal(Family(v), x, V, levels=12, chains=R, tau_min=0.02, generators=each, **kind))
    assert len(walks) == 12
    for i, walk in enumerate(walks, start=1):
        lower = V.sqrt() ** (1 - i / 12) * 0.02 ** (i / 12)
        torch.testing.assert_close(walk.tau, lower)
        if kind.get("descend", True):
            share, gain = (lower / tau) ** 2, v / (v + tau**2)
            factor = gain + share * (1 - gain)
            slope, variance = factor * slope, factor**2 * variance + lower**2 * (1 - share)
            if not kind:  # a Gaussian's own posterior, whatever the number of levels
                torch.testing.assert_close(slope, (v + lower**2) / (v + V))
        tau, rest = lower, V - lower**2
        eta, precision = 0.5 * tau**2 * (1 - tau**2 / V), 1 / (v + tau**2) + 1 / rest
        for _ in range(kind.get("steps", 0)):
            slope = slope - 0.5 * eta * (precision * slope - 1 / rest)
            variance = (1 - 0.5 * eta * precision) ** 2 * variance + eta
        assert walk.signal.shape == (R, 3, N)
        found = (walk.signal * x).sum(-1) / x.square().sum(-1)  # (R, B)
        assert ((found.mean(0) - slope).abs() < 5 * (variance / (R * N)).sqrt()).all()
        spread = (walk.signal - slope[:, None] * x).square().mean((0, 2))
        assert ((spread / variance - 1).abs() < 5 * (2 / (R * N)) ** 0.5).all()


def test_noise_below_the_least():
    x, variance = normal(2, 8, dtype=torch.float32), torch.tensor([1e-6, 1.0])
    walks = list(anneal(Family(1.0), x, variance, levels=3, chains=4, tau_min=0.02, generators=generators(0, 2)))
    assert all(walk.tau[0] == 1e-3 for walk in walks)
    assert (walks[-1].signal[:, 0] - x[0]).abs().max() < 1e-6
    assert (walks[-1].signal[:, 1] - x[1]).abs().max() > 0.1
