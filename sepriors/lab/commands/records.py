"""`sepriors records`: measure what is missing or stale of the records, show what there is, or check some again."""

import argparse
from collections.abc import Iterable
from functools import partial

import pandas as pd
from tqdm import tqdm

from sepriors import metrics
from sepriors.commands import device_name, names, say, worker_options, worker_pool
from sepriors.lab import peers, records, studies
from sepriors.lab.bench import commit
from sepriors.lab.commands import corpus_option
from sepriors.lab.corpora import Corpora, open_corpora


def options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--set", help="comma-separated, of those in records/sets.toml, or studies (default: all)")
    c.add_argument("--methods", help="comma-separated, or names of studies (default: all that take part)")
    c.add_argument("--list", action="store_true", help="show what there is and what is wrong with it; measure nothing")
    c.add_argument("--check", type=int, metavar="N", help="measure N files of each record again, and compare")
    corpus_option(c)
    worker_options(c, "all cores, one thread each; on a GPU 1")


def run(a: argparse.Namespace) -> None:
    table = pd.concat([records.overview(), studies.overview()], ignore_index=True)
    for field, asked in (("set", a.set), ("method", a.methods)):
        if asked is not None:
            wanted = names(asked)
            if unknown := sorted(set(wanted) - set(table[field])):
                raise ValueError(f"unknown {field} {unknown[0]!r}; expected one of {', '.join(table[field].unique())}")
            table = table[table[field].isin(wanted)]
    if a.list:
        print(table.to_string(index=False))
        return
    corpora = open_corpora(a.corpus)
    table = table[table["problem"] == ""] if a.check else table[table["problem"] != ""]
    for name, rows in table.groupby("set", sort=False):
        of_set = _study if name == studies.SET else partial(_methods, records.sets()[str(name)])
        of_set(a, corpora, list(rows["method"]))


def _methods(made: records.RecordSet, a: argparse.Namespace, corpora: Corpora, wanted: list[str]) -> None:
    """Measure, or check, the records of some methods on a set."""
    excerpts = made.excerpts(corpora)
    for method in wanted:
        place = f"{made.name}/{method}"
        if method in peers.PEERS and method not in peers.available():
            say(f"{place}: left out, its package is not installed; pip install 'sepriors[peers]'")
        elif a.check:
            keys = records.drawn([e.key for e in excerpts[: made.fewer.get(method)]], a.check, commit())
            _report(place, records.check(made, excerpts, method, keys))
        else:
            device = device_name(a.device, a.dask)
            with worker_pool(a, device, metrics.workers()) as pool:
                work = records.record(made, excerpts, method, pool, device=device)
                _follow(place, work, len(excerpts[: made.fewer.get(method)]), "file")


def _study(a: argparse.Namespace, corpora: Corpora, wanted: list[str]) -> None:
    """Measure, or check, some studies."""
    for name in wanted:
        place, parts = f"{studies.SET}/{name}", studies.load(name).parts(corpora)
        if a.check:
            _report(place, studies.check(name, corpora, records.drawn(parts, a.check, commit())))
        else:
            with worker_pool(a, "cpu", metrics.workers()) as pool:
                _follow(place, studies.record(name, corpora, pool), len(parts), "part")


def _follow(place: str, work: Iterable[str], total: int, unit: str) -> None:
    for _ in tqdm(work, total=total, desc=place, unit=unit, disable=None):
        pass


def _report(place: str, checks: Iterable[records.Check]) -> None:
    found = list(checks)
    wrong = [c for c in found if not c.agrees]
    print(f"{place}: {len(found) - len(wrong)} of {len(found)} numbers agree")
    for c in wrong:
        say(f"  {c.metric} at {c.snr_db:g} dB of {c.key}: {c.recorded:.4f} recorded, {c.measured:.4f} measured")
