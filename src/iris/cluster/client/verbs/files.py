"""Calls that list, read and write files of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from iris.arguments import JobReference, TaskReference
from iris.cluster.client.operations import files as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.rpc import cluster_pb2


class FileVerbs(ClusterVerbs):
    """Calls that list, read and write files of tasks. The methods `download` and `upload` of `IrisClient` copy whole
    files."""

    def list_task_files(
        self, task_id: str | TaskReference, path: str = "", *, recursive: bool = False, attempt_id: int | None = None
    ) -> list[cluster_pb2.TaskFile]:
        """Return the file at a path in the directory of an attempt.

        Args:
            task_id: `"{job_id}/task-{index}"`, or a `Task`.
            path: The path, relative to the attempt's directory. `""`: the directory itself.
            recursive: Whether to return all files below a directory, too.
            attempt_id: The attempt, from 0. Default: the newest attempt.

        Raises:
            NotFoundError: There is no such job, task, attempt or file.
            FailedPreconditionError: The task has not started yet, or the path leads out of the directory.
        """
        operation = operations.list_task_files(
            self.connection.reachable, task_id, path, recursive=recursive, attempt_id=attempt_id
        )
        return self.connection.perform(operation)

    def read_task_file(self, request: cluster_pb2.ReadTaskFileRequest) -> cluster_pb2.ReadTaskFileResponse:
        """Return a part of a file, or its hash, through the controller.

        Args:
            request: The file and the part, as described in cluster.proto.

        Raises:
            NotFoundError: There is no such job, task, attempt or file.
            FailedPreconditionError: The path does not lead to a regular file.
        """
        return self.connection.perform(operations.read_task_file(request))

    def write_task_file(self, request: cluster_pb2.WriteTaskFileRequest) -> cluster_pb2.WriteTaskFileResponse:
        """Write a part of a file into the directory of a running attempt, through the controller.

        Args:
            request: The file and the part, as described in cluster.proto.

        Raises:
            NotFoundError: There is no such job, task or attempt.
            PermissionDeniedError: The caller is neither the owner of the job nor an admin.
            FailedPreconditionError: The attempt does not run, the path cannot be written, or the earlier parts are
                unknown.
            DataLossError: The hash of the complete file is wrong.
        """
        return self.connection.perform(operations.write_task_file(request))

    def list_outputs(
        self, job_id: str | JobReference, task_indices: Sequence[int] | None = None, *, all_attempts: bool = False
    ) -> list[cluster_pb2.Controller.Outputs]:
        """Return the stored outputs of the attempts of a job, by task and attempt.

        Args:
            job_id: The job: its id, or a `Job`.
            task_indices: The tasks. Default: all tasks.
            all_attempts: Whether to return the outputs of all attempts, and not only of the newest one of each task.

        Raises:
            NotFoundError: There is no such job or task.
            FailedPreconditionError: The job was submitted without outputs.
        """
        return self.connection.perform(operations.list_outputs(job_id, task_indices, all_attempts=all_attempts))
