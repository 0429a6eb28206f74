"""Writes the changes of a job's state, and of its attempts' states, to the event log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_state import Transition
from iris.cluster.controller.jobs.task import BUILDING
from iris.cluster.types import make_task_id, state_name
from iris.event_log import log_event

_log = logging.getLogger(__name__)


def log_new_job(job: Job) -> None:
    """Write the submission of a job to the event log."""
    log_event(
        _log,
        "job.submitted",
        job_id=job.job_id,
        tasks=len(job.tasks),
        owner=job.owner,
        parent_job_id=job.parent_job_id,
    )


def log_transitions(job: Job, transitions: Iterable[Transition]) -> None:
    """Write saved changes of the state of a job and of its attempts to the event log."""
    if not _log.isEnabledFor(logging.INFO):
        return
    for change in transitions:
        if change.task_index is None:
            is_end = job.is_finished and change.state == job.state
            log_event(
                _log,
                "job.state",
                job_id=job.job_id,
                state=state_name(change.state),
                error=job.error if is_end else "",
            )
        elif change.attempt_id is not None:
            _log_attempt(job, change.task_index, change.attempt_id, change.state)


def _log_attempt(job: Job, task_index: int, attempt_id: int, state: int) -> None:
    attempt = job.tasks[task_index].attempts[attempt_id]
    is_end = not attempt.is_live and state == attempt.state
    log_event(
        _log,
        "attempt.state",
        task_id=make_task_id(job.job_id, task_index),
        attempt_id=attempt_id,
        state=state_name(state),
        worker_id=attempt.worker_id,
        gang_id=job.tasks[task_index].gang_id if state == BUILDING else "",
        exit_code=attempt.exit_code if is_end else None,
        error=attempt.error if is_end else "",
    )
