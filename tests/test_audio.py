"""Audio files in and out: what is kept, what is refused, and that nothing is left half done."""

import math
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from conftest import encoded, tone, tree

from sepriors.signal import audio
from sepriors.signal.audio import AudioError

# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize(("name", "subtype", "step"), [
    ("x.wav", "PCM_16", 2**-15), ("x.wav", "PCM_24", 2**-23), ("x.wav", "PCM_U8", 2**-7), ("x.wav", "PCM_32", 2**-24),
    ("x.wav", "FLOAT", 1e-9), ("x.wav", "DOUBLE", 1e-9), ("X.WAV", "PCM_16", 2**-15), ("x.flac", "PCM_16", 2**-15),
    ("x.flac", "PCM_24", 2**-23), ("x.aiff", "PCM_16", 2**-15), ("x.aif", "PCM_24", 2**-23),
    ("x.w64", "PCM_16", 2**-15), ("x.caf", "PCM_16", 2**-15),
])  # fmt: skip
@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100)])
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


@pytest.mark.fault("A text, an empty file, a folder or nothing at all stands in place of audio",
    "AudioError that names the file and what came")  # fmt: skip
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


def patched(data, mark, offset, code, *values):
    """The bytes with other numbers, so many bytes after the first place of a mark."""
    changed = bytearray(data)
    struct.pack_into(code, changed, data.index(mark) + offset, *values)
    return bytes(changed)


def read(folder, data, name="x"):
    (folder / name).write_bytes(data)
    return audio.read(folder / name)[0]


def uneven(seconds=3, rate=16000):
    """Noise, then nearly silence: a coder needs many bits for its first frames, few for all others."""
    x = torch.randn(seconds * rate, generator=torch.Generator().manual_seed(0))
    return 0.2 * x * torch.where(torch.arange(len(x)) < rate // 2, 1.0, 1e-3)


def mp3(x, rate=16000):
    """An MP3 of variable bit rate; and as a pipe would have it, without the frame that counts the others."""
    whole = encoded("MP3", "MPEG_LAYER_III", x, rate, bitrate_mode="VARIABLE", compression_level=0.5)
    first = audio._frame(whole, whole.index(b"\xff"))
    return whole, whole[whole.index(b"\xff") + first.size :]


@pytest.mark.fault("An MP3 of variable bit rate comes from a pipe, so that nothing counts its frames",
    "It is decoded to its end, whatever length libsndfile guesses")  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_mp3_of_unknown_length_is_read_to_its_end(tmp_path, rate, channels):
    x = torch.stack([uneven(3, rate), tone(3 * rate, rate).float()][:channels], 1)
    whole, piped = mp3(x, rate)
    (tmp_path / "x.mp3").write_bytes(piped)
    assert soundfile.info(tmp_path / "x.mp3").frames < 0.9 * len(x)  # the guess
    got, alone = read(tmp_path, piped, "x.mp3"), read(tmp_path, whole, "y.mp3")
    assert len(x) <= got.shape[1] < len(x) + 4 * 1152
    assert got.shape[0] == channels
    lag = got.shape[1] - alone.shape[1]  # the coder's delay, which only the counting frame tells
    late = next(i for i in range(lag + 1) if torch.allclose(got[:, i : i + 8000], alone[:, :8000], atol=1e-4))
    torch.testing.assert_close(got[:, late : late + len(x)], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [0, 1], ids=["counted", "piped"])
def test_what_surrounds_the_frames_of_an_mp3(tmp_path, kind):
    data = mp3(uneven())[kind]
    alone = read(tmp_path, data, "alone")
    tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    ends = (tag, b""), (b"", b"TAG" + bytes(125)), (tag + bytes(50), bytes(5000)), (b"", b"\xff" * 3000)
    for before, after in ends:
        assert read(tmp_path, before + data + after).equal(alone)


def test_a_count_of_mp3_frames_that_is_too_low(tmp_path):
    whole, _ = mp3(uneven())
    mark = b"Xing" if b"Xing" in whole else b"Info"
    assert read(tmp_path, patched(whole, mark, 8, ">I", 10)).shape[1] >= 48000
    with pytest.raises(AudioError, match=r"truncated, its header promises 11\d+ samples, there are 4\d+"):
        read(tmp_path, patched(whole, mark, 8, ">I", 200))


def compressed(kind, x, rate=16000):
    """The bytes of an MP3 (`piped`: with nothing that counts its frames), an Ogg Vorbis or Opus, or a FLAC."""
    if "mp3" in kind:
        return mp3(x, rate)[kind == "piped mp3"]
    subtype = {"vorbis": "VORBIS", "opus": "OPUS", "flac": "PCM_16"}[kind]
    return encoded("FLAC" if kind == "flac" else "OGG", subtype, x, rate)


@pytest.mark.fault("Two compressed files were joined by `cat` (MP3 with and without a count, Ogg Vorbis, Opus, FLAC)",
    "Both are decoded, one after the other; AudioError where their rates or channels differ")  # fmt: skip
@pytest.mark.parametrize("kind", ["mp3", "piped mp3", "vorbis", "opus", "flac"])
def test_joined_files_are_read_one_after_the_other(tmp_path, kind):
    first, second = compressed(kind, uneven()), compressed(kind, tone(20000))
    a, b = read(tmp_path, first, "a"), read(tmp_path, second, "b")
    joined = read(tmp_path, first + second, "ab")
    refused = pytest.raises(AudioError, match="x: expected joined streams of the same channels and rate, got 1 at 1600")
    if kind == "piped mp3":  # nothing shows the seam, so the decoder goes on
        assert joined.shape[1] == a.shape[1] + b.shape[1]
    else:
        assert joined.equal(torch.cat([a, b], 1))
        with refused:
            read(tmp_path, first + compressed(kind, torch.stack([tone(20000)] * 2, 1)))
    rate = 48000 if kind == "opus" else 24000
    with refused:
        read(tmp_path, first + compressed(kind, tone(20000, rate), rate))


@pytest.mark.parametrize("format", ["WAV", "AIFF", "CAF", "AU"])
def test_joined_files_of_samples_are_refused(tmp_path, format):
    data = encoded(format, "PCM_16")
    with pytest.raises(AudioError, match="expected one file, got two joined: after 3200 bytes of audio another begins"):
        read(tmp_path, data + data)


@pytest.mark.fault(
    "The second half or the last 2 kB of an Ogg, Opus, MP3 or FLAC file are missing, or its last page or frame",
    "AudioError: truncated",
)
@pytest.mark.parametrize("kind", ["vorbis", "opus", "mp3", "piped mp3", "flac"])
def test_a_compressed_file_without_its_end(tmp_path, kind):
    data = compressed(kind, 0.2 * torch.randn(200_000, generator=torch.Generator().manual_seed(0)))
    assert read(tmp_path, data).shape[1] >= 200_000
    cuts = [-2000, -1] + ([data.rindex(b"OggS")] if b"OggS" in data else [])
    for cut in cuts if kind == "piped mp3" else [len(data) // 2, *cuts]:
        with pytest.raises(AudioError, match=r"truncated|lost sync"):
            read(tmp_path, data[:cut])


# ------------------------------------------------------------- what a header promises

SIZED = [  # format, where its number of bytes of audio stands, how, and what it counts beside them
    ("WAV", b"data", 4, "<I", 0),
    ("RF64", b"ds64", 16, "<Q", 0),
    ("W64", b"data", 16, "<Q", 24),
    ("AIFF", b"SSND", 4, ">I", 8),
    ("AU", b".snd", 8, ">I", 0),
    ("CAF", b"data", 4, ">Q", 4),
]


@pytest.mark.fault("A recorder was cut off, or wrote to a pipe: its header says 0 or the largest number (WAV to CAF)",
    "All that follows is audio, and is read")  # fmt: skip
@pytest.mark.parametrize(("format", "mark", "offset", "code", "more"), SIZED)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_size_that_was_never_written(tmp_path, format, mark, offset, code, more, subtype):
    data = encoded(format, subtype, tone(1001)[:, None].repeat(1, 2))
    whole = read(tmp_path, data)
    most = 2 ** (8 * struct.calcsize(code)) - 1
    for size in {0, most} - ({0} if format == "CAF" else set()):
        assert read(tmp_path, patched(data, mark, offset, code, size))[:, :1001].equal(whole), size


@pytest.mark.fault("Audio is cut off at the half, or by its last sample (WAV, RF64, W64, AIFF, AU, CAF)",
    "AudioError that says how many bytes there are")  # fmt: skip
@pytest.mark.parametrize(("format", "mark", "offset", "code", "more"), SIZED)
def test_a_size_that_is_too_large_is_told_with_what_is_there(tmp_path, format, mark, offset, code, more):
    data = encoded(format, "PCM_16")
    end = data.index(mark) + offset
    (size,) = struct.unpack_from(code, data, end)
    with pytest.raises(AudioError, match=r"truncated, its header promises 3202 bytes of audio, there are 3200"):
        read(tmp_path, patched(data, mark, offset, code, size + 2))
    assert read(tmp_path, patched(data, mark, offset, code, size + 1)).shape == (1, 1600)  # no sample is missing
    for missing in (2, 1600):
        there = 3200 - missing
        with pytest.raises(AudioError, match=f"truncated, its header promises 3200 bytes of audio, there are {there}"):
            read(tmp_path, data[:-missing])


def test_a_sphere_file_that_is_cut(tmp_path):
    data = encoded("NIST", "PCM_16")
    assert read(tmp_path, data).shape == (1, 1600)
    with pytest.raises(AudioError, match="truncated, its header promises 3200 bytes of audio, there are 3000"):
        read(tmp_path, data[:-200])


def test_an_empty_wav_with_notes_is_empty(tmp_path):
    data = encoded("WAV", "PCM_16", np.zeros(0))
    notes = b"LIST\x0c\0\0\0INFOISFTabcd"
    with pytest.raises(AudioError, match="expected at least one sample"):
        read(tmp_path, data[:4] + struct.pack("<I", len(data) + len(notes) - 8) + data[8:] + notes)


@pytest.mark.fault(
    "The size of a WAV as a whole is that of the file, or up to 4 bytes too large, or counts a pad that is not there",
    "Its samples count, and are all read",
)
@pytest.mark.parametrize(("subtype", "length"), [("PCM_16", 1600), ("PCM_U8", 1601), ("PCM_24", 1601)])
def test_the_size_of_the_whole_does_not_matter(tmp_path, subtype, length):
    data = encoded("WAV", subtype, tone(length))
    start = data.index(b"data") + 8
    data = data[: start + length * {"PCM_16": 2, "PCM_U8": 1, "PCM_24": 3}[subtype]]  # without the pad
    piped = (0, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFF024)
    for size in (*piped, *(len(data) - 8 + wrong for wrong in (-36, 1, 2, 3, 4, 8))):
        assert read(tmp_path, data[:4] + struct.pack("<I", size) + data[8:]).shape == (1, length)
    with pytest.raises(AudioError, match="truncated"):
        read(tmp_path, data[:-1])


def test_an_aiff_from_a_pipe(tmp_path):
    data = encoded("AIFF", "PCM_16")
    sox = patched(patched(data, b"COMM", 10, ">I", 0x3F800000), b"SSND", 4, ">I", 0x7F000008)
    for whole, made in ((0x7F000050, sox), (0, patched(patched(data, b"COMM", 10, ">I", 0), b"SSND", 4, ">I", 0))):
        assert read(tmp_path, patched(made, b"FORM", 4, ">I", whole)).equal(read(tmp_path, data, "y"))


def test_a_flac_of_unknown_length(tmp_path):
    for length in (5, 65536, 70000):
        data = bytearray(encoded("FLAC", "PCM_16", tone(length)))
        whole = read(tmp_path, bytes(data))
        data[21] &= 0xF0  # STREAMINFO: the 36 bits that count the samples
        data[22:26] = bytes(4)
        assert read(tmp_path, bytes(data)).equal(whole)


@pytest.mark.parametrize("length", [1001, 70000])
def test_gsm_in_a_wav(tmp_path, length):
    data = encoded("WAV", "GSM610", tone(length, 8000), 8000)
    got = read(tmp_path, data)
    assert got.shape == (1, soundfile.info(tmp_path / "x").frames)
    assert length <= got.shape[1] <= length + 640  # whole blocks of 320
    with pytest.raises(AudioError, match="truncated, its header promises"):
        read(tmp_path, data[:-70])


def test_mpeg_audio_in_a_wav(tmp_path):
    x = torch.cat([uneven(), tone(16000).float()])
    frames = mp3(x)[1]
    kind = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16000, 4000, 1, 0, 12, 1, 2, 288, 1, 1393)
    body = b"WAVEfmt " + struct.pack("<I", len(kind)) + kind + b"data" + struct.pack("<I", len(frames)) + frames
    got = read(tmp_path, b"RIFF" + struct.pack("<I", len(body)) + body)
    assert got.equal(read(tmp_path, frames, "y.mp3"))


@pytest.mark.fault("The name of a file is not UTF-8, or has spaces and line ends in it", "It is read, and written")
@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"a b\n.flac", b"\xff\xfe.mp3", "äöü 語.ogg".encode()])
def test_names_that_are_not_plain(tmp_path, name):
    source = tmp_path / os.fsdecode(name)
    suffix = source.suffix[1:].upper()
    source.write_bytes(encoded(suffix, soundfile.default_subtype(suffix), tone(4000)))
    x, rate = audio.read(source)
    target = tmp_path / os.fsdecode(name + b".wav")
    audio.write(target, x, rate, subtype=audio.subtype_like(source, target))
    assert audio.read(target)[0].shape == x.shape


@pytest.mark.fault("One sample is NaN or infinite", "AudioError that counts them")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    x = np.zeros((100, 2))
    x[50, 1] = value
    with pytest.raises(AudioError, match="expected finite samples, got 1 that are NaN or infinite"):
        read(tmp_path, encoded("WAV", "FLOAT", x))


@pytest.mark.parametrize(("x", "message"), [
    ([0.0], "expected a torch.Tensor of samples, got list"),
    (torch.zeros(3, dtype=torch.complex64), "expected real samples, got torch.complex64"),
    (torch.zeros(3, dtype=torch.int16), "expected floating-point samples in"),
    (torch.zeros(0), "expected at least one sample"), (torch.tensor(1.0), "expected at least one sample"),
    (torch.tensor([0.0, math.nan]), "expected finite samples, got 1"),
])  # fmt: skip
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
    assert tree(tmp_path) == {"file": b""}


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


@pytest.mark.fault("The disk is full, or Ctrl-C comes, while audio is written",
    "The old file is whole, no new one is there")  # fmt: skip
@pytest.mark.parametrize("failure", ["raises", "short", "interrupted"])
def test_a_full_disk_leaves_nothing_and_harms_nothing(tmp_path, monkeypatch, failure):
    audio.write(tmp_path / "old.wav", tone(), 16000)
    before = tree(tmp_path)
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
    assert tree(tmp_path) == before


def test_the_rights_of_other_files_are_left_alone(tmp_path, monkeypatch):
    """To ask for the process's mask is to change it, for all threads, for a moment."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask was touched"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: audio.write(tmp_path / f"{i}.wav", tone(), 16000), range(4)))
    (tmp_path / "other").touch()
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {(tmp_path / "other").stat().st_mode}


def test_a_name_as_long_as_it_may_be(tmp_path):
    path = tmp_path / (251 * "x" + ".wav")
    audio.write(path, tone(), 16000)
    assert audio.read(path)[0].shape == (1, 1600)


# ---------------------------------------------------------------------- resampling


def test_resampling_keeps_what_it_need_not_change():
    x = torch.randn(3)
    assert audio.resample(x, 16000, 16000) is x
    for length in (1, 2, 3, 100):
        assert audio.resample(torch.randn(length), 8000, 16000).shape == (2 * length,)
        assert audio.resample(torch.randn(2, length), 48000, 16000).shape == (2, -(-length // 3))


def test_nothing_above_half_the_rate_folds_back():
    x = tone(48000, 48000, hertz=10_000)
    assert audio.resample(x, 48000, 16000)[500:-500].abs().max() < 1e-3


@pytest.mark.parametrize(("a", "b"), [
    (16001, 16000), (44056, 16000), (16000, 44056), (44101, 16000), (16000, 47999), (44100, 16000), (8000, 16000),
])  # fmt: skip
def test_a_sine_comes_out_as_exactly_at_any_two_rates(a, b):
    """Rates that share little used to err by -53 dB, and to lose half of what lies at 7 kHz."""
    for hertz in (300, 1000, 0.4 * min(a, b), 0.435 * min(a, b)):
        got = audio.resample(tone(2 * a, a, hertz), a, b)
        right = tone(len(got), b, hertz)
        error = (got - right)[b // 4 : -b // 4].square().mean() / right.square().mean()
        assert 10 * error.log10() < -80, hertz


def test_a_rare_rate_gives_what_the_filter_of_a_common_one_gives(monkeypatch):
    x = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a, b in ((44100, 16000), (8000, 16000), (7, 3), (3, 7)):
        expected = audio.resample(x, a, b)
        with monkeypatch.context() as patch:
            patch.setattr(audio, "MAX_KERNEL", 0)
            for taps in (1, 5000, 1 << 20):  # made one by one, or all at once
                if taps > 1 or a < 10:
                    patch.setattr(audio, "TAPS", taps)
                    got = audio.resample(x, a, b)
                    assert got.dtype == x.dtype
                    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_point_is_a_waveform(tmp_path, dtype):
    x = tone(100).to(dtype)
    assert audio.check(x) is x
    audio.write(tmp_path / "x.wav", x, 16000, subtype="FLOAT")
    assert audio.read(tmp_path / "x.wav")[0][0].equal(x.float())
    x[3] = math.inf
    with pytest.raises(AudioError, match="expected finite samples, got 1 that"):
        audio.check(x)


# ------------------------------------------------------------------------ held, keep it so


@pytest.mark.parametrize(("format", "subtype", "step"), [
    ("WAV", "ALAW", 0.02), ("WAV", "ULAW", 0.02), ("WAVEX", "PCM_16", 1e-4), ("WAVEX", "DOUBLE", 1e-7),
    ("RF64", "PCM_24", 1e-6), ("AU", "PCM_S8", 0.01), ("AU", "ALAW", 0.02), ("AIFF", "PCM_S8", 0.01),
    ("AIFF", "FLOAT", 1e-7), ("CAF", "DOUBLE", 1e-7), ("NIST", "PCM_32", 1e-7), ("OGG", "VORBIS", 0.1),
])  # fmt: skip
def test_what_could_be_read_can_be_read(tmp_path, format, subtype, step):
    x = torch.stack([tone(1001), tone(1001, hertz=100), 0 * tone(1001)][: 2 if format == "OGG" else 3])
    got = read(tmp_path, encoded(format, subtype, x.T))
    assert got.shape == x.shape
    torch.testing.assert_close(got, x.float(), atol=step, rtol=0)


@pytest.mark.parametrize(("size", "name"), [(0, b"odd "), (1, b"bext"), (7, b"a1.Z"), (2, b"odd ")])
def test_chunks_that_nobody_knows(tmp_path, size, name):
    data = encoded("WAV", "PCM_16")
    chunk = name + struct.pack("<I", size) + size * b"x" + (size % 2) * b"\0"
    for at in (12, data.index(b"data"), len(data)):
        assert read(tmp_path, data[:at] + chunk + data[at:]).shape == (1, 1600)
