"""Contains the methods of `Task` that copy files."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol

from iris.arguments import JobReference, TaskReference
from iris.client.files.copied import Copied, OnProgress
from iris.client.files.outputs import Outputs


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

    def outputs(
        self, job_id: str | JobReference, task_index: int | None = None, *, all_attempts: bool = False
    ) -> Outputs:
        """Return the files in the output directories of a job's tasks."""


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
        """Copy a file or a directory from the newest attempt of the task to this machine. `IrisClient.download`
        documents the arguments and the errors.
        """
        return self._client.download(self, path, to, on_progress=on_progress)

    def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        path: str = "",
        *,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a local file or directory into the working directory of the task while it runs. `IrisClient.upload`
        documents the arguments and the errors.
        """
        return self._client.upload(source, self, path, on_progress=on_progress)

    def outputs(self, *, all_attempts: bool = False) -> Outputs:
        """Return the files in the output directories of the task. `IrisClient.outputs` documents the arguments and the
        errors.
        """
        return self._client.outputs(self.job_id, self.task_index, all_attempts=all_attempts)


class JobFileMethods(JobReference):
    """The method of `Job` that returns outputs."""

    _client: FileClient

    def outputs(self, *, all_attempts: bool = False) -> Outputs:
        """Return the files in the output directories of the job's tasks. `IrisClient.outputs` documents the arguments
        and the errors.
        """
        return self._client.outputs(self, all_attempts=all_attempts)
