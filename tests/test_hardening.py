"""Faults: spoiled files, killed processes, hostile archives, full disks. What is tried, and what comes out, is marked.

`tools.faults` makes the book's page of faults from these marks, here and in other files.
"""

import importlib
import json
import os
import pickle
import random
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import warnings
import zipfile
from collections import namedtuple

import numpy as np
import pytest
import soundfile
import test_fitting
import torch
import victims
from conftest import encoded, process, speechlike, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import registry_of, tarred, zipped

from sepriors import weights
from sepriors.lab.corpora import FIELDS, FetchError, ManifestError, read_manifest
from sepriors.lab.corpora.manifest import base
from sepriors.signal import audio
from sepriors.signal.audio import AudioError
from sepriors.weights import WeightsError

module = importlib.import_module("sepriors.lab.corpora.fetch")
# the same examples in every run, and no time limit for one
bounded = settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def says(error, *texts):
    """See that a message has one of the texts in it."""
    assert any(text in str(error) for text in texts), f"{error!s} has none of {texts}"


@st.composite
def spoiled(draw, whole):
    """The bytes with a few of their bits turned, a few put in or left out, or cut off; often near the head."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(data), draw(st.sampled_from([80, len(whole)]))) - 1))
        match draw(st.sampled_from(["bit", "bit", "byte", "in", "out"])):
            case "bit":
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "byte":
                data[place] = draw(st.sampled_from([0, 0x7F, 0x80, 0xFF]))
            case "in":
                data[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "out":
                del data[place + 1 : place + draw(st.integers(2, 9))]
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


# --------------------------------------------------------------------------- audio


STEREO = 0.1 * np.random.default_rng(0).standard_normal((300, 2))
KINDS = (
    "WAV PCM_16", "WAV FLOAT", "WAV IMA_ADPCM", "FLAC PCM_16", "AIFF PCM_24", "OGG VORBIS", "MP3 MPEG_LAYER_III",
    "CAF PCM_16", "AU PCM_16", "W64 PCM_16",
)  # fmt: skip
SOUND = {kind: encoded(*kind.split(), STEREO) for kind in KINDS}


@pytest.mark.fault("Any bytes at all are named .wav, .flac, .ogg or .raw", "AudioError that names the file")
@pytest.mark.fault(
    "Bits of an audio file are turned, bytes put in or left out, the end cut off (WAV, FLAC, AIFF, Ogg, MP3, ...)",
    "Finite samples where nothing shows, else AudioError that names the file",
)
@pytest.mark.parametrize("kind", SOUND)
def test_a_spoiled_audio_file_is_read_or_refused(tmp_path, kind):
    """And nothing is warned of."""

    @bounded
    @given(spoiled(SOUND[kind]) | st.binary(max_size=300), st.sampled_from([".wav", ".flac", ".ogg", ".raw", ""]))
    def check(content, suffix):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                x, rate = audio.read(path)
            except AudioError as error:
                says(error, str(path))
            else:
                assert x.ndim == 2
                assert x.numel() > 0
                assert x.isfinite().all()
                assert audio.RATES[0] <= rate <= audio.RATES[1]

    check()


@pytest.mark.fault("The header of a FLAC file promises 69 billion samples",
    "AudioError that names the file, whatever the memory")  # fmt: skip
def test_a_header_that_promises_more_than_memory_holds(tmp_path, monkeypatch):
    data = bytearray(SOUND["FLAC PCM_16"])
    data[21] |= 0x0F  # STREAMINFO: the upper 4 of the 36 bits that count the samples, then the others
    data[22:26] = b"\xff" * 4
    (tmp_path / "x.flac").write_bytes(data)
    with pytest.raises(AudioError, match=r"x\.flac: .*"):
        audio.read(tmp_path / "x.flac")

    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 512. GiB")

    (tmp_path / "x.wav").write_bytes(SOUND["WAV PCM_16"])
    monkeypatch.setattr(soundfile.SoundFile, "read", no_memory)
    with pytest.raises(AudioError, match=r"x\.wav: its header promises 300 samples, more than memory holds"):
        audio.read(tmp_path / "x.wav")


@pytest.mark.fault("The header of a WAV file names a sample rate of 1 Hz or 2 GHz", "AudioError that names both")
@pytest.mark.parametrize("rate", [99, 768_001, 2**31 - 1])
def test_a_sample_rate_that_no_recording_has(tmp_path, rate):
    data = bytearray(SOUND["WAV PCM_16"])
    data[24:28] = struct.pack("<I", rate)
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(AudioError, match=rf"x\.wav: expected a sample rate from 100 to 768000 Hz, got {rate}"):
        audio.read(tmp_path / "x.wav")


# -------------------------------------------------------------------- the manifest

HEADER = ",".join(FIELDS)
GOOD = "a/{0}.flac,toy,speech,,1,F,train,0.5,CC0 1.0,drawn,a/{0}.webp"
TABLE = "\n".join([HEADER, *map(GOOD.format, "abc")]) + "\n"


def opened_or_refused(folder, content):
    """`read_manifest` gives a sound table, or ManifestError with the file and a line of it; it warns of nothing."""
    (folder / "manifest.csv").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            table = read_manifest(folder)
        except ManifestError as error:
            start, _, rest = str(error).partition(", line ")
            assert start == str(folder / "manifest.csv")
            assert 0 < int(rest.split(":")[0]) <= content.count(b"\n") + content.count(b"\r") + 1
        else:
            assert tuple(table.columns) == FIELDS
            assert not table.isna().any(axis=None)
            assert (table["seconds"] > 0).all()
            assert not table["path"].duplicated().any()


@pytest.mark.fault("Any bytes at all stand in manifest.csv", "ManifestError that names the file and the line")
@pytest.mark.fault("Characters of manifest.csv are changed, put in or left out",
    "It opens where all of it is sound, else ManifestError that names the file and the line")  # fmt: skip
@bounded
@given(
    content=spoiled(TABLE.encode()) | st.binary(max_size=100) | st.text(max_size=100).map(str.encode),
    text=st.text(alphabet=',"\n\r\0/.\\:é1', max_size=6), at=st.integers(0, 200),
)  # fmt: skip
def test_a_spoiled_manifest_opens_or_is_refused(tmp_path, content, text, at):
    for whole in (content, HEADER.encode() + b"\n" + content, (TABLE[:at] + text + TABLE[at:]).encode()):
        opened_or_refused(tmp_path, whole)


@pytest.mark.fault("A row of manifest.csv is too short or too long, a quote is left open, a column is there twice",
    "ManifestError that names the line, blank lines counted")  # fmt: skip
@pytest.mark.parametrize(("lines", "message"), [
    ([HEADER, GOOD, GOOD.rpartition(",")[0]], "line 3: expected 11 values, got 10"),
    ([HEADER, "", "", GOOD + ",more"], "line 4: expected 11 values, got 12"),
    ([HEADER, GOOD, "b" + GOOD.replace("drawn", '"two\nlines"'), "c" + GOOD.replace("F", "X")], "line 5: .*gender"),
    ([HEADER, GOOD, '"' + GOOD], "line 3: expected a comma-separated table in UTF-8, got unexpected end of data"),
    ([HEADER + ",path", GOOD + ",x"], "line 1: has the column 'path' twice"),
    ([HEADER.replace("split", "slit"), GOOD], "line 1: lacks the column split"),
    ([HEADER, GOOD, "é".encode("latin-1").decode("utf-8", "surrogateescape")], r"line 3: .*can't decode byte 0xe9"),
])  # fmt: skip
def test_the_line_is_named(tmp_path, lines, message):
    (tmp_path / "manifest.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path)


def test_a_manifest_from_a_spreadsheet(tmp_path):
    """With the mark of UTF-8 in front, and the line ends of another system."""
    (tmp_path / "manifest.csv").write_bytes(TABLE.replace("\n", "\r\n").encode("utf-8-sig"))
    assert list(read_manifest(tmp_path)["path"]) == ["a/a.flac", "a/b.flac", "a/c.flac"]


@pytest.mark.fault("A path of the manifest, or that of the owner's folder, is no name of a file",
    "ManifestError that names it")  # fmt: skip
def test_names_that_no_file_has(tmp_path):
    (tmp_path / "manifest.csv").write_text(TABLE.replace("a/b", "b" * 300))
    with pytest.raises(ManifestError, match=r"3 of its 3 files are not there"):
        read_manifest(tmp_path, check_files=True)
    for owner in (b"\xff\xfe", b"/" + b"x" * 300, b"/a\0b", b""):
        (tmp_path / "audio-folder.txt").write_bytes(owner)
        with pytest.raises(ManifestError, match=r"audio-folder\.txt: expected the full path of the folder"):
            base(tmp_path)


# ------------------------------------------------------------------------- weights


@pytest.fixture
def carded(tmp_path, monkeypatch):
    """A file of weights with a card, alone in a folder."""
    folder = tmp_path / "cards"
    weights.save(folder / "w.safetensors", {"W": torch.ones(3, 4), "n": torch.arange(5)}, {"n_fft": "512"})
    card = {"file": "w.safetensors", "sha256": weights.sha256(folder / "w.safetensors"), "command": "train w"}
    (folder / "cards.toml").write_text("[w]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in card.items()))
    monkeypatch.setattr(weights, "folder", lambda: folder)
    return folder


@pytest.mark.fault("Any bits of a file of weights are turned, or bytes put in, left out or cut off",
    "WeightsError by the sha256 of its card; without a card, WeightsError wherever the file shows it")  # fmt: skip
def test_spoiled_weights(carded):
    path = carded / "w.safetensors"
    whole = path.read_bytes()

    @bounded
    @given(content=spoiled(whole))
    def check(content):
        path.write_bytes(content)
        if content != whole:
            with pytest.raises(WeightsError, match=r"w\.safetensors: expected sha256"):
                weights.load("w")
        try:
            got = weights.load(path)
        except WeightsError as error:
            says(error, str(path))
        else:
            assert all(isinstance(x, torch.Tensor) for x in got.tensors.values())
            assert isinstance(got.config, dict)

    check()


@pytest.mark.fault("The configuration in a file of weights is no JSON, or of another shape", "WeightsError")
@pytest.mark.parametrize("config", ["", "{", "3", "null", '["n_fft"]', "[" * 100_000])
def test_a_configuration_that_is_none(tmp_path, config):
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights.safetensors.torch.save({"W": torch.ones(1)}, {"config": config}))
    with pytest.raises(WeightsError, match=r"w\.safetensors: expected a whole safetensors file"):
        weights.load(path)


@pytest.mark.fault("Any bytes of cards.toml are changed",
    "WeightsError that names the file, or a card that its weights do not fit")  # fmt: skip
def test_spoiled_cards(carded):
    path = carded / "cards.toml"
    whole = path.read_bytes()

    @bounded
    @given(content=spoiled(whole))
    def check(content):
        path.write_bytes(content)
        try:
            weights.load("w")
        except WeightsError as error:
            says(error, str(path), "expected sha256", "no such weights", "unknown weights")

    check()


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.fault("A pickle that runs a program lies in place of weights or of a checkpoint",
    "WeightsError; the program does not run")  # fmt: skip
@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_hostile_pickle_is_not_run(tmp_path, save):
    for name, load in (("w.safetensors", weights.load), ("run.checkpoint", test_fitting.run)):
        save({"run": "20 steps", "model": Hostile(tmp_path / "made")}, tmp_path / name)
        with pytest.raises(WeightsError, match=f"{name}: expected a whole"):
            load(tmp_path / name)
    assert set(tree(tmp_path)) == {"w.safetensors", "run.checkpoint"}


@pytest.mark.fault("Any bytes of a checkpoint are changed",
    "WeightsError that says what to delete, or the same weights, bit by bit")  # fmt: skip
def test_a_spoiled_checkpoint(tmp_path):
    path = tmp_path / "run.checkpoint"
    exact = test_fitting.flat(test_fitting.run(path).model)
    whole = path.read_bytes()
    tensor = torch.load(path, weights_only=True)["averaged"]["weight"].numpy().tobytes()

    @settings(bounded, max_examples=60)
    @given(spoilt=spoiled(whole) | st.integers(0, len(whole) - 1).map(lambda i: whole[:i] + b"?" + whole[i + 1 :]))
    def check(spoilt):
        path.write_bytes(spoilt)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                got = test_fitting.run(path)
            except WeightsError as error:
                says(error, f"delete {path} to start afresh")
            else:
                assert test_fitting.flat(got.model).equal(exact)

    check()
    assert tensor in whole
    path.write_bytes(whole.replace(tensor, tensor[1:] + b"\1"))  # torch would load it
    with pytest.raises(WeightsError, match=r"got another content of .* than was written; delete"):
        test_fitting.run(path)


# -------------------------------------------------------------------------- killed


@pytest.mark.fault("A training is killed after a random byte of a checkpoint it writes",
    "The checkpoint before is whole; the half-written one is cleared away by the next run")  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_a_training_killed_in_the_middle_of_a_write(tmp_path, seed):
    path, moments = tmp_path / "run.checkpoint", random.Random(seed)
    with pytest.raises(test_fitting.Broken):
        test_fitting.run(path, broken=5)
    before = path.read_bytes()
    half = moments.randint(1, len(before) - 1)
    assert victims.run(victims.fit, half, path).status == -signal.SIGXFSZ
    left = tree(tmp_path)
    assert left.pop("run.checkpoint") == before
    assert [len(content or b"") for content in left.values()] == [half]
    assert test_fitting.flat(test_fitting.run(path).model).equal(test_fitting.flat(test_fitting.run().model))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault(
    "`sepriors train` is killed (SIGKILL) at a random line, and again after each resume",
    "The same command ends with the weights of a run that was left alone, to the last bit; nothing else stays",
)
def test_the_command_killed_at_random(tmp_path, corpus_folder):
    def trained(out, *fault):
        arguments = ["train", "maf", "--force", "--corpus", str(corpus_folder), "-o", str(out)]
        return victims.run(victims.command, arguments, *fault)

    moments, kills = random.Random(0), 0
    while trained(tmp_path / "killed", victims.die_at_line, moments.randint(40, 130)).status == -signal.SIGKILL:
        kills += 1
    assert kills >= 2
    assert trained(tmp_path / "alone").status == 0
    assert [*tree(tmp_path / "killed")] == ["cards.toml", "maf.safetensors"]
    killed, alone = (tmp_path / run / "maf.safetensors" for run in ("killed", "alone"))
    assert killed.read_bytes() == alone.read_bytes()


# ----------------------------------------------------------------------- downloads


@pytest.mark.fault("The connection breaks off at random bytes, four times a run, in run after run",
    "Each run says what has come and keeps it; the file is whole in the end")  # fmt: skip
@pytest.mark.parametrize("ranges", [True, False], ids=["server resumes", "server does not"])
def test_a_download_cut_at_random(server, archive, tmp_path, ranges):
    server.ranges, part, places = ranges, tmp_path / "a.zip.part", random.Random(0)
    for _ in range(4):
        server.cut, server.cuts = places.randint(0, 30_000), 4
        with pytest.raises(FetchError, match="broke off, 4 times") as caught:
            module.download(archive, tmp_path)
        assert f"({part.stat().st_size} bytes)" in str(caught.value)
        assert server.files["a.zip"].startswith(part.read_bytes())
    have = part.stat().st_size
    assert module.download(archive, tmp_path).read_bytes() == server.files["a.zip"]
    assert have > 0
    assert server.asked[-1] == ("/a.zip", f"bytes={have}-")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.fault("A download is killed after random bytes, again after each resume",
    "It goes on from the bytes on the disk; the file is whole in the end")  # fmt: skip
def test_a_download_killed_at_random(server, archive, tmp_path):
    part = tmp_path / "a.zip.part"
    for size in sorted(random.Random(1).sample(range(1, 500_000), 4)):
        assert victims.run(victims.download, size, archive, tmp_path).status == -signal.SIGXFSZ
        assert part.stat().st_size == size
    assert module.download(archive, tmp_path).read_bytes() == server.files["a.zip"]
    assert server.asked[-1] == ("/a.zip", f"bytes={size}-")
    assert not part.exists()


# ------------------------------------------------------------------------ archives


def understated():
    """A zip whose member is larger than it says."""
    whole = zipped(("a", random.Random(0).randbytes(1000)))
    return whole.replace(struct.pack("<I", 1000), struct.pack("<I", 10))


def locked():
    """A zip whose member asks for a password."""
    data = bytearray(zipped(("a", b"secret")))
    for head, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(head) + at] |= 1
    return bytes(data)


ONE, TWO = ("a.txt", b"one"), ("b/c.txt", b"two" * 50)


def odd(name, type=tarfile.REGTYPE, link=""):
    """A member of a tar that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, link
    return info, b""


LINK = zipfile.ZipInfo("link")
LINK.create_system, LINK.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
EVIL = {
    "a tar that climbs": tarred(ONE, odd("../evil.txt")),
    "a tar that climbs later": tarred(ONE, odd("a/../../evil.txt")),
    "a tar with an absolute path": tarred(ONE, odd("/tmp/evil.txt")),
    "a tar with a symbolic link": tarred(ONE, odd("link", tarfile.SYMTYPE, "/etc")),
    "a tar with a symbolic link inside": tarred(ONE, odd("link", tarfile.SYMTYPE, "a.txt")),
    "a tar with a hard link": tarred(ONE, odd("link", tarfile.LNKTYPE, "../secret")),
    "a tar with a device": tarred(ONE, odd("null", tarfile.CHRTYPE)),
    "a tar with a pipe": tarred(ONE, odd("pipe", tarfile.FIFOTYPE)),
    "a zip that climbs": zipped(ONE, ("../evil.txt", b"x")),
    "a zip with an absolute path": zipped(ONE, ("/tmp/evil.txt", b"x")),
    "a zip with a drive": zipped(ONE, ("C:/evil.txt", b"x")),
    "a zip with backslashes": zipped(ONE, ("..\\evil.txt", b"x")),
    "a zip with a symbolic link": zipped(ONE, (LINK, b"/etc/passwd")),
}
HOSTILE = {what: (content, "refused, its member .*; nothing was unpacked") for what, content in EVIL.items()} | {
    "a zip with a name twice": (zipped(ONE, ONE), r"member 'a\.txt' is there twice; nothing was unpacked"),
    "a tar with a name twice": (tarred(ONE, ("./a.txt", b"x")), "is there twice; nothing was unpacked"),
    "a zip with a file in a file": (zipped(ONE, ("a.txt/b", b"x")), "lies in another one that is a file; nothing"),
    "a zip bomb": (zipped(("zeros", bytes(10**7))), "would grow to 10000000, more than 100 times as many; nothing"),
    "a tar bomb": (tarred(("zeros", bytes(10**7))), "would grow to 10000000, more than 100 times as many; nothing"),
    "a zip that understates its size": (understated(), "damaged or cut off .*Bad CRC-32"),
    "a zip with a password": (locked(), "damaged or cut off .*password"),
}


@pytest.mark.fault(
    "An archive climbs out of its folder, or holds an absolute path, a drive, a link, a device or a pipe",
    "FetchError; nothing at all is unpacked",
)
@pytest.mark.fault(
    "An archive holds a name twice, a file in a file, a bomb (10 MB from 10 kB), a size or a password that is untrue",
    "FetchError that says which; nothing outside the folder, no bomb is unpacked",
)
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path, what):
    content, message = HOSTILE[what]
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(FetchError, match=message):
        module.unpack(tmp_path / "archive", tmp_path / "deep" / "target")
    inside = tree(tmp_path / "deep" / "target")
    assert sum(len(content or b"") for content in inside.values()) < (1 if "nothing" in message else 100)
    assert not (inside and "nothing" in message)
    outside = {"archive", "archive.wrong", "deep", "deep/target"}
    assert {*tree(tmp_path)} - {f"deep/target/{name}" for name in inside} <= outside


@pytest.mark.fault("An archive would not fit on the disk", "FetchError with both sizes; nothing is unpacked")
def test_an_archive_larger_than_the_disk(tmp_path, monkeypatch):
    (tmp_path / "archive").write_bytes(zipped(ONE, TWO))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1000, 848, 152))
    with pytest.raises(FetchError, match=r"has room for 152 bytes, .*archive unpacked has 153; nothing was unpacked"):
        module.unpack(tmp_path / "archive", tmp_path / "target")
    assert tree(tmp_path / "target") == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1000, 847, 153))
    module.unpack(tmp_path / "archive", tmp_path / "target")
    assert tree(tmp_path / "target") == {"a.txt": b"one", "b": None, "b/c.txt": b"two" * 50}


@pytest.mark.fault("Any bytes of an archive (zip; tar plain, gz, xz, bz2) are changed or cut off",
    "It is unpacked, or FetchError and it is set aside; nothing outside the folder")  # fmt: skip
@pytest.mark.parametrize("kind", ["zip", "w:", "w:gz", "w:xz", "w:bz2"])
def test_a_spoiled_archive_is_unpacked_or_refused(tmp_path, kind):
    archive, deep = tmp_path / "archive", tmp_path / "deep"
    whole = zipped(ONE, TWO) if kind == "zip" else tarred(ONE, TWO, mode=kind)

    @settings(bounded, max_examples=80)
    @given(content=spoiled(whole))
    def check(content):
        archive.write_bytes(content)
        try:
            module.unpack(archive, deep / "target")
        except FetchError as error:
            says(error, str(archive))
        assert {p.name for p in tmp_path.iterdir()} <= {"archive", "archive.wrong", "deep"}
        assert [p.name for p in deep.iterdir()] == ["target"]
        shutil.rmtree(deep)

    check()


# ------------------------------------------------------------------------ full disk


def refused(ended, command):
    """The one line with which a command has refused."""
    assert (ended.status, ended.out) == (2, ""), ended
    (line,) = ended.err.splitlines()
    assert line.startswith(f"sepriors {command}: ")
    return line


FULL = "One line that names the file, status 2; the old file is whole, and no half-written one is there"


@pytest.mark.fault("No room for the results of `enhance`, `mix`, `score` and `bench`", FULL)
@pytest.mark.parametrize("command", ["enhance", "mix", "score", "bench"])
def test_no_room_for_results(tmp_path, corpus_folder, command):
    clean, noise, out = tmp_path / "clean.wav", tmp_path / "noise.wav", tmp_path / "out"
    audio.write(clean, speechlike(1, 8000)[0], 16000)
    audio.write(noise, 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0)), 16000)
    target, arguments = {
        "enhance": (out / "noise.wav", [noise, "--method", "spp-wiener", "-o", out]),
        "mix": (out / "noisy" / "clean_+0dB.flac", [clean, noise, "-o", out]),
        "score": (out / "t.csv", [noise, clean, "--clean", clean, "--metrics", "si_sdr", "-o", out / "t.csv"]),
        "bench": (out / "b.json", ["--methods", "spp-wiener", "--metrics", "si_sdr", "--set", "white", "--files", 1,
                                   "--corpus", corpus_folder, "-o", out / "b.json"]),
    }[command]  # fmt: skip
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    ended = victims.run(victims.command, [command, "--force", *map(str, arguments)], victims.no_room_after, 50)
    shown = ended._replace(out="", err=ended.err[ended.err.rindex("sepriors ") :])  # bars and tables came before
    assert str(target) in refused(shown, command)
    assert {p: c for p, c in tree(out).items() if c is not None} == {str(target.relative_to(out)): b"old"}


@pytest.mark.fault("No room for a checkpoint or the weights of `train`", FULL)
@pytest.mark.parametrize("room", [1000, 60_000], ids=["checkpoint", "weights"])
def test_no_room_for_a_training(tmp_path, corpus_folder, room):
    card = "maf" if room == 1000 else "nmf-speech"  # NMF keeps no checkpoint
    target = tmp_path / f"{card}.safetensors"
    target.write_bytes(b"old")
    arguments = ["train", card, "--force", "--corpus", str(corpus_folder), "-o", str(tmp_path)]
    ended = victims.run(victims.command, arguments, victims.no_room_after, room)
    line = ended.err.splitlines()[-1].rpartition("\r")[2]
    line = refused(ended._replace(err=line), "train")
    assert str(tmp_path / "maf.checkpoint" if card == "maf" else target) in line
    assert tree(tmp_path) == {target.name: b"old"}


@pytest.mark.fault(
    "No room for a download, or for what it unpacks to",
    "One line that says what to do, status 2; what has come is kept, no half corpus is there, and the next run goes on",
)
@pytest.mark.parametrize("room", [5_000, 30_000], ids=["download", "unpacking"])
def test_no_room_for_a_download(server, tmp_path, room):
    cache = tmp_path / "cache"
    content = zipped(("wav/03a01Wa.wav", random.Random(0).randbytes(10_000) + bytes(40_000)))
    registry = tmp_path / "registry.toml"
    registry.write_text(registry_of(server, {"emodb": {"download.zip": content}}))
    ended = victims.run(victims.command, ["fetch", "emodb"], victims.no_room_after, room, registry)
    assert f"the disk with {cache / 'corpora'}" in (line := refused(ended, "fetch"))
    assert "is full; what has come is kept. Free some space, or set SEPRIORS_CACHE, and run again." in line
    left = {p: c for p, c in tree(cache).items() if c is not None and not p.endswith(".lock")}
    kept = "corpora/.downloads/emodb/download.zip"
    assert left == ({f"{kept}.part": content[:room]} if room < len(content) else {kept: content})
    ended = victims.run(victims.command, ["fetch", "emodb"], None, 0, registry)
    assert "03a01Wa.wav" in refused(ended, "fetch")  # all of it came, and it is no audio
    assert server.asked[1:] == ([("/download.zip", f"bytes={room}-")] if room < len(content) else [])


@pytest.mark.fault("The disk that takes what a command prints is full", "One line, status 2")
def test_no_room_for_what_is_printed():
    with open("/dev/full", "w") as full:
        done = process("-m", "sepriors", "methods", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, "sepriors methods: [Errno 28] No space left on device\n")
