"""What speech in noise is like: recordings, filters, rooms and levels, drawn anew for each step of a training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol, Self

import pandas as pd
import torch
from torchaudio.functional import fftconvolve

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.corpora.store import Decoded
from sepriors.lab.training.rooms import Responses, simulate
from sepriors.signal.rng import generators

FAINT = 0.01  # power of a clip, over its file's, below which its pauses are not made louder to meet a ratio


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square (..., 1) of clips (..., N), never zero."""
    return x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)


def choose(odds: torch.Tensor, count: int, g: torch.Generator) -> list[int]:
    """Which of the files come next: so many, each as often as its odds say."""
    return torch.multinomial(odds, count, replacement=True, generator=g).tolist()


def crop(x: torch.Tensor, length: int, g: torch.Generator) -> torch.Tensor:
    """A part of that length of a file (N, ...), from anywhere in it."""
    start = int(torch.randint(len(x) - length + 1, (), generator=g))
    return x[start : start + length]


class NoiseSource(Protocol):
    """What a `Simulator` takes noise from."""

    def draw(self, count: int, g: torch.Generator) -> torch.Tensor:
        """Clips (count, N), of power about 1."""


@dataclass(frozen=True)
class Clips:
    """Clips of so many samples from recordings, each brought to power 1 as a whole; `odds` says how often each comes.

    A recording that is shorter than a clip is filled up with silence, or goes round.
    """

    files: Decoded
    gains: Sequence[float]
    odds: torch.Tensor
    length: int
    around: bool = False

    @classmethod
    def of_speech(cls, corpora: Corpora, rows: pd.DataFrame, length: int, *, progress: bool = False) -> Self:
        """Every second of the recordings comes equally often."""
        files = corpora.decoded(rows, progress=progress)
        return cls(files, _gains(files), torch.tensor(files.lengths, dtype=torch.float64), length)

    @classmethod
    def of_noise(cls, corpora: Corpora, rows: pd.DataFrame, length: int, *, progress: bool = False) -> Self:
        """How often each comes, `noise_odds` says."""
        files = corpora.decoded(rows, progress=progress)
        return cls(files, _gains(files), noise_odds(rows, files.lengths), length, around=True)

    def draw(self, count: int, g: torch.Generator) -> torch.Tensor:
        """Clips (count, N)."""
        return torch.stack([self._clip(i, g) for i in choose(self.odds, count, g)])

    def _clip(self, i: int, g: torch.Generator) -> torch.Tensor:
        spare = len(self.files.samples[i]) - self.length
        if spare >= 0:
            start = int(torch.randint(spare + 1, (), generator=g))
            return self.gains[i] * self.files.part(i, start, start + self.length)
        x = self.gains[i] * self.files[i]
        if not self.around:
            return torch.nn.functional.pad(x, (0, -spare))
        start = int(torch.randint(len(x), (), generator=g))
        return x.roll(-start).repeat(-(-self.length // len(x)))[: self.length]


def noise_odds(rows: pd.DataFrame, lengths: Sequence[int]) -> torch.Tensor:
    """A class of noise comes as the root of its seconds says, each second in it equally often.

    So two recordings of cafes are not lost among three hundred of a home, nor come without end.
    """
    seconds = pd.Series(lengths, index=rows.index, dtype=float)
    odds = seconds / seconds.groupby(rows["cls"]).transform("sum").pow(0.5)
    return torch.tensor(odds.tolist(), dtype=torch.float64)


def _gains(files: Decoded) -> list[float]:
    return [1 / float(rms(x)) for x in files]


@dataclass(frozen=True)
class Conditions:
    """What a `Simulator` draws from: ranges are even in decibels, chances are of each clip on its own."""

    snr_db: tuple[float, float] = (-10.0, 20.0)
    second: float = 0.5  # chance of a second recording of noise, fainter than the first
    babble: float = 0.1  # chance that the noise is other training talkers, all at once
    talkers: tuple[int, int] = (3, 8)  # of babble
    tilt_db: float = 3.0  # of each cosine of a random equaliser (speech and noise have their own)
    rooms: float = 0.0  # chance of a room between the talker and the microphone
    responses: int = 200  # rooms to draw from


# Of the second corpora: a test and a validation recording under another name (tests/test_corpora.py finds them)
ELSEWHERE_TOO = ("Projektarbeit_1_vacuuming_0", "esc_clock_alarm_1-14262-A")


def training_noise(corpora: Corpora, classes: Sequence[str] = ()) -> pd.DataFrame:
    """The noise recordings that a network learns from, of these classes or of all."""
    chosen: Any = {"cls": classes} if classes else {}
    rows = corpora.select(kind="noise", split="train", **chosen)
    rows = rows[~rows["path"].map(lambda path: PurePosixPath(path).stem).isin(ELSEWHERE_TOO)]
    if rows.empty:
        raise CorpusError(f"expected training noise of {' or '.join(classes) or 'any class'}, got none; {corpora}")
    return rows


def at_most(rows: pd.DataFrame, minutes: float) -> pd.DataFrame:
    """The first of the recordings, no more than so many minutes of them, but one."""
    return rows[: max(1, int((rows["seconds"].cumsum() <= 60 * minutes).sum()))]


class Pairs(NamedTuple):
    """Mixtures and the speech in them (B, N), in step; of speech in a room, the direct sound and early reflections."""

    noisy: torch.Tensor
    clean: torch.Tensor


@dataclass(frozen=True)
class Simulator:
    """Draws mixtures of training recordings, and the speech in them; all that is random comes from the generator."""

    speech: Clips
    noise: NoiseSource
    conditions: Conditions = Conditions()
    responses: Responses | None = None

    @classmethod
    def read(
        cls, corpora: Corpora, speech: pd.DataFrame, noise: pd.DataFrame | NoiseSource, *, seconds: float,
        conditions: Conditions = Conditions(), seed: int = 0, progress: bool = False,
    ) -> Self:  # fmt: skip
        """From rows of the manifest, or another source of noise; its rooms are those of the seed."""
        length = round(16000 * seconds)
        return cls(
            Clips.of_speech(corpora, speech, length, progress=progress),
            Clips.of_noise(corpora, noise, length, progress=progress) if isinstance(noise, pd.DataFrame) else noise,
            conditions,
            simulate(conditions.responses, *generators(seed, 1), progress=progress) if conditions.rooms else None,
        )

    def draw(self, count: int, g: torch.Generator) -> Pairs:
        """So many mixtures, with the power of their speech about 1."""
        clean = equalised(self.speech.draw(count, g), g, self.conditions.tilt_db)
        reverberant, clean = self._in_rooms(clean, g)
        noise = equalised(self._noise(count, g), g, self.conditions.tilt_db)
        return Pairs(at_snr(reverberant, noise, self.conditions.snr_db, g), clean)

    def _noise(self, count: int, g: torch.Generator) -> torch.Tensor:
        """Clips (count, N): of one recording, of two, or of talkers."""
        c = self.conditions
        one, two = (self.noise.draw(count, g) for _ in range(2))
        second = chance(c.second, count, g) * torch.rand(count, 1, generator=g)
        talking = chance(c.babble, count, g)
        noise = one + second * two
        for i in talking.flatten().nonzero().flatten().tolist():
            talkers = int(torch.randint(c.talkers[0], c.talkers[1] + 1, (), generator=g))
            noise[i] = self.speech.draw(talkers, g).sum(0)
        return noise

    def _in_rooms(self, clean: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Speech (B, N) at the microphone, and what of it is wanted: both the same where there is no room."""
        those = chance(self.conditions.rooms, len(clean), g).flatten().nonzero().flatten()
        if self.responses is None or not len(those):
            return clean, clean
        rooms = torch.randint(len(self.responses.whole), (len(those),), generator=g)
        reverberant, wanted = clean.clone(), clean.clone()
        for signal, response in zip((reverberant, wanted), self.responses, strict=True):
            signal[those] = fftconvolve(clean[those], response[rooms])[..., : clean.shape[-1]]
        return reverberant, wanted


def chance(odds: float, count: int, g: torch.Generator) -> torch.Tensor:
    """True with these odds, (count, 1)."""
    return torch.rand(count, 1, generator=g) < odds


def at_snr(
    speech: torch.Tensor, noise: torch.Tensor, snrs: tuple[float, float], g: torch.Generator, faint: float = FAINT
) -> torch.Tensor:
    """Clips (B, N) of speech in noise, each at an SNR of its own between the two, dB.

    Both of power about 1; a clip whose power is below `faint`, a pause, counts as that.
    """
    snr = snrs[0] + (snrs[1] - snrs[0]) * torch.rand(len(speech), 1, generator=g)
    power = [x.square().mean(-1, keepdim=True).clamp_min(faint) for x in (speech, noise)]
    return speech + noise * (power[0] / power[1] * 10 ** (-snr / 10)).sqrt()


def equalised(x: torch.Tensor, g: torch.Generator, tilt_db: float = 3.0) -> torch.Tensor:
    """Clips (B, N) through filters drawn at random: three cosines over frequency, of so many decibels each.

    Recordings are few, and rooms and microphones many.
    """
    X = torch.fft.rfft(x)
    place = torch.linspace(0, math.pi, X.shape[-1])
    curve = torch.stack([torch.cos(k * place) for k in (1, 2, 3)])
    gain_db = tilt_db * torch.randn(len(x), 3, generator=g) @ curve
    return torch.fft.irfft(X * 10 ** (gain_db / 20), x.shape[-1])
