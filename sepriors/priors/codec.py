r"""Two waveforms from one: a codec's encoder, a branch for speech and one for noise, and one decoder for both.

USE-DDP (Klement et al., 2025): nothing in the network says which branch is speech; that is what the corpora say which
its discriminators take for real (`sepriors.lab.training.adversarial`). The mixture is rebuilt as $\alpha s + \beta n$.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from sepriors.priors.base import Configured

RATE = 16000  # Hz


class Pair(NamedTuple):
    """Speech and noise (..., N)."""

    speech: torch.Tensor
    noise: torch.Tensor


def scales(x: torch.Tensor, s: torch.Tensor, n: torch.Tensor, ridge: float = 1e-3) -> tuple[torch.Tensor, torch.Tensor]:
    r"""$\alpha, \beta$ (..., 1) that minimise $\| x - \alpha s - \beta n \|^2$, for waveforms (..., N).

    A relative ridge keeps them from large factors of opposite signs where s and n are nearly alike; it costs 60 dB
    below x where they are not. Of a silent branch the factor has no meaning, and is finite.

    >>> s, n = torch.randn(2, 1000, dtype=torch.float64)
    >>> alpha, beta = scales(3 * s - 2 * n, s, n, ridge=0.0)
    >>> round(float(alpha), 6), round(float(beta), 6)
    (3.0, -2.0)
    """

    def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(-1, keepdim=True)

    # both of power 1 first, so that a faint branch is no worse determined than a loud one
    tiny = torch.finfo(x.dtype).tiny
    norms = [dot(a, a).clamp_min(tiny).sqrt() for a in (s, n)]
    s, n = s / norms[0], n / norms[1]
    ss, nn_, sn, xs, xn = dot(s, s) + ridge, dot(n, n) + ridge, dot(s, n), dot(x, s), dot(x, n)
    det = (ss * nn_ - sn.square()).clamp_min(tiny)
    return (nn_ * xs - sn * xn) / det / norms[0], (ss * xn - sn * xs) / det / norms[1]


class Codec(Configured):
    """The network of `use-ddp`: waveforms (B, N) at 16 kHz -> speech and noise, which add up to about the mixture.

    Encoder and decoder stride 320 samples, 50 frames a second. Untrained branches share evenly, so that a trained
    autoencoder without them, whose speech and noise are both the mixture, is where the adversaries begin.

    >>> net = Codec(channels=(8, 8, 8, 16), width=8)
    >>> net(torch.randn(2, 1000)).speech.shape
    torch.Size([2, 1000])
    """

    hop = 320  # samples a frame of the latent sequence
    rms = 1.0  # the level that encoder and decoder expect

    def __init__(
        self, channels: tuple[int, ...] = (24, 48, 96, 256), width: int = 96, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.channels, self.width, self.layers, self.heads = channels, width, layers, heads
        a, b, c, d = channels
        self.encoder = nn.Sequential(
            Down(1, a, 5), Residual(a), Down(a, b, 4), Residual(b), Down(b, c, 4), Residual(c),
            nn.ELU(), nn.Conv1d(c, d, 4, 4),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ConvTranspose1d(d, c, 4, 4), Residual(c), Up(c, b, 4), Residual(b), Up(b, a, 4), Residual(a),
            Up(a, 16, 5), nn.ELU(), nn.Conv1d(16, 1, 7, padding=3),
        )  # fmt: skip
        self.speech, self.noise = (Branch(d, width, layers, heads) for _ in range(2))

    def start(self, generator: torch.Generator) -> None:
        """Random parameters from one generator; each residual, and each branch, begins as if it were not there."""
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.endswith(("norm.weight", "norm_of_frame.weight")):
                    p.fill_(1)
                elif p.ndim == 1 or "last" in name:
                    p.zero_()
                else:
                    fan_in = p.numel() / (p.shape[1] if "decoder" in name and p.ndim == 3 else p.shape[0])
                    p.copy_(torch.randn(p.shape, generator=generator) / math.sqrt(fan_in))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) -> latent sequences (B, D, T), T = ceil(N / hop): what is missing is filled with zeros."""
        return self.encoder(nn.functional.pad(x, (0, -x.shape[-1] % self.hop))[:, None])

    def decode(self, z: torch.Tensor, length: int) -> torch.Tensor:
        """Latent sequences (B, D, T) -> waveforms (B, length)."""
        return self.decoder(z)[:, 0, :length]

    def mask(self, z: torch.Tensor) -> torch.Tensor:
        r"""The mask of speech, 0 to 1, of a latent sequence (B, D, T): $\varsigma(g_s - g_n)$.

        So the branches divide what there is; a half each before they have learned.
        """
        # Deviation: the source's branches give latent sequences of their own. Ours then found noise that the noise
        # discriminators took, and the mixture had nothing of: least squares weighed it by zero, and speech kept all.
        return torch.sigmoid(self.speech(z.mT) - self.noise(z.mT)).mT

    def forward(self, x: torch.Tensor) -> Pair:
        """Speech and noise (B, N) of mixtures (B, N), at levels that mean nothing until `scales` has set them."""
        level = x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12) / self.rms
        z = self.encode(x / level)
        mask = self.mask(z)
        both = torch.cat([2 * mask * z, 2 * (1 - mask) * z])
        return Pair(*(level * part for part in self.decode(both, x.shape[-1]).to(x).chunk(2)))

    def separate(self, x: torch.Tensor) -> Pair:
        r"""$\alpha s$ and $\beta n$, which add up to what the network makes of the mixture."""
        s, n = self(x)
        alpha, beta = (factor.detach() for factor in scales(x, s, n))  # at their optimum they need not move
        return Pair(alpha * s, beta * n)

    def enhance(self, x: torch.Tensor) -> torch.Tensor:
        """The speech (B, N) in mixtures (B, N); digital silence, a frame to either side, where they are silent."""
        around = nn.functional.max_pool1d(x.abs()[:, None], 2 * self.hop + 1, 1, self.hop)[:, 0]
        return self.separate(x).speech.masked_fill(around == 0, 0)


class Down(nn.Sequential):
    """A convolution that strides, windows of two strides."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        window = nn.Conv1d(a, b, 2 * stride, stride, padding=math.ceil(stride / 2))
        super().__init__(*([] if a == 1 else [nn.ELU()]), window)


class Up(nn.Sequential):
    """The transpose of `Down`."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        padding, more = math.ceil(stride / 2), stride % 2
        super().__init__(nn.ELU(), nn.ConvTranspose1d(a, b, 2 * stride, stride, padding=padding, output_padding=more))


class Residual(nn.Module):
    """Residual unit of a convolution over seven places and one over none."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ELU(), nn.Conv1d(channels, channels, 7, padding=3), nn.ELU())
        self.last = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.last(self.first(x))


class Branch(nn.Module):
    """What one source asks for of a latent sequence (B, T, D), a logit for each entry of the mask.

    Transformer layers with rotary positions (Su et al., 2021).
    """

    def __init__(self, size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, size)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        logit: torch.Tensor = self.last(self.norm(self.layers(self.enter(z))))
        return logit


class Layer(nn.Module):
    """A transformer layer: attention between frames that are `max_distance` apart at most, and two layers on each.

    One second: what a clip of the training holds, so that a long file asks for nothing that was never learned.
    """

    max_distance = 50  # frames

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_of_frame = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.last_attend = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.last_widen = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attend(self.norm(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # B, heads, T, E
        t = torch.arange(h.shape[1], device=h.device)
        near = (t[:, None] - t).abs() <= self.max_distance
        attended = nn.functional.scaled_dot_product_attention(rotate(q), rotate(k), v, near)
        h = h + self.last_attend(attended.transpose(1, 2).flatten(2))
        return h + self.last_widen(nn.functional.gelu(self.widen(self.norm_of_frame(h))))


def rotate(q: torch.Tensor, start: int = 0, base: float = 1e4) -> torch.Tensor:
    r"""Rotary positions: pairs of q (..., T, E) turned by $(t + \mathrm{start})\, \theta_i$ (Su et al., 2021, eq. 34).

    So the product of two of them depends on how far apart they are, and on nothing else of where they stand.
    """
    half = q.shape[-1] // 2
    theta = base ** (-torch.arange(half, dtype=torch.float32, device=q.device) / half)
    angle = (start + torch.arange(q.shape[-2], device=q.device))[:, None] * theta
    cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
    a, b = q[..., :half], q[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
