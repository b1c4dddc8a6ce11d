"""The methods of the book: one frozen dataclass each; `method(x, generators=...)` yields a `Step` a round."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch

from sepriors import priors
from sepriors.inference import diffusion, flows
from sepriors.inference.em import NMFE, EStep, GibbsE, ReverseE, VarianceE, em
from sepriors.inference.latent import MCMC, Latent, PointEstimate, Variational
from sepriors.inference.mcmc import MALA, Langevin, RandomWalk
from sepriors.inference.noise_models import Begun, FreeNMF, Inferred, NoiseModel, TrainedNMF
from sepriors.precision import matched
from sepriors.protocols import Method, Running, Segment, Step
from sepriors.signal import gaussian, spp
from sepriors.signal.front_ends import Compressed, Domain, FrontEnd, PeakNormalised, Plain
from sepriors.signal.mixing import Mixture
from sepriors.signal.rng import Generators
from sepriors.signal.stft import STFT
from sepriors.weights import load


class MethodError(ValueError):
    """A method that is unknown."""


@dataclass(frozen=True, eq=False)
class NoiseEM(Method):
    """Expectation-maximisation around any speech prior: a front end, an E-step and a noise model.

    IS-NMF, VAE, recurrent VAE and diffusion (`nmf_em`, `variance_em`, `diffusion_em`) differ in these three alone.
    """

    front_end: FrontEnd
    estep: EStep
    noise: NoiseModel = FreeNMF()  # noqa: RUF009
    iterations: int = 100
    running: Running = Running()  # noqa: RUF009

    @property
    def stft(self) -> STFT:
        return self.front_end.stft

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        domain = self.front_end.bind(x)
        X = domain(x)
        estep, noise = placed(self.estep, x), self.noise.start(x, X, domain, generators)
        rounds = em(X, estep, noise, update=self.noise.update, iterations=self.iterations, generators=generators)
        yield from in_time(rounds, domain, x.shape[-1])


def placed(estep: Any, x: torch.Tensor) -> Any:
    """The E-step, a tuple of choices, with the networks in it at the signal's precision and place."""
    if hasattr(estep, "_replace"):
        return estep._replace(**{name: placed(value, x) for name, value in estep._asdict().items()})
    return matched(estep, x)


def in_time(rounds: Iterator[Step], domain: Domain, length: int) -> Iterator[Step]:
    """Steps whose estimate is a waveform in place of a spectrum."""

    def back(spectrum: Callable[[], torch.Tensor]) -> torch.Tensor:
        return domain.inverse(spectrum(), length)

    for step in rounds:
        yield step._replace(estimate=partial(back, step.estimate))


def nmf_em(
    speech_bases: torch.Tensor,
    noise_bases: torch.Tensor | None = None,
    stft: STFT = STFT(1024, 256),  # noqa: B008  it is frozen
    *,
    rank: int = 8,
    initial_gain: float = NMFE._field_defaults["initial_gain"],
    iterations: int = 100,
) -> NoiseEM:
    """Wiener filter with two Itakura-Saito NMFs, speech with trained bases (F, K), and noise (`nmf`, `nmf-supervised`).

    Févotte, Bertin & Durrieu (2009) for the model, Shi et al. (2021, § 5.2) for its use here. Without `noise_bases`
    (F, K) the noise's bases are learned from the mixture itself, `rank` of them; with them its activations alone.
    """
    noise = FreeNMF(rank) if noise_bases is None else TrainedNMF(noise_bases)
    return NoiseEM(Plain(stft), NMFE(speech_bases, initial_gain), noise, iterations, Running(batch_size=4))


def variance_em(
    prior: Any, latent: Latent, *, initial_gain: float = 0.01, gain: bool = True, **choices: Any
) -> NoiseEM:
    """EM with a variance prior (`vae-*`, `rvae-*`); what `latent` does with the posterior is all they differ in.

    Leglaive, Girin & Horaud (2018). The gain of each frame starts at `initial_gain`, and with `gain` is learned, see
    `em.VarianceE`; `choices` are those of `NoiseEM`.
    """
    estep = VarianceE(prior, latent, gain, initial_gain)
    return NoiseEM(PeakNormalised(prior.stft), estep, **{"running": Running(batch_size=2, max_seconds=30.0)} | choices)


def mcem(prior: Any, **choices: Any) -> NoiseEM:
    """Metropolis-Hastings (Leglaive, Girin & Horaud, 2018), in fewer and longer steps than there."""
    # Deviation: 6 steps a round for 40, one draw for 10, proposals in the shape of the posterior.
    walk = RandomWalk(0.3, prior.posterior_shape())
    return variance_em(prior, MCMC(walk, steps=6, final_steps=60, final_keep=20), **choices)


def ldem(prior: Any, **choices: Any) -> NoiseEM:
    """Langevin dynamics with ten parallel states and one step a round (Sadeghi & Serizel, 2023 and 2024)."""
    # Deviation: steps in the shape of a clean frame's posterior, stable wherever; a gain a frame; two of the states
    # serve the rounds, where more change little, and all ten the estimate.
    walk = Langevin(0.5, prior.posterior_shape(fraction=1.0))
    latent = MCMC(walk, steps=1, chains=2, start_variance=0.01, final_steps=10, final_times=5)
    return variance_em(prior, latent, **choices)


def ldem_inferred(prior: Any, noise: Any, **choices: Any) -> NoiseEM:
    """`ldem` whose noise begins as an amortised posterior hears it (`vae-ldem-npe`)."""
    return ldem(prior, noise=Inferred(noise), **choices)


def recurrent(prior: Any, latent: Latent, **choices: Any) -> NoiseEM:
    """EM with the recurrent prior and the settings of Sadeghi & Serizel (2024): rank 8, 100 rounds."""
    running = Running(batch_size=8, max_seconds=30.0, parallel=True)
    return variance_em(prior, latent, initial_gain=1.0, **{"running": running} | choices)


def recurrent_ldem(prior: Any, chains: int, final_times: int, **choices: Any) -> NoiseEM:
    """Langevin dynamics with the recurrent prior, one step a round."""
    # Deviation: steps in the shape of a clean frame's posterior, since a plain one of .01 diverges there; averaged
    # noise; `chains` states serve the rounds, `final_times` as many the estimate; no perturbation between rounds.
    walk = Langevin(0.5, prior.posterior_shape(fraction=1.0), averaged=True)
    latent = MCMC(walk, steps=1, chains=chains, start_variance=0.01, final_steps=5, final_times=final_times)
    return recurrent(prior, latent, **choices)


def diffusion_em(prior: Any, estep: Any, iterations: int, noise: NoiseModel = FreeNMF(4), **choices: Any) -> NoiseEM:  # noqa: B008
    """EM with a diffusion prior (`udiffse`, `udiffse-plus`, `depse`, `udiffse-fast`).

    Nortier, Sadeghi & Serizel (2024). `estep` makes the E-step of the prior's denoiser. A `FreeNMF` lives in the
    compressed domain, as if mixtures added up there; one that is `Begun` by another method is seen through it.
    """
    front_end = Compressed(prior.stft, prior.compression)
    running = Running(batch_size=1, max_seconds=30.0, parallel=True)  # its draws are a batch already
    return NoiseEM(front_end, estep(prior.denoise), noise, iterations, **{"running": running} | choices)


def scored(prior: Any, speech_bases: torch.Tensor, estep: Any, iterations: int) -> NoiseEM:
    """`diffusion_em` whose noise is begun by `nmf`."""
    # Deviation: the source's noise starts at random, and behind the compression; chapter 6 measures what that costs.
    return diffusion_em(prior, estep, iterations, Begun(nmf_em(speech_bases)))


@dataclass(frozen=True, eq=False)
class SPPWiener(Method):
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


class KnownVariance(Method, Protocol):
    """A method that may know the variance of the white noise in each file."""

    variance: torch.Tensor | None

    def part(self, segments: Sequence[Segment], files: int) -> Self:
        """The method for these segments of so many files."""
        if self.variance is None:
            return self
        if self.variance.shape != (files,):
            expected = f"expected a positive variance of the noise for each of {files} files"
            raise ValueError(f"{expected}, got {self.variance}")
        return replace(self, variance=self.variance[[p.row for p in segments]])  # type: ignore[type-var]


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
    fast: bool | None = None  # couplings in half precision, see `flows.SignalPosterior`
    running: Running = Running(batch_size=16)  # noqa: RUF009

    PAPER: ClassVar[dict[float, float]] = {-6: 100, 0: 200, 6: 2000, 9: 4000}

    @classmethod
    def oracle(cls, prior: Any, **choices: Any) -> Callable[[Mixture], FlowMAP]:
        """`flow-map-oracle`: knows the noise's true variance from the bench, since no user could."""
        return lambda mixture: cls(prior, variance=mixture.noise.square().mean(-1).reshape(-1), **choices)

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = matched(self.prior, x)
        variance = self.variance
        if self.weight is not None:  # at the level where speech has the prior's power
            noise = 0.5 / self.weight
            variance = x.square().mean(-1).clamp_min(1e-12) * noise / (noise + prior.rms**2)
        made = flows.white(x, prior, variance)
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
    running: Running = Running(batch_size=16)  # noqa: RUF009

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = matched(self.prior, x)
        made = flows.white(x, prior, self.variance)
        total = torch.zeros_like(made.x)
        for i in range(self.iterations):
            offset = i * prior.window // self.iterations
            total = total + flows.denoise(prior, made.x, made.variance, offset=offset, fast=self.fast)
            yield Step(i, None, partial(made.back, total / (i + 1)))


@dataclass(frozen=True, eq=False)
class FlowLangevin(KnownVariance):
    """The mean of p(s | x) over parallel chains, annealed from the mixture to clean speech (`flow-langevin`).

    After Jayaram & Thickstun (2020), with flows that are conditional on the noise; how the chains move, and why
    not as there, says `flows.anneal`. The noise is white, as in `FlowMAP`.
    """

    prior: Any  # a `NoisyPrior` that is an `nn.Module`
    variance: torch.Tensor | None = None
    chains: int = 5
    iterations: int = 10  # levels of noise
    tau_min: float = 1e-3  # the last of them, at a speech power of 1e-3
    descend: bool = True
    steps: int = 0  # of plain Langevin dynamics at each level
    fast: bool | None = None
    running: Running = Running(batch_size=4)  # noqa: RUF009

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = matched(self.prior, x)
        made = flows.white(x, prior, self.variance)
        walks = flows.anneal(
            prior, made.x, made.variance, levels=self.iterations, chains=self.chains, tau_min=self.tau_min,
            generators=generators, descend=self.descend, steps=self.steps, fast=self.fast,
        )  # fmt: skip
        for i, walk in enumerate(walks):
            yield Step(i, None, partial(lambda signal: made.back(signal.mean(0)), walk.signal))


@dataclass(frozen=True, eq=False)
class ConditionalDiffusion(Method):
    """Speech drawn given the mixture by a network that was trained on pairs of the two (`diffusion-supervised`).

    After SGMSE+ (Richter et al., 2023), whose process drifts to the mixture; ours to zero, and the network is
    conditioned on the mixture.
    """

    prior: Any  # a `Denoiser` that is conditional
    schedule: diffusion.Schedule = diffusion.OUVE()  # noqa: RUF009
    iterations: int = 30
    draws: int = 1
    running: Running = Running(batch_size=1, max_seconds=30.0, parallel=True)  # noqa: RUF009

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = matched(self.prior, x)
        domain = Compressed(prior.stft, prior.compression).bind(x)
        X = domain(x)
        denoise = partial(prior.denoise, noisy=X)
        s = diffusion.start(X, self.schedule, self.draws, generators)
        walk = diffusion.reverse(denoise, self.schedule, s, steps=self.iterations, generators=generators)
        steps = (Step(i, None, partial(torch.mean, state.position, 0)) for i, state in enumerate(walk))
        yield from in_time(steps, domain, x.shape[-1])


@dataclass(frozen=True, eq=False)
class Separator(Method):
    """The speech that a network finds in a mixture, in one call.

    `use-ddp` has two branches, one for speech and one for noise (Klement et al., 2025); `bsse` a mask of the spectrum
    (Hung et al., 2022); `npe` a Wiener filter with its doubt (`priors.npe`).
    """

    prior: Any  # a `Codec`, a `BSSE` or an `NPE`: what has `enhance`
    iterations: int = 1
    running: Running = Running(batch_size=1, max_seconds=30.0, parallel=True)  # noqa: RUF009

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        prior = matched(self.prior, x)
        yield Step(0, None, partial(torch.no_grad()(prior.enhance), x))  # with gradients an LSTM rounds differently


@dataclass(frozen=True, eq=False)
class OracleWiener(Method):
    """Wiener filter that knows the periodograms of speech and noise: a ceiling, for the chapters only."""

    clean: torch.Tensor  # (..., N), as the mixtures are
    noise: torch.Tensor
    stft: STFT = STFT(1024, 256)  # noqa: RUF009
    iterations: int = 1

    @classmethod
    def from_mixture(cls, mixture: Mixture) -> OracleWiener:
        """The oracle of one mixture; the bench asks for it, since no user could."""
        return cls(mixture.clean, mixture.noise)

    def part(self, segments: Sequence[Segment], files: int) -> OracleWiener:
        """The oracle of these segments of so many files."""
        rows = [x.reshape(-1, x.shape[-1]) for x in (self.clean, self.noise)]
        if {len(x) for x in rows} != {files}:
            got = f"{tuple(self.clean.shape)}, {tuple(self.noise.shape)}"
            raise ValueError(f"expected speech and noise of each of {files} files, got shapes {got}")
        clean, noise = (torch.stack([x[p.row, p.start : p.stop] for p in segments]) for x in rows)
        return replace(self, clean=clean, noise=noise)

    def __call__(self, x: torch.Tensor, *, generators: Generators) -> Iterator[Step]:
        V_s, V_n = (self.stft(signal).abs().square() for signal in (self.clean, self.noise))
        yield Step(0, None, lambda: self.stft.inverse(gaussian.wiener(self.stft(x), V_s, V_n), x.shape[-1]))


class MethodSpec(NamedTuple):
    """What `sepriors methods` lists: what a method is, its cards, how to make it, how it departs from its source.

    `make` is given what the cards hold, each a prior or bases (F, K). `departures` is empty where there are none. By
    'supervised:' in `about` the leaderboard knows supervised methods.
    """

    about: str
    cards: tuple[str, ...]
    make: Callable[..., Method]
    departures: str = ""


SCORED = ("score", "nmf-speech")  # the cards of the methods with a score prior
DEPSE = partial(ReverseE, restart=False, guide=diffusion.posterior_transition, every=1)

METHODS: dict[str, MethodSpec] = {
    "spp-wiener": MethodSpec("noise by speech presence probability, Wiener gain; no speech prior", (), SPPWiener),
    "nmf-supervised": MethodSpec(
        "IS-NMF, 40 trained bases of speech and 40 of real noise",
        ("nmf-speech-257", "nmf-noise-257"), partial(nmf_em, stft=STFT(512, 128)),
        "speech starts 15 dB below the mixture",
    ),
    "nmf": MethodSpec(
        "IS-NMF, 64 trained bases of speech, 16 of noise learned from the mixture",
        ("nmf-speech",), partial(nmf_em, rank=16), "speech starts 15 dB below the mixture",
    ),
    "vae-mcem": MethodSpec(
        "VAE, posterior of its latent variables by Metropolis-Hastings, a gain a frame", ("vae",), mcem,
        "6 steps a round for 40, one draw for 10, proposals in the posterior's shape; starts low",
    ),
    "vae-ldem": MethodSpec(
        "VAE, posterior by Langevin dynamics, 10 parallel states", ("vae",), ldem,
        "steps in the posterior's shape; a gain a frame; two states in the rounds; starts low",
    ),
    "vae-ldem-npe": MethodSpec(
        "VAE, Langevin dynamics, eight bases of noise as `npe` hears them; semi-supervised: by simulated noise",
        ("vae", "npe"), ldem_inferred, "ours; as `vae-ldem`, but the noise does not start at random",
    ),
    "vae-peem": MethodSpec(
        "VAE, posterior's mode by gradient ascent",
        ("vae",), partial(variance_em, latent=PointEstimate(steps=3, learning_rate=0.01)),
        "three steps of Adam a round for ten; a gain a frame; speech starts low",
    ),
    "vae-vem": MethodSpec(
        "VAE, posterior by tuning the encoder on each file",
        ("vae",), partial(variance_em, latent=Variational(steps=2, learning_rate=0.002)),
        "published for the recurrent prior; two steps of Adam a round; speech starts low",
    ),
    "rvae-vem": MethodSpec(
        "recurrent VAE, posterior by tuning the encoder on each file",
        ("rvae",), partial(recurrent, latent=Variational(steps=1, learning_rate=0.001)),
        "the posterior's spread does not look back; recurrent matrices of the encoder stay",
    ),
    "rvae-peem": MethodSpec(
        "recurrent VAE, posterior's mode by gradient ascent",
        ("rvae",), partial(recurrent, latent=PointEstimate(steps=1, learning_rate=0.03)),
        "the posterior's spread does not look back; one step of Adam a round for ten",
    ),
    "rvae-mhem": MethodSpec(
        "recurrent VAE, posterior by Metropolis-Hastings",
        ("rvae",), partial(recurrent, latent=MCMC(RandomWalk(0.01), steps=10, final_steps=10, final_keep=5)),
        "the posterior's spread does not look back",
    ),
    "rvae-malaem": MethodSpec(
        "recurrent VAE, posterior by the Metropolis-adjusted Langevin algorithm",
        ("rvae",), partial(recurrent, latent=MCMC(MALA(0.01, tamed=True), steps=10, final_steps=10, final_keep=5)),
        "the posterior's spread does not look back",
    ),
    "rvae-ldem": MethodSpec(
        "recurrent VAE, posterior by Langevin dynamics, 10 parallel states",
        ("rvae",), partial(recurrent_ldem, chains=2, final_times=5),
        "steps in the posterior's shape, averaged noise; two states in the rounds",
    ),
    "rvae-fast": MethodSpec(
        "recurrent VAE, posterior by Langevin dynamics, one state, 45 rounds",
        ("rvae",), partial(recurrent_ldem, chains=1, final_times=4, iterations=45), "ours, after `rvae-ldem`",
    ),
    "udiffse": MethodSpec(
        "diffusion, five rounds of a guided reverse process, the last of them with four draws",
        # Deviation: two draws for four in the rounds that only teach the noise; two thirds of the time
        SCORED, partial(scored, estep=partial(ReverseE, draws=(2, 2, 2, 2, 4)), iterations=5),
        "small network; noise begun by `nmf`; the prior's variance is no noise; two draws for four",
    ),
    "udiffse-plus": MethodSpec(
        "diffusion, one guided reverse process that learns the noise on its way, four draws",
        SCORED, partial(scored, estep=partial(ReverseE, restart=False), iterations=15),
        "small network; noise begun by `nmf`; the prior's variance is no noise",
    ),
    "depse": MethodSpec(
        "diffusion, one reverse process of posterior transitions, which need no weight, four draws",
        SCORED, partial(scored, estep=DEPSE, iterations=30),
        "small network; noise begun by `nmf`; the prior's variance is no noise",
    ),
    "udiffse-fast": MethodSpec(
        "diffusion, ten rounds of a Gibbs sampler between speech and noisier speech, one draw",
        SCORED, partial(scored, estep=GibbsE, iterations=10),
        "ours, after the split Gibbs sampler of Vono et al. (2019)",
    ),
    "diffusion-supervised": MethodSpec(
        "diffusion conditional on the mixture, four draws; supervised: trained on pairs",
        # Deviation: ten steps for thirty, four draws for one: as good, and judged like the draws of `udiffse`.
        ("diffusion-supervised",), partial(ConditionalDiffusion, iterations=10, draws=4),
        "after SGMSE+, without its drift; small network; ten steps for thirty, four draws",
    ),
    "npe": MethodSpec(
        "amortised posterior, two passes of a network; semi-supervised: trained on speech in simulated noise",
        ("npe",), Separator, "ours, by neural posterior estimation (Cranmer et al., 2020)",
    ),
    "use-ddp": MethodSpec(
        "codec with a branch for speech and one for noise, learned from mixtures and corpora without pairs",
        ("use-ddp",), Separator, "small codec, trained here; leakage and cycle losses beside the source's",
    ),
    "bsse": MethodSpec(
        "mask from spectrum and self-supervised embeddings; supervised: trained on pairs",
        ("bsse",), Separator, "small embeddings, trained here; decibels of the waveform beside the spectral loss",
    ),
    "flow-map": MethodSpec(
        "WaveGlow, posterior's mode by gradient ascent, stopped at the likelihood of clean speech; white noise only",
        ("waveglow",), FlowMAP, "half the width; speech at a random level in training",
    ),
    "flow-tweedie": MethodSpec(
        "WaveGlow of noisy speech, posterior's mean in one step; white noise only",
        ("waveglow-noisy",), FlowTweedie, "ours: Tweedie's formula with a flow of noisy speech",
    ),
    "flow-langevin": MethodSpec(
        "WaveGlow of noisy speech, posterior's mean by annealed Langevin dynamics, 5 chains; white noise only",
        ("waveglow-noisy",), FlowLangevin, "ours, after Jayaram & Thickstun (2020): a descent between levels",
    ),
}  # fmt: skip


def make(name: str, **changes: Any) -> Method:
    """The method of that name with its trained weights, and with `changes` of its settings.

    Raises MethodError for an unknown name, with the nearest, and TypeError for settings that it does not have.

    >>> make("nmf", iterations=50).iterations
    50
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3, cutoff=0.4) or list(METHODS)
        raise MethodError(f"unknown method {name!r}; did you mean {' or '.join(near)}?")
    spec = METHODS[name]
    made: Any = spec.make(*map(_held, spec.cards))
    return replace(made, **changes) if changes else made


def _held(card: str) -> Any:
    """The prior of a card, or the bases of an NMF."""
    return load(card).tensors["W"].float() if card.startswith("nmf-") else priors.load(card)
