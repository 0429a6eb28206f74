"""Chooses the name of a new job. If the requested name is taken, a child job submitted by an attempt may get another
name (see `is_passed_over`), and any other job is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.submission.parents import why_orphaned
from iris.cluster.controller.submission.request import LaunchJobRequest, job_id_of
from iris.cluster.names import check_job_name
from iris.cluster.types import state_name
from iris.errors import AlreadyExistsError
from iris.reasons import ErrorReason


async def claim_name(
    request: LaunchJobRequest, parent: JobRecord | None, jobs: JobTable, saver: Saver
) -> JobRecord | None:
    """Set the name in the request to the first free name from `names_of`.

    Before its next `await`, the caller must pass the new job to `saver`. During an `await`, another submission could
    claim the same name.

    Args:
        request: The submission. This function changes the name in the submission.
        parent: The parent job; None if the new job has no parent.
        jobs: The table of all jobs of the cluster.
        saver: The object that saves new jobs, and knows which of them are not saved yet.

    Returns:
        If the client has repeated a request because the answer was lost, the job created by the first request.
        Otherwise None.

    Raises:
        AlreadyExistsError: Another job has the name.
        InvalidArgumentError: The name in the request is invalid.
        ResourceExhaustedError: The first free name is too long.
    """
    asked_name, taken = request.name, ""
    for name in names_of(request):
        request.name = name
        request.ClearField("asked_name")
        if name != asked_name:
            request.asked_name = asked_name
        known = await _find_taken(job_id_of(request), jobs, saver)
        if known is None:
            check_job_name(request.name)
            return None
        if request.submission_id and request.submission_id == known.launch.submission_id:
            return known
        taken = f"{known.job_id!r} already ({state_name(known.job.state)})"
        if not is_passed_over(asked_name, request, known.launch, None if parent is None else parent.job):
            break
    raise AlreadyExistsError(
        f"there is a job named {taken}: choose another name, or use this one again: --replace (if_exists='replace' in"
        " Python) removes a job that has ended, and --reuse (if_exists='reuse') takes the existing job",
        reason=ErrorReason.JOB_EXISTS,
        metadata={"job_id": job_id_of(request)},
    )


async def find_repeated(request: LaunchJobRequest, jobs: JobTable, saver: Saver) -> JobRecord | None:
    """Return the job that an earlier request with the same submission id has created, or None if there is no such job.
    The name in the request does not change, and no name is claimed.

    Raises:
        InvalidArgumentError: The request has a submission id, and its name is invalid.
    """
    if not request.submission_id:
        return None
    wanted = LaunchJobRequest(parent_job_id=request.parent_job_id)
    for name in names_of(request):
        wanted.name = name
        await saver.until_launched(job_id_of(wanted))
        known = await jobs.get(job_id_of(wanted))
        if known is None:
            return None
        if request.submission_id == known.launch.submission_id:
            return known
        if not request.HasField("parent_attempt_id"):
            return None
    return None


async def _find_taken(job_id: str, jobs: JobTable, saver: Saver) -> JobRecord | None:
    """Return the job with the given id, or None if the id is free. A free id stays free only until the caller's next
    `await`."""
    while True:
        await saver.until_launched(job_id)
        if not jobs.exists(job_id):
            return None
        known = await jobs.get(job_id)
        if known is not None:
            return known
        # The job was removed from the database, and its id is free once its logs are removed, too. The loop then checks
        # the id again, because another submission may have claimed the id meanwhile.
        await jobs.removal_ended(job_id)


def names_of(request: LaunchJobRequest) -> Iterator[str]:
    """Yield the names that a job may get, in order of preference.

    The first name is the name in the request. For a child job submitted by an attempt, endless further names follow,
    for example `train@1`, `train@1.2`, `train@1.3`. A job of a user may already have such a name (see
    `is_passed_over`).

    Raises:
        InvalidArgumentError: The name in the request is invalid.
    """
    name = request.name
    check_job_name(name)
    yield name
    if request.HasField("parent_attempt_id"):
        made = f"{name}@{request.parent_attempt_id}"
        yield made
        for number in itertools.count(2):
            yield f"{made}.{number}"


def is_passed_over(asked_name: str, request: LaunchJobRequest, known: LaunchJobRequest, parent: Job | None) -> bool:
    """Return whether a new job whose name is taken gets the next possible name. If the result is False, the job is
    refused.

    Args:
        asked_name: The name that the request asked for.
        request: The submission of the new job.
        known: The submission of the job that has the name.
        parent: The parent job of the new job and of the existing job; None if they have no parent.
    """
    if parent is None or not request.HasField("parent_attempt_id"):
        return False
    if (known.asked_name or known.name) != asked_name:
        # The existing job was submitted under another name, or a user has chosen a name of this form. Therefore the
        # existing job is not the requested job, and the new job gets the next possible name.
        return True
    return request.parent_attempt_id > 0 and bool(why_orphaned(known, parent))
