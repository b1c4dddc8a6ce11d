"""Climbs of a flow's posterior, watched from step to step: what chapter 3 and its study follow."""

from concurrent.futures import Executor
from typing import Any, NamedTuple

import pandas as pd
import torch

from sepriors.inference import flows
from sepriors.lab.corpora import Corpora
from sepriors.metrics import score_many
from sepriors.signal.mixing import mix
from sepriors.signal.rng import generators

MEASURES = ("pesq_wb", "stoi", "fwsnrseg")


class Excerpts(NamedTuple):
    """Clean excerpts (B, N), and the speaker of each."""

    clean: torch.Tensor
    speakers: list[str]


def excerpts(corpora: Corpora, rows: pd.DataFrame, count: int, *, seed: int = 0, length: int = 16000) -> Excerpts:
    """Excerpts of files of the manifest, drawn at random: no pauses, of half the power of their file at least."""
    (g,) = generators(seed, 1)
    found = Excerpts(torch.zeros(0, length), [])
    while len(found.speakers) < count:
        row = rows.iloc[int(torch.randint(len(rows), (), generator=g))]
        x = corpora.read(row["path"])
        start = int(torch.randint(max(1, len(x) - length + 1), (), generator=g))
        cut = x[start : start + length]
        if len(cut) == length and cut.square().mean() > 0.5 * x.square().mean():
            found = Excerpts(torch.cat([found.clean, cut[None]]), [*found.speakers, str(row["speaker"])])
    return found


def watch(
    flow: Any, clean: torch.Tensor, snr_db: float, *, seed: int = 0, steps: int = 500, every: int = 20,
    executor: Executor | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Climb from excerpts (B, N) in white noise of known variance, without a stop; a row a file and moment.

    Shi et al. (2021, § 5.3). Its columns: `nats` a sample of log p(s), as `clean_nats` are the clean speech's; the
    `distance` to that speech and the `energy`, dB of its power; and MEASURES.
    """
    hiss = torch.stack([torch.randn(clean.shape[-1], generator=g) for g in generators(seed, len(clean))])
    mixture = mix(clean, hiss, snr_db)
    at = next(flow.parameters())
    made = flows.white(mixture.noisy.to(at), flow, mixture.noise.square().mean(-1).to(at))
    silent = torch.full((len(clean),), 1e-9)
    length, own = made.x.shape[-1], flow.log_prob(flows.white(clean.to(at), flow, silent.to(at)).x)
    rows = []
    for step, now in enumerate(flows.climb(flows.SignalPosterior(flow, made.x, made.variance), steps=steps)):
        if step % every and step < steps:
            continue
        s = made.back(now.signal).cpu()
        found = {
            "nats": now.log_prior / length,
            "clean_nats": own / length,
            "distance": decibels(s - clean, clean),
            "energy": decibels(s, clean),
        }
        scores = score_many(zip(clean, s, strict=True), 16000, MEASURES, executor)
        for i, of_file in enumerate(scores):
            numbers = {name: float(value[i]) for name, value in found.items()} | of_file.values
            rows.append({"snr_db": snr_db, "file": i, "step": step, **numbers})
    return pd.DataFrame(rows)


def decibels(x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The power (B,) of signals over that of others, dB.

    >>> decibels(torch.full((1, 4), 10.0), torch.ones(1, 4))
    tensor([20.])
    """
    return 10 * (x.square().mean(-1) / reference.square().mean(-1)).log10()


def cross_fitted(climbed: pd.DataFrame, column: str) -> pd.DataFrame:
    """By how much each file rises to the peak of a column, and falls from it to the end.

    Where the peak is, the mean of the *other* half of the files says: a maximum of noise would be one, too.
    """
    wide = climbed.pivot(index="file", columns="step", values=column)
    first, last = wide.columns.min(), wide.columns.max()
    halves = [(wide.iloc[::2], wide.iloc[1::2]), (wide.iloc[1::2], wide.iloc[::2])]
    parts = []
    for seen, other in halves:
        peak = seen.mean().idxmax()
        parts.append(pd.DataFrame({"rise": other[peak] - other[first], "fall": other[peak] - other[last]}))
    return pd.concat(parts).sort_index()
