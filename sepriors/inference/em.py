"""The one loop of the book: an E-step that says what the noise looks like, and the NMF update that learns it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch

from sepriors.inference import diffusion, mcmc, nmf
from sepriors.inference.latent import Latent
from sepriors.inference.nmf import NMF
from sepriors.protocols import Denoise, Step, VariancePrior
from sepriors.signal import gaussian
from sepriors.signal.rng import Generators, clone, randn_like


class Expectation(NamedTuple):
    """What an E-step tells the M-step, for R draws: power and offset (R, ..., F, T), or no offset.

    `estimate()` gives the speech (..., F, T), complex: a function, so only the rounds that one looks at pay for it.
    """

    power: torch.Tensor
    offset: torch.Tensor | None
    estimate: Callable[[], torch.Tensor]


class EStep(Protocol):
    """Posterior statistics of the speech given the noise variance V_n (..., F, T)."""

    def start(self, X: torch.Tensor, generators: Any) -> Any: ...

    def __call__(self, X: torch.Tensor, V_n: torch.Tensor, state: Any) -> tuple[Any, Expectation]: ...


def em(
    X: torch.Tensor,
    estep: EStep,
    noise: Any,
    *,
    iterations: int,
    generators: Any,
    update: Callable[[Any, torch.Tensor, torch.Tensor | None], Any] = nmf.fast_update,
) -> Iterator[Step]:
    """Expectation-maximisation of a noise model around any speech prior; yields a `Step` a round.

    X complex mixture (..., F, T); `noise` has a variance, and `update` (noise, power, offset) learns it, see
    `noise_models.NoiseModel`. The last round has an E-step only, so its estimate belongs to the noise model in it.
    """
    state = estep.start(X, generators)
    for i in range(iterations):
        state, e = estep(X, noise.variance, state)  # E
        yield Step(i, noise, e.estimate)
        if i < iterations - 1:
            noise = update(noise, e.power, e.offset)  # M


class NMFE(NamedTuple):
    """E-step of a speech prior that is itself an NMF with known bases W (F, K): no latent to draw, only H to update.

    H starts at `initial_gain` times the mixture's power: speech that starts low has to earn its place where the noise
    model does not fit. Sixty-four bases that start at the mixture's own level take stationary noise for speech, and a
    multiplicative update never lets go of it.
    """

    W: torch.Tensor
    # 1, .1, .03, .01 gave +1.9, 2.9, 3.1, 2.8 dB of SI-SDR on validation speakers, training noises
    initial_gain: float = 0.03

    def start(self, X: torch.Tensor, generators: Generators) -> NMFState:
        P = X.abs().square()
        W, H = nmf.init(P, self.W.shape[-1], generators, self.W.to(P))
        speech = NMF(W, self.initial_gain * H)
        return NMFState(P, speech, speech.variance)

    def __call__(self, X: torch.Tensor, V_n: torch.Tensor, state: NMFState) -> tuple[NMFState, Expectation]:
        P, speech, V_s = state
        speech = nmf.fast_update(speech, P[None], V_n[None], bases=False, variance=V_s)
        V_s = speech.variance
        return NMFState(P, speech, V_s), Expectation(P[None], V_s[None], lambda: gaussian.wiener(X, V_s, V_n))


class NMFState(NamedTuple):
    """The mixture's power, the speech model, and its variance, which the next round would else compute again."""

    P: torch.Tensor
    speech: NMF
    V_s: torch.Tensor


class Decoder:
    """Variances of a prior at some z, once for all who ask about the same z: decoding is the dearest part of a round.

    The M-step of a round, its gain, and the first gradient of the next round all look at the same draws. One draw after
    the other, since the arrays of one stay in a processor's cache and those of ten do not. Whoever has asked for a
    gradient will ask again: from then on a variance is computed in a way that can be differentiated.
    """

    def __init__(self, prior: VariancePrior) -> None:
        self.prior = prior
        self.differentiable = False
        self._asked: torch.Tensor | None = None

    def variance(self, z: torch.Tensor) -> torch.Tensor:
        """V_s(z), (R, B, F, T)."""
        if z is not self._asked:
            with torch.inference_mode(False), torch.set_grad_enabled(self.differentiable):
                self._leaves = [draw.detach().clone().requires_grad_(self.differentiable) for draw in z]
                self._log_V = [self.prior.log_variance(leaf) for leaf in self._leaves]
            self._V = torch.empty(len(z), *self._log_V[0].shape, dtype=z.dtype, device=z.device)
            for V, log_V in zip(self._V, self._log_V, strict=True):
                torch.exp(log_V.detach(), out=V)  # exp2 is faster, and rounds by an array's place in the batch
            self._asked = z
        return self._V

    def pullback(self, z: torch.Tensor, slope: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The gradient of sum(slope × log V_s(z)), (R, B, L, T); `slope` makes of a draw's V_s an array like it."""
        if not self.differentiable:
            self.differentiable, self._asked = True, None
        slopes = (slope(V) for V in self.variance(z))
        triples = zip(self._log_V, self._leaves, slopes, strict=True)
        grads = [torch.autograd.grad(log_V, leaf, s, retain_graph=True)[0] for log_V, leaf, s in triples]
        return torch.stack(grads)


class VariancePosterior(NamedTuple):
    r"""What a sampler sees: $\log p(x \mid z) p(z)$ with $x \sim \mathcal{N}_c(0, g V_s(z) + V_n)$, and its gradient.

    P, V_n (B, F, T), gain (B, 1, T); z (R, B, L, T).
    """

    decoder: Decoder
    P: torch.Tensor
    V_n: torch.Tensor
    gain: torch.Tensor

    def variance(self, z: torch.Tensor) -> torch.Tensor:
        """g V_s(z), (R, B, F, T)."""
        return self.gain * self.decoder.variance(z)

    def logp(self, z: torch.Tensor) -> torch.Tensor:
        """Of each chain, up to a constant; its shape is that of `prior.log_prior`."""
        log_prior = self.decoder.prior.log_prior(z)
        V_x = torch.addcmul(self.V_n, self.gain, self.decoder.variance(z)).clamp_min_(gaussian.FLOOR)
        cost = (self.P / V_x).add_(V_x.log_()).sum(-2)  # gaussian.log_likelihood in place, without its constant
        return log_prior - (cost if cost.ndim == log_prior.ndim else cost.sum(-1))

    def likelihood_score(self, z: torch.Tensor) -> torch.Tensor:
        r"""$\nabla_z \log p(x \mid z) = (\nabla_z \log V_s)\, G (P / V_x - 1)$, $G = g V_s / V_x$: no logarithm."""
        V_n = self.V_n.clamp_min(gaussian.FLOOR)

        def slope(V: torch.Tensor) -> torch.Tensor:
            V_s = self.gain * V
            V_x = V_s + V_n
            return (self.P / V_x).sub_(1).mul_(V_s.div_(V_x))

        return self.decoder.pullback(z, slope)

    def score(self, z: torch.Tensor) -> torch.Tensor:
        return self.likelihood_score(z) + mcmc.Density(self.decoder.prior.log_prior).score(z)


class VarianceE(NamedTuple):
    """E-step of a variance prior: some use of the posterior of its latent variables, and a gain for each frame.

    The gain (Leglaive, Girin & Horaud, 2018, § 2.3) frees the prior of the level at which it was trained. It belongs to
    the speech, so it is updated here, by the rule of the noise's activations (eq. 27). It starts at `initial_gain`: as
    in `NMFE`, speech starts low and has to earn its place. With `gain=False` it stays there, and z alone says how loud
    a frame is.
    """

    prior: VariancePrior
    latent: Latent
    gain: bool = True
    initial_gain: float = 0.01  # power; with plain steps 1 lost 1 dB of SI-SDR and more

    def start(self, X: torch.Tensor, generators: Generators) -> VarianceState:
        P = X.abs().square()
        latent = self.latent.start(self.prior, P, generators)
        return VarianceState(P, Decoder(self.prior), latent, torch.full_like(P[:, :1], self.initial_gain), generators)

    def __call__(self, X: torch.Tensor, V_n: torch.Tensor, state: VarianceState) -> tuple[VarianceState, Expectation]:
        P, decoder, latent, gain, generators = state
        posterior = VariancePosterior(decoder, P, V_n, gain)
        draws, latent = self.latent(posterior, latent, generators)
        V_s = posterior.variance(draws)
        if self.gain:
            change = update_gain(P, V_s, V_n)
            gain, V_s = gain * change, V_s.mul_(change)
        state = VarianceState(P, decoder, latent, gain, generators)
        then = state._replace(generators=clone(generators))  # whenever it is asked for, the estimate is this round's
        return state, Expectation(P.expand(len(draws), *P.shape), V_s, lambda: self._estimate(X, V_n, then))

    def _estimate(self, X: torch.Tensor, V_n: torch.Tensor, state: VarianceState) -> torch.Tensor:
        """The Wiener filter averaged over the posterior; its draws leave the generators where they are."""
        posterior = VariancePosterior(Decoder(self.prior), state.P, V_n, state.gain)
        draws = self.latent.final(posterior, state.latent, clone(state.generators))
        speech = torch.zeros_like(X)
        for z in draws:  # not a mean over a stack: its last bit depends on the batch
            speech += gaussian.wiener(X, posterior.variance(z[None])[0], V_n)
        return speech / len(draws)


class VarianceState(NamedTuple):
    """The mixture's power (B, F, T), the decoder, the state of the latent variables, gains (B, 1, T), generators."""

    P: torch.Tensor
    decoder: Decoder
    latent: Any
    gain: torch.Tensor
    generators: Generators


def update_gain(P: torch.Tensor, V_s: torch.Tensor, V_n: torch.Tensor, floor: float = gaussian.FLOOR) -> torch.Tensor:
    r"""The factor by which each frame's gain changes, which never lowers the likelihood of the draws.

    Majorise-minimise, as for an NMF with one activation a frame (Leglaive, Girin & Horaud, 2018, eq. 27), V_s with the
    gain in it: $\Big( \sum_{rf} P V_s V_x^{-2} / \sum_{rf} V_s V_x^{-1} \Big)^{1/2}$.

    P, V_n (B, F, T), V_s (R, B, F, T) -> (B, 1, T). A silent frame's gain falls to zero.
    """
    up, down = torch.zeros_like(P[:, :1]), torch.zeros_like(P[:, :1])
    V_n = V_n.clamp_min(floor)
    for V in V_s:  # a draw at a time, in cache
        V_x = V + V_n
        G = V / V_x
        down += G.sum(-2, keepdim=True)
        up += G.mul_(P).div_(V_x).sum(-2, keepdim=True)
    return (up.clamp_min(floor) / down.clamp_min(floor)).sqrt()


class ReverseE(NamedTuple):
    """E-step of a diffusion prior: draws of the speech by a reverse process that the mixture guides.

    With `restart` each round has a whole process of its own (UDiffSE: Nortier, Sadeghi & Serizel, 2024, algorithm 2),
    which starts at the mixture; else a round is the next `every` steps of a single one, so that the noise is learned on
    the way (UDiffSE+: Ayilo, Sadeghi & Serizel, 2025). `guide` (transition, X, V_n) makes the prior's transition one of
    the posterior, in the first of `every` steps, but for the first `unguided` rounds, whose noise model knows nothing
    yet. `draws` may differ from round to round; those past its end have its last.
    """

    # Deviation: what the prior does not know of the speech is no noise, so its variance is the offset. Without it the
    # noise model grows where the mixture is faint and draws are not.

    denoise: Denoise
    guide: Callable[..., diffusion.Transition] = diffusion.pseudo_likelihood
    restart: bool = True
    schedule: diffusion.Schedule = diffusion.OUVE()
    steps: int = 30
    draws: int | tuple[int, ...] = 4
    every: int = 2
    unguided: int = 0

    def start(self, X: torch.Tensor, generators: Generators) -> ReverseState:
        if self.restart:
            return ReverseState(0, diffusion.copies(X, self._draws(0)), generators)
        return ReverseState(0, diffusion.start(X, self.schedule, self._draws(0), generators), generators)

    def _draws(self, round: int) -> int:
        return self.draws if isinstance(self.draws, int) else self.draws[min(round, len(self.draws) - 1)]

    def __call__(self, X: torch.Tensor, V_n: torch.Tensor, state: ReverseState) -> tuple[ReverseState, Expectation]:
        round, s, generators = state
        hops = list(pairwise(self.schedule.times(self.steps)))
        if self.restart:
            s = diffusion.start(X, self.schedule, self._draws(round), generators)
        else:
            hops = hops[self.every * round : self.every * (round + 1)]
        if not hops:
            rounds = -(-self.steps // self.every)
            raise ValueError(f"expected {rounds} rounds at most, of {self.every} of {self.steps} steps, got another")

        def guide(transition: diffusion.Transition) -> diffusion.Transition:
            return self.guide(transition, X, V_n)

        for i, (t, t_next) in enumerate(hops):
            now = guide if i % self.every == 0 and round >= self.unguided else None
            s, posterior = diffusion.step(self.denoise, self.schedule, s, t, t_next, generators=generators, guide=now)
        speech = s if self.restart else posterior.mean
        left = Expectation((X - speech).abs().square(), posterior.variance, lambda: s.mean(0))
        return ReverseState(round + 1, s, generators), left


class ReverseState(NamedTuple):
    """Rounds done, where the reverse process stands (R, B, F, T), and the generators."""

    round: int
    position: torch.Tensor
    generators: Generators


class GibbsE(NamedTuple):
    r"""E-step of a score prior: one round of a Gibbs sampler between the speech and the speech in noise of one level.

    Ours, after the split Gibbs sampler (Vono, Dobigeon & Chainais, 2019): $s_\sigma \mid s$ adds noise;
    $s \mid s_\sigma, x$ is what the network makes of it, mean and variance, times what the mixture says
    (`diffusion.condition`). Of that the mean is kept rather than a draw, which hardly moves the estimate, and lets the
    noise be underestimated a little. One call of the network a round, no schedule, no weight. The estimate is the mean
    over the rounds since `burn`.
    """

    denoise: Denoise
    sigma: float = 0.4
    draws: int = 1
    burn: int = 4

    def start(self, X: torch.Tensor, generators: Generators) -> GibbsState:
        return GibbsState(0, diffusion.copies(X, self.draws), torch.zeros_like(X), generators)

    def __call__(self, X: torch.Tensor, V_n: torch.Tensor, state: GibbsState) -> tuple[GibbsState, Expectation]:
        done, S, mean, generators = state
        noisy = S + self.sigma * randn_like(S, generators, dim=1)
        posterior = diffusion.condition(self.denoise(noisy, self.sigma), X, V_n)
        S = posterior.mean
        mean = mean + (S.mean(0) - mean) / max(1, done + 1 - self.burn)
        power = (X - S).abs().square() + posterior.variance
        return GibbsState(done + 1, S, mean, generators), Expectation(power, None, lambda: mean)


class GibbsState(NamedTuple):
    """Rounds done, the speech (R, B, F, T), its mean over rounds (B, F, T), and the generators."""

    done: int
    position: torch.Tensor
    mean: torch.Tensor
    generators: Generators
