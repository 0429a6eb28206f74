"""Finds the name of a new job. A child job that an attempt submits gets another name if the requested name is taken."""

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


async def claim_name(request: LaunchJobRequest, jobs: JobTable, saver: Saver) -> JobRecord | None:
    """Set the request's name to the first free one of `names_of`.

    The claim is valid until the caller awaits something, or passes the job to the saver.

    Returns:
        The job that an earlier copy of this request created, if that request's answer was lost; otherwise None.

    Raises:
        AlreadyExistsError: Another job has the name.
    """
    parent = jobs.get(request.parent_job_id)
    asked_name, taken = request.name, ""
    for name in names_of(request):
        request.name = name
        request.ClearField("asked_name")
        if name != asked_name:
            request.asked_name = asked_name
        await saver.until_launched(job_id_of(request))
        known = jobs.get(job_id_of(request))
        if known is None:
            check_job_name(request.name)
            return None
        if request.submission_id and request.submission_id == known.launch.submission_id:
            return known
        taken = f"{known.job_id!r} already ({state_name(known.job.state)})"
        if not is_passed_over(asked_name, request, known.launch, None if parent is None else parent.job):
            break
    raise AlreadyExistsError(
        f"there is a job named {taken}: choose another name",
        reason=ErrorReason.JOB_EXISTS,
        metadata={"job_id": job_id_of(request)},
    )


def names_of(request: LaunchJobRequest) -> Iterator[str]:
    """Yield the names that a job may get, in the order in which to try them.

    The first name is the one in the request. For a child job that an attempt submits, further names follow without end:
    `train@1`, `train@1.2`, `train@1.3`. A user may have given such a name to another job, see `is_passed_over`.

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
    """Return whether a submission whose name is taken gets the next name, instead of being refused.

    Args:
        asked_name: The name that the request asked for.
        request: The submission of the new job.
        known: The submission of the job that has the name.
        parent: The parent job of both jobs; None if they have none.
    """
    if parent is None or not request.HasField("parent_attempt_id"):
        return False
    if (known.asked_name or known.name) != asked_name:
        return True  # The name was made for a job with another asked name, or a user chose a name of this form.
    return request.parent_attempt_id > 0 and bool(why_orphaned(known, parent))
