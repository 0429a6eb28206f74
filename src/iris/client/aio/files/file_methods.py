"""Contains the methods of `AsyncIrisClient` that copy files from and to tasks."""

from __future__ import annotations

import os
from typing import BinaryIO

from iris.arguments import JobReference, TaskReference, check_job_id, check_task_index
from iris.client.aio.files.outputs import AsyncOutputs
from iris.client.files.copied import Copied, OnProgress
from iris.client.files.transfers import download_operation, upload_operation
from iris.cluster.client.aio.remote_client import AsyncClusterClient


class AsyncFileMethods:
    """The methods of `AsyncIrisClient` that copy files from and to tasks.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: AsyncClusterClient) -> None:
        self.cluster = cluster

    async def download(
        self,
        task_id: str | TaskReference,
        path: str,
        to: str | os.PathLike[str] | BinaryIO = ".",
        *,
        attempt_id: int | None = None,
        patience_s: float | None = 60.0,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a file or a directory from a task to this machine.

        The files are read from the working directory of the attempt. After the end of the attempt, this directory may
        be removed, and only the stored outputs of the attempt stay readable (argument `outputs` of `run`). The copies
        get the permissions and times of the files. If the task appends to a file during the copy, the copy ends at the
        size that the file had at the beginning. Each copy is written under a temporary name, and renamed when it is
        complete and its hash is right.

        Args:
            task_id: `"{job_id}/task-{index}"`, or the task's `AsyncTask` handle.
            path: The file or directory, relative to the task's working directory. `""` is the working directory itself.
                Symbolic links in the path must stay inside of it.
            to: A local path, or an open binary file, which gets the bytes of one file. If the local path is a
                directory, the copy is made inside of it under the name of the file, as with `cp -r`. To copy the
                contents of a directory, use `"DIR/."` as `path`.
            attempt_id: The attempt, from 0. Default: the newest attempt.
            patience_s: For how many seconds to retry when no server answers. None and `math.inf` retry forever.
            on_progress: A function that is called as `on_progress(done, total)` with numbers of bytes. `total` grows
                while the files of a large directory are listed.

        Returns:
            A description of the copy: its local path, the numbers of copied files and bytes, and the skipped files.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: There is no such job, task, attempt or file, or the files are gone with their worker.
            FailedPreconditionError: The task has not started yet. A path leads out of the working directory. A local
                file cannot be written.
            DataLossError: The file changed each time while it was copied.
            PermissionDeniedError: The file is a memory profile, and you are neither the owner of the job nor an admin.
            WorkerUnreachableError, ControllerUnreachableError: No server has answered for `patience_s`.
        """
        reachable = self.cluster.connection.reachable
        operation = download_operation(reachable, task_id, path, to, attempt_id, patience_s, on_progress)
        return await self.cluster.connection.perform(operation)

    async def upload(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        task_id: str | TaskReference,
        path: str = "",
        *,
        patience_s: float | None = 60.0,
        on_progress: OnProgress | None = None,
    ) -> Copied:
        """Copy a local file or directory into the working directory of a running task.

        The copies get the permissions and times of the files. The task never sees an incomplete file, because each copy
        gets its name when it is complete and its hash is right. Only the job's owner and admins may copy files into a
        task.

        Args:
            source: The local path, or an open binary file.
            task_id: `"{job_id}/task-{index}"`, or the task's `AsyncTask` handle.
            path: The destination of the copy, relative to the task's working directory. If it is a directory, or ends
                with `/`, the copy is made inside of it under the name of `source`. Missing directories are created.
            patience_s: For how many seconds to retry when no server answers. None and `math.inf` retry forever.
            on_progress: A function that is called as `on_progress(done, total)` with numbers of bytes. `total` grows
                while the files of a large directory are listed.

        Returns:
            A description of the copy: its path in the task, the numbers of copied files and bytes, and the skipped
            files.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: There is no such job or task.
            FailedPreconditionError: The task does not run. A path leads out of the working directory. A local file
                cannot be read.
            ResourceExhaustedError: The disk of the worker is nearly full.
            PermissionDeniedError: You are neither the owner of the job nor an admin.
            WorkerUnreachableError, ControllerUnreachableError: No server has answered for `patience_s`.
        """
        reachable = self.cluster.connection.reachable
        operation = upload_operation(reachable, source, task_id, path, patience_s, on_progress)
        return await self.cluster.connection.perform(operation)

    async def outputs(
        self, job_id: str | JobReference, task_index: int | None = None, *, all_attempts: bool = False
    ) -> AsyncOutputs:
        """Return the files in the output directories of a job's tasks. The argument `outputs` of `run` names these
        directories.

        The files are stored after the end of an attempt that has succeeded or failed, before the end becomes known. The
        attribute `missing` of the list has the attempts whose outputs are not stored, with the reasons.

        Args:
            job_id: The job: its id, or its `AsyncJob` handle.
            task_index: Return only the outputs of this task. Default: all tasks.
            all_attempts: Whether to return the outputs of all attempts, and not only of the newest one of each task.

        Raises:
            NotFoundError: There is no such job or task.
            FailedPreconditionError: The job was submitted without outputs.
        """
        indices = None if task_index is None else [check_task_index(task_index)]
        answers = await self.cluster.list_outputs(job_id, indices, all_attempts=all_attempts)
        return AsyncOutputs(self, answers, check_job_id(job_id))
