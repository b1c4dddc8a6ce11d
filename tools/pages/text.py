"""How the generated pages are rendered, and how they write numbers and links to the sources."""

import html
import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from tools import ROOT, commit, repository

LITERAL = re.compile(r"(`[^`]*`|\$\$.*?\$\$|\$[^$]*\$)", re.DOTALL)
MARKUP = re.compile(r"([*<\[]|_(?=_)|(?<=_)_|-(?=-))")


def render(template: str, **values: Any) -> str:
    """The page that a template of `templates/` makes of the values; an unknown name in it is an error."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    found = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.keep_trailing_newline = True
    found.filters |= {
        "number": number,
        "measurement": measurement,
        "minus": minus,
        "docstring": docstring,
        "prose": prose,
    }
    found.filters["e"] = html.escape
    return found


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


def measurement(item: dict[str, Any], unit: str | None = None) -> str:
    """A value with its interval and count, as far as they are known; how many files lack it, and why no interval.

    >>> measurement({"label": "at 0 dB", "value": 1.234, "low": 1.0, "high": -1.5, "n": 24}, "dB")
    'at 0 dB: 1.23 dB [1, −1.5], n = 24'
    >>> measurement({"value": 1.234, "low": None, "high": None, "n": 5, "missing": 1, "why": "one speaker"})
    '1.23, no interval (one speaker), n = 5 of 6'
    """
    low, high, n, missing = (item.get(name) for name in ("low", "high", "n", "missing"))
    label = f"{item['label']}: " if item.get("label") else ""
    interval = f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
    if item.get("why"):
        interval = f", no interval ({item['why']})"
    count = f", n = {n}" + (f" of {n + missing}" if missing else "") if n is not None else ""
    return f"{label}{number(item['value'])}{f' {unit}' if unit else ''}{interval}{count}"


def minus(value: Any) -> str:
    """A text with a true minus sign, if it is a negative number.

    >>> minus("-0.4"), minus("–"), minus("non-stationary")
    ('−0.4', '–', 'non-stationary')
    """
    return re.sub(r"^-(?=\d)", "−", str(value))


def number(value: float | str | bool) -> str:
    """Three significant figures with a true minus sign; anything but a number as it is."""
    if isinstance(value, bool | str):
        return str(value)
    return "not a number" if math.isnan(value) else f"{value:.3g}".replace("-", "−")


def docstring(written: str | None) -> str:
    """A docstring in MyST: its examples fenced, its prose as it is written.

    >>> docstring("Rows (B, *shape) of `x[i]`.")
    'Rows (B, \\\\*shape) of `x[i]`.'
    """
    parts = []
    for is_example, lines in groupby(_marked(written or ""), key=lambda pair: pair[0]):
        block = "\n".join(line for _, line in lines).strip("\n")
        parts.append(f"```pycon\n{block}\n```\n" if is_example else f"{prose(block)}\n")
    return "\n".join(parts).strip("\n")


def _marked(written: str) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it belongs to an example: from `>>>` to the next blank line."""
    is_example = False
    for line in written.splitlines():
        is_example = line.startswith(">>>") or (is_example and bool(line))
        yield is_example, line


def prose(paragraph: str) -> str:
    """Text in which only code and formulas are markup.

    >>> prose("`--force` is [--force], $x_1$")
    '`--force` is \\\\[\\\\--force], $x_1$'
    """
    parts = LITERAL.split(paragraph)
    return "".join(part if i % 2 else MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))
