"""Contains the methods of `AsyncTask` that copy files."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol

from iris.arguments import TaskReference
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
        """Copy a file or a directory from the newest attempt of the task to this machine.

        `AsyncIrisClient.download` documents the arguments and the errors.
        """
        return await self._client.download(self, path, to, on_progress=on_progress)

    async def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        path: str = "",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a local file or directory into the working directory of the task while it runs.

        `AsyncIrisClient.upload` documents the arguments and the errors.
        """
        return await self._client.upload(source, self, path, on_progress=on_progress)
