"""What priors offer, what inference asks for, what a method is: neither wing knows the other, all know these."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch

from sepriors.signal.rng import Generators
from sepriors.signal.stft import STFT


class Drawn(NamedTuple):
    """A draw z (..., L, T) from a posterior, and the divergence of each frame from the prior, nats, (..., T)."""

    z: torch.Tensor
    kl: torch.Tensor


class Image(NamedTuple):
    """Where a flow takes a signal: latent variables z (..., N), and log |det dz/ds| (...), nats."""

    z: torch.Tensor
    log_det: torch.Tensor


class VariancePrior(Protocol):
    """A prior of the variances of a local complex Gaussian, with latent variables z (..., L, T)."""

    stft: STFT

    def encode(self, P: torch.Tensor) -> torch.Tensor:
        """A first guess of z (..., L, T) from the power spectrogram P (..., F, T) of a mixture."""

    def log_variance(self, z: torch.Tensor) -> torch.Tensor:
        """log V_s (..., F, T)."""

    def log_prior(self, z: torch.Tensor) -> torch.Tensor:
        """log p(z), nats; its shape says what moves as one: frames (..., T) or utterances (...,)."""


class Drawable(Protocol):
    """A posterior of the latent variables that can be drawn from."""

    @property
    def mean(self) -> torch.Tensor: ...

    def draw(self, noise: torch.Tensor) -> Drawn:
        """A draw for standard normal noise (..., L, T), differentiable, and each frame's divergence from the prior."""


class EncodedPrior(VariancePrior, Protocol):
    """A variance prior whose encoder is a distribution, and can be tuned: each utterance its own parameters."""

    def tunable(self) -> dict[str, torch.Tensor]:
        """The encoder's parameters that may differ from utterance to utterance."""

    def posterior(self, P: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> Drawable:
        """q(z | s), by the encoder's own parameters or by these, (B, ...) each."""


class SignalPrior(Protocol):
    """A density of waveforms. `flows.white`, which brings mixtures to its level, asks for `window` and `rms`, too."""

    def log_prob(self, s: torch.Tensor) -> torch.Tensor:
        """log p(s), nats: (B, N) -> (B,)."""


@runtime_checkable
class InvertiblePrior(Protocol):
    """A flow: a density that is the image of a standard normal."""

    def __call__(self, s: torch.Tensor) -> Image:
        """Latent variables (B, N) of signals (B, N), and log |det| (B,)."""

    def inverse(self, z: torch.Tensor) -> torch.Tensor:
        """The signals of latent variables."""


class NoisyPrior(Protocol):
    """A family of densities: of speech in white noise of a known level, a standard deviation an utterance."""

    window: int
    rms: float

    def log_prob(self, s: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """log p_σ(s), nats: (B, N), (B,) -> (B,)."""


class Denoised(NamedTuple):
    r"""What is known of $s_0$: its mean, and its variance in each bin, $\mathbb{E} |s_0 - \mathrm{mean}|^2$."""

    mean: torch.Tensor
    variance: torch.Tensor


Denoise = Callable[[torch.Tensor, float], Denoised]  # of s_0 + σ z, and σ


class Step(NamedTuple):
    """One round of a method: its number, the noise model then, and `estimate()`, the speech as of this round.

    The noise model has a variance (..., F, T), an `NMF` mostly; None where a method has none. `estimate` is a function,
    so that only the rounds that one looks at pay for it.
    """

    iteration: int
    noise: Any
    estimate: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Running:
    """How `enhance` is to run a method: what a CPU takes at once, and what a file is cut into.

    More than `batch_size` utterances at once fall out of a CPU's cache; None is as many as come. A longer file than
    `max_seconds` is cut into segments: memory is bounded, and so is what a backward LSTM waits for. With `parallel` as
    many batches run side by side as there are cores, each on one; else each has all.
    """

    batch_size: int | None = None
    max_seconds: float = 120.0
    parallel: bool = False


class Segment(NamedTuple):
    """Samples `start` to `stop` of an utterance, given by its place in the batch."""

    row: int
    start: int
    stop: int


class Method(Protocol):
    """Enhances waveforms (B, N) at 16 kHz; each `Step` holds a function for the speech (B, N) as of that round."""

    running: Running = Running()

    @property
    def iterations(self) -> int: ...

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]: ...

    def part(self, segments: Sequence[Segment], files: int) -> Self:
        """The method for these segments of so many files: what it knows of each file is cut as the batch is."""
        return self
