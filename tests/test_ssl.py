"""Frames that lie where the spectrum's do, published networks that may not come."""

import io
import urllib.error
from dataclasses import replace

import pytest
import torch
import torchaudio
from conftest import drawn, normal
from test_priors import SMALL_SSL

from sepriors.lab.training import pretraining
from sepriors.priors import SSL
from sepriors.priors.ssl import BUNDLES, distance, framed, frames
from sepriors.signal.rng import generators, seeded_global_rng
from sepriors.weights import WeightsError


def small():
    return drawn(SSL(**SMALL_SSL))


# ------------------------------------------------------------- frames


@pytest.mark.parametrize("length", [1, 159, 160, 161, 320, 399, 400, 401, 16000, 16001, 16161])
def test_two_frames_of_a_spectrum_to_one_of_ours(length):
    spectra = torch.stft(torch.zeros(-(-length // 160) * 160), 400, 160, center=True, pad_mode="constant",
                         window=torch.ones(400), return_complex=True).shape[-1]  # fmt: skip
    T = small()(normal(2, length)).shape[-2]
    assert T == frames(length) == int(frames(torch.tensor(length))) == -(-spectra // 2)


def test_a_frame_sees_400_samples_around_its_place():
    """Before the transformer frame i is moved by samples 320 i - 120 to 320 i + 279, and by no other."""
    net, x = small(), normal(1, 6400)
    i, first, last = 9, 320 * 9 - 120, 320 * 9 + 279

    def seen(sample):
        moved = x.clone()
        moved[0, sample] += 1.0
        convolved = (net.network.feature_extractor(framed(y), None)[0][0, i] for y in (x, moved))
        return not torch.equal(*convolved)

    assert [seen(s) for s in (first - 1, first, last, last + 1)] == [False, True, True, False]
    assert (first + last + 1) / 2 == 320 * i + 80  # halfway between frames 2 i and 2 i + 1 of the spectrum


@pytest.mark.parametrize("x", [torch.zeros(0, 5), torch.zeros(5), torch.zeros(1, 0), torch.zeros(1, 2, 3)])
def test_other_shapes(x):
    with pytest.raises(ValueError, match=r"expected waveforms \(B, N\)"):
        small()(x.double())


# ------------------------------------------------------------- bundles


def published(monkeypatch, name):
    """A bundle of that name with few channels, its file's name, and a state that fits it."""
    bundle = getattr(torchaudio.pipelines, name)
    sizes = dict(bundle._params) | {
        "encoder_embed_dim": 32, "encoder_num_layers": 2, "encoder_num_heads": 2, "encoder_ff_interm_features": 16,
        "encoder_pos_conv_groups": 2, "encoder_pos_conv_kernel": 8,
        "extractor_conv_layer_config": [(8, k, s) for _, k, s in bundle._params["extractor_conv_layer_config"]],
    }  # fmt: skip
    small = replace(bundle, _params=sizes)
    monkeypatch.setattr(torchaudio.pipelines, name, small)
    build = torchaudio.models.wavlm_model if name.startswith("WAVLM") else torchaudio.models.wav2vec2_model
    return bundle._path, build(**sizes).eval()


@pytest.mark.parametrize("name", BUNDLES)
def test_a_published_network_from_a_folder(monkeypatch, tmp_path, name):
    """The same interface, whoever trained it: the frames, and torchaudio's own embeddings above the first."""
    path, network = published(monkeypatch, name)
    torch.save(network.state_dict(), tmp_path / path)
    net = SSL.from_bundle(name, folder=str(tmp_path), progress=False)
    x = normal(2, 5000, dtype=torch.float32)
    states = net(x)
    assert states.shape == (net.layers + 1, 2, frames(5000), net.width) == (3, 2, 17, 32)
    with torch.inference_mode():
        theirs, _ = network.extract_features(framed(x))
    torch.testing.assert_close(states[1:], torch.stack(theirs))


def test_a_published_network_from_a_server(monkeypatch, tmp_path, server):
    path, network = published(monkeypatch, "HUBERT_BASE")
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    server.files[path] = file.getvalue()
    monkeypatch.setattr(torch.hub, "urlopen", lambda request, _open=torch.hub.urlopen: _open(f"{server.url}/{path}"))
    net = SSL.from_bundle("HUBERT_BASE", folder=str(tmp_path), progress=False)
    assert torch.equal(net.transformer.layer_norm.weight, network.encoder.transformer.layer_norm.weight)
    SSL.from_bundle("HUBERT_BASE", folder=str(tmp_path), progress=False)
    assert len(server.asked) == 1  # the second time it lies in the folder


def test_a_published_network_that_cannot_be_had(monkeypatch, tmp_path):
    path, _ = published(monkeypatch, "WAVLM_BASE_PLUS")

    def refuse(request):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(WeightsError, match=r"WAVLM_BASE_PLUS: expected to download.*no route.*load\('ssl'\)"):
        SSL.from_bundle("WAVLM_BASE_PLUS", folder=str(tmp_path), progress=False)
    assert not list(tmp_path.iterdir())  # nothing half done that the next attempt would take
    (tmp_path / path).write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="WAVLM_BASE_PLUS"):
        SSL.from_bundle("WAVLM_BASE_PLUS", folder=str(tmp_path), progress=False)
    with pytest.raises(WeightsError, match="did you mean WAVLM_BASE_PLUS"):
        SSL.from_bundle("wavlm", folder=str(tmp_path))


# ------------------------------------------------------------- distance


def test_distances_of_known_embeddings():
    """Orthogonal after normalisation: cosine 1, root mean square √2; the same: 0; opposite: 2, 2."""
    a, b = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
    known = [(b, "cosine", 1), (b, "L2", 2**0.5), (b, "L1", 1), (3 * a + 5, "L2", 0), (-a, "cosine", 2), (-a, "L1", 2)]
    for other, kind, value in known:
        got = distance(a.expand(2, 1, 7, 4), other.expand(2, 1, 7, 4), kind)
        torch.testing.assert_close(got, torch.full((2, 1), float(value)), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="L1, L2, cosine"):
        distance(a[None], b[None], "L3")


def test_the_square_of_L2_is_twice_the_cosine_distance():
    a, b = normal(3, 2, 1, 16), normal(3, 2, 1, 16, seed=1)
    torch.testing.assert_close(distance(a, b, "L2").square(), 2 * distance(a, b, "cosine"), rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------- targets


@pytest.mark.parametrize("length", [1, 400, 5000, 16001])
def test_a_target_for_every_frame(length):
    cepstra = pretraining.mfcc(normal(length, dtype=torch.float32))
    assert cepstra.shape == (frames(length), 39)
    assert cepstra.isfinite().all()


def test_targets_lie_where_the_frames_do():
    """A click moves the cepstra most in the frame whose embedding it moves most."""
    x = 0.01 * normal(16000, dtype=torch.float32)
    moved = x.clone()
    moved[320 * 20 + 80] += 5.0
    change = (pretraining.mfcc(moved) - pretraining.mfcc(x))[:, :13].square().sum(-1)
    assert int(change.argmax()) == 20


def test_clusters_that_lie_apart_are_found():
    centres = 10 * normal(4, 3)
    which = torch.arange(400) % 4
    points = centres[which] + 0.1 * normal(400, 3, seed=1)
    label = pretraining.clustering([points[:100], points[100:]], 4, generators(0, 1)[0])
    pairs = set(zip(which.tolist(), label(points).tolist(), strict=True))
    assert len(pairs) == 4  # each centre has a label, and each label a centre
    again = pretraining.clustering([points[:100], points[100:]], 4, generators(0, 1)[0])
    assert torch.equal(again(points), label(points))


def test_fewer_frames_than_classes():
    with pytest.raises(ValueError, match="expected 5 frames"):
        pretraining.clustering([normal(4, 3)], 5, generators(0, 1)[0])


def test_borrowed_randomness_comes_back():
    (g,), before = generators(3, 1), torch.get_rng_state()
    with seeded_global_rng(g):
        first, second = torch.rand(2), torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    h = generators(3, 1)[0]
    assert torch.equal(torch.cat([first, second]), torch.cat([torch.rand(2, generator=h), torch.rand(2, generator=h)]))
    assert torch.equal(torch.rand(3, generator=g), torch.rand(3, generator=h))
    with pytest.raises(KeyError), seeded_global_rng(g):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
