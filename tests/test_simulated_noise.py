"""Simulated noise: its spectra, courses and levels are those that were drawn, and it is Gaussian."""

import math
from types import SimpleNamespace

import pytest
import torch

from sepriors import STFT
from sepriors.lab.training import simulated_noise
from sepriors.lab.training.simulated_noise import Either, FittedNoise, GenericNoise, gaussian

TRANSFORM = STFT(512, 128)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path_factory.getbasetemp() / "decoded"))


def test_noise_has_the_variance_it_was_drawn_from():
    """A wall of low frequencies, loud in the second half: measured over many draws, band by band."""
    f, t = torch.arange(257)[:, None] / 257, torch.arange(126)[None] / 126
    V = (1 + 99 * (f < 0.25)) * (1 + 9 * (t > 0.5))
    x = gaussian(V.expand(200, -1, -1).float(), TRANSFORM, 16000, seeded())
    torch.testing.assert_close(x.square().mean(-1), torch.ones(200))
    P = TRANSFORM(x).abs().square().mean(0)
    corners = [P[a, b].mean() for a in (slice(5, 55), slice(80, 250)) for b in (slice(5, 55), slice(70, 120))]
    low_early, low_late, high_early, high_late = (10 * math.log10(p) for p in corners)
    assert low_late - low_early == pytest.approx(10, abs=0.3)
    assert high_late - high_early == pytest.approx(10, abs=0.3)
    assert low_early - high_early == pytest.approx(20, abs=0.3)


def test_real_and_imaginary_parts_are_normal():
    """Kurtosis of a Gaussian, bin by bin: 3."""
    X = TRANSFORM(gaussian(torch.ones(100, 257, 126), TRANSFORM, 16000, seeded()))[:, 5:250, 5:120]
    for part in (X.real, X.imag):
        z = part / part.square().mean((0, 2), keepdim=True).sqrt()
        assert float(z.pow(4).mean()) == pytest.approx(3, abs=0.05)


def test_a_tilt_is_straight_over_octaves():
    V = simulated_noise.tilts((50, 1), TRANSFORM, seeded())[:, 0, 1:]
    slope = 10 * (V[:, 127] / V[:, 63]).log10()  # an octave
    torch.testing.assert_close(slope, 10 * (V[:, 63] / V[:, 31]).log10(), atol=1e-3, rtol=0)
    assert -12 <= slope.min() < -8
    assert 0 < slope.max() <= 3


@pytest.mark.parametrize("kind", ["steady", "drifting", "beating", "knocking"])
def test_courses(kind):
    rate = 125.0
    V = getattr(simulated_noise, kind)((30, 2), 250, seeded(), rate=rate)
    assert V.shape == (30, 2, 250)
    assert (V > 0).all()
    swing = 10 * (V.amax(-1) / V.amin(-1)).log10()
    bounds = {"steady": (0, 0), "drifting": (3, 60), "beating": (1, 20.1), "knocking": (5, 40)}[kind]
    assert bounds[0] <= swing.median() <= bounds[1]
    if kind == "knocking":  # up at once, down slowly
        rise, fall = V.diff().clamp_min(0).amax(-1), (-V.diff()).clamp_min(0).amax(-1)
        knocked = swing > 10
        assert (rise >= fall)[knocked].all()


def test_generic_noise(toy):
    source = GenericNoise(8000, TRANSFORM)
    x = source.draw(6, seeded())
    assert x.shape == (6, 8000)
    torch.testing.assert_close(x.square().mean(-1), torch.ones(6))
    assert x.equal(source.draw(6, seeded()))
    assert not x.equal(source.draw(6, seeded(1)))


def test_fitted_noise_is_like_its_recording_and_not_the_recording(toy):
    """The same mean spectrum to some decibels; no correlation with what was recorded."""
    rows = toy.select(kind="noise", split="train", cls="home")
    source = FittedNoise.of_recordings(toy, rows, 80000, stft=TRANSFORM, iterations=50)
    x, recorded = source.draw(4, seeded()), toy.decoded(rows)[0]
    assert x.shape == (4, 80000)
    level = [10 * TRANSFORM(y).abs().square().mean(-1)[..., 2:-2].log10() for y in (x, recorded)]
    level = [y - y.mean(-1, keepdim=True) for y in level]
    assert (level[0] - level[1]).abs().mean() < 1.5
    assert torch.nn.functional.cosine_similarity(x, recorded[None]).abs().max() < 0.05
    bursts = recorded.unflatten(0, (10, -1)).square().mean(-1) > 1e-3  # half a second each
    louder = x.unflatten(-1, (10, -1)).square().mean(-1)
    assert (louder[:, bursts].amin(-1) > 10 * louder[:, ~bursts].amax(-1)).all()


def test_a_short_recording_goes_round_and_a_long_one_is_cut(toy):
    rows = toy.select(kind="noise", split="train")
    for length in (1600, 120000):
        source = FittedNoise.of_recordings(toy, rows, length, stft=TRANSFORM, iterations=2)
        assert source.draw(5, seeded()).shape == (5, length)


def test_one_source_or_the_other():
    one, other = (SimpleNamespace(draw=lambda count, g, x=x: torch.full((count, 3), x)) for x in (1.0, 2.0))
    drawn = Either(one, other, 0.3).draw(2000, seeded())
    assert drawn[:, 0].equal(drawn[:, 2])
    assert float((drawn[:, 0] == 1).double().mean()) == pytest.approx(0.3, abs=0.04)
