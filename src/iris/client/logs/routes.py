"""Routes: from which server the client reads the log of each attempt."""

from __future__ import annotations

from iris.client.logs.read_options import Route
from iris.client.logs.read_outage import NotYetError, RefusedError, has_been_silent
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, IrisError, PermissionDeniedError, UnavailableError
from iris.rpc import cluster_pb2

# How long the worker of an ended attempt may be silent, if only workers may be asked.
_DEAD_WORKER_PATIENCE_S = 15.0


class Routes:
    """Chooses the server for each attempt.

    Args:
        cluster: The client of the cluster.
        route: The route that the user has chosen.
    """

    def __init__(self, cluster: RemoteClusterClient, route: Route) -> None:
        self._cluster = cluster
        self._route = route
        self._not_at_worker: set[tuple[int, int]] = set()  # pairs of task index and attempt id

    @property
    def has_other_server(self) -> bool:
        """Whether the controller may be asked for a log that a worker does not have."""
        return self._route != "worker"

    def worker_of(self, task_index: int, attempt: cluster_pb2.TaskAttempt) -> tuple[str, str] | None:
        """Return the id and address of the worker to ask for the log of an attempt. None: ask the controller."""
        worker = (attempt.worker_id, attempt.worker_address)
        if self._route == "worker":
            return worker
        if self._route == "controller" or (task_index, attempt.attempt_id) in self._not_at_worker:
            return None
        return worker if self._cluster.reaches_worker(*worker) else None

    def leave_worker(self, task_index: int, attempt_id: int) -> None:
        """Ask the controller for the log of an attempt from now on."""
        self._not_at_worker.add((task_index, attempt_id))

    def refusal(
        self, task_index: int, attempt: cluster_pb2.TaskAttempt, text: str, worker: tuple[str, str] | None
    ) -> IrisError:
        """Return the error for a server that says that it does not have the log of an attempt."""
        if worker is None:
            return RefusedError(text)
        if is_task_finished(attempt.state):
            self.leave_worker(task_index, attempt.attempt_id)  # the worker was replaced, or has lost its disk
        return NotYetError(text)

    def is_out_of_reach(self, attempt: cluster_pb2.TaskAttempt, since_s: float | None) -> bool:
        """Return whether the log of an attempt will never be readable on the chosen route.

        This is so if only workers may be asked, the attempt has ended, its worker has not answered for 15 seconds, and
        the controller does not hear from the worker either.

        Args:
            attempt: The attempt.
            since_s: Since when its log cannot be read, on the monotonic clock. None: it can be read.
        """
        if self._route != "worker" or not has_been_silent(_DEAD_WORKER_PATIENCE_S, attempt, since_s):
            return False
        try:
            workers = self._cluster.list_workers()
        except (UnavailableError, DeadlineExceededError, PermissionDeniedError):  # a task may not list the workers
            return False
        wanted = (attempt.worker_id, attempt.worker_address)
        return not any(worker.healthy and (worker.worker_id, worker.address) == wanted for worker in workers)
