"""Shi et al. (2021), Table 1: a VAE in the place of the bases of speech."""

from collections.abc import Mapping

import sepriors as sp
from sepriors.inference.noise_models import TrainedNMF
from sepriors.lab.studies import OnSet
from sepriors.methods import mcem
from sepriors.protocols import Method

CARDS = ("vae-257", "nmf-white-257")
SETS = ("white",)


def methods() -> Mapping[str, Method]:
    """VAE-NMF; the row of NMF is that of chapter 1's study."""
    noise = TrainedNMF(sp.weights.load("nmf-white-257").tensors["W"])
    return {"vae-nmf": mcem(sp.load("vae-257"), noise=noise)}


study = OnSet(
    "white", methods, (-6.0, 0.0, 6.0, 9.0), ("pesq_wb", "stoi", "fwsnrseg", "si_sdr")
)
parts, measure = study.parts, study.measure
