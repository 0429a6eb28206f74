"""Makes the requests that submit an earlier job again. `IrisClient.retry` documents the arguments and errors."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from iris.arguments import JobReference, check_flag, check_job_id
from iris.client.submission import set_parent
from iris.cluster.client.operations.jobs import get_job_status, get_submission, resubmit_job
from iris.cluster.client.operations.steps import Operation
from iris.cluster.names import MAX_NAME_BYTES, check_job_name
from iris.cluster.types import JobInfo, is_job_finished, state_name
from iris.errors import FailedPreconditionError, quoted
from iris.rpc import cluster_pb2
from iris.rpc.calls import DEFAULT_TIMEOUT_S

LaunchRequest = cluster_pb2.Controller.LaunchJobRequest

_RANDOM_SUFFIX = re.compile(r"-[0-9a-f]{8}")
_SUFFIX_BYTES = 9


def retry_job(
    job_id: str | JobReference, name: str | None, failed_only: bool, parent: JobInfo | None
) -> Operation[str]:
    """Submit a job again, and return the id of the new job.

    Args:
        job_id: The earlier job, by its id or as a `Job`.
        name: The name of the new job. If None, a name is made from the name of the earlier job.
        failed_only: Whether to run only the tasks that have not succeeded.
        parent: The task in which this program runs, or None if the new job has no parent job.
    """
    job_id = check_job_id(job_id)
    if name is not None:
        check_job_name(name)
    failed_only = check_flag("failed_only", failed_only)
    answer = yield from get_submission(job_id)
    if answer.problem:
        raise FailedPreconditionError(answer.problem)
    submission = answer.submission
    if failed_only:
        job = yield from get_job_status(job_id, timeout_s=DEFAULT_TIMEOUT_S)
        keep_unsuccessful(submission, job)
    prepare(submission, name or new_name(submission.asked_name or submission.name), parent)
    kept = sorted(submission.environment.env_vars)
    return (yield from resubmit_job(job_id, submission, kept_variables=kept))


def prepare(submission: LaunchRequest, name: str, parent: JobInfo | None) -> None:
    """Change the submission of an earlier job into the submission of a new job with the given name and parent job."""
    for field in ("asked_name", "parent_job_id", "parent_task_index", "parent_attempt_id", "stdin", "after"):
        submission.ClearField(field)
    submission.name = name
    submission.submission_id = secrets.token_hex(16)
    if parent is not None:
        set_parent(submission, parent)


def keep_unsuccessful(submission: LaunchRequest, job: cluster_pb2.JobStatus) -> None:
    """Restrict a submission to the tasks that have not succeeded. A gang keeps all of its tasks. If the failure of all
    its tasks would have failed the earlier job, the failure of all its tasks also fails the new job.

    Raises:
        FailedPreconditionError: The job has not ended, or all its tasks have succeeded.
    """
    if not is_job_finished(job.state):
        raise FailedPreconditionError(
            f"job {quoted(job.job_id)} has not ended ({state_name(job.state)}): wait for its end, or terminate it"
        )
    indices = [task.task_index for task in job.tasks if task.state != cluster_pb2.TASK_STATE_SUCCEEDED]
    if not indices:
        raise FailedPreconditionError(f"all tasks of job {quoted(job.job_id)} have succeeded: nothing is left to retry")
    if not submission.independent_tasks or len(indices) == job.num_tasks:
        return
    seen: Sequence[int] = submission.seen_task_indices or range(job.num_tasks)
    chosen = [seen[index] for index in indices]
    submission.seen_num_tasks = submission.seen_num_tasks or job.num_tasks
    submission.seen_task_indices[:] = chosen
    # The new job has only some inputs of the earlier map. Therefore `IrisClient.map_job` must not accept it as a map.
    submission.ClearField("inputs_digest")
    submission.resources.replicas = len(chosen)
    # The new job must fail if all its tasks fail, as the earlier job would have done. Therefore the number of allowed
    # failures is reduced.
    if submission.max_task_failures < job.num_tasks:
        submission.max_task_failures = min(submission.max_task_failures, len(chosen) - 1)


def new_name(name: str) -> str:
    """Return a job name with a new random suffix. If the given name already ends with a random suffix, the new one
    replaces it."""
    suffix = f"-{secrets.token_hex(4)}"
    begin = name[:-_SUFFIX_BYTES] if _RANDOM_SUFFIX.fullmatch(name[-_SUFFIX_BYTES:]) else name
    while len(begin.encode()) + _SUFFIX_BYTES > MAX_NAME_BYTES:
        begin = begin[:-1]
    return f"{begin.rstrip()}{suffix}"
