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

from tools import ROOT, pdf
from tools.offline import main, pack

HTML = Path(os.environ.get("SEPRIORS_BOOK_HTML", ROOT / "_build" / "smoke" / "_build" / "html"))
CHAPTER = "book/01-wiener-nmf"


@pytest.fixture
def pages(tmp_path):
    """A function that writes the files of a small site, in the order given."""

    def write(folder, *names):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(name)
        return tmp_path / folder

    return write


# ---- the zip --------------------------------------------------------------------------------------------------------


def test_the_same_pages_are_the_same_bytes(pages, tmp_path):
    one = pages("one", "index.html", "book/a.html", ".buildinfo")
    two = pages("two", ".buildinfo", "book/a.html", "index.html")
    os.utime(two / "index.html", (0, 10**9))
    (two / "book" / "a.html").chmod(0o600)
    first, again = pack(one, tmp_path / "x" / "book.zip"), pack(two, tmp_path / "y" / "book.zip")
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["book/.buildinfo", "book/book/a.html", "book/index.html"]
        assert archive.read("book/book/a.html") == b"book/a.html"
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["book.zip"]


def test_without_a_book_nothing_is_packed(tmp_path, capsys):
    assert main(["--html", str(tmp_path), "--out", str(tmp_path / "book.zip")]) == 1
    assert "expected a built book, got no index.html" in capsys.readouterr().err
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


def test_the_contents_are_those_of_the_book():
    files = [entry.file for entry in pdf.entries(ROOT)]
    assert files[0] == "book/intro"
    assert [name for name in files if name[5:7].isdigit()] == [
        f"book/{p.stem}" for p in sorted(ROOT.glob("book/0*.ipynb"))
    ]
    assert files[-1] == "book/api-8"
    assert "book/references" in files


TOC = f"""root: book/intro
parts:
- caption: Part I
  chapters: [{{file: {CHAPTER}}}]
- caption: Part II
  chapters: [{{file: book/glossary}}, {{file: book/references}}]
"""


@pytest.fixture(scope="module")
def printed(browser, tmp_path_factory):
    """Four pages of the book, printed. In a process of its own: two Playwrights do not share one."""
    folder = tmp_path_factory.mktemp("pdf")
    (folder / "_toc.yml").write_text(TOC)
    (folder / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    out = folder / "book.pdf"
    command = [sys.executable, "-m", "tools.pdf", "--source", folder, "--html", HTML, "--out", out]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "4/4" in run.stderr  # the bar went to its end
    return PdfReader(out)


def squeezed(text):
    """Without blanks, which a PDF need not have where a line ends, and without ligatures."""
    return "".join(text.replace("ﬁ", "fi").replace("ﬂ", "fl").replace("ﬀ", "ff").split())


def titles(outline):
    """(depth, title, destination) of each bookmark."""
    for item in outline:
        if isinstance(item, list):
            yield from ((depth + 1, title, place) for depth, title, place in titles(item))
        else:
            yield 0, item.title, item


@pytest.mark.browser
def test_the_pdf_has_a_bookmark_for_each_part_page_and_heading(printed):
    found = list(titles(printed.outline))
    top = [title for depth, title, _ in found if depth == 0]
    assert top[-2:] == ["Part I", "Part II"]
    names = [(depth, title) for depth, title, _ in found]
    assert (1, "1. Wiener filtering and NMF") in names
    assert (1, "Glossary") in names
    assert (2, "1.10. Exercises") in names
    places = [printed.get_destination_page_number(place) for _, _, place in found]
    assert all(before <= after for before, after in pairwise(places))
    for (_, title, _), place in zip(found, places, strict=True):
        assert title.startswith("Part") or squeezed(title) in squeezed(printed.pages[place].extract_text())
    assert printed.metadata.title == "Speech enhancement priors"


@pytest.mark.browser
def test_the_pdf_shows_what_is_folded_and_says_where_sound_is(printed, open_page):
    text = squeezed("\n".join(page.extract_text() for page in printed.pages))
    page = open_page(HTML / f"{CHAPTER}.html")
    folded = page.locator(".bd-article details").evaluate_all("all => all.map(d => d.lastElementChild.textContent)")
    assert len(folded) > 3
    for part in folded:
        assert squeezed(part)[:60] in text
    assert "Hidecodecellsource" not in text
    assert text.count(squeezed("To be heard in the pages of the book")) == page.locator(".sp-player").count()
    assert "Spaceplays" not in text


@pytest.mark.browser
def test_links_of_the_pdf_lead_into_it_or_to_the_published_book(printed):
    links = [link.get_object() for page in printed.pages for link in page.get("/Annots", ())]
    inside = [link["/Dest"] for link in links if "/Dest" in link]
    outside = [str(link["/A"]["/URI"]) for link in links if "/Dest" not in link]
    numbers = {page.indirect_reference.idnum: number for number, page in enumerate(printed.pages)}
    goals = [numbers[place[0].idnum] for place in inside]
    starts = {title: printed.get_destination_page_number(place) for _, title, place in titles(printed.outline)}
    assert starts["Glossary"] in goals
    assert starts["References"] in goals
    assert len(set(goals)) > 3
    assert [address for address in outside if not address.startswith("https://")] == []
    assert any(address.startswith("https://sepriors.github.io/sepriors/book/ledger") for address in outside)


def test_a_page_that_was_not_built_is_named(tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    command = [sys.executable, "-m", "tools.pdf", "--source", tmp_path, "--html", tmp_path, "--out", tmp_path / "x.pdf"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "expected the built page" in run.stderr
    assert not (tmp_path / "x.pdf").exists()
