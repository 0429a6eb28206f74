"""Describes the stored outputs of a job, for asyncio."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO, Protocol

from iris.client.files.copied import Copied, OnProgress
from iris.client.files.outputs import StoredFile, folders_of, read_outputs
from iris.counts import counted
from iris.rpc import cluster_pb2


class AsyncOutputClient(Protocol):
    """The client method that copies outputs. `AsyncIrisClient` implements this protocol."""

    async def download(
        self,
        task_id: str,
        path: str,
        to: str | os.PathLike[str] | BinaryIO = ".",
        *,
        attempt_id: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file or a directory from a task to this machine."""


class AsyncOutput(StoredFile):
    """A file that an attempt has written into one of the job's output directories.

    Attributes:
        task_id: The id of the task.
        task_index: The index of the task.
        attempt_id: The number of the attempt, from 0.
        path: The path of the file, relative to the working directory of the task.
        size: The size of the file in bytes.
        modified_ns: When the contents changed last, in nanoseconds since the Unix epoch.
    """

    def __init__(self, client: AsyncOutputClient, file: StoredFile) -> None:
        super().__init__(**vars(file))
        object.__setattr__(self, "_client", client)

    def __repr__(self) -> str:
        return f"<AsyncOutput {self.task_id}:{self.path} ({counted(self.size, 'byte')})>"

    async def download(
        self, to: str | os.PathLike[str] | BinaryIO = ".", *, on_progress: OnProgress | None = None
    ) -> Copied:
        """Copy the file to this machine. `AsyncIrisClient.download` documents the arguments and the errors."""
        client: AsyncOutputClient = vars(self)["_client"]
        return await client.download(self.task_id, self.path, to, attempt_id=self.attempt_id, on_progress=on_progress)


class AsyncOutputs(list[AsyncOutput]):
    """A list of the files that the attempts of a job have written into its output directories, sorted by task, attempt
    and path.

    Attributes:
        missing: The attempts whose outputs are not stored, with the reasons.
    """

    def __init__(
        self, client: AsyncOutputClient, answers: Iterable[cluster_pb2.Controller.Outputs], job_id: str
    ) -> None:
        files, self.missing = read_outputs(answers, job_id)
        super().__init__(AsyncOutput(client, file) for file in files)
        self._client = client

    async def download(
        self, to: str | os.PathLike[str] = ".", *, on_progress: OnProgress | None = None
    ) -> list[Copied]:
        """Copy all files of this list to this machine. The files of each task go into the folder `task-N` below `to`.
        If the list has files of several attempts of a task, the files of each attempt go into `task-N/attempt-M`.

        Args:
            to: The folder. A missing folder is created.
            on_progress: A function that is called as `on_progress(done, total)` with numbers of bytes. The numbers
                start at 0 again for each attempt.

        Raises:
            FailedPreconditionError: A local file cannot be written.
            ControllerUnreachableError: The controller does not answer.
        """
        copies = []
        for task_id, attempt_id, folder in folders_of(self, to):
            copies.append(
                await self._client.download(task_id, "", folder, attempt_id=attempt_id, on_progress=on_progress)
            )
        return copies
