r"""Can a likelihood tell speech from what is not? Scores of clips, each higher the more a clip looks like speech to it.

They start from what a prior says of a clip's frames, $\log p$ or its lower bound, (clips, T), in nats, and give one
number a clip. `auroc` judges a score: the chance that a clip of clean speech scores higher than a sound that is out of
distribution.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from sepriors.lab.claims import ClaimError, Interval
from sepriors.signal.audio import check, flac16


def level_normalised(P: torch.Tensor, level: float = 1.0) -> torch.Tensor:
    r"""Power spectrograms (..., F, T) scaled to one mean power, so that a likelihood knows only of their shape.

    A density carries the inverse of its argument's unit: a model that moved with a clip scaled by $a$ would move
    $\log p$ of each frame of F complex bins by $-2 F \log a$, and a fixed one comes close. `level` is best that of the
    speech which the model was trained on. Silence stays as it is.

    >>> P = torch.rand(2, 3, 4)
    >>> torch.testing.assert_close(level_normalised(0.01 * P), level_normalised(P))
    """
    mean = P.mean((-2, -1), keepdim=True)
    return level * P / torch.where(mean > 0, mean, 1)


def typicality(logp: torch.Tensor, entropy: float, frames: int) -> torch.Tensor:
    r"""$-|\frac{1}{M} \sum_m \log p(s_m) + H|$: how near M frames are to the typical set (Nalisnick et al., 2019, § 3).

    logp (clips, T), `entropy` $H = -\mathbb{E} \log p$ of clean speech, in nats a frame; the M frames in the middle of
    each clip -> (clips,). Raises ValueError for clips shorter than that.

    >>> typicality(torch.tensor([[-4.0, -6.0], [-1.0, -1.0]]), entropy=5.0, frames=2)
    tensor([-0., -4.])
    """
    T = logp.shape[-1]
    if not 1 <= frames <= T:
        raise ValueError(f"expected a batch of 1 to {T} frames, the length of the clips, got {frames}")
    start = (T - frames) // 2
    return -(logp[..., start : start + frames].mean(-1) + entropy).abs()


def likelihood_ratio(logp: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """log p - log p of a background model, mean over frames (Ren et al., 2019, § 3): (clips, T) each -> (clips,).

    What both models say alike, above all how much power there is, cancels.
    """
    return (logp - background).mean(-1)


def complexity_corrected(logp: torch.Tensor, bits: torch.Tensor, bins: int) -> torch.Tensor:
    r"""Minus the S of Serrà et al. (2020, § 3), $\log_2 p + L$, bits a dimension: (clips, T), (clips,) -> (clips,).

    Simple inputs get large densities; `bits`, what a lossless coder needs a sample, takes that back. Each frame has F
    complex `bins`, 2 F dimensions; a clip scaled by $a$ has $\log_2 a$ less of the one and more of the other.
    """
    return logp.mean(-1) / (2 * bins * math.log(2)) + bits.to(logp)


def flac_bits(x: torch.Tensor, sample_rate: int = 16000) -> torch.Tensor:
    """Bits a sample that FLAC needs for each clip, rounded to 16 bits, without the header: (clips, N) -> (clips,).

    >>> loud = flac_bits(0.1 * torch.randn(1, 16000))
    >>> bool(flac_bits(torch.zeros(1, 16000)) < 0.1 < 10 < loud < 16)
    True
    """
    clips = np.atleast_2d(check(x, "clips").detach().cpu().double().numpy())
    header = len(flac16(np.zeros(0), sample_rate))
    return torch.tensor([8 * (len(flac16(clip, sample_rate)) - header) / x.shape[-1] for clip in clips])


def waic(logp: torch.Tensor) -> torch.Tensor:
    """Mean minus variance of log p over an ensemble of models (Choi et al., 2018, § 3), mean over frames.

    logp (models, clips, T), two models at least -> (clips,): where the models disagree, none of them is to be trusted.

    >>> waic(torch.tensor([[[1.0]], [[3.0]]]))
    tensor([1.])
    """
    if len(logp) < 2:
        raise ValueError(f"expected two models at least, got {len(logp)}")
    return (logp.mean(0) - logp.var(0, correction=0)).mean(-1)


def auroc(
    speech: torch.Tensor,
    other: torch.Tensor,
    label: str = "",
    *,
    groups: tuple[Sequence[str], Sequence[str]],
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Area under the ROC curve: how often speech (n,) scores above another sound (m,), with its 95 % interval.

    A tie counts half; .5 is chance, and below it the score prefers the other. Groups of clips are resampled on both
    sides, one name a clip: clips of one speaker, or of one recording, share their luck. A side of one group gives no
    interval: low and high are NaN. Raises ClaimError for NaN, or names that do not match the clips.

    >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]), groups=("ab", "cd")).value
    0.875
    """
    sides = [x.detach().cpu().double().numpy() for x in (speech, other)]
    for x, names in zip(sides, groups, strict=True):
        if x.ndim != 1 or not len(x) or np.isnan(x).any():
            raise ClaimError(f"{label or 'auroc'}: expected scores (n,) without NaN, got shape {x.shape}")
        if len(names) != len(x):
            raise ClaimError(f"{label or 'auroc'}: expected a group for each of {len(x)} clips, got {len(names)}")
    wins = (sides[0][:, None] > sides[1]) + 0.5 * (sides[0][:, None] == sides[1])
    members = [np.eye(len(set(names)))[np.unique(names, return_inverse=True)[1]] for names in map(list, groups)]
    won = members[0].T @ wins @ members[1]  # (groups, groups)
    pairs = np.outer(members[0].sum(0), members[1].sum(0))
    if min(won.shape) == 1:
        return Interval(float(wins.mean()), math.nan, math.nan, wins.shape[0] + wins.shape[1], label, why="one group")
    drawn = np.random.default_rng(seed)
    weights = [drawn.multinomial(g, np.full(g, 1 / g), size=resamples) for g in won.shape]
    won, pairs = (np.einsum("ri,ij,rj->r", weights[0], counts, weights[1]) for counts in (won, pairs))
    low, high = np.quantile(won / pairs, [0.025, 0.975])
    return Interval(float(wins.mean()), float(low), float(high), len(sides[0]) + len(sides[1]), label)
