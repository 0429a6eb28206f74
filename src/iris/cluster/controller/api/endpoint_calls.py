"""The calls that register, remove and look up endpoints."""

from __future__ import annotations

from iris.cluster.controller.api.endpoints import Endpoint, Endpoints
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.types import state_name
from iris.errors import FailedPreconditionError
from iris.rpc import cluster_pb2
from iris.rpc.pages import Page


class EndpointCalls:
    """Answers the calls of tasks and clients that register, remove and look up endpoints.

    Args:
        endpoints: The object that stores the registered endpoints.
        jobs: The table of all jobs of the cluster.
        saver: The object that saves the changed endpoints.
        slices: The object that makes large answers in small steps.
    """

    def __init__(self, endpoints: Endpoints, jobs: JobTable, saver: Saver, slices: Slices) -> None:
        self._endpoints = endpoints
        self._jobs = jobs
        self._saver = saver
        self._slices = slices

    async def register(
        self, request: cluster_pb2.Controller.RegisterEndpointRequest, attempt: tuple[int, int] | None = None
    ) -> str:
        """Register an endpoint, and return its id once the endpoint is saved.

        Args:
            request: The name, the address, and the job that the endpoint belongs to.
            attempt: The task index and attempt id of the attempt that registers the endpoint; None if the caller is not
                an attempt.

        Raises:
            NotFoundError: There is no such job.
            FailedPreconditionError: The job has ended.
            InvalidArgumentError: The name or the address is invalid.
            ResourceExhaustedError: The endpoint is too large, or there are too many endpoints.
            AlreadyExistsError: Another job has the name.
        """
        if request.job_id:
            job = (await self._jobs.find(request.job_id)).job
            if job.is_finished:
                raise FailedPreconditionError(
                    f"job {job.job_id!r} has ended ({state_name(job.state)}): it cannot register endpoints"
                )
        endpoint_id = self._endpoints.register(request, attempt).endpoint_id
        await self._saver.saved()
        return endpoint_id

    async def unregister(self, endpoint_id: str) -> None:
        """Remove an endpoint, and return once the removal is saved.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        self._endpoints.unregister(endpoint_id)
        await self._saver.saved()

    async def lookup(self, name: str) -> Endpoint:
        """Return the endpoint with the requested name.

        Raises:
            NotFoundError: There is no endpoint with this name.
        """
        answer = self._endpoints.lookup(name)
        await self._saver.settled()
        return answer

    async def list(self, prefix: str, page_size: int, page_token: str, job_id: str = "") -> Page[Endpoint]:
        """Return a page of the endpoints whose names start with a prefix.

        Args:
            prefix: The beginning of the names of the endpoints.
            page_size: The largest number of endpoints; 0 for as many as fit into an answer.
            page_token: The token of the page; an empty string for the first page.
            job_id: Only the endpoints of this job are listed; an empty string lists the endpoints of all jobs.

        Raises:
            InvalidArgumentError: The page size or the page token is invalid.
        """
        made = self._endpoints.list(prefix, job_id, page_size=page_size, page_token=page_token)
        page = await self._slices.run(made)
        await self._saver.settled()
        return page
