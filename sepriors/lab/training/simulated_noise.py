"""Gaussian noise whose variance is drawn: from generic shapes, or from factorisations of recordings.

What an amortised posterior learns from in place of recorded mixtures: the book's own noise model, simulated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd
import torch
from tqdm import tqdm

from sepriors.inference import nmf
from sepriors.lab.corpora import Corpora
from sepriors.lab.training.simulator import NoiseSource, chance, choose, noise_odds, rms
from sepriors.signal.rng import generators
from sepriors.signal.stft import STFT


def gaussian(V: torch.Tensor, stft: STFT, length: int, g: torch.Generator) -> torch.Tensor:
    """Clips (B, N) of local Gaussian noise with variance V (B, F, T): white noise, filtered frame by frame; power 1.

    >>> gaussian(torch.rand(2, 9, 5), STFT(16, 8), 32, torch.Generator()).shape
    torch.Size([2, 32])
    """
    white = torch.randn(len(V), length, generator=g)
    x = stft.inverse(stft(white) * V.sqrt(), length)
    return x / rms(x)


@dataclass(frozen=True)
class GenericNoise:
    """Noise that nobody has recorded: sums of tilts, bumps and lines that are steady, drift, beat or knock.

    Each of `parts` spectral shapes has a course of its own in time; the first is the loudest, the others lie up to
    `range_db` below it.
    """

    length: int  # samples
    stft: STFT = STFT(1024, 256)  # noqa: RUF009
    parts: int = 5
    range_db: float = 30.0

    def draw(self, count: int, g: torch.Generator) -> torch.Tensor:
        """Clips (count, N), of power 1."""
        return gaussian(self.variance(count, g), self.stft, self.length, g)

    def variance(self, count: int, g: torch.Generator) -> torch.Tensor:
        """The variance (count, F, T) that they are drawn from."""
        T = 1 - (-self.length // self.stft.hop)
        size = (count, self.parts)
        shapes = pick([tilts, bumps, lines], size, self.stft, g)
        courses = pick([steady, drifting, beating, knocking], size, T, g, rate=self.stft.sample_rate / self.stft.hop)
        level = 10 ** (-self.range_db / 10 * torch.rand(size, generator=g))
        level[:, 0] = 1
        return torch.einsum("bk,bkf,bkt->bft", level, shapes / shapes.mean(-1, keepdim=True), courses)


def pick(kinds: Sequence, size: tuple[int, int], of: STFT | int, g: torch.Generator, **known: float) -> torch.Tensor:
    """One of several kinds of curve, drawn for each place."""
    curves = torch.stack([kind(size, of, g, **known) for kind in kinds])
    which = torch.randint(len(kinds), size, generator=g)
    return curves.gather(0, which[None, ..., None].expand(1, *size, curves.shape[-1]))[0]


def between(low: float, high: float, size: tuple[int, ...], g: torch.Generator) -> torch.Tensor:
    """Even between two bounds, with a last dimension to spread over bins or frames."""
    return low + (high - low) * torch.rand(*size, 1, generator=g)


def octaves(stft: STFT) -> torch.Tensor:
    """Of each bin over 1 kHz; the lowest stands for the offset."""
    return (torch.arange(stft.bins).clamp_min(0.5) * stft.sample_rate / stft.n_fft / 1000).log2()


def tilts(size: tuple[int, int], stft: STFT, g: torch.Generator) -> torch.Tensor:
    """Power laws of frequency: 3 dB an octave up to 12 dB down."""
    return 10 ** (-between(-3, 12, size, g) * octaves(stft) / 10)


def bumps(size: tuple[int, int], stft: STFT, g: torch.Generator) -> torch.Tensor:
    """A band of a third to three octaves, anywhere from 60 Hz to 8 kHz, over a floor 40 dB below."""
    centre, width = between(-4, 3, size, g), between(0.3, 3.0, size, g)
    return torch.exp(-0.5 * ((octaves(stft) - centre) / width).square()) + 1e-4


def lines(size: tuple[int, int], stft: STFT, g: torch.Generator) -> torch.Tensor:
    """A tone of 40 Hz to 3 kHz and its harmonics, each some decibels below the last, over a floor 40 dB below."""
    f = torch.arange(stft.bins) * stft.sample_rate / stft.n_fft
    pitch = 1000 * 2 ** between(-4.6, 1.6, size, g)
    number = (f / pitch).round().clamp_min(1)
    power = 10 ** (-between(0, 2, size, g) * (number - 1) / 2)
    width = between(10, 60, size, g)
    return power * torch.exp(-0.5 * ((f - number * pitch) / width).square()) + 1e-4


def steady(size: tuple[int, int], T: int, g: torch.Generator, rate: float) -> torch.Tensor:
    """The same all the time."""
    return torch.ones(*size, T)


def drifting(size: tuple[int, int], T: int, g: torch.Generator, rate: float) -> torch.Tensor:
    """Levels that wander by some 3 to 10 dB, within a fifth of a second to two."""
    apart = torch.arange(T)[:, None] - torch.arange(T)
    frames = rate * 2 ** between(-2.3, 1, size, g)[..., None]
    blend = torch.exp(-0.5 * (apart / frames).square())
    walk = (blend @ torch.randn(*size, T, 1, generator=g))[..., 0] / blend.square().sum(-1).sqrt()
    return 10 ** (between(3, 10, size, g) * walk / 10)


def beating(size: tuple[int, int], T: int, g: torch.Generator, rate: float) -> torch.Tensor:
    """Levels that swing half a time to twelve times a second, by up to 20 dB."""
    phase = 2 * math.pi * (between(0.5, 12, size, g) * torch.arange(T) / rate + between(0, 1, size, g))
    return 10 ** (between(2, 20, size, g) * (phase.sin() - 1) / 20)


def knocking(size: tuple[int, int], T: int, g: torch.Generator, rate: float) -> torch.Tensor:
    """Knocks, half of one to eight a second, that die away within 20 to 400 ms, over a floor 30 dB below."""
    often = between(0.5, 8, size, g) / rate
    knocks = (torch.rand(*size, T, generator=g) < often) * 10 ** (torch.rand(*size, T, generator=g) - 1)
    frames = rate * between(0.02, 0.4, size, g)[..., None]
    apart = torch.arange(T)[:, None] - torch.arange(T)
    dying = torch.exp(-apart / frames).masked_fill(apart < 0, 0)
    return (dying @ knocks[..., None])[..., 0] + 1e-3


@dataclass(frozen=True)
class Either:
    """Noise of one source, with these odds, or of another."""

    first: NoiseSource
    second: NoiseSource
    odds: float

    def draw(self, count: int, g: torch.Generator) -> torch.Tensor:
        """Clips (count, N)."""
        return torch.where(chance(self.odds, count, g), self.first.draw(count, g), self.second.draw(count, g))


@dataclass(frozen=True)
class FittedNoise:
    """Noise with the variance of factorised recordings: their spectra and courses, and nothing else of them."""

    fits: Sequence[nmf.NMF]  # of one recording each: W (F, K), H (K, T)
    odds: torch.Tensor
    length: int
    stft: STFT = STFT(1024, 256)  # noqa: RUF009

    @classmethod
    def of_recordings(
        cls, corpora: Corpora, rows: pd.DataFrame, length: int, *, rank: int = 8,
        stft: STFT = STFT(1024, 256),  # noqa: B008  it is frozen
        iterations: int = 100, seed: int = 0, progress: bool = False,
    ) -> Self:  # fmt: skip
        """The variances of rows of the manifest, each by an IS-NMF of its own."""
        files = corpora.decoded(rows, progress=progress)
        fits = []
        for x in tqdm(files, desc="factorisations", disable=not progress):
            P = stft(x / rms(x)).abs().square()[None] + 1e-10
            model = nmf.fit(P, rank, iterations=iterations, generators=generators(seed, 1))
            fits.append(nmf.NMF(model.W[0], model.H[0]))
        return cls(fits, noise_odds(rows, files.lengths), length, stft)

    def draw(self, count: int, g: torch.Generator) -> torch.Tensor:
        """Clips (count, N), of power 1."""
        T = 1 - (-self.length // self.stft.hop)
        variances = [self._variance(self.fits[i], T, g) for i in choose(self.odds, count, g)]
        return gaussian(torch.stack(variances), self.stft, self.length, g)

    def _variance(self, fit: nmf.NMF, T: int, g: torch.Generator) -> torch.Tensor:
        """A part (F, T) of a recording's variance; a short one goes round."""
        spare = fit.H.shape[-1] - T
        start = int(torch.randint(max(1, spare + 1) if spare >= 0 else fit.H.shape[-1], (), generator=g))
        frames = (start + torch.arange(T)) % fit.H.shape[-1]
        return fit.W @ fit.H[:, frames]
