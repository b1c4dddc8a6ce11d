"""The codec, and the separators whose priors are corpora."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torch import nn

from sepriors.lab.corpora import Corpora
from sepriors.lab.corpora.fetch import download
from sepriors.lab.corpora.store import cache_dir
from sepriors.lab.recipes.base import Data, Learned, OneFit, about, device, si_sdr_gain, validation_pairs
from sepriors.lab.training.adversarial import AdversarialLoss, LossWeights, reconstruction_loss, unit
from sepriors.lab.training.simulator import Pairs
from sepriors.lab.training.unpaired import Clean, Split, drawing, split
from sepriors.metrics import score_many, si_sdr
from sepriors.priors import Codec, Descript, load
from sepriors.signal.audio import write


@dataclass(frozen=True)
class OfCorpora(OneFit):
    """Learns from mixtures, clean speech and noise that share no recording."""

    clean: Clean = "in-domain"
    weights: LossWeights = LossWeights()  # noqa: RUF009
    snrs: tuple[float, float] = (-5.0, 15.0)
    bleed: tuple[float, float] = (10.0, 15.0)  # of the mixtures' noise into speech that is 'close-talk', dB
    seconds: float = 1.5

    clip = 10.0

    def known(self, parts: Split) -> Split:
        """What of the corpora is on record."""
        return parts

    def data(self, corpora: Corpora, seed: int, progress: bool) -> Data:
        """Mixtures, clean speech and noise, and mixtures of validation recordings."""
        parts = split(corpora, self.clean, self.minutes, seed)
        bleed = self.bleed if self.clean == "close-talk" else None
        draw = drawing(
            corpora, parts, batch=self.batch, seconds=self.seconds, snrs=self.snrs, bleed=bleed, progress=progress
        )
        known = self.known(parts)
        minutes = {f"{name}_minutes": about(rows)["minutes"] for name, rows in known._asdict().items()}
        return Data(draw, validation_pairs(corpora), about(pd.concat(known)) | minutes)

    def training_files(self, corpora: Corpora) -> pd.DataFrame:
        """The recordings that the training reads: of the mixtures, and of both corpora."""
        return pd.concat(split(corpora, self.clean, self.minutes))


@dataclass(frozen=True)
class CodecRecipe(OfCorpora):
    """The encoder and the decoder of `use-ddp` as an autoencoder, of the mixtures and of the noise corpus.

    It is given no clean speech: each of the three priors of chapter 7 begins here. Its branches share evenly.
    """

    steps: int = 8000
    batch: int = 4  # of mixtures, and as many of noise
    learning_rate: float = 1e-3
    channels: tuple[int, ...] = (24, 48, 96, 256)
    width: int = 96

    curve = "valid_rebuilt_si_sdr", 2

    @property
    def about(self) -> str:
        return "codec of mixtures and noise, 50 frames a second, whose branches for speech and noise share evenly"

    def known(self, parts: Split) -> Split:
        """All but the clean corpus, which is drawn and not used."""
        return parts._replace(clean=parts.clean[:0])

    def make(self, g: torch.Generator) -> Codec:
        """The network before training."""
        net = Codec(self.channels, self.width)
        net.start(g)
        return net

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """What it costs that mixtures and noise are not rebuilt exactly."""
        x = unit(batch[[0, 2]].flatten(0, 1))
        return self.weights.total(reconstruction_loss(x, _rebuilt(model, x)), done)

    def validate(self, model: Any, held_out: Pairs) -> float:
        """SI-SDR of validation mixtures rebuilt, dB."""
        x = unit(held_out.noisy.to(device()))
        return float(si_sdr(x, _rebuilt(model, x)).mean())

    def finish(self, model: Any, held_out: Pairs) -> Learned:
        """The codec's parameters, in half precision, and what the codec alone takes from clean speech."""
        clean = unit(held_out.clean)
        with torch.inference_mode():
            rebuilt = _rebuilt(model, clean.to(device())).cpu()
        scores = list(score_many(zip(clean, rebuilt, strict=True), 16000, ["pesq_wb", "estoi"]))
        facts = {
            f"valid_rebuilt_{name}": round(sum(s.values[name] for s in scores) / len(scores), 3)
            for name in ("pesq_wb", "estoi")
        }
        return super().finish(model, held_out)._replace(facts=facts)

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(steps=4, batch=2, seconds=0.5, channels=(8, 8, 8, 16), width=8)


@dataclass(frozen=True)
class UnpairedRecipe(OfCorpora):
    """`use-ddp` (Klement et al., 2025): the codec, and three ensembles of discriminators that make a prior of a corpus.

    `clean` says of which; 'close-talk' has noise of the mixtures bled into it, at `bleed` dB. `start` is the card of a
    codec; 'descript', the published Descript Audio Codec, which is downloaded; or None, from scratch.
    """

    start: str | None = "codec"
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 3e-4
    channels: int = 16  # of the discriminators
    faster: float = 3.0  # how many times as fast they, and the branches, learn
    fresh: CodecRecipe = CodecRecipe()
    seed: int = 0  # added to the caller's
    minutes: float = field(default=68.0, kw_only=True)  # of the clean corpus: the out-of-domain one has no more

    curve = "valid_si_sdr_gain", 2
    betas = (0.8, 0.99)
    warm_steps = 100
    best_if_diverged = True

    @property
    def rates(self) -> dict[str, float]:
        """What begins from nothing learns faster."""
        return dict.fromkeys(("clean", "noise", "mixture", "generator.speech", "generator.noise"), self.faster)

    @property
    def about(self) -> str:
        began = f"begun as {self.start}" if self.start else "from scratch"
        without = {"adversaries": self.weights.adversarial, "a cycle": self.weights.cycle}
        lacks = "".join(f", without {name}" for name, weight in without.items() if not weight)
        return f"speech and noise of a mixture, unpaired, a clean corpus {self.clean}, {began}{lacks}"

    def make(self, g: torch.Generator) -> AdversarialLoss:
        """The network that the training begins with, and its adversaries."""
        net = self.fresh.make(g)
        model = AdversarialLoss(self.begun() or net, self.channels)
        for ensemble in (model.clean, model.noise, model.mixture):
            _start(ensemble, g)
        return model

    def begun(self) -> Codec | None:
        """The network that the training begins with, if not a fresh one."""
        if self.start is None:
            return None
        if self.start == "descript":
            file = download(DESCRIPT, cache_dir() / "weights", progress=sys.stderr.isatty())
            return Descript.from_checkpoint(file)
        net: Codec = load(self.start)
        return net.requires_grad_(True).train()

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """What both sides pay."""
        return model.cost(batch, self.weights, done)

    def validate(self, model: Any, held_out: Pairs) -> float:
        """SI-SDR gain, dB."""
        return float(_gains(model.generator, held_out).mean())

    def listen(self, model: Any, held_out: Pairs, folder: Path) -> None:
        """Three mixtures, their speech and their noise: 0-mixture.flac and so on."""
        folder.mkdir(parents=True, exist_ok=True)
        noisy = held_out.noisy[:3]
        separated = model.generator.separate(noisy.to(device()))
        for kind, rows in {"mixture": noisy, "speech": separated.speech.cpu(), "noise": separated.noise.cpu()}.items():
            for i, x in enumerate(rows):
                write(folder / f"{i}-{kind}.flac", x / x.abs().max().clamp_min(1.0), 16000, overwrite=True)

    def finish(self, model: Any, held_out: Pairs) -> Learned:
        """The network's parameters, in half precision, and its SI-SDR gain file by file."""
        with torch.inference_mode():
            gains = _gains(model.generator, held_out)
        facts = {"valid_gain_by_file": [round(value, 2) for value in gains.tolist()]}
        return super().finish(model.generator, held_out)._replace(facts=facts)

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(steps=4, batch=2, seconds=0.5, channels=2, start=None, fresh=self.fresh.smoke())


# The published codec for 16 kHz; its authors give no hash
DESCRIPT = {
    "name": "weights_16khz.pth",
    "urls": ["https://github.com/descriptinc/descript-audio-codec/releases/download/0.0.5/weights_16khz.pth"],
}


def _rebuilt(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.decode(model.encode(x), x.shape[-1]).float()


def _gains(net: Codec, pairs: Pairs) -> torch.Tensor:
    return si_sdr_gain(pairs, lambda x: net.separate(x).speech)


def _start(module: nn.Module, g: torch.Generator) -> None:
    """Random parameters from one generator, as for a network of leaky rectifiers (He et al., 2015)."""
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 1:
                p.zero_()
            else:
                p.copy_(torch.randn(p.shape, generator=g) * math.sqrt(2 / p[0].numel()))
