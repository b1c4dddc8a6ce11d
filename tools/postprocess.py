"""Make what is published from what was made: no trace of the machine in a notebook, no need of a server in a page."""

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
    for path, short in places.items() if isinstance(value, str) else ():
        value = re.sub(rf"(?<![\w/.~-]){re.escape(path)}(?![\w-])", short, value)
    return value


# What is mended in every page, in this order
MENDED = [
    # Jupyter Book always loads Thebe, which would fetch itself from another host; preloaded fonts fail without a server
    (r"<(script|link)[^>]*sphinx-thebe[^>]*>(</script>)?\s*", ""),
    (r"<script>const THEBE_JS_URL.*?</script>\s*", ""),
    (r'<script type="text/x-thebe-config">.*?</script>\s*', ""),
    (r'<link rel="preload" as="font"[^>]*>\s*', ""),
    # What axe-core finds wrong in pages as the theme, docutils and pandas write them: a region without a name, a header
    # of nothing (the corner over an index), a list of no list items, a role that ARIA has given up, a fold without one
    (r'<div (class="bd-sidebar-primary)', r'<div role="region" aria-label="Contents and search" \1'),
    (r"<th></th>", "<td></td>"),
    (r'<div role="list" (class="citation-list">)', r"<div \1"),
    (r' role="doc-biblioentry"', ""),
    (r'<summary>(<span class="toctree-toggle")', r'<summary aria-label="The pages below">\1'),
    # Names, punctuation and blanks of code have the colour of the text, in either theme: half of a page's weight
    (r'<span class="(?:n|p|w)">([^<]*)</span>', r"\1"),
]
# The search shows a few lines of each page found, which it asks the server for; on a disk there is none to ask.
SUMMARY = "SHOW_SEARCH_SUMMARY: true", 'SHOW_SEARCH_SUMMARY: location.protocol !== "file:"'


def mend(html: Path) -> None:
    """Mend the built pages: they work from a disk, where a browser loads no fonts and no network is there, tell those
    who hear them read aloud what they show, and weigh less.
    """
    for page in html.rglob("*.html"):
        text = page.read_text()
        for pattern, mended in MENDED:
            text = re.sub(pattern, mended, text, flags=re.DOTALL)
        page.write_text(text)
    for sheet in html.glob("_static/vendor/fontawesome/*/css/all.min.css"):
        (font,) = sheet.parents[1].glob("webfonts/fa-solid-*.woff2")
        embedded = f"url(data:font/woff2;base64,{base64.b64encode(font.read_bytes()).decode()})"
        # Once: the present family comes first, then the names it had in earlier versions.
        sheet.write_text(sheet.read_text().replace(f"url(../webfonts/{font.name})", embedded, 1))
    for options in html.glob("_static/documentation_options.js"):
        options.write_text(options.read_text().replace(*SUMMARY))
