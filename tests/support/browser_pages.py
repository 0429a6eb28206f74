"""Opens the page of a cluster in a headless browser, and collects the errors of the page."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from support.tokens import token
from support.waiting import wait_until
from support.web_session_client import SessionClient

BROWSERS = ("chromium-headless-shell", "chromium")
WEB = Path(__file__).parents[2] / "web"
# If this variable names a directory, `Pages.take_screenshots` writes pictures there. Otherwise it does nothing.
SCREENSHOTS_VARIABLE = "IRIS_SCREENSHOTS"
WIDTHS = (390, 900, 1400)
_AXE = WEB / "node_modules" / "axe-core" / "axe.min.js"
_NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
# Chromium reports each failed request in its console. Tests that break the connection on purpose expect these reports.
_FAILED_REQUEST = ("Failed to load resource", "net::ERR_")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a headless Chromium. The test is skipped if no Chromium is installed."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs {' or '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        # Chromium does not start its sandbox as root, and CI runs the tests as root.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Pages:
    """Opens the page of a cluster in tabs of one browser.

    Args:
        browser: The browser.

    Attributes:
        errors: The errors of all tabs: exceptions, refused styles and scripts, and errors in the console. Failed
            requests are not in the list. A test that expects an error clears the list.
    """

    def __init__(self, browser: Browser) -> None:
        self.errors: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(self, address: str, route: str = "#/jobs", *, secret: str | None = None, **options: Any) -> Page:
        """Open a route of the page in a new browser context that is signed in with the admin's token.

        Args:
            address: The URL of the cluster or of a proxy.
            route: The hash of the view.
            secret: Another token; an empty text opens the page without signing in.
            options: Further options of `Browser.new_context`, for example `color_scheme="dark"`.
        """
        return self.open_tab(self.new_context(address, secret=secret, **options), address, route)

    def new_context(self, address: str, *, secret: str | None = None, **options: Any) -> BrowserContext:
        """Return a new browser context without tabs, signed in like the one of `open`."""
        context = self._browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        context.set_default_timeout(30_000)
        self._contexts.append(context)
        chosen = token() if secret is None else secret
        if chosen:
            _sign_in(context, address.rstrip("/"), chosen)
        return context

    def open_tab(self, context: BrowserContext, address: str, route: str = "#/jobs") -> Page:
        """Open a route in a further tab of a browser context. Tabs of one context share storage and workers."""
        page = self.new_tab(context)
        go_to(page, f"{address.rstrip('/')}/{route}")
        return page

    def new_tab(self, context: BrowserContext) -> Page:
        """Return a new tab that is empty. A test can then disturb the first load of the page."""
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        page.on("console", lambda message: self._note(message.type, message.text))
        # pytest shows these lines if the test fails.
        page.on("requestfailed", lambda request: print(f"failed request: {request.url}: {request.failure}"))
        return page

    def take_screenshots(self, page: Page, name: str) -> None:
        """Write pictures of a tab at three widths, in light and dark, if `SCREENSHOTS_VARIABLE` is set."""
        directory = os.environ.get(SCREENSHOTS_VARIABLE)
        if not directory:
            return
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # mypy sees a text
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                page.screenshot(path=Path(directory) / f"{name}-{width}-{scheme}.png")

    def close(self) -> None:
        """Close all tabs."""
        for context in self._contexts:
            context.close()

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and not any(words in text for words in _FAILED_REQUEST):
            self.errors.append(text)


def go_to(page: Page, url: str, *, wait_until: Literal["commit", "load"] = "load") -> None:
    """Open an address. The address is opened again if the network of this computer has changed meanwhile.

    Tests that run at the same time create network interfaces for simulated machines. Chromium then drops the requests
    that wait for a connection. A window of Chromium loads such a page again by itself, but a headless tab does not.
    """

    def load(is_first: bool) -> None:
        if not is_first:  # Only the hash of the address may differ, and then a browser does not load the page again.
            page.goto("about:blank")
        page.goto(url, wait_until=wait_until)

    _load(page, load, url)


def reload(page: Page) -> None:
    """Load a page again, and once more if the network of this computer has changed meanwhile, as `go_to` does."""
    _load(page, lambda _is_first: page.reload(), page.url)


def _load(page: Page, load: Callable[[bool], object], url: str) -> None:
    dropped: list[str] = []

    def note(request: Request) -> None:
        if _NETWORK_CHANGED in (request.failure or ""):
            dropped.append(request.url)

    page.on("requestfailed", note)
    try:
        for number in range(10):
            dropped.clear()
            try:
                load(number == 0)
            except PlaywrightError as error:
                if _NETWORK_CHANGED not in error.message:
                    raise
                continue
            if not any(address.endswith("/start.js") for address in dropped):
                return  # The program start.js loads all other files again by itself.
    finally:
        page.remove_listener("requestfailed", note)
    raise AssertionError(f"the network changed during each request of {url}")


def _sign_in(context: BrowserContext, address: str, secret: str) -> None:
    """Sign a browser context in without the form of the page."""
    with SessionClient(address, verify=False) as client:  # Tests of proxies use certificates of their own.
        client.sign_in(token=secret)
    path = f"{client.page_path}{client.session_path}/"
    host = urlsplit(address).hostname or ""
    is_secure = address.startswith("https:")
    context.add_cookies(
        [
            {
                "name": "iris_session",
                "value": client.cookie,
                "domain": host,
                "path": path,
                "httpOnly": True,
                "secure": is_secure,
                "sameSite": "Strict",
            }
        ]
    )
    stored = json.dumps(f"iris.session {client.page_path}"), json.dumps(client.session_path)
    # Only the first page stores the session. Otherwise a page could not sign out. The origin of about:blank is "null",
    # and such a page has no storage.
    context.add_init_script(
        "if (origin !== 'null') {"
        f"  if (!sessionStorage.getItem('stored')) localStorage.setItem({', '.join(stored)});"
        "  sessionStorage.setItem('stored', 'yes');"
        "}"
    )


def expect_to_fit(page: Page) -> None:
    """Wait until the whole width of the page is in sight.

    Some parts of the page get their new width only in the frame after a change of the size of the window.
    """
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")


class HeldRequests:
    """Holds the requests of a tab to some addresses until `release`.

    Args:
        page: The tab.
        url: The addresses, as `Page.route` takes them.
    """

    def __init__(self, page: Page, url: str | re.Pattern[str]) -> None:
        self._page = page
        self._held: list[Route] = []
        self._is_holding = True
        page.route(url, self._take)

    def wait(self) -> None:
        """Wait until a request is held."""
        # Playwright calls `_take` only during a call to Playwright, and therefore not during a pause of `wait_until`.
        wait_until(lambda: self._page.evaluate("true") and self._held, "a request that is held")

    def release(self) -> None:
        """Send the held requests, and hold no others."""
        self._is_holding = False
        for route in self._held:
            route.continue_()

    def _take(self, route: Route) -> None:
        if self._is_holding:
            self._held.append(route)
        else:
            route.continue_()


def try_now(page: Page) -> None:
    """Click the button "Try now" or "Update at once" in the bar about the connection, if the page shows the bar.

    The page opens its streams again by itself, too. Therefore the bar may disappear at any time, and a click of
    Playwright could wait for a button that does not come back.
    """
    page.evaluate("document.querySelector('.connection-bar button')?.click()")


def accessibility_problems(page: Page, rule: str = "") -> list[str]:
    """Return what axe finds in the page: one line for each serious or critical problem and each of its elements.

    Args:
        page: The tab.
        rule: The only rule of axe to check, for example `color-contrast`. Empty: all rules, which cost more CPU time.
    """
    if not _AXE.exists():
        pytest.skip("needs the packages of web/: run 'poe web'")
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE.read_text())
    options = {"resultTypes": ["violations"], **({"runOnly": [rule]} if rule else {})}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}: {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
