"""Generative priors of speech enhancement on one bench: which can be trusted, where, and at what cost?

One alphabet, in the package as in the book:

| sizes | | signals | | models | |
|---|---|---|---|---|---|
| B | utterances in a batch | x, s, n | noisy, speech, noise (..., N) | V_x, V_s, V_n | variances (..., F, T) |
| F, T | frequency bins, frames | X, S | their complex spectra (..., F, T) | W, H | NMF: (..., F, K), (..., K, T) |
| K, L | NMF rank, latent size | P | power, abs(X)² | z | latent variables |
| N, R | samples, posterior draws | | full scale is 1, 16 kHz | | |
"""

import os
import sys
from importlib import import_module
from typing import Any

# OpenMP's threads spin while they wait, and beside other work that makes them 15 times slower. They read this once, as
# torch is loaded, so afterwards it would change nothing; what the user has set stays.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from sepriors import priors
from sepriors.methods import (
    METHODS,
    ConditionalDiffusion,
    FlowLangevin,
    FlowMAP,
    FlowTweedie,
    NoiseEM,
    OracleWiener,
    Separator,
    SPPWiener,
    make,
)
from sepriors.priors import load
from sepriors.running import enhance
from sepriors.signal.mixing import Mixture, mix
from sepriors.signal.stft import STFT

__version__ = "0.1.0"
__all__ = [
    "METHODS", "STFT", "ConditionalDiffusion", "FlowLangevin", "FlowMAP", "FlowTweedie", "Mixture", "NoiseEM",
    "OracleWiener", "SPPWiener", "Separator", "enhance", "load", "make", "mix", "priors",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("lab", "metrics"):  # they bring pandas, matplotlib or a pool of processes with them
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "lab", "metrics"])
