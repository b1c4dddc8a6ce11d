"""Weights: whole, and the ones their card describes."""

import math
import os

import pytest
import torch

from sepriors import priors, weights
from sepriors.weights import WeightsError, load

ALL = weights.cards()
CARDS = {name: card for name, card in ALL.items() if card.get("shipped", True)}
MEGABYTE = 2**20
CONFIG = {"stft": {"n_fft": 512}, "channels": [4, 8], "clean": math.inf, "paired": False, "why": "é\n", "ssl": None}


def test_what_is_saved_is_loaded(tmp_path):
    g = torch.Generator().manual_seed(0)
    tensors = {
        "W": torch.rand(5, 3, generator=g, dtype=torch.float64),
        "turned": torch.rand(4, 6, generator=g).mT,
        "count": torch.arange(3),
        "one": torch.tensor(1.0),
        "bits": torch.randn(2, generator=g).bfloat16(),
    }
    path = tmp_path / "deep" / "w.safetensors"
    weights.save(path, tensors, CONFIG)
    got = load(path)
    assert got.config == CONFIG
    assert got.tensors.keys() == tensors.keys()
    for name, x in tensors.items():
        assert got.tensors[name].equal(x)
        assert got.tensors[name].dtype == x.dtype
    assert load(str(path)).tensors["W"].equal(tensors["W"])
    weights.save(path, {"W": torch.zeros(1)}, {})
    assert load(path).config == {}
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_the_rights_of_a_saved_file(tmp_path):
    mask = os.umask(0o022)
    try:
        weights.save(tmp_path / "w.safetensors", {"W": torch.zeros(1)}, {})
    finally:
        os.umask(mask)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.fault("The disk is full while weights are written", "The old weights are whole")
def test_a_save_that_fails_harms_nothing(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    weights.save(path, {"W": torch.ones(3)}, {})

    def full(part, content):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(path), "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*w\.safetensors'"):
            weights.save(path, {"W": torch.zeros(3)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert load(path).tensors["W"].equal(torch.ones(3))


@pytest.mark.parametrize("name", CARDS)
def test_a_shipped_card_tells_the_truth(name):
    card, path = CARDS[name], weights.folder() / CARDS[name]["file"]
    assert {"about", "licence", "corpus", "minutes", "train_seconds", "hardware", "seed", "command"} <= card.keys()
    assert path.stat().st_size == card["bytes"] <= 8 * MEGABYTE
    assert weights.sha256(path) == card["sha256"]
    assert card["command"].startswith(f"sepriors train {name} ")
    got = load(name)
    assert all(x.isfinite().all() for x in got.tensors.values())
    family = got.config.get("family")
    if family is None:
        W = got.tensors["W"]
        assert W.shape == (got.config["stft"]["n_fft"] // 2 + 1, got.config["rank"])
        assert (W >= 0).all()
        torch.testing.assert_close(W.sum(0), torch.ones(W.shape[1]))
        return
    made = priors.load(name)
    assert made.config == got.config
    for curve in ("valid_nats_per_sample", "valid_rebuilt_si_sdr", "valid_si_sdr_gain"):
        assert curve not in card or card[curve][-1] > card[curve][0]
    if math.isfinite(getattr(made, "clean", math.inf)):  # half precision and bfloat16 training cost hundredths
        assert abs(made.clean - card["valid_nats_per_sample"][-1]) < 0.05
    if "valid_gain_by_file" in card:
        by_file = card["valid_gain_by_file"]
        assert abs(sum(by_file) / len(by_file) - card["valid_si_sdr_gain"][-1]) < 0.05
    if family == "ssl":  # more is guessed than by naming the most frequent class
        assert all(card[f"valid_guessed_{i}"][-1] > 2 * card[f"valid_most_frequent_{i}"] for i in (1, 2))
    if family == "bsse":
        assert card["valid_si_sdr_gain"][-1] > 3
        assert len(card["matched_si_sdr"]) == len(card["mismatched_pesq_wb"]) == 24
        if made.ssl is not None:
            torch.testing.assert_close(made.layer_weights, torch.tensor(card["layer_weights"]), atol=1e-3, rtol=0)


def test_a_card_without_its_weights(shelf):
    """Says how to make them."""
    (shelf / "codec.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"codec\.safetensors: no such weights.*train them: sepriors train codec"):
        load("codec")
    assert all(not (weights.folder() / ALL[name]["file"]).exists() for name in ALL.keys() - CARDS.keys())


def test_what_ships_is_small_and_has_a_card():
    shipped = {p.name: p.stat().st_size for p in weights.folder().glob("*.safetensors")}
    assert shipped.keys() == {card["file"] for card in CARDS.values()}
    assert sum(shipped.values()) <= 60 * MEGABYTE


@pytest.mark.fault("A file of weights is half-written", "WeightsError that says how to train it again")
def test_half_a_file_and_other_bytes(shelf, tmp_path):
    name = next(iter(CARDS))
    path = shelf / CARDS[name]["file"]
    whole, promised = path.read_bytes(), CARDS[name]["sha256"]
    for spoiled in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(spoiled)
        with pytest.raises(WeightsError, match=f"expected sha256 {promised}, got .*; train it again: sepriors train"):
            load(name)
    for length in (0, 4, 100, len(whole) - 1):
        half = tmp_path / "half.safetensors"
        half.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="expected a whole safetensors file"):
            load(half)


@pytest.mark.parametrize(("name", "message"), [
    ("nmf-speach", r"unknown weights 'nmf-speach'; did you mean nmf-speech"),
    ("zzz", "unknown weights 'zzz'; did you mean bsse or"),
    ("", "unknown weights ''; did you mean"),
    ("missing.safetensors", "no such weights"),
])  # fmt: skip
def test_unknown_names(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=message):
        load(name)


@pytest.mark.fault("A pickle has the name of a safetensors file", "WeightsError")
def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "w.safetensors"
    torch.save({"W": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="expected a whole safetensors file"):
        load(path)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    """Else no training could reproduce the sha256 of its card."""
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in paths:
        weights.save(path, {"W": torch.ones(2, 3)}, dict.fromkeys("abcdefgh", "1"))
    assert len({weights.sha256(path) for path in paths}) == 1
