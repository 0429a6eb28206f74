"""Contains the methods of `AsyncTask` that copy files."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol

from iris.arguments import JobReference, TaskReference
from iris.client.aio.files.outputs import AsyncOutputs
from iris.client.files.copied import Copied, OnProgress


class AsyncFileClient(Protocol):
    """The client methods that copy files. `AsyncIrisClient` implements this protocol."""

    async def download(
        self,
        task_id: str | TaskReference,
        path: str,
        to: str | os.PathLike[str] | BinaryIO = ".",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file or a directory from a task to this machine."""

    async def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        task_id: str | TaskReference,
        path: str = "",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a local file or directory into the working directory of a running task."""

    async def outputs(
        self, job_id: str | JobReference, task_index: int | None = None, *, all_attempts: bool = False
    ) -> AsyncOutputs:
        """Return the files in the output directories of a job's tasks."""


class AsyncTaskFileMethods(TaskReference):
    """The methods of `AsyncTask` that copy files."""

    _client: AsyncFileClient

    async def download(
        self,
        path: str,
        to: str | os.PathLike[str] | BinaryIO = ".",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file or a directory from the newest attempt of the task to this machine. `AsyncIrisClient.download`
        documents the arguments and the errors.
        """
        return await self._client.download(self, path, to, on_progress=on_progress)

    async def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        path: str = "",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a local file or directory into the working directory of the task while it runs. `AsyncIrisClient.upload`
        documents the arguments and the errors.
        """
        return await self._client.upload(source, self, path, on_progress=on_progress)

    async def outputs(self, *, all_attempts: bool = False) -> AsyncOutputs:
        """Return the files in the output directories of the task. `AsyncIrisClient.outputs` documents the arguments and
        the errors.
        """
        return await self._client.outputs(self.job_id, self.task_index, all_attempts=all_attempts)


class AsyncJobFileMethods(JobReference):
    """The method of `AsyncJob` that returns outputs."""

    _client: AsyncFileClient

    async def outputs(self, *, all_attempts: bool = False) -> AsyncOutputs:
        """Return the files in the output directories of the job's tasks. `AsyncIrisClient.outputs` documents the
        arguments and the errors.
        """
        return await self._client.outputs(self, all_attempts=all_attempts)
