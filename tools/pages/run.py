"""How this book was run: machine, durations, corpora, versions, bench records."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from html import escape
from pathlib import Path
from typing import Any

from sepriors import running
from tools import ROOT, repository
from tools.execute import late
from tools.pages.text import WIDE, table

PACKAGES = {
    "models and signals": ["torch", "torchaudio", "numpy", "scipy", "soundfile"],
    "metrics": ["pesq", "pystoi", "speechmos", "onnxruntime", "librosa"],
    "tables and figures": ["pandas", "matplotlib"],
    "the book": [
        "papermill",
        "ipykernel",
        "jupyter-book",
        "Sphinx",
        "sphinx-book-theme",
        "pydata-sphinx-theme",
        "myst-nb",
    ],
}


def read_runs(tree: Path, names: list[str]) -> list[dict[str, Any]]:
    paths = [tree / "runs" / f"{name}.json" for name in names]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def page(runs: list[dict[str, Any]], records: dict[str, dict[str, Any]], tree: Path) -> str:
    """The page of hardware, durations, corpora, versions and bench records, in MyST Markdown."""
    parts = [
        WIDE,
        "# How this book was run",
        "",
        "Nothing on this page is typed: it is written by the build from the facts of the run that made these pages.",
        "",
        *_hardware(runs),
        *_durations(runs),
        *_corpora(records),
        *_versions(),
        *_gpu(),
        *_bench_records(tree),
    ]
    return "\n".join(parts) + "\n"


def _hardware(runs: list[dict[str, Any]]) -> list[str]:
    machines = {(r["cpu"], r["cores"], r["memory_gb"], r["python"], r["commit"]) for r in runs}
    rows = [
        [escape(cpu), cores, f"{memory:.0f} GB", python, _commit(sha)]
        for cpu, cores, memory, python, sha in sorted(machines)
    ]
    head = ["Processor", "Cores", "Memory", "Python", "Commit"]
    return ["## Machine", "", *(table(head, rows) if rows else ["No chapter was run."]), ""]


def _commit(sha: str) -> str:
    plain = sha.removesuffix("-dirty")
    if plain == "none":
        return "none (not a git repository)"
    changed = " with uncommitted changes" if sha != plain else ""
    return f'<a href="{repository()}/commit/{plain}">{plain}</a>{changed}'


def _durations(runs: list[dict[str, Any]]) -> list[str]:
    rows = [
        [
            f"[](/book/{r['chapter']}.ipynb)",
            r["profile"],
            f"{r['seconds']:.1f} s" + (" (late)" if late(r) else ""),
            f"{r['peak_mb'] / 1e3:.2f} GB",
            r["threads"],
            r["seed"],
            r["finished"][:16].replace("T", " "),
        ]
        for r in runs
    ]
    if runs:
        total = {"seconds": sum(r["seconds"] for r in runs), "peak_mb": max(r["peak_mb"] for r in runs)}
        rows.append(["All", "", f"{total['seconds']:.1f} s", f"{total['peak_mb'] / 1e3:.2f} GB (largest)", "", "", ""])
    head = ["Chapter", "Profile", "Time", "Peak memory", "Threads", "Seed", "Finished (UTC)"]
    note = (
        "Peak memory is the resident memory of the chapter's kernel and the workers it started, sampled during the run."
    )
    slow = [f"- {said}" for r in runs if (said := late(r))]
    if slow:
        about = "Later than they should be on two idle cores, which spoils nothing but somebody's patience:"
        slow = ["```{admonition} Chapters over their budget", ":class: warning", about, "", *slow, "```", ""]
    return ["## Chapters", "", *slow, *table(head, rows), "", note, ""]


def _corpora(records: dict[str, dict[str, Any]]) -> list[str]:
    rows = [[f"[](/book/{chapter}.ipynb)", _facts(record)] for chapter, record in records.items()]
    return [
        "## Corpora",
        "",
        *(table(["Chapter", "Corpus"], rows) if rows else ["No chapter recorded its corpus."]),
        "",
    ]


def _facts(record: dict[str, Any]) -> str:
    """What a record says about its data: everything in it that is no verdict and stands in no other table."""
    facts = {name: value for name, value in record.items() if name not in ("verdicts", "chapter", "profile", "commit")}
    if isinstance(facts.get("corpus"), dict):
        facts |= facts.pop("corpus")
    return "<br>".join(f"{escape(name.replace('_', ' '))}: {escape(_fact(value))}" for name, value in facts.items())


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(item)}" for name, item in value.items())
    return ", ".join(map(_fact, value)) if isinstance(value, list) else str(value)


def _versions() -> list[str]:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    rows = []
    for purpose, names in PACKAGES.items():
        for name in names:
            installed = importlib.metadata.version(name)
            pinned = pins.get(name, "not pinned")
            same = "yes" if installed.split("+")[0] == pinned else f"no: {pinned}"
            rows.append([purpose, name, installed, same])
            purpose = ""
    head = ["For", "Package", "Version", "As in constraints.txt"]
    return [
        "## Versions",
        "",
        f"On {platform.system()} {platform.machine()}.",
        "",
        *table(head, rows),
        "",
    ]


def _gpu(path: Path = ROOT / "benchmarks" / "gpu.json") -> list[str]:
    """What `benchmarks/gpu.py` measured, kept beside it: these pages are made on a CPU."""
    found = json.loads(path.read_text())
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in found["records"]:
        by_method.setdefault(row["method"], []).append(row)
    shapes = [row["input"] for row in next(iter(by_method.values()))]
    head = ["Method", *(f"RTF, {shape}" for shape in shapes), *(f"MB, {shape}" for shape in shapes)]
    rows = [
        [name, *(f"{row['rtf']:.4f}" for row in rows), *(f"{row['peak_gpu_mb']:.0f}" for row in rows)]
        for name, rows in by_method.items()
    ]
    most = max(row["peak_gpu_mb"] for row in found["records"])
    return [
        "## On a GPU",
        "",
        f"Real-time factor and peak GPU memory by `benchmarks/gpu.py` on one {found['gpu']}, torch {found['torch']},",
        f"commit {found['commit']}. One is given at most {running.GPU_BATCH_SECONDS:.0f} s of audio at once, and long",
        f"files in segments: so {most / 1e3:.1f} GB is the most that a method asks for, and a card of 16 GB holds it.",
        "",
        *table(head, rows),
        "",
    ]


def _bench_records(tree: Path) -> list[str]:
    paths = sorted(tree.glob("records/*/bench-*.json"))
    named = [(path.parent.name, path.name) for path in paths]
    items = [f"- {chapter}: {{download}}`{name} </records/{chapter}/{name}>`" for chapter, name in named]
    return [
        "## Records",
        "",
        "All that the chapters measured, and on what: {download}`records.json </records/records.json>`, file by file,",
        "and {download}`records.csv </records/records.csv>`, a row a figure: the evidence of each claim, and the mean",
        "of each measure over files with its 95 % interval. The bench of a chapter alone:",
        "",
        *(items or ["No chapter left one."]),
        "",
    ]
