"""Wiener filters in recorded noise: noise bases that are learned, and the truth."""

from collections.abc import Mapping
from typing import Any

import sepriors as sp
from sepriors.lab.corpora import Corpora
from sepriors.lab.sounds import restlessness
from sepriors.lab.studies import OnSet
from sepriors.methods import OracleWiener, nmf_em

CARDS = ("nmf-speech-257",)
SETS = ("matched",)


def variants() -> Mapping[str, Any]:
    """`nmf` with the speech bases of `nmf-supervised`, and the true periodograms."""
    (W,) = (sp.weights.load(card).tensors["W"] for card in CARDS)
    return {
        "nmf, 257 bins": nmf_em(W, stft=sp.STFT(512, 128)),
        "oracle": OracleWiener.from_mixture,
    }


study = OnSet(
    "matched",
    variants,
    (-5.0, 0.0, 5.0),
    ("pesq_wb", "stoi", "estoi", "si_sdr", "fwsnrseg"),
)
parts = study.parts


def measure(part: str, corpora: Corpora) -> list[dict[str, Any]]:
    """The measures of a file, and how restless its noise is."""
    _, (_, _, noisy, clean) = study.excerpt(part, corpora)
    assert clean is not None
    restless = {"restlessness": float(restlessness(noisy[0] - clean))}
    return [row | restless for row in study.measure(part, corpora)]
