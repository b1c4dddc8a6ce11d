"""Noise tracking and the decision-directed gain, against slow scalar versions and against what they promise."""

import math

import pytest
import torch

from sepriors.signal import spp


def noise(frames, bins=40, seed=0, level=1.0):
    """Power of white Gaussian noise of the given variance."""
    g = torch.Generator().manual_seed(seed)
    return level * torch.randn(bins, frames, dtype=torch.complex128, generator=g).abs().square()


def slow_noise_power(P, xi_db=15.0, alpha=0.8, beta=0.9, lead=5):
    """Gerkmann & Hendriks (2012), Algorithm 1, for one bin, by its likelihood ratio."""
    xi = 10 ** (xi_db / 10)
    sigma2 = sum(P[:lead]) / len(P[:lead])
    mean_presence = 0.5
    out = []
    for y2 in P:
        ratio = 1 / (1 + xi) * math.exp(min(y2 / sigma2 * xi / (1 + xi), 200))  # p(y | H1) / p(y | H0)
        presence = ratio / (1 + ratio)
        mean_presence = beta * mean_presence + (1 - beta) * presence
        if mean_presence > 0.99:
            presence = min(presence, 0.99)
        n2 = presence * sigma2 + (1 - presence) * y2
        sigma2 = alpha * sigma2 + (1 - alpha) * n2
        out.append(sigma2)
    return out


def slow_gain(P, sigma2, alpha=0.98, floor_db=-25.0):
    """Ephraim & Malah (1984), eq. 51, for one bin, with the Wiener gain."""
    out, s2_over_n2 = [], P[0] / sigma2[0]
    for y2, n2 in zip(P, sigma2, strict=True):
        xi = alpha * s2_over_n2 + (1 - alpha) * max(y2 / n2 - 1, 0)
        xi = max(xi, 10 ** (floor_db / 10))
        gain = xi / (1 + xi)
        s2_over_n2 = (gain * math.sqrt(y2)) ** 2 / n2
        out.append(gain)
    return out


@pytest.fixture
def busy():
    """Noise with bursts 20 dB above it, a jump that freezes a bin, and a pause."""
    P = noise(400)
    P[:, 100:150] *= 100
    P[:, 200:] *= 30
    P[:, 380:] *= 1e-3
    return P


def test_as_the_slow_version(busy):
    slow = torch.tensor([slow_noise_power(row.tolist()) for row in busy], dtype=torch.float64)
    torch.testing.assert_close(spp.noise_power(busy), slow)
    other = {"prior_snr_db": 10.0, "smoothing": 0.7, "presence_smoothing": 0.8, "lead": 12}
    slow = torch.tensor([slow_noise_power(row.tolist(), *other.values()) for row in busy], dtype=torch.float64)
    torch.testing.assert_close(spp.noise_power(busy, **other), slow)


def test_the_gain_as_the_slow_version(busy):
    sigma2 = spp.noise_power(busy)
    pairs = zip(busy.tolist(), sigma2.tolist(), strict=True)
    slow = torch.tensor([slow_gain(*pair) for pair in pairs], dtype=torch.float64)
    torch.testing.assert_close(spp.decision_directed_gain(busy, sigma2), slow)
    pairs = zip(busy.tolist(), sigma2.tolist(), strict=True)
    slow = torch.tensor([slow_gain(*pair, alpha=0.9, floor_db=-15.0) for pair in pairs], dtype=torch.float64)
    torch.testing.assert_close(spp.decision_directed_gain(busy, sigma2, smoothing=0.9, floor_db=-15.0), slow)


@pytest.mark.parametrize("level", [1e-6, 1.0, 1e3])
def test_steady_noise_is_found_but_for_the_known_bias(level):
    """The soft decision takes the highest peaks of noise for speech, which costs 1.2 dB."""
    found = spp.noise_power(noise(600, 200, level=level))[:, 100:]
    assert abs(10 * math.log10(found.mean() / level) + 1.2) < 0.2
    each = 10 * (found.mean(-1) / level).log10()
    assert each.abs().max() < 3


def test_it_recovers_after_a_jump():
    P = noise(700, 200)
    P[:, 100:] *= 100  # 20 dB
    error = 10 * (spp.noise_power(P).mean(0) / torch.cat([torch.ones(100), 100 * torch.ones(600)])).log10()
    assert abs(error[90]) < 2
    assert error[110] < -10  # takes it for speech at first
    assert error[500:].abs().max() < 2


def test_speech_does_not_raise_it_much():
    """Bursts of 25 dB, half the time, leave the noise power within 3 dB; their plain mean would be 22 dB off."""
    P = noise(600, 200)
    P[:, torch.arange(600) // 12 % 2 == 1] *= 10**2.5
    found = spp.noise_power(P)[:, 200:]
    assert abs(10 * math.log10(found.mean())) < 3


def test_level_batches_and_dtype(busy):
    torch.testing.assert_close(spp.noise_power(1e4 * busy), 1e4 * spp.noise_power(busy))
    batch = torch.stack([busy, busy.flip(-1)])
    assert spp.noise_power(batch)[1].equal(spp.noise_power(batch[1]))
    assert spp.noise_power(busy.float()).dtype == torch.float32
    gain = spp.decision_directed_gain(busy, spp.noise_power(busy))
    torch.testing.assert_close(spp.decision_directed_gain(9 * busy, 9 * spp.noise_power(busy)), gain)


def test_it_is_causal_but_for_the_lead(busy):
    assert spp.noise_power(busy[:, :60]).equal(spp.noise_power(busy)[:, :60])


def test_the_gain_lies_between_its_floor_and_one(busy):
    gain = spp.decision_directed_gain(busy, spp.noise_power(busy))
    least = 10**-2.5 / (1 + 10**-2.5)
    assert gain.min() >= least * (1 - 1e-12)
    assert gain.max() < 1
    assert gain[:, 300:370].mean() < gain[:, 110:140].mean()  # noise alone, against bursts


def test_silence_and_a_single_frame():
    for P in (torch.zeros(3, 50), torch.zeros(3, 1), torch.ones(3, 1)):
        V = spp.noise_power(P)
        assert V.shape == P.shape
        assert V.isfinite().all()
        assert spp.decision_directed_gain(P, V).isfinite().all()
    loud_after_silence = torch.cat([torch.zeros(3, 50), noise(500, 3).float()], -1)
    assert spp.noise_power(loud_after_silence).isfinite().all()
    assert 10 * spp.noise_power(loud_after_silence)[:, -1].mean().log10() > -6


# ------------------------------------------------------------- white noise, by its pauses


def test_the_variance_of_white_noise_is_the_power_of_pauses():
    """Exactly, where one frame in ten lies in a pause, however loud the rest; the same for each of a batch."""
    x = torch.ones(3, 16000, dtype=torch.float64)
    x[:, ::2] *= -1
    x *= torch.tensor([1.0, 1e-4, 1e3])[:, None].double()
    levels = x[:, :1].square()[:, 0]
    torch.testing.assert_close(spp.white_variance(x), levels)
    x[:, 4000:14000] *= torch.linspace(1, 50, 10000).double()
    torch.testing.assert_close(spp.white_variance(x), levels)
    assert spp.white_variance(x[1]).equal(spp.white_variance(x)[1])
    assert spp.white_variance(x.reshape(3, 1, -1)).shape == (3, 1)


def test_the_frames_of_a_pause():
    """By hand: frames of 512 every 128, a tenth of them, at least one."""
    x = noise(3000, 1)[0] * (1 + torch.arange(3000) // 700)
    powers = torch.stack([x[i : i + 512].square().mean() for i in range(0, 3000 - 511, 128)]).sort().values
    assert len(powers) == 20
    torch.testing.assert_close(spp.white_variance(x), powers[:2].mean())
    torch.testing.assert_close(spp.white_variance(x, share=0.5), powers[:10].mean())
    torch.testing.assert_close(spp.white_variance(x, share=0.01), powers[0])
    longer = torch.stack([x[i : i + 1024].square().mean() for i in range(0, 3000 - 1023, 256)]).min()
    torch.testing.assert_close(spp.white_variance(x, frame=1024), longer)


def test_white_noise_is_found_but_for_the_bias_of_its_quietest_frames():
    """The quietest tenth of frames, whose powers spread by 2 / 512, has .89 of the mean power: half a decibel."""
    x = torch.randn(20, 48000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = spp.white_variance(x)
    tail = math.exp(-(1.2816**2) / 2) / math.sqrt(2 * math.pi) / 0.1  # of a normal, below its first decile
    assert abs(float(found.mean()) - (1 - tail * math.sqrt(2 / 512))) < 0.01
    assert (found - found.mean()).abs().max() < 0.04
    torch.testing.assert_close(spp.white_variance(100 * x), 1e4 * found)


@pytest.mark.parametrize("length", [1, 2, 511, 512])
def test_a_signal_without_room_for_a_pause_is_all_noise(length):
    x = torch.randn(2, length, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spp.white_variance(x), x.square().mean(-1))
    assert not spp.white_variance(torch.zeros(2, length)).any()
    assert spp.white_variance(x).dtype == torch.float32
