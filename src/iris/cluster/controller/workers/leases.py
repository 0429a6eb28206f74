"""Declares workers lost when their leases have expired. The module worker/supervision/lease.py explains the length of
leases, and why no attempt runs twice.
"""

from __future__ import annotations

import asyncio
import logging
import time

from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.lease_terms import format_span, lost_after_s
from iris.event_log import log_event
from iris.reasons import FailureCode

_log = logging.getLogger(__name__)


class LeaseWatch:
    """Watches the leases of all workers.

    Args:
        fleet: The object that knows all workers of the cluster.
        lease_s: The length of the leases that this controller grants, in seconds. The watch checks all workers at least
            eight times within this time.

    Attributes:
        workers_lost: How many registered workers were declared lost since the start of the controller.
    """

    def __init__(self, fleet: Fleet, lease_s: float) -> None:
        self.workers_lost = 0
        self._fleet = fleet
        self._lease_s = lease_s

    async def run(self) -> None:
        """Declare each worker lost when its lease has expired, until the controller stops. After a restart of the
        controller, a worker is declared lost if it does not call within the longest lease.
        """
        started_s = time.monotonic()
        is_grace_over = False
        while True:
            await asyncio.sleep(min(1.0, self._lease_s / 8))
            now_s = time.monotonic()
            self._fleet.forget_old(now_s)
            for worker in list(self._fleet.workers.values()):
                if not worker.is_dead and worker.is_lost(now_s):
                    self._declare_lost(worker)
            if not is_grace_over and now_s - started_s > lost_after_s(self._fleet.longest_lease_s):
                is_grace_over = True
                self._lose_absent_workers()
                self._fleet.earlier_leases_expired()

    def _declare_lost(self, worker: WorkerRecord) -> None:
        self.workers_lost += 1
        worker_id, incarnation = worker.identity.worker_id, worker.identity.incarnation
        self._fleet.mark_dead(worker_id, incarnation)
        why = _silent_for(worker.lease_s)
        log_event(_log, "lease.expired", worker_id=worker_id, incarnation=incarnation, lease_s=worker.lease_s)
        log_event(_log, "worker.lost", level=logging.WARNING, worker_id=worker_id, incarnation=incarnation, error=why)
        self._fleet.fence(worker_id, incarnation)
        self._fleet.lose(
            lambda attempt: (attempt.worker_id, attempt.worker_incarnation) == (worker_id, incarnation),
            why,
            FailureCode.LEASE_EXPIRED,
        )

    def _lose_absent_workers(self) -> None:
        """End the attempts of workers that have not registered since the start of the controller."""
        why = _silent_for(self._fleet.longest_lease_s)
        workers = self._fleet.workers
        self._fleet.lose(lambda attempt: attempt.worker_id not in workers, why, FailureCode.LEASE_EXPIRED)


def _silent_for(lease_s: float) -> str:
    return f"it has been silent for longer than its lease of {format_span(lease_s)}"
