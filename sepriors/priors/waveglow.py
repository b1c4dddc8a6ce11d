r"""WaveGlow without conditioning: an exact density of waveforms, $s = f(z)$ with $z \sim \mathcal{N}(0, I)$.

Shi et al. (2021, § 4.1), after Prenger, Valle & Catanzaro (2019): windows of 80 samples; 12 blocks, each an invertible
1 × 1 convolution and an affine coupling; 20 dimensions leave for the latent space after every 4 blocks. Channels are
the samples of a window and columns are windows: (..., C, T), as spectra are (..., F, T).
"""

import math
from typing import Any

import torch
from nflows.transforms.lu import LULinear
from torch import nn

from sepriors.priors.base import Configured
from sepriors.priors.vae import affine
from sepriors.protocols import Image
from sepriors.signal.rng import Generators, randn


class Coupling(nn.Module):
    """Log-scale and shift of one half of the channels, from the other half in this window and those around it.

    Two hidden layers; without `context` each window stands alone. `dilation` is the distance, in windows, of the second
    layer's neighbours. A flow of noisy speech is conditioned on the noise's level, one number an utterance.
    """

    limit = 5.0  # of the log-scale: one block changes a density by no more than that, nats a dimension

    def __init__(self, channels: int, hidden: int, dilation: int, context: bool, conditional: bool) -> None:
        super().__init__()
        self.dilation = dilation if context else 0
        taps = 3 if context else 1
        self.first = nn.Linear(taps * (channels // 2) + conditional, hidden)
        self.second = nn.Linear(taps * hidden, hidden)
        self.last = nn.Linear(hidden, 2 * (channels - channels // 2))
        nn.init.zeros_(self.last.weight)  # a block starts as its 1 × 1 convolution
        nn.init.zeros_(self.last.bias)

    def forward(self, half: torch.Tensor, level: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        x = neighbours(half, min(self.dilation, 1))
        if level is not None:
            x = torch.cat([x, level[:, None, None].expand(-1, 1, x.shape[-1])], dim=1)
        h = nn.functional.silu(affine(self.first.weight, self.first.bias, x))
        h = h + nn.functional.silu(affine(self.second.weight, self.second.bias, neighbours(h, self.dilation)))
        log_scale, shift = affine(self.last.weight, self.last.bias, h).to(half.dtype).chunk(2, dim=1)
        return self.limit * torch.tanh(log_scale / self.limit), shift


def neighbours(x: torch.Tensor, dilation: int) -> torch.Tensor:
    """Columns (B, C, T) with those `dilation` before and after them below: (B, 3C, T); as they are if that is 0."""
    if not dilation:
        return x
    padded = nn.functional.pad(x, (dilation, dilation))
    return torch.cat([padded[..., : -2 * dilation], x, padded[..., 2 * dilation :]], dim=1)


class Block(nn.Module):
    """An invertible 1 × 1 convolution and an affine coupling; `forward` is towards the latent variables.

    The convolution is held as LU factors (nflows'), so that its determinant is a sum; it starts as a random rotation.
    """

    def __init__(self, channels: int, hidden: int, dilation: int, context: bool, conditional: bool) -> None:
        super().__init__()
        self.channels = channels
        self.lu = LULinear(channels)
        self.coupling = Coupling(channels, hidden, dilation, context, conditional)

    def rotate(self, generator: torch.Generator) -> None:
        """Set the convolution to a random rotation, its rows ordered and signed so that its LU factors fit nflows'."""
        normal = torch.randn(self.channels, self.channels, generator=generator, dtype=torch.float64)
        _, lower, upper = torch.linalg.lu(torch.linalg.qr(normal).Q)
        sign = upper.diagonal().sign()  # nflows' factors have a positive diagonal
        lower, upper = sign[:, None] * lower * sign, sign[:, None] * upper
        diagonal = torch.log(torch.expm1(upper.diagonal() - self.lu.eps))
        with torch.no_grad():
            self.lu.lower_entries.copy_(lower[self.lu.lower_indices])
            self.lu.upper_entries.copy_(upper[self.lu.upper_indices])
            self.lu.unconstrained_upper_diag.copy_(diagonal)

    def forward(self, x: torch.Tensor, level: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, T) -> the same, and log |det| (B,)."""
        with torch.autocast(x.device.type, enabled=False):
            x = affine(self.lu.weight(), self.lu.bias, x)
        a, b = x.tensor_split([self.channels // 2], dim=1)
        log_scale, shift = self.coupling(a, level)
        y = torch.cat([a, b * log_scale.exp() + shift], dim=1)
        return y, log_scale.sum((1, 2)) + x.shape[-1] * self.lu.logabsdet()

    def inverse(self, y: torch.Tensor, level: torch.Tensor | None) -> torch.Tensor:
        a, b = y.tensor_split([self.channels // 2], dim=1)
        log_scale, shift = self.coupling(a, level)
        x = torch.cat([a, (b - shift) * (-log_scale).exp()], dim=1)
        # nflows' own inverse calls what torch has removed
        return torch.linalg.solve(self.lu.weight(), x - self.lu.bias[:, None])


class WaveGlow(Configured):
    r"""The prior `waveglow`: an exact log-density of waveforms, whose length is a multiple of `window`.

    `context` lets a coupling look at neighbouring windows, as the code of Prenger et al. (2019) does; without it each
    window of 80 samples is a draw of its own, the other reading of the paper. `mu` compands the signal first, by the
    μ-law. A flow that is `conditional` on the level of noise is a family $p_\sigma$: the density of speech in white
    noise. `clean` is the log-density of validation speech, nats a sample: where Shi et al. (2021, § 5.2) stop.

    >>> flow = WaveGlow(hidden=8)
    >>> flow.log_prob(0.03 * torch.randn(2, 800)).shape
    torch.Size([2])
    """

    blocks: Any
    rms = 10**-1.5  # of the speech it has seen; power 1e-3, to which the constants of Shi et al. (2021, § 5.2) fit

    def __init__(
        self,
        window: int = 80,
        depth: int = 12,
        early_every: int = 4,
        early_size: int = 20,
        hidden: int = 128,
        context: bool = True,
        conditional: bool = False,
        mu: float = 0.0,
        clean: float = math.inf,
    ) -> None:
        super().__init__()
        self.window, self.depth, self.early_every, self.early_size = window, depth, early_every, early_size
        self.hidden, self.context, self.conditional, self.mu, self.clean = hidden, context, conditional, mu, clean
        sizes = [window - early_size * (i // early_every) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(c, hidden, 2 ** (i % 4), context, conditional) for i, c in enumerate(sizes))

    def start(self, generator: torch.Generator) -> None:
        """Parameters before training: rotations, and the couplings' hidden layers as torch would have them."""
        for block in self.blocks:
            block.rotate(generator)
            for layer in (block.coupling.first, block.coupling.second):
                for p in layer.parameters():
                    bound = 1 / math.sqrt(layer.in_features)
                    nn.init.uniform_(p, -bound, bound, generator=generator)

    def forward(self, s: torch.Tensor, noise: torch.Tensor | None = None) -> Image:
        """f⁻¹: speech (B, N) -> latent variables (B, N) and log |det| (B,); noise (B,) standard deviations."""
        x, log_det = self._compand(s)
        x, level = x.unflatten(-1, (-1, self.window)).mT, self._level(s, noise)
        early = []
        for i, block in enumerate(self.blocks):
            if i and i % self.early_every == 0:
                early.append(x[:, : self.early_size])
                x = x[:, self.early_size :]
            x, change = block(x, level)
            log_det = log_det + change
        return Image(torch.cat([*early, x], dim=1).mT.flatten(-2), log_det)

    def inverse(self, z: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """f: latent variables (B, N) -> speech (B, N)."""
        z, level = z.unflatten(-1, (-1, self.window)).mT, self._level(z, noise)
        leaves = (self.depth - 1) // self.early_every
        *early, x = z.split([self.early_size] * leaves + [z.shape[1] - leaves * self.early_size], dim=1)
        for i in reversed(range(self.depth)):
            x = self.blocks[i].inverse(x, level)
            if i and i % self.early_every == 0:
                x = torch.cat([early.pop(), x], dim=1)
        x = x.mT.flatten(-2)
        return self.rms * x if not self.mu else x.sign() * torch.expm1(x.abs() * self._unit) / self.mu

    def log_prob(self, s: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        r"""$\log p(s) = \log \mathcal{N}(z; 0, I) + \log |\det \partial z / \partial s|$, eq. (6), nats.

        (B, N) -> (B,).
        `noise` (B,): standard deviations of the white noise in s, for a `conditional` flow. Raises ValueError for a
        length that the window does not divide, and for noise that is missing, unasked for or not positive.
        """
        if s.ndim != 2 or s.shape[-1] % self.window or not s.shape[-1]:
            expected = f"expected signals (B, N), N a multiple of {self.window} samples"
            raise ValueError(f"{expected}, got {tuple(s.shape)}; `flows.whole_windows` fills up")
        z, log_det = self(s, noise)
        return log_det - 0.5 * (z.square().sum(-1) + s.shape[-1] * math.log(2 * math.pi))

    def sample(
        self, seconds: float, each: Generators, *, temperature: float = 1.0, sample_rate: int = 16000
    ) -> torch.Tensor:
        """Speech as this prior imagines it, (B, N), one sample a generator; a low temperature keeps near the mode."""
        N = -(-round(seconds * sample_rate) // self.window) * self.window
        return self.inverse(temperature * randn((N,), each, next(self.parameters())))

    @property
    def _unit(self) -> float:
        """Of the companded signal: what speech at `rms` is companded to."""
        return math.log1p(self.mu * self.rms)

    def _compand(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The signal in units in which speech is about 1, and log |det| of that."""
        if not self.mu:
            return s / self.rms, torch.full_like(s[..., 0], -s.shape[-1] * math.log(self.rms))
        x = torch.where(s == 0, self.mu * s, s.sign() * torch.log1p(self.mu * s.abs())) / self._unit  # its slope at 0
        return x, (math.log(self.mu / self._unit) - torch.log1p(self.mu * s.abs())).sum(-1)

    def _level(self, s: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor | None:
        """The noise's level as the couplings see it: decades about a hundredth of full scale, (B,)."""
        if not self.conditional:
            if noise is not None:
                raise ValueError("expected no noise level: this flow knows clean speech only")
            return None
        if noise is None or noise.shape != s.shape[:1] or not bool((noise > 0).all()):
            raise ValueError(f"expected a positive noise level for each of {len(s)} signals, got {noise}")
        return noise.to(s).log10() + 2
