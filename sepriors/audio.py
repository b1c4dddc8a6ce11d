"""Audio files in and out; every rule for bad audio stands here, once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import soundfile
import torch
import torchaudio


class AudioError(ValueError):
    """A file or a signal that is not the audio it should be; the message names what was expected and what came."""


def check(x: torch.Tensor, name: str = "x") -> torch.Tensor:
    """Return x (..., N) if it is a waveform: a real floating-point tensor, not empty, with finite samples.

    Raises AudioError otherwise.

    >>> check(torch.zeros(3))
    tensor([0., 0., 0.])
    >>> check(torch.zeros(3, dtype=torch.int16), "noisy")
    Traceback (most recent call last):
    sepriors.audio.AudioError: noisy: expected floating-point samples in [-1, 1], got torch.int16; divide by full scale (32768 for 16 bits)
    """
    if not isinstance(x, torch.Tensor):
        raise AudioError(f"{name}: expected a torch.Tensor of samples, got {type(x).__name__}")
    if x.is_complex():
        raise AudioError(f"{name}: expected real samples, got {x.dtype}; a spectrum goes through STFT.inverse first")
    if not x.is_floating_point():
        raise AudioError(
            f"{name}: expected floating-point samples in [-1, 1], got {x.dtype}; divide by full scale (32768 for 16 bits)"
        )
    if x.ndim < 1 or x.numel() == 0:
        raise AudioError(f"{name}: expected at least one sample, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise AudioError(f"{name}: expected finite samples, got {int((~x.isfinite()).sum())} that are NaN or infinite")
    return x


def read(path: str | os.PathLike[str]) -> tuple[torch.Tensor, int]:
    """Samples (channels, N), float32 with full scale 1, and the sample rate in Hz.

    Raises AudioError for a file that is missing, empty, truncated, not audio, or that holds NaN or infinite samples.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(
            f"{path}: no such file" if not path.exists() else f"{path}: expected an audio file, got a folder"
        )
    try:
        with soundfile.SoundFile(path) as file:
            promised = file.frames
            samples = file.read(dtype="float32", always_2d=True)
            rate = file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError(
            f"{path}: expected an audio file that libsndfile reads (WAV, FLAC, OGG, MP3, ...), got {error}"
        ) from error
    if len(samples) == 0:
        raise AudioError(f"{path}: expected at least one sample, got an empty file")
    if len(samples) < promised:
        raise AudioError(f"{path}: truncated, its header promises {promised} samples but only {len(samples)} are there")
    _check_riff_size(path)
    return check(torch.from_numpy(samples.T.copy()), str(path)), rate


def _check_riff_size(path: Path) -> None:
    """libsndfile silently shortens a truncated WAV to what is there; its own header tells."""
    with path.open("rb") as file:
        head = file.read(12)
    size = int.from_bytes(head[4:8], "little")
    streamed = size in (0, 0x7FFFFFFF, 0xFFFFFFFF)  # written by a pipe that could not go back to fill it in
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and not streamed and path.stat().st_size < size + 8:
        raise AudioError(
            f"{path}: truncated, its header promises {size + 8} bytes but only {path.stat().st_size} are there"
        )


def write(
    path: str | os.PathLike[str],
    x: torch.Tensor,
    sample_rate: int,
    *,
    subtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write samples (N,) or (channels, N) as WAV, FLAC or another format that the suffix names; whole, or not at all.

    The file is written beside its place and moved there when complete, so neither a full disk nor a crash leaves half a file or
    harms one that was there. Raises AudioError for samples beyond full scale in an integer format (they would clip), FileExistsError
    unless `overwrite`.
    """
    path = Path(path)
    x = check(x, str(path)).detach().to("cpu", torch.float32)
    if x.ndim > 2:
        raise AudioError(f"{path}: expected samples (N,) or (channels, N), got shape {tuple(x.shape)}")
    format = path.suffix[1:].upper()
    if format not in soundfile.available_formats():
        raise AudioError(
            f"{path}: expected a suffix that libsndfile writes, such as .wav or .flac, got {path.suffix or 'none'!r}"
        )
    subtype = subtype or soundfile.default_subtype(format)
    if subtype.startswith("PCM") and x.abs().max() > 1:
        raise AudioError(
            f"{path}: peak {x.abs().max():.3f} is beyond full scale 1 and would clip in {subtype}; lower it first"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        soundfile.write(part, x.T.numpy(), sample_rate, subtype=subtype, format=format)
        if soundfile.info(part).frames != x.shape[-1]:
            raise OSError(f"{path}: the disk took only a part of the file; is it full?")
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    except BaseException as error:
        Path(part).unlink(missing_ok=True)
        if isinstance(error, soundfile.LibsndfileError):
            raise OSError(f"{path}: could not be written, {error}") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def resample(x: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Band-limited resampling of waveforms (..., N) (torchaudio's windowed sinc); the length is that of the same duration.

    >>> resample(torch.zeros(2, 8000), 8000, 16000).shape
    torch.Size([2, 16000])
    """
    if from_rate == to_rate:
        return x
    return torchaudio.functional.resample(x, from_rate, to_rate, lowpass_filter_width=64)
