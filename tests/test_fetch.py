"""Downloads against a server on this machine that serves small archives of the layouts of the real ones."""

import hashlib
import shutil
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import encoded, tree
from serving import registry_of, tarred, zipped

from sepriors.lab.corpora import CorpusError, FetchError, ReaderError, fetch, open_corpora, readers, registry, synthetic
from sepriors.lab.corpora.manifest import FIELDS, check_disjoint, read_manifest

module = sys.modules[fetch.__module__]  # sepriors.lab.corpora.fetch as an attribute is the function


@pytest.fixture(autouse=True)
def _quick_and_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("SEPRIORS_DATA", raising=False)
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(module, "BABBLE_SECONDS", 2.0)


@pytest.fixture
def dead_url():
    """An address of this machine where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# ---------------------------------------------------------------------- the archives


def _audio(rate=16_000, seconds=0.5, format="WAV", seed=0, padding=0):
    x = 0.1 * np.random.default_rng(seed).standard_normal(int(rate * seconds))
    x[int(len(x) * (1 - padding)) :] = 0
    return encoded(format, "PCM_16", x, rate)


def _tar(members):
    return tarred(*members.items())


def _zip(members):
    return zipped(*members.items())


def _readers(parts):
    """The archives of the two LibriSpeech, by the numbers of who reads in each of them."""
    everyone = [(n, part) for part, numbers in parts.items() for n in numbers]
    lines = [f"{n:<4} | {'FM'[n % 2]} | {part:<16} | 25.1 | Reader {n}" for n, part in everyone]
    about = {"LibriSpeech/SPEAKERS.TXT": "\n".join([";ID  |SEX| SUBSET           |MINUTES| NAME", *lines]).encode()}
    archives = {f"{part}.tar.gz": about | {"LibriSpeech/README.TXT": b"about"} for part in parts}
    for n, part in everyone:
        chapter = f"LibriSpeech/{part}/{n}/7/{n}-7"
        files = {f"{chapter}-{i:04}.flac": _audio(format="FLAC", seed=10 * n + i) for i in range(2)}
        archives[f"{part}.tar.gz"] |= files | {f"{chapter}.trans.txt": b"words"}
    return {name: _tar(members) for name, members in archives.items()}


def _emodb():
    names = [f"{speaker}a01{mood}a" for speaker in ("03", "08", "11", "15", "16") for mood in "WN"]
    files = {f"wav/{name}.wav": _audio(seed=i) for i, name in enumerate(names)}
    return {"download.zip": _zip({"erkennung.txt": b"labels", **files})}


def _esc50():
    clips = [  # fold, recording, take, category, of which padding
        (1, 100, "A", "rain", 0),
        (2, 101, "A", "engine", 0),
        (3, 102, "A", "siren", 0),
        (4, 103, "A", "rain", 0),
        (5, 104, "A", "rain", 0),
        (5, 104, "B", "wind", 0),
        (4, 105, "A", "train", 0),
        (5, 105, "B", "train", 0),  # a recording in two folds
        (1, 106, "A", "dog", 0),  # no background
        (5, 107, "A", "car_horn", 0.6),  # mostly padding
    ]
    home = "ESC-50-0123456789abcdef/"
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    members = {home + "LICENSE": b"attributions", home + "README.md": b"about"}
    for i, (fold, recording, take, category, padding) in enumerate(clips):
        name = f"{fold}-{recording}-{take}-{i}.wav"
        lines.append(f"{name},{fold},{i},{category},{category == 'rain'},{recording},{take}")
        members[home + "audio/" + name] = _audio(44_100, seed=i, padding=padding)
    members[home + "meta/esc50.csv"] = "\n".join(lines).encode()
    return {"ESC-50.zip": _zip(members)}


def _voicebank_demand():
    parts = {"trainset_28spk_wav": ("p226", "p228", "p254"), "testset_wav": ("p232", "p257")}
    archives = {}
    for side in ("clean", "noisy"):
        for part, speakers in parts.items():
            files = {f"{side}_{part}/{s}_00{i}.wav": _audio(48_000, seed=i) for s in speakers for i in (1, 2)}
            archives[f"{side}_{part}.zip"] = _zip(files)
    return archives


def _speechocean762():
    people = {"0001": "train m 6", "0036": "train f 25", "0112": "test m 43", "0003": "test f 15"}
    members = {"speechocean762/resource/scores.json": b"{}", "speechocean762/WAVE/SPEAKER0036/.DS_Store": b"a folder"}
    for part in ("train", "test"):
        own = {number: about.split() for number, about in people.items() if about.startswith(part)}
        for i, name in enumerate(("spk2gender", "spk2age"), 1):
            lines = "".join(f"{number}\t{about[i]}\n" for number, about in own.items())
            members[f"speechocean762/{part}/{name}"] = lines.encode()
        for number in own:
            members[f"speechocean762/WAVE/SPEAKER{number}/0{number}0034.WAV"] = _audio(seed=int(number))
    return {"speechocean762.tar.gz": _tar(members)}


def _grid():
    clips = {f"s{n}": ["bbaf2n", "lgbf8n"] for n in range(1, 35)}
    clips["s1"] += [f"swwv{digit}{word}" for digit in "01234" for word in "anps"]
    audio = {f"audio_25k/{talker}/{clip}.wav": _audio(25_000, 0.1) for talker in clips for clip in clips[talker]}
    videos = {
        f"{talker}.zip": _zip({f"{talker}/{clip}.mpg": f"{talker} says {clip}".encode() for clip in clips[talker]})
        for talker in clips
        if talker != "s21"
    }
    return {"audio_25k.zip": _zip(audio), **videos}


LIBRISPEECH = {part: [n] for n, part in enumerate(
    ("train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other"), 1
)}  # fmt: skip
ARCHIVES = {
    "mini-librispeech": lambda: _readers({"train-clean-5": range(10, 18), "dev-clean-2": range(20, 26)}),
    "librispeech": lambda: _readers(LIBRISPEECH),
    "emodb": _emodb,
    "esc-50": _esc50,
    "voicebank-demand": _voicebank_demand,
    "speechocean762": _speechocean762,
    "grid": _grid,
}


@pytest.fixture
def served(server, tmp_path):
    """served(name, ...) -> a registry.toml whose archives the server has; keywords change the entries."""

    def serve(*names, **change):
        path = tmp_path / "registry.toml"
        path.write_text(registry_of(server, {name: ARCHIVES[name]() for name in names}, **change))
        return path

    return serve


def _left(tmp_path):
    """What lies in the cache, without locks."""
    root = tmp_path / "cache" / "corpora"
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"}


# -------------------------------------------------------------------- every corpus


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_corpus_is_fetched_once_and_whole(name, served, server, tmp_path):
    book = served(name)
    c = fetch(name, registry_path=book)
    assert (c.origin, c.root, c.is_real) == ("fetched", tmp_path / "cache" / "corpora", True)
    assert tuple(c.table.columns) == FIELDS
    assert set(c.table["corpus"]) == {name}
    assert len(read_manifest(c.root / name, check_files=True)) == len(c.table)
    for row in c.table.itertuples():
        info = soundfile.info(c.root / row.path)
        assert (info.samplerate, info.channels) == (16_000, 1)
        assert len(c.read(row.path)) == pytest.approx(row.seconds * 16_000, abs=16)
        assert row.licence
        assert row.source
    check_disjoint(c.table)
    assert not any(".downloads" in file or ".staging" in file for file in _left(tmp_path))
    asked = len(server.asked)
    pd.testing.assert_frame_equal(fetch(name, registry_path=book).table, c.table)
    assert len(server.asked) == asked


def test_the_real_registry_fits_the_code():
    known = registry()
    assert set(known) == set(ARCHIVES)
    assert [name for name in known if known[name].get("auto")] == ["mini-librispeech", "emodb", "esc-50"]
    for name in known:
        assert {a["name"] for a in known[name]["archives"]} == set(ARCHIVES[name]())
        assert {"title", "licence", "homepage"} <= set(known[name])
        for archive in known[name]["archives"]:
            assert all(url.startswith(("https://", "http://emodb")) for url in archive["urls"])
            assert len(archive.get("sha256", "0" * 64)) == 64
            assert len(archive.get("md5", "0" * 32)) == 32
    archives = [archive for entry in known.values() for archive in entry["archives"]]
    unknown = {archive["name"] for archive in archives if not {"sha256", "md5", "bytes"} & set(archive)}
    assert unknown == {"speechocean762.tar.gz", *(f"s{n}.zip" for n in range(11, 35) if n != 21)}


def test_mini_librispeech(served):
    c = fetch("mini-librispeech", registry_path=served("mini-librispeech"))
    speech = c.select(kind="speech")
    splits = {split: set(rows["speaker"]) for split, rows in speech.groupby("split")}
    assert splits == {"train": {str(n) for n in range(10, 18)}, "test": {"20", "24", "23"}, "valid": {"22", "21", "25"}}
    assert set(speech[speech["speaker"] == "20"]["gender"]) == {"F"}
    assert set(speech[speech["speaker"] == "21"]["gender"]) == {"M"}
    assert "mini-librispeech/LibriSpeech/train-clean-5/10/7/10-7-0000.flac" in set(speech["path"])
    babble = c.select(cls="babble")
    talkers = {s: {t for x in g["source"] for t in x.split() if t.isdecimal()} for s, g in babble.groupby("split")}
    assert set(talkers) == {"train", "valid", "test"}
    assert talkers == splits  # each split babbles with its own talkers, of whom there are fewer than eight


def test_esc50(served, tmp_path):
    table = fetch("esc-50", registry_path=served("esc-50")).table
    assert set(table["kind"]) == {"noise"}
    assert set(table["cls"]) == {"weather", "vehicle", "street"}
    recording = table["source"].str.split().str[-1]
    splits = {"100": "train", "101": "train", "102": "train", "103": "valid", "104": "test", "105": "valid"}
    assert dict(zip(recording, table["split"])) == splits
    assert set(table[table["licence"] == "CC BY 3.0"]["cls"]) == {"weather"}
    assert any(file.endswith("/LICENSE") for file in _left(tmp_path))


WHO = {
    "emodb": {"EMO03": "M train", "EMO08": "F train", "EMO11": "M train", "EMO15": "M test", "EMO16": "F test"},
    "librispeech": {"1": "M train", "2": "F valid", "3": "M valid", "4": "F test", "5": "M test"},
    "speechocean762": {"SO0036": "F test", "SO0112": "M test"},  # all of it is test, and without children
    "voicebank-demand": {
        "p226": "M valid", "p228": "F train", "p254": "M train", "p232": "M test", "p257": "F test",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WHO)
def test_who_is_in_which_split(served, name):
    table = fetch(name, registry_path=served(name)).table
    assert dict(zip(table["speaker"], table["gender"] + " " + table["split"])) == WHO[name]
    assert name != "librispeech" or table["source"].iloc[0] == "OpenSLR 12 train-clean-100"
    if name == "voicebank-demand":
        clean, noisy = (table[table["kind"] == f"pair-{side}"]["path"] for side in ("clean", "noisy"))
        assert list(clean.str.replace("clean_", "noisy_")) == list(noisy)


def test_grid(served):
    c = fetch("grid", registry_path=served("grid"))
    first = c.table[~c.table["speaker"].isin(["GRID_s1", "GRID_s4"])].groupby("speaker").first()
    talkers = {split: {int(name[6:]) for name in rows.index} for split, rows in first.groupby("split")}
    assert talkers["test"] == {10, 26, 27, 28, 29, 30, 31, 32, 33, 34}
    assert talkers["valid"] == {22, 23, 24, 25}
    assert set.union(*talkers.values()) == {*range(1, 35)} - {1, 4}
    assert (first["gender"] == "F").sum() == 15  # of 16, one of whom is s4
    assert set(c.select(speaker="GRID_s1")["split"]) == {"train", "valid", "test"}
    for row in c.table.itertuples():
        if row.speaker == "GRID_s21":
            assert row.video == ""
        else:
            says = f"{row.speaker.removeprefix('GRID_')} says {Path(row.path).stem}"
            assert (c.root / row.video).read_text() == says


@pytest.mark.parametrize("talker", [1, 4])
def test_a_tenth_of_a_one_talker_study_is_test_and_a_twentieth_valid(talker):
    splits = [readers._grid_split(talker, f"{start}{i}") for start in ("bbaf", "swwv") for i in range(1000)]
    assert splits.count("test") / 2000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("valid") / 2000 == pytest.approx(0.05, abs=0.015)


def _ages(table):
    members = {f"x/{part}/spk2age": table for part in ("train", "test")}
    return _tar({**members, "x/WAVE/SPEAKER0036/000360034.WAV": _audio()})


@pytest.mark.parametrize(("name", "file", "content", "message"), [
    ("speechocean762", "speechocean762.tar.gz", _ages(b"0036\n"), "the age of 0036 in years in spk2age, got none"),
    ("speechocean762", "speechocean762.tar.gz", _ages(b"0036\tyoung\n"), "the age of 0036 in years .* got young"),
    ("voicebank-demand", "noisy_testset_wav.zip", _zip({"noisy_testset_wav/p232_001.wav": _audio(48_000)}),
     r"a clean and a noisy file of each name in testset_wav.*p232_002\.wav"),
], ids=["no age", "no number", "no noisy file"])  # fmt: skip
def test_a_corpus_that_lacks_something_is_refused(served, server, tmp_path, name, file, content, message):
    book = served(name, sha256=None, bytes=None)
    server.files[file] = content
    with pytest.raises(ReaderError, match=message):
        fetch(name, registry_path=book)
    assert not (tmp_path / "cache" / "corpora" / name).exists()


# ---------------------------------------------------------------------- downloading


@pytest.mark.parametrize("more", [0, 1, 100_000])
def test_a_part_that_is_complete_or_too_long(server, archive, tmp_path, more):
    (tmp_path / "a.zip.part").write_bytes(server.files["a.zip"] + bytes(more))
    assert module.download(archive, tmp_path).read_bytes() == server.files["a.zip"]


@pytest.mark.fault("A server has another file than the registry knows",
    "FetchError with both hashes; nothing of the user is deleted")  # fmt: skip
@pytest.mark.parametrize("known", ["sha256", "md5", "bytes"])
def test_another_file_is_set_aside_and_nothing_of_the_user_is_deleted(server, archive, tmp_path, known):
    def facts(content):
        hashes = {name: hashlib.new(name, content).hexdigest() for name in ("sha256", "md5")}
        return hashes | {"bytes": len(content)}

    right, other = server.files["a.zip"], b"another file"
    expected, got = facts(right)[known], facts(other)[known]
    message = f"expected {known}:{expected} but got {got}" if known != "bytes" else "expected 500000 bytes, got 12"
    archive = {"name": "a.zip", "urls": archive["urls"], known: expected}
    server.files["a.zip"] = other
    mine = {"a.zip": b"the user's", "notes.txt": b"the user's"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FetchError, match=rf"could not download a\.zip.*{message}"):
        module.download(archive, tmp_path)
    assert tree(tmp_path) == mine | {"a.zip.wrong": other}
    server.files["a.zip"] = right
    assert module.download(archive, tmp_path).read_bytes() == right


def test_a_file_put_there_by_hand_is_taken(server, archive, tmp_path):
    (tmp_path / "a.zip").write_bytes(server.files["a.zip"])
    module.download(archive, tmp_path)
    assert server.asked == []


def test_a_mirror_serves_when_the_first_address_does_not(server, archive, tmp_path, dead_url):
    urls = [f"{dead_url}/a.zip", f"{server.url}/gone.zip", *archive["urls"]]
    assert module.download({**archive, "urls": urls}, tmp_path).is_file()


@pytest.mark.fault("Nobody listens at the address", "FetchError that names it and says what to do")
def test_no_network_names_the_address_and_what_to_do(archive, tmp_path, dead_url):
    url = f"{dead_url}/a.zip"
    with pytest.raises(FetchError) as error:
        module.download({**archive, "urls": [url]}, tmp_path)
    assert url in str(error.value)
    assert "Check the network" in str(error.value)
    assert f"Or download a.zip by hand into {tmp_path}" in str(error.value)
    assert "refused" in str(error.value)


def test_a_page_that_is_gone_is_not_asked_for_again(server, archive, tmp_path):
    with pytest.raises(FetchError, match=r"gone\.zip: expected the file, the server answered 404"):
        module.download({**archive, "urls": [f"{server.url}/gone.zip"]}, tmp_path)
    assert len(server.asked) == 1


# ------------------------------------------------------------------------ unpacking


@pytest.mark.fault("An archive is empty or cut off", "It is set aside, and the next run fetches it again")
@pytest.mark.parametrize(("name", "part"), [("emodb", 0.0), ("mini-librispeech", 0.5)])
def test_a_half_written_archive_is_set_aside(name, part, served, server, tmp_path):
    book = served(name, sha256=None, bytes=None)
    file, content = next(iter(ARCHIVES[name]().items()))
    server.files[file] = content[: int(part * len(content))]
    with pytest.raises(FetchError, match=r"damaged or cut off .*run this again"):
        fetch(name, registry_path=book)
    assert not (tmp_path / "cache" / "corpora" / name).exists()
    server.files[file] = content
    assert len(fetch(name, registry_path=book).table) >= 10


# ----------------------------------------------------------- names, places, the choice


def test_an_unknown_name_gives_the_nearest(tmp_path):
    with pytest.raises(FetchError, match=r"unknown corpus 'mini-libri'; did you mean 'mini-librispeech'"):
        fetch("mini-libri")
    with pytest.raises(FetchError, match=r"timit cannot be downloaded.*sepriors fetch timit --from FOLDER"):
        fetch("timit")
    with pytest.raises(CorpusError, match=r"expected a registry of downloads in TOML"):
        registry(tmp_path / "none.toml")


def test_a_folder_in_the_way_is_left_alone(served, server, tmp_path):
    mine = tmp_path / "cache" / "corpora" / "emodb" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(FetchError, match=r"emodb exists but is not a corpus that was fetched; move it away"):
        fetch("emodb", registry_path=served("emodb"))
    assert mine.read_text() == "mine"
    assert server.asked == []


@pytest.mark.fault("A run was killed while it unpacked", "The next run clears away what it left")
def test_what_a_killed_run_left_is_cleared_away(served, tmp_path):
    left = tmp_path / "cache" / "corpora" / ".staging-emodb~killed"
    (left / "done").mkdir(parents=True)
    (left / "done" / "manifest.csv").write_text("half")
    fetch("emodb", registry_path=served("emodb"))
    assert not left.exists()


@pytest.mark.fault("One corpus is fetched four times at once", "It is downloaded once, and all of them have it")
def test_two_at_once_download_once(served, server):
    book = served("emodb")
    with ThreadPoolExecutor(4) as pool:
        tables = list(pool.map(lambda _: fetch("emodb", registry_path=book).table, range(4)))
    assert all(table.equals(tables[0]) for table in tables)
    assert len(server.asked) == 1


def test_auto_says_what_is_incomplete_downloads_once_and_then_takes_what_is_there(served, server):
    book = served("mini-librispeech", "emodb")
    whole, server.files["download.zip"] = server.files["download.zip"], b"an error page"
    c = open_corpora(registry_path=book)
    assert set(c.table["corpus"]) == {"mini-librispeech"}
    assert c.note.startswith("Incomplete: could not download download.zip")
    server.files["download.zip"] = whole
    shutil.rmtree(c.root)
    c = open_corpora(registry_path=book)
    assert (c.origin, c.note) == ("fetched", "")
    assert set(c.table["corpus"]) == {"mini-librispeech", "emodb"}
    asked = len(server.asked)
    pd.testing.assert_frame_equal(open_corpora(registry_path=book).table, c.table)
    assert len(server.asked) == asked


def test_a_mistyped_folder_is_an_error_though_the_cache_serves(served, tmp_path, monkeypatch):
    fetch("mini-librispeech", registry_path=served("mini-librispeech"))
    monkeypatch.setenv("SEPRIORS_DATA", str(tmp_path / "typo"))
    with pytest.raises(CorpusError, match=r"typo: expected a folder with a manifest.csv.*SEPRIORS_DATA.*got no folder"):
        open_corpora()
    (tmp_path / "typo").mkdir()
    with pytest.raises(CorpusError, match=r"typo: expected .*; got one without"):
        open_corpora()
    monkeypatch.setenv("SEPRIORS_DATA", "")  # names nothing
    assert open_corpora().origin == "fetched"


@pytest.mark.fault("The cache cannot be written to", "An error that names it, and SEPRIORS_CACHE")
def test_a_cache_that_cannot_be_written_to(monkeypatch, dead_url, tmp_path):
    monkeypatch.setenv("SEPRIORS_CACHE", "/proc/.cache")
    told = pytest.raises(
        FetchError, match=r"^/proc/\.cache.*: expected a folder to write to .*; set SEPRIORS_CACHE to one$"
    )
    with told:
        open_corpora("synthetic")
    with told:
        fetch("emodb")
    archive = {"name": "a.zip", "urls": [f"{dead_url}/a.zip"]}
    with told:
        module.download(archive, module.cache_dir() / "weights")


@pytest.fixture
def spoken(monkeypatch):
    """A synthetic corpus of one file, made at once: its own test makes the real one."""

    def make(folder):
        row = dict(zip(FIELDS, ("a.flac", "synthetic", "speech", "", "s", "F", "test", "1", "CC0 1.0", "espeak")))
        pd.DataFrame([row]).to_csv(folder / "manifest.csv", index=False)

    monkeypatch.setattr(synthetic, "make", make)


@pytest.mark.usefixtures("spoken")
def test_auto_falls_back_to_synthetic_speech_and_says_why(served, server, dead_url):
    """Speech without noise is not enough."""
    c = open_corpora(registry_path=served("emodb", urls=[f"{dead_url}/download.zip"]))
    assert (c.origin, c.is_real) == ("synthetic", False)
    assert "the network did not answer within 5 s" in c.note
    assert "say nothing of real speech" in c.note
    assert open_corpora(registry_path=served("emodb")).origin == "synthetic"


def test_a_silent_server_costs_no_more_than_its_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        start = time.monotonic()
        assert not module._answers(url, seconds=0.3)
        assert time.monotonic() - start < 1.0
