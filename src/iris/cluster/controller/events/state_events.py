"""Makes events from changes of the states of jobs and tasks. The module is pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_state import Transition
from iris.cluster.controller.jobs.task import BUILDING, PENDING, RUNNING
from iris.cluster.types import is_job_finished, state_name
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2

Event = cluster_pb2.Controller.Event
MAX_TEXT = 500  # The largest number of characters of one text in an event.
_UNFINISHED = {PENDING: "job.waiting", BUILDING: "job.building", RUNNING: "job.running"}
_LEVELS = {"FAILED": "warning", "WORKER_FAILED": "warning", "UNSCHEDULABLE": "warning"}


def short(text: str) -> str:
    """Return a text, cut to the largest length that a text in an event may have."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def submission_event(job: Job, time_ms: int) -> Event:
    """Return the event of a new job."""
    event = Event(time_ms=time_ms, level="info", name="job.submitted", job_id=job.job_id, owner=job.owner)
    event.fields["tasks"] = str(len(job.tasks))
    if job.parent_job_id:
        event.fields["parent_job_id"] = job.parent_job_id
    return event


def state_events(job: Job, transitions: Iterable[Transition], time_ms: int) -> Iterator[Event]:
    """Yield an event for each change of a state.

    Args:
        job: The job.
        transitions: Changes of the state of the job and of its tasks, which the job has recorded.
        time_ms: The time of the events, in milliseconds since the epoch.
    """
    for change in transitions:
        event = _of_job(job, change.state) if change.task_index is None else _of_task(job, change, change.task_index)
        event.time_ms, event.job_id, event.owner = time_ms, job.job_id, job.owner
        yield event


def _of_job(job: Job, state: int) -> Event:
    if not is_job_finished(state):
        # The first state of a job causes no event, so `job.waiting` always means that the job waits for a retry.
        return Event(level="info", name=_UNFINISHED[state])
    word = state_name(state)
    event = Event(level=_LEVELS.get(word, "info"), name=f"job.{word.lower()}")
    event.reason, event.text = _reason(job.failure), short(job.error)
    if job.first_failed is not None and word != "SUCCEEDED":
        event.fields["first_failed_task_index"] = str(job.first_failed)
        if (exit_code := job.tasks[job.first_failed].exit_code) is not None:
            event.fields["exit_code"] = str(exit_code)
    return event


def _of_task(job: Job, change: Transition, task_index: int) -> Event:
    task = job.tasks[task_index]
    if change.attempt_id is None:
        return _end(Event(task_index=task_index), change.state, task.failure, task.error)
    attempt = task.attempts[change.attempt_id]
    event = Event(task_index=task_index, attempt_id=change.attempt_id, worker_id=attempt.worker_id)
    if change.state in (BUILDING, RUNNING):
        event.level, event.name = "info", "task.placed" if change.state == BUILDING else "task.running"
        return event
    if attempt.exit_code is not None:
        event.fields["exit_code"] = str(attempt.exit_code)
    if not change.will_retry:
        return _end(event, task.state, task.failure, task.error)
    _end(event, attempt.state, attempt.failure, attempt.error)
    event.fields["state"] = state_name(attempt.state)
    event.name = "task.retried"
    return event


def _end(event: Event, state: int, failure: int, error: str) -> Event:
    """Add fields to an event that say how the task or the attempt has ended, and return the event."""
    word = state_name(state)
    event.level, event.name = _LEVELS.get(word, "info"), f"task.{word.lower()}"
    event.reason, event.text = _reason(failure), short(error)
    return event


def _reason(failure: int) -> str:
    try:
        return FailureCode(failure).name if failure else ""
    except ValueError:
        # If a newer release has stored a failure code that this release does not know, the event shows the number.
        return str(failure)
