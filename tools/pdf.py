"""Print the built pages with Chromium, in the order of the table of contents, into one PDF with bookmarks.

    python -m tools.pdf [--html _build/html] [--out _build/sepriors-book.pdf] [--source .]

What is folded on a page is unfolded on paper; a player is replaced by what it plays, with levels, and a word. Links to
other pages lead to the published book.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import PdfMargins, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject
from tqdm import tqdm

from tests.browser import ARGS, chromium_path
from tools import ROOT, contents

MARGIN = PdfMargins(top="18mm", bottom="18mm", left="18mm", right="18mm")
WIDTH = 657  # CSS pixels between the margins of A4, 174 mm


def write(source: Path, html: Path, out: Path) -> int:
    """Print the book in `html` into the file `out`, and return its number of pages of paper.

    Raises FileNotFoundError if a page of the contents was not built, Playwright's Error without a Chromium.
    """
    config = yaml.safe_load((source / "_config.yml").read_text())
    paths = [html / f"{name}.html" for name in contents(source)]
    if missing := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"expected the built page {missing[0]}; `make book` builds it")
    script, writer = Path(__file__).with_name("print.js").read_text(), PdfWriter()
    writer.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(playwright), args=ARGS)
        page = browser.new_page(offline=True, viewport={"width": WIDTH, "height": WIDTH})
        page.add_init_script("localStorage.mode = localStorage.theme = 'light'")
        page.emulate_media(media="print")
        for path in tqdm(paths, "printing", unit="page"):
            page.goto(path.as_uri())
            headings = page.evaluate(script, [f"{html.as_uri()}/", config["html"]["baseurl"]])
            pdf = page.pdf(format="A4", margin=MARGIN, print_background=True, tagged=True, outline=True)
            printed = PdfReader(io.BytesIO(pdf))
            entitle(printed.root_object["/Outlines"], iter(headings))
            writer.append(printed)
    writer.compress_identical_objects()
    out.parent.mkdir(parents=True, exist_ok=True)
    writer.write(part := out.with_suffix(".part"))
    part.replace(out)
    return len(writer.pages)


def entitle(outline: Any, titles: Iterator[str]) -> None:
    """Give the bookmarks of a page its headings: Chromium says one twice that it moved to the next page."""
    item = outline.get("/First")
    while item is not None:
        entry = item.get_object()
        entry[NameObject("/Title")] = TextStringObject(next(titles))
        entitle(entry, titles)
        item = entry.get("/Next")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print the built book into one PDF.")
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "sepriors-book.pdf")
    parser.add_argument("--source", type=Path, default=ROOT, help="holds _toc.yml and _config.yml")
    args = parser.parse_args(argv)
    try:
        pages = write(args.source, args.html.resolve(), args.out)
    except FileNotFoundError as error:
        sys.exit(f"pdf: {error}")
    print(f"[book] {args.out}: {pages} pages, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
