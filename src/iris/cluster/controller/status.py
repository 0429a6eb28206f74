"""The controller's records as messages of the wire."""

from __future__ import annotations

from iris.cluster.controller.job import Job
from iris.cluster.controller.store import StoredJob
from iris.cluster.controller.task import (
    BUILDING,
    FAILED,
    KILLED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    Task,
    TaskAttempt,
)
from iris.cluster.types import state_name
from iris.rpc import cluster_pb2


def job_status(record: StoredJob, *, tasks_since: int | None = None) -> cluster_pb2.JobStatus:
    """A job; with the tasks that have changed since a revision (0: all), or without tasks."""
    job, facts = record.job, record.facts
    states = [task.state for task in job.tasks]
    status = cluster_pb2.JobStatus(
        job_id=job.job_id,
        state=job.state,  # type: ignore[arg-type]  # the numbers are the same
        error=job.error,
        submitted_at_ms=job.submitted_at_ms,
        started_at_ms=job.started_at_ms,
        finished_at_ms=job.finished_at_ms,
        parent_job_id=job.parent_job_id,
        failure_count=sum(attempt.state == FAILED for task in job.tasks for attempt in task.attempts),
        preemption_count=sum(attempt.is_worker_failure for task in job.tasks for attempt in task.attempts),
        num_tasks=len(job.tasks),
        tasks_pending=states.count(PENDING),
        tasks_running=states.count(BUILDING) + states.count(RUNNING),
        tasks_succeeded=states.count(SUCCEEDED),
        tasks_failed=states.count(FAILED) + states.count(WORKER_FAILED),
        tasks_killed=states.count(KILLED) + states.count(UNSCHEDULABLE),
        ports=facts[0].ports,
        build_metrics=facts[0].build_metrics,
        resource_usage=_sum([fact.resource_usage for fact in facts]),
        status_message=_job_message(job),
        owner=job.owner,
    )
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
    if tasks_since is not None:
        status.tasks.extend(
            task_status(record, task.task_index) for task in job.tasks if task.revision > tasks_since or not tasks_since
        )
    return status


def task_status(record: StoredJob, task_index: int) -> cluster_pb2.TaskStatus:
    """One task, with its attempts."""
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
    )
    status.MergeFrom(record.facts[task_index])
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
        started_at_ms=attempt.started_at_ms,
        finished_at_ms=attempt.finished_at_ms,
        is_worker_failure=attempt.is_worker_failure,
    )
    if attempt.exit_code is not None:
        message.exit_code = attempt.exit_code
    if attempt.term_signal is not None:
        message.term_signal = attempt.term_signal
    return message


def _job_message(job: Job) -> str:
    if job.is_finished:
        return ""
    if job.ending is not None:
        left = sum(task.live_attempt is not None for task in job.tasks)
        return f"ending as {state_name(job.ending)}: {left} tasks are being stopped"
    return next((gang.reason for gang in job.gangs.values() if not gang.placed and gang.reason), "")


def _task_message(job: Job, task: Task) -> str:
    if task.stop is not None:
        return f"being stopped: {task.stop.value}"
    gang = job.gangs.get(task.gang_id)
    return gang.reason if gang is not None and task.state == PENDING else ""


def _sum(usages: list[cluster_pb2.ResourceUsage]) -> cluster_pb2.ResourceUsage:
    return cluster_pb2.ResourceUsage(
        memory_mb=sum(usage.memory_mb for usage in usages),
        disk_mb=sum(usage.disk_mb for usage in usages),
        cpu_millicores=sum(usage.cpu_millicores for usage in usages),
        memory_peak_mb=sum(usage.memory_peak_mb for usage in usages),
        cpu_percent=sum(usage.cpu_percent for usage in usages),
        process_count=sum(usage.process_count for usage in usages),
    )
