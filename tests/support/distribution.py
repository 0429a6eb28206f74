"""Which tests run in one process, and in which order, when pytest-xdist runs them in several processes.

The tests of a module stay together, so that its clusters are started once. All tests on Ray stay together, because one
Ray cluster costs 15 seconds of CPU time to start and a tenth of a core while it idles. Slow modules come first, so that
no process is left with one of them at the end.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# The modules that take longest, longest first.
_SLOW = ("test_slurm_engine", "test_following", "test_lost_machines", "test_slot_workers", "test_lost_calls")
# Modules whose tests share nothing and take long: any process may run any of the tests.
_SPLIT = ("test_lost_machines",)


def is_on_ray(nodeid: str) -> bool:
    """Return whether a test needs the Ray cluster, which the name of its module says."""
    return "ray" in _module(nodeid).split("_")


def sort_for_processes(items: list[pytest.Item]) -> None:
    """Sort collected tests, those that are started first to the front."""
    items.sort(key=lambda item: _rank(item.nodeid))


class ByModule(LoadScopeScheduling):
    """Gives a process the next whole module, or the next test of a module in `_SPLIT`."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False  # keep the order of `sort_for_processes`
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        if is_on_ray(nodeid):
            return "ray"
        return nodeid if _module(nodeid) in _SPLIT else nodeid.partition("::")[0]


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")


def _rank(nodeid: str) -> int:
    if is_on_ray(nodeid):
        return -1
    module = _module(nodeid)
    return _SLOW.index(module) if module in _SLOW else len(_SLOW)
