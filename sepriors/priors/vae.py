r"""Frame-wise variational autoencoder: $s_{ft} \sim \mathcal{N}_c(0, V_f(z_t))$, $z_t \sim \mathcal{N}(0, I)$.

Leglaive, Girin & Horaud (2018, § 2): one hidden layer of 128 tanh units on either side, trained on the powers of clean
speech. Frames are columns, as everywhere in the package: power (..., F, T), latent variables (..., L, T).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import ClassVar, NamedTuple, Self

import torch
from torch import nn

from sepriors.protocols import Drawn
from sepriors.signal.gaussian import FLOOR, log_likelihood
from sepriors.signal.rng import Generators, generators, rand, randn
from sepriors.signal.stft import STFT, griffin_lim
from sepriors.weights import Weights


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

    One product an utterance, whatever else is in the batch: a product of all columns at once would round differently.
    """
    columns = x.reshape(-1, *x.shape[-2:])
    if weight.ndim == 3:
        weight, bias = (p.expand(*x.shape[:-2], *p.shape[1:]).flatten(0, x.ndim - 3) for p in (weight, bias))
    else:
        weight, bias = (p.expand(len(columns), *p.shape) for p in (weight, bias))
    return torch.baddbmm(bias.unsqueeze(-1), weight, columns).reshape(*x.shape[:-2], -1, x.shape[-1])


class Autoencoder(nn.Module):
    """What `VAE` and `RVAE` share: their sizes, and a standard normal prior of latent variables (..., L, T)."""

    family: ClassVar[str]
    stft: STFT
    latent: int
    hidden: int

    @classmethod
    def from_weights(cls, found: Weights) -> Self:
        """The network of a file, its sizes from the file's configuration."""
        c = {key: int(found.config[key]) for key in ("n_fft", "hop", "sample_rate", "latent", "hidden")}
        made = cls(STFT(c["n_fft"], c["hop"], c["sample_rate"]), c["latent"], c["hidden"])
        made.load_state_dict({name: tensor.float() for name, tensor in found.tensors.items()})
        return made

    @property
    def config(self) -> dict[str, str]:
        """What `from_weights` needs beside the tensors."""
        sizes = {**asdict(self.stft), "latent": self.latent, "hidden": self.hidden}
        return {"family": self.family, **{key: str(value) for key, value in sizes.items()}}

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """log N(z; 0, I) of each frame, nats: (..., L, T) -> (..., T)."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-2)


class VAE(Autoencoder):
    """The prior `vae`: encoder q(z | s) and decoder log V(z), each with one hidden layer of tanh units.

    The encoder sees log powers rather than powers, which span ten decades.

    >>> vae = VAE(STFT(512, 128))
    >>> vae.log_variance(vae.encode(torch.rand(2, 257, 10))).shape
    torch.Size([2, 257, 10])
    """

    family = "vae"

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
        if P.shape[-2] != self.stft.bins:
            raise ValueError(
                f"power has F={P.shape[-2]} but the VAE has F={self.stft.bins}; were they made with the same STFT?"
            )
        p = parameters or self.tunable()
        h = torch.tanh(affine(p["hidden.weight"], p["hidden.bias"], 0.1 * P.clamp_min(FLOOR).log()))
        mean, log_variance = affine(p["out.weight"], p["out.bias"], h).chunk(2, dim=-2)
        return Posterior(mean, log_variance)

    def encode(self, P: torch.Tensor) -> torch.Tensor:
        """The mean of q(z | s), (..., L, T)."""
        return self.posterior(P).mean

    def log_variance(self, z: torch.Tensor) -> torch.Tensor:
        """log V(z) (..., F, T) of latent variables z (..., L, T)."""
        p = dict(self.decoder.named_parameters())
        h = torch.tanh(affine(p["hidden.weight"], p["hidden.bias"], z))
        return affine(p["out.weight"], p["out.bias"], h)

    def posterior_shape(self, share: float = 0.3, draws: int = 2000) -> torch.Tensor:
        r"""How posteriors are shaped: a square root (L, L) of $(I + c\, \mathbb{E}[J^\top J])^{-1}$.

        With $J = \partial \log V / \partial z$, $J^\top J$ is the Fisher information of z when a frame is clean; noise
        leaves about a `share` c of it. Its eigenvalues span 7 to 3500 in the card `vae`, nearly the same way for all z.
        """
        W_1, b_1 = (dict(self.decoder.named_parameters())[f"hidden.{p}"].detach() for p in ("weight", "bias"))
        W_2 = dict(self.decoder.named_parameters())["out.weight"].detach()
        z = torch.randn(self.latent, draws, generator=generators(0, 1)[0]).to(W_1)
        slope = 1 - torch.tanh(W_1 @ z + b_1[:, None]).square()
        information = W_1.mT @ ((W_2.mT @ W_2) * (slope @ slope.mT / draws)) @ W_1
        eye = torch.eye(self.latent).to(W_1)
        return torch.linalg.cholesky(torch.linalg.inv(eye + share * information))

    def elbo(self, P: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        r"""Evidence lower bound $\mathbb{E}_q \log p(s \mid z) - \mathrm{KL}(q(z \mid s), p(z))$ of each frame, nats.

        P (..., F, T), noise (R, ..., L, T) standard normal, R draws -> (..., T). It never exceeds log p(s) on average
        over the draws (Kingma & Welling, 2014, eq. 3).
        """
        q = self.posterior(P)
        likelihood = log_likelihood(P, self.log_variance(q.sample(noise)).exp(), dim=-2)
        return likelihood.mean(0) - q.kl()

    def sample(self, seconds: float, each: Generators, *, smooth: float = 0.0) -> torch.Tensor:
        """Speech as this prior imagines it, (B, N), one sample a generator, with Griffin-Lim phase.

        z is drawn anew for each frame, as the model says; with `smooth` its draws are blended over about so many
        seconds, each still a standard normal: what a prior with a memory might do.
        """
        length = round(seconds * self.stft.sample_rate)
        T = 1 - (-length // self.stft.hop)
        like = next(self.parameters())
        frames = smooth * self.stft.sample_rate / self.stft.hop
        reach = math.ceil(2 * frames)
        offsets = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device) / max(frames, 1e-3)
        kernel = torch.exp(-0.5 * offsets.square())
        z = randn((self.latent, T + 2 * reach), each, like)
        z = nn.functional.conv1d(z.flatten(0, 1)[:, None], (kernel / kernel.norm())[None, None])
        magnitude = (0.5 * self.log_variance(z.reshape(len(each), self.latent, T))).exp()
        phase = 2 * math.pi * rand(magnitude.shape[1:], each, like)
        return griffin_lim(magnitude, self.stft, length, phase)
