"""Mixtures, a clean corpus and a noise corpus that share no recording, so that there is no pair to learn from.

The three clean corpora of chapter 7 are choices of `Clean`: what a prior that is a corpus is made of.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import pandas as pd
import torch

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.corpora.manifest import recordings
from sepriors.lab.corpora.sets import speech_of
from sepriors.lab.training.simulator import Clips, at_most, at_snr, equalised, training_noise

Clean = Literal["in-domain", "out-of-domain", "close-talk"]
# other people, rooms and microphones than the mixtures', and with `grid` other sentences, else other languages
ELSEWHERE = ["emodb", "rhasspy", "grid", "synthetic-de"]


class Split(NamedTuple):
    """The files of the four corpora: the mixtures' speech and noise, which go together, and the two priors."""

    speech: pd.DataFrame
    noise: pd.DataFrame
    clean: pd.DataFrame
    alone: pd.DataFrame


def split(corpora: Corpora, clean: Clean = "in-domain", minutes: float = math.inf, seed: int = 0) -> Split:
    """Divide the training files: speakers in turn to the mixtures and to the clean corpus, noise recordings likewise.

    Every clean corpus has so many minutes at most, so that priors differ in what they are made of, not in how much.
    Raises CorpusError where a corpus would be left empty.
    """
    voices = corpora.select(corpus=speech_of(corpora), kind="speech", split="train")
    noises = training_noise(corpora)
    speech, rest = _halves(voices, voices["speaker"])
    noise, alone = _halves(noises, recordings(noises))
    if clean == "out-of-domain":
        rest = corpora.table[corpora.table["corpus"].isin(ELSEWHERE)]
        rest = rest[(rest["kind"] == "speech") & (rest["split"] == "train")]
    parts = Split(speech, noise, at_most(rest.sample(frac=1, random_state=seed), minutes), alone)
    for name, rows in parts._asdict().items():
        if rows.empty:
            raise CorpusError(f"expected training files for {name}, of a clean corpus {clean}, got none; {corpora}")
    return parts


def _halves(rows: pd.DataFrame, names: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files of the first, third, ... name, class by class, and those of the others."""
    odd = names[rows.assign(name=names).sort_values(["cls", "name", "path"]).index].unique()[1::2]
    return rows[~names.isin(odd)], rows[names.isin(odd)]


def drawing(
    corpora: Corpora, parts: Split, *, batch: int, seconds: float, snrs: tuple[float, float],
    bleed: tuple[float, float] | None = None, tilt_db: float = 3.0, progress: bool = True,
) -> Callable[[torch.Generator], torch.Tensor]:  # fmt: skip
    """A function that draws mixtures, clean speech and noise (3, batch, N), each clip on its own.

    With `bleed` the clean speech is not: noise of the mixtures' recordings is in it, at those SNRs. Each clip has gone
    through an equaliser of its own, see `simulator.equalised`.
    """
    length = round(16000 * seconds)
    speech, clean = (Clips.of_speech(corpora, rows, length, progress=progress) for rows in (parts.speech, parts.clean))
    noise, alone = (Clips.of_noise(corpora, rows, length, progress=progress) for rows in (parts.noise, parts.alone))

    def drawn(clips: Clips, g: torch.Generator) -> torch.Tensor:
        return equalised(clips.draw(batch, g), g, tilt_db)

    def draw(g: torch.Generator) -> torch.Tensor:
        mixtures = at_snr(drawn(speech, g), drawn(noise, g), snrs, g)
        prior = drawn(clean, g)
        if bleed is not None:
            prior = at_snr(prior, drawn(noise, g), bleed, g)
        return torch.stack([mixtures, prior, drawn(alone, g)])

    return draw
