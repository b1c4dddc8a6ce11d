r"""What can be done with a density of waveforms in white noise: $x = s + n$, $n \sim \mathcal{N}(0, \sigma^2 I)$.

Climb to a mode of $p(s \mid x) \propto p(s)\, \mathcal{N}(x - s; 0, \sigma^2 I)$, in the signal or in the latent space;
take its mean in one step; or walk through it. All of it for a batch (B, N), every utterance with a level of its own.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from sepriors.inference import mcmc
from sepriors.precision import autocast
from sepriors.protocols import InvertiblePrior, NoisyPrior, SignalPrior
from sepriors.signal import spp
from sepriors.signal.rng import Generators, randn_like


class White(NamedTuple):
    """A mixture as a flow wants it: speech at the level it has seen, whole windows; `back` undoes both."""

    x: torch.Tensor  # (B, N')
    variance: torch.Tensor  # of the white noise, (B,)
    back: Callable[[torch.Tensor], torch.Tensor]


def white(x: torch.Tensor, prior: Any, variance: torch.Tensor | None) -> White:
    """Scale waveforms (B, N) so that their speech has the prior's level, the noise's variance (B,) known or estimated.

    Raises ValueError for a variance that is not positive, or not one an utterance.
    """
    if variance is None:
        variance = spp.white_variance(x)
    elif variance.shape != x.shape[:1] or not bool((variance > 0).all()):
        raise ValueError(f"expected a positive variance of the noise for each of {len(x)} files, got {variance}")
    with torch.inference_mode(False):  # gradients will pass by these
        x, variance = x.clone(), variance.clone()
        power = x.square().mean(-1)
        # -9.5 dB at least: the flows have seen no stronger noise
        speech = torch.maximum(power - variance, 0.1 * power).clamp_min(1e-12)
        gain = prior.rms / speech.sqrt()
        filled = whole_windows(gain[:, None] * x, prior.window)
        floored = (gain.square() * variance).clamp_min(1e-10)  # a signal without noise: -70 dB against the speech
        back = (power > 1e-16) / gain  # silence stays silence
    return White(filled, floored, lambda s: (s * back[:, None])[..., : x.shape[-1]])


class SignalPosterior(NamedTuple):
    r"""$\log p(s) + \log \mathcal{N}(x - s; 0, \sigma^2 I)$, eq. (8) of Shi et al. (2021), of signals s (..., B, N).

    x (B, N), variance (B,) > 0. `fast` computes the couplings of a flow in half precision, which moves log p by
    thousandths; None where the hardware has it (`precision.autocast`).

    >>> normal = SignalPosterior(Gaussian(torch.tensor(1.0)), torch.ones(1, 4), torch.ones(1))
    >>> normal.score(torch.full((1, 4), 0.5))
    tensor([[0., 0., 0., 0.]])
    """

    prior: SignalPrior
    x: torch.Tensor
    variance: torch.Tensor
    fast: bool | None = None

    def log_prior(self, s: torch.Tensor) -> torch.Tensor:
        """log p(s), nats: (..., B, N) -> (..., B)."""
        with autocast(s, self.fast):
            return self.prior.log_prob(s.reshape(-1, s.shape[-1])).reshape(s.shape[:-1])

    def log_likelihood(self, s: torch.Tensor) -> torch.Tensor:
        """log N(x − s; 0, σ² I), nats: (..., B, N) -> (..., B)."""
        variance = self.variance.clone()  # one made in inference mode would not do for gradients
        residual = (self.x - s).square().sum(-1)
        return -0.5 * (residual / variance + self.x.shape[-1] * (2 * math.pi * variance).log())

    def logp(self, s: torch.Tensor) -> torch.Tensor:
        return self.log_prior(s) + self.log_likelihood(s)

    def score(self, s: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            s = s.clone().requires_grad_()
            return torch.autograd.grad(self.logp(s).sum(), s)[0]


class Gaussian(NamedTuple):
    """White Gaussian signals as a prior: what a flow is when it does nothing, and its posterior is Wiener's."""

    variance: torch.Tensor
    window: int = 1

    @property
    def rms(self) -> float:
        return float(self.variance) ** 0.5

    def log_prob(self, s: torch.Tensor) -> torch.Tensor:
        return -0.5 * (s.square() / self.variance + (2 * math.pi * self.variance).log()).sum(-1)


class AtLevel(NamedTuple):
    """A flow of noisy speech at one level of noise, as a prior: p_τ. tau (B,), of the signals (..., B, N)."""

    prior: NoisyPrior
    tau: torch.Tensor

    def log_prob(self, s: torch.Tensor) -> torch.Tensor:
        return self.prior.log_prob(s, self.tau.repeat(len(s) // len(self.tau)))


class MAPStep(NamedTuple):
    """One step of an ascent: signals (B, N), log p(s) and log p(s | x) + constant (B,), nats; who has stopped (B,)."""

    signal: torch.Tensor
    log_prior: torch.Tensor
    logp: torch.Tensor
    stopped: torch.Tensor | None = None


Stop = Callable[[SignalPosterior, MAPStep], torch.Tensor]


def clean_likelihood(nats: float) -> Stop:
    """Stop where the signal is as likely as clean speech, `nats` a sample: the rule of Shi et al. (2021, § 5.2)."""
    return lambda target, climb: climb.log_prior >= nats * climb.signal.shape[-1]


def discrepancy(target: SignalPosterior, climb: MAPStep) -> torch.Tensor:
    r"""Stop where what has been taken away has the noise's power, $\|x - s\|^2 \ge N \sigma^2$ (Morozov, 1966)."""
    return (target.x - climb.signal).square().mean(-1) >= target.variance


def never(target: SignalPosterior, climb: MAPStep) -> torch.Tensor:
    """Climb on."""
    return torch.zeros_like(climb.logp, dtype=torch.bool)


def climb(
    target: SignalPosterior, *, steps: int, learning_rate: float = 5e-4, stop: Stop = never, data: bool = True
) -> Iterator[MAPStep]:
    """Gradient ascent by Adam from s = x to a mode of the posterior, or with `data=False` of the prior alone.

    Yields the start, then the signals after each step; an utterance stays where it stops, and the ascent ends when all
    have. One whose density ceases to be finite goes back to the best signal it had, with a warning, and stays there.
    """

    def closure(s: torch.Tensor) -> MAPStep:
        log_prior = target.log_prior(s)
        return MAPStep(s, log_prior, log_prior + target.log_likelihood(s) if data else log_prior)

    yield from _ascend(closure, target.x, steps, learning_rate, lambda now: stop(target, now))


def climb_latent(
    target: SignalPosterior, *, steps: int, learning_rate: float = 0.02, weight: float = 1.0, stop: Stop = never
) -> Iterator[MAPStep]:
    r"""Gradient ascent in the latent space: $\log \mathcal{N}(x - f(z); 0, \sigma^2 I) - \frac{\gamma}{2} \|z\|^2$.

    Asim et al. (2020): the log-determinant is left out, and with it what makes silence likely. It starts at f⁻¹(x), and
    what it yields as log_prior is the penalty.
    """
    prior = target.prior
    assert isinstance(prior, InvertiblePrior)

    def closure(z: torch.Tensor) -> MAPStep:
        signal, penalty = prior.inverse(z), -0.5 * weight * z.square().sum(-1)
        return MAPStep(signal, penalty, penalty + target.log_likelihood(signal))

    with torch.no_grad():
        start = prior(target.x).z
    yield from _ascend(closure, start, steps, learning_rate, lambda now: stop(target, now))


def _ascend(
    closure: Callable[[torch.Tensor], MAPStep], start: torch.Tensor, steps: int, learning_rate: float,
    stop: Callable[[MAPStep], torch.Tensor],
) -> Iterator[MAPStep]:  # fmt: skip
    """Adam on the sum of closure(u).logp, from `start` (B, N)."""
    with torch.inference_mode(False):
        u = start.clone()
        optimiser = torch.optim.Adam([u], learning_rate, maximize=True)
    best, highest = u.clone(), torch.full_like(u[:, 0], -math.inf)
    stopped = torch.zeros_like(highest, dtype=torch.bool)
    for i in range(steps + 1):
        now, u.grad = _with_gradient(closure, u)
        lost = ~now.logp.isfinite() & ~stopped
        if lost.any():
            which = ", ".join(map(str, lost.nonzero().flatten().tolist()))
            about = f"no finite density after step {i} of utterance {which}: it keeps its best signal"
            warnings.warn(about, stacklevel=3)
            u[lost] = best[lost]
            now, _ = _with_gradient(closure, u)
        better = now.logp > highest
        best, highest = torch.where(better[:, None], u, best), torch.where(better, now.logp, highest)
        stopped = stopped | lost | stop(now)
        yield now._replace(stopped=stopped)
        if stopped.all():
            return
        before = u.clone()
        optimiser.step()
        u[stopped] = before[stopped]


def _with_gradient(closure: Callable[[torch.Tensor], MAPStep], u: torch.Tensor) -> tuple[MAPStep, torch.Tensor]:
    """What there is to see at u, and the gradient of logp there."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = u.clone().requires_grad_()
        now = closure(leaf)
        (gradient,) = torch.autograd.grad(now.logp.sum(), leaf)
        return MAPStep(*(value.detach().clone() for value in now[:3])), gradient


def denoise(
    prior: NoisyPrior, x: torch.Tensor, variance: torch.Tensor, *, offset: int = 0, fast: bool | None = None
) -> torch.Tensor:
    r"""Posterior mean in one step, $\mathbb{E}[s \mid x] = x + \sigma^2 \nabla \log p_\sigma(x)$.

    Tweedie's formula (Efron, 2011, eq. 1.4): nothing to iterate, so nothing to stop. x (B, N), variance (B,) -> (B, N).
    The first window begins at sample `offset`, the last goes round: a mean over offsets hides where windows meet.
    """
    with torch.inference_mode(False), torch.enable_grad():
        noisy = x.roll(-offset, -1).clone().requires_grad_()
        with autocast(x, fast):
            log_p = prior.log_prob(noisy, variance.sqrt())
        (score,) = torch.autograd.grad(log_p.sum(), noisy)
    removed = -variance[:, None] * score.roll(offset, -1)
    # what is taken away has no more than the noise's power; a flow that meets what it never saw can ask for more
    return x - removed / (removed.square().mean(-1, keepdim=True) / variance[:, None]).sqrt().clamp_min(1)


class LangevinStep(NamedTuple):
    """One level of an annealed walk: the noise left (B,), and the signals of R chains with it, (R, B, N)."""

    tau: torch.Tensor
    signal: torch.Tensor


def anneal(
    prior: NoisyPrior,
    x: torch.Tensor,
    variance: torch.Tensor,
    *,
    levels: int,
    chains: int,
    tau_min: float,
    generators: Generators,
    descend: bool = True,
    steps: int = 0,
    step_scale: float = 0.5,
    fast: bool | None = None,
) -> Iterator[LangevinStep]:
    r"""Draws from p(s | x): noisy chains from the mixture to speech, their noise falling from σ to `tau_min` by levels.

    A signal with noise τ left in it has the posterior $p_\tau(s)\, \mathcal{N}(x - s; 0, (\sigma^2 - \tau^2) I)$, if
    its noise is a part of the mixture's. At τ = σ that is x itself. From τ to τ' < τ a chain goes by

    $$ s' = \hat s + \rho\, (s - \hat s) + \tau' \sqrt{1 - \rho}\, \zeta, \qquad
       \hat s = s + \tau^2 \nabla \log p_\tau(s), \quad \rho = \tau'^2 / \tau^2 $$

    (Ho, Jain & Abbeel, 2020, eq. 7, without its scaling), which is how noise would have been left, were ŝ the speech:
    Langevin dynamics with a drift that also lowers the noise, so that the flow always sees the level it is given. Then
    `steps` of plain Langevin dynamics at that level. With `descend=False` these are all: the annealing of Jayaram &
    Thickstun (2020, algorithm 1). Their size is `step_scale` times $\tau^2 (1 - \tau^2 / \sigma^2)$, what the
    sharper of the two factors allows.
    """
    position = x.repeat(chains, 1)
    each = list(generators)
    sigma, tau = variance.sqrt(), variance.sqrt()
    for i in range(1, levels + 1):
        lower = sigma * (sigma.clamp_max(tau_min) / sigma) ** (i / levels)
        offset = 31 * i % prior.window  # windows meet elsewhere each time
        if descend:
            mean = denoise(prior, position, tau.square().repeat(chains), offset=offset, fast=fast)
            share = (lower / tau).square().repeat(chains)[:, None]
            noise = randn_like(position.unflatten(0, (chains, -1)), each, dim=1).flatten(0, 1)
            position = mean + share * (position - mean) + lower.repeat(chains)[:, None] * (1 - share).sqrt() * noise
        tau = lower
        rest = (variance - tau.square()).clamp_min(1e-3 * variance)
        target = _Signals(SignalPosterior(AtLevel(prior, tau), x, rest, fast))
        kernel = mcmc.Langevin(step_scale * (tau.square() * rest / (tau.square() + rest))[:, None, None])
        start = position.unflatten(0, (chains, 1, -1)).movedim(2, 1)
        for chain in mcmc.sample(target, kernel, start, steps=steps, generators=each):
            position = chain.position.squeeze(2).flatten(0, 1)
        yield LangevinStep(tau, position.unflatten(0, (chains, -1)))


class _Signals(NamedTuple):
    """A posterior of signals as a sampler wants it: positions (R, B, 1, N)."""

    target: SignalPosterior

    def logp(self, s: torch.Tensor) -> torch.Tensor:
        return self.target.logp(s.squeeze(2))

    def score(self, s: torch.Tensor) -> torch.Tensor:
        return self.target.score(s.squeeze(2)).unsqueeze(2)


def whole_windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """Signals (..., N), N > 0, filled up to whole windows with their own beginnings.

    >>> whole_windows(torch.tensor([1.0, 2.0, 3.0]), 2)
    tensor([1., 2., 3., 1.])
    """
    places = torch.arange(-(-x.shape[-1] // window) * window, device=x.device) % x.shape[-1]
    return x[..., places]
