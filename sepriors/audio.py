"""Audio files in and out; every rule for bad audio stands here, once."""

from __future__ import annotations

import glob
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import scipy.signal
import soundfile
import torch
import torchaudio

RATES = 100, 768_000  # Hz; the fastest converters there are have 768000, and a damaged header may claim a billion
MAX_KERNEL = 10_000_000  # taps; torchaudio's filter has up × down of them, 44101 Hz to 16 kHz would take 5 GB
FORMATS = {"AIF": "AIFF"}  # suffixes that are not the name of their format
# What keeps a file's length and level: ADPCM pads to whole blocks, 8-bit AIFF to pairs, MP3 and Vorbis add a delay.
PER_SAMPLE = ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE")


class AudioError(ValueError):
    """A file or a signal that is not the audio it should be; the message names what was expected and what came."""


def check(x: torch.Tensor, name: str = "x") -> torch.Tensor:
    """Return x (..., N) if it is a waveform: a real floating-point tensor, not empty, with finite samples.

    Raises AudioError otherwise.

    >>> check(torch.zeros(3))
    tensor([0., 0., 0.])
    >>> check(torch.zeros(3, dtype=torch.int16), "noisy")
    Traceback (most recent call last):
    sepriors.audio.AudioError: noisy: expected floating-point samples in [-1, 1], got torch.int16; divide by full scale
    """
    if not isinstance(x, torch.Tensor):
        raise AudioError(f"{name}: expected a torch.Tensor of samples, got {type(x).__name__}")
    if x.is_complex():
        raise AudioError(f"{name}: expected real samples, got {x.dtype}; a spectrum goes through STFT.inverse first")
    if not x.is_floating_point():
        raise AudioError(f"{name}: expected floating-point samples in [-1, 1], got {x.dtype}; divide by full scale")
    if x.ndim < 1 or x.numel() == 0:
        raise AudioError(f"{name}: expected at least one sample, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise AudioError(f"{name}: expected finite samples, got {int((~x.isfinite()).sum())} that are NaN or infinite")
    return x


def read(path: str | os.PathLike[str]) -> tuple[torch.Tensor, int]:
    """Samples (channels, N), float32 with full scale 1, and the sample rate in Hz.

    Raises AudioError for a file that is missing, empty, truncated, not audio, or that holds NaN or infinite samples,
    and for a sample rate outside RATES.
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
    except MemoryError as error:
        raise AudioError(f"{path}: its header promises {promised} samples, more than memory holds") from error
    # TypeError: .raw has no header; ValueError: libsndfile takes the file for a stream
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError, ValueError) as error:
        raise AudioError(
            f"{path}: expected an audio file that libsndfile reads (WAV, FLAC, OGG, MP3, ...), got {error}"
        ) from error
    if len(samples) == 0:
        raise AudioError(f"{path}: expected at least one sample, got an empty file")
    if len(samples) < promised:
        raise AudioError(f"{path}: truncated, its header promises {promised} samples, there are {len(samples)}")
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{path}: expected a sample rate from {RATES[0]} to {RATES[1]} Hz, got {rate}")
    with path.open("rb") as head:
        size = _promised(head.read(28))
    if path.stat().st_size < size:
        raise AudioError(f"{path}: truncated, its header promises {size} bytes, there are {path.stat().st_size}")
    return check(torch.from_numpy(samples.T.copy()), str(path)), rate


def _promised(head: bytes) -> int:
    """The size that the head of a WAV, RF64, W64 or AIFF file claims, 0 for another file or where it claims none.

    libsndfile silently shortens a truncated one to what is there.
    """
    kind = head[:4], head[8:12]
    if kind == (b"RIFF", b"WAVE"):
        size = int.from_bytes(head[4:8], "little")
        # a pipe that could not go back to fill it in left 0, or some number near the largest
        return 0 if size == 0 or size >= 0x7FFFF000 else size + 8
    if kind[0] == b"FORM":
        return int.from_bytes(head[4:8], "big") + 8
    if kind == (b"RF64", b"WAVE"):
        return int.from_bytes(head[20:28], "little") + 8
    return int.from_bytes(head[16:24], "little") if kind[0] == b"riff" else 0


def write(
    path: str | os.PathLike[str],
    x: torch.Tensor,
    sample_rate: int,
    *,
    subtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write samples (N,) or (channels, N) as WAV, FLAC or another format that the suffix names; whole, or not at all.

    Raises AudioError for samples beyond full scale in an integer format (they would clip), FileExistsError unless
    `overwrite`, OSError where the disk is full.
    """
    path = Path(path)
    x = check(x, str(path)).detach().to("cpu", torch.float32)
    if x.ndim > 2:
        raise AudioError(f"{path}: expected samples (N,) or (channels, N), got shape {tuple(x.shape)}")
    format = format_of(path)
    subtype = subtype or soundfile.default_subtype(format)
    if subtype not in ("FLOAT", "DOUBLE") and x.abs().max() > 1:
        raise AudioError(
            f"{path}: peak {x.abs().max():.3f} is beyond full scale 1 and would clip in {subtype}; lower it first"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already")
    with whole(path) as part:
        try:
            soundfile.write(part, x.movedim(0, -1).numpy(), sample_rate, subtype=subtype, format=format)
            frames = soundfile.info(part).frames
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip(" .")
            raise OSError(f"{path}: could not be written ({reason}); is the disk full?") from error
        if frames != x.shape[-1]:
            raise OSError(f"{path}: {frames} of {x.shape[-1]} samples were written; is the disk full?")


def format_of(path: str | os.PathLike[str]) -> str:
    """libsndfile's name of the format that a suffix stands for; raises AudioError for one that it cannot write.

    >>> format_of("a.wav"), format_of("a.aif")
    ('WAV', 'AIFF')
    """
    suffix = Path(path).suffix
    format = FORMATS.get(suffix[1:].upper(), suffix[1:].upper())
    if format not in soundfile.available_formats():
        raise AudioError(f"{path}: expected a suffix that libsndfile writes, .wav or .flac, got {suffix or 'none'!r}")
    return format


def subtype_like(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> str:
    """The sample format of an audio file if the target's format has it and it keeps length and level, else 16 bits."""
    subtype = soundfile.info(source).subtype
    return subtype if subtype in PER_SAMPLE and soundfile.check_format(format_of(target), subtype) else "PCM_16"


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write in place of `path`, moved there when the block ends: neither a full disk, an error nor a crash
    leaves half a file, or harms one that was there. Makes the folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_part(path), suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())  # as any new file; mkstemp's is for the owner alone
        part.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # one line that names the file
    finally:
        part.unlink(missing_ok=True)


def clear_parts(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote `path` have left of it; no other may be writing it."""
    path = Path(path)
    for part in path.parent.glob(f"{glob.escape(_part(path))}*{glob.escape(path.suffix)}"):
        part.unlink(missing_ok=True)


def _part(path: Path) -> str:
    """How the names begin of the files that are written in place of `path`; short, since 255 bytes are the most."""
    return f".part-{path.stem[:32]}~"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def resample(x: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Band-limited resampling of waveforms (..., N) by a windowed sinc; the length is that of the same duration.

    >>> resample(torch.zeros(2, 8000), 8000, 16000).shape
    torch.Size([2, 16000])
    """
    if from_rate == to_rate:
        return x
    up, down = (rate // math.gcd(from_rate, to_rate) for rate in (to_rate, from_rate))
    if up * down > MAX_KERNEL:
        y = scipy.signal.resample_poly(x.detach().cpu().numpy(), up, down, axis=-1)
        return torch.from_numpy(y).to(x)
    return torchaudio.functional.resample(x, from_rate, to_rate, lowpass_filter_width=64)
