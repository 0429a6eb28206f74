"""Makes the spans of a job and of its attempts from their stored times. The module is pure.

The spans of a job:
    the caller's span
    └── job train                        from the submission to the end
        └── task 0 attempt 0             from the end of the previous attempt, or from the submission, to the end
            ├── queued                   until the attempt got its slot, with retry pauses
            ├── building                 while the worker prepared the attempt
            ├── running                  while the process ran; the task has this span as its TRACEPARENT
            └── log upload               from the first uploaded part of the log until the controller has all of it

Each retry has a link to the span of the previous attempt. The spans of the phases have no attributes, because
attributes cost much of the CPU time for sending a span, and the span of the attempt has the same attributes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import FAILED, UNSCHEDULABLE, WORKER_FAILED, TaskAttempt
from iris.cluster.controller.tracing.spans import Attributes, Span, Trace
from iris.cluster.states import STATE_NAMES
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.tracing.context import TraceContext, new_trace, parse_context

LaunchJobRequest = cluster_pb2.Controller.LaunchJobRequest
_ERRORS = (FAILED, WORKER_FAILED, UNSCHEDULABLE)
_ID_BYTES = 8
_split = struct.Struct(f"{_ID_BYTES}s" * 5).unpack
# The number of nanoseconds in a millisecond.
_NS = 1_000_000
# A later time is replaced by this time. Otherwise a span with a wrong time of a worker could not be encoded, and would
# be dropped.
_LATEST_MS = 2**64 // _NS - 1


class AttemptIds(NamedTuple):
    """The ids of the spans of one attempt. Each id is 8 bytes long."""

    attempt: bytes
    queued: bytes
    building: bytes
    running: bytes
    log_upload: bytes


class JobTrace:
    """The identities of the spans of one job.

    The ids are computed from the trace and the job. Therefore a task can get the id of its span before the span exists,
    and a span that is sent twice after a crash has the same id both times.

    An instance remembers the ids of all attempts for which `attempt_ids` was called. Therefore an instance must not be
    kept for long.

    Args:
        job_id: The id of the job.
        submitted_at_ms: When the job was submitted. A removed job with the same name was submitted at another time.
        launch: The submission, which contains the trace context of the caller.

    Attributes:
        trace: The trace to which all spans of the job belong.
        job_span_id: The id of the span that covers the whole job.
    """

    def __init__(self, job_id: str, submitted_at_ms: int, launch: LaunchJobRequest) -> None:
        self._caller = parse_context(launch.traceparent, launch.tracestate)
        self._context = self._caller or new_trace(job_id, submitted_at_ms)
        self.trace = Trace(bytes.fromhex(self._context.trace_id), self._context.state)
        names = f"{job_id}\0{submitted_at_ms}".encode()
        self._digest = blake2b(self.trace.trace_id + names, digest_size=_ID_BYTES * len(AttemptIds._fields))
        self._known: dict[bytes, AttemptIds] = {}
        self.job_span_id = self._digest.digest()[:_ID_BYTES]

    @property
    def is_sampled(self) -> bool:
        """Whether the spans of the job are recorded."""
        return self._context.is_sampled

    @property
    def caller_id(self) -> bytes:
        """The id of the caller's span; empty if the job has no caller's span."""
        return b"" if self._caller is None else bytes.fromhex(self._caller.span_id)

    def attempt_ids(self, task_index: int, attempt_id: int) -> AttemptIds:
        """Return the ids of the spans of an attempt."""
        key = b"\0%d\0%d" % (task_index, attempt_id)
        ids = self._known.get(key)
        if ids is None:
            digest = self._digest.copy()
            digest.update(key)
            ids = self._known[key] = AttemptIds._make(_split(digest.digest()))
        return ids

    def task_parent(self, task_index: int, attempt_id: int) -> str:
        """Return the value of `TRACEPARENT` for an attempt, which names the span `running` of the attempt."""
        running = self.attempt_ids(task_index, attempt_id).running.hex()
        return TraceContext(self._context.trace_id, running, self.is_sampled).parent


def task_parents(job: Job, launch: LaunchJobRequest) -> Callable[[int, int], str]:
    """Return a function that returns the value of `TRACEPARENT` for an attempt, by task index and attempt id. The value
    is empty if the job has no trace.

    If the controller makes no spans, the parent of the spans of tasks is the caller's span.
    """
    if not launch.is_traced:
        return lambda task_index, attempt_id: launch.traceparent
    return JobTrace(job.job_id, job.submitted_at_ms, launch).task_parent


def job_span(job: Job, trace: JobTrace) -> Span:
    """Return the span of a job that has ended."""
    attributes: Attributes = (
        *("iris.job_id", job.job_id),
        *("iris.owner", job.owner),
        *("iris.tasks", len(job.tasks)),
        *("iris.state", STATE_NAMES[job.state]),
        *_reason(job.failure),
    )
    return Span(
        trace.trace,
        trace.job_span_id,
        trace.caller_id,
        f"job {job.job_id}",
        _ns(job.submitted_at_ms),
        _ns(max(job.finished_at_ms, job.submitted_at_ms)),
        attributes,
        error=job.error if job.state in _ERRORS else None,
        has_remote_parent=True,
    )


def attempt_spans(job: Job, trace: JobTrace, task_index: int, attempt_id: int) -> list[Span]:
    """Return the span of an attempt that has ended, and the spans of its phases."""
    attempts = job.tasks[task_index].attempts
    attempt = attempts[attempt_id]
    before = attempts[attempt_id - 1] if attempt_id else None
    queued_ms = job.submitted_at_ms if before is None else before.finished_at_ms
    # The start and the end of a phase may come from two clocks that differ. An end before the start is replaced by the
    # start.
    placed_ms = max(attempt.placed_at_ms or attempt.started_at_ms or queued_ms, queued_ms)
    started_ms = max(attempt.started_at_ms, placed_ms) if attempt.started_at_ms else 0
    end_ms = max(attempt.finished_at_ms, started_ms or placed_ms)
    ids = trace.attempt_ids(task_index, attempt_id)
    link_id = b"" if before is None else trace.attempt_ids(task_index, attempt_id - 1).attempt
    error = attempt.error if attempt.state in _ERRORS else None
    name = f"task {task_index} attempt {attempt_id}"
    own, begin_ns, placed_ns, end_ns = trace.trace, _ns(queued_ms), _ns(placed_ms), _ns(end_ms)
    attributes = _attributes(job, attempt)
    spans = [
        Span(own, ids.attempt, trace.job_span_id, name, begin_ns, end_ns, attributes, task_index, error, link_id),
        Span(own, ids.queued, ids.attempt, "queued", begin_ns, placed_ns),
    ]
    if started_ms:
        started_ns = _ns(started_ms)
        spans.append(Span(own, ids.building, ids.attempt, "building", placed_ns, started_ns))
        spans.append(Span(own, ids.running, ids.attempt, "running", started_ns, end_ns, error=error))
    else:
        spans.append(Span(own, ids.building, ids.attempt, "building", placed_ns, end_ns, error=error))
    return spans


def log_upload_span(trace: JobTrace, task_index: int, attempt_id: int, begin_ms: int, end_ms: int) -> Span:
    """Return the span of the upload of an attempt's log.

    Args:
        trace: The identities of the spans of the job.
        task_index: The index of the task.
        attempt_id: The id of the attempt.
        begin_ms: When the controller stored the first part of the log, in milliseconds since the epoch.
        end_ms: When the controller stored the end of the log, in milliseconds since the epoch.
    """
    ids = trace.attempt_ids(task_index, attempt_id)
    return Span(trace.trace, ids.log_upload, ids.attempt, "log upload", begin_ms * _NS, max(begin_ms, end_ms) * _NS)


def _ns(time_ms: int) -> int:
    """Return a time in nanoseconds, as a number that OTLP can contain."""
    return min(max(time_ms, 0), _LATEST_MS) * _NS


def _attributes(job: Job, attempt: TaskAttempt) -> Attributes:
    exit_code = attempt.exit_code
    return (
        "iris.job_id",
        job.job_id,
        "iris.owner",
        job.owner,
        "iris.attempt_id",
        attempt.attempt_id,
        "iris.worker_id",
        attempt.worker_id,
        "iris.state",
        STATE_NAMES[attempt.state],
        *_reason(attempt.failure),
        *(() if exit_code is None else ("iris.exit_code", exit_code)),
    )


def _reason(failure: int) -> Attributes:
    if not failure:
        return ()
    try:
        return "iris.reason", FailureCode(failure).name
    except ValueError:
        # If a newer release has stored a failure code that this release does not know, the span shows the number.
        return "iris.reason", str(failure)
