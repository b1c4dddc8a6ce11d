"""A draw without a loop is the draw with one, and the bound never exceeds the evidence; the rest is in test_vae."""

import math

import pytest
import torch
from conftest import drawn_rvae, normal
from test_vae import F, L, T, power
from torch.distributions import Normal, kl_divergence

from sepriors import STFT
from sepriors.priors import RVAE
from sepriors.signal.gaussian import log_likelihood


def before(q, z):
    """A h(z_{1:t-1}), frame by frame: an LSTM that has read a frame of zeros and then those of z (B, L, T)."""
    h, c = (z.new_zeros(2, len(z), q.feedback.shape[1])).unbind()
    moves, last = [], torch.zeros_like(z[..., 0])
    for now in z.unbind(-1):
        h, c = torch.lstm_cell(last, (h, c), *q.memory)
        moves.append(h @ q.feedback.mT)
        last = now
    return torch.stack(moves, -1)


def looped(q, noise):
    """The draw for noise (B, L, T) as the model says it: each frame's mean moved by the frames drawn before it."""
    z = torch.zeros_like(noise)
    for t in range(noise.shape[-1]):
        mean = q.mean[..., t] + before(q, z)[..., t]  # of frames before t alone
        z[..., t] = mean + (0.5 * q.log_variance[..., t]).exp() * noise[..., t]
    return z


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_a_draw_without_a_loop_is_the_draw_with_one(frames):
    made, P = drawn_rvae(), power(2, F, frames)
    q, noise = made.posterior(P), normal(4, 2, L, frames, seed=1)
    noise[0] = 0
    z, kl = q.draw(noise)
    for r in range(4):
        expected = looped(q, noise[r])
        torch.testing.assert_close(z[r], expected)
        first = Normal(q.mean + before(q, expected), (0.5 * q.log_variance).exp())
        torch.testing.assert_close(kl[r], kl_divergence(first, Normal(torch.zeros_like(expected), 1.0)).sum(-2))
    torch.testing.assert_close(made.encode(P), z[0])  # a guess is a draw without noise
    assert frames == 1 or before(q, z[1])[..., 1:].abs().mean() > 0.05


def test_networks_are_those_of_torch():
    """Frames are columns here and rows there."""
    made, P, z = drawn_rvae(), power(2, F, T), normal(2, L, T)
    for half in (made.encoder["features"], made.decoder["memory"]):
        half.batch_first = True
    q = made.posterior(P)
    h, _ = made.encoder["features"](0.1 * P.log().mT)
    torch.testing.assert_close(torch.cat([q.mean, q.log_variance], -2), made.encoder["out"](h).mT)
    h, _ = made.decoder["memory"](z.mT)
    torch.testing.assert_close(made.log_variance(z), made.decoder["out"](h).mT)


def test_the_bound_is_short_of_the_evidence_by_the_divergence_from_the_posterior():
    """Two frames of one latent variable each: log p(s) and the divergence by a sum over a fine grid of both."""
    made = drawn_rvae(1)
    P = made.log_variance(normal(1, 1, 2, seed=5)).exp() * power(1, F, 2)
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None]  # (N, 1, 2)
    joint = log_likelihood(P, made.log_variance(z).exp()) + made.log_prior(z).sum(-1)
    cell = 2 * math.log(14 / 280)
    evidence = joint.logsumexp(0) + cell
    q = made.posterior(P)
    log_q = Normal(q.mean + before(q, z), (0.5 * q.log_variance).exp()).log_prob(z).sum((-2, -1))
    assert abs((log_q.logsumexp(0) + cell).exp() - 1) < 1e-6  # the grid holds all of it
    divergence = ((log_q + cell).exp() * (log_q - joint + evidence)).sum()
    assert divergence > 0.1
    N = 40_000
    bounds = made.elbo(P.expand(N, F, 2), normal(1, N, 1, 2, seed=9)).sum(-1)  # a draw each
    assert bounds.mean() < evidence
    assert abs(bounds.mean() - (evidence - divergence)) < 4 * bounds.std() / N**0.5


def test_what_can_be_tuned():
    """Two thirds of the full-size encoder, and no recurrent matrix, nor what makes the posterior look back."""
    made = RVAE(STFT())
    names = set(made.tunable())
    assert not any("_hh_" in name or name.startswith(("memory", "feedback")) for name in names)
    fraction = sum(p.numel() for p in made.tunable().values()) / sum(p.numel() for p in made.encoder.parameters())
    assert 0.6 < fraction < 0.8


def test_the_posterior_shape_whitens_the_fisher_information():
    """Cᵀ (I + c E[JᵀJ]) C = I, the Jacobian of all variances in a frame's z from automatic differentiation."""
    made, frames, sequences = drawn_rvae(), 60, 25
    made.decoder["out"].weight.mul_(6)
    C = made.posterior_shape(0.3, draws=40_000)
    information = torch.zeros(L, L).double()
    for seed in range(sequences):
        z = normal(L, frames, seed=seed).expand(F * frames, L, frames).clone().requires_grad_()
        log_V = made.log_variance(z).flatten(1)
        (J,) = torch.autograd.grad(log_V.diagonal().sum(), z)  # a row for each variance
        J = J.movedim(1, 0).flatten(1)
        information += J @ J.mT / frames / sequences
    white = C.mT @ (torch.eye(L).double() + 0.3 * information) @ C
    torch.testing.assert_close(white, torch.eye(L).double(), atol=0.05, rtol=0)
    assert 0.3 * torch.linalg.eigvalsh(information).max() > 1  # it is not whitened by the identity
    for off in (torch.no_grad, torch.inference_mode):  # a method may be made there
        with off():
            assert made.posterior_shape(0.3, draws=40_000).equal(C)
