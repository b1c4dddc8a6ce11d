"""Three uses of one posterior, each where the answer is known; what they do in the loop is in test_em.py."""

from typing import NamedTuple

import pytest
import torch
from conftest import drawn_rvae, drawn_vae, normal

from sepriors.inference.em import Decoder, VariancePosterior
from sepriors.inference.latent import MCMC, PointEstimate, Variational
from sepriors.inference.mcmc import MALA, Chain, Langevin, RandomWalk
from sepriors.signal.gaussian import log_likelihood
from sepriors.signal.rng import clone, generators, randn

B, F, L = 2, 9, 3


def mixture(T, made):
    """The power (B, F, T) of what a small prior made, in noise, and the variance of the noise."""
    V_s = made.log_variance(normal(B, made.latent, T)).exp()
    V_n = 0.1 * V_s.mean((-2, -1), keepdim=True) * normal(B, F, 1, seed=1).exp().expand(B, F, T)
    return (V_s + V_n) * normal(B, F, T, 2, seed=2).square().mean(-1), V_n


def posterior(made, P, V_n):
    return VariancePosterior(Decoder(made), P, V_n, torch.ones_like(P[:, :1]))


def same_frame(made, T):
    """Of one utterance, every frame the same mixture, so that each is an independent chain."""
    return posterior(made, *(x[:1, :, :1].expand(1, F, T) for x in mixture(1, made)))


def exact(target):
    """Mean and standard deviation of the posterior of one latent variable in the first frame, by a sum over a grid."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    V = target.decoder.prior.log_variance(z[None]).exp() + target.V_n[0, :, :1]
    p = (log_likelihood(target.P[0, :, :1], V, dim=-2) - z.square() / 2).softmax(-1)
    mean = (p * z).sum()
    return mean, (p * (z - mean).square()).sum().sqrt()


# ------------------------------------------------------------- chains


@pytest.mark.parametrize(
    ("kernel", "steps"), [(RandomWalk(0.5), 60), (Langevin(0.02), 120), (MALA(0.1, tamed=True), 60)], ids=str
)
def test_chains_recover_the_posterior_of_a_mixture(kernel, steps):
    """A VAE with one latent variable; the encoder alone does not know."""
    made = drawn_vae(1)
    target = same_frame(made, 1000)
    mean, std = exact(target)
    use, g = MCMC(kernel, steps=steps, chains=8), generators(0, 1)
    draws, _ = use(target, use.start(made, target.P, g), g)
    assert abs(draws.std() / std - 1) < 0.03
    assert abs(draws.mean() - mean) < 0.03 * std
    assert abs(made.encode(target.P).mean() - mean) > 0.3 * std


def test_chains_start_about_the_encoders_mean_and_go_on():
    made = drawn_vae()
    target = posterior(made, *mixture(500, made))
    mean = made.encode(target.P)
    start = MCMC(RandomWalk(), 1, chains=20, start_variance=0.25).start(made, target.P, generators(0, B))
    assert abs((start.position - mean).std() - 0.5) < 0.01
    use, g = MCMC(RandomWalk(0.1), steps=4, keep=3, chains=2), generators(0, B)
    state = use.start(made, target.P, g)
    assert state.position.equal(mean.expand(2, -1, -1, -1))
    h = clone(g)
    draws, end = use(target, state, g)
    assert draws.shape == (3 * 2, B, L, 500)
    assert end.position.equal(draws[-2:])  # the last positions of the two chains
    for kept in (None, draws[:2], draws[2:4], draws[4:]):
        got, state = use._replace(steps=1, keep=1)(target, state, h)
        assert kept is None or got.equal(kept)
    _, together = use._replace(joint=True)(target, use.start(made, target.P, g), g)  # as in Joint
    assert (end.logp.shape, together.logp.shape) == ((2, B, 500), (2, B))


def test_what_the_speech_is_averaged_over():
    """The last positions of a longer run, of more chains; or where the chains are."""
    made, z = drawn_vae(), normal(2, B, L, 5)
    target = posterior(made, *mixture(5, made))
    longer = MCMC(RandomWalk(0.1), steps=1, chains=2, final_steps=9, final_keep=4)
    draws = longer.final(target, Chain(z), generators(0, B))
    assert draws.equal(longer._replace(steps=9, keep=4)(target, Chain(z), generators(0, B))[0])
    assert longer._replace(final_steps=0).final(target, Chain(z), generators(0, B)).equal(z)
    more = longer._replace(final_times=3).final(target, Chain(z), generators(0, B))
    assert more.equal(longer.final(target, Chain(z.repeat(3, 1, 1, 1)), generators(0, B)))


class Idle(NamedTuple):
    """A kernel that goes nowhere."""

    def start(self, target, chain):
        return chain

    def step(self, target, chain, generators):
        return chain


@pytest.mark.parametrize("variance", [0.0, 0.25])
def test_what_a_round_starts_from(variance):
    """The last round's chain, its memory too, each utterance away from it by noise of its own."""
    z, memory, use = torch.zeros(4, B, L, 5000).double(), torch.ones(1), MCMC(Idle(), 2, chains=4, perturb=variance)
    draws, state = use(None, Chain(z, memory=memory), generators([1, 2], B))
    assert state.memory is memory
    assert abs(draws.var() - variance) <= 0.02 * variance
    assert use(None, Chain(z[:, 1:], memory=memory), generators([2], 1))[0].equal(draws[:, 1:])
    assert use.final(None, state, generators(0, B)).equal(draws)  # no noise where nothing is to follow


# ------------------------------------------------------------- the mode


def test_the_ascent_reaches_the_mode_of_a_mixtures_posterior():
    """Where the gradient vanishes, and the density is no lower than anywhere near."""
    made = drawn_vae()
    target = posterior(made, *mixture(20, made))
    use, g = PointEstimate(steps=10, learning_rate=0.02), generators(0, B)
    state = use.start(made, target.P, g)
    before = target.logp(use.final(target, state, g))
    for _ in range(100):
        draws, state = use(target, state, g)
    at = target.logp(draws)
    assert (at > before).all()
    assert target.score(draws).abs().max() < 1e-6
    for seed in range(5):
        assert (target.logp(draws + 1e-3 * normal(*draws.shape, seed=seed)) < at).all()
    assert use.final(target, state, g).equal(draws)


# ------------------------------------------------------------- a fitted Gaussian


@pytest.mark.parametrize("prior", [drawn_vae, drawn_rvae])
def test_tuning_the_encoder_raises_the_bound_of_the_mixture(prior):
    """And leaves the prior itself alone."""
    made = prior()
    kept = [p.clone() for p in made.parameters()]
    target = posterior(made, *mixture(12, made))
    use, g = Variational(steps=15, learning_rate=0.002), generators(0, B)
    state, noise = use.start(made, target.P, g), normal(100, B, L, 12)

    def bound(parameters):
        q = made.posterior(target.P, parameters)
        z, kl = (torch.stack(x) for x in zip(*(q.draw(e) for e in noise)))
        return (log_likelihood(target.P, target.variance(z) + target.V_n) - kl.sum(-1)).mean(0).detach()

    values = [bound(None)]
    for _ in range(4):
        _, state = use(target, state, g)
        values.append(bound(state.parameters))
    assert (torch.stack(values).diff(dim=0) > 0).all()
    assert all(p.equal(k) for p, k in zip(made.parameters(), kept, strict=True))
    assert use.final(target, state, g).shape == (10, B, L, 12)


def test_the_gradient_of_an_encoder_is_that_of_the_bound():
    """The first step of Adam against the sign of the slope of the bound written out, for the noise that it drew."""
    made, rate = drawn_rvae(), 1e-4
    target = posterior(made, *mixture(5, made))
    use = Variational(steps=1, learning_rate=rate)
    state = use.start(made, target.P, generators(3, B))
    before = {name: p.clone() for name, p in state.parameters.items()}
    use(target, state, generators(3, B))
    leaves = {name: p.clone().requires_grad_() for name, p in before.items()}
    z, kl = made.posterior(target.P, leaves).draw(randn((L, 5), generators(3, B), target.P))
    V_x = made.log_variance(z).exp() + target.V_n
    slopes = torch.autograd.grad(log_likelihood(target.P, V_x).sum() - kl.sum(), list(leaves.values()))
    for name, slope in zip(leaves, slopes, strict=True):
        step = (state.parameters[name].detach() - before[name]) / rate
        torch.testing.assert_close(step, slope / (slope.abs() + 1e-8), rtol=1e-6, atol=1e-6)


def test_draws_of_the_fitted_gaussian():
    """The M-step sees the draw that the last gradient saw; the estimate those of the encoder as it is then."""
    made = drawn_vae()
    target = posterior(made, *mixture(5, made))
    use, g = Variational(steps=1, final_draws=2000), generators(0, B)
    _, state = use(target, use.start(made, target.P, g), g)
    q = made.posterior(target.P, state.parameters)
    noise = randn((L, 5), clone(g), target.P)
    draws, state = use(target, state, g)
    torch.testing.assert_close(draws[0], q.sample(noise))
    q = made.posterior(target.P, state.parameters)
    final = (use.final(target, state, g) - q.mean) / (0.5 * q.log_variance).exp()
    torch.testing.assert_close(final.var((0, 3)), torch.ones(B, L).double(), atol=0.06, rtol=0)
    torch.testing.assert_close(final.mean((0, 3)), torch.zeros(B, L).double(), atol=0.04, rtol=0)
    assert not draws.requires_grad
