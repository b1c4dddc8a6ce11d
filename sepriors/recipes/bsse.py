"""Masks learned from pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import torch

from .. import weights
from ..corpora import Corpora, bench_set
from ..corpora.sets import DOMAINS
from ..fitting import fit
from ..methods import Method, Separator, enhance
from ..metrics import score_many, si_sdr
from ..mixing import Mixture, mix
from ..priors import BSSE, SSL, load
from ..priors.bsse import Inputs
from ..rng import borrowed, generators
from ..unpaired import Clips, at_snr
from .base import Learned, LongRecipe, OfOneCorpus, chosen, device, halves, noise_recordings
from .ssl import FEW

Tuning = Literal["frozen", "part", "whole"]


@dataclass(frozen=True)
class PairedRecipe(OfOneCorpus, LongRecipe):
    """`bsse` (Hung et al., 2022): a mask learned from pairs of mixture and speech, by the L1 distance of log(1 + |X|).

    The embeddings of the card `start` stay as they are, are tuned but for the convolutions, or wholly, at a tenth of
    the learning rate. Each clip has noise of one recording or of two, its spectrum bent at random; each mixture is
    raised or lowered by up to `level_db`.
    """

    inputs: Inputs = "both"
    tuning: Tuning = "whole"
    start: str | None = "ssl"  # None: embeddings that have learned nothing, of the sizes `fresh`
    fresh: Mapping[str, Any] = field(default_factory=dict)
    noises: tuple[str, ...] = ("home", "vehicle", "weather")  # as for `sgmse`: the others stay unseen
    snrs: tuple[float, float] = (-8.0, 12.0)
    level_db: float = 4.0
    steps: int = 3000
    batch: int = 16
    seconds: float = 1.28
    learning_rate: float = 5e-3  # Deviation: the paper's 1e-4 takes many times as long
    slower: float = 0.1  # how fast the embeddings learn beside the rest
    sizes: Mapping[str, int] = field(default_factory=dict)  # of `BSSE`, where they are not its own
    files: int = 24  # of each set of the bench that it is judged on at the end; none: not judged
    seed: int = 0  # added to the caller's

    @property
    def about(self) -> str:
        of = {"spectrum": "spectrum", "embeddings": "embeddings", "both": "spectrum and embeddings"}[self.inputs]
        tuned = {"frozen": "frozen", "part": "tuned but for the convolutions", "whole": "tuned"}[self.tuning]
        tuned = "" if self.inputs == "spectrum" else f", the embeddings {tuned}"
        return f"mask from {of}{tuned}; supervised: trained on pairs in noise of {', '.join(self.noises)}"

    def make(self, g: torch.Generator) -> BSSE:
        """The network before training; what is to stay frozen is."""
        ssl = None
        if self.inputs != "spectrum":
            with borrowed(g):
                ssl = load(self.start) if self.start else SSL(**self.fresh)
            ssl.requires_grad_(self.tuning != "frozen")
            if self.tuning == "part":
                ssl.network.feature_extractor.requires_grad_(False)
        with borrowed(g):
            return BSSE(self.inputs, ssl, **self.sizes)

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, what its layers count, and its scores on sets of the bench."""
        (g,) = generators(seed + self.seed, 1)
        made = self.make(g)
        sets = self.test_sets(corpora)  # now, not after the training: they may be missing
        rows, facts = chosen(self, corpora, seed, "train")
        noise = noise_recordings(self.noises, corpora)
        facts["noises"] = len(noise)
        length = round(16000 * self.seconds)
        speech = Clips.read(corpora, rows, length, around=False, progress=progress)
        sounds = Clips.read(corpora, noise, length, around=True, progress=progress)
        held_out = chosen(replace(self, minutes=math.inf), corpora, seed, "valid")[0]
        (h,) = generators(0, 1)
        clean = Clips.read(corpora, held_out, 48000, around=False, progress=False).draw(24, h)
        beside = Clips.read(corpora, noise, 48000, around=True, progress=False)
        watched = mix(clean, beside.draw(24, h), 0.0)
        before = si_sdr(watched.clean, watched.noisy)

        def draw(g: torch.Generator) -> torch.Tensor:
            one, two = (bent(sounds.draw(self.batch, g), g) for _ in range(2))
            second = (torch.rand(self.batch, 1, generator=g) < 0.5) * torch.rand(self.batch, 1, generator=g)
            clean = bent(speech.draw(self.batch, g), g)
            noisy = at_snr(clean, one + second * two, self.snrs, g)
            level = 10 ** (self.level_db / 20 * (2 * torch.rand(self.batch, 1, generator=g) - 1))
            gain = BSSE.rms * level / noisy.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
            return torch.stack([gain * noisy, gain * clean])

        def validate(model: Any) -> float:
            with torch.inference_mode():
                gain = si_sdr(watched.clean, model.enhance(watched.noisy.to(device())).cpu()) - before
            return float(gain.mean())

        fitted = fit(
            made.to(device()), draw, self.loss, steps=self.steps, learning_rate=self.learning_rate, generator=g,
            clip=5.0, validate=validate, warm=200, rates={} if made.ssl is None else {"ssl": self.slower}, fast=None,
            checkpoint=checkpoint, progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
        )  # fmt: skip
        tensors = halves(fitted.model)
        facts["valid_si_sdr_gain"] = [round(value, 2) for value in fitted.curve]
        if made.ssl is not None:
            facts["layer_weights"] = [round(w, 4) for w in fitted.model.layer_weights.tolist()]
        judged = BSSE.from_weights(weights.Weights(tensors, made.config)).requires_grad_(False).eval()
        for name, mixtures in sets.items():
            scores = scored(Separator(judged), mixtures)
            facts |= {f"{name}_{metric}": values for metric, values in scores.items()}
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def test_sets(self, corpora: Corpora) -> dict[str, list[Mixture]]:
        """The sets of real noise that the corpora have speech for, by domain."""
        have = set(corpora.table["corpus"])
        domains = [name for name, speech in DOMAINS.items() if self.files and have & set(speech)]
        return {name: bench_set(corpora, "real", domain=name, files=self.files) for name in domains}

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Mean absolute error of log(1 + |S|); a batch is (2, B, N), the mixtures and the speech in them."""
        noisy, clean = batch
        target = model.spectrum(clean).abs().log1p().mT
        return (model(noisy).speech.float() - target).abs().mean()

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows: speech and noise."""
        return pd.concat([super().heard(corpora), noise_recordings(self.noises, corpora)])

    def quick(self) -> Self:
        """Cut to seconds."""
        few = {"width": 8, "hidden": 8}
        return self.cut(steps=4, batch=2, seconds=0.5, files=min(1, self.files), start=None, fresh=FEW, sizes=few)


SCORES = ("pesq_wb", "csig", "cbak", "covl", "stoi", "si_sdr")


def scored(method: Method, mixtures: Sequence[Mixture]) -> dict[str, list[float]]:
    """Each measure's mean over the SNRs, file by file."""
    table = [score_many(zip(m.clean, enhance(m.noisy, method), strict=True), 16000, SCORES) for m in mixtures]
    by_file = list(zip(*table, strict=True))
    return {
        metric: [round(sum(s.values[metric] for s in scores) / len(scores), 3) for scores in by_file]
        for metric in SCORES
    }


def bent(x: torch.Tensor, g: torch.Generator, spread_db: float = 3.0) -> torch.Tensor:
    """Clips (B, N) through filters drawn at random: three cosines over frequency, of so many decibels each.

    Recordings are few, and rooms and microphones many.
    """
    X = torch.fft.rfft(x)
    place = torch.linspace(0, math.pi, X.shape[-1])
    curve = torch.stack([torch.cos(k * place) for k in (1, 2, 3)])
    gain_db = spread_db * torch.randn(len(x), 3, generator=g) @ curve
    return torch.fft.irfft(X * 10 ** (gain_db / 20), x.shape[-1])
