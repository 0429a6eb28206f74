"""The calls of `ControllerService` about files of tasks."""

from __future__ import annotations

from typing import Any

from iris.cluster.controller.outputs.file_calls import FileCalls
from iris.cluster.controller.outputs.output_calls import OutputCalls
from iris.rpc import cluster_pb2


class FileServiceCalls:
    """The calls of `ControllerService` about files of tasks.

    Args:
        files: The object that answers the calls about the files of attempts.
        outputs: The object that answers the calls that store and list outputs.
    """

    def __init__(self, files: FileCalls, outputs: OutputCalls) -> None:
        self._files = files
        self._outputs = outputs

    async def store_outputs(
        self, request: cluster_pb2.Controller.StoreOutputsRequest, ctx: Any
    ) -> cluster_pb2.Controller.StoreOutputsResponse:
        """Store a part of the outputs of an attempt."""
        return await self._outputs.store_outputs(request)

    async def list_outputs(
        self, request: cluster_pb2.Controller.ListOutputsRequest, ctx: Any
    ) -> cluster_pb2.Controller.ListOutputsResponse:
        """Return a page of the outputs of a job."""
        return await self._outputs.list_outputs(request)

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
