"""Identities of the local complex Gaussian model."""

import math

import pytest
import torch

from sepriors.signal import gaussian


@pytest.fixture
def draw():
    g = torch.Generator().manual_seed(0)
    return lambda *shape, **kw: torch.rand(*shape, generator=g, dtype=kw.get("dtype", torch.float64)) + 0.05


def test_wiener_gains_of_speech_and_noise_sum_to_one(draw):
    X = torch.complex(draw(3, 5, 7) - 0.5, draw(3, 5, 7) - 0.5)
    V_s, V_n = draw(3, 5, 7), draw(3, 5, 7)
    both = gaussian.wiener(X, V_s, V_n) + gaussian.wiener(X, V_n, V_s)
    torch.testing.assert_close(both, X, rtol=1e-15, atol=0)
    torch.testing.assert_close(gaussian.wiener(X, V_s, 3 * V_s), X / 4)
    assert gaussian.wiener(X, V_s, torch.zeros_like(V_s)).equal(X)
    assert not gaussian.wiener(X, torch.zeros_like(V_s), torch.zeros_like(V_s)).any()


def test_wiener_is_the_posterior_mean():
    """On draws from the model no other gain has a smaller error, and the error is V_s V_n / (V_s + V_n)."""
    g = torch.Generator().manual_seed(0)
    V_s, V_n = torch.tensor([[1.0], [4.0]]).double(), torch.tensor([[2.0], [0.5]]).double()
    s, n = (V.sqrt() * torch.randn(2, 400_000, dtype=torch.complex128, generator=g) for V in (V_s, V_n))
    error = {k: (k * gaussian.wiener(s + n, V_s, V_n) - s).abs().square().mean(-1, keepdim=True) for k in (0.9, 1, 1.1)}
    torch.testing.assert_close(error[1], V_s * V_n / (V_s + V_n), rtol=0.01, atol=0)
    assert (error[1] < error[0.9]).all()
    assert (error[1] < error[1.1]).all()


def test_the_divergence_is_minus_the_likelihood_up_to_a_constant_of_the_data(draw):
    P = draw(2, 6, 9)
    constant = -(1 + (math.pi * P).log()).sum((-2, -1))
    for _ in range(5):
        V = draw(2, 6, 9)
        together = gaussian.is_divergence(P, V) + gaussian.log_likelihood(P, V)
        torch.testing.assert_close(together, constant, rtol=1e-13, atol=0)


def test_the_likelihood_is_that_of_two_real_gaussians(draw):
    x, V = torch.complex(draw(4, 5), draw(4, 5)), draw(4, 5)
    half = torch.distributions.Normal(torch.zeros_like(V), (V / 2).sqrt())
    expected = (half.log_prob(x.real) + half.log_prob(x.imag)).sum()
    torch.testing.assert_close(gaussian.log_likelihood(x.abs().square(), V), expected)


def test_the_divergence(draw):
    P, V = draw(8, 5, 5), draw(8, 5, 5)
    assert (gaussian.is_divergence(P, V) > 0).all()
    torch.testing.assert_close(gaussian.is_divergence(P, P), torch.zeros(8).double())
    torch.testing.assert_close(gaussian.is_divergence(100 * P, 100 * V), gaussian.is_divergence(P, V))  # blind to level
    one = torch.ones(1, 1).double()
    for ratio in (0.1, 2.0, 7.0):
        value = gaussian.is_divergence(ratio * one, one)
        torch.testing.assert_close(value, torch.tensor(ratio - math.log(ratio) - 1).double())


def test_the_likeliest_variance_is_the_power(draw):
    P = draw(4, 5)
    V = P.clone().requires_grad_()
    gaussian.log_likelihood(P, V).backward()
    torch.testing.assert_close(V.grad, torch.zeros_like(P))
    for factor in (0.9, 1.1):
        assert gaussian.log_likelihood(P, factor * P) < gaussian.log_likelihood(P, P)


def test_silence_costs_a_finite_amount(draw):
    nothing = torch.zeros(3, 4).double()
    for P, V in ((nothing, nothing), (nothing, draw(3, 4)), (draw(3, 4), nothing)):
        assert gaussian.is_divergence(P, V).isfinite()
        assert gaussian.log_likelihood(P, V).isfinite()
    assert gaussian.is_divergence(nothing, nothing) == 0
