r"""Recurrent variational autoencoder: $s_{ft} \sim \mathcal{N}_c(0, V_f(z_{1:T})_t)$, $z_t \sim \mathcal{N}(0, I)$.

Leglaive, Alameda-Pineda, Girin & Horaud (2020), the non-causal model: an LSTM of 128 units in either direction decodes
the sequence of 16 latent variables a frame, another one reads the speech when it is encoded, and the posterior of a
frame looks back at the latent variables that came before it. Power (..., F, T), latent variables (..., L, T).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn

from sepriors.precision import autocast, lstm_precision
from sepriors.priors.vae import Autoencoder, affine
from sepriors.protocols import Drawn
from sepriors.signal.gaussian import FLOOR
from sepriors.signal.rng import Generators, generators, rand, randn
from sepriors.signal.stft import STFT, griffin_lim


def lstm(x: torch.Tensor, weights: Sequence[torch.Tensor], lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Outputs of an LSTM, or of one in either direction, for inputs x (B, T, I): (B, T, H) or (B, T, 2 H).

    `weights` as torch.nn.LSTM lists them, four a direction. With `lengths` (B,) the backward one starts at each
    sequence's own end, so that what stands behind it never matters.
    """
    both = len(weights) == 8
    if both and lengths is not None:
        back = time_reversed(lstm(time_reversed(x, lengths), weights[4:]), lengths)
        return torch.cat([lstm(x, weights[:4]), back], -1)
    train = x.is_cuda  # cuDNN has gradients in no other way, and without dropout it is the same
    with lstm_precision(x), warnings.catch_warnings() if x.is_cuda else nullcontext():
        if x.is_cuda:  # cuDNN would have a layer's weights side by side, and puts them so at each call
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(weights[0].dtype)
        # whole vectors of sequences: a lone one, or in double precision the odd ones, would be rounded differently
        filled = nn.functional.pad(x, (0, 0, 0, 0, 0, -len(x) % (4 if x.dtype == torch.float64 else 2)))
        zero = x.new_zeros(1 + both, len(filled), weights[1].shape[-1])
        return torch.lstm(filled, (zero, zero), list(weights), True, 1, 0.0, train, both, True)[0][: len(x)]


def time_reversed(x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    """Sequences (B, T, I) backwards, each within its own length; what stands behind it stays.

    >>> time_reversed(torch.arange(4.0).view(1, 4, 1), torch.tensor([3])).flatten()
    tensor([2., 1., 0., 3.])
    """
    if lengths is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device)
    lengths = lengths[:, None]
    return x.gather(1, (lengths - 1 - t).where(t < lengths, t)[..., None].expand(x.shape))


def weights_of(module: nn.Module, name: str) -> list[torch.Tensor]:
    """The parameters of a part of a network, in torch's order."""
    return [p for full, p in module.named_parameters() if full.startswith(f"{name}.")]


class Recurrent(NamedTuple):
    r"""q(z | s): each frame a Gaussian whose mean the latent variables before it move.

    $z_t = c_t + A\, h(z_{1:t-1}) + \sigma_t \epsilon_t$ with an LSTM h. mean c and log_variance (B, L, T), the weights
    of h, and feedback A (L, H).
    """

    # Deviation: σ does not look back, and the mean is linear in h; that is what makes `draw` one call.
    mean: torch.Tensor
    log_variance: torch.Tensor
    memory: Sequence[torch.Tensor]
    feedback: torch.Tensor

    def draw(self, noise: torch.Tensor) -> Drawn:
        """A draw for standard normal noise (..., B, L, T), and each frame's divergence from N(0, I) given its past.

        With u = c + σ ε the LSTM's input is z = u + A h, of which A h is a part of its own recurrence: an LSTM that
        reads u, with the recurrent matrix U + W A, draws the whole sequence without a loop.
        """
        u = self.mean + (0.5 * self.log_variance).exp() * noise
        W, U, *biases = self.memory
        before = nn.functional.pad(u.reshape(-1, *u.shape[-2:]), (1, -1)).mT
        h = lstm(before, [W, U + W @ self.feedback, *biases])
        past = torch.bmm(self.feedback.expand(len(h), -1, -1), h.mT).reshape(u.shape)
        kl = 0.5 * ((self.mean + past).square() + self.log_variance.exp() - self.log_variance - 1).sum(-2)
        return Drawn(u + past, kl)


class RVAE(Autoencoder):
    """The prior `rvae`: recurrent encoder q(z | s) and recurrent decoder log V(z).

    In half precision, where the hardware has it (`fast` None, see `precision.autocast`), it takes half the time, and
    the variance is off by a hundredth of a nat.

    >>> rvae = RVAE(STFT(512, 128))
    >>> rvae.log_variance(rvae.encode(torch.rand(2, 257, 10))).shape
    torch.Size([2, 257, 10])
    """

    family = "rvae"

    def __init__(self, stft: STFT = STFT(), latent: int = 16, hidden: int = 128, fast: bool | None = None) -> None:  # noqa: B008
        super().__init__()
        self.stft, self.latent, self.hidden, self.fast = stft, latent, hidden, fast
        # Deviation: the encoder sees log powers rather than powers, which span ten decades.
        self.encoder = nn.ModuleDict(
            {
                "features": nn.LSTM(stft.bins, hidden, bidirectional=True),
                "out": nn.Linear(2 * hidden, 2 * latent),
                "memory": nn.LSTM(latent, hidden),
                "feedback": nn.Linear(hidden, latent, bias=False),
            }
        )
        self.decoder = nn.ModuleDict(
            {"memory": nn.LSTM(latent, hidden, bidirectional=True), "out": nn.Linear(2 * hidden, stft.bins)}
        )

    def tunable(self) -> dict[str, torch.Tensor]:
        """The encoder's parameters that may differ from utterance to utterance: two thirds of them.

        Recurrent matrices are not among them: an LSTM with another one for each utterance would be a loop over frames.
        """
        named = dict(self.encoder.named_parameters())
        return {name: p for name, p in named.items() if name.startswith(("features.", "out.")) and "_hh_" not in name}

    def posterior(
        self,
        P: torch.Tensor,
        parameters: dict[str, torch.Tensor] | None = None,
        lengths: torch.Tensor | None = None,
    ) -> Recurrent:
        """q(z | s) from the power P (..., F, T); `parameters` replaces those of `tunable`, a set an utterance."""
        if P.shape[-2] != self.stft.bins:
            raise ValueError(
                f"power has F={P.shape[-2]} but the RVAE has F={self.stft.bins}; were they made with the same STFT?"
            )
        p = parameters or self.tunable()
        x = 0.1 * P.reshape(-1, *P.shape[-2:]).clamp_min(FLOOR).log()
        with autocast(P, self.fast):
            h = self._features(x, parameters, lengths)
            out = affine(p["out.weight"], p["out.bias"], h.mT).to(P.dtype)
        mean, log_variance = out.reshape(*P.shape[:-2], *out.shape[-2:]).chunk(2, dim=-2)
        memory, (feedback,) = weights_of(self.encoder, "memory"), weights_of(self.encoder, "feedback")
        return Recurrent(mean, log_variance, memory, feedback)

    def _features(
        self, x: torch.Tensor, parameters: dict[str, torch.Tensor] | None, lengths: torch.Tensor | None
    ) -> torch.Tensor:
        """What the encoder's LSTM says (B, T, 2 H) of log powers x (B, F, T)."""
        weights = weights_of(self.encoder, "features")
        if parameters is None:
            return lstm(x.mT, weights, lengths)
        # the gates' inputs come from each utterance's own matrix, and pass the one that torch's LSTM wants
        eye, none = torch.eye(4 * self.hidden).to(x), x.new_zeros(4 * self.hidden)
        ahead, back = (
            affine(parameters[f"features.weight_ih_l0{way}"], parameters[f"features.bias_ih_l0{way}"], x).mT
            for way in ("", "_reverse")
        )
        ahead = lstm(ahead, [eye, weights[1], none, weights[3]])
        back = time_reversed(lstm(time_reversed(back, lengths), [eye, weights[5], none, weights[7]]), lengths)
        return torch.cat([ahead, back], -1)

    def encode(self, P: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """The latent variables (..., L, T) when each is the mean of q, given those before it."""
        q = self.posterior(P, lengths=lengths)
        return q.draw(torch.zeros_like(q.mean)).z

    def log_variance(self, z: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """log V(z) (..., F, T) of latent variables z (..., L, T)."""
        columns = z.reshape(-1, *z.shape[-2:]).mT
        weight, bias = weights_of(self.decoder, "out")
        with autocast(z, self.fast):
            h = lstm(columns, weights_of(self.decoder, "memory"), lengths)
            h = h.contiguous()  # else the product takes half as long again
            log_V = torch.bmm(weight.to(h.dtype).expand(len(h), -1, -1), h.mT)
        log_V = log_V + bias[:, None]  # in single precision: in half of it the sum would lose what the product has
        return log_V.reshape(*z.shape[:-2], *log_V.shape[-2:])

    def elbo(self, P: torch.Tensor, noise: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
        r"""Evidence lower bound, each frame's share, nats; as `VAE.elbo`, and a weight for the divergence."""
        z, kl = self.posterior(P).draw(noise)
        log_V = self.log_variance(z)
        # gaussian.log_likelihood, whose floor no network needs, without a logarithm
        return -((P * (-log_V).exp() + log_V + math.log(math.pi)).sum(-2) + beta * kl).mean(0)

    def posterior_shape(self, share: float = 0.3, draws: int = 2000) -> torch.Tensor:
        r"""How posteriors are shaped: a square root (L, L) of $(I + c\, \mathbb{E}[J_t^\top J_t])^{-1}$, see `VAE`.

        $J_t = \partial \log V / \partial z_t$, the effect of a frame's latent variables on all frames; its products
        come from random signs, $\mathbb{E}\, (J^\top v)(J^\top v)^\top = J^\top J$ (Hutchinson, 1990).
        """
        like = next(self.parameters()).detach()
        random, T, cpu = generators(0, 1), 100, torch.empty((), dtype=like.dtype)  # one matrix, whatever the device
        with torch.inference_mode(False), torch.enable_grad():
            z = randn((max(1, draws // T), self.latent, T), random, cpu)[0].to(like).requires_grad_()
            log_V = self.log_variance(z)
            signs = (2.0 * (rand(log_V.shape, random, cpu)[0] < 0.5) - 1).to(like)
            (g,) = torch.autograd.grad(log_V, z, signs)
        g = g.movedim(-2, 0).flatten(1)
        eye = torch.eye(self.latent).to(like)
        return torch.linalg.cholesky(torch.linalg.inv(eye + share * g @ g.mT / g.shape[-1]))

    def sample(self, seconds: float, each: Generators) -> torch.Tensor:
        """Speech as this prior imagines it, (B, N), one sample a generator, with Griffin-Lim phase."""
        length = round(seconds * self.stft.sample_rate)
        like = next(self.parameters())
        z = randn((self.latent, 1 - (-length // self.stft.hop)), each, like)
        magnitude = (0.5 * self.log_variance(z)).exp()
        phase = 2 * math.pi * rand(magnitude.shape[1:], each, like)
        return griffin_lim(magnitude, self.stft, length, phase)
