"""The short-time Fourier transform as a frozen, callable choice."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class STFT:
    r"""Short-time Fourier transform with a sine window, and its exact inverse.

    The sine window $\sin(\pi (n + 1/2) / N)$ is its own synthesis window: analysis and synthesis together weigh a
    sample by $\sin^2$, whose overlapped sum is constant for a hop of $N/2$, $N/3$, ... (Princen & Bradley, 1986). Zeros
    are added: half a window at the start, at the end as much and what fills the last hop. So the first and the last
    sample too are near the middle of a window; at its edge a changed spectrum would come back as a click.

    Raises ValueError for a window that the hop does not divide at least twice.

    >>> stft = STFT(512, 128)
    >>> x = torch.randn(2, 16000, dtype=torch.float64)
    >>> stft(x).shape
    torch.Size([2, 257, 126])
    >>> torch.testing.assert_close(stft.inverse(stft(x), 16000), x)
    """

    n_fft: int = 1024  # samples; 64 ms at 16 kHz, long enough to resolve the harmonics of a low voice
    hop: int = 256  # samples; 75 % overlap
    sample_rate: int = 16000  # Hz

    def __post_init__(self) -> None:
        if self.hop < 1 or self.n_fft % self.hop or self.n_fft < 2 * self.hop:
            raise ValueError(f"expected a hop that divides n_fft={self.n_fft} at least twice, got hop={self.hop}")

    @property
    def bins(self) -> int:
        """F, the number of frequencies from 0 to half the sample rate."""
        return self.n_fft // 2 + 1

    def window(self, like: torch.Tensor) -> torch.Tensor:
        """The sine window (n_fft,), with the real dtype and the device of `like`."""
        n = torch.arange(self.n_fft, dtype=like.real.dtype, device=like.device)
        return torch.sin(math.pi * (n + 0.5) / self.n_fft)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (..., N) -> complex spectra (..., F, T), with T = 1 + ceil(N / hop)."""
        filled = torch.nn.functional.pad(x.reshape(-1, x.shape[-1]), (0, -x.shape[-1] % self.hop))
        window = self.window(x)
        X = torch.stft(filled, self.n_fft, self.hop, window=window, pad_mode="constant", return_complex=True)
        return X.reshape(*x.shape[:-1], *X.shape[-2:])

    def inverse(self, X: torch.Tensor, length: int) -> torch.Tensor:
        """Complex spectra (..., F, T) -> waveforms (..., length); raises ValueError if F is not this transform's."""
        if X.shape[-2] != self.bins:
            raise ValueError(f"X has F={X.shape[-2]} but the transform has F={self.bins}; made with the same STFT?")
        x = torch.istft(X.reshape(-1, *X.shape[-2:]), self.n_fft, self.hop, window=self.window(X), length=length)
        return x.reshape(*X.shape[:-2], length)


@dataclass(frozen=True)
class Compression:
    r"""Amplitudes compressed, phases kept: $c \mapsto \beta |c|^\alpha e^{i \angle c}$, and its exact inverse.

    Richter et al. (2023, eq. 13). Quiet bins come nearer to loud ones, and speech nearer to what a network and a white
    diffusion can handle. Raises ValueError for exponents and factors that have no inverse.

    >>> C, compress = torch.randn(3, 4, dtype=torch.cdouble), Compression()
    >>> torch.testing.assert_close(compress.inverse(compress(C)), C)
    """

    alpha: float = 0.5  # exponent
    beta: float = 0.15  # factor

    def __post_init__(self) -> None:
        if not (0 < self.alpha < math.inf and 0 < self.beta < math.inf):
            raise ValueError(f"expected positive alpha and beta, got alpha={self.alpha}, beta={self.beta}")

    def __call__(self, C: torch.Tensor) -> torch.Tensor:
        return _with_amplitude(C, self.beta * C.abs() ** self.alpha)

    def inverse(self, C: torch.Tensor) -> torch.Tensor:
        return _with_amplitude(C, (C.abs() / self.beta) ** (1 / self.alpha))

    def secant_gain(self, C: torch.Tensor, floor: float = 1e-3) -> torch.Tensor:
        r"""What compression has multiplied the power of a spectrum by, given its compressed value C: $|C|^2 / |c|^2$.

        Noise that is all there is in a bin grows by as much, and a small change of a bin by no more: sideways by as
        much, outwards by $\alpha^2$ times that. `floor` is the least amplitude of C that is looked at.

        >>> compress, c = Compression(), torch.tensor([2.0 + 1.0j], dtype=torch.cdouble)
        >>> moved = (compress(c * torch.polar(torch.tensor(1.0), torch.tensor(1e-6))) - compress(c)).abs().square()
        >>> float((moved / (1e-6 * c.abs()).square() / compress.secant_gain(compress(c))).round(decimals=4))
        1.0
        """
        amplitude = C.abs().clamp_min(floor)
        return (amplitude / (amplitude / self.beta) ** (1 / self.alpha)).square()


def _with_amplitude(C: torch.Tensor, amplitude: torch.Tensor) -> torch.Tensor:
    """The phases of C with another amplitude; zero stays zero."""
    return C * (amplitude / C.abs().clamp_min(torch.finfo(amplitude.dtype).tiny))


def griffin_lim(
    magnitude: torch.Tensor,
    stft: STFT,
    length: int,
    phase: torch.Tensor,
    *,
    iterations: int = 60,
    momentum: float = 0.99,
) -> torch.Tensor:
    """A waveform (..., length) whose spectrum has nearly this magnitude (..., F, T), from a first `phase` in radians.

    Fast Griffin-Lim (Perraudin, Balazs & Søndergaard, 2013, algorithm 2). Not torchaudio's, whose starting phase comes
    from the global random state.

    >>> stft = STFT(512, 128)
    >>> S = stft(torch.sin(0.2 * torch.arange(8000.0)))
    >>> x = griffin_lim(S.abs(), stft, 8000, torch.zeros_like(S.abs()))
    >>> bool((stft(x).abs() - S.abs()).norm() < 0.1 * S.abs().norm())
    True
    """
    X = torch.polar(magnitude, phase)
    previous = torch.zeros_like(X)
    for _ in range(iterations):
        consistent = stft(stft.inverse(X, length))
        ahead = consistent + momentum * (consistent - previous)
        X, previous = magnitude * ahead / ahead.abs().clamp_min(1e-12), consistent  # angle() rounds by position
    return stft.inverse(X, length)
