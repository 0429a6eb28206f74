"""Stores whether this worker is ending, and the reason."""

from __future__ import annotations

import asyncio

from iris.cluster.worker.attempt.registry import AttemptRegistry


class Shutdown:
    """The state of the worker's shutdown.

    Args:
        worker_id: The id of this worker.
        registry: The object that stores the attempts of this worker.

    Attributes:
        reason: Why attempts end together with the worker; empty while the worker runs.
        lost_reason: Why the controller has declared this worker lost, or why it will do so; empty if the worker ends
            for another reason.
        requested: An event that is set when the worker must end.
    """

    def __init__(self, worker_id: str, registry: AttemptRegistry) -> None:
        self._worker_id = worker_id
        self._registry = registry
        self.reason = ""
        self.lost_reason = ""
        self.requested = asyncio.Event()

    def begin(self) -> None:
        """Record that the worker must end. Attempts that end after this call end because of the worker."""
        self.reason = f"worker {self._worker_id} was shut down"

    def give_up(self, why: str) -> None:
        """End the worker because the controller has declared it lost, or will do so. For example, the lease may have
        expired, or the worker's reaper may have ended. All attempts are killed at once and without a grace period,
        because the controller may already have started their tasks elsewhere.

        Args:
            why: Why the worker is lost, for people.
        """
        self.reason = f"worker {self._worker_id} was lost: {why}"
        self._registry.kill_all()
        self.lost_reason = why
        self.requested.set()
