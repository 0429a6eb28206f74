"""The calls of `ControllerService` about files of tasks."""

from __future__ import annotations

from typing import Any

from iris.cluster.controller.outputs.file_calls import FileCalls
from iris.rpc import cluster_pb2


class FileServiceCalls:
    """The calls of `ControllerService` about files of tasks.

    Args:
        files: Answers the calls.
    """

    def __init__(self, files: FileCalls) -> None:
        self._files = files

    async def list_task_files(
        self, request: cluster_pb2.ListTaskFilesRequest, ctx: Any
    ) -> cluster_pb2.ListTaskFilesResponse:
        """Return a page of the files of an attempt."""
        return await self._files.list_files(request)

    async def read_task_file(
        self, request: cluster_pb2.ReadTaskFileRequest, ctx: Any
    ) -> cluster_pb2.ReadTaskFileResponse:
        """Return a part of a file of an attempt, or the hash of the part."""
        return await self._files.read_file(request)

    async def write_task_file(
        self, request: cluster_pb2.WriteTaskFileRequest, ctx: Any
    ) -> cluster_pb2.WriteTaskFileResponse:
        """Write a file into the directory of a running attempt."""
        return await self._files.write_file(request)
