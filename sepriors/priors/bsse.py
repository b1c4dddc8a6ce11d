"""A mask from embeddings and spectrum together: the enhancer of Hung et al. (2022), which is trained on pairs (`bsse`).

No prior by itself. What is a prior in it is what its embeddings were pretrained on, and how much that is worth beside
the spectrum is what chapter 8 asks.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from sepriors.priors.base import Configured
from sepriors.priors.ssl import SSL

Inputs = Literal["spectrum", "embeddings", "both"]


class Masked(NamedTuple):
    """log(1 + |X|) of a mixture and of the speech in it (B, T, F), and the mixture's phase factors (B, F, T)."""

    noisy: torch.Tensor
    speech: torch.Tensor
    phase: torch.Tensor

    @property
    def spectrum(self) -> torch.Tensor:
        """The speech's complex spectrum (B, F, T), with the mixture's phase."""
        return self.speech.mT.expm1() * self.phase


class BSSE(Configured):
    """Linear, a bidirectional LSTM of two layers whose directions are summed, a sigmoid mask on log(1 + |X|).

    The layers of `SSL` are normalised, weighted by a softmax and added; each frame stands twice, beside the two spectra
    that it lies between. A mixture is brought to a root mean square of `rms` and back.

    >>> net = BSSE("spectrum", width=8, hidden=8)
    >>> net.enhance(torch.randn(2, 1000)).shape
    torch.Size([2, 1000])
    """

    n_fft, hop, bins = 400, 160, 201
    rms = 0.03

    def __init__(self, inputs: Inputs = "both", ssl: SSL | None = None, width: int = 256, hidden: int = 256) -> None:
        super().__init__()
        if inputs not in get_args(Inputs):
            raise ValueError(f"expected inputs of {' or '.join(get_args(Inputs))}, got {inputs!r}")
        if (ssl is None) != (inputs == "spectrum"):
            raise ValueError(f"expected {'no' if inputs == 'spectrum' else 'an'} SSL for inputs={inputs!r}")
        self.inputs, self.width, self.hidden, self.ssl = inputs, width, hidden, ssl
        size = self.bins * (inputs != "embeddings")
        if ssl is not None:
            self.layer_scores = nn.Parameter(torch.zeros(ssl.layers + 1))
            size += ssl.width
        self.inward = nn.Linear(size, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.outward = nn.Linear(hidden, self.bins)

    @property
    def layer_weights(self) -> torch.Tensor:
        """What each layer of the embeddings counts; they add to 1."""
        return self.layer_scores.softmax(0)

    def spectrum(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) -> complex spectra (B, F, T), T = 1 + ceil(N / 160), by a Hamming window of 400 samples."""
        x = nn.functional.pad(x, (0, -x.shape[-1] % self.hop))
        window = self._window(x)
        return torch.stft(x, self.n_fft, self.hop, window=window, pad_mode="constant", return_complex=True)

    def waveform(self, X: torch.Tensor, length: int) -> torch.Tensor:
        """The inverse of `spectrum`."""
        return torch.istft(X, self.n_fft, self.hop, window=self._window(X.real), length=length)

    def _window(self, like: torch.Tensor) -> torch.Tensor:
        return torch.hamming_window(self.n_fft, dtype=like.dtype, device=like.device)

    def embedding(self, x: torch.Tensor) -> torch.Tensor:
        """The layers' weighted sum (B, T', D) at a hop of 320 samples."""
        assert self.ssl is not None
        states = nn.functional.layer_norm(self.ssl(x), (self.ssl.width,))
        return torch.einsum("l,lbtd->btd", self.layer_weights.to(states), states)

    def mask(self, x: torch.Tensor, log1p: torch.Tensor) -> torch.Tensor:
        """Of mixtures (B, N) with log(1 + |X|) (B, T, F): (B, T, F), between 0 and 1."""
        features = [] if self.inputs == "embeddings" else [log1p]
        if self.ssl is not None:
            features.append(self.embedding(x).repeat_interleave(2, 1)[:, : log1p.shape[1]])
        h, _ = self.lstm(self.inward(torch.cat(features, -1)))
        forward, backward = h.chunk(2, -1)
        return torch.sigmoid(self.outward(forward + backward))

    def forward(self, x: torch.Tensor) -> Masked:
        """Mixtures (B, N) at 16 kHz, at their `rms` or near it."""
        X = self.spectrum(x)
        amplitude = X.abs()
        log1p = amplitude.log1p().mT
        return Masked(log1p, self.mask(x, log1p) * log1p, X / amplitude.clamp_min(1e-12))

    def enhance(self, x: torch.Tensor) -> torch.Tensor:
        """Speech (B, N) in mixtures (B, N), with the mixtures' phase."""
        level = x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8) / self.rms
        made = self(x / level)
        return level * self.waveform(made.spectrum, x.shape[-1])
