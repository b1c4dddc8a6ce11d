"""Frames of spectrum and embeddings side by side, weights that add to 1, a mask between 0 and 1, what stays frozen."""

import math

import pytest
import torch

from sepriors import enhance, methods, priors, weights
from sepriors.priors import BSSE, SSL
from sepriors.weights import WeightsError

FEW = {"width": 8, "layers": 2, "heads": 2, "inner": 16, "channels": (4, 4, 4, 4, 4, 4, 8)}
INPUTS = ["spectrum", "embeddings", "both"]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def drawn(inputs="both", dtype=torch.float64):
    """A small network in which every parameter matters, the layers' scores too."""
    made, g = BSSE(inputs, None if inputs == "spectrum" else SSL(**FEW), width=8, hidden=6), torch.Generator()
    g.manual_seed(0)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
    return made.to(dtype).requires_grad_(False).eval()


# ------------------------------------------------------------- spectrum


@pytest.mark.parametrize("length", [1, 2, 159, 160, 161, 400, 4000, 4001])
def test_the_spectrum_and_back(length):
    net, x = drawn("spectrum"), normal(3, length)
    X = net.spectrum(x)
    assert X.shape == (3, 201, 1 + math.ceil(length / 160))
    torch.testing.assert_close(net.waveform(X, length), x)


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("length", [1, 159, 161, 320, 399, 3999, 4160])
def test_any_length(inputs, length):
    made = drawn(inputs)(normal(2, length))
    T = 1 + math.ceil(length / 160)
    assert made.noisy.shape == made.speech.shape == (2, T, 201)
    assert made.phase.shape == (2, 201, T)
    assert drawn(inputs).enhance(normal(2, length)).shape == (2, length)


# ------------------------------------------------------------- embeddings beside it


def test_the_layers_weights_add_to_one():
    net = drawn()
    assert net.layer_weights.shape == (3,)
    assert float(net.layer_weights.sum()) == pytest.approx(1)
    fresh = BSSE("both", SSL(**FEW)).layer_weights
    torch.testing.assert_close(fresh, torch.full((3,), 1 / 3))


def test_a_score_far_above_the_others_chooses_its_layer():
    net, x = drawn(), normal(2, 3000)
    net.layer_scores.data = torch.tensor([0.0, 100.0, 0.0]).double()
    chosen = torch.nn.functional.layer_norm(net.ssl(x)[1], (8,))
    torch.testing.assert_close(net.embedding(x), chosen)


def test_a_layer_of_any_scale_and_offset_counts_alike():
    """Layers are normalised before they are weighted, lest the loudest speak for all."""
    net, x = drawn(), normal(1, 3000)
    states, before = net.ssl(x), net.embedding(x)
    louder = torch.nn.functional.layer_norm(torch.stack([states[0], 50 * states[1] + 3, states[2]]), (8,))
    torch.testing.assert_close(torch.einsum("l,lbtd->btd", net.layer_weights, louder), before, atol=1e-3, rtol=1e-3)


def test_each_embedding_stands_beside_the_two_spectra_around_it(monkeypatch):
    """Frame i of the embeddings comes to frames 2 i and 2 i + 1 of the features, and lies between them."""
    net, x = drawn(), normal(1, 3200)
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
    net = drawn("embeddings")
    x = normal(1, 3000)
    features = net.spectrum(x).abs().log1p().mT
    torch.testing.assert_close(net.mask(x, features), net.mask(x, 7 * features))
    assert drawn("spectrum").ssl is None


@pytest.mark.parametrize(
    ("inputs", "ssl", "message"),
    [
        ("both", None, "expected an SSL"),
        ("spectrum", SSL(**FEW), "expected no SSL"),
        ("spectra", None, "expected inputs"),
    ],
)
def test_inputs_that_do_not_fit(inputs, ssl, message):
    with pytest.raises(ValueError, match=message):
        BSSE(inputs, ssl)


# ------------------------------------------------------------- the mask


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_mask_adds_nothing(inputs):
    """No bin is louder than the mixture's, and each has its phase."""
    net, x = drawn(inputs), 0.03 * normal(2, 4000)
    made = net(x)
    assert (made.speech >= 0).all()
    assert (made.speech <= made.noisy).all()
    torch.testing.assert_close(made.noisy.mT.expm1() * made.phase, net.spectrum(x))


@pytest.mark.parametrize("open_", [True, False])
def test_a_mask_that_is_open_or_shut(open_):
    net, x = drawn(), normal(2, 3000)
    net.outward.weight.zero_()
    net.outward.bias.fill_(100.0 if open_ else -100.0)
    torch.testing.assert_close(net.enhance(x), x if open_ else torch.zeros_like(x))


@pytest.mark.parametrize("gain", [1e-3, 1e3])
def test_louder_in_louder_out(gain):
    net, x = drawn(), normal(2, 3000)
    torch.testing.assert_close(net.enhance(gain * x), gain * net.enhance(x))


@pytest.mark.parametrize("x", [torch.zeros(1, 3000), torch.full((1, 500), 1e-30), torch.ones(1, 2000)])
def test_silence_and_steady_pressure(x):
    made = drawn(dtype=torch.float32).enhance(x)
    assert made.isfinite().all()
    assert made.abs().max() <= 2 * x.abs().max() + 1e-12


@pytest.mark.parametrize("inputs", INPUTS)
def test_an_utterance_is_alike_alone_and_in_company(inputs):
    method, x = methods.Separator(drawn(inputs, torch.float32)), normal(5, 3000, dtype=torch.float32)
    together = enhance(x, method)
    for i in range(5):
        torch.testing.assert_close(enhance(x[i], method), together[i], atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------- files


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_file_and_back(tmp_path, inputs):
    net, x = drawn(inputs, torch.float32), normal(2, 3000, dtype=torch.float32)
    weights.save(tmp_path / "w.safetensors", net.state_dict(), net.config)
    again = priors.load(tmp_path / "w.safetensors")
    assert torch.equal(again.enhance(x), net.enhance(x))
    assert again.inputs == inputs
    assert not any(p.requires_grad for p in again.parameters())


def test_a_file_of_other_sizes(tmp_path):
    net = drawn(dtype=torch.float32)
    weights.save(tmp_path / "w.safetensors", net.state_dict(), {**net.config, "hidden": "5"})
    with pytest.raises(WeightsError, match="expected a whole bsse"):
        priors.load(tmp_path / "w.safetensors")
