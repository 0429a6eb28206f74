"""Limits how many calls to workers run at the same time: a few for each worker, and a fixed number in total.

Thousands of attempts may have to start at the same time, with one call for each start. Without a limit, each call would
use a connection, and a thread for the look-up of the host name. Calls to unresponsive workers have a separate limit,
because such a call lasts until its timeout. Therefore an unreachable rack does not delay starts on other machines.
"""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager

from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.rpc.serving.fair_lane import FairLane

_AT_ONCE = 512
_OF_WORKER = 4
_AT_ONCE_OF_SILENT = 64
_MISSED_HEARTBEATS = 2  # After missing this number of heartbeats, a worker counts as unresponsive.


class WorkerCalls:
    """Limits the calls to workers. Calls to responsive workers wait for their turn in one fair queue, and calls to
    unresponsive workers wait in another queue.
    """

    def __init__(self) -> None:
        self._lane = FairLane("calls of workers", at_once=_AT_ONCE, per_caller=_OF_WORKER)
        self._silent_lane = FairLane("calls of silent workers", at_once=_AT_ONCE_OF_SILENT, per_caller=1)
        self._failed_s: dict[str, float] = {}  # The time of the last failed call to each worker, by worker id.

    @property
    def num_waiting(self) -> int:
        """The number of calls that wait for their turn."""
        return self._lane.num_waiting + self._silent_lane.num_waiting

    @property
    def num_running(self) -> int:
        """The number of running calls."""
        return self._lane.num_running + self._silent_lane.num_running

    def turn(self, worker: WorkerRecord) -> AbstractAsyncContextManager[None]:
        """Return a context manager that waits for a turn to call a worker, and ends the turn on exit."""
        worker_id = worker.identity.worker_id
        now_s = time.monotonic()
        if self._failed_s.get(worker_id, worker.heard_s) < worker.heard_s:
            # The worker counts as responsive again, because it has called the controller after the failed call.
            del self._failed_s[worker_id]
        is_silent = worker_id in self._failed_s or worker.missed_heartbeats(now_s) >= _MISSED_HEARTBEATS
        return (self._silent_lane if is_silent else self._lane).turn(worker_id)

    def failed(self, worker: WorkerRecord) -> None:
        """Record that a worker has not answered a call. Until this worker calls the controller again, the controller
        makes only one call to this worker at a time.
        """
        self._failed_s[worker.identity.worker_id] = time.monotonic()

    def answered(self, worker: WorkerRecord) -> None:
        """Record that a worker has answered."""
        self._failed_s.pop(worker.identity.worker_id, None)

    def forget(self, worker_id: str) -> None:
        """Remove the records about a worker."""
        self._failed_s.pop(worker_id, None)
