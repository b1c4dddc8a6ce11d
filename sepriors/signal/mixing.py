"""Mixtures at an exact signal-to-noise ratio."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

# suffix, format, bits after the point
FORMS = ((".flac", "PCM_16", 15), (".flac", "PCM_24", 23), (".wav", "FLOAT", None))
TOLERANCE = 0.01  # dB between the ratio that was asked for and that of the files


class Mixture(NamedTuple):
    """noisy = clean + noise, each (..., N), the signal-to-noise ratio in dB, and the keys that name the recordings."""

    noisy: torch.Tensor
    clean: torch.Tensor
    noise: torch.Tensor
    snr_db: float
    key: tuple[str, ...]


def mix(
    clean: torch.Tensor, noise: torch.Tensor, snr_db: float, key: tuple[str, ...] = (), *, peak: float = 0.99
) -> Mixture:
    """Add noise to speech so that 10 log10(Σ clean² / Σ noise²) is `snr_db`, for each utterance of a batch.

    clean and noise (..., N). Where one of the three signals would pass `peak` (full scale is 1), one gain lowers them
    all, so nothing clips, the ratio stays, and clean + noise is still noisy.

    Raises ValueError where the lengths differ, a value is not finite, a signal is silent (no ratio exists), or the
    ratio is not within 300 dB.

    >>> m = mix(torch.randn(2, 1000), torch.randn(2, 1000), snr_db=5.0)
    >>> snr = 10 * (m.clean.square().sum(-1) / m.noise.square().sum(-1)).log10()
    >>> torch.testing.assert_close(snr, torch.full((2,), 5.0))
    """
    if clean.shape != noise.shape:
        shapes = tuple(clean.shape), tuple(noise.shape)
        raise ValueError("clean has shape {} but noise has {}; cut them to one length".format(*shapes))
    for name, signal in (("clean", clean), ("noise", noise)):
        if not signal.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite samples")
        if not signal.square().sum(-1).gt(0).all():
            raise ValueError(f"{name} is silent, so no gain gives it a signal-to-noise ratio of {snr_db} dB")
    if not abs(snr_db) <= 300:
        raise ValueError(f"expected a signal-to-noise ratio from -300 to 300 dB, got {snr_db}")
    ratio = clean.double().square().sum(-1, keepdim=True) / noise.double().square().sum(-1, keepdim=True)
    noise = noise * (ratio / 10 ** (snr_db / 10)).sqrt().to(noise)
    top = torch.stack([clean.abs(), noise.abs(), (clean + noise).abs()]).amax((0, -1)).unsqueeze(-1)
    gain = (peak / top).clamp_max(1.0)
    clean, noise = gain * clean, gain * noise
    return Mixture(clean + noise, clean, noise, float(snr_db), key)


def form(mixtures: Sequence[Mixture]) -> tuple[str, str]:
    """The suffix and the sample format of the smallest files that keep the ratio of all mixtures to TOLERANCE.

    The ratio is that of clean to noise, and that of clean to what noisy has beside it. Sixteen bits do not know noise
    below -96 dB of full scale. Raises ValueError where not even floating point keeps it.

    >>> speech, noise = torch.randn(2, 1000)
    >>> form([mix(0.1 * speech, noise, 0.0)]), form([mix(0.001 * speech, noise, 30.0)])
    (('.flac', 'PCM_16'), ('.flac', 'PCM_24'))
    """
    for suffix, subtype, bits in FORMS:
        if all(_kept(mixture, bits) for mixture in mixtures):
            return suffix, subtype
    extreme = max((m.snr_db for m in mixtures), key=abs)
    raise ValueError(f"no sample format keeps a signal-to-noise ratio of {extreme:g} dB; expected one nearer to 0")


def _kept(mixture: Mixture, bits: int | None) -> bool:
    """Whether the ratio stays where samples are rounded to so many bits; None: they are not."""
    noisy, clean, noise = (x.double() for x in mixture[:3])
    if bits is not None:
        noisy, clean, noise = (torch.round(x * 2**bits) for x in (noisy, clean, noise))
    energies = (x.square().sum(-1) for x in (noise, noisy - clean))
    errors = (10 * (clean.square().sum(-1) / energy).log10() - mixture.snr_db for energy in energies)
    return all(bool((error.abs() <= TOLERANCE).all()) for error in errors)
