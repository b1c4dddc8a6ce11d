"""Mixtures: the ratio is exact, the sum is the sum, nothing clips."""

import math

import pytest
import torch
from conftest import speechlike

from sepriors import mix
from sepriors.signal import mixing


def ratio_db(m):
    return 10 * (m.clean.double().square().sum(-1) / m.noise.double().square().sum(-1)).log10()


@pytest.mark.parametrize("snr", [-40.0, -6.0, 0.0, 9.0, 60.0])
@pytest.mark.parametrize("level", [1e-4, 0.1, 30.0])
def test_ratio_sum_and_peak(snr, level):
    clean = level * speechlike(3, 8000)
    noise = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1e-3], [1.0], [50.0]])
    m = mix(clean, noise, snr)
    torch.testing.assert_close(ratio_db(m), torch.full((3,), snr).double(), atol=1e-4, rtol=0)
    assert (m.clean + m.noise).equal(m.noisy)
    assert torch.stack(m[:3]).abs().max() <= 0.99 + 1e-6
    assert m.snr_db == snr


def test_in_float64_the_ratio_is_exact():
    g = torch.Generator().manual_seed(0)
    m = mix(*torch.randn(2, 5, 1000, generator=g, dtype=torch.float64), snr_db=3.0)
    torch.testing.assert_close(ratio_db(m), torch.full((5,), 3.0).double(), atol=1e-12, rtol=0)
    assert m.noisy.dtype == torch.float64


def test_one_gain_for_all_three_and_only_where_it_would_clip():
    clean, noise = 0.1 * torch.ones(2, 100), torch.ones(2, 100)
    clean[1] *= 9  # 0.9 + 0.9 is beyond full scale
    m = mix(clean, noise, 0.0)
    torch.testing.assert_close(m.clean[0], clean[0])
    gain = m.clean[1] / clean[1]
    torch.testing.assert_close(gain, torch.full_like(gain, 0.99 / 1.8))
    torch.testing.assert_close(m.noise[1], m.clean[1])


def test_parts_that_cancel_do_not_clip_either():
    clean = torch.ones(100) * 2
    m = mix(clean, -torch.ones(100), 0.0)
    assert m.clean.abs().max() <= 0.99 + 1e-6
    assert not m.noisy.any()


def test_an_utterance_alone_and_in_company():
    clean, noise = speechlike(3, 4000), torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    m = mix(clean, noise, 5.0, ("a", "b", "c"))
    alone = mix(clean[1], noise[1], 5.0, ("b",))
    assert alone.noisy.shape == (4000,)
    assert alone.noisy.equal(m.noisy[1])
    assert alone.key == m.key[1:2]


@pytest.mark.parametrize(("clean", "noise", "snr", "message"), [
    (torch.ones(3), torch.ones(4), 0.0, r"clean has shape \(3,\) but noise has \(4,\)"),
    (torch.zeros(3), torch.ones(3), 0.0, "clean is silent"),
    (torch.ones(2, 3), torch.tensor([[1.0, 1, 1], [0, 0, 0]]), 0.0, "noise is silent"),
    (torch.tensor([1.0, math.nan]), torch.ones(2), 0.0, "clean has NaN"),
    (torch.ones(2), torch.tensor([1.0, math.inf]), 0.0, "noise has NaN or infinite"),
    (torch.ones(2), torch.ones(2), math.nan, "expected a signal-to-noise ratio from -300 to 300 dB, got nan"),
    (torch.ones(2), torch.ones(2), math.inf, "got inf"),
    (torch.ones(2), torch.ones(2), -1000.0, "got -1000"),
])  # fmt: skip
def test_what_cannot_be_mixed(clean, noise, snr, message):
    with pytest.raises(ValueError, match=message):
        mix(clean, noise, snr)


@pytest.mark.parametrize(("level", "snr", "form"), [
    (0.1, 0.0, (".flac", "PCM_16")),
    (0.1, 60.0, (".flac", "PCM_24")),
    (1e-3, 30.0, (".flac", "PCM_24")),
    (1e-7, 0.0, (".wav", "FLOAT")),
])  # fmt: skip
def test_as_many_bits_as_the_ratio_takes(level, snr, form):
    noise = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    quiet = mix(level * speechlike(2, 8000), noise, snr)
    assert mixing.form([quiet]) == form
    loud = mix(speechlike(2, 8000), noise, 0.0)
    assert mixing.form([loud, quiet]) == mixing.form([quiet, loud]) == form


def test_a_ratio_that_no_format_holds():
    with pytest.raises(ValueError, match="no sample format keeps a signal-to-noise ratio of 250 dB"):
        mixing.form([mix(speechlike(1, 800), torch.ones(1, 800), 250.0)])
