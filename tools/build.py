"""Build the book: execute, gate, post-process, badges, generated pages, HTML, and the gate again.

    python -m tools.build [--profile book] [--out .] [--fresh] ...

The tree goes to OUT/_build/tree, the pages to OUT/_build/html.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

from tools import ROOT, badges, chapters, gate, pages, repository
from tools.execute import Failed, add_arguments, execute, late, parameters_of
from tools.pages import read_verdicts
from tools.pages.ledger import unexplained
from tools.pages.run import read_runs
from tools.postprocess import lighten, make_accessible, make_offline, postprocess


class Refused(Exception):
    """The gate closed, Sphinx warned, or a chapter is late where that is an error; what was wrong has been printed."""


def build(source: Path, out: Path, args: argparse.Namespace) -> Path:
    """Build the book and return the folder of its pages.

    A chapter over its budget, and a claim that fails for a reason that nobody has written, are warnings; with STRICT=1
    in the environment the book is Refused, once all pages are built, for time only by the call that ran the chapter.
    Raises execute.Failed if a notebook fails, Refused if the gate refuses something, ValueError for a bad claim,
    parameter or notebook.
    """
    tree, html = out / "_build" / "tree", out / "_build" / "html"
    with step("execute"):
        ran = execute(source, tree, args.profile, parameters_of(args), jobs=args.jobs, fresh=args.fresh)
    with step("gate: notebooks"):
        refuse(gate.check_tree(source, tree))
    with step("badges and generated pages"):
        publish(source, tree)
        pages.write_pages(source, tree)
    with step("jupyter-book"):
        render(tree, out)
        make_offline(html)
        make_accessible(html)
        lighten(html)
    with step("gate: pages"):
        refuse(gate.check_pages(html))
    runs = read_runs(tree, [path.stem for path in chapters(source)])
    slow = {run["chapter"]: said for run in runs if (said := late(run))}
    for said in slow.values():
        print(f"[book] late: {said}", flush=True)
    judged = [verdict for record in read_verdicts(tree).values() for verdict in record["verdicts"]]
    bare = [f"claim {id} fails, and no reason has been written" for id in unexplained(judged)]
    for said in bare:
        print(f"[book] {said}", flush=True)
    if os.environ.get("STRICT") == "1" and (wrong := [slow[chapter] for chapter in sorted(slow.keys() & ran)] + bare):
        raise Refused(f"STRICT=1: {'; '.join(wrong)}")
    return html


def publish(source: Path, tree: Path) -> None:
    """Turn each executed notebook into the one a page shows and offers for download."""
    for path in chapters(source):
        record = json.loads((tree / "runs" / f"{path.stem}.json").read_text())
        notebook = nbformat.read(tree / "runs" / f"{path.stem}.ipynb", as_version=4)
        badges.insert(notebook, record, repository())
        nbformat.write(postprocess(notebook, record["profile"], tree), tree / "book" / path.name)


def render(tree: Path, out: Path) -> None:
    """Build the pages from nothing, every warning an error; the log is printed if there is one."""
    shutil.rmtree(out / "_build" / "html", ignore_errors=True)
    shutil.rmtree(out / "_build" / ".doctrees", ignore_errors=True)
    program = Path(sys.executable).parent / "jupyter-book"
    command = [str(program), "build", str(tree), "--path-output", str(out), "-n", "-W", "--keep-going"]
    with (out / "_build" / "jupyter-book.log").open("w+") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        log.seek(0)
        if status:
            print(log.read(), file=sys.stderr)
            raise Refused(f"jupyter-book: status {status}")


def refuse(refusals: list[gate.Refusal]) -> None:
    if refusals:
        gate.report(refusals)
        raise Refused(f"the gate refuses the book for {len(refusals)} reason(s)")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what begins and how long it took."""
    print(f"[book] {name} …", flush=True)
    start = time.monotonic()
    yield
    print(f"[book] {name}: {time.monotonic() - start:.1f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the book.")
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=ROOT, help="holds _build/tree and _build/html afterwards")
    args = parser.parse_args(argv)
    start = time.monotonic()
    try:
        html = build(args.source.resolve(), args.out.resolve(), args)
    except (Failed, Refused, ValueError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    print(f"[book] all: {time.monotonic() - start:.1f} s")
    print(f"[book] open {(html / 'index.html').as_uri()} or run `make serve`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
