"""A Chromium for the tests that need one: where it is, how it is started, and what a page may ask for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
]


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


def faults(page: Page, only: str = "html", rules: list[str] | None = None) -> list[str]:
    """What axe-core finds wrong in the page for those who see little or use no mouse, one line a fault and element.

    `only` is a selector of the part to look at; `rules` the names of the rules to try, all of them by default.
    """
    options = {"resultTypes": ["violations"], "preload": False} | ({"runOnly": rules} if rules else {})
    found = Axe().run(page, context=only, options=options).response["violations"]
    return [f"{v['impact']} {v['id']}: {node['html'][:200]} ({v['help']})" for v in found for node in v["nodes"]]
