"""Training again gives the same weights, with a card that tells the truth."""

import tomllib
from importlib import resources

import pytest
import torch

from sepriors import STFT, nmf, train, weights
from sepriors.corpora import Corpora, CorpusError
from sepriors.gaussian import is_divergence
from sepriors.rng import generators


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(train, "RECIPES", {name: train.quick(made) for name, made in train.RECIPES.items()})


@pytest.mark.parametrize("name", train.RECIPES)
def test_the_same_weights_twice(toy, name):
    (first, facts), (second, _), (other, _) = (train.train(name, toy, seed=s, progress=False) for s in (0, 0, 1))
    W = first["W"]
    made = train.RECIPES[name]
    assert W.shape == (made.stft.bins, made.rank)
    assert W.equal(second["W"])
    assert not W.equal(other["W"])
    torch.testing.assert_close(W.sum(0), torch.ones(made.rank))
    assert facts["seed"] == 0
    assert facts["minutes"] <= 0.5 or facts["files"] == 1
    assert facts["corpus"] == {"speech": "mini-librispeech", "noise": "noise", "white": "drawn white noise"}[made.kind]


def test_training_lowers_the_divergence(toy, monkeypatch):
    """Bases that saw more updates explain the files of a speaker that training did not see better."""
    P = STFT(512, 128)(toy.read("speech/test/20-0.flac")).abs().square()[None]
    values = []
    for iterations in (1, 10, 40):
        made = train.replace(train.RECIPES["nmf-speech-257"], iterations=iterations)
        monkeypatch.setitem(train.RECIPES, "nmf-speech-257", made)
        model = nmf.init(P, 40, generators(0, 1), train.train("nmf-speech-257", toy, progress=False)[0]["W"])
        for _ in range(50):
            model = nmf.update(model, P[None], bases=False)
        values.append(float(is_divergence(P, model.variance)))
    assert values[0] > values[1] > values[2]


def test_only_training_files_and_only_loud_frames_of_speech(toy):
    read = []

    class Watched(Corpora):
        def read(self, row):
            read.append(row)
            return super().read(row)

    watched = Watched(toy.root, toy.table, "folder")
    made = train.RECIPES["nmf-speech"]
    P, facts = train.spectra(made, watched, 0, False)
    assert len(read) == facts["files"] == 6
    assert all(path.startswith("speech/train/") for path in read)
    assert P.shape[-1] < 6 * made.stft(torch.zeros(32000)).shape[-1]
    level = 10 * P[0].sum(0).log10()
    assert level.max() - level.min() < made.range_db + 10  # files differ in level, frames of one file by 20 dB at most


def test_minutes_are_a_limit_but_one_file_is_always_taken(toy):
    made = train.replace(train.RECIPES["nmf-speech"], minutes=5 / 60)
    assert train.spectra(made, toy, 0, False)[1]["files"] == 2  # of 2 s each
    made = train.replace(made, minutes=1 / 60)
    assert train.spectra(made, toy, 0, False)[1]["files"] == 1


def test_white_noise_is_at_several_powers():
    made = train.NMFRecipe(4, STFT(64, 32), kind="white", minutes=1.0)
    P, facts = train._white(made, 0)
    assert facts["files"] == 6
    level = 10 * P[0].reshape(33, 6, -1).mean((0, 2)).log10()
    torch.testing.assert_close(level.diff(), torch.full((5,), 8.0), atol=0.2, rtol=0)


def test_a_card_is_entered_and_read_again(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    toy.table["licence"] = 'CC BY 4.0 "as is" \\ é'
    other = {"file": "o.safetensors", "big": True, "rate": 0.5, "text": 'a "b"'}
    train._enter(tmp_path / "cards.toml", "other", other)
    path = train.write_card("nmf-speech-257", toy, seed=3, progress=False)
    assert path == tmp_path / "nmf-speech-257.safetensors"
    cards = weights.cards()
    assert list(cards) == ["nmf-speech-257", "other"]
    assert cards["other"] == other
    card = cards["nmf-speech-257"]
    assert card["sha256"] == weights.sha256(path)
    assert card["bytes"] == path.stat().st_size
    assert card["licence"] == 'weights MIT; trained on CC BY 4.0 "as is" \\ é'
    assert card["command"] == "sepriors train nmf-speech-257 --force --seed 3"
    shipped = tomllib.loads((resources.files("sepriors.cards") / "cards.toml").read_text("utf-8"))
    assert card.keys() == shipped["nmf-speech-257"].keys()
    got = weights.load("nmf-speech-257")
    assert got.tensors["W"].equal(train.train("nmf-speech-257", toy, seed=3, progress=False)[0]["W"])
    assert got.config == {"n_fft": "512", "hop": "128", "sample_rate": "16000", "rank": "40"}

    train.write_card("nmf-white-257", toy, progress=False)
    cards = tomllib.loads((tmp_path / "cards.toml").read_text("utf-8"))
    assert list(cards) == ["nmf-speech-257", "nmf-white-257", "other"]
    assert cards["nmf-speech-257"] == card
    assert cards["nmf-white-257"]["licence"] == "MIT"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".safetensors", ".safetensors", ".toml"]


def test_a_new_folder_and_a_spoiled_file_of_cards(toy, tmp_path):
    path = train.write_card("nmf-noise-257", toy, folder=tmp_path / "new", progress=False)
    assert tomllib.loads((path.parent / "cards.toml").read_text())["nmf-noise-257"]["corpus"] == "noise"
    (tmp_path / "new" / "cards.toml").write_text("[half")
    with pytest.raises(tomllib.TOMLDecodeError):
        train.write_card("nmf-noise-257", toy, folder=tmp_path / "new", progress=False)
    assert (tmp_path / "new" / "cards.toml").read_text() == "[half"


def test_unknown_names_and_corpora_without_the_data(toy):
    with pytest.raises(ValueError, match="no recipe for weights 'nmf-spech'; did you mean nmf-speech"):
        train.recipe("nmf-spech")
    bare = Corpora(toy.root, toy.table[toy.table["kind"] == "speech"], "folder")
    with pytest.raises(CorpusError, match="unknown kind 'noise'"):
        train.train("nmf-noise-257", bare, progress=False)
    late = Corpora(toy.root, toy.table[(toy.table["kind"] == "speech") | (toy.table["split"] == "test")], "folder")
    with pytest.raises(CorpusError, match="expected training files of noise, got none"):
        train.train("nmf-noise-257", late, progress=False)


def test_every_shipped_card_has_a_recipe():
    assert weights.cards().keys() == train.RECIPES.keys()
    for name, made in train.RECIPES.items():
        assert weights.cards()[name]["about"] == f"IS-NMF bases of {made.kind}, {made.rank} of {made.stft.bins} bins"
