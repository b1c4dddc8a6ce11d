"""Amortised posteriors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
import torch

from sepriors.lab.corpora import Corpora
from sepriors.lab.recipes.base import (
    Learned,
    LongRecipe,
    OfOneCorpus,
    about,
    chosen,
    device,
    to_float16,
    validation_pairs,
)
from sepriors.lab.recipes.bsse import snr
from sepriors.lab.training.fitting import fit
from sepriors.lab.training.simulated_noise import Either, FittedNoise, GenericNoise, NoiseSource
from sepriors.lab.training.simulator import Clips, Conditions, Simulator, training_noise
from sepriors.metrics import si_sdr
from sepriors.priors.npe import NPE, Posterior
from sepriors.signal.rng import generators, seeded_global_rng

Knowledge = Literal["generic", "fitted", "recorded"]


@dataclass(frozen=True)
class NPERecipe(OfOneCorpus, LongRecipe):
    """An amortised posterior (`npe`), trained on clean speech with noise of the book's own model.

    `knowledge` says what is known of noise: nothing recorded, but generic shapes; the variances of factorised training
    recordings; or the recordings themselves, that is, pairs. The last two take generic shapes in a share `generic` of
    the mixtures, too. The loss is the SNR in decibels, and the posterior's likelihood of the true spectrum.
    """

    knowledge: Knowledge = "fitted"
    generic: float = 0.3
    conditions: Conditions = Conditions(babble=0.0, rooms=0.05)  # noqa: RUF009
    likelihood: float = 1.0  # what a nat a bin counts beside a decibel
    steps: int = 16_000
    batch: int = 16
    seconds: float = 2.5
    learning_rate: float = 1e-3
    width: int = 288
    hidden: int = 288
    watched: int = 48  # validation mixtures
    validations: int = 40

    @property
    def about(self) -> str:
        of = {
            "generic": "simulated Gaussian noise of generic shapes, no recording among them",
            "fitted": "simulated Gaussian noise with the variances of recordings",
            "recorded": "recorded noise; supervised: trained on pairs",
        }
        return f"amortised posterior of speech, two recurrent layers of {self.hidden}, in {of[self.knowledge]}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and its SI-SDR gain on validation mixtures."""
        (g,) = generators(seed, 1)
        with seeded_global_rng(g):
            made = NPE(width=self.width, hidden=self.hidden)
        watched = validation_pairs(corpora, files=self.watched, seconds=4.0)
        before = si_sdr(watched.clean, watched.noisy)
        rows, facts = chosen(self, corpora, seed, "train")
        simulator = self.simulator(corpora, rows, seed, progress)
        if self.knowledge != "generic":
            facts |= {f"noise_{key}": value for key, value in about(training_noise(corpora)).items()}

        def draw(g: torch.Generator) -> torch.Tensor:
            pairs = torch.stack(simulator.draw(self.batch, g))
            return pairs / pairs[0].square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)

        def validate(model: Any) -> float:
            with torch.inference_mode():
                return float((si_sdr(watched.clean, model.enhance(watched.noisy.to(device())).cpu()) - before).mean())

        fitted = fit(
            made.to(device()), draw, self.loss, steps=self.steps, learning_rate=self.learning_rate, generator=g,
            clip=5.0, validate=validate, validations=self.validations, warm=500, fast=False, checkpoint=checkpoint,
            progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
        )  # fmt: skip
        facts["valid_si_sdr_gain"] = [round(value, 2) for value in fitted.curve]
        return Learned(to_float16(fitted.model), made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def simulator(self, corpora: Corpora, rows: pd.DataFrame, seed: int, progress: bool) -> Simulator:
        """What draws the mixtures."""
        length = round(16000 * self.seconds)
        source: NoiseSource = GenericNoise(length)
        if self.knowledge != "generic":
            recordings = training_noise(corpora)
            if self.knowledge == "fitted":
                known: NoiseSource = FittedNoise.of_recordings(corpora, recordings, length, progress=progress)
            else:
                known = Clips.of_noise(corpora, recordings, length, progress=progress)
            source = Either(source, known, self.generic)
        return Simulator.read(
            corpora, rows, source, seconds=self.seconds, conditions=self.conditions, seed=seed, progress=progress
        )

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Minus the SNR (dB), and minus the log-density of the true spectrum a bin; a batch (2, B, N) is pairs.

        In half of the steps a second pass learns, from what the first has found.
        """
        noisy, clean = batch
        X, S = model.stft(noisy), model.stft(clean)
        guess = X.abs().square().mean(-1, keepdim=True)
        if torch.rand((), generator=g) < 0.5:
            with torch.no_grad():
                guess = model(X, guess).noise_power(X)
        found: Posterior = model(X, guess)
        variance = found.variance.clamp_min(1e-6)
        surprise = ((S - found.mean).abs().square() / variance + variance.log()).mean()
        made = model.stft.inverse(found.mean, clean.shape[-1])
        return self.likelihood * surprise - snr(clean, made).mean()

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows: speech, and noise unless it is generic."""
        rows = super().heard(corpora)
        return rows if self.knowledge == "generic" else pd.concat([rows, training_noise(corpora)])

    def smoke(self) -> Self:
        """Cut to seconds."""
        rooms = replace(self.conditions, responses=2)
        small = {"width": 8, "hidden": 8, "watched": 4, "validations": 4}
        return self.shorten(steps=4, batch=2, seconds=0.5, conditions=rooms, **small)
