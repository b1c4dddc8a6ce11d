"""What people reach for today, to stand beside the priors: packages of others, as methods.

The extra `peers` installs them; they carry what they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from sepriors.inference.em import Step
from sepriors.signal.audio import resample
from sepriors.signal.rng import Generators

RATE = 16000  # Hz


class MissingPackage(ImportError):
    """A package of the extra `peers` that is not installed."""


@dataclass(frozen=True)
class NoiseReduce:
    """Spectral gating, a threshold for each band that follows its level (`noisereduce`; Sainburg et al., 2020)."""

    iterations: int = 1

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        reduce = _package("noisereduce").reduce_noise

        def denoised(row: Any) -> Any:
            return reduce(y=row, sr=RATE) if row.any() else row  # of silence it makes 0 / 0

        yield Step(0, None, lambda: torch.stack([_like(denoised(row), x) for row in x.cpu().numpy()]))


@dataclass(frozen=True)
class RNNoise:
    """A small recurrent network that sets gains of 32 bands, supervised (`pyrnnoise`; Valin, 2018).

    It runs at 48 kHz, frame by frame as a telephone would, and answers 20 ms late, which is taken back here.
    """

    iterations: int = 1
    lag: int = 960  # samples at 48 kHz between a clean signal and its answer

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        yield Step(0, None, lambda: torch.stack([_like(self._denoised(row), x) for row in x.cpu().float()]))

    def _denoised(self, row: torch.Tensor) -> torch.Tensor:
        rnnoise = _package("pyrnnoise.rnnoise")
        size, rate = rnnoise.FRAME_SIZE, rnnoise.SAMPLE_RATE
        wide = 32768 * resample(row[None], RATE, rate)[0]  # it counts in units of 16 bits
        frames = torch.nn.functional.pad(wide, (0, self.lag + -(len(wide) + self.lag) % size)).reshape(-1, size)
        state = rnnoise.create()
        try:
            for frame in frames.numpy():  # in place
                at = frame.ctypes.data_as(rnnoise.lib.rnnoise_process_frame.argtypes[1])
                rnnoise.lib.rnnoise_process_frame(state, at, at)
        finally:
            rnnoise.destroy(state)
        late = frames.flatten()[self.lag : self.lag + len(wide)]
        return resample(late[None] / 32768, rate, RATE)[0, : len(row)]


PACKAGES = {"noisereduce": "noisereduce", "rnnoise": "pyrnnoise"}
PEERS: dict[str, Callable[[], NoiseReduce | RNNoise]] = {"noisereduce": NoiseReduce, "rnnoise": RNNoise}


def available() -> list[str]:
    """Those of `PEERS` whose package is installed."""
    return [name for name in PEERS if find_spec(PACKAGES[name])]


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackage(f"expected the package {name.split('.')[0]}: pip install 'sepriors[peers]'") from error


def _like(row: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(row).to(x)
