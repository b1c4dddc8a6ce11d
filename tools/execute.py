"""Run the notebooks of the book into a build tree, and measure what each costs.

A chapter whose notebook, package, weights, corpora, parameters and versions are those of its last run is not run again.
The tree receives the book's sources without the notebooks, the executed notebooks as they came (`runs/NAME.ipynb`) and
the facts of each run (`runs/NAME.json`); the chapters add audio (`book/_static/audio`) and records (`records/NAME`).
"""

import hashlib
import importlib.metadata
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import papermill
import psutil

from sepriors.lab import records, studies
from sepriors.lab.bench import provenance
from sepriors.lab.corpora.store import cache_dir
from tools import ROOT, chapters, commit, cores, timed

BUDGET = {"smoke": 60.0, "book": 300.0}  # seconds a chapter on two cores; the profile `paper` has none
HANGS = 7200  # seconds that a cell may take, on however slow a machine
MEMORY = 4e9  # bytes that a chapter may need; decides how many run at once
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
        return self.tree / "runs" / self.notebook.name

    @property
    def record(self) -> Path:
        return self.executed.with_suffix(".json")


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
    # Matplotlib announces on stderr, in the first notebook, that it builds its list of fonts.
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True, stderr=subprocess.DEVNULL)
    jobs = jobs or jobs_at_once(len(notebooks), profile)
    threads = max(1, cores() // jobs)
    planned = [Job(notebook, tree, profile, parameters, threads) for notebook in notebooks]
    todo = [job for job in planned if not _is_done(job)]
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(run, job) for job in todo]
    if failures := [error for done in runs if (error := done.exception())]:
        raise Failed("\n\n".join(map(str, failures))) from failures[0]
    prune(source, tree)
    return {job.chapter for job in todo}


def check_parameters(notebook: Path, wanted: set[str]) -> None:
    """ValueError if the notebook's parameters cell lacks one of the names: papermill itself would only inject it."""
    known = set(papermill.inspect_notebook(str(notebook)))
    if unknown := sorted(wanted - known):
        raise ValueError(f"{notebook.name}: expected parameters among {sorted(known)}, got {unknown}")


def jobs_at_once(notebooks: int, profile: str) -> int:
    """As there is memory for, with two cores each, since chapters measure their speed; with one in `smoke`."""
    each = 1 if profile == "smoke" else 2
    return max(1, min(notebooks, cores() // each, int(psutil.virtual_memory().available // MEMORY)))


# ---- the tree -------------------------------------------------------------------------------------------------------


def mirror(source: Path, tree: Path, *, fresh: bool) -> None:
    """Copy what a page is made of, but for the notebooks, into the tree; what earlier runs left stays.

    That is notebooks, facts, records and audio, and nothing at all where all is to be `fresh`.
    """
    if fresh:
        shutil.rmtree(tree, ignore_errors=True)
    static = tree / "book" / "_static"
    mathjax = Path(str(importlib.import_module("sphinx-mathjax-offline").__file__)).parent / "static" / "mathjax"
    extensions = "input/tex/extensions"  # what MathJax loads when a formula first asks for it
    copied = {source / "book": tree / "book", ROOT / "sepriors" / "lab" / "static": static}
    copied[mathjax / extensions] = static / "mathjax" / extensions
    for origin, place in copied.items():
        skip = shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints")
        shutil.copytree(origin, place, ignore=skip, dirs_exist_ok=True)
    shutil.copy(mathjax / "tex-svg.js", static / "mathjax")
    for name in ("_toc.yml", "_config.yml"):
        shutil.copy(source / name, tree)
    (tree / "runs").mkdir(exist_ok=True)


def prune(source: Path, tree: Path) -> None:
    """Remove what chapters left that the book no longer has, and audio that no executed notebook plays."""
    names = {path.stem for path in chapters(source)}
    for path in (path for folder in ("runs", "records") for path in (tree / folder).glob("[0-9][0-9]*")):
        if path.stem not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    played = "".join(path.read_text("utf-8") for path in (tree / "runs").glob("*.ipynb"))
    for path in (tree / "book" / "_static" / "audio").glob("*"):
        if path.name not in played:
            path.unlink()


# ---- one run --------------------------------------------------------------------------------------------------------


def run(job: Job) -> None:
    """Run one notebook in a process of its own, and write the facts of the run beside it.

    Raises Failed with the failing cell's source and traceback.
    """
    print(f"  {job.chapter}: profile {job.profile}, {job.threads} thread(s) …", flush=True)
    for path in (job.executed, job.record):
        path.unlink(missing_ok=True)
    shutil.rmtree(job.tree / "records" / job.chapter, ignore_errors=True)
    log = job.executed.with_suffix(".log")
    command = [sys.executable, "-m", "papermill", str(job.notebook), str(job.executed), "--cwd", str(job.tree / "book")]
    command += ["-k", "python3", "--no-progress-bar", "--log-level", "WARNING", "--execution-timeout", str(HANGS)]
    for name, value in job.parameters.items():
        command += ["-r" if isinstance(value, str) else "-p", name, str(value)]
    start = time.monotonic()
    with log.open("w") as sink:
        process = psutil.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment(job))
        peak = _watch(job, process)
    seconds = time.monotonic() - start
    if process.returncode != 0:
        raise Failed(f"{job.chapter}: failed after {seconds:.0f} s\n{_failure(job.executed, log)}")
    machine = provenance()
    facts = {
        "chapter": job.chapter,
        "profile": job.profile,
        **job.parameters,
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / 1e6),
        "threads": job.threads,
        "cpu": machine["hardware"]["cpu"],
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        **machine["versions"],
        "commit": commit(),
        "key": key(job),
        "finished": machine["finished"],
    }
    job.record.write_text(json.dumps(facts, indent=1))
    print(f"  {job.chapter}: done in {seconds:.0f} s", flush=True)


def environment(job: Job) -> dict[str, str]:
    """What the kernel sees: the build tree, its share of the cores, and nothing of the user's own Jupyter."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("JUPYTER_PATH", "MPLBACKEND")}
    own = {
        "SEPRIORS_BUILD": str(job.tree),
        "OMP_NUM_THREADS": str(job.threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(job.tree / "runs" / "ipython"),
    }
    if data := os.environ.get("SEPRIORS_DATA"):
        own["SEPRIORS_DATA"] = os.path.abspath(data)  # the kernel runs in another folder
    return timed(inherited) | own


def _watch(job: Job, process: psutil.Popen) -> int:
    """Wait for the run to end; print its progress and return the peak of its kernel's memory in bytes.

    That is the kernel with the workers it started; pages they share are counted for each.
    """
    start = reported = time.monotonic()
    peak, family = 0, [process]
    try:
        while True:
            with suppress(psutil.TimeoutExpired):
                process.wait(SAMPLE)
                return peak
            with suppress(psutil.NoSuchProcess):  # some may end between the two looks
                family = [*process.children(recursive=True), process]
                peak = max(peak, sum(child.memory_info().rss for child in family[:-1]))
            if (now := time.monotonic()) - reported > REPORT:
                reported = now
                print(f"  {job.chapter}: {_progress(job.executed)}{now - start:.0f} s, {peak / 1e9:.1f} GB", flush=True)
    finally:
        for survivor in family:
            if survivor.is_running():
                survivor.kill()


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
        for output in (output for output in cell.get("outputs", []) if output["output_type"] == "error"):
            traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output["traceback"]))
            ended = f"was stopped after {HANGS} s" if output["ename"] == "KeyboardInterrupt" else "raised"
            return f"the cell\n{indent(''.join(cell['source']), '    ')}\n{ended}\n{traceback}"
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def late(record: dict[str, Any]) -> str:
    """What is to be said of a run that took longer than its profile's budget; empty if it did not.

    >>> late({"chapter": "01-x", "profile": "smoke", "seconds": 61.2})
    '01-x: took 61 s; the budget of `smoke` is 60 s'
    """
    budget = BUDGET.get(record["profile"], float("inf"))
    if record["seconds"] <= budget:
        return ""
    return f"{record['chapter']}: took {record['seconds']:.0f} s; the budget of `{record['profile']}` is {budget:.0f} s"


# ---- what a run depends on ------------------------------------------------------------------------------------------


def _is_done(job: Job) -> bool:
    has_run = job.executed.exists() and job.record.exists()
    if is_done := has_run and json.loads(job.record.read_text())["key"] == key(job):
        print(f"  {job.chapter}: unchanged, not run again", flush=True)
    return is_done


def key(job: Job) -> str:
    """A hash of all that a run depends on: notebook, package, weights, records, parameters, corpora, versions."""
    digest = hashlib.sha256(job.notebook.read_bytes())
    read = [ROOT / "sepriors"] + ([] if job.profile == "smoke" else [records.folder(), studies.folder()])
    for path in sorted(path for folder in read for path in folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and ".part." not in path.name:
            digest.update(path.name.encode() + path.read_bytes())
    versions = sorted(f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions())
    digest.update(json.dumps([job.parameters, job.threads, corpora(), platform.python_version(), versions]).encode())
    return digest.hexdigest()[:16]


def corpora() -> list[tuple[str, int]]:
    """Name and size of every file of the corpora, and the manifests' hashes in place of their size."""
    root = Path(os.environ.get("SEPRIORS_DATA") or cache_dir() / "corpora")
    return [
        (str(path.relative_to(root)), zlib.crc32(path.read_bytes()) if path.suffix == ".csv" else path.stat().st_size)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]
