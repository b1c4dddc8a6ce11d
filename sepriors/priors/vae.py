r"""Frame-wise variational autoencoder: $s_{ft} \sim \mathcal{N}_c(0, V_f(z_t))$, $z_t \sim \mathcal{N}(0, I)$.

Leglaive, Girin & Horaud (2018, § 2): one hidden layer of 128 tanh units on either side, trained on the powers of clean
speech. Frames are columns, as everywhere in the package: power (..., F, T), latent variables (..., L, T).
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from sepriors.priors.base import Configured
from sepriors.protocols import Drawable, Drawn
from sepriors.signal.gaussian import FLOOR
from sepriors.signal.rng import Generators, generators, rand, randn
from sepriors.signal.stft import STFT, griffin_lim


class Posterior(NamedTuple):
    """A diagonal Gaussian over the latent variables: mean and log_variance (..., L, T)."""

    mean: torch.Tensor
    log_variance: torch.Tensor

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """mean + standard deviation × noise, standard normal (..., L, T): the reparametrised draw."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def draw(self, noise: torch.Tensor) -> Drawn:
        """`sample` and `kl` in one."""
        return Drawn(self.sample(noise), self.kl())

    def kl(self) -> torch.Tensor:
        """Kullback-Leibler divergence from the standard normal (Kingma & Welling, 2014, app. B), nats, (..., T)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - self.log_variance - 1).sum(-2)


def affine(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """weight x + bias for columns x (..., I, T): weight (O, I) and bias (O,), or of each utterance, (B, O, I), (B, O).

    Not `nn.functional.linear`, whose vectors are rows.
    """
    return weight @ x + bias.unsqueeze(-1)


def two_layers(p: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A hidden layer of tanh units and a linear one, of columns x (..., I, T)."""
    h = torch.tanh(affine(p["hidden.weight"], p["hidden.bias"], x))
    return affine(p["out.weight"], p["out.bias"], h)


class Autoencoder(Configured):
    """What `VAE` and `RVAE` share: a standard normal prior of latent variables (..., L, T), the bound, and samples."""

    stft: STFT
    latent: int

    @abstractmethod
    def posterior(self, P: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> Drawable:
        """q(z | s) from the power P (..., F, T); `parameters` replaces those of `tunable`, e.g. a set an utterance."""

    @abstractmethod
    def log_variance(self, z: torch.Tensor) -> torch.Tensor:
        """log V(z) (..., F, T) of latent variables z (..., L, T)."""

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """log N(z; 0, I) of each frame, nats: (..., L, T) -> (..., T)."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-2)

    def elbo(self, P: torch.Tensor, noise: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
        r"""Evidence lower bound $\mathbb{E}_q \log p(s \mid z) - \beta\, \mathrm{KL}(q(z \mid s), p(z))$ of each frame.

        P (..., F, T), noise (R, ..., L, T) standard normal, R draws -> (..., T), nats. With β = 1 it never exceeds
        log p(s) on average over the draws (Kingma & Welling, 2014, eq. 3).
        """
        z, kl = self.posterior(P).draw(noise)
        log_V = self.log_variance(z).clamp_min(math.log(FLOOR))
        # gaussian.log_likelihood without a logarithm
        likelihood = -(P.clamp_min(FLOOR) * (-log_V).exp() + log_V + math.log(math.pi)).sum(-2)
        return (likelihood - beta * kl).mean(0)

    def sample(self, seconds: float, each: Generators, *, smooth: float = 0.0) -> torch.Tensor:
        """Speech as this prior imagines it, (B, N), one sample a generator, with Griffin-Lim phase.

        z is drawn anew for each frame, as the model says; with `smooth` its draws are blended over about so many
        seconds, each still a standard normal: what a frame-wise prior with a memory might do.
        """
        length = round(seconds * self.stft.sample_rate)
        like = next(self.parameters())
        width = smooth * self.stft.sample_rate / self.stft.hop  # frames
        radius = math.ceil(2 * width)
        offsets = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device) / max(width, 1e-3)
        kernel = torch.exp(-0.5 * offsets.square())
        z = randn((self.latent, 1 - (-length // self.stft.hop) + 2 * radius), each, like)
        z = nn.functional.conv1d(z.flatten(0, 1)[:, None], (kernel / kernel.norm())[None, None])
        magnitude = (0.5 * self.log_variance(z.reshape(len(each), self.latent, -1))).exp()
        phase = 2 * math.pi * rand(magnitude.shape[1:], each, like)
        return griffin_lim(magnitude, self.stft, length, phase)

    def _log_power(self, P: torch.Tensor) -> torch.Tensor:
        """What the encoder sees, log powers rather than powers, which span ten decades."""
        if P.shape[-2] != self.stft.bins:
            raise ValueError(
                f"power has F={P.shape[-2]} but the {type(self).__name__} has F={self.stft.bins}; were they made with "
                "the same STFT?"
            )
        return 0.1 * P.clamp_min(FLOOR).log()

    def _shape(self, information: torch.Tensor) -> torch.Tensor:
        """A square root of the covariance (L, L) of a posterior that has learned so much beside its prior."""
        eye = torch.eye(self.latent).to(information)
        return torch.linalg.cholesky(torch.linalg.inv(eye + information))


class VAE(Autoencoder):
    """The prior `vae`: encoder q(z | s) and decoder log V(z), each with one hidden layer of tanh units.

    >>> vae = VAE(STFT(512, 128))
    >>> vae.log_variance(vae.encode(torch.rand(2, 257, 10))).shape
    torch.Size([2, 257, 10])
    """

    def __init__(self, stft: STFT = STFT(), latent: int = 32, hidden: int = 128) -> None:  # noqa: B008  it is frozen
        super().__init__()
        self.stft, self.latent, self.hidden = stft, latent, hidden
        self.encoder = nn.ModuleDict({"hidden": nn.Linear(stft.bins, hidden), "out": nn.Linear(hidden, 2 * latent)})
        self.decoder = nn.ModuleDict({"hidden": nn.Linear(latent, hidden), "out": nn.Linear(hidden, stft.bins)})

    def tunable(self) -> dict[str, torch.Tensor]:
        """The parameters that `posterior` takes in place of the encoder's own."""
        return dict(self.encoder.named_parameters())

    def posterior(self, P: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> Posterior:
        """q(z | s) from the power P (..., F, T); `parameters` replaces the encoder's own, e.g. one set an utterance."""
        return Posterior(*two_layers(parameters or self.tunable(), self._log_power(P)).chunk(2, dim=-2))

    def encode(self, P: torch.Tensor) -> torch.Tensor:
        """The mean of q(z | s), (..., L, T)."""
        return self.posterior(P).mean

    def log_variance(self, z: torch.Tensor) -> torch.Tensor:
        """log V(z) (..., F, T) of latent variables z (..., L, T)."""
        return two_layers(dict(self.decoder.named_parameters()), z)

    def posterior_shape(self, fraction: float = 0.3, draws: int = 2000) -> torch.Tensor:
        r"""How posteriors are shaped: a square root (L, L) of $(I + c\, \mathbb{E}[J^\top J])^{-1}$.

        With $J = \partial \log V / \partial z$, $J^\top J$ is the Fisher information of z when a frame is clean; noise
        leaves about a `fraction` c of it. Its eigenvalues span 7 to 3500 in the card `vae`, nearly alike for all z.
        """
        p: Any = {name: p.detach() for name, p in self.decoder.named_parameters()}
        W_1, W_2 = p["hidden.weight"], p["out.weight"]
        z = torch.randn(self.latent, draws, generator=generators(0, 1)[0]).to(W_1)
        slope = 1 - torch.tanh(affine(W_1, p["hidden.bias"], z)).square()
        return self._shape(fraction * W_1.mT @ ((W_2.mT @ W_2) * (slope @ slope.mT / draws)) @ W_1)
