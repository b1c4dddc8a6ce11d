"""Training: each recipe learns what a card of `cards.toml` describes; `sepriors train NAME` writes both again."""

from __future__ import annotations

import difflib
import json
import math
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import nn
from torchaudio.models import hubert_pretrain_model
from tqdm import tqdm

from . import nmf, weights
from .adversarial import Game, Objective, rebuild, unit
from .audio import whole, write
from .corpora import Corpora, CorpusError, bench_set
from .corpora.fetch import cache_dir, download
from .corpora.sets import DOMAINS
from .fitting import fit
from .methods import Method, Separator, enhance
from .metrics import score_many, si_sdr
from .mixing import Mixture, mix
from .pretraining import clustering, mfcc
from .priors import BSSE, MAF, RVAE, SSL, VAE, Codec, Descript, ScoreNet, WaveGlow, load
from .priors.bsse import Inputs
from .priors.ssl import framed
from .rng import borrowed, generators
from .stft import STFT
from .unpaired import Clean, Clips, Share, at_snr, drawing, held_out, share


class Learned(NamedTuple):
    """What training gives: the tensors, the configuration that goes into their file, and facts for their card."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, str]
    facts: dict[str, Any]


@dataclass(frozen=True)
class NMFRecipe:
    """Bases of the power spectra of a corpus, by IS-NMF (Févotte, Bertin & Durrieu, 2009).

    Speech keeps only frames within `range_db` of the loudest of its file: the divergence is blind to level, so pauses
    would count as much as vowels, and bases that learn a corpus's room noise take noise for speech later.
    """

    rank: int
    stft: STFT
    kind: str = "speech"  # or 'noise', or 'white': drawn, not recorded
    select: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = 30.0
    range_db: float = 20.0
    iterations: int = 100

    @property
    def about(self) -> str:
        return f"IS-NMF bases of {self.kind}, {self.rank} of {self.stft.bins} bins"

    def learn(self, corpora: Corpora, seed: int, progress: bool) -> Learned:
        """The bases W (F, K) of the training split."""
        if self.kind == "white":
            P, facts = _white(self, seed)
        else:
            frames, facts = spectra(self, corpora, seed, progress)
            P = frames.mT.contiguous()[None]
        model = nmf.init(P, self.rank, generators(seed, 1))
        for _ in tqdm(range(self.iterations), desc="updates", disable=not progress):
            model = nmf.update(model, P[None])
        config = {**asdict(self.stft), "rank": self.rank}
        return Learned({"W": model.W[0]}, {key: str(value) for key, value in config.items()}, facts)


@dataclass(frozen=True)
class VAERecipe:
    """A frame-wise VAE of the power spectra of a corpus, by the evidence lower bound (Kingma & Welling, 2014).

    Each file has a peak of 1, as the mixtures will have, and each frame is then raised or lowered at random by up to
    `level_db`, since speech in a mixture is at no known level: worth .2 dB of SI-SDR on validation speakers and
    training noises. Frames more than `range_db` below the loudest of their file are left out: with 45 dB the prior
    learns the corpus's pauses, and takes a mixture's noise for them (4.5 dB of SI-SDR lost). Weights are averaged over
    steps.
    """

    stft: STFT
    latent: int = 32
    hidden: int = 128
    kind: str = "speech"
    select: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = math.inf
    range_db: float = 30.0
    level_db: float = 10.0
    background: bool = False
    epochs: int = 40
    batch: int = 256  # frames
    learning_rate: float = 1e-3  # Adam's, falling by a cosine to its hundredth
    seed: int = 0  # added to the caller's: an ensemble has one recipe and many seeds

    @property
    def about(self) -> str:
        of = "a background: noise, and speech with a third of its bins exchanged" if self.background else self.kind
        return f"frame-wise VAE of {of}, {self.stft.bins} bins, {self.latent} latent variables"

    def learn(self, corpora: Corpora, seed: int, progress: bool) -> Learned:
        """The VAE's parameters, in half precision, which the bound hardly feels."""
        frames, facts = spectra(self, corpora, seed, progress, peak=True)
        (g,) = generators(seed + self.seed, 1)
        if self.background:
            noise, noise_facts = spectra(replace(self, kind="noise", select={}), corpora, seed, progress, peak=True)
            frames = frames[torch.randperm(len(frames), generator=g)[: len(noise)]]
            frames = torch.cat([noise, exchange_bins(frames, 1 / 3, g)])
            facts = {key: f"{noise_facts[key]} and {facts[key]}" for key in facts}
        valid = None
        if not self.background and "valid" in set(corpora.select(kind=self.kind, **self.select)["split"]):
            valid = spectra(replace(self, minutes=math.inf), corpora, seed, False, peak=True, split="valid")[0]
        made = VAE(self.stft, self.latent, self.hidden)
        for p in made.parameters():  # as torch would, from our own generator
            bound = 1 / math.sqrt(p.shape[-1] if p.ndim > 1 else self.hidden)
            torch.nn.init.uniform_(p, -bound, bound, generator=g)
        made, curve = fit_vae(made, frames, valid, self, g, progress)
        tensors = {name: p.detach().half() for name, p in made.state_dict().items()}
        if curve:
            facts["valid_elbo"] = [round(value, 1) for value in curve]
        return Learned(tensors, made.config, facts)


def fit_vae(
    made: VAE,
    frames: torch.Tensor,
    valid: torch.Tensor | None,
    recipe: VAERecipe,
    generator: torch.Generator,
    progress: bool = True,
) -> tuple[VAE, list[float]]:
    """Adam on the bound of the frames (N, F): the averaged VAE, and the bound on `valid` after every five epochs."""
    steps = recipe.epochs * (len(frames) // recipe.batch)
    if not steps:
        raise CorpusError(f"expected a batch of {recipe.batch} frames at least, got {len(frames)} frames")
    batches = _batches(frames, recipe, generator)

    def loss(model: Any, P: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        return -model.elbo(P, torch.randn(1, 1, model.latent, recipe.batch, generator=g)).mean()

    def validate(model: Any) -> float:
        assert valid is not None
        return mean_elbo(model, valid)

    fitted = fit(
        made, lambda g: next(batches), loss, steps=steps, learning_rate=recipe.learning_rate, generator=generator,
        validate=None if valid is None else validate, validations=max(1, recipe.epochs // 5), progress=progress,
    )  # fmt: skip
    return fitted.model, fitted.curve


def mean_elbo(made: VAE, frames: torch.Tensor) -> float:
    """The bound on log p of a frame, nats, mean over frames (N, F), one draw each from a generator of its own."""
    noise = torch.randn(1, 1, made.latent, len(frames), generator=generators(0, 1)[0])
    with torch.inference_mode():
        return float(made.elbo(frames.mT[None], noise).mean())


def _batches(frames: torch.Tensor, recipe: VAERecipe, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Batches (1, F, batch) of frames (N, F) in random order, each frame at a random level, epoch after epoch."""
    for _ in range(recipe.epochs):
        order = torch.randperm(len(frames), generator=generator)
        for rows in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
            level = recipe.level_db / 10 * (2 * torch.rand(recipe.batch, generator=generator) - 1)
            yield frames[rows].mT[None] * 10**level


def exchange_bins(P: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Spectra (N, F) in which a share of the bins has the power of another bin of the same frame, drawn at random.

    What a background model learns from besides noise (Ren et al., 2019, § 3): all of speech's levels, not its shape.
    """
    elsewhere = torch.randint(P.shape[-1], P.shape, generator=generator)
    return torch.where(torch.rand(P.shape, generator=generator) < share, P.gather(-1, elsewhere), P)


@dataclass(frozen=True)
class RVAERecipe:
    """A recurrent VAE of the power spectra of a corpus, by the evidence lower bound (Leglaive et al., 2020, § 3).

    Sequences of `frames` frames; files have a peak of 1, sequences are raised or lowered at random by up to `level_db`,
    and frames more than `range_db` below the loudest of their file count for nothing, as for `VAERecipe`: the network
    passes by them, but nobody asks it how pauses sound. The divergence is weighted by a β that rises to 1 over the
    `warm` first part of the training.
    """

    stft: STFT
    latent: int = 16
    hidden: int = 128
    kind: str = "speech"
    select: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = math.inf
    range_db: float = 30.0
    level_db: float = 10.0
    steps: int = 36_000
    batch: int = 32  # sequences
    frames: int = 50
    learning_rate: float = 1e-3
    warm: float = 0.2
    clip: float = 100.0

    @property
    def about(self) -> str:
        sizes = f"{self.stft.bins} bins, {self.latent} latent variables, {self.hidden} units"
        return f"recurrent VAE of {self.kind}, {sizes}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The RVAE's parameters, in half precision, and the bound on validation speech, nats a frame."""
        (g,) = generators(seed, 1)
        made = RVAE(self.stft, self.latent, self.hidden)
        for p in made.parameters():  # as torch would, from our own generator
            torch.nn.init.uniform_(p, -1 / math.sqrt(self.hidden), 1 / math.sqrt(self.hidden), generator=g)
        draw, facts = sequences(self, corpora, seed, progress)
        whole = replace(self, minutes=math.inf, batch=512, level_db=0.0)
        held_out = sequences(whole, corpora, seed, False, split="valid")[0](generators(0, 1)[0])

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            return -self.bound(model, batch, g, beta=min(1.0, done / self.warm))

        def validate(model: Any) -> float:
            with torch.inference_mode():
                return float(self.bound(model, held_out.to(device), generators(0, 1)[0]))

        device = "cuda" if torch.cuda.is_available() else "cpu"
        fitted = fit(
            made.to(device), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g,
            clip=self.clip, validate=validate, checkpoint=checkpoint, progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
        )  # fmt: skip
        tensors = {name: p.detach().cpu().half() for name, p in fitted.model.state_dict().items()}
        facts["valid_elbo"] = [round(value, 1) for value in fitted.curve]
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def bound(self, model: Any, batch: torch.Tensor, g: torch.Generator, beta: float = 1.0) -> torch.Tensor:
        """The mean bound of the frames that count, nats; a batch as `sequences` draws it."""
        P, counts = batch[:, :-1], batch[:, -1]
        noise = torch.randn(1, len(P), self.latent, P.shape[-1], generator=g).to(P)
        return (model.elbo(P, noise, beta) * counts).sum() / counts.sum().clamp_min(1)


def sequences(
    made: RVAERecipe, corpora: Corpora, seed: int, progress: bool, *, split: str = "train"
) -> tuple[Callable[[torch.Generator], torch.Tensor], dict[str, Any]]:
    """A function that draws a batch (batch, F + 1, frames) of power spectra, and what the files were.

    The last row of a sequence is 1 where a frame counts, 0 where it is quiet.
    """
    rows, facts = chosen(made, corpora, seed, split)
    files = []
    for path in tqdm(rows["path"], desc="spectra", disable=not progress):
        x = corpora.read(path)
        P = made.stft(x / x.abs().max().clamp_min(1e-8)).abs().square()
        level = 10 * P.sum(0).clamp_min(1e-12).log10()
        loud = level > level.max() - made.range_db
        first, *_, last = loud.nonzero().flatten().tolist() * 2  # one frame may be all there is
        if last + 1 - first >= made.frames:
            files.append(torch.cat([P, loud[None].to(P)]).mT[first : last + 1].contiguous())
    if not files:
        raise CorpusError(f"expected {split} files of {made.frames} frames at least, got none of {len(rows)}")
    odds = torch.tensor([float(len(x)) for x in files])

    def draw(g: torch.Generator) -> torch.Tensor:
        batch = []
        for k in torch.multinomial(odds, made.batch, replacement=True, generator=g).tolist():
            start = int(torch.randint(len(files[k]) - made.frames + 1, (), generator=g))
            batch.append(files[k][start : start + made.frames])
        level = made.level_db / 10 * (2 * torch.rand(made.batch, 1, 1, generator=g) - 1)
        drawn = torch.stack(batch).mT.contiguous()
        drawn[:, :-1] *= 10**level
        return drawn

    return draw, facts


@dataclass(frozen=True)
class FlowRecipe:
    """A WaveGlow of the waveforms of a corpus, by maximum likelihood (Shi et al., 2021, eq. 7).

    Each file has power 1e-3 and is dithered as its 16 bits deserve; each segment is then raised or lowered at random by
    up to `level_db`, since nobody knows the level of speech in a mixture exactly. With `noise` (low, high) the flow is
    trained on noisy speech, and told the standard deviation, drawn evenly in decibels.
    """

    select: Mapping[str, Any] = field(default_factory=dict)
    family: str = "waveglow"  # or 'maf': each window a draw of its own
    hidden: int = 128
    context: bool = True
    mu: float = 0.0
    noise: tuple[float, float] | None = None
    level_db: float = 5.0
    steps: int = 15_000
    batch: int = 8  # segments
    seconds: float = 2.0
    learning_rate: float = 1e-3  # Deviation: the paper's 1e-4 takes ten times as long
    minutes: float = math.inf
    kind: str = "speech"

    @property
    def about(self) -> str:
        of = "speech in white noise of a given level" if self.noise else "clean speech"
        how = [f"{self.hidden} hidden units"]
        how += [] if self.context else ["windows that do not see each other"]
        how += [f"companded, μ = {self.mu:g}"] if self.mu else []
        what = {"waveglow": "WaveGlow of 12 blocks", "maf": "MAF of 5 blocks"}[self.family]
        return f"{what}, {of}, windows of 80 samples, {', '.join(how)}"

    def make(self) -> WaveGlow | MAF:
        """The flow before training, but for its random parameters."""
        if self.family == "maf":
            return MAF(80, hidden=self.hidden, rms=WaveGlow.rms)
        return WaveGlow(hidden=self.hidden, context=self.context, mu=self.mu, told=self.noise is not None)

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The flow's parameters, in half precision, and its log-density of validation speech, nats a sample."""
        (g,) = generators(seed, 1)
        made = self.make()
        made.start(g)
        speech, facts = segments(self, corpora, seed, progress)
        valid = segments(replace(self, minutes=math.inf), corpora, seed, False, split="valid")[0]
        held_out = torch.stack([valid(h) for h in generators(range(16), 16)]).flatten(0, 1)

        def loss(model: Any, s: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            level = 10 ** (self.level_db / 20 * (2 * torch.rand(len(s), 1, generator=g) - 1))
            return -self.density(model, s * level.to(s), g)

        device = "cuda" if torch.cuda.is_available() else "cpu"
        fitted = fit(
            made.to(device), speech, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=100.0,
            validate=lambda model: self.validate(model, held_out.to(device)), bf16=True, checkpoint=checkpoint,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
            progress=progress, fabric=fabric,
        )  # fmt: skip
        facts["valid_nats_per_sample"] = [round(value, 3) for value in fitted.curve]
        return Learned(*finished(fitted.model, held_out), {**facts, "train_seconds": round(fitted.seconds, 1)})

    def density(self, model: Any, s: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        """Mean log-density of segments (B, N), nats a sample, with the noise that the recipe asks for."""
        if self.noise is None:
            return model.log_prob(s).mean() / s.shape[-1]
        low, high = (math.log(tau) for tau in self.noise)
        tau = torch.exp(low + (high - low) * torch.rand(len(s), generator=g)).to(s)
        s = s + tau[:, None] * torch.randn(s.shape, generator=g).to(s)
        return model.log_prob(s, tau).mean() / s.shape[-1]

    def validate(self, model: Any, s: torch.Tensor) -> float:
        """The same of validation segments, with the same noise each time."""
        with torch.inference_mode():
            return float(self.density(model, s, generators(0, 1)[0]))


def finished(flow: WaveGlow | MAF, held_out: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A trained flow's parameters in half precision, and its configuration, with the density of clean speech (B, N)."""
    tensors = {name: p.detach().cpu().half() for name, p in flow.tensors.items()}
    told = getattr(flow, "told", False)
    made = type(flow).from_weights(weights.Weights(tensors, flow.config))
    if not told:
        with torch.inference_mode():
            made.clean = round(float(made.log_prob(held_out.cpu()).mean()) / held_out.shape[-1], 3)
    return tensors, made.config


def segments(
    made: FlowRecipe, corpora: Corpora, seed: int, progress: bool, *, split: str = "train"
) -> tuple[Callable[[torch.Generator], torch.Tensor], dict[str, Any]]:
    """A function that draws a batch of segments (batch, N) from a split's files, and what the files were."""
    rows, facts = chosen(made, corpora, seed, split)
    length = round(made.seconds * 16000)
    files = []
    for path in tqdm(rows["path"], desc="speech", disable=not progress):
        x = corpora.read(path)
        if len(x) >= length:
            files.append(x)
    if not files:
        raise CorpusError(f"expected {split} files of {made.seconds:g} s at least, got none of {len(rows)}")
    gains = [WaveGlow.rms / float(x.square().mean().sqrt().clamp_min(1e-8)) for x in files]
    odds = torch.tensor([float(len(x)) for x in files])

    def draw(g: torch.Generator) -> torch.Tensor:
        batch = []
        for k in torch.multinomial(odds, made.batch, replacement=True, generator=g).tolist():
            start = int(torch.randint(len(files[k]) - length + 1, (), generator=g))
            dither = (torch.rand(length, generator=g) - 0.5) / 2**15
            batch.append(gains[k] * (files[k][start : start + length] + dither))
        return torch.stack(batch)

    return draw, facts


@dataclass(frozen=True)
class ScoreRecipe:
    r"""A denoiser of compressed spectra, by denoising score matching (Vincent, 2011; Karras et al., 2022, eq. 108).

    Speech has a greatest amplitude of about 1 and is then lowered at random, to `quiet` at the least, since it is the
    mixture that will have 1; $\sigma$ is spread evenly in its logarithm; the variance learns from what the mean has
    missed. With `told` each spectrum stands beside that of the same speech in training noise of the classes `noises`,
    at `snrs` dB: the supervised rival.
    """

    told: bool = False
    select: Mapping[str, Any] = field(default_factory=dict)
    noises: tuple[str, ...] = ("home", "vehicle", "weather")
    snrs: tuple[float, float] = (-6.0, 12.0)
    quiet: float = 0.3
    steps: int = 14_000
    batch: int = 8
    frames: int = 256
    learning_rate: float = 1e-3
    channels: tuple[int, ...] = (48, 80, 128, 144)
    share: float = 0.1  # of the variance's log-likelihood in the loss
    minutes: float = math.inf
    kind: str = "speech"

    @property
    def about(self) -> str:
        of = f"speech, told its mixture with noise ({', '.join(self.noises)})" if self.told else "speech"
        return f"denoiser of compressed spectra of {of}, a U-Net of {' '.join(map(str, self.channels))} channels"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and its error on validation speech by noise level."""
        (g,) = generators(seed, 1)
        made = ScoreNet(channels=self.channels, told=self.told)
        made.start(g)
        draw, facts = spectrograms(self, made, corpora, seed, progress)
        valid = replace(self, minutes=math.inf, batch=64, quiet=1.0)
        held_out = spectrograms(valid, made, corpora, seed, False, split="valid")[0](generators(0, 1)[0])
        low, high = (math.log(sigma) for sigma in made.levels)
        device = "cuda" if torch.cuda.is_available() else "cpu"

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            even = (torch.arange(len(batch)) + torch.rand(len(batch), generator=g)) / len(batch)
            sigma = torch.exp(low + (high - low) * even).to(batch.device)
            return self.errors(model, batch, sigma, g)[0].mean()

        def by_level(model: Any) -> list[float]:
            levels = torch.logspace(-1.7, 0.24, 8)  # .02 to 1.74, as a schedule uses them
            with torch.inference_mode():
                rows = zip(held_out.to(device).split(8), levels.to(device), strict=True)
                errors = (self.errors(model, b, s.expand(8), generators(0, 1)[0])[1] for b, s in rows)
                return [float(error.mean()) for error in errors]

        fitted = fit(
            made.to(device), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=1.0,
            validate=lambda model: sum(by_level(model)) / 8, checkpoint=checkpoint, progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
        )  # fmt: skip
        tensors = {name: p.detach().cpu().half().contiguous() for name, p in fitted.model.state_dict().items()}
        facts["valid_error"] = [round(value, 4) for value in fitted.curve]
        facts["valid_error_by_sigma"] = [round(value, 4) for value in by_level(fitted.model)]
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def errors(
        self, model: Any, batch: torch.Tensor, sigma: torch.Tensor, g: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each spectrum, and its squared error over what independent bins would leave; σ (B,)."""
        clean, noisy = batch[:, 0], batch[:, 1] if self.told else None
        sigma = sigma[:, None, None]
        z = torch.randn(clean.shape, dtype=clean.dtype, generator=g).to(clean.device)
        made = model.denoise(clean + sigma * z, sigma, noisy)
        missed = (clean - made.mean).abs().square()[..., :-1, :]
        error = (missed / model.weight(sigma)).mean((-2, -1))
        variance = made.variance[..., :-1, :]
        return error + self.share * (missed.detach() / variance + variance.log()).mean((-2, -1)), error


def spectrograms(
    made: ScoreRecipe, net: ScoreNet, corpora: Corpora, seed: int, progress: bool, *, split: str = "train"
) -> tuple[Callable[[torch.Generator], torch.Tensor], dict[str, Any]]:
    """A function that draws compressed spectra (batch, 1, F, frames), or (batch, 2, ...) with the noisy ones behind.

    What is longer is cut, what is shorter filled with silence.
    """
    rows, facts = chosen(made, corpora, seed, split)
    length = net.stft.hop * (made.frames - 1)
    files, peaks = [], []
    for path in tqdm(rows["path"], desc="speech", disable=not progress):
        x = corpora.read(path)
        files.append(nn.functional.pad(x, (0, max(0, length - len(x)))))
        peaks.append(float(net.compression(net.stft(x)).abs().max().clamp_min(1e-8)))
    odds = torch.tensor([float(len(x)) for x in files])
    noises: list[torch.Tensor] = []
    if made.told:
        recordings = _noises(made, corpora)
        noises = [x.tile(-(-length // len(x))) for x in map(corpora.read, recordings["path"])]
        facts["noises"] = len(noises)

    def crop(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        start = int(torch.randint(len(x) - length + 1, (), generator=g))
        return x[start : start + length]

    def draw(g: torch.Generator) -> torch.Tensor:
        which = torch.multinomial(odds, made.batch, replacement=True, generator=g).tolist()
        gain = made.quiet + (1 - made.quiet) * torch.rand(made.batch, 1, 1, generator=g)
        clean = torch.stack([crop(files[k], g) for k in which])
        if not made.told:
            S = net.compression(net.stft(clean)) / torch.tensor([peaks[k] for k in which])[:, None, None]
            return (gain * S)[:, None]
        those = torch.randint(len(noises), (made.batch,), generator=g).tolist()
        noise = torch.stack([crop(noises[k], g) for k in those])
        snr = made.snrs[0] + (made.snrs[1] - made.snrs[0]) * torch.rand(made.batch, 1, generator=g)
        power = [x.square().mean(-1, keepdim=True).clamp_min(1e-10) for x in (clean, noise)]
        noisy = clean + noise * (power[0] / power[1] * 10 ** (-snr / 10)).sqrt()
        both = net.compression(net.stft(torch.stack([clean, noisy], 1)))
        peak = both[:, 1].abs().amax((-2, -1)).clamp_min(1e-8)
        return (gain / peak[:, None, None])[:, None] * both

    return draw, facts


def _noises(made: ScoreRecipe | PairedRecipe, corpora: Corpora) -> pd.DataFrame:
    """The noise recordings that a supervised network learns from; for validation, too: there are no more."""
    rows = corpora.select(kind="noise", split="train", cls=made.noises)
    if rows.empty:
        raise CorpusError(f"expected training noise of {' or '.join(made.noises)}, got none; {corpora}")
    return rows


@dataclass(frozen=True)
class CodecRecipe:
    """The encoder and the decoder of `use-ddp` as an autoencoder, of the mixtures and of the noise corpus.

    It hears no clean speech: each of the three priors of chapter 7 begins here. Its branches share evenly.
    """

    objective: Objective = Objective()  # noqa: RUF009
    snrs: tuple[float, float] = (-5.0, 15.0)
    steps: int = 5000
    batch: int = 4  # of mixtures, and as many of noise
    seconds: float = 1.5
    learning_rate: float = 1e-3
    minutes: float = math.inf  # of speech, before it is divided
    channels: tuple[int, ...] = (24, 48, 96, 256)
    width: int = 96
    kind: str = "speech"
    clean: Clean = "in-domain"

    @property
    def about(self) -> str:
        return "codec of mixtures and noise, 50 frames a second, whose branches for speech and noise share evenly"

    def make(self, seed: int) -> tuple[Codec, torch.Generator]:
        """The network before training, and the generator to go on with."""
        (g,) = generators(seed, 1)
        made = Codec(self.channels, self.width)
        made.start(g)
        return made, g

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The codec's parameters, in half precision, and by how many decibels validation mixtures are rebuilt."""
        made, g = self.make(seed)
        parts = share(corpora, self.clean, self.minutes, seed)
        draw = drawing(corpora, parts, batch=self.batch, seconds=self.seconds, snrs=self.snrs, progress=progress)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        watched = unit(held_out(corpora, parts).noisy.to(device))

        def through(model: Any, x: torch.Tensor) -> torch.Tensor:
            rebuilt: torch.Tensor = model.decode(model.encode(x), x.shape[-1]).float()
            return rebuilt

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            x = unit(batch[[0, 2]].flatten(0, 1))
            return rebuild(x, through(model, x), self.objective)

        def validate(model: Any) -> float:
            with torch.inference_mode():
                return float(si_sdr(watched, through(model, watched)).mean())

        fitted = fit(
            made.to(device), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=10.0,
            validate=validate, bf16=True, checkpoint=checkpoint, progress=progress, about=f"{self}, seed {seed}",
            fabric=fabric,
        )  # fmt: skip
        tensors = {name: p.detach().cpu().half() for name, p in fitted.model.state_dict().items()}
        facts = _sizes(Share(parts.speech, parts.noise, parts.clean[:0], parts.alone))
        facts["valid_rebuilt_si_sdr"] = [round(value, 2) for value in fitted.curve]
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})


@dataclass(frozen=True)
class UnpairedRecipe:
    """`use-ddp` (Klement et al., 2025): the codec, and three ensembles of discriminators that make a prior of a corpus.

    `clean` says of which; 'close-talk' has noise of the mixtures bled into it, at `bleed` dB. `start` is the card of a
    codec; 'descript', the published Descript Audio Codec, which is downloaded; or None, from scratch.
    """

    clean: Clean = "in-domain"
    start: str | None = "codec"
    objective: Objective = Objective()  # noqa: RUF009
    snrs: tuple[float, float] = (-5.0, 15.0)
    bleed: tuple[float, float] = (10.0, 15.0)
    minutes: float = 24.0  # of the clean corpus: the out-of-domain one has no more
    steps: int = 900
    batch: int = 8
    seconds: float = 1.5
    learning_rate: float = 3e-4
    judges: int = 16  # channels of the discriminators
    faster: float = 3.0  # how many times as fast they, and the branches, learn
    fresh: CodecRecipe = CodecRecipe()
    shipped: bool = True  # else the repository has the card, not the weights
    kind: str = "speech"

    @property
    def about(self) -> str:
        began = f"begun as {self.start}" if self.start else "from scratch"
        without = {"adversaries": self.objective.adversarial, "a cycle": self.objective.cycle}
        lacks = "".join(f", without {name}" for name, weight in without.items() if not weight)
        return f"speech and noise of a mixture, unpaired, a clean corpus {self.clean}, {began}{lacks}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and its SI-SDR gain on validation mixtures at 0 dB."""
        made, g = self.fresh.make(seed)
        made = self.begun(progress) or made
        parts = share(corpora, self.clean, self.minutes, seed)
        bleed = self.bleed if self.clean == "close-talk" else None
        draw = drawing(
            corpora, parts, batch=self.batch, seconds=self.seconds, snrs=self.snrs, bleed=bleed, progress=progress
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        game = Game(made, self.judges)
        for judge in (game.clean, game.noise, game.mixture):
            _start(judge, g)
        watched = held_out(corpora, parts)
        before = si_sdr(watched.clean, watched.noisy)

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            return model.cost(batch, self.objective, done)

        def gains(net: Any) -> torch.Tensor:
            with torch.inference_mode():
                speech, noise = (part.cpu() for part in net.separate(watched.noisy.to(device)))
            if checkpoint is not None and _first(fabric):
                _keep_samples(checkpoint.with_suffix(".samples"), watched.noisy[:3], speech[:3], noise[:3])
            return si_sdr(watched.clean, speech) - before

        def validate(model: Any) -> float:
            return float(gains(model.generator).mean())

        fitted = fit(
            game.to(device), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=10.0,
            betas=(0.8, 0.99), warm=100, rates=dict.fromkeys(FASTER, self.faster),
            keep_best=True, validate=validate, bf16=True, checkpoint=checkpoint, progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}",
        )  # fmt: skip
        net = fitted.model.generator
        tensors = {name: p.detach().cpu().half() for name, p in net.state_dict().items()}
        facts = {**_sizes(parts), "valid_si_sdr_gain": [round(value, 2) for value in fitted.curve]}
        facts["valid_gain_by_file"] = [round(value, 2) for value in gains(net).tolist()]
        if fitted.diverged is not None:
            facts["diverged_at_step"] = fitted.diverged
        return Learned(tensors, net.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def begun(self, progress: bool = False) -> Codec | None:
        """The network that the training starts with, if not a fresh one."""
        if self.start is None:
            return None
        if self.start == "descript":
            return Descript.from_checkpoint(download(DESCRIPT, cache_dir() / "weights", progress=progress))
        found: Codec = load(self.start)
        return found.requires_grad_(True).train()


FASTER = ("clean", "noise", "mixture", "generator.speech", "generator.noise")  # what begins from nothing

# The published codec for 16 kHz; its authors give no hash
DESCRIPT = {
    "name": "weights_16khz.pth",
    "urls": ["https://github.com/descriptinc/descript-audio-codec/releases/download/0.0.5/weights_16khz.pth"],
}


def _start(module: nn.Module, g: torch.Generator) -> None:
    """Random parameters from one generator, as for a network of leaky rectifiers (He et al., 2015)."""
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 1:
                p.zero_()
            else:
                p.copy_(torch.randn(p.shape, generator=g) * math.sqrt(2 / p[0].numel()))


def _sizes(parts: Share) -> dict[str, Any]:
    """What the files of an unpaired training were."""
    rows = pd.concat(parts)
    return {
        "corpus": ", ".join(sorted(rows["corpus"].unique())),
        "files": len(rows),
        "minutes": round(float(rows["seconds"].sum()) / 60, 1),
        **{f"{name}_minutes": round(float(part["seconds"].sum()) / 60, 1) for name, part in parts._asdict().items()},
    }


def _keep_samples(folder: Path, *signals: torch.Tensor) -> None:
    """Mixtures, their speech and their noise, to listen to while it trains: SPEAKER-mixture.flac and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, rows in zip(("mixture", "speech", "noise"), signals, strict=True):
        for i, x in enumerate(rows):
            write(folder / f"{i}-{kind}.flac", x / x.abs().max().clamp_min(1.0), 16000, overwrite=True)


@dataclass(frozen=True)
class SSLRecipe:
    """Self-supervised embeddings, by masked prediction of clusters (HuBERT; Hsu et al., 2021, § II), in two rounds.

    The first round's clusters are of cepstra, the second's of the first's embeddings at `layer`. Frames are hidden in
    spans of ten; files have a peak of 1 and are lowered at random by up to `level_db`.
    """

    # Deviation: the paper hides more, asks for hidden frames alone and starts the second round afresh; in an hour its
    # convolutions learn nothing.
    select: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)  # of `SSL`, where they are not its own
    classes: tuple[int, ...] = (100, 200)  # a round
    steps: tuple[int, ...] = (2000, 3000)
    layer: int = 5
    seen: float = 1.0  # what a frame that is not hidden counts beside one that is
    batch: int = 12
    seconds: float = 2.0
    level_db: float = 20.0
    learning_rate: float = 3e-3
    minutes: float = math.inf
    kind: str = "speech"

    @property
    def about(self) -> str:
        rounds = " and ".join(f"{classes} classes for {n} steps" for classes, n in zip(self.classes, self.steps))
        return f"self-supervised embeddings of clean speech, pretrained by masked prediction: {rounds}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and how many hidden frames of validation speech it guesses."""
        (g,) = generators(seed, 1)
        rows, facts = chosen(self, corpora, seed, "train")
        held_out = chosen(replace(self, minutes=math.inf), corpora, seed, "valid")[0]
        speech, valid = (_peaked(corpora, part, progress) for part in (rows, held_out))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net, seconds = None, 0.0
        see: Callable[[torch.Tensor], torch.Tensor] = mfcc
        for i, (classes, steps) in enumerate(zip(self.classes, self.steps, strict=True), 1):
            features = [see(x) for x in tqdm(speech, desc=f"targets, round {i}", disable=not progress)]
            label = clustering(features, classes, g)
            labels, unseen = [label(f) for f in features], [label(see(x)) for x in valid]
            with borrowed(g):
                made = hubert_pretrain_model(**SSL(**self.sizes).settings, **MASKED, num_classes=classes)
            if net is not None:
                made.wav2vec2.load_state_dict(net.state_dict())
            draw = self.drawing(speech, labels)
            watched = replace(self, batch=32, level_db=0.0).drawing(valid, unseen)(generators(0, 1)[0])
            fitted = fit(
                made.to(device), draw, self.loss, steps=steps, learning_rate=self.learning_rate, generator=g, clip=10.0,
                validate=partial(self.guessed, batch=watched.to(device)), warm=200, bf16=True,
                checkpoint=None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.{i}"),
                about=f"{self}, seed {seed}, round {i}, {facts['files']} files of {facts['corpus']}", progress=progress,
                fabric=fabric,
            )  # fmt: skip
            net, seconds = fitted.model.wav2vec2, seconds + fitted.seconds
            trained = SSL(**self.sizes)
            trained.network.load_state_dict(net.cpu().state_dict())
            trained.requires_grad_(False).eval()
            see = partial(_layer, trained, self.layer)
            most = torch.bincount(torch.cat(unseen)).max() / sum(map(len, unseen))
            facts[f"valid_guessed_{i}"] = [round(value, 3) for value in fitted.curve]
            facts[f"valid_most_frequent_{i}"] = round(float(most), 3)
        tensors = {name: p.detach().half() for name, p in trained.state_dict().items()}
        return Learned(tensors, trained.config, {**facts, "train_seconds": round(seconds, 1)})

    def drawing(
        self, speech: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> Callable[[torch.Generator], torch.Tensor]:
        """A function that draws a batch (batch, N + T): samples, and behind them the labels of their frames.

        What is longer is cut at a frame, what is shorter left out.
        """
        T = round(self.seconds * 16000 / SSL.hop)
        fitting = [(framed(x[None])[0], y) for x, y in zip(speech, labels, strict=True) if len(y) >= T]
        if not fitting:
            raise CorpusError(f"expected files of {self.seconds:g} s at least, got none of {len(speech)}")
        odds = torch.tensor([float(len(y)) for _, y in fitting])

        def draw(g: torch.Generator) -> torch.Tensor:
            batch = []
            for k in torch.multinomial(odds, self.batch, replacement=True, generator=g).tolist():
                x, y = fitting[k]
                i = int(torch.randint(len(y) - T + 1, (), generator=g))
                gain = 10 ** (-self.level_db / 20 * torch.rand((), generator=g))
                start = SSL.hop * i
                batch.append(torch.cat([gain * x[start : start + SSL.hop * (T - 1) + SSL.field], y[i : i + T].float()]))
            return torch.stack(batch)

        return draw

    def logits(self, model: Any, batch: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the hidden frames and of the others (n, 1 + classes), the true class first."""
        T = round(self.seconds * 16000 / SSL.hop)
        with borrowed(g):  # torchaudio draws what to hide from the global randomness
            hidden, seen, _ = model(batch[:, :-T], batch[:, -T:].long())
        return hidden.float(), seen.float()

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Cross-entropy of the true class, nats a frame (Hsu et al., 2021, eq. 2)."""
        hidden, seen = ((x.logsumexp(-1) - x[:, 0]).mean() for x in self.logits(model, batch, g))
        return (hidden + self.seen * seen) / (1 + self.seen)

    def guessed(self, model: Any, batch: torch.Tensor) -> float:
        """The share of hidden frames whose class is right, with the same frames hidden each time."""
        with torch.inference_mode():
            hidden, _ = self.logits(model, batch, generators(0, 1)[0])
        return float((hidden[:, 1:] < hidden[:, :1]).all(-1).float().mean())


MASKED = {
    "mask_prob": 0.5, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10, "no_mask_overlap": False,
    "mask_min_space": 1, "mask_channel_prob": 0.0, "mask_channel_selection": "static", "mask_channel_other": 0.0,
    "mask_channel_length": 10, "no_mask_channel_overlap": False, "mask_channel_min_space": 1, "skip_masked": False,
    "skip_nomask": False, "final_dim": 64, "feature_grad_mult": None,
}  # fmt: skip  # HuBERT's own, but for how many are hidden, and the size of what is compared


def _peaked(corpora: Corpora, rows: pd.DataFrame, progress: bool) -> list[torch.Tensor]:
    files = (corpora.read(path) for path in tqdm(rows["path"], desc="speech", disable=not progress))
    return [x / x.abs().max().clamp_min(1e-8) for x in files]


def _layer(net: SSL, layer: int, x: torch.Tensor) -> torch.Tensor:
    """The embeddings (T, D) of one file at a layer."""
    with torch.inference_mode():
        return net(x[None])[layer, 0]


Tuning = Literal["frozen", "part", "whole"]


@dataclass(frozen=True)
class PairedRecipe:
    """`bsse` (Hung et al., 2022): a mask learned from pairs of mixture and speech, by the L1 distance of log(1 + |X|).

    The embeddings of the card `start` stay as they are, are tuned but for the convolutions, or wholly, at a tenth of
    the learning rate. Each clip has noise of one recording or of two, its spectrum bent at random; each mixture is
    raised or lowered by up to `level_db`.
    """

    inputs: Inputs = "both"
    tuning: Tuning = "whole"
    start: str | None = "ssl"  # None: embeddings that have learned nothing, of the sizes `fresh`
    fresh: Mapping[str, Any] = field(default_factory=dict)
    select: Mapping[str, Any] = field(default_factory=dict)
    noises: tuple[str, ...] = ("home", "vehicle", "weather")  # as for `sgmse`: the others stay unseen
    snrs: tuple[float, float] = (-8.0, 12.0)
    level_db: float = 4.0
    steps: int = 3000
    batch: int = 16
    seconds: float = 1.28
    learning_rate: float = 5e-3  # Deviation: the paper's 1e-4 takes many times as long
    slower: float = 0.1  # how fast the embeddings learn beside the rest
    sizes: Mapping[str, int] = field(default_factory=dict)  # of `BSSE`, where they are not its own
    files: int = 24  # of each set of the bench that it is judged on at the end; none: not judged
    minutes: float = math.inf
    seed: int = 0  # added to the caller's
    shipped: bool = True
    kind: str = "speech"

    @property
    def about(self) -> str:
        of = {"spectrum": "spectrum", "embeddings": "embeddings", "both": "spectrum and embeddings"}[self.inputs]
        tuned = {"frozen": "frozen", "part": "tuned but for the convolutions", "whole": "tuned"}[self.tuning]
        tuned = "" if self.inputs == "spectrum" else f", the embeddings {tuned}"
        return f"mask from {of}{tuned}; supervised: trained on pairs in noise of {', '.join(self.noises)}"

    def make(self, g: torch.Generator) -> BSSE:
        """The network before training; what is to stay frozen is."""
        ssl = None
        if self.inputs != "spectrum":
            with borrowed(g):
                ssl = load(self.start) if self.start else SSL(**self.fresh)
            ssl.requires_grad_(self.tuning != "frozen")
            if self.tuning == "part":
                ssl.network.feature_extractor.requires_grad_(False)
        with borrowed(g):
            return BSSE(self.inputs, ssl, **self.sizes)

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, what its layers count, and its scores on sets of the bench."""
        (g,) = generators(seed + self.seed, 1)
        made = self.make(g)
        sets = self.test_sets(corpora)  # now, not after the training: they may be missing
        rows, facts = chosen(self, corpora, seed, "train")
        noise = _noises(self, corpora)
        facts["noises"] = len(noise)
        length = round(16000 * self.seconds)
        speech = Clips.read(corpora, rows, length, around=False, progress=progress)
        sounds = Clips.read(corpora, noise, length, around=True, progress=progress)
        held_out = chosen(replace(self, minutes=math.inf), corpora, seed, "valid")[0]
        (h,) = generators(0, 1)
        clean = Clips.read(corpora, held_out, 48000, around=False, progress=False).draw(24, h)
        beside = Clips.read(corpora, noise, 48000, around=True, progress=False)
        watched = mix(clean, beside.draw(24, h), 0.0)
        before = si_sdr(watched.clean, watched.noisy)
        device = "cuda" if torch.cuda.is_available() else "cpu"

        def draw(g: torch.Generator) -> torch.Tensor:
            one, two = (bent(sounds.draw(self.batch, g), g) for _ in range(2))
            second = (torch.rand(self.batch, 1, generator=g) < 0.5) * torch.rand(self.batch, 1, generator=g)
            clean = bent(speech.draw(self.batch, g), g)
            noisy = at_snr(clean, one + second * two, self.snrs, g)
            level = 10 ** (self.level_db / 20 * (2 * torch.rand(self.batch, 1, generator=g) - 1))
            gain = BSSE.rms * level / noisy.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
            return torch.stack([gain * noisy, gain * clean])

        def validate(model: Any) -> float:
            with torch.inference_mode():
                gain = si_sdr(watched.clean, model.enhance(watched.noisy.to(device)).cpu()) - before
            return float(gain.mean())

        fitted = fit(
            made.to(device), draw, self.loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=5.0,
            validate=validate, warm=200, rates={} if made.ssl is None else {"ssl": self.slower}, bf16=True,
            checkpoint=checkpoint, progress=progress, fabric=fabric,
            about=f"{self}, seed {seed}, {facts['files']} files of {facts['corpus']}",
        )  # fmt: skip
        tensors = {name: p.detach().cpu().half() for name, p in fitted.model.state_dict().items()}
        facts["valid_si_sdr_gain"] = [round(value, 2) for value in fitted.curve]
        if made.ssl is not None:
            facts["layer_weights"] = [round(w, 4) for w in fitted.model.layer_weights.tolist()]
        judged = BSSE.from_weights(weights.Weights(tensors, made.config)).requires_grad_(False).eval()
        for name, mixtures in sets.items():
            scores = scored(Separator(judged), mixtures)
            facts |= {f"{name}_{metric}": values for metric, values in scores.items()}
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def test_sets(self, corpora: Corpora) -> dict[str, list[Mixture]]:
        """The sets of real noise that the corpora have speech for, by domain."""
        have = set(corpora.table["corpus"])
        domains = [name for name, speech in DOMAINS.items() if self.files and have & set(speech)]
        return {name: bench_set(corpora, "real", domain=name, files=self.files) for name in domains}

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Mean absolute error of log(1 + |S|); a batch is (2, B, N), the mixtures and the speech in them."""
        noisy, clean = batch
        target = model.spectrum(clean).abs().log1p().mT
        return (model(noisy).speech.float() - target).abs().mean()


SCORES = ("pesq_wb", "csig", "cbak", "covl", "stoi", "si_sdr")


def scored(method: Method, mixtures: Sequence[Mixture]) -> dict[str, list[float]]:
    """Each measure's mean over the SNRs, file by file."""
    table = [score_many(zip(m.clean, enhance(m.noisy, method), strict=True), 16000, SCORES) for m in mixtures]
    by_file = list(zip(*table, strict=True))
    return {
        metric: [round(sum(s.values[metric] for s in scores) / len(scores), 3) for scores in by_file]
        for metric in SCORES
    }


def bent(x: torch.Tensor, g: torch.Generator, spread_db: float = 3.0) -> torch.Tensor:
    """Clips (B, N) through filters drawn at random: three cosines over frequency, of so many decibels each.

    Recordings are few, and rooms and microphones many.
    """
    X = torch.fft.rfft(x)
    place = torch.linspace(0, math.pi, X.shape[-1])
    curve = torch.stack([torch.cos(k * place) for k in (1, 2, 3)])
    gain_db = spread_db * torch.randn(len(x), 3, generator=g) @ curve
    return torch.fft.irfft(X * 10 ** (gain_db / 20), x.shape[-1])


# These keep a checkpoint and use a GPU
LONG = RVAERecipe | FlowRecipe | ScoreRecipe | CodecRecipe | UnpairedRecipe | SSLRecipe | PairedRecipe
OfOneCorpus = NMFRecipe | VAERecipe | RVAERecipe | FlowRecipe | ScoreRecipe | SSLRecipe | PairedRecipe
Recipe = NMFRecipe | VAERecipe | LONG

LIBRISPEECH = {"corpus": "mini-librispeech"}
PAIRED = PairedRecipe(select=LIBRISPEECH, shipped=False)
RECIPES: dict[str, Recipe] = {
    "nmf-speech": NMFRecipe(64, STFT(1024, 256), select=LIBRISPEECH),
    "nmf-speech-257": NMFRecipe(40, STFT(512, 128), select=LIBRISPEECH),
    "nmf-noise-257": NMFRecipe(40, STFT(512, 128), kind="noise", minutes=12.0),
    "nmf-white-257": NMFRecipe(40, STFT(512, 128), kind="white", minutes=12.0),
    "vae": VAERecipe(STFT(1024, 256), select=LIBRISPEECH),
    "vae-257": VAERecipe(STFT(512, 128), select=LIBRISPEECH, epochs=20),
    "rvae": RVAERecipe(STFT(1024, 256), select=LIBRISPEECH),
    "vae-background": VAERecipe(STFT(1024, 256), select=LIBRISPEECH, background=True),
    "waveglow": FlowRecipe(select=LIBRISPEECH, steps=15_000),
    "waveglow-noisy": FlowRecipe(select=LIBRISPEECH, noise=(3e-4, 0.1), steps=20_000),
    "waveglow-windows": FlowRecipe(select=LIBRISPEECH, context=False, steps=5000),
    "maf": FlowRecipe(select=LIBRISPEECH, family="maf", hidden=256, steps=4000),
    "waveglow-companded": FlowRecipe(select=LIBRISPEECH, mu=255.0, steps=6000),
    "score": ScoreRecipe(select=LIBRISPEECH),
    "sgmse": ScoreRecipe(told=True, select=LIBRISPEECH),
    "codec": CodecRecipe(),
    "use-ddp": UnpairedRecipe(),
    "use-ddp-out-of-domain": UnpairedRecipe(clean="out-of-domain"),
    "use-ddp-close-talk": UnpairedRecipe(clean="close-talk"),
    "use-ddp-scratch": UnpairedRecipe(start=None, shipped=False),
    "use-ddp-no-adversaries": UnpairedRecipe(objective=Objective(adversarial=0.0, matching=0.0), shipped=False),
    "use-ddp-no-cycle": UnpairedRecipe(objective=Objective(cycle=0.0, heard=0.0), shipped=False),
    "use-ddp-descript": UnpairedRecipe(start="descript", shipped=False),
    "ssl": SSLRecipe(select=LIBRISPEECH),
    "bsse": replace(PAIRED, shipped=True),
    "bsse-spectrum": replace(PAIRED, inputs="spectrum", start=None, shipped=True),
    "bsse-frozen": replace(PAIRED, tuning="frozen"),
    "bsse-part": replace(PAIRED, tuning="part"),
    "bsse-embeddings": replace(PAIRED, inputs="embeddings"),
    "bsse-embeddings-frozen": replace(PAIRED, inputs="embeddings", tuning="frozen"),
    "bsse-embeddings-part": replace(PAIRED, inputs="embeddings", tuning="part"),
    **{f"bsse-frozen-seed{i}": replace(PAIRED, tuning="frozen", seed=i, files=0) for i in (1, 2)},
    **{f"vae-seed{i}": VAERecipe(STFT(1024, 256), select=LIBRISPEECH, seed=i) for i in (1, 2, 3)},
}


def recipe(name: str) -> Recipe:
    """The recipe of a card; raises ValueError for an unknown one, with the nearest."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise ValueError(f"no recipe for weights {name!r}; did you mean {' or '.join(near)}?")
    return RECIPES[name]


def train(
    name: str,
    corpora: Corpora,
    *,
    seed: int = 0,
    progress: bool = True,
    checkpoint: Path | None = None,
    fabric: Any = None,
) -> Learned:
    """Learn the weights of a card from the training split; the longer recipes keep a checkpoint, and go on from it.

    With a `fabric`, see `fitting.launch`, these share their batches out between its processes.
    """
    start = time.perf_counter()
    made = divided(recipe(name), fabric)
    if isinstance(made, LONG):
        learned = made.learn(corpora, seed, progress, checkpoint, fabric)
    else:
        learned = made.learn(corpora, seed, progress)
    facts = {"train_seconds": round(time.perf_counter() - start, 1), **learned.facts, "seed": seed}
    return learned._replace(facts=facts)


def divided(made: Recipe, fabric: Any) -> Recipe:
    """The recipe with a process's share of its batch, so that the processes together do what it says.

    Raises ValueError for a recipe without such batches, or whose batch cannot be shared evenly.
    """
    if fabric is None:
        return made
    if not isinstance(made, LONG):
        raise ValueError(f"{made.about}: this trains on one device only; leave out --devices and --nodes")
    if made.batch % fabric.world_size:
        raise ValueError(f"expected processes that share a batch of {made.batch} evenly, got {fabric.world_size}")
    return replace(made, batch=made.batch // fabric.world_size)


def _first(fabric: Any) -> bool:
    return fabric is None or bool(fabric.is_global_zero)


def spectra(
    made: NMFRecipe | VAERecipe,
    corpora: Corpora,
    seed: int,
    progress: bool,
    *,
    split: str = "train",
    peak: bool = False,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Power spectra (N, F) of a split's files in random order, until there are enough minutes, and what they were.

    With `peak` each file is scaled to a peak of 1.
    """
    rows, facts = chosen(made, corpora, seed, split)
    frames = []
    for path in tqdm(rows["path"], desc="spectra", disable=not progress):
        x = corpora.read(path)
        P = made.stft(x / x.abs().max().clamp_min(1e-8) if peak else x).abs().square()
        level = 10 * P.sum(0).clamp_min(1e-12).log10()
        frames.append(P[:, level > level.max() - made.range_db if made.kind == "speech" else level > -80].mT)
    return torch.cat(frames), facts


def chosen(made: OfOneCorpus, corpora: Corpora, seed: int, split: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A split's files in random order, until there are enough minutes, and what they are."""
    rows = corpora.select(kind=made.kind, split=split, **made.select).sample(frac=1, random_state=seed)
    if rows.empty:
        raise CorpusError(f"expected {split} files of {dict(made.select) or made.kind}, got none; {corpora}")
    enough = max(1, int((rows["seconds"].cumsum() <= 60 * made.minutes).sum()))
    rows = rows[:enough]
    return rows, {
        "corpus": ", ".join(sorted(rows["corpus"].unique())),
        "files": len(rows),
        "minutes": round(rows["seconds"].sum() / 60, 1),
    }


def _white(made: NMFRecipe, seed: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """White noise in ten-second pieces at levels from -40 to 0 dB: 'several powers' (Shi et al., 2021, § 5.2)."""
    (g,) = generators(seed, 1)
    length, pieces = 10 * made.stft.sample_rate, round(6 * made.minutes)
    levels = 10 ** (torch.linspace(-40, 0, pieces) / 20)
    P = made.stft(torch.randn(pieces, length, generator=g) * levels[:, None]).abs().square()
    return P.movedim(0, 1).flatten(1)[None], {
        "corpus": "drawn white noise",
        "files": pieces,
        "minutes": round(made.minutes, 1),
    }


def write_card(
    name: str,
    corpora: Corpora,
    *,
    seed: int = 0,
    folder: Path | None = None,
    progress: bool = True,
    fabric: Any = None,
) -> Path:
    """Train, save the weights and enter the card in `cards.toml`; returns the file of the weights.

    Of the processes of a `fabric` only the first writes.
    """
    folder = folder or weights.folder()
    made = recipe(name)
    checkpoint = folder / f"{name}.checkpoint"
    path = folder / f"{name}.safetensors"
    progress = progress and _first(fabric)
    learned = train(name, corpora, seed=seed, progress=progress, checkpoint=checkpoint, fabric=fabric)
    if not _first(fabric):
        return path
    weights.save(path, learned.tensors, learned.config)
    card = {
        "about": made.about,
        "file": path.name,
        "sha256": weights.sha256(path),
        "bytes": path.stat().st_size,
        "licence": _licence(made, corpora),
        **learned.facts,
        "hardware": _hardware(made, 1 if fabric is None else fabric.world_size),
        "command": f"sepriors train {name} --force" + (f" --seed {seed}" if seed else ""),
        **({} if getattr(made, "shipped", True) else {"shipped": False}),
    }
    _enter(folder / "cards.toml", name, card)  # before the checkpoint goes: killed in between, the next run ends it
    for old in folder.glob(f"{name}.checkpoint*"):
        if old.is_file():
            old.unlink()
    shutil.rmtree(checkpoint.with_suffix(".samples"), ignore_errors=True)  # they were for the time of the training
    return path


def _hardware(made: Recipe, processes: int) -> str:
    times = f"{processes} × " if processes > 1 else ""
    if isinstance(made, LONG) and torch.cuda.is_available():
        return times + torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{times}CPU, {threads} thread{'s' if threads > 1 else ''}"


def _licence(made: Recipe, corpora: Corpora) -> str:
    if made.kind == "white":
        return "MIT"
    if isinstance(made, CodecRecipe | UnpairedRecipe):
        licences = pd.concat(share(corpora, made.clean, made.minutes))["licence"]
        return f"weights MIT; trained on {', '.join(sorted(set(licences)))}"
    rows = list(corpora.select(kind=made.kind, split="train", **made.select)["licence"])
    if getattr(made, "background", False):
        rows += [*corpora.select(kind="noise", split="train")["licence"]]
    if (isinstance(made, ScoreRecipe) and made.told) or isinstance(made, PairedRecipe):
        rows += [*_noises(made, corpora)["licence"]]
    return f"weights MIT; trained on {', '.join(sorted(set(rows)))}"


def _enter(path: Path, name: str, card: Mapping[str, Any]) -> None:
    """Put one card into the file, in the order of names."""
    known = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    known[name] = dict(card)
    # texts, numbers and truth values are written alike in JSON and in TOML
    blocks = []
    for key in sorted(known):
        lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in known[key].items()]
        blocks.append("\n".join([f"[{key}]", *lines]) + "\n")
    with whole(path) as part:
        part.write_text("\n".join(blocks), "utf-8")


FEW = {"width": 8, "layers": 2, "heads": 2, "inner": 16, "channels": (4, 4, 4, 4, 4, 4, 8)}  # sizes of an `SSL`


def quick(made: Recipe) -> Recipe:
    """The same recipe, cut to seconds: for tests and smoke runs."""
    minutes = min(made.minutes, 0.5)
    if isinstance(made, VAERecipe):
        return replace(made, minutes=minutes, epochs=1, batch=32)
    if isinstance(made, RVAERecipe):
        return replace(made, minutes=minutes, steps=4, batch=2, frames=20, hidden=8)
    if isinstance(made, FlowRecipe):
        return replace(made, minutes=minutes, steps=4, batch=2, seconds=0.5, hidden=16)
    if isinstance(made, ScoreRecipe):
        return replace(made, minutes=minutes, steps=4, batch=2, frames=32, channels=(8, 8))
    if isinstance(made, CodecRecipe):
        return replace(made, minutes=minutes, steps=4, batch=2, seconds=0.5, channels=(8, 8, 8, 16), width=8)
    if isinstance(made, SSLRecipe):
        cut: dict[str, Any] = {"sizes": FEW, "classes": (5, 8), "steps": (4, 4), "layer": 1, "batch": 2, "seconds": 1.0}
        return replace(made, minutes=minutes, **cut)
    if isinstance(made, PairedRecipe):
        cut = {"steps": 4, "batch": 2, "seconds": 0.5, "files": min(1, made.files), "start": None, "fresh": FEW}
        return replace(made, minutes=minutes, sizes={"width": 8, "hidden": 8}, **cut)
    if isinstance(made, UnpairedRecipe):
        fresh = quick(made.fresh)
        assert isinstance(fresh, CodecRecipe)
        return replace(made, minutes=minutes, steps=4, batch=2, seconds=0.5, judges=2, start=None, fresh=fresh)
    return replace(made, minutes=minutes, iterations=3)
