"""Decides which tests run in the same process, and in which order, when pytest-xdist uses several processes.

The tests of a module stay together, so that its clusters are started once. All tests on Ray stay together, because one
Ray cluster costs 15 seconds of CPU time to start and a tenth of a core while it idles. All tests in `tests/web` stay
together, because they share one browser. Slow modules come first, and
tests of pure code come last. Then all processes end at about the same time.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# The modules that take longest, longest first. The tests of Slurm wait more than they compute, and therefore begin with
# the tests of Ray.
_SLOW = (
    "test_slurm_engine",
    "test_following",
    "test_hostile_calls",
    "test_controller",
    "test_docs",
    "test_cookbook",
    "test_cli_logs",
    "test_lost_machines",
    "test_slot_workers",
    "test_cli_up",
    "test_copied_state",
    "test_cli_run",
    "test_controller_killed",
    "test_cli_stdin",
    "test_lost_calls",
    "test_site",
    "test_following_between_proxies",
    "test_async_following",
    "test_clock_steps",
    "test_permissions_e2e",
)
# Modules whose tests share nothing and take long: any process may run any of the tests.
_SPLIT = ("test_lost_machines",)
_PURE = tuple(Path(__file__).parents[1].joinpath("fast.txt").read_text().split())


def is_on_ray(nodeid: str) -> bool:
    """Return whether a test needs the Ray cluster, judging by the name of its module."""
    return "ray" in _module(nodeid).split("_")


def sort_for_processes(items: list[pytest.Item]) -> None:
    """Sort the collected tests by the order in which they are started."""
    items.sort(key=lambda item: _rank(item.nodeid))


class ByModule(LoadScopeScheduling):
    """Gives a process the next whole module, or the next test of a module in `_SPLIT`."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False  # keep the order of `sort_for_processes`
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        if is_on_ray(nodeid):
            return "ray"
        if _is_in_browser(nodeid):
            return "web"
        return nodeid if _module(nodeid) in _SPLIT else nodeid.partition("::")[0]


def _is_in_browser(nodeid: str) -> bool:
    return nodeid.startswith("tests/web/")


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")


def _rank(nodeid: str) -> int:
    return _rank_of_path(nodeid.partition("::")[0])


@functools.cache
def _rank_of_path(path: str) -> int:
    if is_on_ray(path):
        return -1
    if _is_in_browser(path):
        return 1
    module = _module(path)
    if module in _SLOW:
        return _SLOW.index(module)
    is_pure = any(path == pure or path.startswith(f"{pure}/") for pure in _PURE)
    return len(_SLOW) + is_pure
