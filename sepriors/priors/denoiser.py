r"""Denoiser: the mean and the variance of clean speech given speech in white complex noise of a known level.

A U-Net over complex compressed spectra, small enough for a processor. Where Nortier, Sadeghi & Serizel (2024) learn the
score for one schedule, this one is a denoiser (Karras et al., 2022, § 5): it is given $\sigma$ and never sees a
schedule, and the score of $s_t = \delta_t s_0 + \sigma_t z$ follows by Tweedie's formula.
"""

import math
from itertools import pairwise

import torch
from torch import nn

from sepriors.precision import autocast
from sepriors.priors.base import Configured
from sepriors.protocols import Denoised
from sepriors.signal.stft import STFT, Compression

# the parameters that begin at zero, so that each block, and the head, does nothing at first
IDENTITY = ("position_embedding", "second", "modulation", "head")


class Denoiser(Configured):
    """The priors `score` and, conditional on a noisy spectrum, `diffusion-supervised`.

    The first 256 bins go through the network; the last one, at half the sample rate, is taken for silent.

    >>> net = Denoiser(channels=(8, 8))
    >>> made = net.denoise(torch.randn(3, 257, 20, dtype=torch.cfloat), 0.5)
    >>> made.mean.shape, made.variance.shape
    (torch.Size([3, 257, 20]), torch.Size([3, 257, 20]))
    """

    sigma_min, sigma_max = 0.01, 2.5  # of the noise that it was trained on

    def __init__(
        self,
        stft: STFT = STFT(512, 128),  # noqa: B008  it is frozen
        compression: Compression = Compression(),  # noqa: B008
        channels: tuple[int, ...] = (48, 80, 128, 144),
        conditional: bool = False,
        sigma_data: float = 0.1,
        fast: bool | None = None,
    ) -> None:
        super().__init__()
        self.stft, self.compression, self.channels, self.conditional = stft, compression, channels, conditional
        self.sigma_data, self.fast = sigma_data, fast  # σ of speech: root mean square over all bins
        self.embed = nn.Sequential(nn.Linear(16, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
        self.stem = nn.Conv2d(16 * (4 if conditional else 2), channels[0], 3, padding=1)
        height = stft.n_fft // 8
        self.position_embedding = nn.ParameterList(torch.zeros(1, C, height >> i, 1) for i, C in enumerate(channels))
        counts = [1, *[2] * (len(channels) - 1)]
        self.down, self.up = (nn.ModuleList(map(Stage, channels, counts)) for _ in range(2))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(channels))
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(channels))
        self.head = nn.Conv2d(channels[0], 16 * 3, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to its stubs

    def start(self, generator: torch.Generator) -> None:
        """Random parameters from one generator; each block, and the head, begins as if it were not there."""
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 1 or any(part in name for part in IDENTITY):
                    p.zero_()
                else:
                    p.copy_(torch.randn(p.shape, generator=generator) / math.sqrt(p[0].numel()))

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """The squared error of the mean at σ that a speech of independent bins would leave (Karras et al., table 1)."""
        return sigma.square() * self.sigma_data**2 / (sigma.square() + self.sigma_data**2)

    def denoise(self, x: torch.Tensor, sigma: float | torch.Tensor, noisy: torch.Tensor | None = None) -> Denoised:
        """Mean and variance of s_0 (..., F, T) given x = s_0 + σ z, σ a number or (..., 1, 1), and perhaps a mixture.

        Complex compressed spectra; `noisy` is the mixture's, for a conditional network. Raises ValueError where F is
        not the network's, and for a mixture that is missing or unasked for.
        """
        if x.shape[-2] != self.stft.bins:
            raise ValueError(f"spectrum has F={x.shape[-2]} but the network has F={self.stft.bins}; one STFT for both?")
        if self.conditional != (noisy is not None):
            wants, got = ("a", "none") if self.conditional else ("no", "one")
            raise ValueError(f"expected {wants} noisy spectrum beside x, got {got}")
        sigma = torch.as_tensor(sigma, dtype=x.real.dtype, device=x.device)
        each = sigma.expand(*x.shape[:-2], 1, 1).reshape(-1, 1, 1, 1)
        unit = (each.square() + self.sigma_data**2).rsqrt()  # c_in of Karras et al., table 1
        planes = unit * self._planes(x)
        if noisy is not None:
            planes = torch.cat([planes, self._planes(noisy.expand(x.shape)) / self.sigma_data], 1)
        out = self._network(planes, 0.25 * each.flatten(1).log())
        out = nn.functional.pad(out[..., : x.shape[-1]], (0, 0, 0, 1))
        real, imaginary, log_error = out.unbind(1)
        error = self.weight(sigma)
        keep = self.sigma_data**2 / (sigma.square() + self.sigma_data**2)  # c_skip
        mean = torch.complex(real, imaginary).reshape(x.shape) * error.sqrt()
        mean[..., :-1, :] += (keep * x)[..., :-1, :]
        return Denoised(mean, error * log_error.reshape(x.shape).clamp(-12, 6).exp())

    def _planes(self, X: torch.Tensor) -> torch.Tensor:
        """Real and imaginary parts of complex spectra as an image (N, 2, F - 1, T), T filled to whole strides."""
        stride = 4 << (len(self.channels) - 1)
        image = torch.view_as_real(X.reshape(-1, *X.shape[-2:])).movedim(-1, 1)[..., :-1, :]
        return nn.functional.pad(image, (0, -X.shape[-1] % stride))

    def _network(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, 2 or 4, F, T) and the noise's level (N, 1) -> (N, 3, F, T)."""
        with autocast(image, self.fast):
            angles = level * torch.arange(1, 9).to(level) * (math.pi / 2)
            embedding = self.embed(torch.cat([angles.cos(), angles.sin()], -1))
            h = nn.functional.pixel_unshuffle(image, 4).contiguous(memory_format=torch.channels_last)
            h = self.stem(h)
            passed = []
            for i, position in enumerate(self.position_embedding):
                h = self.down[i](h + position, embedding)
                passed.append(h)
                if i < len(self.shrink):
                    h = self.shrink[i](h)
            for i in reversed(range(len(self.channels))):
                if i < len(self.grow):
                    h = passed[i] + nn.functional.interpolate(self.grow[i](h), scale_factor=2.0)
                h = self.up[i](h, embedding)
            h = self.head(nn.functional.silu(h))
        return nn.functional.pixel_shuffle(h.to(image.dtype), 4)


class Stage(nn.ModuleList):
    """Blocks one after the other, at one resolution."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(Block(channels) for _ in range(count))

    def forward(self, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        for block in self:
            h = block(h, embedding)
        return h


class Block(nn.Module):
    """Residual block: each position normalised, scaled and shifted as the noise's level says, and two convolutions."""

    def __init__(self, channels: int, size: int = 128) -> None:
        super().__init__()
        self.modulation = nn.Linear(size, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(embedding)[..., None, None].chunk(2, 1)
        normal = nn.functional.layer_norm(h.permute(0, 2, 3, 1), h.shape[1:2]).permute(0, 3, 1, 2)
        return h + self.second(nn.functional.silu(self.first(torch.addcmul(shift, normal, 1 + scale))))
