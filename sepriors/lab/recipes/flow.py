"""Flows of waveforms: WaveGlow and MAF."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from sepriors import weights
from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.recipes.base import Learned, LongRecipe, OfOneCorpus, chosen, device
from sepriors.lab.training.fitting import fit
from sepriors.priors import MAF, WaveGlow
from sepriors.signal.rng import generators


@dataclass(frozen=True)
class FlowRecipe(OfOneCorpus, LongRecipe):
    """A WaveGlow of the waveforms of a corpus, by maximum likelihood (Shi et al., 2021, eq. 7).

    Each file has power 1e-3 and is dithered as its 16 bits deserve; each segment is then raised or lowered at random by
    up to `level_db`, since nobody knows the level of speech in a mixture exactly. With `noise` (low, high) the flow is
    trained on noisy speech, and told the standard deviation, drawn evenly in decibels.
    """

    family: str = "waveglow"  # or 'maf': each window a draw of its own
    hidden: int = 128
    context: bool = True
    mu: float = 0.0
    noise: tuple[float, float] | None = None
    level_db: float = 5.0
    steps: int = 15_000
    batch: int = 8  # segments
    seconds: float = 2.0
    learning_rate: float = 1e-3  # Deviation: the paper's 1e-4 takes ten times as long

    @property
    def about(self) -> str:
        of = "speech in white noise of a given level" if self.noise else "clean speech"
        how = [f"{self.hidden} hidden units"]
        how += [] if self.context else ["windows that do not see each other"]
        how += [f"companded, μ = {self.mu:g}"] if self.mu else []
        what = {"waveglow": "WaveGlow of 12 blocks", "maf": "MAF of 5 blocks"}[self.family]
        return f"{what}, {of}, windows of 80 samples, {', '.join(how)}"

    def make(self) -> WaveGlow | MAF:
        """The flow before training, but for its random parameters."""
        if self.family == "maf":
            return MAF(80, hidden=self.hidden, rms=WaveGlow.rms)
        return WaveGlow(hidden=self.hidden, context=self.context, mu=self.mu, conditional=self.noise is not None)

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The flow's parameters, in half precision, and its log-density of validation speech, nats a sample."""
        (g,) = generators(seed, 1)
        made = self.make()
        made.start(g)
        speech, facts = segments(self, corpora, seed, progress)
        valid = segments(replace(self, minutes=math.inf), corpora, seed, False, split="valid")[0]
        held_out = torch.stack([valid(h) for h in generators(range(16), 16)]).flatten(0, 1)

        def loss(model: Any, s: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            level = 10 ** (self.level_db / 20 * (2 * torch.rand(len(s), 1, generator=g) - 1))
            return -self.density(model, s * level.to(s), g)

        fitted = fit(
            made.to(device()), speech, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g,
            clip=100.0, validate=lambda model: self.validate(model, held_out.to(device())),
            fast=None, checkpoint=checkpoint, about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
            progress=progress, fabric=fabric,
        )  # fmt: skip
        facts["valid_nats_per_sample"] = [round(value, 3) for value in fitted.curve]
        return Learned(*finished(fitted.model, held_out), {**facts, "train_seconds": round(fitted.seconds, 1)})

    def density(self, model: Any, s: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        """Mean log-density of segments (B, N), nats a sample, with the noise that the recipe asks for."""
        if self.noise is None:
            return model.log_prob(s).mean() / s.shape[-1]
        low, high = (math.log(tau) for tau in self.noise)
        tau = torch.exp(low + (high - low) * torch.rand(len(s), generator=g)).to(s)
        s = s + tau[:, None] * torch.randn(s.shape, generator=g).to(s)
        return model.log_prob(s, tau).mean() / s.shape[-1]

    def validate(self, model: Any, s: torch.Tensor) -> float:
        """The same of validation segments, with the same noise each time."""
        with torch.inference_mode():
            return float(self.density(model, s, generators(0, 1)[0]))

    def smoke(self) -> Self:
        """Cut to seconds."""
        return self.shorten(steps=4, batch=2, seconds=0.5, hidden=16)


def finished(flow: WaveGlow | MAF, held_out: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A trained flow's parameters in half precision, and its configuration, with the density of clean speech (B, N)."""
    tensors = {name: p.detach().cpu().half() for name, p in flow.tensors.items()}
    made = type(flow).from_weights(weights.Weights(tensors, flow.config))
    if not getattr(flow, "conditional", False):
        with torch.inference_mode():
            made.clean = round(float(made.log_prob(held_out.cpu()).mean()) / held_out.shape[-1], 3)
    return tensors, made.config


def segments(
    made: FlowRecipe, corpora: Corpora, seed: int, progress: bool, *, split: str = "train"
) -> tuple[Callable[[torch.Generator], torch.Tensor], dict[str, Any]]:
    """A function that draws a batch of segments (batch, N) from a split's files, and what the files were."""
    rows, facts = chosen(made, corpora, seed, split)
    length = round(made.seconds * 16000)
    files = [x for x in corpora.decoded(rows, progress=progress) if len(x) >= length]
    if not files:
        raise CorpusError(f"expected {split} files of {made.seconds:g} s at least, got none of {len(rows)}")
    gains = [WaveGlow.rms / float(x.square().mean().sqrt().clamp_min(1e-8)) for x in files]
    odds = torch.tensor([float(len(x)) for x in files])

    def draw(g: torch.Generator) -> torch.Tensor:
        batch = []
        for k in torch.multinomial(odds, made.batch, replacement=True, generator=g).tolist():
            start = int(torch.randint(len(files[k]) - length + 1, (), generator=g))
            dither = (torch.rand(length, generator=g) - 0.5) / 2**15
            batch.append(gains[k] * (files[k][start : start + length] + dither))
        return torch.stack(batch)

    return draw, facts
