"""`sepriors records`: measure what is missing or stale of the records, show what there is, or check some again."""

import argparse

from tqdm import tqdm

from sepriors import metrics
from sepriors.commands import device_name, names, say, worker_options, worker_pool
from sepriors.lab import peers, records
from sepriors.lab.bench import commit
from sepriors.lab.commands import corpus_option
from sepriors.lab.corpora import open_corpora


def options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--set", help="comma-separated, of those in records/sets.toml (default: all)")
    c.add_argument("--methods", help="comma-separated (default: all that take part)")
    c.add_argument("--list", action="store_true", help="show what there is and what is wrong with it; measure nothing")
    c.add_argument("--check", type=int, metavar="N", help="measure N files of each record again, and compare")
    corpus_option(c)
    worker_options(c, "all cores, one thread each; on a GPU 1")


def run(a: argparse.Namespace) -> None:
    table = records.overview()
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
        made = records.sets()[str(name)]
        excerpts = made.excerpts(corpora)
        for method in rows["method"]:
            if method in peers.PEERS and method not in peers.available():
                say(f"{name}/{method}: left out, its package is not installed; pip install 'sepriors[peers]'")
                continue
            if a.check:
                _check(made, excerpts, method, a.check)
                continue
            with worker_pool(a, device_name(a.device, a.dask), metrics.workers()) as pool:
                work = records.record(made, excerpts, method, pool, device=device_name(a.device, a.dask))
                files = len(excerpts[: made.fewer.get(method)])
                for _ in tqdm(work, total=files, desc=f"{name}/{method}", unit="file", disable=None):
                    pass


def _check(made: records.RecordSet, excerpts: list[records.Excerpt], method: str, count: int) -> None:
    keys = records.drawn([e.key for e in excerpts], count, commit())
    found = list(records.check(made, excerpts, method, keys))
    wrong = [c for c in found if not c.agrees]
    print(f"{made.name}/{method}: {len(found) - len(wrong)} of {len(found)} numbers agree")
    for c in wrong:
        say(f"  {c.metric} at {c.snr_db:g} dB of {c.key}: {c.recorded:.4f} recorded, {c.measured:.4f} measured")
