"""Makes the JSON documents that commands print.

The fields of a document have the same names as in the wire protocol. States and reasons are words, and unknown values
are null.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from iris.cluster.amounts import cores_in
from iris.cluster.types import is_job_finished, state_name
from iris.reasons import FailureCode, HangCode, PendingCode, ShortageCode

if TYPE_CHECKING:
    from iris.rpc import cluster_pb2

_PLACEMENTS = ("any", "spread", "together")  # by the wire's number


def job_document(job: cluster_pb2.JobStatus) -> dict[str, Any]:
    """Return a job as JSON, with its tasks if the message contains them."""
    document = {
        "job_id": job.job_id,
        "state": state_name(job.state),
        "exit_code": job.exit_code if is_job_finished(job.state) and job.HasField("exit_code") else None,
        "term_signal": job.term_signal if job.HasField("term_signal") else None,
        "error": job.error,
        "failure_reason": _word(FailureCode, job.failure_reason),
        "status_message": job.status_message,
        "pending_reason": _word(PendingCode, job.pending_reason),
        "hang": _hang(job.hang) if job.HasField("hang") else None,
        "first_failed_task_index": job.first_failed_task_index if job.HasField("first_failed_task_index") else None,
        "parent_job_id": job.parent_job_id or None,
        "owner": job.owner or None,
        "num_tasks": job.num_tasks,
        "tasks_pending": job.tasks_pending,
        "tasks_running": job.tasks_running,
        "tasks_succeeded": job.tasks_succeeded,
        "tasks_failed": job.tasks_failed,
        "tasks_killed": job.tasks_killed,
        "failure_count": job.failure_count,
        "preemption_count": job.preemption_count,
        **_times(job),
        "submitted_at_ms": job.submitted_at_ms or None,
        "resource_usage": _usage(job.resource_usage),
    }
    if job.tasks:
        document["tasks"] = [task_document(task) for task in job.tasks]
    return document


def _hang(hang: cluster_pb2.Hang) -> dict[str, Any]:
    return {
        "reason": _word(HangCode, hang.reason),
        "task_indices": list(hang.task_indices),
        "since_ms": hang.since_ms,
        "text": hang.text,
    }


def task_document(task: cluster_pb2.TaskStatus) -> dict[str, Any]:
    """Return a task as JSON, with its attempts."""
    return {
        "task_id": task.task_id,
        "task_index": task.task_index,
        "state": state_name(task.state),
        "exit_code": task.exit_code if task.HasField("exit_code") else None,
        "term_signal": task.term_signal if task.HasField("term_signal") else None,
        "error": task.error,
        "failure_reason": _word(FailureCode, task.failure_reason),
        "status_message": task.status_message,
        "pending_reason": _word(PendingCode, task.pending_reason),
        "log_warning": task.log_warning,
        "output_warning": task.output_warning,
        "retry_at_ms": task.retry_at_ms or None,
        "worker_id": task.worker_id or None,
        "ports": dict(task.ports),
        **_times(task),
        "resource_usage": _usage(task.resource_usage),
        "idle_ms": task.idle_ms,
        "attempts": [
            {
                "attempt_id": attempt.attempt_id,
                "state": state_name(attempt.state),
                "exit_code": attempt.exit_code if attempt.HasField("exit_code") else None,
                "error": attempt.error,
                "failure_reason": _word(FailureCode, attempt.failure_reason),
                "worker_id": attempt.worker_id or None,
                "is_worker_failure": attempt.is_worker_failure,
                "out_of_memory": attempt.out_of_memory,
                **_times(attempt),
            }
            for attempt in task.attempts
        ],
    }


def machines_document(answer: cluster_pb2.Controller.ListMachinesResponse) -> dict[str, Any]:
    """Return machines, their allocations, and waiting gangs as JSON."""
    return {
        "engine": answer.engine,
        "problem": answer.problem or None,
        "machines": [
            {
                "name": machine.name,
                "alive": machine.alive,
                "why_avoided": machine.why_avoided,
                "shortage_reason": _word(ShortageCode, machine.shortage_reason),
                "labels": dict(machine.labels),
                "total": _amounts(machine.total),
                "free": _amounts(machine.free),
                "holdings": [
                    {"job_id": holding.job_id, "task_indices": list(holding.task_indices)}
                    for holding in machine.holdings
                ],
            }
            for machine in answer.machines
        ],
        "num_waiting": answer.num_waiting,
        "waiting": [
            {
                "job_id": gang.job_id,
                "slots": gang.slots,
                "need": _amounts(gang.need),
                "placement": _PLACEMENTS[gang.placement],
                "labels": dict(gang.labels),
                "since_ms": gang.since_ms,
                "reason": gang.reason,
                "pending_reason": _word(PendingCode, gang.pending_reason),
                "has_reservation": gang.has_reservation,
            }
            for gang in answer.waiting
        ],
    }


def _word(codes: type[enum.IntEnum], number: int) -> str | int | None:
    try:
        return codes(number).name if number else None
    except ValueError:
        return number  # A server of a newer release has sent a code that this client does not know.


def _amounts(amounts: cluster_pb2.Controller.Amounts) -> dict[str, float]:
    return {"cpu": cores_in(amounts), "memory_bytes": amounts.memory_bytes, "gpu": amounts.gpu}


def _times(message: cluster_pb2.JobStatus | cluster_pb2.TaskStatus | cluster_pb2.TaskAttempt) -> dict[str, Any]:
    return {"started_at_ms": message.started_at_ms or None, "finished_at_ms": message.finished_at_ms or None}


def _usage(usage: cluster_pb2.ResourceUsage) -> dict[str, int]:
    return {
        "memory_mb": usage.memory_mb,
        "memory_peak_mb": usage.memory_peak_mb,
        "disk_mb": usage.disk_mb,
        "cpu_millicores": usage.cpu_millicores,
        "process_count": usage.process_count,
    }
