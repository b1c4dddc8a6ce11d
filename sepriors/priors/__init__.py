"""Generative priors, one family a file; they never see a sampler, nor a mixture.

`load(name)` gives the prior of a card, ready to use.
"""

import os
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sepriors import weights
from sepriors.priors.base import Configured
from sepriors.priors.bsse import BSSE
from sepriors.priors.codec import Codec
from sepriors.priors.denoiser import Denoiser
from sepriors.priors.descript import Descript
from sepriors.priors.maf import MAF
from sepriors.priors.npe import NPE
from sepriors.priors.rvae import RVAE
from sepriors.priors.ssl import SSL
from sepriors.priors.vae import VAE
from sepriors.priors.waveglow import WaveGlow

__all__ = ["BSSE", "MAF", "NPE", "RVAE", "SSL", "VAE", "Codec", "Denoiser", "Descript", "WaveGlow", "load"]

FAMILIES: dict[str, type[Configured]] = {
    kind.__name__.lower(): kind for kind in (VAE, RVAE, WaveGlow, MAF, Denoiser, Codec, Descript, SSL, BSSE, NPE)
}


class EmptyInit(TorchFunctionMode):
    """Parameters that are about to be loaded are not drawn first: the global random state stays where it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        draws = getattr(func, "__name__", "") in ("uniform_", "normal_")
        if draws or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@torch.inference_mode(False)  # samplers ask for gradients, wherever the prior was loaded
def load(name: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Any:
    """The prior of a card, by its name, or of a safetensors file, by its path: frozen, in evaluation mode.

    Raises WeightsError for unknown or damaged weights, and for weights that are no prior's.

    >>> load("vae").stft
    STFT(n_fft=1024, hop=256, sample_rate=16000)
    """
    found = weights.load(name)
    family = str(found.config.get("family", "no family"))
    if family not in FAMILIES:
        kinds = ", ".join(FAMILIES)
        raise weights.WeightsError(f"{name}: expected the weights of a prior ({kinds}), got {family!r}")
    try:
        with EmptyInit():
            made = FAMILIES[family].from_weights(found)
    except Exception as error:  # sizes of the wrong kind fail in as many ways as there are networks
        raise weights.WeightsError(f"{name}: expected a whole {family} with its sizes, got {error!r}") from error
    return made.to(device).requires_grad_(False).eval()
