"""Put the badge row under a chapter's title: open it in Colab, download it, and what its run cost, as measured."""

from typing import Any

from tools.pages.text import render

PLACEHOLDER = "<!-- badges -->"


def row(record: dict[str, Any], repository: str) -> str:
    """The badge row of a chapter as one line of HTML, from the facts of its run (`runs/NAME.json`).

    >>> facts = {"chapter": "01-x", "profile": "book", "seconds": 39.6, "peak_mb": 1234, "threads": 2, "cpu": "Z80"}
    >>> "CPU 40 s · 1.2 GB" in row(facts, "https://github.com/me/it")
    True
    """
    return render("badges.html.jinja", project=repository.split("github.com/", 1)[1], **record).strip()


def insert(notebook: dict[str, Any], record: dict[str, Any], repository: str) -> dict[str, Any]:
    """Replace the placeholder in the notebook's first cell by the badge row; ValueError if it is not there."""
    title = notebook["cells"][0]
    if title["source"].count(PLACEHOLDER) != 1:
        raise ValueError(f"{record['chapter']}: expected one {PLACEHOLDER} in the first cell, got {title['source']!r}")
    title["source"] = title["source"].replace(PLACEHOLDER, row(record, repository))
    return notebook
