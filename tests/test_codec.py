"""The factors that rebuild a mixture, positions that are relative, and a network that lets all pass until it learns."""

import pytest
import torch
from conftest import drawn_descript, moved, normal

from sepriors.priors import Codec, Descript
from sepriors.priors.codec import Layer, rotate, scales
from sepriors.weights import WeightsError

SMALL = {"channels": (8, 8, 8, 16), "width": 8}


def fresh(**choices):
    made = Codec(**SMALL | choices)
    made.start(torch.Generator().manual_seed(0))
    return made.double().requires_grad_(False).eval()


def away():
    """The same away from its start, where branches and residuals do nothing."""
    return moved(Codec(**SMALL), by=lambda name: 0.1)


# ------------------------------------------------------------- least squares


@pytest.mark.parametrize("factors", [(1.0, 1.0), (3.0, -2.0), (1e-6, 1e6), (0.0, 1.0)])
@pytest.mark.parametrize("levels", [(1.0, 1.0), (1e-8, 1e5)])
def test_factors_of_a_known_sum(factors, levels):
    """To rounding, and with the ridge of the default they miss by less than -55 dB."""
    s, n = (level * normal(3, 4000, seed=i) for i, level in enumerate(levels))
    x = factors[0] * s + factors[1] * n
    alpha, beta = scales(x, s, n, ridge=0.0)
    size = abs(factors[0]) * levels[0] + abs(factors[1]) * levels[1]
    for got, factor, level in ((alpha, factors[0], levels[0]), (beta, factors[1], levels[1])):
        torch.testing.assert_close(
            got * level, torch.full((3, 1), factor * level, dtype=torch.float64), rtol=1e-9, atol=1e-9 * size
        )
    alpha, beta = scales(x, s, n)
    assert ((x - alpha * s - beta * n).norm() / x.norm()).log10() < -55 / 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("silent", ["x", "s", "n", "sn", "xsn"])
def test_factors_in_silence(silent, dtype):
    x, s, n = (normal(1, 300, seed=i, dtype=dtype) * (name not in silent) for i, name in enumerate("xsn"))
    alpha, beta = scales(x, s, n)
    assert (alpha.isfinite() & beta.isfinite()).all()
    if silent == "s":
        torch.testing.assert_close(beta, ((x * n).sum(-1) / n.square().sum(-1))[:, None], rtol=2e-3, atol=0)
    if "x" in silent:
        assert not (alpha * s).any()
        assert not (beta * n).any()


def test_factors_of_nearly_equal_branches_stay_small():
    x, s = normal(20, 400), normal(20, 400, seed=1)
    for apart in (1e-6, 1e-3, 0.03, 0.1):
        assert torch.stack(scales(x, s, s + apart * normal(20, 400, seed=2))).abs().max() < 5
    torch.testing.assert_close(torch.stack(scales(x, x, x)), torch.full((2, 20, 1), 0.5).double(), rtol=1e-3, atol=0)


def test_silence_has_gradients():
    made = away().requires_grad_(True)
    speech, noise = made.separate(torch.zeros(1, 640, dtype=torch.float64))
    (speech + noise - 1).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_branches_divide_what_there_is():
    """What speech asks for, noise does not get, and the other way round."""
    made, x = away(), normal(2, 3200)
    z = made.encode(x)
    mask = made.mask(z)
    assert 0 < mask.min() < 0.4
    assert mask.max() > 0.6
    assert mask.max() < 1
    made.speech, made.noise = made.noise, made.speech
    torch.testing.assert_close(made.mask(z), 1 - mask)


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
    made, x = away(), normal(3, 3200)
    (s, n), (speech, noise) = made(x), made.separate(x)
    basis = torch.stack([s, n], -1)
    torch.testing.assert_close(
        speech + noise, (basis @ torch.linalg.lstsq(basis, x[..., None]).solution)[..., 0], rtol=0.02, atol=0.02
    )


# ------------------------------------------------------------- the Descript Audio Codec


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


def test_a_published_codec(tmp_path):
    """To rounding, in time and in level, with branches that let all pass."""
    made = drawn_descript()
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


def test_another_checkpoint(tmp_path):
    path, (other_rate, lacking) = tmp_path / "weights.pth", (published(drawn_descript()) for _ in range(2))
    other_rate["metadata"]["kwargs"]["sample_rate"] = 44100
    del lacking["state_dict"]["encoder.block.0.bias"]
    for content, got in ((other_rate, "got one for 44100 Hz"), (lacking, r"Missing key.*0\.bias"), ([], "list in")):
        torch.save(content, path)
        with pytest.raises(WeightsError, match=rf"weights\.pth: expected a checkpoint of a Descript[^$]*{got}"):
            Descript.from_checkpoint(path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="expected a checkpoint of a Descript"):
        Descript.from_checkpoint(path)
