"""Chooses the server from which the client reads the log of each attempt."""

from __future__ import annotations

from collections.abc import Iterable

from iris.client.logs.read_options import Route
from iris.client.logs.read_outage import NotYetError, RefusedError, has_been_silent
from iris.cluster.client.operations.logs import ReachableWorkers
from iris.cluster.client.operations.machines import list_workers
from iris.cluster.client.operations.steps import Operation
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, IrisError, PermissionDeniedError, UnavailableError
from iris.rpc import cluster_pb2

# With `route="worker"`, a reader waits this many seconds for a silent worker if the attempt has ended.
_DEAD_WORKER_PATIENCE_S = 15.0


class Routes:
    """Chooses the server from which the client reads the log of each attempt.

    Args:
        reachable: The object that finds out which workers this machine can call directly.
        route: The servers from which the user wants logs to be read, as a `Route`.
    """

    def __init__(self, reachable: ReachableWorkers, route: Route) -> None:
        self._reachable = reachable
        self._route = route
        # The attempts, as (task index, attempt id), whose workers do not have the log any more.
        self._not_at_worker: set[tuple[int, int]] = set()

    @property
    def has_other_server(self) -> bool:
        """Whether the client may request a log from the controller if the worker does not have the log."""
        return self._route != "worker"

    def worker_of(self, task_index: int, attempt: cluster_pb2.TaskAttempt) -> Operation[tuple[str, str] | None]:
        """Return the id and address of the worker from which to read the log of an attempt. Return None if the log must
        be read from the controller.
        """
        if self._may_be_at_worker(task_index, attempt):
            yield from self._reachable.reaches(attempt.worker_id, attempt.worker_address)
        return self.known_worker_of(task_index, attempt)

    def known_worker_of(self, task_index: int, attempt: cluster_pb2.TaskAttempt) -> tuple[str, str] | None:
        """Return the worker from which to read the log of an attempt, without any call. Return None if the log must be
        read from the controller. A worker that was not probed counts as unreachable, except with the route `"worker"`,
        which uses every worker without a probe."""
        worker = (attempt.worker_id, attempt.worker_address)
        if self._route == "worker":
            return worker
        is_reachable = self._reachable.known.get(attempt.worker_address, False)
        return worker if is_reachable and self._may_be_at_worker(task_index, attempt) else None

    def find(self, tasks: Iterable[cluster_pb2.TaskStatus]) -> Operation[None]:
        """Probe the workers of all attempts at the same time, so that `known_worker_of` knows them."""
        if self._route == "auto":
            attempts = [attempt for task in tasks for attempt in task.attempts]
            yield from self._reachable.find((attempt.worker_id, attempt.worker_address) for attempt in attempts)

    def lost_worker(self, address: str) -> None:
        """Remember that a worker no longer answers."""
        self._reachable.lost(address)

    def leave_worker(self, task_index: int, attempt_id: int) -> None:
        """Read the log of an attempt only from the controller from now on."""
        self._not_at_worker.add((task_index, attempt_id))

    def refusal(
        self, task_index: int, attempt: cluster_pb2.TaskAttempt, text: str, worker: tuple[str, str] | None
    ) -> IrisError:
        """Return the error to raise if a server does not have the log of an attempt. If a worker does not have the log
        of an ended attempt, the log is read only from the controller from now on."""
        if worker is None:
            return RefusedError(text)
        if is_task_finished(attempt.state):
            self.leave_worker(task_index, attempt.attempt_id)
        return NotYetError(text)

    def is_out_of_reach(self, attempt: cluster_pb2.TaskAttempt, since_s: float | None) -> Operation[bool]:
        """Return whether the log of an attempt will never be readable on the chosen route.

        The log is out of reach if all of these are true: the route allows only workers, the attempt has ended, its
        worker has not answered for 15 seconds, and the controller has lost the worker, too.

        Args:
            attempt: The status of the attempt.
            since_s: The time since which the log is unreadable, on the monotonic clock. None if the log is readable.
        """
        if self._route != "worker" or not has_been_silent(_DEAD_WORKER_PATIENCE_S, attempt, since_s):
            return False
        try:
            workers = yield from list_workers()
        except (UnavailableError, DeadlineExceededError, PermissionDeniedError):  # A task may not list workers.
            return False
        wanted = (attempt.worker_id, attempt.worker_address)
        return not any(worker.healthy and (worker.worker_id, worker.address) == wanted for worker in workers)

    def _may_be_at_worker(self, task_index: int, attempt: cluster_pb2.TaskAttempt) -> bool:
        return self._route == "auto" and (task_index, attempt.attempt_id) not in self._not_at_worker
