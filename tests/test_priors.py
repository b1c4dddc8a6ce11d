"""What holds for all networks: they come back from their files, and of a batch nothing matters but rounding."""

import dataclasses
import json

import pytest
import torch
from conftest import alike, drawn, drawn_descript, drawn_flow, drawn_rvae, drawn_score, drawn_vae, moved, normal

from sepriors import STFT, priors, weights
from sepriors.priors import BSSE, MAF, NPE, RVAE, SSL, VAE, Codec, Denoiser, Descript, WaveGlow
from sepriors.signal.rng import generators
from sepriors.signal.stft import Compression
from sepriors.weights import WeightsError

SMALL_SSL = {"width": 8, "layers": 2, "heads": 2, "inner": 16, "channels": (4, 4, 4, 4, 4, 4, 8)}
DENOISER = {"stft": STFT(64, 16, 8000), "compression": Compression(0.4, 0.2), "sigma_data": 0.15, "fast": False}
SMALL_CODEC = {"channels": (8, 8, 8, 16), "width": 8}


def maf(dtype, **choices):
    return moved(MAF(**choices), dtype=dtype, by=lambda name: 0.3)


def bsse(inputs, dtype):
    return drawn(BSSE(inputs, None if inputs == "spectrum" else SSL(**SMALL_SSL), width=8, hidden=6), dtype=dtype)


NETWORKS = {
    "vae": lambda dtype: drawn_vae(5, 6, dtype=dtype),
    "rvae": lambda dtype: drawn_rvae(5, 6, dtype=dtype, fast=False),
    "waveglow": lambda dtype: drawn_flow(dtype=dtype, clean=3.25),
    "waveglow-windows": lambda dtype: drawn_flow(dtype=dtype, context=False),
    "waveglow-companded": lambda dtype: drawn_flow(dtype=dtype, mu=255.0),
    "waveglow-noisy": lambda dtype: drawn_flow(dtype=dtype, conditional=True, depth=7, early_every=3),
    "maf": lambda dtype: maf(dtype, features=8, hidden=16, rms=1 / 3, clean=2.5),
    "maf-mixture": lambda dtype: maf(dtype, blocks=2, hidden=16, components=3),
    "denoiser": lambda dtype: drawn_score(dtype=dtype, **DENOISER),
    "denoiser-paired": lambda dtype: drawn_score(dtype=dtype, **DENOISER, channels=(8, 8, 8), conditional=True),
    "codec": lambda dtype: moved(Codec(**SMALL_CODEC, layers=1, heads=2), dtype=dtype, by=lambda name: 0.1),
    "descript": lambda dtype: drawn_descript(dtype=dtype),
    "ssl": lambda dtype: drawn(SSL(**SMALL_SSL), dtype=dtype),
    "bsse": lambda dtype: bsse("both", dtype),
    "bsse-embeddings": lambda dtype: bsse("embeddings", dtype),
    "bsse-spectrum": lambda dtype: bsse("spectrum", dtype),
    "npe": lambda dtype: drawn(NPE(STFT(64, 16), width=8, hidden=8), dtype=dtype),
}
EACH = pytest.mark.parametrize("name", NETWORKS)
ENHANCERS = pytest.mark.parametrize("name", ["codec", "descript", "bsse", "bsse-embeddings", "bsse-spectrum", "npe"])


def asked(net, x):
    """All that a network says of waveforms (B, N)."""
    if isinstance(net, (VAE, RVAE)):
        P = net.stft(x).abs().square()
        q, z = net.posterior(P), net.encode(P)
        return [q.mean, q.log_variance, z, net.log_variance(z), net.log_prior(z), net.elbo(P, torch.ones_like(z)[None])]
    if isinstance(net, (WaveGlow, MAF)):
        noise = [torch.full_like(x[:, 0], 0.01)] if getattr(net, "conditional", False) else []
        z, log_det = net(x, *noise)
        return [z, log_det, net.log_prob(x, *noise), net.inverse(z, *noise)]
    if isinstance(net, Denoiser):
        X = net.compression(net.stft(x))
        return [*net.denoise(X, 0.3, 2 * X if net.conditional else None)]
    if isinstance(net, SSL):
        return [net(x).movedim(1, 0)]
    if isinstance(net, Descript):  # the rest is Codec's, and untrained branches are too alike for `scales`
        return [*net(x)]
    return [net.enhance(x), *(net.separate(x) if isinstance(net, Codec) else ())]


def sound(length=1600, dtype=torch.float32):
    return 0.03 * normal(3, length, dtype=dtype)


# ------------------------------------------------------------- files


@EACH
def test_a_network_comes_back_from_its_file(name, tmp_path):
    made, path = NETWORKS[name](torch.float32), tmp_path / "w.safetensors"
    weights.save(path, made.tensors, made.config)
    before = torch.get_rng_state()
    got = priors.load(path)
    assert torch.get_rng_state().equal(before)  # nothing was drawn that would be thrown away
    assert (type(got), got.config) == (type(made), made.config)
    assert json.loads(json.dumps(made.config)) == weights.load(path).config == made.config
    assert not got.training
    assert not any(p.requires_grad for p in got.parameters())
    if hasattr(made, "fast"):
        assert got.fast is None  # how to compute is the machine's choice, not the file's
        got.fast = False
    assert all(a.equal(b) for a, b in zip(asked(got, sound()), asked(made, sound()), strict=True))


def test_a_configuration_has_what_the_network_was_made_with():
    made = Denoiser(**DENOISER | {"fast": True}, channels=(4, 8))
    transforms = {key: dataclasses.asdict(DENOISER[key]) for key in ("stft", "compression")}
    sizes = {"channels": [4, 8], "conditional": False, "sigma_data": 0.15}
    assert made.config == {"family": "denoiser"} | transforms | sizes
    again = Denoiser.from_config(made.config)
    assert (again.stft, again.compression, again.channels) == (made.stft, made.compression, (4, 8))
    ssl = {"family": "ssl", **SMALL_SSL, "channels": [4, 4, 4, 4, 4, 4, 8]}
    assert [bsse(inputs, torch.float32).config["ssl"] for inputs in ("both", "spectrum")] == [ssl, None]


@EACH
def test_a_file_in_half_precision_is_used_in_single(name, tmp_path):
    made, path = NETWORKS[name](torch.float32), tmp_path / "w.safetensors"
    weights.save(path, {key: p.half() for key, p in made.tensors.items()}, made.config)
    got, exact = priors.load(path), made.half().float()
    assert {p.dtype for p in got.parameters()} == {torch.float32}
    assert all(p.equal(q) for p, q in zip(got.tensors.values(), exact.tensors.values(), strict=True))


@EACH
def test_a_file_that_does_not_fit_its_configuration(name, tmp_path):
    made, path = NETWORKS[name](torch.float32), tmp_path / "w.safetensors"
    family, tensors = made.config["family"], made.tensors
    lacking = [{k: v for k, v in made.config.items() if k != key} for key in made.config if key != "family"]
    sizes = made.config.keys() & {"width", "hidden", "latent", "features", "window", "depth", "encoder_dim", "channels"}
    wrong = [made.config | {key: value} for key in sizes for value in (11, "8", [11, 11, 11], {"n_fft": 8}, None)]
    for config in (*lacking, *wrong):
        weights.save(path, tensors, config)
        with pytest.raises(WeightsError, match=f"expected a whole {family} with its sizes"):
            priors.load(path)
    weights.save(path, dict(list(tensors.items())[1:]), made.config)
    with pytest.raises(WeightsError, match=f"expected a whole {family} with its sizes"):
        priors.load(path)


@pytest.mark.parametrize("family", ["flow", [], 3])
def test_weights_that_are_no_priors(family, tmp_path):
    with pytest.raises(WeightsError, match=r"nmf-speech: expected the weights of a prior \(vae, .*\), got 'no fa"):
        priors.load("nmf-speech")
    weights.save(tmp_path / "v.safetensors", {"W": torch.zeros(1)}, {"family": family})
    with pytest.raises(WeightsError, match=r"expected the weights of a prior \(vae, .*\), got '"):
        priors.load(tmp_path / "v.safetensors")
    with pytest.raises(WeightsError, match="unknown weights 'vea'; did you mean vae"):
        priors.load("vea")


# ------------------------------------------------------------- batches, dtypes, silence


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_utterance_is_alike_alone_and_in_company(name, dtype):
    """Once more the same bits, the dtype of what is given, which stays as it was; in a batch, but for rounding."""
    made, x = NETWORKS[name](dtype), sound(dtype=dtype)
    kept = x.clone()
    together = asked(made, x)
    assert x.equal(kept)
    assert all(a.equal(b) for a, b in zip(asked(made, x), together, strict=True))
    assert all(part.real.dtype == dtype and len(part) == 3 for part in together)
    for b in range(3):
        assert all(alike(one[0], part[b]) for one, part in zip(asked(made, x[b : b + 1]), together, strict=True))


@EACH
@pytest.mark.parametrize(
    "x", [torch.zeros(1, 1600), torch.full((1, 1600), 1e-30), torch.full((1, 1600), 0.1), torch.eye(1, 1600)]
)
def test_silence_pressure_and_a_click_stay_finite(name, x):
    assert all(part.isfinite().all() for part in asked(NETWORKS[name](torch.float32), x))


@ENHANCERS
@pytest.mark.parametrize("length", [1, 159, 160, 161, 319, 320, 321, 401, 3999])
def test_any_length(name, length):
    x = sound(length, torch.float64)
    for part in asked(NETWORKS[name](torch.float64), x):
        assert part.shape == x.shape
        assert part.isfinite().all()


@ENHANCERS
@pytest.mark.parametrize("gain", [1e-3, 100.0])
def test_louder_in_louder_out(name, gain):
    net, x = NETWORKS[name](torch.float64), sound(dtype=torch.float64)
    for part, whole in zip(asked(net, gain * x), asked(net, x), strict=True):
        torch.testing.assert_close(part, gain * whole, rtol=1e-6, atol=1e-9 * gain)


STARTED = {WaveGlow: {"hidden": 8}, MAF: {"components": 3}, Denoiser: {"channels": (8, 8)}, Codec: SMALL_CODEC}


@pytest.mark.parametrize("family", STARTED)
def test_a_start_depends_on_the_generator_alone(family):
    states = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(i)
        made = family(**STARTED[family])
        made.start(generators(seed, 1)[0])
        states.append(torch.cat([p.flatten() for p in made.state_dict().values()]))
    assert states[0].equal(states[1])
    assert not states[0].equal(states[2])
