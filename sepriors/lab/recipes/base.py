"""What all recipes share: their face, and the recordings that they choose."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pandas as pd
import torch
from tqdm import tqdm

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.corpora.sets import speech_of
from sepriors.lab.training.simulator import Conditions, Pairs, Simulator
from sepriors.signal.rng import generators

if TYPE_CHECKING:
    from sepriors.lab.recipes.nmf import NMFRecipe
    from sepriors.lab.recipes.vae import VAERecipe


class Learned(NamedTuple):
    """What training gives: the tensors, the configuration that goes into their file, and facts for their card."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """What the weights of a card are learned by, and from which recordings; the fields are all its choices."""

    kind: str = "speech"  # or 'noise', or 'white': drawn, not recorded
    minutes: float = math.inf  # of recordings, at most
    shipped: bool = True  # else the repository has the card, not the weights

    @property
    @abstractmethod
    def about(self) -> str:
        """What it learns, in the words of the card."""

    @abstractmethod
    def learn(self, corpora: Corpora, seed: int, progress: bool) -> Learned:
        """The weights, from the training split."""

    @abstractmethod
    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows, however few minutes of them it takes."""

    @abstractmethod
    def smoke(self) -> Self:
        """The same recipe, cut to seconds: for tests and smoke runs."""

    def per_process(self, processes: int) -> Self:
        """The recipe with a process's share of the batch, so that the processes together do what it says.

        Raises ValueError for a recipe without such batches, or whose batch cannot be shared evenly.
        """
        raise ValueError(f"{self.about}: this trains on one device only; leave out --devices and --nodes")

    def shorten(self, **changes: Any) -> Self:
        """With half a minute of recordings at most, and these changes."""
        return replace(self, minutes=min(self.minutes, 0.5), **changes)


@dataclass(frozen=True, kw_only=True)
class OfOneCorpus(Recipe):
    """Learns from the recordings of a kind that `select` chooses, by columns of the manifest."""

    select: Mapping[str, Any] = field(default_factory=dict)

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows."""
        return corpora.select(kind=self.kind, split="train", **self.select)


class LongRecipe(Recipe):
    """Keeps a checkpoint, and goes on from it; trains on a GPU where there is one, or on several."""

    @property
    @abstractmethod
    def batch(self) -> int:
        """How many draws a step takes, on all devices together."""

    def per_process(self, processes: int) -> Self:
        """The recipe with a process's share of the batch."""
        if self.batch % processes:
            raise ValueError(f"expected processes that share a batch of {self.batch} evenly, got {processes}")
        share: dict[str, Any] = {"batch": self.batch // processes}
        return replace(self, **share)

    @abstractmethod
    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The weights, from the training split."""


def device() -> str:
    """Where a long training runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def to_float16(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters in half precision, as files keep them."""
    return {name: p.detach().cpu().half().contiguous() for name, p in module.state_dict().items()}


def spectra(
    made: NMFRecipe | VAERecipe,
    corpora: Corpora,
    seed: int,
    progress: bool,
    *,
    split: str = "train",
    peak: bool = False,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Power spectra (N, F) of a split's files in random order, until there are enough minutes, and what they were.

    With `peak` each file is scaled to a peak of 1.
    """
    rows, facts = chosen(made, corpora, seed, split)
    frames = []
    for x in tqdm(corpora.decoded(rows, progress=progress), desc="spectra", disable=not progress):
        P = made.stft(x / x.abs().max().clamp_min(1e-8) if peak else x).abs().square()
        level = 10 * P.sum(0).clamp_min(1e-12).log10()
        frames.append(P[:, level > level.max() - made.range_db if made.kind == "speech" else level > -80].mT)
    return torch.cat(frames), facts


def chosen(made: OfOneCorpus, corpora: Corpora, seed: int, split: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A split's files in random order, until there are enough minutes, and what they are."""
    rows = corpora.select(kind=made.kind, split=split, **made.select).sample(frac=1, random_state=seed)
    if rows.empty:
        raise CorpusError(f"expected {split} files of {dict(made.select) or made.kind}, got none; {corpora}")
    enough = max(1, int((rows["seconds"].cumsum() <= 60 * made.minutes).sum()))
    rows = rows[:enough]
    return rows, about(rows)


def about(rows: pd.DataFrame) -> dict[str, Any]:
    """What the card says of recordings."""
    speakers = rows.loc[rows["speaker"] != "", "speaker"].nunique()
    return {
        "corpus": ", ".join(sorted(rows["corpus"].unique())),
        "files": len(rows),
        "minutes": round(float(rows["seconds"].sum()) / 60, 1),
        **({"speakers": speakers} if speakers else {}),
    }


def validation_pairs(corpora: Corpora, *, files: int = 24, seconds: float = 3.0, snr_db: float = 0.0) -> Pairs:
    """Mixtures (files, N) of validation speakers in validation noise, always the same: a training is watched by them.

    Raises CorpusError where there is no speech or no noise for validation.
    """
    speech = corpora.select(corpus=speech_of(corpora), kind="speech", split="valid")
    noise = corpora.select(kind="noise", split="valid")
    for what, rows in (("speech", speech), ("noise", noise)):
        if rows.empty:
            raise CorpusError(f"expected validation {what}, got none; {corpora}")
    conditions = Conditions((snr_db, snr_db), second=0.0, babble=0.0, tilt_db=0.0)
    drawn = Simulator.read(corpora, speech, noise, seconds=seconds, conditions=conditions)
    return drawn.draw(files, *generators(0, 1))
