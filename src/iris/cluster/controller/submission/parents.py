"""Decides whether a job can have a child job, and when a child job ends because of its parent. The module is pure."""

from __future__ import annotations

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import SUCCEEDED
from iris.cluster.controller.submission.request import LaunchJobRequest
from iris.cluster.controller.submission.sizes import check_sizes
from iris.cluster.types import make_task_id, state_name
from iris.errors import FailedPreconditionError, InvalidArgumentError


def check_parent(request: LaunchJobRequest, parent: Job) -> None:
    """Refuse a child job if its parent job, or the attempt that submits it, has ended.

    Raises:
        FailedPreconditionError: The parent job or the attempt has ended.
        InvalidArgumentError: The parent job has no such attempt.
    """
    if parent.is_finished or parent.ending is not None:
        raise FailedPreconditionError(f"parent job {parent.job_id!r} has ended: it cannot have new child jobs")
    if request.HasField("parent_attempt_id"):
        index, attempt_id = request.parent_task_index, request.parent_attempt_id
        attempts = parent.tasks[index].attempts if 0 <= index < len(parent.tasks) else []
        submitting_attempt = f"attempt {attempt_id} of {make_task_id(parent.job_id, index)}"
        if not 0 <= attempt_id < len(attempts):
            raise InvalidArgumentError(
                f"{submitting_attempt} does not exist: parent_attempt_id must name the attempt that submits the child"
                " job"
            )
        if not attempts[attempt_id].is_live:
            raise FailedPreconditionError(f"{submitting_attempt} has ended: it cannot submit new child jobs")


def inherit_environment(request: LaunchJobRequest, parent: LaunchJobRequest) -> None:
    """Add the environment of the parent job to the submission of a child job, unless the submission forbids it.

    The child's own values override values of the parent. A submission with a complete environment, which was copied
    from the submitting process, is not changed, because this process may have removed variables on purpose. If the
    parent's environment is complete, the child's environment becomes complete too.

    Args:
        request: The submission of the child job, which this function changes.
        parent: The submission of the parent job, with the variables that the parent has inherited itself.

    Raises:
        ResourceExhaustedError: The two environments together are too large.
    """
    own, inherited = request.environment, parent.environment
    if request.ignore_parent_environment or own.complete:
        return
    for name, value in inherited.env_vars.items():
        if name not in own.env_vars:
            own.env_vars[name] = value
    own.complete = inherited.complete
    if inherited.HasField("umask") and not own.HasField("umask"):
        own.umask = inherited.umask
    check_sizes(request)


def why_orphaned(request: LaunchJobRequest, parent: Job) -> str:
    """Return the reason why a child job must end, if its parent job or the attempt that submitted it has ended. Return
    an empty string if the child job may continue.
    """
    if parent.is_finished:
        return f"its parent job {parent.job_id!r} has ended ({state_name(parent.state)})"
    if not request.HasField("parent_attempt_id"):
        return ""
    attempt = parent.tasks[request.parent_task_index].attempts[request.parent_attempt_id]
    if attempt.is_live or attempt.state == SUCCEEDED:
        return ""
    which = f"attempt {attempt.attempt_id} of {make_task_id(parent.job_id, request.parent_task_index)}"
    return f"{which}, which submitted it, has ended ({state_name(attempt.state)})"
