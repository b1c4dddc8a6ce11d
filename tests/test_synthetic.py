"""The synthetic fall-back: deterministic, complete, disjoint, and loud about what it is."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import tree

from sepriors.lab.corpora import Corpora, CorpusError, check_disjoint, open_corpora, read_manifest, synthetic
from sepriors.lab.corpora.manifest import SAMPLE_RATE


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return synthetic.build(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def corpora(home):
    return Corpora(home, read_manifest(home, check_files=True), "synthetic")


def test_the_same_bytes_twice(home, tmp_path):
    synthetic.make(tmp_path)
    again = tree(tmp_path)
    assert len(again) > 100
    assert again == tree(home)


def test_it_is_built_once(home):
    before = {f: f.stat().st_mtime_ns for f in home.rglob("*")}
    assert synthetic.build(home.parent) == home
    assert {f: f.stat().st_mtime_ns for f in home.rglob("*")} == before


def test_a_half_built_one_does_not_count(tmp_path, monkeypatch):
    def killed(folder):
        (folder / "half.flac").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "make", killed)
        with pytest.raises(KeyboardInterrupt):
            synthetic.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_builders_at_once_share_one_corpus(tmp_path, monkeypatch):
    def small(folder):
        (folder / "manifest.csv").write_text("x")

    monkeypatch.setattr(synthetic, "make", small)
    with ThreadPoolExecutor(4) as pool:
        homes = set(pool.map(synthetic.build, [tmp_path] * 8))
    assert homes == {tmp_path / f"synthetic-{synthetic.VERSION}"}
    assert [p.name for p in tmp_path.iterdir()] == [f"synthetic-{synthetic.VERSION}"]


def test_it_has_what_the_bench_needs(corpora):
    for corpus in ("synthetic", "synthetic-de"):
        test = corpora.select(corpus=corpus, kind="speech", split="test")
        assert len(test) >= 24
        assert test["seconds"].between(4, 8).all()
        assert set(test["gender"]) == {"F", "M"}
    noise = corpora.select(kind="noise")
    assert set(noise["cls"]) == {"white", "pink", "modulated", "babble"}
    assert noise.groupby(["cls", "split"])["seconds"].sum().ge(20).all()
    assert noise.groupby("cls")["split"].nunique().eq(3).all()
    assert not corpora.is_real


def test_no_speaker_variant_or_sentence_is_in_two_splits(corpora):
    check_disjoint(corpora.table)
    speech = corpora.select(kind="speech")
    variant = speech["speaker"].str.split("-").str[-1]
    assert (speech["corpus"] + speech["split"]).groupby(variant).nunique().eq(1).all()
    spoken = {}
    for corpus, voice, _, text in synthetic._plan():
        for sentence in re.findall(r"[^.]+\.", text):
            spoken.setdefault(sentence.strip(), set()).add((corpus, voice.split))
    assert len(spoken) > 60
    assert all(len(places) == 1 for places in spoken.values())


def test_the_babble_of_a_split_is_made_of_its_own_talkers(corpora):
    for split, rows in corpora.select(cls="babble").groupby("split"):
        own = set(corpora.select(corpus="synthetic", kind="speech", split=split)["speaker"])
        talkers = {t for source in rows["source"] for t in source.split() if t in own}
        assert len(talkers) == min(8, len(own))
        assert set(rows["source"]) == {f"sum of the talkers {' '.join(sorted(talkers))} of synthetic"}


@pytest.mark.parametrize("kind", ["speech", "noise"])
def test_the_audio_is_whole(corpora, kind):
    for row in corpora.select(kind=kind).itertuples():
        x = corpora.read(row.path)
        assert len(x) == pytest.approx(row.seconds * SAMPLE_RATE, abs=8)  # the manifest has milliseconds
        assert 0.02 < x.square().mean().sqrt() < 0.2
        assert x.abs().max() < 0.95
        silent = x.unfold(0, 400, 400).square().mean(-1).sqrt().min()
        assert silent > 1e-5  # a method that divides by the noise's power needs some everywhere


def test_the_colours_of_the_noises_and_that_modulated_noise_moves(corpora):
    slopes, spread = {}, {}
    for cls in ("white", "pink", "modulated"):
        x = corpora.read(corpora.select(cls=cls, split="test")["path"][0])
        power = torch.fft.rfft(x).abs().square()
        low, high = (power[int(20 * f) : int(40 * f)].mean() for f in (200, 1600))  # octaves; 20 bins are 1 Hz
        slopes[cls] = float(10 * torch.log10(low / high) / 3)
        level = 10 * torch.log10(x.unfold(0, 800, 800).square().mean(-1))
        spread[cls] = float(level.quantile(0.9) - level.quantile(0.1))
    assert slopes["white"] == pytest.approx(0, abs=0.3)  # dB an octave
    assert slopes["pink"] == pytest.approx(3.01, abs=0.3)
    assert slopes["modulated"] == pytest.approx(3.01, abs=0.5)
    assert spread["modulated"] > spread["pink"] + 5


def test_opening_it_says_so(home, monkeypatch):
    monkeypatch.setenv("SEPRIORS_CACHE", str(home.parent))
    opened = open_corpora("synthetic")
    assert opened.origin == "synthetic"
    assert "Synthetic" in opened.note
    assert "Synthetic" in str(opened)


def test_a_machine_without_espeak_gets_a_clear_error(monkeypatch):
    voice = synthetic.Voice("no-such-voice", "F", "test", 50, 50, 170)
    with pytest.raises(CorpusError, match=r"does not work on this machine.*no voice no-such-voice.*SEPRIORS_DATA"):
        synthetic.speak([(voice, "Good morning.")])
