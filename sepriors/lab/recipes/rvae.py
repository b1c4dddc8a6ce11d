"""The recurrent VAE."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from tqdm import tqdm

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.recipes.base import Data, Drawn, OfSpectra, OneFit, at_peak, device
from sepriors.lab.training.simulator import choose, crop
from sepriors.priors import RVAE
from sepriors.signal.rng import generators
from sepriors.signal.stft import STFT


@dataclass(frozen=True)
class RVAERecipe(OfSpectra, OneFit):
    """A recurrent VAE of the power spectra of a corpus, by the evidence lower bound (Leglaive et al., 2020, § 3).

    Sequences of `frames` frames; files have a peak of 1, sequences are raised or lowered at random by up to `level_db`,
    and frames more than `range_db` below the loudest of their file count for nothing, as for `VAERecipe`: the network
    passes by them, but nobody asks it how pauses sound. The divergence is weighted by a β that rises to 1 over the
    `warm` first part of the training.
    """

    stft: STFT
    latent: int = 16
    hidden: int = 128
    range_db: float = 30.0
    level_db: float = 10.0
    steps: int = 36_000
    batch: int = 32  # sequences
    frames: int = 50
    learning_rate: float = 1e-3
    warm: float = 0.2
    clip: float = 100.0

    curve = "valid_elbo", 1
    fast = False

    @property
    def about(self) -> str:
        sizes = f"{self.stft.bins} bins, {self.latent} latent variables, {self.hidden} units"
        return f"recurrent VAE of {self.kind}, {sizes}"

    def make(self, g: torch.Generator) -> RVAE:
        """The network before training: as torch would have it, from our own generator."""
        net = RVAE(self.stft, self.latent, self.hidden)
        for p in net.parameters():
            torch.nn.init.uniform_(p, -1 / math.sqrt(self.hidden), 1 / math.sqrt(self.hidden), generator=g)
        return net

    def data(self, corpora: Corpora, seed: int, progress: bool) -> Data:
        """Sequences of speech, and 512 of validation speech at its own level."""
        draw, facts = self.sequences(corpora, seed, progress)
        valid, _ = replace(self, batch=512, level_db=0.0).sequences(corpora, seed, False, "valid")
        return Data(draw, valid(*generators(0, 1)), facts)

    def sequences(self, corpora: Corpora, seed: int, progress: bool, split: str = "train") -> Drawn:
        """A function that draws a batch (batch, F + 1, frames) of power spectra, and what the files were.

        The last row of a sequence is 1 where a frame counts, 0 where it is quiet.
        """
        rows, facts = self.files(corpora, seed, split)
        every = tqdm(corpora.decoded(rows, progress=progress), desc="spectra", disable=not progress)
        files = [part for part in map(self.loud_part, every) if len(part) >= self.frames]
        if not files:
            raise CorpusError(f"expected {split} files of {self.frames} frames at least, got none of {len(rows)}")
        odds = torch.tensor([float(len(x)) for x in files])

        def draw(g: torch.Generator) -> torch.Tensor:
            drawn = torch.stack([crop(files[k], self.frames, g) for k in choose(odds, self.batch, g)]).mT.contiguous()
            level = self.level_db / 10 * (2 * torch.rand(self.batch, 1, 1, generator=g) - 1)
            drawn[:, :-1] *= 10**level
            return drawn

        return draw, facts

    def loud_part(self, x: torch.Tensor) -> torch.Tensor:
        """The power of a file from its first loud frame to its last, and whether each is loud (T, F + 1)."""
        P, loud = self.power(at_peak(x))
        first, *_, last = loud.nonzero().flatten().tolist() * 2  # one frame may be all there is
        return torch.cat([P, loud[None].to(P)]).mT[first : last + 1].contiguous()

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Minus the bound, with the β of that part of the training."""
        return -self.bound(model, batch, g, beta=min(1.0, done / self.warm))

    def bound(self, model: Any, batch: torch.Tensor, g: torch.Generator, beta: float = 1.0) -> torch.Tensor:
        """The mean bound of the frames that count, nats; a batch as `sequences` draws it."""
        P, counts = batch[:, :-1], batch[:, -1]
        noise = torch.randn(1, len(P), self.latent, P.shape[-1], generator=g).to(P)
        return (model.elbo(P, noise, beta) * counts).sum() / counts.sum().clamp_min(1)

    def validate(self, model: Any, held_out: torch.Tensor) -> float:
        """The bound on validation speech, nats a frame, with the same draws each time."""
        return float(self.bound(model, held_out.to(device()), generators(0, 1)[0]))

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(steps=4, batch=2, frames=20, hidden=8)
