"""Looks at what attempts hold, in a thread of its own, and ends what holds too much."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.limits import process_table, usage
from iris.cluster.worker.limits.enforcement import Enforcement, Exceeded
from iris.cluster.worker.limits.process_table import Process, ProcessTable

LOOK_S = 0.5  # for so long an attempt that is watched may exceed its limits
_LONGEST_LOOK_S = 2.0
_SHARE = 0.05  # of the time, at most, where there are so many processes that a look takes long


class Look(NamedTuple):
    """What was seen of one attempt: its processes, what it uses, and whether that is too much."""

    held: list[Process]
    usage: usage.Usage
    exceeded: Exceeded | None


class Watch:
    """The eyes of a worker.

    Args:
        enforcement: What keeps attempts to their limits.
    """

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement = enforcement
        self._table = ProcessTable()
        # When a task has taken all processes that there are, no thread could be started to notice that.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "watch")

    async def look(self, attempts: Sequence[tuple[Attempt, str]]) -> list[Look]:
        """Looks at attempts, each with its mark, and changes nothing of them."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._look, attempts)

    async def kill(self, held: Sequence[Process]) -> None:
        """Kills processes, with their groups."""
        await asyncio.get_running_loop().run_in_executor(self._thread, process_table.kill, held)

    def _look(self, attempts: Sequence[tuple[Attempt, str]]) -> list[Look]:
        self._enforcement.look()
        running = [(attempt, attempt.process, mark) for attempt, mark in attempts]
        marks = {process.pid: mark for _, process, mark in running if process is not None}
        found = self._table.look(marks) if marks else {}
        looks = []
        for attempt, process, _ in running:
            held = [] if process is None else found[process.pid]
            exceeded = None if attempt.holder is None else attempt.holder.check(held)
            looks.append(Look(held, usage.measure(attempt.usage, held), exceeded))
        return looks


def pause_s(took_s: float) -> float:
    """How long to wait after a look that took so long."""
    return min(max(LOOK_S, took_s / _SHARE), _LONGEST_LOOK_S)
