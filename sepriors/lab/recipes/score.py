"""The denoiser of the diffusion chapter, and its supervised rival."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from sepriors.lab.corpora import Corpora
from sepriors.lab.recipes.base import Data, Drawn, Learned, OfOneCorpus, OneFit, device
from sepriors.lab.training.simulator import at_snr, choose, crop, training_noise
from sepriors.priors import Denoiser
from sepriors.signal.rng import generators


@dataclass(frozen=True)
class ScoreRecipe(OfOneCorpus, OneFit):
    r"""A denoiser of compressed spectra, by denoising score matching (Vincent, 2011; Karras et al., 2022, eq. 108).

    Speech has a greatest amplitude of about 1 and is then lowered at random, to `quiet` at the least, since it is the
    mixture that will have 1; $\sigma$ is spread evenly in its logarithm; the variance learns from what the mean has
    missed. A `conditional` one has with each spectrum that of the same speech in training noise of the classes
    `noises`, at `snrs` dB: the supervised rival.
    """

    conditional: bool = False
    noises: tuple[str, ...] = ("home", "vehicle", "weather")
    snrs: tuple[float, float] = (-6.0, 12.0)
    quiet: float = 0.3
    steps: int = 14_000
    batch: int = 8
    frames: int = 256
    learning_rate: float = 1e-3
    channels: tuple[int, ...] = (48, 80, 128, 144)
    likelihood: float = 0.1  # what the variance's log-likelihood weighs in the loss

    curve = "valid_error", 4
    clip = 1.0
    fast = False

    @property
    def about(self) -> str:
        noises = ", ".join(self.noises)
        of = f"speech, conditional on its mixture with noise ({noises})" if self.conditional else "speech"
        return f"denoiser of compressed spectra of {of}, a U-Net of {' '.join(map(str, self.channels))} channels"

    def make(self, g: torch.Generator) -> Denoiser:
        """The network before training."""
        net = Denoiser(channels=self.channels, conditional=self.conditional)
        net.start(g)
        return net

    def data(self, corpora: Corpora, seed: int, progress: bool) -> Data:
        """Spectra of speech, and 64 of validation speech at its full level."""
        draw, facts = self.spectrograms(corpora, seed, progress)
        valid, _ = replace(self, batch=64, quiet=1.0).spectrograms(corpora, seed, False, "valid")
        return Data(draw, valid(*generators(0, 1)), facts)

    def spectrograms(self, corpora: Corpora, seed: int, progress: bool, split: str = "train") -> Drawn:
        """A function that draws compressed spectra (batch, 1, F, frames), or (batch, 2, ...) with noisy ones behind.

        What is longer is cropped, what is shorter filled with silence.
        """
        rows, facts = self.files(corpora, seed, split)
        net = Denoiser(channels=(8, 8))  # of which only the transform is used
        length = net.stft.hop * (self.frames - 1)

        def transform(x: torch.Tensor) -> torch.Tensor:
            return net.compression(net.stft(x))

        files, peaks = [], []
        for x in tqdm(corpora.decoded(rows, progress=progress), desc="speech", disable=not progress):
            files.append(nn.functional.pad(x, (0, max(0, length - len(x)))))
            peaks.append(float(transform(x).abs().max().clamp_min(1e-8)))
        odds = torch.tensor([float(len(x)) for x in files])
        noises = [x.tile(-(-length // len(x))) for x in corpora.decoded(self.noise_files(corpora))]
        if self.conditional:
            facts["noises"] = len(noises)

        def draw(g: torch.Generator) -> torch.Tensor:
            which = choose(odds, self.batch, g)
            gain = self.quiet + (1 - self.quiet) * torch.rand(self.batch, 1, 1, generator=g)
            clean = torch.stack([crop(files[k], length, g) for k in which])
            if not self.conditional:
                return (gain * (transform(clean) / torch.tensor([peaks[k] for k in which])[:, None, None]))[:, None]
            those = torch.randint(len(noises), (self.batch,), generator=g).tolist()
            noise = torch.stack([crop(noises[k], length, g) for k in those])
            noisy = at_snr(clean, noise, self.snrs, g, faint=1e-10)
            both = transform(torch.stack([clean, noisy], 1))
            peak = both[:, 1].abs().amax((-2, -1)).clamp_min(1e-8)
            return (gain / peak[:, None, None])[:, None] * both

        return draw, facts

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """The mean loss at noise levels that are spread evenly over the network's range."""
        low, high = (math.log(sigma) for sigma in (model.sigma_min, model.sigma_max))
        even = (torch.arange(len(batch)) + torch.rand(len(batch), generator=g)) / len(batch)
        sigma = torch.exp(low + (high - low) * even).to(batch.device)
        return self.errors(model, batch, sigma, g)[0].mean()

    def errors(
        self, model: Any, batch: torch.Tensor, sigma: torch.Tensor, g: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each spectrum, and its squared error over what independent bins would leave; σ (B,)."""
        clean, noisy = batch[:, 0], batch[:, 1] if self.conditional else None
        sigma = sigma[:, None, None]
        z = torch.randn(clean.shape, dtype=clean.dtype, generator=g).to(clean.device)
        found = model.denoise(clean + sigma * z, sigma, noisy)
        missed = (clean - found.mean).abs().square()[..., :-1, :]
        error = (missed / model.weight(sigma)).mean((-2, -1))
        variance = found.variance[..., :-1, :]
        return error + self.likelihood * (missed.detach() / variance + variance.log()).mean((-2, -1)), error

    def by_level(self, model: Any, held_out: torch.Tensor) -> list[float]:
        """The mean error of eight spectra each at eight noise levels, as a schedule uses them: .02 to 1.74."""
        levels = torch.logspace(-1.7, 0.24, 8).to(device())
        rows = zip(held_out.to(device()).split(8), levels, strict=True)
        return [float(self.errors(model, b, s.expand(8), generators(0, 1)[0])[1].mean()) for b, s in rows]

    def validate(self, model: Any, held_out: torch.Tensor) -> float:
        """The mean of these."""
        return sum(self.by_level(model, held_out)) / 8

    def finish(self, model: Any, held_out: torch.Tensor) -> Learned:
        """The network's parameters, in half precision, and its error on validation speech by noise level."""
        with torch.inference_mode():
            errors = self.by_level(model, held_out)
        facts = {"valid_error_by_sigma": [round(value, 4) for value in errors]}
        return super().finish(model, held_out)._replace(facts=facts)

    def noise_files(self, corpora: Corpora) -> pd.DataFrame:
        """The rival's noise."""
        return training_noise(corpora, self.noises) if self.conditional else super().noise_files(corpora)

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(steps=4, batch=2, frames=32, channels=(8, 8))
