"""Finds a job or a task by its id, and suggests similar ids if there is none."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from iris.cluster.types import parse_task_id
from iris.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.rpc import cluster_pb2

_SHOWN = 3


def known_job_or_task(client: IrisClient, name: str) -> tuple[cluster_pb2.JobStatus, int | None]:
    """Return the status of a job, and a task's index if `name` is the id of a task, for example `train/task-2`.

    Raises:
        NotFoundError: The job or the task does not exist. The message suggests jobs with similar ids.
    """
    try:
        # First look for a job, even if the name looks like the id of a task. A child job may have such a name, for
        # example `task-2`.
        return client.status(name), None
    except NotFoundError:
        try:
            job_id, task_index = parse_task_id(name)
        except InvalidArgumentError:
            return known_job(client, name), None
    job = known_job(client, job_id)
    if task_index >= job.num_tasks:
        raise no_such_task(job, task_index)
    return job, task_index


def no_such_task(job: cluster_pb2.JobStatus, task_index: int) -> NotFoundError:
    """Return the error for a task that a job does not have."""
    has = f"its tasks are 0 to {job.num_tasks - 1}" if job.num_tasks > 1 else "its only task is 0"
    return NotFoundError(f"job {job.job_id!r} has no task {task_index}: {has}")


def known_job(client: IrisClient, job_id: str) -> cluster_pb2.JobStatus:
    """Return a job's status.

    Raises:
        NotFoundError: The job does not exist. The message suggests jobs with similar ids.
    """
    try:
        return client.status(job_id)
    except NotFoundError as error:
        near = _near(job_id, [job.job_id for job in client.list_jobs()])
        advice = f"did you mean {', '.join(near)}?" if near else "'iris ps --all' shows all jobs"
        raise NotFoundError(f"{error} ({advice})") from None


def _near(job_id: str, known: list[str]) -> list[str]:
    begins = [name for name in reversed(known) if job_id and name.startswith(job_id)]
    alike = difflib.get_close_matches(job_id, known, n=_SHOWN)
    return list(dict.fromkeys(begins + alike))[:_SHOWN]
