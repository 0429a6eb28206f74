"""A pytest plugin that ends a test process which pytest-timeout cannot free from a hang.

At the time limit of a test, pytest-timeout raises an exception in the main thread. A `with` block that waits for a
thread (of a `ThreadPoolExecutor`, for example) then waits for ever, because the thread still hangs. Therefore this
plugin prints the stacks of all threads and ends the process, a grace period after the time limit. pytest-xdist reports
the test as failed, starts another process, and goes on with the next test.
"""

from __future__ import annotations

import faulthandler
import os
import time
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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Limit the time of the fixtures' setup."""
    _limit_time(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Limit the time of the test function."""
    _limit_time(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Limit the time of the fixtures' teardown, also after a failure, where pytest and pytest-timeout set no limit."""
    _limit_time(item)


def pytest_exception_interact() -> None:
    """Note that pytest ends the limit after a failure, because the user may read the failure in a debugger."""
    _timer.cancel()


def pytest_enter_pdb() -> None:
    """Note that pytest ends the limit before a debugger starts."""
    _timer.cancel()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Limit the time after the last test, when fixtures end whose teardown an exception has interrupted."""
    limit_s = float(session.config.getini("timeout") or 0) + float(session.config.getini("hang_grace"))
    _timer.set(limit_s, session.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        _timer.cancel()


class _Timer:
    """The time at which this process ends.

    Each change of the timer starts and ends a thread, which takes milliseconds on a busy machine. Therefore a timer is
    up to a tenth longer than requested, and short tests that follow each other share one timer.
    """

    def __init__(self) -> None:
        self._end_s: float | None = None

    def set(self, limit_s: float, stderr: int) -> None:
        """End this process in `limit_s` seconds, or up to a tenth later, after printing the stacks on `stderr`."""
        spare_s = limit_s / 10
        end_s = time.monotonic() + limit_s
        if self._end_s is None or not end_s <= self._end_s <= end_s + spare_s:
            faulthandler.dump_traceback_later(limit_s + spare_s, exit=True, file=stderr)
            self._end_s = end_s + spare_s

    def cancel(self) -> None:
        """Let this process live on."""
        if self._end_s is not None:
            faulthandler.cancel_dump_traceback_later()
            self._end_s = None


_timer = _Timer()


def _limit_time(item: pytest.Item) -> None:
    if _LIMIT_S in item.stash:
        _timer.set(item.stash[_LIMIT_S], item.config.stash[_STDERR])
    else:
        _timer.cancel()  # the test has no time limit
