"""Audio files in and out; every rule for bad audio stands here, once."""

import io
import math
import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import torch
import torchaudio

from sepriors.files import atomic_write

RATES = 100, 768_000  # Hz; the fastest converters there are have 768000, and a damaged header may claim a billion
MAX_KERNEL = 10_000_000  # taps; torchaudio's filter has up × down of them, 44101 Hz to 16 kHz would take 5 GB
WIDTH, ROLLOFF = 64, 0.99  # of the sinc that resamples: zero crossings to each side, and where it begins to cut
TAPS = 1 << 20  # of that sinc that are made at a time where rates share little
BLOCK = 1 << 16  # frames, or bytes of a pipe, at a time
UNKNOWN = 1 << 62  # frames; libsndfile says more where it does not know
# suffixes that are not the name of their format
FORMATS = {"AIF": "AIFF", "AIFC": "AIFF", "WAVE": "WAV", "SND": "AU", "OGA": "OGG", "OPUS": "OGG"}
# What keeps a file's length and level: ADPCM pads to whole blocks, 8-bit AIFF to pairs, MP3 and Vorbis add a delay.
PER_SAMPLE = ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE")


class AudioError(ValueError):
    """A file or a signal that is not the audio it should be; the message names what was expected and what came."""


def check(x: torch.Tensor, name: str = "x") -> torch.Tensor:
    """Return x (..., N) if it is a waveform: a real floating-point tensor, not empty, with finite samples.

    Raises AudioError otherwise.

    >>> check(torch.zeros(3), "noisy").shape
    torch.Size([3])
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


def dc_offset(x: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """The mean of each signal (..., N) where it is an offset, over a tenth of its root mean square, else 0: (..., 1).

    In less than half a second the mean is a part of the sound.

    >>> t = torch.arange(16000) / 16000
    >>> dc_offset(torch.stack([torch.sin(600 * t), 0.3 + torch.sin(600 * t)]), 16000).round(decimals=1).flatten()
    tensor([0.0000, 0.3000])
    """
    mean = x.mean(-1, keepdim=True)
    is_offset = mean.abs() > 0.1 * x.square().mean(-1, keepdim=True).sqrt()
    return torch.where(is_offset, mean, 0.0) if 2 * x.shape[-1] >= sample_rate else torch.zeros_like(mean)


def read(path: str | os.PathLike[str]) -> tuple[torch.Tensor, int]:
    """Samples (channels, N), float32 with full scale 1, and the sample rate in Hz.

    Everything is decoded, whatever length libsndfile guesses, and joined streams come one after the other. Raises
    AudioError for a file that is missing, empty, truncated, not audio, or that holds NaN or infinite samples, for
    joined streams of different kinds, and for a sample rate outside RATES.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: {'expected an audio file, got a folder' if path.exists() else 'no such file'}")
    try:
        streams = [_decoded(source) for source in _sources(path)]
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    # TypeError: .raw has no header; ValueError: a name or a size that soundfile does not take
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError, ValueError) as error:
        why = getattr(error, "error_string", "") or error  # without the name of what was read, which may be a copy
        expected = "expected an audio file that libsndfile reads (WAV, FLAC, OGG, MP3, ...)"
        raise AudioError(f"{path}: {expected}, got {why}") from error
    kinds = sorted({(len(x), rate) for x, rate in streams})
    if len(kinds) > 1:
        found = " and ".join(f"{channels} at {rate} Hz" for channels, rate in kinds)
        raise AudioError(f"{path}: expected joined streams of the same channels and rate, got {found}")
    samples, rate = streams[0] if len(streams) == 1 else (np.concatenate([x for x, _ in streams], 1), streams[0][1])
    if samples.size == 0:
        raise AudioError(f"{path}: expected at least one sample, got an empty file")
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{path}: expected a sample rate from {RATES[0]} to {RATES[1]} Hz, got {rate}")
    return check(torch.from_numpy(samples), str(path)), rate


class _Copy(NamedTuple):
    """Bytes to decode in place of the file; from a pipe, where libsndfile would guess their length and stop there."""

    data: bytes
    piped: bool = False
    least: int = 0  # samples that must come of it


class _Stream(soundfile.SoundFile):
    """A file that is read on and on; soundfile would seek after each block, which not every codec can."""

    def seekable(self) -> bool:
        return False


def _decoded(source: Path | _Copy) -> tuple[np.ndarray, int]:
    """Samples (channels, N) of one stream, to its end, and its rate."""
    blocks: list[np.ndarray] = []
    with _opened(source) as file:
        promised = file.frames if file.frames < UNKNOWN else 0
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block)
            samples = np.empty((file.channels, sum(map(len, blocks))), np.float32)
        except MemoryError as error:
            raise AudioError(f"its header promises {promised} samples, more than memory holds") from error
        rate = file.samplerate
    at = samples.shape[1]
    promised = max(promised, source.least if isinstance(source, _Copy) else 0)
    if at < promised:
        raise AudioError(f"truncated, its header promises {promised} samples, there are {at}")
    while blocks:  # from the last on, each let go when it has been copied
        block = blocks.pop()
        samples[:, at - len(block) : at] = block.T
        at -= len(block)
    return samples, rate


@contextmanager
def _opened(source: Path | _Copy) -> Iterator[_Stream]:
    if isinstance(source, Path) or not source.piped:
        with _Stream(_name(source) if isinstance(source, Path) else io.BytesIO(source.data)) as file:
            yield file
        return
    out, into = os.pipe()
    pouring = threading.Thread(target=_pour, args=(into, source.data), daemon=True)
    pouring.start()
    try:
        with _Stream(out, closefd=False) as file:
            yield file
    finally:
        os.close(out)
        pouring.join()


def _pour(into: int, data: bytes) -> None:
    with suppress(BrokenPipeError), open(into, "wb", buffering=0) as pipe:  # broken: the reader has seen enough
        at = 0
        while at < len(data):
            at += pipe.write(data[at : at + BLOCK])


def _name(path: Path) -> str | bytes:
    """A path as libsndfile takes it; soundfile cannot encode a name that is not UTF-8."""
    return str(path) if os.name == "nt" else os.fsencode(path)


# ------------------------------------------------------- what there is to decode


def _sources(path: Path) -> list[Path | _Copy]:
    """The streams of a file: itself where libsndfile decodes all of it, else copies that it does decode.

    Raises AudioError where the header promises more than there is: libsndfile would return what there is.
    """
    with path.open("rb") as file:
        at = _tag(file.read(10))
        file.seek(at)
        magic = file.read(4)
        if magic in (b"OggS", b"fLaC"):
            data = path.read_bytes()
            starts = _ogg(data) if magic == b"OggS" else _flac(data)
            if len(starts) < 2:
                return [path]
            return [_Copy(data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
        if at or (len(magic) > 1 and magic[0] == 0xFF and magic[1] >= 0xE0):
            return [*_mpeg(path.read_bytes())]
        return [*_container(file, path)]


def _tag(head: bytes) -> int:
    """How long the ID3v2 tag is that begins so, 0 where none does."""
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + 10 * (head[5] >> 4 & 1)  # the last: a footer


def _flac(data: bytes) -> list[int]:
    """Where the streams of a FLAC file begin: with STREAMINFO, of 34 bytes. libsndfile decodes the first alone."""
    return [0, *(found.start() for found in re.finditer(rb"fLaC[\x00\x80]\x00\x00\x22", data))][1:] or [0]


def _ogg(data: bytes) -> list[int]:
    """Where the streams of an Ogg file begin, one after the other (RFC 3533). libsndfile decodes the first alone.

    Raises AudioError where a page is cut off, or a stream has no last page: nobody could tell what is missing.
    """
    starts: list[int] = []
    going: set[bytes] = set()  # serial numbers of streams whose last page has not come
    at, first, heads = data.find(b"OggS"), 0, False
    while at >= 0:
        head = data[at : at + 27]
        table = data[at + 27 : at + 27 + head[26]] if len(head) == 27 else b""
        size = len(head) + len(table) + sum(table)
        if len(head) < 27 or len(table) < head[26] or at + size > len(data):
            raise AudioError(f"truncated, the Ogg page at byte {at} promises more than the {len(data) - at} left")
        if head[5] & 2 and not heads:  # streams whose first pages come together run side by side, as one
            starts.append(at)
        heads = bool(head[5] & 2)
        going = going - {head[14:18]} if head[5] & 4 else going | {head[14:18]}
        at, first = data.find(b"OggS", at + size), first + 1
    if going:
        raise AudioError(f"truncated, none of its {first} Ogg pages is marked as the last of its stream")
    return starts


# kbit/s by version and layer (ISO/IEC 11172-3 and 13818-3); in version 2 the layers 2 and 3 are alike
_KBITS = {
    (1, 1): range(0, 449, 32),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_EMPTY_TAG = b"ID3\x04\0\0\0\0\0\x20" + bytes(32)  # without one libsndfile takes MPEG audio for such by name alone
_SLACK = 3  # frames at the start that may need what was before them, and give nothing


class _Frame(NamedTuple):
    """A frame of MPEG audio: its bytes, its samples, and what all frames of a stream share."""

    size: int
    samples: int
    kind: tuple[int, int, int, bool]  # version, layer, rate, one channel


def _frame(data: bytes, at: int) -> _Frame | None:
    """The frame whose header is at byte `at`, if one is."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    half, layer = {3: 0, 2: 1, 0: 2}.get(head[1] >> 3 & 3), 4 - (head[1] >> 1 & 3)  # 0 to 2: version 1, 2 and 2.5
    index, which = head[2] >> 4, head[2] >> 2 & 3
    if half is None or layer == 4 or index in (0, 15) or which == 3:  # 0: a size that no header tells
        return None
    rate = (44100, 48000, 32000)[which] >> half
    bits = 1000 * _KBITS[(1, layer) if half == 0 else (2, min(layer, 2))][index]
    samples = 384 if layer == 1 else 576 if layer == 3 and half else 1152
    slot = 4 if layer == 1 else 1  # bytes
    size = slot * (samples * bits // (8 * slot * rate) + (head[2] >> 1 & 1))
    return _Frame(size, samples, (half, layer, rate, head[3] >> 6 == 3))


def _counted(data: bytes, at: int) -> int | None:
    """The frames that a frame counts which holds no audio but their number (Xing, Info, VBRI); 0 where it does not."""
    for mark in (b"Xing", b"Info"):
        if (found := data.find(mark, at + 4, at + 48)) > 0:
            flags, count = struct.unpack(">II", data[found + 4 : found + 12].ljust(8, b"\0"))
            return int(count) if flags & 1 else 0
    return 0 if data[at + 36 : at + 40] == b"VBRI" else None


class _Run(NamedTuple):
    """Frames of one encoder: where they begin and end, what the first is, how many it counts, how many there are."""

    start: int
    stop: int
    frame: _Frame
    counted: int | None
    frames: int = 1


def _mpeg(data: bytes) -> Iterator[_Copy]:
    """The streams of MPEG audio: what was joined is taken apart where a tag, a count or another kind of frame begins.

    A count is believed where it is not too low; without one libsndfile would guess the length from the first frames.
    What follows the last frame, a tag of another kind or a kilobyte of zeros, would make it give up, so that is cut.
    """
    runs = _runs(data)
    if not runs:
        yield _Copy(data, piped=True)  # libsndfile says why not
    for run in runs:
        audible = run.frames - (run.counted is not None)
        if run.counted and run.counted >= audible:
            yield _Copy(_EMPTY_TAG + data[run.start : run.stop])
        elif audible:
            start = run.start if run.counted is None else run.start + run.frame.size
            least = max(0, audible - _SLACK) * run.frame.samples
            yield _Copy(_EMPTY_TAG + data[start : run.stop], piped=True, least=least)


def _runs(data: bytes) -> list[_Run]:
    runs: list[_Run] = []
    at, goes_on, in_step = 0, False, False  # whether the last run may go on, and whether its last frame ends here
    while 0 <= at < len(data):
        if tag := _tag(data[at : at + 10]):
            at, goes_on, in_step = at + tag, False, False
            continue
        frame = _frame(data, at)
        if frame is None or not ((in_step and frame.kind == runs[-1].frame.kind) or _followed(data, at, frame)):
            at, in_step = data.find(b"\xff", at + 1), False
            continue
        stop = at + frame.size
        if stop > len(data):
            raise AudioError(f"truncated, its last MPEG frame promises {frame.size} bytes, there are {len(data) - at}")
        counted = _counted(data, at)
        if goes_on and counted is None and frame.kind == runs[-1].frame.kind:
            runs[-1] = runs[-1]._replace(stop=stop, frames=runs[-1].frames + 1)
        else:
            runs.append(_Run(at, stop, frame, counted))
        at, goes_on, in_step = stop, True, True
    return runs


def _followed(data: bytes, at: int, frame: _Frame) -> bool:
    """Whether what looks like a frame is followed by another of its kind, or ends the file."""
    after = _frame(data, at + frame.size)
    return at + frame.size == len(data) or (after is not None and after.kind == frame.kind)


class _Layout(NamedTuple):
    """How chunks follow each other: their heads, where the first is, whose bytes their sizes may count, what they are
    aligned to, and how many bytes of the chunk stand before the audio.
    """

    head: str
    first: int
    own: int = 0
    align: int = 2
    skip: int = 0


_LAYOUTS = {
    b"RIFF": _Layout("<4sI", 12),
    b"RF64": _Layout("<4sI", 12),
    b"BW64": _Layout("<4sI", 12),
    b"RIFX": _Layout(">4sI", 12),
    b"riff": _Layout("<16sQ", 40, own=24, align=8),  # W64
    b"FORM": _Layout(">4sI", 12, skip=8),  # AIFF: an offset and a block size; 8SVX has none
    b"caff": _Layout(">4sQ", 8, align=1, skip=4),  # the number of edits
}


class _Claim(NamedTuple):
    """What a header says of its audio: where it begins, its bytes, those of a frame, and how and where that is written.

    The number at byte `at` counts `more` bytes beside the audio; `layout` is that of the chunks that follow.
    """

    start: int
    size: int
    frame: int
    at: int
    code: str
    more: int = 0
    layout: _Layout | None = None
    coding: int = 0  # of a WAV


def _container(file: BinaryIO, path: Path) -> Iterator[Path | _Copy]:
    """A file whose header says how much audio it holds. What counts is the audio, not what the whole should be.

    A recorder that was cut off, or a pipe, leaves 0 or some number near the largest there: then all that follows is
    audio, and libsndfile, which may take 0 as it stands, gets a copy that says how much.
    """
    claim, whole = _claim(file), path.stat().st_size
    there = max(0, whole - claim.start) if claim else 0
    if claim is None:
        yield path
    elif claim.coding in (0x50, 0x55):  # MPEG audio in a WAV, whose length libsndfile guesses, too
        file.seek(claim.start)
        yield from _mpeg(file.read(claim.size or -1))
    elif 0 < claim.size <= there or 0 < claim.size < (1 << 62 if claim.code[1] == "Q" else 0x7F000000):
        if there // claim.frame < claim.size // claim.frame:
            raise AudioError(f"truncated, its header promises {claim.size} bytes of audio, there are {there}")
        _refuse_another(file, claim)
        yield path
    elif there == 0 or claim.at == 0 or (claim.size == 0 and _chunks_only(file, claim, whole)):
        yield path
    else:
        data = bytearray(path.read_bytes())
        most = (1 << 8 * struct.calcsize(claim.code)) - 1
        struct.pack_into(claim.code, data, claim.at, min(there + claim.more, most))
        yield _Copy(bytes(data))


def _refuse_another(file: BinaryIO, claim: _Claim) -> None:
    """Raise AudioError where another file of the same format follows the audio: libsndfile would leave it out."""
    file.seek(0)
    magic, end = file.read(4), claim.start + claim.size
    file.seek(end + (-end % claim.layout.align if claim.layout else 0))
    if file.read(4) == magic:
        raise AudioError(f"expected one file, got two joined: after {claim.size} bytes of audio another begins")


def _chunks_only(file: BinaryIO, claim: _Claim, whole: int) -> bool:
    """Whether chunks to the very end are all that follows: then the audio is empty indeed."""
    ends = [start + size for _, start, size in _chunks(file, claim.start, claim.layout)] if claim.layout else []
    return bool(ends) and ends[-1] <= whole <= ends[-1] + 1


def _chunks(file: BinaryIO, at: int, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and bytes of each chunk from byte `at` on, as long as they have names."""
    length = struct.calcsize(layout.head)
    while at < 1 << 62:  # further than any file reaches
        file.seek(at)
        head = file.read(length)
        if len(head) < length or not (head[:4].isascii() and head[:4].decode().isprintable()):
            return
        name, size = struct.unpack(layout.head, head)
        start, size = at + length, max(0, size - layout.own)
        yield name[:4], start, size
        at = start + size + -(start + size) % layout.align


def _claim(file: BinaryIO) -> _Claim | None:
    """What the header of a WAV, RF64, W64, AIFF, 8SVX, AU, CAF or NIST file says of its audio, None for another."""
    file.seek(0)
    head = file.read(16)
    layout = _LAYOUTS.get(head[:4])
    if layout and layout.skip:
        return _chunked(file, layout, plain=head[8:12] == b"AIFF")
    if layout and (head[8:12] == b"WAVE" or head == b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"):
        return _chunked(file, layout)
    if head[:4] in (b".snd", b"dns."):
        code = ">I" if head[:4] == b".snd" else "<I"
        start, size, coding, _, channels = _field(file, 4, code[0] + "5I")
        frame = max(1, channels * _AU_WIDTHS.get(coding, 0))
        return _Claim(start, size, frame, 8, code) if start >= 24 else None  # which a whole header has
    return _nist(file) if head[:7] == b"NIST_1A" else None


_AU_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # bytes of a sample: companded, integers, floats


def _field(file: BinaryIO, at: int, code: str) -> tuple[int, ...]:
    """Numbers at byte `at`, 0 where the file has ended."""
    file.seek(at)
    size = struct.calcsize(code)
    return struct.unpack(code, file.read(size).ljust(size, b"\0"))


def _chunked(file: BinaryIO, layout: _Layout, plain: bool = True) -> _Claim | None:
    """Of its chunks: the one that describes the samples, and the one that holds them."""
    order, code = layout.head[0], layout.head[0] + layout.head[-1]
    long, frame, coding = 0, 1, 0
    for name, start, size in _chunks(file, layout.first, layout):
        if name == b"ds64":  # sizes of 64 bits, of an RF64: the whole, the audio
            long = start + 8
        elif name == b"fmt ":
            coding, *_, frame = _field(file, start, order + "HHIIH")
        elif name == b"COMM" and plain:
            channels, _, bits = _field(file, start, ">HIH")
            frame = channels * -(-bits // 8)
        elif name == b"desc":
            (frame,) = _field(file, start + 16, ">I")
        elif name == b"data" and long and size == 0xFFFFFFFF:
            return _Claim(start, _field(file, long, "<Q")[0], max(1, frame), long, "<Q", 0, layout, coding)
        elif name in (b"data", b"SSND", b"BODY"):
            skip = 0 if name == b"BODY" else layout.skip
            at, more = start - struct.calcsize(code), layout.own + skip
            return _Claim(start + skip, max(0, size - skip), max(1, frame), at, code, more, layout, coding)
    return None


def _nist(file: BinaryIO) -> _Claim | None:
    """Of its text: the bytes of the header, the samples of a channel, the channels, the bytes of a sample."""
    file.seek(0)
    text = file.read(1024).decode("latin-1")
    found = [re.search(rf"^{key}\s+(\d+)", text, re.MULTILINE) for key in
             ("NIST_1A\n", "sample_count -i", "channel_count -i", "sample_n_bytes -i")]  # fmt: skip
    start, count, channels, width = (int(match[1]) if match else 0 for match in found)
    frame = channels * width
    return _Claim(start, count * frame, frame, 0, "<I") if start and frame else None


# ------------------------------------------------------------------------ writing


def write(
    path: str | os.PathLike[str], x: torch.Tensor, sample_rate: int, *, subtype: str | None = None,
    overwrite: bool = False,
) -> None:  # fmt: skip
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
    if subtype not in ("FLOAT", "DOUBLE") and (peak := x.abs().max()) > 1:
        raise AudioError(f"{path}: peak {peak:.3f} is beyond full scale 1 and would clip in {subtype}; lower it first")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already")
    with atomic_write(path) as part:
        try:
            soundfile.write(_name(part), x.movedim(0, -1).numpy(), sample_rate, subtype=subtype, format=format)
            frames = soundfile.info(_name(part)).frames
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip(" .")
            raise OSError(f"{path}: could not be written ({reason}); is the disk full?") from error
        if frames != x.shape[-1]:
            raise OSError(f"{path}: {frames} of {x.shape[-1]} samples were written; is the disk full?")


def flac16(x: np.ndarray, sample_rate: int) -> bytes:
    """A 16-bit FLAC of samples (N,), rounded here: soundfile's own conversion scales by 32767, off near full scale."""
    buffer = io.BytesIO()
    pcm = np.round(x * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


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
    subtype = soundfile.info(_name(Path(source))).subtype
    return subtype if subtype in PER_SAMPLE and soundfile.check_format(format_of(target), subtype) else "PCM_16"


# --------------------------------------------------------------------- resampling


def resample(x: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Band-limited resampling of waveforms (..., N) by a windowed sinc; the length is that of the same duration.

    A sine below 7/8 of the lower half rate comes out with an error of less than -80 dB, for any two rates.

    >>> resample(torch.zeros(2, 8000), 8000, 16000).shape
    torch.Size([2, 16000])
    """
    if from_rate == to_rate:
        return x
    up, down = (rate // math.gcd(from_rate, to_rate) for rate in (to_rate, from_rate))
    if up * down > MAX_KERNEL:
        return _interpolated(x, up, down)
    return torchaudio.functional.resample(x, from_rate, to_rate, lowpass_filter_width=WIDTH, rolloff=ROLLOFF)


def _interpolated(x: torch.Tensor, up: int, down: int) -> torch.Tensor:
    """What torchaudio's filter makes, some taps at a time: output i lies i down / up samples after the first of x.

    The same fractions come back after `up` outputs, so that each is made once, for all its outputs.
    """
    length = -(-x.shape[-1] * up // down)
    cut = ROLLOFF * min(1.0, up / down)
    reach = math.ceil(WIDTH / cut)
    near = torch.arange(-reach, reach + 1, dtype=torch.float64)
    windows = torch.nn.functional.pad(x, (reach, reach + down)).unfold(-1, len(near), 1)
    y = x.new_zeros(*x.shape[:-1], length)
    rows = max(1, TAPS // len(near))
    for phase in torch.arange(min(up, length)).split(rows):
        t = cut * (near - (phase * down % up)[:, None].double() / up)
        taps = (cut * t.sinc() * (t * torch.pi / WIDTH / 2).cos().square() * (t.abs() < WIDTH)).to(x)
        for turn in torch.arange(-(-length // up)).split(max(1, rows // len(phase))):
            at = (turn[:, None] * up + phase).flatten()
            start = (turn[:, None] * down + phase * down // up).flatten()
            made = (windows[..., start[at < length], :] * taps.repeat(len(turn), 1)[at < length]).sum(-1)
            y[..., at[at < length]] = made
    return y
