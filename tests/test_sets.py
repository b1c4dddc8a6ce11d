"""Bench sets: the same mixtures every time, speakers and noises in turn, nothing shared with training."""

import os
from collections import Counter

import pandas as pd
import pytest
import torch

from sepriors import metrics
from sepriors.lab.corpora import Corpora, CorpusError, bench_set, clusters_of, demo, open_corpora, sets
from sepriors.lab.corpora.sets import DOMAINS, SNRS, class_of, recording_of, speaker_of

DATA = os.environ.get("SEPRIORS_DATA")
pytestmark = pytest.mark.corpora


@pytest.fixture(params=["toy", "real"] if DATA else ["toy"])
def corpora(request, corpus_folder):
    return open_corpora(DATA if request.param == "real" else corpus_folder)


def speech_of(key):
    """The path of a mixture's first file of speech."""
    return key.split("/", 1)[1].split("+")[0]


@pytest.mark.parametrize("name", SNRS)
def test_the_same_set_twice(corpora, name):
    a, b = (bench_set(corpora, name, files=4, seconds=1.0, seed=3) for _ in range(2))
    other = bench_set(corpora, name, files=4, seconds=1.0, seed=4)
    assert [m.snr_db for m in a] == list(SNRS[name])
    for x, y, z in zip(a, b, other, strict=True):
        assert x.key == y.key
        assert x.noisy.equal(y.noisy)
        assert not x.noisy.equal(z.noisy)


@pytest.mark.parametrize("name", SNRS)
def test_every_mixture_is_one(corpora, name):
    made = bench_set(corpora, name, files=4, seconds=1.5)
    for m in made:
        assert m.noisy.shape == m.clean.shape == m.noise.shape == (4, 24000)
        assert (m.clean + m.noise).equal(m.noisy)
        assert m.noisy.abs().max() < 1
        snr = 10 * (m.clean.square().sum(-1) / m.noise.square().sum(-1)).log10()
        torch.testing.assert_close(snr, torch.full((4,), m.snr_db), atol=1e-3, rtol=0)
        assert len(set(m.key)) == 4
    for m in made[1:]:  # the same speech and the same noise, up to a gain, at every ratio
        assert m.key == made[0].key
        assert (metrics.si_sdr(made[0].clean, m.clean) > 80).all()
        assert (metrics.si_sdr(made[0].noise, m.noise) > 80).all()


def test_a_longer_set_begins_with_the_shorter(corpora):
    few, more = (bench_set(corpora, "real", files=n, seconds=1.0, snrs=[0.0])[0] for n in (2, 4))
    assert more.key[:2] == few.key
    assert more.noisy[:2].equal(few.noisy)


def test_speakers_and_noise_classes_take_turns(corpora):
    keys = bench_set(corpora, "real", files=4, seconds=1.0)[0].key
    table = corpora.table.set_index("path")
    speakers = [speaker_of(key) for key in keys]
    assert speakers == [table.loc[speech_of(key), "speaker"] for key in keys]
    there = corpora.select(corpus=sets.speech_of(corpora), kind="speech", split="test")["speaker"].unique()
    assert set(Counter(speakers).values()) == {-(-4 // len(there))}
    classes = [class_of(key) for key in keys]
    assert len(set(classes)) == min(4, corpora.select(kind="noise", split="test")["cls"].nunique())


def test_no_recording_twice_while_there_are_others():
    """Whatever its class: one that runs out leaves its turns to the rest."""
    rows = pd.DataFrame({"cls": list("bbaccc"), "path": ["b2", "b1", "a1", "c3", "c1", "c2"]})
    assert [path for _, path in sets._by_turns(rows, "cls")] == ["a1", "b1", "c1", "b2", "c2", "c3"]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_only_files_of_the_split(toy, split):
    table = toy.table.set_index("path")
    for key in bench_set(toy, "real", files=4, seconds=1.0, split=split)[0].key:
        noise = recording_of(key)
        assert table.loc[speech_of(key), "split"] == split
        assert split in noise or table.loc[f"noise/{split}/{noise.rsplit('/')[-1]}", "split"] == split


def test_the_noise_that_was_drawn_is_white(toy):
    noise = bench_set(toy, "white", files=4, seconds=2.0)[0].noise
    power = torch.fft.rfft(noise).abs().square()[:, 1:].reshape(4, 16, -1).mean(-1)
    assert (power / power.mean(-1, keepdim=True)).log10().abs().max() < 0.1
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.05


def test_short_files_are_joined_and_short_noise_goes_round(toy):
    m = bench_set(toy, "real", files=2, seconds=5.0, snrs=[0.0])[0]  # files of 2 s, noise of 1 s
    assert m.noisy.shape == (2, 80000)
    assert (m.clean.reshape(2, 10, -1).square().mean(-1) > 1e-8).all()
    street = [i for i, key in enumerate(m.key) if "/street/" in key]
    for i in street:
        torch.testing.assert_close(m.noise[i, 16000:], m.noise[i, :-16000])


@pytest.mark.parametrize(("name", "options", "message"), [
    ("reel", {}, "unknown bench set 'reel'; did you mean 'real'"),
    ("real", {"domain": "mis-matched"}, "unknown domain 'mis-matched'; did you mean 'mismatched'"),
    ("real", {"domain": "mismatched"}, "expected mismatched speech of emodb or synthetic-de, got none"),
    ("real", {"split": "tset"}, "unknown split 'tset'; did you mean 'test'"),
    ("real", {"files": 0}, "expected at least one file and one sample, got files=0"),
    ("white", {"seconds": -1.0}, "expected at least one file and one sample"),
    ("white", {"files": 24, "seconds": 8.0}, "expected 24 excerpts of 8 s of speech, got only 0 from 6 files"),
    ("white", {"files": 7, "seconds": 2.0}, "expected 7 excerpts of 2 s of speech, got only 6 from 6 files"),
])  # fmt: skip
def test_what_cannot_be_made(toy, name, options, message):
    with pytest.raises(CorpusError, match=message):
        bench_set(toy, name, **options)


def test_a_split_with_nothing_in_it(toy):
    """One that exists, but not for this corpus or for noise: an error that says so, no endless loop or empty set."""
    messages = {"speech": "got only 0 from 0 files", "noise": "expected noise of the split valid, got none"}
    for kind, message in messages.items():
        gone = (toy.table["kind"] == kind) & (toy.table["split"] == "valid")
        with pytest.raises(CorpusError, match=message):
            bench_set(Corpora(toy.root, toy.table[~gone], "folder"), "real", files=2, seconds=1.0, split="valid")


def test_domains(toy):
    table = toy.table.assign(corpus=toy.table["corpus"].replace("mini-librispeech", "emodb"))
    german = Corpora(toy.root, table, "folder")
    assert bench_set(german, "white", domain="mismatched", files=2, seconds=1.0)[0].noisy.shape == (2, 16000)
    none = "expected matched speech of mini-librispeech or librispeech or synthetic, got none"
    with pytest.raises(CorpusError, match=none):
        bench_set(german, "white", files=2, seconds=1.0)
    both = Corpora(toy.root, pd.concat([table.assign(corpus="synthetic"), toy.table]), "folder")
    keys = bench_set(both, "white", files=2, seconds=1.0)[0].key  # real speech goes before synthetic
    assert all(speech_of(key).startswith("speech/") for key in keys)
    assert set(DOMAINS) == {"matched", "mismatched", "accent"}


# ----------------------------------------------------------------------------- keys


def test_a_key_names_speaker_and_noise(corpora):
    table = corpora.table.set_index("path")
    for name in SNRS:
        keys = bench_set(corpora, name, files=4, seconds=1.0, snrs=[0.0])[0].key
        assert clusters_of(keys) == {
            "speakers": [table.loc[speech_of(key), "speaker"] for key in keys],
            "recordings": [key.rsplit("+", 1)[1] for key in keys],
        }
        if name == "white":
            assert len({recording_of(key) for key in keys}) == 4  # of its own for each file
            assert {class_of(key) for key in keys} == {"none"}
        else:
            assert [class_of(key) for key in keys] == [recording_of(key).split("/")[1] for key in keys]


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("7/a/7-1.flac+noise/home/x.flac", ("7", "noise/home/x.flac", "home")),
        ("7/7-1.flac+white-12", ("7", "white-12", "none")),
        ("7/7-1.wav+pair-3", ("7", "pair-3", "none")),
        ("en-f4/a+b/c+d.flac+noise/home/x+y.flac", ("en-f4", "noise/home/x+y.flac", "home")),
        ("/a.flac+noise/home/x.flac", ("", "noise/home/x.flac", "home")),  # a speaker without a name
        ("7//data/TIMIT/a.wav+noise/home/x.flac", ("7", "noise/home/x.flac", "home")),  # a corpus of its owner
        ("a.wav", ("a.wav", "a.wav", "none")),  # no mixture of ours: a file stands for itself
        ("clips/a+b.wav", ("clips/a+b.wav", "clips/a+b.wav", "none")),
    ],
)
def test_what_a_key_tells(key, found):
    assert (speaker_of(key), recording_of(key), class_of(key)) == found


def test_names_with_a_slash_do_not_break_a_key(toy):
    cls = toy.table["cls"].replace("home", "home/kitchen")
    odd = Corpora(toy.root, toy.table.assign(speaker="s/" + toy.table["speaker"], cls=cls), "folder")
    keys = bench_set(odd, "real", files=2, seconds=1.0, snrs=[0.0])[0].key
    assert [speaker_of(key) for key in keys] == ["s-20", "s-21"]
    assert {class_of(key) for key in keys} == {"home-kitchen", "street"}


# ------------------------------------------------------------------------------ demo


def test_a_demo(toy):
    bench = bench_set(toy, "real", files=4, seconds=1.0, snrs=[3.0])[0]
    for cls, index in (("home", 0), (None, 0), ("street", 1)):
        m = demo(toy, snr_db=3.0, cls=cls, seconds=1.0)
        assert m.noisy.shape == (16000,)
        assert m.noisy.equal(bench.noisy[index])
        assert m.key == bench.key[index : index + 1]
        assert f"+noise/{cls or 'home'}/" in m.key[0]
        assert m.snr_db == 3.0
    with pytest.raises(CorpusError, match="unknown noise class 'strete'; did you mean 'street'"):
        demo(toy, cls="strete")
    assert demo(toy, cls="cafe", seconds=1.0).key == demo(toy, seconds=1.0).key  # known, but not there


def test_a_demo_without_corpora_is_of_the_clips_of_the_package():
    m = demo(snr_db=3.0, seconds=6.0)  # longer than the clips
    torch.testing.assert_close(10 * (m.clean.square().mean() / m.noise.square().mean()).log10(), torch.tensor(3.0))
    assert (m.noisy.shape, m.key) == ((96000,), ("3664/speech.flac+noise/vehicle/noise.flac",))
    assert class_of(m.key[0]) == "vehicle"
