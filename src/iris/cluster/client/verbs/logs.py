"""Contains the calls that read logs, from the workers or through the controller."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable

from connectrpc.errors import ConnectError

from iris.arguments import (
    MAX_INT32,
    TaskReference,
    check_instance,
    check_items,
    check_text,
    check_whole_number,
    refuse,
)
from iris.cluster.client.verbs.connection import ClusterConnection
from iris.cluster.client.verbs.jobs import JobVerbs
from iris.cluster.types import make_task_id, parse_task_id
from iris.errors import DeadlineExceededError, NotFoundError, UnavailableError, WorkerUnreachableError
from iris.rpc import cluster_pb2
from iris.rpc.address import is_loopback
from iris.rpc.calls import call, stream
from iris.rpc.http.client.stream_handle import StreamHandle

_PROBE_MS = 500


class LogVerbs(JobVerbs):
    """Calls that read logs."""

    def __init__(self, connection: ClusterConnection) -> None:
        super().__init__(connection)
        # The known workers by address. The value is True if this machine can reach the worker.
        self._reachable: dict[str, bool] = {}

    def fetch_task_logs(
        self, task_id: str | TaskReference, start_ms: int = 0, max_lines: int = 0, *, attempt_id: int | None = None
    ) -> list[cluster_pb2.Worker.LogEntry]:
        """Return the lines that a task has written so far. Empty if no attempt has started yet.

        Args:
            task_id: `"{job_id}/task-{index}"`, or a `Task`.
            start_ms: Return only lines that were finished after this time, in milliseconds since the Unix epoch. 0:
                all lines.
            max_lines: Return only the first N lines. 0: all lines.
            attempt_id: The attempt, from 0. Default: the newest attempt.

        Returns:
            One entry for each line. A line of more than 1 MiB has several entries. All of these entries except the last
            are `partial`.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: There is no such job, task or attempt.
            WorkerUnreachableError: The worker that has the log does not answer.
        """
        job_id, task_index = parse_task_id(task_id)
        wanted = cluster_pb2.Worker.FetchLogsFilter(
            start_ms=check_whole_number("start_ms", start_ms),
            max_lines=check_whole_number("max_lines", max_lines, most=MAX_INT32),
        )
        if attempt_id is not None:
            attempt_id = check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt")
        task = self.get_task_status(job_id, task_index)
        if not task.attempts and attempt_id is None:
            return []
        attempt = find_attempt(task, attempt_id)
        entries: list[cluster_pb2.Worker.LogEntry] = []
        while True:
            page = self.fetch_log_page(task_id, attempt, wanted)
            entries += page.logs
            if page.at_end or (max_lines and len(entries) >= max_lines):
                return entries
            wanted.start_line = page.next_line
            wanted.max_lines = int(max_lines) - len(entries) if max_lines else 0

    def fetch_log_page(
        self, task_id: str | TaskReference, attempt: cluster_pb2.TaskAttempt, wanted: cluster_pb2.Worker.FetchLogsFilter
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """Return one page of an attempt's log.

        The page comes from the attempt's worker, or through the controller if this machine cannot reach the worker.

        Args:
            task_id: `"{job_id}/task-{index}"`, or a `Task`.
            attempt: The attempt, from the status of the task.
            wanted: The filter of the lines, and the position of the first line of the page.

        Raises:
            NotFoundError: There is no such log.
            WorkerUnreachableError: The worker that has the log does not answer.
        """
        task_id = make_task_id(*parse_task_id(task_id))
        check_instance("attempt", attempt, cluster_pb2.TaskAttempt)
        check_instance("wanted", wanted, cluster_pb2.Worker.FetchLogsFilter)
        request = cluster_pb2.Worker.FetchTaskLogsRequest(task_id=task_id, attempt_id=attempt.attempt_id, filter=wanted)
        connection = self._connection
        if self.reaches_worker(attempt.worker_id, attempt.worker_address):
            worker = connection.worker(attempt.worker_id, attempt.worker_address)
            try:
                return call(worker.stub.fetch_task_logs, request, worker.peer, timeout_s=connection.timeout_s)
            except NotFoundError:
                # The worker does not have the log, because another worker has replaced it, or because it has uploaded
                # and removed the log.
                pass
            except UnavailableError:
                self.lost_worker(attempt.worker_address)
        try:
            return connection.call(connection.controller.fetch_task_logs, request)
        except (UnavailableError, DeadlineExceededError) as error:
            text = f"cannot read the log of {task_id!r} from worker {attempt.worker_id!r}: {error}"
            raise WorkerUnreachableError(text) from error

    def stream_task_logs(
        self,
        request: cluster_pb2.StreamTaskLogsRequest,
        worker: tuple[str, str] | None = None,
        handle: StreamHandle | None = None,
    ) -> Generator[cluster_pb2.StreamTaskLogsResponse]:
        """Yield the messages of one stream of logs. If the connection breaks, raise an error.

        Args:
            request: The attempts and positions from which to read, as described in cluster.proto.
            worker: The id and address of the worker to read from. Default: read through the controller.
            handle: A handle with which another thread can end the stream.

        Raises:
            NotFoundError: There is no such job or task.
            WorkerUnreachableError, ControllerUnreachableError: The server does not answer, or the connection broke.
            DeadlineExceededError: The server has been silent for too long.
        """
        check_instance("request", request, cluster_pb2.StreamTaskLogsRequest)
        if handle is not None:
            check_instance("handle", handle, StreamHandle)
        if worker is None:
            return stream(self._connection.controller.stream_task_logs(request), self._connection.peer, handle)
        known = self._connection.worker(*_check_worker("worker", worker))
        return stream(known.stub.stream_task_logs(request), known.peer, handle)

    def reaches_worker(self, worker_id: str, address: str) -> bool:
        """Return whether this machine can call a worker directly.

        The first call for an address tries to reach the worker, in at most half a second. Later calls return the same
        result, until `lost_worker` is called for the address.
        """
        worker_id = check_text("worker_id", worker_id)
        known = self._reachable.get(check_text("address", address))
        if known is None:
            known = self._reachable[address] = self._probe(worker_id, address)
        return known

    def find_routes(self, workers: Iterable[tuple[str, str]]) -> None:
        """Determine which workers this machine can call directly, in at most half a second for all workers together.

        Args:
            workers: Pairs of worker id and address.
        """
        pairs = check_items("workers", workers, "a list of pairs of worker id and address")
        known = {_check_worker("each of workers", pair) for pair in pairs}
        unknown = {worker for worker in known if worker[1] and worker[1] not in self._reachable}
        threads = [threading.Thread(target=self.reaches_worker, args=worker, daemon=True) for worker in unknown]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def lost_worker(self, address: str) -> None:
        """Record that a worker does not answer any more. Afterwards `reaches_worker` returns False for the worker's
        address."""
        self._reachable[check_text("address", address)] = False

    def _probe(self, worker_id: str, address: str) -> bool:
        controller_address = self._connection.address
        if is_loopback(address) and not is_loopback(controller_address):
            return False  # The worker's address is a loopback address, but the worker runs on another machine.
        if controller_address.startswith("https://") and not (is_loopback(address) or address.startswith("https")):
            return False  # The token of a cluster with TLS must not be sent without TLS.
        try:
            # Another machine may have the same address as the worker. The worker id in the answer shows the difference.
            worker = self._connection.worker(worker_id, address)
            worker.uid_check.check()
            health = worker.stub.health_check(cluster_pb2.Empty(), timeout_ms=_PROBE_MS)
        except ConnectError:
            return False
        return health.worker_id == worker_id


def find_attempt(task: cluster_pb2.TaskStatus, attempt_id: int | None) -> cluster_pb2.TaskAttempt:
    """Return an attempt of a task. The attempt id None stands for the newest attempt.

    Raises:
        NotFoundError: There is no such attempt.
    """
    if attempt_id is None and task.attempts:
        return task.attempts[-1]
    for attempt in task.attempts:
        if attempt.attempt_id == attempt_id:
            return attempt
    raise NotFoundError(
        f"task {make_task_id(task.job_id, task.task_index)!r} has no attempt {attempt_id}"
        f": the task has had {len(task.attempts)} attempts, which count from 0"
    )


def _check_worker(name: str, value: object) -> tuple[str, str]:
    accepted = "a pair of worker id and address"
    pair = check_items(name, value, accepted)
    if len(pair) != 2:
        refuse(name, accepted, value)
    return check_text(f"the worker id of {name}", pair[0]), check_text(f"the address of {name}", pair[1])
