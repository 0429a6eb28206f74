"""The calls of `AsyncRemoteClusterClient` that read and sample the call stacks of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from iris.arguments import JobReference
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.cluster.client.operations import stacks
from iris.rpc import cluster_pb2


class AsyncStackVerbs:
    """The calls about call stacks. `StackVerbs` has the same methods, and documents the arguments and errors.

    Args:
        connection: The connections of the client.
    """

    def __init__(self, connection: AsyncClusterConnection) -> None:
        self.connection = connection

    async def read_stacks(
        self, job_id: str | JobReference, task_indices: Sequence[int] | None = None, *, variables: bool = False
    ) -> cluster_pb2.ReadStacksResponse:
        """Return the call stacks of all processes of a job's tasks."""
        return await self.connection.perform(stacks.read_stacks(job_id, task_indices, variables=variables))

    async def sample_stacks(
        self,
        job_id: str | JobReference,
        task_indices: Sequence[int] | None = None,
        *,
        seconds: int = 1,
        rate: int = 0,
        idle: bool = False,
    ) -> cluster_pb2.SampleStacksResponse:
        """Sample the call stacks of all processes of a job's tasks, and return the number of samples with each
        stack."""
        operation = stacks.sample_stacks(job_id, task_indices, seconds=seconds, rate=rate, idle=idle)
        return await self.connection.perform(operation)
