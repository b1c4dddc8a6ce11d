"""`sepriors bench`: methods over a bench set, as records and as a table."""

import argparse
import shutil
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from sepriors import methods, metrics
from sepriors.commands import device_name, names, require_free, worker_options, worker_pool
from sepriors.lab import bench, plots
from sepriors.lab.commands import bench_options, made_set
from sepriors.lab.corpora import open_corpora

ASKED = ("set", "domain", "split", "seconds", "seed")  # what the records say of the set


def options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--methods", default=",".join(methods.METHODS), help="comma-separated (default: all)")
    about = f"comma-separated, of {', '.join(metrics.METRICS)}"
    c.add_argument("--metrics", default="pesq_wb,stoi,estoi,si_sdr,fwsnrseg", help=about)
    bench_options(c, default="real")
    worker_options(c, "all cores; on a GPU 1, which takes files together")
    about = "also write the records, .json; while they are made they lie in FILE.parts, where a second call goes on"
    c.add_argument("-o", "--out", type=Path, metavar="FILE", help=about)
    c.add_argument("--force", action="store_true", help="overwrite the records")


def run(a: argparse.Namespace) -> None:
    measures = metrics.check_names(names(a.metrics))
    chosen = {name: name for name in names(a.methods)}
    for name in chosen:  # a wrong name, or weights that are missing, before any work is done
        methods.make(name)
    device = device_name(a.device, a.dask)
    if a.out:
        require_free([a.out], a.force)
    opened = open_corpora(a.corpus)
    made = made_set(opened, a)
    parts = a.out and a.out.with_name(f"{a.out.name}.parts")
    with (
        worker_pool(a, device, metrics.workers()) as workers,
        nullcontext() if workers.executor else metrics.pool() as executor,  # workers measure what they have made
    ):
        options = {"metrics": measures, "seed": a.seed, "device": device, "folder": parts, "executor": executor}
        rows = bench.run_parallel(workers, chosen, made, **options)
        total = len(made) * (len(chosen) + 1) * a.files
        table = bench.ordered(tqdm(rows, total=total, unit="file", disable=None))
    if a.out:  # before anything is printed, which may fail
        facts = {name: getattr(a, name) for name in ASKED}
        bench.save(a.out, table, bench.provenance(**facts, corpus=str(opened)))
        shutil.rmtree(parts)
    print(opened)
    print(plots.table(bench.summary(table, measures), measures).T.to_string())
    print("\nover all SNRs, with 95 % intervals; Δ is against noisy")
    print(bench.overview(table, measures).T.to_string())
