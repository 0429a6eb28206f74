"""The log view of the page, in a headless Chromium: from print() in a task to the drawn line, and how long it takes to
show the end, the middle and the beginning of a large log.

Each line says when it was printed, by the monotonic clock. The browser notes the wall clock after the frame in which
the line was drawn. The two clocks are compared once at the start, so the figures are right to about a millisecond.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.log_task import LINE_BYTES, writes_by_the_clock, writes_lines
from benchmarks.measure import aim, p50, p99, show
from iris.client import IrisClient

if TYPE_CHECKING:
    from playwright.sync_api import Page

_RATE = 20
_COUNT = 200
_LARGE_BYTES = 1 << 30
_AIM_LIVE_MS = 200.0
_AIM_JUMP_MS = 500.0
_NAME = "page_logs"

# Notes when each line was drawn: after the frame that follows the change of the document.
_NOTE_LINES = """
window.drawn = [];
new MutationObserver((changes) => {
  const texts = changes.flatMap((change) => [...change.addedNodes]).map((node) => node.textContent ?? "");
  const found = texts.flatMap((text) => [...text.matchAll(/(\\d+) (\\d{9,}) x/g)]).map((match) => Number(match[2]));
  if (found.length === 0) return;
  requestAnimationFrame(() => setTimeout(() => {
    const now = performance.timeOrigin + performance.now();
    for (const printed of found) window.drawn.push([printed, now]);
  }));
}).observe(document.getElementById("log-rows"), { childList: true, subtree: true });
"""


def run() -> None:
    """Prints the figures."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if program is None:
        show(_NAME, "left out: needs chromium-headless-shell or chromium")
        return

    def open_logs(page: Page, job_id: str) -> None:
        page.goto(client.web_link(job_id))
        page.locator("h1").wait_for()
        page.evaluate("job => { location.hash = `#/jobs/${job}/logs`; }", job_id)

    with tempfile.TemporaryDirectory(prefix="iris-bench-") as directory, IrisClient.local() as client:
        gate = Path(directory) / "gate"
        live = client.run(writes_by_the_clock(str(gate), _RATE, _COUNT))
        large = client.run(writes_lines(_LARGE_BYTES // LINE_BYTES))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            open_logs(page, live.job_id)
            page.locator(".log-text", has_text=re.compile("^ready$")).wait_for()
            client.wait(large.job_id)
            page.evaluate(_NOTE_LINES)
            offset_ms = time.time() * 1000 - time.monotonic() * 1000
            gate.touch()
            page.locator(".log-end").wait_for(timeout=60_000)
            drawn: list[tuple[int, float]] = page.evaluate("window.drawn")
            latencies = [at_ms - printed_ns / 1e6 - offset_ms for printed_ns, at_ms in drawn]
            show(
                _NAME,
                f"{p50(latencies):.0f} ms p50, {p99(latencies):.0f} ms p99 from print to the drawn line"
                f" ({len(latencies)} lines at {_RATE}/s; {aim(p99(latencies), _AIM_LIVE_MS, 'ms')})",
            )
            _measure_jumps(page, lambda: open_logs(page, large.job_id))
            browser.close()


def _measure_jumps(page: Page, open_large: Callable[[], None]) -> None:
    open_large()
    start = time.perf_counter()
    page.locator(".log-end").wait_for()
    times = {"the end after the opening": time.perf_counter() - start}
    rows, scrollbar = page.get_by_role("log"), page.get_by_role("scrollbar")
    presses: dict[str, tuple[int, Callable[[], None]]] = {
        "the beginning": (0, lambda: rows.press("g")),
        "the middle": (50, lambda: page.mouse.click(1375, 160 + 700 / 2)),
        "the end": (100, lambda: rows.press("Shift+G")),
    }
    for what, (value, press) in presses.items():
        start = time.perf_counter()
        press()
        page.wait_for_function(
            "near => document.querySelector('#log-rows').getAttribute('aria-busy') === 'false' &&"
            " Math.abs(document.querySelector('.log-scrollbar').getAttribute('aria-valuenow') - near) < 10",
            arg=value,
        )
        times[what] = time.perf_counter() - start
    assert scrollbar.count() == 1
    figures = ", ".join(f"{what} {seconds * 1000:.0f} ms" for what, seconds in times.items())
    slowest = max(times.values()) * 1000
    show(_NAME, f"a log of {_LARGE_BYTES >> 20} MiB: {figures} ({aim(slowest, _AIM_JUMP_MS, 'ms')})")
