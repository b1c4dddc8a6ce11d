"""The one M-step of the book: it never goes uphill, and it finds what is there to be found."""

import pytest
import torch

from sepriors.inference import nmf
from sepriors.inference.nmf import NMF
from sepriors.signal.gaussian import is_divergence, log_likelihood
from sepriors.signal.rng import generators

B, F, T, K = 2, 12, 17, 3


def drawn(seed, *shape):
    """Positive, over some orders of magnitude, as spectra are."""
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).exp()


def loss(model, power, offset=None):
    V = model.variance + (0 if offset is None else offset)
    return sum(is_divergence(P, V_r) for P, V_r in zip(power, V.expand_as(power), strict=True))


@pytest.mark.parametrize("draws", [1, 2, 5])
@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("bases", [False, True])
def test_an_update_never_goes_uphill(draws, with_offset, bases):
    for seed in range(10):
        power = drawn(seed, draws, B, F, T)
        offset = drawn(seed + 100, draws, B, F, T) if with_offset else None
        model = nmf.init(power.mean(0), K, generators(seed, B))
        last = loss(model, power, offset)
        for _ in range(30):
            old, model = model, nmf.update(model, power, offset, bases=bases)
            now = loss(model, power, offset)
            assert (now <= last * (1 + 1e-12)).all()
            last = now
            assert model.W.equal(old.W) != bases
        torch.testing.assert_close(model.W.sum(-2), torch.ones(B, K).double())


@pytest.mark.parametrize("half", [nmf.update_bases, nmf.update_activations])
@pytest.mark.parametrize("draws", [1, 3])
def test_neither_half_goes_uphill(half, draws):
    for seed in range(10):
        power, offset = drawn(seed, draws, B, F, T), drawn(seed + 100, draws, B, F, T)
        model = nmf.init(power.mean(0), K, generators(seed, B))
        for _ in range(20):
            new = half(model, power, offset + model.variance)
            assert (loss(new, power, offset) <= loss(model, power, offset) * (1 + 1e-12)).all()
            model = new


def test_an_update_is_its_two_halves_and_changes_none_of_its_arguments():
    power, offset = drawn(0, 2, B, F, T), drawn(1, 2, B, F, T)
    start = nmf.init(power.mean(0), K, generators(0, B))
    kept = [x.clone() for x in (power, offset, *start)]
    whole = nmf.update(start, power, offset)
    half = nmf.update_bases(start, power, offset + start.variance)
    to_float16 = nmf.update_activations(half, power, offset + half.variance)
    for a, b in zip(whole, to_float16, strict=True):
        torch.testing.assert_close(a, b)
    for one in (1, 2):
        nmf.update(start, power[:one], offset[:one])
        nmf.update(start, power[:one])
        assert all(a.equal(b) for a, b in zip(kept, (power, offset, *start), strict=True))


def test_the_update_is_the_formula():
    """Against sums written out one by one."""
    P, O = drawn(0, 2, 1, 4, 5), drawn(1, 2, 1, 4, 5)
    W, H = nmf.init(P.mean(0), 2, generators(0, 1))
    new = nmf.update(NMF(W, H), P, O, bases=False)
    for k in range(2):
        for t in range(5):
            up = down = 0.0
            for r in range(2):
                for f in range(4):
                    V = O[r, 0, f, t] + sum(W[0, f, j] * H[0, j, t] for j in range(2))
                    up += W[0, f, k] * P[r, 0, f, t] / V**2
                    down += W[0, f, k] / V
            torch.testing.assert_close(new.H[0, k, t], H[0, k, t] * (up / down) ** 0.5)


def test_rank_one_is_found_exactly():
    W, H = drawn(0, B, F, 1), drawn(1, B, 1, T)
    model = nmf.fit(W @ H, 1, iterations=200, generators=generators(0, B))
    torch.testing.assert_close(model.variance, W @ H, rtol=1e-9, atol=0)
    torch.testing.assert_close(model.W, W / W.sum(-2, keepdim=True), rtol=1e-9, atol=0)


def test_known_bases_give_back_their_activations():
    W, H = drawn(0, B, F, K), drawn(1, B, K, T)
    model = nmf.init(W @ H, K, generators(0, B), W)
    torch.testing.assert_close(model.W, W / W.sum(-2, keepdim=True))
    for _ in range(5_000):
        model = nmf.update(model, (W @ H)[None], bases=False)
    torch.testing.assert_close(model.variance, W @ H, rtol=1e-3, atol=0)  # it creeps towards zeros of H


def test_a_lower_divergence_is_a_likelier_model():
    P = drawn(0, 1, F, T)
    start = nmf.init(P, K, generators(0, 1))
    end = nmf.fit(P, K, iterations=50, generators=generators(0, 1))
    fell = is_divergence(P, start.variance) - is_divergence(P, end.variance)
    assert fell > 0
    torch.testing.assert_close(log_likelihood(P, end.variance) - log_likelihood(P, start.variance), fell)


def test_the_start_is_at_the_level_of_the_power():
    for level in (1e-6, 1.0, 1e4):
        P = level * drawn(0, B, 64, 50)
        model = nmf.init(P, 8, generators(0, B))
        torch.testing.assert_close(model.W.sum(-2), torch.ones(B, 8).double())
        torch.testing.assert_close(model.variance.mean((-2, -1)), P.mean((-2, -1)), rtol=0.1, atol=0)


def test_level_does_not_matter():
    P = drawn(0, B, F, T)
    soft, loud = (nmf.fit(c * P, K, iterations=30, generators=generators(0, B)) for c in (1.0, 100.0))
    torch.testing.assert_close(loud.variance, 100 * soft.variance)
    torch.testing.assert_close(loud.W, soft.W)


def test_silence_stays_finite_and_silent():
    nothing = torch.zeros(1, F, T)
    model = nmf.fit(nothing, K, iterations=50, generators=generators(0, 1))
    assert all(x.isfinite().all() for x in model)
    assert model.variance.max() < 1e-10
    P = drawn(0, 1, F, T).float()
    P[:, :, :5] = 0  # a pause of digital silence
    P[:, 3] = 0  # a band without sound
    model = nmf.fit(P, K, iterations=100, generators=generators(0, 1))
    assert all(x.isfinite().all() for x in model)
    assert model.variance[:, :, :5].max() < 1e-6 * P.mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    P = drawn(0, B, F, T).to(dtype)
    model = nmf.fit(P, K, iterations=2, generators=generators(0, B))
    assert {x.dtype for x in model} == {dtype}


def test_bases_of_another_transform():
    P, wrong = drawn(0, B, F, T), nmf.init(drawn(0, B, F + 1, T), K, generators(0, B))
    with pytest.raises(ValueError, match="power has F=12 but W has F=13; were they made with the same STFT"):
        nmf.init(P, K, generators(0, B), wrong.W)
    for offset in (None, P[None]):
        with pytest.raises(ValueError, match="power has F=12 but W has F=13; were they made with the same STFT"):
            nmf.update(wrong, P[None], offset)
