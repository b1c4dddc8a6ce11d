"""Chains that start in equilibrium stay there, or leave it by exactly the known bias."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import alike

from sepriors.inference import mcmc
from sepriors.inference.mcmc import MALA, Chain, Density, Joint, Langevin, RandomWalk, effective_sample_size, sample
from sepriors.signal.rng import generators

CHAINS = 100_000
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COV = torch.tensor([[1.0, 0.9], [0.9, 2.0]], dtype=torch.float64)
SHAPE = torch.linalg.cholesky(COV)
EXACT = [  # these leave their target as it is
    RandomWalk(0.5),
    RandomWalk(1.0, SHAPE),
    MALA(0.3),
    MALA(0.3, SHAPE),
    MALA(0.3, tamed=True),
]
KERNELS = [*EXACT, Langevin(0.3), Langevin(0.3, averaged=True)]


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


@pytest.mark.parametrize("kernel", EXACT, ids=str)
def test_an_exact_kernel_stays_in_equilibrium(kernel):
    z = drawn(MEAN, COV)
    end = last(gaussian(MEAN, COV), kernel, z, steps=10)
    assert far(end.position, MEAN, COV) < 4
    assert (end.position != z).any(-2).double().mean() > 0.99  # it did not stay by standing still


@pytest.mark.parametrize("kernel", [MALA(0.5), MALA(0.5, tamed=True)], ids=str)
def test_an_adjusted_step_stays_where_an_unadjusted_one_leaves(kernel):
    """The same step without its correction goes off by what the recursion S <- A S A' + step I says."""
    z, target = drawn(MEAN, COV), gaussian(MEAN, COV)
    end = last(target, kernel, z, steps=10)
    assert far(end.position, MEAN, COV) < 4
    assert (end.position != z).any(-2).double().mean() > 0.99
    A, S = torch.eye(2) - 0.5 * kernel.step_size * torch.linalg.inv(COV), COV
    for _ in range(10):
        S = A @ S @ A.mT + kernel.step_size * torch.eye(2)
    plain = last(target, Langevin(kernel.step_size), z, steps=10).position
    assert far(plain, MEAN, S) < 4
    assert far(plain, MEAN, COV) > 20


def test_the_bias_of_langevin_is_known_and_averaged_noise_has_none_for_a_gaussian():
    """Σ (I - η/4 Σ⁻¹)⁻¹, the matrix form of s² / (1 - η / 4s²): ten per cent and more in every direction."""
    biased = COV @ torch.linalg.inv(torch.eye(2) - torch.linalg.inv(COV) / 4)
    assert torch.linalg.eigvals(biased @ torch.linalg.inv(COV)).real.min() > 1.1
    z, target = drawn(MEAN, COV), gaussian(MEAN, COV)
    plain, averaged = (last(target, Langevin(1.0, averaged=averaged), z, steps=40) for averaged in (False, True))
    assert far(plain.position, MEAN, biased) < 4
    assert far(averaged.position, MEAN, COV) < 4


WELL = Density(lambda z: -(z.pow(4) / 4 + z.square() / 2).sum(-2))


def moved(kernel, z, noise, memory=None):
    """A kernel's step from places z (N,) of the well, with that noise and that of the step before."""
    as_chains = lambda x: None if x is None else x.reshape(1, 1, 1, -1)  # noqa: E731
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mcmc, "randn_like", lambda x, generators, dim: as_chains(noise))
        return kernel.step(WELL, Chain(as_chains(z), memory=as_chains(memory)), []).position.flatten()


def test_a_langevin_step_written_out():
    """The averaged one in its Markovian form: with y = z - √η/2 ζ, y' = y + √η ζ + η/2 f(y + √η/2 ζ)."""
    g, step = torch.Generator().manual_seed(0), 0.3
    z, last, noise = torch.randn(3, 50, generator=g, dtype=torch.float64)
    score = lambda z: -z.pow(3) - z  # noqa: E731
    plain = z + step / 2 * score(z) + step**0.5 * noise
    for memory in (None, last):
        start = Langevin(step).start(WELL, Chain(z, memory=memory))
        torch.testing.assert_close(moved(Langevin(step), z, noise, start.memory), plain)
    half = step**0.5 / 2
    y = z - half * last
    expected = y + 2 * half * last + step / 2 * score(y + half * last)
    torch.testing.assert_close(moved(Langevin(step, averaged=True), z, noise, last) - half * noise, expected)


def stationary(step, averaged, reach=4.0, nodes=100):
    """E z² of the well's stationary law, without luck: the kernel's transition on Chebyshev nodes, by quadrature.

    A function u of y is a polynomial through its values at the nodes; E[u(y') | y] is a sum over the noise. The noise
    of a step stays within an averaged chain's memory, so y as in the test above is the Markov chain there.
    """
    roots, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    y = reach * torch.cos(math.pi * (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes)
    half = step**0.5 / 2 if averaged else 0.0
    noise = roots.repeat_interleave(nodes)
    z = y.repeat(len(roots)) + half * noise
    kernel = Langevin(step, averaged=averaged)
    there = moved(kernel, z, 0 * noise if averaged else noise, noise if averaged else None).clamp(-reach, reach)

    def values(x):  # of each Chebyshev polynomial
        return torch.from_numpy(np.polynomial.chebyshev.chebvander(x.numpy() / reach, nodes - 1))

    through = torch.linalg.inv(values(y))
    P = torch.einsum("q,qij->ij", weights, values(there).reshape(len(roots), nodes, nodes)) @ through
    law = torch.linalg.matrix_power(P, 2**12)[nodes // 2]  # weights over the nodes
    assert (law @ P - law).abs().sum() < 1e-9
    seen = torch.einsum("q,qi->i", weights, z.reshape(len(roots), nodes).square())
    return float(law @ seen)


def test_the_order_of_the_bias_in_the_step():
    """Where nothing is Gaussian: first for plain steps, second for averaged noise."""
    z = torch.linspace(-6, 6, 10_001, dtype=torch.float64)
    p = WELL.logp(z[None]).softmax(-1)
    exact = float((p * z.square()).sum())
    for averaged, factor in ((False, 2.0), (True, 4.0)):
        bias = [stationary(step, averaged) - exact for step in (0.1, 0.05, 0.025)]
        ratios = [a / b for a, b in pairwise(bias)]
        assert abs(ratios[1] - factor) < 0.05 * factor
        assert abs(ratios[1] - factor) < 0.7 * abs(ratios[0] - factor)  # and it goes there


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


def test_a_tamed_step_is_that_of_its_source():
    """Brosse et al. (2019): γ ∇U / (1 + γ ‖∇U‖) of a potential U, and noise of variance 2 γ; so γ = η / 2."""
    kernel = MALA(0.01, tamed=True)
    drift = kernel._drift(torch.full((1, 1, 1, 1), 300.0).double(), torch.zeros(1, 1, 1).double())
    assert float(drift) == pytest.approx(0.6)


@pytest.mark.parametrize("nothing", [math.nan, -math.inf])
def test_a_place_without_a_density_is_not_entered(nothing):
    def logp(z):
        return torch.where(z[..., 0, :] > 0.5, nothing, -0.5 * z.square().sum(-2))

    for kernel in (RandomWalk(1.0), MALA(1.0), MALA(1.0, tamed=True)):
        end = last(Density(logp), kernel, torch.zeros(1, 1, 1, 1000), steps=20)
        assert end.position.isfinite().all()
        assert 0.4 < end.position.max() <= 0.5
        assert end.logp.isfinite().all()


@pytest.mark.parametrize("dims", [-2, (-2, -1)])
@pytest.mark.parametrize(
    "kernel",
    [RandomWalk(1e36), MALA(1e30), MALA(1e36, tamed=True), Langevin(0.5), Langevin(1e36)],
    ids=str,
)
def test_a_chain_that_would_leave_the_world_stays(kernel, dims):
    """Steps that a steep density throws out of what single precision holds, or that grow without end."""
    steep = Density(lambda z: -z.pow(4).sum(dims))
    z = 2 * torch.randn(4, 2, 3, 50, generator=torch.Generator().manual_seed(0))
    run = sample(steep, kernel, z, steps=12, generators=generators(0, 2))
    if isinstance(kernel, Langevin):  # nothing else tells that it was too bold
        with pytest.warns(RuntimeWarning, match="a Langevin step of .* leaves .z. < 1000: such frames stay"):
            *_, chain = run
    else:
        *_, chain = run
    for x in (chain.position, chain.logp, chain.score):
        assert x is None or x.isfinite().all()
    assert chain.accepted < 1
    if not isinstance(kernel, Langevin) or kernel.step_size > 1:
        assert chain.position.equal(z)
        assert chain.accepted == 0


class Coupled:
    """Two frames that depend on each other; of log p each has a share, and the slope is that of the sum."""

    precision = torch.linalg.inv(COV)

    def logp(self, z):
        return -0.5 * (z * (z @ self.precision)).sum(-2)

    def score(self, z):
        return -(z @ self.precision)


@pytest.mark.parametrize("kernel", [RandomWalk(1.0), MALA(0.7)], ids=str)
def test_frames_that_depend_on_each_other_are_accepted_together_or_wrong(kernel):
    zero = torch.zeros(2, dtype=torch.float64)
    z = drawn(zero, COV)[0, 0].T[:, None, None]
    joint, apart = (last(target, kernel, z, steps=10) for target in (Joint(Coupled()), Coupled()))
    assert joint.logp.shape == (CHAINS, 1)
    assert apart.logp.shape == (CHAINS, 1, 2)
    assert far(joint.position[:, 0, 0].T[None, None], zero, COV) < 4
    assert far(apart.position[:, 0, 0].T[None, None], zero, COV) > 20
    whole = Density(lambda z: Coupled().logp(z).sum(-1))
    torch.testing.assert_close(Joint(Coupled()).logp(z), whole.logp(z))
    torch.testing.assert_close(Joint(Coupled()).score(z), whole.score(z))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_chain_goes_on_where_it_was(kernel):
    """Two runs after each other are one run, no position is written to once it is out, and company does not matter."""
    target, z = gaussian(MEAN, COV), drawn(MEAN, COV, chains=20)
    kept = z.clone()
    whole = list(sample(target, kernel, z, steps=6, generators=generators(1, 1)))
    g = generators(1, 1)
    first = list(sample(target, kernel, z, steps=3, generators=g))
    second = list(sample(target, kernel, first[-1], steps=3, generators=g))
    assert z.equal(kept)
    for a, b in zip(whole, first + second, strict=True):
        assert a.position.equal(b.position)
    assert not whole[0].position.equal(whole[1].position)
    assert list(sample(target, kernel, z, steps=0, generators=g)) == []
    together = last(target, kernel, z.repeat(1, 2, 1, 1), steps=6, seed=[7, 1]).position
    assert alike(whole[-1].position[:, 0], together[:, 1], 1e-9)
    assert not together[:, 0].equal(together[:, 1])


def test_what_a_step_costs():
    """A random walk asks for one density a step, Langevin for one gradient, the adjusted one for both at one place."""
    calls = []
    target = SimpleNamespace(
        logp=lambda z: calls.append(("logp", z)) or -0.5 * z.square().sum(-2),
        score=lambda z: calls.append(("score", z)) or -z,
    )
    for kernel, asked in ((RandomWalk(), ["logp"] * 6), (Langevin(), ["score"] * 5), (MALA(), ["logp", "score"] * 6)):
        calls.clear()
        last(target, kernel, torch.zeros(1, 1, 1, 3), steps=5)
        assert [name for name, _ in calls] == asked
    assert all(a is b for (_, a), (_, b) in zip(calls[::2], calls[1::2]))


def test_a_shaped_kernel_walks_as_a_plain_one_would_in_its_own_coordinates():
    """With z = C u, a step of the shaped kernel on p(z) is a step of the plain kernel on p(u), with the same draws."""
    u = torch.randn(3, 2, 2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = gaussian(MEAN, COV)
    in_u = Density(lambda u: target.logp(SHAPE @ u))
    for plain in (RandomWalk(0.5), Langevin(0.3), Langevin(0.3, averaged=True), MALA(0.5), MALA(0.5, tamed=True)):
        expected = SHAPE @ last(in_u, plain, u, steps=5).position
        assert not expected.equal(SHAPE @ u)
        got = last(target, plain._replace(shape=SHAPE), SHAPE @ u, steps=5).position
        torch.testing.assert_close(got, expected)


# ------------------------------------------------------------- diagnostics


def autoregression(phi, steps, chains, seed=0):
    """Draws (N, R) of x_k = φ x_{k-1} + √(1 - φ²) ε_k in equilibrium."""
    noise = torch.randn(steps, chains, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = [noise[0]]
    for e in noise[1:]:
        x.append(phi * x[-1] + (1 - phi**2) ** 0.5 * e)
    return torch.stack(x)


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.9])
def test_the_effective_sample_size_of_an_autoregression(phi):
    """N R (1 - φ) / (1 + φ): more than all draws where neighbours differ."""
    N, R = 4000, 50
    assert abs(float(effective_sample_size(autoregression(phi, N, R))) / (N * R * (1 - phi) / (1 + phi)) - 1) < 0.05


def test_the_effective_sample_size_of_chains_that_do_not_agree_or_never_move():
    """Little, or none, wherever they stand, at one place or at four; one that moves says something."""
    assert effective_sample_size(autoregression(0.0, 1000, 4) + 5 * torch.arange(4)) < 10
    apart = torch.arange(4.0).double().expand(100, 4).clone()
    assert effective_sample_size(torch.zeros(100, 4)).isnan()
    assert effective_sample_size(apart).isnan()
    apart[50:, 0] = 9
    assert effective_sample_size(apart).isfinite()


def test_split_r_hat_written_out():
    """Half chains of the same values at known means: nothing is left to luck."""
    half = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = half - half.mean()
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.0]]).double()  # of three chains' halves
    draws = torch.cat([half[:, None] + means[:, 0], half[:, None] + means[:, 1]])
    expected = (49 / 50 + means.flatten().var() / half.var()).sqrt()
    torch.testing.assert_close(mcmc.r_hat(draws), expected)
    odd = torch.cat([draws[:50], torch.full((1, 3), 1e9).double(), draws[50:]])  # halves leave the middle out
    torch.testing.assert_close(mcmc.r_hat(odd), expected)
    torch.testing.assert_close(mcmc.r_hat(7 - 3 * draws), expected)


@pytest.mark.parametrize("diagnostic", [mcmc.r_hat, effective_sample_size])
def test_a_diagnostic_of_many_numbers_at_once(diagnostic):
    draws = autoregression(0.5, 200, 3 * 10).reshape(200, 3, 2, 5)
    got = diagnostic(draws)
    assert got.shape == (2, 5)
    torch.testing.assert_close(got[1, 3], diagnostic(draws[:, :, 1, 3]))
    assert diagnostic(draws[:, :, 0, 0]).shape == ()
    assert diagnostic(draws[:4]).isfinite().all()
    with pytest.raises(ValueError, match="expected four steps at least"):
        diagnostic(draws[:3])
