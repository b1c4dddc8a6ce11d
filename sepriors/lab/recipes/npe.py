"""Amortised posteriors."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import pandas as pd
import torch

from sepriors.lab.corpora import Corpora
from sepriors.lab.recipes.base import Data, OfOneCorpus, OneFit, about, si_sdr_gain, validation_pairs
from sepriors.lab.training.simulated_noise import Either, FittedNoise, GenericNoise, NoiseSource
from sepriors.lab.training.simulator import Clips, Conditions, Pairs, Simulator, rms, training_noise
from sepriors.priors.npe import NPE, Posterior
from sepriors.signal.rng import seeded_global_rng

Knowledge = Literal["generic", "fitted", "recorded"]


@dataclass(frozen=True)
class NPERecipe(OfOneCorpus, OneFit):
    """An amortised posterior (`npe`), trained on clean speech with noise of the book's own model.

    `knowledge` says what is known of noise: nothing recorded, but generic shapes; the variances of factorised training
    recordings; or the recordings themselves, that is, pairs. The last two take generic shapes in a part `generic` of
    the mixtures, too. The loss is the SNR in decibels, and the posterior's likelihood of the true spectrum.
    """

    knowledge: Knowledge = "fitted"
    generic: float = 0.3
    conditions: Conditions = Conditions(babble=0.0, rooms=0.05)  # noqa: RUF009
    likelihood: float = 1.0  # what a nat a bin counts beside a decibel
    steps: int = 6_000
    batch: int = 16
    seconds: float = 2.0
    learning_rate: float = 1e-3
    width: int = 256
    hidden: int = 256
    watched: int = 48  # validation mixtures
    validations: int = 20

    curve = "valid_si_sdr_gain", 2
    clip = 5.0
    fast = False

    @property
    def about(self) -> str:
        of = {
            "generic": "simulated Gaussian noise of generic shapes, no recording among them",
            "fitted": "simulated Gaussian noise with the variances of recordings",
            "recorded": "recorded noise; supervised: trained on pairs",
        }
        return f"amortised posterior of speech, two recurrent layers of {self.hidden}, in {of[self.knowledge]}"

    def make(self, g: torch.Generator) -> NPE:
        """The network before training."""
        with seeded_global_rng(g):
            return NPE(width=self.width, hidden=self.hidden)

    def data(self, corpora: Corpora, seed: int, progress: bool) -> Data:
        """Mixtures of power 1 with their speech, and mixtures of validation recordings."""
        watched = validation_pairs(corpora, files=self.watched, seconds=4.0)
        rows, facts = self.files(corpora, seed)
        simulator = self.simulator(corpora, rows, seed, progress)
        if self.knowledge != "generic":
            facts |= about(self.noise_files(corpora), "noise_")

        def draw(g: torch.Generator) -> torch.Tensor:
            pairs = torch.stack(simulator.draw(self.batch, g))
            return pairs / rms(pairs[0])

        return Data(draw, watched, facts)

    def simulator(self, corpora: Corpora, rows: pd.DataFrame, seed: int, progress: bool) -> Simulator:
        """What draws the mixtures."""
        length = round(16000 * self.seconds)
        source: NoiseSource = GenericNoise(length)
        if self.knowledge != "generic":
            read = FittedNoise.of_recordings if self.knowledge == "fitted" else Clips.of_noise
            source = Either(source, read(corpora, self.noise_files(corpora), length, progress=progress), self.generic)
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
        estimate = model.stft.inverse(found.mean, clean.shape[-1])
        return self.likelihood * surprise - snr(clean, estimate).mean()

    def validate(self, model: Any, held_out: Pairs) -> float:
        """SI-SDR gain, dB."""
        return float(si_sdr_gain(held_out, model.enhance).mean())

    def noise_files(self, corpora: Corpora) -> pd.DataFrame:
        """Noise, unless it is generic."""
        return super().noise_files(corpora) if self.knowledge == "generic" else training_noise(corpora)

    def smoke(self) -> Self:
        """Shortened to seconds."""
        rooms = replace(self.conditions, responses=2)
        small = {"width": 8, "hidden": 8, "watched": 4, "validations": 4}
        return self.shorten(steps=4, batch=2, seconds=0.5, conditions=rooms, **small)


def snr(clean: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """The signal-to-noise ratio (B,) of estimates (B, N), dB, 30 at most: what is nearly right need not be perfect."""
    missed, energy = ((x.square().sum(-1)).clamp_min(1e-10) for x in (clean - estimate, clean))
    return -10 * (missed / energy + 1e-3).log10()
