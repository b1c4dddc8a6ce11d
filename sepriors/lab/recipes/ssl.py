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

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.recipes.base import Learned, LongRecipe, OfOneCorpus, about, chosen, device, to_float16
from sepriors.lab.training.fitting import fit
from sepriors.lab.training.pretraining import clustering, mfcc
from sepriors.lab.training.simulator import Clips, at_snr, chance, training_noise
from sepriors.priors import SSL
from sepriors.priors.ssl import framed
from sepriors.signal.rng import generators, seeded_global_rng

FEW = {"width": 8, "layers": 2, "heads": 2, "inner": 16, "channels": (4, 4, 4, 4, 4, 4, 8)}  # sizes of an `SSL`


@dataclass(frozen=True)
class SSLRecipe(OfOneCorpus, LongRecipe):
    """Self-supervised embeddings, by masked prediction of clusters (HuBERT; Hsu et al., 2021, § II), in two rounds.

    The first round's clusters are of cepstra, the second's of the first's embeddings at `layer`, both of clean speech.
    Frames are hidden in spans of ten; files have a peak of 1 and are lowered at random by up to `level_db`. A part
    `noisy` of the clips is in training noise, at `snr_db`, with the labels that they have without (Chen et al., 2022,
    § III-B): so an embedding is of the speech in it.
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
    noisy: float = 0.5
    snr_db: tuple[float, float] = (-5.0, 20.0)
    learning_rate: float = 3e-3

    @property
    def about(self) -> str:
        rounds = " and ".join(f"{classes} classes for {n} steps" for classes, n in zip(self.classes, self.steps))
        of = "speech, some of it in noise" if self.noisy else "clean speech"
        return f"self-supervised embeddings of {of}, pretrained by masked prediction: {rounds}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and how many hidden frames of validation speech it guesses."""
        (g,) = generators(seed, 1)
        rows, facts = chosen(self, corpora, seed, "train")
        held_out = chosen(replace(self, minutes=math.inf), corpora, seed, "valid")[0]
        speech, valid = (_peaked(corpora, part, progress) for part in (rows, held_out))
        noise = None
        if self.noisy:
            recordings = training_noise(corpora)
            noise = Clips.of_noise(corpora, recordings, self.samples, progress=progress)
            facts |= {f"noise_{key}": value for key, value in about(recordings).items()}
        net, seconds = None, 0.0
        see: Callable[[torch.Tensor], torch.Tensor] = mfcc
        for i, (classes, steps) in enumerate(zip(self.classes, self.steps, strict=True), 1):
            features = [see(x) for x in tqdm(speech, desc=f"targets, round {i}", disable=not progress)]
            label = clustering(features, classes, g)
            labels, unseen = [label(f) for f in features], [label(see(x)) for x in valid]
            with seeded_global_rng(g):
                made = hubert_pretrain_model(**SSL(**self.sizes).settings, **MASKED, num_classes=classes)
            if net is not None:
                made.wav2vec2.load_state_dict(net.state_dict())
            draw = self.drawing(speech, labels, noise)
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
        tensors = to_float16(trained)
        return Learned(tensors, trained.config, {**facts, "train_seconds": round(seconds, 1)})

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return round(self.seconds * 16000 / SSL.hop)

    @property
    def samples(self) -> int:
        """What the frames of a clip see."""
        return SSL.hop * (self.frames - 1) + SSL.field

    def drawing(
        self, speech: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], noise: Clips | None = None
    ) -> Callable[[torch.Generator], torch.Tensor]:
        """A function that draws a batch (batch, N + T): samples, and behind them the labels of their frames.

        What is longer is cut at a frame, what is shorter left out; with `noise` some of it is in noise.
        """
        T = self.frames
        fitting = [(framed(x[None])[0], y) for x, y in zip(speech, labels, strict=True) if len(y) >= T]
        if not fitting:
            raise CorpusError(f"expected files of {self.seconds:g} s at least, got none of {len(speech)}")
        odds = torch.tensor([float(len(y)) for _, y in fitting])

        def draw(g: torch.Generator) -> torch.Tensor:
            clips, classes = [], []
            for k in torch.multinomial(odds, self.batch, replacement=True, generator=g).tolist():
                x, y = fitting[k]
                i = int(torch.randint(len(y) - T + 1, (), generator=g))
                clips.append(x[SSL.hop * i :][: self.samples])
                classes.append(y[i : i + T].float())
            clip = torch.stack(clips)
            if noise is not None:
                level = clip.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
                noisy = level * at_snr(clip / level, noise.draw(self.batch, g), self.snr_db, g)
                clip = torch.where(chance(self.noisy, self.batch, g), noisy, clip)
            gain = 10 ** (-self.level_db / 20 * torch.rand(self.batch, 1, generator=g))
            return torch.cat([gain * clip, torch.stack(classes)], -1)

        return draw

    def logits(self, model: Any, batch: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the hidden frames and of the others (n, 1 + classes), the true class first."""
        T = self.frames
        with seeded_global_rng(g):  # torchaudio draws what to hide from the global randomness
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

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows: the noise besides its speech."""
        rows = super().heard(corpora)
        return pd.concat([rows, training_noise(corpora)]) if self.noisy else rows

    def smoke(self) -> Self:
        """Cut to seconds."""
        return self.shorten(sizes=FEW, classes=(5, 8), steps=(4, 4), layer=1, batch=2, seconds=1.0)


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
