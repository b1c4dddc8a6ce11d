"""A Chromium for the tests that need one: where it is, how it is started, and what a page may ask for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--mute-audio",
]  # fmt: skip


def chromium_path(playwright: Playwright | None = None) -> str | None:
    """The Chromium to test with: `SEPRIORS_CHROMIUM`, else the system's, else Playwright's own, else None."""
    if chosen := os.environ.get("SEPRIORS_CHROMIUM"):
        return chosen
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    own = playwright.chromium.executable_path if playwright else None
    return own if own and os.path.exists(own) else None


def launch(playwright: Playwright) -> Browser:
    """Start Chromium without a window; without one the test is skipped, or fails where it must not be (in CI)."""
    path = chromium_path(playwright)
    if path is None:
        message = "no Chromium: install one (apt-get install chromium) or name it in SEPRIORS_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return playwright.chromium.launch(executable_path=path, args=ARGS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the whole run; each test opens its own context."""
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page from the disk, offline, or from a server here; in the end no request may have left the machine, no
    script have failed, and no request but where `lacks` says that a file is missing. Options are those of a context.
    """
    contexts: list[BrowserContext] = []
    asked: list[str] = []
    wrong: list[str] = []

    def go(place: Path | str, width: int = 1280, theme: str = "light", lacks: bool = False, **options: Any) -> Page:
        usual: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "offline": isinstance(place, Path)}
        context = browser.new_context(**usual | options)
        contexts.append(context)
        if options.get("java_script_enabled", True):
            context.add_init_script(f"localStorage.mode = localStorage.theme = '{theme}'")
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        if not lacks:
            page.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}"))
        page.goto(place.as_uri() if isinstance(place, Path) else place)
        page.wait_for_load_state("load")
        return page

    yield go
    for context in contexts:
        context.close()
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))] == []
    # a media element gives up a range that it no longer needs
    assert [text for text in wrong if "ERR_ABORTED" not in text] == []


def faults(page: Page, only: str = "html", rules: list[str] | None = None) -> list[str]:
    """What axe-core finds wrong in the page for those who see little or use no mouse, one line a fault and element.

    `only` is a selector of the part to look at; `rules` the names of the rules to try, all of them by default.
    """
    options = {"resultTypes": ["violations"], "preload": False} | ({"runOnly": rules} if rules else {})
    found = Axe().run(page, context=only, options=options).response["violations"]
    return [f"{v['impact']} {v['id']}: {node['html'][:200]} ({v['help']})" for v in found for node in v["nodes"]]
