"""Markov chains, blind to audio: kernels with `start` and `step`, and `sample`, which yields.

Positions are (R, B, L, T): R parallel chains for each of B utterances, of which each has its own generator, so
that batch mates never matter. What moves as one is said by the shape of the log-density: (R, B, T), a chain a frame, or
(R, B), a chain an utterance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch

from .rng import Generators, rand_like, randn_like


class Target(Protocol):
    """An unnormalised log-density, and its gradient, each by a function of its own: few kernels need both."""

    def logp(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z) + constant of each chain, nats."""
        ...

    def score(self, z: torch.Tensor) -> torch.Tensor:
        """The gradient of log p, like z."""
        ...


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


class Chain(NamedTuple):
    """Where the chains are (R, B, L, T), log p there if the kernel needs it, and the share of accepted steps."""

    position: torch.Tensor
    logp: torch.Tensor | None = None
    accepted: torch.Tensor | float = 1.0


class Kernel(Protocol):
    """One transition of a Markov chain that leaves the target as it is, exactly or nearly."""

    def start(self, target: Target, position: torch.Tensor) -> Chain: ...

    def step(self, target: Target, chain: Chain, generators: Generators) -> Chain: ...


def _over(mask: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """A value for each chain, to be set against z: (R, B, T) -> (R, B, 1, T), (R, B) -> (R, B, 1, 1)."""
    assert z.ndim == 4, z.shape
    return mask.unsqueeze(-2) if mask.ndim == 3 else mask[..., None, None]


def _times(shape: torch.Tensor | None, z: torch.Tensor) -> torch.Tensor:
    """shape @ z for columns z (..., L, T), a product for each matrix of z, so that batch mates never matter."""
    if shape is None:
        return z
    columns = z.reshape(-1, *z.shape[-2:])
    return torch.bmm(shape.to(z).expand(len(columns), -1, -1), columns).reshape(z.shape)


class RandomWalk(NamedTuple):
    r"""Metropolis-Hastings with a symmetric Gaussian proposal: $z' = z + \epsilon$ (Robert & Casella, 2004, § 7.5).

    Accepted with probability $\min(1, p(z') / p(z))$; one evaluation of the density a step. With `shape` (L, L) the
    proposal is $\epsilon$ = shape × noise: long where the target is wide, short where it is narrow, still symmetric.
    """

    variance: float = 0.01  # of the proposal; the setting of Leglaive, Girin & Horaud (2018)
    shape: torch.Tensor | None = None

    def start(self, target: Target, position: torch.Tensor) -> Chain:
        return Chain(position, target.logp(position))

    def step(self, target: Target, chain: Chain, generators: Generators) -> Chain:
        z = chain.position
        proposal = z + self.variance**0.5 * _times(self.shape, randn_like(z, generators, dim=1))
        logp = target.logp(proposal)
        assert chain.logp is not None
        accept = rand_like(logp, generators, dim=1).log() < logp - chain.logp
        position = torch.where(_over(accept, z), proposal, z)
        return Chain(position, torch.where(accept, logp, chain.logp), accept.to(z).mean())


class Langevin(NamedTuple):
    r"""Unadjusted Langevin dynamics: $z' = z + \frac{\eta}{2} \nabla \log p(z) + \sqrt{\eta}\, \zeta$ (Neal, 1996).

    Biased by the step size, which nothing corrects; in return each step costs one gradient and never stands still. It
    diverges where $\eta$ times the curvature passes 4. With `shape` C (L, L) it walks in the coordinates in which z is
    C times a vector: $z' = z + \frac{\eta}{2} C C^\top \nabla \log p(z) + \sqrt{\eta}\, C \zeta$
    (Roberts & Stramer, 2002).
    """

    step_size: float | torch.Tensor = 0.01  # η; the code of Sadeghi & Serizel (2023) writes η / 2 = .005
    shape: torch.Tensor | None = None

    def start(self, target: Target, position: torch.Tensor) -> Chain:
        return Chain(position)

    def step(self, target: Target, chain: Chain, generators: Generators) -> Chain:
        z = chain.position
        C = self.shape
        drift = 0.5 * self.step_size * _times(C, _times(None if C is None else C.mT, target.score(z)))
        return Chain(z + drift + self.step_size**0.5 * _times(C, randn_like(z, generators, dim=1)))


def sample(
    target: Target, kernel: Kernel, position: torch.Tensor, *, steps: int, generators: Generators
) -> Iterator[Chain]:
    """The chains after each of so many steps from `position` (R, B, L, T).

    >>> from sepriors.rng import generators
    >>> normal = Density(lambda z: -0.5 * z.square().sum(-2))
    >>> z = torch.zeros(1, 1, 1, 5000)
    >>> *_, last = sample(normal, RandomWalk(5.0), z, steps=30, generators=generators(0, 1))
    >>> bool((last.position.std() - 1).abs() < 0.05)
    True
    """
    chain = kernel.start(target, position)
    for _ in range(steps):
        chain = kernel.step(target, chain, generators)
        yield chain
