"""Fixtures of the tests of the page: one browser and one controller for all modules, and tabs without errors.

The browser is closed after the last test of this folder. Its driver runs an event loop in this thread, and tests of
other folders start event loops of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="needs the group browser: run 'uv sync'")

from playwright.sync_api import Browser, expect
from support.browser_pages import Pages, running_browser
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine

from iris.cluster.controller.storage.store import Store

# The default of 5 s is too short for a machine that runs many tests at the same time.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A headless browser."""
    with running_browser() as running:
        yield running


@pytest.fixture(scope="package")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerThread]:
    """A controller without workers, so that jobs wait. It costs much less CPU time than a cluster."""
    with serving(FakeEngine(), Store(tmp_path_factory.mktemp("web") / "controller.db")) as served:
        yield served


@pytest.fixture
def pages(browser: Browser) -> Iterator[Pages]:
    """Opens tabs. The test fails if a tab has had an error that the test has not cleared."""
    opened = Pages(browser)
    try:
        yield opened
    finally:
        opened.close()
    assert opened.errors == []
