"""Converts the controller's records of jobs and tasks to protobuf messages."""

from __future__ import annotations

import math
from collections.abc import Iterable

from iris.cluster.controller.hangs.detection import Hang
from iris.cluster.controller.jobs.gang import Gang
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_state import Condition, waiting_text
from iris.cluster.controller.jobs.retry_pause import pause_left_ms
from iris.cluster.controller.jobs.task import (
    BUILDING,
    FAILED,
    KILLED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    Stop,
    Task,
    TaskAttempt,
)
from iris.cluster.controller.scheduling.waiting.reason_text import default_core_text, pending_text
from iris.cluster.types import state_name
from iris.counts import counted, word_for
from iris.reasons import PendingCode
from iris.rpc import cluster_pb2
from iris.rpc.pages import PAGE_BYTES
from iris.rpc.serving.steps import Steps, finish
from iris.system.clock import now_ms

# The messages of up to 50 tasks are made without a pause, and therefore show the tasks at the same moment. Making these
# messages takes 1 to 2 ms.
AT_ONCE = 50
_ROUNDS = 5
_CONDITIONS = {
    Condition.SUCCEEDED: cluster_pb2.DEPENDENCY_CONDITION_SUCCEEDED,
    Condition.ENDED: cluster_pb2.DEPENDENCY_CONDITION_ENDED,
}


def job_with_tasks(record: JobRecord, *, since: int = 0, most_bytes: int = PAGE_BYTES) -> Steps[cluster_pb2.JobStatus]:
    """Make the message of a job with its tasks, in steps. The finished message shows the states of the job and its
    tasks at the end of the last step.

    Tasks may change between two steps. The messages of changed tasks are therefore made again. When only a few messages
    must still be made, the last step makes these messages together with the message of the job. Therefore the finished
    message never shows a running task in a job that has succeeded.

    Args:
        record: The record of the job.
        since: Only tasks that have changed after this revision are included; 0 includes all tasks.
        most_bytes: If the message is larger, each task has only its newest attempt.
    """
    job = record.job
    made: dict[int, cluster_pb2.TaskStatus] = {}
    known = since
    for _ in range(_ROUNDS):
        changed = _changed(job, known)
        if len(changed) <= AT_ONCE:
            break
        known = job.revision
        for index in changed:
            made[index] = task_status(record, index)
            yield
    made |= {index: task_status(record, index) for index in _changed(job, known)}
    answer = _job_alone(record)
    answer.tasks.extend(made[index] for index in sorted(made))
    if answer.ByteSize() > most_bytes:
        for shown in answer.tasks:
            del shown.attempts[:-1]
    return answer


def tasks_at_once(record: JobRecord, since: int) -> bool:
    """Return whether `job_with_tasks` needs only one short step for this job."""
    return len(_changed(record.job, since)) <= AT_ONCE


def some_tasks(record: JobRecord, indices: Iterable[int]) -> Steps[list[cluster_pb2.TaskStatus]]:
    """Make the messages of some tasks. Each message shows the task's state at the moment when the message is made."""
    made = []
    for index in indices:
        made.append(task_status(record, index))
        yield
    return made


def _changed(job: Job, since: int) -> list[int]:
    return [task.task_index for task in (job.changes.since(since) if since else job.tasks)]


def job_status(
    record: JobRecord, *, tasks_since: int | None = None, most_bytes: int = PAGE_BYTES
) -> cluster_pb2.JobStatus:
    """Make the message of a job in one step.

    Args:
        record: The record of the job.
        tasks_since: Only tasks that have changed after this revision are included; None leaves out all tasks.
        most_bytes: If the message is larger, each task has only its newest attempt.
    """
    if tasks_since is None:
        return _job_alone(record)
    return finish(job_with_tasks(record, since=tasks_since, most_bytes=most_bytes))


def _job_alone(record: JobRecord) -> cluster_pb2.JobStatus:
    job, facts, tally = record.job, record.facts, record.job.tally
    status = cluster_pb2.JobStatus(
        job_id=job.job_id,
        state=job.state,  # type: ignore[arg-type]  # the numbers are the same
        error=job.error,
        submitted_at_ms=job.submitted_at_ms,
        started_at_ms=job.started_at_ms,
        finished_at_ms=job.finished_at_ms,
        parent_job_id=job.parent_job_id,
        failure_count=tally.attempts_failed,
        preemption_count=tally.attempts_lost,
        num_tasks=len(job.tasks),
        tasks_pending=tally.count(PENDING),
        tasks_running=tally.count(BUILDING) + tally.count(RUNNING),
        tasks_succeeded=tally.count(SUCCEEDED),
        tasks_failed=tally.count(FAILED) + tally.count(WORKER_FAILED),
        tasks_killed=tally.count(KILLED) + tally.count(UNSCHEDULABLE),
        ports=facts[0].ports,
        build_metrics=facts[0].build_metrics,
        resource_usage=record.usage,
        status_message=_outdated_note(record) or _hang_text(record) or _job_message(job),
        owner=job.owner,
        pending_reason=_job_pending_code(job),  # type: ignore[arg-type]  # the numbers are the same
        failure_reason=job.failure,  # type: ignore[arg-type]
        number=record.number,
    )
    if record.launch.num_inputs:
        status.inputs_digest, status.num_inputs = record.launch.inputs_digest, record.launch.num_inputs
        status.inputs_per_task = record.launch.inputs_per_task
    if not job.is_finished:
        for job_id, condition in job.waits_for.items():
            status.waits_for.add(job_id=job_id, condition=_CONDITIONS[Condition(condition)])
    if record.hang is not None and not job.is_finished:
        status.hang.CopyFrom(_hang(record.hang, job.job_id))
    if job.first_failed is not None:
        status.first_failed_task_index = job.first_failed
    if job.is_finished:
        culprit = job.tasks[job.first_failed] if job.first_failed is not None and job.state != SUCCEEDED else None
        if culprit is not None and culprit.exit_code is not None:
            status.exit_code = culprit.exit_code
        if culprit is not None and culprit.term_signal is not None:
            status.term_signal = culprit.term_signal
        if job.state == SUCCEEDED:
            status.exit_code = 0
    return status


def _hang_text(record: JobRecord) -> str:
    return "" if record.hang is None or record.job.is_finished else record.hang.text(record.job_id)


def _hang(hang: Hang, job_id: str) -> cluster_pb2.Hang:
    return cluster_pb2.Hang(
        reason=int(hang.code),  # type: ignore[arg-type]  # the numbers are the same
        task_indices=hang.task_indices,
        since_ms=now_ms() - hang.idle_ms,
        text=hang.text(job_id),
    )


def task_status(record: JobRecord, task_index: int) -> cluster_pb2.TaskStatus:
    """Return the status of one task as a `TaskStatus` message, including the task's attempts."""
    task = record.job.tasks[task_index]
    status = cluster_pb2.TaskStatus(
        task_id=task.task_id,
        job_id=task.job_id,
        task_index=task.task_index,
        state=task.state,  # type: ignore[arg-type]  # the numbers are the same
        error=task.error,
        started_at_ms=task.started_at_ms,
        finished_at_ms=task.finished_at_ms,
        attempts=[_attempt(attempt) for attempt in task.attempts],
        result_error=task.result_error,
        failure_count=task.failure_count,
        preemption_count=task.preemption_count,
        status_message=_task_message(record.job, task),
        pending_reason=_task_pending_code(record.job, task),  # type: ignore[arg-type]  # the numbers are the same
        failure_reason=task.failure,  # type: ignore[arg-type]
    )
    status.MergeFrom(record.facts[task_index])
    status.status_message = status.status_message or ("" if task.is_finished else status.log_warning)
    gang = record.job.gangs.get(task.gang_id)
    if gang is not None and _pause_ms(record.job, gang) > 0:
        status.retry_at_ms = task.not_before_ms
    if task.attempts:
        newest = task.attempts[-1]
        status.current_attempt_id = newest.attempt_id
        status.worker_id = newest.worker_id
        status.worker_address = newest.worker_address
    if task.exit_code is not None:
        status.exit_code = task.exit_code
    if task.term_signal is not None:
        status.term_signal = task.term_signal
    return status


def _attempt(attempt: TaskAttempt) -> cluster_pb2.TaskAttempt:
    message = cluster_pb2.TaskAttempt(
        attempt_id=attempt.attempt_id,
        worker_id=attempt.worker_id,
        worker_address=attempt.worker_address,
        state=attempt.state,  # type: ignore[arg-type]  # the numbers are the same
        error=attempt.error,
        placed_at_ms=attempt.placed_at_ms,
        started_at_ms=attempt.started_at_ms,
        finished_at_ms=attempt.finished_at_ms,
        is_worker_failure=attempt.is_worker_failure,
        out_of_memory=attempt.out_of_memory,
        failure_reason=attempt.failure,  # type: ignore[arg-type]  # the numbers are the same
    )
    if attempt.exit_code is not None:
        message.exit_code = attempt.exit_code
    if attempt.term_signal is not None:
        message.term_signal = attempt.term_signal
    return message


def _outdated_note(record: JobRecord) -> str:
    why = record.why_outdated
    return f"newer changes are not shown because they cannot be saved now: {why}" if why else ""


def _job_message(job: Job) -> str:
    if job.is_finished:
        return ""
    if job.ending is not None:
        left = job.tally.count(BUILDING) + job.tally.count(RUNNING)
        return f"ending as {state_name(job.ending)}: {counted(left, 'task is', 'tasks are')} being stopped"
    if not job.tally.count(PENDING):
        return ""
    if job.waits_for:
        return waiting_text(job.waits_for)
    reasons = (_why_waiting(job, gang) for gang in job.gangs.values() if not gang.placed)
    return next((reason for reason in reasons if reason), _why_deferred(job))


def _job_pending_code(job: Job) -> int:
    """Return the code for the reason why a job waits, for the job's status message."""
    if job.is_finished:
        return PendingCode.UNSPECIFIED
    if job.ending is not None:
        return PendingCode.STOPPING
    if not job.tally.count(PENDING):
        return PendingCode.UNSPECIFIED
    if job.waits_for:
        return PendingCode.DEPENDENCY
    codes = (_gang_pending_code(job, gang) for gang in job.gangs.values() if not gang.placed)
    return next(codes, PendingCode.MAX_PARALLEL if job.deferred else PendingCode.UNSPECIFIED)


def _task_pending_code(job: Job, task: Task) -> int:
    """Return the code for the reason why a task waits, for the task's status message."""
    if task.stop is not None:
        return PendingCode.GANG_RESTART if task.stop is Stop.RESTART else PendingCode.STOPPING
    if job.waits_for and task.state == PENDING:
        return PendingCode.DEPENDENCY
    if task.task_index in job.deferred:
        return PendingCode.MAX_PARALLEL
    gang = job.gangs.get(task.gang_id)
    if gang is None or task.state != PENDING:
        return PendingCode.UNSPECIFIED
    return PendingCode.GANG_RESTART if gang.placed else _gang_pending_code(job, gang)


def _gang_pending_code(job: Job, gang: Gang) -> PendingCode:
    if _pause_ms(job, gang) > 0:
        return PendingCode.RETRY_PAUSE
    return PendingCode.QUEUED if gang.reason is None else gang.reason.code


def _task_message(job: Job, task: Task) -> str:
    if task.stop is not None:
        return f"being stopped: {task.stop.value}"
    if job.waits_for and task.state == PENDING:
        return waiting_text(job.waits_for)
    if task.task_index in job.deferred:
        return _why_deferred(job)
    gang = job.gangs.get(task.gang_id)
    if gang is None or task.state != PENDING:
        return ""
    if gang.placed:
        return "waiting: the gang restarts, and some of its tasks are still being stopped"
    return _why_waiting(job, gang)


def _why_deferred(job: Job) -> str:
    """Return the text for tasks that wait because of `max_parallel`, or an empty string if no task of the job waits for
    this reason.
    """
    if not job.deferred:
        return ""
    verb = word_for(len(job.gangs), "runs or is queued", "run or are queued")
    return f"waiting: max_parallel is {job.max_parallel}, and {counted(len(job.gangs), 'task')} of the job {verb}"


def _why_waiting(job: Job, gang: Gang) -> str:
    pause_ms = _pause_ms(job, gang)
    if pause_ms <= 0:
        return (
            "" if gang.reason is None else pending_text(gang.reason) + default_core_text(job.counts_a_core, gang.reason)
        )
    task = job.tasks[gang.culprit]
    lost = bool(task.attempts) and task.attempts[-1].is_worker_failure
    count, budget = (
        (task.preemption_count, task.max_retries_preemption) if lost else (task.failure_count, task.max_retries_failure)
    )
    which = f" task {task.task_index}" if len(job.tasks) > 1 else ""
    return f"waiting: retry {count} of {budget} in {math.ceil(pause_ms / 1000)} s, after{which}: {task.error}"


def _pause_ms(job: Job, gang: Gang) -> int:
    """Return how much of a gang's retry pause remains, in milliseconds. The value is 0 or less if the gang does not
    pause.
    """
    task = job.tasks[gang.task_indices[0]]
    if gang.placed or not task.attempts:
        return 0
    return pause_left_ms(task.not_before_ms, now_ms(), task.retries_in_row, job.retry_pause_ms)
