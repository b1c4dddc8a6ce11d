"""The factors that rebuild a mixture, positions that are relative, and a network that lets all pass until it learns."""

import copy
import math

import pytest
import torch

from sepriors import priors, weights
from sepriors.priors import Codec, Descript
from sepriors.priors.codec import Layer, rotate, scales
from sepriors.weights import WeightsError

SMALL = {"channels": (8, 8, 8, 16), "width": 8}


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fresh(dtype=torch.float64, **choices):
    made = Codec(**SMALL | choices)
    made.start(torch.Generator().manual_seed(0))
    return made.to(dtype).requires_grad_(False).eval()


def drawn(dtype=torch.float64, **choices):
    """The same away from its start, where branches and residuals do nothing."""
    made, g = fresh(torch.float64, **choices), torch.Generator().manual_seed(1)
    for p in made.parameters():
        p += 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return made.to(dtype)


# ------------------------------------------------------------- least squares


@pytest.mark.parametrize("factors", [(1.0, 1.0), (3.0, -2.0), (1e-6, 1e6), (0.0, 1.0)])
@pytest.mark.parametrize("levels", [(1.0, 1.0), (1e-8, 1e5)])
def test_factors_of_a_known_sum(factors, levels):
    s, n = (level * normal(3, 500, seed=i) for i, level in enumerate(levels))
    alpha, beta = scales(factors[0] * s + factors[1] * n, s, n, ridge=0.0)
    size = abs(factors[0]) * levels[0] + abs(factors[1]) * levels[1]
    for got, factor, level in ((alpha, factors[0], levels[0]), (beta, factors[1], levels[1])):
        assert got.shape == (3, 1)
        torch.testing.assert_close(got * level, torch.full_like(got, factor * level), rtol=1e-9, atol=1e-9 * size)


def test_what_is_left_is_orthogonal_to_both():
    x, s, n = (normal(4, 300, seed=i) for i in range(3))
    alpha, beta = scales(x, s, n, ridge=0.0)
    left = x - alpha * s - beta * n
    for part in (s, n):
        assert ((left * part).sum(-1).abs() < 1e-9).all()


def test_factors_of_branches_that_are_alike():
    """The smallest pair: each half; and with the ridge of the default they hardly miss."""
    x = normal(2, 300)
    alpha, beta = scales(x, x, x.clone())
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.5), rtol=1e-3, atol=0)
    torch.testing.assert_close(beta, alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("silent", ["x", "s", "n", "both", "all"])
def test_factors_in_silence(silent, dtype):
    x, s, n = (normal(1, 300, seed=i, dtype=dtype) for i in range(3))
    x = 0 * x if silent in ("x", "all") else x
    s = 0 * s if silent in ("s", "both", "all") else s
    n = 0 * n if silent in ("n", "both", "all") else n
    alpha, beta = scales(x, s, n)
    assert alpha.isfinite().all()
    assert beta.isfinite().all()
    assert (alpha * s + beta * n).isfinite().all()
    if silent == "s":
        torch.testing.assert_close(
            beta, (x * n).sum(-1, keepdim=True) / n.square().sum(-1, keepdim=True), rtol=2e-3, atol=0
        )
    if silent in ("x", "all"):
        assert not (alpha * s).any()
        assert not (beta * n).any()


def test_factors_hardly_miss_a_sum_of_unlike_parts():
    s, n = normal(5, 4000), normal(5, 4000, seed=1)
    x = 2 * s + n
    alpha, beta = scales(x, s, n)
    missed = (x - alpha * s - beta * n).square().sum(-1) / x.square().sum(-1)
    assert (10 * missed.log10() < -55).all()


def test_factors_of_nearly_equal_branches_stay_small():
    x, s = normal(20, 400), normal(20, 400, seed=1)
    for away in (1e-6, 1e-3, 0.03, 0.1):
        for factor in scales(x, s, s + away * normal(20, 400, seed=2)):
            assert factor.abs().max() < 5


def test_silence_has_gradients():
    made = drawn().requires_grad_(True)
    speech, noise = made.separate(torch.zeros(1, 640, dtype=torch.float64))
    (speech + noise - 1).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_branches_divide_what_there_is():
    """What speech asks for, noise does not get, and the other way round."""
    made, x = drawn(), normal(2, 3200)
    z = made.encode(x)
    share = made.share(z)
    assert 0 < share.min() < 0.4
    assert share.max() > 0.6
    assert share.max() < 1
    made.speech, made.noise = made.noise, made.speech
    torch.testing.assert_close(made.share(z), 1 - share)


# ------------------------------------------------------------- attention


def test_rotary_positions_are_relative():
    """The product of a query and a key depends on their distance, not on where the sequence begins."""
    q, k = normal(2, 7, 12), normal(2, 7, 12, seed=1)
    here = rotate(q) @ rotate(k).mT
    for start in (1, 13, 5000):
        torch.testing.assert_close(
            rotate(q, start) @ rotate(k, start).mT, here, rtol=1e-4, atol=1e-3 * here.abs().max().item()
        )
    assert (rotate(q, 1) @ rotate(k).mT - here).abs().max() > 0.1
    torch.testing.assert_close(rotate(q).norm(dim=-1), q.norm(dim=-1))


def test_attention_looks_a_second_far():
    g = torch.Generator().manual_seed(0)
    made = Layer(8, 2).double().requires_grad_(False)
    for p in made.parameters():
        p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) / 3)
    h = normal(1, 160, 8)
    other = h.clone()
    other[:, 80] += normal(8, seed=1)
    moved = (made(h) - made(other)).abs().amax(-1)[0] > 1e-12
    assert moved.nonzero().flatten().tolist() == list(range(30, 131))


# ------------------------------------------------------------- the network


@pytest.mark.parametrize("length", [1, 2, 319, 320, 321, 1000, 6400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_length(length, dtype):
    made, x = drawn(dtype), normal(2, length, dtype=dtype)
    assert made.encode(x).shape == (2, 16, math.ceil(length / made.hop))
    for part in (*made(x), *made.separate(x)):
        assert (part.shape, part.dtype) == (x.shape, dtype)
        assert part.isfinite().all()


def test_untrained_branches_share_evenly():
    """Speech, noise, and what the autoencoder alone makes of the mixture: one signal."""
    made, x = fresh(), normal(2, 3200)
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    speech, noise = made(x)
    torch.testing.assert_close(speech, made.decode(made.encode(x), 3200))
    assert speech.equal(noise)
    assert speech.abs().max() > 0
    one, other = made.separate(x)
    torch.testing.assert_close(one, other)


def test_speech_and_noise_add_up_to_the_nearest_mixture():
    made, x = drawn(), normal(3, 3200)
    (s, n), (speech, noise) = made(x), made.separate(x)
    basis = torch.stack([s, n], -1)
    torch.testing.assert_close(
        speech + noise, (basis @ torch.linalg.lstsq(basis, x[..., None]).solution)[..., 0], rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("gain", [1e-8, 1e-3, 100.0])
def test_level_goes_through(gain):
    made, x = drawn(), normal(2, 3200)
    for whole, part in zip(made.separate(x), made.separate(gain * x), strict=True):
        torch.testing.assert_close(part, gain * whole)


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 4000), torch.eye(1, 4000), torch.full((1, 4000), 0.5), torch.full((1, 4000), 1e-30)]
)
def test_signals_without_speech_or_noise(x):
    made = drawn(torch.float32)
    speech, noise = made.separate(x)
    assert speech.isfinite().all()
    assert noise.isfinite().all()
    if not x.any():
        assert not speech.any()
        assert not noise.any()


def test_places_far_apart_do_not_meet():
    """So a long file in pieces is the whole file, but for the edges of the pieces."""
    made = drawn()
    x = normal(1, 320 * 400)
    z = made.encode(x)
    other = z.clone()
    other[..., 0] += 1
    for branch in (made.speech, made.noise):
        moved = (branch(z.mT) - branch(other.mT)).abs().amax(-1)[0] > 1e-12
        assert moved.nonzero().max() <= made.layers * Layer.reach


def test_a_file_and_back(tmp_path):
    made = drawn(torch.float32, layers=1, heads=2)
    weights.save(tmp_path / "a.safetensors", made.state_dict(), made.config)
    got = priors.load(tmp_path / "a.safetensors")
    assert (type(got), got.layers, got.heads, got.channels) == (Codec, 1, 2, SMALL["channels"])
    x = normal(1, 999, dtype=torch.float32)
    assert all(a.equal(b) for a, b in zip(made.separate(x), got.separate(x), strict=True))


def test_the_network_is_small():
    assert sum(p.numel() for p in Codec().parameters()) <= 3e6


# ------------------------------------------------------------- the Descript Audio Codec


TINY = {"encoder": 4, "decoder": 32, "width": 8}


def published(made):
    """A checkpoint in the form in which the authors publish theirs, weights normalised."""
    state = {"quantizer.quantizers.0.codebook.weight": torch.zeros(3, 2)}
    for prefix, part in (("encoder.block.", made.encoder), ("decoder.model.", made.decoder)):
        for name, p in part.state_dict().items():
            if p.ndim == 3 and name.endswith("weight"):
                length = p.flatten(1).norm(dim=1).view(-1, 1, 1)
                state |= {f"{prefix}{name}_g": length, f"{prefix}{name}_v": p * 3}
            else:
                state[prefix + name] = p
    sizes = {"sample_rate": 16000, "encoder_dim": 4, "encoder_rates": [2, 4, 5, 8], "decoder_dim": 32}
    return {"state_dict": state, "metadata": {"kwargs": {**sizes, "decoder_rates": [8, 5, 4, 2], "latent_dim": None}}}


def descript():
    made, g = Descript(**TINY).requires_grad_(False), torch.Generator().manual_seed(0)
    for name, p in made.named_parameters():
        p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5 / 2)
        if name.endswith("alpha"):
            p.abs_().add_(0.5)
    return made


def test_a_published_codec(tmp_path):
    """To rounding, in time and in level, with branches that let all pass."""
    made = descript()
    torch.save(published(made), tmp_path / "weights.pth")
    got = Descript.from_checkpoint(tmp_path / "weights.pth", width=8)
    made, got, x = made.double(), got.double(), 0.05 * normal(2, 3300)
    torch.testing.assert_close(got.encode(x), made.encode(x), rtol=1e-4, atol=1e-4)  # weights in single precision
    torch.testing.assert_close(got.decode(got.encode(x), 3300), made.decode(made.encode(x), 3300), rtol=1e-3, atol=1e-3)
    speech, noise = got(x)
    assert speech.shape == x.shape
    assert speech.equal(noise)
    level = x.square().mean(-1, keepdim=True).sqrt() / 0.05
    torch.testing.assert_close(speech, level * got.decode(got.encode(x / level), 3300))


def test_a_tuned_published_codec_comes_back(tmp_path):
    made = descript()
    weights.save(tmp_path / "a.safetensors", made.state_dict(), made.config)
    got = priors.load(tmp_path / "a.safetensors")
    x = 0.05 * normal(1, 700, dtype=torch.float32)
    assert all(a.equal(b) for a, b in zip(made.separate(x), got.separate(x), strict=True))


def test_another_checkpoint(tmp_path):
    path, whole = tmp_path / "weights.pth", published(descript())
    other_rate, lacking, other_size = (copy.deepcopy(whole) for _ in range(3))
    other_rate["metadata"]["kwargs"]["sample_rate"] = 44100
    del lacking["state_dict"]["encoder.block.0.bias"]
    other_size["metadata"]["kwargs"]["encoder_dim"] = 8
    for content, got in (
        (other_rate, "got one for 44100 Hz"),
        (lacking, r"Missing key.*0\.bias"),
        (other_size, "size mismatch"),
        ({"state_dict": {}}, "metadata"),
        ([], "list indices"),
    ):
        torch.save(content, path)
        with pytest.raises(WeightsError, match=rf"weights\.pth: expected a checkpoint of a Descript[^$]*{got}"):
            Descript.from_checkpoint(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="expected a checkpoint of a Descript"):
        Descript.from_checkpoint(path)
