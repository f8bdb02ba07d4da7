"""The whole laptop stack with a small catalogue, and a real browser in front of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, sync_playwright

from local.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = 300
UP_SECONDS = 100
WAIT_MS = 15_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module: Playwright keeps an event loop running in this thread, which other tests must not meet."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = "no Chromium here; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[dict[str, Any]]:
    """The stack's state.json. It asks for the browser, so that nothing starts in vain."""
    folder = tmp_path_factory.mktemp("stack")
    local = [sys.executable, "-m", "local"]
    where = ["--data-dir", str(folder)]
    up = subprocess.run(
        [*local, "up", "--detach", *where, "--port", str(free_port()), "--rows", str(ROWS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=UP_SECONDS,
        check=False,
    )
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield json.loads((folder / "state.json").read_text())
    finally:
        subprocess.run([*local, "down", *where], cwd=REPOSITORY, capture_output=True, timeout=UP_SECONDS, check=False)


class Visit:
    """One person's browser window. `page` fails on its own after 15 s; `console` and `foreign` collect what must not be:
    messages of trouble, and requests to another host."""

    def __init__(self, browser: Browser, address: str, width: int, height: int) -> None:
        self.address = address
        self.console: list[str] = []
        self.foreign: list[str] = []
        self.context: BrowserContext = browser.new_context(viewport={"width": width, "height": height})
        self.context.set_default_timeout(WAIT_MS)
        self.context.route("**/*", self._route)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.console.append(str(error)))

    def _route(self, route: Route, request: Request) -> None:
        if request.url.startswith(self.address):
            route.continue_()
        else:
            self.foreign.append(request.url)
            route.abort()

    def _console(self, message: ConsoleMessage) -> None:
        # HTMX also reports as an error what it was asked to do: to give up a search for a newer one.
        given_up = message.text.startswith(("htmx:sendAbort", "htmx:afterRequest"))
        if message.type in ("error", "warning") and not given_up:
            self.console.append(message.text)

    def open(self, path: str) -> Page:
        self.page.goto(self.address + path)
        return self.page

    def search(self, query: str) -> None:
        """Type the query and wait for its results."""
        self.page.fill("#q", query)
        self.page.wait_for_function(
            "query => new URLSearchParams(location.search).get('q') === query"
            " && document.querySelector('#results .row .match') && !document.querySelector('#results.htmx-request')",
            arg=query,
        )

    def best(self) -> str:
        return self.page.inner_text("#results .row:first-child h3")


@pytest.fixture
def visit(browser: Browser, stack: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A window of 1,100 by 800 pixels; parametrize it indirectly with (width, height) for another size."""
    width, height = getattr(request, "param", (1_100, 800))
    visit = Visit(browser, stack["frontend_url"], width, height)
    yield visit
    visit.context.close()
    assert not visit.console, "the browser's console shows trouble"
    assert not visit.foreign, "a page asked another host"
