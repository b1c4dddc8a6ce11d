"""Frame-wise VAEs, of speech and of a background."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import pandas as pd
import torch

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.recipes.base import Learned, OfSpectra, spectra, to_float16
from sepriors.lab.training.fitting import fit
from sepriors.priors import VAE
from sepriors.signal.rng import generators
from sepriors.signal.stft import STFT


@dataclass(frozen=True)
class VAERecipe(OfSpectra):
    """A frame-wise VAE of the power spectra of a corpus, by the evidence lower bound (Kingma & Welling, 2014).

    Each file has a peak of 1, as the mixtures will have, and each frame is then raised or lowered at random by up to
    `level_db`, since speech in a mixture is at no known level: worth .2 dB of SI-SDR on validation speakers and
    training noises. Frames more than `range_db` below the loudest of their file are left out: with 45 dB the prior
    learns the corpus's pauses, and takes a mixture's noise for them (4.5 dB of SI-SDR lost). Weights are averaged over
    steps.
    """

    stft: STFT
    latent: int = 32
    hidden: int = 128
    range_db: float = 30.0
    level_db: float = 10.0
    background: bool = False
    epochs: int = 40
    batch: int = 256  # frames
    learning_rate: float = 1e-3  # Adam's, falling by a cosine to its hundredth
    seed: int = 0  # added to the caller's: an ensemble has one recipe and many seeds

    @property
    def about(self) -> str:
        of = "a background: noise, and speech with a third of its bins exchanged" if self.background else self.kind
        return f"frame-wise VAE of {of}, {self.stft.bins} bins, {self.latent} latent variables"

    def learn(self, corpora: Corpora, seed: int, progress: bool) -> Learned:
        """The VAE's parameters, in half precision, which the bound hardly feels."""
        frames, facts = spectra(self, corpora, seed, progress, peak=True)
        (g,) = generators(seed + self.seed, 1)
        valid = None
        if self.background:
            noise, noise_facts = spectra(replace(self, kind="noise", select={}), corpora, seed, progress, peak=True)
            frames = frames[torch.randperm(len(frames), generator=g)[: len(noise)]]
            frames = torch.cat([noise, exchange_bins(frames, 1 / 3, g)])
            facts |= {key: f"{noise_facts[key]} and {facts[key]}" for key in noise_facts}
        elif "valid" in set(corpora.select(kind=self.kind, **self.select)["split"]):
            valid, _ = spectra(self, corpora, seed, False, peak=True, split="valid")
        net = VAE(self.stft, self.latent, self.hidden)
        for p in net.parameters():  # as torch would, from our own generator
            bound = 1 / math.sqrt(p.shape[-1] if p.ndim > 1 else self.hidden)
            torch.nn.init.uniform_(p, -bound, bound, generator=g)
        net, curve = fit_vae(net, frames, valid, self, g, progress)
        if curve:
            facts["valid_elbo"] = [round(value, 1) for value in curve]
        return Learned(to_float16(net), net.config, facts)

    def noise_files(self, corpora: Corpora) -> pd.DataFrame:
        """A background's noise."""
        return corpora.select(kind="noise", split="train") if self.background else super().noise_files(corpora)

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(epochs=1, batch=32)


def fit_vae(
    net: VAE, frames: torch.Tensor, valid: torch.Tensor | None, recipe: VAERecipe, generator: torch.Generator,
    progress: bool = True,
) -> tuple[VAE, list[float]]:  # fmt: skip
    """Adam on the bound of the frames (N, F): the averaged VAE, and the bound on `valid` after every five epochs."""
    steps = recipe.epochs * (len(frames) // recipe.batch)
    if not steps:
        raise CorpusError(f"expected a batch of {recipe.batch} frames at least, got {len(frames)} frames")
    batches = _batches(frames, recipe, generator)

    def loss(model: Any, P: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        return -model.elbo(P, torch.randn(1, 1, model.latent, recipe.batch, generator=g)).mean()

    fitted = fit(
        net, lambda g: next(batches), loss, steps=steps, learning_rate=recipe.learning_rate, generator=generator,
        validate=None if valid is None else partial(mean_elbo, frames=valid), validations=max(1, recipe.epochs // 5),
        progress=progress,
    )  # fmt: skip
    return fitted.model, fitted.curve


def mean_elbo(net: VAE, frames: torch.Tensor) -> float:
    """The bound on log p of a frame, nats, mean over frames (N, F), one draw each from a generator of its own."""
    noise = torch.randn(1, 1, net.latent, len(frames), generator=generators(0, 1)[0])
    with torch.inference_mode():
        return float(net.elbo(frames.mT[None], noise).mean())


def _batches(frames: torch.Tensor, recipe: VAERecipe, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Batches (1, F, batch) of frames (N, F) in random order, each frame at a random level, epoch after epoch."""
    for _ in range(recipe.epochs):
        order = torch.randperm(len(frames), generator=generator)
        for rows in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
            level = recipe.level_db / 10 * (2 * torch.rand(recipe.batch, generator=generator) - 1)
            yield frames[rows].mT[None] * 10**level


def exchange_bins(P: torch.Tensor, fraction: float, generator: torch.Generator) -> torch.Tensor:
    """Spectra (N, F) of which a fraction of the bins has the power of another bin of the same frame, drawn at random.

    What a background model learns from besides noise (Ren et al., 2019, § 3): all of speech's levels, not its shape.
    """
    elsewhere = torch.randint(P.shape[-1], P.shape, generator=generator)
    return torch.where(torch.rand(P.shape, generator=generator) < fraction, P.gather(-1, elsewhere), P)
