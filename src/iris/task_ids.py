"""Makes and parses task ids, `"{job_id}/task-{index}"`. A job id may contain `/`, so a task id is split at its last
`/`.
"""

from __future__ import annotations

import re

from iris.arguments import JobReference, TaskReference, check_task_id, check_task_index, refuse
from iris.errors import InvalidArgumentError, quoted
from iris.reasons import ErrorReason

TASK_ID_FORM = '"{job_id}/task-{index}", with an index from 0'
_TASK_ID = re.compile(r"(?P<job_id>.+)/task-(?P<index>0|[1-9][0-9]{0,8})", re.DOTALL | re.ASCII)


def make_task_id(job_id: str | JobReference, task_index: int) -> str:
    """Return the id of a task.

    Args:
        job_id: The id of the task's job, or a `Job`.
        task_index: The index of the task, from 0.

    Raises:
        InvalidArgumentError: (a `ValueError`) The index is not a whole number from 0, or the job id is not text.
    """
    if isinstance(job_id, JobReference):
        job_id = job_id.job_id
    if not isinstance(job_id, str) or not job_id:
        refuse("job_id", "a job id or a Job, and not empty", job_id)
    return f"{job_id}/task-{check_task_index(task_index)}"


def parse_task_id(task_id: str | TaskReference) -> tuple[str, int]:
    """Return the job id and the index in a task id. If the argument is a `Task`, use its id.

    Raises:
        InvalidArgumentError: (a `ValueError`) The text is not a task id.
    """
    match = _TASK_ID.fullmatch(check_task_id(task_id))
    if match is None:
        raise InvalidArgumentError(
            f"not a task id: {quoted(task_id)} (expected {TASK_ID_FORM})", reason=ErrorReason.INVALID_NAME
        )
    return match["job_id"], int(match["index"])
