"""Bases of power spectra: NMF."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import pandas as pd
import torch
from tqdm import tqdm

from sepriors.inference import nmf
from sepriors.lab.corpora import Corpora
from sepriors.lab.recipes.base import Learned, OfOneCorpus, spectra
from sepriors.signal.gaussian import is_divergence
from sepriors.signal.rng import generators
from sepriors.signal.stft import STFT

HELD_OUT = 8000


@dataclass(frozen=True)
class NMFRecipe(OfOneCorpus):
    """Bases of the power spectra of a corpus, by IS-NMF (Févotte, Bertin & Durrieu, 2009).

    Speech keeps only frames within `range_db` of the loudest of its file: the divergence is blind to level, so pauses
    would count as much as vowels, and bases that learn a corpus's room noise take noise for speech later.
    """

    rank: int
    stft: STFT
    range_db: float = 20.0
    iterations: int = 100
    minutes: float = field(default=30.0, kw_only=True)

    @property
    def about(self) -> str:
        return f"IS-NMF bases of {self.kind}, {self.rank} of {self.stft.bins} bins"

    def learn(self, corpora: Corpora, seed: int, progress: bool) -> Learned:
        """The bases W (F, K) of the training split."""
        if self.kind == "white":
            P, facts = _white(self, seed)
            held_out = None
        else:
            frames, facts = spectra(self, corpora, seed, progress)
            P = frames.mT.contiguous()[None]
            held_out = self.held_out(corpora, seed)
        model, curve = nmf.init(P, self.rank, generators(seed, 1)), []
        for i in tqdm(range(self.iterations), desc="updates", disable=not progress):
            model = nmf.update(model, P[None])
            if held_out is not None and (i + 1) % max(1, self.iterations // 10) == 0:
                curve.append(round(missed(model.W[0], held_out), 4))
        if curve:
            facts["valid_divergence"] = curve
        return Learned({"W": model.W[0]}, {"stft": asdict(self.stft), "rank": self.rank}, facts)

    def held_out(self, corpora: Corpora, seed: int) -> torch.Tensor:
        """Validation spectra (1, F, T), no more than HELD_OUT frames of them."""
        frames, _ = spectra(replace(self, minutes=math.inf), corpora, seed, False, split="valid")
        return frames[:: -(-len(frames) // HELD_OUT)].mT[None]

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows; drawn noise has none."""
        return corpora.table[:0] if self.kind == "white" else super().heard(corpora)

    def smoke(self) -> Self:
        """Cut to seconds."""
        return self.shorten(iterations=3)


def missed(W: torch.Tensor, P: torch.Tensor) -> float:
    """The Itakura-Saito divergence of spectra P (1, F, T) from what bases W (F, K) make of them, a bin of it."""
    model = nmf.init(P, W.shape[1], generators(0, 1), W)
    for _ in range(30):
        model = nmf.update(model, P[None], bases=False)
    return float(is_divergence(P, model.variance)) / P[0].numel()


def _white(made: NMFRecipe, seed: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """White noise in ten-second pieces at levels from -40 to 0 dB: 'several powers' (Shi et al., 2021, § 5.2)."""
    (g,) = generators(seed, 1)
    length, pieces = 10 * made.stft.sample_rate, round(6 * made.minutes)
    levels = 10 ** (torch.linspace(-40, 0, pieces) / 20)
    P = made.stft(torch.randn(pieces, length, generator=g) * levels[:, None]).abs().square()
    return P.movedim(0, 1).flatten(1)[None], {
        "corpus": "drawn white noise",
        "files": pieces,
        "minutes": round(made.minutes, 1),
    }
