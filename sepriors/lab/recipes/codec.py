"""The codec, and the separators whose priors are corpora."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import nn

from sepriors.lab.corpora import Corpora
from sepriors.lab.corpora.fetch import download
from sepriors.lab.corpora.store import cache_dir
from sepriors.lab.recipes.base import Learned, LongRecipe, about, device, to_float16, validation_pairs
from sepriors.lab.training.adversarial import AdversarialLoss, LossWeights, reconstruction_loss, unit
from sepriors.lab.training.fitting import fit, is_rank_zero
from sepriors.lab.training.unpaired import Clean, Share, drawing, share
from sepriors.metrics import score_many, si_sdr
from sepriors.priors import Codec, Descript, load
from sepriors.signal.audio import write
from sepriors.signal.rng import generators


@dataclass(frozen=True)
class CodecRecipe(LongRecipe):
    """The encoder and the decoder of `use-ddp` as an autoencoder, of the mixtures and of the noise corpus.

    It hears no clean speech: each of the three priors of chapter 7 begins here. Its branches share evenly.
    """

    objective: LossWeights = LossWeights()  # noqa: RUF009
    snrs: tuple[float, float] = (-5.0, 15.0)
    steps: int = 8000
    batch: int = 4  # of mixtures, and as many of noise
    seconds: float = 1.5
    learning_rate: float = 1e-3
    channels: tuple[int, ...] = (24, 48, 96, 256)
    width: int = 96
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
        pairs = validation_pairs(corpora)
        watched = unit(pairs.noisy.to(device()))

        def through(model: Any, x: torch.Tensor) -> torch.Tensor:
            rebuilt: torch.Tensor = model.decode(model.encode(x), x.shape[-1]).float()
            return rebuilt

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            x = unit(batch[[0, 2]].flatten(0, 1))
            return reconstruction_loss(x, through(model, x), self.objective)

        def validate(model: Any) -> float:
            with torch.inference_mode():
                return float(si_sdr(watched, through(model, watched)).mean())

        fitted = fit(
            made.to(device()), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=10.0,
            validate=validate, fast=None, checkpoint=checkpoint, progress=progress, about=f"{self}, seed {seed}",
            fabric=fabric,
        )  # fmt: skip
        tensors = to_float16(fitted.model)
        facts = _sizes(Share(parts.speech, parts.noise, parts.clean[:0], parts.alone))
        facts["valid_rebuilt_si_sdr"] = [round(value, 2) for value in fitted.curve]
        with torch.inference_mode():
            rebuilt = through(fitted.model, unit(pairs.clean.to(device()))).cpu()
        scores = list(score_many(zip(unit(pairs.clean), rebuilt, strict=True), 16000, ["pesq_wb", "estoi"]))
        for name in ("pesq_wb", "estoi"):  # what the codec alone takes from clean speech
            facts[f"valid_rebuilt_{name}"] = round(sum(s.values[name] for s in scores) / len(scores), 3)
        return Learned(tensors, made.config, {**facts, "train_seconds": round(fitted.seconds, 1)})

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows: of the mixtures, and of both corpora."""
        return pd.concat(share(corpora, self.clean, self.minutes))

    def smoke(self) -> Self:
        """Cut to seconds."""
        return self.shorten(steps=4, batch=2, seconds=0.5, channels=(8, 8, 8, 16), width=8)


@dataclass(frozen=True)
class UnpairedRecipe(LongRecipe):
    """`use-ddp` (Klement et al., 2025): the codec, and three ensembles of discriminators that make a prior of a corpus.

    `clean` says of which; 'close-talk' has noise of the mixtures bled into it, at `bleed` dB. `start` is the card of a
    codec; 'descript', the published Descript Audio Codec, which is downloaded; or None, from scratch.
    """

    clean: Clean = "in-domain"
    start: str | None = "codec"
    objective: LossWeights = LossWeights()  # noqa: RUF009
    snrs: tuple[float, float] = (-5.0, 15.0)
    bleed: tuple[float, float] = (10.0, 15.0)
    steps: int = 3000
    batch: int = 8
    seconds: float = 1.5
    learning_rate: float = 3e-4
    judges: int = 16  # channels of the discriminators
    faster: float = 3.0  # how many times as fast they, and the branches, learn
    fresh: CodecRecipe = CodecRecipe()
    seed: int = 0  # added to the caller's
    # of the clean corpus: the out-of-domain one has no more
    minutes: float = field(default=68.0, kw_only=True)

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
        made, g = self.fresh.make(seed + self.seed)
        made = self.begun(progress) or made
        parts = share(corpora, self.clean, self.minutes, seed)
        bleed = self.bleed if self.clean == "close-talk" else None
        draw = drawing(
            corpora, parts, batch=self.batch, seconds=self.seconds, snrs=self.snrs, bleed=bleed, progress=progress
        )
        game = AdversarialLoss(made, self.judges)
        for judge in (game.clean, game.noise, game.mixture):
            _start(judge, g)
        watched = validation_pairs(corpora)
        before = si_sdr(watched.clean, watched.noisy)

        def loss(model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
            return model.cost(batch, self.objective, done)

        def gains(net: Any) -> torch.Tensor:
            with torch.inference_mode():
                speech, noise = (part.cpu() for part in net.separate(watched.noisy.to(device())))
            if checkpoint is not None and is_rank_zero(fabric):
                _keep_samples(checkpoint.with_suffix(".samples"), watched.noisy[:3], speech[:3], noise[:3])
            return si_sdr(watched.clean, speech) - before

        def validate(model: Any) -> float:
            return float(gains(model.generator).mean())

        fitted = fit(
            game.to(device()), draw, loss, steps=self.steps, learning_rate=self.learning_rate, generator=g, clip=10.0,
            betas=(0.8, 0.99), warm=100, rates=dict.fromkeys(FASTER, self.faster),
            best_if_diverged=True, validate=validate, fast=None, checkpoint=checkpoint, progress=progress,
            fabric=fabric,
            about=f"{self}, seed {seed}",
        )  # fmt: skip
        net = fitted.model.generator
        tensors = to_float16(net)
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

    def heard(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training knows: of the mixtures, and of both corpora."""
        return pd.concat(share(corpora, self.clean, self.minutes))

    def smoke(self) -> Self:
        """Cut to seconds."""
        return self.shorten(steps=4, batch=2, seconds=0.5, judges=2, start=None, fresh=self.fresh.smoke())


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
    return {
        **about(pd.concat(parts)),
        **{f"{name}_minutes": round(float(part["seconds"].sum()) / 60, 1) for name, part in parts._asdict().items()},
    }


def _keep_samples(folder: Path, *signals: torch.Tensor) -> None:
    """Mixtures, their speech and their noise, to listen to while it trains: SPEAKER-mixture.flac and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, rows in zip(("mixture", "speech", "noise"), signals, strict=True):
        for i, x in enumerate(rows):
            write(folder / f"{i}-{kind}.flac", x / x.abs().max().clamp_min(1.0), 16000, overwrite=True)
