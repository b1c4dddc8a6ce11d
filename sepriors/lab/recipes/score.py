"""The score network, and its supervised rival."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from sepriors.lab.corpora import Corpora
from sepriors.lab.recipes.base import Learned, LongRecipe, OfOneCorpus, chosen, device, to_float16
from sepriors.lab.training.fitting import fit
from sepriors.lab.training.simulator import training_noise
from sepriors.priors import Denoiser
from sepriors.signal.rng import generators


@dataclass(frozen=True)
class ScoreRecipe(OfOneCorpus, LongRecipe):
    r"""A denoiser of compressed spectra, by denoising score matching (Vincent, 2011; Karras et al., 2022, eq. 108).

    Speech has a greatest amplitude of about 1 and is then lowered at random, to `quiet` at the least, since it is the
    mixture that will have 1; $\sigma$ is spread evenly in its logarithm; the variance learns from what the mean has
    missed. With `told` each spectrum stands beside that of the same speech in training noise of the classes `noises`,
    at `snrs` dB: the supervised rival.
    """

    told: bool = False
    noises: tuple[str, ...] = ("home", "vehicle", "weather")
    snrs: tuple[float, float] = (-6.0, 12.0)
    quiet: float = 0.3
    steps: int = 14_000
    batch: int = 8
    frames: int = 256
    learning_rate: float = 1e-3
    channels: tuple[int, ...] = (48, 80, 128, 144)
    share: float = 0.1  # of the variance's log-likelihood in the loss

    @property
    def about(self) -> str:
        of = f"speech, told its mixture with noise ({', '.join(self.noises)})" if self.told else "speech"
        return f"denoiser of compressed spectra of {of}, a U-Net of {' '.join(map(str, self.channels))} channels"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and its error on validation speech by noise level."""
        (g,) = generators(seed, 1)
        made = Denoiser(channels=self.channels, conditional=self.told)
        made.start(g)
        draw, facts = spectrograms(self, made, corpora, seed, progress)
        valid = replace(self, minutes=math.inf, batch=64, quiet=1.0)
        held_out = spectrograms(valid, made, corpora, seed, False, split="valid")[0](generators(0, 1)[0])
        low, high = (math.log(sigma) for sigma in (made.sigma_min, made.sigma_max))

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            even = (torch.arange(len(batch)) + torch.rand(len(batch), generator=g)) / len(batch)
            sigma = torch.exp(low + (high - low) * even).to(batch.device)
            return self.errors(model, batch, sigma, g)[0].mean()

        def by_level(model: Any) -> list[float]:
            levels = torch.logspace(-1.7, 0.24, 8)  # .02 to 1.74, as a schedule uses them
            with torch.inference_mode():
                rows = zip(held_out.to(device()).split(8), levels.to(device()), strict=True)
                errors = (self.errors(model, b, s.expand(8), generators(0, 1)[0])[1] for b, s in rows)
                return [float(error.mean()) for error in errors]

        fitted = fit(
            made.to(device()), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=1.0,
            validate=lambda model: sum(by_level(model)) / 8, checkpoint=checkpoint, progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
        )  # fmt: skip
        tensors = to_float16(fitted.model)
        facts["valid_error"] = [round(value, 4) for value in fitted.curve]
        facts["valid_error_by_sigma"] = [round(value, 4) for value in by_level(fitted.model)]
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def errors(
        self, model: Any, batch: torch.Tensor, sigma: torch.Tensor, g: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each spectrum, and its squared error over what independent bins would leave; σ (B,)."""
        clean, noisy = batch[:, 0], batch[:, 1] if self.told else None
        sigma = sigma[:, None, None]
        z = torch.randn(clean.shape, dtype=clean.dtype, generator=g).to(clean.device)
        made = model.denoise(clean + sigma * z, sigma, noisy)
        missed = (clean - made.mean).abs().square()[..., :-1, :]
        error = (missed / model.weight(sigma)).mean((-2, -1))
        variance = made.variance[..., :-1, :]
        return error + self.share * (missed.detach() / variance + variance.log()).mean((-2, -1)), error

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows: the rival's noise besides its speech."""
        rows = super().heard(corpora)
        return pd.concat([rows, training_noise(corpora, self.noises)]) if self.told else rows

    def smoke(self) -> Self:
        """Cut to seconds."""
        return self.shorten(steps=4, batch=2, frames=32, channels=(8, 8))


def spectrograms(
    made: ScoreRecipe, net: Denoiser, corpora: Corpora, seed: int, progress: bool, *, split: str = "train"
) -> tuple[Callable[[torch.Generator], torch.Tensor], dict[str, Any]]:
    """A function that draws compressed spectra (batch, 1, F, frames), or (batch, 2, ...) with the noisy ones behind.

    What is longer is cut, what is shorter filled with silence.
    """
    rows, facts = chosen(made, corpora, seed, split)
    length = net.stft.hop * (made.frames - 1)
    files, peaks = [], []
    for x in tqdm(corpora.decoded(rows, progress=progress), desc="speech", disable=not progress):
        files.append(nn.functional.pad(x, (0, max(0, length - len(x)))))
        peaks.append(float(net.compression(net.stft(x)).abs().max().clamp_min(1e-8)))
    odds = torch.tensor([float(len(x)) for x in files])
    noises: list[torch.Tensor] = []
    if made.told:
        recordings = training_noise(corpora, made.noises)
        noises = [x.tile(-(-length // len(x))) for x in corpora.decoded(recordings)]
        facts["noises"] = len(noises)

    def crop(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        start = int(torch.randint(len(x) - length + 1, (), generator=g))
        return x[start : start + length]

    def draw(g: torch.Generator) -> torch.Tensor:
        which = torch.multinomial(odds, made.batch, replacement=True, generator=g).tolist()
        gain = made.quiet + (1 - made.quiet) * torch.rand(made.batch, 1, 1, generator=g)
        clean = torch.stack([crop(files[k], g) for k in which])
        if not made.told:
            S = net.compression(net.stft(clean)) / torch.tensor([peaks[k] for k in which])[:, None, None]
            return (gain * S)[:, None]
        those = torch.randint(len(noises), (made.batch,), generator=g).tolist()
        noise = torch.stack([crop(noises[k], g) for k in those])
        snr = made.snrs[0] + (made.snrs[1] - made.snrs[0]) * torch.rand(made.batch, 1, generator=g)
        power = [x.square().mean(-1, keepdim=True).clamp_min(1e-10) for x in (clean, noise)]
        noisy = clean + noise * (power[0] / power[1] * 10 ** (-snr / 10)).sqrt()
        both = net.compression(net.stft(torch.stack([clean, noisy], 1)))
        peak = both[:, 1].abs().amax((-2, -1)).clamp_min(1e-8)
        return (gain / peak[:, None, None])[:, None] * both

    return draw, facts
