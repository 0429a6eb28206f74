"""Writes the changes of a job's state, and of its attempts' states, to the event log."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_state import Transition
from iris.cluster.controller.jobs.task import BUILDING
from iris.cluster.types import make_task_id, state_name
from iris.event_log import log_event

# After this many lines, the event loop does other work. One line takes about 8 µs.
_LINES_AT_ONCE = 200
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


class TransitionLog:
    """Writes saved changes of states to the event log, in their order. The changes of a job with thousands of tasks are
    written in steps, and the event loop does other work in between.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Job, Iterator[Transition]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    def write(self, job: Job, transitions: Sequence[Transition]) -> None:
        """Write the changes of a job to the event log. Many changes are written later, in steps."""
        if not _log.isEnabledFor(logging.INFO):
            return
        if not self._waiting and len(transitions) <= _LINES_AT_ONCE:
            log_transitions(job, transitions)
            return
        self._waiting.append((job, iter(transitions)))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting())

    def close(self) -> None:
        """Write all changes that wait, at once."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        while self._waiting:
            self._write_next()

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                self._write_next()
                await asyncio.sleep(0)
        finally:
            self._writing = None

    def _write_next(self) -> None:
        job, transitions = self._waiting[0]
        chosen = list(itertools.islice(transitions, _LINES_AT_ONCE))
        log_transitions(job, chosen)
        if not chosen:
            self._waiting.popleft()


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
