"""Records: what was measured once, at full size, kept in git as text, and checked by every build.

A record is the rows of one method on one set: `records/SET/METHOD.csv`, a row a mixture, and above them, as TOML behind
'# ', what they depend on. It is valid while its set, its cards and its settings are the present ones, its rows are as
they were written, and measuring some of them again gives the same numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import random
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from sepriors import methods, weights
from sepriors.files import atomic_write
from sepriors.lab import peers
from sepriors.lab.bench import NOISY, PACKAGES, commit, provenance
from sepriors.lab.corpora import Corpora, CorpusError, bench_set
from sepriors.lab.jobs import WorkerPool, as_completed
from sepriors.metrics import CLEAN_FREE, METRICS, score_many
from sepriors.running import enhance

# How far a number may be from its record on another processor, which rounds differently
TOLERANCE = {"si_sdr": 0.05, "fwsnrseg": 0.05, "stoi": 0.002, "estoi": 0.002} | dict.fromkeys(
    ("pesq_wb", "pesq_nb", "pesq_raw", "csig", "cbak", "covl", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovr"), 0.02
)


class RecordError(ValueError):
    """A record, or a set of them, that is not what it should be."""


@dataclass(frozen=True)
class RecordSet:
    """A set of `sets.toml`: how its mixtures are made, and the hash of what they are made of."""

    name: str
    kind: str  # 'real' and 'white', see `corpora.bench_set`; 'pairs' as they were recorded; 'far-field' without speech
    title: str = ""
    of: str = ""  # another set, whose first files it takes, at some of its SNRs, cut to its own length
    domain: str = "matched"
    files: int = 44
    seconds: float = 6.0
    snrs: tuple[float, ...] = (-5.0, 0.0, 5.0)
    split: str = "test"
    seed: int = 0
    metrics: tuple[str, ...] = ()  # none: all that the set allows
    methods: tuple[str, ...] = ()  # who takes part; none: all but those that know white noise alone
    fewer: dict[str, int] = field(default_factory=dict)  # methods that take so many of its files alone, being slow
    wider: dict[str, float] = field(default_factory=dict)  # methods whose tolerance is so many times as wide
    sha256: str = ""

    @property
    def measures(self) -> tuple[str, ...]:
        """What is measured on it."""
        return self.metrics or (CLEAN_FREE if self.kind == "far-field" else tuple(METRICS))

    @property
    def takes(self) -> list[str]:
        """Who takes part, the noisy mixture itself first."""
        ours = (name for name, entry in methods.METHODS.items() if "white noise only" not in entry.about)
        return [NOISY, *(self.methods or (*ours, *peers.PEERS))]

    def excerpts(self, corpora: Corpora) -> list[Excerpt]:
        """Its files; raises RecordError where the corpora make others than the hash says."""
        made = list(self._excerpts(corpora))
        if self.sha256 and (found := digest(made)) != self.sha256:
            raise RecordError(f"set {self.name}: expected excerpts of hash {self.sha256[:12]}, got {found[:12]}")
        return made

    def _excerpts(self, corpora: Corpora) -> Iterator[Excerpt]:
        def paths(kind: str) -> list[tuple[str, str]]:
            rows = corpora.select(kind=kind, split=self.split)
            who = [speaker or corpus for speaker, corpus in zip(rows["speaker"], rows["corpus"], strict=True)]
            return list(zip(who, rows["path"], strict=True))

        if self.of:
            for key, snrs, noisy, clean in sets()[self.of].excerpts(corpora)[: self.files]:
                at, length = [snrs.index(snr) for snr in self.snrs], round(self.seconds * 16000)
                yield Excerpt(key, self.snrs, noisy[at, :length], None if clean is None else clean[:length])
        elif self.kind == "far-field":
            for speaker, path in paths("real"):
                yield Excerpt(f"{speaker}/{path}", (0.0,), corpora.read(path)[None], None)
        elif self.kind == "pairs":
            clean_path = {Path(path).name: path for _, path in paths("pair-clean")}
            for speaker, path in paths("pair-noisy"):
                speech = corpora.read(clean_path[Path(path).name])
                yield Excerpt(f"{speaker}/{path}", (0.0,), corpora.read(path)[None], speech)
        else:
            sets_at = bench_set(
                corpora, self.kind, domain=self.domain, files=self.files, seconds=self.seconds, snrs=self.snrs,
                split=self.split, seed=self.seed,
            )  # fmt: skip
            for i, key in enumerate(sets_at[0].key):
                yield Excerpt(key, self.snrs, torch.stack([m.noisy[i] for m in sets_at]), sets_at[0].clean[i])


class Excerpt(NamedTuple):
    """A file of a set: noisy (SNRs, N), and its clean speech (N,) where that is known.

    What was recorded as it is has one SNR, which nobody knows: 0 stands for it.
    """

    key: str
    snrs: tuple[float, ...]
    noisy: torch.Tensor
    clean: torch.Tensor | None


def digest(excerpts: Sequence[Excerpt]) -> str:
    """What a set is made of: keys, SNRs, and the level of each tenth of a second to a decibel, equal everywhere."""
    found = hashlib.sha256()
    for key, snrs, noisy, _ in excerpts:
        power = noisy.double().unfold(-1, 1600, 1600).square().mean(-1).clamp_min(1e-9)
        found.update(repr((key, snrs, noisy.shape[-1])).encode())
        found.update((10 * power.log10()).floor().to(torch.int16).numpy().tobytes())
    return found.hexdigest()


def folder() -> Path:
    """Where the records lie: SEPRIORS_RECORDS, or `records` beside the package in a checkout."""
    return Path(os.environ.get("SEPRIORS_RECORDS") or Path(__file__).parents[2] / "records")


@lru_cache
def sets(where: Path | None = None) -> dict[str, RecordSet]:
    """The sets of `sets.toml`, by name."""
    path = (where or folder()) / "sets.toml"
    try:
        content = tomllib.loads(path.read_text("utf-8"))
        return {name: RecordSet(name, **_tuples(facts)) for name, facts in content.items()}
    except (OSError, ValueError, TypeError) as error:
        raise RecordError(f"{path}: expected sets in TOML, got {error}") from error


def _tuples(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}


# ---------------------------------------------------------------------------- what a method is


def make(name: str) -> Any:
    """The method of a record: one of ours, what people use today, or None for the noisy mixture itself."""
    if name == NOISY:
        return None
    return peers.PEERS[name]() if name in peers.PEERS else methods.make(name)


def cards_of(name: str) -> dict[str, str]:
    """The sha256 of each card that a method needs."""
    known = weights.cards()
    return {card: known[card]["sha256"] for card in methods.METHODS[name].cards} if name in methods.METHODS else {}


def settings(value: Any) -> str:
    """A method's choices in one line; of networks and tensors, what kind they are: their cards say the rest."""
    if isinstance(value, torch.nn.Module):
        return type(value).__name__
    if isinstance(value, torch.Tensor):
        return f"Tensor{tuple(value.shape)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "running")
        return f"{type(value).__name__}({', '.join(f'{k}={settings(v)}' for k, v in fields)})"
    if isinstance(value, tuple):
        named = zip(getattr(value, "_fields", [""] * len(value)), value, strict=True)
        inner = ", ".join(f"{k}={settings(v)}" if k else settings(v) for k, v in named)
        return f"{type(value).__name__ if hasattr(value, '_fields') else ''}({inner})"
    if isinstance(value, partial):
        return settings((value.func.__name__, *value.args, *value.keywords.items()))
    return getattr(value, "__qualname__", None) or repr(value)


# ---------------------------------------------------------------------------- a record and its file


class Record(NamedTuple):
    """The rows of one method on one set, and what they depend on."""

    facts: dict[str, Any]
    rows: pd.DataFrame

    def problems(self, made: RecordSet, name: str) -> list[str]:
        """Why the record is stale, a reason each; none where it is valid as far as reading can tell."""
        if name != NOISY and name not in {*methods.METHODS, *peers.PEERS}:
            return [f"there is no method {name} any more"]
        found = []
        if self.facts.get("set_sha256") != made.sha256:
            found.append(f"its set {made.name} was another")
        for card, sha256 in cards_of(name).items():
            if self.facts.get("cards", {}).get(card) != sha256:
                found.append(f"the card {card} is another")
        if name in methods.METHODS and self.facts.get("settings") != settings(make(name)):
            found.append("the method's settings were others")
        if self.facts.get("rows_sha256") != MIXTURES.sha256(self.rows):
            found.append("its rows are not as they were written")
        return found


def path_of(set_name: str, method: str, where: Path | None = None) -> Path:
    """The file of a record."""
    return (where or folder()) / set_name / f"{method}.csv"


class Form(NamedTuple):
    """How rows lie in a file: what names them, and how their numbers are written."""

    names: tuple[str, str]
    number: str

    def text(self, rows: pd.DataFrame) -> str:
        """The rows as CSV; of what was read from one, the same again."""
        return rows.sort_index().to_csv(float_format=self.number, lineterminator="\n")

    def sha256(self, rows: pd.DataFrame) -> str:
        """Their hash."""
        return hashlib.sha256(self.text(rows).encode()).hexdigest()


MIXTURES = Form(("key", "snr_db"), "%.4f")


def read(path: Path, form: Form = MIXTURES) -> Record:
    """A record, or the part of one that is being measured; raises RecordError for a file that is none."""
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: expected a record, got {error}") from error
    if mark := re.search(r"^(<{7}|={7}|>{7})", text, re.MULTILINE):
        raise RecordError(f"{path}: expected a record, got one in conflict ({mark[0]}); measure it again: make records")
    head = [line for line in text.splitlines() if line.startswith("# ")]
    try:
        facts = tomllib.loads("\n".join(line[2:] for line in head))
        body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# "))
        rows = pd.read_csv(io.StringIO(body), dtype={form.names[0]: str, "why": str})
        if "why" in rows:
            rows["why"] = rows["why"].fillna("")
        return Record(facts, rows.set_index(list(form.names)).sort_index())
    except (ValueError, KeyError) as error:
        raise RecordError(f"{path}: expected a header and rows, got {error}") from error


def _header(facts: dict[str, Any]) -> str:
    def toml(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f'"{k}" = {toml(v)}' for k, v in value.items()) + "}"
        return json.dumps(value, ensure_ascii=False)  # texts, numbers and truth values are written alike in both

    return "".join(f"# {key} = {toml(value)}\n" for key, value in facts.items())


def write(path: Path, facts: dict[str, Any], rows: pd.DataFrame, form: Form = MIXTURES) -> None:
    """Write a record whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(_header({**facts, "rows_sha256": form.sha256(rows)}) + form.text(rows), "utf-8")


def state(made: RecordSet, name: str, where: Path | None = None) -> tuple[Record | None, str]:
    """A record and what is wrong with it, '' where nothing is; None where there is none that can be read."""
    path = path_of(made.name, name, where)
    if not path.is_file():
        return None, "missing"
    try:
        record = read(path)
    except RecordError as error:
        return None, str(error)
    return record, "; ".join(record.problems(made, name))


def _rows_of(name: str, record: Record) -> pd.DataFrame:
    """The rows of a record as `bench` knows them."""
    return record.rows.reset_index().rename(columns={"key": "file"}).assign(method=name)


def table(set_name: str, names: Iterable[str], where: Path | None = None) -> pd.DataFrame:
    """The records of some methods as `bench` knows them: method, snr_db, file, the measures, rtf, peak_mb, why.

    Raises RecordError for a record that is missing or stale: it judges nothing.
    """
    made, frames = sets(where)[set_name], []
    for name in names:
        record, problem = state(made, name, where)
        if record is None or problem:
            raise RecordError(f"{path_of(set_name, name, where)}: stale, {problem}; measure it: make records")
        frames.append(_rows_of(name, record))
    return pd.concat(frames, ignore_index=True)


def known(set_name: str, names: Iterable[str], where: Path | None = None) -> pd.DataFrame | None:
    """The table of some methods beside the noisy mixture, or None where one is missing or stale, or none are kept here.

    For a page, which then measures a few files itself.
    """
    try:
        return table(set_name, [NOISY, *names], where)
    except (RecordError, KeyError):
        return None


def valid(set_name: str, where: Path | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table of the records of a set that are valid, and of the others what is wrong, by method."""
    made = sets(where)[set_name]
    read_now = {name: state(made, name, where) for name in made.takes}
    frames = [_rows_of(name, record) for name, (record, problem) in read_now.items() if record and not problem]
    problems = {name: problem for name, (_, problem) in read_now.items() if problem}
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), problems


# ---------------------------------------------------------------------------- measuring


class Unit(NamedTuple):
    """An excerpt at all its SNRs, for one method: what a worker measures at a time; arrays travel well."""

    method: str
    key: str
    snrs: tuple[float, ...]
    noisy: np.ndarray  # (SNRs, N)
    clean: np.ndarray | None
    seed: int
    metrics: tuple[str, ...]
    device: str


def units(made: RecordSet, excerpts: Sequence[Excerpt], method: str, device: str = "cpu") -> Iterator[Unit]:
    """The work of a record, file by file; each file has a seed of its own."""
    for i, (key, snrs, noisy, clean) in enumerate(excerpts[: made.fewer.get(method)]):
        speech = None if clean is None else clean.numpy()
        yield Unit(method, key, snrs, noisy.numpy(), speech, made.seed + i, made.measures, device)


@lru_cache(maxsize=2)
def _cached(name: str) -> Any:
    return make(name)


def measure(unit: Unit) -> list[dict[str, Any]]:
    """The rows of a unit by the method of its name."""
    return measure_with(_cached(unit.method), unit)


def measure_with(method: Any, unit: Unit) -> list[dict[str, Any]]:
    """The rows of a unit by a method, or a variant of one: every measure, and the real-time factor.

    On a CPU that counts the seconds that this process computed, so that a busy machine has the cost of an idle one.
    """
    noisy = torch.from_numpy(unit.noisy).to(unit.device)
    clock = time.process_time if unit.device == "cpu" else time.perf_counter
    begun = clock()
    estimate = noisy if method is None else enhance(noisy, method, unit.seed)
    rtf = (clock() - begun) / (noisy.numel() / 16000) if method is not None else 0.0
    pairs = ((unit.clean, x) for x in estimate.cpu().numpy())
    return [
        {
            "key": unit.key, "snr_db": snr, **s.values, "rtf": rtf, "peak_mb": _peak_mb(), "why": s.why,
        }
        for snr, s in zip(unit.snrs, score_many(pairs, 16000, unit.metrics), strict=True)
    ]  # fmt: skip


def _peak_mb() -> float:
    """The greatest resident memory of this process so far, MB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def record(
    made: RecordSet, excerpts: Sequence[Excerpt], method: str, pool: WorkerPool, *, device: str = "cpu",
    where: Path | None = None,
) -> Iterator[str]:  # fmt: skip
    """Measure what is missing of a record; yields the key of each file as it is done, and writes it at once.

    Rows lie in METHOD.part.csv until all are there, from where another call goes on. Raises RecordError where another
    process measures the same record.
    """
    path = path_of(made.name, method, where)
    part = path.with_name(f"{method}.part.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{part}.lock", timeout=0):
            facts = _facts(made, method, pool, device)
            rows = begun(part, facts, SAME)
            missing = (u for u in units(made, excerpts, method, device) if (u.key, u.snrs[0]) not in rows)
            for unit, found in as_completed(pool, measure, missing):
                rows |= {(row["key"], row["snr_db"]): row for row in found}
                write(part, facts, _frame(rows.values()))
                yield unit.key
            write(path, facts, _frame(rows.values()))
            part.unlink(missing_ok=True)
    except Timeout as error:
        raise RecordError(f"{path}: another process is measuring this record") from error


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index(["key", "snr_db"])


def _facts(made: RecordSet, method: str, pool: WorkerPool, device: str) -> dict[str, Any]:
    ours = method in methods.METHODS
    return {
        "set": made.name, "set_sha256": made.sha256, "method": method, "cards": cards_of(method),
        "settings": settings(make(method)) if ours else "", "device": device, **circumstances(pool),
    }  # fmt: skip


def circumstances(pool: WorkerPool) -> dict[str, Any]:
    """What the numbers of a record should not depend on, and may: code, processor, threads, packages, date."""
    here = provenance()
    return {
        "sepriors": f"{version('sepriors')}, commit {commit()}", "cpu": here["hardware"]["cpu"],
        "processes": pool.size(), "threads": torch.get_num_threads(),
        "versions": {p: here["versions"][p] for p in PACKAGES}, "finished": here["finished"],
    }  # fmt: skip


SAME = ("set_sha256", "cards", "settings")  # what makes rows of two calls those of one record


def begun(
    part: Path, facts: dict[str, Any], same: Sequence[str], form: Form = MIXTURES
) -> dict[tuple[Any, Any], dict[str, Any]]:
    """The rows that an earlier call has left, if they are of the same record."""
    if not part.is_file():
        return {}
    found = read(part, form)
    if any(found.facts.get(name) != facts[name] for name in same):
        return {}
    rows: list[dict[str, Any]] = found.rows.reset_index().to_dict("records")  # type: ignore[assignment]
    first, second = form.names
    return {(row[first], row[second]): row for row in rows}


# ---------------------------------------------------------------------------- checking


class Check(NamedTuple):
    """A number of a record beside the same one measured now."""

    set: str
    method: str
    key: str
    snr_db: float
    metric: str
    recorded: float
    measured: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        both = np.isnan(self.recorded) and np.isnan(self.measured)
        return bool(both or abs(self.recorded - self.measured) <= self.tolerance)


def drawn(keys: Iterable[str], count: int, seed: str) -> list[str]:
    """Some of the files, drawn by a text such as the commit, so that over time all are visited."""
    known = sorted(set(keys))
    return sorted(random.Random(seed).sample(known, min(count, len(known))))


def check(
    made: RecordSet, excerpts: Sequence[Excerpt], name: str, keys: Iterable[str], where: Path | None = None
) -> Iterator[Check]:
    """Measure some files of a record again, each at one of its SNRs that its place decides, and compare."""
    recorded, wanted = read(path_of(made.name, name, where)).rows, set(keys)
    for i, unit in enumerate(units(made, excerpts, name)):
        if unit.key in wanted:
            k = i % len(unit.snrs)
            (row,) = measure(unit._replace(snrs=unit.snrs[k : k + 1], noisy=unit.noisy[k : k + 1]))
            was = recorded.loc[(row["key"], row["snr_db"])]
            for metric in made.measures:
                if metric not in recorded:  # a measure that is younger than the record
                    continue
                bound = TOLERANCE[metric] * made.wider.get(name, 1.0)
                yield Check(made.name, name, unit.key, row["snr_db"], metric, was[metric], row[metric], bound)


class Spots(NamedTuple):
    """What a build has measured again, and why it left out the rest, by 'SET/METHOD'."""

    checks: list[Check]
    left_out: dict[str, str]


class Spot(NamedTuple):
    """What could be measured again: its place, 'SET/METHOD', about how many seconds it takes, and how."""

    place: str
    seconds: float
    check: Callable[[], Iterable[Check]]


def spots(corpora: Corpora, seed: str, where: Path | None = None) -> Iterator[Spot | tuple[str, str]]:
    """A file of each valid record, drawn by `seed`; or its place, and why it cannot be measured here."""
    for made in sets(where).values():
        states = ((name, *state(made, name, where)) for name in made.takes)
        valid_here = [(name, record) for name, record, problem in states if record and not problem]
        if not valid_here:
            continue
        try:
            excerpts = made.excerpts(corpora)
        except (CorpusError, RecordError) as error:
            yield from ((f"{made.name}/{name}", str(error)) for name, _ in valid_here)
            continue
        for name, record in valid_here:
            place = f"{made.name}/{name}"
            keys = drawn((e.key for e in excerpts[: made.fewer.get(name)]), 1, f"{seed} {place}")
            if name in peers.PEERS and name not in peers.available():
                yield place, "its package is not installed"
            else:
                cost = 2 + made.seconds * float(record.rows["rtf"].mean())  # two seconds for its measures
                yield Spot(place, cost, partial(check, made, excerpts, name, keys, where))


def spot_checks(found: Iterable[Spot | tuple[str, str]], seed: str, seconds: float) -> Spots:
    """Measure again what there is time for; the order is drawn, so that over time all are checked."""
    begun_at, done, ready = time.monotonic(), Spots([], {}), list(found)
    random.Random(seed).shuffle(ready)
    for spot in ready:
        if not isinstance(spot, Spot):
            done.left_out[spot[0]] = spot[1]
        elif time.monotonic() - begun_at + spot.seconds > seconds:
            done.left_out[spot.place] = "no time"
        else:
            done.checks.extend(spot.check())
    return done


def overview(where: Path | None = None) -> pd.DataFrame:
    """Every record there should be: set, method, rows, and what is wrong with it ('' where nothing is)."""
    rows = []
    for made in sets(where).values():
        for name in made.takes:
            record, problem = state(made, name, where)
            rows.append(
                {"set": made.name, "method": name, "rows": len(record.rows) if record else 0, "problem": problem}
            )
    return pd.DataFrame(rows)
