"""Generative priors, one family a file; they never see a sampler, nor a mixture.

`load(name)` gives the prior of a card, ready to use.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sepriors import weights
from sepriors.priors.bsse import BSSE
from sepriors.priors.codec import Codec
from sepriors.priors.descript import Descript
from sepriors.priors.maf import MAF
from sepriors.priors.npe import NPE
from sepriors.priors.rvae import RVAE
from sepriors.priors.score import Denoiser
from sepriors.priors.ssl import SSL
from sepriors.priors.vae import VAE
from sepriors.priors.waveglow import WaveGlow

__all__ = [
    "BSSE",
    "MAF",
    "NPE",
    "RVAE",
    "SSL",
    "VAE",
    "Codec",
    "Descript",
    "ScoreNet",
    "WaveGlow",
    "load",
]


FAMILIES: dict[str, Any] = {
    "vae": VAE,
    "rvae": RVAE,
    "waveglow": WaveGlow,
    "maf": MAF,
    "score": Denoiser,
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
