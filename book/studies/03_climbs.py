"""Shi et al. (2021), Figures 2 and 3: climbs without a stop, at the paper's size."""

from collections.abc import Iterator
from typing import Any

import sepriors as sp
from sepriors.lab import climbs
from sepriors.lab.corpora import Corpora, speech_of

CARDS = ("waveglow",)
SETS = ()  # none of the bench: training speech
SNRS = (-6.0, 0.0, 6.0, 9.0)
FILES, TOGETHER = 30, 2  # excerpts of training speech; of them climb side by side


def parts(corpora: Corpora) -> list[str]:
    """Some of the files at an SNR."""
    return [f"{snr:g} dB | {i}" for snr in SNRS for i in range(0, FILES, TOGETHER)]


def measure(part: str, corpora: Corpora) -> Iterator[dict[str, Any]]:
    """A row a file and moment."""
    snr, first = (float(word.split()[0]) for word in part.split("|"))
    rows = corpora.select(corpus=speech_of(corpora), kind="speech", split="train")
    clean, speakers = climbs.excerpts(corpora, rows, FILES)
    those = slice(int(first), int(first) + TOGETHER)
    flow = sp.load("waveglow")
    climbed = climbs.watch(flow, clean[those], snr, seed=int(first))
    climbed["speaker"] = [speakers[those][i] for i in climbed["file"]]
    climbed["file"] += int(first)
    yield from climbed.to_dict("records")
