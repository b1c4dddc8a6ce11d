"""Shi et al. (2021), Table 1, by NMF, and the choices that its text leaves open."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sepriors as sp
import torch
from sepriors.inference import nmf
from sepriors.lab.corpora import open_corpora
from sepriors.lab.recipes import RECIPES, spectra
from sepriors.lab.studies import OnSet
from sepriors.methods import nmf_em
from sepriors.signal.rng import generators

CARDS = ("nmf-speech-257", "nmf-white-257")
SETS = ("white",)
THIN = sp.STFT(512, 128)


def choices() -> Mapping[str, Any]:
    """Readings of the paper; two that learn the noise, as it did not; and the truth."""
    W_s, W_n = (sp.weights.load(card).tensors["W"] for card in CARDS)
    supervised = nmf_em(W_s, W_n, THIN)
    return {
        "nmf-supervised": supervised,
        "30 rounds": replace(supervised, iterations=30),
        "200 rounds": replace(supervised, iterations=200),
        "speech starts at full level": nmf_em(W_s, W_n, THIN, initial_gain=1.0),
        "half-overlapped windows": nmf_em(W_s, W_n, sp.STFT(512, 256)),
        "speech bases of all frames": nmf_em(bases_of_all_frames(), W_n, THIN),
        "not the paper's: 8 noise bases learned": nmf_em(W_s, stft=THIN),
        "not the paper's: 40 noise bases learned": nmf_em(W_s, stft=THIN, rank=40),
        "oracle": sp.OracleWiener.from_mixture,
    }


def bases_of_all_frames() -> torch.Tensor:
    """Forty bases of four minutes of speech, its pauses included."""
    recipe = replace(RECIPES["nmf-speech-257"], minutes=4.0, range_db=80.0)
    frames, _ = spectra(recipe, open_corpora(), 0, progress=False)
    return nmf.fit(
        frames.mT.contiguous()[None], 40, iterations=50, generators=generators(0, 1)
    ).W[0]


study = OnSet(
    "white", choices, (-6.0, 0.0, 6.0, 9.0), ("pesq_wb", "stoi", "fwsnrseg", "si_sdr")
)
parts, measure = study.parts, study.measure
