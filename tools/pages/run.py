"""How this book was run: machine, durations, corpora, versions, bench records."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from sepriors import running
from sepriors.methods import METHODS
from tools import ROOT, repository
from tools.execute import late
from tools.pages.text import render


def read_runs(tree: Path, names: list[str]) -> list[dict[str, Any]]:
    paths = [tree / "runs" / f"{name}.json" for name in names]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def page(runs: list[dict[str, Any]], records: dict[str, dict[str, Any]], tree: Path) -> str:
    """The page of hardware, durations, corpora, versions and bench records, in MyST Markdown."""
    # What `benchmarks/gpu.py` measured, kept beside it: these pages are made on a CPU
    gpu = json.loads((ROOT / "benchmarks" / "gpu.json").read_text())
    return render(
        "run.md.jinja",
        runs=runs,
        late={run["chapter"]: said for run in runs if (said := late(run))},
        machines=sorted({(r["cpu"], r["cores"], r["memory_gb"], r["python"], r["commit"]) for r in runs}),
        repository=repository(),
        records=records,
        spots=spots(tree),
        system=f"{platform.system()} {platform.machine()}",
        version=importlib.metadata.version,
        pins=dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split()),
        gpu=gpu,
        not_on_gpu=sorted(set(METHODS) - {row["method"] for row in gpu["records"]}),
        gpu_seconds=running.GPU_BATCH_SECONDS,
        benches=[(path.parent.name, path.name) for path in sorted(tree.glob("records/*/bench-*.json"))],
    )


def spots(tree: Path) -> dict[str, Any]:
    """What the build has measured again of the records, see `tools.build.spot_checks`."""
    path = tree / "records" / "checks.json"
    return json.loads(path.read_text()) if path.exists() else {"checks": [], "left_out": {}, "stale": {}}
