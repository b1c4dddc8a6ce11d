"""Chains that start in equilibrium stay there, or leave it by exactly the known bias."""

import math

import pytest
import torch

from sepriors import mcmc
from sepriors.mcmc import Density, Langevin, RandomWalk, sample
from sepriors.rng import generators

CHAINS = 200_000
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COV = torch.tensor([[1.0, 0.9], [0.9, 2.0]], dtype=torch.float64)
KERNELS = [RandomWalk(0.5), Langevin(0.3)]


def gaussian(mean, cov):
    """A Gaussian over the columns of z (..., L, T), a chain a frame."""
    precision = torch.linalg.inv(cov)
    return Density(lambda z: -0.5 * ((z - mean[:, None]) * (precision @ (z - mean[:, None]))).sum(-2))


def drawn(mean, cov, chains=CHAINS):
    """Independent draws (1, 1, L, chains) of that Gaussian, from a seed that no chain has."""
    g = torch.Generator().manual_seed(12345)
    z = torch.randn(len(mean), chains, generator=g, dtype=mean.dtype)
    return (mean[:, None] + torch.linalg.cholesky(cov) @ z)[None, None]


def last(target, kernel, position, steps, seed=0):
    *_, chain = sample(target, kernel, position, steps=steps, generators=generators(seed, position.shape[1]))
    return chain


def far(z, mean, cov):
    """Largest distance of the moments of z (1, 1, L, N) from those of N(mean, cov), in standard errors."""
    N, var = z.shape[-1], cov.diag()
    of_mean = (z[0, 0].mean(-1) - mean) / (var / N).sqrt()
    of_cov = (z[0, 0].cov() - cov) / ((var[:, None] * var + cov.square()) / N).sqrt()
    return float(torch.cat([of_mean, of_cov.flatten()]).abs().max())


def test_a_random_walk_stays_in_equilibrium():
    z = drawn(MEAN, COV)
    assert far(z, MEAN, COV) < 4
    end = last(gaussian(MEAN, COV), RandomWalk(1.0), z, steps=10)
    assert far(end.position, MEAN, COV) < 4
    assert (end.position != z).any(-2).double().mean() > 0.99  # it did not stay by standing still


def test_unadjusted_langevin_leaves_it_by_its_known_bias():
    """Σ (I - η/4 Σ⁻¹)⁻¹, the matrix form of s² / (1 - η / 4s²)."""
    step = 1.0
    biased = COV @ torch.linalg.inv(torch.eye(2, dtype=torch.float64) - step / 4 * torch.linalg.inv(COV))
    end = last(gaussian(MEAN, COV), Langevin(step), drawn(MEAN, COV), steps=60)
    assert far(end.position, MEAN, biased) < 4
    assert far(end.position, MEAN, COV) > 100


@pytest.mark.parametrize("share", [0.4, 1.0, 2.0])
def test_the_bias_of_langevin_in_one_dimension(share):
    """With a step of η = share × s² the stationary variance is s² / (1 - η / 4s²)."""
    mean, cov = torch.tensor([0.5], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    end = last(gaussian(mean, cov), Langevin(share * 2.0), drawn(mean, cov), steps=40)
    assert far(end.position, mean, cov / (1 - share / 4)) < 4
    assert far(end.position, mean, cov) > 30


@pytest.mark.parametrize("width", [0.5, 1.0, 3.0])
def test_how_often_a_random_walk_accepts(width):
    """In equilibrium, of a standard normal, with a proposal of that width: (2/π) arctan(2 / width)."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64)
    accepted = last(gaussian(zero, one), RandomWalk(width**2), drawn(zero, one), steps=1).accepted
    p = 2 / math.pi * math.atan(2 / width)
    assert abs(float(accepted) - p) < 4 * (p * (1 - p) / CHAINS) ** 0.5


def test_detailed_balance(monkeypatch):
    """p(a) P(a -> b) = p(b) P(b -> a), the acceptance counted over a grid of all uniform draws."""
    n, variance = 10_000, 0.7
    target = gaussian(MEAN, COV)
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    monkeypatch.setattr(mcmc, "rand_like", lambda x, generators, dim: grid.expand_as(x))

    def flow(a, b):
        noise = (b - a)[:, None] / variance**0.5
        monkeypatch.setattr(mcmc, "randn_like", lambda x, generators, dim: noise.expand_as(x))
        start = a[:, None].expand(1, 1, 2, n)
        end = last(target, RandomWalk(variance), start, steps=1)
        moved = (end.position != start).any(-2)
        torch.testing.assert_close(end.position, torch.where(moved, b[:, None], start))
        torch.testing.assert_close(end.logp, target.logp(end.position))
        assert float(end.accepted) == float(moved.double().mean())
        return float(target.logp(a[:, None]).exp() * moved.double().mean()), float(end.accepted)

    pairs = torch.randn(20, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + MEAN
    for a, b in pairs:
        (there, up), (back, down) = flow(a, b), flow(b, a)
        assert abs(there - back) <= 1.001 / n
        assert max(up, down) == 1
        assert min(up, down) < 1


def test_impossible_places_are_never_entered():
    """A box: the walk stays inside, and uniform."""
    box = Density(lambda z: torch.where(z.abs().amax(-2) < 1, 0.0, -math.inf))
    z = 2 * torch.rand(1, 1, 1, CHAINS, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    end = last(box, RandomWalk(1.0), z, steps=10).position
    assert end.abs().max() < 1
    assert abs(float(end.var()) - 1 / 3) < 4 * (4 / 45 / CHAINS) ** 0.5
    from_outside = last(box, RandomWalk(1.0), z + 2, steps=20).position  # a chain stands still until it comes in
    inside = from_outside.abs() < 1
    assert inside.double().mean() > 0.5
    assert from_outside[~inside].equal((z + 2)[~inside])


def test_a_place_without_a_density_is_not_entered():
    def logp(z):
        return torch.where(z[..., 0, :] > 0.5, math.nan, -0.5 * z.square().sum(-2))

    end = last(Density(logp), RandomWalk(1.0), torch.zeros(1, 1, 1, 1000), steps=20)
    assert end.position.isfinite().all()
    assert end.position.max() <= 0.5
    assert end.logp.isfinite().all()


@pytest.mark.parametrize("inference", [False, True])
def test_a_density_knows_its_score(inference):
    target = gaussian(MEAN, COV)
    with torch.inference_mode(inference):
        z = drawn(MEAN, 4 * COV, chains=7)
        before = z.clone()
        got = target.score(z)
        assert z.equal(before)
    assert not got.requires_grad
    torch.testing.assert_close(got, torch.linalg.inv(COV) @ (MEAN[:, None] - z))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_chain_a_frame_and_a_chain_an_utterance(kernel):
    """The shape of the log-density says what moves as one; each sees its own target."""
    R, B, L, T = 40, 3, 2, 50
    frames = Density(lambda z: -0.5 * z.square().sum(-2))
    utterances = Density(lambda z: -0.5 * z.square().sum((-2, -1)))
    start = torch.zeros(R, B, L, T, dtype=torch.float64)
    per_frame, per_utterance = (last(target, kernel, start, steps=1) for target in (frames, utterances))
    for chain in (per_frame, per_utterance):
        assert chain.position.shape == start.shape
        moved = chain.position != 0
        assert moved.equal(moved[:, :, :1].expand_as(moved))  # all of a frame's latent variables, or none
    if isinstance(kernel, RandomWalk):
        assert per_frame.logp.shape == (R, B, T)
        assert per_utterance.logp.shape == (R, B)
        some = (per_frame.position != 0).any(-2)
        assert 0 < some[0, 0].sum() < T
        whole = (per_utterance.position != 0).any(-2)
        assert whole.equal(whole[..., :1].expand_as(whole))
        assert not whole.any()  # a hundred dimensions at once: a step that suits a frame is too large


def test_an_utterance_as_one_chain_stays_in_equilibrium():
    """Frames that depend on each other: an autoregression over two frames, many parallel chains."""
    target = Density(lambda z: -0.5 * ((z @ torch.linalg.inv(COV)) * z).sum((-2, -1)))
    zero = torch.zeros(2, dtype=torch.float64)
    z = drawn(zero, COV)[0, 0].T[:, None, None]  # (R, 1, L=1, T=2)
    end = last(target, RandomWalk(1.0), z, steps=10)
    assert end.logp.shape == (CHAINS, 1)
    assert far(end.position[:, 0, 0].T[None, None], zero, COV) < 4


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dims", [-2, (-2, -1)])
def test_an_utterance_is_alike_alone_and_in_company(kernel, dims):
    target = Density(lambda z: -0.5 * z.square().sum(dims) - z.abs().sum(dims))
    z = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    seeds = [7, 8, 9]

    def run(position, seeds):
        *_, chain = sample(target, kernel, position, steps=20, generators=generators(seeds, len(seeds)))
        return chain.position

    together = run(z, seeds)
    assert run(z, seeds).equal(together)
    assert not run(z, [7, 8, 10])[:, 2].equal(together[:, 2])
    for b, seed in enumerate(seeds):
        assert run(z[:, b : b + 1], [seed]).equal(together[:, b : b + 1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_chain_goes_on_where_it_was(kernel):
    """Two runs after each other are one run, and no position is written to once it is out."""
    target = gaussian(MEAN, COV)
    z = drawn(MEAN, COV, chains=20)
    kept = z.clone()
    whole = [chain.position for chain in sample(target, kernel, z, steps=6, generators=generators(1, 1))]
    g = generators(1, 1)
    first = [chain.position for chain in sample(target, kernel, z, steps=3, generators=g)]
    second = [chain.position for chain in sample(target, kernel, first[-1], steps=3, generators=g)]
    assert z.equal(kept)
    assert len(whole) == 6
    for a, b in zip(whole, first + second, strict=True):
        assert a.equal(b)
    assert not whole[0].equal(whole[1])


def test_what_a_step_costs():
    """A random walk asks for one density a step and no gradient, Langevin for one gradient and no density."""
    calls = []

    class Counted:
        def logp(self, z):
            calls.append("logp")
            return -0.5 * z.square().sum(-2)

        def score(self, z):
            calls.append("score")
            return -z

    z = torch.zeros(1, 1, 1, 3)
    last(Counted(), RandomWalk(), z, steps=5)
    assert calls == ["logp"] * 6
    calls.clear()
    assert last(Counted(), Langevin(), z, steps=5).logp is None
    assert calls == ["score"] * 5


def test_dtype_is_kept():
    for dtype in (torch.float32, torch.float64):
        for kernel in KERNELS:
            target = Density(lambda z: -0.5 * z.square().sum(-2))
            assert last(target, kernel, torch.zeros(2, 1, 3, 4, dtype=dtype), steps=2).position.dtype == dtype


def test_no_steps_no_chains():
    z = drawn(MEAN, COV, chains=3)
    assert list(sample(gaussian(MEAN, COV), RandomWalk(), z, steps=0, generators=generators(0, 1))) == []


SHAPE = torch.linalg.cholesky(COV)


@pytest.mark.parametrize("lead", [(1, 1), (3, 2)])
def test_a_shaped_kernel_walks_as_a_plain_one_would_in_its_own_coordinates(lead):
    """With z = C u, a step of the shaped kernel on p(z) is a step of the plain kernel on p(u), with the same draws."""
    u = torch.randn(*lead, 2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = gaussian(MEAN, COV)
    in_u = Density(lambda u: target.logp(SHAPE @ u))
    for plain, shaped in ((RandomWalk(0.5), RandomWalk(0.5, SHAPE)), (Langevin(0.3), Langevin(0.3, SHAPE))):
        expected = SHAPE @ last(in_u, plain, u, steps=5).position
        torch.testing.assert_close(last(target, shaped, SHAPE @ u, steps=5).position, expected)


def test_a_shaped_random_walk_stays_in_equilibrium():
    end = last(gaussian(MEAN, COV), RandomWalk(1.0, SHAPE), drawn(MEAN, COV), steps=10)
    assert far(end.position, MEAN, COV) < 4
