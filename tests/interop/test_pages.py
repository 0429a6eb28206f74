"""Pages in headless Chromium: the page of examples/clients, eight follows at once, and EventSource through a cut."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.client_programs import TYPESCRIPT, need_node_modules

HERE = Path(__file__).parent
BROWSERS = ("chromium-headless-shell", "chromium")


class Page:
    """A page in a browser."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def shown(self) -> Iterator[dict[str, str]]:
        """Yield each change of what the page shows, until the page is done."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def until(self, name: str, words: str) -> str:
        """Return the text of an element when it contains words."""
        seen = []
        for change in self.shown():
            seen.append(change)
            if words in change.get(name, ""):
                return change[name]
        raise AssertionError(f"the page never shows {words!r}: {seen}")


@pytest.fixture(scope="module")
def browser() -> str:
    """The path of a browser."""
    need_node_modules()
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs {' or '.join(BROWSERS)}")
    return found


@contextmanager
def opened(browser: str, url: str, until: str) -> Iterator[Page]:
    """Open a page, until its state matches a pattern."""
    command = ["node", HERE / "drive_page.mjs", TYPESCRIPT / "node_modules", browser, url, until]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Page(process)
        finally:
            process.kill()
