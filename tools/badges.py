"""Put the badge row under a chapter's title: open it in Colab, download it, and what its run cost, as measured."""

from __future__ import annotations

from html import escape
from typing import Any

PLACEHOLDER = "<!-- badges -->"
COLAB = "https://colab.research.google.com/github"


def row(record: dict[str, Any], repository: str) -> str:
    """The badge row of a chapter as one line of HTML, from the facts of its run (`runs/NAME.json`).

    >>> facts = {"chapter": "01-x", "profile": "book", "seconds": 39.6, "peak_mb": 1234, "threads": 2, "cpu": "Z80"}
    >>> "CPU 40 s · 1.2 GB" in row(facts, "https://github.com/me/it")
    True
    """
    chapter = record["chapter"]
    colab = f"{COLAB}/{repository.split('github.com/', 1)[1]}/blob/main/book/{chapter}.ipynb"
    measured = f"measured on {record['cpu']}, {record['threads']} thread(s), profile {record['profile']}"
    return (
        f'<div class="badges"><a class="badge-link" href="{colab}">Open in Colab</a> '
        f'<a class="badge-link" href="../_sources/book/{chapter}.ipynb" download>Download notebook</a> '
        f'<span class="badge-cost" title="{escape(measured)}">{cost(record)}</span></div>'
    )


def cost(record: dict[str, Any]) -> str:
    """Seconds and peak memory, as on the badge."""
    return f"CPU {record['seconds']:.0f} s · {record['peak_mb'] / 1e3:.1f} GB"


def insert(notebook: dict[str, Any], record: dict[str, Any], repository: str) -> dict[str, Any]:
    """Replace the placeholder in the notebook's first cell by the badge row; ValueError if it is not there."""
    title = notebook["cells"][0]
    if title["source"].count(PLACEHOLDER) != 1:
        raise ValueError(f"{record['chapter']}: expected one {PLACEHOLDER} in the first cell, got {title['source']!r}")
    title["source"] = title["source"].replace(PLACEHOLDER, row(record, repository))
    return notebook
