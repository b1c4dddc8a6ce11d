"""Three uses of one posterior p(z | x): draw from it, fit a Gaussian to it, or climb to its mode.

`start(prior, P, generators)` makes the state; a call moves it and gives draws (R, B, L, T) for the M-step; `final`
gives the draws that the estimate of the speech is averaged over.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

from sepriors.inference import mcmc
from sepriors.protocols import EncodedPrior, VariancePrior
from sepriors.signal.rng import Generators, randn_like


class Latent(Protocol):
    """One use of the posterior of the latent variables, round after round."""

    def start(self, prior: Any, P: torch.Tensor, generators: Generators) -> Any: ...

    def __call__(self, target: mcmc.Target, state: Any, generators: Generators) -> tuple[torch.Tensor, Any]: ...

    def final(self, target: mcmc.Target, state: Any, generators: Generators) -> torch.Tensor: ...


class MCMC(NamedTuple):
    """Draws by a Markov chain that goes on from round to round, from the encoder's mean (Leglaive et al., 2018, § 3.2).

    A round takes `steps` steps of `chains` chains a frame and keeps the last `keep` positions of each. The speech is
    averaged over the last `final_keep` positions of a longer run, `final_steps`, of `final_times` as many chains.
    `joint` accepts the frames of an utterance together, which is exact where the decoder makes them depend on each
    other, and slow; apart, each is judged as if its neighbours' proposals were accepted (Sadeghi & Serizel, 2024, § 3).
    """

    kernel: mcmc.Kernel
    steps: int
    keep: int = 1
    chains: int = 1
    start_variance: float = 0.0  # variance about the encoder's mean at which the chains start
    perturb: float = 0.0  # variance of the noise that starts each round
    final_steps: int = 0
    final_keep: int = 1
    final_times: int = 1
    joint: bool = False

    def start(self, prior: VariancePrior, P: torch.Tensor, generators: Generators) -> mcmc.Chain:
        z = prior.encode(P).expand(self.chains, -1, -1, -1)
        return mcmc.Chain(_near(z, self.start_variance, generators))

    def __call__(
        self, target: mcmc.Target, state: mcmc.Chain, generators: Generators
    ) -> tuple[torch.Tensor, mcmc.Chain]:
        if self.perturb:
            state = state._replace(position=_near(state.position, self.perturb, generators))
        return self._run(target, state, generators, self.steps, self.keep)

    def final(self, target: mcmc.Target, state: mcmc.Chain, generators: Generators) -> torch.Tensor:
        if not self.final_steps:
            return state.position
        states = mcmc.Chain(state.position.repeat(self.final_times, 1, 1, 1))
        return self._run(target, states, generators, self.final_steps, self.final_keep)[0]

    def _run(
        self, target: mcmc.Target, chain: mcmc.Chain, generators: Generators, steps: int, keep: int
    ) -> tuple[torch.Tensor, mcmc.Chain]:
        target = mcmc.Joint(target) if self.joint else target
        kept = []
        for i, now in enumerate(mcmc.sample(target, self.kernel, chain, steps=steps, generators=generators)):
            chain = now
            if i >= steps - keep:
                kept.append(chain.position)
        return torch.cat(kept), chain


def _near(z: torch.Tensor, variance: float, generators: Generators) -> torch.Tensor:
    """z (R, B, L, T) and as much noise."""
    return z + variance**0.5 * randn_like(z, generators, dim=1) if variance else z.clone()


class PointEstimate(NamedTuple):
    """The posterior's mode, by gradient ascent from the encoder's mean: PEEM of Sadeghi & Serizel (2023).

    `steps` of Adam a round; nothing tells it how sure the posterior is.
    """

    steps: int = 10
    learning_rate: float = 0.005

    def start(self, prior: VariancePrior, P: torch.Tensor, generators: Generators) -> _Mode:
        with torch.inference_mode(False):
            z = prior.encode(P.clone()).detach().unsqueeze(0).clone()
            return _Mode(z, _Ascent([z], torch.optim.Adam([z], self.learning_rate, maximize=True)))

    def __call__(self, target: mcmc.Target, state: _Mode, generators: Generators) -> tuple[torch.Tensor, _Mode]:
        (climber,) = state.ascent.variables
        for _ in range(self.steps):  # the optimiser moves it in place; whoever is asked sees a z of its own
            state.ascent.climb([target.score(climber.clone())])
        state = state._replace(z=climber.clone())
        return state.z, state

    def final(self, target: mcmc.Target, state: _Mode, generators: Generators) -> torch.Tensor:
        return state.z


class Variational(NamedTuple):
    """A Gaussian fitted by tuning the encoder on each utterance: VEM of Leglaive et al. (2020, § 4).

    `steps` of Adam a round; the M-step sees the draw that the last gradient saw, which is decoded already; the estimate
    of the speech is averaged over `final_draws`.
    """

    steps: int = 10
    learning_rate: float = 0.01
    final_draws: int = 10

    def start(self, prior: EncodedPrior, P: torch.Tensor, generators: Generators) -> _Encoders:
        with torch.inference_mode(False):
            P = P.clone()
            tuned = {name: p.detach().expand(len(P), *p.shape).clone() for name, p in prior.tunable().items()}
            adam = torch.optim.Adam(tuned.values(), self.learning_rate, maximize=True)
            return _Encoders(prior, P, tuned, _Ascent(list(tuned.values()), adam))

    def __call__(self, target: Any, state: _Encoders, generators: Generators) -> tuple[torch.Tensor, _Encoders]:
        with torch.inference_mode(False), torch.enable_grad():
            tuned = dict(zip(state.parameters, state.ascent.variables, strict=True))
            for p in tuned.values():
                p.requires_grad_()
            for _ in range(self.steps):
                q = state.prior.posterior(state.P, tuned)
                z, kl = q.draw(randn_like(q.mean, generators))
                draw = z.detach()[None]
                # its gradient is that of the evidence lower bound: the likelihood's, through z, less the divergence's
                bound = (z * target.likelihood_score(draw)[0].detach()).sum() - kl.sum()
                state.ascent.climb(torch.autograd.grad(bound, list(tuned.values())))
        # the optimiser goes on moving its own; an estimate that is asked for later is this round's
        return draw, state._replace(parameters={name: p.detach().clone() for name, p in tuned.items()})

    def final(self, target: mcmc.Target, state: _Encoders, generators: Generators) -> torch.Tensor:
        with torch.no_grad():
            q = state.prior.posterior(state.P, state.parameters)
            return q.draw(randn_like(q.mean.expand(self.final_draws, *q.mean.shape), generators, dim=1)).z


class _Ascent(NamedTuple):
    """Variables and the optimiser that climbs with them."""

    variables: list[torch.Tensor]
    optimiser: torch.optim.Optimizer

    def climb(self, gradients: Any) -> None:
        for variable, gradient in zip(self.variables, gradients, strict=True):
            variable.grad = gradient
        self.optimiser.step()


class _Mode(NamedTuple):
    """Where the climb has come to, z (1, B, L, T), and the climber."""

    z: torch.Tensor
    ascent: _Ascent


class _Encoders(NamedTuple):
    """The prior, the power (B, F, T) of the mixtures, and an encoder for each of them."""

    prior: EncodedPrior
    P: torch.Tensor
    parameters: dict[str, torch.Tensor]
    ascent: _Ascent
