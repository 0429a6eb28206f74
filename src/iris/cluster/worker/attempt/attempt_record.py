"""The worker's record of one attempt, and the messages that describe the attempt."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from dataclasses import dataclass, field
from pathlib import Path

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.types import is_task_finished, state_name
from iris.cluster.worker.attempt.announcement import Announcement
from iris.cluster.worker.limits.enforcement import AttemptEnforcer, LimitExceeded
from iris.cluster.worker.limits.usage import Usage
from iris.cluster.worker.paths import AttemptDir
from iris.cluster.worker.process.attempt_process import AttemptProcess
from iris.cluster.worker.process.task_input import TaskInput
from iris.event_log import log_event
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

DEFAULT_GRACE_S = 10.0
_log = logging.getLogger(__name__)
AttemptKey = tuple[str, int]  # Identifies an attempt: its task id and its attempt id.


@dataclass(slots=True)
class Attempt:
    """One execution of a task on this worker.

    Attributes:
        request: The controller's request to run the attempt.
        number: The number of the attempt among all attempts of this worker process. The number is a part of the mark
            that the attempt's processes inherit.
        directory: The attempt's directory.
        log: The writer of the attempt's log.
        state: The state of the attempt.
        process: The attempt's process. None before the process has started, and after the attempt has ended.
        ports: The reserved ports, by their names in lower case.
        exit_code: The exit code of the attempt's process, or the code that a shell would use for a program that cannot
            be started. None while the process runs, and for an attempt without either code.
        term_signal: The signal that killed the process; None if no signal did.
        error: Why the attempt failed or was stopped, for people.
        failure: Why the attempt failed or was stopped, as a code for programs.
        result: The pickled value that the callable returned. The value is dropped when the controller has received it.
        result_error: Why a successful attempt has no result, for people.
        exception: The exception that the callable raised.
        build_started_ms: When the preparation of the attempt began, in milliseconds since the epoch.
        build_finished_ms: When the preparation of the attempt ended, in milliseconds since the epoch.
        from_cache: Whether the worker already had the workspace.
        started_at_ms: When the process started, in milliseconds since the epoch.
        started_s: When the process started, on the monotonic clock.
        job_end_s: When the job's timeout ends the attempt, on the monotonic clock; infinity without such a timeout.
        finished_at_ms: When the attempt ended, in milliseconds since the epoch.
        usage: The resources that the attempt uses.
        stop_grace_s: The seconds between SIGTERM and SIGKILL while the attempt is being stopped on request. None before
            a request to stop the attempt, and while its timeout or a resource limit ends the attempt.
        timed_out: Whether the attempt is being stopped because of its timeout.
        stdin: The object that receives the standard input that a client sends; None if no client sends standard input.
        is_starting: Whether the launcher is starting the process, so that its process id is still unknown.
        enforcer: The object that enforces the attempt's limits, once the process is about to start.
        exceeded: The limit because of which the attempt is being stopped.
        out_of_memory: Whether the attempt failed because memory ran out.
        reported: Whether the controller has acknowledged the end of the attempt.
        revision: A number that increases with each change that the worker must report to the controller.
        input_text: The task's input, if the job is a command with inputs. None for other jobs, and before the input was
            fetched.
        announcement: The object that makes readers of the log wait until the controller knows that the attempt runs.
        collection: The asyncio task that sends the attempt's outputs to the controller. None before the process has
            ended, and for an attempt without outputs.
        output_warning: Why the outputs are not stored, for people; empty if the outputs are stored, or if the attempt
            has none.
    """

    request: cluster_pb2.Worker.RunTaskRequest
    number: int
    directory: AttemptDir
    log: LogWriter
    state: cluster_pb2.TaskState = cluster_pb2.TASK_STATE_BUILDING
    process: AttemptProcess | None = None
    ports: dict[str, int] = field(default_factory=dict)
    exit_code: int | None = None
    term_signal: int | None = None
    error: str = ""
    failure: FailureCode = FailureCode.UNSPECIFIED
    result: bytes = b""
    result_error: str = ""
    exception: cluster_pb2.TaskException | None = None
    build_started_ms: int = 0
    build_finished_ms: int = 0
    from_cache: bool = False
    started_at_ms: int = 0
    started_s: float = 0.0
    job_end_s: float = math.inf
    finished_at_ms: int = 0
    usage: Usage = field(default_factory=Usage)
    stop_grace_s: float | None = None
    timed_out: bool = False
    stdin: TaskInput | None = None
    is_starting: bool = False
    enforcer: AttemptEnforcer | None = None
    exceeded: LimitExceeded | None = None
    out_of_memory: bool = False
    reported: bool = False
    revision: int = 0
    input_text: str | None = None
    announcement: Announcement = field(default_factory=Announcement)
    collection: asyncio.Task[None] | None = None
    output_warning: str = ""

    @property
    def key(self) -> AttemptKey:
        """The task id and the attempt id."""
        return self.request.task_id, self.request.attempt_id

    @property
    def seen_task_index(self) -> int:
        """The index that the task's program gets in `IRIS_TASK_INDEX`. If a job runs only some tasks of an earlier job
        again, each task gets its index in the earlier job.
        """
        request = self.request
        return request.seen_task_index if request.HasField("seen_task_index") else request.task_index

    @property
    def working_directory(self) -> Path:
        """The directory in which the process starts."""
        return Path(self.request.working_directory) if self.request.working_directory else self.directory.work

    @property
    def is_final(self) -> bool:
        """Whether the attempt has ended. The log of an ended attempt gets no more records."""
        return is_task_finished(self.state)

    @property
    def has_live_process(self) -> bool:
        """Whether the main process is being started or is running."""
        return self.is_starting or (self.process is not None and not self.process.has_exited)

    @property
    def grace_s(self) -> float:
        """The grace period of the attempt's job in seconds, or the default if the job sets none."""
        if self.request.HasField("kill_grace_period_ms"):
            return self.request.kill_grace_period_ms / 1000
        return DEFAULT_GRACE_S

    @property
    def umask(self) -> int | None:
        """The umask of the process; None means the umask of the worker."""
        environment = self.request.environment
        return environment.umask & 0o777 if environment.HasField("umask") else None

    def mark(self, worker_token: str) -> str:
        """Return the mark that all processes of this attempt inherit in their environment (see reaper.py)."""
        return f"{worker_token}.{self.number}"

    def log_state(self) -> None:
        """Write the attempt's new state to the event log."""
        log_event(
            _log,
            "attempt.state",
            task_id=self.request.task_id,
            attempt_id=self.request.attempt_id,
            state=state_name(self.state),
            pid=None if self.process is None else self.process.pid,
            exit_code=self.exit_code,
            failure=self.failure.name if self.failure else None,
            error=self.error,
        )

    def write_build_line(self, text: str) -> None:
        """Append a line to the log under the source `build`."""
        self.log.append("build", f"{text}\n".encode(), now_ms())

    def stop(self, grace_s: float) -> None:
        """Stop the attempt with SIGTERM, and with SIGKILL after the grace period. If the process has ended already and
        the attempt's outputs are being sent, cancel the sending. An ended attempt is left alone.
        """
        if self.is_final:
            return
        self.stop_grace_s = grace_s
        if self.collection is not None:
            self.collection.cancel()
        elif self.process is not None:
            self.process.stop(grace_s)

    def time_out(self) -> None:
        """Stop the attempt because of its timeout, unless it is being stopped already."""
        if self.process is not None and self.stop_grace_s is None:
            self.timed_out = True
            self.process.stop(self.grace_s)

    def kill(self) -> None:
        """Kill the attempt's process group at once, or cancel the sending of its outputs. An ended attempt is left
        alone.
        """
        if self.is_final:
            return
        self.stop_grace_s = 0.0
        if self.collection is not None:
            self.collection.cancel()
        elif self.process is not None:
            self.process.signal_group(signal.SIGKILL)

    def resource_usage(self) -> cluster_pb2.ResourceUsage:
        """Return the attempt's usage as a message."""
        message = cluster_pb2.ResourceUsage(
            memory_mb=self.usage.memory_bytes // 2**20,
            memory_peak_mb=self.usage.memory_peak_bytes // 2**20,
            disk_mb=self.usage.disk_bytes // 2**20,
            cpu_millicores=round(self.usage.cores * 1000),
            cpu_percent=round(self.usage.cores * 100),
            process_count=self.usage.processes,
        )
        if self.usage.gpu_percent is not None:
            message.gpu_percent = self.usage.gpu_percent
            message.gpu_memory_mb = self.usage.gpu_memory_bytes // 2**20
        return message

    def build_metrics(self) -> cluster_pb2.BuildMetrics:
        """Return a protobuf message with the times of the attempt's preparation."""
        return cluster_pb2.BuildMetrics(
            build_started_ms=self.build_started_ms,
            build_finished_ms=self.build_finished_ms,
            from_cache=self.from_cache,
        )

    def log_end(self) -> cluster_pb2.LogEnd:
        """Return the last message of the attempt's log, which contains the attempt's state."""
        end = cluster_pb2.LogEnd(
            state=self.state,
            error=self.error,
            failure_reason=int(self.failure),  # type: ignore[arg-type]  # Both enums have the same numbers.
        )
        if self.exit_code is not None:
            end.exit_code = self.exit_code
        if self.term_signal is not None:
            end.term_signal = self.term_signal
        return end

    def report(self, worker_id: str) -> cluster_pb2.Controller.ReportTaskStateRequest:
        """Return the report about this attempt for the controller."""
        message = cluster_pb2.Controller.ReportTaskStateRequest(
            worker_id=worker_id,
            task_id=self.request.task_id,
            job_id=self.request.job_id,
            job_submitted_at_ms=self.request.job_submitted_at_ms,
            task_index=self.request.task_index,
            attempt_id=self.request.attempt_id,
            state=self.state,
            started_at_ms=self.started_at_ms,
            ports=self.ports,
            resource_usage=self.resource_usage(),
            build_metrics=self.build_metrics(),
            log_warning=self.log.warning,
        )
        if not self.is_final:
            message.idle_ms = round(self.usage.idle_s * 1000)
        if self.is_final:
            message.finished_at_ms = self.finished_at_ms
            message.error = self.error
            message.failure_reason = int(self.failure)  # type: ignore[assignment]  # Both enums have the same numbers.
            message.result_error = self.result_error
            message.output_warning = self.output_warning
            message.out_of_memory = self.out_of_memory
            if self.result:
                message.serialized_result = self.result
            if self.exception is not None:
                message.exception.CopyFrom(self.exception)
            if self.exit_code is not None:
                message.exit_code = self.exit_code
            if self.term_signal is not None:
                message.term_signal = self.term_signal
        return message

    def status(self, worker_id: str, *, include_result: bool = False) -> cluster_pb2.TaskStatus:
        """Return the status of the attempt's task. The status contains only this attempt, because the worker may not
        know the task's other attempts.
        """
        report = self.report(worker_id)
        status = cluster_pb2.TaskStatus(
            task_id=report.task_id,
            job_id=report.job_id,
            task_index=report.task_index,
            state=report.state,
            worker_id=worker_id,
            error=self.error,
            failure_reason=report.failure_reason,
            started_at_ms=self.started_at_ms,
            finished_at_ms=self.finished_at_ms,
            ports=self.ports,
            resource_usage=report.resource_usage,
            build_metrics=report.build_metrics,
            current_attempt_id=report.attempt_id,
            result_error=self.result_error,
            log_warning=report.log_warning,
        )
        if self.exit_code is not None:
            status.exit_code = self.exit_code
        if self.term_signal is not None:
            status.term_signal = self.term_signal
        if include_result and self.result:
            status.serialized_result = self.result
        if include_result and self.exception is not None:
            status.exception.CopyFrom(self.exception)
        return status
