r"""Diffusion, blind to audio: $s_t = \alpha_t s_0 + \sigma_t z$, its schedules, its samplers, its likelihoods.

A prior is a denoiser: it gives the mean and the variance of $s_0$ given $s_0 + \sigma z$, whatever the schedule, and
Tweedie's formula makes the score of it. Positions are (R, B, F, T), R draws for each of B utterances, of which each has
its own generator; real or complex, where $z$ has variance 1 in all.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch

from sepriors.protocols import Denoise, Denoised
from sepriors.signal.rng import Generators, randn_like


class Schedule(Protocol):
    r"""$s_t = \alpha_t s_0 + \sigma_t z$, the solution of $ds = -\gamma s\, dt + g(t)\, dw$."""

    @property
    def stiffness(self) -> float: ...

    def alpha(self, t: float) -> float:
        """α_t."""

    def sigma(self, t: float) -> float:
        """σ_t."""

    def diffusion(self, t: float) -> float:
        """g(t)."""

    def times(self, steps: int) -> list[float]:
        """Where the reverse process stands before each of its steps, and 0, where it ends."""


@dataclass(frozen=True)
class OUVE:
    r"""Ornstein-Uhlenbeck process with exploding variance (Richter et al., 2023, § III), drawn to zero as in
    Nortier, Sadeghi & Serizel (2024, § 2).

    With $\ell = \log \sigma_\max / \sigma_\min$ it has $\alpha_t = e^{-\gamma t}$, $g(t) = \sigma_\min e^{\ell t}
    \sqrt{2 \ell}$ and
    $\sigma_t^2 = \sigma_\min^2 e^{-2 \gamma t} (e^{2 (\gamma + \ell) t} - 1)\, \ell / (\gamma + \ell)$.

    >>> schedule = OUVE()
    >>> round(schedule.sigma(1.0), 3), round(schedule.alpha(1.0), 3)
    (0.389, 0.223)
    """

    stiffness: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    t_eps: float = 0.03  # t of the last step

    def alpha(self, t: float) -> float:
        return math.exp(-self.stiffness * t)

    def sigma(self, t: float) -> float:
        log_ratio = math.log(self.sigma_max / self.sigma_min)
        rate = self.stiffness + log_ratio
        return self.sigma_min * self.alpha(t) * math.sqrt(math.expm1(2 * rate * t) * log_ratio / rate)

    def diffusion(self, t: float) -> float:
        ratio = self.sigma_max / self.sigma_min
        return self.sigma_min * ratio**t * math.sqrt(2 * math.log(ratio))

    def times(self, steps: int) -> list[float]:
        _check_steps(steps)
        return [*torch.linspace(1, self.t_eps, steps, dtype=torch.float64).tolist(), 0.0]


@dataclass(frozen=True)
class EDM:
    r"""Variance explodes, $\sigma_t = t$ and $\alpha_t = 1$, in the steps of Karras et al. (2022, eq. 5)."""

    sigma_max: float = 1.75
    sigma_min: float = 0.02
    rho: float = 7.0  # how far the steps crowd towards the end
    stiffness: float = 0.0

    def alpha(self, t: float) -> float:
        return 1.0

    def sigma(self, t: float) -> float:
        return t

    def diffusion(self, t: float) -> float:
        return math.sqrt(2 * t)

    def times(self, steps: int) -> list[float]:
        _check_steps(steps)
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        high, low = (s ** (1 / self.rho) for s in (self.sigma_max, self.sigma_min))
        return [*((high + ramp * (low - high)) ** self.rho).tolist(), 0.0]


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"expected one step at least, got steps={steps}")


class Transition(NamedTuple):
    """A step of the reverse process: the Gaussian of where it goes, and the schedule at the time that it leaves.

    `std` is what noise is multiplied by, a standard deviation that may be negative.
    """

    mean: torch.Tensor
    std: torch.Tensor | float
    alpha: float
    sigma: float

    @property
    def variance(self) -> torch.Tensor | float:
        return self.std**2

    def draw(self, generators: Generators) -> torch.Tensor:
        """One position from it, like its mean (R, B, ...)."""
        return self.mean + self.std * randn_like(self.mean, generators, dim=1)


def denoised(denoise: Denoise, schedule: Schedule, s: torch.Tensor, t: float) -> Denoised:
    """What the prior knows of s_0 when the process stands at s at time t."""
    return denoise(s / schedule.alpha(t), schedule.sigma(t) / schedule.alpha(t))


def score(schedule: Schedule, s: torch.Tensor, t: float, mean: torch.Tensor) -> torch.Tensor:
    r"""$\nabla \log p_t(s)$ by Tweedie's formula, $(\alpha_t\, \mathbb{E}[s_0 | s] - s) / \sigma_t^2$ (Efron, 2011)."""
    return (schedule.alpha(t) * mean - s) / schedule.sigma(t) ** 2


def correct(
    schedule: Schedule, s: torch.Tensor, t: float, mean: torch.Tensor, generators: Generators, *, snr: float = 0.5
) -> torch.Tensor:
    r"""One step of annealed Langevin dynamics at time t, $\epsilon = (r \sigma_t)^2$ (Richter et al., 2023, § V)."""
    step = (snr * schedule.sigma(t)) ** 2
    return s + step * score(schedule, s, t, mean) + math.sqrt(2 * step) * randn_like(s, generators, dim=1)


def predict(schedule: Schedule, s: torch.Tensor, t: float, t_next: float, mean: torch.Tensor) -> Transition:
    r"""One Euler-Maruyama step of the reverse process, $ds = (-\gamma s - g^2 \nabla \log p_t)\, dt + g\, dw$.

    Song et al. (2021, eq. 6).
    """
    dt = t - t_next
    variance = schedule.diffusion(t) ** 2 * dt
    moved = s + schedule.stiffness * s * dt + variance * score(schedule, s, t, mean)
    return Transition(moved, math.sqrt(variance), schedule.alpha(t), schedule.sigma(t))


Guide = Callable[[Transition], Transition]


class State(NamedTuple):
    """Where the reverse process stands (R, B, ...), and what the prior knew of s_0 on the way there."""

    position: torch.Tensor
    posterior: Denoised


def copies(x: torch.Tensor, draws: int) -> torch.Tensor:
    """x (B, ...) for each of so many draws, (R, B, ...), in the memory of one; raises ValueError for none."""
    if draws < 1:
        raise ValueError(f"expected one draw at least, got draws={draws}")
    return x.expand(draws, *x.shape)


def start(x: torch.Tensor, schedule: Schedule, draws: int, generators: Generators) -> torch.Tensor:
    """Where the reverse process begins, (R, B, ...): noise of the greatest level on a mixture (B, ...), or on zeros."""
    s = copies(x, draws)
    return s + schedule.sigma(schedule.times(1)[0]) * randn_like(s, generators, dim=1)


def step(
    denoise: Denoise,
    schedule: Schedule,
    s: torch.Tensor,
    t: float,
    t_next: float,
    *,
    generators: Generators,
    guide: Guide | None = None,
    snr: float = 0.5,
) -> State:
    """One step of the corrector at time t, one of the predictor to the time `t_next`; at 0 without noise.

    Two calls of the prior (Song et al., 2021, § 4.2). `guide` makes of the prior's transition one of the posterior.
    """
    s = correct(schedule, s, t, denoised(denoise, schedule, s, t).mean, generators, snr=snr)
    posterior = denoised(denoise, schedule, s, t)
    transition = predict(schedule, s, t, t_next, posterior.mean)
    if guide is not None:
        transition = guide(transition)
    return State(transition.draw(generators) if t_next > 0 else transition.mean, posterior)


def reverse(
    denoise: Denoise,
    schedule: Schedule,
    s: torch.Tensor,
    *,
    steps: int,
    generators: Generators,
    guide: Guide | None = None,
    every: int = 1,
    snr: float = 0.5,
) -> Iterator[State]:
    """The reverse process from s (R, B, ...), by predictor and corrector; `guide` acts in every `every`-th step.

    >>> from sepriors.signal.rng import generators
    >>> normal = lambda x, sigma: Denoised(x / (1 + sigma**2), sigma**2 / (1 + sigma**2) * torch.ones_like(x))
    >>> s = 2 * torch.randn(1, 1, 1, 20_000, generator=torch.Generator().manual_seed(0))
    >>> *_, last = reverse(normal, EDM(), s, steps=100, generators=generators(0, 1))
    >>> bool((last.position.std() - 1).abs() < 0.05)
    True
    """
    for i, (t, t_next) in enumerate(pairwise(schedule.times(steps))):
        now = guide if i % every == 0 else None
        state = step(denoise, schedule, s, t, t_next, generators=generators, guide=now, snr=snr)
        s = state.position
        yield state


def flow(
    denoise: Denoise, schedule: Schedule, s: torch.Tensor, t: float, t_next: float, *, heun: bool = True
) -> tuple[torch.Tensor, Denoised]:
    r"""One step of the deterministic reverse process, and what was known of s_0 before it.

    In $\bar s = s / \alpha$ and $\bar\sigma = \sigma / \alpha$ every schedule is
    $d\bar s / d\bar\sigma = (\bar s - \mathbb{E}[s_0 | s]) / \bar\sigma$ (Karras et al., 2022, eq. 3 and algorithm 1).
    Second order and two calls of the prior with `heun`, though one in the last step; else Euler's, one call.
    """
    noise, less = (schedule.sigma(u) / schedule.alpha(u) if u else 0.0 for u in (t, t_next))
    x = s / schedule.alpha(t)
    before = denoise(x, noise)
    slope = (x - before.mean) / noise
    x_next = x + (less - noise) * slope
    if heun and less > 0:
        slope = (slope + (x_next - denoise(x_next, less).mean) / less) / 2
        x_next = x + (less - noise) * slope
    return schedule.alpha(t_next) * x_next, before


def pseudo_likelihood(transition: Transition, x: torch.Tensor, V_n: torch.Tensor, weight: float = 1.5) -> Transition:
    r"""The noise-perturbed pseudo-likelihood of Meng & Kabashima (2022), as Nortier et al. (2024, § 3) weigh it.

    $\tilde p(x \mid s_t) = \mathcal{N}(s_t / \alpha_t,\, \sigma_t^2 / \alpha_t^2 + V_n)$: as if all that is known of
    $s_0$ were $s_t$. The draw moves along its gradient by $\lambda g^2 dt$; that draw is a Gaussian again.
    """
    alpha = transition.alpha
    a = weight * transition.variance / (transition.sigma**2 + alpha**2 * V_n)
    mean = transition.mean + a * (alpha * x - transition.mean)
    return transition._replace(mean=mean, std=(1 - a) * transition.std)


def posterior_transition(transition: Transition, x: torch.Tensor, V_n: torch.Tensor) -> Transition:
    r"""The product of the transition and of what x says of s_t: no weight (DEPSE, Sadeghi et al., 2025, IL).

    $s_t \mid x \sim \mathcal{N}(\alpha_t x, \alpha_t^2 (\sigma_t^2 / \alpha_t^2 + V_n))$, the pseudo-likelihood again.
    """
    alpha = transition.alpha
    seen = transition.sigma**2 + alpha**2 * V_n  # variance of s_t given x
    fraction = transition.variance / (transition.variance + seen)
    mean = transition.mean + fraction * (alpha * x - transition.mean)
    return transition._replace(mean=mean, std=(fraction * seen).sqrt())


def condition(posterior: Denoised, x: torch.Tensor, V_n: torch.Tensor, floor: float = 1e-12) -> Denoised:
    r"""What is known of $s_0$ once $x = s_0 + n$, $n \sim \mathcal{N}(0, V_n)$, is seen too: product of two Gaussians.

    Its mean makes the score of the posterior, by Tweedie's formula: exact where $s_0$ given $s_t$ is a Gaussian of
    independent bins, with the prior's own variance where the pseudo-likelihood has $\sigma_t^2 / \alpha_t^2$.

    >>> made = condition(Denoised(torch.tensor(0.0), torch.tensor(3.0)), torch.tensor(4.0), torch.tensor(1.0))
    >>> float(made.mean), float(made.variance)
    (3.0, 0.75)
    """
    G = posterior.variance / (posterior.variance + V_n).clamp_min(floor)
    return Denoised(posterior.mean + G * (x - posterior.mean), G * V_n)
