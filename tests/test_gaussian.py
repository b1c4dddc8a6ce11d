"""Identities of the local complex Gaussian model."""

import math

import pytest
import torch
from torch.distributions import Normal

from sepriors.signal import gaussian
from sepriors.signal.gaussian import is_divergence, log_likelihood, wiener


@pytest.fixture
def draw():
    g = torch.Generator().manual_seed(0)
    return lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64) + 0.05


def test_wiener_gains_of_speech_and_noise_sum_to_one(draw):
    X, V_s, V_n = torch.complex(draw(3, 5, 7) - 0.5, draw(3, 5, 7) - 0.5), draw(3, 5, 7), draw(3, 5, 7)
    torch.testing.assert_close(wiener(X, V_s, V_n) + wiener(X, V_n, V_s), X, rtol=1e-15, atol=0)
    torch.testing.assert_close(wiener(X, V_s, 3 * V_s), X / 4)
    assert wiener(X, V_s, 0 * V_s).equal(X)
    assert not wiener(X, 0 * V_s, 0 * V_s).any()


def test_wiener_is_the_posterior_mean():
    """On draws from the model no other gain has a smaller error, and the error is V_s V_n / (V_s + V_n)."""
    g = torch.Generator().manual_seed(0)
    V_s, V_n = torch.tensor([[1.0], [4.0]]).double(), torch.tensor([[2.0], [0.5]]).double()
    s, n = (V.sqrt() * torch.randn(2, 400_000, dtype=torch.complex128, generator=g) for V in (V_s, V_n))
    error = {k: (k * wiener(s + n, V_s, V_n) - s).abs().square().mean(-1, keepdim=True) for k in (0.9, 1, 1.1)}
    torch.testing.assert_close(error[1], V_s * V_n / (V_s + V_n), rtol=0.01, atol=0)
    assert (error[1] < torch.minimum(error[0.9], error[1.1])).all()


def test_the_likelihood_is_that_of_two_real_gaussians(draw):
    x, V = torch.complex(draw(4, 5), draw(4, 5)), draw(4, 5)
    half = Normal(torch.zeros_like(V), (V / 2).sqrt())
    expected = half.log_prob(x.real) + half.log_prob(x.imag)
    torch.testing.assert_close(log_likelihood(x.abs().square(), V), expected.sum())
    torch.testing.assert_close(log_likelihood(x.abs().square(), V, dim=-2), expected.sum(-2))


def test_the_divergence_is_minus_the_likelihood_up_to_a_constant_of_the_data(draw):
    """So the likeliest variance is the power, and there both are at rest."""
    P, V = draw(2, 6, 9), draw(2, 6, 9).requires_grad_()
    constant = -(1 + (math.pi * P).log()).sum((-2, -1))
    torch.testing.assert_close(is_divergence(P, V) + log_likelihood(P, V), constant, rtol=1e-13, atol=0)
    V.data = P.clone()
    log_likelihood(P, V).sum().backward()
    torch.testing.assert_close(V.grad, torch.zeros_like(P))


def test_the_divergence(draw):
    """Of its definition, for a bin; positive, zero for the same, and blind to level."""
    one = torch.ones(1, 1).double()
    for ratio in (0.1, 2.0, 7.0):
        assert float(is_divergence(ratio * one, one)) == pytest.approx(ratio - math.log(ratio) - 1)
    P, V = draw(8, 5, 5), draw(8, 5, 5)
    assert (is_divergence(P, V) > 0).all()
    torch.testing.assert_close(is_divergence(P, P), torch.zeros(8).double())
    torch.testing.assert_close(is_divergence(100 * P, 100 * V), is_divergence(P, V))


def test_silence_costs_a_finite_amount(draw):
    nothing = torch.zeros(3, 4).double()
    for P, V in ((nothing, nothing), (nothing, draw(3, 4)), (draw(3, 4), nothing)):
        assert is_divergence(P, V).isfinite()
        assert gaussian.log_likelihood(P, V).isfinite()
    assert is_divergence(nothing, nothing) == 0
