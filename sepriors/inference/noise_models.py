"""Models of the noise as choices: what EM starts from, and what of it the M-step learns."""

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from sepriors.inference import nmf
from sepriors.inference.nmf import NMF
from sepriors.precision import matched
from sepriors.signal.front_ends import CompressedDomain, Domain
from sepriors.signal.rng import Generators, clone


class NoiseModel(Protocol):
    """What EM begins with for mixtures x (B, N), X (B, F, T) in a domain, and its M-step.

    `update` takes what an E-step leaves for the noise, power and offset (R, B, F, T), see `em.Expectation`.
    """

    def start(self, x: torch.Tensor, X: torch.Tensor, domain: Any, generators: Generators) -> Any: ...

    def update(self, noise: Any, power: torch.Tensor, offset: torch.Tensor | None) -> Any: ...


@dataclass(frozen=True)
class FreeNMF:
    """An NMF that is learned from the mixture alone, bases and activations (Leglaive, Girin & Horaud, 2018, § 2.2)."""

    rank: int = 8

    def start(self, x: torch.Tensor, X: torch.Tensor, domain: Domain, generators: Generators) -> NMF:
        return nmf.init(X.abs().square(), self.rank, generators)

    def update(self, noise: NMF, power: torch.Tensor, offset: torch.Tensor | None) -> NMF:
        return nmf.fast_update(noise, power, offset)


@dataclass(frozen=True, eq=False)
class TrainedNMF:
    """An NMF whose bases (F, K) are known; only its activations are learned (Shi et al., 2021, § 5.2)."""

    bases: torch.Tensor

    def start(self, x: torch.Tensor, X: torch.Tensor, domain: Domain, generators: Generators) -> NMF:
        return nmf.init(X.abs().square(), self.bases.shape[-1], generators, self.bases.to(x))

    def update(self, noise: NMF, power: torch.Tensor, offset: torch.Tensor | None) -> NMF:
        return nmf.fast_update(noise, power, offset, bases=False)


@dataclass(frozen=True, eq=False)
class Inferred:
    """An NMF of the noise that an amortised posterior hears in the mixture; EM keeps its bases and learns activations.

    Semi-supervised: `prior` (`priors.NPE`) has learned what noise is like. Its transform must be the domain's, and
    nothing compressed behind it.
    """

    prior: Any  # with `stft` and `noise_power`
    rank: int = 8
    iterations: int = 50

    def start(self, x: torch.Tensor, X: torch.Tensor, domain: Domain, generators: Generators) -> NMF:
        prior = matched(self.prior, x)
        if prior.stft != domain.stft or isinstance(domain, CompressedDomain):
            got = f"{type(domain).__name__} by {domain.stft}"
            raise ValueError(f"expected plain spectra by {prior.stft}, got {got}")
        P = prior.noise_power(domain.normalised(x)) + 1e-12
        return nmf.fit(P, self.rank, iterations=self.iterations, generators=clone(generators))

    def update(self, noise: NMF, power: torch.Tensor, offset: torch.Tensor | None) -> NMF:
        return nmf.fast_update(noise, power, offset, bases=False)


class Linearised(NamedTuple):
    """An NMF of spectra as they are, seen in a compressed domain through the secant gain (B, F, T) at the mixture.

    Noise adds up before the compression, not behind it: where speech is loud, noise moves a compressed bin less.
    """

    model: NMF
    gain: torch.Tensor

    @property
    def variance(self) -> torch.Tensor:
        return self.gain * self.model.variance


@dataclass(frozen=True, eq=False)
class Begun:
    """The NMF that another method ends with, for a compressed domain; then only its activations are learned on.

    That method has the domain's transform, or one whose windows and hops are a whole number of times as long.
    """

    first: Any  # a `NoiseEM` whose noise is an NMF

    def start(self, x: torch.Tensor, X: torch.Tensor, domain: CompressedDomain, generators: Generators) -> Linearised:
        here, there = domain.stft, self.first.stft
        ratio = max(1, there.n_fft // here.n_fft)
        if (there.n_fft, there.hop) != (ratio * here.n_fft, ratio * here.hop):
            raise ValueError(f"expected a first method with the prior's {here}, or with a multiple, got {there}")
        (last,) = deque(self.first(domain.normalised(x), generators=clone(generators)), maxlen=1)
        return Linearised(nmf.shorter(last.noise, ratio, X.shape[-1]), domain.compression.secant_gain(X))

    def update(self, noise: Linearised, power: torch.Tensor, offset: torch.Tensor | None) -> Linearised:
        plain = None if offset is None else offset / noise.gain
        return noise._replace(model=nmf.fast_update(noise.model, power / noise.gain, plain, bases=False))
