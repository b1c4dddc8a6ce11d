"""Where a method sees a mixture: a transform, bound to the mixtures whose level or silence it must know.

`STFT` is one itself, and is bound to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from sepriors.signal.stft import STFT, Compression


class Domain(Protocol):
    """A transform of the mixtures (B, N) that it was bound to."""

    @property
    def stft(self) -> STFT: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) -> complex spectra (B, F, T)."""

    def inverse(self, X: torch.Tensor, length: int) -> torch.Tensor:
        """Complex spectra (B, F, T) -> waveforms (B, length)."""

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) at the level at which the transform sees them."""


class FrontEnd(Protocol):
    """A choice of transform; `bind` makes it that of some mixtures."""

    @property
    def stft(self) -> STFT: ...

    def bind(self, x: torch.Tensor) -> Domain: ...


@dataclass(frozen=True)
class Plain:
    """The STFT of mixtures as they are."""

    stft: STFT = STFT()  # noqa: RUF009  it is frozen

    def bind(self, x: torch.Tensor) -> Domain:
        return Scaled(self.stft, torch.ones_like(x[:, :1]))


@dataclass(frozen=True)
class PeakNormalised:
    """The STFT of mixtures scaled to a peak of 1, as the speech was that a variance prior has seen."""

    stft: STFT = STFT()  # noqa: RUF009

    def bind(self, x: torch.Tensor) -> Domain:
        return Scaled(self.stft, x.abs().amax(-1, keepdim=True).clamp_min(1e-8))  # silence stays silence


class Scaled(NamedTuple):
    """The STFT of mixtures over their scale (B, 1)."""

    stft: STFT
    scale: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.stft(self.normalised(x))

    def inverse(self, X: torch.Tensor, length: int) -> torch.Tensor:
        return self.scale * self.stft.inverse(X, length)

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        return x / self.scale


@dataclass(frozen=True)
class Compressed:
    """The STFT with amplitudes compressed, each mixture scaled so that its loudest bin has amplitude 1.

    The domain of the diffusion priors. Frames without a sound stay so: a reverse process would fill them with noise.
    """

    stft: STFT
    compression: Compression = Compression()  # noqa: RUF009

    def bind(self, x: torch.Tensor) -> CompressedDomain:
        frames = self.stft(x).abs().amax(-2, keepdim=True)
        peak = frames.amax(-1)
        scale = peak / self.compression.inverse(torch.ones_like(peak))
        return CompressedDomain(self.stft, self.compression, scale, frames == 0)


class CompressedDomain(NamedTuple):
    """Compressed spectra of mixtures over their scale (B, 1); `silent` frames (B, 1, T) come back as zeros."""

    stft: STFT
    compression: Compression
    scale: torch.Tensor
    silent: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.compression(self.stft(self.normalised(x)))

    def inverse(self, X: torch.Tensor, length: int) -> torch.Tensor:
        c = self.compression.inverse(X).masked_fill(self.silent, 0)
        return self.scale * self.stft.inverse(c, length)

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        return x / self.scale.clamp_min(torch.finfo(x.dtype).tiny)
