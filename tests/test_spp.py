"""Noise tracking and the decision-directed gain: fixed points of their recursions, and what they promise."""

import math

import pytest
import torch

from sepriors.signal import spp


def noise(frames, bins=200, level=1.0):
    """Power of white Gaussian noise of the given variance."""
    g = torch.Generator().manual_seed(0)
    return level * torch.randn(bins, frames, dtype=torch.complex128, generator=g).abs().square()


def db(ratio):
    return 10 * torch.as_tensor(ratio).log10()


@pytest.fixture
def busy():
    """Noise with bursts 20 dB above it, a jump that freezes a bin, and a pause."""
    P = noise(400, 40)
    P[:, 100:150] *= 100
    P[:, 200:] *= 30
    P[:, 380:] *= 1e-3
    return P


def test_one_step_of_the_tracker():
    """Gerkmann & Hendriks (2012), eqs. 18, 22 and 8, for a noise power of 1 and frames of power y, by hand."""
    xi = 10**1.5
    for y in (0.0, 1.0, 5.0, 20.0):
        P = torch.tensor([[1.0] * 5 + [y]], dtype=torch.float64)
        first = spp.noise_power(P[:, :5])[0, -1]
        ratio = math.exp(y / first * xi / (1 + xi)) / (1 + xi)  # p(y | speech) / p(y | none)
        presence = ratio / (1 + ratio)
        expected = 0.8 * first + 0.2 * (presence * first + (1 - presence) * y)
        torch.testing.assert_close(spp.noise_power(P)[0, -1], expected)
    P = torch.tensor([[1.0] * 5 + [1e6] * 100], dtype=torch.float64)  # a presence that stays at 1 is capped at .99
    grown = spp.noise_power(P)[0, -1] - spp.noise_power(P[:, :-1])[0, -1]
    torch.testing.assert_close(grown, 0.2 * 0.01 * (1e6 - spp.noise_power(P[:, :-1])[0, -1]))


@pytest.mark.parametrize("level", [1e-6, 1e3])
def test_steady_noise_is_found_but_for_the_known_bias(level):
    """The soft decision takes the highest peaks of noise for speech, which costs 1.2 dB."""
    found = spp.noise_power(noise(600, level=level))[:, 100:]
    assert abs(db(found.mean() / level) + 1.2) < 0.2
    assert db(found.mean(-1) / level).abs().max() < 3


def test_level_batches_dtype_and_causality(busy):
    V = spp.noise_power(busy)
    torch.testing.assert_close(spp.noise_power(1e4 * busy), 1e4 * V)
    assert spp.noise_power(torch.stack([busy, busy.flip(-1)]))[0].equal(V)
    assert spp.noise_power(busy[:, :60]).equal(V[:, :60])
    assert spp.noise_power(busy.float()).dtype == torch.float32
    torch.testing.assert_close(spp.decision_directed_gain(9 * busy, 9 * V), spp.decision_directed_gain(busy, V))


def test_the_gain_is_that_of_its_a_priori_snr(busy):
    """Ephraim & Malah (1984), eq. 51, from each frame to the next, with ξ = G / (1 - G); floored."""
    for smoothing, floor_db in ((0.98, -25.0), (0.9, -15.0)):
        V = spp.noise_power(busy)
        G = spp.decision_directed_gain(busy, V, smoothing=smoothing, floor_db=floor_db)
        posterior = busy / V
        before = G[:, :-1].square() * posterior[:, :-1]
        xi = smoothing * before + (1 - smoothing) * (posterior[:, 1:] - 1).clamp_min(0)
        torch.testing.assert_close((G / (1 - G))[:, 1:], xi.clamp_min(10 ** (floor_db / 10)))
        assert G.max() < 1
        assert G[:, 300:370].mean() < G[:, 110:140].mean()  # noise alone, against bursts


def test_silence_and_a_single_frame():
    for P in (torch.zeros(3, 50), torch.zeros(3, 1), torch.ones(3, 1)):
        V = spp.noise_power(P)
        assert V.shape == P.shape
        assert V.isfinite().all()
        assert spp.decision_directed_gain(P, V).isfinite().all()
    V = spp.noise_power(torch.cat([torch.zeros(3, 50), noise(500, 3).float()], -1))  # loud after silence
    assert V.isfinite().all()
    assert db(V[:, -1].mean()) > -6


# ------------------------------------------------------------- white noise, by its pauses


def test_the_variance_of_white_noise_is_the_power_of_pauses():
    """Exactly, where one frame in ten lies in a pause, however loud the rest; the same for each of a batch."""
    x = torch.ones(3, 16000, dtype=torch.float64)
    x[:, ::2] *= -1
    x *= torch.tensor([1.0, 1e-4, 1e3])[:, None].double()
    levels = x[:, 0].square()
    x[:, 4000:14000] *= torch.linspace(1, 50, 10000).double()
    torch.testing.assert_close(spp.white_variance(x), levels)
    assert spp.white_variance(x[1]).equal(spp.white_variance(x)[1])
    assert spp.white_variance(x.reshape(3, 1, -1)).shape == (3, 1)


def test_white_noise_is_found_but_for_the_bias_of_its_quietest_frames():
    """The quietest tenth of frames, whose powers spread by 2 / 512, has .89 of the mean power: half a decibel."""
    x = torch.randn(20, 48000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = spp.white_variance(x)
    tail = math.exp(-(1.2816**2) / 2) / math.sqrt(2 * math.pi) / 0.1  # of a normal, below its first decile
    assert abs(float(found.mean()) - (1 - tail * math.sqrt(2 / 512))) < 0.01
    assert (found - found.mean()).abs().max() < 0.04


@pytest.mark.parametrize("length", [1, 511, 512])
def test_a_signal_without_room_for_a_pause_is_all_noise(length):
    x = torch.randn(2, length, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spp.white_variance(x), x.square().mean(-1))
    assert spp.white_variance(x).dtype == torch.float32
    assert not spp.white_variance(torch.zeros(2, length)).any()
