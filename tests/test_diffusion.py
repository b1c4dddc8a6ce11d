"""On a Gaussian prior all is known in closed form: marginals, scores, posteriors, and where each sampler must end."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch

from sepriors.inference import diffusion
from sepriors.inference.diffusion import (
    EDM,
    OUVE,
    Denoised,
    Transition,
    condition,
    correct,
    denoised,
    flow,
    posterior_transition,
    predict,
    pseudo_likelihood,
    reverse,
    score,
    step,
)
from sepriors.signal.rng import generators

SCHEDULES = [OUVE(), OUVE(0.7, 0.1, 0.9, 0.01), EDM(), EDM(3.0, 0.1, 3.0)]
FINE = [OUVE(t_eps=1e-3), EDM(sigma_min=1e-3)]  # they all but arrive before the last step
DTYPES = [torch.float64, torch.complex128]

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
fine_schedules = pytest.mark.parametrize("schedule", FINE, ids=str)
real_and_complex = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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
def test_speech_drowns_more_and_more(schedule):
    times = torch.linspace(1e-4, schedule.times(1)[0], 1000, dtype=torch.float64).tolist()
    snr = [(schedule.alpha(t) / schedule.sigma(t)) ** 2 for t in times]
    assert all(a > b > 0 for a, b in pairwise(snr))
    assert (schedule.alpha(0.0), schedule.sigma(0.0)) == (1, 0)


@every_schedule
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_a_schedule_solves_its_equations(schedule, share):
    """dδ/dt = -γ δ and dσ²/dt = -2 γ σ² + g², by central differences."""
    t, h, gamma = share * schedule.times(1)[0], 1e-5, schedule.stiffness
    slopes = [(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.scale, lambda t: schedule.sigma(t) ** 2)]
    of_variance = -2 * gamma * schedule.sigma(t) ** 2 + schedule.diffusion(t) ** 2
    assert slopes == pytest.approx([-gamma * schedule.alpha(t), of_variance], rel=1e-7, abs=1e-10)


@every_schedule
@real_and_complex
def test_the_forward_process_has_these_marginals(schedule, dtype):
    """Ten thousand paths from a place where they all begin, half of the way and all of it."""
    paths, steps, place = 10_000, 500, 2.0
    dt = schedule.times(1)[0] / steps
    g, s = torch.Generator().manual_seed(0), torch.full((paths,), place, dtype=dtype)
    for i in range(steps):
        z = torch.randn(paths, generator=g, dtype=dtype)
        s = s * math.exp(-schedule.stiffness * dt) + schedule.diffusion((i + 0.5) * dt) * math.sqrt(dt) * z
        if i + 1 in (steps // 2, steps):
            t = (i + 1) * dt
            assert far(s, schedule.alpha(t) * place, schedule.sigma(t) ** 2) < 4


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 3, 30, 1000])
def test_times_fall_to_zero(schedule, steps):
    times = schedule.times(steps)
    assert len(times) == steps + 1
    assert all(a > b for a, b in pairwise(times))
    assert times[-1] == 0
    assert times[0] == pytest.approx(schedule.times(2)[0], rel=1e-6)
    assert steps == 1 or times[-2] == pytest.approx(schedule.least)


def test_where_the_times_begin_and_how_they_crowd():
    assert OUVE().times(1) == [1, 0]
    assert OUVE(t_eps=0.2).times(5) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0])
    assert EDM().times(1) == pytest.approx([1.75, 0], rel=1e-6)
    assert EDM(9.0, 1.0, rho=2.0).times(3) == pytest.approx([9, 4, 1, 0])
    assert EDM(9.0, 1.0, rho=1.0).times(3) == pytest.approx([9, 5, 1, 0])


@every_schedule
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(schedule, steps):
    with pytest.raises(ValueError, match=f"expected one step at least, got steps={steps}"):
        schedule.times(steps)


# ------------------------------------------------------------- what is known on the way


@every_schedule
@real_and_complex
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_score_is_the_slope_of_the_log_density(schedule, dtype, posterior, share):
    """Of a Gaussian prior, or of one that knows s_0 and leaves (δ m - s) / σ².

    A complex density is exp(-|s - mean|² / variance), and autograd's slope twice that of Wirtinger.
    """
    t, m, V = share * schedule.times(1)[0], normal(3, 4, dtype=dtype), (not posterior) * positive(3, 4)
    s = normal(2, 3, 4, seed=1, dtype=dtype).requires_grad_()
    mean, variance = marginal(schedule, t, V, m)
    (slope,) = torch.autograd.grad((-(s - mean).abs().square() / (2 * variance)).sum(), s)
    s = s.detach()
    got = score(schedule, s, t, denoised(gaussian(V, m), schedule, s, t).mean)
    torch.testing.assert_close(got, slope)
    if posterior:
        torch.testing.assert_close(got, (schedule.alpha(t) * m - s) / schedule.sigma(t) ** 2)


@real_and_complex
def test_what_is_known_after_seeing_the_mixture_is_a_product_of_gaussians(dtype):
    m, V, V_n = normal(2, 3, 4, dtype=dtype), positive(3, 4, seed=1), positive(3, 4, seed=2)
    x = normal(3, 4, seed=3, dtype=dtype)
    mean, variance = condition(Denoised(m, V), x, V_n)
    torch.testing.assert_close(1 / variance, 1 / V + 1 / V_n)
    torch.testing.assert_close(mean / variance, m / V + x / V_n)
    for got, expected in zip(condition(Denoised(m, V), x, 1e100 + 0 * V_n), (m, V), strict=True):
        torch.testing.assert_close(got, expected)  # all is noise: the prior
    for got, expected in zip(condition(Denoised(m, V), x, 0 * V_n), (x.expand_as(m), 0 * V), strict=True):
        torch.testing.assert_close(got, expected)  # nothing is
    for noise in (V_n, 0 * V_n):  # who is sure is not moved, be the noise none
        assert condition(Denoised(m, 0 * V), x, noise).mean.equal(m)
        assert not condition(Denoised(m, 0 * V), x, noise).variance.any()


@every_schedule
@real_and_complex
def test_a_guided_denoiser_has_the_score_of_the_posterior(schedule, dtype):
    """That of s_t given x, whose s_0 is the Wiener filter's Gaussian; by no other way than its own denoiser."""
    V_s, V_n, t = positive(3, 4), positive(3, 4, seed=1), 0.4
    x, s = normal(3, 4, dtype=dtype), normal(2, 3, 4, seed=1, dtype=dtype)
    G = V_s / (V_s + V_n)
    posterior = condition(denoised(gaussian(V_s), schedule, s, t), x, V_n)
    expected = denoised(gaussian(G * V_n, G * x), schedule, s, t)
    torch.testing.assert_close(posterior.mean, expected.mean)
    torch.testing.assert_close(posterior.variance, expected.variance)


# ------------------------------------------------------------- the steps of the samplers


@every_schedule
@real_and_complex
def test_it_starts_at_the_mixture_in_the_greatest_noise(schedule, dtype):
    x = normal(2, 3, dtype=dtype)
    s = diffusion.start(x, schedule, 20_000, generators([3, 4], 2))
    assert s.shape == (20_000, 2, 3)
    assert s.dtype == dtype
    assert far(s, x, schedule.sigma(schedule.times(1)[0]) ** 2) < 4


@every_schedule
@real_and_complex
@pytest.mark.parametrize("snr", [0.1, 0.5])
def test_the_corrector_leaves_the_marginal_by_its_known_bias(schedule, dtype, snr):
    """Of a variance v it makes (1 - ε / v)² v + 2 ε = v + ε² / v."""
    t, m, V = 0.5, torch.tensor([0.3, -1.0]).double(), torch.tensor([0.05, 0.3]).double()
    mean, v = marginal(schedule, t, V, m)
    s = mean + v.sqrt() * normal(50_000, 1, 2, dtype=dtype)
    clean = denoised(gaussian(V, m), schedule, s, t).mean
    biased = v + (snr * schedule.sigma(t)) ** 4 / v  # ε = (snr σ)²
    assert far(correct(schedule, s, t, clean, generators(1, 1), snr=snr)[:, 0], mean, biased) < 4
    assert correct(schedule, s, t, clean, generators(1, 1), snr=0.0).equal(s)


@every_schedule
@real_and_complex
def test_a_small_step_of_the_predictor_goes_to_the_earlier_marginal(schedule, dtype):
    """But for dt²: half the step, a quarter of the error in mean and in variance."""
    t, V, m = 0.5, 0.3, 1.5
    mean, variance = marginal(schedule, t, V, m)
    s = mean + variance**0.5 * torch.tensor([0, 1], dtype=dtype)
    errors = []
    for dt in (0.002, 0.001):
        there, added, scale, sigma = predict(schedule, s, t, t - dt, denoised(gaussian(V, m), schedule, s, t).mean)
        assert (scale, sigma) == (schedule.alpha(t), schedule.sigma(t))
        expected = marginal(schedule, t - dt, V, m)
        got = there[0], there.diff().abs().square() + added**2
        errors.append([float((a - b).abs()) for a, b in zip(got, expected, strict=True)])
    assert max(errors[0]) < 1e-4
    assert errors[0] == pytest.approx([4 * half for half in errors[1]], rel=0.02)


@dataclass(frozen=True)
class Still(OUVE):
    """Nothing but the decay."""

    def diffusion(self, t):
        return 0.0


@real_and_complex
def test_the_predictor_without_score_and_without_diffusion(dtype):
    """Where the prior takes s / δ for the speech, its score is zero; where g is zero, no prior matters."""
    s, t, after = normal(2, 1, 3, dtype=dtype), 0.5, 0.4
    for schedule in SCHEDULES:
        to = predict(schedule, s, t, after, s / schedule.alpha(t))
        torch.testing.assert_close(to.mean, (1 + schedule.stiffness * (t - after)) * s)
        assert to.variance == pytest.approx(schedule.diffusion(t) ** 2 * (t - after))
    to = predict(Still(), s, t, after, normal(2, 1, 3, seed=1, dtype=dtype))
    torch.testing.assert_close(to.mean, (1 + 1.5 * (t - after)) * s)
    assert to.draw(generators(0, 1)).equal(to.mean)


@real_and_complex
def test_a_transition_is_drawn_from(dtype):
    mean, V = normal(2, 3, dtype=dtype), positive(2, 3)
    for variance in (V, 0.7):
        s = Transition(mean.expand(20_000, 2, 3), variance**0.5, 1.0, 1.0).draw(generators([3, 4], 2))
        assert far(s, mean, variance) < 4


@every_schedule
def test_a_step_is_a_corrector_then_a_predictor(schedule):
    """The prior is asked before each, and what it said last is handed on; the guide sees the prior's transition."""
    t, after, prior = 0.5, 0.4, gaussian(positive(3, 4))
    s = normal(5, 2, 3, 4, dtype=torch.cdouble)
    here = correct(schedule, s, t, denoised(prior, schedule, s, t).mean, g := generators([1, 2], 2), snr=0.3)
    posterior = denoised(prior, schedule, here, t)
    to = predict(schedule, here, t, after, posterior.mean)
    guide = lambda seen: seen._replace(mean=2 * seen.mean, std=0.1)  # noqa: E731
    for made in (None, guide):
        got = step(prior, schedule, s, t, after, generators=generators([1, 2], 2), snr=0.3, guide=made)
        expected = (made(to) if made else to).draw([h.clone_state() for h in g])
        assert got.position.equal(expected)
        assert got.posterior.mean.equal(posterior.mean)
        assert got.posterior.variance.equal(posterior.variance)


@every_schedule
def test_the_last_step_has_no_noise(schedule):
    s, prior = normal(5, 1, 3), gaussian(positive(3))
    for after, same in ((0.0, True), (0.01, False)):
        one, two = (
            step(prior, schedule, s, 0.1, after, generators=generators(seed, 1), snr=0.0).position for seed in (1, 2)
        )
        assert one.equal(two) is same
    to = predict(schedule, s, 0.1, 0.0, denoised(prior, schedule, s, 0.1).mean)
    assert step(prior, schedule, s, 0.1, 0.0, generators=generators(1, 1), snr=0.0).position.equal(to.mean)


def test_the_guide_acts_in_every_second_step():
    seen = []
    walk = reverse(
        gaussian(positive(3)), OUVE(), normal(2, 1, 3), steps=5, generators=generators(0, 1),
        guide=lambda to: seen.append(to.sigma) or to, every=2,
    )  # fmt: skip
    assert len(list(walk)) == 5
    assert seen == [OUVE().sigma(t) for t in OUVE().times(5)[:5:2]]


# ------------------------------------------------------------- the mixture as a guide


def some_transition(dtype, schedule=SCHEDULES[1]):
    """A transition of three draws of a bin in four places, and a mixture and a noise to go with it."""
    t = 0.6
    to = Transition(normal(3, 1, 4, dtype=dtype), positive(4).sqrt(), schedule.alpha(t), schedule.sigma(t))
    return to, normal(1, 4, seed=1, dtype=dtype), positive(1, 4, seed=2)


@real_and_complex
@pytest.mark.parametrize("weight", [0.1, 1.0, 1.5, 20.0])
def test_the_pseudo_likelihood_moves_a_draw_along_its_gradient(dtype, weight):
    """Each draw by λ v / δ (x - s / δ) / (σ² / δ² + V_n)."""
    to, x, V_n = some_transition(dtype)
    v, delta, sigma = to.variance, to.scale, to.sigma
    got = pseudo_likelihood(to, x, V_n, weight)
    s = to.draw(generators(0, 1))
    moved = s + weight * v / delta * (x - s / delta) / (sigma**2 / delta**2 + V_n)
    torch.testing.assert_close(got.draw(generators(0, 1)), moved)
    assert (got.scale, got.sigma) == (to.scale, to.sigma)


@real_and_complex
def test_a_pseudo_likelihood_of_no_weight_changes_nothing(dtype):
    to, x, V_n = some_transition(dtype)
    got = pseudo_likelihood(to, x, V_n, 0.0)
    assert got.mean.equal(to.mean)
    assert got.variance.equal(to.variance.expand(1, 4))
    assert not pseudo_likelihood(to, x, V_n).mean.equal(to.mean)


@real_and_complex
def test_the_transition_of_the_posterior_is_a_product_of_gaussians(dtype):
    to, x, V_n = some_transition(dtype)
    mean, std, *_ = posterior_transition(to, x, V_n)
    variance = std**2
    seen = to.sigma**2 + to.scale**2 * V_n  # s_t given x
    torch.testing.assert_close(1 / variance, 1 / to.variance + 1 / seen)
    torch.testing.assert_close(mean / variance, to.mean / to.variance + to.scale * x / seen)
    got = posterior_transition(to, x, 1e100 + 0 * V_n)
    torch.testing.assert_close(got.mean, to.mean)
    torch.testing.assert_close(got.variance, to.variance.expand(1, 4))
    one, same = (posterior_transition(to._replace(std=v), x, V_n) for v in (0.3, torch.full_like(V_n, 0.3)))
    torch.testing.assert_close(one.mean, same.mean)  # a number, as an unguided transition has it


@every_schedule
@real_and_complex
def test_both_guides_agree_in_small_steps(schedule, dtype):
    """To first order in the transition's variance, at a weight of 1: half of it, a quarter of the distance."""
    _, x, V_n = some_transition(dtype)
    apart = []
    for v in (1e-4, 5e-5):
        to = Transition(normal(3, 1, 4, dtype=dtype), v**0.5, schedule.alpha(0.6), schedule.sigma(0.6))
        a, b = pseudo_likelihood(to, x, V_n, 1.0), posterior_transition(to, x, V_n)
        apart.append([float((a.mean - b.mean).norm()), float((a.variance - b.variance).norm())])
    assert apart[0] == pytest.approx([4 * half for half in apart[1]], rel=0.02)


# ------------------------------------------------------------- where it all leads


@fine_schedules
@real_and_complex
def test_without_a_guide_it_ends_in_the_prior(schedule, dtype):
    """From noise alone, which is not quite where the process would be: what is left of that is within the bounds."""
    V = torch.tensor([0.01, 0.05, 0.2]).double()
    s = diffusion.start(torch.zeros(1, 3, dtype=dtype), schedule, 2000, generators(0, 1))
    end = last(reverse(gaussian(V), schedule, s, steps=200, generators=generators(1, 1)))
    assert far(end[:, 0], torch.zeros(3), V) < 4


def problem(dtype, schedule, draws=3000):
    """Variances (3, 2), a mixture louder than they would have it, its Wiener posterior, and draws of s at time 1."""
    V_s, V_n = torch.tensor([[0.05], [0.3], [1.0]]).double(), torch.tensor([0.02, 0.4]).double()
    x = 1.5 * (V_s + V_n).sqrt() * torch.tensor([[1, -1], [-1, 1], [1, 1]]).to(dtype)
    G = V_s / (V_s + V_n)
    mean, variance = marginal(schedule, schedule.times(1)[0], G * V_n, G * x)
    s = mean + variance.sqrt() * normal(draws, 1, 3, 2, dtype=dtype)
    return V_s, V_n, x, (G * x, G * V_n), s


def flowed(denoise, schedule, s, times, *, heun=True):
    for t, after in pairwise(times):
        s, _ = flow(denoise, schedule, s, t, after, heun=heun)
    return s


@fine_schedules
@real_and_complex
def test_an_exact_guide_reaches_the_wiener_posterior(schedule, dtype):
    """Mean and variance of three thousand draws within four standard errors, by noise and by the flow alike."""
    V_s, V_n, x, wiener, s = problem(dtype, schedule)
    guided = lambda y, sigma: condition(gaussian(V_s)(y, sigma), x, V_n)  # noqa: E731
    end = last(reverse(guided, schedule, s, steps=150, generators=generators(1, 1)))
    assert far(end[:, 0], *wiener) < 4
    assert far(flowed(guided, schedule, s, schedule.times(150))[:, 0], *wiener) < 4


@fine_schedules
@real_and_complex
@pytest.mark.parametrize(
    "guide", [partial(pseudo_likelihood, weight=1.0), posterior_transition], ids=["pseudo", "product"]
)
def test_an_approximate_guide_does_not(schedule, dtype, guide):
    """Both take s_t for all that is known of s_0: their means are off in every bin."""
    V_s, V_n, x, (mean, V), s = problem(dtype, schedule)
    walk = reverse(
        gaussian(V_s), schedule, s, steps=150, generators=generators(1, 1), guide=lambda to: guide(to, x, V_n)
    )
    end = last(walk)[:, 0]
    assert ((end.mean(0) - mean).abs() / (V / len(end)).sqrt()).min() > 5


@pytest.mark.parametrize("schedule", [OUVE(), EDM()], ids=str)
@real_and_complex
@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
def test_the_order_of_the_flow(schedule, dtype, heun, order):
    """Of a standard normal: s / δ grows like sqrt(1 + (σ/δ)²), so half the step, a half or a quarter of the error."""
    high, low = schedule.times(1)[0], 0.3 * schedule.times(1)[0]
    noise = [schedule.sigma(t) / schedule.alpha(t) for t in (high, low)]
    s = normal(1, 1, 20, dtype=dtype)
    exact = s / schedule.scale(high) * math.sqrt((1 + noise[1] ** 2) / (1 + noise[0] ** 2)) * schedule.scale(low)
    errors = []
    for steps in (20, 40, 80):
        times = torch.linspace(high, low, steps + 1, dtype=torch.float64).tolist()
        got = flowed(gaussian(torch.tensor(1.0)), schedule, s, times, heun=heun)
        errors.append(float((got - exact).norm() / exact.norm()))
    ratios = [a / b for a, b in pairwise(errors)]
    assert ratios == pytest.approx([2**order] * 2, rel=0.1)
    assert abs(ratios[1] - 2**order) < 0.7 * abs(ratios[0] - 2**order)  # and it goes there
    assert errors[-1] < (0.02 if order == 1 else 5e-4)


@every_schedule
@pytest.mark.parametrize(("heun", "calls"), [(False, [1, 1, 1]), (True, [2, 2, 1])])
def test_how_often_the_flow_asks(schedule, heun, calls):
    """And it hands on what it was told first; its last step goes to the mean of what is known."""
    V, asked, s = positive(3), [], normal(2, 1, 3)

    def prior(x, sigma):
        asked.append(sigma)
        return gaussian(V)(x, sigma)

    for (t, after), expected in zip(pairwise(schedule.times(3)), calls, strict=True):
        asked.clear()
        before = denoised(gaussian(V), schedule, s, t)
        s, posterior = flow(prior, schedule, s, t, after, heun=heun)
        assert len(asked) == expected
        assert asked[0] == schedule.sigma(t) / schedule.alpha(t)
        for got, exact in zip(posterior, before, strict=True):
            assert got.equal(exact)
    torch.testing.assert_close(s, posterior.mean)


# ------------------------------------------------------------- alone and in company

WALKS = {
    "reverse": (pseudo_likelihood, False),
    "product": (posterior_transition, False),
    "flow": (condition, True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.cfloat, *DTYPES], ids=str)
@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize("schedule", [OUVE(), EDM()], ids=str)
@pytest.mark.parametrize("name", WALKS)
def test_an_utterance_is_alike_alone_and_in_company(name, schedule, frames, dtype):
    """To the last bit, with a generator of its own; another seed goes elsewhere, and the dtype stays."""
    guide, deterministic = WALKS[name]
    x = normal(5, 9, frames, dtype=torch.cdouble if dtype.is_complex else torch.double).to(dtype)
    V_s, V_n = (positive(*shape).to(x.real) for shape in ((9, frames), (5, 9, frames)))

    def walk(rows, seeds):
        g = generators(seeds, len(seeds))
        s = diffusion.start(x[rows], schedule, 3, g)
        if deterministic:
            guided = lambda y, sigma: guide(gaussian(V_s)(y, sigma), x[rows], V_n[rows])  # noqa: E731
            return flowed(guided, schedule, s, schedule.times(6))
        seen = lambda to: guide(to, x[rows], V_n[rows])  # noqa: E731
        return last(reverse(gaussian(V_s), schedule, s, steps=6, generators=g, guide=seen, every=2))

    together = walk(slice(None), range(5))
    assert together.dtype == dtype
    assert together.shape == (3, 5, 9, frames)
    assert walk(slice(None), range(5)).equal(together)
    for rows in (slice(0, 1), slice(3, 4), slice(1, 3)):
        assert walk(rows, range(5)[rows]).equal(together[:, rows])
    assert not (walk(slice(3, 4), [99]) == together[:, 3:4]).any()
