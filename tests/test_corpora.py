"""The manifest, the choice of corpora, and the readers of folders that the user owns."""

import os
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import tree
from fingerprints import LAG, STEP, twins, words
from PIL import Image

from sepriors.lab import corpora as package
from sepriors.lab.corpora import CorpusError, ReaderError, import_folder, open_corpora, readers, synthetic
from sepriors.lab.corpora.manifest import (
    FIELDS,
    KNOWN,
    WORDS,
    ManifestError,
    check_disjoint,
    gather,
    read_manifest,
    write_manifest,
)
from sepriors.signal import audio
from sepriors.signal.audio import AudioError

OUTSIDE = os.environ.get("SEPRIORS_DATA")  # as it is before the tests hide it
ROW = dict.fromkeys(FIELDS, "") | {
    "path": "a/one.flac", "corpus": "toy", "kind": "speech", "speaker": "1", "gender": "F", "split": "train",
    "seconds": 0.5, "licence": "CC0 1.0", "source": "drawn",
}  # fmt: skip


def _tone(path, rate=16_000, seconds=0.5, channels=1, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * rate)) / rate
    x = 0.3 * np.sin(2 * np.pi * 440 * t)
    soundfile.write(path, np.stack([x] * channels, 1), rate, **how)


@pytest.fixture
def folder(tmp_path):
    """Three speakers and a noise."""
    folder = tmp_path / "toy"
    rows = [
        ROW,
        {**ROW, "path": "b/two.flac", "speaker": "2", "gender": "M", "split": "test"},
        {**ROW, "path": "c/stereo48.wav", "speaker": "3", "split": "valid"},
        {**ROW, "path": "n/hum.flac", "kind": "noise", "cls": "home", "speaker": "", "gender": "", "split": "test"},
    ]
    for row in rows:
        wide = {"rate": 48_000, "channels": 2} if "48" in str(row["path"]) else {}
        _tone(folder / str(row["path"]), **wide)
    write_manifest(folder, pd.DataFrame(rows))
    return folder


@pytest.fixture(autouse=True)
def _nothing_from_outside(tmp_path, monkeypatch):
    monkeypatch.delenv("SEPRIORS_DATA", raising=False)
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "cache"))


# ---------------------------------------------------------------------- the manifest


def test_what_is_written_is_read(folder):
    """A column for videos is there only where there is one."""
    table = read_manifest(folder, check_files=True)
    assert tuple(table.columns) == FIELDS
    assert table["seconds"].dtype == float
    assert table.loc[0].to_dict() == ROW
    assert (folder / "manifest.csv").read_text().splitlines()[0].endswith(",licence,source")
    (folder / "a" / "one.webp").write_bytes(b"a picture")
    table.loc[0, "video"] = "a/one.webp"
    write_manifest(folder, table.assign(colour="red"))  # a further column is left out
    assert (folder / "manifest.csv").read_text().splitlines()[0].endswith(",licence,source,video")
    pd.testing.assert_frame_equal(read_manifest(folder, check_files=True), table)
    write_manifest(folder, table.drop(columns="video"))
    assert set(read_manifest(folder)["video"]) == {""}


@pytest.mark.fault("A video that manifest.csv names is not there", "ManifestError that names the first")
def test_a_missing_file_or_video_is_named(folder):
    with pytest.raises(ManifestError, match=r"no such file.*columns path, corpus"):
        read_manifest(folder / "nowhere")
    one = folder / "b" / "two.flac"
    one.rename(folder / "away.flac")
    with pytest.raises(ManifestError, match=r"1 of its 4 files are not there, the first is b/two\.flac"):
        read_manifest(folder, check_files=True)
    (folder / "away.flac").rename(one)
    write_manifest(folder, read_manifest(folder).assign(video=["", "b/two.mpg", "c/three.mpg", ""]))
    assert len(read_manifest(folder)) == 4
    with pytest.raises(ManifestError, match=r"2 of its 2 videos are not there, the first is b/two\.mpg"):
        read_manifest(folder, check_files=True)


@pytest.mark.parametrize(("change", "message"), [
    ({"seconds": "long"}, r"line 3: expected a length in seconds above 0 as seconds, got 'long'"),
    ({"seconds": "-1"}, r"line 3: .*seconds"), ({"seconds": "inf"}, r"line 3: .*seconds"),
    ({"path": "../outside.flac"}, r"line 3: expected a relative path inside .* got '../outside.flac'"),
    ({"path": "/etc/passwd"}, r"line 3: .*path"), ({"path": "C:/sound.wav"}, r"line 3: .*path"),
    ({"path": "a\\b.wav"}, r"line 3: .*path"), ({"path": ""}, r"line 3: .*path"),
    ({"path": "a/one.flac"}, r"line 3: expected each file once"),
    ({"kind": "song"}, r"line 3: expected one of \('speech', .* as kind, got 'song'"),
    ({"split": "dev"}, r"line 3: .*'valid'.* as split, got 'dev'"), ({"gender": "f"}, r"line 3: .*gender"),
    ({"corpus": ""}, r"line 3: expected the name of a corpus"),
    ({"video": "../face.mpg"}, r"line 3: expected nothing, or a path as .* as video, got '../face.mpg'"),
])  # fmt: skip
def test_a_wrong_manifest_is_refused_and_none_is_written(folder, tmp_path_factory, change, message):
    table = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False).assign(video="")
    table.loc[1, list(change)] = list(change.values())
    table.to_csv(folder / "manifest.csv", index=False)
    with pytest.raises(ManifestError, match=message):
        read_manifest(folder)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ManifestError, match=message):
        write_manifest(empty, table)
    assert list(empty.iterdir()) == []


def _torn(**columns):
    """Two files, one of the training and one of the test."""
    return pd.DataFrame([ROW, {**ROW, "path": "b", "split": "test"}]).assign(**columns)


CLIP = {"corpus": "grid", "speaker": "GRID_s4", "path": ["s4/bbaf2n.opus", "s4/lgbf8n.flac"]}
STREET = {"kind": "noise", "cls": "street", "speaker": ""}
TALKERS = ["sum of the talkers 3 7 of toy", "sum of the talkers 7 4 of toy"]


@pytest.mark.parametrize(("columns", "message"), [
    ({}, "speaker 'toy: 1' is in the splits test, train; expected one only"),
    ({"speaker": ["1", "2"]}, ""),
    ({"speaker": ""}, ""),
    ({"corpus": ["one", "two"]}, ""),
    ({"corpus": ["librispeech", "mini-librispeech"]}, "speaker 'LibriSpeech: 1'"),
    (CLIP, ""),  # two clips of a study of one talker
    (CLIP | {"path": ["s4/bbaf2n.opus", "x/bbaf2n.flac"]}, "speaker 'grid: GRID_s4, clip bbaf2n' is in the splits"),
    (CLIP | {"speaker": "GRID_s5"}, "speaker 'grid: GRID_s5' is in the splits"),
    (STREET, "recording 'toy: drawn' is in the splits"),
    (STREET | {"source": ["x", "y"]}, ""),
    (STREET | {"corpus": ["one", "two"]}, ""),
    (STREET | {"cls": "babble", "source": TALKERS}, "speaker 'toy: 7' is in the splits test, train"),
    (STREET | {"cls": "babble", "source": "a bar"}, "recording 'toy: a bar' is in the splits"),
])  # fmt: skip
def test_what_is_in_two_splits_is_found(columns, message):
    """A speaker, a clip of a one-talker study, a recording, a talker of babble."""
    with pytest.raises(ManifestError, match=message) if message else nullcontext():
        check_disjoint(_torn(**columns))


@pytest.mark.parametrize("other", [
    {"path": "noise/home/esc_vacuum_cleaner_4-181286-B.opus"},
    {"path": "ESC-50-master/audio/1-181286-C-36.wav", "corpus": "esc-50"},
    {"source": "ESC-50 freesound 181286", "corpus": "esc-50"},
    {"source": "a mirror: unknown/4-181286-B-10{0,1,2,3,4}.wav"},
    {"source": "a mirror; sazman, http://www.freesound.org/people/sazman/sounds/181286/"},
    {"source": "an app: assets/181286__sazman__rain-on-a-tent.mp3"},
])  # fmt: skip
def test_two_clips_of_one_freesound_recording_are_found(other):
    noise = {**ROW, "kind": "noise", "cls": "home", "speaker": ""}
    clip = {**noise, "path": "esc_rain_4-181286-A.flac", "split": "test"}
    row = {**noise, "source": "the other", **other}
    check_disjoint(pd.DataFrame([clip, {**row, "split": "test"}]))
    with pytest.raises(ManifestError, match=r"recording 'Freesound 181286' is in the splits test, train"):
        check_disjoint(pd.DataFrame([clip, row]))
    number_of_another = {key: value.replace("181286", "81286") for key, value in other.items()}
    check_disjoint(pd.DataFrame([clip, {**row, **number_of_another}]))


def test_a_talker_of_babble_who_is_heard_in_another_split_is_found():
    babble = {**ROW, "path": "b", "kind": "noise", "cls": "babble", "speaker": "", "split": "test"}
    for source in ("sum of the talkers 2 1 of toy", "sum of the talkers 1 of toy"):
        with pytest.raises(ManifestError, match=r"speaker 'toy: 1' is in the splits test, train"):
            check_disjoint(pd.DataFrame([ROW, {**babble, "source": source}]))
    for source in ("sum of the talkers 11 2 of toy", "sum of the talkers 1 2 of another", "sum of talkers"):
        check_disjoint(pd.DataFrame([ROW, {**babble, "source": source}]))


# ----------------------------------------------------------------------- the corpora


def test_select_and_describe(folder):
    c = open_corpora(folder)
    assert list(c.select(kind="speech", split="test")["speaker"]) == ["2"]
    assert list(c.select(split=["test", "valid"])["path"]) == ["b/two.flac", "c/stereo48.wav", "n/hum.flac"]
    assert len(c.select()) == 4
    assert len(c.select(kind="noise", split="train")) == 0
    table = c.describe()
    assert list(table.columns) == ["corpus", "kind", "cls", "split", "files", "minutes", "speakers"]
    assert table["files"].sum() == 4
    assert list(table[table["kind"] == "speech"]["speakers"]) == [1, 1, 1]
    assert list(table[table["cls"] == "home"]["speakers"]) == [0]


@pytest.mark.parametrize("field", KNOWN)
def test_a_known_name_that_no_row_has_selects_nothing(folder, field):
    c = open_corpora(folder)
    for name in KNOWN[field]:
        assert len(c.select(**{field: name})) == (c.table[field] == name).sum()
    assert c.select(corpus=["voices"], kind="real").empty


def test_the_known_names_are_those_of_the_readers_the_registry_and_the_synthetic_corpus(tmp_path):
    assert {*package.READERS, *package.registry()} <= {*KNOWN["corpus"]}
    assert {*readers._ESC_CLASSES, *readers._CHIME_PLACES.values(), "babble"} <= {*KNOWN["cls"]}
    assert {corpus for corpus, *_ in synthetic._plan()} <= {*KNOWN["corpus"]}
    assert {row["cls"] for row in synthetic._noise(tmp_path)} <= {*KNOWN["cls"]}


@pytest.mark.parametrize(("asked", "message"), [
    ({"speeker": "1"}, "unknown field 'speeker'; did you mean 'speaker'"),
    ({"split": "tset"}, r"unknown split 'tset'; did you mean 'test'\? There are: test, train, valid"),
    ({"corpus": ["toy", "toys"]}, "unknown corpus 'toys'; did you mean 'toy'"),
    ({"kind": "rael"}, "unknown kind 'rael'; did you mean 'real'"),
    ({"cls": "strete"}, "unknown cls 'strete'; did you mean 'street'"),
    ({"speaker": "9"}, "unknown speaker '9'"),
])  # fmt: skip
def test_an_unknown_field_or_value_gives_the_nearest(folder, asked, message):
    with pytest.raises(ValueError, match=message):
        open_corpora(folder).select(**asked)


def test_read_gives_16_khz_mono(folder):
    c = open_corpora(folder)
    for x in (c.read("c/stereo48.wav"), c.read(c.table.loc[2, "path"])):
        assert x.shape == (8000,)
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.abs().max(), torch.tensor(0.3), atol=0.01, rtol=0)
    torch.testing.assert_close(c.read("a/one.flac")[500:-500], x[500:-500], atol=2e-3, rtol=0)


def test_read_refuses_what_the_table_does_not_have(folder):
    c = open_corpora(folder)
    with pytest.raises(ValueError, match=r"unknown path 'a/won.flac'; did you mean 'a/one.flac'"):
        c.read("a/won.flac")
    with pytest.raises(CorpusError, match="unknown path"):
        c.read("../secret.wav")
    (folder / "a" / "one.flac").write_bytes(b"not audio")
    with pytest.raises(AudioError, match=r"one\.flac"):
        c.read("a/one.flac")


def _nested(folder, **change):
    """Below `folder` a folder of two clips with videos and a manifest, the first of which that of `folder` has, too."""
    rows = [{**ROW, "path": f"{x}.flac", "corpus": "grid", "speaker": x, "video": f"{x}.webp"} for x in "xy"]
    for row in rows:
        _tone(folder / "grid" / row["path"])
        (folder / "grid" / row["video"]).write_bytes(b"a picture")
    write_manifest(folder / "grid", pd.DataFrame(rows))
    listed = {**rows[0], "path": "grid/x.flac", "video": "", **change}
    write_manifest(folder, pd.concat([read_manifest(folder), pd.DataFrame([listed])], ignore_index=True))


def test_a_folder_with_a_manifest_and_folders_with_manifests_is_all_of_them(folder, monkeypatch):
    """Whether it is named, or by SEPRIORS_DATA; and so is a folder that has but such folders."""
    _nested(folder)
    monkeypatch.setenv("SEPRIORS_DATA", str(folder))
    for c in (open_corpora(folder), open_corpora()):
        assert (c.origin, c.root, c.note, c.is_real) == ("folder", folder, "", True)
        assert list(c.table["path"]) == [
            "a/one.flac", "b/two.flac", "c/stereo48.wav", "n/hum.flac", "grid/x.flac", "grid/y.flac",
        ]  # fmt: skip
        assert list(c.select(corpus="grid")["video"]) == ["grid/x.webp", "grid/y.webp"]  # as the nearer manifest says
        assert all((c.root / video).is_file() for video in c.table["video"] if video)
        assert c.read("grid/y.flac").shape == (8000,)
        assert c.describe()["files"].sum() == 6
        assert str(c).startswith(f"folder corpora in {folder}: 6 files, 0.00 h (grid, toy)")
    assert len(read_manifest(folder)) == 5
    above = open_corpora(folder.parent)
    assert set(above.table["path"].str.split("/").str[0]) == {folder.name}
    assert above.read(f"{folder.name}/a/one.flac").shape == (8000,)


def test_two_manifests_must_agree_on_the_split_of_a_file(folder):
    _nested(folder, split="test")
    with pytest.raises(ManifestError, match=r"file 'grid/x\.flac' is in the splits test, train"):
        open_corpora(folder)


def test_a_video_of_an_owner_is_found_where_it_lies(folder, tmp_path):
    _nested(folder)
    entered = tmp_path / "cache" / "grid"
    entered.mkdir(parents=True)
    (folder / "grid" / "manifest.csv").rename(entered / "manifest.csv")
    (entered / "audio-folder.txt").write_text(str(folder / "grid"))
    for root in (entered.parent, entered):
        table = open_corpora(root).select(corpus="grid")
        assert {root / path for path in table["video"]} == {folder / "grid" / f"{x}.webp" for x in "xy"}
        assert open_corpora(root).read(table["path"].iloc[-1]).shape == (8000,)


# ------------------------------------------------------------ corpora the user owns


def _timit(root):
    for part, speakers in (("TRAIN/DR1", ("FCJF0", "MDAC0")), ("TEST/DR1", ("MDAB0", "FELC0", "FAKS0"))):
        for speaker in speakers:
            for sentence in ("SA1", "SI943", "SX133"):
                _tone(root / "TIMIT" / part / speaker / f"{sentence}.WAV", format="NIST", subtype="PCM_16")
    _tone(root / "TIMIT" / "TRAIN" / "DR1" / "FCJF0" / "SX133.WAV.wav")


def _wsj0(root):
    for part, speakers in (("si_tr_s", ("011", "012")), ("si_dt_05", ("050",)), ("si_et_05", ("440",))):
        for speaker in speakers:
            _tone(root / "wsj0" / part / speaker / f"{speaker}c0201.wv1", format="NIST", subtype="PCM_16")


def _chime3(root):
    home = root / "CHiME3" / "data" / "audio" / "16kHz"
    for place in ("BUS", "CAF", "PED", "STR"):
        for take in range(4):
            for channel in (1, 5):
                _tone(home / "backgrounds" / f"BGD_15020{take}_010_{place}.CH{channel}.wav")
    for part, speaker in (("tr05", "F01"), ("dt05", "M04"), ("et05", "F05")):
        for place, kind in (("bth", ""), ("caf", "_real"), ("caf", "_simu")):
            name = f"{speaker}_050C0101_{place.upper()}.CH5.wav"
            _tone(home / "isolated" / f"{part}_{place}{kind}" / name)


LAYOUTS = {"timit": _timit, "wsj0": _wsj0, "chime3": _chime3}


@pytest.fixture(params=LAYOUTS)
def owned(request, tmp_path):
    LAYOUTS[request.param](tmp_path / "mine")
    return request.param, tmp_path / "mine"


def test_an_owned_corpus_stays_where_it_is(owned, tmp_path):
    name, mine = owned
    before = sorted(mine.rglob("*"))
    c = import_folder(name, mine)
    assert sorted(mine.rglob("*")) == before
    assert list(tree(tmp_path / "cache" / "corpora" / name)) == ["audio-folder.txt", "manifest.csv"]
    assert set(c.table["corpus"]) == {name}
    assert c.is_real
    check_disjoint(c.table)
    for row in c.table.itertuples():
        assert c.read(row.path).shape == (8000,)
    assert set(c.select(kind="speech")["split"]) == {"train", "valid", "test"}


def test_an_import_is_idempotent_and_follows_a_move(tmp_path):
    _wsj0(tmp_path / "mine")
    first = import_folder("wsj0", tmp_path / "mine").table
    pd.testing.assert_frame_equal(import_folder("wsj0", tmp_path / "mine").table, first)
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(ManifestError, match=r"audio-folder\.txt: expected the full path of the folder"):
        gather(tmp_path / "cache" / "corpora")
    assert len(import_folder("wsj0", tmp_path / "moved").table) == len(first)


@pytest.mark.fault("A path in a manifest climbs out of the corpus", "ManifestError")
def test_the_manifest_of_an_owned_corpus_cannot_leave_it(tmp_path):
    _wsj0(tmp_path / "mine")
    import_folder("wsj0", tmp_path / "mine")
    home = tmp_path / "cache" / "corpora" / "wsj0"
    text = (home / "manifest.csv").read_text()
    (home / "manifest.csv").write_text(text.replace("wsj0/si_et_05", "../si_et_05", 1))
    with pytest.raises(ManifestError, match=r"expected a relative path inside"):
        gather(home.parent)


def test_timit_has_its_core_test_set(tmp_path):
    _timit(tmp_path)
    table = readers.read_layout("timit", tmp_path)
    assert set(table[table["split"] == "test"]["speaker"]) == {"MDAB0", "FELC0"}
    assert set(table[table["split"] == "valid"]["speaker"]) == {"FAKS0"}
    assert not table["path"].str.contains("SA1").any()
    assert table["path"].str.contains("SX133.WAV.wav", regex=False).sum() == 1
    assert len(table) == 10
    assert set(table[table["gender"] == "M"]["speaker"]) == {"MDAC0", "MDAB0"}


def test_chime3_splits_backgrounds_by_recording(tmp_path):
    _chime3(tmp_path)
    table = readers.read_layout("chime3", tmp_path)
    noise = table[table["kind"] == "noise"]
    assert set(noise["cls"]) == {"vehicle", "cafe", "crowd", "street"}
    assert noise["path"].str.contains(".CH5.", regex=False).all()
    assert (noise["split"] == "test").sum() == 4
    assert set(table[table["kind"] == "real"]["cls"]) == {"cafe"}
    assert not table["path"].str.contains("simu").any()


def test_compressed_sphere_says_what_to_do(tmp_path):
    file = tmp_path / "si_tr_s" / "011" / "011c0201.wv1"
    file.parent.mkdir(parents=True)
    header = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    file.write_bytes(header.ljust(1024) + b"ajkg")
    with pytest.raises(ReaderError, match=r"011c0201\.wv1.*convert it with sph2pipe"):
        import_folder("wsj0", tmp_path)
    assert not (tmp_path / "cache" / "corpora" / "wsj0").exists()
    _tone(file.with_suffix(".wav"))
    assert list(import_folder("wsj0", tmp_path).table["seconds"]) == [0.5]


@pytest.mark.parametrize("name", sorted(package.READERS))
def test_a_folder_of_another_layout_is_refused(name, tmp_path):
    (tmp_path / "other").mkdir()
    _tone(tmp_path / "other" / "song.wav")
    with pytest.raises(ReaderError, match="expected"):
        import_folder(name, tmp_path / "other")
    assert not (tmp_path / "cache" / "corpora" / name).exists()


def test_import_needs_a_known_name_and_a_folder(tmp_path):
    with pytest.raises(CorpusError, match=r"unknown corpus 'timt'; did you mean 'timit'"):
        import_folder("timt", tmp_path)
    with pytest.raises(CorpusError, match=r"expected the folder that holds timit, got nothing"):
        import_folder("timit", tmp_path / "nowhere")


# ------------------------------------------------------------ the folder of this machine


def _coloured(seconds, seed):
    """Noise whose bands rise and fall, as those of recordings do."""
    x = torch.randn(int(seconds * 16_000), generator=torch.Generator().manual_seed(seed))
    return 0.1 * torch.nn.functional.avg_pool1d(x[None, None], 5, 1, 2)[0, 0]


def _prints(step, **files):
    return pd.concat([words(x, step).assign(file=name) for name, x in files.items()])


@pytest.mark.parametrize("start", [0, 16_000, 31_808])
def test_an_excerpt_after_another_codec_is_the_same_recording(tmp_path, start):
    x, y, silence = _coloured(9, seed=0), _coloured(9, seed=1), torch.zeros(48_000)
    soundfile.write(tmp_path / "part.opus", 0.4 * x[start : start + 96_000].numpy(), 16_000, "OPUS", format="OGG")
    part = audio.read(tmp_path / "part.opus")[0][0]
    looked_in = _prints(LAG, part=part, y=y, silence=silence)
    assert twins(_prints(STEP, x=x, silence=silence), looked_in) == [("x", "part")]


@pytest.fixture
def at_hand(tmp_path):
    """$SEPRIORS_DATA; where it is unset a small corpus is looked at instead."""
    if OUTSIDE:
        return open_corpora(OUTSIDE)
    rows = []
    for i, split in enumerate(WORDS["split"]):
        about = {"split": split, "seconds": 3.0, "speaker": str(i), "video": f"{split}.webp"}
        rows.append({**ROW, "path": f"{split}.flac", "corpus": "grid", **about})
        audio.write(tmp_path / f"{split}.flac", _coloured(3, seed=i), 16_000)
        mouths = np.random.default_rng(i).integers(0, 256, (320, 384), np.uint8)
        mouths[-32:, 3 * 48 :] = 0
        Image.fromarray(mouths).save(tmp_path / f"{split}.webp")
    write_manifest(tmp_path, pd.DataFrame(rows))
    return open_corpora(tmp_path)


@pytest.mark.corpora
def test_the_videos_of_this_machine_have_a_picture_every_40_ms(at_hand):
    """Mouths of 48 x 32, eight in a row and ten rows, of which 75 are used: 3 s."""
    rows = at_hand.select(corpus="grid")
    for row in rows[rows["video"].str.endswith(".webp")].itertuples():
        picture = np.asarray(Image.open(at_hand.root / row.video).convert("L"), float)
        assert (picture.shape, row.seconds) == ((320, 384), 3.0), row.video
        contrast = picture.reshape(10, 32, 8, 48).std((1, 3)).flatten()  # 11 or more in a mouth, below 1 where none is
        assert list(contrast > 5) == [True] * 75 + [False] * 5, row.video


# Of the second edition: files of valid and test that hold what training files hold, as these tests found
SHARED = {
    "noise/home/esc_vacuum_cleaner_5-231551-A.flac": "repeated in noise/home/Projektarbeit_1_vacuuming_0.opus",
    "noise/home/esc_clock_alarm_4-198841-A.flac": "the same alarm as in noise/home/esc_clock_alarm_1-14262-A.opus",
    "noise/babble/libri_babble6_test.flac": "a sum of the training talkers 19, 118, 1970, 3242, 3526 and 6848",
}


@pytest.mark.corpora
def test_all_audio_of_this_machine_is_whole_and_no_recording_is_in_two_splits(at_hand):
    check_disjoint(at_hand.table)
    assert all((at_hand.root / video).is_file() for video in at_hand.table["video"] if video)
    prints = {"train": [], "valid": [], "test": []}
    for row in at_hand.table.itertuples():
        x, rate = audio.read(at_hand.root / row.path)
        assert (len(x), rate) == (1, 16_000), row.path
        assert x.shape[1] == pytest.approx(row.seconds * 16_000, abs=8), row.path  # the manifest has milliseconds
        prints[row.split].append(words(x[0], LAG if row.split == "train" else STEP).assign(file=row.path))
    train, valid, test = (pd.concat(prints[split]).astype({"file": "category"}) for split in prints)
    found = twins(test, train) + twins(valid, train) + twins(test, valid[valid["at"] % LAG == 0])
    assert [pair for pair in found if pair[0] not in SHARED] == []
