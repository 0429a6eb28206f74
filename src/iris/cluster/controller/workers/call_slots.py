"""How many calls of workers are under way: a few of each worker, and a bounded number of all.

Thousands of attempts may be due at once, and each start is a call. Without a bound each call would have a connection of
its own, and a thread to look up a name. A worker that does not answer holds a call until that times out: such workers
have a lane of their own, so that a rack that is gone does not delay the starts on all other machines.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager

from iris.cluster.controller.workers.dispatch import WorkerRecord
from iris.rpc.serving.fair_lane import FairLane

_AT_ONCE = 512
_OF_WORKER = 4
_AT_ONCE_OF_SILENT = 64
_MISSED_HEARTBEATS = 2  # a worker that has missed so many is not expected to answer


class WorkerCalls:
    """Turns at calling workers."""

    def __init__(self) -> None:
        self._lane = FairLane("calls of workers", at_once=_AT_ONCE, per_caller=_OF_WORKER)
        self._silent_lane = FairLane("calls of silent workers", at_once=_AT_ONCE_OF_SILENT, per_caller=1)
        self._failed_s: dict[str, float] = {}  # when a call failed last, by worker id

    @property
    def num_waiting(self) -> int:
        """How many calls wait for their turn."""
        return self._lane.num_waiting + self._silent_lane.num_waiting

    @property
    def num_running(self) -> int:
        """How many calls are under way."""
        return self._lane.num_running + self._silent_lane.num_running

    def turn(self, worker: WorkerRecord) -> AbstractAsyncContextManager[None]:
        """Wait for a turn at calling a worker, and have it for the time of a block."""
        worker_id = worker.place.worker_id
        now_s = time.monotonic()
        if self._failed_s.get(worker_id, worker.heard_s) < worker.heard_s:
            del self._failed_s[worker_id]  # it was heard since
        is_silent = worker_id in self._failed_s or worker.missed_heartbeats(now_s) >= _MISSED_HEARTBEATS
        return (self._silent_lane if is_silent else self._lane).turn(worker_id)

    def failed(self, worker: WorkerRecord) -> None:
        """A worker has not answered: until it is heard again, it is called once at a time."""
        self._failed_s[worker.place.worker_id] = time.monotonic()

    def answered(self, worker: WorkerRecord) -> None:
        """A worker has answered."""
        self._failed_s.pop(worker.place.worker_id, None)

    def forget(self, worker_id: str) -> None:
        """There is no such worker any more."""
        self._failed_s.pop(worker_id, None)
