"""The calls of `AsyncRemoteClusterClient` about files of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from iris.arguments import JobReference, TaskReference
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.cluster.client.operations import files
from iris.rpc import cluster_pb2


class AsyncFileVerbs:
    """The calls about files of tasks. `FileVerbs` has the same methods, and documents the arguments and errors.

    Args:
        connection: The connections of the client.
    """

    def __init__(self, connection: AsyncClusterConnection) -> None:
        self.connection = connection

    async def list_task_files(
        self, task_id: str | TaskReference, path: str = "", *, recursive: bool = False, attempt_id: int | None = None
    ) -> list[cluster_pb2.TaskFile]:
        """Return the file at a path in the directory of an attempt."""
        operation = files.list_task_files(
            self.connection.reachable, task_id, path, recursive=recursive, attempt_id=attempt_id
        )
        return await self.connection.perform(operation)

    async def read_task_file(self, request: cluster_pb2.ReadTaskFileRequest) -> cluster_pb2.ReadTaskFileResponse:
        """Return a part of a file, or its hash, through the controller."""
        return await self.connection.perform(files.read_task_file(request))

    async def write_task_file(self, request: cluster_pb2.WriteTaskFileRequest) -> cluster_pb2.WriteTaskFileResponse:
        """Write a part of a file into the directory of a running attempt, through the controller."""
        return await self.connection.perform(files.write_task_file(request))

    async def list_outputs(
        self, job_id: str | JobReference, task_indices: Sequence[int] | None = None, *, all_attempts: bool = False
    ) -> list[cluster_pb2.Controller.Outputs]:
        """Return the stored outputs of the attempts of a job, by task and attempt."""
        return await self.connection.perform(files.list_outputs(job_id, task_indices, all_attempts=all_attempts))
