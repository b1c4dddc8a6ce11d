"""The flow is a bijection with the volume it says, and the density of an utterance is its own."""

import math

import pytest
import torch
from conftest import drawn_flow, normal
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from sepriors.priors import WaveGlow
from sepriors.priors.waveglow import Coupling
from sepriors.signal.rng import generators

KINDS = [{}, {"context": False}, {"conditional": True}, {"mu": 255.0}]
SMALL = {"window": 9, "early_size": 2}  # channels 9, 7 and 5; still 12 blocks


def speech(*shape, seed=0, dtype=torch.float64):
    """At the level that a flow has seen."""
    return WaveGlow.rms * normal(*shape, seed=seed, dtype=dtype)


def noise(made, batch):
    return 0.003 * 3.0 ** torch.arange(batch) if made.conditional else None


def gradient(made, s, noise=None):
    s = s.clone().requires_grad_()
    return torch.autograd.grad(made.log_prob(s, noise).sum(), s)[0]


# ------------------------------------------------------------- a bijection and its volume


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_undoes_the_flow(kind):
    made, s, z = drawn_flow(**kind), speech(3, 800), normal(3, 800)
    torch.testing.assert_close(made.inverse(made(s, noise(made, 3)).z, noise(made, 3)), s, atol=1e-10, rtol=0)
    torch.testing.assert_close(made(made.inverse(z, noise(made, 3)), noise(made, 3)).z, z, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_volume_is_that_of_the_jacobian(kind):
    made, s = drawn_flow(**SMALL, **kind), speech(2, 9 * 11)
    z, log_det = made(s, noise(made, 2))
    for b in range(2):
        level = None if noise(made, 2) is None else noise(made, 2)[b : b + 1]
        J = jacobian(lambda u, level=level: made(u[None], level).z[0], s[b], vectorize=True)
        torch.testing.assert_close(log_det[b], torch.linalg.slogdet(J).logabsdet)
    assert (log_det[0] - log_det[1]).abs() > 0.1  # couplings matter
    torch.testing.assert_close(made.log_prob(s, noise(made, 2)), log_det + Normal(0, 1).log_prob(z).sum(-1))


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("i", [0, 1, 2, 3])
def test_a_coupling_sees_its_windows_and_no_others(i, context):
    made = drawn_flow(**SMALL, context=context).blocks[i].coupling
    J = jacobian(lambda u: torch.cat(made(u, None), 1), normal(1, 4, 30), vectorize=True)
    t, far = torch.arange(30), 2**i
    seen = {a + b for a in (-far, 0, far) for b in (-1, 0, 1)} if context else {0}
    expected = torch.isin(t - t[:, None], torch.tensor(sorted(seen)))
    assert (J.abs().sum((0, 1, 3, 4)) > 0)[9:21].equal(expected[9:21])  # far from the ends, whose neighbours are zeros


def test_a_coupling_changes_a_dimension_by_five_nats_at_most():
    made = Coupling(6, 8, 1, True, False).double()
    made.last.bias.data.fill_(1e6)
    log_scale, shift = made(normal(2, 3, 7), None)
    torch.testing.assert_close(log_scale, torch.full((2, 3, 7), 5.0, dtype=torch.float64))
    assert shift.min() > 1e5


@pytest.mark.parametrize("window", [2, 9, 80])
def test_a_flow_starts_as_rotations(window):
    made = WaveGlow(window, early_size=window // 4, hidden=8).double()
    made.start(torch.Generator().manual_seed(0))
    for block in made.blocks:
        W = block.lu.weight()
        torch.testing.assert_close(W @ W.mT, torch.eye(block.channels).double(), atol=1e-10, rtol=0)
    s = speech(3, 10 * window)
    z, log_det = made(s)
    torch.testing.assert_close(z.norm(dim=-1), s.norm(dim=-1) / made.rms)
    torch.testing.assert_close(log_det, torch.full((3,), -10 * window * math.log(made.rms)).double())
    if window > 2:
        assert not made.blocks[0].lu.weight().allclose(made.blocks[1].lu.weight(), atol=0.1)


def test_rotations_keep_their_precision():
    """Only couplings compute in bfloat16, and at the start they do nothing."""
    made, s = WaveGlow(hidden=8), speech(2, 160, dtype=torch.float32)
    made.start(torch.Generator().manual_seed(0))
    exact = made(s)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(got.equal(expected) for got, expected in zip(made(s), exact))


def test_dimensions_leave_early():
    """20 of a window's 80 after four blocks, 20 after eight, 40 after twelve: later blocks do not touch them."""
    s, before = speech(2, 800), drawn_flow()(speech(2, 800)).z
    assert before.shape == s.shape
    for first in (0, 4, 8):
        made = drawn_flow()
        for block in made.blocks[first:]:
            block.lu.bias += 0.1
        same = (made(s).z == before).reshape(2, 10, 80).all(1).all(0)
        assert same.equal(torch.arange(80) < 5 * first)


def test_companding_changes_the_density_by_its_slope():
    """The same flow of c(s), where c keeps the level of speech, and the slope of c."""
    made, plain = drawn_flow(mu=255.0), drawn_flow()

    def c(s):
        return s.sign() * made.rms * torch.log1p(255 * s.abs()) / math.log1p(255 * made.rms)

    s = speech(2, 160)
    slope = jacobian(lambda u: c(u).sum(0).sum(0), s)
    torch.testing.assert_close(made.log_prob(s), plain.log_prob(c(s)) + slope.log().sum(-1))
    torch.testing.assert_close(made(s).z, plain(c(s)).z)
    assert c(torch.tensor(made.rms)) == pytest.approx(made.rms)


def test_the_score_of_a_companded_sample_that_is_zero():
    """The companding's slope has a kink at zero, not a stop: there the score is halfway between those beside it."""
    made, s, aside = drawn_flow(mu=255.0), speech(1, 160), torch.zeros(1, 160, dtype=torch.float64)
    s[0, 7], aside[0, 7] = 0, 1e-12
    halfway = (gradient(made, s + aside) + gradient(made, s - aside)) / 2
    torch.testing.assert_close(gradient(made, s), halfway)


# ------------------------------------------------------------- one utterance


@pytest.mark.parametrize("length", [0, 1, 79, 81, 200])
def test_a_length_that_windows_do_not_fill(length):
    with pytest.raises(ValueError, match=rf"N a multiple of 80 samples, got \(2, {length}\)"):
        drawn_flow().log_prob(speech(2, length))


@pytest.mark.parametrize("wrong", [None, [0.1], [0.1, 0.0], [0.1, -0.1], [0.1, math.nan], [[0.1], [0.1]], 0.1])
def test_a_noise_that_is_missing_or_wrong_or_unasked_for(wrong):
    levels = None if wrong is None else torch.tensor(wrong)
    with pytest.raises(ValueError, match="expected a positive noise level for each of 2 signals, got"):
        drawn_flow(conditional=True).log_prob(speech(2, 160), levels)
    with pytest.raises(ValueError, match="expected no noise level: this flow knows clean speech only"):
        drawn_flow().log_prob(speech(2, 160), torch.ones(2))


# ------------------------------------------------------------- samples


def test_a_sample_is_the_image_of_normal_draws():
    made = drawn_flow(dtype=torch.float64)
    s = made.sample(0.05, generators([1, 2, 3], 3), temperature=0.5)
    assert s.shape == (3, 800)
    for b, seed in enumerate((1, 2, 3)):
        z = torch.randn(800, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(made(s).z[b], 0.5 * z)
    assert made.sample(0.0501, generators(1, 1)).shape == (1, 880)  # whole windows
