"""Serves the RPC calls of `WorkerService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from iris.arguments import MAX_INT32, check_whole_number
from iris.cluster.logs.reading.line_pages import fetch_page_steps
from iris.cluster.logs.streaming.open_log import StreamBudget
from iris.cluster.types import parse_task_id
from iris.cluster.worker.attempt.request_checks import split_off_entrypoint, split_off_hosts
from iris.cluster.worker.serve_logs import fetch_log_parts, stream_task_logs
from iris.cluster.worker.worker import Worker
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import CONTROLLER, caller
from iris.rpc.serving.open_streams import OpenStreams, streams_of_caller


class WorkerService:
    """Answers the calls of `cluster_connect.WorkerService`.

    Args:
        worker: The worker that carries out the calls.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._registry = worker.registry
        self._budget = StreamBudget()
        self._open_streams = OpenStreams(
            streams_of_caller(), advice="or read them through the controller, as one stream"
        )
        self._scans = self._budget.scans

    async def run_task(
        self, request: cluster_pb2.Worker.RunTaskRequest, ctx: Any
    ) -> cluster_pb2.Worker.RunTaskResponse:
        """Begin an attempt of a task on this worker."""
        entrypoint = split_off_entrypoint(request)
        attempt = self._worker.run_task(request, entrypoint, split_off_hosts(request))
        return cluster_pb2.Worker.RunTaskResponse(task_id=request.task_id, state=attempt.state)

    async def run_tasks(
        self, request: cluster_pb2.Worker.RunTasksRequest, ctx: Any
    ) -> cluster_pb2.Worker.RunTasksResponse:
        """Begin attempts of several tasks of one job."""
        return cluster_pb2.Worker.RunTasksResponse(master_port=self._worker.run_tasks(request))

    async def get_task_status(
        self, request: cluster_pb2.Worker.GetTaskStatusRequest, ctx: Any
    ) -> cluster_pb2.TaskStatus:
        """Return the status of a task's newest attempt."""
        parse_task_id(request.task_id)
        return self._registry.newest(request.task_id).status(
            self._registry.worker_id, include_result=request.include_result
        )

    async def list_tasks(
        self, request: cluster_pb2.Worker.ListTasksRequest, ctx: Any
    ) -> cluster_pb2.Worker.ListTasksResponse:
        """Return a page with the newest attempts of all tasks."""
        page = self._registry.list_statuses(request.page_size, request.page_token)
        return cluster_pb2.Worker.ListTasksResponse(tasks=page.items, next_page_token=page.next_token)

    async def fetch_task_logs(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, ctx: Any
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """Return a page of an attempt's log."""
        parse_task_id(request.task_id)
        attempt_id, directory, attempt = self._registry.log_of(
            request.task_id, request.attempt_id if request.HasField("attempt_id") else None
        )
        # Check whether the attempt is final before reading its log, because the whole log of a final attempt is on
        # disk.
        final = attempt is None or attempt.is_final
        writer = None if attempt is None else attempt.log
        with self._registry.reading(directory):
            reading = fetch_page_steps(directory.log, writer, request.filter, attempt_id, final)
            page = await self._scans.scan(caller().key, reading)
        if attempt is not None:
            # Wait until the controller knows that the attempt runs. The wait follows the read, because the process may
            # have started during the read.
            await attempt.announcement.wait()
        return page

    def stream_task_logs(
        self, request: cluster_pb2.StreamTaskLogsRequest, ctx: Any
    ) -> AsyncIterator[cluster_pb2.StreamTaskLogsResponse]:
        """Stream the logs of attempts while they are written."""
        known = caller()
        messages = stream_task_logs(self._registry, self._budget, request, known.key)
        # The limits for one caller do not apply to the controller. The controller reads logs for many users, and limits
        # the streams of each user itself.
        return self._open_streams.limited(
            known.key, messages, len(request.positions), is_limited=known.role != CONTROLLER
        )

    async def fetch_log_parts(
        self, request: cluster_pb2.FetchLogPartsRequest, ctx: Any
    ) -> cluster_pb2.FetchLogPartsResponse:
        """Return the lines before or after given places in the logs of attempts."""
        return await fetch_log_parts(self._registry, self._scans, request, caller().key)

    async def kill_task(self, request: cluster_pb2.Worker.KillTaskRequest, ctx: Any) -> cluster_pb2.Empty:
        """Stop an attempt."""
        parse_task_id(request.task_id)
        check_whole_number("term_timeout_ms", request.term_timeout_ms, most=MAX_INT32)
        self._worker.kill_task(
            request.task_id,
            request.attempt_id if request.HasField("attempt_id") else None,
            request.term_timeout_ms / 1000 if request.HasField("term_timeout_ms") else None,
        )
        return cluster_pb2.Empty()

    async def write_stdin(
        self, request: cluster_pb2.Worker.WriteStdinRequest, ctx: Any
    ) -> cluster_pb2.Worker.WriteStdinResponse:
        """Write to the standard input of an attempt."""
        parse_task_id(request.task_id)
        return await self._worker.write_stdin(request)

    async def list_task_files(
        self, request: cluster_pb2.ListTaskFilesRequest, ctx: Any
    ) -> cluster_pb2.ListTaskFilesResponse:
        """Return a page of the files in the directory of an attempt."""
        return await self._worker.files.list_files(request)

    async def read_task_file(
        self, request: cluster_pb2.ReadTaskFileRequest, ctx: Any
    ) -> cluster_pb2.ReadTaskFileResponse:
        """Return a part of a file in the directory of an attempt, or the hash of the part."""
        return await self._worker.files.read_file(request)

    async def write_task_file(
        self, request: cluster_pb2.WriteTaskFileRequest, ctx: Any
    ) -> cluster_pb2.WriteTaskFileResponse:
        """Write a file into the directory of a running attempt."""
        return await self._worker.files.write_file(request)

    def open_tunnel(
        self, request: cluster_pb2.Worker.OpenTunnelRequest, ctx: Any
    ) -> AsyncIterator[cluster_pb2.TunnelMessage]:
        """Open or resume a tunnel to an attempt, and stream its messages."""
        parse_task_id(request.task_id)
        messages = self._worker.tunnels.serve(request)
        return self._open_streams.limited(caller().key, messages, is_limited=False)

    async def write_tunnel(
        self, request: cluster_pb2.Worker.WriteTunnelRequest, ctx: Any
    ) -> cluster_pb2.WriteTunnelResponse:
        """Pass the data that a client has sent to the channels of a tunnel."""
        parse_task_id(request.task_id)
        return self._worker.tunnels.write(request)

    async def read_stacks(
        self, request: cluster_pb2.Worker.ReadStacksRequest, ctx: Any
    ) -> cluster_pb2.ReadStacksResponse:
        """Return the call stacks of attempts."""
        return await self._worker.stacks.read(request)

    async def sample_stacks(
        self, request: cluster_pb2.Worker.SampleStacksRequest, ctx: Any
    ) -> cluster_pb2.SampleStacksResponse:
        """Sample the call stacks of attempts, and return the number of samples with each stack."""
        return await self._worker.stacks.sample(request)

    def open_exec(
        self, request: cluster_pb2.Worker.OpenTunnelRequest, ctx: Any
    ) -> AsyncIterator[cluster_pb2.TunnelMessage]:
        """Open or resume the tunnel of an exec session, and stream its messages."""
        parse_task_id(request.task_id)
        return self._open_streams.limited(caller().key, self._worker.execs.serve(request), is_limited=False)

    async def write_exec(
        self, request: cluster_pb2.Worker.WriteTunnelRequest, ctx: Any
    ) -> cluster_pb2.WriteTunnelResponse:
        """Pass the data that a client has sent to the channels of an exec session."""
        parse_task_id(request.task_id)
        return self._worker.execs.write(request)

    async def forget_job(self, request: cluster_pb2.Worker.ForgetJobRequest, ctx: Any) -> cluster_pb2.Empty:
        """Remove the records and files of an ended job from this worker."""
        check_whole_number("num_tasks", request.num_tasks, most=MAX_INT32)
        await self._worker.forget_job(request)
        return cluster_pb2.Empty()

    async def drain(self, request: cluster_pb2.Worker.DrainRequest, ctx: Any) -> cluster_pb2.Empty:
        """Accept no new attempts, and wait until the controller has the ends and the logs of all attempts."""
        await self._worker.drain()
        return cluster_pb2.Empty()

    async def health_check(self, request: cluster_pb2.Empty, ctx: Any) -> cluster_pb2.HealthResponse:
        """Return whether the worker is running."""
        return self._worker.health_check()
