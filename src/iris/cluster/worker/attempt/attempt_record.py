"""The worker's record of one attempt, and the messages that tell of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from iris.cluster.logs.writer import LogWriter
from iris.cluster.types import is_task_finished
from iris.cluster.worker.attempt.announcement import Announcement
from iris.cluster.worker.limits.enforcement import Exceeded, Holder
from iris.cluster.worker.limits.usage import Usage
from iris.cluster.worker.paths import AttemptDir
from iris.cluster.worker.process.attempt_process import AttemptProcess
from iris.cluster.worker.process.task_input import TaskInput
from iris.rpc import cluster_pb2


@dataclass(slots=True)
class Attempt:
    """One execution of a task on this worker.

    Attributes:
        request: What the controller asked for.
        number: Counts the attempts of this worker; part of the mark that its processes inherit.
        exception: What its callable raised.
        stop_grace_s: Set once somebody wants it to end: the time between SIGTERM and SIGKILL.
        timed_out: It is being ended because it ran for too long.
        stdin: Its standard input, where somebody sends it.
        is_starting: Its process is being started, and is not known here yet.
        holder: What keeps it to its limits, once it has begun to start.
        exceeded: It is being ended because it exceeded them.
        out_of_memory: It failed because memory ran out.
        started_s: When its process started, on the monotonic clock.
        reported: The controller has acknowledged its end.
        revision: Counts what there is to report.
        announcement: Whether the controller knows that the attempt runs.
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
    result: bytes = b""
    result_error: str = ""
    exception: cluster_pb2.TaskException | None = None
    build_started_ms: int = 0
    build_finished_ms: int = 0
    from_cache: bool = False
    started_at_ms: int = 0
    started_s: float = 0.0
    finished_at_ms: int = 0
    usage: Usage = field(default_factory=Usage)
    stop_grace_s: float | None = None
    timed_out: bool = False
    stdin: TaskInput | None = None
    is_starting: bool = False
    holder: Holder | None = None
    exceeded: Exceeded | None = None
    out_of_memory: bool = False
    reported: bool = False
    revision: int = 0
    announcement: Announcement = field(default_factory=Announcement)

    @property
    def key(self) -> tuple[str, int]:
        """Task id and attempt id: what names an attempt everywhere."""
        return self.request.task_id, self.request.attempt_id

    @property
    def working_directory(self) -> Path:
        """Where its process starts."""
        return Path(self.request.working_directory) if self.request.working_directory else self.directory.work

    @property
    def is_final(self) -> bool:
        """Whether it has ended, with all of its log on disk."""
        return is_task_finished(self.state)

    def resource_usage(self) -> cluster_pb2.ResourceUsage:
        """The wire's form of what it uses."""
        return cluster_pb2.ResourceUsage(
            memory_mb=self.usage.memory_bytes // 2**20,
            memory_peak_mb=self.usage.memory_peak_bytes // 2**20,
            disk_mb=self.usage.disk_bytes // 2**20,
            cpu_millicores=round(self.usage.cores * 1000),
            cpu_percent=round(self.usage.cores * 100),
            process_count=self.usage.processes,
        )

    def build_metrics(self) -> cluster_pb2.BuildMetrics:
        """The wire's form of how it was prepared."""
        return cluster_pb2.BuildMetrics(
            build_started_ms=self.build_started_ms,
            build_finished_ms=self.build_finished_ms,
            from_cache=self.from_cache,
        )

    def log_end(self) -> cluster_pb2.LogEnd:
        """How it ended, or is now, for those who read its log."""
        end = cluster_pb2.LogEnd(state=self.state, error=self.error)
        if self.exit_code is not None:
            end.exit_code = self.exit_code
        if self.term_signal is not None:
            end.term_signal = self.term_signal
        return end

    def report(self, worker_id: str) -> cluster_pb2.Controller.ReportTaskStateRequest:
        """What the controller has to know of it now."""
        message = cluster_pb2.Controller.ReportTaskStateRequest(
            worker_id=worker_id,
            task_id=self.request.task_id,
            job_id=self.request.job_id,
            task_index=self.request.task_index,
            attempt_id=self.request.attempt_id,
            state=self.state,
            started_at_ms=self.started_at_ms,
            ports=self.ports,
            resource_usage=self.resource_usage(),
            build_metrics=self.build_metrics(),
            log_warning=self.log.warning,
        )
        if self.is_final:
            message.finished_at_ms = self.finished_at_ms
            message.error = self.error
            message.result_error = self.result_error
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
        """It as the worker's own answer about the task."""
        report = self.report(worker_id)
        status = cluster_pb2.TaskStatus(
            task_id=report.task_id,
            job_id=report.job_id,
            task_index=report.task_index,
            state=report.state,
            worker_id=worker_id,
            error=self.error,
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
