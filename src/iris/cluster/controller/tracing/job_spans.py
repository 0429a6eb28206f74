"""Makes the spans of a job and of its attempts from their stored times. The module is pure.

The spans of a job:
    the caller's span
    └── job train                        from the submission to the end
        └── task 0 attempt 0             from the end of the previous attempt, or from the submission, to the end
            ├── queued                   until the attempt got its slot, with retry pauses
            ├── building                 while the worker prepared the attempt
            └── running                  while the process ran; the task has this span as its TRACEPARENT

Each retry has a link to the span of the previous attempt. The phases have no attributes, because attributes cost much
of the CPU time for sending a span, and the span of the attempt has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import FAILED, UNSCHEDULABLE, WORKER_FAILED, TaskAttempt
from iris.cluster.types import state_name
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.tracing.context import TraceContext, new_trace, parse_context

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest
_ERRORS = (FAILED, WORKER_FAILED, UNSCHEDULABLE)
Value = str | int


@dataclass(frozen=True, slots=True)
class SpanData:
    """A span that has ended.

    Attributes:
        context: The identity of the span.
        parent: The identity of the parent span; None if the span is the first of its trace.
        name: The name.
        start_ms: The start, in milliseconds since the epoch.
        end_ms: The end, in milliseconds since the epoch.
        attributes: The attributes, by name.
        error: Why the work of the span failed; None if it did not fail.
        link: The identity of a related span; None if there is none.
    """

    context: TraceContext
    parent: TraceContext | None
    name: str
    start_ms: int
    end_ms: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    link: TraceContext | None = None


class JobTrace:
    """The identities of the spans of one job.

    Args:
        job_id: The id of the job.
        submitted_at_ms: When the job was submitted. A removed job with the same name was submitted at another time.
        launch: The submission, which contains the trace context of the caller.
    """

    def __init__(self, job_id: str, submitted_at_ms: int, launch: LaunchJobRequest) -> None:
        self.caller = parse_context(launch.traceparent, launch.tracestate)
        self._names = (job_id, submitted_at_ms)
        self._trace = self.caller or new_trace(*self._names)

    @property
    def is_sampled(self) -> bool:
        """Whether the spans of the job are recorded."""
        return self._trace.is_sampled

    def job(self) -> TraceContext:
        """Return the identity of the job's span."""
        return self._trace.child(*self._names, "job")

    def attempt(self, task_index: int, attempt_id: int, phase: str = "") -> TraceContext:
        """Return the identity of the span of an attempt, or of one of its phases."""
        return self._trace.child(*self._names, task_index, attempt_id, phase)


def trace_parent(job: Job, launch: LaunchJobRequest, task_index: int, attempt_id: int) -> str:
    """Return the value of `TRACEPARENT` for an attempt; empty if the job has no trace. If the controller makes spans,
    the parent is the span `running` of the attempt. Otherwise it is the caller's span.
    """
    if not launch.is_traced:
        return launch.traceparent
    return JobTrace(job.job_id, job.submitted_at_ms, launch).attempt(task_index, attempt_id, "running").parent


def job_span(job: Job, trace: JobTrace) -> SpanData:
    """Return the span of a job that has ended."""
    attributes: dict[str, Value] = {
        "iris.job_id": job.job_id,
        "iris.owner": job.owner,
        "iris.tasks": len(job.tasks),
        "iris.state": state_name(job.state),
    }
    if reason := _reason(job.failure):
        attributes["iris.reason"] = reason
    error = job.error if job.state in _ERRORS else None
    end_ms = max(job.finished_at_ms, job.submitted_at_ms)
    return SpanData(trace.job(), trace.caller, f"job {job.job_id}", job.submitted_at_ms, end_ms, attributes, error)


def attempt_spans(job: Job, trace: JobTrace, task_index: int, attempt_id: int) -> Iterator[SpanData]:
    """Yield the span of an attempt that has ended, and the spans of its phases."""
    attempts = job.tasks[task_index].attempts
    attempt = attempts[attempt_id]
    before = attempts[attempt_id - 1] if attempt_id else None
    queued_ms = job.submitted_at_ms if before is None else before.finished_at_ms
    # The start and the end of a phase may come from two clocks that differ. The end is at least the start.
    placed_ms = max(attempt.placed_at_ms or attempt.started_at_ms or queued_ms, queued_ms)
    started_ms = max(attempt.started_at_ms, placed_ms) if attempt.started_at_ms else 0
    end_ms = max(attempt.finished_at_ms, started_ms or placed_ms)
    own = trace.attempt(task_index, attempt_id)
    attributes = _attributes(job, task_index, attempt)
    error = attempt.error if attempt.state in _ERRORS else None
    name = f"task {task_index} attempt {attempt_id}"
    link = None if before is None else trace.attempt(task_index, attempt_id - 1)
    yield SpanData(own, trace.job(), name, queued_ms, end_ms, attributes, error, link)
    phases = [("queued", queued_ms, placed_ms), ("building", placed_ms, started_ms or end_ms)]
    if started_ms:
        phases.append(("running", started_ms, end_ms))
    for phase, begin_ms, phase_end_ms in phases:
        failed = error if phase == phases[-1][0] else None
        context = trace.attempt(task_index, attempt_id, phase)
        yield SpanData(context, own, phase, begin_ms, phase_end_ms, error=failed)


def _attributes(job: Job, task_index: int, attempt: TaskAttempt) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        "iris.job_id": job.job_id,
        "iris.owner": job.owner,
        "iris.task_index": task_index,
        "iris.attempt_id": attempt.attempt_id,
        "iris.worker_id": attempt.worker_id,
        "iris.state": state_name(attempt.state),
    }
    if reason := _reason(attempt.failure):
        attributes["iris.reason"] = reason
    if attempt.exit_code is not None:
        attributes["iris.exit_code"] = attempt.exit_code
    return attributes


def _reason(failure: int) -> str:
    try:
        return FailureCode(failure).name if failure else ""
    except ValueError:
        return str(failure)  # The code is unknown, because a newer release of Iris has stored it.
