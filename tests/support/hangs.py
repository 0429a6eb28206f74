"""A pytest plugin that ends a test process which pytest-timeout cannot free from a hang.

At the time limit of a test, pytest-timeout raises an exception in the main thread. A `with` block that waits for a
thread (of a `ThreadPoolExecutor`, for example) then waits for ever, because the thread still hangs. Therefore this
plugin prints the stacks of all threads and ends the process, a grace period after the time limit. pytest-xdist reports
the test as failed, starts another process, and goes on with the next test.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest
from pytest_timeout import Settings

_STDERR = pytest.StashKey[int]()
_LIMIT_S = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting `hang_grace`."""
    parser.addini("hang_grace", "seconds from the time limit of a test to the end of its process", default="60")


def pytest_configure(config: pytest.Config) -> None:
    """Keep a file descriptor of the real stderr, because pytest replaces stderr while a test runs."""
    config.stash[_STDERR] = os.dup(2)


def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> None:
    """Note the time limit of a test, from which the test's process gets its own limit."""
    item.stash[_LIMIT_S] = settings.timeout + float(item.config.getini("hang_grace"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Limit the time of the fixtures' setup."""
    yield from _limited(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Limit the time of the test function."""
    yield from _limited(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Limit the time of the fixtures' teardown, also after a failure, where pytest and pytest-timeout set no limit."""
    yield from _limited(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Limit the time after the last test, when fixtures end whose teardown an exception has interrupted."""
    limit_s = float(session.config.getini("timeout") or 0) + float(session.config.getini("hang_grace"))
    yield from _with_limit(limit_s, session.config)


def _limited(item: pytest.Item) -> Generator[None]:
    if _LIMIT_S in item.stash:
        return (yield from _with_limit(item.stash[_LIMIT_S], item.config))
    return (yield)  # the test has no time limit


def _with_limit(limit_s: float, config: pytest.Config) -> Generator[None]:
    faulthandler.dump_traceback_later(limit_s, exit=True, file=config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
