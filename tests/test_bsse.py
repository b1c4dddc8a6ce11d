"""Frames of spectrum and embeddings side by side, weights that add to 1, a mask between 0 and 1, what stays frozen."""

import math

import pytest
import torch
from conftest import drawn, normal
from test_priors import SMALL_SSL

from sepriors.priors import BSSE, SSL

INPUTS = ["spectrum", "embeddings", "both"]


def small(inputs="both"):
    return drawn(BSSE(inputs, None if inputs == "spectrum" else SSL(**SMALL_SSL), width=8, hidden=6))


# ------------------------------------------------------------- spectrum


@pytest.mark.parametrize("length", [1, 2, 159, 160, 161, 400, 4000, 4001])
def test_the_spectrum_and_back(length):
    net, x = small("spectrum"), normal(3, length)
    X = net.spectrum(x)
    assert X.shape == (3, 201, 1 + math.ceil(length / 160))
    torch.testing.assert_close(net.waveform(X, length), x)


# ------------------------------------------------------------- embeddings beside it


def test_the_layers_weights_add_to_one():
    net = small()
    assert net.layer_weights.shape == (3,)
    assert float(net.layer_weights.sum()) == pytest.approx(1)
    fresh = BSSE("both", SSL(**SMALL_SSL)).layer_weights
    torch.testing.assert_close(fresh, torch.full((3,), 1 / 3))


def test_a_score_far_above_the_others_chooses_its_layer():
    net, x = small(), normal(2, 3000)
    net.layer_scores.data = torch.tensor([0.0, 100.0, 0.0]).double()
    chosen = torch.nn.functional.layer_norm(net.ssl(x)[1], (8,))
    torch.testing.assert_close(net.embedding(x), chosen)


def test_a_layer_of_any_scale_and_offset_counts_alike():
    """Layers are normalised before they are weighted, lest the loudest speak for all."""
    net, x = small(), normal(1, 3000)
    states, before = net.ssl(x), net.embedding(x)
    louder = torch.nn.functional.layer_norm(torch.stack([states[0], 50 * states[1] + 3, states[2]]), (8,))
    torch.testing.assert_close(torch.einsum("l,lbtd->btd", net.layer_weights, louder), before, atol=1e-3, rtol=1e-3)


def test_each_embedding_stands_beside_the_two_spectra_around_it(monkeypatch):
    """Frame i of the embeddings comes to frames 2 i and 2 i + 1 of the features, and lies between them."""
    net, x = small(), normal(1, 3200)
    marks = torch.arange(11.0).double()[None, :, None].expand(1, 11, 8)
    monkeypatch.setattr(net, "embedding", lambda x: marks)
    seen = []
    monkeypatch.setattr(net.inward, "forward", lambda features: seen.append(features) or features[..., :8])
    net(x)
    torch.testing.assert_close(seen[0][0, :, -1], torch.arange(21).div(2, rounding_mode="floor").double())
    assert seen[0].shape == (1, 21, 201 + 8)
    centre_of_frame = 320 * 4 + 80  # of embedding 4
    assert 160 * 8 < centre_of_frame < 160 * 9


def test_inputs_that_are_not_there_do_not_matter():
    """Embeddings alone: the spectrum is masked, not looked at; spectrum alone: no network beside it."""
    net = small("embeddings")
    x = normal(1, 3000)
    features = net.spectrum(x).abs().log1p().mT
    torch.testing.assert_close(net.mask(x, features), net.mask(x, 7 * features))
    assert small("spectrum").ssl is None


@pytest.mark.parametrize(("inputs", "ssl", "message"), [
    ("both", None, "expected an SSL"),
    ("spectrum", SSL(**SMALL_SSL), "expected no SSL"),
    ("spectra", None, "expected inputs"),
])  # fmt: skip
def test_inputs_that_do_not_fit(inputs, ssl, message):
    with pytest.raises(ValueError, match=message):
        BSSE(inputs, ssl)


# ------------------------------------------------------------- the mask


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_mask_adds_nothing(inputs):
    """No bin is louder than the mixture's, and each has its phase."""
    net, x = small(inputs), 0.03 * normal(2, 4000)
    made = net(x)
    assert (made.speech >= 0).all()
    assert (made.speech <= made.noisy).all()
    torch.testing.assert_close(made.noisy.mT.expm1() * made.phase, net.spectrum(x))


@pytest.mark.parametrize("open_", [True, False])
def test_a_mask_that_is_open_or_shut(open_):
    net, x = small(), normal(2, 3000)
    net.outward.weight.zero_()
    net.outward.bias.fill_(100.0 if open_ else -100.0)
    torch.testing.assert_close(net.enhance(x), x if open_ else torch.zeros_like(x))
