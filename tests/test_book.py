"""The built book in a browser: every page, light and dark, wide and narrow, from the disk with no network."""

import os
from pathlib import Path

import pytest
from browser import faults

from tools.gate import Resources

HTML = Path(os.environ.get("SEPRIORS_BOOK_HTML", Path(__file__).parents[1] / "_build" / "smoke" / "_build" / "html"))
PAGES = sorted(HTML.glob("book/*.html")) or [HTML / "book" / "intro.html"]
CHAPTERS = [page for page in PAGES if page.name[:2].isdigit()]
# With search and index, without the page that only sends one on to the first
SITE = [*PAGES, *sorted(page for page in HTML.glob("*.html") if page.name != "index.html")]
pytestmark = pytest.mark.browser

COLOUR_RULES = ["color-contrast", "link-in-text-block"]


def test_there_are_pages():
    assert (HTML / "book" / "intro.html").is_file(), f"no book in {HTML}; 'make smoke' builds it"
    assert CHAPTERS, f"no chapter in {HTML}"


# Rooms of the API are alike: in the dark their front page stands for them
LOOKS = [(1280, "light"), (390, "light"), (1280, "dark")]
LOOKED_AT = [(*look, path) for look in LOOKS for path in SITE if look[1] == "light" or "api-" not in path.stem]


@pytest.mark.parametrize(("width", "theme", "path"), LOOKED_AT, ids=lambda x: x.stem if isinstance(x, Path) else str(x))
def test_page_is_readable(open_page, path, width, theme):
    """With all that is folded open. At the width of a desk axe-core looks too, in the dark only at colours."""
    page = open_page(path, width, theme)
    page.emulate_media(reduced_motion="reduce")  # what is unfolded fades in otherwise, and is pale at first
    page.evaluate("document.querySelectorAll('.bd-article details').forEach(details => { details.open = true; })")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt.trim()).map(i => i.src)"
    assert page.evaluate(broken) == []
    if width > 390:
        assert faults(page, rules=None if theme == "light" else COLOUR_RULES) == []


@pytest.mark.parametrize("path", SITE, ids=lambda p: p.stem)
def test_every_image_has_a_text(path):
    assert Resources(path.read_text("utf-8")).mute == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_formulas_are_set_offline(open_page, path):
    page = open_page(path)
    page.wait_for_selector("mjx-container svg", timeout=20_000)
    assert page.locator("mjx-merror").count() == 0


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_player_of_a_chapter_plays_and_switches(open_page, path):
    page = open_page(path)
    for folded in page.locator("button.toggle-button").all():  # a solution may hold a player
        folded.click()
    players = page.locator(".sp-player")
    assert players.count() >= 2
    for i in range(players.count()):
        player = players.nth(i)
        player.scroll_into_view_if_needed()
        player.focus()
        page.keyboard.press("Space")
        playing = f"document.querySelectorAll('.sp-player')[{i}].querySelector('audio').currentTime"
        page.wait_for_function(f"{playing} > 0.1", timeout=60_000)
        before = page.evaluate(playing)
        page.keyboard.press("2")
        assert player.get_by_role("radio").nth(1).get_attribute("aria-checked") == "true"
        assert page.evaluate(playing) >= before - 0.05, "the switch lost the playhead"
        page.keyboard.press("Space")


def test_ledger_lists_every_claim(open_page):
    from sepriors.lab.claims import read_claims

    page = open_page(HTML / "book" / "ledger.html")
    shown = page.locator("table.ledger tbody tr td:first-child").all_inner_texts()
    assert [text.strip() for text in shown] == list(read_claims(HTML.parent / "tree" / "book" / "claims.toml"))
