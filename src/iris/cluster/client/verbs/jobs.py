"""Calls about jobs and their tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from iris.arguments import JobReference, check_timeout
from iris.cluster.client.operations import jobs as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.cluster.states import JobState
from iris.rpc import cluster_pb2


class JobVerbs(ClusterVerbs):
    """Calls about jobs and their tasks."""

    def launch_job(self, request: cluster_pb2.Controller.LaunchJobRequest) -> str:
        """Submit a job and return its id.

        Args:
            request: The job. If the request has a `submission_id`, repeating the call does not submit a second job.

        Raises:
            InvalidArgumentError: The job is invalid. The message contains the reason.
            AlreadyExistsError: Another job has the name.
            NotFoundError: A job in `after` does not exist.
            ResourceExhaustedError: The workspace or the callable is too large, a quota is used up, or the controller
                has too little disk space.
            UnimplementedError: The controller has an older release of Iris that does not know a field of the request.
        """
        return self.connection.perform(operations.launch_job(request))

    def get_submission(self, job_id: str | JobReference) -> cluster_pb2.Controller.GetSubmissionResponse:
        """Return how a job was submitted: its command, resources, policies, and names of environment variables.

        Args:
            job_id: The job: its id, or a `Job`.

        Raises:
            NotFoundError: There is no such job.
        """
        return self.connection.perform(operations.get_submission(job_id))

    def resubmit_job(
        self,
        job_id: str | JobReference,
        submission: cluster_pb2.Controller.LaunchJobRequest,
        *,
        kept_variables: Sequence[str] = (),
    ) -> str:
        """Submit a job again, and return the id of the new job.

        Args:
            job_id: The earlier job: its id, or a `Job`.
            submission: The submission of the new job, as `get_submission` returned it, with a new name and a new
                `submission_id`. Changed fields take effect. Without a command and a callable, the new job gets the
                callable of the earlier job.
            kept_variables: The names of the environment variables that get their values from the earlier job.

        Raises:
            InvalidArgumentError: The job is invalid. The message contains the reason.
            NotFoundError: There is no such job.
            AlreadyExistsError: Another job has the name.
            FailedPreconditionError: A needed part of the stored submission was removed.
            PermissionDeniedError: The caller is neither the owner of the job nor an admin.
        """
        return self.connection.perform(operations.resubmit_job(job_id, submission, kept_variables=kept_variables))

    def get_job_status(
        self,
        job_id: str | JobReference,
        *,
        include_result: bool = False,
        without_tasks: bool = False,
        timeout_s: float = math.inf,
    ) -> cluster_pb2.JobStatus:
        """Return the status of a job, with all its tasks unless `without_tasks` is set.

        Args:
            job_id: The job: its id, or a `Job`.
            include_result: Whether to include the result of the job's only task.
            without_tasks: Whether to leave out the tasks. The answer then stays small even if the job has many tasks.
            timeout_s: The timeout of this call in seconds. The shorter of this timeout and the client's timeout
                applies.

        Raises:
            NotFoundError: There is no such job.
        """
        timeout_s = min(check_timeout("timeout_s", timeout_s), self.connection.timeout_s)
        return self.connection.perform(
            operations.get_job_status(
                job_id, include_result=include_result, without_tasks=without_tasks, timeout_s=timeout_s
            )
        )

    def terminate_job(self, job_id: str | JobReference) -> None:
        """Request the termination of a job, without waiting for its end. A job that has ended does not change.

        Raises:
            NotFoundError: There is no such job.
        """
        self.connection.perform(operations.terminate_job(job_id))

    def terminate_task(self, job_id: str | JobReference, task_index: int) -> None:
        """Request the termination of one task. A terminated task is not retried. A task that has ended does not change.

        Raises:
            NotFoundError: There is no such job or task.
        """
        self.connection.perform(operations.terminate_task(job_id, task_index))

    def forget_job(self, job_id: str | JobReference) -> list[str]:
        """Remove a job that has ended, with its child jobs, logs and results. Afterwards the names of the removed jobs
        are free.

        Returns:
            The ids of the removed jobs.

        Raises:
            NotFoundError: There is no such job.
            FailedPreconditionError: The job or one of its child jobs has not ended.
            PermissionDeniedError: The caller is neither the owner of the job nor an admin.
        """
        return self.connection.perform(operations.forget_job(job_id))

    def list_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[cluster_pb2.JobStatus]:
        """Return the jobs that meet all given conditions, without their tasks, the oldest first. Without a condition,
        all jobs are returned.

        Args:
            id_prefix: Accept only jobs whose id begins with this text.
            id_contains: Accept only jobs whose id contains this text.
            states: Accept only jobs in one of these states, for example `["RUNNING", "PENDING"]`.
            owner: Accept only jobs of the user with this name.
            since_ms: Accept only jobs that were submitted at or after this time, in milliseconds since the epoch.
            until_ms: Accept only jobs that were submitted before this time, in milliseconds since the epoch. 0: no end.
            newest_first: Whether the newest job comes first.
            limit: The largest number of jobs to return. None: all jobs.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
        """
        operation = operations.list_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return self.connection.perform(operation)

    def count_jobs(
        self,
        *,
        id_prefix: str = "",
        id_contains: str = "",
        states: Iterable[JobState | str | int] = (),
        owner: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
    ) -> tuple[int, int]:
        """Return how many unfinished and how many ended jobs meet all given conditions. Without a condition, all jobs
        are counted.

        Args:
            id_prefix: Accept only jobs whose id begins with this text.
            id_contains: Accept only jobs whose id contains this text.
            states: Accept only jobs in one of these states, for example `["RUNNING", "PENDING"]`.
            owner: Accept only jobs of the user with this name.
            since_ms: Accept only jobs that were submitted at or after this time, in milliseconds since the epoch.
            until_ms: Accept only jobs that were submitted before this time, in milliseconds since the epoch. 0: no end.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
        """
        operation = operations.count_jobs(
            id_prefix=id_prefix,
            id_contains=id_contains,
            states=states,
            owner=owner,
            since_ms=since_ms,
            until_ms=until_ms,
        )
        return self.connection.perform(operation)

    def get_task_status(
        self, job_id: str | JobReference, task_index: int, *, include_result: bool = False, timeout_s: float = math.inf
    ) -> cluster_pb2.TaskStatus:
        """Return the status of a task, with all its attempts.

        Args:
            job_id: The job: its id, or a `Job`.
            task_index: The index of the task in its job, from 0.
            include_result: Whether to include the task's result.
            timeout_s: The timeout of this call in seconds. The shorter of this timeout and the client's timeout
                applies.

        Raises:
            NotFoundError: There is no such job or task.
        """
        return self.connection.perform(
            operations.get_task_status(job_id, task_index, include_result=include_result, timeout_s=timeout_s)
        )

    def list_tasks(self, job_id: str | JobReference, *, timeout_s: float = math.inf) -> list[cluster_pb2.TaskStatus]:
        """Return the tasks of a job, in index order.

        Args:
            job_id: The job: its id, or a `Job`.
            timeout_s: The timeout in seconds for all pages together. Each page also has the timeout of the client.

        Raises:
            NotFoundError: There is no such job.
        """
        return self.connection.perform(operations.list_tasks(job_id, timeout_s=timeout_s))

    def write_stdin(
        self, job_id: str, data: bytes, *, position: int, attempt_id: int | None = None, end: bool = False
    ) -> cluster_pb2.Controller.WriteStdinResponse:
        """Send standard input to the only task of a job that was submitted with `stdin`.

        A slow task may accept only a part of `data`. Therefore the answer contains the number of accepted bytes.
        Sending bytes that were already accepted has no effect.

        Args:
            job_id: The id of the job.
            data: The bytes of the standard input that follow `position`.
            position: How many bytes of the standard input come before `data`.
            attempt_id: The attempt that has accepted the bytes before `data`. Default: the newest attempt.
            end: Whether the standard input ends after `data`.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: There is no such job.
            FailedPreconditionError: The job reads no standard input.
            PermissionDeniedError: The caller is neither the owner of the job nor an admin.
        """
        return self.connection.perform(
            operations.write_stdin(job_id, data, position=position, attempt_id=attempt_id, end=end)
        )
