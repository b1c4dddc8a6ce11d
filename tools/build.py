"""Build the book: execute, gate, post-process, badges, generated pages, HTML, and the gate again.

    python -m tools.build [--profile book] [--out .] [--fresh] ...

The tree goes to OUT/_build/tree, the pages to OUT/_build/html.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pandas as pd

from sepriors.lab import records, studies
from sepriors.lab.bench import commit
from sepriors.lab.corpora import open_corpora
from tools import ROOT, badges, chapters, gate, pages, repository
from tools.execute import Failed, execute, late
from tools.pages import read_verdicts
from tools.pages.ledger import unexplained
from tools.pages.run import read_runs
from tools.postprocess import mend, postprocess


class Refused(Exception):
    """The gate closed, Sphinx warned, or a chapter is late where that is an error; the message says all of it."""


def build(source: Path, out: Path, args: argparse.Namespace) -> Path:
    """Build the book and return the folder of its pages.

    A chapter over its budget, and a claim that fails for a reason that nobody has written, are warnings; with STRICT=1
    in the environment the book is Refused, once all pages are built, for time only by the call that ran the chapter.
    Raises execute.Failed if a notebook fails, Refused if the gate refuses something, ValueError for a bad claim,
    parameter or notebook.
    """
    tree, html = out / "_build" / "tree", out / "_build" / "html"
    parameters = {"corpus": args.corpus, "seed": args.seed, **dict(args.parameter)}
    with step("execute"):
        ran = execute(source, tree, args.profile, parameters, jobs=args.jobs, fresh=args.fresh)
    with step("gate: notebooks"):
        refuse(gate.check_tree(source, tree))
    with step("spot checks of the records"):
        wrong = spot_checks(source, tree, args)
    with step("badges and generated pages"):
        publish(source, tree)
        pages.write_pages(source, tree)
    with step("jupyter-book"):
        render(tree, out)
        mend(html)
    with step("gate: pages"):
        refuse(gate.check_pages(html))
    runs = read_runs(tree, [path.stem for path in chapters(source)])
    slow = {run["chapter"]: f"late: {said}" for run in runs if (said := late(run))}
    judged = [verdict for record in read_verdicts(tree).values() for verdict in record["verdicts"]]
    bare = [f"claim {id} fails, and no reason has been written" for id in unexplained(judged)]
    for said in [*wrong, *slow.values(), *bare]:
        print(f"[book] {said}", flush=True)
    if os.environ.get("CI") and wrong:
        raise Refused("; ".join(wrong))
    if os.environ.get("STRICT") == "1" and (wrong := [slow[chapter] for chapter in sorted(slow.keys() & ran)] + bare):
        raise Refused(f"STRICT=1: {'; '.join(wrong)}")
    return html


CHECKING = 120.0  # seconds that a build spends on measuring records again


def spot_checks(source: Path, tree: Path, args: argparse.Namespace) -> list[str]:
    """Measure some rows of the records again and write `records/checks.json`; returns what disagrees or is stale.

    A smoke run, and one without the corpora of the records, checks none, and the page says so.
    """
    where = source / "records"
    spots, known = records.Spots([], {}), []
    if where.is_dir():
        known = pd.concat([records.overview(where), studies.overview(where)]).to_dict("records")
        if args.profile != "smoke":
            corpora, seed = open_corpora(args.corpus), commit()
            found = [*records.spots(corpora, seed, where), *studies.spots(corpora, seed, where)]
            spots = records.spot_checks(found, seed, CHECKING)
    stale = {f"{row['set']}/{row['method']}": row["problem"] for row in known if row["problem"] not in ("", "missing")}
    checks = [{**check._asdict(), "agrees": check.agrees} for check in spots.checks]
    (tree / "records").mkdir(parents=True, exist_ok=True)
    (tree / "records" / "checks.json").write_text(
        json.dumps({"checks": checks, "left_out": spots.left_out, "stale": stale}, default=float)
    )
    said = [f"record {place} is stale: {why}" for place, why in stale.items()]
    return said + [
        f"record {c.set}/{c.method}: {c.metric} of {c.key} at {c.snr_db:g} dB is {c.measured:.4f}, not {c.recorded:.4f}"
        for c in spots.checks
        if not c.agrees
    ]


def publish(source: Path, tree: Path) -> None:
    """Turn each executed notebook into the one a page shows and offers for download."""
    for path in chapters(source):
        record = json.loads((tree / "runs" / f"{path.stem}.json").read_text())
        notebook = nbformat.read(tree / "runs" / f"{path.stem}.ipynb", as_version=4)
        badges.insert(notebook, record, repository())
        nbformat.write(postprocess(notebook, record["profile"], tree), tree / "book" / path.name)


def render(tree: Path, out: Path) -> None:
    """Build the pages from nothing, every warning an error: raises Refused with the log."""
    for name in ("html", ".doctrees"):
        shutil.rmtree(out / "_build" / name, ignore_errors=True)
    program = Path(sys.executable).parent / "jupyter-book"
    command = [str(program), "build", str(tree), "--path-output", str(out), "-n", "-W", "--keep-going"]
    log = out / "_build" / "jupyter-book.log"
    with log.open("w") as sink:
        status = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise Refused(f"jupyter-book: status {status}\n{log.read_text()}")


def refuse(refusals: Iterable[gate.Refusal]) -> None:
    """Raises Refused, with every refusal on a line, if there is one."""
    if lines := [f"\n  {refusal}" for refusal in refusals]:
        raise Refused(f"the gate refuses the book for {len(lines)} reason(s){''.join(lines)}")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what begins and how long it took."""
    print(f"[book] {name} …", flush=True)
    start = time.monotonic()
    yield
    print(f"[book] {name}: {time.monotonic() - start:.1f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("--source", type=Path, default=ROOT, help="folder with _toc.yml, _config.yml and book/")
    parser.add_argument("--out", type=Path, default=ROOT, help="holds _build/tree and _build/html afterwards")
    parser.add_argument("--profile", default="book", choices=["smoke", "book", "paper"])
    parser.add_argument("--corpus", default="auto", help="which corpus the chapters take (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--jobs", type=int, default=0, help="notebooks at once (default: as cores and memory allow)")
    parser.add_argument("--fresh", action="store_true", help="run all, also what has not changed since its last run")
    args = parser.parse_args(argv)
    try:
        with step("all"):
            html = build(args.source.resolve(), args.out.resolve(), args)
    except (Failed, Refused, ValueError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    print(f"[book] open {(html / 'index.html').as_uri()} or run `make serve`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
