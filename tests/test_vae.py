"""The bound never exceeds the evidence, and a VAE comes back from its file as it was."""

import math

import pytest
import torch
from conftest import drawn_vae
from torch.distributions import Normal, kl_divergence

from sepriors import STFT, priors, weights
from sepriors.priors import VAE
from sepriors.priors.vae import Posterior, affine
from sepriors.signal.gaussian import log_likelihood
from sepriors.signal.rng import generators
from sepriors.weights import WeightsError

F, L, T = 9, 3, 7


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def power(*shape, seed=0, dtype=torch.float64):
    """Positive, over some orders of magnitude, as spectra are."""
    return normal(*shape, seed=seed).exp().square().to(dtype)


class Linear(VAE):
    """log V(z) = A z + b."""

    def log_variance(self, z):
        return affine(self.decoder["out"].weight[:, : self.latent], self.decoder["out"].bias, z)


def scalar(kind, seed):
    """A VAE with one latent variable, and (1, F, T) powers that it may have made."""
    made = drawn_vae(1, seed=seed)
    made.__class__ = kind
    made.decoder["out"].weight.mul_(1.5)
    return made, made.log_variance(normal(1, 1, T, seed=seed + 50)).exp() * power(1, F, T, seed=seed)


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


@pytest.mark.parametrize("kind", [VAE, Linear])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_short_of_the_evidence_by_the_divergence_from_the_posterior(kind, seed):
    made, P = scalar(kind, seed)
    exact, divergence = evidence(made, P)
    assert divergence.min() > 0
    noise = normal(1, 20_000, 1, T, seed=9)
    bounds = made.elbo(P.expand(20_000, F, T), noise)  # a draw each
    mean, error = bounds.mean(0), bounds.std(0) / len(bounds) ** 0.5
    assert (mean <= exact).all()
    assert ((mean - (exact - divergence)).abs() < 4 * error).all()
    torch.testing.assert_close(made.elbo(P, noise.movedim(1, 0)), mean[None])


def test_the_bound_is_tight_where_the_encoder_gives_the_posterior():
    """A decoder deaf to z: the posterior is the prior, and the bound is the evidence, whatever the draw."""
    made, P = drawn_vae(), power(2, F, T)
    made.decoder["out"].weight.zero_()
    exact = log_likelihood(P, made.decoder["out"].bias.exp()[:, None], dim=-2)
    short = kl_divergence(*_normals(made.posterior(P))).sum(-2)
    torch.testing.assert_close(made.elbo(P, normal(5, 2, L, T)), exact - short)
    assert short.min() > 0.01
    for p in made.encoder["out"].parameters():
        p.zero_()
    torch.testing.assert_close(made.elbo(P, normal(5, 2, L, T)), exact)


def _normals(q):
    return Normal(q.mean, (0.5 * q.log_variance).exp()), Normal(torch.zeros_like(q.mean), 1.0)


def test_the_divergence_in_closed_form():
    q = Posterior(2 * normal(2, L, T), normal(2, L, T, seed=1))
    torch.testing.assert_close(q.kl(), kl_divergence(*_normals(q)).sum(-2))
    assert not Posterior(torch.zeros(L, T), torch.zeros(L, T)).kl().any()


def test_draws_of_the_posterior():
    q, eps = Posterior(normal(2, L, T), normal(2, L, T, seed=1)), normal(4, 2, L, T, seed=2)
    first, _ = _normals(q)
    torch.testing.assert_close(first.cdf(q.sample(eps)), Normal(0.0, 1.0).cdf(eps))
    z, kl = q.draw(eps)
    assert z.equal(q.sample(eps))
    assert kl.equal(q.kl())


def test_the_prior_is_a_standard_normal():
    z = normal(4, 2, L, T)
    torch.testing.assert_close(drawn_vae().log_prior(z), Normal(0.0, 1.0).log_prob(z).sum(-2))


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


@pytest.mark.parametrize("lead", [(), (2,), (4, 2)])
def test_one_affine_map_for_all(lead):
    weight, bias, x = normal(5, L), normal(5, seed=1), normal(*lead, L, T, seed=2)
    torch.testing.assert_close(affine(weight, bias, x), torch.nn.functional.linear(x.mT, weight, bias).mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lead", [(3,), (4, 3)])
def test_an_affine_map_for_each_utterance(lead, dtype):
    weight, bias, x = normal(3, 5, L, dtype=dtype), normal(3, 5, seed=1, dtype=dtype), normal(*lead, L, T, dtype=dtype)
    got = affine(weight, bias, x)
    for b in range(3):
        assert affine(weight[b], bias[b], x[..., b, :, :]).equal(got[..., b, :, :])
    assert not affine(weight[0], bias[0], x[..., 1, :, :]).equal(got[..., 1, :, :])


def test_an_encoder_for_each_utterance():
    made, P = drawn_vae(), power(3, F, T)
    others = [drawn_vae(seed=s) for s in (1, 2, 3)]
    parameters = [dict(v.encoder.named_parameters()) for v in others]
    q = made.posterior(P, {name: torch.stack([p[name] for p in parameters]) for name in parameters[0]})
    for b, other in enumerate(others):
        for got, expected in zip(q, other.posterior(P[b : b + 1]), strict=True):
            assert got[b].equal(expected[0])


def test_an_utterance_is_alike_alone_and_in_company():
    made = drawn_vae(16, 128, dtype=torch.float32)
    P, z = power(5, F, 33, dtype=torch.float32), normal(10, 5, 16, 33, dtype=torch.float32)
    q, log_V = made.posterior(P), made.log_variance(z)
    for b in range(5):
        for one, all_ in zip(made.posterior(P[b : b + 1]), q, strict=True):
            assert one[0].equal(all_[b])
        assert made.log_variance(z[:, b : b + 1])[:, 0].equal(log_V[:, b])
        assert made.log_variance(z[0, b]).equal(log_V[0, b])


def test_silence_and_full_scale_stay_finite():
    made = drawn_vae(dtype=torch.float32)
    for level in (0.0, 1e-30, 1e10):
        P = torch.full((1, F, T), level)
        assert all(x.isfinite().all() for x in made.posterior(P))
        assert made.elbo(P, normal(1, 1, L, T, dtype=torch.float32)).isfinite().all()


def test_power_of_another_transform():
    with pytest.raises(ValueError, match="power has F=10 but the VAE has F=9; were they made with the same STFT"):
        drawn_vae().encode(power(1, F + 1, T))


# ------------------------------------------------------------- what it imagines


@pytest.mark.parametrize("smooth", [0.0, 0.01])
def test_a_sample_is_alike_alone_and_in_company(smooth):
    made = drawn_vae(dtype=torch.float32)
    x = made.sample(0.1, generators([1, 2, 3], 3), smooth=smooth)
    assert x.shape == (3, 1600)
    assert x.isfinite().all()
    for b, seed in enumerate((1, 2, 3)):
        assert made.sample(0.1, generators(seed, 1), smooth=smooth)[0].equal(x[b])
    assert not x[0].equal(x[1])


@pytest.mark.parametrize("smooth", [0.0, 0.001])
def test_latent_variables_of_a_sample_are_standard_normal_however_smooth(smooth):
    made, seen = drawn_vae(dtype=torch.float64), []
    made.log_variance = lambda z: seen.append(z) or VAE.log_variance(made, z)
    made.sample(5, generators(0, 2), smooth=smooth)
    (z,) = seen
    assert z.shape == (2, L, 1 + 5 * 16000 // 8)
    assert abs(z.var() - 1) < 0.05
    one_apart = (z[..., 1:] * z[..., :-1]).mean()
    lag = 8 / 16000 / smooth if smooth else math.inf  # frames blended by a Gaussian of width `smooth`
    assert abs(one_apart - math.exp(-(lag**2) / 4)) < 0.05


# ------------------------------------------------------------- to a file and back


def test_a_vae_comes_back_from_its_file(tmp_path):
    made, path = drawn_vae(5, 6, dtype=torch.float32), tmp_path / "v.safetensors"
    made.stft = STFT(16, 4, 8000)
    weights.save(path, made.state_dict(), made.config)
    got = priors.load(path)
    assert (got.stft, got.latent, got.hidden) == (STFT(16, 4, 8000), 5, 6)
    assert got.config == made.config
    P, z = power(2, F, T, dtype=torch.float32), normal(2, 5, T, dtype=torch.float32)
    assert got.encode(P).equal(made.encode(P))
    assert got.log_variance(z).equal(made.log_variance(z))
    assert not got.training
    assert not any(p.requires_grad for p in got.parameters())


def test_a_file_in_half_precision_is_used_in_single(tmp_path):
    made, path = drawn_vae(5, 6, dtype=torch.float32), tmp_path / "v.safetensors"
    weights.save(path, {name: p.half() for name, p in made.state_dict().items()}, made.config)
    got, z = priors.load(path), normal(2, 5, T, dtype=torch.float32)
    assert {p.dtype for p in got.parameters()} == {torch.float32}
    assert got.log_variance(z).equal(made.half().float().log_variance(z))


def test_weights_that_are_no_priors(tmp_path):
    with pytest.raises(
        WeightsError,
        match=r"nmf-speech: expected the weights of a prior \(vae, .*, bsse\), got 'no family'",
    ):
        priors.load("nmf-speech")
    path = tmp_path / "v.safetensors"
    weights.save(path, {"W": torch.zeros(1)}, {"family": "flow"})
    with pytest.raises(WeightsError, match=r"expected the weights of a prior \(vae, .*, bsse\), got 'flow'"):
        priors.load(path)


def test_an_unknown_prior():
    with pytest.raises(WeightsError, match="unknown weights 'vea'; did you mean vae"):
        priors.load("vea")


def test_a_prior_that_was_tampered_with(shelf):
    card, path = weights.cards()["vae"], shelf / "vae.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = f"expected sha256 {card['sha256']}, got .*; train it again: sepriors train vae"
    with pytest.raises(WeightsError, match=message):
        priors.load("vae")


@pytest.mark.parametrize("spoilt", ["size", "missing tensor", "missing entry"])
def test_a_prior_whose_file_does_not_fit_its_configuration(tmp_path, spoilt):
    made, path = drawn_vae(), tmp_path / "v.safetensors"
    tensors, config = dict(made.state_dict()), dict(made.config)
    if spoilt == "size":
        config["latent"] = "4"
    elif spoilt == "missing tensor":
        del tensors["decoder.out.bias"]
    else:
        del config["hidden"]
    weights.save(path, tensors, config)
    with pytest.raises(WeightsError):
        priors.load(path)


def test_the_shipped_prior_prefers_what_it_was_trained_on():
    """Harmonics under an envelope of speech's slope, against white noise of the same level."""
    made = priors.load("vae")
    t = torch.arange(16000) / 16000
    voice = sum(torch.sin(2 * math.pi * 120 * k * t + k) / k for k in range(1, 30))
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    bounds = []
    for x in (voice, noise):
        P = made.stft(x / x.std() * 0.1).abs().square()[None]
        bounds.append(made.elbo(P, normal(1, 1, made.latent, P.shape[-1], dtype=torch.float32)).mean())
    assert bounds[0] > bounds[1] + 100


def test_the_posterior_shape_whitens_the_fisher_information():
    """Cᵀ (I + c E[JᵀJ]) C = I with the Jacobian from automatic differentiation."""
    made = drawn_vae(latent=3)
    C = made.posterior_shape(0.3, draws=400)
    same_draws = torch.randn(3, 400, generator=generators(0, 1)[0]).double()
    columns = [c[:, None] for c in same_draws.mT]
    J = torch.stack([torch.autograd.functional.jacobian(made.log_variance, c)[:, 0, :, 0] for c in columns])
    information = torch.eye(3, dtype=torch.float64) + 0.3 * (J.mT @ J).mean(0)
    torch.testing.assert_close(C.mT @ information @ C, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
