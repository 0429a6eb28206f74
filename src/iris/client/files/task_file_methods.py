"""Contains the methods of `Task` that copy files."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol

from iris.arguments import TaskReference
from iris.client.files.copied import Copied, OnProgress


class FileClient(Protocol):
    """The client methods that copy files. `IrisClient` implements this protocol."""

    def download(
        self,
        task_id: str | TaskReference,
        path: str,
        to: str | os.PathLike[str] | BinaryIO = ".",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file or a directory from a task to this machine."""

    def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        task_id: str | TaskReference,
        path: str = "",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a local file or directory into the working directory of a running task."""


class TaskFileMethods(TaskReference):
    """The methods of `Task` that copy files."""

    _client: FileClient

    def download(
        self,
        path: str,
        to: str | os.PathLike[str] | BinaryIO = ".",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file or a directory from the newest attempt of the task to this machine.

        `IrisClient.download` documents the arguments and the errors.
        """
        return self._client.download(self, path, to, on_progress=on_progress)

    def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        path: str = "",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a local file or directory into the working directory of the task while it runs.

        `IrisClient.upload` documents the arguments and the errors.
        """
        return self._client.upload(source, self, path, on_progress=on_progress)
