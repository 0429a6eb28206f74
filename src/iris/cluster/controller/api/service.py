"""Serves the calls of ControllerService, and passes each call to the responsible part of the controller."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from iris.cluster.controller.auth.token_calls import TokenCalls
from iris.cluster.controller.controller import Controller as JobController
from iris.cluster.controller.events.event_calls import EventCalls
from iris.cluster.controller.forwarding.exec_calls import ExecCalls, ExecPolicy
from iris.cluster.controller.forwarding.tunnel_calls import TunnelCalls
from iris.cluster.controller.forwarding.tunnel_relay import TunnelRelay
from iris.cluster.controller.inspect.stack_calls import StackCalls
from iris.cluster.controller.outputs.service_calls import FileServiceCalls
from iris.cluster.controller.overview.cluster_calls import ClusterCalls
from iris.cluster.controller.submission.quotas import Quota
from iris.cluster.controller.submission.submission_calls import SubmissionCalls
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import ADMIN, TASK, caller
from iris.rpc.cluster_pb2 import Controller
from iris.rpc.serving.heavy_calls import HeavyRules, always
from iris.rpc.serving.open_streams import OpenStreams

# The answer about a job with up to this number of tasks is small: making its message takes less than 2 ms.
_MANY_TASKS = 100


def heavy_calls(controller: JobController) -> HeavyRules:
    """Return the calls with large answers. Such calls wait in a fair queue, because their answers contain results, or
    grow with the number of jobs, tasks or machines.
    """

    def has_many_tasks(request: Any) -> bool:
        record = controller.jobs.in_memory(request.job_id)
        # A job that is not in memory is treated as a job with many tasks, because its size is unknown before it is
        # read.
        return record is None or len(record.job.tasks) > _MANY_TASKS

    def is_large(request: Any) -> bool:
        return request.include_result or has_many_tasks(request)

    return {
        "ListJobs": always,
        "GetJobStatus": is_large,
        "ListTasks": has_many_tasks,
        "GetTaskStatus": lambda request: request.include_result,
        "ListWorkers": always,
        "GetUsage": lambda request: len(request.task_indices) + len(request.worker_ids) > _MANY_TASKS,
        "ListMachines": always,
        "CheckCluster": always,
        "ListEndpoints": always,
        "ListTokens": always,
    }


class ControllerService(
    SubmissionCalls, TokenCalls, FileServiceCalls, TunnelCalls, ClusterCalls, StackCalls, EventCalls, ExecCalls
):
    """The implementation of `cluster_connect.ControllerService`. The file cluster.proto documents each call.

    Args:
        controller: The controller, which answers the calls.
        quota: The object that limits the open streams of each user.
        forwards: Whether the controller forwards connections of clients to ports of tasks.
        execs: Whether and for how long users may run commands in tasks.

    Attributes:
        open_streams: The open streams of all callers. Streams over plain HTTP count, too.
    """

    def __init__(
        self,
        controller: JobController,
        quota: Quota | None = None,
        *,
        forwards: bool = True,
        execs: ExecPolicy | None = None,
    ) -> None:
        SubmissionCalls.__init__(self, controller.submissions, controller.resubmissions, controller.workspaces)
        TokenCalls.__init__(self, controller.authority, controller.saver)
        streams = OpenStreams((quota or Quota()).streams)
        relay = TunnelRelay(controller.fleet, controller.watches)
        TunnelCalls.__init__(self, relay, controller.jobs, controller.headroom, streams, is_allowed=forwards)
        ExecCalls.__init__(
            self,
            controller.fleet,
            controller.watches,
            controller.jobs,
            controller.headroom,
            streams,
            execs or ExecPolicy(),
        )
        FileServiceCalls.__init__(self, controller.files, controller.outputs)
        StackCalls.__init__(self, controller.jobs, controller.fleet.workers)
        EventCalls.__init__(self, controller.events, controller.headroom, streams)
        ClusterCalls.__init__(self, controller.cluster.engine_name, controller.cluster_check)
        self._controller = controller

    @property
    def controller(self) -> JobController:
        """The controller that answers the calls."""
        return self._controller

    async def get_job_status(
        self, request: Controller.GetJobStatusRequest, ctx: Any
    ) -> Controller.GetJobStatusResponse:
        """Return one job, with its tasks unless the request leaves them out."""
        return await self._controller.queries.get_job_status(
            request.job_id, include_result=request.include_result, without_tasks=request.without_tasks
        )

    async def terminate_job(self, request: Controller.TerminateJobRequest, ctx: Any) -> cluster_pb2.Empty:
        """Terminate a job."""
        await self._controller.control.terminate_job(request.job_id)
        return cluster_pb2.Empty()

    async def forget_job(self, request: Controller.ForgetJobRequest, ctx: Any) -> Controller.ForgetJobResponse:
        """Remove a job that has ended."""
        removed = await self._controller.removal.forget(request.job_id, request.request_id)
        return Controller.ForgetJobResponse(job_ids=removed)

    async def list_jobs(self, request: Controller.ListJobsRequest, ctx: Any) -> Controller.ListJobsResponse:
        """Return a page of the jobs."""
        return await self._controller.queries.list_jobs(request)

    async def get_task_status(
        self, request: Controller.GetTaskStatusRequest, ctx: Any
    ) -> Controller.GetTaskStatusResponse:
        """Return one task."""
        task = await self._controller.queries.get_task_status(
            request.job_id, request.task_index, include_result=request.include_result
        )
        return Controller.GetTaskStatusResponse(task=task)

    async def list_tasks(self, request: Controller.ListTasksRequest, ctx: Any) -> Controller.ListTasksResponse:
        """Return a page of the tasks of a job."""
        page = await self._controller.queries.list_tasks(request.job_id, request.page_size, request.page_token)
        return Controller.ListTasksResponse(tasks=page.items, next_page_token=page.next_token)

    async def register_worker(
        self, request: Controller.RegisterWorkerRequest, ctx: Any
    ) -> Controller.RegisterWorkerResponse:
        """Register a worker."""
        self._controller.authority.check_process(caller(), request.incarnation)
        answer = await self._controller.reports.register(request)
        if answer.accepted:
            answer.token_key = self._controller.authority.verifier.public
            answer.token = self._controller.authority.renewed(caller())
        return answer

    async def list_workers(self, request: Controller.ListWorkersRequest, ctx: Any) -> Controller.ListWorkersResponse:
        """Return a page of the workers and their health."""
        page = await self._controller.cluster.list_workers(request.page_size, request.page_token)
        return Controller.ListWorkersResponse(workers=page.items, next_page_token=page.next_token)

    async def list_machines(self, request: Controller.ListMachinesRequest, ctx: Any) -> Controller.ListMachinesResponse:
        """Return a page of the machines with their allocations, and the queued gangs."""
        return await self._controller.cluster.list_machines(request.page_size, request.page_token)

    async def get_usage(self, request: Controller.GetUsageRequest, ctx: Any) -> Controller.GetUsageResponse:
        """Return how much CPU, memory and GPUs the tasks of a job, or the tasks on workers, have used over time."""
        return await self._controller.usage.get_usage(request)

    async def report_task_state(
        self, request: Controller.ReportTaskStateRequest, ctx: Any
    ) -> Controller.ReportTaskStateResponse:
        """Apply a worker's report about one attempt."""
        await self._controller.reports.report_state(request)
        return Controller.ReportTaskStateResponse()

    async def report_task_states(
        self, request: Controller.ReportTaskStatesRequest, ctx: Any
    ) -> Controller.ReportTaskStatesResponse:
        """Apply a worker's reports about attempts. A call without reports is a heartbeat."""
        answer = await self._controller.reports.report_states(request)
        if not answer.fenced:
            answer.token = self._controller.authority.renewed(caller())
        return answer

    async def write_stdin(self, request: Controller.WriteStdinRequest, ctx: Any) -> Controller.WriteStdinResponse:
        """Pass standard input to a task."""
        return await self._controller.stdin.write(await self._controller.jobs.find(request.job_id), request)

    async def register_endpoint(
        self, request: Controller.RegisterEndpointRequest, ctx: Any
    ) -> Controller.RegisterEndpointResponse:
        """Register an endpoint. An endpoint that a task registers ends with the task's attempt."""
        own = caller()
        attempt = (own.task_index, own.attempt_id) if own.role == TASK else None
        endpoint_id = await self._controller.endpoints.register(request, attempt)
        return Controller.RegisterEndpointResponse(endpoint_id=endpoint_id)

    async def unregister_endpoint(self, request: Controller.UnregisterEndpointRequest, ctx: Any) -> cluster_pb2.Empty:
        """Remove an endpoint."""
        await self._controller.endpoints.unregister(request.endpoint_id)
        return cluster_pb2.Empty()

    async def lookup_endpoint(
        self, request: Controller.LookupEndpointRequest, ctx: Any
    ) -> Controller.LookupEndpointResponse:
        """Return the endpoint with a name."""
        return Controller.LookupEndpointResponse(endpoint=await self._controller.endpoints.lookup(request.name))

    async def list_endpoints(
        self, request: Controller.ListEndpointsRequest, ctx: Any
    ) -> Controller.ListEndpointsResponse:
        """Return a page of the endpoints whose names start with a prefix."""
        page = await self._controller.endpoints.list(
            request.prefix, request.page_size, request.page_token, request.job_id
        )
        return Controller.ListEndpointsResponse(endpoints=page.items, next_page_token=page.next_token)

    async def watch_job(
        self, request: Controller.WatchJobRequest, ctx: Any
    ) -> AsyncIterator[Controller.WatchJobResponse]:
        """Yield the state of a job, and then each change of the state, until the state is final."""
        record = await self._controller.jobs.find(request.job_id)
        self._controller.headroom.check_stream()
        changes = self._controller.watches.messages(record, caller().key, include_tasks=request.include_tasks)
        async with contextlib.aclosing(self.open_streams.limited(caller().name, changes)) as messages:
            async for message in messages:
                yield message

    async def watch_jobs(
        self, request: Controller.WatchJobsRequest, ctx: Any
    ) -> AsyncIterator[Controller.WatchJobsResponse]:
        """Yield a page of the list of jobs, and then each change of the page."""
        self._controller.headroom.check_stream()
        changes = self._controller.list_watches.messages(request, caller().key)
        async with contextlib.aclosing(self.open_streams.limited(caller().name, changes)) as messages:
            async for message in messages:
                yield message

    async def watch_cluster(
        self, request: Controller.WatchClusterRequest, ctx: Any
    ) -> AsyncIterator[Controller.WatchClusterResponse]:
        """Yield the machines, the workers and the events of the cluster, and their changes."""
        self._controller.headroom.check_stream()
        changes = self._controller.cluster_watch.messages(request, is_admin=caller().role == ADMIN)
        async with contextlib.aclosing(self.open_streams.limited(caller().name, changes)) as messages:
            async for message in messages:
                yield message

    async def stream_results(
        self, request: Controller.StreamResultsRequest, ctx: Any
    ) -> AsyncIterator[Controller.StreamResultsResponse]:
        """Yield the tasks of a job that have ended, each with its result."""
        record = await self._controller.results.check(request)
        self._controller.headroom.check_stream()
        found = self._controller.results.messages(record, request)
        results = self._controller.jobs.until_removed(record, found, "results")
        async with contextlib.aclosing(self.open_streams.limited(caller().name, results)) as messages:
            async for message in messages:
                yield message

    async def stream_task_logs(
        self, request: cluster_pb2.StreamTaskLogsRequest, ctx: Any
    ) -> AsyncIterator[cluster_pb2.StreamTaskLogsResponse]:
        """Yield the logs of all attempts of the requested tasks."""
        self._controller.headroom.check_stream()
        record = await self._controller.jobs.get(request.job_id)
        positions = len(request.positions) or (0 if record is None else len(record.job.tasks))
        logs = self._controller.logs.stream_task_logs(request, caller().key)
        async with contextlib.aclosing(self.open_streams.limited(caller().name, logs, positions)) as messages:
            async for message in messages:
                yield message

    async def fetch_task_logs(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, ctx: Any
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """Return a page of an attempt's log."""
        return await self._controller.logs.fetch_task_logs(request, caller().key)

    async def fetch_log_parts(
        self, request: cluster_pb2.FetchLogPartsRequest, ctx: Any
    ) -> cluster_pb2.FetchLogPartsResponse:
        """Return the lines before or after requested positions in the logs of attempts."""
        return await self._controller.logs.fetch_log_parts(request, caller().key)

    async def store_logs(self, request: Controller.StoreLogsRequest, ctx: Any) -> Controller.StoreLogsResponse:
        """Store the parts of logs that a worker uploads."""
        return await self._controller.logs.store_logs(request)

    async def terminate_task(self, request: Controller.TerminateTaskRequest, ctx: Any) -> cluster_pb2.Empty:
        """Terminate one task."""
        await self._controller.control.terminate_task(request.job_id, request.task_index)
        return cluster_pb2.Empty()
