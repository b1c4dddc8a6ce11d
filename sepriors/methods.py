"""The methods of the book: one frozen dataclass each; `method(x, generators=...)` yields a `Step` a round."""

from __future__ import annotations

import copy
import difflib
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch

from sepriors import priors
from sepriors.inference import diffusion, flows, nmf
from sepriors.inference.em import NMFE, EStep, GibbsE, Linearised, ReverseE, Step, StepE, VarianceE, em
from sepriors.inference.latent import MCMC, Latent, PointEstimate, Variational
from sepriors.inference.mcmc import MALA, Langevin, RandomWalk
from sepriors.protocols import Denoise
from sepriors.signal import gaussian, spp
from sepriors.signal.audio import AudioError, check, dc_offset
from sepriors.signal.mixing import Mixture
from sepriors.signal.rng import Generators, Seed, clone, generators
from sepriors.signal.stft import STFT
from sepriors.weights import load


class Method(Protocol):
    """Enhances waveforms (B, N) at 16 kHz; each `Step` holds a function for the speech (B, N) as of that round."""

    @property
    def iterations(self) -> int: ...

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]: ...


class MethodError(ValueError):
    """A method that is unknown."""


@dataclass(frozen=True, eq=False)
class SPPWiener:
    """Wiener filter with the noise power of `spp.noise_power`: no prior of speech but that it pauses (`spp-wiener`).

    Gerkmann & Hendriks (2012) for the noise, Ephraim & Malah (1984) for the a priori SNR.
    """

    stft: STFT = STFT(512, 256)  # noqa: RUF009  it is frozen. 32 ms, 50 %: the setting of the source
    floor_db: float = -25.0  # least a priori SNR
    iterations: int = 1

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        X = self.stft(x)
        P = X.abs().square()
        gain = spp.decision_directed_gain(P, spp.noise_power(P), floor_db=self.floor_db)
        yield Step(0, None, lambda: self.stft.inverse(gain * X, x.shape[-1]))


@dataclass(frozen=True, eq=False)
class ISNMF:
    """Wiener filter with two Itakura-Saito NMFs, speech with trained bases, and noise (`nmf`, `nmf-supervised`).

    Févotte, Bertin & Durrieu (2009) for the model, Shi et al. (2021, § 5.2) for its use here. Without `noise_bases` the
    noise's bases are learned from the mixture itself, `rank` of them; with them only the activations are.
    """

    speech_bases: torch.Tensor  # (F, K)
    noise_bases: torch.Tensor | None = None  # (F, K) or None
    stft: STFT = STFT(1024, 256)  # noqa: RUF009
    rank: int = 8
    iterations: int = 100
    speech_level: float = NMFE._field_defaults["level"]  # where the speech's activations start, see `em.NMFE`
    batch_size: int = 4  # utterances that `enhance` takes at once on a CPU: more fall out of its cache, a third slower

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        X = self.stft(x)
        W_n = None if self.noise_bases is None else self.noise_bases.to(x)
        noise = nmf.init(X.abs().square(), self.rank, generators, W_n)
        speech = NMFE(self.speech_bases, self.speech_level)
        rounds = em(X, speech, noise, iterations=self.iterations, generators=generators, bases=W_n is None)
        yield from _in_time(rounds, self.stft, x.shape[-1])


@dataclass(frozen=True, eq=False)
class VarianceEM:
    """Expectation-maximisation with a variance prior and a noise NMF (`vae-mcem`, `vae-ldem`, `vae-peem`, `vae-vem`).

    Leglaive, Girin & Horaud (2018). What `latent` does with the posterior is all that these methods differ in. Each
    mixture is scaled to a peak of 1, as the speech was that the prior has seen. Without `noise_bases` the noise's bases
    are learned from the mixture itself, `rank` of them; with them only the activations are (Shi et al., 2021, § 5.2).
    """

    prior: Any  # a `VariancePrior` that is an `nn.Module`
    latent: Latent
    rank: int = 8
    iterations: int = 100
    noise_bases: torch.Tensor | None = None  # (F, K) or None
    gain: bool = True  # a gain for each frame, learned
    level: float = VarianceE._field_defaults["level"]  # where it starts, see `em.VarianceE`
    batch_size: int = 2  # utterances that `enhance` takes at once on a CPU: more fall out of its cache
    max_seconds: float = 30.0  # seconds of a file at once: memory is bounded, and so is what a backward LSTM waits for
    parallel: bool = False  # whether it takes as many parts side by side as there are cores, rather than share each

    @classmethod
    def mcem(cls, prior: Any, **choices: Any) -> VarianceEM:
        """Metropolis-Hastings (Leglaive, Girin & Horaud, 2018), in fewer and longer steps than there."""
        # Deviation: 6 steps a round for 40, one draw for 10, proposals in the shape of the posterior.
        walk = RandomWalk(0.3, prior.posterior_shape())
        return cls(prior, MCMC(walk, steps=6, final_steps=60, final_keep=20), **choices)

    @classmethod
    def ldem(cls, prior: Any, **choices: Any) -> VarianceEM:
        """Langevin dynamics with ten parallel states and one step a round (Sadeghi & Serizel, 2023 and 2024)."""
        # Deviation: steps in the shape of a clean frame's posterior, stable wherever; a gain a frame; two of the states
        # serve the rounds, where more change little, and all ten the estimate.
        walk = Langevin(0.5, prior.posterior_shape(share=1.0))
        return cls(prior, MCMC(walk, steps=1, chains=2, start_variance=0.01, final_steps=10, final_times=5), **choices)

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = _like(self.prior, x)
        stft = prior.stft
        peak = x.abs().amax(-1, keepdim=True).clamp_min(1e-8)  # silence stays silence
        X = stft(x / peak)
        W_n = None if self.noise_bases is None else self.noise_bases.to(x)
        noise = nmf.init(X.abs().square(), self.rank, generators, W_n)
        speech = VarianceE(prior, self.latent, self.gain, self.level)
        rounds = em(X, speech, noise, iterations=self.iterations, generators=generators, bases=W_n is None)
        for step in _in_time(rounds, stft, x.shape[-1]):
            yield step._replace(estimate=partial(_times, peak, step.estimate))


class White(NamedTuple):
    """A mixture as a flow wants it: speech at the level it has seen, whole windows; `back` undoes both."""

    x: torch.Tensor  # (B, N')
    variance: torch.Tensor  # of the white noise, (B,)
    back: Callable[[torch.Tensor], torch.Tensor]


def white(x: torch.Tensor, prior: Any, variance: torch.Tensor | None) -> White:
    """Scale waveforms (B, N) so that their speech has the prior's level, the noise's variance (B,) known or estimated.

    Raises ValueError for a variance that is not positive, or not one an utterance.
    """
    if variance is None:
        variance = spp.white_variance(x)
    elif variance.shape != x.shape[:1] or not bool((variance > 0).all()):
        raise ValueError(f"expected a positive variance of the noise for each of {len(x)} files, got {variance}")
    with torch.inference_mode(False):  # gradients will pass by these
        x, variance = x.clone(), variance.clone()
        power = x.square().mean(-1)
        # -9.5 dB at least: the flows have seen no stronger noise
        speech = torch.maximum(power - variance, 0.1 * power).clamp_min(1e-12)
        gain = prior.rms / speech.sqrt()
        filled = flows.whole_windows(gain[:, None] * x, prior.window)
        floored = (gain.square() * variance).clamp_min(1e-10)  # a signal without noise: -70 dB against the speech
        back = (power > 1e-16) / gain  # silence stays silence
    return White(filled, floored, lambda s: (s * back[:, None])[..., : x.shape[-1]])


class KnownVariance:
    """A method that may know the variance of the white noise in each file."""

    variance: torch.Tensor | None

    def part(self, pieces: Sequence[Segment], files: int) -> Self:
        """The method for these pieces of so many files."""
        if self.variance is None:
            return self
        if self.variance.shape != (files,):
            raise ValueError(
                f"expected a positive variance of the noise for each of {files} files, got {self.variance}"
            )
        return replace(self, variance=self.variance[[p.row for p in pieces]])  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class FlowMAP(KnownVariance):
    """Climb to a mode of p(s | x) with an exact density of speech, the noise white (`flow-map`, `flow-map-oracle`).

    Shi et al. (2021, § 4.2). It starts at the mixture and stops where its signal is as likely as clean speech, at
    `prior.clean` nats a sample, or by the rule of `signals` that `stop` is. The noise's variance is estimated from the
    signal, or is `variance` (B,), or follows from `weight`: that is how the paper's σ is to be read,
    $1 / (2 \\sigma^2)$ at a speech power of 1e-3, and `PAPER` has its settings by SNR.
    """

    prior: Any  # a `SignalPrior` that is an `nn.Module`
    variance: torch.Tensor | None = None
    weight: float | None = None
    iterations: int = 500
    learning_rate: float = 5e-4
    stop: flows.Stop | None = None
    fast: bool | None = None  # couplings in half precision, see `signals.SignalPosterior`
    batch_size: int = 16

    PAPER: ClassVar[dict[float, float]] = {-6: 100, 0: 200, 6: 2000, 9: 4000}

    @classmethod
    def oracle(cls, prior: Any, **choices: Any) -> Callable[[Mixture], FlowMAP]:
        """`flow-map-oracle`: told the noise's true variance, by the bench, since no user could."""

        def told(mixture: Mixture) -> FlowMAP:
            return cls(prior, variance=mixture.noise.square().mean(-1).reshape(-1), **choices)

        return told

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = _like(self.prior, x)
        variance = self.variance
        if self.weight is not None:  # at the level where speech has the prior's power
            noise = 0.5 / self.weight
            variance = x.square().mean(-1).clamp_min(1e-12) * noise / (noise + prior.rms**2)
        made = white(x, prior, variance)
        target = flows.SignalPosterior(prior, made.x, made.variance, self.fast)
        stop = self.stop or flows.clean_likelihood(prior.clean)
        climb = flows.climb(target, steps=self.iterations - 1, learning_rate=self.learning_rate, stop=stop)
        for i, now in enumerate(climb):
            yield Step(i, None, partial(made.back, now.signal))


@dataclass(frozen=True, eq=False)
class FlowTweedie(KnownVariance):
    """The mean of p(s | x) in one step, by the gradient of a density of noisy speech (`flow-tweedie`).

    Robbins (1956), Efron (2011, eq. 1.4). The noise is white, its variance estimated or given, as in `FlowMAP`.
    """

    prior: Any  # a `NoisyPrior` that is an `nn.Module`
    variance: torch.Tensor | None = None
    iterations: int = 8  # places of the first window over which it averages
    fast: bool | None = None
    batch_size: int = 16

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = _like(self.prior, x)
        made = white(x, prior, self.variance)
        total = torch.zeros_like(made.x)
        for i in range(self.iterations):
            offset = i * prior.window // self.iterations
            total = total + flows.denoise(prior, made.x, made.variance, offset=offset, fast=self.fast)
            yield Step(i, None, partial(made.back, total / (i + 1)))


@dataclass(frozen=True, eq=False)
class FlowLangevin(KnownVariance):
    """The mean of p(s | x) over parallel chains, annealed from the mixture to clean speech (`flow-langevin`).

    After Jayaram & Thickstun (2020), with a family of flows that are told the noise; how the chains move, and why not
    as there, says `signals.anneal`. The noise is white, as in `FlowMAP`.
    """

    prior: Any  # a `NoisyPrior` that is an `nn.Module`
    variance: torch.Tensor | None = None
    chains: int = 5
    iterations: int = 10  # levels of noise
    least: float = 1e-3  # the last of them, at a speech power of 1e-3
    descend: bool = True
    steps: int = 0  # of plain Langevin dynamics at each level
    fast: bool | None = None
    batch_size: int = 4

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = _like(self.prior, x)
        made = white(x, prior, self.variance)
        walks = flows.anneal(
            prior, made.x, made.variance, levels=self.iterations, chains=self.chains, least=self.least,
            generators=generators, descend=self.descend, steps=self.steps, fast=self.fast,
        )  # fmt: skip
        for i, walk in enumerate(walks):
            yield Step(i, None, partial(self._mean, walk.signal, made.back))

    def _mean(self, signal: torch.Tensor, back: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        total = torch.zeros_like(signal[0])
        for chain in signal:  # not a mean over a stack: its last bit depends on the batch
            total += chain
        return back(total / len(signal))


class CompressedDomain(NamedTuple):
    """The transform of a score network, of waveforms scaled so that the mixture's greatest amplitude is 1 in it.

    Where the mixture is digital silence, so is every signal on its way back.
    """

    prior: Any  # a `Denoiser`
    scale: torch.Tensor  # (B, 1)
    silent: torch.Tensor  # (B, 1, T)

    @classmethod
    def like(cls, x: torch.Tensor, prior: Any) -> CompressedDomain:
        """The transform that suits mixtures (B, N)."""
        frames = prior.stft(x).abs().amax(-2, keepdim=True)
        peak = frames.amax(-1)
        return cls(prior, peak / prior.compression.inverse(torch.ones_like(peak)), frames == 0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) -> (B, F, T)."""
        return self.prior.compression(self.prior.stft(self.scaled(x)))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) as the network's transform sees them."""
        return x / self.scale.clamp_min(torch.finfo(x.dtype).tiny)

    def inverse(self, S: torch.Tensor, length: int) -> torch.Tensor:
        c = self.prior.compression.inverse(S).masked_fill(self.silent, 0)
        return self.scale * self.prior.stft.inverse(c, length)


@dataclass(frozen=True, eq=False)
class ScoreEM:
    """EM with a score prior and a noise NMF (`udiffse`, `udiffse-plus`, `depse`, `udiffse-fast`).

    Nortier, Sadeghi & Serizel (2024). `estep` makes the E-step of the prior's denoiser, and is all that these methods
    differ in, but for the noise. It starts at random and lives in the compressed domain, as if mixtures added up there;
    or it is what `first`, an NMF with the prior's transform or one of longer windows, ends with, and is seen through
    the chord of the compression; then only its activations are learned on.
    """

    prior: Any  # a `Denoiser`
    estep: Callable[[Denoise], EStep]
    iterations: int = 5
    rank: int = 4
    first: ISNMF | None = None
    batch_size: int = 1  # its draws are a batch already
    max_seconds: float = 30.0
    parallel: bool = True

    def __post_init__(self) -> None:
        if self.first is not None:
            ratio, here, there = self._ratio, self.prior.stft, self.first.stft
            if there != replace(here, n_fft=ratio * here.n_fft, hop=ratio * here.hop):
                raise ValueError(f"expected a first method with the prior's {here}, or with a multiple, got {there}")

    @property
    def _ratio(self) -> int:
        """How many times as long as the prior's the windows of the first method are."""
        return 1 if self.first is None else max(1, self.first.stft.n_fft // self.prior.stft.n_fft)

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = _like(self.prior, x)
        transform = CompressedDomain.like(x, prior)
        X, estep = transform(x), self.estep(prior.denoise)
        if self.first is None:
            noise = nmf.init(X.abs().square(), self.rank, generators)
        else:
            estep = Linearised(estep, prior.compression.secant_gain(X))
            (begun,) = deque(self.first(transform.scaled(x), generators=clone(generators)), maxlen=1)
            assert begun.noise is not None
            noise = nmf.shorter(begun.noise, self._ratio, X.shape[-1])
        rounds = em(X, estep, noise, iterations=self.iterations, generators=generators, bases=self.first is None)
        yield from _in_time(rounds, transform, x.shape[-1])


@dataclass(frozen=True, eq=False)
class Supervised:
    """Speech drawn given the mixture by a network that was trained on pairs of the two (`diffusion-supervised`).

    Richter et al. (2023), whose process drifts to the mixture; ours to zero, the mixture being told to the network.
    """

    prior: Any  # a `Denoiser` that is told
    schedule: diffusion.Schedule = diffusion.OUVE()  # noqa: RUF009
    iterations: int = 30
    draws: int = 1
    batch_size: int = 4
    max_seconds: float = 30.0
    parallel: bool = True

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = _like(self.prior, x)
        transform = CompressedDomain.like(x, prior)
        X = transform(x)
        denoise = partial(prior.denoise, noisy=X)
        s = diffusion.start(X, self.schedule, self.draws, generators)
        walk = diffusion.reverse(denoise, self.schedule, s, steps=self.iterations, generators=generators)
        steps = (Step(i, None, partial(torch.mean, state.position, 0)) for i, state in enumerate(walk))
        yield from _in_time(steps, transform, x.shape[-1])


@dataclass(frozen=True, eq=False)
class Separator:
    """The speech that a network finds in a mixture, in one call.

    `use-ddp` has two branches, one for speech and one for noise (Klement et al., 2025); `bsse` a mask of the spectrum
    (Hung et al., 2022).
    """

    prior: Any  # a `Codec` or a `BSSE`: what has `enhance`
    iterations: int = 1
    batch_size: int = 1
    max_seconds: float = 30.0
    parallel: bool = True

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = _like(self.prior, x)
        yield Step(0, None, partial(torch.no_grad()(prior.enhance), x))  # with gradients an LSTM rounds differently


def _like(prior: Any, x: torch.Tensor) -> Any:
    """The prior with the signal's precision and place: itself where it has them, else a copy that has gradients."""
    tensors = [*prior.parameters(), *(b for b in prior.buffers() if b.is_floating_point())]
    if all((t.dtype, t.device) == (x.dtype, x.device) and not t.is_inference() for t in tensors):
        return prior
    with torch.inference_mode(False):
        return copy.deepcopy(prior).to(x)


@dataclass(frozen=True, eq=False)
class OracleWiener:
    """Wiener filter that knows the periodograms of speech and noise: a ceiling, for the chapters only."""

    clean: torch.Tensor  # (..., N), as the mixtures are
    noise: torch.Tensor
    stft: STFT = STFT(1024, 256)  # noqa: RUF009
    iterations: int = 1

    @classmethod
    def from_mixture(cls, mixture: Mixture) -> OracleWiener:
        """The oracle of one mixture; the bench asks for it, since no user could."""
        return cls(mixture.clean, mixture.noise)

    def part(self, pieces: Sequence[Segment], files: int) -> OracleWiener:
        """The oracle of these pieces of so many files."""
        rows = [x.reshape(-1, x.shape[-1]) for x in (self.clean, self.noise)]
        if {len(x) for x in rows} != {files}:
            raise ValueError(
                f"expected speech and noise of each of {files} files, got shapes {tuple(self.clean.shape)}, "
                f"{tuple(self.noise.shape)}"
            )
        clean, noise = (torch.stack([x[p.row, p.start : p.stop] for p in pieces]) for x in rows)
        return replace(self, clean=clean, noise=noise)

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        V_s, V_n = (self.stft(signal).abs().square() for signal in (self.clean, self.noise))
        yield Step(0, None, lambda: self.stft.inverse(gaussian.wiener(self.stft(x), V_s, V_n), x.shape[-1]))


def _in_time(rounds: Iterator[Step], stft: STFT | CompressedDomain, length: int) -> Iterator[Step]:
    """Steps whose estimate is a waveform in place of a spectrum."""
    for step in rounds:
        yield step._replace(estimate=partial(_waveform, step.estimate, stft, length))


def _waveform(spectrum: Callable[[], torch.Tensor], stft: STFT | CompressedDomain, length: int) -> torch.Tensor:
    return stft.inverse(spectrum(), length)


def _times(peak: torch.Tensor, waveform: Callable[[], torch.Tensor]) -> torch.Tensor:
    return peak * waveform()


def scored(estep: Callable[..., EStep], iterations: int) -> ScoreEM:
    """`ScoreEM` with the score prior, its noise begun by `nmf`."""
    # Deviation: the source's noise starts at random, and behind the compression; chapter 6 measures what that costs.
    return ScoreEM(priors.load("score"), estep, iterations, first=ISNMF(_bases("nmf-speech")))


class MethodSpec(NamedTuple):
    """What `sepriors methods` lists: what the method is, which cards it needs, and how to make it."""

    about: str
    cards: tuple[str, ...]
    make: Callable[[], Method]
    departures: str = ""  # from its paper, in a short sentence


def _bases(card: str) -> torch.Tensor:
    return load(card).tensors["W"].float()


def recurrent(latent: Latent, prior: Any = None, **choices: Any) -> VarianceEM:
    """`VarianceEM` with the recurrent prior and the settings of Sadeghi & Serizel (2024): rank 8, 100 rounds."""
    prior = prior or priors.load("rvae")
    return VarianceEM(prior, latent, level=1.0, batch_size=8, parallel=True, **choices)


def recurrent_ldem(chains: int, final_times: int, **choices: Any) -> VarianceEM:
    """Langevin dynamics with the recurrent prior, one step a round."""
    # Deviation: steps in the shape of a clean frame's posterior, since a plain one of .01 diverges there; averaged
    # noise; `chains` states serve the rounds, `final_times` as many the estimate; no perturbation between rounds.
    prior = priors.load("rvae")
    walk = Langevin(0.5, prior.posterior_shape(share=1.0), averaged=True)
    latent = MCMC(walk, steps=1, chains=chains, start_variance=0.01, final_steps=5, final_times=final_times)
    return recurrent(latent, prior, **choices)


SCORED = ("score", "nmf-speech")  # the cards of the methods with a score prior

METHODS: dict[str, MethodSpec] = {
    "spp-wiener": MethodSpec("noise by speech presence probability, Wiener gain; no speech prior", (), SPPWiener),
    "nmf-supervised": MethodSpec(
        "IS-NMF, 40 trained bases of speech and 40 of real noise",
        ("nmf-speech-257", "nmf-noise-257"),
        lambda: ISNMF(_bases("nmf-speech-257"), _bases("nmf-noise-257"), STFT(512, 128)),
    ),
    "nmf": MethodSpec(
        "IS-NMF, 64 trained bases of speech, 8 of noise learned from the mixture",
        ("nmf-speech",),
        lambda: ISNMF(_bases("nmf-speech")),
    ),
    "vae-mcem": MethodSpec(
        "VAE, posterior of its latent variables by Metropolis-Hastings, a gain a frame",
        ("vae",),
        lambda: VarianceEM.mcem(priors.load("vae")),
    ),
    "vae-ldem": MethodSpec(
        "VAE, posterior by Langevin dynamics, 10 parallel states",
        ("vae",),
        lambda: VarianceEM.ldem(priors.load("vae")),
    ),
    "vae-peem": MethodSpec(
        "VAE, posterior's mode by gradient ascent",
        ("vae",),
        lambda: VarianceEM(priors.load("vae"), PointEstimate(steps=3, learning_rate=0.01)),
    ),
    "vae-vem": MethodSpec(
        "VAE, posterior by tuning the encoder on each file",
        ("vae",),
        lambda: VarianceEM(priors.load("vae"), Variational(steps=2, learning_rate=0.002)),
    ),
    "rvae-vem": MethodSpec(
        "recurrent VAE, posterior by tuning the encoder on each file",
        ("rvae",),
        lambda: recurrent(Variational(steps=1, learning_rate=0.001)),
    ),
    "rvae-peem": MethodSpec(
        "recurrent VAE, posterior's mode by gradient ascent",
        ("rvae",),
        lambda: recurrent(PointEstimate(steps=1, learning_rate=0.03)),
    ),
    "rvae-mhem": MethodSpec(
        "recurrent VAE, posterior by Metropolis-Hastings",
        ("rvae",),
        lambda: recurrent(MCMC(RandomWalk(0.01), steps=10, final_steps=10, final_keep=5)),
    ),
    "rvae-malaem": MethodSpec(
        "recurrent VAE, posterior by the Metropolis-adjusted Langevin algorithm",
        ("rvae",),
        lambda: recurrent(MCMC(MALA(0.01, tamed=True), steps=10, final_steps=10, final_keep=5)),
    ),
    "rvae-ldem": MethodSpec(
        "recurrent VAE, posterior by Langevin dynamics, 10 parallel states",
        ("rvae",),
        lambda: recurrent_ldem(chains=2, final_times=5),
    ),
    "rvae-fast": MethodSpec(
        "recurrent VAE, posterior by Langevin dynamics, one state, 45 rounds",
        ("rvae",),
        lambda: recurrent_ldem(chains=1, final_times=4, iterations=45),
    ),
    "udiffse": MethodSpec(
        "diffusion, five rounds of a guided reverse process, the last of them with four draws",
        SCORED,
        # Deviation: two draws for four in the rounds that only teach the noise; two thirds of the time
        lambda: scored(partial(ReverseE, unguided=0, draws=(2, 2, 2, 2, 4)), iterations=5),
    ),
    "udiffse-plus": MethodSpec(
        "diffusion, one guided reverse process that learns the noise on its way, four draws",
        SCORED,
        lambda: scored(partial(StepE, guide=diffusion.pseudo_likelihood, every=2), iterations=15),
    ),
    "depse": MethodSpec(
        "diffusion, one reverse process of posterior transitions, which need no weight, four draws",
        SCORED,
        lambda: scored(partial(StepE, guide=diffusion.posterior_transition, every=1), iterations=30),
    ),
    "udiffse-fast": MethodSpec(
        "diffusion, ten rounds of a Gibbs sampler between speech and noisier speech, one draw",
        SCORED,
        lambda: scored(GibbsE, iterations=10),
    ),
    "diffusion-supervised": MethodSpec(
        "diffusion told the mixture, four draws; supervised: trained on pairs in noise of home, vehicles and weather",
        ("diffusion-supervised",),
        # Deviation: ten steps for thirty, four draws for one: as good, and judged like the draws of `udiffse`.
        lambda: Supervised(priors.load("diffusion-supervised"), iterations=10, draws=4, batch_size=1),
    ),
    "use-ddp": MethodSpec(
        "codec with a branch for speech and one for noise, learned from mixtures and corpora without pairs",
        ("use-ddp",),
        lambda: Separator(priors.load("use-ddp")),
    ),
    "bsse": MethodSpec(
        "mask from spectrum and self-supervised embeddings; supervised: trained on pairs",
        ("bsse",),
        lambda: Separator(priors.load("bsse")),
    ),
    "flow-map": MethodSpec(
        "WaveGlow, posterior's mode by gradient ascent, stopped at the likelihood of clean speech; white noise only",
        ("waveglow",),
        lambda: FlowMAP(priors.load("waveglow")),
    ),
    "flow-tweedie": MethodSpec(
        "WaveGlow of noisy speech, posterior's mean in one step; white noise only",
        ("waveglow-noisy",),
        lambda: FlowTweedie(priors.load("waveglow-noisy")),
    ),
    "flow-langevin": MethodSpec(
        "WaveGlow of noisy speech, posterior's mean by annealed Langevin dynamics, 5 chains; white noise only",
        ("waveglow-noisy",),
        lambda: FlowLangevin(priors.load("waveglow-noisy")),
    ),
}


def make(name: str) -> Method:
    """The method of that name with its trained weights; raises MethodError for an unknown one, with the nearest.

    >>> make("spp-wiener").iterations
    1
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.4) or list(METHODS)
        raise MethodError(f"unknown method {name!r}; did you mean {' or '.join(near)}?")
    return METHODS[name].make()


RATE = 16000  # Hz
OVERLAP = 1.0  # seconds that two pieces of a long file share
MAX_SECONDS = 120.0  # seconds of a file at once, for a method that asks for no less
GPU_BATCH_SECONDS = 64.0  # seconds of audio that are taken at once: 16 files of 4 s, 2 pieces of a long one


Signals = TypeVar("Signals", torch.Tensor, np.ndarray, list[torch.Tensor], list[np.ndarray])


def enhance(x: Signals, method: Method, seed: Seed = 0) -> Signals:
    """Run a method to its end: noisy speech (..., N) at 16 kHz -> enhanced speech (..., N).

    Tensors and NumPy arrays come back as they came, half precision computed in single. Utterances of different lengths,
    each (N,), come and go as a list. One seed, one result: an utterance gives the same alone and in a batch, but for
    rounding. `seed` may be a sequence, one an utterance. A file longer than a method's `max_seconds` is cut into pieces
    that overlap by a second, and faded from one to the next. A DC offset is taken away before, and put back after.
    Raises AudioError for NaN, integers, an empty signal, or samples where channels should be.

    >>> enhance(torch.randn(3, 8000), SPPWiener()).shape
    torch.Size([3, 8000])
    >>> [len(s) for s in enhance([torch.randn(8000), torch.randn(5000)], SPPWiener())]
    [8000, 5000]
    """
    if isinstance(x, list):
        rows = [check(_tensor(row), f"noisy, {i + 1} of {len(x)}") for i, row in enumerate(x)]
        for row in rows:
            if row.ndim != 1:
                raise AudioError(f"expected utterances of shape (N,) in a list, got {tuple(row.shape)}")
        return [_as_came(speech, came) for speech, came in zip(_enhance(rows, method, seed), x, strict=True)]
    batch = check(_tensor(x), "noisy")
    if batch.ndim == 2 and len(batch) > 10 * batch.shape[1]:
        rows_of, samples = batch.shape
        raise AudioError(
            f"noisy: expected utterances (..., N), got {rows_of} of {samples} samples; a file as soundfile gives it, "
            "(N, channels), is to be transposed"
        )
    rows = list(batch.reshape(-1, batch.shape[-1]))
    return _as_came(torch.stack(_enhance(rows, method, seed)).reshape(batch.shape), x)


def _tensor(x: Any) -> Any:
    """A NumPy array as a tensor of its own; anything else is for `check` to look at."""
    return torch.tensor(x) if isinstance(x, np.ndarray) and x.dtype.kind in "fciub" else x


def _as_came(speech: torch.Tensor, came: Any) -> Any:
    """Speech in the dtype, and of the kind, of what came."""
    if isinstance(came, np.ndarray):
        return speech.numpy().astype(came.dtype)
    return speech.to(came.dtype)


class Segment(NamedTuple):
    """Samples `start` to `stop` of an utterance, given by its place in the batch."""

    row: int
    start: int
    stop: int


def _enhance(rows: list[torch.Tensor], method: Method, seed: Seed) -> list[torch.Tensor]:
    each = generators(seed, len(rows), rows[0].device if rows else "cpu")
    rows = [row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows]
    # no prior has heard an offset: .03 beside speech of .068 costs `bsse` 3 dB of SI-SDR, `flow-tweedie` 6
    offsets = [dc_offset(row, RATE) for row in rows]
    rows = [row - offset for row, offset in zip(rows, offsets, strict=True)]
    max_seconds = getattr(method, "longest", MAX_SECONDS)
    pieces = [Segment(i, *span) for i, row in enumerate(rows) for span in _spans(len(row), max_seconds)]
    on_cpu = all(row.device.type == "cpu" for row in rows)
    threads = torch.get_num_threads() if on_cpu and getattr(method, "beside", False) else 1
    alike: dict[int, list[Segment]] = defaultdict(list)  # pieces of one length share a batch
    for piece in pieces:
        alike[piece.stop - piece.start].append(piece)
    parts = []
    for length, group in alike.items():
        most = min(getattr(method, "at_once", len(group)), gpu_batch_size(length)) if on_cpu else gpu_batch_size(length)
        turns = -(-len(group) // (threads * most))
        size = -(-len(group) // (threads * turns))  # as many parts for one core as for another
        parts += [group[i : i + size] for i in range(0, len(group), size)]

    def run(part: list[Segment]) -> torch.Tensor:
        with torch.inference_mode():
            x = torch.stack([rows[p.row][p.start : p.stop] for p in part])
            known = _known(method, part, len(rows))
            return _last(known(x, generators=[each[p.row].clone_state() for p in part]))

    speech = _joined(rows, zip(parts, _beside(run, parts, threads), strict=True))
    return [s + offset for s, offset in zip(speech, offsets, strict=True)]


def gpu_batch_size(length: int) -> int:
    """How many utterances of so many samples are taken at once: a GPU of 16 GB holds any method, memory is bounded.

    >>> gpu_batch_size(4 * RATE), gpu_batch_size(30 * RATE), gpu_batch_size(600 * RATE)
    (16, 2, 1)
    """
    return max(1, round(RATE * GPU_BATCH_SECONDS) // length)


def _spans(length: int, max_seconds: float) -> list[tuple[int, int]]:
    """(start, stop) of equal pieces that cover a file and overlap by a second at least; one, if it is short enough."""
    if length <= RATE * max_seconds:
        return [(0, length)]
    size = round(RATE * max_seconds)
    assert size > RATE * OVERLAP, f"segments of {max_seconds} s cannot share {OVERLAP} s"
    count = 1 + math.ceil((length - size) / (size - round(RATE * OVERLAP)))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    return [(start, start + size) for start in starts]


def _joined(rows: list[torch.Tensor], done: Iterable[tuple[list[Segment], torch.Tensor]]) -> list[torch.Tensor]:
    """Whole utterances from the estimates of their pieces, faded over where two of them overlap."""
    speech, weight = [torch.zeros_like(row) for row in rows], [torch.zeros_like(row) for row in rows]
    for part, estimates in done:
        for (row, start, stop), estimate in zip(part, estimates, strict=True):
            ramp = ((torch.arange(stop - start).to(estimate) + 1) / (RATE * OVERLAP)).clamp_max(1)
            fade = torch.ones_like(ramp)
            if start > 0:
                fade = torch.minimum(fade, ramp)
            if stop < len(rows[row]):
                fade = torch.minimum(fade, ramp.flip(0))
            speech[row][start:stop] += fade * estimate
            weight[row][start:stop] += fade
    return [s / w for s, w in zip(speech, weight, strict=True)]


def _beside(
    run: Callable[[list[Segment]], torch.Tensor], parts: list[list[Segment]], threads: int
) -> Iterator[torch.Tensor]:
    """Results of the parts, as many side by side as there are threads, each then with one of its own.

    A single part, too: with more threads it would be rounded differently, alone and in company.
    """
    if threads == 1:
        yield from map(run, parts)
        return
    with ThreadPoolExecutor(threads, initializer=_one_thread) as pool:
        yield from pool.map(run, parts)


def _one_thread() -> None:
    """Let this thread compute alone; `torch.set_num_threads` would say so to every thread that is still to come."""
    from threadpoolctl import threadpool_limits  # here, since it sets a variable of the environment for Intel's OpenMP

    torch.get_num_threads()  # torch gives a thread its share when it is first asked, and would take this back then
    threadpool_limits(1, user_api="openmp")


def _known(method: Method, part: list[Segment], files: int) -> Method:
    """The method for some pieces of the files: what it knows of each file is cut as the batch is."""
    cut = getattr(method, "part", None)
    known: Method = method if cut is None else cut(part, files)
    return known


def _last(steps: Iterator[Step]) -> torch.Tensor:
    """The estimate of the last round, the only one that is computed."""
    (last,) = deque(steps, maxlen=1)
    return last.estimate()
