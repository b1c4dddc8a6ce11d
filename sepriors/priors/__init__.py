"""Generative priors, one family a file; they never see a sampler, nor a mixture.

`load(name)` gives the prior of a card, ready to use.
"""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

import torch
from torch.overrides import TorchFunctionMode

from sepriors import weights
from sepriors.stft import STFT

from .bsse import BSSE
from .codec import Codec
from .descript import Descript
from .maf import MAF
from .npe import NPE
from .rvae import RVAE
from .score import ScoreNet
from .ssl import SSL
from .vae import VAE, Drawn
from .waveglow import Image, WaveGlow

__all__ = [
    "BSSE",
    "MAF",
    "NPE",
    "RVAE",
    "SSL",
    "VAE",
    "Codec",
    "Descript",
    "EncodedPrior",
    "InvertiblePrior",
    "NoisyPrior",
    "ScoreNet",
    "SignalPrior",
    "VariancePrior",
    "WaveGlow",
    "load",
]


class VariancePrior(Protocol):
    """A prior of the variances of a local complex Gaussian, with latent variables z (..., L, T)."""

    stft: STFT

    def encode(self, P: torch.Tensor) -> torch.Tensor:
        """A first guess of z (..., L, T) from the power spectrogram P (..., F, T) of a mixture."""
        ...

    def log_variance(self, z: torch.Tensor) -> torch.Tensor:
        """log V_s (..., F, T)."""
        ...

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z), nats; its shape says what moves as one: frames (..., T) or utterances (...,)."""
        ...


class Drawable(Protocol):
    """A posterior of the latent variables that can be drawn from."""

    mean: torch.Tensor

    def draw(self, noise: torch.Tensor) -> Drawn:
        """A draw for standard normal noise (..., L, T), differentiable, and each frame's divergence from the prior."""
        ...


class EncodedPrior(VariancePrior, Protocol):
    """A variance prior whose encoder is a distribution, and can be tuned: each utterance its own parameters."""

    def tunable(self) -> dict[str, torch.Tensor]:
        """The encoder's parameters that may differ from utterance to utterance."""
        ...

    def posterior(self, P: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> Drawable:
        """q(z | s), by the encoder's own parameters or by these, (B, ...) each."""
        ...


class SignalPrior(Protocol):
    """A density of waveforms, whose lengths are multiples of `window` and whose level is about `rms`."""

    @property
    def window(self) -> int: ...

    @property
    def rms(self) -> float: ...

    def log_prob(self, s: torch.Tensor) -> torch.Tensor:
        """log p(s), nats: (B, N) -> (B,)."""
        ...


@runtime_checkable
class InvertiblePrior(Protocol):
    """A flow: a density that is the image of a standard normal."""

    def __call__(self, s: torch.Tensor) -> Image:
        """Latent variables (B, N) of signals (B, N), and log |det| (B,)."""
        ...

    def inverse(self, z: torch.Tensor) -> torch.Tensor:
        """The signals of latent variables."""
        ...


class NoisyPrior(Protocol):
    """A family of densities: of speech in white noise of a known level, a standard deviation an utterance."""

    @property
    def window(self) -> int: ...

    @property
    def rms(self) -> float: ...

    def log_prob(self, s: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """log p_σ(s), nats: (B, N), (B,) -> (B,)."""
        ...


FAMILIES: dict[str, Any] = {
    "vae": VAE,
    "rvae": RVAE,
    "waveglow": WaveGlow,
    "maf": MAF,
    "score": ScoreNet,
    "codec": Codec,
    "descript": Descript,
    "ssl": SSL,
    "bsse": BSSE,
    "npe": NPE,
}


DRAWN = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
)
DRAWS = {getattr(home, name) for home in (torch.Tensor, torch.nn.init) for name in DRAWN if hasattr(home, name)}


class Unfilled(TorchFunctionMode):
    """Parameters that are about to be loaded are not drawn first: the global random state stays where it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load(name: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Any:
    """The prior of a card, by its name, or of a safetensors file, by its path: frozen, in evaluation mode.

    Raises WeightsError for unknown or damaged weights, and for weights that are no prior's.

    >>> load("vae").stft
    STFT(n_fft=1024, hop=256, sample_rate=16000)
    """
    with torch.inference_mode(False):  # samplers ask for gradients, wherever the prior was loaded
        return _load(name, device)


def _load(name: str | os.PathLike[str], device: torch.device | str) -> Any:
    found = weights.load(name, device=device)
    family = found.config.get("family", "")
    if family not in FAMILIES:
        kinds = ", ".join(FAMILIES)
        raise weights.WeightsError(f"{name}: expected the weights of a prior ({kinds}), got {family or 'no family'!r}")
    try:
        with Unfilled():
            made = FAMILIES[family].from_weights(found)
    except (KeyError, ValueError, RuntimeError) as error:
        raise weights.WeightsError(f"{name}: expected a whole {family} with its sizes, got {error}") from error
    return made.to(device).requires_grad_(False).eval()
