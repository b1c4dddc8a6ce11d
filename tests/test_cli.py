"""The `sepriors` command: what it keeps, what it refuses in one line, and that it leaves nothing half done."""

import json
import math
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import torch
from conftest import alike, encoded, process, speechlike, tree

from sepriors import METHODS, __version__, enhance, make, metrics, weights
from sepriors.__main__ import COMMANDS, main
from sepriors.commands import enhance as command
from sepriors.lab import corpora, plots, recipes
from sepriors.lab.training import fitting
from sepriors.signal import audio

SPEECH = speechlike(2, 8000)


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
        assert (status, out, len(err)) == (2, "", 1), err
        assert err[0].startswith("sepriors")
        assert "Traceback" not in err[0]
        return err[0]

    return refused


@pytest.fixture
def enhanced(run, tmp_path):
    """Run `enhance` by the quickest method into tmp_path/out; its status and the lines of its errors."""
    return lambda *arguments: run("enhance", *arguments, "--method", "spp-wiener", "-o", tmp_path / "out")[::2]


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / "noisy.wav"
    audio.write(path, SPEECH[0], 16000)
    return path


def names(folder):
    """All that lies in a folder, hidden files too."""
    return list(tree(folder))


# ------------------------------------------------------------------- enhance: kept


@pytest.mark.parametrize(("name", "subtype", "rate", "channels"), [
    ("a.wav", "PCM_U8", 8000, 2), ("a.wav", "PCM_16", 22050, 1), ("a.wav", "PCM_24", 44100, 2),
    ("a.wav", "FLOAT", 16000, 2), ("a.b.flac", "PCM_24", 48000, 1), ("A.FLAC", "PCM_16", 8000, 1),
    ("a.aif", "PCM_16", 44100, 1),
])  # fmt: skip
def test_name_length_rate_channels_and_format_are_kept(enhanced, tmp_path, name, subtype, rate, channels):
    audio.write(tmp_path / name, SPEECH[:channels, :7001], rate, subtype=subtype)
    told = f"{tmp_path / name}: {rate} Hz is enhanced at 16000 Hz, so nothing above 8 kHz remains"
    assert enhanced(tmp_path / name) == (0, [told] if rate > 16000 else [])
    assert names(tmp_path / "out") == [name]
    info = soundfile.info(tmp_path / "out" / name)
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (7001, rate, channels, subtype)
    assert audio.read(tmp_path / "out" / name)[0].any()


def test_the_command_does_what_the_function_does(run, tmp_path):
    """With a method of each kind: what is known of all is asked of the function, on few rounds."""
    for name in ("spp-wiener", "nmf", "rvae-fast", "bsse"):
        path = tmp_path / f"{name}.wav"
        audio.write(path, SPEECH, 16000, subtype="FLOAT")
        assert run("enhance", path, "--method", name, "--seed", 3, "-o", tmp_path / "out", "--device", "cpu")[0] == 0
        got, _ = audio.read(tmp_path / "out" / path.name)
        assert got.equal(enhance(SPEECH, make(name), 3))
        assert alike(got[1], enhance(SPEECH[1], make(name), 3))  # a channel is as good as a file


@pytest.mark.parametrize(("name", "format", "subtype"), [
    ("a.ogg", "OGG", "VORBIS"), ("a.mp3", "MP3", "MPEG_LAYER_III"), ("a.opus", "OGG", "OPUS"),
    ("a.wav", "WAV", "IMA_ADPCM"),
])  # fmt: skip
def test_lossy_files_come_out_as_plain_wav(enhanced, tmp_path, name, format, subtype):
    (tmp_path / name).write_bytes(encoded(format, subtype, SPEECH[0]))
    assert enhanced(tmp_path / name)[0] == 0
    assert names(tmp_path / "out") == ["a.wav"]
    info = soundfile.info(tmp_path / "out" / "a.wav")
    assert (info.frames, info.samplerate) == (soundfile.info(tmp_path / name).frames, 16000)
    assert info.subtype == "PCM_16"


def test_folders_and_files_of_many_kinds_at_once(run, tmp_path):
    lengths = [(4000, 16000), (4000, 16000), (4000, 8000), (1, 16000), (2, 44100), (5000, 48000)]
    for i, (length, rate) in enumerate(lengths):
        audio.write(tmp_path / "in" / f"{i}.flac", SPEECH[:1, :length], rate)
    audio.write(tmp_path / "extra.wav", SPEECH, 16000)
    command = ("--method", "nmf", "-o", tmp_path)
    assert run("enhance", tmp_path / "in", tmp_path / "extra.wav", *command[:-1], tmp_path / "out")[0] == 0
    assert names(tmp_path / "out") == [*(f"{i}.flac" for i in range(len(lengths))), "extra.wav"]
    for path in [*(tmp_path / "in").iterdir(), tmp_path / "extra.wav"]:  # each as alone; two of one speech are alike
        assert run("enhance", path, *command[:-1], tmp_path / "alone")[0] == 0
        assert (tmp_path / "alone" / path.name).read_bytes() == (tmp_path / "out" / path.name).read_bytes()
        assert soundfile.info(tmp_path / "out" / path.name).frames == soundfile.info(path).frames
    assert (tmp_path / "out" / "0.flac").read_bytes() == (tmp_path / "out" / "1.flac").read_bytes()


@pytest.mark.parametrize(("x", "subtype", "told"), [
    ((20 * SPEECH[0]).clamp(-1, 1), "PCM_16", "clipped in"),
    (20 * SPEECH[0], "FLOAT", ""),  # a file of floats has no full scale
    (torch.stack([SPEECH[0], SPEECH[1] - 0.03]), "PCM_16", "DC offset of -0.03, removed for the method and put"),
    (0 * SPEECH, "PCM_16", "silent, stays silent"),
    (SPEECH, "PCM_16", ""),
], ids=["clipped", "floats", "offset", "silent", "plain"])  # fmt: skip
def test_what_is_told_of_an_input(enhanced, tmp_path, x, subtype, told):
    audio.write(tmp_path / "a.wav", x, 16000, subtype=subtype)
    status, err = enhanced(tmp_path / "a.wav")
    assert (status, len(err)) == (0, bool(told))
    assert told in "".join(err)
    got, _ = audio.read(tmp_path / "out" / "a.wav")
    assert subtype == "FLOAT" or got.abs().max() <= 1
    assert got.any() == x.any()


def test_what_would_clip_is_lowered_and_told_of(enhanced, tmp_path, monkeypatch):
    monkeypatch.setattr(command.running, "enhance", lambda x, *_, **__: [2 * row / row.abs().max() for row in x])
    audio.write(tmp_path / "a.wav", SPEECH[0], 16000)
    audio.write(tmp_path / "f.wav", SPEECH[0], 16000, subtype="FLOAT")
    out = tmp_path / "out"
    told = f"{out / 'a.wav'}: lowered by 6.0 dB so that it does not clip"
    assert enhanced(tmp_path / "a.wav", tmp_path / "f.wav") == (0, [told])
    assert audio.read(out / "a.wav")[0].abs().max() == pytest.approx(1, abs=1e-4)
    assert audio.read(out / "f.wav")[0].abs().max() == 2


# ----------------------------------------------------------------- enhance: folders

KINDS = {
    "a.wav": "WAV", "d.wave": "WAV", "e.au": "AU", "f.oga": "OGG", "h.snd": "AU", "i.aifc": "AIFF",
    "sub/a.flac": "FLAC", "sub/b.wav": "WAV", "sub/deep/g.rf64": "RF64",
}  # fmt: skip
LEFT = (
    "README (no suffix is not taken for audio), c.m4a (libsndfile reads no .m4a), "
    "more.txt and 1 more (.txt is not taken for audio)"
)


@pytest.fixture
def mixed(tmp_path):
    """A folder with audio that libsndfile reads and does not, other files, and a folder in it."""
    folder = tmp_path / "in"
    (folder / "sub" / "deep").mkdir(parents=True)
    for name, format in KINDS.items():
        soundfile.write(folder / name, SPEECH[0].numpy(), 16000, format=format)
    for name in ("c.m4a", "notes.txt", "more.txt", "README", "._a.wav"):
        (folder / name).write_bytes(b"what is not read")
    return folder


@pytest.mark.fault("A folder has audio of many kinds, of some that cannot be read, and folders in it",
    "What can be read is; what was left out is told, and why; --recursive takes the folders, too")  # fmt: skip
def test_a_folder_loses_nothing_without_a_word(run, enhanced, mixed, tmp_path):
    assert enhanced(mixed) == (0, [f"{mixed}: left out {LEFT}, sub/ (in a folder of its own, --recursive takes that)"])
    assert names(tmp_path / "out") == ["a.wav", "d.wave", "e.au", "f.wav", "h.snd", "i.aifc"]
    inside = mixed / "out"
    for _ in range(2):  # what it wrote itself is no input
        status, _, err = run("enhance", mixed, "--recursive", "--method", "spp-wiener", "-o", inside, "--force")
        assert (status, err) == (0, [f"{mixed}: left out {LEFT}"])
        files = [p for p in names(inside) if "." in p]
        assert files == [*names(tmp_path / "out"), "sub/a.flac", "sub/b.wav", "sub/deep/g.rf64"]
    assert {soundfile.info(inside / path).frames for path in files} == {8000}


@pytest.mark.fault("The name of a file in a folder is not UTF-8", "It is enhanced and scored, as all others are")
def test_a_name_that_is_not_utf8(run, enhanced, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    audio.write(tmp_path / "in" / name, SPEECH[0], 16000)
    audio.write(tmp_path / "in" / "a b.wav", SPEECH[1], 16000)
    assert enhanced(tmp_path / "in") == (0, [])
    assert sorted(os.listdir(tmp_path / "out")) == ["a b.wav", name]
    table = tmp_path / "t.csv"
    status, out, _ = run("score", tmp_path / "out", "--clean", tmp_path / "in", "--metrics", "si_sdr", "-o", table)
    assert (status, r"caf\xe9.wav" in out) == (0, True)
    assert list(pd.read_csv(table)["file"]) == ["a b.wav", r"caf\xe9.wav"]
    missing = process("-m", "sepriors", "enhance", tmp_path / name, "--method", "spp-wiener", "-o", tmp_path / "new")
    assert (missing.returncode, missing.stderr) == (2, f"sepriors enhance: {tmp_path}/caf\\udce9.wav: no such file\n")


def test_the_name_of_a_file_for_one_result(run, refused, noisy, tmp_path):
    command = ("--method", "spp-wiener", "-o")
    for name in ("one.wav", "one.flac", "deep/one.aiff"):
        assert run("enhance", noisy, *command, tmp_path / name)[0] == 0
        assert audio.read(tmp_path / name)[0].shape == (1, 8000)
        assert "exists already" in refused("enhance", noisy, *command, tmp_path / name)
    new = tmp_path / "new.wav"
    line = refused("enhance", noisy, tmp_path / "one.wav", *command, new)
    assert f"{new}: expected a folder for 2 results, got the name of a file" in line
    line = refused("enhance", noisy, *command, tmp_path / "new.mp3")
    assert "expected a file that keeps length and level (.wav" in line
    assert "expected a folder for the three files" in refused("mix", noisy, noisy, "-o", new)


@pytest.mark.fault("What --resume finds is empty, cut off, shorter than its input, or the input itself",
    "It is told and made again; an input in place of its result is refused")  # fmt: skip
def test_resume_believes_only_what_is_whole(run, refused, tmp_path):
    for i in range(6):
        audio.write(tmp_path / "in" / f"{i}.wav", SPEECH[i % 2], 16000)
    out = tmp_path / "out"
    command = ("enhance", tmp_path / "in", "--method", "spp-wiener", "-o", out)
    assert run(*command)[0] == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    (out / "0.wav").write_bytes(b"")
    (out / "1.wav").write_bytes(before["1.wav"][:-100])
    audio.write(out / "2.wav", SPEECH[0, :7999], 16000, overwrite=True)
    audio.write(out / "3.wav", SPEECH[1], 8000, overwrite=True)
    audio.write(out / "4.wav", torch.zeros(8000), 16000, overwrite=True)  # whole, whatever is in it
    mine = (out / "4.wav").read_bytes()
    status, _, err = run(*command, "--resume")
    assert status == 0
    assert [line.endswith("; made again") for line in err] == [True] * 4 + [False]
    assert "expected (1, 8000) samples at 16000 Hz, got (1, 7999) at 16000; made again" in err[2]
    assert err[4] == f"{out}: 2 of 6 files are there already"
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before | {"4.wav": mine}
    line = refused(*command[:-1], tmp_path / "in", "--resume")
    assert "0.wav exists already and is the input itself; expected another folder for the results" in line
    for wrong in (["--force"], ["--workers", "2", "--dask", "tcp://127.0.0.1:1"], ["--workers", "0"]):
        assert run(*command, "--resume", *wrong)[0] == 2


def test_files_are_read_together_by_their_seconds(enhanced, tmp_path, monkeypatch):
    """Eight recordings of five minutes at 48 kHz in stereo took 5.8 GB, when sixteen files went together."""
    seen = []

    def noted(files, **_):
        seen.append([path.stem for path in files.paths])
        return files.samples

    monkeypatch.setattr(command, "enhanced", noted)
    monkeypatch.setattr(command, "BATCH_SECONDS", 1.0)
    for name, channels, rate, samples in (
        ("a", 1, 16000, 4000), ("b", 2, 16000, 4000), ("c", 1, 16000, 4000), ("d", 1, 16000, 4001),
        ("e", 1, 16000, 40000), ("f", 1, 16000, 1), ("g", 2, 48000, 8000), ("h", 1, 48000, 1), ("i", 1, 8000, 8000),
    ):  # fmt: skip
        audio.write(tmp_path / "in" / f"{name}.wav", SPEECH[:1, :1].expand(channels, samples), rate)
    assert enhanced(tmp_path / "in")[0] == 0
    assert seen == [["a", "b", "c"], ["d"], ["e"], ["f"], ["g"], ["h"], ["i"]]


# ---------------------------------------------------------------- enhance: refused


@pytest.fixture
def bad(tmp_path):
    """A bad file of some kinds; test_audio has more of them."""
    (tmp_path / "bad" / "folder.wav").mkdir(parents=True)
    (tmp_path / "bad" / "truncated.wav").write_bytes(encoded("WAV", "PCM_16")[:-500])
    x = SPEECH.numpy().T.copy()
    x[100, 1] = math.nan  # in the second channel only
    (tmp_path / "bad" / "nan.wav").write_bytes(encoded("WAV", "FLOAT", x))
    return tmp_path / "bad"


@pytest.mark.fault("One bad file is among the inputs of a command",
    "One line that names it, status 2; nothing is written")  # fmt: skip
@pytest.mark.parametrize(("name", "message"), [
    ("truncated.wav", "truncated, its header promises"),
    ("nan.wav", "expected finite samples, got 1 that are NaN or infinite"),
    ("folder.wav", "expected audio files (.wav .flac"), ("missing/missing.wav", "no such file"),
    (300 * "x" + ".wav", "File name too long"),
])  # fmt: skip
def test_a_bad_file_among_good_ones_and_nothing_is_written(refused, bad, noisy, tmp_path, name, message):
    out = tmp_path / "out"
    line = refused("enhance", noisy, bad / name, "--method", "spp-wiener", "-o", out)
    assert message in line
    assert str(bad / name) in line
    assert message in refused("score", bad / name, "--metrics", "dnsmos_ovr")
    assert str(bad / name) in refused("mix", noisy, bad / name, "-o", out)
    assert names(out) == []


def test_a_device_that_is_not_there(refused, noisy, tmp_path, monkeypatch):
    command = ("enhance", noisy, "--method", "nmf", "-o", tmp_path / "out", "--device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device cuda: torch sees no CUDA device here; use --device cpu" in refused(*command, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "device cuda:7: torch sees 2 CUDA devices here" in refused(*command, "cuda:7")


def test_names_that_meet(refused, tmp_path):
    for path in ("a/x.wav", "b/x.wav", "b/x.flac"):
        audio.write(tmp_path / path, SPEECH[0], 16000)
    for inputs in (["a/x.wav", "b/x.wav"], ["b"], ["a", "a/x.wav"]):
        line = refused("enhance", *(tmp_path / i for i in inputs), "--method", "spp-wiener", "-o", tmp_path / "out")
        assert "several inputs are named 'x'" in line
    assert names(tmp_path / "out") == []


def test_what_is_there_is_not_overwritten_unless_asked(run, enhanced, refused, noisy, tmp_path):
    out = tmp_path / "out"
    audio.write(tmp_path / "other.wav", SPEECH[1], 16000)
    audio.write(out / "noisy.wav", SPEECH[1], 16000)
    before = (out / "noisy.wav").read_bytes()
    line = refused("enhance", tmp_path / "other.wav", noisy, "--method", "spp-wiener", "-o", out)
    assert f"{out / 'noisy.wav'} exists already; use --force to overwrite it" in line
    assert names(out) == ["noisy.wav"]
    assert (out / "noisy.wav").read_bytes() == before
    assert enhanced(tmp_path / "other.wav", noisy, "--force")[0] == 0
    assert names(out) == ["noisy.wav", "other.wav"]
    assert (out / "noisy.wav").read_bytes() != before
    in_place = ("enhance", noisy, "--method", "spp-wiener", "-o", noisy.parent)
    assert "exists already" in refused(*in_place)
    assert run(*in_place, "--force")[0] == 0
    assert noisy.read_bytes() == (out / "noisy.wav").read_bytes()


# ----------------------------------------------------------------------------- mix


def test_mix(run, tmp_path):
    """Seeded, and no file is overwritten."""
    noise = 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    audio.write(tmp_path / "s.wav", SPEECH, 16000)
    audio.write(tmp_path / "n.flac", noise, 8000)  # shorter, of another rate, stereo
    command = ("mix", tmp_path / "s.wav", tmp_path / "n.flac", "--snr", 12.5, "-o")
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(*command, tmp_path / out, "--seed", seed)[0] == 0
    name, parts = "s_+12.5dB.flac", ("clean", "noise", "noisy")
    assert [p for p in names(tmp_path / "a") if p.endswith("flac")] == [f"{part}/{name}" for part in parts]
    clean, noise, mixed = (audio.read(tmp_path / "a" / part / name)[0] for part in parts)
    torch.testing.assert_close(mixed, clean + noise, atol=2**-14, rtol=0)
    assert clean.shape == (1, 8000)
    assert metrics.si_sdr(SPEECH.mean(0), clean[0]) > 40
    a, b, c = ((tmp_path / out / "noisy" / name).read_bytes() for out in "abc")
    assert a == b != c
    status, _, err = run(*command, tmp_path / "a")
    assert (status, "exists already" in err[-1]) == (2, True)
    assert run(*command, tmp_path / "a", "--force")[0] == 0


@pytest.mark.fault("Speech and noise of a mixture lie below what 16 bits resolve (24-bit speech of -66 dB, --snr 30)",
    "The files have as many bits as the ratio takes, or are of floats; what no format holds is refused")  # fmt: skip
@pytest.mark.parametrize(("level", "snr", "form"), [
    (0.5, 0, "flac PCM_16"), (5e-4, 30, "flac PCM_24"), (1e-4, -40, "flac PCM_24"), (1e-5, 60, "wav FLOAT"),
])  # fmt: skip
def test_the_ratio_of_the_files_is_that_which_was_asked_for(run, refused, tmp_path, level, snr, form):
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
    line = refused("mix", tmp_path / "s.wav", tmp_path / "s.wav", "--snr", 200, "-o", tmp_path / "none")
    assert "no sample format keeps a signal-to-noise ratio of 200 dB" in line
    assert names(tmp_path / "none") == []


def test_mix_a_bench_set(run, tmp_path, corpus_folder):
    # files of the corpus have 2 s, two of them make an excerpt of 4 s
    arguments = ("mix", "--set", "real", "--files", 2, "--corpus", corpus_folder, "-o", tmp_path / "out")
    status, out, _ = run(*arguments)
    assert (status, out.startswith("6 mixtures in")) == (0, True)
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
    header, *_, row = (line.split() for line in out.splitlines())
    assert (header, row[0]) == (names.split(","), "x.wav")
    assert [float(v) for v in row[1:]] == pytest.approx(list(values.values()), abs=1e-3)
    status, out, err = run("score", pair / "est" / "x.wav")  # without clean speech
    assert (status, err, out.splitlines()[0].split()) == (0, [], list(metrics.CLEAN_FREE))
    audio.write(pair / "s.wav", torch.zeros(3000), 16000)
    status, out, err = run("score", pair / "s.wav", "--clean", pair / "s.wav", "--metrics", "stoi,si_sdr")
    assert (status, "NaN" in out) == (0, True)
    assert err == [f"{m}: 0 of 1 files measured; the clean speech is silent" for m in ("stoi", "si_sdr")]


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
    assert (status, "mean si_sdr=" in out, len(err)) == (0, True, 1)
    assert err[0].startswith("pesq_wb: 1 of 2 files measured; ")
    got = pd.read_csv(table, index_col="file")
    assert list(got.index) == ["x.wav", "y.wav"]
    estimate, reference = (audio.read(pair / p)[0][0] for p in ("est/y.wav", "clean/y.flac"))
    expected = metrics.score(reference, estimate, 8000, ["si_sdr", "pesq_nb"]).values
    assert got.loc["y.wav", ["si_sdr", "pesq_nb"]].to_dict() == pytest.approx(expected, abs=1e-6)
    assert math.isnan(got.loc["y.wav", "pesq_wb"])
    assert run(*command, "--rate", 8000)[::2] == (0, ["pesq_wb: 0 of 2 files measured; " + err[0].split("; ", 1)[1]])
    assert "--rate 16000: expected 100 Hz to the 8000 Hz of" in refused(*command, "--rate", 16000)
    line = refused("score", pair / "est" / "y.wav", "--clean", pair / "clean" / "x.flac")
    assert "has 8000 Hz but" in line
    assert "has 16000 Hz; --rate 8000 resamples both" in line
    audio.write(pair / "est" / "z.wav", clean.repeat(2, 1), 16000)
    assert "z.wav: expected one channel to measure, got 2" in refused("score", pair / "est" / "z.wav")
    audio.write(pair / "f.wav", audio.resample(clean, 16000, 48000), 48000)
    fast = ("score", pair / "f.wav", "--clean", pair / "f.wav", "--metrics", "stoi")
    told = "measured at the files' own rates, up to 48000 Hz; --rate 16000 measures what lies below 8 kHz"
    assert run(*fast)[2][-1] == told
    assert run(*fast, "--rate", 16000)[::2] == (0, [])


@pytest.mark.fault("A folder of clean speech has a.wav and a.flac in it",
    "The file of the very name is taken; where only the stem fits, and twice, it is refused")  # fmt: skip
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


# -------------------------------------------------------------- bench, train, lists

QUICK = ("--methods", "spp-wiener", "--set", "white", "--files", 1, "--metrics", "si_sdr", "--workers", 1)


def test_bench(run, corpus_folder, tmp_path):
    path = tmp_path / "deep" / "bench.json"
    arguments = ["bench", "--methods", "spp-wiener,nmf", "--set", "white", "--files", 2, "--metrics", "si_sdr,stoi"]
    choices = ["--split", "valid", "--seconds", 2, "--corpus", corpus_folder]  # no look at the test speakers
    status, out, err = run(*arguments, *choices, "-o", path)
    assert (status, err) == (0, [])
    for text in ("noisy", "spp-wiener", "nmf", "SI-SDR (dB)", "STOI", "±", "folder corpora in"):
        assert text in out
    record = json.loads(path.read_text())
    assert len(record["records"]) == 2 * 3 * 4
    assert {"set", "domain", "split", "corpus", "seed", "commit", "hardware", "versions", "finished"} <= record.keys()
    assert (record["split"], record["seconds"]) == ("valid", 2.0)
    assert {row["file"].split("/")[0] for row in record["records"]} == {"10", "11"}
    assert names(path.parent) == ["bench.json"]


@pytest.mark.fault("A terminal does not know the characters of a table (PYTHONIOENCODING=ascii)",
    "They are written another way; the records are saved before")  # fmt: skip
def test_a_terminal_without_delta(run, corpus_folder, tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    command = ("bench", *QUICK, "--corpus", corpus_folder, "-o", path)
    done = process("-m", "sepriors", *command, environment={"PYTHONIOENCODING": "ascii"}, encoding="ascii")
    assert (done.returncode, r"\u0394 is against noisy" in done.stdout) == (0, True), done.stderr
    assert names(tmp_path) == ["bench.json"]
    path.unlink()
    monkeypatch.setattr(plots, "table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*command)
    assert names(tmp_path) == ["bench.json"]


@pytest.mark.fault("SEPRIORS_DATA names a folder that is not there, or has no manifest.csv",
    "One line that names it, status 2, for every command; no other speech is taken in its place")  # fmt: skip
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
        assert names(tmp_path) == []
    spaced = tmp_path / "a folder of mine"
    shutil.copytree(corpus_folder, spaced)
    monkeypatch.setenv("SEPRIORS_DATA", str(spaced))
    assert run("corpora")[1].startswith(f"folder corpora in {spaced}: ")


@pytest.fixture
def smoke(monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", {name: made.smoke() for name, made in recipes.RECIPES.items()})


@pytest.mark.usefixtures("smoke")
def test_train(run, refused, corpus_folder, tmp_path):
    out = tmp_path / "cards"
    out.mkdir()
    for left in ("cards~0.toml", "nmf-speech-257~0.safetensors"):  # by a training that was killed as it wrote them
        (out / f".part-{left}").touch()
    status, printed, _ = run("train", "nmf-speech-257", "--corpus", corpus_folder, "-o", out)
    assert status == 0
    assert names(out) == ["cards.toml", "nmf-speech-257.safetensors"]
    assert weights.sha256(out / "nmf-speech-257.safetensors") in printed
    assert weights.load(out / "nmf-speech-257.safetensors").tensors["W"].shape == (257, 40)
    assert "exists already" in refused("train", "nmf-speech-257", "--corpus", corpus_folder, "-o", out)


SMOKE_TRAINING = """
import sys
from sepriors.lab import recipes
from sepriors.__main__ import main

recipes.RECIPES = {name: made.smoke() for name, made in recipes.RECIPES.items()}
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("by_command", [False, True], ids=["--devices 2", "fabric run"])
def test_train_in_two_processes(corpus_folder, tmp_path, by_command):
    """One card, as from one process; a batch of two is one for each."""
    script, out = tmp_path / "smoke.py", tmp_path / "cards"
    script.write_text(SMOKE_TRAINING)
    command = [script, "train", "rvae", "--corpus", corpus_folder, "-o", out]
    if by_command:
        fabric = Path(sys.executable).with_name("fabric")
        done = process(fabric, "run", "--accelerator=cpu", "--devices=2", *command, cwd=None)
    else:
        done = process(*command, "--devices", "2", "--accelerator", "cpu", cwd=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("its card is in") == 1
    assert names(out) == ["cards.toml", "rvae.safetensors"]
    card = tomllib.loads((out / "cards.toml").read_text())["rvae"]
    assert card["hardware"] == "2 × CPU, 1 thread"
    assert card["sha256"] == weights.sha256(out / "rvae.safetensors")


@pytest.mark.usefixtures("smoke")
def test_training_that_cannot_be_shared(refused, tmp_path, monkeypatch):
    class Three:
        world_size, is_global_zero = 3, True

    monkeypatch.setattr(fitting, "init_distributed", lambda *_: Three())
    line = refused("train", "rvae", "--corpus", "synthetic", "-o", tmp_path)
    assert "expected processes that share a batch of 2 evenly, got 3" in line
    assert "this trains on one device only" in refused("train", "nmf-speech", "--corpus", "synthetic", "-o", tmp_path)


def test_lists(run, corpus_folder, monkeypatch):
    monkeypatch.setitem(METHODS, "nmf", METHODS["nmf"]._replace(departures="windows of 64 ms."))
    status, out, err = run("methods")
    header, *lines = out.splitlines()
    assert (status, err, header.split()[0]) == (0, [], "method")
    assert [line.split()[0] for line in lines] == list(METHODS)
    departures = dict(zip(METHODS, (line[header.index("departures") :] for line in lines), strict=True))
    assert departures["nmf"] == "windows of 64 ms."
    assert departures["spp-wiener"] == (METHODS["spp-wiener"].departures or "-")
    assert "[nmf-speech]" in out
    status, out, err = run("corpora", "--corpus", corpus_folder)
    assert (status, err, "mini-librispeech" in out, "street" in out) == (0, [], True, True)


def test_the_command_line_itself(run):
    assert run("--version")[1] == f"sepriors {__version__}\n"
    for name in COMMANDS:
        assert name in run("--help")[1]
        status, out, err = run(name, "--help")
        assert (status, err, out.startswith(f"usage: sepriors {name}")) == (0, [], True)


@pytest.mark.parametrize(("line", "message"), [
    ("", "required: COMMAND"),
    ("enhence", "invalid choice: 'enhence'"),
    ("enhance s.wav", "the following arguments are required: --method"),
    ("enhance s.wav -o out --method nfm", "unknown method 'nfm'; did you mean nmf"),
    ("enhance s.wav -o out --method noisereduce", "noisereduce is a package of others, which the chapters compare"),
    ("enhance s.wav -o out --method nmf --device gpu", "unknown device 'gpu'; expected cpu, cuda or auto"),
    ("enhance s.wav -o out --method nmf --device cpu:3", "device cpu:3: "),
    ("enhance s.wav -o out --method nmf --seed half", "argument --seed: invalid int value: 'half'"),
    (f"enhance s.wav -o out --method nmf --seed {2**70}", "expected a seed of 64 bits"),
    ("enhance s.wav --method nmf -o file", "expected a folder for the results, got a file"),
    ("enhance s.wav --method nmf -o file/deeper", "file"),
    ("enhance s.wav --method nmf -o /proc/no-such-place", "/proc/no-such-place"),
    ("mix s.wav -o out", "expected two files, CLEAN and NOISE, or --set NAME"),
    ("mix s.wav silence.wav -o out", "noise is silent"),
    ("mix s.wav s.wav --snr nan -o out", "expected a signal-to-noise ratio from -300 to 300 dB, got nan"),
    ("mix s.wav --set real -o out", "expected either two files or --set"),
    ("mix --set pink -o out", "argument --set: invalid choice: 'pink'"),
    ("mix --set real --files 0 -o out", "expected at least one file"),
    ("mix --set real --domain mismatched -o out", "expected mismatched speech of emodb"),
    ("score s.wav --metrics pesq", "unknown measure 'pesq'; did you mean pesq_"),
    ("score s.wav --metrics ,", "expected names with commas between them, got ','"),
    ("score s.wav --clean short.wav", "has 8000 samples at 16 kHz but short.wav has 100; cut them to one length"),
    ("score s.wav --clean empty", "no such file"),
    ("score s.wav --metrics dnsmos_bak -o there.csv", "there.csv exists already; use --force to overwrite it"),
    ("score s.wav --metrics dnsmos_bak -o file/x.csv", "expected a folder for the results, got a file"),
    ("bench --methods spp-weiner", "unknown method 'spp-weiner'; did you mean spp-wiener"),
    ("bench --metrics sdr", "unknown measure 'sdr'; did you mean si_sdr"),
    ("bench --files -1", "expected at least one file"),
    ("bench -o there.json", "there.json exists already"),
    ("train nmf-spech -o out", "no recipe for weights 'nmf-spech'; did you mean nmf-speech"),
    ("train nmf-speech", "exists already; use --force"),  # the shipped weights
    ("fetch mini-librispech", "did you mean 'mini-librispeech'"),
    ("fetch timit --from no-such-folder", "no-such-folder"),
    ("corpora --corpus nowhere", "nowhere"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_line(refused, corpus_folder, tmp_path, monkeypatch, line, message):
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPRIORS_DATA", str(corpus_folder))
    for name, x in {"s.wav": SPEECH[0], "short.wav": SPEECH[0, :100], "silence.wav": torch.zeros(8000)}.items():
        audio.write(name, x, 16000)
    for name in ("there.csv", "there.json", "file"):
        Path(name).write_text("mine")
    Path("empty").mkdir()

    def files():
        return {path: content for path, content in tree(tmp_path).items() if content is not None}

    before = files()
    assert message in refused(*line.split())
    assert files() == before


@pytest.mark.fault("The shipped weights of a method were spoiled",
    "One line that says how to train them again, status 2; nothing is written")  # fmt: skip
def test_weights_that_were_spoiled(refused, noisy, shelf, tmp_path):
    with (shelf / "nmf-speech.safetensors").open("ab") as file:
        file.write(b"x")
    line = refused("enhance", noisy, "--method", "nmf", "-o", tmp_path / "out")
    assert "expected sha256" in line
    assert "train it again: sepriors train nmf-speech" in line
    assert names(tmp_path / "out") == []


# ------------------------------------------------------------- in its own process


def test_a_reader_that_has_seen_enough():
    read, write = os.pipe()
    os.close(read)
    done = process("-m", "sepriors", "methods", capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
