"""Refuse a book that is not fit to be published, and say why: chapter, cell and reason, all at once.

Jupyter Book renders unexecuted and failed notebooks without a word, so this looks.
"""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from tools import chapters

OUTPUT_LIMIT = 50_000  # bytes of one output that stand in the page itself
IMAGE_LIMIT = 300_000  # bytes of an image, which becomes a file of its own
PAGE_LIMIT = 200_000  # bytes of a page, without the files it refers to
SHOWN = {"text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg", "image/svg+xml"}
GLUE = "application/papermill.record/"  # myst_nb.glue keeps values for other places of the book under this prefix
FETCHING_RELS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "manifest"}
REMOTE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)


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


def css_addresses(css: str) -> list[str]:
    """The addresses that a style sheet loads.

    >>> css_addresses("@import 'a.css'; p {background: url(b.png)}")
    ['b.png', 'a.css']
    """
    return re.findall(r"url\(\s*[\"']?([^\"')]+)", css) + re.findall(r"@import\s+[\"']([^\"']+)", css)


def remote(addresses: list[str]) -> Iterator[str]:
    yield from (f"loads from another host: {url[:80]}" for url in addresses if REMOTE.match(url))


def html_refusals(html: str) -> Iterator[str]:
    found = Resources(html)
    yield from remote(found.loaded)
    if any(url.lstrip().lower().startswith("data:audio") for url in found.loaded):
        yield "carries audio as base64; write a file (sepriors.lab.players does)"
    yield from (f"image without alt text: {src}" for src in found.mute)


# ---- sources and executed notebooks ---------------------------------------------------------------------------------


def check_tree(source: Path, tree: Path) -> Iterator[Refusal]:
    """Sources, executed notebooks and runs together: the gate before the pages are built."""
    yield from check_source(source)
    for path in chapters(source):
        executed, record = (tree / "runs" / f"{path.stem}{suffix}" for suffix in (".ipynb", ".json"))
        if executed.exists() and record.exists():
            yield from check_notebook(json.loads(executed.read_text()), path.stem)
        else:
            yield Refusal(path.stem, None, "never ran to its end")


def check_source(source: Path) -> Iterator[Refusal]:
    """Notebooks committed with outputs, or missing from the table of contents."""
    listed = set(chapters(source))
    for path in sorted((source / "book").glob("*.ipynb")):
        if path not in listed:
            yield Refusal(path.stem, None, "not in _toc.yml")
        for number, cell in enumerate(json.loads(path.read_text())["cells"], 1):
            if cell.get("outputs") or cell.get("execution_count") is not None:
                yield Refusal(path.stem, number, "committed with its output (nbstripout removes it)")


def check_notebook(notebook: dict[str, Any], chapter: str) -> Iterator[Refusal]:
    """All that an executed notebook, as papermill wrote it, can be refused for."""
    if notebook["metadata"].get("papermill", {}).get("exception"):
        yield Refusal(chapter, None, "papermill reports an exception")
    number = 0
    for cell in notebook["cells"]:
        tags = set(cell["metadata"].get("tags", []))
        number += not tags & {"injected-parameters", "papermill-error-cell-tag"}
        reasons = _code_reasons(cell, tags) if cell["cell_type"] == "code" else html_refusals(_text(cell["source"]))
        yield from (Refusal(chapter, number, reason) for reason in reasons)


def _code_reasons(cell: dict[str, Any], tags: set[str]) -> Iterator[str]:
    if _text(cell["source"]).strip() and cell["execution_count"] is None:
        yield "not executed"
    if cell["metadata"].get("papermill", {}).get("exception"):
        yield "papermill reports an exception"
    is_hidden = bool(tags & {"remove-cell", "remove-output"})
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            yield f"raised {output['ename']}: {output['evalue'][:200]}"
        elif output["output_type"] == "stream":
            if output["name"] == "stderr" and not is_hidden and "remove-stderr" not in tags:
                yield f"shows stderr: {_text(output['text']).strip()[:200]}"
            yield from _size_reasons("text/plain", _text(output["text"]))
        else:
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            for mime, content in output["data"].items():
                yield from _data_reasons(mime, _text(content), needs_alt=not (is_hidden or alt.strip()))


def _data_reasons(mime: str, content: str, *, needs_alt: bool) -> Iterator[str]:
    if mime in SHOWN:
        yield from _size_reasons(mime, content)
    elif not mime.startswith(GLUE):
        yield f"output of type {mime}, which a page does not render"
    if mime == "text/html":
        yield from html_refusals(content)
    if mime.startswith("image/") and needs_alt:
        yield 'image without alt text (cell metadata "mystnb": {"image": {"alt": …}})'


def _size_reasons(mime: str, content: str) -> Iterator[str]:
    size = len(content) * 3 // 4 if mime in ("image/png", "image/jpeg") else len(content.encode())
    limit = IMAGE_LIMIT if mime.startswith("image/") else OUTPUT_LIMIT
    if size > limit:
        yield f"{mime} output of {size / 1e3:.0f} kB; the limit is {limit / 1e3:.0f} kB"


def _text(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


# ---- pages ----------------------------------------------------------------------------------------------------------


def check_pages(html: Path) -> Iterator[Refusal]:
    """The built site: size, remote resources, embedded audio, alt texts, links to files that are not there."""
    for path in sorted([*html.rglob("*.html"), *html.rglob("*.css")]):
        name = path.relative_to(html).as_posix()
        if path.suffix == ".css" or not name.startswith("_static/"):
            reasons = remote(css_addresses(path.read_text())) if path.suffix == ".css" else _page_reasons(path)
            yield from (Refusal(name, None, reason) for reason in reasons)


def _page_reasons(path: Path) -> Iterator[str]:
    if (size := path.stat().st_size) > PAGE_LIMIT:
        yield f"{size / 1e3:.0f} kB; the limit is {PAGE_LIMIT / 1e3:.0f} kB"
    text = path.read_text()
    yield from html_refusals(text)
    found = Resources(text)
    for url in dict.fromkeys(found.loaded + found.links):
        parts = urlsplit(url)
        is_elsewhere = parts.scheme or parts.netloc or not parts.path
        if not (is_elsewhere or (path.parent / unquote(parts.path)).exists()):
            yield f"refers to a file that is not there: {url[:80]}"
