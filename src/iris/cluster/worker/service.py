"""The worker's door: the verbs of WorkerService."""

from __future__ import annotations

import asyncio
from typing import Any

from iris.cluster.types import parse_task_id
from iris.cluster.worker.log_store import Page, read_page
from iris.cluster.worker.worker import Worker
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2


class WorkerService:
    """Answers the calls of cluster_connect.WorkerService."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def run_task(
        self, request: cluster_pb2.Worker.RunTaskRequest, ctx: Any
    ) -> cluster_pb2.Worker.RunTaskResponse:
        """Begins an attempt."""
        entrypoint = request.serialized_entrypoint
        request.ClearField("serialized_entrypoint")
        attempt = self._worker.run_task(request, entrypoint)
        return cluster_pb2.Worker.RunTaskResponse(task_id=request.task_id, state=attempt.state)

    async def run_tasks(
        self, request: cluster_pb2.Worker.RunTasksRequest, ctx: Any
    ) -> cluster_pb2.Worker.RunTasksResponse:
        """Begins attempts of one job."""
        self._worker.run_tasks(request)
        return cluster_pb2.Worker.RunTasksResponse()

    async def get_task_status(
        self, request: cluster_pb2.Worker.GetTaskStatusRequest, ctx: Any
    ) -> cluster_pb2.TaskStatus:
        """The newest attempt of a task."""
        parse_task_id(request.task_id)
        return self._worker.get_task_status(request.task_id, include_result=request.include_result)

    async def list_tasks(
        self, request: cluster_pb2.Worker.ListTasksRequest, ctx: Any
    ) -> cluster_pb2.Worker.ListTasksResponse:
        """The newest attempt of each task."""
        return cluster_pb2.Worker.ListTasksResponse(tasks=self._worker.list_tasks())

    async def fetch_task_logs(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, ctx: Any
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """A page of an attempt's log."""
        parse_task_id(request.task_id)
        wanted = request.filter
        if wanted.max_lines < 0:
            raise InvalidArgumentError(f"max_lines={wanted.max_lines}: expected a number of lines, or 0 for all")
        attempt_id, directory, attempt = self._worker.log_of(
            request.task_id, request.attempt_id if request.HasField("attempt_id") else None
        )
        # Whether it is final is asked before the log is read: what it wrote until then is on disk by now.
        final = attempt is None or attempt.is_final
        page = await asyncio.to_thread(
            read_page,
            directory.log,
            None if attempt is None else attempt.log.index,
            start_line=wanted.start_line,
            start_ms=wanted.start_ms,
            end_ms=wanted.end_ms,
            regex=wanted.regex,
            max_lines=wanted.max_lines,
            final=final,
        )
        return _page_message(page, attempt_id, final)

    async def kill_task(self, request: cluster_pb2.Worker.KillTaskRequest, ctx: Any) -> cluster_pb2.Empty:
        """Ends an attempt."""
        parse_task_id(request.task_id)
        self._worker.kill_task(
            request.task_id,
            request.attempt_id if request.HasField("attempt_id") else None,
            request.term_timeout_ms / 1000 if request.HasField("term_timeout_ms") else None,
        )
        return cluster_pb2.Empty()

    async def health_check(self, request: cluster_pb2.Empty, ctx: Any) -> cluster_pb2.HealthResponse:
        """That it is alive."""
        return self._worker.health_check()


def _page_message(page: Page, attempt_id: int, final: bool) -> cluster_pb2.Worker.FetchTaskLogsResponse:
    response = cluster_pb2.Worker.FetchTaskLogsResponse(
        next_line=page.next_line, at_end=page.at_end, complete=final and page.at_end, attempt_id=attempt_id
    )
    for line in page.lines:
        entry = response.logs.add(timestamp_ms=line.timestamp_ms, source=line.source)
        try:
            entry.data = line.data.decode()
        except UnicodeDecodeError:
            # One bad byte in a proto `string` would fail the whole message: the exact bytes travel beside it.
            entry.data = line.data.decode(errors="replace")
            entry.raw = line.data
        if line.partial:
            entry.partial = True
    return response
