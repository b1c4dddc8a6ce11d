"""Flows of waveforms: WaveGlow and MAF."""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch

from sepriors import weights
from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.recipes.base import Data, Drawn, Learned, OfOneCorpus, OneFit, device
from sepriors.lab.training.simulator import choose, crop, rms
from sepriors.priors import MAF, WaveGlow
from sepriors.signal.rng import generators


@dataclass(frozen=True)
class FlowRecipe(OfOneCorpus, OneFit):
    """A WaveGlow of the waveforms of a corpus, by maximum likelihood (Shi et al., 2021, eq. 7).

    Each file has power 1e-3 and is dithered as its 16 bits deserve; each segment is then raised or lowered at random by
    up to `level_db`, since nobody knows the level of speech in a mixture exactly. With `noise` (low, high) the flow is
    trained on noisy speech, conditioned on the standard deviation, which is drawn evenly in decibels.
    """

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

    curve = "valid_nats_per_sample", 3
    clip = 100.0

    @property
    def about(self) -> str:
        of = "speech in white noise of a given level" if self.noise else "clean speech"
        how = [f"{self.hidden} hidden units"]
        how += [] if self.context else ["windows that do not see each other"]
        how += [f"companded, μ = {self.mu:g}"] if self.mu else []
        what = {"waveglow": "WaveGlow of 12 blocks", "maf": "MAF of 5 blocks"}[self.family]
        return f"{what}, {of}, windows of 80 samples, {', '.join(how)}"

    def make(self, g: torch.Generator) -> WaveGlow | MAF:
        """The flow before training."""
        if self.family == "maf":
            flow: WaveGlow | MAF = MAF(80, hidden=self.hidden, rms=WaveGlow.rms)
        else:
            flow = WaveGlow(hidden=self.hidden, context=self.context, mu=self.mu, conditional=self.noise is not None)
        flow.start(g)
        return flow

    def data(self, corpora: Corpora, seed: int, progress: bool) -> Data:
        """Segments of speech, and sixteen batches of validation speech."""
        draw, facts = self.segments(corpora, seed, progress)
        valid, _ = self.segments(corpora, seed, False, "valid")
        return Data(draw, torch.stack([valid(g) for g in generators(range(16), 16)]).flatten(0, 1), facts)

    def segments(self, corpora: Corpora, seed: int, progress: bool, split: str = "train") -> Drawn:
        """A function that draws a batch of segments (batch, N) from a split's files, and what the files were."""
        rows, facts = self.files(corpora, seed, split)
        length = round(self.seconds * 16000)
        files = [x for x in corpora.decoded(rows, progress=progress) if len(x) >= length]
        if not files:
            raise CorpusError(f"expected {split} files of {self.seconds:g} s at least, got none of {len(rows)}")
        gains = [WaveGlow.rms / float(rms(x)) for x in files]
        odds = torch.tensor([float(len(x)) for x in files])

        def draw(g: torch.Generator) -> torch.Tensor:
            batch = []
            for k in choose(odds, self.batch, g):
                x = crop(files[k], length, g)
                batch.append(gains[k] * (x + (torch.rand(length, generator=g) - 0.5) / 2**15))
            return torch.stack(batch)

        return draw, facts

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Minus the log-density of segments (B, N), each at a level of its own."""
        level = 10 ** (self.level_db / 20 * (2 * torch.rand(len(batch), 1, generator=g) - 1))
        return -self.density(model, batch * level.to(batch), g)

    def density(self, model: Any, s: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        """Mean log-density of segments (B, N), nats a sample, with the noise that the recipe asks for."""
        if self.noise is None:
            return model.log_prob(s).mean() / s.shape[-1]
        low, high = (math.log(tau) for tau in self.noise)
        tau = torch.exp(low + (high - low) * torch.rand(len(s), generator=g)).to(s)
        s = s + tau[:, None] * torch.randn(s.shape, generator=g).to(s)
        return model.log_prob(s, tau).mean() / s.shape[-1]

    def validate(self, model: Any, held_out: torch.Tensor) -> float:
        """The same of validation segments, with the same noise each time."""
        return float(self.density(model, held_out.to(device()), generators(0, 1)[0]))

    def finish(self, model: Any, held_out: torch.Tensor) -> Learned:
        """The parameters in half precision, and the configuration, with the density of clean speech (B, N) then."""
        tensors = {name: p.detach().cpu().half() for name, p in model.tensors.items()}
        flow = type(model).from_weights(weights.Weights(tensors, model.config))
        if self.noise is None:
            with torch.inference_mode():
                flow.clean = round(float(flow.log_prob(held_out.cpu()).mean()) / held_out.shape[-1], 3)
        return Learned(tensors, flow.config, {})

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(steps=4, batch=2, seconds=0.5, hidden=16)
