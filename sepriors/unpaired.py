"""Mixtures, a clean corpus and a noise corpus that share no recording, so that there is no pair to learn from.

The three clean corpora of chapter 7 are choices of `Clean`: what a prior that is a corpus is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from .corpora import Corpora, CorpusError
from .mixing import Mixture, mix
from .rng import generators

Clean = Literal["in-domain", "out-of-domain", "close-talk"]
ELSEWHERE = ["emodb", "rhasspy"]  # other people, rooms, microphones and languages than the mixtures'


class Share(NamedTuple):
    """The files of the four corpora: the mixtures' speech and noise, which go together, and the two priors."""

    speech: pd.DataFrame
    noise: pd.DataFrame
    clean: pd.DataFrame
    alone: pd.DataFrame


def share(corpora: Corpora, clean: Clean = "in-domain", minutes: float = math.inf, seed: int = 0) -> Share:
    """Divide the training files: speakers in turn to the mixtures and to the clean corpus, noise recordings likewise.

    Every clean corpus has so many minutes at most, so that priors differ in what they are made of, not in how much.
    Raises CorpusError where a corpus would be left empty.
    """
    domain = next((c for c in ("mini-librispeech", "synthetic") if (corpora.table["corpus"] == c).any()), "")
    if not domain:
        raise CorpusError(f"expected training speech of mini-librispeech, got none; {corpora}")
    speech, rest = _halves(corpora.select(corpus=domain, kind="speech", split="train"), "speaker")
    noise, alone = _halves(corpora.select(kind="noise", split="train"), "source")
    if clean == "out-of-domain":
        rest = corpora.table[corpora.table["corpus"].isin([*ELSEWHERE, "synthetic-de"])]
        rest = rest[(rest["kind"] == "speech") & (rest["split"] == "train")]
    rest = rest.sample(frac=1, random_state=seed)
    rest = rest[: max(1, int((rest["seconds"].cumsum() <= 60 * minutes).sum()))]
    parts = Share(speech, noise, rest, alone)
    for name, rows in parts._asdict().items():
        if rows.empty:
            raise CorpusError(f"expected training files for {name}, of a clean corpus {clean}, got none; {corpora}")
    return parts


def _halves(rows: pd.DataFrame, field: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files of the first, third, ... value of a field, class by class, and those of the others."""
    odd = rows.sort_values(["cls", field, "path"])[field].unique()[1::2]
    return rows[~rows[field].isin(odd)], rows[rows[field].isin(odd)]


@dataclass(frozen=True)
class Clips:
    """Clips of some files, at power 1: longer files more often if `by_length`; short ones are filled up.

    Speech is filled with silence, noise goes round.
    """

    files: list[torch.Tensor]
    length: int
    by_length: bool = True

    @classmethod
    def read(cls, corpora: Corpora, rows: pd.DataFrame, length: int, *, around: bool, progress: bool) -> Clips:
        """Those of the rows of a corpus; `around` for noise."""
        files = []
        for path in tqdm(rows["path"], desc="files", disable=not progress):
            x = corpora.read(path)
            x = x / x.square().mean().sqrt().clamp_min(1e-8)
            missing = max(0, length - len(x))
            files.append(x.repeat(1 + -(-missing // len(x))) if around else torch.nn.functional.pad(x, (0, missing)))
        return cls(files, length, by_length=not around)

    def draw(self, count: int, g: torch.Generator) -> torch.Tensor:
        """Clips (count, N)."""
        odds = torch.tensor([float(len(x)) if self.by_length else 1.0 for x in self.files])
        clips = []
        for k in torch.multinomial(odds, count, replacement=True, generator=g).tolist():
            start = int(torch.randint(len(self.files[k]) - self.length + 1, (), generator=g))
            clips.append(self.files[k][start : start + self.length])
        return torch.stack(clips)


def at_snr(speech: torch.Tensor, noise: torch.Tensor, snrs: tuple[float, float], g: torch.Generator) -> torch.Tensor:
    """Clips (B, N) of speech in noise, each at an SNR of its own between the two, dB."""
    snr = snrs[0] + (snrs[1] - snrs[0]) * torch.rand(len(speech), 1, generator=g)
    power = [x.square().mean(-1, keepdim=True).clamp_min(1e-10) for x in (speech, noise)]
    return speech + noise * (power[0] / power[1] * 10 ** (-snr / 10)).sqrt()


def drawing(
    corpora: Corpora,
    parts: Share,
    *,
    batch: int,
    seconds: float,
    snrs: tuple[float, float],
    bleed: tuple[float, float] | None = None,
    progress: bool = True,
) -> Callable[[torch.Generator], torch.Tensor]:
    """A function that draws mixtures, clean speech and noise (3, batch, N), each clip on its own.

    With `bleed` the clean speech is not: noise of the mixtures' recordings is in it, at those SNRs.
    """
    length = round(16000 * seconds)
    speech, noise, clean, alone = (
        Clips.read(corpora, rows, length, around=around, progress=progress)
        for rows, around in zip(parts, (False, True, False, True), strict=True)
    )

    def draw(g: torch.Generator) -> torch.Tensor:
        mixtures = at_snr(speech.draw(batch, g), noise.draw(batch, g), snrs, g)
        prior = clean.draw(batch, g)
        if bleed is not None:
            prior = at_snr(prior, noise.draw(batch, g), bleed, g)
        return torch.stack([mixtures, prior, alone.draw(batch, g)])

    return draw


def held_out(corpora: Corpora, parts: Share, *, files: int = 24, seconds: float = 3.0, snr_db: float = 0.0) -> Mixture:
    """Mixtures (files, N) of validation speakers in noise of the training mixtures: they watch, and teach nothing."""
    rows = corpora.select(corpus=parts.speech["corpus"].iloc[0], kind="speech", split="valid")
    if rows.empty:
        raise CorpusError(f"expected validation speech of {parts.speech['corpus'].iloc[0]}, got none; {corpora}")
    (g,) = generators(0, 1)
    length = round(16000 * seconds)
    speech = Clips.read(corpora, rows, length, around=False, progress=False).draw(files, g)
    noise = Clips.read(corpora, parts.noise, length, around=True, progress=False).draw(files, g)
    return mix(speech, noise, snr_db)
