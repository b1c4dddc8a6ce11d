"""Audio files in and out: what is kept, what is refused, and that nothing is left half done."""

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sepriors import audio
from sepriors.audio import AudioError


def tone(length=1600, rate=16000, hertz=440.0, level=0.3):
    return level * torch.sin(2 * math.pi * hertz * torch.arange(length, dtype=torch.float64) / rate)


def contents(folder: Path):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("x.wav", "PCM_16", 2**-15),
        ("x.wav", "PCM_24", 2**-23),
        ("x.wav", "PCM_U8", 2**-7),
        ("x.wav", "PCM_32", 2**-24),
        ("x.wav", "FLOAT", 1e-9),
        ("x.wav", "DOUBLE", 1e-9),
        ("x.flac", "PCM_16", 2**-15),
        ("x.flac", "PCM_24", 2**-23),
        ("X.WAV", "PCM_16", 2**-15),
        ("x.aiff", "PCM_16", 2**-15),
        ("x.aif", "PCM_24", 2**-23),
        ("x.w64", "PCM_16", 2**-15),
        ("x.caf", "PCM_16", 2**-15),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_there_and_back(tmp_path, name, subtype, step, channels, rate):
    x = torch.stack([tone(1001, rate), -tone(1001, rate, 100)][:channels]).float()
    audio.write(tmp_path / name, x, rate, subtype=subtype)
    y, got = audio.read(tmp_path / name)
    assert got == rate
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x, atol=1.01 * step, rtol=0)
    assert soundfile.info(tmp_path / name).subtype == subtype
    assert audio.subtype_like(tmp_path / name, "y" + name[1:]) == subtype


def test_one_sample_one_dimension_and_full_scale(tmp_path):
    for x in (torch.tensor([1.0]), torch.tensor([-1.0]), torch.tensor([0.0])):
        audio.write(tmp_path / "x.wav", x, 16000, overwrite=True)
        y, _ = audio.read(tmp_path / "x.wav")
        assert y.shape == (1, 1)
        torch.testing.assert_close(y[0], x, atol=2**-15, rtol=0)


def test_beyond_full_scale_is_kept_by_a_float_file_and_refused_by_an_integer_one(tmp_path):
    x = torch.tensor([1.5, -2.0])
    audio.write(tmp_path / "x.wav", x, 16000, subtype="FLOAT")
    assert audio.read(tmp_path / "x.wav")[0][0].equal(x)
    for name, subtype in (("y.wav", None), ("y.flac", None), ("y.wav", "PCM_24"), ("y.wav", "ULAW")):
        with pytest.raises(AudioError, match="is beyond full scale 1 and would clip"):
            audio.write(tmp_path / name, x, 16000, subtype=subtype)
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize("subtype", ["ULAW", "IMA_ADPCM", "MS_ADPCM", "G721_32"])
def test_a_format_that_does_not_keep_length_or_level_is_not_kept(tmp_path, subtype):
    soundfile.write(tmp_path / "x.wav", tone(1001), 16000, subtype=subtype)
    assert audio.subtype_like(tmp_path / "x.wav", "y.wav") == "PCM_16"
    audio.write(tmp_path / "x.flac", tone(), 16000, subtype="PCM_24")
    assert audio.subtype_like(tmp_path / "x.flac", "y.wav") == "PCM_24"
    soundfile.write(tmp_path / "f.wav", tone(), 16000, subtype="FLOAT")
    assert audio.subtype_like(tmp_path / "f.wav", "y.flac") == "PCM_16"  # FLAC has no floats


# ------------------------------------------------------------------------- refused


@pytest.mark.fault(
    "A text, an empty file, a folder or nothing at all stands in place of audio",
    "AudioError that names the file and what came",
)
def test_files_that_are_no_audio(tmp_path):
    (tmp_path / "text.wav").write_text("this is a text\n" * 100)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.raw").write_bytes(bytes(range(256)))
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    for name, message in {
        "text.wav": "expected an audio file that libsndfile reads",
        "empty.wav": "expected an audio file that libsndfile reads",
        "noise.raw": "expected an audio file that libsndfile reads",
        "folder.wav": "expected an audio file, got a folder",
        "nothing.wav": "expected at least one sample",
        "missing.wav": "no such file",
    }.items():
        with pytest.raises(AudioError, match=message) as caught:
            audio.read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.fault(
    "Audio is cut off at the half, or by its last thousandth (WAV, FLAC, AIFF, W64, RF64, Ogg)",
    "AudioError",
)
@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.aiff", "x.w64", "x.rf64", "x.ogg"])
@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_truncated_file(tmp_path, name, keep):
    path = tmp_path / name
    soundfile.write(path, tone(16000), 16000)
    assert audio.read(path)[0].shape == (1, 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(AudioError):
        audio.read(path)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFF024])
def test_a_wav_that_a_pipe_wrote_is_not_truncated(tmp_path, size):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + struct.pack("<I", size) + whole[8:])
    assert audio.read(path)[0].shape == (1, 1600)


@pytest.mark.fault("One sample is NaN or infinite", "AudioError that counts them")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("channel", [0, 1])
def test_samples_that_are_no_numbers(tmp_path, value, channel):
    x = np.zeros((100, 2), np.float32)
    x[50, channel] = value
    soundfile.write(tmp_path / "x.wav", x, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="expected finite samples, got 1 that are NaN or infinite"):
        audio.read(tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0.0], "expected a torch.Tensor of samples, got list"),
        (torch.zeros(3, dtype=torch.complex64), "expected real samples, got torch.complex64"),
        (torch.zeros(3, dtype=torch.int16), "expected floating-point samples in"),
        (torch.zeros(0), "expected at least one sample"),
        (torch.zeros(2, 0), "expected at least one sample"),
        (torch.tensor(1.0), "expected at least one sample"),
        (torch.tensor([0.0, math.nan]), "expected finite samples, got 1"),
    ],
)
def test_tensors_that_are_no_waveforms(tmp_path, x, message):
    with pytest.raises(AudioError, match=f"noisy: {message}"):
        audio.check(x, "noisy")
    with pytest.raises(AudioError, match=message):
        audio.write(tmp_path / "x.wav", x, 16000)
    assert not any(tmp_path.iterdir())


def test_where_it_cannot_write(tmp_path):
    for name in ("x", "x.txt", "x.nope"):
        with pytest.raises(AudioError, match="expected a suffix that libsndfile writes"):
            audio.write(tmp_path / name, tone(), 16000)
    with pytest.raises(AudioError, match=r"expected samples \(N,\) or \(channels, N\)"):
        audio.write(tmp_path / "x.wav", tone()[None, None], 16000)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        audio.write(tmp_path / "file" / "x.wav", tone(), 16000)
    assert contents(tmp_path) == {"file": b""}


# --------------------------------------------------------------- whole or not at all


def test_what_is_there_stays_unless_asked(tmp_path):
    path = tmp_path / "deep" / "x.wav"
    audio.write(path, tone(), 16000)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        audio.write(path, 0 * tone(), 16000)
    assert path.read_bytes() == before
    audio.write(path, 0 * tone(), 16000, overwrite=True)
    assert not audio.read(path)[0].any()
    assert [p.name for p in path.parent.iterdir()] == ["x.wav"]


@pytest.mark.fault(
    "The disk is full, or Ctrl-C comes, while audio is written",
    "The old file is whole, no new one is there",
)
@pytest.mark.parametrize("failure", ["raises", "short", "interrupted"])
def test_a_full_disk_leaves_nothing_and_harms_nothing(tmp_path, monkeypatch, failure):
    audio.write(tmp_path / "old.wav", tone(), 16000)
    before = contents(tmp_path)
    real = soundfile.write

    def full(file, data, *args, **kwargs):
        real(file, data[: len(data) // 2], *args, **kwargs)
        if failure == "raises":
            raise soundfile.LibsndfileError(2, "No space left on device. ")
        if failure == "interrupted":
            raise KeyboardInterrupt

    monkeypatch.setattr(soundfile, "write", full)
    for name in ("old.wav", "new.wav"):
        with pytest.raises(KeyboardInterrupt if failure == "interrupted" else OSError):
            audio.write(tmp_path / name, tone(), 16000, overwrite=True)
    assert contents(tmp_path) == before


def test_the_rights_of_a_new_file(tmp_path):
    mask = os.umask(0o022)
    try:
        audio.write(tmp_path / "x.wav", tone(), 16000)
    finally:
        os.umask(mask)
    assert (tmp_path / "x.wav").stat().st_mode & 0o777 == 0o644


def test_a_name_as_long_as_it_may_be(tmp_path):
    path = tmp_path / (251 * "x" + ".wav")
    audio.write(path, tone(), 16000)
    assert audio.read(path)[0].shape == (1, 1600)


def test_whole_keeps_what_was_there_if_the_block_fails(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")

    def fails():
        with audio.whole(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert contents(tmp_path) == {"x.txt": b"before"}
    with audio.whole(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert contents(tmp_path) == {"x.txt": b"after"}


# ---------------------------------------------------------------------- resampling


# 44101 Hz shares no factor with 16000, so torchaudio's filter would take gigabytes
@pytest.mark.parametrize(("a", "b"), [(8000, 16000), (44100, 16000), (48000, 16000), (16000, 44100), (44101, 16000)])
def test_a_tone_is_the_same_tone_at_another_rate(a, b):
    length = a // 2
    x, y = tone(length, a), tone(math.ceil(length * b / a), b)
    got = audio.resample(torch.stack([x, 0 * x]), a, b)
    assert got.shape == (2, len(y))
    assert got.dtype == torch.float64
    edge = 400
    torch.testing.assert_close(got[0, edge:-edge], y[edge:-edge], atol=2e-3, rtol=0)
    assert not got[1].any()


def test_resampling_keeps_what_it_need_not_change():
    x = torch.randn(3)
    assert audio.resample(x, 16000, 16000) is x
    for length in (1, 2, 3, 100):
        assert audio.resample(torch.randn(length), 8000, 16000).shape == (2 * length,)
        assert audio.resample(torch.randn(2, length), 48000, 16000).shape == (2, -(-length // 3))


def test_nothing_above_half_the_rate_folds_back():
    x = tone(48000, 48000, hertz=10_000)
    assert audio.resample(x, 48000, 16000)[500:-500].abs().max() < 1e-3
