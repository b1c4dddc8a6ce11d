"""What a network is pretrained to say of a hidden frame: its cluster, first of cepstra, then of its own embeddings.

HuBERT (Hsu et al., 2021, § II-B): clusters are found by k-means, without a transcript, and a second round takes them
from what the first has learned.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torchaudio
from sklearn.cluster import MiniBatchKMeans

from sepriors.priors.ssl import SSL, framed

ENOUGH = 100_000  # frames that k-means looks at


@cache
def _cepstra() -> torchaudio.transforms.MFCC:
    mel = {"n_fft": SSL.field, "hop_length": SSL.hop, "n_mels": 40, "center": False}
    return torchaudio.transforms.MFCC(16000, n_mfcc=13, melkwargs=mel)


def mfcc(x: torch.Tensor) -> torch.Tensor:
    """Mel-frequency cepstra, their first and second differences (T, 39), at the frames of `SSL`, means taken out.

    >>> mfcc(torch.randn(16000)).shape
    torch.Size([51, 39])
    """
    c = _cepstra()(framed(x[None])[0])
    first = torchaudio.functional.compute_deltas(c, 5)
    features = torch.cat([c, first, torchaudio.functional.compute_deltas(first, 5)]).mT
    return features - features.mean(0)


def clustering(
    features: Sequence[torch.Tensor], classes: int, generator: torch.Generator
) -> Callable[[torch.Tensor], torch.Tensor]:
    """k-means of frames (T, D) of many files: a function from frames to labels (T,).

    Each dimension is scaled to a standard deviation of 1. Raises ValueError for fewer frames than classes.
    """
    every = torch.cat(list(features)).double()
    if len(every) < classes:
        raise ValueError(f"expected {classes} frames for as many classes, got {len(every)}")
    mean, scale = every.mean(0), every.std(0).clamp_min(1e-8)
    some = every[torch.randperm(len(every), generator=generator)[:ENOUGH]]
    seed = int(torch.randint(2**31, (), generator=generator))
    found = MiniBatchKMeans(classes, batch_size=10_000, n_init=3, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "MiniBatchKMeans is known to have a memory leak")  # on Windows
        found.fit(((some - mean) / scale).numpy())

    def label(frames: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(found.predict(((frames.double() - mean) / scale).numpy())).long()

    return label
