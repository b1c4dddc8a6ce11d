"""The bound never exceeds the evidence; what both autoencoders do, recurrent or not."""

import math

import pytest
import torch
from conftest import alike, drawn_rvae, drawn_vae, normal
from torch.distributions import Normal, kl_divergence

from sepriors import priors
from sepriors.priors import VAE
from sepriors.priors.vae import Posterior
from sepriors.signal.gaussian import log_likelihood
from sepriors.signal.rng import generators

F, L, T = 9, 3, 7
BOTH = pytest.mark.parametrize("prior", [drawn_vae, drawn_rvae])


def power(*shape, seed=0, dtype=torch.float64):
    """Positive, over some orders of magnitude, as spectra are."""
    return normal(*shape, seed=seed).exp().square().to(dtype)


# ------------------------------------------------------------- the bound


def evidence(made, P):
    """log p(s) (1, T), and the divergence of the encoder's q from the posterior, by a sum over a fine grid of z."""
    z = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    likelihood = log_likelihood(P[..., None], made.log_variance(z[None]).exp()[:, None], dim=1)  # (1, T, grid)
    joint = likelihood + Normal(0, 1).log_prob(z)
    evidence = joint.logsumexp(-1) + math.log(24 / 48_000)
    q = made.posterior(P)
    log_q = Normal(q.mean[:, 0, :, None], (0.5 * q.log_variance[:, 0, :, None]).exp()).log_prob(z)
    divergence = (log_q.exp() * (log_q - joint + evidence[..., None])).sum(-1) * 24 / 48_000
    return evidence, divergence


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_short_of_the_evidence_by_the_divergence_from_the_posterior(seed):
    made = drawn_vae(1, seed=seed)
    made.decoder["out"].weight.mul_(1.5)
    P = made.log_variance(normal(1, 1, T, seed=seed + 50)).exp() * power(1, F, T, seed=seed)
    exact, divergence = evidence(made, P)
    assert divergence.min() > 0
    noise = normal(1, 20_000, 1, T, seed=9)
    bounds = made.elbo(P.expand(20_000, F, T), noise)  # a draw each
    mean, error = bounds.mean(0), bounds.std(0) / len(bounds) ** 0.5
    assert (mean <= exact).all()
    assert ((mean - (exact - divergence)).abs() < 4 * error).all()
    torch.testing.assert_close(made.elbo(P, noise.movedim(1, 0)), mean[None])


@BOTH
def test_the_bound_is_the_evidence_where_nothing_is_to_be_known(prior):
    """A decoder deaf to z, an encoder that gives the prior; with any other it is short by the divergence."""
    made, P, noise = prior(), power(2, F, T), normal(5, 2, L, T)
    made.decoder["out"].weight.zero_()
    exact = log_likelihood(P, made.decoder["out"].bias.exp()[:, None], dim=-2)
    _, kl = made.posterior(P).draw(noise)
    for beta in (1.0, 0.3):
        torch.testing.assert_close(made.elbo(P, noise, beta), exact - (beta * kl).expand(5, 2, T).mean(0))
    assert kl.min() > 0.01
    for name, p in made.encoder.named_parameters():
        if name.startswith(("out", "feedback")):
            p.zero_()
    torch.testing.assert_close(made.elbo(P, noise), exact)


def test_draws_of_the_posterior_and_its_divergence():
    q, eps = Posterior(2 * normal(2, L, T), normal(2, L, T, seed=1)), normal(4, 2, L, T, seed=2)
    exact = Normal(q.mean, (0.5 * q.log_variance).exp())
    torch.testing.assert_close(exact.cdf(q.sample(eps)), Normal(0.0, 1.0).cdf(eps))
    z, kl = q.draw(eps)
    assert z.equal(q.sample(eps))
    torch.testing.assert_close(kl, kl_divergence(exact, Normal(torch.zeros_like(q.mean), 1.0)).sum(-2))


# ------------------------------------------------------------- the networks


def test_layers_are_those_of_torch():
    """Frames are columns here and rows there."""
    made, P, z = drawn_vae(), power(2, F, T), normal(4, 2, L, T)
    encoder, decoder = (
        torch.nn.Sequential(half["hidden"], torch.nn.Tanh(), half["out"]) for half in (made.encoder, made.decoder)
    )
    out = encoder(0.1 * P.log().mT).mT
    torch.testing.assert_close(torch.cat(made.posterior(P), dim=-2), out)
    torch.testing.assert_close(made.encode(P), out[:, :L])
    torch.testing.assert_close(made.log_variance(z), decoder(z.mT).mT)


@BOTH
@pytest.mark.parametrize("lead", [(), (2,), (4, 2)])
def test_leading_dimensions_are_free(prior, lead):
    made, P, z = prior(), power(*lead, F, T), normal(*lead, L, T)
    with pytest.raises(ValueError, match=f"power has F=10 but the {type(made).__name__} has F=9; were they made with"):
        made.encode(power(*lead, F + 1, T))
    torch.testing.assert_close(made.log_prior(z), Normal(0.0, 1.0).log_prob(z).sum(-2))
    assert made.encode(P).shape == (*lead, L, T)
    assert made.log_variance(z).shape == (*lead, F, T)
    torch.testing.assert_close(made.encode(P).reshape(-1, L, T), made.encode(P.reshape(-1, F, T)))
    torch.testing.assert_close(made.log_variance(z).reshape(-1, F, T), made.log_variance(z.reshape(-1, L, T)))


@BOTH
def test_an_encoder_for_each_utterance(prior):
    """Each has the posterior of a prior with its parameters; those that all share change nothing."""
    made, P, others = prior(), power(3, F, T), [prior(seed=s) for s in (1, 2, 3)]
    own = {name: torch.stack([other.tunable()[name] for other in others]) for name in made.tunable()}
    q, same = made.posterior(P, own), made.posterior(P, {k: p.expand(3, *p.shape) for k, p in made.tunable().items()})
    torch.testing.assert_close(same[:2], made.posterior(P)[:2])
    for b in range(3):
        tuned = prior()
        for name, p in tuned.tunable().items():
            p.copy_(own[name][b])
        for got, expected in zip(q[:2], tuned.posterior(P[b : b + 1])[:2], strict=True):
            torch.testing.assert_close(got[b], expected[0])


# ------------------------------------------------------------- what they imagine, and how sure they are


@BOTH
@pytest.mark.parametrize("smooth", [0.0, 0.01])
def test_a_sample_is_alike_alone_and_in_company(prior, smooth):
    made = prior()  # in double precision: the search for a phase amplifies what is rounded
    x = made.sample(0.1003, generators([1, 2, 3], 3), smooth=smooth)
    assert x.shape == (3, 1605)
    assert x.isfinite().all()
    assert (x.std(-1) > 0).all()
    for b, seed in enumerate((1, 2, 3)):
        assert alike(made.sample(0.1003, generators(seed, 1), smooth=smooth)[0], x[b])
    assert not x[0].equal(x[1])


@pytest.mark.parametrize("smooth", [0.0, 0.001])
def test_latent_variables_of_a_sample_are_standard_normal_however_smooth(smooth):
    made, seen = drawn_vae(), []
    made.log_variance = lambda z: seen.append(z) or VAE.log_variance(made, z)
    made.sample(5, generators(0, 2), smooth=smooth)
    (z,) = seen
    assert z.shape == (2, L, 1 + 5 * 16000 // 8)
    assert abs(z.var() - 1) < 0.05
    one_apart = (z[..., 1:] * z[..., :-1]).mean()
    lag = 8 / 16000 / smooth if smooth else math.inf  # frames blended by a Gaussian of width `smooth`
    assert abs(one_apart - math.exp(-(lag**2) / 4)) < 0.05


def test_the_posterior_shape_whitens_the_fisher_information():
    """Cᵀ (I + c E[JᵀJ]) C = I with the Jacobian from automatic differentiation."""
    made = drawn_vae(latent=3)
    C = made.posterior_shape(0.3, draws=400)
    same_draws = torch.randn(3, 400, generator=generators(0, 1)[0]).double()
    columns = [c[:, None] for c in same_draws.mT]
    J = torch.stack([torch.autograd.functional.jacobian(made.log_variance, c)[:, 0, :, 0] for c in columns])
    information = torch.eye(3, dtype=torch.float64) + 0.3 * (J.mT @ J).mean(0)
    torch.testing.assert_close(C.mT @ information @ C, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["vae", "rvae"])
def test_the_shipped_prior_prefers_what_it_was_trained_on(name):
    """Harmonics under an envelope of speech's slope, against white noise of the same level."""
    made = priors.load(name)
    t = torch.arange(16000) / 16000
    voice = sum(torch.sin(2 * math.pi * 120 * k * t + k) / k for k in range(1, 30))
    bounds = []
    for x in (voice, normal(16000, dtype=torch.float32)):
        P = made.stft(x / x.std() * 0.1).abs().square()[None]
        bounds.append(made.elbo(P, normal(1, 1, made.latent, P.shape[-1], dtype=torch.float32)).mean())
    assert bounds[0] > bounds[1] + 100
