"""The calls of `AsyncRemoteClusterClient` that send one request, or the requests for the pages of a list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from iris.arguments import JobReference, check_timeout
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.cluster.client.aio.file_verbs import AsyncFileVerbs
from iris.cluster.client.aio.stack_verbs import AsyncStackVerbs
from iris.cluster.client.operations import endpoints, jobs, machines, tokens
from iris.cluster.states import JobState
from iris.rpc import cluster_pb2


class AsyncVerbs(AsyncFileVerbs, AsyncStackVerbs):
    """The calls about jobs, machines, endpoints and tokens. The classes of `iris.cluster.client.verbs` have the same
    methods, and document the arguments and errors.

    Args:
        connection: The connections of the client.

    Attributes:
        connection: The connections of the client, which `iris.client.aio` uses, too.
    """

    def __init__(self, connection: AsyncClusterConnection) -> None:
        super().__init__(connection)

    # Jobs.

    async def launch_job(self, request: cluster_pb2.Controller.LaunchJobRequest) -> str:
        """Submit a job and return its id."""
        return await self.connection.perform(jobs.launch_job(request))

    async def get_submission(self, job_id: str | JobReference) -> cluster_pb2.Controller.GetSubmissionResponse:
        """Return how a job was submitted: its command, resources, policies, and names of environment variables."""
        return await self.connection.perform(jobs.get_submission(job_id))

    async def resubmit_job(
        self,
        job_id: str | JobReference,
        submission: cluster_pb2.Controller.LaunchJobRequest,
        *,
        kept_variables: Sequence[str] = (),
    ) -> str:
        """Submit a job again, and return the id of the new job."""
        return await self.connection.perform(jobs.resubmit_job(job_id, submission, kept_variables=kept_variables))

    async def get_job_status(
        self,
        job_id: str | JobReference,
        *,
        include_result: bool = False,
        without_tasks: bool = False,
        timeout_s: float = math.inf,
    ) -> cluster_pb2.JobStatus:
        """Return the status of a job, with all its tasks unless `without_tasks` is set."""
        timeout_s = min(check_timeout("timeout_s", timeout_s), (await self.connection.open()).timeout_s)
        operation = jobs.get_job_status(
            job_id, include_result=include_result, without_tasks=without_tasks, timeout_s=timeout_s
        )
        return await self.connection.perform(operation)

    async def terminate_job(self, job_id: str | JobReference) -> None:
        """Request the termination of a job, without waiting for its end. A job that has ended does not change."""
        await self.connection.perform(jobs.terminate_job(job_id))

    async def terminate_task(self, job_id: str | JobReference, task_index: int) -> None:
        """Request the termination of one task. A terminated task is not retried. A task that has ended does not
        change.
        """
        await self.connection.perform(jobs.terminate_task(job_id, task_index))

    async def forget_job(self, job_id: str | JobReference) -> list[str]:
        """Remove a job that has ended, with its child jobs, logs and results. Afterwards the names of the removed jobs
        are free."""
        return await self.connection.perform(jobs.forget_job(job_id))

    async def list_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[cluster_pb2.JobStatus]:
        """Return the jobs that meet all given conditions, without their tasks, the oldest first."""
        operation = jobs.list_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return await self.connection.perform(operation)

    async def count_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
    ) -> tuple[int, int]:
        """Return how many unfinished and how many ended jobs meet all given conditions."""
        operation = jobs.count_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
        )
        return await self.connection.perform(operation)

    async def get_task_status(
        self, job_id: str | JobReference, task_index: int, *, include_result: bool = False, timeout_s: float = math.inf
    ) -> cluster_pb2.TaskStatus:
        """Return the status of a task, with all its attempts."""
        operation = jobs.get_task_status(job_id, task_index, include_result=include_result, timeout_s=timeout_s)
        return await self.connection.perform(operation)

    async def list_tasks(
        self, job_id: str | JobReference, *, timeout_s: float = math.inf
    ) -> list[cluster_pb2.TaskStatus]:
        """Return the tasks of a job, in index order."""
        return await self.connection.perform(jobs.list_tasks(job_id, timeout_s=timeout_s))

    async def write_stdin(
        self, job_id: str, data: bytes, *, position: int, attempt_id: int | None = None, end: bool = False
    ) -> cluster_pb2.Controller.WriteStdinResponse:
        """Send standard input to the only task of a job that was submitted with `stdin`."""
        operation = jobs.write_stdin(job_id, data, position=position, attempt_id=attempt_id, end=end)
        return await self.connection.perform(operation)

    # Machines.

    async def describe_cluster(self) -> cluster_pb2.Controller.DescribeClusterResponse:
        """Return the cluster's engine, where its controller runs, and the name and role of this client."""
        return await self.connection.perform(machines.describe_cluster())

    async def check_cluster(self) -> cluster_pb2.Controller.CheckClusterResponse:
        """Return the results of checks that the controller makes of itself, its engine and its workers. The controller
        calls each worker for these checks.

        Raises:
            UnimplementedError: The controller is too old for this call.
        """
        return await self.connection.perform(machines.check_cluster())

    async def list_workers(self) -> list[cluster_pb2.Controller.WorkerHealthStatus]:
        """Return the workers and their health, sorted by worker id."""
        return await self.connection.perform(machines.list_workers())

    async def list_machines(self) -> cluster_pb2.Controller.ListMachinesResponse:
        """Return the machines of the cluster, the tasks on them, and the queued gangs."""
        return await self.connection.perform(machines.list_machines())

    async def get_usage(
        self,
        job_id: str | JobReference = "",
        task_indices: Sequence[int] = (),
        *,
        worker_ids: Sequence[str] = (),
        since_ms: int = 0,
        until_ms: int = 0,
        max_points: int = 0,
    ) -> list[cluster_pb2.UsageSeries]:
        """Return the resource usage over time of the tasks of a job, or of the tasks on workers."""
        operation = machines.get_usage(
            job_id,
            task_indices,
            worker_ids=worker_ids,
            since_ms=since_ms,
            until_ms=until_ms,
            max_points=max_points,
        )
        return await self.connection.perform(operation)

    # Endpoints.

    async def register_endpoint(
        self, name: str, address: str, job_id: str | JobReference = "", metadata: Mapping[str, str] | None = None
    ) -> str:
        """Register a name for an address, and return the endpoint's id."""
        return await self.connection.perform(endpoints.register_endpoint(name, address, job_id, metadata))

    async def unregister_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint."""
        await self.connection.perform(endpoints.unregister_endpoint(endpoint_id))

    async def lookup_endpoint(self, name: str) -> cluster_pb2.Controller.Endpoint:
        """Return the endpoint with the given name."""
        return await self.connection.perform(endpoints.lookup_endpoint(name))

    async def list_endpoints(self, prefix: str = "") -> list[cluster_pb2.Controller.Endpoint]:
        """Return the endpoints whose names start with a prefix, sorted by name."""
        return await self.connection.perform(endpoints.list_endpoints(prefix))

    # Tokens.

    async def create_token(
        self, name: str, role: str, *, ttl_seconds: int = 0, request_id: str = ""
    ) -> cluster_pb2.Controller.CreateTokenResponse:
        """Create a token, and return the token with its secret. No later call returns the secret."""
        operation = tokens.create_token(name, role, ttl_seconds=ttl_seconds, request_id=request_id)
        return await self.connection.perform(operation)

    async def list_tokens(self) -> list[cluster_pb2.Controller.Token]:
        """Return the tokens without their secrets, the oldest first."""
        return await self.connection.perform(tokens.list_tokens())

    async def revoke_token(self, token_id: str) -> None:
        """Revoke a token. Streams that were opened with the token end."""
        await self.connection.perform(tokens.revoke_token(token_id))

    async def create_sign_in_code(self, *, same_user: bool = False) -> cluster_pb2.Controller.CreateSignInCodeResponse:
        """Create a code with which a browser signs in to the cluster's page, once and within five minutes. The browser
        gets the name and the role of this client.
        """
        return await self.connection.perform(tokens.create_sign_in_code(same_user=same_user))

    async def token(self) -> str | None:
        """Return the token that this client uses now, for another program that calls the same cluster."""
        return await self.connection.token()
