r"""The posterior of speech, amortised: one network infers what EM looks for anew in each mixture.

Neural posterior estimation (Cranmer, Brehmer & Louppe, 2020) in the book's own model, $x = s + n$ with local complex
Gaussians in both: trained on draws of the model, it gives $p(s_{ft} \mid x)$, a complex Gaussian for each bin.
"""

from typing import NamedTuple

import torch
from torch import nn

from sepriors.priors.base import Configured
from sepriors.signal.stft import STFT

DECADE = 2.302585  # log 10: 10 dB of power, what features are counted in


class Posterior(NamedTuple):
    """Of the speech in each bin: its mean, complex, and its variance (B, F, T); and the variance of the noise."""

    mean: torch.Tensor
    variance: torch.Tensor
    noise: torch.Tensor

    def noise_power(self, X: torch.Tensor) -> torch.Tensor:
        r"""$\mathbb{E}[|n|^2 \mid x] = |x - \hat s|^2 + \operatorname{var}$, over 9 frames and 3 bins."""
        power = (X - self.mean).abs().square() + self.variance
        return nn.functional.avg_pool2d(power[:, None], (3, 9), 1, (1, 4), count_include_pad=False)[:, 0]


class NPE(Configured):
    r"""Two recurrent layers over frames, from a mixture's power to a Wiener gain and the noise's variance.

    What goes in are the logarithms of the power and of its ratio to a guess of the noise's variance; the first guess is
    the mean over time. What comes out are the a-priori SNR $\xi = V_s / V_n$ and $V_n$: the posterior's mean is
    $\frac{\xi}{1 + \xi} x$, its variance $\frac{\xi}{1 + \xi} V_n$. A second pass takes the noise that the first found
    for its guess. Waveforms are brought to a power of 1 and back, so their level does not matter.

    >>> net = NPE(STFT(64, 16), width=8, hidden=8)
    >>> net.enhance(torch.randn(2, 1000)).shape
    torch.Size([2, 1000])
    """

    floor = 1e-8  # of power, beside a mixture's mean of 1

    def __init__(
        self,
        stft: STFT = STFT(1024, 256),  # noqa: B008  it is frozen
        width: int = 256,
        hidden: int = 256,
        passes: int = 2,
    ) -> None:
        super().__init__()
        self.stft, self.width, self.hidden, self.passes = stft, width, hidden, passes
        self.inward = nn.Sequential(nn.Linear(2 * stft.bins, width), nn.LayerNorm(width), nn.SiLU())
        self.recurrent = nn.GRU(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.outward = nn.Linear(2 * hidden, 2 * stft.bins)

    def forward(self, X: torch.Tensor, guess: torch.Tensor) -> Posterior:
        """One pass: spectra (B, F, T) of power about 1, and a guess of the noise's variance (B, F, T or 1)."""
        log_power = X.abs().square().clamp_min(self.floor).log()
        log_guess = guess.clamp_min(self.floor).log()
        features = torch.cat([log_power, log_power - log_guess], -2).mT / DECADE
        h, _ = self.recurrent(self.inward(features))
        log_snr, above = self.outward(h).mT.chunk(2, -2)
        gain = torch.sigmoid(DECADE * log_snr)
        noise = (log_guess + DECADE * above).clamp(-25, 25).exp()
        return Posterior(gain * X, gain * noise, noise)

    def posterior(self, X: torch.Tensor) -> Posterior:
        """After all passes, of spectra (B, F, T)."""
        found = self(X, X.abs().square().mean(-1, keepdim=True))
        for _ in range(self.passes - 1):
            found = self(X, found.noise_power(X))
        return found

    def enhance(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of the speech (B, N) in mixtures (B, N)."""
        level = _rms(x)
        return level * self.stft.inverse(self.posterior(self.stft(x / level)).mean, x.shape[-1])

    def noise_power(self, x: torch.Tensor) -> torch.Tensor:
        """The mean power (B, F, T) of the noise in mixtures (B, N), smoothed, see `Posterior.noise_power`."""
        level = _rms(x)
        X = self.stft(x / level)
        return level[..., None].square() * self.posterior(X).noise_power(X)


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
