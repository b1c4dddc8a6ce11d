"""The one M-step of the book: it never goes uphill, and it finds what is there to be found."""

import pytest
import torch
from conftest import alike

from sepriors.inference import nmf
from sepriors.inference.nmf import NMF
from sepriors.signal.gaussian import is_divergence
from sepriors.signal.rng import generators

B, F, T, K = 2, 12, 17, 3


def drawn(seed, *shape):
    """Positive, over some orders of magnitude, as spectra are."""
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).exp()


def loss(model, power, offset=None):
    V = model.variance + (0 if offset is None else offset)
    return sum(is_divergence(P, V_r) for P, V_r in zip(power, V.expand_as(power), strict=True))


every_update = pytest.mark.parametrize("update", [nmf.update, nmf.fast_update])


@every_update
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("bases", [False, True])
def test_an_update_never_goes_uphill(update, draws, with_offset, bases):
    """And keeps what it is given: the bases, where they are known, and every argument."""
    for seed in range(5):
        power = drawn(seed, draws, B, F, T)
        offset = drawn(seed + 100, draws, B, F, T) if with_offset else None
        model = nmf.init(power.mean(0), K, generators(seed, B))
        given = [power, *model] + ([offset] if with_offset else [])
        kept, last = [x.clone() for x in given], loss(model, power, offset)
        for _ in range(20):
            old, model = model, update(model, power, offset, bases=bases)
            now = loss(model, power, offset)
            assert (now <= last * (1 + 1e-12)).all()
            last = now
            assert model.W.equal(old.W) != bases
        torch.testing.assert_close(model.W.sum(-2), torch.ones(B, K).double())
        assert all(a.equal(b) for a, b in zip(given, kept, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bases", [False, True])
def test_the_fast_update_is_the_update(dtype, bases):
    for draws in (1, 4):
        power, offset = drawn(0, draws, B, F, T).to(dtype), drawn(1, draws, B, F, T).to(dtype)
        model = nmf.init(power.mean(0), K, generators(0, B))
        for O in (None, offset):
            slow, fast = (f(model, power, O, bases=bases) for f in (nmf.update, nmf.fast_update))
            at_hand = nmf.fast_update(model, power, O, bases=bases, variance=model.variance)
            for a, b, c in zip(slow, fast, at_hand, strict=True):
                assert alike(b, a, 1e-5 if dtype == torch.float32 else 1e-12)
                assert c.equal(b)


def test_the_update_is_the_formula():
    """Févotte & Idier (2011): the square root of the ratio of the two parts of the divergence's gradient."""
    P, O = drawn(0, 2, B, F, T), drawn(1, 2, B, F, T)
    W, H = nmf.init(P.mean(0), K, generators(0, B))
    V = O + W @ H
    up, down = (torch.einsum("bfk,rbft->bkt", W, part) for part in (P / V**2, 1 / V))
    torch.testing.assert_close(nmf.update(NMF(W, H), P, O, bases=False).H, H * (up / down) ** 0.5)


def test_rank_one_is_found_exactly_whatever_its_level():
    W, H = drawn(0, B, F, 1), drawn(1, B, 1, T)
    for level in (1e-6, 1.0, 1e4):
        model = nmf.fit(level * W @ H, 1, iterations=200, generators=generators(0, B))
        torch.testing.assert_close(model.variance, level * W @ H, rtol=1e-9, atol=0)
        torch.testing.assert_close(model.W, W / W.sum(-2, keepdim=True), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_start_is_at_the_level_of_the_power(dtype):
    for level in (1e-6, 1.0, 1e4):
        P = (level * drawn(0, B, 64, 50)).to(dtype)
        model = nmf.init(P, 8, generators(0, B))
        assert {x.dtype for x in model} == {dtype}
        torch.testing.assert_close(model.W.sum(-2), torch.ones(B, 8, dtype=dtype))
        torch.testing.assert_close(model.variance.mean((-2, -1)), P.mean((-2, -1)), rtol=0.1, atol=0)


@every_update
def test_silence_stays_finite_and_silent(update):
    paused = drawn(0, 1, F, T).float()
    paused[:, :, :5] = 0  # a pause of digital silence
    paused[:, 3] = 0  # a band without sound
    for P, silent in ((torch.zeros(1, F, T), slice(None)), (paused, slice(5))):
        model = nmf.init(P, K, generators(0, 1))
        for _ in range(100):
            model = update(model, P[None])
        assert all(x.isfinite().all() for x in model)
        assert model.variance[:, :, silent].max() < 1e-6 * P.mean() + 1e-10


def test_shorter_windows_see_white_noise_with_less_power():
    model = NMF(drawn(0, 513, 4), drawn(1, 4, 10))
    got = nmf.shorter(model, 2, 19)
    torch.testing.assert_close(got.variance, (model.variance[::2] / 2).repeat_interleave(2, -1)[:, :19])


def test_bases_of_another_transform():
    P, wrong = drawn(0, B, F, T), nmf.init(drawn(0, B, F + 1, T), K, generators(0, B))
    for refuses in (
        lambda: nmf.init(P, K, generators(0, B), wrong.W),
        lambda: nmf.update(wrong, P[None]),
        lambda: nmf.fast_update(wrong, P[None], P[None]),
    ):
        with pytest.raises(ValueError, match="power has F=12 but W has F=13; were they made with the same STFT"):
            refuses()
