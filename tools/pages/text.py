"""How the generated pages write numbers, tables and links to the sources."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from tools import ROOT, commit, repository

# A table needs the room of the page's own contents
WIDE = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n"


@cache
def revision() -> str:
    """The commit that links to the sources name; outside a repository the main branch."""
    found = commit().removesuffix("-dirty")
    return "main" if found == "none" else found


def source_address(path: Path, first: int = 0, last: int = 0) -> str:
    """Where the repository shows a file of the project, or some lines of it.

    >>> source_address(ROOT / "README.md", 3, 5).removeprefix(repository()).replace(revision(), "COMMIT")
    '/blob/COMMIT/README.md#L3-L5'
    """
    lines = f"#L{first}-L{last}" if first else ""
    return f"{repository()}/blob/{revision()}/{path.relative_to(ROOT).as_posix()}{lines}"


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def measurement(item: dict[str, Any], unit: str = "") -> str:
    """A value with its interval and count, as far as they are known; how many files lack it, and why no interval.

    >>> measurement({"label": "at 0 dB", "value": 1.234, "low": 1.0, "high": -1.5, "n": 24}, "dB")
    'at 0 dB: 1.23 dB [1, −1.5], n = 24'
    >>> measurement({"value": 1.234, "low": None, "high": None, "n": 5, "missing": 1, "why": "one speaker"})
    '1.23, no interval (one speaker), n = 5 of 6'
    """
    low, high, n = (item.get(name) for name in ("low", "high", "n"))
    interval = f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
    if item.get("why"):
        interval = f", no interval ({item['why']})"
    missing = item.get("missing")
    count = f", n = {n}" + (f" of {n + missing}" if missing else "") if n is not None else ""
    value = f"{number(item['value'])}{f' {unit}' if unit else ''}{interval}{count}"
    return f"{item['label']}: {value}" if item.get("label") else value


def number(value: float | str | bool) -> str:
    """Three significant figures with a true minus sign; anything but a number as it is."""
    if isinstance(value, bool | str):
        return str(value)
    if math.isnan(value):
        return "not a number"
    return f"{value:.3g}".replace("-", "−")


def list_table(head: list[str], rows: list[list[str]], widths: list[int], name: str) -> list[str]:
    """A table whose cells may hold blocks, its columns of given widths, with a class of its own.

    >>> print("\\n".join(list_table(["a", "b"], [["1", "x\\ny"]], [30, 70], "ledger")[4:]))
    <BLANKLINE>
    * - a
      - b
    * - 1
      - x
        y
    ````
    """
    lines = ["````{list-table}", f":class: {name}", ":header-rows: 1", f":widths: {' '.join(map(str, widths))}", ""]
    for cells in [head, *rows]:
        lines += ("* - " + "\n  - ".join(cell.replace("\n", "\n    ") for cell in cells)).split("\n")
    return [*lines, "````"]
