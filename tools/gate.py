"""Refuse a book that is not fit to be published, and say why: chapter, cell and reason, all at once.

    python -m tools.gate [--source .] [--tree _build/tree] [--html _build/html]

Jupyter Book renders unexecuted and failed notebooks without a word, so this looks.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from tools import ROOT, chapters

OUTPUT_LIMIT = 50_000  # bytes of one output that stand in the page itself
IMAGE_LIMIT = 300_000  # bytes of an image, which becomes a file of its own
PAGE_LIMIT = 200_000  # bytes of a page, without the files it refers to
SHOWN = {"text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg", "image/svg+xml"}
GLUE = "application/papermill.record/"  # myst_nb.glue keeps values for other places of the book under this prefix
FETCHING_RELS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "manifest"}


class Refusal(NamedTuple):
    """Why a page is refused; `cell` counts from 1 in the notebook's source, None where the whole page is meant."""

    chapter: str
    cell: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.chapter}{f', cell {self.cell}' if self.cell else ''}: {self.reason}"


# ---- HTML: outputs and pages ----------------------------------------------------------------------------------------


class Resources(HTMLParser):
    """What a piece of HTML loads, links to, and leaves without a text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []  # addresses that a browser fetches by itself
        self.links: list[str] = []
        self.mute: list[str] = []  # images without alt text
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        values = {name: value or "" for name, value in attrs}
        self.loaded += [values[name] for name in ("src", "poster", "data") if name in values]
        self.loaded += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        self.loaded += css_addresses(values.get("style", ""))
        if tag == "link" and FETCHING_RELS & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "img" and values.get("alt", "").strip() in ("", values.get("src"), unquote(values.get("src", ""))):
            self.mute.append(values.get("src", "")[:80])

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.loaded += css_addresses(data)
        elif self._inside == "script":
            self.loaded += re.findall(r"(?:import|fetch|require|\.src\s*=)[\s(\[]*[\"'](https?://[^\"']+)", data)

    @property
    def remote(self) -> list[str]:
        return [url for url in self.loaded if re.match(r"\s*(https?:)?//", url, re.IGNORECASE)]

    @property
    def embedded_audio(self) -> bool:
        return any(url.lstrip().lower().startswith("data:audio") for url in self.loaded)


def css_addresses(css: str) -> list[str]:
    """The addresses that a style sheet loads.

    >>> css_addresses("@import 'a.css'; p {background: url(b.png)}")
    ['b.png', 'a.css']
    """
    return re.findall(r"url\(\s*[\"']?([^\"')]+)", css) + re.findall(r"@import\s+[\"']([^\"']+)", css)


def html_refusals(html: str) -> Iterator[str]:
    found = Resources(html)
    yield from (f"loads from another host: {url[:80]}" for url in found.remote)
    if found.embedded_audio:
        yield "carries audio as base64; write a file (sepriors.lab.players does)"
    yield from (f"image without alt text: {src}" for src in found.mute)


# ---- the sources ----------------------------------------------------------------------------------------------------


def check_source(source: Path) -> list[Refusal]:
    """Notebooks committed with outputs, or missing from the table of contents."""
    refusals = []
    listed = set(chapters(source))
    for path in sorted((source / "book").glob("*.ipynb")):
        if path not in listed:
            refusals.append(Refusal(path.stem, None, "not in _toc.yml"))
        for number, cell in enumerate(json.loads(path.read_text())["cells"], 1):
            if cell.get("outputs") or cell.get("execution_count") is not None:
                refusals.append(Refusal(path.stem, number, "committed with its output (nbstripout removes it)"))
    return refusals


# ---- executed notebooks ---------------------------------------------------------------------------------------------


def check_notebook(notebook: dict[str, Any], chapter: str) -> list[Refusal]:
    """All that an executed notebook, as papermill wrote it, can be refused for."""
    refusals = []
    if notebook["metadata"].get("papermill", {}).get("exception"):
        refusals.append(Refusal(chapter, None, "papermill reports an exception"))
    number = 0
    for cell in notebook["cells"]:
        tags = set(cell["metadata"].get("tags", []))
        number += not tags & {"injected-parameters", "papermill-error-cell-tag"}
        reasons = _code_reasons(cell, tags) if cell["cell_type"] == "code" else html_refusals(_text(cell["source"]))
        refusals += [Refusal(chapter, number, reason) for reason in reasons]
    return refusals


def _code_reasons(cell: dict[str, Any], tags: set[str]) -> Iterator[str]:
    if _text(cell["source"]).strip() and cell["execution_count"] is None:
        yield "not executed"
    if cell["metadata"].get("papermill", {}).get("exception"):
        yield "papermill reports an exception"
    hidden = bool(tags & {"remove-cell", "remove-output"})
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            yield f"raised {output['ename']}: {output['evalue'][:200]}"
        elif output["output_type"] == "stream":
            if output["name"] == "stderr" and not hidden and "remove-stderr" not in tags:
                yield f"shows stderr: {_text(output['text']).strip()[:200]}"
            yield from _size_reasons("text/plain", _text(output["text"]))
        else:
            yield from _data_reasons(output["data"], cell["metadata"], hidden)


def _data_reasons(data: dict[str, Any], metadata: dict[str, Any], hidden: bool) -> Iterator[str]:
    for mime, content in data.items():
        if mime.startswith(GLUE):
            continue
        if mime not in SHOWN:
            yield f"output of type {mime}, which a page does not render"
            continue
        yield from _size_reasons(mime, _text(content))
        if mime == "text/html":
            yield from html_refusals(_text(content))
        alt = metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if mime.startswith("image/") and not hidden and not alt.strip():
            yield 'image without alt text (cell metadata "mystnb": {"image": {"alt": …}})'


def _size_reasons(mime: str, content: str) -> Iterator[str]:
    base64 = mime in ("image/png", "image/jpeg")
    size = len(content) * 3 // 4 if base64 else len(content.encode())
    limit = IMAGE_LIMIT if mime.startswith("image/") else OUTPUT_LIMIT
    if size > limit:
        yield f"{mime} output of {size / 1e3:.0f} kB; the limit is {limit / 1e3:.0f} kB"


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def check_tree(source: Path, tree: Path) -> list[Refusal]:
    """Sources, executed notebooks and runs together: the gate before the pages are built."""
    refusals = check_source(source)
    for path in chapters(source):
        executed, record = (tree / "runs" / f"{path.stem}{suffix}" for suffix in (".ipynb", ".json"))
        if not executed.exists() or not record.exists():
            refusals.append(Refusal(path.stem, None, "never ran to its end"))
            continue
        refusals += check_notebook(json.loads(executed.read_text()), path.stem)
    return refusals


# ---- pages ----------------------------------------------------------------------------------------------------------


def check_pages(html: Path) -> list[Refusal]:
    """The built site: size, remote resources, embedded audio, alt texts, links to files that are not there."""
    refusals = []
    for path in sorted(html.rglob("*.html")):
        name = str(path.relative_to(html))
        if name.startswith("_static/"):
            continue
        text = path.read_text()
        if (size := path.stat().st_size) > PAGE_LIMIT:
            refusals.append(Refusal(name, None, f"{size / 1e3:.0f} kB; the limit is {PAGE_LIMIT / 1e3:.0f} kB"))
        refusals += [Refusal(name, None, reason) for reason in html_refusals(text)]
        found = Resources(text)
        dead = [url for url in dict.fromkeys(found.loaded + found.links) if not _is_there(url, path.parent)]
        refusals += [Refusal(name, None, f"refers to a file that is not there: {url[:80]}") for url in dead]
    for path in sorted(html.rglob("*.css")):
        remote = [url for url in css_addresses(path.read_text()) if re.match(r"(https?:)?//", url)]
        refusals += [
            Refusal(str(path.relative_to(html)), None, f"loads from another host: {url[:80]}") for url in remote
        ]
    return refusals


def _is_there(url: str, folder: Path) -> bool:
    parts = urlsplit(url)
    return bool(parts.scheme or parts.netloc or not parts.path) or (folder / unquote(parts.path)).exists()


def report(refusals: list[Refusal]) -> None:
    """Print every refusal, one a line."""
    print(f"The gate refuses the book for {len(refusals)} reason(s):", file=sys.stderr)
    for refusal in refusals:
        print(f"  {refusal}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Refuse a book that is not fit to be published, and say why.")
    parser.add_argument("--source", type=Path, default=ROOT)
    parser.add_argument("--tree", type=Path, default=ROOT / "_build" / "tree")
    parser.add_argument("--html", type=Path, help="also check the pages built here")
    args = parser.parse_args(argv)
    refusals = check_tree(args.source, args.tree) + (check_pages(args.html) if args.html else [])
    if refusals:
        report(refusals)
    return 1 if refusals else 0


if __name__ == "__main__":
    sys.exit(main())
