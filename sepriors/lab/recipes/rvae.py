"""The recurrent VAE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from tqdm import tqdm

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.recipes.base import Learned, LongRecipe, OfOneCorpus, chosen, device, to_float16
from sepriors.lab.training.fitting import fit
from sepriors.priors import RVAE
from sepriors.signal.rng import generators
from sepriors.signal.stft import STFT


@dataclass(frozen=True)
class RVAERecipe(OfOneCorpus, LongRecipe):
    """A recurrent VAE of the power spectra of a corpus, by the evidence lower bound (Leglaive et al., 2020, § 3).

    Sequences of `frames` frames; files have a peak of 1, sequences are raised or lowered at random by up to `level_db`,
    and frames more than `range_db` below the loudest of their file count for nothing, as for `VAERecipe`: the network
    passes by them, but nobody asks it how pauses sound. The divergence is weighted by a β that rises to 1 over the
    `warm` first part of the training.
    """

    stft: STFT
    latent: int = 16
    hidden: int = 128
    range_db: float = 30.0
    level_db: float = 10.0
    steps: int = 36_000
    batch: int = 32  # sequences
    frames: int = 50
    learning_rate: float = 1e-3
    warm: float = 0.2
    clip: float = 100.0

    @property
    def about(self) -> str:
        sizes = f"{self.stft.bins} bins, {self.latent} latent variables, {self.hidden} units"
        return f"recurrent VAE of {self.kind}, {sizes}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The RVAE's parameters, in half precision, and the bound on validation speech, nats a frame."""
        (g,) = generators(seed, 1)
        made = RVAE(self.stft, self.latent, self.hidden)
        for p in made.parameters():  # as torch would, from our own generator
            torch.nn.init.uniform_(p, -1 / math.sqrt(self.hidden), 1 / math.sqrt(self.hidden), generator=g)
        draw, facts = sequences(self, corpora, seed, progress)
        whole = replace(self, minutes=math.inf, batch=512, level_db=0.0)
        held_out = sequences(whole, corpora, seed, False, split="valid")[0](generators(0, 1)[0])

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            return -self.bound(model, batch, g, beta=min(1.0, done / self.warm))

        def validate(model: Any) -> float:
            with torch.inference_mode():
                return float(self.bound(model, held_out.to(device()), generators(0, 1)[0]))

        fitted = fit(
            made.to(device()), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g,
            clip=self.clip, validate=validate, checkpoint=checkpoint, progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
        )  # fmt: skip
        tensors = to_float16(fitted.model)
        facts["valid_elbo"] = [round(value, 1) for value in fitted.curve]
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def bound(self, model: Any, batch: torch.Tensor, g: torch.Generator, beta: float = 1.0) -> torch.Tensor:
        """The mean bound of the frames that count, nats; a batch as `sequences` draws it."""
        P, counts = batch[:, :-1], batch[:, -1]
        noise = torch.randn(1, len(P), self.latent, P.shape[-1], generator=g).to(P)
        return (model.elbo(P, noise, beta) * counts).sum() / counts.sum().clamp_min(1)

    def smoke(self) -> Self:
        """Cut to seconds."""
        return self.shorten(steps=4, batch=2, frames=20, hidden=8)


def sequences(
    made: RVAERecipe, corpora: Corpora, seed: int, progress: bool, *, split: str = "train"
) -> tuple[Callable[[torch.Generator], torch.Tensor], dict[str, Any]]:
    """A function that draws a batch (batch, F + 1, frames) of power spectra, and what the files were.

    The last row of a sequence is 1 where a frame counts, 0 where it is quiet.
    """
    rows, facts = chosen(made, corpora, seed, split)
    files = []
    for x in tqdm(corpora.decoded(rows, progress=progress), desc="spectra", disable=not progress):
        P = made.stft(x / x.abs().max().clamp_min(1e-8)).abs().square()
        level = 10 * P.sum(0).clamp_min(1e-12).log10()
        loud = level > level.max() - made.range_db
        first, *_, last = loud.nonzero().flatten().tolist() * 2  # one frame may be all there is
        if last + 1 - first >= made.frames:
            files.append(torch.cat([P, loud[None].to(P)]).mT[first : last + 1].contiguous())
    if not files:
        raise CorpusError(f"expected {split} files of {made.frames} frames at least, got none of {len(rows)}")
    odds = torch.tensor([float(len(x)) for x in files])

    def draw(g: torch.Generator) -> torch.Tensor:
        batch = []
        for k in torch.multinomial(odds, made.batch, replacement=True, generator=g).tolist():
            start = int(torch.randint(len(files[k]) - made.frames + 1, (), generator=g))
            batch.append(files[k][start : start + made.frames])
        level = made.level_db / 10 * (2 * torch.rand(made.batch, 1, 1, generator=g) - 1)
        drawn = torch.stack(batch).mT.contiguous()
        drawn[:, :-1] *= 10**level
        return drawn

    return draw, facts
