"""Randomness is an argument: one generator an utterance, so that batch mates never matter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

Generators = Sequence[torch.Generator]
Seed = int | np.integer | Sequence[int] | np.ndarray | torch.Tensor


def generators(seed: Seed, batch: int, device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One seeded generator for each of `batch` utterances.

    An integer seeds every utterance alike, so that an utterance gives the same result alone and in a batch; a sequence
    gives each utterance its own seed (the bench does so, lest the files of a table share their luck).

    Raises ValueError for seeds that are no integers, do not match the batch, or do not fit in 64 bits.

    >>> a, b = generators(0, 2)
    >>> bool(torch.rand(3, generator=a).equal(torch.rand(3, generator=b)))
    True
    """
    if isinstance(seed, (np.ndarray, torch.Tensor)):
        seed = seed.tolist()
    seeds = list(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed] * batch
    if len(seeds) != batch:
        raise ValueError(f"expected {batch} seeds, one an utterance, got {len(seeds)}")
    for s in seeds:
        if isinstance(s, bool) or not isinstance(s, (int, np.integer)):
            raise ValueError(f"expected a seed that is an integer, or one an utterance, got {s!r}")
        if not -(2**63) <= s < 2**64:
            raise ValueError(f"expected a seed of 64 bits, got {s}")
    return [torch.Generator(device=device).manual_seed(int(s)) for s in seeds]


def rand(shape: Sequence[int], generators: Generators, like: torch.Tensor) -> torch.Tensor:
    """Uniform draws (B, *shape) in [0, 1), row b from generator b, with the dtype and device of `like`."""
    draws = [torch.rand(*shape, generator=g, dtype=like.dtype, device=like.device) for g in generators]
    return torch.stack(draws)


def randn(shape: Sequence[int], generators: Generators, like: torch.Tensor) -> torch.Tensor:
    """Standard normal draws (B, *shape), row b from generator b, with the dtype and device of `like`."""
    draws = [torch.randn(*shape, generator=g, dtype=like.dtype, device=like.device) for g in generators]
    return torch.stack(draws)


def randn_like(x: torch.Tensor, generators: Generators, dim: int = 0) -> torch.Tensor:
    """Standard normal draws like x, the utterance at place b of dimension `dim` from generator b.

    >>> randn_like(torch.zeros(10, 2, 3), generators(0, 2), dim=1).shape
    torch.Size([10, 2, 3])
    """
    return torch.stack(randn(_event(x, dim), generators, x).unbind(), dim)


def rand_like(x: torch.Tensor, generators: Generators, dim: int = 0) -> torch.Tensor:
    """Uniform draws in [0, 1) like x, the utterance at place b of dimension `dim` from generator b."""
    return torch.stack(rand(_event(x, dim), generators, x).unbind(), dim)


def _event(x: torch.Tensor, dim: int) -> list[int]:
    return [size for place, size in enumerate(x.shape) if place != dim % x.ndim]


def clone(generators: Generators) -> list[torch.Generator]:
    """Generators that go on as these would, and leave these where they are."""
    return [g.clone_state() for g in generators]


@contextmanager
def seeded_global_rng(generator: torch.Generator) -> Iterator[None]:
    """The global randomness of the CPU follows this generator within the block, and is put back after it.

    For libraries that take no generator: their masks and first weights are then ours to repeat.

    >>> (g,) = generators(0, 1)
    >>> with seeded_global_rng(g):
    ...     a = torch.rand(3)
    >>> bool(a.equal(torch.rand(3, generator=generators(0, 1)[0])))
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(torch.get_rng_state())
