"""Chooses the server from which the client reads the log of each attempt."""

from __future__ import annotations

from iris.client.logs.read_options import Route
from iris.client.logs.read_outage import NotYetError, RefusedError, has_been_silent
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, IrisError, PermissionDeniedError, UnavailableError
from iris.rpc import cluster_pb2

# With `route="worker"`, a reader waits this many seconds for a silent worker if the attempt has ended.
_DEAD_WORKER_PATIENCE_S = 15.0


class Routes:
    """Chooses the server from which the client reads the log of each attempt.

    Args:
        cluster: The client of the cluster.
        route: The route that the user has chosen.
    """

    def __init__(self, cluster: RemoteClusterClient, route: Route) -> None:
        self._cluster = cluster
        self._route = route
        self._not_at_worker: set[tuple[int, int]] = set()  # Pairs of task index and attempt id.

    @property
    def has_other_server(self) -> bool:
        """Whether the client may request a log from the controller if the worker does not have the log."""
        return self._route != "worker"

    def worker_of(self, task_index: int, attempt: cluster_pb2.TaskAttempt) -> tuple[str, str] | None:
        """Return the id and address of the worker from which to read the log of an attempt. None: the controller."""
        worker = (attempt.worker_id, attempt.worker_address)
        if self._route == "worker":
            return worker
        if self._route == "controller" or (task_index, attempt.attempt_id) in self._not_at_worker:
            return None
        return worker if self._cluster.reaches_worker(*worker) else None

    def leave_worker(self, task_index: int, attempt_id: int) -> None:
        """Read the log of an attempt only from the controller from now on."""
        self._not_at_worker.add((task_index, attempt_id))

    def refusal(
        self, task_index: int, attempt: cluster_pb2.TaskAttempt, text: str, worker: tuple[str, str] | None
    ) -> IrisError:
        """Return the error to raise if a server does not have the log of an attempt."""
        if worker is None:
            return RefusedError(text)
        if is_task_finished(attempt.state):
            self.leave_worker(task_index, attempt.attempt_id)  # The worker has lost the log.
        return NotYetError(text)

    def is_out_of_reach(self, attempt: cluster_pb2.TaskAttempt, since_s: float | None) -> bool:
        """Return whether the log of an attempt will never be readable on the chosen route.

        The log is out of reach if all of these are true: the route allows only workers, the attempt has ended, its
        worker has not answered for 15 seconds, and the controller has lost the worker, too.

        Args:
            attempt: The attempt.
            since_s: The time since which the log is unreadable, on the monotonic clock. None: the log is readable.
        """
        if self._route != "worker" or not has_been_silent(_DEAD_WORKER_PATIENCE_S, attempt, since_s):
            return False
        try:
            workers = self._cluster.list_workers()
        except (UnavailableError, DeadlineExceededError, PermissionDeniedError):  # Tasks may not list workers.
            return False
        wanted = (attempt.worker_id, attempt.worker_address)
        return not any(worker.healthy and (worker.worker_id, worker.address) == wanted for worker in workers)
