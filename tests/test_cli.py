"""The `sepriors` command: what it keeps, what it refuses in one line, and that it leaves nothing half done."""

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import alike, speechlike

from sepriors import METHODS, __version__, enhance, make, metrics, weights
from sepriors.__main__ import main
from sepriors.inference.em import Step
from sepriors.lab import corpora, recipes
from sepriors.lab.training import fitting
from sepriors.signal import audio

main_module = importlib.import_module("sepriors.__main__")
SPEECH = speechlike(2, 8000)
ROOT = Path(__file__).parents[1]
# whole reverse processes with four draws take a minute here; test_methods has them short
QUICK = [name for name in METHODS if name not in ("udiffse", "udiffse-plus", "depse")]


@pytest.fixture
def run(capsys):
    """Run the command in this process: its status, its output, and the lines of its errors."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as end:  # argparse
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


@pytest.fixture
def refused(run):
    """Run the command, see that it refuses in one line with status 2, and return that line."""

    def refused(*arguments):
        status, out, err = run(*arguments)
        assert status == 2, (out, err)
        assert len(err) == 1, err
        assert out == ""
        assert err[0].startswith("sepriors")
        assert "Traceback" not in err[0]
        return err[0]

    return refused


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / "noisy.wav"
    audio.write(path, SPEECH[0], 16000)
    return path


def tree(folder):
    """All that lies in a folder, hidden files too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.exists() else []


def shell(*arguments, environment=(), **options):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "sepriors", *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, **options)


# ------------------------------------------------------------------- enhance: kept


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_U8"),
        ("a.wav", "PCM_16"),
        ("a.wav", "PCM_24"),
        ("a.wav", "FLOAT"),
        ("a.b.flac", "PCM_24"),
        ("A.FLAC", "PCM_16"),
        ("a.aif", "PCM_16"),
    ],
)
def test_name_length_rate_channels_and_format_are_kept(run, tmp_path, rate, channels, name, subtype):
    audio.write(tmp_path / name, SPEECH[:channels, :7001], rate, subtype=subtype)
    status, _, err = run("enhance", tmp_path / name, "--method", "spp-wiener", "-o", tmp_path / "out")
    assert status == 0
    assert err == ([f"{tmp_path / name}: {rate} Hz is enhanced at 16000 Hz, so nothing above 8 kHz remains"]
                   if rate > 16000 else [])  # fmt: skip
    assert tree(tmp_path / "out") == [name]
    info = soundfile.info(tmp_path / "out" / name)
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (7001, rate, channels, subtype)
    x, _ = audio.read(tmp_path / "out" / name)
    assert x.any()


def test_the_command_does_what_the_function_does(run, tmp_path):
    """With a method of each kind: what is known of all is asked of the function, on few rounds."""
    for name in ("spp-wiener", "nmf", "rvae-fast", "bsse"):
        audio.write(tmp_path / f"{name}.wav", SPEECH, 16000, subtype="FLOAT")
        path = tmp_path / f"{name}.wav"
        assert run("enhance", path, "--method", name, "--seed", 3, "-o", tmp_path / "out", "--device", "cpu")[0] == 0
        got, _ = audio.read(tmp_path / "out" / path.name)
        assert got.equal(enhance(SPEECH, make(name), 3))
        assert alike(got[1], enhance(SPEECH[1], make(name), 3))  # a channel is as good as a file


@pytest.mark.parametrize(("suffix", "format"), [(".ogg", "VORBIS"), (".mp3", "MPEG_LAYER_III"), (".opus", "OPUS")])
def test_lossy_files_come_out_as_wav(run, tmp_path, suffix, format):
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, SPEECH[0].numpy(), 16000, format="MP3" if suffix == ".mp3" else "OGG", subtype=format)
    assert run("enhance", path, "--method", "spp-wiener", "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == ["a.wav"]
    info = soundfile.info(tmp_path / "out" / "a.wav")
    assert (info.frames, info.samplerate, info.subtype) == (soundfile.info(path).frames, 16000, "PCM_16")


@pytest.mark.parametrize("subtype", ["ULAW", "IMA_ADPCM"])
def test_a_coded_wav_comes_out_plain(run, tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", SPEECH[0].numpy(), 16000, subtype=subtype)
    frames = soundfile.info(tmp_path / "a.wav").frames
    assert run("enhance", tmp_path / "a.wav", "--method", "spp-wiener", "-o", tmp_path / "out")[0] == 0
    info = soundfile.info(tmp_path / "out" / "a.wav")
    assert (info.frames, info.subtype) == (frames, "PCM_16")


def test_folders_and_files_of_many_kinds_at_once(run, tmp_path):
    (tmp_path / "in").mkdir()
    for i, (length, rate) in enumerate([(4000, 16000), (4000, 16000), (4000, 8000), (1, 16000), (5000, 48000)]):
        audio.write(tmp_path / "in" / f"{i}.flac", SPEECH[:1, :length], rate)
    audio.write(tmp_path / "extra.wav", SPEECH, 16000)
    (tmp_path / "in" / "._0.flac").write_bytes(b"what a Mac leaves")
    (tmp_path / "in" / "notes.txt").touch()
    assert run("enhance", tmp_path / "in", tmp_path / "extra.wav", "--method", "nmf", "-o", tmp_path / "out")[0] == 0
    assert tree(tmp_path / "out") == ["0.flac", "1.flac", "2.flac", "3.flac", "4.flac", "extra.wav"]
    a, b = ((tmp_path / "out" / f"{i}.flac").read_bytes() for i in (0, 1))
    assert a == b  # the same speech, the same result
    for path in [*(tmp_path / "in").glob("[0-9].flac"), tmp_path / "extra.wav"]:
        assert run("enhance", path, "--method", "nmf", "-o", tmp_path / "alone")[0] == 0
        assert (tmp_path / "alone" / path.name).read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert tree(tmp_path / "alone") == tree(tmp_path / "out")


def test_a_long_file_among_short_ones(run, tmp_path, monkeypatch):
    """Each as the function makes it, the long one in pieces."""
    from sepriors import methods

    @dataclass(frozen=True)
    class Pieces:
        max_seconds: float = 1.5
        iterations: int = 1

        def __call__(self, x, *, generators):
            assert x.shape[-1] <= 24000
            yield Step(0, None, lambda: 0.5 * x)

    monkeypatch.setitem(methods.METHODS, "pieces", methods.MethodSpec("", (), Pieces))
    speech = {f"{n}.wav": speechlike(1, n, seed=n)[0] for n in (100, 60000, 24000, 24001)}
    for name, x in speech.items():
        audio.write(tmp_path / name, x, 16000, subtype="FLOAT")
    status, _, err = run("enhance", *(tmp_path / n for n in speech), "--method", "pieces", "-o", tmp_path / "out")
    assert (status, err) == (0, [])
    for name, x in speech.items():
        got, _ = audio.read(tmp_path / "out" / name)
        torch.testing.assert_close(got[0], 0.5 * x)


def test_silence_one_sample_and_very_short_files(run, tmp_path):
    for name in QUICK:
        audio.write(tmp_path / "silence.wav", torch.zeros(2, 3000), 16000)
        for n in (1, 2, 50):
            # floating point: what a method leaves of two samples may be less than a bit of 16
            audio.write(tmp_path / f"{n}.wav", SPEECH[0, 1000 : 1000 + n], 44100, subtype="FLOAT", overwrite=True)
        files = [tmp_path / f"{n}.wav" for n in ("silence", 1, 2, 50)]
        status, _, err = run("enhance", *files, "--method", name, "-o", tmp_path / name)
        assert status == 0
        assert err[0] == f"{tmp_path / 'silence.wav'}: silent, stays silent"
        for path in files:
            x, _ = audio.read(tmp_path / name / path.name)
            assert x.shape == audio.read(path)[0].shape
            assert x.any() == (path.stem not in ("silence", "1")) or path.stem == "1"
        (tmp_path / "silence.wav").unlink()


def test_a_clipped_file_is_told_of(run, tmp_path):
    audio.write(tmp_path / "loud.wav", (20 * SPEECH[0]).clamp(-1, 1), 16000)
    status, _, err = run("enhance", tmp_path / "loud.wav", "--method", "spp-wiener", "-o", tmp_path / "out")
    assert status == 0
    assert "clipped in" in err[0]
    assert audio.read(tmp_path / "out" / "loud.wav")[0].abs().max() <= 1


def test_floats_beyond_full_scale_are_not_clipped(run, tmp_path):
    audio.write(tmp_path / "loud.wav", 20 * SPEECH[0], 16000, subtype="FLOAT")
    assert run("enhance", tmp_path / "loud.wav", "--method", "spp-wiener", "-o", tmp_path / "out")[::2] == (0, [])


def test_a_dc_offset_is_told_of(run, tmp_path):
    audio.write(tmp_path / "dc.wav", torch.stack([SPEECH[0], SPEECH[1] - 0.03]), 16000)
    audio.write(tmp_path / "ac.wav", SPEECH, 16000)
    for name, told in (("dc", ["DC offset of -0.03, removed for the method and put back"]), ("ac", [])):
        path = tmp_path / f"{name}.wav"
        status, _, err = run("enhance", path, "--method", "spp-wiener", "-o", tmp_path / "out")
        assert (status, err) == (0, [f"{path}: {text}" for text in told])


def test_what_would_clip_is_lowered_and_told_of(run, tmp_path, monkeypatch):
    from sepriors import methods

    monkeypatch.setattr(methods, "enhance", lambda x, method, seed: [2 * row / row.abs().max() for row in x])
    audio.write(tmp_path / "a.wav", SPEECH[0], 16000)
    audio.write(tmp_path / "f.wav", SPEECH[0], 16000, subtype="FLOAT")
    out = tmp_path / "out"
    status, _, err = run("enhance", tmp_path / "a.wav", tmp_path / "f.wav", "--method", "spp-wiener", "-o", out)
    assert status == 0
    assert err == [f"{out / 'a.wav'}: lowered by 6.0 dB so that it does not clip"]
    assert audio.read(out / "a.wav")[0].abs().max() == pytest.approx(1, abs=1e-4)
    assert audio.read(out / "f.wav")[0].abs().max() == 2  # a file of floats has no full scale


# ----------------------------------------------------------------- enhance: folders


@pytest.fixture
def mixed(tmp_path):
    """A folder with audio that libsndfile reads and does not, other files, and a folder in it."""
    folder = tmp_path / "in"
    (folder / "sub" / "deep").mkdir(parents=True)
    kinds = {
        "a.wav": "WAV", "d.wave": "WAV", "e.au": "AU", "f.oga": "OGG", "h.snd": "AU", "i.aifc": "AIFF",
        "sub/a.flac": "FLAC", "sub/b.wav": "WAV", "sub/deep/g.rf64": "RF64",
    }  # fmt: skip
    for name, format in kinds.items():
        soundfile.write(folder / name, SPEECH[0].numpy(), 16000, format=format)
    for name in ("c.m4a", "notes.txt", "more.txt", "README", ".hidden.wav"):
        (folder / name).write_bytes(b"what is not read")
    return folder


LEFT = (
    "README (no suffix is not taken for audio), c.m4a (libsndfile reads no .m4a), "
    "more.txt and 1 more (.txt is not taken for audio)"
)


@pytest.mark.fault(
    "A folder has audio of many kinds, of some that cannot be read, and folders in it",
    "What can be read is; what was left out is told, and why; --recursive takes the folders, too",
)
def test_a_folder_loses_nothing_without_a_word(run, mixed, tmp_path):
    out = tmp_path / "out"
    status, _, err = run("enhance", mixed, "--method", "spp-wiener", "-o", out)
    assert status == 0
    assert err == [f"{mixed}: left out {LEFT}, sub/ (in a folder of its own, --recursive takes that)"]
    assert tree(out) == ["a.wav", "d.wave", "e.au", "f.wav", "h.snd", "i.aifc"]
    inside = mixed / "out"
    for _ in range(2):  # what it wrote itself is no input
        status, _, err = run("enhance", mixed, "--recursive", "--method", "spp-wiener", "-o", inside, "--force")
        assert (status, err) == (0, [f"{mixed}: left out {LEFT}"])
        files = [p for p in tree(inside) if "." in p]
        assert files == [*tree(out), "sub/a.flac", "sub/b.wav", "sub/deep/g.rf64"]
    for path in files:
        assert soundfile.info(inside / path).frames == 8000


def test_score_takes_folders_of_folders(run, mixed, tmp_path):
    command = ("score", mixed, "--clean", mixed, "--metrics", "si_sdr", "-o", tmp_path / "t.csv")
    assert run(*command, "--recursive")[0] == 0
    names = list(pd.read_csv(tmp_path / "t.csv", index_col="file").index)
    assert names == [
        "a.wav",
        "d.wave",
        "e.au",
        "f.oga",
        "h.snd",
        "i.aifc",
        "sub/a.flac",
        "sub/b.wav",
        "sub/deep/g.rf64",
    ]
    shutil.copy(mixed / "a.wav", mixed / "a.aifc")
    status, _, err = run(*command)
    assert status == 2
    assert "several inputs are named 'a'" in err[-1]


@pytest.mark.fault("The name of a file in a folder is not UTF-8", "It is enhanced and scored, as all others are")
def test_a_name_that_is_not_utf8(run, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    audio.write(tmp_path / "in" / name, SPEECH[0], 16000)
    audio.write(tmp_path / "in" / "a b.wav", SPEECH[1], 16000)
    assert run("enhance", tmp_path / "in", "--method", "spp-wiener", "-o", tmp_path / "out")[::2] == (0, [])
    assert sorted(os.listdir(tmp_path / "out")) == ["a b.wav", name]
    table = tmp_path / "t.csv"
    status, out, _ = run("score", tmp_path / "out", "--clean", tmp_path / "in", "--metrics", "si_sdr", "-o", table)
    assert (status, r"caf\xe9.wav" in out) == (0, True)
    assert list(pd.read_csv(table)["file"]) == ["a b.wav", r"caf\xe9.wav"]
    missing = shell("enhance", tmp_path / name, "--method", "spp-wiener", "-o", tmp_path / "new")
    assert (missing.returncode, missing.stderr) == (2, f"sepriors enhance: {tmp_path}/caf\\udce9.wav: no such file\n")


@pytest.mark.parametrize("name", ["one.wav", "one.flac", "deep/one.aiff"])
def test_the_name_of_a_file_for_one_result(run, refused, noisy, tmp_path, name):
    out = tmp_path / name
    assert run("enhance", noisy, "--method", "spp-wiener", "-o", out)[0] == 0
    assert out.is_file()
    assert audio.read(out)[0].shape == (1, 8000)
    assert "exists already" in refused("enhance", noisy, "--method", "spp-wiener", "-o", out)
    audio.write(tmp_path / "other.wav", SPEECH[1], 16000)
    line = refused("enhance", noisy, tmp_path / "other.wav", "--method", "spp-wiener", "-o", tmp_path / "new.wav")
    assert f"{tmp_path / 'new.wav'}: expected a folder for 2 results, got the name of a file" in line
    line = refused("enhance", noisy, "--method", "spp-wiener", "-o", tmp_path / "new.mp3")
    assert "expected a file that keeps length and level (.wav" in line
    assert "expected a folder for the three files" in refused("mix", noisy, noisy, "-o", tmp_path / "mix.wav")


@pytest.mark.fault(
    "What --resume finds is empty, cut off, shorter than its input, or the input itself",
    "It is told and made again; an input in place of its result is refused",
)
def test_resume_believes_only_what_is_whole(run, refused, tmp_path):
    for i in range(5):
        audio.write(tmp_path / "in" / f"{i}.wav", SPEECH[i % 2], 16000)
    out = tmp_path / "out"
    command = ("enhance", tmp_path / "in", "--method", "spp-wiener", "-o", out)
    assert run(*command)[0] == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    (out / "0.wav").write_bytes(b"")
    (out / "1.wav").write_bytes(before["1.wav"][:-100])
    audio.write(out / "2.wav", SPEECH[0, :7999], 16000, overwrite=True)
    audio.write(out / "3.wav", SPEECH[1], 8000, overwrite=True)
    status, _, err = run(*command, "--resume")
    assert status == 0
    assert [line.endswith("; made again") for line in err] == [True] * 4 + [False]
    assert "expected (1, 8000) samples at 16000 Hz, got (1, 7999) at 16000; made again" in err[2]
    assert err[4] == f"{out}: 1 of 5 files are there already"
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    line = refused(*command[:-1], tmp_path / "in", "--resume")
    assert "0.wav exists already and is the input itself; expected another folder for the results" in line


def test_files_are_read_together_by_their_seconds(run, tmp_path, monkeypatch):
    """Eight recordings of five minutes at 48 kHz in stereo took 5.8 GB, when sixteen files went together."""
    seen = []

    def enhanced(files, **_):
        seen.append([path.stem for path in files.paths])
        return files.samples

    monkeypatch.setattr(main_module.jobs, "enhanced", enhanced)
    monkeypatch.setattr(main_module, "TOGETHER", 1.0)
    for name, channels, rate, samples in (
        ("a", 1, 16000, 4000), ("b", 2, 16000, 4000), ("c", 1, 16000, 4000), ("d", 1, 16000, 4001),
        ("e", 1, 16000, 40000), ("f", 1, 16000, 1), ("g", 2, 48000, 8000), ("h", 1, 48000, 1), ("i", 1, 8000, 8000),
    ):  # fmt: skip
        audio.write(tmp_path / "in" / f"{name}.wav", SPEECH[:1, :1].expand(channels, samples), rate)
    assert run("enhance", tmp_path / "in", "--method", "spp-wiener", "-o", tmp_path / "out")[0] == 0
    assert seen == [["a", "b", "c"], ["d"], ["e"], ["f"], ["g"], ["h"], ["i"]]


# ---------------------------------------------------------------- enhance: refused


@pytest.fixture
def bad(tmp_path):
    """One bad file of every kind."""
    folder = tmp_path / "bad"
    folder.mkdir()
    audio.write(folder / "good.wav", SPEECH, 16000, subtype="FLOAT")
    audio.write(folder / "good.flac", SPEECH, 16000)
    for name in ("good.wav", "good.flac"):
        whole = (folder / name).read_bytes()
        (folder / f"truncated{Path(name).suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "text.wav").write_text("not audio, but long enough to hold a header of some kind")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "nothing.wav", np.zeros((0, 1)), 16000)
    for value, name in ((math.nan, "nan.wav"), (math.inf, "inf.wav")):
        x = SPEECH.numpy().T.copy()
        x[100, 1] = value  # in the second channel only
        soundfile.write(folder / name, x, 16000, subtype="FLOAT")
    (folder / "folder.wav").mkdir()
    (folder / "raw.raw").write_bytes(bytes(1000))
    return folder


@pytest.mark.fault(
    "One bad file is among the inputs of a command",
    "One line that names it, status 2; nothing is written",
)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated.wav", "truncated, its header promises"),
        ("truncated.flac", "expected an audio file that libsndfile reads"),
        ("text.wav", "expected an audio file that libsndfile reads"),
        ("empty.wav", "expected an audio file that libsndfile reads"),
        ("nothing.wav", "expected at least one sample"),
        ("nan.wav", "expected finite samples, got 1 that are NaN or infinite"),
        ("inf.wav", "expected finite samples, got 1 that are NaN or infinite"),
        ("folder.wav", "expected audio files"),
        ("raw.raw", "expected an audio file that libsndfile reads"),
        ("missing.wav", "no such file"),
        ("missing/missing.wav", "no such file"),
        (300 * "x" + ".wav", "File name too long"),
    ],
)
def test_a_bad_file_among_good_ones_and_nothing_is_written(refused, bad, noisy, tmp_path, name, message):
    out = tmp_path / "out"
    line = refused("enhance", noisy, bad / name, "--method", "spp-wiener", "-o", out)
    assert message in line
    assert str(bad / name) in line
    assert tree(out) == []
    assert message in refused("score", bad / name, "--metrics", "dnsmos_ovr")
    assert str(bad / name) in refused("mix", noisy, bad / name, "-o", out)
    assert tree(out) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "nfm"], "unknown method 'nfm'; did you mean nmf"),
        (["--method", "noisereduce"], "noisereduce is a package of others, which the chapters compare with"),
        (["--method", "nmf", "--device", "gpu"], "unknown device 'gpu'; expected cpu, cuda or auto"),
        (["--method", "nmf", "--device", "mps"], "unknown device 'mps'; expected cpu, cuda or auto"),
        (["--method", "nmf", "--device", ""], "unknown device ''; expected cpu, cuda or auto"),
        (["--method", "nmf", "--device", "cpu:3"], "device cpu:3: "),
        (["--method", "nmf", "--seed", "half"], "argument --seed: invalid int value: 'half'"),
        (["--method", "nmf", "--seed", str(2**70)], "expected a seed of 64 bits"),
        (["--method", "nmf", "--nonsense"], "unrecognized arguments: --nonsense"),
        ([], "the following arguments are required: --method"),
    ],
)
def test_options_that_are_not_understood(refused, noisy, tmp_path, arguments, message):
    assert message in refused("enhance", noisy, "-o", tmp_path / "out", *arguments)
    assert tree(tmp_path / "out") == []


def test_a_device_that_is_not_there(refused, noisy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused("enhance", noisy, "--method", "nmf", "--device", "cuda", "-o", tmp_path / "out")
    assert "device cuda: torch sees no CUDA device here; use --device cpu" in line
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    line = refused("enhance", noisy, "--method", "nmf", "--device", "cuda:7", "-o", tmp_path / "out")
    assert "device cuda:7: torch sees 2 CUDA devices here" in line


def test_names_that_meet(refused, tmp_path):
    for path in ("a/x.wav", "b/x.wav", "b/x.flac"):
        audio.write(tmp_path / path, SPEECH[0], 16000)
    out = ("--method", "spp-wiener", "-o", tmp_path / "out")
    for inputs in (["a/x.wav", "b/x.wav"], ["b"], ["a/x.wav", "a/x.wav"], ["a", "a/x.wav"]):
        line = refused("enhance", *(tmp_path / i for i in inputs), *out)
        assert "several inputs are named 'x'" in line
    assert tree(tmp_path / "out") == []


def test_a_folder_without_audio(refused, tmp_path):
    (tmp_path / "notes.txt").touch()
    line = refused("enhance", tmp_path, "--method", "spp-wiener", "-o", tmp_path / "out")
    assert "expected audio files (.wav .flac" in line


def test_what_is_there_is_not_overwritten_unless_asked(run, refused, noisy, tmp_path):
    out = tmp_path / "out"
    audio.write(tmp_path / "other.wav", SPEECH[1], 16000)
    audio.write(out / "noisy.wav", SPEECH[1], 16000)
    before = (out / "noisy.wav").read_bytes()
    line = refused("enhance", tmp_path / "other.wav", noisy, "--method", "spp-wiener", "-o", out)
    assert f"{out / 'noisy.wav'} exists already; use --force to overwrite it" in line
    assert tree(out) == ["noisy.wav"]
    assert (out / "noisy.wav").read_bytes() == before
    assert run("enhance", tmp_path / "other.wav", noisy, "--method", "spp-wiener", "-o", out, "--force")[0] == 0
    assert tree(out) == ["noisy.wav", "other.wav"]
    assert (out / "noisy.wav").read_bytes() != before


def test_in_place_only_if_asked(run, refused, noisy):
    assert "exists already" in refused("enhance", noisy, "--method", "spp-wiener", "-o", noisy.parent)
    before, _ = audio.read(noisy)
    assert run("enhance", noisy, "--method", "spp-wiener", "-o", noisy.parent, "--force")[0] == 0
    after, _ = audio.read(noisy)
    torch.testing.assert_close(after[0], enhance(before[0], make("spp-wiener")), atol=1e-4, rtol=0)


def test_where_nothing_can_be_written(refused, noisy, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/no-such-place")):
        refused("enhance", noisy, "--method", "spp-wiener", "-o", out)
    assert "expected a folder for the results, got a file" in refused(
        "enhance", noisy, "--method", "spp-wiener", "-o", tmp_path / "file"
    )
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("failure", ["raises", "short", "interrupted"])
def test_a_full_disk_and_control_c_leave_no_half_file(run, noisy, tmp_path, monkeypatch, failure):
    audio.write(tmp_path / "out" / "noisy.wav", SPEECH[1], 16000)
    before = (tmp_path / "out" / "noisy.wav").read_bytes()
    real = soundfile.write

    def full(file, data, *args, **kwargs):
        real(file, data[: len(data) // 2], *args, **kwargs)
        if failure == "raises":
            raise soundfile.LibsndfileError(2, "System error : No space left on device. ")
        if failure == "interrupted":
            raise KeyboardInterrupt

    monkeypatch.setattr(soundfile, "write", full)
    status, _, err = run("enhance", noisy, "--method", "spp-wiener", "-o", tmp_path / "out", "--force")
    assert status == (130 if failure == "interrupted" else 2)
    assert len(err) == 1
    assert {"raises": "could not be written", "short": "4000 of 8000 samples were written; is the disk full?",
            "interrupted": "sepriors enhance: interrupted"}[failure] in err[0]  # fmt: skip
    assert tree(tmp_path / "out") == ["noisy.wav"]
    assert (tmp_path / "out" / "noisy.wav").read_bytes() == before


@pytest.mark.fault(
    "No room for what `enhance` writes",
    "One line that names the file, status 2; no half-written one is there",
)
def test_a_disk_that_is_really_full(noisy, tmp_path):
    """The system itself refuses to let a file grow past 10 kB; ours has 16."""
    limited = (
        "import resource, sys; from sepriors.__main__ import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); sys.exit(main(sys.argv[1:]))"
    )
    for suffix in (".wav", ".flac"):
        path = noisy.with_suffix(suffix)
        audio.write(path, torch.rand(8000) - 0.5, 16000, overwrite=True)
        command = ["enhance", path, "--method", "spp-wiener", "-o", tmp_path / "out"]
        done = subprocess.run(
            [sys.executable, "-c", limited, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert str(tmp_path / "out" / path.name) in done.stderr
        assert tree(tmp_path / "out") == []


# ----------------------------------------------------------------------------- mix


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5])
def test_mix(run, tmp_path, snr):
    noise = 0.1 * torch.randn(2, 30000, generator=torch.Generator().manual_seed(0))
    audio.write(tmp_path / "s.wav", SPEECH, 16000)
    audio.write(tmp_path / "n.flac", noise[:, :3000], 8000)  # shorter, of another rate, stereo
    out = tmp_path / "out"
    assert run("mix", tmp_path / "s.wav", tmp_path / "n.flac", "--snr", snr, "-o", out)[0] == 0
    name = f"s_{snr:+g}dB.flac"
    assert [p for p in tree(out) if p.endswith("flac")] == [f"{part}/{name}" for part in ("clean", "noise", "noisy")]
    mixed, clean, noise = (audio.read(out / part / name)[0] for part in ("noisy", "clean", "noise"))
    torch.testing.assert_close(mixed, clean + noise, atol=2**-14, rtol=0)
    assert 10 * (clean.square().sum() / noise.square().sum()).log10() == pytest.approx(snr, abs=0.05)
    assert clean.shape == (1, 8000)
    assert metrics.si_sdr(SPEECH.mean(0), clean[0]) > 40


@pytest.mark.fault(
    "Speech and noise of a mixture lie below what 16 bits resolve (24-bit speech of -66 dB, --snr 30)",
    "The files have as many bits as the ratio takes, or are of floats; what no format holds is refused",
)
@pytest.mark.parametrize(("level", "snr", "form"), [
    (0.5, 0, "flac PCM_16"), (5e-4, 30, "flac PCM_24"), (0.5, 75, "flac PCM_24"), (1e-4, -40, "flac PCM_24"),
    (1e-7, 0, "wav FLOAT"), (1e-5, 60, "wav FLOAT"),
])  # fmt: skip
def test_the_ratio_of_the_files_is_that_which_was_asked_for(run, tmp_path, level, snr, form):
    noise = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    audio.write(tmp_path / "s.wav", level * SPEECH[0] / SPEECH[0].abs().max(), 16000, subtype="FLOAT")
    audio.write(tmp_path / "n.wav", noise, 16000, subtype="FLOAT")
    assert run("mix", tmp_path / "s.wav", tmp_path / "n.wav", "--snr", snr, "-o", tmp_path / "out")[0] == 0
    suffix, subtype = form.split()
    paths = [tmp_path / "out" / part / f"s_{snr:+g}dB.{suffix}" for part in ("noisy", "clean", "noise")]
    assert {soundfile.info(path).subtype for path in paths} == {subtype}
    mixed, clean, noise = (audio.read(path)[0].double() for path in paths)
    for other in (noise, mixed - clean):
        got = 10 * (clean.square().sum() / other.square().sum()).log10()
        assert float(got) == pytest.approx(snr, abs=0.01)


def test_a_ratio_that_no_file_holds(refused, tmp_path):
    audio.write(tmp_path / "s.wav", SPEECH[0], 16000)
    line = refused("mix", tmp_path / "s.wav", tmp_path / "s.wav", "--snr", 200, "-o", tmp_path / "out")
    assert "no sample format keeps a signal-to-noise ratio of 200 dB" in line
    assert tree(tmp_path / "out") == []


def test_mix_is_seeded_and_refuses_to_overwrite(run, refused, tmp_path):
    audio.write(tmp_path / "s.wav", SPEECH[0], 16000)
    audio.write(tmp_path / "n.wav", 0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0)), 16000)
    pair = (tmp_path / "s.wav", tmp_path / "n.wav")
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("mix", *pair, "--seed", seed, "-o", tmp_path / out)[0] == 0
    a, b, c = ((tmp_path / out / "noisy" / "s_+0dB.flac").read_bytes() for out in "abc")
    assert a == b != c
    assert "exists already" in refused("mix", *pair, "-o", tmp_path / "a")
    assert run("mix", *pair, "-o", tmp_path / "a", "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s.wav"], "expected two files, CLEAN and NOISE, or --set NAME"),
        ([], "expected two files, CLEAN and NOISE, or --set NAME"),
        (["s.wav", "silence.wav"], "noise is silent"),
        (["silence.wav", "s.wav"], "clean is silent"),
        (["s.wav", "s.wav", "--snr", "nan"], "expected a signal-to-noise ratio from -300 to 300 dB, got nan"),
        (["s.wav", "s.wav", "--snr", "inf"], "got inf"),
        (["s.wav", "--set", "real"], "expected either two files or --set"),
        (["--set", "pink"], "argument --set: invalid choice: 'pink'"),
        (["--set", "real", "--files", "0"], "expected at least one file"),
        (["--set", "real", "--files", "99"], "expected 99 excerpts of 4 s of speech"),
        (["--set", "real", "--corpus", "nowhere"], "nowhere"),
        (["--set", "real", "--domain", "mismatched"], "expected mismatched speech of emodb"),
    ],
)
def test_mix_refuses(refused, tmp_path, corpus_folder, monkeypatch, arguments, message):
    audio.write(tmp_path / "s.wav", SPEECH[0], 16000)
    audio.write(tmp_path / "silence.wav", torch.zeros(8000), 16000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPRIORS_DATA", str(corpus_folder))
    assert message in refused("mix", *arguments, "-o", "out")
    assert tree(tmp_path / "out") == []


def test_mix_a_bench_set(run, tmp_path, corpus_folder):
    # files of the corpus have 2 s, two of them make an excerpt of 4 s
    arguments = ("mix", "--set", "real", "--files", 2, "--corpus", corpus_folder, "-o", tmp_path / "out")
    status, out, _ = run(*arguments)
    assert status == 0
    assert out.startswith("6 mixtures in")
    names = [f"{i:03d}_{snr:+g}dB.flac" for snr in (-5, 0, 5) for i in range(2)]
    assert sorted(p.name for p in (tmp_path / "out" / "noisy").iterdir()) == sorted(names)
    expected = corpora.bench_set(corpora.open_corpora(corpus_folder), "real", files=2)[1].noisy[1]
    got, _ = audio.read(tmp_path / "out" / "noisy" / "001_+0dB.flac")
    torch.testing.assert_close(got[0], expected, atol=2**-14, rtol=0)


# --------------------------------------------------------------------------- score


@pytest.fixture
def pair(tmp_path):
    noise = 0.02 * torch.randn(32000, generator=torch.Generator().manual_seed(0))
    clean = speechlike(1, 32000)[0]
    audio.write(tmp_path / "clean" / "x.flac", clean, 16000, subtype="PCM_24")
    audio.write(tmp_path / "est" / "x.wav", clean + noise, 16000, subtype="FLOAT")
    return tmp_path


def test_score_one_file(run, pair):
    names = "si_sdr,fwsnrseg,stoi"
    status, out, err = run("score", pair / "est" / "x.wav", "--clean", pair / "clean" / "x.flac", "--metrics", names)
    assert (status, err) == (0, [])
    clean, estimate = audio.read(pair / "clean" / "x.flac")[0][0], audio.read(pair / "est" / "x.wav")[0][0]
    values = metrics.score(clean, estimate, names=names.split(",")).values
    header, row = out.splitlines()[0].split(), out.splitlines()[-1].split()
    assert header == names.split(",")
    assert row[0] == "x.wav"
    assert [float(v) for v in row[1:]] == pytest.approx(list(values.values()), abs=1e-3)


@pytest.mark.fault(
    "Files to score are of another rate than 16 kHz, of several, or have several channels",
    "They are measured as they are: NaN with a reason where a measure has no such rate; else refused in one line",
)
def test_score_measures_files_as_they_are(run, refused, pair):
    clean, _ = audio.read(pair / "clean" / "x.flac")
    narrow = audio.resample(clean, 16000, 8000)
    audio.write(pair / "est" / "y.wav", 0.9 * narrow, 8000, subtype="FLOAT")
    audio.write(pair / "clean" / "y.flac", narrow, 8000, subtype="PCM_24")
    table = pair / "scores.csv"
    command = ["score", pair / "est", "--clean", pair / "clean", "--metrics", "si_sdr,pesq_wb,pesq_nb"]
    status, out, err = run(*command, "-o", table)
    assert status == 0
    assert "mean si_sdr=" in out
    assert len(err) == 1
    assert err[0].startswith("pesq_wb: 1 of 2 files measured; ")
    got = pd.read_csv(table, index_col="file")
    assert list(got.index) == ["x.wav", "y.wav"]
    estimate, reference = (audio.read(pair / p)[0][0] for p in ("est/y.wav", "clean/y.flac"))
    expected = metrics.score(reference, estimate, 8000, ["si_sdr", "pesq_nb"]).values
    assert got.loc["y.wav", ["si_sdr", "pesq_nb"]].to_dict() == pytest.approx(expected, abs=1e-6)
    assert math.isnan(got.loc["y.wav", "pesq_wb"])
    assert sorted(p.name for p in pair.iterdir()) == ["clean", "est", "scores.csv"]
    assert run(*command, "--rate", 8000)[::2] == (0, ["pesq_wb: 0 of 2 files measured; " + err[0].split("; ", 1)[1]])
    assert "--rate 16000: expected 100 Hz to the 8000 Hz of" in refused(*command, "--rate", 16000)
    line = refused("score", pair / "est" / "y.wav", "--clean", pair / "clean" / "x.flac")
    assert "has 8000 Hz but" in line
    assert "has 16000 Hz; --rate 8000 resamples both" in line
    audio.write(pair / "est" / "z.wav", clean.repeat(2, 1), 16000)
    assert "z.wav: expected one channel to measure, got 2" in refused("score", pair / "est" / "z.wav")


def test_score_of_a_fast_file_says_how_to_measure_all(run, pair):
    clean, _ = audio.read(pair / "clean" / "x.flac")
    audio.write(pair / "f.wav", audio.resample(clean, 16000, 48000), 48000)
    command = ("score", pair / "f.wav", "--clean", pair / "f.wav", "--metrics", "stoi")
    _, _, err = run(*command)
    assert err[-1] == "measured at the files' own rates, up to 48000 Hz; --rate 16000 measures what lies below 8 kHz"
    assert run(*command, "--rate", 16000)[::2] == (0, [])


@pytest.mark.fault(
    "A folder of clean speech has a.wav and a.flac in it",
    "The file of the very name is taken; where only the stem fits, and twice, it is refused",
)
def test_the_clean_file_of_the_very_name(run, refused, pair):
    clean, estimate = audio.read(pair / "clean" / "x.flac")[0], audio.read(pair / "est" / "x.wav")[0]
    audio.write(pair / "clean" / "x.aiff", clean.flip(-1), 16000)
    command = ("score", pair / "est" / "x.wav", "--clean", pair / "clean", "--metrics", "si_sdr")
    line = refused(*command)
    assert f"x.wav: expected one clean file of its name in {pair / 'clean'}, got x.aiff, x.flac" in line
    audio.write(pair / "clean" / "x.wav", clean, 16000, subtype="PCM_24")
    status, out, _ = run(*command)
    assert status == 0
    assert float(out.split()[-1]) == pytest.approx(float(metrics.si_sdr(clean[0], estimate[0])), abs=2e-3)


def test_score_without_clean_speech(run, pair):
    status, out, err = run("score", pair / "est" / "x.wav")
    assert (status, err) == (0, [])
    assert out.splitlines()[0].split() == list(metrics.CLEAN_FREE)
    status, out, err = run("score", pair / "est" / "x.wav", "--metrics", "dnsmos_bak,stoi")
    assert status == 0
    assert err == ["stoi: 0 of 1 files measured; needs the clean speech"]


def test_score_says_what_could_not_be_measured(run, tmp_path):
    audio.write(tmp_path / "s.wav", torch.zeros(3000), 16000)
    status, out, err = run("score", tmp_path / "s.wav", "--clean", tmp_path / "s.wav", "--metrics", "stoi,si_sdr")
    assert status == 0
    assert "NaN" in out
    assert err == [f"{m}: 0 of 1 files measured; the clean speech is silent" for m in ("stoi", "si_sdr")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "pesq"], "unknown measure 'pesq'; did you mean pesq_"),
        (["--metrics", ","], "expected names with commas between them, got ','"),
        (["--clean", "short.wav"], "has 32000 samples at 16 kHz but short.wav has 100; cut them to one length"),
        (["--clean", "nowhere.wav"], "nowhere.wav: no such file"),
        (["--clean", "empty"], "no such file"),
        (["--metrics", "si_sdr", "-o", "there.csv"], "there.csv exists already; use --force to overwrite it"),
        (["--metrics", "dnsmos_bak", "-o", "short.wav/x.csv"], "expected a folder for the results, got a file"),
    ],
)
def test_score_refuses(refused, pair, monkeypatch, arguments, message):
    monkeypatch.chdir(pair)
    audio.write("short.wav", SPEECH[0, :100], 16000)
    Path("there.csv").write_text("mine")
    Path("empty").mkdir()
    before = tree(pair)
    assert message in refused("score", "est/x.wav", *arguments)
    assert tree(pair) == before
    assert Path("there.csv").read_text() == "mine"


# -------------------------------------------------------------- bench, train, lists


def test_bench(run, corpus_folder, tmp_path):
    path = tmp_path / "deep" / "bench.json"
    arguments = ["bench", "--methods", "spp-wiener,nmf", "--set", "white", "--files", 2, "--metrics", "si_sdr,stoi"]
    status, out, err = run(*arguments, "--corpus", corpus_folder, "-o", path)
    assert (status, err) == (0, [])
    for text in ("noisy", "spp-wiener", "nmf", "SI-SDR (dB)", "STOI", "±", "folder corpora in"):
        assert text in out
    record = json.loads(path.read_text())
    assert len(record["records"]) == 2 * 3 * 4
    assert {"set", "domain", "split", "corpus", "seed", "commit", "hardware", "versions", "finished"} <= record.keys()
    assert tree(path.parent) == ["bench.json"]


def test_bench_of_the_validation_split(run, corpus_folder, tmp_path):
    """To choose settings by, without a look at the test speakers; as long as is asked for."""
    path = tmp_path / "bench.json"
    asked = [
        "bench",
        "--methods",
        "spp-wiener",
        "--files",
        2,
        "--metrics",
        "si_sdr",
        "--split",
        "valid",
        "--seconds",
        2,
    ]
    assert run(*asked, "--split", "valid", "--corpus", corpus_folder, "-o", path)[0] == 0
    record = json.loads(path.read_text())
    assert (record["split"], record["seconds"]) == ("valid", 2.0)
    assert {row["file"].split("/")[0] for row in record["records"]} == {"10", "11"}


@pytest.mark.fault(
    "A terminal does not know the characters of a table (PYTHONIOENCODING=latin-1, ascii)",
    "They are written another way; the records are saved before",
)
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_delta(corpus_folder, tmp_path, encoding):
    path = tmp_path / "bench.json"
    arguments = ("--methods", "spp-wiener", "--set", "white", "--files", 1, "--metrics", "si_sdr", "--workers", 1)
    done = shell(
        "bench",
        *arguments,
        "--corpus",
        corpus_folder,
        "-o",
        path,
        environment={"PYTHONIOENCODING": encoding},
        encoding=encoding,
    )
    assert (done.returncode, r"\u0394 is against noisy" in done.stdout) == (0, True), done.stderr
    assert tree(tmp_path) == ["bench.json"]


def test_the_records_are_saved_before_the_table_is_printed(run, corpus_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(main_module.plots, "table", lambda *_: 1 / 0)
    arguments = ("--methods", "spp-wiener", "--set", "white", "--files", 1, "--metrics", "si_sdr", "--workers", 1)
    with pytest.raises(ZeroDivisionError):
        run("bench", *arguments, "--corpus", corpus_folder, "-o", tmp_path / "bench.json")
    assert tree(tmp_path) == ["bench.json"]


@pytest.mark.fault(
    "SEPRIORS_DATA names a folder that is not there, or has no manifest.csv",
    "One line that names it, status 2, for every command; no other speech is taken in its place",
)
@pytest.mark.parametrize("command", [
    ("mix", "--set", "real", "-o", "out"), ("train", "nmf-speech", "-o", "out"), ("corpora",),
    ("bench", "--methods", "spp-wiener", "-o", "out.json"),
])  # fmt: skip
def test_a_misspelt_folder_of_corpora(run, refused, corpus_folder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("speach", "."):
        monkeypatch.setenv("SEPRIORS_DATA", name)
        line = refused(*command)
        assert f"{name}: expected a folder with a manifest.csv, or with folders that have one, as SEPRIORS_DATA" in line
        assert tree(tmp_path) == []
    spaced = tmp_path / "a folder of mine"
    shutil.copytree(corpus_folder, spaced)
    monkeypatch.setenv("SEPRIORS_DATA", str(spaced))
    assert run("corpora")[1].startswith(f"folder corpora in {spaced}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "spp-weiner"], "unknown method 'spp-weiner'; did you mean spp-wiener"),
        (["--methods", ""], "expected names with commas between them"),
        (["--metrics", "sdr"], "unknown measure 'sdr'; did you mean si_sdr"),
        (["--corpus", "nowhere"], "nowhere"),
        (["--files", "-1"], "expected at least one file"),
        (["--files", "many"], "argument --files: invalid int value: 'many'"),
        (["--domain", "other"], "argument --domain: invalid choice: 'other'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["-o", "there.json"], "there.json exists already"),
    ],
)
def test_bench_refuses(refused, corpus_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPRIORS_DATA", str(corpus_folder))
    Path("there.json").touch()
    assert message in refused("bench", *arguments)
    assert tree(tmp_path) == ["there.json"]


def test_train(run, refused, corpus_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", {name: made.quick() for name, made in recipes.RECIPES.items()})
    out = tmp_path / "cards"
    status, printed, _ = run("train", "nmf-speech-257", "--corpus", corpus_folder, "-o", out)
    assert status == 0
    assert tree(out) == ["cards.toml", "nmf-speech-257.safetensors"]
    assert weights.sha256(out / "nmf-speech-257.safetensors") in printed
    assert weights.load(out / "nmf-speech-257.safetensors").tensors["W"].shape == (257, 40)
    assert "exists already" in refused("train", "nmf-speech-257", "--corpus", corpus_folder, "-o", out)
    assert "no recipe for weights 'nmf-spech'; did you mean nmf-speech" in refused("train", "nmf-spech", "-o", out)


QUICK_TRAINING = """
import sys
from sepriors import recipes, train
from sepriors.__main__ import main

recipes.RECIPES = {name: made.quick() for name, made in recipes.RECIPES.items()}
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("by_command", [False, True], ids=["--devices 2", "fabric run"])
def test_train_in_two_processes(corpus_folder, tmp_path, by_command):
    """One card, as from one process; a batch of two is one for each."""
    script, out = tmp_path / "quick.py", tmp_path / "cards"
    script.write_text(QUICK_TRAINING)
    arguments = ["train", "rvae", "--corpus", corpus_folder, "-o", out]
    command = [sys.executable, script, *arguments, "--devices", "2", "--accelerator", "cpu"]
    if by_command:
        fabric = Path(sys.executable).with_name("fabric")
        command = [fabric, "run", "--accelerator=cpu", "--devices=2", script, *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("its card is in") == 1
    assert tree(out) == ["cards.toml", "rvae.safetensors"]
    card = tomllib.loads((out / "cards.toml").read_text())["rvae"]
    assert card["hardware"] == "2 × CPU, 1 thread"
    assert card["sha256"] == weights.sha256(out / "rvae.safetensors")


def test_training_that_cannot_be_shared(refused, tmp_path, monkeypatch):
    class Three:
        world_size, is_global_zero = 3, True

    monkeypatch.setattr(fitting, "launch", lambda *_: Three())
    monkeypatch.setattr(recipes, "RECIPES", {name: made.quick() for name, made in recipes.RECIPES.items()})
    line = refused("train", "rvae", "--corpus", "synthetic", "-o", tmp_path)
    assert "expected processes that share a batch of 2 evenly, got 3" in line
    assert "this trains on one device only" in refused("train", "nmf-speech", "--corpus", "synthetic", "-o", tmp_path)


def test_training_again_by_default_would_overwrite_the_shipped_weights_so_it_is_refused(refused):
    assert "exists already; use --force" in refused("train", "nmf-speech")


def test_lists(run, corpus_folder):
    status, out, err = run("methods")
    assert (status, err) == (0, [])
    assert [line.split()[0] for line in out.splitlines()] == list(METHODS)
    assert "[nmf-speech]" in out
    status, out, err = run("corpora", "--corpus", corpus_folder)
    assert (status, err) == (0, [])
    assert "mini-librispeech" in out
    assert "street" in out


@pytest.mark.parametrize("command", ["methods", "corpora", "fetch", "mix", "enhance", "score", "bench", "train"])
def test_help(run, command):
    status, out, err = run(command, "--help")
    assert (status, err) == (0, [])
    assert out.startswith(f"usage: sepriors {command}")
    assert command in run("--help")[1]


def test_the_command_line_itself(run, refused):
    assert run("--version")[1] == f"sepriors {__version__}\n"
    assert "required: COMMAND" in refused()
    assert "invalid choice: 'enhence'" in refused("enhence")
    line = refused("fetch", "mini-librispech")
    assert "did you mean 'mini-librispeech'" in line
    assert "no-such-folder" in refused("fetch", "timit", "--from", "no-such-folder")
    assert "nowhere" in refused("corpora", "--corpus", "nowhere")


@pytest.mark.fault(
    "The shipped weights of a method were spoiled",
    "One line that says how to train them again, status 2; nothing is written",
)
def test_weights_that_were_spoiled(refused, noisy, tmp_path, monkeypatch):
    shutil.copytree(weights.folder(), tmp_path / "cards")
    monkeypatch.setattr(weights, "folder", lambda: tmp_path / "cards")
    with (tmp_path / "cards" / "nmf-speech.safetensors").open("ab") as file:
        file.write(b"x")
    line = refused("enhance", noisy, "--method", "nmf", "-o", tmp_path / "out")
    assert "expected sha256" in line
    assert "train it again: sepriors train nmf-speech" in line
    assert tree(tmp_path / "out") == []


# ------------------------------------------------------------- in its own process


def test_as_a_process(noisy, tmp_path):
    done = shell("enhance", noisy, "--method", "spp-wiener", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tree(tmp_path / "out") == ["noisy.wav"]
    done = shell("enhance", tmp_path / "missing.wav", "--method", "spp-wiener", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sepriors enhance: {tmp_path / 'missing.wav'}: no such file\n"


def test_a_reader_that_has_seen_enough():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "sepriors", "methods"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


INTERRUPTED = """
import os, signal, sys
from sepriors import metrics
from sepriors.__main__ import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
score_many = metrics.score_many

def watched(*arguments):
    for scores in score_many(*arguments):
        os.killpg(0, signal.SIGINT)  # as Ctrl-C: to every process of the command
        yield scores

metrics.score_many = watched
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.fault("Ctrl-C reaches all processes of a command", "One line, status 130")
def test_control_c_while_many_processes_measure(pair):
    """Ctrl-C reaches the workers too, but only the parent speaks."""
    clean, _ = audio.read(pair / "clean" / "x.flac")
    for i in range(20):
        audio.write(pair / "est" / f"{i}.wav", (1 - i / 100) * clean, 16000)
    command = [sys.executable, "-c", INTERRUPTED, "score", pair / "est", "--metrics", "dnsmos_bak,dnsmos_ovr"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, process_group=0)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "sepriors score: interrupted\n")
