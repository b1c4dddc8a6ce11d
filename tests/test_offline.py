"""The book in one file: a zip that needs neither server nor network, and a PDF with bookmarks."""

import os
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import expect
from pypdf import PdfReader

from tools import ROOT
from tools.offline import main, pack

HTML = Path(os.environ.get("SEPRIORS_BOOK_HTML", ROOT / "_build" / "smoke" / "_build" / "html"))
CHAPTER = "book/01-wiener-nmf"


# ---- the zip --------------------------------------------------------------------------------------------------------


def test_the_same_pages_are_the_same_bytes(tmp_path):
    made = []
    for folder, names in {"x": ("index.html", "book/a.html"), "y": ("book/a.html", "index.html")}.items():
        html = tmp_path / folder / "html"
        for name in names:
            (html / name).parent.mkdir(parents=True, exist_ok=True)
            (html / name).write_text(name)
        made.append((html, tmp_path / folder / "book.zip"))
    os.utime(made[1][0] / "index.html", (0, 10**9))
    (made[1][0] / "book" / "a.html").chmod(0o600)
    first, again = (pack(html, out) for html, out in made)
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["book/book/a.html", "book/index.html"]
        assert archive.read("book/book/a.html") == b"book/a.html"
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["book.zip", "html"]


def test_without_a_book_nothing_is_packed(tmp_path):
    with pytest.raises(SystemExit, match=r"expected a built book, got no index\.html"):
        main(["--html", str(tmp_path), "--out", str(tmp_path / "book.zip")])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder that a reader has after unpacking the zip of the built book."""
    folder = tmp_path_factory.mktemp("reader")
    with zipfile.ZipFile(pack(HTML, folder / "book.zip")) as archive:
        archive.extractall(folder)
    return folder / "book"


@pytest.mark.browser
def test_the_unpacked_book_opens_and_sets_its_formulas(open_page, unpacked):
    page = open_page(unpacked / "index.html")
    page.wait_for_url("**/book/intro.html")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="1. Wiener").click()
    expect(page.locator("mjx-container svg").first).to_be_visible()
    page.locator(".sp-player").first.focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('.sp-player audio').currentTime > 0.1", timeout=20_000)


@pytest.mark.browser
def test_the_unpacked_book_is_searched(open_page, unpacked):
    page = open_page(unpacked / "book" / "intro.html")
    page.get_by_role("button", name="Search").first.click()
    page.keyboard.type("Itakura")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=Itakura")
    found = page.locator("#search-results li a")
    expect(found.first).to_be_visible()
    expect(page.locator("#search-results")).to_contain_text("Search finished, found")
    page.locator("#search-results li a[href*='01-wiener-nmf']").first.click()
    page.wait_for_url("**/01-wiener-nmf.html*")
    assert "Itakura" in page.locator("article").inner_text()


# ---- the PDF --------------------------------------------------------------------------------------------------------

TOC = f"""root: book/intro
parts:
- caption: Part I
  chapters: [{{file: {CHAPTER}}}]
- caption: Part II
  chapters: [{{file: book/glossary, sections: [{{file: book/references}}]}}]
"""


@pytest.fixture
def source(tmp_path):
    """The sources of a book of four pages."""
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    return tmp_path


def print_pdf(source, html):
    """In a process of its own: two Playwrights do not share one."""
    command = [sys.executable, "-m", "tools.pdf", "--source", source, "--html", html, "--out", source / "book.pdf"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def squeezed(text):
    """Without blanks, which a PDF need not have where a line ends, and without ligatures."""
    return "".join(text.replace("ﬁ", "fi").replace("ﬂ", "fl").replace("ﬀ", "ff").split())


@pytest.mark.browser
def test_the_pdf_holds_all_pages_with_bookmarks_and_what_is_folded_and_leads_nowhere_on_this_disk(source, open_page):
    run = print_pdf(source, HTML)
    assert run.returncode == 0, run.stderr
    assert "4/4" in run.stderr  # the bar went to its end
    pdf = PdfReader(source / "book.pdf")
    assert pdf.metadata.title == "Speech enhancement priors"
    pages = [squeezed(page.extract_text()) for page in pdf.pages]

    def marks(outline):
        return [mark for item in outline for mark in (marks(item) if isinstance(item, list) else [item])]

    tops = [squeezed(item.title) for item in pdf.outline if not isinstance(item, list)]
    assert tops[1:] == [squeezed(title) for title in ("1. Wiener filtering and NMF", "Glossary", "References")]
    places = [pdf.get_destination_page_number(mark) for mark in marks(pdf.outline)]
    assert all(before <= after for before, after in pairwise(places))
    assert all(squeezed(mark.title) in pages[at] for mark, at in zip(marks(pdf.outline), places, strict=True))
    assert "1.10.Exercises" in {squeezed(mark.title) for mark in marks(pdf.outline)}

    chapter = open_page(HTML / f"{CHAPTER}.html")
    folded = chapter.locator(".bd-article details").evaluate_all("all => all.map(d => d.lastElementChild.textContent)")
    text = "".join(pages)
    assert len(folded) > 3
    assert all(squeezed(part)[:25] in text for part in folded)  # a page may end after the first line
    assert "Hidecodecellsource" not in text
    assert text.count(squeezed("To be heard in the pages of the book")) == chapter.locator(".sp-player").count()
    assert "Spaceplays" not in text

    links = [link.get_object() for page in pdf.pages for link in page.get("/Annots", ())]
    outside = [str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})]
    assert [address for address in outside if not address.startswith("https://")] == []
    assert any(address.startswith("https://sepriors.github.io/sepriors/book/ledger") for address in outside)


def test_a_page_that_was_not_built_is_named(source):
    run = print_pdf(source, source)
    assert run.returncode == 1
    assert "expected the built page" in run.stderr
    assert not (source / "book.pdf").exists()
