r"""Recurrent variational autoencoder: $s_{ft} \sim \mathcal{N}_c(0, V_f(z_{1:T})_t)$, $z_t \sim \mathcal{N}(0, I)$.

Leglaive, Alameda-Pineda, Girin & Horaud (2020), the non-causal model: an LSTM of 128 units in either direction decodes
the sequence of 16 latent variables a frame, another one reads the speech when it is encoded, and the posterior of a
frame looks back at the latent variables that came before it. Power (..., F, T), latent variables (..., L, T).
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn

from sepriors.precision import autocast, lstm_precision
from sepriors.priors.vae import Autoencoder, Posterior, affine
from sepriors.protocols import Drawn
from sepriors.signal.rng import generators, rand, randn
from sepriors.signal.stft import STFT


def lstm(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Outputs of an LSTM, or of one in either direction, for inputs x (B, T, I): (B, T, H) or (B, T, 2 H).

    `weights` in the order of torch.nn.LSTM's parameters, four a direction.
    """
    directions = len(weights) // 4
    with lstm_precision(x), warnings.catch_warnings() if x.is_cuda else nullcontext():
        if x.is_cuda:  # cuDNN would have a layer's weights side by side, and puts them so at each call
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        x = x.to(weights[0].dtype)
        zero = x.new_zeros(directions, len(x), weights[1].shape[-1])
        train = x.is_cuda  # cuDNN has gradients in no other way, and without dropout it is the same
        return torch.lstm(x, (zero, zero), list(weights), True, 1, 0.0, train, directions == 2, True)[0]


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
        u = Posterior(self.mean, self.log_variance).sample(noise)
        W, U, *biases = self.memory
        previous = nn.functional.pad(u.reshape(-1, *u.shape[-2:]), (1, -1)).mT
        h = lstm(previous, [W, U + W @ self.feedback, *biases])
        past = (self.feedback @ h.mT).reshape(u.shape)
        return Drawn(u + past, Posterior(self.mean + past, self.log_variance).kl())


class RVAE(Autoencoder):
    """The prior `rvae`: recurrent encoder q(z | s) and recurrent decoder log V(z).

    In half precision, where the hardware has it (`fast` None, see `precision.autocast`), it takes half the time, and
    the variance is off by a hundredth of a nat.

    >>> rvae = RVAE(STFT(512, 128))
    >>> rvae.log_variance(rvae.encode(torch.rand(2, 257, 10))).shape
    torch.Size([2, 257, 10])
    """

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

    def posterior(self, P: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> Recurrent:
        """q(z | s) from the power P (..., F, T); `parameters` replaces those of `tunable`, a set an utterance."""
        p = parameters or self.tunable()
        x = self._log_power(P).reshape(-1, *P.shape[-2:])
        with autocast(P, self.fast):
            h = self._features(x, parameters)
            out = affine(p["out.weight"], p["out.bias"], h.mT).to(P.dtype)
        mean, log_variance = out.reshape(*P.shape[:-2], *out.shape[-2:]).chunk(2, dim=-2)
        (feedback,) = self.encoder["feedback"].parameters()
        return Recurrent(mean, log_variance, list(self.encoder["memory"].parameters()), feedback)

    def _features(self, x: torch.Tensor, parameters: dict[str, torch.Tensor] | None) -> torch.Tensor:
        """What the encoder's LSTM says (B, T, 2 H) of log powers x (B, F, T)."""
        weights = list(self.encoder["features"].parameters())
        if parameters is None:
            return lstm(x.mT, weights)
        # the gates' inputs come from each utterance's own matrix, and pass the one that torch's LSTM wants
        eye, none = torch.eye(4 * self.hidden).to(x), x.new_zeros(4 * self.hidden)
        ahead, back = (
            affine(parameters[f"features.weight_ih_l0{way}"], parameters[f"features.bias_ih_l0{way}"], x).mT
            for way in ("", "_reverse")
        )
        ahead = lstm(ahead, [eye, weights[1], none, weights[3]])
        back = lstm(back.flip(1), [eye, weights[5], none, weights[7]]).flip(1)
        return torch.cat([ahead, back], -1)

    def encode(self, P: torch.Tensor) -> torch.Tensor:
        """The latent variables (..., L, T) when each is the mean of q, given those before it."""
        q = self.posterior(P)
        return q.draw(torch.zeros_like(q.mean)).z

    def log_variance(self, z: torch.Tensor) -> torch.Tensor:
        """log V(z) (..., F, T) of latent variables z (..., L, T)."""
        columns = z.reshape(-1, *z.shape[-2:]).mT
        weight, bias = self.decoder["out"].parameters()
        with autocast(z, self.fast):
            h = lstm(columns, list(self.decoder["memory"].parameters()))
            log_V = affine(weight, bias, h.mT)  # a product in half precision, a sum in single
        return log_V.reshape(*z.shape[:-2], *log_V.shape[-2:])

    def posterior_shape(self, fraction: float = 0.3, draws: int = 2000) -> torch.Tensor:
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
        return self._shape(fraction * g @ g.mT / g.shape[-1])
