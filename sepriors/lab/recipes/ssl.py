"""Self-supervised embeddings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from torchaudio.models import hubert_pretrain_model
from tqdm import tqdm

from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.recipes.base import Data, Draw, Learned, LongRecipe, OfOneCorpus, about, at_peak, device, to_float16
from sepriors.lab.training.pretraining import clustering, mfcc
from sepriors.lab.training.simulator import Clips, at_snr, chance, choose, crop, rms, training_noise
from sepriors.priors import SSL
from sepriors.priors.ssl import framed
from sepriors.signal.rng import generators, seeded_global_rng

SMALL = {"width": 8, "layers": 2, "heads": 2, "inner": 16, "channels": (4, 4, 4, 4, 4, 4, 8)}  # sizes of an `SSL`


@dataclass(frozen=True)
class SSLRecipe(OfOneCorpus, LongRecipe):
    """Self-supervised embeddings, by masked prediction of clusters (HuBERT; Hsu et al., 2021, § II), in two rounds.

    The first round's clusters are of cepstra, the second's of the first's embeddings at `layer`, both of clean speech.
    Frames are hidden in spans of ten; files have a peak of 1 and are lowered at random by up to `level_db`. A part
    `noisy` of the clips is in training noise, at `snr_db`, with the labels that they have without (Chen et al., 2022,
    § III-B): so an embedding is of the speech in it.
    """

    # Deviation: the paper hides more, asks for hidden frames alone and starts the second round afresh; in an hour its
    # convolutions learn nothing.
    sizes: Mapping[str, Any] = field(default_factory=dict)  # of `SSL`, where they are not its own
    classes: tuple[int, ...] = (100, 200)  # a round
    steps: tuple[int, ...] = (2000, 3000)
    layer: int = 5
    seen: float = 1.0  # what a frame that is not hidden counts beside one that is
    batch: int = 12
    seconds: float = 2.0
    level_db: float = 20.0
    noisy: float = 0.5
    snr_db: tuple[float, float] = (-5.0, 20.0)
    learning_rate: float = 3e-3
    clip = 10.0
    warm_steps = 200

    @property
    def about(self) -> str:
        rounds = " and ".join(f"{classes} classes for {n} steps" for classes, n in zip(self.classes, self.steps))
        of = "speech, some of it in noise" if self.noisy else "clean speech"
        return f"self-supervised embeddings of {of}, pretrained by masked prediction: {rounds}"

    def learn(
        self, corpora: Corpora, seed: int, progress: bool, checkpoint: Path | None = None, fabric: Any = None
    ) -> Learned:
        """The network's parameters, in half precision, and how many hidden frames of validation speech it guesses."""
        (g,) = generators(seed, 1)
        rows, facts = self.files(corpora, seed)
        splits = rows, self.files(corpora, seed, "valid")[0]
        speech, valid = ([at_peak(x) for x in corpora.decoded(part, progress=progress)] for part in splits)
        noise = None
        if self.noisy:
            recordings = self.noise_files(corpora)
            noise = Clips.of_noise(corpora, recordings, self.samples, progress=progress)
            facts |= about(recordings, "noise_")
        net, seconds = SSL(**self.sizes).requires_grad_(False).eval(), 0.0
        features: Callable[[torch.Tensor], torch.Tensor] = mfcc
        for i, (classes, steps) in enumerate(zip(self.classes, self.steps, strict=True), 1):
            found = [features(x) for x in tqdm(speech, desc=f"targets, round {i}", disable=not progress)]
            label = clustering(found, classes, g)
            labels, unseen = [label(f) for f in found], [label(features(x)) for x in valid]
            model = self.make(g, classes, None if i == 1 else net)
            watched = replace(self, batch=32, level_db=0.0).drawing(valid, unseen)(*generators(0, 1))
            fitted = self.fit(
                model, Data(self.drawing(speech, labels, noise), watched, facts), g, f"seed {seed}, round {i}", steps,
                None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.{i}"),
                progress=progress, fabric=fabric,
            )  # fmt: skip
            seconds += fitted.seconds
            net.network.load_state_dict(fitted.model.wav2vec2.cpu().state_dict())
            features = partial(_layer, net, self.layer)
            most = torch.bincount(torch.cat(unseen)).max() / sum(map(len, unseen))
            facts[f"valid_guessed_{i}"] = [round(value, 3) for value in fitted.curve]
            facts[f"valid_most_frequent_{i}"] = round(float(most), 3)
        return Learned(to_float16(net), net.config, {**facts, "train_seconds": round(seconds, 1)})

    def make(self, g: torch.Generator, classes: int, begun: SSL | None) -> torch.nn.Module:
        """The network of a round with its classes, before training, or as the last round has left it."""
        with seeded_global_rng(g):
            model = hubert_pretrain_model(**SSL(**self.sizes).settings, **MASKED, num_classes=classes)
        if begun is not None:
            model.wav2vec2.load_state_dict(begun.network.state_dict())
        return model

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return round(self.seconds * 16000 / SSL.hop)

    @property
    def samples(self) -> int:
        """What the frames of a clip see."""
        return SSL.hop * (self.frames - 1) + SSL.field

    def drawing(
        self, speech: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], noise: Clips | None = None
    ) -> Draw:
        """A function that draws a batch (batch, N + T): samples, and behind them the labels of their frames.

        What is longer is cropped at a frame, what is shorter left out; with `noise` some of it is in noise.
        """
        T = self.frames
        known = [(framed(x[None])[0], y) for x, y in zip(speech, labels, strict=True) if len(y) >= T]
        if not known:
            raise CorpusError(f"expected files of {self.seconds:g} s at least, got none of {len(speech)}")
        odds = torch.tensor([float(len(y)) for _, y in known])

        def draw(g: torch.Generator) -> torch.Tensor:
            clips, classes = [], []
            for x, y in (known[k] for k in choose(odds, self.batch, g)):
                frames = crop(torch.arange(len(y)), T, g)
                clips.append(x[SSL.hop * int(frames[0]) :][: self.samples])
                classes.append(y[frames].float())
            clip = torch.stack(clips)
            if noise is not None:
                level = rms(clip)
                noisy = level * at_snr(clip / level, noise.draw(self.batch, g), self.snr_db, g)
                clip = torch.where(chance(self.noisy, self.batch, g), noisy, clip)
            gain = 10 ** (-self.level_db / 20 * torch.rand(self.batch, 1, generator=g))
            return torch.cat([gain * clip, torch.stack(classes)], -1)

        return draw

    def logits(self, model: Any, batch: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the hidden frames and of the others (n, 1 + classes), the true class first."""
        T = self.frames
        with seeded_global_rng(g):  # torchaudio draws what to hide from the global randomness
            hidden, seen, _ = model(batch[:, :-T], batch[:, -T:].long())
        return hidden.float(), seen.float()

    def loss(self, model: Any, batch: torch.Tensor, g: torch.Generator, done: float) -> torch.Tensor:
        """Cross-entropy of the true class, nats a frame (Hsu et al., 2021, eq. 2)."""
        hidden, seen = ((x.logsumexp(-1) - x[:, 0]).mean() for x in self.logits(model, batch, g))
        return (hidden + self.seen * seen) / (1 + self.seen)

    def validate(self, model: Any, held_out: torch.Tensor) -> float:
        """The fraction of hidden frames whose class is right, with the same frames hidden each time."""
        hidden, _ = self.logits(model, held_out.to(device()), generators(0, 1)[0])
        return float((hidden[:, 1:] < hidden[:, :1]).all(-1).float().mean())

    def noise_files(self, corpora: Corpora) -> pd.DataFrame:
        """What some of the speech is in."""
        return training_noise(corpora) if self.noisy else super().noise_files(corpora)

    def smoke(self) -> Self:
        """Shortened to seconds."""
        return self.shorten(sizes=SMALL, classes=(5, 8), steps=(4, 4), layer=1, batch=2, seconds=1.0)


MASKED = {
    "mask_prob": 0.5, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10, "no_mask_overlap": False,
    "mask_min_space": 1, "mask_channel_prob": 0.0, "mask_channel_selection": "static", "mask_channel_other": 0.0,
    "mask_channel_length": 10, "no_mask_channel_overlap": False, "mask_channel_min_space": 1, "skip_masked": False,
    "skip_nomask": False, "final_dim": 64, "feature_grad_mult": None,
}  # fmt: skip  # HuBERT's own, but for how many are hidden, and the size of what is compared


def _layer(net: SSL, layer: int, x: torch.Tensor) -> torch.Tensor:
    """The embeddings (T, D) of one file at a layer."""
    with torch.inference_mode():
        return net(x[None])[layer, 0]
