"""Make what is published from what was made: no trace of the machine in a notebook, no need of a server in a page."""

from __future__ import annotations

import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

from tools import ROOT

WATERMARK = """```{admonition} Smoke run
:class: warning watermark
This page was made in the profile `smoke`: every cell ran, on a few seconds of audio and with a few steps. Its figures
say that the code works and nothing else; no claim is judged on them.
```"""


def postprocess(notebook: dict[str, Any], profile: str, tree: Path) -> dict[str, Any]:
    """Hide the injected cell, drop widget state and papermill's notes, shorten absolute paths, mark a smoke run."""
    notebook["metadata"] = {k: v for k, v in notebook["metadata"].items() if k not in ("widgets", "papermill")}
    places = machine_paths(tree)
    for cell in notebook["cells"]:
        metadata = cell["metadata"]
        tags = metadata.get("tags", [])
        if "injected-parameters" in tags:
            metadata["tags"] = [*tags, "remove-cell"]
        for name in ("papermill", "execution", "widgets"):
            metadata.pop(name, None)
        if cell["cell_type"] == "code":
            cell["outputs"] = nbformat.from_dict(scrub(cell["outputs"], places))
    if profile == "smoke":
        notebook["cells"].insert(1, nbformat.v4.new_markdown_cell(WATERMARK, id="smoke-watermark"))
    return notebook


# Jupyter Book always loads Thebe, which would fetch itself from another host; preloaded fonts fail without a server.
THEBE = (
    r"<(script|link)[^>]*sphinx-thebe[^>]*>(</script>)?",
    r"<script>const THEBE_JS_URL.*?</script>",
    r'<script type="text/x-thebe-config">.*?</script>',
)
PRELOADED_FONT = r'<link rel="preload" as="font"[^>]*>'
# The search shows a few lines of each page found, which it asks the server for; on a disk there is none to ask.
SUMMARY = "SHOW_SEARCH_SUMMARY: true"
SUMMARY_IF_SERVED = 'SHOW_SEARCH_SUMMARY: location.protocol !== "file:"'


def make_offline(html: Path) -> None:
    """Mend the built pages so that they work from a disk, where a browser loads no fonts and no network is there."""
    for page in html.rglob("*.html"):
        text = page.read_text()
        for pattern in (*THEBE, PRELOADED_FONT):
            text = re.sub(pattern + r"\s*", "", text, flags=re.DOTALL)
        page.write_text(text)
    for sheet in html.glob("_static/vendor/fontawesome/*/css/all.min.css"):
        (font,) = sheet.parents[1].glob("webfonts/fa-solid-*.woff2")
        embedded = f"url(data:font/woff2;base64,{base64.b64encode(font.read_bytes()).decode()})"
        # Once: the present family comes first, then the names it had in earlier versions.
        sheet.write_text(sheet.read_text().replace(f"url(../webfonts/{font.name})", embedded, 1))
    for options in html.glob("_static/documentation_options.js"):
        options.write_text(options.read_text().replace(SUMMARY, SUMMARY_IF_SERVED))


# What axe-core finds wrong in pages as the theme, docutils and pandas write them
ACCESSIBLE = {
    '<div class="bd-sidebar-primary': '<div role="region" aria-label="Contents and search" class="bd-sidebar-primary',
    "<th></th>": "<td></td>",  # the corner over an index: a header of nothing
    '<div role="list" class="citation-list">': '<div class="citation-list">',  # a list of no list items
    ' role="doc-biblioentry"': "",  # a role that ARIA has given up
    '<summary><span class="toctree-toggle"': '<summary aria-label="The pages below"><span class="toctree-toggle"',
}


def make_accessible(html: Path) -> None:
    """Mend what the pages tell those who hear them read aloud."""
    for page in html.rglob("*.html"):
        text = page.read_text()
        for written, mended in ACCESSIBLE.items():
            text = text.replace(written, mended)
        page.write_text(text)


# Names, punctuation and blanks of code have the colour of the text, in either theme: half of a page's weight.
COLOURLESS = re.compile(r'<span class="(?:n|p|w)">([^<]*)</span>')


def lighten(html: Path) -> None:
    """Take the marks from code that colour nothing."""
    for page in html.rglob("*.html"):
        page.write_text(COLOURLESS.sub(r"\1", page.read_text()))


def machine_paths(tree: Path) -> dict[str, str]:
    """Folders of this machine, the longest first, and what stands for them on a page."""
    named = {str(tree.resolve()): "_build/tree", str(ROOT): ".", sys.prefix: ".venv", str(Path.home()): "~"}
    for variable in ("SEPRIORS_DATA", "SEPRIORS_CACHE"):
        if folder := os.environ.get(variable):
            named[os.path.abspath(folder)] = f"${variable}"
    return {path: named[path] for path in sorted(named, key=len, reverse=True) if len(path) > 1}


def scrub(value: Any, places: dict[str, str]) -> Any:
    """The same output with each folder of this machine replaced, wherever a string starts a path with it."""
    if isinstance(value, dict):
        return {k: scrub(v, places) for k, v in value.items()}
    if isinstance(value, list):
        return [scrub(v, places) for v in value]
    if not isinstance(value, str):
        return value
    for path, short in places.items():
        value = re.sub(rf"(?<![\w/.~-]){re.escape(path)}(?![\w-])", short, value)
    return value
