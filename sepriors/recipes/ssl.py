"""Self-supervised embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torchaudio.models import hubert_pretrain_model
from tqdm import tqdm

from ..corpora import Corpora, CorpusError
from ..fitting import fit
from ..pretraining import clustering, mfcc
from ..priors import SSL
from ..priors.ssl import framed
from ..rng import borrowed, generators
from .base import Learned, LongRecipe, OfOneCorpus, chosen, device, halves

FEW = {"width": 8, "layers": 2, "heads": 2, "inner": 16, "channels": (4, 4, 4, 4, 4, 4, 8)}  # sizes of an `SSL`


@dataclass(frozen=True)
class SSLRecipe(OfOneCorpus, LongRecipe):
    """Self-supervised embeddings, by masked prediction of clusters (HuBERT; Hsu et al., 2021, § II), in two rounds.

    The first round's clusters are of cepstra, the second's of the first's embeddings at `layer`. Frames are hidden in
    spans of ten; files have a peak of 1 and are lowered at random by up to `level_db`.
    """

    # Deviation: the paper hides more, asks for hidden frames alone and starts the second round afresh; in an hour its
    # convolutions learn nothing.
    sizes: Mapping[str, Any] = field(default_factory=dict)  # of `SSL`, where they are not its own
    classes: tuple[int, ...] = (100, 200)  # a round
    steps: tuple[int, ...] = (2000, 3000)
    layer: int = 5
    seen: float = 1.0  # what a frame that is not hidden counts beside one that is
    batch: int = 12
    seconds: float = 2.0
    level_db: float = 20.0
    learning_rate: float = 3e-3

    @property
    def about(self) -> str:
        rounds = " and ".join(f"{classes} classes for {n} steps" for classes, n in zip(self.classes, self.steps))
        return f"self-supervised embeddings of clean speech, pretrained by masked prediction: {rounds}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and how many hidden frames of validation speech it guesses."""
        (g,) = generators(seed, 1)
        rows, facts = chosen(self, corpora, seed, "train")
        held_out = chosen(replace(self, minutes=math.inf), corpora, seed, "valid")[0]
        speech, valid = (_peaked(corpora, part, progress) for part in (rows, held_out))
        net, seconds = None, 0.0
        see: Callable[[torch.Tensor], torch.Tensor] = mfcc
        for i, (classes, steps) in enumerate(zip(self.classes, self.steps, strict=True), 1):
            features = [see(x) for x in tqdm(speech, desc=f"targets, round {i}", disable=not progress)]
            label = clustering(features, classes, g)
            labels, unseen = [label(f) for f in features], [label(see(x)) for x in valid]
            with borrowed(g):
                made = hubert_pretrain_model(**SSL(**self.sizes).settings, **MASKED, num_classes=classes)
            if net is not None:
                made.wav2vec2.load_state_dict(net.state_dict())
            draw = self.drawing(speech, labels)
            watched = replace(self, batch=32, level_db=0.0).drawing(valid, unseen)(generators(0, 1)[0])
            fitted = fit(
                made.to(device()), draw, self.loss, steps=steps, learning_rate=self.learning_rate, generator=g,
                clip=10.0, validate=partial(self.guessed, batch=watched.to(device())), warm=200, fast=None,
                checkpoint=None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.{i}"),
                about=f"{self}, seed {seed}, round {i}, {facts['files']} files of {facts['corpus']}", progress=progress,
                fabric=fabric,
            )  # fmt: skip
            net, seconds = fitted.model.wav2vec2, seconds + fitted.seconds
            trained = SSL(**self.sizes)
            trained.network.load_state_dict(net.cpu().state_dict())
            trained.requires_grad_(False).eval()
            see = partial(_layer, trained, self.layer)
            most = torch.bincount(torch.cat(unseen)).max() / sum(map(len, unseen))
            facts[f"valid_guessed_{i}"] = [round(value, 3) for value in fitted.curve]
            facts[f"valid_most_frequent_{i}"] = round(float(most), 3)
        tensors = halves(trained)
        return Learned(tensors, trained.config, {**facts, "train_seconds": round(seconds, 1)})

    def drawing(
        self, speech: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> Callable[[torch.Generator], torch.Tensor]:
        """A function that draws a batch (batch, N + T): samples, and behind them the labels of their frames.

        What is longer is cut at a frame, what is shorter left out.
        """
        T = round(self.seconds * 16000 / SSL.hop)
        fitting = [(framed(x[None])[0], y) for x, y in zip(speech, labels, strict=True) if len(y) >= T]
        if not fitting:
            raise CorpusError(f"expected files of {self.seconds:g} s at least, got none of {len(speech)}")
        odds = torch.tensor([float(len(y)) for _, y in fitting])

        def draw(g: torch.Generator) -> torch.Tensor:
            batch = []
            for k in torch.multinomial(odds, self.batch, replacement=True, generator=g).tolist():
                x, y = fitting[k]
                i = int(torch.randint(len(y) - T + 1, (), generator=g))
                gain = 10 ** (-self.level_db / 20 * torch.rand((), generator=g))
                start = SSL.hop * i
                batch.append(torch.cat([gain * x[start : start + SSL.hop * (T - 1) + SSL.field], y[i : i + T].float()]))
            return torch.stack(batch)

        return draw

    def logits(self, model: Any, batch: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the hidden frames and of the others (n, 1 + classes), the true class first."""
        T = round(self.seconds * 16000 / SSL.hop)
        with borrowed(g):  # torchaudio draws what to hide from the global randomness
            hidden, seen, _ = model(batch[:, :-T], batch[:, -T:].long())
        return hidden.float(), seen.float()

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Cross-entropy of the true class, nats a frame (Hsu et al., 2021, eq. 2)."""
        hidden, seen = ((x.logsumexp(-1) - x[:, 0]).mean() for x in self.logits(model, batch, g))
        return (hidden + self.seen * seen) / (1 + self.seen)

    def guessed(self, model: Any, batch: torch.Tensor) -> float:
        """The share of hidden frames whose class is right, with the same frames hidden each time."""
        with torch.inference_mode():
            hidden, _ = self.logits(model, batch, generators(0, 1)[0])
        return float((hidden[:, 1:] < hidden[:, :1]).all(-1).float().mean())

    def quick(self) -> Self:
        """Cut to seconds."""
        return self.cut(sizes=FEW, classes=(5, 8), steps=(4, 4), layer=1, batch=2, seconds=1.0)


MASKED = {
    "mask_prob": 0.5, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10, "no_mask_overlap": False,
    "mask_min_space": 1, "mask_channel_prob": 0.0, "mask_channel_selection": "static", "mask_channel_other": 0.0,
    "mask_channel_length": 10, "no_mask_channel_overlap": False, "mask_channel_min_space": 1, "skip_masked": False,
    "skip_nomask": False, "final_dim": 64, "feature_grad_mult": None,
}  # fmt: skip  # HuBERT's own, but for how many are hidden, and the size of what is compared


def _peaked(corpora: Corpora, rows: pd.DataFrame, progress: bool) -> list[torch.Tensor]:
    return [x / x.abs().max().clamp_min(1e-8) for x in corpora.decoded(rows, progress=progress)]


def _layer(net: SSL, layer: int, x: torch.Tensor) -> torch.Tensor:
    """The embeddings (T, D) of one file at a layer."""
    with torch.inference_mode():
        return net(x[None])[layer, 0]
