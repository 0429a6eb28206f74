"""The wire's door: the verbs of ControllerService, as thin as they can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from iris.cluster.controller.controller import Controller as JobController
from iris.errors import UnimplementedError
from iris.rpc import cluster_pb2
from iris.rpc.caller import caller
from iris.rpc.cluster_pb2 import Controller


class ControllerService:
    """Answers the calls of cluster_connect.ControllerService; what each promises stands in cluster.proto."""

    def __init__(self, controller: JobController) -> None:
        self._controller = controller

    @property
    def controller(self) -> JobController:
        """What answers."""
        return self._controller

    async def launch_job(self, request: Controller.LaunchJobRequest, ctx: Any) -> Controller.LaunchJobResponse:
        """Takes a job."""
        return Controller.LaunchJobResponse(job_id=self._controller.launch_job(request, owner=caller().name))

    async def get_job_status(
        self, request: Controller.GetJobStatusRequest, ctx: Any
    ) -> Controller.GetJobStatusResponse:
        """One job with all its tasks."""
        job = self._controller.get_job_status(request.job_id, include_result=request.include_result)
        return Controller.GetJobStatusResponse(job=job)

    async def terminate_job(self, request: Controller.TerminateJobRequest, ctx: Any) -> cluster_pb2.Empty:
        """Asks a job to end."""
        self._controller.terminate_job(request.job_id)
        return cluster_pb2.Empty()

    async def list_jobs(self, request: Controller.ListJobsRequest, ctx: Any) -> Controller.ListJobsResponse:
        """All jobs."""
        return Controller.ListJobsResponse(jobs=self._controller.list_jobs())

    async def get_task_status(
        self, request: Controller.GetTaskStatusRequest, ctx: Any
    ) -> Controller.GetTaskStatusResponse:
        """One task."""
        task = self._controller.get_task_status(
            request.job_id, request.task_index, include_result=request.include_result
        )
        return Controller.GetTaskStatusResponse(task=task)

    async def list_tasks(self, request: Controller.ListTasksRequest, ctx: Any) -> Controller.ListTasksResponse:
        """The tasks of a job."""
        return Controller.ListTasksResponse(tasks=self._controller.list_tasks(request.job_id))

    async def register_worker(
        self, request: Controller.RegisterWorkerRequest, ctx: Any
    ) -> Controller.RegisterWorkerResponse:
        """A worker is there."""
        address = self._controller.register_worker(request)
        authority = self._controller.authority
        return Controller.RegisterWorkerResponse(
            accepted=True,
            controller_address=address,
            token_key=authority.verifier.public,
            token=authority.renewed(caller()),
        )

    async def list_workers(self, request: Controller.ListWorkersRequest, ctx: Any) -> Controller.ListWorkersResponse:
        """The workers, and how they are."""
        return Controller.ListWorkersResponse(workers=self._controller.list_workers())

    async def report_task_state(
        self, request: Controller.ReportTaskStateRequest, ctx: Any
    ) -> Controller.ReportTaskStateResponse:
        """What became of one attempt."""
        self._controller.report_task_state(request)
        return Controller.ReportTaskStateResponse()

    async def report_task_states(
        self, request: Controller.ReportTaskStatesRequest, ctx: Any
    ) -> Controller.ReportTaskStatesResponse:
        """What became of attempts, or only that the worker lives."""
        answer = self._controller.report_task_states(request)
        answer.token = self._controller.authority.renewed(caller())
        return answer

    async def register_endpoint(
        self, request: Controller.RegisterEndpointRequest, ctx: Any
    ) -> Controller.RegisterEndpointResponse:
        """Adds a name."""
        return Controller.RegisterEndpointResponse(endpoint_id=self._controller.register_endpoint(request))

    async def unregister_endpoint(self, request: Controller.UnregisterEndpointRequest, ctx: Any) -> cluster_pb2.Empty:
        """Takes a name away."""
        self._controller.unregister_endpoint(request.endpoint_id)
        return cluster_pb2.Empty()

    async def lookup_endpoint(
        self, request: Controller.LookupEndpointRequest, ctx: Any
    ) -> Controller.LookupEndpointResponse:
        """The endpoint of a name."""
        return Controller.LookupEndpointResponse(endpoint=self._controller.lookup_endpoint(request.name))

    async def list_endpoints(
        self, request: Controller.ListEndpointsRequest, ctx: Any
    ) -> Controller.ListEndpointsResponse:
        """The endpoints below a prefix."""
        return Controller.ListEndpointsResponse(endpoints=self._controller.list_endpoints(request.prefix))

    def watch_job(self, request: Controller.WatchJobRequest, ctx: Any) -> AsyncIterator[Controller.WatchJobResponse]:
        """A job's states, until it is final."""
        return self._controller.watch_job(request.job_id, include_tasks=request.include_tasks)

    async def fetch_bundle(self, request: Controller.FetchBundleRequest, ctx: Any) -> Controller.FetchBundleResponse:
        """A workspace."""
        return Controller.FetchBundleResponse(bundle_blob=self._controller.fetch_bundle(request.bundle_hash))

    def stream_task_logs(
        self, request: cluster_pb2.StreamTaskLogsRequest, ctx: Any
    ) -> AsyncIterator[cluster_pb2.StreamTaskLogsResponse]:
        """The logs of tasks, through their attempts."""
        return self._controller.logs.stream_task_logs(request)

    async def fetch_task_logs(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, ctx: Any
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """A page of an attempt's log."""
        return await self._controller.logs.fetch_task_logs(request)

    async def store_logs(self, request: Controller.StoreLogsRequest, ctx: Any) -> Controller.StoreLogsResponse:
        """What attempts have written, for keeping."""
        return await self._controller.store_logs(request)

    async def terminate_task(self, request: Controller.TerminateTaskRequest, ctx: Any) -> cluster_pb2.Empty:
        """Asks one task to end."""
        raise UnimplementedError("this controller does not end single tasks yet")

    async def create_token(self, request: Controller.CreateTokenRequest, ctx: Any) -> Controller.CreateTokenResponse:
        """Makes a token."""
        token, secret = self._controller.authority.create_token(request)
        return Controller.CreateTokenResponse(token=token, secret=secret)

    async def list_tokens(self, request: Controller.ListTokensRequest, ctx: Any) -> Controller.ListTokensResponse:
        """The tokens that were made."""
        return Controller.ListTokensResponse(tokens=self._controller.authority.list_tokens())

    async def revoke_token(self, request: Controller.RevokeTokenRequest, ctx: Any) -> cluster_pb2.Empty:
        """Ends a token's life."""
        self._controller.authority.revoke_token(request.token_id)
        return cluster_pb2.Empty()
