r"""Masked autoregressive flow: $z_d = \mu_d(x_{<d}) + \sigma_d(x_{<d})\, x_d$, block upon block.

Papamakarios, Pavlakou & Murray (2017, § 3), by nflows. Points are windows of a signal: `features=2` is the toy of
Shi et al. (2021, § 5.5), and a longer window makes a prior of speech in which no window knows of the next.
"""

import copy
import math
from collections.abc import Sequence

import torch
from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation
from torch import nn

from sepriors.priors.base import Configured
from sepriors.protocols import Image
from sepriors.signal.rng import Generators, randn


class MAF(Configured):
    """The prior `maf`: so many autoregressive blocks, the order of the features reversed between them.

    The base is a standard normal, or with `components` a mixture of so many Gaussians that is learned with the rest: a
    normal base has one mode, and a continuous map must stretch it to reach two. `rms` is the level of what it learns,
    `clean` the log-density of validation speech, nats a sample.

    >>> flow = MAF()
    >>> points = torch.randn(500, 2)
    >>> torch.testing.assert_close(flow.inverse(flow(points).z), points, atol=1e-3, rtol=0)
    """

    def __init__(
        self, features: int = 2, blocks: int = 5, hidden: int = 64, components: int = 1, rms: float = 1.0,
        clean: float = math.inf,
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.blocks, self.hidden, self.components = features, blocks, hidden, components
        self.window, self.rms, self.clean = features, rms, clean
        parts: list[nn.Module] = []
        for i in range(blocks):
            parts += [ReversePermutation(features)] if i else []
            parts.append(MaskedAffineAutoregressiveTransform(features, hidden, num_blocks=1, activation=torch.tanh))
        self.transform = CompositeTransform(parts)
        if components > 1:
            self.weights = nn.Parameter(torch.zeros(components))
            self.means = nn.Parameter(torch.zeros(components, features))
            self.log_stds = nn.Parameter(torch.zeros(components, features))

    def _masks(self) -> dict[str, torch.Tensor]:
        """Which entries of a weight count, by its name."""
        return {name.replace(".mask", ".weight"): m > 0 for name, m in self.named_buffers() if name.endswith(".mask")}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Its parameters as a file has them: of a weight only what its mask lets through, in one row."""
        masks = self._masks()
        return {name: p[masks[name]] if name in masks else p for name, p in self.named_parameters()}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        full = {name: torch.zeros(m.shape).masked_scatter(m, tensors[name]) for name, m in self._masks().items()}
        self.load_state_dict(dict(self.named_buffers()) | tensors | full)

    def start(self, generator: torch.Generator) -> None:
        """Parameters before training, from a generator: nflows takes torch's own."""
        with torch.no_grad():
            for name, p in self.transform.named_parameters():
                bound = 1e-3 if "linear_layers.1" in name else 1 / math.sqrt(p.shape[-1] if p.ndim > 1 else self.hidden)
                p.uniform_(-bound, bound, generator=generator)
            if self.components > 1:
                self.means.normal_(generator=generator)

    def forward(self, s: torch.Tensor) -> Image:
        """f⁻¹: windows side by side (..., N) -> latent variables (..., N) and log |det| (...), nats."""
        points = s.reshape(-1, self.window) / self.rms
        z, log_det = self.transform(points)
        log_det = (log_det - self.window * math.log(self.rms)).reshape(*s.shape[:-1], -1).sum(-1)
        return Image(z.reshape(s.shape), log_det)

    def inverse(self, z: torch.Tensor) -> torch.Tensor:
        """f: latent variables (..., N) -> windows side by side (..., N), a feature after the other."""
        return self.rms * self.transform.inverse(z.reshape(-1, self.window))[0].reshape(z.shape)

    def log_base(self, z: torch.Tensor) -> torch.Tensor:
        """log-density of latent variables (..., D), nats, (...)."""
        if self.components == 1:
            return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        u = (z.unsqueeze(-2) - self.means) * (-self.log_stds).exp()
        each = -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1) - self.log_stds.sum(-1)
        return torch.logsumexp(self.weights.log_softmax(-1) + each, -1)

    def log_prob(self, s: torch.Tensor) -> torch.Tensor:
        r"""$\log p(s)$, eq. (6), nats, the sum over its windows: (..., N) -> (...).

        Raises ValueError for a length that the window does not divide.
        """
        if s.shape[-1] % self.window or not s.shape[-1]:
            expected = f"expected a multiple of {self.window} samples"
            raise ValueError(f"{expected}, got N={s.shape[-1]}; `flows.whole_windows` fills up")
        z, log_det = self(s)
        return self.log_base(z.unflatten(-1, (-1, self.window))).sum(-1) + log_det

    def sample(self, count: int, each: Generators) -> torch.Tensor:
        """So many windows from each generator, (B, count × D)."""
        like = next(self.parameters())
        z = randn((count, self.window), each, like)
        if self.components > 1:
            odds = self.weights.softmax(-1).expand(len(each), -1)
            draws = [torch.multinomial(row, count, replacement=True, generator=g) for row, g in zip(odds, each)]
            k = torch.stack(draws)
            z = self.means[k] + self.log_stds[k].exp() * z
        return self.inverse(z.flatten(-2))


class Ensemble(nn.Module):
    """So many MAFs of one shape, trained and asked at once, each with parameters and points of its own.

    >>> Ensemble([MAF(), MAF()]).log_prob(torch.randn(2, 500, 2)).shape
    torch.Size([2, 500])
    """

    def __init__(self, flows: Sequence[MAF]) -> None:
        super().__init__()
        stacked, self._fixed = torch.func.stack_module_state([_Density(flow) for flow in flows])
        self._names, self._one = list(stacked), [_Density(copy.deepcopy(flows[0]))]  # a list hides its parameters
        self.stacked = nn.ParameterList(stacked.values())

    def log_prob(self, points: torch.Tensor) -> torch.Tensor:
        """log-density of the points (E, n, D) by the flow of each, nats: (E, n)."""

        def one(parameters: dict, fixed: dict, x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(self._one[0], (parameters, fixed), (x,))

        parameters = dict(zip(self._names, self.stacked, strict=True))
        return torch.func.vmap(one)(parameters, self._fixed, points)

    def flows(self) -> list[MAF]:
        """The flows, one by one."""
        made = [copy.deepcopy(self._one[0]) for _ in self.stacked[0]]
        for i, density in enumerate(made):
            own = {name: p.detach()[i] for name, p in zip(self._names, self.stacked, strict=True)}
            density.load_state_dict(own | {name: b[i] for name, b in self._fixed.items()})
        return [density.flow for density in made]


class _Density(nn.Module):
    """A flow whose `forward` is its log-density, as `functional_call` wants it."""

    def __init__(self, flow: MAF) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.flow.log_prob(x)
