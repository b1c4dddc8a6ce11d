"""Run the notebooks of the book into a build tree, and measure what each costs.

    python -m tools.execute [--tree _build/tree] [--profile book] [--corpus auto] [--seed 0] [--jobs N] [--fresh] ...

A chapter whose notebook, package, weights, corpora, parameters and versions are those of its last run is not run again.
The tree receives the book's sources without the notebooks, the executed notebooks as they came (`runs/NAME.ipynb`) and
the facts of each run (`runs/NAME.json`); the chapters add audio (`book/_static/audio`) and records (`records/NAME`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import papermill
import psutil

from sepriors.lab.corpora.store import cache_dir
from tools import ROOT, chapters, commit, cores, timed

BUDGET = {"smoke": 60.0, "book": 300.0}  # seconds a chapter on two cores; the profile `paper` has none
HANGS = 7200.0  # seconds without a finished cell after which a run is taken to hang, on however slow a machine
MEMORY = 4e9  # bytes that a chapter may need; decides how many run at once
AUDIO = Path("_static/audio")  # below `book`, where the players' files lie
SAMPLE, REPORT = 0.25, 15.0  # seconds between two looks at the memory, between two lines of progress


class Failed(Exception):
    """A notebook that did not run to its end; the message says where and why."""


@dataclass(frozen=True)
class Job:
    """One notebook to run."""

    notebook: Path
    tree: Path
    profile: str
    parameters: dict[str, Any]
    threads: int

    @property
    def chapter(self) -> str:
        return self.notebook.stem

    @property
    def executed(self) -> Path:
        return self.tree / "runs" / f"{self.chapter}.ipynb"

    @property
    def record(self) -> Path:
        return self.tree / "runs" / f"{self.chapter}.json"


def mirror(source: Path, tree: Path, *, fresh: bool) -> None:
    """Copy what a page is made of, but for the notebooks, into the tree; of earlier runs, what they left stays.

    That is notebooks, facts, records and audio, and nothing at all where all is to be `fresh`.
    """
    audio = tree / "book" / AUDIO
    aside = tree / "audio"
    if fresh:
        shutil.rmtree(tree, ignore_errors=True)
    elif audio.exists():
        audio.rename(aside)
    shutil.rmtree(tree / "book", ignore_errors=True)
    skip = shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints", "__pycache__", "*.py")
    shutil.copytree(source / "book", tree / "book", ignore=skip, dirs_exist_ok=True)
    for name in ("_toc.yml", "_config.yml"):
        shutil.copy(source / name, tree)
    static = tree / "book" / "_static"
    shutil.copytree(ROOT / "sepriors" / "static", static, ignore=skip, dirs_exist_ok=True)
    mathjax = _package("sphinx-mathjax-offline") / "static" / "mathjax"
    extensions = Path("input/tex/extensions")  # what MathJax loads when a formula first asks for it
    shutil.copytree(mathjax / extensions, static / "mathjax" / extensions, dirs_exist_ok=True)
    shutil.copy(mathjax / "tex-svg.js", static / "mathjax")
    if aside.exists():
        aside.rename(audio)
    (tree / "runs").mkdir(exist_ok=True)


def prune(source: Path, tree: Path) -> None:
    """Remove what chapters left that the book no longer has, and audio that no executed notebook plays."""
    names = {path.stem for path in chapters(source)}
    for folder in (tree / "runs", tree / "records"):
        for path in folder.glob("*"):
            if path.name[:2].isdigit() and path.stem not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    heard = "".join(path.read_text("utf-8") for path in (tree / "runs").glob("*.ipynb"))
    for path in (tree / "book" / AUDIO).glob("*"):
        if path.name not in heard:
            path.unlink()


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected the package {name} (extra `book`); run `make env`")
    return Path(spec.origin).parent


def check_parameters(notebook: Path, wanted: set[str]) -> None:
    """ValueError if the notebook's parameters cell lacks one of the names: papermill itself would only inject it."""
    known = set(papermill.inspect_notebook(str(notebook)))
    if unknown := sorted(wanted - known):
        raise ValueError(f"{notebook.name}: expected parameters among {sorted(known)}, got {unknown}")


def run(job: Job) -> float:
    """Run one notebook in a process of its own, write the facts of the run beside it, and return its seconds.

    Raises Failed with the failing cell's source and traceback.
    """
    job.executed.unlink(missing_ok=True)
    job.record.unlink(missing_ok=True)
    shutil.rmtree(job.tree / "records" / job.chapter, ignore_errors=True)
    log = job.executed.with_suffix(".log")
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(job.notebook),
        str(job.executed),
        "--cwd",
        str(job.tree / "book"),
        "-k",
        "python3",
        "--no-progress-bar",
        "--log-level",
        "WARNING",
    ]
    for name, value in job.parameters.items():
        command += ["-r" if isinstance(value, str) else "-p", name, str(value)]
    start = time.monotonic()
    with log.open("w") as sink:
        process = psutil.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment(job))
        peak = _watch(job, process)
    seconds = time.monotonic() - start
    if process.returncode != 0:
        raise Failed(f"{job.chapter}: failed after {seconds:.0f} s\n{_failure(job.executed, log)}")
    facts = {
        "chapter": job.chapter,
        "profile": job.profile,
        **job.parameters,
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / 1e6),
        "threads": job.threads,
        **hardware(),
        "commit": commit(),
        "key": key(job),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    job.record.write_text(json.dumps(facts, indent=1))
    return seconds


def environment(job: Job) -> dict[str, str]:
    """What the kernel sees: the build tree, its share of the cores, and nothing of the user's own Jupyter."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("JUPYTER_PATH", "MPLBACKEND")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {
        "SEPRIORS_BUILD": str(job.tree),
        "OMP_NUM_THREADS": str(job.threads),
        "PYTHONPATH": path,
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(job.tree / "runs" / "ipython"),
    }
    if data := os.environ.get("SEPRIORS_DATA"):
        own["SEPRIORS_DATA"] = os.path.abspath(data)  # the kernel runs in another folder
    return timed(inherited) | own


def _watch(job: Job, process: psutil.Popen) -> int:
    """Wait for the run to end; print its progress and return the peak of its kernel's memory in bytes."""
    start = reported = moved = time.monotonic()
    peak, progress = 0, ""
    try:
        while True:
            try:
                process.wait(SAMPLE)
                return peak
            except psutil.TimeoutExpired:
                now = time.monotonic()
            peak = max(peak, _resident(process))
            if now - moved > HANGS:
                so_far = f"{progress}{now - start:.0f} s"
                raise Failed(f"{job.chapter}: stopped, no cell has ended for {HANGS:.0f} s: {so_far}")
            if now - reported > REPORT:
                reported, before = now, progress
                progress = _progress(job.executed)
                moved = now if progress != before else moved
                print(f"  {job.chapter}: {progress}{now - start:.0f} s, {peak / 1e9:.1f} GB", flush=True)
    finally:
        for survivor in [*_children(process), process]:
            if survivor.is_running():
                survivor.kill()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    """The memory of the kernel and the workers it started, in bytes; pages they share are counted for each."""
    total = 0
    for child in _children(process):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended between the two looks
    return total


def _progress(executed: Path) -> str:
    try:
        cells = [cell for cell in json.loads(executed.read_text())["cells"] if cell["cell_type"] == "code"]
    except (OSError, json.JSONDecodeError):
        return ""  # not there yet, or being written
    done = sum(cell["metadata"].get("papermill", {}).get("status") == "completed" for cell in cells)
    return f"{done} of {len(cells)} cells, "


def _failure(executed: Path, log: Path) -> str:
    """The failing cell's source and traceback, or the end of the log if the kernel died without one."""
    cells = json.loads(executed.read_text())["cells"] if executed.exists() else []
    for cell in cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                source = "    " + "".join(cell["source"]).replace("\n", "\n    ")
                traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output["traceback"]))
                return f"the cell\n{source}\nraised\n{traceback}"
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def key(job: Job) -> str:
    """A hash of all that a run depends on: notebook, package with its weights, parameters, corpora, versions."""
    digest = hashlib.sha256(job.notebook.read_bytes())
    for path in sorted((ROOT / "sepriors").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.name.encode() + path.read_bytes())
    versions = sorted(f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions())
    facts = [job.parameters, job.threads, corpora(), platform.python_version(), versions]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:16]


def corpora() -> list[tuple[str, int]]:
    """Name and size of every file of the corpora, and the manifests' hashes in place of their size."""
    root = Path(os.environ.get("SEPRIORS_DATA") or cache_dir() / "corpora")
    return [
        (str(path.relative_to(root)), zlib.crc32(path.read_bytes()) if path.suffix == ".csv" else path.stat().st_size)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]


def late(record: dict[str, Any]) -> str:
    """What is to be said of a run that took longer than its profile's budget; empty if it did not.

    >>> late({"chapter": "01-x", "profile": "smoke", "seconds": 61.2})
    '01-x: took 61 s; the budget of `smoke` is 60 s'
    """
    budget = BUDGET.get(record["profile"], float("inf"))
    if record["seconds"] <= budget:
        return ""
    return f"{record['chapter']}: took {record['seconds']:.0f} s; the budget of `{record['profile']}` is {budget:.0f} s"


def _is_done(job: Job) -> bool:
    return job.executed.exists() and job.record.exists() and json.loads(job.record.read_text())["key"] == key(job)


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GB, and the versions of Python and torch."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return {
        "cpu": model.group(1) if model else platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def jobs_at_once(notebooks: int, profile: str) -> int:
    """As there is memory for, with two cores each, since chapters measure their speed; with one in `smoke`."""
    each = 1 if profile == "smoke" else 2
    return max(1, min(notebooks, cores() // each, int(psutil.virtual_memory().available // MEMORY)))


def execute(
    source: Path, tree: Path, profile: str, parameters: dict[str, Any], *, jobs: int = 0, fresh: bool = False
) -> set[str]:
    """Run every notebook of the table of contents that changed, `jobs` at once (0: as many as fit), and say which.

    Raises ValueError for a parameter that a notebook does not know, Failed with every failure if some did not run.
    """
    notebooks, tree = chapters(source), tree.resolve()
    parameters = {"profile": profile, **parameters}
    for notebook in notebooks:
        check_parameters(notebook, set(parameters))
    mirror(source, tree, fresh=fresh)
    if not notebooks:
        return set()
    # Matplotlib announces on stderr, in the first notebook, that it builds its list of fonts.
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True, stderr=subprocess.DEVNULL)
    jobs = jobs or jobs_at_once(len(notebooks), profile)
    threads = max(1, cores() // jobs)
    todo = []
    for job in [Job(notebook, tree, profile, parameters, threads) for notebook in notebooks]:
        if _is_done(job):
            print(f"  {job.chapter}: unchanged, not run again", flush=True)
        else:
            todo.append(job)
    with ThreadPoolExecutor(jobs) as pool:
        failures = [message for message in pool.map(_attempt, todo) if message]
    if failures:
        raise Failed("\n\n".join(failures))
    prune(source, tree)
    return {job.chapter for job in todo}


def _attempt(job: Job) -> str:
    """Run the job and return what went wrong, or the empty string."""
    print(f"  {job.chapter}: profile {job.profile}, {job.threads} thread(s) …", flush=True)
    try:
        seconds = run(job)
    except Failed as failure:
        return str(failure)
    print(f"  {job.chapter}: done in {seconds:.0f} s", flush=True)
    return ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that tools.execute and tools.build share."""
    parser.add_argument("--source", type=Path, default=ROOT, help="folder with _toc.yml, _config.yml and book/")
    parser.add_argument("--profile", default="book", choices=["smoke", "book", "paper"])
    parser.add_argument("--corpus", default="auto", help="which corpus the chapters take (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--jobs", type=int, default=0, help="notebooks at once (default: as cores and memory allow)")
    parser.add_argument("--fresh", action="store_true", help="run all, also what has not changed since its last run")


def parameters_of(args: argparse.Namespace) -> dict[str, Any]:
    return {"corpus": args.corpus, "seed": args.seed, **dict(args.parameter)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks of the book into a build tree.")
    add_arguments(parser)
    parser.add_argument("--tree", type=Path, default=ROOT / "_build" / "tree")
    args = parser.parse_args(argv)
    try:
        execute(args.source, args.tree, args.profile, parameters_of(args), jobs=args.jobs, fresh=args.fresh)
    except (Failed, ValueError) as error:
        print(f"execute: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
