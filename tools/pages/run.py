"""How this book was run: machine, durations, corpora, versions, bench records."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepriors import running
from tools import ROOT, repository
from tools.execute import late
from tools.pages.text import render

PACKAGES = {
    "models and signals": "torch torchaudio numpy scipy soundfile",
    "metrics": "pesq pystoi speechmos onnxruntime librosa",
    "tables and figures": "pandas matplotlib",
    "the book": "papermill ipykernel jupyter-book Sphinx sphinx-book-theme pydata-sphinx-theme myst-nb",
}


def read_runs(tree: Path, names: list[str]) -> list[dict[str, Any]]:
    paths = [tree / "runs" / f"{name}.json" for name in names]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def page(runs: list[dict[str, Any]], records: dict[str, dict[str, Any]], tree: Path) -> str:
    """The page of hardware, durations, corpora, versions and bench records, in MyST Markdown."""
    return render(
        "run.md.jinja",
        runs=runs,
        late={run["chapter"]: said for run in runs if (said := late(run))},
        machines=sorted({(r["cpu"], r["cores"], r["memory_gb"], r["python"], r["commit"]) for r in runs}),
        repository=repository(),
        corpora={chapter: _facts(record) for chapter, record in records.items()},
        system=f"{platform.system()} {platform.machine()}",
        versions=list(_versions()),
        gpu=_gpu(),
        benches=[(path.parent.name, path.name) for path in sorted(tree.glob("records/*/bench-*.json"))],
    )


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says about its data: everything in it that is no verdict and stands in no other table."""
    facts = {name: value for name, value in record.items() if name not in ("verdicts", "chapter", "profile", "commit")}
    if isinstance(facts.get("corpus"), dict):
        facts |= facts.pop("corpus")
    return {name.replace("_", " "): _fact(value) for name, value in facts.items()}


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(item)}" for name, item in value.items())
    return ", ".join(map(_fact, value)) if isinstance(value, list) else str(value)


def _versions() -> list[list[str]]:
    """Purpose (of the first package only), name and version of each package, and whether it is the one pinned."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    rows = []
    for purpose, names in PACKAGES.items():
        for name in names.split():
            installed, pinned = importlib.metadata.version(name), pins.get(name, "not pinned")
            same = "yes" if installed.split("+")[0] == pinned else f"no: {pinned}"
            rows.append([purpose, name, installed, same])
            purpose = ""
    return rows


def _gpu(path: Path = ROOT / "benchmarks" / "gpu.json") -> dict[str, Any]:
    """What `benchmarks/gpu.py` measured, kept beside it: these pages are made on a CPU."""
    found = json.loads(path.read_text())
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in found["records"]:
        by_method.setdefault(row["method"], []).append(row)
    most = max(row["peak_gpu_mb"] for row in found["records"])
    return found | {"methods": by_method, "most": most, "seconds": running.GPU_BATCH_SECONDS}
