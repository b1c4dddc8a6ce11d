"""Write the pages that no one types: the claims ledger, how this book was run, and the faults that the tests try.

The first two come from what the chapters left in the build tree: `records/NAME/*.json` and `runs/NAME.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from sepriors.claims import read_claims
from tools import ROOT, chapters, faults, repository

# A table needs the room of the page's own contents
WIDE = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n"
VERDICTS = ("holds", "fails", "not judged")
MANY = 5  # measurements above which a claim's list is folded
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


def write_pages(source: Path, tree: Path) -> None:
    """Write `book/ledger.md`, `book/run.md` and `book/faults.md` into the tree."""
    records = read_records(tree)
    claims = list(read_claims(source / "book" / "claims.toml").values())
    names = [path.stem for path in chapters(source)]
    (tree / "book" / "ledger.md").write_text(ledger(judge(claims, records, names)))
    (tree / "book" / "run.md").write_text(run_page(read_runs(tree, names), records, tree))
    (tree / "book" / "faults.md").write_text(faults.page(faults.read(source / "tests"), repository()))


def read_records(tree: Path) -> dict[str, dict[str, Any]]:
    """What each chapter recorded about its claims: chapter -> contents of `claims.json`."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(tree.glob("records/*/claims.json"))}


def read_runs(tree: Path, names: list[str]) -> list[dict[str, Any]]:
    paths = [tree / "runs" / f"{name}.json" for name in names]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


# ---- the ledger -----------------------------------------------------------------------------------------------------


def judge(claims: list[dict[str, Any]], records: dict[str, dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Each claim with its verdict: `verdict`, `reason`, `evidence`, `predicate` added.

    A claim without a record, or with one from a smoke run, is 'not judged'. ValueError for a claim of no chapter, a
    verdict on an unknown id or by another chapter than the claim's own, an unknown verdict.
    """
    ids = [claim["id"] for claim in claims]
    given: dict[tuple[str, str], dict[str, Any]] = {}
    for chapter, record in records.items():
        for verdict in record["verdicts"]:
            if verdict["id"] not in ids:
                raise ValueError(f"{chapter}: expected verdicts on claims of claims.toml, got one on {verdict['id']!r}")
            if verdict["verdict"] not in VERDICTS:
                raise ValueError(f"claim {verdict['id']}: expected one of {VERDICTS}, got {verdict['verdict']!r}")
            given[chapter, verdict["id"]] = verdict
    judged = []
    for claim in claims:
        own = claim.get("chapter", "")
        if own not in names:
            raise ValueError(f"claim {claim['id']}: expected a chapter among {names}, got {own!r}")
        found = given.pop((own, claim["id"]), None)
        judged.append(claim | _verdict(found, records.get(own, {}), own))
    if given:
        raise ValueError(f"expected verdicts by the claim's own chapter, got {sorted(given)}")
    return judged


def _verdict(verdict: dict[str, Any] | None, record: dict[str, Any], chapter: str) -> dict[str, Any]:
    if record.get("profile") == "smoke":
        return {"verdict": "not judged", "reason": "A smoke run judges nothing.", "evidence": []}
    if verdict is None:
        return {"verdict": "not judged", "reason": f"Chapter {chapter} left no record of it.", "evidence": []}
    return {"reason": None, "predicate": None, "evidence": []} | verdict


def ledger(judged: list[dict[str, Any]]) -> str:
    """The ledger page in MyST Markdown."""
    counts = Counter(claim["verdict"] for claim in judged)
    summary = " ".join(f"{badge(verdict)} {counts[verdict]}" for verdict in VERDICTS)
    return "\n".join(
        [
            WIDE,
            "# The claims ledger",
            "",
            "Each row is a statement of a paper, judged in the executed chapter by a predicate that stands in its",
            "source and can fail. A value stands with its 95 % interval and the number of measurements, n; a claim",
            "that fails is shown with the reason, as is one that could not be judged.",
            "",
            f'<p class="ledger-counts">{summary}</p>',
            "",
            "````{list-table}",
            ":class: ledger",
            ":header-rows: 1",
            ":widths: 6 30 40 12 12",
            "",
            "* - Claim\n  - The paper says\n  - We measured\n  - Verdict\n  - Where",
            *(_row(claim) for claim in judged),
            "````",
            "",
        ]
    )


def _row(claim: dict[str, Any]) -> str:
    says = [f"{claim['statement']} ({{cite:t}}`{claim['source']}`)"]
    if claim.get("published"):
        says.append(f"Published: {claim['published']}")
    cells = [
        claim["id"],
        "\n\n".join(says),
        _measured(claim),
        badge(claim["verdict"]),
        f"[{claim['chapter']}](/book/{claim['chapter']}.ipynb)",
    ]
    return "* - " + "\n  - ".join(cell.replace("\n", "\n    ") for cell in cells)


def _measured(claim: dict[str, Any]) -> str:
    evidence = [measurement(item, claim.get("unit") or "") for item in claim["evidence"]]
    parts = []
    if len(evidence) > MANY:
        items = "".join(f"<li>{escape(line)}</li>" for line in evidence)
        parts.append(f"<details><summary>{len(evidence)} measurements</summary><ul>{items}</ul></details>")
    elif evidence:
        parts.append("\n".join(f"- {line}" for line in evidence))
    if claim.get("predicate"):
        parts.append(f"Predicate: {claim['predicate']}.")
    if claim.get("reason"):
        parts.append(f"*{claim['reason'].strip()}*")
    return "\n\n".join(parts) or "–"


def measurement(item: dict[str, Any], unit: str = "") -> str:
    """A value with its interval and count, as far as they are known.

    >>> measurement({"label": "at 0 dB", "value": 1.234, "low": 1.0, "high": -1.5, "n": 24}, "dB")
    'at 0 dB: 1.23 dB [1, −1.5], n = 24'
    """
    low, high, n = (item.get(name) for name in ("low", "high", "n"))
    interval = f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
    value = f"{number(item['value'])}{f' {unit}' if unit else ''}{interval}{f', n = {n}' if n is not None else ''}"
    return f"{item['label']}: {value}" if item.get("label") else value


def number(value: float | str | bool) -> str:
    """Three significant figures with a true minus sign; anything but a number as it is."""
    if isinstance(value, bool | str):
        return str(value)
    if math.isnan(value):
        return "not a number"
    return f"{value:.3g}".replace("-", "−")


def badge(verdict: str) -> str:
    """The verdict as a word in a box; the colour only repeats it."""
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span>'


# ---- how this book was run ------------------------------------------------------------------------------------------


def run_page(runs: list[dict[str, Any]], records: dict[str, dict[str, Any]], tree: Path) -> str:
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
        *_bench_records(tree),
    ]
    return "\n".join(parts) + "\n"


def _hardware(runs: list[dict[str, Any]]) -> list[str]:
    rows = {(r["cpu"], r["cores"], r["memory_gb"], r["python"], r["commit"]) for r in runs}
    table = [
        [escape(cpu), cores, f"{memory:.0f} GB", python, _commit(sha)]
        for cpu, cores, memory, python, sha in sorted(rows)
    ]
    head = ["Processor", "Cores", "Memory", "Python", "Commit"]
    return ["## Machine", "", *(_table(head, table) if table else ["No chapter was run."]), ""]


def _commit(sha: str) -> str:
    plain = sha.removesuffix("-dirty")
    if plain == "none":
        return "none (not a git repository)"
    changed = " with uncommitted changes" if sha != plain else ""
    return f'<a href="{repository()}/commit/{plain}">{plain}</a>{changed}'


def _durations(runs: list[dict[str, Any]]) -> list[str]:
    table = [
        [
            f"[](/book/{r['chapter']}.ipynb)",
            r["profile"],
            f"{r['seconds']:.1f} s",
            f"{r['peak_mb'] / 1e3:.2f} GB",
            r["threads"],
            r["seed"],
            r["finished"][:16].replace("T", " "),
        ]
        for r in runs
    ]
    if runs:
        total = {"seconds": sum(r["seconds"] for r in runs), "peak_mb": max(r["peak_mb"] for r in runs)}
        table.append(["All", "", f"{total['seconds']:.1f} s", f"{total['peak_mb'] / 1e3:.2f} GB (largest)", "", "", ""])
    head = ["Chapter", "Profile", "Time", "Peak memory", "Threads", "Seed", "Finished (UTC)"]
    note = (
        "Peak memory is the resident memory of the chapter's kernel and the workers it started, sampled during the run."
    )
    return ["## Chapters", "", *_table(head, table), "", note, ""]


def _corpora(records: dict[str, dict[str, Any]]) -> list[str]:
    table = [[f"[](/book/{chapter}.ipynb)", _facts(record)] for chapter, record in records.items()]
    return [
        "## Corpora",
        "",
        *(_table(["Chapter", "Corpus"], table) if table else ["No chapter recorded its corpus."]),
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
    table = []
    for purpose, names in PACKAGES.items():
        for name in names:
            installed = importlib.metadata.version(name)
            pinned = pins.get(name, "not pinned")
            same = "yes" if installed.split("+")[0] == pinned else f"no: {pinned}"
            table.append([purpose, name, installed, same])
            purpose = ""
    head = ["For", "Package", "Version", "As in constraints.txt"]
    return [
        "## Versions",
        "",
        f"On {platform.system()} {platform.machine()}.",
        "",
        *_table(head, table),
        "",
    ]


def _bench_records(tree: Path) -> list[str]:
    paths = sorted(tree.glob("records/*/bench-*.json"))
    named = [(path.parent.name, path.name) for path in paths]
    items = [f"- {chapter}: {{download}}`{name} </records/{chapter}/{name}>`" for chapter, name in named]
    return ["## Bench records", "", *(items or ["No chapter left one."]), ""]


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
