"""Methods × mixtures → one table: mean, 95 % bootstrap interval, difference to the noisy input, cost."""

import hashlib
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
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
import torch

from sepriors import weights
from sepriors.files import atomic_write
from sepriors.lab.claims import Interval, bootstrap
from sepriors.lab.corpora.sets import clusters_of
from sepriors.lab.jobs import BATCH, WorkerPool, as_completed, cached_method
from sepriors.metrics import METRICS, check_names, score_many
from sepriors.protocols import Method
from sepriors.running import RATE, enhance
from sepriors.signal.mixing import Mixture

NOISY = "noisy"  # the row that every other is compared with
PACKAGES = ("torch", "numpy", "pesq", "pystoi", "speechmos")  # a change of one of them may change a number


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
    metrics: Sequence[str] = tuple(METRICS), seed: int = 0, executor: Executor | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[pd.DataFrame]:  # fmt: skip
    """Enhance and score batched mixtures; yields the records of a (method, SNR) at a time, 'noisy' first, a row a file.

    A value of `methods` that makes a method from the mixture (`OracleWiener.from_mixture`) is given it. Each file has a
    seed of its own, `seed` plus its place in the set. Columns: method, snr_db, file, seed, the measures, rtf, peak_mb,
    and `why`, the reasons of NaNs.
    """
    check_names(metrics)
    for mixture in mixtures:
        _check_many(mixture)
        seeds = [seed + i for i in range(len(mixture.noisy))]
        for name, method in {NOISY: None, **methods}.items():
            yield pd.DataFrame(measure(Job(name, method, mixture, seeds, metrics, str(device)), executor))


class Place(NamedTuple):
    """Of a record among all."""

    mixture: int
    method: int
    file: int


class Job(NamedTuple):
    """A method (None: the noisy input itself) on files of one mixture, with all that a worker must know."""

    name: str
    method: Any
    mixture: Mixture
    seeds: Sequence[int]
    metrics: Sequence[str]
    device: str
    places: Sequence[Place] = ()


def measure(job: Job, executor: Executor | None = None) -> list[dict[str, Any]]:
    """The records of a job, one a file; measured over the executor, if there is one."""
    noisy, clean, noise = (torch.as_tensor(x) for x in job.mixture[:3])
    mixture = job.mixture._replace(noisy=noisy, clean=clean, noise=noise)
    estimate, cost = mixture.noisy, Cost(0.0, 0.0)
    if job.method is not None:
        method = cached_method(job.method) if isinstance(job.method, str) else job.method
        estimate, cost = _enhance(mixture, method, job.seeds, job.device)
    files = list(mixture.key) or [str(i) for i in range(len(job.seeds))]
    scored = score_many(zip(mixture.clean, estimate, strict=True), RATE, job.metrics, executor)
    rtf = cost.seconds / (mixture.noisy.numel() / RATE)
    return [
        {
            "method": job.name, "snr_db": mixture.snr_db, "file": file, "seed": seed, **s.values,
            "rtf": rtf, "peak_mb": cost.peak_mb, "why": s.why,
        }
        for file, seed, s in zip(files, job.seeds, scored, strict=True)
    ]  # fmt: skip


def run_parallel(
    worker_pool: WorkerPool,
    methods: Mapping[str, str | Method | Callable[[Mixture], Method]],
    mixtures: Sequence[Mixture],
    *,
    metrics: Sequence[str] = tuple(METRICS), seed: int = 0, device: str = "cpu", folder: Path | None = None,
    executor: Executor | None = None,
) -> Iterator[tuple[Place, dict[str, Any]]]:  # fmt: skip
    """The records of `run` by a worker pool, each with its place, as they come; `ordered` makes the table of them.

    A job is a method on a file; this process alone takes files together, as `run` does, and measures over
    `executor`. A value of `methods` that is a name is made by each worker, once. Records that `folder` has are not made
    again; each new one is written there at once. They are found by all that they depend on: code, cards, libraries,
    name of the method, signals, seed and measures. Further columns say how the cost came about: `workers` at once,
    torch's `threads` in each, and the `cpu`.
    """
    check_names(metrics)
    for mixture in mixtures:
        _check_many(mixture)
    chosen = list({NOISY: None, **methods}.items())
    places = [Place(i, j, k) for i, m in enumerate(mixtures) for j in range(len(chosen)) for k in range(len(m.noisy))]
    paths = _paths(folder, list(dict(chosen)), mixtures, (seed, tuple(metrics), device)) if folder else {}
    kept = {place: record for place, path in paths.items() if (record := _kept(path))}
    yield from kept.items()

    def job(group: Sequence[Place]) -> Job:
        i, j, _ = group[0]
        files = [place.file for place in group]
        key = tuple(mixtures[i].key[k] if mixtures[i].key else str(k) for k in files)
        noisy, clean, noise = (x[files].cpu().numpy() for x in mixtures[i][:3])  # what travels well between processes
        part: Any = Mixture(noisy, clean, noise, mixtures[i].snr_db, key)  # type: ignore[arg-type]
        return Job(*chosen[j], part, [seed + k for k in files], metrics, device, group)

    missing = [place for place in places if place not in kept]
    jobs = map(job, _groups(missing, BATCH if worker_pool.executor is None else 1))
    for done, records in as_completed(worker_pool, partial(_measure_here, executor=executor), jobs):
        for place, record in zip(done.places, records, strict=True):
            record |= {"workers": worker_pool.size()}
            if folder:
                _keep(paths[place], record)
            yield place, record


def ordered(rows: Iterable[tuple[Place, dict[str, Any]]]) -> pd.DataFrame:
    """The table of records that came in any order."""
    return pd.DataFrame([record for _, record in sorted(rows, key=lambda row: row[0])])


def _check_many(mixture: Mixture) -> None:
    if mixture.noisy.ndim != 2:
        raise ValueError(f"expected mixtures of many files (files, N), got shape {tuple(mixture.noisy.shape)}")


def _measure_here(job: Job, executor: Executor | None) -> list[dict[str, Any]]:
    """`measure`, and what the worker is."""
    here = {"threads": torch.get_num_threads(), "cpu": _cpu_name()}
    return [{**record, **here} for record in measure(job, executor)]


def _groups(places: Iterable[Place], most: int) -> Iterator[list[Place]]:
    """Places of one method and one mixture, so many at most together; method by method, since workers hold few."""
    by_method = sorted(places, key=lambda place: (place.method, place))
    for _, group in groupby(by_method, key=lambda place: (place.method, place.mixture)):
        files = list(group)
        for i in range(0, len(files), most):
            yield files[i : i + most]


def _paths(
    folder: Path, names: Sequence[str], mixtures: Sequence[Mixture], settings: tuple[Any, ...]
) -> dict[Place, Path]:
    """Where the record of each place is kept, named by a digest of all that it depends on."""
    known, paths = _digest(code(), *settings), dict[Place, Path]()
    for i, mixture in enumerate(mixtures):
        for k in range(len(mixture.noisy)):
            content = _digest(known, mixture.snr_db, mixture.key[k : k + 1], k, *(x[k] for x in mixture[:3]))
            paths |= {Place(i, j, k): folder / f"{_digest(content, name)}.json" for j, name in enumerate(names)}
    return paths


def _digest(*parts: Any) -> str:
    """A name for values and signals: the same for the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.cpu().numpy().tobytes() if isinstance(part, torch.Tensor) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def code() -> str:
    """A digest of what a number depends on besides signals and settings: this package, its cards, the libraries."""
    package = Path(weights.__file__).parent
    sources = [path.read_bytes() for path in [*sorted(package.rglob("*.py")), weights.folder() / "cards.toml"]]
    return _digest(*sources, *(version(package) for package in PACKAGES))


def _kept(path: Path) -> dict[str, Any] | None:
    """The record of an earlier call, or None where there is none that can be read."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return {name: math.nan if value is None else value for name, value in record.items()}


def _keep(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all; NaN is no JSON."""
    known = {name: None if value != value else value for name, value in record.items()}
    with atomic_write(path) as part:
        part.write_text(json.dumps(known), "utf-8")


def _enhance(
    mixture: Mixture, method: Method | Callable[[Mixture], Method], seeds: Sequence[int], device: torch.device | str
) -> tuple[torch.Tensor, Cost]:
    """The estimate of a whole mixture in batches, and what it cost."""
    parts = []
    with measured() as cost:
        for i in range(0, len(seeds), BATCH):
            part = slice(i, i + BATCH)
            noisy, clean, noise = (x[part].to(device) for x in mixture[:3])
            made: Any = method
            if not hasattr(method, "iterations"):  # it must be told the truth
                made = made(Mixture(noisy, clean, noise, mixture.snr_db, mixture.key[part]))
            parts.append(enhance(noisy, made, seeds[part]).cpu())
    return torch.cat(parts), cost()


def records(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All records in one table."""
    return pd.concat(list(frames), ignore_index=True)


def complete(table: pd.DataFrame, metric: str, method: str, against: str | None = None) -> pd.Series:
    """A measure of a method, or its paired difference to another's, by (file, snr_db): the rule for missing values.

    A file that lacks the value at one SNR is NaN at all of them, lest it count where it is easy only. The SNRs are
    those at which the method was run, and the other, too, and at which anybody has the measure: elsewhere it was not
    asked for. Raises ValueError for a method that the records do not have.
    """
    asked = table[table["snr_db"].isin(table.loc[table[metric].notna(), "snr_db"])]
    known = table["method"].unique()

    def of(name: str) -> pd.DataFrame:
        if name not in known:
            raise ValueError(f"unknown method {name!r} in these records; there are {', '.join(known)}")
        return asked[asked["method"] == name].pivot(index="file", columns="snr_db", values=metric).astype(float)

    wide = of(method)
    if against is not None:
        wide, other = wide.align(of(against), join="inner", axis="columns")  # the SNRs that both have
        wide = wide - other
    wide[~np.isfinite(wide).all(axis=1)] = math.nan
    return pd.Series(wide.stack(future_stack=True))


def paired(table: pd.DataFrame, metric: str, method: str, against: str = NOISY) -> pd.Series:
    """Differences of a measure between two methods, file by file and SNR by SNR; of missing values see `complete`."""
    return complete(table, metric, method, against)


def estimate(by_file: pd.Series, label: str = "") -> Interval:
    """Mean over files, with an interval over the speakers and the noise recordings that the keys of mixtures name."""
    clusters = clusters_of(map(str, by_file.index))
    speakers, recordings = clusters.get("speakers"), clusters.get("recordings")
    return bootstrap(by_file.to_numpy(), label, speakers=speakers, recordings=recordings)


def difference(
    table: pd.DataFrame, metric: str, method: str, against: str = NOISY, label: str = "", *, snr_db: float | None = None
) -> Interval:
    """Mean paired difference with its bootstrap interval over speakers and noise recordings, see `estimate`.

    Over all SNRs, of which a file's mean is taken first, since they share their luck; or at one of them. A file without
    the value at some SNR is left out in both cases, see `complete`: so take one SNR by its name, not by its rows.
    Raises ClaimError where no file has both values.
    """
    values = paired(table, metric, method, against)
    at = values if snr_db is None else values[values.index.get_level_values("snr_db") == snr_db]
    return estimate(at.groupby("file").mean(), label or f"{metric} {method} − {against}")


def summary(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Long table: method, snr_db, metric, value, low, high, n (files with a value), of (files in all), rtf, peak_mb.

    And delta, delta_low, delta_high, delta_n: the mean paired difference to noisy. The files are the same at every SNR,
    see `complete`; NaN stands where none has the values.
    """
    beside = NOISY in set(table["method"])
    means = {(name, m): complete(table, m, name) for name in table["method"].unique() for m in metrics}
    gains = {key: paired(table, key[1], key[0]) if beside else values * math.nan for key, values in means.items()}
    rows: list[dict[str, Any]] = []
    for (snr, method), group in table.groupby(["snr_db", "method"], sort=False):
        for metric in metrics:
            mean, delta = (mean_of(part[str(method), metric], snr) for part in (means, gains))
            rows.append(
                {
                    "method": method, "snr_db": snr, "metric": metric, "value": mean.value, "low": mean.low,
                    "high": mean.high, "n": mean.n, "of": mean.n + mean.missing, "rtf": group["rtf"].mean(),
                    "peak_mb": group["peak_mb"].max(), "delta": delta.value, "delta_low": delta.low,
                    "delta_high": delta.high, "delta_n": delta.n,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def mean_of(values: pd.Series, snr_db: Any = None) -> Interval:
    """The mean over files of what `complete` gives, at one SNR or over all, and its interval.

    NaN where no file has a value, which must not stop a table.
    """
    at = values if snr_db is None else values[values.index.get_level_values("snr_db") == snr_db]
    by_file = at.groupby("file", sort=False).mean()
    if by_file.notna().any():
        return estimate(by_file)
    return Interval(math.nan, math.nan, math.nan, 0, missing=len(by_file), why="no file")


def overview(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """A row a method, over all SNRs: each measure and its difference to noisy with 95 % intervals, RTF, peak memory.

    A file counts if it has a value at every SNR; where some have not, '(n/of)' says how many do, '–' that none does.
    """
    rows = {}
    for method, group in table.groupby("method", sort=False):
        row: dict[str, Any] = {}
        for metric in metrics:
            row[metric] = _shown(complete(table, metric, str(method)))
            if method != NOISY and NOISY in set(table["method"]):
                row[f"Δ {metric}"] = _shown(paired(table, metric, str(method)))
        rows[method] = {**row, "RTF": f"{group['rtf'].mean():.4f}", "process peak MB": f"{group['peak_mb'].max():.0f}"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("–")


def _shown(values: pd.Series) -> str:
    """Mean and interval over files, each file's SNRs averaged, as people print it."""
    found = mean_of(values)
    return str(found) if found.n else "–"


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
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def save(path: str | os.PathLike[str], table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Write records and their provenance as JSON, whole or not at all; NaN becomes null."""
    rows = json.loads(table.to_json(orient="records", double_precision=6))
    with atomic_write(path) as part:
        part.write_text(json.dumps({**facts, "records": rows}, indent=1, default=str), "utf-8")


def keep(chapter: str, name: str, table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Leave a chapter's records in the build tree as `bench-NAME.json` while the book is built; else do nothing."""
    if build := os.environ.get("SEPRIORS_BUILD"):
        save(Path(build) / "records" / chapter / f"bench-{name}.json", table, facts)
