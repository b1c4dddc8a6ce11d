"""Markov chains, blind to audio: kernels with `start` and `step`, `sample`, which yields, and diagnostics.

Positions are (R, B, L, T): R parallel chains for each of B utterances, of which each has its own generator, so
that batch mates never matter. What moves as one is said by the shape of the log-density: (R, B, T), a chain a frame, or
(R, B), a chain an utterance; `Joint` makes the second of the first.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch

from sepriors.signal.rng import Generators, rand_like, randn_like


class Target(Protocol):
    """An unnormalised log-density, and its gradient, each by a function of its own: few kernels need both."""

    def logp(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z) + constant of each chain, nats."""

    def score(self, z: torch.Tensor) -> torch.Tensor:
        """The gradient of log p, like z."""


class Density(NamedTuple):
    """A target given by its log-density alone; its score comes from automatic differentiation.

    >>> z = torch.tensor([[[2.0]]])
    >>> Density(lambda z: -0.5 * z.square().sum(-1)).score(z)
    tensor([[[-2.]]])
    """

    logp: Callable[[torch.Tensor], torch.Tensor]

    def score(self, z: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            z = z.clone().requires_grad_()
            return torch.autograd.grad(self.logp(z).sum(), z)[0]


class Joint(NamedTuple):
    """A target whose frames are accepted or rejected together: exact where they depend on each other.

    >>> frames = Density(lambda z: -0.5 * z.square().sum(-2))
    >>> Joint(frames).logp(torch.zeros(4, 3, 2, 7)).shape
    torch.Size([4, 3])
    """

    frames: Target

    def logp(self, z: torch.Tensor) -> torch.Tensor:
        return self.frames.logp(z).sum(-1)

    def score(self, z: torch.Tensor) -> torch.Tensor:
        return self.frames.score(z)


class Chain(NamedTuple):
    """Where the chains are (R, B, L, T), log p and the score there if the kernel needs them, the share of steps taken.

    `memory` is what a kernel keeps besides the position, and still wants when the target has changed.
    """

    position: torch.Tensor
    logp: torch.Tensor | None = None
    score: torch.Tensor | None = None
    memory: torch.Tensor | None = None
    accepted: torch.Tensor | float = 1.0


class Kernel(Protocol):
    """One transition of a Markov chain that leaves the target as it is, exactly or nearly: a NamedTuple of settings.

    `latent.MCMC` starts it anew each round, since the target has changed: of a chain, only position and memory last.
    """

    def start(self, target: Target, chain: Chain) -> Chain:
        """The chain with what `step` reads of it, asked of this target: log p, the score, both, or neither.

        Ask for both at one and the same tensor, whose variance the target decodes once.
        """
        ...

    def step(self, target: Target, chain: Chain, generators: Generators) -> Chain:
        """The chain after a transition, in new tensors; draws are `randn_like(z, generators, dim=1)`: 1 is B.

        What moves as one is accepted as one, see `_to_frames`, and never where log p is NaN. `accepted` is the share.
        """
        ...


def _to_frames(per_chain: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """A value for each chain, to be set against z: (R, B, T) -> (R, B, 1, T), (R, B) -> (R, B, 1, 1)."""
    assert z.ndim == 4, z.shape
    return per_chain.unsqueeze(-2) if per_chain.ndim == 3 else per_chain[..., None, None]


def _per_chain(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Sums over what moves as one: x (R, B, L, T) -> (R, B, T), or (R, B) if the log-density `like` is so."""
    return x.sum(-2) if like.ndim == 3 else x.sum((-2, -1))


def _precondition(shape: torch.Tensor | None, z: torch.Tensor) -> torch.Tensor:
    """C z for columns z (..., L, T), C the `shape` (L, L); without one, z."""
    return z if shape is None else shape.to(z) @ z


def _precondition_score(shape: torch.Tensor | None, score: torch.Tensor) -> torch.Tensor:
    """Cᵀ ∇ log p, the score in the coordinates in which z is C times a vector."""
    return _precondition(None if shape is None else shape.mT, score)


class RandomWalk(NamedTuple):
    r"""Metropolis-Hastings with a symmetric Gaussian proposal: $z' = z + \epsilon$ (Robert & Casella, 2004, § 7.5).

    Accepted with probability $\min(1, p(z') / p(z))$; one evaluation of the density a step. With `shape` (L, L) the
    proposal is $\epsilon$ = shape × noise: long where the target is wide, short where it is narrow, still symmetric.
    """

    variance: float = 0.01  # of the proposal; the setting of Leglaive, Girin & Horaud (2018)
    shape: torch.Tensor | None = None

    def start(self, target: Target, chain: Chain) -> Chain:
        return Chain(chain.position, target.logp(chain.position))

    def step(self, target: Target, chain: Chain, generators: Generators) -> Chain:
        z = chain.position
        proposal = z + self.variance**0.5 * _precondition(self.shape, randn_like(z, generators, dim=1))
        logp = target.logp(proposal)
        assert chain.logp is not None
        accept = rand_like(logp, generators, dim=1).log() < logp - chain.logp
        position = torch.where(_to_frames(accept, z), proposal, z)
        return Chain(position, torch.where(accept, logp, chain.logp), accepted=accept.to(z).mean())


class Langevin(NamedTuple):
    r"""Unadjusted Langevin dynamics: $z' = z + \frac{\eta}{2} \nabla \log p(z) + \sqrt{\eta}\, \zeta$ (Neal, 1996).

    Biased by the step size, which nothing corrects; in return each step costs one gradient and never stands still. It
    diverges where $\eta$ times the curvature passes 4: a frame that a step would take beyond `limit` stays where it is.
    With `shape` C (L, L) it walks in the coordinates in which z is C times a vector:
    $z' = z + \frac{\eta}{2} C C^\top \nabla \log p(z) + \sqrt{\eta}\, C \zeta$ (Roberts & Stramer, 2002).

    With `averaged` the noise is the mean of this step's and the last one's, $\sqrt{\eta}\, (\zeta_k + \zeta_{k+1}) / 2$
    (Leimkuhler & Matthews, 2013: their underdamped scheme at high friction): the bias falls from first to second order
    in the step, and is none for a Gaussian, at the same cost.
    """

    step_size: float | torch.Tensor = 0.01  # η; the code of Sadeghi & Serizel (2023) writes η / 2 = .005
    shape: torch.Tensor | None = None
    averaged: bool = False
    limit: float = 1e3  # |z|, far beyond any prior of the book

    def start(self, target: Target, chain: Chain) -> Chain:
        return Chain(chain.position, memory=chain.memory if self.averaged else None)

    def step(self, target: Target, chain: Chain, generators: Generators) -> Chain:
        z, last = chain.position, chain.memory
        if self.averaged and last is None:
            last = randn_like(z, generators, dim=1)
        noise = randn_like(z, generators, dim=1)
        drift = 0.5 * self.step_size * _precondition(self.shape, _precondition_score(self.shape, target.score(z)))
        kick = noise if last is None else (last + noise) / 2
        proposal = z + drift + self.step_size**0.5 * _precondition(self.shape, kick)
        inside = proposal.square().sum(-2) < self.limit**2  # neither is NaN
        if not inside.all():
            about = f"a Langevin step of {self.step_size} leaves |z| < {self.limit:g}: such frames stay where they are"
            warnings.warn(f"{about}; take a shorter one", RuntimeWarning, 2)
        position = torch.where(_to_frames(inside, z), proposal, z)
        return Chain(position, memory=noise if self.averaged else None, accepted=inside.to(z).mean())


class MALA(NamedTuple):
    r"""Metropolis-adjusted Langevin algorithm (Roberts & Stramer, 2002): `Langevin`'s step as a proposal.

    Accepted with probability $\min(1, \frac{p(z')\, q(z \mid z')}{p(z)\, q(z' \mid z)})$; one gradient and one density
    a step, both at one place. `tamed` shortens the drift, $f / (1 + \frac{\eta}{2} \|f\|)$ for a score f (Brosse et
    al., 2019, whose step is $\eta / 2$): a chain then never leaps where the density is steep, and the correction knows.
    """

    step_size: float = 0.01
    shape: torch.Tensor | None = None
    tamed: bool = False

    def start(self, target: Target, chain: Chain) -> Chain:
        return Chain(chain.position, target.logp(chain.position), target.score(chain.position))

    def step(self, target: Target, chain: Chain, generators: Generators) -> Chain:
        z, logp, score = chain[:3]
        assert logp is not None and score is not None  # noqa: PT018
        noise = randn_like(z, generators, dim=1)
        drift = self._drift(score, logp)
        proposal = z + _precondition(self.shape, drift + self.step_size**0.5 * noise)
        logp_new, score_new = target.logp(proposal), target.score(proposal)
        # the noise that would have led back, from z' = z + C (d(z) + √η ζ)
        back = noise + (drift + self._drift(score_new, logp)) / self.step_size**0.5
        log_ratio = logp_new - logp + 0.5 * _per_chain(noise.square() - back.square(), logp)
        accept = rand_like(logp, generators, dim=1).log() < log_ratio
        position = torch.where(_to_frames(accept, z), proposal, z)
        score = torch.where(_to_frames(accept, z), score_new, score)
        return Chain(position, torch.where(accept, logp_new, logp), score, accepted=accept.to(z).mean())

    def _drift(self, score: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
        """η/2 Cᵀ f, tamed or not; z moves by C times that."""
        f = _precondition_score(self.shape, score)
        if self.tamed:
            f = f / (1 + 0.5 * self.step_size * _to_frames(_per_chain(f.square(), logp).sqrt(), f))
        return 0.5 * self.step_size * f


def sample(
    target: Target, kernel: Kernel, position: torch.Tensor | Chain, *, steps: int, generators: Generators
) -> Iterator[Chain]:
    """The chains after each of so many steps from `position` (R, B, L, T), or from where a `Chain` has come to.

    >>> from sepriors.signal.rng import generators
    >>> normal = Density(lambda z: -0.5 * z.square().sum(-2))
    >>> z = torch.zeros(1, 1, 1, 5000)
    >>> *_, last = sample(normal, RandomWalk(5.0), z, steps=30, generators=generators(0, 1))
    >>> bool((last.position.std() - 1).abs() < 0.05)
    True
    """
    chain = kernel.start(target, position if isinstance(position, Chain) else Chain(position))
    for _ in range(steps):
        chain = kernel.step(target, chain, generators)
        yield chain


def r_hat(draws: torch.Tensor) -> torch.Tensor:
    r"""Split $\hat R$ of draws (N, R, ...), N steps of R chains: near 1 where all chains tell the same (...).

    Halves of chains count as chains (Gelman et al., 2013, § 11.4; Vehtari et al., 2021, eq. 1). Raises ValueError below
    four steps.

    >>> draws = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(r_hat(draws) < 1.01), bool(r_hat(draws + torch.arange(4)) > 1.1)
    (True, True)
    """
    if len(draws) < 4:
        raise ValueError(f"expected four steps at least to compare halves of chains, got {len(draws)}")
    half = len(draws) // 2
    chains = torch.cat([draws[:half], draws[-half:]], 1)
    within = chains.var(0).mean(0)
    between = chains.mean(0).var(0)
    return ((half - 1) / half + between / within).sqrt()


def effective_sample_size(draws: torch.Tensor) -> torch.Tensor:
    r"""Independent draws that would say as much about the mean as these, (N, R, ...) -> (...).

    $N R / (1 + 2 \sum_k \rho_k)$, the autocorrelations averaged over chains and summed as long as their pairs are
    positive (Geyer, 1992, § 3.3); NaN for chains that never moved. Raises ValueError below four steps.

    >>> draws = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    >>> bool((effective_sample_size(draws) / 8000 - 1).abs() < 0.1)
    True
    """
    N, R = draws.shape[:2]
    if N < 4:
        raise ValueError(f"expected four steps at least, got {N}")
    centred = draws - draws.mean((0, 1))
    spectrum = torch.fft.rfft(centred, 2 * N, dim=0).abs().square()
    covariance = torch.fft.irfft(spectrum, 2 * N, dim=0)[:N].mean(1) / N
    rho = covariance / covariance[:1]
    pairs = rho[: N // 2 * 2].reshape(N // 2, 2, *rho.shape[1:]).sum(1)
    pairs = torch.where((pairs > 0).cumprod(0).bool(), pairs, 0.0).cummin(0).values
    stuck = (draws == draws[:1]).all(1).all(0)
    return (N * R / (2 * pairs.sum(0) - 1).clamp_min(1 / math.log10(10 + N))).masked_fill(stuck, math.nan)
