"""Print the built pages with Chromium, in the order of the table of contents, into one PDF with bookmarks.

    python -m tools.pdf [--html _build/html] [--out _build/sepriors-book.pdf] [--source .]

What is folded on a page is unfolded on paper; a player is replaced by what it plays, with levels, and a word.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from playwright.sync_api import Page, PdfMargins, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, Fit, NameObject, TextStringObject
from tqdm import tqdm

from tests.browser import ARGS, chromium_path
from tools import ROOT

MARGIN = PdfMargins(top="18mm", bottom="18mm", left="18mm", right="18mm")
WIDTH = 657  # CSS pixels between the margins of A4, 174 mm
# Chromium prints what it shows: so all is unfolded (the style does it too, but not in an old Chromium), every formula
# is set, a table that is wider than the paper is made smaller. Returns the headings.
PREPARE = """async () => {
  document.querySelectorAll('details').forEach(details => { details.open = true; });
  document.querySelectorAll('.headerlink').forEach(link => link.remove());
  await Promise.all([...document.images].map(image => image.decode()));
  await document.fonts.ready;
  if (window.MathJax) await MathJax.startup.promise;
  document.querySelectorAll('.bd-article table').forEach(table => {
    const room = table.parentElement.clientWidth;
    if (table.offsetWidth > room) table.style.zoom = room / table.offsetWidth;
  });
  const headings = document.querySelectorAll('.bd-article :is(h1, h2, h3, h4, h5, h6)');
  return Array.from(headings, heading => heading.textContent.trim().replace(/\\s+/g, ' '));
}"""


class MethodSpec(NamedTuple):
    """A page of the table of contents: its part's caption, empty for the first page, and its file without a suffix."""

    part: str
    file: str


class Printed(NamedTuple):
    """A page as Chromium printed it: its part of the book, its address on the disk, its headings and the PDF."""

    part: str
    address: str
    headings: list[str]
    pdf: PdfReader


def entries(source: Path) -> list[MethodSpec]:
    """The pages of the table of contents, in its order.

    >>> entries(ROOT)[0]
    Entry(part='', file='book/intro')
    """
    toc = yaml.safe_load((source / "_toc.yml").read_text())
    chapters = [(part["caption"], chapter) for part in toc["parts"] for chapter in part["chapters"]]
    pages = [(caption, page) for caption, chapter in chapters for page in (chapter, *chapter.get("sections", []))]
    return [MethodSpec("", toc["root"]), *(MethodSpec(caption, page["file"]) for caption, page in pages)]


def print_pages(html: Path, contents: list[MethodSpec]) -> Iterator[Printed]:
    """Print one page after the other, in the light theme.

    Raises FileNotFoundError if there is no Chromium, or a page of the contents was not built.
    """
    paths = [html / f"{entry.file}.html" for entry in contents]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"expected the built page {missing[0]}; `make book` builds it")
    with sync_playwright() as playwright:
        chromium = chromium_path(playwright)
        if chromium is None:
            raise FileNotFoundError(
                "no Chromium: install one (apt-get install chromium) or name it in SEPRIORS_CHROMIUM"
            )
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGS)
        context = browser.new_context(offline=True, viewport={"width": WIDTH, "height": WIDTH})
        context.add_init_script("localStorage.mode = localStorage.theme = 'light'")
        page = context.new_page()
        page.emulate_media(media="print")
        for entry, path in zip(contents, paths, strict=True):
            yield print_page(page, entry.part, path.as_uri())
        browser.close()


def print_page(page: Page, part: str, address: str) -> Printed:
    """One page on A4, with its headings as an outline."""
    page.goto(address)
    headings = page.evaluate(PREPARE)
    pdf = page.pdf(format="A4", margin=MARGIN, print_background=True, tagged=True, outline=True)
    return Printed(part, address, headings, PdfReader(io.BytesIO(pdf)))


# ---- joining --------------------------------------------------------------------------------------------------------


def join(printed: Iterable[Printed], html: str, published: str) -> PdfWriter:
    """One PDF of all pages, with a bookmark for each part, page and heading.

    Links from page to page lead to their place in the PDF; those to files under the address `html` that are not in the
    PDF lead to the same files under the address `published`.
    """
    writer = PdfWriter()
    places: dict[str, ArrayObject] = {}  # address, with or without a fragment -> where it is in the PDF
    addresses: list[str] = []  # of each page of paper
    open_part, bookmark = "", None
    for part, address, headings, pdf in printed:
        start = len(writer.pages)
        writer.append(pdf, import_outline=False)
        addresses += [address] * len(pdf.pages)
        if part != open_part:
            open_part, bookmark = part, writer.add_outline_item(title=part, page_number=start)
        left = iter(headings)
        add_bookmarks(writer, pdf, pdf.outline, left, start, bookmark)
        assert next(left, None) is None, f"{address}: expected a bookmark for each heading, got fewer"
        places |= destinations(writer, pdf, start, address)
    for page, address in zip(writer.pages, addresses, strict=True):
        for annotation in page.get("/Annots", ()):
            redirect(annotation.get_object(), address, places, html, published)
    writer.compress_identical_objects()
    return writer


def add_bookmarks(
    writer: PdfWriter, pdf: PdfReader, outline: list[Any], headings: Iterator[str], start: int, parent: Any
) -> None:
    """The outline of one printed page under the bookmark `parent`; a list in it holds what is under the item before.

    The outline has the headings in their order. Their texts come from the page: Chromium loses the blank where a
    heading is broken into lines, and says one twice that it moved to the next page.
    """
    last = parent
    for item in outline:
        if isinstance(item, list):
            add_bookmarks(writer, pdf, item, headings, start, last)
        else:
            number = start + (pdf.get_destination_page_number(item) or 0)
            last = writer.add_outline_item(
                title=next(headings), page_number=number, parent=parent, fit=Fit.xyz(top=item.top)
            )


def destinations(writer: PdfWriter, pdf: PdfReader, start: int, address: str) -> dict[str, ArrayObject]:
    """Where the page at `address`, and each place in it that it links to itself, are in the joined PDF."""
    places = {address: ArrayObject([writer.pages[start].indirect_reference, NameObject("/Fit")])}
    for name, place in pdf.named_destinations.items():
        page = writer.pages[start + (pdf.get_destination_page_number(place) or 0)]
        places[f"{address}#{name.removeprefix('/')}"] = ArrayObject([page.indirect_reference, *place.dest_array[1:]])
    return places


def redirect(link: DictionaryObject, address: str, places: dict[str, ArrayObject], html: str, published: str) -> None:
    """Let a link on the page from `address` lead into the PDF or to the published book, never to this disk."""
    action = link.get("/A", {})
    goal = f"{address}#{str(link['/Dest']).removeprefix('/')}" if "/Dest" in link else action.get("/URI", "")
    place = places.get(goal) or places.get(goal.partition("#")[0])
    if place is not None:
        link.pop("/A", None)
        link[NameObject("/Dest")] = place
    elif goal.startswith(html):
        action[NameObject("/URI")] = TextStringObject(published + goal.removeprefix(html))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print the built book into one PDF.")
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "sepriors-book.pdf")
    parser.add_argument("--source", type=Path, default=ROOT, help="holds _toc.yml and _config.yml")
    args = parser.parse_args(argv)
    try:
        pages = write(args.source, args.html.resolve(), args.out)
    except FileNotFoundError as error:
        print(f"pdf: {error}", file=sys.stderr)
        return 1
    print(f"[book] {args.out}: {pages} pages, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


def write(source: Path, html: Path, out: Path) -> int:
    """Print the book in `html` into the file `out`, and return its number of pages of paper.

    Raises FileNotFoundError if there is no Chromium, or a page of the contents was not built.
    """
    config = yaml.safe_load((source / "_config.yml").read_text())
    contents = entries(source)
    printed = tqdm(print_pages(html, contents), "printing", len(contents), unit="page")
    writer = join(printed, f"{html.as_uri()}/", config["html"]["baseurl"])
    writer.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    writer.write(part)
    part.replace(out)
    return len(writer.pages)


if __name__ == "__main__":
    sys.exit(main())
