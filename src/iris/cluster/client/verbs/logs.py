"""Contains the calls that read logs, from the workers or through the controller."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from iris.arguments import TaskReference, check_instance
from iris.cluster.client.operations import logs as operations
from iris.cluster.client.verbs.jobs import JobVerbs
from iris.rpc import cluster_pb2
from iris.rpc.calls import stream
from iris.rpc.http.client.stream_handle import StreamHandle


class LogVerbs(JobVerbs):
    """Calls that read logs."""

    def fetch_task_logs(
        self, task_id: str | TaskReference, start_ms: int = 0, max_lines: int = 0, *, attempt_id: int | None = None
    ) -> list[cluster_pb2.Worker.LogEntry]:
        """Return the lines that a task has written so far, or an empty list if no attempt has started yet.

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
        return self.connection.perform(
            operations.fetch_task_logs(self.connection.reachable, task_id, start_ms, max_lines, attempt_id=attempt_id)
        )

    def fetch_log_page(
        self, task_id: str | TaskReference, attempt: cluster_pb2.TaskAttempt, wanted: cluster_pb2.Worker.FetchLogsFilter
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """Return one page of an attempt's log. The page comes from the attempt's worker, or through the controller if
        this machine cannot reach the worker.

        Args:
            task_id: `"{job_id}/task-{index}"`, or a `Task`.
            attempt: The attempt, from the status of the task.
            wanted: The filter of the lines, and the position of the first line of the page.

        Raises:
            NotFoundError: There is no such log.
            WorkerUnreachableError: The worker that has the log does not answer.
        """
        return self.connection.perform(operations.fetch_log_page(self.connection.reachable, task_id, attempt, wanted))

    def fetch_log_parts(self, request: cluster_pb2.FetchLogPartsRequest) -> cluster_pb2.FetchLogPartsResponse:
        """Read parts of attempts' logs at given positions through the controller, and return the parts. A program that
        shows logs reads any part of a large log with this call, forwards or backwards.

        Args:
            request: The positions, the filter and the limits, as described in cluster.proto.

        Returns:
            One part for each item of `reads` in the request. If a log cannot be read, its part has an `error`.

        Raises:
            InvalidArgumentError: (a `ValueError`) A position or the filter is invalid.
            NotFoundError: There is no such job or task.
        """
        return self.connection.perform(operations.fetch_log_parts(request))

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
        opening = operations.stream_task_logs(request, worker)
        if handle is not None:
            check_instance("handle", handle, StreamHandle)
        stub, peer = self.connection.server(opening.worker)
        return stream(stub.stream_task_logs(request), peer, handle)

    def reaches_worker(self, worker_id: str, address: str) -> bool:
        """Return whether this machine can call a worker directly.

        The first call for an address tries to reach the worker, in at most half a second. Later calls return the same
        result, until `lost_worker` is called for the address.
        """
        return self.connection.perform(self.connection.reachable.reaches(worker_id, address))

    def find_routes(self, workers: Iterable[tuple[str, str]]) -> None:
        """Determine which workers this machine can call directly, in at most half a second for all workers together.

        Args:
            workers: The workers to call, as pairs of id and address.
        """
        self.connection.perform(self.connection.reachable.find(workers))

    def lost_worker(self, address: str) -> None:
        """Record that a worker does not answer any more. Afterwards `reaches_worker` returns False for the worker's
        address."""
        self.connection.reachable.lost(address)
