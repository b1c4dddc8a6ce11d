"""Sounds that are not clean speech, or not quite, to try a prior on: (clips, N) at 16 kHz, from a generator."""

import math

import torch

from sepriors.signal.stft import STFT

RATE = 16000


def white(clips: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """White Gaussian noise of unit power."""
    return torch.randn(clips, length, generator=generator)


def pink(clips: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise whose power falls as 1/f above 20 Hz, unit power."""
    spectrum = torch.fft.rfft(white(clips, length, generator))
    f = torch.fft.rfftfreq(length, 1 / RATE)
    return at_level(torch.fft.irfft(spectrum / f.clamp_min(20).sqrt(), length), torch.ones(1))


def tones(clips: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Chords of a decaying harmonic instrument: every half second three notes of the tempered scale, 110 to 440 Hz."""
    beat = RATE // 2
    beats = -(-length // beat)
    notes = torch.randint(0, 25, (clips, beats, 3, 1, 1), generator=generator)
    partials = torch.arange(1, 9)[:, None]
    seconds = torch.arange(beat) / RATE
    frequency = 110 * 2 ** (notes / 12) * partials
    partial_waves = torch.sin(2 * math.pi * frequency * seconds) / partials * torch.exp(-3 * seconds * partials.sqrt())
    return at_level(partial_waves.sum((2, 3)).flatten(1)[:, :length], torch.ones(1))


def silence(clips: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """What a converter gives when nobody speaks: the last bit of 16, up or down or still, at random."""
    return torch.randint(-1, 2, (clips, length), generator=generator) / 32768


def babble(talkers: torch.Tensor) -> torch.Tensor:
    """The sum of talkers (talkers, ..., N), each brought to the same power -> (..., N)."""
    return at_level(talkers, torch.ones(1)).sum(0)


def whispered(x: torch.Tensor, generator: torch.Generator, *, quefrency: float = 0.002) -> torch.Tensor:
    """Speech (..., N) without its voice: the spectral envelope of each frame on white noise, at the power of x.

    The envelope is the cepstrum below `quefrency` seconds, less than the period of any voice (Oppenheim & Schafer,
    2010, § 13.10).
    """
    stft = STFT(512, 128)
    log_P = stft(x).abs().square().clamp_min(1e-12).log()
    cepstrum = torch.fft.irfft(log_P, stft.n_fft, dim=-2)
    keep = round(quefrency * RATE)
    cepstrum[..., keep : stft.n_fft - keep + 1, :] = 0
    envelope = torch.fft.rfft(cepstrum, dim=-2).real.div(2).exp()
    noise = stft(torch.randn(x.shape, generator=generator, dtype=x.dtype))
    return at_level(stft.inverse(envelope * noise, x.shape[-1]), x)


def at_level(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """x (..., N) with the mean power of `like`; silence stays silence."""
    power = x.square().mean(-1, keepdim=True)
    return x * (like.square().mean(-1, keepdim=True) / torch.where(power > 0, power, 1)).sqrt()


def restlessness(x: torch.Tensor) -> torch.Tensor:
    """By how much the level of a noise's bands moves, whatever its level: (..., N) -> (...), dB.

    The standard deviation over time of each bin's power in steps of 100 ms, averaged over bins.

    >>> g = torch.Generator().manual_seed(0)
    >>> steady = white(1, 32000, g)
    >>> bool(restlessness(steady * torch.arange(32000).div(4000).cos()) > 1.5 * restlessness(steady))
    True
    """
    power = torch.nn.functional.avg_pool1d(STFT(512, 256)(x).abs().square(), 6)
    return (10 * power.clamp_min(1e-12).log10()).std(-1).mean(-1)
