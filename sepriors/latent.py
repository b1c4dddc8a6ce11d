"""Three uses of one posterior p(z | x): draw from it, fit a Gaussian to it, or climb to its mode.

Each has `start(prior, P) -> state` and `step(target, state, generators) -> (draws, state)`, draws (R, B, L, T), and `final`,
the draws that the estimate of the speech is averaged over.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

from . import mcmc
from .priors import VariancePrior
from .rng import Generators, randn_like


class Latent(Protocol):
    """One use of the posterior of the latent variables, round after round."""

    def start(self, prior: VariancePrior, P: torch.Tensor, generators: Generators) -> Any: ...

    def __call__(self, target: mcmc.Target, state: Any, generators: Generators) -> tuple[torch.Tensor, Any]: ...

    def final(self, target: mcmc.Target, state: Any, generators: Generators) -> torch.Tensor: ...


class MCMC(NamedTuple):
    """Draws by a Markov chain that goes on from round to round, from the encoder's mean (Leglaive et al., 2018, § 3.2).

    A round takes `steps` steps of `chains` chains a frame and keeps the last `keep` positions of each. The speech is
    averaged over `final_keep` positions of a longer run, `final_steps`.
    """

    kernel: mcmc.Kernel
    steps: int
    keep: int = 1
    chains: int = 1
    spread: float = 0.0  # variance about the encoder's mean at which the chains start
    final_steps: int = 0
    final_keep: int = 1

    def start(self, prior: VariancePrior, P: torch.Tensor, generators: Generators) -> torch.Tensor:
        z = prior.encode(P).expand(self.chains, -1, -1, -1)
        return z + self.spread**0.5 * randn_like(z, generators, dim=1)

    def __call__(
        self, target: mcmc.Target, state: torch.Tensor, generators: Generators
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._run(target, state, generators, self.steps, self.keep)

    def final(self, target: mcmc.Target, state: torch.Tensor, generators: Generators) -> torch.Tensor:
        if not self.final_steps:
            return state
        return self._run(target, state, generators, self.final_steps, self.final_keep)[0]

    def _run(
        self, target: mcmc.Target, z: torch.Tensor, generators: Generators, steps: int, keep: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept = []
        for i, chain in enumerate(mcmc.sample(target, self.kernel, z, steps=steps, generators=generators)):
            z = chain.position
            if i >= steps - keep:
                kept.append(z)
        return torch.cat(kept), z


class PointEstimate(NamedTuple):
    """The posterior's mode, by gradient ascent from the encoder's mean: `steps` of Adam a round (PEEM in Sadeghi & Serizel, 2023)."""

    steps: int = 10
    learning_rate: float = 0.005

    def start(self, prior: VariancePrior, P: torch.Tensor, generators: Generators) -> _Ascent:
        with torch.inference_mode(False):
            z = prior.encode(P).unsqueeze(0).clone()
            return _Ascent([z], torch.optim.Adam([z], self.learning_rate, maximize=True))

    def __call__(
        self, target: mcmc.Target, state: _Ascent, generators: Generators
    ) -> tuple[torch.Tensor, _Ascent]:
        (z,) = state.variables
        for _ in range(self.steps):
            state.climb([target.score(z)])
        return z.clone(), state

    def final(self, target: mcmc.Target, state: _Ascent, generators: Generators) -> torch.Tensor:
        return state.variables[0].clone()


class Variational(NamedTuple):
    """A Gaussian fitted by tuning the encoder on each utterance, `steps` of Adam a round (Leglaive et al., 2020, § 4)."""

    steps: int = 10
    learning_rate: float = 0.01
    draws: int = 1
    final_draws: int = 10

    def start(self, prior: VariancePrior, P: torch.Tensor, generators: Generators) -> _Encoders:
        with torch.inference_mode(False):
            P = P.clone()
            tuned = {name: p.detach().expand(len(P), *p.shape).clone() for name, p in prior.encoder.named_parameters()}
            ascent = _Ascent(list(tuned.values()), torch.optim.Adam(tuned.values(), self.learning_rate, maximize=True))
            return _Encoders(prior, P, tuned, ascent)

    def __call__(self, target: Any, state: _Encoders, generators: Generators) -> tuple[torch.Tensor, _Encoders]:
        with torch.inference_mode(False), torch.enable_grad():
            for _ in range(self.steps):
                for p in state.parameters.values():
                    p.requires_grad_()
                q = state.prior.posterior(state.P, state.parameters)
                z = q.sample(randn_like(q.mean, generators))
                # its gradient is that of the evidence lower bound: the likelihood's, through z, less the divergence's
                bound = (z * target.likelihood_score(z.detach()[None])[0].detach()).sum() - q.kl().sum()
                state.ascent.climb(torch.autograd.grad(bound, list(state.parameters.values())))
        return self._draw(state, generators, self.draws), state

    def final(self, target: mcmc.Target, state: _Encoders, generators: Generators) -> torch.Tensor:
        return self._draw(state, generators, self.final_draws)

    def _draw(self, state: _Encoders, generators: Generators, draws: int) -> torch.Tensor:
        with torch.no_grad():
            q = state.prior.posterior(state.P, state.parameters)
            return q.sample(randn_like(q.mean.expand(draws, *q.mean.shape), generators, dim=1))


class _Ascent(NamedTuple):
    """Variables and the optimiser that climbs with them."""

    variables: list[torch.Tensor]
    optimiser: torch.optim.Optimizer

    def climb(self, gradients: Any) -> None:
        for variable, gradient in zip(self.variables, gradients, strict=True):
            variable.grad = gradient
        self.optimiser.step()


class _Encoders(NamedTuple):
    """The prior, the power (B, F, T) of the mixtures, and an encoder for each of them."""

    prior: VariancePrior
    P: torch.Tensor
    parameters: dict[str, torch.Tensor]
    ascent: _Ascent
