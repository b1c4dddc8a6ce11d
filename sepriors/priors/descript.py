"""The Descript Audio Codec (Kumar et al., 2023) as the codec of `use-ddp`: 76 million parameters, of other people.

Its published checkpoint is read as it is: names of parameters, weight normalisation, no pickled code. Its quantiser
stays behind, for what leaves our branches is no codeword.
"""

from __future__ import annotations

import math
import os
import pickle
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sepriors.priors.codec import RATE, Branch, Codec
from sepriors.weights import WeightsError


class Descript(Codec):
    """Encoder and decoder of a Descript Audio Codec, with untrained branches; `from_checkpoint` reads the weights.

    >>> net = Descript(encoder_dim=8, rates=(2, 4, 5, 8), decoder_dim=64, width=8)
    >>> net(0.1 * torch.randn(1, 1000)).noise.shape
    torch.Size([1, 1000])
    """

    rms = 0.05  # of what it was trained on

    def __init__(
        self,
        encoder_dim: int = 64,
        rates: tuple[int, ...] = (2, 4, 5, 8),
        decoder_dim: int = 1536,
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        nn.Module.__init__(self)
        self.encoder_dim, self.rates, self.decoder_dim = encoder_dim, rates, decoder_dim
        self.hop, self.width, self.layers, self.heads = math.prod(rates), width, layers, heads
        up = [encoder_dim << i for i in range(len(rates) + 1)]
        down = [decoder_dim >> i for i in range(len(rates) + 1)]
        size = up[-1]
        self.encoder = nn.Sequential(
            nn.Conv1d(1, encoder_dim, 7, padding=3),
            *(_encoder_block(a, b, stride) for (a, b), stride in zip(pairwise(up), rates, strict=True)),
            Snake(size),
            nn.Conv1d(size, size, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(size, decoder_dim, 7, padding=3),
            *(_decoder_block(a, b, stride) for (a, b), stride in zip(pairwise(down), reversed(rates), strict=True)),
            Snake(down[-1]),
            nn.Conv1d(down[-1], 1, 7, padding=3),
            nn.Tanh(),
        )
        self.speech, self.noise = (Branch(size, width, layers, heads) for _ in range(2))
        for branch in (self.speech, self.noise):
            nn.init.zeros_(branch.last.weight)
            nn.init.zeros_(branch.last.bias)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], **branches: int) -> Descript:
        """The codec of a file such as weights_16khz.pth; raises WeightsError for another kind of file."""
        expected = f"{path}: expected a checkpoint of a Descript Audio Codec for {RATE} Hz and 50 frames a second"
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            state, sizes = found["state_dict"], found["metadata"]["kwargs"]
            rates = tuple(sizes["encoder_rates"])
            if (sizes["sample_rate"], math.prod(rates)) != (RATE, 320):
                got = f"one for {sizes['sample_rate']} Hz, {math.prod(rates)} samples each"
                raise WeightsError(f"{expected}, got {got}")
            made = cls(sizes["encoder_dim"], rates, sizes["decoder_dim"], **branches)
            for part, prefix in ((made.encoder, "encoder.block."), (made.decoder, "decoder.model.")):
                own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
                part.load_state_dict(_plain(own))
        except (LookupError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise WeightsError(f"{expected}, got {error}") from error
        return made


def _plain(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Parameters without weight normalisation: direction v times length g (Salimans & Kingma, 2016)."""
    plain = {}
    for name, p in state.items():
        if name.endswith("weight_v"):
            length = state[name[:-1] + "g"]
            plain[name.removesuffix("_v")] = p * (length / p.flatten(1).norm(dim=1).view(-1, 1, 1))
        elif not name.endswith("weight_g"):
            plain[name] = p
    return plain


class Snake(nn.Module):
    r"""$x + \sin^2(a x) / a$, a slope a channel: periodic where speech is (Ziyin, Hartwig & Ueda, 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


class Block(nn.Module):
    """Layers under the name that the checkpoint has for them; with `residual`, added to what came in."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.block, self.residual = nn.Sequential(*layers), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return x + y if self.residual else y


def _units(channels: int) -> list[nn.Module]:
    def unit(dilation: int) -> Block:
        wide = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        return Block(Snake(channels), wide, Snake(channels), nn.Conv1d(channels, channels, 1), residual=True)

    return [unit(1), unit(3), unit(9)]


def _encoder_block(a: int, b: int, stride: int) -> Block:
    return Block(*_units(a), Snake(a), nn.Conv1d(a, b, 2 * stride, stride, padding=math.ceil(stride / 2)))


def _decoder_block(a: int, b: int, stride: int) -> Block:
    # Deviation: published without `output_padding`, it loses a sample wherever a stride is odd
    up = nn.ConvTranspose1d(a, b, 2 * stride, stride, padding=math.ceil(stride / 2), output_padding=stride % 2)
    return Block(Snake(a), up, *_units(b))
