"""Calls about jobs and their tasks."""

from __future__ import annotations

import math
import time

from iris.arguments import (
    MAX_INT32,
    JobReference,
    check_flag,
    check_instance,
    check_job_id,
    check_task_index,
    check_timeout,
    check_whole_number,
)
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.errors import FailedPreconditionError
from iris.rpc import cluster_pb2

# A workspace of more than `_OFFERED_BYTES` is first offered by its hash, because the controller may already have it.
_OFFERED_BYTES = 64 * 1024
_SLOWEST_UPLOAD_BYTES_PER_S = 1024 * 1024
_SHORTEST_TIMEOUT_S = 0.001
PAGE_SIZE = 500  # The largest number of entries in one page of a list.


class JobVerbs(ClusterVerbs):
    """Calls about jobs and their tasks."""

    def launch_job(self, request: cluster_pb2.Controller.LaunchJobRequest) -> str:
        """Submit a job and return its id.

        Args:
            request: The job. If the request has a `submission_id`, repeating the call does not submit a second job.

        Raises:
            InvalidArgumentError: The job is invalid. The message contains the reason.
            AlreadyExistsError: Another job has the name.
            ResourceExhaustedError: The workspace or the callable is too large, or a quota is used up.
        """
        check_instance("request", request, cluster_pb2.Controller.LaunchJobRequest)
        blob = request.bundle_blob
        if len(blob) > _OFFERED_BYTES:
            request.ClearField("bundle_blob")
            try:
                return self._launch(request)
            except FailedPreconditionError:
                request.bundle_blob = blob
        return self._launch(request)

    def _launch(self, request: cluster_pb2.Controller.LaunchJobRequest) -> str:
        size = len(request.bundle_blob) + len(request.serialized_entrypoint)
        timeout_s = self._connection.timeout_s + size / _SLOWEST_UPLOAD_BYTES_PER_S
        return self._connection.call(self._connection.controller.launch_job, request, timeout_s=timeout_s).job_id

    def get_job_status(
        self, job_id: str | JobReference, *, include_result: bool = False, timeout_s: float = math.inf
    ) -> cluster_pb2.JobStatus:
        """Return the status of a job, with all its tasks.

        Args:
            job_id: The job: its id, or a `Job`.
            include_result: Whether to include the result of the job's only task.
            timeout_s: The timeout of this call in seconds. The shorter of this timeout and the client's timeout
                applies.

        Raises:
            NotFoundError: There is no such job.
        """
        request = cluster_pb2.Controller.GetJobStatusRequest(
            job_id=check_job_id(job_id), include_result=check_flag("include_result", include_result)
        )
        end = time.monotonic() + min(check_timeout("timeout_s", timeout_s), self._connection.timeout_s)
        left_s = max(_SHORTEST_TIMEOUT_S, end - time.monotonic())
        answer = self._connection.call(self._connection.controller.get_job_status, request, timeout_s=left_s)
        if answer.next_page_token:
            left_s = max(_SHORTEST_TIMEOUT_S, end - time.monotonic())
            rest = self._list_tasks(request.job_id, answer.next_page_token, left_s)
            answer.job.tasks.extend(rest)
        return answer.job

    def terminate_job(self, job_id: str | JobReference) -> None:
        """Request the termination of a job, without waiting for its end. A job that has ended does not change.

        Raises:
            NotFoundError: There is no such job.
        """
        request = cluster_pb2.Controller.TerminateJobRequest(job_id=check_job_id(job_id))
        self._connection.call(self._connection.controller.terminate_job, request)

    def terminate_task(self, job_id: str | JobReference, task_index: int) -> None:
        """Request the termination of one task. A terminated task is not retried. A task that has ended does not change.

        Raises:
            NotFoundError: There is no such job or task.
        """
        request = cluster_pb2.Controller.TerminateTaskRequest(
            job_id=check_job_id(job_id), task_index=check_task_index(task_index)
        )
        self._connection.call(self._connection.controller.terminate_task, request)

    def list_jobs(self) -> list[cluster_pb2.JobStatus]:
        """Return all jobs without their tasks, the oldest first."""
        request = cluster_pb2.Controller.ListJobsRequest(page_size=PAGE_SIZE)
        jobs: list[cluster_pb2.JobStatus] = []
        while True:
            answer = self._connection.call(self._connection.controller.list_jobs, request)
            jobs += answer.jobs
            if not answer.next_page_token:
                return jobs
            request.page_token = answer.next_page_token

    def get_task_status(
        self, job_id: str | JobReference, task_index: int, *, include_result: bool = False, timeout_s: float = math.inf
    ) -> cluster_pb2.TaskStatus:
        """Return the status of a task, with all its attempts.

        Args:
            job_id: The job: its id, or a `Job`.
            task_index: The task, from 0.
            include_result: Whether to include the task's result.
            timeout_s: The timeout of this call in seconds. The shorter of this timeout and the client's timeout
                applies.

        Raises:
            NotFoundError: There is no such job or task.
        """
        request = cluster_pb2.Controller.GetTaskStatusRequest(
            job_id=check_job_id(job_id),
            task_index=check_task_index(task_index),
            include_result=check_flag("include_result", include_result),
        )
        timeout_s = min(check_timeout("timeout_s", timeout_s), self._connection.timeout_s)
        return self._connection.call(self._connection.controller.get_task_status, request, timeout_s=timeout_s).task

    def list_tasks(self, job_id: str | JobReference, *, timeout_s: float = math.inf) -> list[cluster_pb2.TaskStatus]:
        """Return the tasks of a job, in index order.

        Args:
            job_id: The job: its id, or a `Job`.
            timeout_s: The timeout in seconds for all pages together. Each page also has the timeout of the client.

        Raises:
            NotFoundError: There is no such job.
        """
        return self._list_tasks(check_job_id(job_id), "", check_timeout("timeout_s", timeout_s))

    def _list_tasks(self, job_id: str, page_token: str, timeout_s: float) -> list[cluster_pb2.TaskStatus]:
        request = cluster_pb2.Controller.ListTasksRequest(job_id=job_id, page_size=PAGE_SIZE, page_token=page_token)
        tasks: list[cluster_pb2.TaskStatus] = []
        end = time.monotonic() + timeout_s
        while True:
            left_s = min(end - time.monotonic(), self._connection.timeout_s)
            answer = self._connection.call(self._connection.controller.list_tasks, request, timeout_s=left_s)
            tasks += answer.tasks
            if not answer.next_page_token:
                return tasks
            request.page_token = answer.next_page_token

    def write_stdin(
        self, job_id: str, data: bytes, *, position: int, attempt_id: int | None = None, end: bool = False
    ) -> cluster_pb2.Controller.WriteStdinResponse:
        """Send standard input to the only task of a job that was submitted with `stdin`.

        A slow task may accept only a part of `data`. Therefore the answer contains the number of accepted bytes.
        Sending bytes that were already accepted has no effect.

        Args:
            job_id: The job.
            data: The next bytes.
            position: The number of bytes before `data`.
            attempt_id: The attempt that has accepted the bytes before `data`. Default: the newest attempt.
            end: Whether the input ends after `data`.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: There is no such job.
            FailedPreconditionError: The job reads no standard input.
            PermissionDeniedError: The job belongs to another user.
        """
        request = cluster_pb2.Controller.WriteStdinRequest(
            job_id=check_job_id(job_id),
            position=check_whole_number("position", position),
            data=check_instance("data", data, bytes),
            end=check_flag("end", end),
        )
        if attempt_id is not None:
            request.attempt_id = check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt")
        return self._connection.call(self._connection.controller.write_stdin, request)
