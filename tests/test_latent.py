"""Three uses of one posterior, each where the answer is known."""

import math
from typing import NamedTuple

import pytest
import torch
from conftest import alike, drawn_rvae, drawn_vae

from sepriors.inference import nmf
from sepriors.inference.em import Decoder, VarianceE, VariancePosterior, em
from sepriors.inference.latent import MCMC, PointEstimate, Variational
from sepriors.inference.mcmc import MALA, Chain, Density, Joint, Langevin, RandomWalk
from sepriors.priors import load
from sepriors.signal.gaussian import log_likelihood
from sepriors.signal.rng import clone, generators

B, F, L = 2, 9, 3
USES = {
    "random walk": MCMC(RandomWalk(0.1), steps=3, final_steps=8, final_keep=5),
    "langevin": MCMC(Langevin(0.02), steps=1, chains=4, start_variance=0.01),
    "averaged": MCMC(Langevin(0.02, averaged=True), steps=2, chains=2, final_steps=3, final_keep=2, final_times=2),
    "mala": MCMC(MALA(0.1, tamed=True), steps=2, chains=2, perturb=0.01),
    "joint": MCMC(MALA(0.01), steps=2, final_steps=4, joint=True),
    "mode": PointEstimate(steps=3, learning_rate=0.05),
    "variational": Variational(steps=2, final_draws=4),
}


@pytest.fixture(params=USES)
def use(request):
    return USES[request.param]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mixture(T, *, seed=0, dtype=torch.float64, made=None):
    """A spectrum (B, F, T) that the small VAE made, or another prior, in noise, and the variance of the noise."""
    made = made or drawn_vae()
    V_s = made.log_variance(normal(B, made.latent, T, seed=seed)).exp()
    V_n = 0.1 * V_s.mean((-2, -1), keepdim=True) * normal(B, F, 1, seed=seed + 1).exp().expand(B, F, T)
    X = (V_s + V_n).sqrt() * torch.view_as_complex(normal(B, F, T, 2, seed=seed + 2) / 2**0.5)
    return X.to(torch.complex64 if dtype == torch.float32 else torch.complex128), V_n.to(dtype)


def posterior(made, X, V_n, gain=1.0):
    P = X.abs().square()
    return VariancePosterior(Decoder(made), P, V_n, torch.full_like(P[:, :1], gain))


class Standing(NamedTuple):
    """A prior whose encoder says where to start, for targets that need no audio."""

    first: torch.Tensor

    def encode(self, P):
        return self.first


# ------------------------------------------------------------- chains


@pytest.mark.parametrize(
    ("kernel", "steps"),
    [(RandomWalk(1.0), 80), (Langevin(0.04), 600), (Langevin(0.5, averaged=True), 60), (MALA(0.8), 40)],
    ids=["random walk", "langevin", "averaged", "mala"],
)
def test_chains_recover_a_gaussian_posterior(kernel, steps):
    """From a start far off; the bias of this Langevin step is half a per cent of the smaller deviation."""
    T, mean, std = 2000, torch.tensor([[1.0], [-0.5]]).double(), torch.tensor([[1.0], [1.5]]).double()
    target = Density(lambda z: -0.5 * ((z - mean) / std).square().sum(-2))
    use = MCMC(kernel, steps=steps, chains=10)
    g = generators(0, 1)
    state = use.start(Standing(torch.full((1, 2, T), 2.0).double()), torch.zeros(1, F, T).double(), g)
    draws, _ = use(target, state, g)
    assert draws.shape == (10, 1, 2, T)
    got = draws.movedim(-2, 0).reshape(2, -1)
    torch.testing.assert_close(got.std(-1, keepdim=True) / std, torch.ones(2, 1).double(), atol=0.02, rtol=0)
    assert ((got.mean(-1, keepdim=True) - mean).abs() < 0.03 * std).all()


def exact(made, X, V_n):
    """Mean and standard deviation of the posterior of one latent variable in the first frame, by a sum over a grid."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    V = made.log_variance(z[None]).exp() + V_n[0, :, :1]
    p = (log_likelihood(X[0, :, :1].abs().square(), V, dim=-2) - z.square() / 2).softmax(-1)
    mean = (p * z).sum()
    return mean, (p * (z - mean).square()).sum().sqrt()


@pytest.mark.parametrize(
    ("kernel", "steps"),
    [(RandomWalk(0.5), 60), (Langevin(0.01), 250), (MALA(0.1), 60), (MALA(0.1, tamed=True), 60)],
    ids=["random walk", "langevin", "mala", "tamed mala"],
)
def test_chains_recover_the_posterior_of_a_mixture(kernel, steps):
    """A VAE with one latent variable; every frame is the same mixture, so each is an independent chain."""
    made, T = drawn_vae(1), 2500
    X, V_n = (x[:1, :, :1].expand(1, F, T) for x in mixture(1, made=made))
    mean, std = exact(made, X, V_n)
    use, g = MCMC(kernel, steps=steps, chains=8), generators(0, 1)
    target = posterior(made, X, V_n)
    draws, _ = use(target, use.start(made, target.P, g), g)
    assert abs(draws.std() / std - 1) < 0.02
    assert abs(draws.mean() - mean) < 0.03 * std
    assert abs(made.encode(target.P).mean() - mean) > 0.3 * std  # the encoder alone does not know


def test_chains_start_about_the_encoders_mean_and_go_on():
    made = drawn_vae()
    X, V_n = mixture(500)
    target = posterior(made, X, V_n)
    mean = made.encode(target.P)
    at = MCMC(RandomWalk(), 1, chains=2).start(made, target.P, generators(0, B)).position
    assert at.equal(mean.expand(2, -1, -1, -1))
    start = MCMC(RandomWalk(), 1, chains=20, start_variance=0.25).start(made, target.P, generators(0, B))
    spread = start.position - mean
    torch.testing.assert_close(spread.std(), torch.tensor(0.5).double(), atol=0.01, rtol=0)
    use, g = MCMC(RandomWalk(0.1), steps=4, keep=3, chains=2), generators(0, B)
    start = use.start(made, target.P, g)
    draws, state = use(target, start, g)
    assert draws.shape == (3 * 2, B, L, 500)
    assert state.position.equal(draws[-2:])  # the last positions of the two chains
    g = generators(0, B)
    use.start(made, target.P, g)
    steps = [MCMC(RandomWalk(0.1), steps=1, chains=2)] * 4
    state = start
    for one, kept in zip(steps, [None, draws[:2], draws[2:4], draws[4:]], strict=True):
        got, state = one(target, state, g)
        assert kept is None or got.equal(kept)


def test_what_the_speech_is_averaged_over():
    made = drawn_vae()
    X, V_n = mixture(5)
    target = posterior(made, X, V_n)
    z = normal(2, B, L, 5)
    longer = MCMC(RandomWalk(0.1), steps=1, chains=2, final_steps=9, final_keep=4)
    draws = longer.final(target, Chain(z), generators(0, B))
    assert draws.shape == (8, B, L, 5)
    assert draws.equal(MCMC(RandomWalk(0.1), steps=9, keep=4)(target, Chain(z), generators(0, B))[0])
    assert MCMC(RandomWalk(0.1), steps=1, chains=2).final(target, Chain(z), generators(0, B)).equal(z)
    more = longer._replace(final_times=3)
    six = more.final(target, Chain(z), generators(0, B))
    assert six.equal(longer.final(target, Chain(z.repeat(3, 1, 1, 1)), generators(0, B)))


class Idle(NamedTuple):
    """A kernel that goes nowhere, and says what it was given."""

    seen: list

    def start(self, target, chain):
        self.seen.append((target, chain))
        return chain

    def step(self, target, chain, generators):
        return chain


def test_what_a_round_starts_from():
    """The last round's chain, its memory too, each utterance away from it by noise of its own."""
    z, memory = torch.zeros(4, B, L, 5000).double(), torch.ones(1)
    for variance in (0.0, 0.25):
        kernel = Idle([])
        use = MCMC(kernel, steps=2, chains=4, perturb=variance)
        draws, state = use(None, Chain(z, memory=memory), generators([1, 2], B))
        ((_, begun),) = kernel.seen
        assert begun.memory is state.memory is memory
        assert draws.equal(begun.position)
        assert abs(draws.var() - variance) <= 0.02 * variance
        if variance:
            assert use(None, Chain(z[:, 1:], memory=memory), generators([2], 1))[0].equal(draws[:, 1:])
        else:
            assert draws.equal(z)
        assert use.final(None, state, generators(0, B)).equal(draws)  # no noise where nothing is to follow


def test_frames_of_an_utterance_may_be_accepted_together():
    made = drawn_rvae()
    X, V_n = mixture(6, made=made)
    target = posterior(made, X, V_n)
    z = normal(20, B, L, 6)
    apart, together = MCMC(MALA(0.3), steps=1), MCMC(MALA(0.3), steps=1, joint=True)
    for run in (MCMC.__call__, lambda use, *given: (use._replace(final_steps=1).final(*given), None)):
        draws, _ = run(together, target, Chain(z), generators(0, B))
        assert draws.equal(run(apart, Joint(target), Chain(z), generators(0, B))[0])
        assert not draws.equal(run(apart, target, Chain(z), generators(0, B))[0])
        taken = (draws != z).any(-2)
        assert taken.equal(taken[..., :1].expand_as(taken))
        assert taken.any()
        assert not taken.all()


class Aside(NamedTuple):
    """A posterior whose utterances are taken for parallel chains of one: the decoder takes them all at once."""

    target: VariancePosterior

    def logp(self, z):
        return self.target.logp(z.transpose(0, 1)).transpose(0, 1)

    def score(self, z):
        return self.target.score(z.transpose(0, 1)).transpose(0, 1)


def test_chains_recover_the_posterior_of_frames_that_depend_on_each_other():
    """An RVAE with one latent variable a frame, two frames: moments against a sum over a grid of both.

    Accepted together they are right; frame by frame they are not, which is what the other way costs.
    """
    made, R = drawn_rvae(1), 10_000
    made.decoder["out"].weight.mul_(2)
    X, V_n = (x[:1] for x in mixture(2, made=made))
    one = posterior(made, X, V_n)
    axis = torch.linspace(-5, 5, 201, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)[:, None]  # (N, 1, 2)
    p = (log_likelihood(one.P, made.log_variance(z).exp() + V_n) - z.square().sum((-2, -1)) / 2).softmax(0)
    assert p[(z.abs() > 4.9).any(-1)[:, 0]].sum() < 1e-6
    mean = p @ z[:, 0]
    away = z[:, 0] - mean
    cov = (p[:, None] * away).mT @ away
    products = (away[:, :, None] * away[:, None] - cov).square()
    error = ((p[:, None, None] * products).sum(0) / R).sqrt()  # of a covariance of R draws
    target = Aside(VariancePosterior(Decoder(made), *(x.expand(R, -1, -1) for x in one[1:])))
    far = []
    for joint in (True, False):
        use = MCMC(MALA(0.4), steps=25, joint=joint)
        draws = use(target, Chain(made.encode(one.P).expand(R, 1, 1, 2)), generators(0, 1))[0][:, 0, 0]
        of_mean = (draws.mean(0) - mean) / (cov.diag() / R).sqrt()
        far.append(torch.cat([of_mean, ((draws.T.cov() - cov) / error).flatten()]).abs().max())
    assert far[0] < 4
    assert far[1] > 10


# ------------------------------------------------------------- the mode


def test_the_ascent_reaches_the_mode_of_a_log_concave_target():
    """A quartic well, whose mode is not its mean's start; all draws are the same one."""
    mode = torch.tensor([[1.0], [-0.5]]).double()
    target = Density(lambda z: -((z - mode).square() + (z - mode).pow(4)).sum(-2))
    use = PointEstimate(steps=50, learning_rate=0.05)
    state = use.start(Standing(torch.zeros(B, 2, 4).double()), torch.zeros(B, F, 4).double(), generators(0, B))
    for _ in range(20):
        draws, state = use(target, state, generators(0, B))
    assert draws.shape == (1, B, 2, 4)
    torch.testing.assert_close(draws, mode.expand(1, B, 2, 4), atol=1e-6, rtol=0)
    assert use.final(target, state, generators(1, B)).equal(draws)


def test_the_ascent_reaches_the_mode_of_a_mixtures_posterior():
    """Where the gradient vanishes, and the density is no lower than anywhere near."""
    made = drawn_vae()
    X, V_n = mixture(20)
    target = posterior(made, X, V_n)
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


def test_every_step_of_the_ascent_sees_the_gradient_where_it_is():
    """Against Adam written out, with fresh gradients."""
    made = drawn_vae()
    X, V_n = mixture(4)
    target = posterior(made, X, V_n)
    use, g = PointEstimate(steps=7, learning_rate=0.1), generators(0, B)
    draws, _ = use(target, use.start(made, target.P, g), g)
    z = made.encode(target.P)[None]
    m, v = torch.zeros_like(z), torch.zeros_like(z)
    for i in range(1, 8):
        score = posterior(made, X, V_n).score(z)
        m, v = 0.9 * m + 0.1 * score, 0.999 * v + 0.001 * score.square()
        z = z + 0.1 * (m / (1 - 0.9**i)) / ((v / (1 - 0.999**i)).sqrt() + 1e-8)
    torch.testing.assert_close(draws, z)


# ------------------------------------------------------------- a fitted Gaussian


def bound(target, q, noise):
    """The evidence lower bound of the mixture, (B,)."""
    likelihood = log_likelihood(target.P, target.variance(q.sample(noise)) + target.V_n)
    return likelihood.mean(0) - q.kl().sum(-1)


def test_tuning_the_encoder_raises_the_bound_of_the_mixture():
    made = drawn_vae()
    kept = [p.clone() for p in made.parameters()]
    X, V_n = mixture(30)
    target = posterior(made, X, V_n)
    use, g = Variational(steps=20), generators(0, B)
    state = use.start(made, target.P, g)
    noise = normal(200, B, L, 30)
    values = [bound(target, made.posterior(target.P), noise)]
    for _ in range(4):
        _, state = use(target, state, g)
        values.append(bound(target, made.posterior(target.P, state.parameters), noise))
    values = torch.stack(values).detach()
    assert (values.diff(dim=0) > 0).all()
    assert all(p.equal(k) for p, k in zip(made.parameters(), kept, strict=True))  # the prior itself is left alone


def test_tuning_a_recurrent_encoder_raises_the_bound_of_the_mixture():
    made = drawn_rvae()
    kept = [p.clone() for p in made.parameters()]
    X, V_n = mixture(12, made=made)
    target = posterior(made, X, V_n)
    use, g = Variational(steps=15, learning_rate=0.002), generators(0, B)
    state = use.start(made, target.P, g)
    noise = normal(100, B, L, 12)

    def bound(parameters):
        q = made.posterior(target.P, parameters)
        z, kl = (torch.stack(x) for x in zip(*(q.draw(e) for e in noise)))
        likelihood = log_likelihood(target.P, target.variance(z) + target.V_n)
        return (likelihood - kl.sum(-1)).mean(0).detach()

    values = [bound(None)]
    for _ in range(4):
        draws, state = use(target, state, g)
        values.append(bound(state.parameters))
        assert not draws.requires_grad
    assert (torch.stack(values).diff(dim=0) > 0).all()
    assert all(p.equal(k) for p, k in zip(made.parameters(), kept, strict=True))
    final = use.final(target, state, g)
    assert final.shape == (10, B, L, 12)
    assert not final.requires_grad


def test_the_gradient_of_a_recurrent_encoder_is_that_of_the_bound():
    """The first step of Adam against the sign of the slope of bound written out, for the noise that it drew."""
    made = drawn_rvae()
    X, V_n = mixture(5, made=made)
    target = posterior(made, X, V_n)
    rate = 1e-4
    use = Variational(steps=1, learning_rate=rate)
    state = use.start(made, target.P, generators(3, B))
    before = {name: p.clone() for name, p in state.parameters.items()}
    use(target, state, generators(3, B))
    leaves = {name: p.clone().requires_grad_() for name, p in before.items()}
    noise = torch.stack([torch.randn(L, 5, generator=g, dtype=torch.float64) for g in generators(3, B)])
    z, kl = made.posterior(target.P, leaves).draw(noise)
    V_x = target.gain * made.log_variance(z).exp() + V_n
    slopes = torch.autograd.grad(log_likelihood(target.P, V_x).sum() - kl.sum(), list(leaves.values()))
    for name, slope in zip(leaves, slopes, strict=True):
        step = (state.parameters[name].detach() - before[name]) / rate
        torch.testing.assert_close(step, slope / (slope.abs() + 1e-8), rtol=1e-6, atol=1e-6)


def test_tuning_finds_a_posterior_that_is_the_prior():
    """A decoder deaf to z: the best Gaussian is the standard normal, its divergence 0."""
    made = drawn_vae()
    made.decoder["out"].weight.zero_()
    X, V_n = mixture(6)
    target = posterior(made, X, V_n)
    use, g = Variational(steps=400), generators(0, B)
    state = use.start(made, target.P, g)
    assert made.posterior(target.P).kl().max() > 0.1
    _, state = use(target, state, g)
    assert made.posterior(target.P, state.parameters).kl().max() < 1e-3


def test_tuning_comes_near_the_true_posterior():
    """One latent variable: mean and spread of the fitted Gaussian against a sum over a grid."""
    made = drawn_vae(1)
    X, V_n = (x[:1, :, :1] for x in mixture(1, made=made))
    mean, std = exact(made, X, V_n)
    target = posterior(made, X, V_n)
    use, g = Variational(steps=1500, learning_rate=0.003), generators(0, 1)
    _, state = use(target, use.start(made, target.P, g), g)
    q = made.posterior(target.P, {name: p.detach() for name, p in state.parameters.items()})
    first = made.posterior(target.P)
    assert abs(float(q.mean) - mean) < 0.1 * std < abs(float(first.mean) - mean)
    assert abs(math.exp(0.5 * float(q.log_variance)) / std - 1) < 0.1


def test_draws_of_the_fitted_gaussian():
    """The M-step sees the draw that the last gradient saw; the estimate those of the encoder as it is then."""
    made = drawn_vae()
    X, V_n = mixture(5)
    target = posterior(made, X, V_n)
    use, g = Variational(steps=3, final_draws=2000), generators(0, B)
    state = use.start(made, target.P, g)
    before, _ = use._replace(steps=2)(target, use.start(made, target.P, g), g)  # and g is where the third step finds it
    _, state = use._replace(steps=2)(target, state, generators(0, B))
    q = made.posterior(target.P, {name: p.detach().clone() for name, p in state.parameters.items()})
    noise = torch.stack([torch.randn(L, 5, generator=h, dtype=torch.float64) for h in clone(g)])
    draws, state = use._replace(steps=1)(target, state, g)
    assert draws.shape == (1, B, L, 5)
    assert draws[0].equal(q.sample(noise))
    assert not draws.equal(before)
    q = made.posterior(target.P, {name: p.detach() for name, p in state.parameters.items()})
    final = (use.final(target, state, g) - q.mean) / (0.5 * q.log_variance).exp()
    assert final.shape == (2000, B, L, 5)
    assert not draws.requires_grad
    assert not final.requires_grad
    torch.testing.assert_close(final.var((0, 3)), torch.ones(B, L).double(), atol=0.06, rtol=0)
    torch.testing.assert_close(final.mean((0, 3)), torch.zeros(B, L).double(), atol=0.04, rtol=0)


# ------------------------------------------------------------- in the loop


def rounds(use, iterations=5, *, batch=slice(None), seeds=(5, 6), look=False, prior=drawn_vae):
    X = mixture(12, dtype=torch.float32)[0][batch]
    made = prior(dtype=torch.float32)
    g = generators(list(seeds), len(seeds))
    noise = nmf.init(X.abs().square(), 2, g)
    steps = []
    with torch.inference_mode():
        for step in em(X, VarianceE(made, use), noise, iterations=iterations, generators=g):
            if look:
                assert step.estimate().equal(step.estimate())
            steps.append(step)
        return steps[-1].noise, steps[-1].estimate()


def test_looking_at_an_estimate_changes_nothing_after_it(use):
    """Its draws are not those of the run."""
    noise, speech = rounds(use)
    looked_noise, looked_speech = rounds(use, look=True)
    assert looked_noise.W.equal(noise.W)
    assert looked_noise.H.equal(noise.H)
    assert looked_speech.equal(speech)


def test_an_estimate_is_of_its_round_whenever_it_is_asked_for(use):
    X, made = mixture(12, dtype=torch.float32)[0], drawn_vae(dtype=torch.float32)

    def run():
        g = generators(0, B)
        noise = nmf.init(X.abs().square(), 2, g)
        return em(X, VarianceE(made, use), noise, iterations=4, generators=g)

    with torch.inference_mode():
        batch_size = [step.estimate() for step in run()]
        later = [step.estimate() for step in list(run())]
    assert not batch_size[0].equal(batch_size[-1])
    for a, b in zip(batch_size, later, strict=True):
        assert a.equal(b)


@pytest.mark.parametrize("prior", [drawn_vae, drawn_rvae])
def test_an_utterance_is_alike_alone_and_in_company(use, prior):
    noise, speech = rounds(use, prior=prior)
    for b, seed in enumerate((5, 6)):
        alone, estimate = rounds(use, batch=slice(b, b + 1), seeds=(seed,), prior=prior)
        assert alike(alone.W[0], noise.W[b])
        assert alike(alone.H[0], noise.H[b])
        assert alike(estimate[0], speech[b])


def test_another_seed_another_run(use):
    assert rounds(use)[1].equal(rounds(use)[1])
    assert not rounds(use)[1].equal(rounds(use, seeds=(5, 7))[1][:2])


def test_gradients_are_as_the_caller_left_them(use):
    X, V_n = mixture(4)
    made = drawn_vae()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            target, g = posterior(made, X, V_n), generators(0, B)
            draws, state = use(target, use.start(made, target.P, g), g)
            assert torch.is_grad_enabled() == grad
            assert not draws.requires_grad
            assert not use.final(target, state, g).requires_grad


def test_the_shipped_prior_in_all_its_uses(use):
    """Single precision, full size: everything stays finite."""
    made = load("vae")
    X = torch.view_as_complex(normal(1, 513, 4, 2, dtype=torch.float32))
    target = posterior(made, X, torch.ones(1, 513, 4), 0.01)
    g = generators(0, 1)
    with torch.inference_mode():
        draws, state = use(target, use.start(made, target.P, g), g)
        assert draws.isfinite().all()
        assert draws.shape[1:] == (1, made.latent, 4)
        assert use.final(target, state, g).isfinite().all()
