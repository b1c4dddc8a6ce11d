"""Methods × mixtures → one table: mean, 95 % bootstrap interval, difference to the noisy input, cost."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil
import torch

from .audio import whole
from .claims import Estimate, bootstrap
from .methods import Method, enhance
from .metrics import METRICS, check_names, score_many
from .mixing import Mixture

NOISY = "noisy"  # the row that every other is compared with
PACKAGES = ("torch", "numpy", "pesq", "pystoi", "speechmos")  # a change of one of them may change a number
BATCH = 16  # utterances at once: past that two cores gain nothing


class Cost(NamedTuple):
    """Seconds, and the peak of resident memory while they passed, MB."""

    seconds: float
    peak_mb: float


@contextmanager
def measured(interval: float = 0.01) -> Iterator[Callable[[], Cost]]:
    """Wall-clock seconds and peak resident memory of the block; call what it gives once the block has ended."""
    process, stop = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def watch() -> None:
        while not stop.wait(interval):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start, end = time.perf_counter(), [0.0]
    try:
        yield lambda: Cost(end[0] - start, peak[0] / 1e6)
    finally:
        end[0] = time.perf_counter()
        peak[0] = max(peak[0], process.memory_info().rss)
        stop.set()
        watcher.join()


def run(
    methods: Mapping[str, Method | Callable[[Mixture], Method]],
    mixtures: Iterable[Mixture],
    *,
    metrics: Sequence[str] = tuple(METRICS),
    seed: int = 0,
    sample_rate: int = 16000,
    executor: Executor | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[pd.DataFrame]:
    """Enhance and score batched mixtures; yields the records of a (method, SNR) at a time, 'noisy' first, a row a file.

    A value of `methods` that makes a method from the mixture (`OracleWiener.from_mixture`) is given it. Each file has a
    seed of its own, `seed` plus its place in the set. Columns: method, snr_db, file, seed, the measures, rtf, peak_mb,
    and `why`, the reasons of NaNs.
    """
    check_names(metrics)
    for mixture in mixtures:
        if mixture.noisy.ndim != 2:
            raise ValueError(f"expected mixtures of many files (files, N), got shape {tuple(mixture.noisy.shape)}")
        rows = len(mixture.noisy)
        seeds = [seed + i for i in range(rows)]
        for name, method in {NOISY: None, **methods}.items():
            estimate, cost = mixture.noisy, Cost(0.0, 0.0)
            if method is not None:
                estimate, cost = _enhance(mixture, method, seeds, device)
            scores = list(score_many(zip(mixture.clean, estimate, strict=True), sample_rate, metrics, executor))
            audio_seconds = mixture.noisy.numel() / sample_rate
            yield pd.DataFrame(
                {
                    "method": name,
                    "snr_db": mixture.snr_db,
                    "file": list(mixture.key) or [str(i) for i in range(rows)],
                    "seed": seeds,
                    **{m: [s.values[m] for s in scores] for m in metrics},
                    "rtf": cost.seconds / audio_seconds,
                    "peak_mb": cost.peak_mb,
                    "why": ["; ".join(f"{m}: {r}" for m, r in s.reasons.items()) for s in scores],
                }
            )


def _enhance(
    mixture: Mixture, method: Method | Callable[[Mixture], Method], seeds: Sequence[int], device: torch.device | str
) -> tuple[torch.Tensor, Cost]:
    """The estimate of a whole mixture in batches, and what it cost."""
    parts = []
    with measured() as cost:
        for i in range(0, len(seeds), BATCH):
            part = slice(i, i + BATCH)
            noisy, clean, noise = (x[part].to(device) for x in mixture[:3])
            made = _made(method, Mixture(noisy, clean, noise, mixture.snr_db, mixture.key[part]))
            parts.append(enhance(noisy, made, seeds[part]).cpu())
    return torch.cat(parts), cost()


def _made(method: Any, mixture: Mixture) -> Method:
    """The method itself, or, of one that must be told the truth, the method for this mixture."""
    return method if hasattr(method, "iterations") else method(mixture)


def records(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All records in one table."""
    return pd.concat(list(frames), ignore_index=True)


def paired(table: pd.DataFrame, metric: str, method: str, against: str = NOISY) -> pd.Series:
    """Differences of a measure between two methods, file by file and SNR by SNR."""
    wide = table.pivot(index=["file", "snr_db"], columns="method", values=metric)
    for name in (method, against):
        if name not in wide:
            raise ValueError(f"unknown method {name!r} in these records; there are {', '.join(map(str, wide))}")
    return wide[method] - wide[against]


def estimate(by_file: pd.Series, label: str = "") -> Estimate:
    """Mean over files, with an interval over the noise recordings behind them: the part of a file's key after '+'."""
    recordings = [str(file).rsplit("+", 1)[-1] for file in by_file.index]
    return bootstrap(by_file.to_numpy(), label, groups=recordings)


def difference(table: pd.DataFrame, metric: str, method: str, against: str = NOISY, label: str = "") -> Estimate:
    """Mean paired difference with its bootstrap interval over noise recordings, see `estimate`.

    A file's SNRs are averaged first, since they share their luck. Raises ClaimError where no file has both values.
    """
    by_file = paired(table, metric, method, against).groupby("file").mean()
    return estimate(by_file, label or f"{metric} {method} − {against}")


def summary(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Long table: method, snr_db, metric, value, low, high, n (files with a value), of (files in all), rtf, peak_mb.

    And delta, delta_low, delta_high: the mean paired difference to noisy. NaN stands where no file has the values.
    """
    rows: list[dict[str, Any]] = []
    for (snr, method), group in table.groupby(["snr_db", "method"], sort=False):
        at_snr = table[table["snr_db"] == snr]
        for metric in metrics:
            mean = _bootstrap(group.set_index("file")[metric])
            beside = NOISY in set(at_snr["method"])
            gain = paired(at_snr, metric, str(method)).droplevel("snr_db") if beside else pd.Series(dtype=float)
            delta = _bootstrap(gain)
            rows.append(
                {
                    "method": method, "snr_db": snr, "metric": metric, "value": mean.value, "low": mean.low,
                    "high": mean.high, "n": mean.n, "of": len(group), "rtf": group["rtf"].iloc[0],
                    "peak_mb": group["peak_mb"].iloc[0], "delta": delta.value, "delta_low": delta.low,
                    "delta_high": delta.high,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _bootstrap(values: pd.Series) -> Estimate:
    """The mean and its interval, or NaN from no file: a row of a table must not stop the table."""
    return estimate(values) if values.notna().any() else Estimate(math.nan, math.nan, math.nan, 0)


def overview(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """A row a method, over all SNRs: each measure and its difference to noisy with 95 % intervals, RTF, peak memory.

    A file counts if it has a value at every SNR; where some have not, '(n/of)' says how many do, '–' that none does.
    """
    rows = {}
    for method, group in table.groupby("method", sort=False):
        row: dict[str, Any] = {}
        for metric in metrics:
            row[metric] = _shown(group.set_index("file")[metric])
            if method != NOISY and NOISY in set(table["method"]):
                row[f"Δ {metric}"] = _shown(paired(table, metric, str(method)))
        rows[method] = {**row, "RTF": f"{group['rtf'].mean():.4f}", "process peak MB": f"{group['peak_mb'].max():.0f}"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("–")


def _shown(values: pd.Series) -> str:
    """Mean and interval over files, each file's SNRs averaged, as people print it."""
    by_file = values.groupby("file").agg(lambda x: x.mean(skipna=False))
    estimate = _bootstrap(by_file)
    if not estimate.n:
        return "–"
    return str(estimate) if estimate.n == len(by_file) else f"{estimate} ({estimate.n}/{len(by_file)})"


def provenance(**facts: Any) -> dict[str, Any]:
    """What a number needs to be believed: the caller's facts (corpus, seed, ...), commit, hardware, versions, time."""
    return {
        **facts,
        "commit": commit(),
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": psutil.cpu_count(),
            "cpu": _cpu_name(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """The commit of the working tree, '+' where it has changes, or 'unknown' outside a checkout."""
    here = Path(__file__).resolve()

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=here.parent, capture_output=True, text=True).stdout.strip()

    try:
        ours = git("ls-files", here.name)  # else it is installed inside the checkout of something else
        return (ours and git("describe", "--always", "--dirty=+", "--abbrev=10")) or "unknown"
    except OSError:  # no git on this machine
        return "unknown"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def save(path: str | os.PathLike[str], table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Write records and their provenance as JSON, whole or not at all; NaN becomes null."""
    rows = json.loads(table.to_json(orient="records", double_precision=6))
    with whole(path) as part:
        part.write_text(json.dumps({**facts, "records": rows}, indent=1, default=str), "utf-8")


def keep(chapter: str, name: str, table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Leave a chapter's records in the build tree as `bench-NAME.json` while the book is built; else do nothing."""
    if build := os.environ.get("SEPRIORS_BUILD"):
        save(Path(build) / "records" / chapter / f"bench-{name}.json", table, facts)
