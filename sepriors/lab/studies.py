"""Studies: what a chapter measured beyond the bench, by a script beside it; kept and checked as records are.

`book/studies/NAME.py` has `parts(corpora)`, the names of its parts, and `measure(part, corpora)`, the rows of one; the
constants CARDS and SETS name the weights and the sets it needs. Its record is `records/studies/NAME.csv`.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock, Timeout

from sepriors import weights
from sepriors.lab import records
from sepriors.lab.bench import NOISY
from sepriors.lab.corpora import Corpora, CorpusError
from sepriors.lab.jobs import WorkerPool, as_completed
from sepriors.lab.records import Excerpt, Form, Record, RecordError
from sepriors.signal.mixing import Mixture

SET = "studies"  # the folder of their records, and what the command calls them
ROWS = Form(("part", "row"), "%.6g")
COSTS = ("snr_db", "rtf", "peak_mb", "seconds")  # of a row that are no results
TOLERANCE = 0.02  # of a number, beside that of its measure: how far it may be from its record on another processor


def folder() -> Path:
    """Where the scripts lie: `book/studies` beside the records."""
    return records.folder().parent / "book" / "studies"


def names() -> list[str]:
    """The studies there are."""
    return sorted(path.stem for path in folder().glob("*.py"))


@lru_cache
def load(name: str) -> ModuleType:
    """The script of a study; raises RecordError where there is none."""
    path = folder() / f"{name}.py"
    if not path.is_file():
        raise RecordError(f"no study {name!r}; there are {', '.join(names()) or 'none'}")
    spec = spec_from_file_location(f"studies.{name}", path)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def path_of(name: str, where: Path | None = None) -> Path:
    """The file of a study's record."""
    return records.path_of(SET, name, where)


def _needs(name: str) -> dict[str, Any]:
    """What a study's numbers depend on: its script, cards and sets."""
    script, known, sets = load(name), weights.cards(), records.sets()
    return {
        "script": hashlib.sha256((folder() / f"{name}.py").read_bytes()).hexdigest(),
        "cards": {card: known[card]["sha256"] for card in getattr(script, "CARDS", ())},
        "sets": {made: sets[made].sha256 for made in getattr(script, "SETS", ())},
    }


def state(name: str, where: Path | None = None) -> tuple[Record | None, str]:
    """A study's record and what is wrong with it, '' where nothing is; None where there is none that can be read."""
    path = path_of(name, where)
    if not path.is_file():
        return None, "missing"
    try:
        record = records.read(path, ROWS)
    except RecordError as error:
        return None, str(error)
    found = [f"its {key} was another" for key, value in _needs(name).items() if record.facts.get(key) != value]
    if record.facts.get("rows_sha256") != ROWS.sha256(record.rows):
        found.append("its rows are not as they were written")
    return record, "; ".join(found)


def known(name: str, where: Path | None = None) -> pd.DataFrame | None:
    """The rows of a study, or None where its record is missing or stale: a page then measures a few itself."""
    record, problem = state(name, where) if folder().is_dir() else (None, "no scripts here")
    return None if record is None or problem else record.rows.reset_index()


class Unit(NamedTuple):
    """A part of a study: what a worker measures at a time."""

    study: str
    part: str
    corpora: Corpora


def measure(unit: Unit) -> list[dict[str, Any]]:
    """The rows of a part, numbered, and the seconds that this process computed."""
    begun = time.process_time()
    rows = list(load(unit.study).measure(unit.part, unit.corpora))
    seconds = time.process_time() - begun
    return [{"part": unit.part, "row": i, **row, "seconds": seconds} for i, row in enumerate(rows)]


def record(name: str, corpora: Corpora, pool: WorkerPool, where: Path | None = None) -> Iterator[str]:
    """Measure what is missing of a study; yields the name of each part as it is done, and writes it at once.

    Resumes as `records.record` does. Raises RecordError where another process measures the same study.
    """
    path, script = path_of(name, where), load(name)
    begun = path.with_name(f"{name}.part.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"study": name, **_needs(name), **records.circumstances(pool)}
    try:
        with FileLock(f"{begun}.lock", timeout=0):
            rows = records.begun(begun, facts, tuple(_needs(name)), ROWS)
            done = {part for part, _ in rows}
            missing = (Unit(name, part, corpora) for part in script.parts(corpora) if part not in done)
            for unit, found in as_completed(pool, measure, missing):
                rows |= {(row["part"], row["row"]): row for row in found}
                records.write(begun, facts, _frame(rows), ROWS)
                yield unit.part
            records.write(path, facts, _frame(rows), ROWS)
            begun.unlink(missing_ok=True)
    except Timeout as error:
        raise RecordError(f"{path}: another process is measuring this study") from error


def _frame(rows: Mapping[Any, dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows.values()).set_index(list(ROWS.names))


def check(name: str, corpora: Corpora, parts: Iterable[str], where: Path | None = None) -> Iterator[records.Check]:
    """Measure some parts of a study again, and compare every number but costs."""
    recorded = records.read(path_of(name, where), ROWS).rows
    for part in parts:
        for row in measure(Unit(name, part, corpora)):
            was = recorded.loc[(part, row["row"])]
            for field, value in row.items():
                if isinstance(value, float) and field not in COSTS:
                    bound = records.TOLERANCE.get(field, TOLERANCE * max(1.0, abs(value)))
                    place = float(row.get("snr_db", row["row"]))
                    yield records.Check(SET, name, part, place, field, was[field], value, bound)


def spots(corpora: Corpora, seed: str, where: Path | None = None) -> Iterator[records.Spot | tuple[str, str]]:
    """A part of each study whose record is valid, drawn by `seed`, see `records.spots`."""
    for name in names():
        found, problem = state(name, where)
        if found is None or problem:
            continue
        place = f"{SET}/{name}"
        parts = records.drawn(found.rows.index.get_level_values("part"), 1, f"{seed} {place}")
        try:
            for made in getattr(load(name), "SETS", ()):
                _excerpts(made, corpora)
        except (CorpusError, RecordError) as error:
            yield place, str(error)
            continue
        yield records.Spot(place, 1 + float(found.rows["seconds"].mean()), partial(check, name, corpora, parts, where))


def overview(where: Path | None = None) -> pd.DataFrame:
    """Every study as `records.overview` has the records."""
    rows = []
    for name in names():
        found, problem = state(name, where)
        rows.append({"set": SET, "method": name, "rows": len(found.rows) if found else 0, "problem": problem})
    return pd.DataFrame(rows, columns=["set", "method", "rows", "problem"])


# ---------------------------------------------------------------------------- variants of methods on a set


@dataclass(frozen=True)
class OnSet:
    """Methods, or variants of them, on the first files of a set: `parts` and `measure` of a study.

    `methods` makes them by name; the noisy mixture stands beside them. One that makes a method from a mixture, as
    `OracleWiener.from_mixture` does, is given it.
    """

    set_name: str
    methods: Callable[[], Mapping[str, Any]]
    snrs: Sequence[float]
    metrics: Sequence[str]
    files: int | None = None

    def parts(self, corpora: Corpora) -> list[str]:
        """A method on a file at all SNRs."""
        keys = [excerpt.key for excerpt in _excerpts(self.set_name, corpora)[: self.files]]
        return [f"{method} | {key}" for method in (NOISY, *_made(self.methods)) for key in keys]

    def excerpt(self, part: str, corpora: Corpora) -> tuple[int, Excerpt]:
        """The file of a part, and its place in the set."""
        excerpts = _excerpts(self.set_name, corpora)
        place = [excerpt.key for excerpt in excerpts].index(part.split(" | ")[1])
        return place, excerpts[place]

    def measure(self, part: str, corpora: Corpora) -> list[dict[str, Any]]:
        """A row an SNR."""
        name, key = part.split(" | ")
        place, excerpt = self.excerpt(part, corpora)
        noisy, clean = excerpt.noisy[[excerpt.snrs.index(snr) for snr in self.snrs]], excerpt.clean
        method = None if name == NOISY else _made(self.methods)[name]
        if method is not None and not hasattr(method, "iterations"):  # it must be told the truth
            assert clean is not None
            method = method(Mixture(noisy, clean.expand_as(noisy), noisy - clean, 0.0, ()))
        speech = None if clean is None else clean.numpy()
        unit = records.Unit(name, key, tuple(self.snrs), noisy.numpy(), speech, place, tuple(self.metrics), "cpu")
        rows = records.measure_with(method, unit)
        return [{"method": name, **{("file" if k == "key" else k): v for k, v in row.items()}} for row in rows]


@lru_cache
def _made(methods: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    return methods()


_KEPT: dict[tuple[str, str], list[Excerpt]] = {}


def _excerpts(set_name: str, corpora: Corpora) -> list[Excerpt]:
    """The files of a set, made once a process."""
    key = set_name, str(corpora.root)
    if key not in _KEPT:
        _KEPT[key] = records.sets()[set_name].excerpts(corpora)
    return _KEPT[key]
