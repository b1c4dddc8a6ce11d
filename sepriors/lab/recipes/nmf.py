"""Bases of power spectra: NMF."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import pandas as pd
import torch
from tqdm import tqdm

from sepriors.inference import nmf
from sepriors.lab.corpora import Corpora
from sepriors.lab.recipes.base import Learned, OfSpectra, spectra
from sepriors.signal.gaussian import is_divergence
from sepriors.signal.rng import generators
from sepriors.signal.stft import STFT

HELD_OUT = 8000  # frames of validation speech at most


@dataclass(frozen=True)
class NMFRecipe(OfSpectra):
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
        """The bases W (F, K) of the training split, and how far validation spectra (1, F, T) are from them."""
        held_out = None
        if self.kind == "white":
            P, facts = _white(self, seed)
        else:
            frames, facts = spectra(self, corpora, seed, progress)
            P = frames.mT.contiguous()[None]
            valid, _ = spectra(self, corpora, seed, False, split="valid")
            held_out = valid[:: -(-len(valid) // HELD_OUT)].mT[None]
        model, curve = nmf.init(P, self.rank, generators(seed, 1)), []
        for i in tqdm(range(self.iterations), desc="updates", disable=not progress):
            model = nmf.update(model, P[None])
            if held_out is not None and (i + 1) % max(1, self.iterations // 10) == 0:
                curve.append(round(missed(model.W[0], held_out), 4))
        if curve:
            facts["valid_divergence"] = curve
        return Learned({"W": model.W[0]}, {"stft": asdict(self.stft), "rank": self.rank}, facts)

    def training_files(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows; drawn noise has none."""
        return corpora.table[:0] if self.kind == "white" else super().training_files(corpora)

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(iterations=3)


def missed(W: torch.Tensor, P: torch.Tensor) -> float:
    """The Itakura-Saito divergence of spectra P (1, F, T) from what bases W (F, K) make of them, a bin of it."""
    model = nmf.init(P, W.shape[1], generators(0, 1), W)
    for _ in range(30):
        model = nmf.update(model, P[None], bases=False)
    return float(is_divergence(P, model.variance)) / P[0].numel()


def _white(recipe: NMFRecipe, seed: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """White noise in ten-second pieces at levels from -40 to 0 dB: 'several powers' (Shi et al., 2021, § 5.2)."""
    (g,) = generators(seed, 1)
    length, pieces = 10 * recipe.stft.sample_rate, round(6 * recipe.minutes)
    levels = 10 ** (torch.linspace(-40, 0, pieces) / 20)
    P = recipe.stft(torch.randn(pieces, length, generator=g) * levels[:, None]).abs().square()
    facts = {"corpus": "drawn white noise", "files": pieces, "minutes": round(recipe.minutes, 1)}
    return P.movedim(0, 1).flatten(1)[None], facts
