"""On a Gaussian prior all is known in closed form: marginals, scores, posteriors, and where each sampler must end."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from conftest import normal

from sepriors.inference import diffusion
from sepriors.inference.diffusion import EDM, OUVE, Denoised, Transition, denoised, predict, reverse, step
from sepriors.signal.rng import generators

every_schedule = pytest.mark.parametrize("schedule", [OUVE(), OUVE(0.7, 0.1, 0.9, 0.01), EDM(3.0, 0.1, 3.0)], ids=str)
# they all but arrive before the last step
fine_schedules = pytest.mark.parametrize("schedule", [OUVE(t_eps=1e-3), EDM(sigma_min=1e-3)], ids=str)
real_and_complex = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def positive(*shape, seed=0):
    return normal(*shape, seed=seed).exp() / 2


def gaussian(V, m=0.0):
    """The denoiser of a prior N(m, V) of independent bins."""

    def denoise(x, sigma):
        G = V / (V + sigma**2)
        return Denoised(m + G * (x - m), G * sigma**2 + torch.zeros_like(x.real))

    return denoise


def marginal(schedule, t, V, m=0.0):
    """Mean and variance of s_t under that prior."""
    return schedule.alpha(t) * m, schedule.alpha(t) ** 2 * V + schedule.sigma(t) ** 2


def last(states):
    *_, state = states
    return state.position


def far(s, mean, variance):
    """Largest distance of the moments of draws s (N, ...) from these, in standard errors."""
    N, kurtosis = len(s), 1 if s.is_complex() else 2
    of_mean = (s - mean).mean(0).abs() / (variance / N) ** 0.5
    of_variance = ((s - mean).abs().square().mean(0) / variance - 1).abs() / (kurtosis / N) ** 0.5
    return float(torch.maximum(of_mean, of_variance).max())


# ------------------------------------------------------------- schedules


@every_schedule
def test_a_schedule_solves_its_equations(schedule):
    """dα/dt = -γ α and dσ²/dt = -2 γ σ² + g², by central differences, from α = 1 and σ = 0."""
    h, gamma = 1e-5, schedule.stiffness
    assert (schedule.alpha(0.0), schedule.sigma(0.0)) == (1, 0)
    for t in (share * schedule.times(1)[0] for share in (0.05, 0.5, 1.0)):
        slopes = [(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, lambda t: schedule.sigma(t) ** 2)]
        of_variance = -2 * gamma * schedule.sigma(t) ** 2 + schedule.diffusion(t) ** 2
        assert slopes == pytest.approx([-gamma * schedule.alpha(t), of_variance], rel=1e-7, abs=1e-10)


@every_schedule
def test_times_fall_to_zero(schedule):
    for steps in (1, 2, 30, 1000):
        times = schedule.times(steps)
        assert len(times) == steps + 1
        assert all(a > b for a, b in pairwise(times))
        assert times[-1] == 0
    with pytest.raises(ValueError, match="expected one step at least, got steps=0"):
        schedule.times(0)
    assert OUVE(t_eps=0.2).times(5) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert EDM(9.0, 1.0, rho=2.0).times(3) == pytest.approx([9, 4, 1, 0])


# ------------------------------------------------------------- what is known on the way


@every_schedule
@real_and_complex
@pytest.mark.parametrize("sure", [False, True])
def test_the_score_is_the_slope_of_the_log_density(schedule, dtype, sure):
    """Of a Gaussian prior, or of one that knows s_0.

    A complex density is exp(-|s - mean|² / variance), and autograd's slope twice that of Wirtinger.
    """
    t, m, V = 0.4 * schedule.times(1)[0], normal(3, 4, dtype=dtype), (not sure) * positive(3, 4)
    s = normal(2, 3, 4, seed=1, dtype=dtype).requires_grad_()
    mean, variance = marginal(schedule, t, V, m)
    (slope,) = torch.autograd.grad((-(s - mean).abs().square() / (2 * variance)).sum(), s)
    s = s.detach()
    torch.testing.assert_close(diffusion.score(schedule, s, t, denoised(gaussian(V, m), schedule, s, t).mean), slope)


def test_what_is_known_after_seeing_the_mixture_is_a_product_of_gaussians():
    m, V, V_n = normal(2, 3, 4, dtype=torch.cdouble), positive(3, 4, seed=1), positive(3, 4, seed=2)
    x = normal(3, 4, seed=3, dtype=torch.cdouble)
    mean, variance = diffusion.condition(Denoised(m, V), x, V_n)
    torch.testing.assert_close(1 / variance, 1 / V + 1 / V_n)
    torch.testing.assert_close(mean / variance, m / V + x / V_n)
    for noise, expected in ((1e100 + 0 * V_n, (m, V)), (0 * V_n, (x.expand_as(m), 0 * V))):  # all is noise; nothing is
        for got, limit in zip(diffusion.condition(Denoised(m, V), x, noise), expected, strict=True):
            torch.testing.assert_close(got, limit)
    for noise in (V_n, 0 * V_n):  # who is sure is not moved, be the noise none
        assert diffusion.condition(Denoised(m, 0 * V), x, noise).mean.equal(m)
        assert not diffusion.condition(Denoised(m, 0 * V), x, noise).variance.any()


@every_schedule
def test_a_guided_denoiser_has_the_score_of_the_posterior(schedule):
    """That of s_t given x, whose s_0 is the Wiener filter's Gaussian; by no other way than its own denoiser."""
    V_s, V_n, t = positive(3, 4), positive(3, 4, seed=1), 0.4
    x, s = normal(3, 4, dtype=torch.cdouble), normal(2, 3, 4, seed=1, dtype=torch.cdouble)
    G = V_s / (V_s + V_n)
    posterior = diffusion.condition(denoised(gaussian(V_s), schedule, s, t), x, V_n)
    expected = denoised(gaussian(G * V_n, G * x), schedule, s, t)
    torch.testing.assert_close(posterior.mean, expected.mean)
    torch.testing.assert_close(posterior.variance, expected.variance)


# ------------------------------------------------------------- the steps of the samplers


def test_it_starts_at_the_mixture_in_the_greatest_noise_and_draws_from_transitions():
    x, V = normal(2, 3, dtype=torch.cdouble), positive(2, 3)
    s = diffusion.start(x, OUVE(), 20_000, generators([3, 4], 2))
    assert (s.shape, s.dtype) == ((20_000, 2, 3), torch.cdouble)
    assert far(s, x, OUVE().sigma(1.0) ** 2) < 4
    for std in (V, 0.7):
        s = Transition(x.expand(20_000, 2, 3), std, 1.0, 1.0).draw(generators([3, 4], 2))
        assert far(s, x, torch.as_tensor(std) ** 2) < 4
    with pytest.raises(ValueError, match="expected one draw at least, got draws=0"):
        diffusion.start(x, OUVE(), 0, generators(0, 2))


@every_schedule
def test_the_corrector_leaves_the_marginal_by_its_known_bias(schedule):
    """Of a variance v it makes (1 - ε / v)² v + 2 ε = v + ε² / v."""
    t, m, V = 0.5, torch.tensor([0.3, -1.0]).double(), torch.tensor([0.05, 0.3]).double()
    mean, v = marginal(schedule, t, V, m)
    s = mean + v.sqrt() * normal(20_000, 1, 2, dtype=torch.cdouble)
    clean = denoised(gaussian(V, m), schedule, s, t).mean
    for snr in (0.1, 0.5):
        biased = v + (snr * schedule.sigma(t)) ** 4 / v  # ε = (snr σ)²
        assert far(diffusion.correct(schedule, s, t, clean, generators(1, 1), snr=snr)[:, 0], mean, biased) < 4


@every_schedule
def test_a_small_step_of_the_predictor_goes_to_the_earlier_marginal(schedule):
    """But for dt²: half the step, a quarter of the error in mean and in variance."""
    t, V, m = 0.5, 0.3, 1.5
    mean, variance = marginal(schedule, t, V, m)
    s = mean + variance**0.5 * torch.tensor([0, 1], dtype=torch.cdouble)
    errors = []
    for dt in (0.002, 0.001):
        there, added, alpha, sigma = predict(schedule, s, t, t - dt, denoised(gaussian(V, m), schedule, s, t).mean)
        assert (alpha, sigma) == (schedule.alpha(t), schedule.sigma(t))
        got = there[0], there.diff().abs().square() + added**2
        errors.append([float((a - b).abs()) for a, b in zip(got, marginal(schedule, t - dt, V, m), strict=True)])
    assert max(errors[0]) < 1e-4
    assert errors[0] == pytest.approx([4 * half for half in errors[1]], rel=0.02)


@every_schedule
def test_a_step_is_a_corrector_then_a_predictor(schedule):
    """The prior is asked before each; the guide sees the prior's transition; a step to time 0 ends in its mean."""
    t, prior, s = 0.5, gaussian(positive(3, 4)), normal(5, 2, 3, 4, dtype=torch.cdouble)
    here = diffusion.correct(schedule, s, t, denoised(prior, schedule, s, t).mean, g := generators([1, 2], 2), snr=0.3)
    posterior = denoised(prior, schedule, here, t)
    guide = lambda seen: seen._replace(mean=2 * seen.mean, std=0.1)  # noqa: E731
    for t_next in (0.4, 0.0):
        to = predict(schedule, here, t, t_next, posterior.mean)
        for made in (None, guide):
            got = step(prior, schedule, s, t, t_next, generators=generators([1, 2], 2), snr=0.3, guide=made)
            expected = made(to) if made else to
            assert got.position.equal(expected.draw([h.clone_state() for h in g]) if t_next else expected.mean)
            assert got.posterior.mean.equal(posterior.mean)
            assert got.posterior.variance.equal(posterior.variance)


def test_the_guide_acts_in_every_second_step():
    seen = []
    walk = reverse(
        gaussian(positive(3)), OUVE(), normal(2, 1, 3), steps=5, generators=generators(0, 1),
        guide=lambda to: seen.append(to.sigma) or to, every=2,
    )  # fmt: skip
    assert len(list(walk)) == 5
    assert seen == [OUVE().sigma(t) for t in OUVE().times(5)[:5:2]]


# ------------------------------------------------------------- the mixture as a guide


def some_transition(dtype):
    """A transition of three draws of a bin in four places, and a mixture and a noise to go with it."""
    schedule, t = OUVE(0.7, 0.1, 0.9), 0.6
    to = Transition(normal(3, 1, 4, dtype=dtype), positive(4).sqrt(), schedule.alpha(t), schedule.sigma(t))
    return to, normal(1, 4, seed=1, dtype=dtype), positive(1, 4, seed=2)


@real_and_complex
@pytest.mark.parametrize("weight", [0.0, 1.5, 20.0])
def test_the_pseudo_likelihood_moves_a_draw_along_its_gradient(dtype, weight):
    """Each draw by λ v / α (x - s / α) / (σ² / α² + V_n)."""
    to, x, V_n = some_transition(dtype)
    got, s = diffusion.pseudo_likelihood(to, x, V_n, weight), to.draw(generators(0, 1))
    moved = s + weight * to.variance / to.alpha * (x - s / to.alpha) / (to.sigma**2 / to.alpha**2 + V_n)
    torch.testing.assert_close(got.draw(generators(0, 1)), moved)
    assert (got.alpha, got.sigma) == (to.alpha, to.sigma)


def test_the_transition_of_the_posterior_is_a_product_of_gaussians():
    to, x, V_n = some_transition(torch.cdouble)
    got, seen = diffusion.posterior_transition(to, x, V_n), to.sigma**2 + to.alpha**2 * V_n  # s_t given x
    torch.testing.assert_close(1 / got.variance, 1 / to.variance + 1 / seen)
    torch.testing.assert_close(got.mean / got.variance, to.mean / to.variance + to.alpha * x / seen)
    free = diffusion.posterior_transition(to, x, 1e100 + 0 * V_n)
    torch.testing.assert_close(free.mean, to.mean)
    torch.testing.assert_close(free.variance, to.variance.expand(1, 4))


# ------------------------------------------------------------- where it all leads


def problem(dtype, schedule, draws=1500):
    """Variances (3, 2), a mixture louder than they would have it, its Wiener posterior, and draws of s at time 1."""
    V_s, V_n = torch.tensor([[0.05], [0.3], [1.0]]).double(), torch.tensor([0.02, 0.4]).double()
    x = 1.5 * (V_s + V_n).sqrt() * torch.tensor([[1, -1], [-1, 1], [1, 1]]).to(dtype)
    G = V_s / (V_s + V_n)
    mean, variance = marginal(schedule, schedule.times(1)[0], G * V_n, G * x)
    s = mean + variance.sqrt() * normal(draws, 1, 3, 2, dtype=dtype)
    return V_s, V_n, x, (G * x, G * V_n), s


def flowed(denoise, schedule, s, times, *, heun=True):
    for t, t_next in pairwise(times):
        s, _ = diffusion.flow(denoise, schedule, s, t, t_next, heun=heun)
    return s


@fine_schedules
@real_and_complex
def test_an_exact_guide_reaches_the_wiener_posterior(schedule, dtype):
    """Mean and variance of the draws within four standard errors, by noise and by the flow alike.

    Not so the guides that take s_t for all that is known of s_0: their means are off in every bin.
    """
    V_s, V_n, x, (mean, V), s = problem(dtype, schedule)
    guided = lambda y, sigma: diffusion.condition(gaussian(V_s)(y, sigma), x, V_n)  # noqa: E731
    end = last(reverse(guided, schedule, s, steps=150, generators=generators(1, 1)))
    assert far(end[:, 0], mean, V) < 4
    assert far(flowed(guided, schedule, s, schedule.times(150))[:, 0], mean, V) < 4
    for guide in (partial(diffusion.pseudo_likelihood, weight=1.0), diffusion.posterior_transition):
        seen = lambda to, guide=guide: guide(to, x, V_n)  # noqa: E731
        end = last(reverse(gaussian(V_s), schedule, s, steps=150, generators=generators(1, 1), guide=seen))[:, 0]
        assert ((end.mean(0) - mean).abs() / (V / len(end)).sqrt()).min() > 5


@pytest.mark.parametrize("schedule", [OUVE(), EDM()], ids=str)
@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
def test_the_order_of_the_flow(schedule, heun, order):
    """Of a standard normal: s / α grows like sqrt(1 + (σ/α)²), so half the step, a half or a quarter of the error."""
    high, low = schedule.times(1)[0], 0.3 * schedule.times(1)[0]
    noise = [schedule.sigma(t) / schedule.alpha(t) for t in (high, low)]
    s = normal(1, 1, 20, dtype=torch.cdouble)
    exact = s / schedule.alpha(high) * math.sqrt((1 + noise[1] ** 2) / (1 + noise[0] ** 2)) * schedule.alpha(low)
    errors = []
    for steps in (20, 40, 80):
        times = torch.linspace(high, low, steps + 1, dtype=torch.float64).tolist()
        got = flowed(gaussian(torch.tensor(1.0)), schedule, s, times, heun=heun)
        errors.append(float((got - exact).norm() / exact.norm()))
    ratios = [a / b for a, b in pairwise(errors)]
    assert ratios == pytest.approx([2**order] * 2, rel=0.1)
    assert errors[-1] < (0.02 if order == 1 else 5e-4)
    end, posterior = diffusion.flow(gaussian(positive(20)), schedule, s, low, 0.0, heun=heun)  # in the mean, there
    torch.testing.assert_close(end, posterior.mean)
    torch.testing.assert_close(posterior.mean, denoised(gaussian(positive(20)), schedule, s, low).mean)
