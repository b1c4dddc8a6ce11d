"""What all recipes share: their face, the recordings that they choose, and how the long ones are trained."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import pandas as pd
import torch
from tqdm import tqdm

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.corpora.sets import speech_of
from sepriors.lab.training.fitting import Fitted, fit
from sepriors.lab.training.simulator import Conditions, Pairs, Simulator, at_most
from sepriors.metrics import si_sdr
from sepriors.signal.rng import generators
from sepriors.signal.stft import STFT

Draw = Callable[[torch.Generator], torch.Tensor]
Drawn = tuple[Draw, dict[str, Any]]  # what draws from files, and what the card says of them


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
    def training_files(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows, however few minutes of them it takes."""

    @abstractmethod
    def smoke(self) -> Self:
        """The same recipe, shortened to seconds: for tests and smoke runs."""

    def per_process(self, processes: int) -> Self:
        """The recipe with a process's part of the batch, so that the processes together do what it says.

        Raises ValueError for a recipe without such batches, or whose batch cannot be divided evenly.
        """
        raise ValueError(f"{self.about}: this trains on one device only; leave out --devices and --nodes")

    def shorten(self, **changes: Any) -> Self:
        """With half a minute of recordings at most, and these changes."""
        return replace(self, minutes=min(self.minutes, 0.5), **changes)


@dataclass(frozen=True, kw_only=True)
class OfOneCorpus(Recipe):
    """Learns from the recordings of a kind that `select` chooses, by columns of the manifest."""

    select: Mapping[str, Any] = field(default_factory=dict)

    def noise_files(self, corpora: Corpora) -> pd.DataFrame:
        """The noise that it learns from besides: none, unless a recipe says so."""
        return corpora.table[:0]

    def training_files(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows."""
        return pd.concat([corpora.select(kind=self.kind, split="train", **self.select), self.noise_files(corpora)])

    def files(self, corpora: Corpora, seed: int, split: str = "train") -> tuple[pd.DataFrame, dict[str, Any]]:
        """A split's files in random order, of `train` until there are enough minutes, and what they are."""
        rows = corpora.select(kind=self.kind, split=split, **self.select).sample(frac=1, random_state=seed)
        if rows.empty:
            raise CorpusError(
                f"expected {split} files of {dict(self.select) or self.kind}, got none, see sepriors fetch; {corpora}"
            )
        if split == "train":
            rows = at_most(rows, self.minutes)
        return rows, about(rows)


class OfSpectra(OfOneCorpus):
    """Learns from power spectra, of frames no more than `range_db` below the loudest of their file."""

    stft: STFT  # fields of the recipes, which say where they stand
    range_db: float

    def power(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The power (F, T) of a file, and whether each of its frames counts (T,); in noise, all but silence does."""
        P = self.stft(x).abs().square()
        level = 10 * P.sum(0).clamp_min(1e-12).log10()
        return P, level > (level.max() - self.range_db if self.kind == "speech" else -80)


class Data(NamedTuple):
    """What a long training draws its batches by, what it is watched by, and what the card says of both."""

    draw: Draw
    held_out: Any
    facts: dict[str, Any]


class LongRecipe(Recipe):
    """Learned by the training loop: keeps a checkpoint and goes on from it, on a GPU where there is one, or on several.

    The attributes are what `fit` is given; recipes have some of them as fields.
    """

    steps: Any
    batch: int  # draws a step, on all devices together
    learning_rate: float
    clip = math.inf
    betas = (0.9, 0.999)
    warm_steps = 500
    validations = 20
    best_if_diverged = False
    fast: bool | None = None

    @abstractmethod
    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """What a batch costs when that part of the training is `done`."""

    @abstractmethod
    def validate(self, model: Any, held_out: Any) -> float:
        """How good the averaged model is."""

    @property
    def rates(self) -> dict[str, float]:
        """How many times as fast as the rest the named parts of the network learn."""
        return {}

    def listen(self, model: Any, held_out: Any, folder: Path) -> None:
        """Leave samples in the folder, to listen to while it trains; none, unless a recipe says so."""

    def fit(
        self, model: Any, data: Data, g: torch.Generator, about: str, steps: int, checkpoint: Path | None, **loop: Any
    ) -> Fitted:
        """The training loop on these data; the recipe and `about` name the run in its checkpoint."""

        def validate(model: Any) -> float:
            with torch.inference_mode():
                if checkpoint is not None:
                    self.listen(model, data.held_out, checkpoint.with_suffix(".samples"))
                return self.validate(model, data.held_out)

        return fit(
            model.to(device()), data.draw, self.loss, validate=validate, generator=g, steps=steps, clip=self.clip,
            learning_rate=self.learning_rate, betas=self.betas, warm=self.warm_steps, rates=self.rates, fast=self.fast,
            validations=self.validations, best_if_diverged=self.best_if_diverged, checkpoint=checkpoint,
            about=f"{self}, {about}, {data.facts['files']} files of {data.facts['corpus']}", **loop,
        )  # fmt: skip

    def per_process(self, processes: int) -> Self:
        """The recipe with a process's part of the batch."""
        if self.batch % processes:
            raise ValueError(f"expected processes that share a batch of {self.batch} evenly, got {processes}")
        changes: dict[str, Any] = {"batch": self.batch // processes}
        return replace(self, **changes)


class OneFit(LongRecipe):
    """Learned by one run of the loop: what is trained is `make`'s, on `data`, by `loss`, watched by `validate`."""

    seed: int = 0  # added to the caller's
    curve: ClassVar[tuple[str, int]]  # what the card calls the validation curve, and how many digits it keeps

    @abstractmethod
    def data(self, corpora: Corpora, seed: int, progress: bool) -> Data:
        """The recordings, ready to be drawn from."""

    @abstractmethod
    def make(self, g: torch.Generator) -> torch.nn.Module:
        """The network before training."""

    def finish(self, model: Any, held_out: Any) -> Learned:
        """What goes into the file, in half precision, and what the card says besides the curve."""
        return Learned(to_float16(model), model.config, {})

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The weights, from the training split."""
        (g,) = generators(seed + self.seed, 1)
        data = self.data(corpora, seed, progress)
        about = f"seed {seed}"
        fitted = self.fit(self.make(g), data, g, about, self.steps, checkpoint, progress=progress, fabric=fabric)
        learned, (name, digits) = self.finish(fitted.model, data.held_out), self.curve
        facts = {**data.facts, name: [round(value, digits) for value in fitted.curve], **learned.facts}
        if fitted.diverged is not None:
            facts["diverged_at_step"] = fitted.diverged
        return learned._replace(facts={**facts, "train_seconds": round(fitted.seconds, 1)})


def device() -> str:
    """Where a long training runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def to_float16(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters in half precision, as files keep them."""
    return {name: p.detach().cpu().half().contiguous() for name, p in module.state_dict().items()}


def at_peak(x: torch.Tensor) -> torch.Tensor:
    """A file at a peak of 1, as mixtures will have."""
    return x / x.abs().max().clamp_min(1e-8)


def spectra(
    made: OfSpectra, corpora: Corpora, seed: int, progress: bool, *, split: str = "train", peak: bool = False
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Power spectra (N, F) of a split's files in random order, until there are enough minutes, and what they were.

    With `peak` each file is scaled to a peak of 1.
    """
    rows, facts = made.files(corpora, seed, split)
    frames = []
    for x in tqdm(corpora.decoded(rows, progress=progress), desc="spectra", disable=not progress):
        P, counts = made.power(at_peak(x) if peak else x)
        frames.append(P[:, counts].mT)
    return torch.cat(frames), facts


def about(rows: pd.DataFrame, prefix: str = "") -> dict[str, Any]:
    """What the card says of recordings."""
    speakers = rows.loc[rows["speaker"] != "", "speaker"].nunique()
    facts = {
        "corpus": ", ".join(sorted(rows["corpus"].unique())),
        "files": len(rows),
        "minutes": round(float(rows["seconds"].sum()) / 60, 1),
        **({"speakers": speakers} if speakers else {}),
    }
    return {prefix + key: value for key, value in facts.items()}


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


def si_sdr_gain(pairs: Pairs, enhance: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """By how many decibels what `enhance` makes of each mixture is nearer to its speech than the mixture is."""
    return si_sdr(pairs.clean, enhance(pairs.noisy.to(device())).cpu()) - si_sdr(pairs.clean, pairs.noisy)
