"""The page in headless Chromium on loopback: from the start of the navigation until the first jobs are painted.

The cluster has 10,000 ended jobs, of which the page loads the newest 1,000. Each of 15 loads is measured with an empty
cache, and once more with a full cache, after one load that does not count. Needs the group `browser` and Chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.growth import fill
from benchmarks.measure import aim, p50, p95, show
from iris.cluster.client.server_process import start_server
from iris.config import ClusterConfig

_NAME = "page_load"
_JOBS = 10_000
_LOADS = 15
_AIM_MS = 500.0
_BROWSERS = ("chromium-headless-shell", "chromium")
# Notes the time at which the first rows are on the screen: the second frame after they are in the document.
_NOTE_PAINT = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("[data-row]")) return;
  observer.disconnect();
  const note = () => { document.documentElement.dataset.paintedAt = performance.now(); };
  requestAnimationFrame(() => requestAnimationFrame(note));
}).observe(document, { childList: true, subtree: true });
"""


def run() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="iris-bench-") as name:
        directory = Path(name) / "state"
        directory.mkdir(mode=0o700)
        fill(directory / "controller.db", _JOBS)
        server = start_server(ClusterConfig(state_dir=directory, port=0), ends_with_us=True)
        try:
            assert server.token is not None, "a server on this machine has a token"
            _measure(server.address, server.token)
        finally:
            server.stop()


def _measure(address: str, token: str) -> None:
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.get_by_label("Token").first.fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector("[data-row]")
        page.add_init_script(_NOTE_PAINT)
        devtools = page.context.new_cdp_session(page)
        for label, is_empty in (("empty cache", True), ("full cache", False)):
            devtools.send("Network.setCacheDisabled", {"cacheDisabled": is_empty})
            _painted_ms(page)
            times = [_painted_ms(page) for _ in range(_LOADS)]
            show(
                _NAME,
                f"{_JOBS:,} jobs, {label}: the first jobs are painted after {p50(times):.0f} ms (p95 {p95(times):.0f});"
                f" {aim(p50(times), _AIM_MS, 'ms')}",
            )
        browser.close()


def _painted_ms(page: Page) -> float:
    """Loads the page again; the time until the first jobs are painted."""
    page.reload(wait_until="commit")
    page.wait_for_selector("html[data-painted-at]", state="attached")
    return float(page.evaluate("document.documentElement.dataset.paintedAt"))
