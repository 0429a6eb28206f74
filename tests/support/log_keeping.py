"""Runs a real log keeper on real files, with jobs and a clock of the test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from support.no_ended_jobs import NoEndedJobs

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.task import RUNNING, SUCCEEDED, AttemptEnd, Stop, TaskAttempt, WorkerIdentity
from iris.cluster.controller.logs.keeper import Keeping, LogKeeper
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.controller.logs.removal.retention import Retention
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.folded.reading import FoldedSegment, find_folded, folded_segments
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.records import GAP, decode, parse_gap
from iris.rpc import cluster_pb2

WORKER = WorkerIdentity("w", "http://w", "its process")


class Read(NamedTuple):
    """The content that a reader gets from a final log.

    Attributes:
        data: Of stdout.
        missing: How many bytes it is told to be missing.
        reasons: Why, as it is told.
        truncated: It is told that the last moments may be missing.
    """

    data: bytes
    missing: int = 0
    reasons: frozenset[str] = frozenset()
    truncated: bool = False


class KeptLogs:
    """A log keeper with its files and jobs.

    Args:
        directory: Where everything lies: `kept` here, and `there` the location.
        retention: What is kept.
        location: Where else: a URL's beginning, as `file://`; empty: nowhere.
        max_log_bytes: Of each attempt.
        patience_s: For how many seconds the removal of a job waits for the location.

    Attributes:
        now_ms: The time; it only goes on when the test says so.
        jobs: By id.
    """

    def __init__(
        self,
        directory: Path,
        retention: Retention | None = None,
        *,
        location: str = "file://",
        max_log_bytes: int = 1 << 30,
        patience_s: float = 20.0,
    ) -> None:
        self.now_ms = time.time_ns() // 1_000_000
        self.jobs: dict[str, JobRecord] = {}
        self.there = directory / "there"
        self.directories = LogDirectories(directory / "kept")
        place = LogLocation(f"{location}{self.there}") if location else None
        keeping = Keeping(
            self.directories,
            retention or Retention(),
            place,
            max_log_bytes,
            lambda: self.now_ms,
            location_patience_s=patience_s,
        )
        self.table = JobTable(NoEndedJobs())
        self.keeper = LogKeeper(keeping, self.table)

    def add_job(self, name: str, tasks: int = 1, *, max_log_bytes: int = 0) -> JobRecord:
        """Add a job whose tasks run their first attempts."""
        job = Job.new(name, tasks, self.now_ms)
        launch = cluster_pb2.Controller.LaunchJobRequest(name=name, max_log_bytes=max_log_bytes)
        record = self.jobs[name] = JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks])
        self.table.add(record)
        for index in range(tasks):
            self.start_attempt(name, index)
        return record

    def start_attempt(self, name: str, index: int = 0) -> TaskAttempt:
        """Start the next attempt of a task."""
        task = self.jobs[name].job.tasks[index]
        attempt = task.start_attempt(WORKER)
        assert task.attempt_is_running(attempt.attempt_id, self.now_ms)
        assert task.state == RUNNING
        return attempt

    def end_attempt(self, name: str, index: int = 0, *, goes_on: bool = False) -> None:
        """End the running attempt of a task. With `goes_on`, another attempt may follow."""
        task = self.jobs[name].job.tasks[index]
        task.stop = Stop.RESTART if goes_on else None
        state = cluster_pb2.TASK_STATE_KILLED if goes_on else SUCCEEDED
        assert task.end_attempt(task.attempts[-1].attempt_id, AttemptEnd(state, self.now_ms))

    def path(self, name: str, attempt_id: int = 0, index: int = 0) -> Path:
        """Return the path of a log on this machine."""
        return self.keeper.attempt(f"{name}/task-{index}", attempt_id)

    def stored(self, name: str, attempt_id: int = 0, index: int = 0) -> Path:
        """Return the path of a log at the log location."""
        folder = self.path(name, attempt_id, index).parent.name
        return self.there / f"{folder}-{self.jobs[name].job.submitted_at_ms:x}" / str(attempt_id)

    def write(self, name: str, data: bytes, attempt_id: int = 0, index: int = 0, *, close: bool = True) -> LogWriter:
        """Write a log in the same way as a worker of this machine."""
        path = self.path(name, attempt_id, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = LogWriter(path)
        writer.append("stdout", data, self.now_ms)
        if close:
            writer.close()
        return writer

    def add_ended(self, name: str, data: bytes) -> None:
        """Add a job of one task that has written the given output and ends now."""
        self.add_job(name)
        self.write(name, data)
        self.end_attempt(name)

    async def read(self, name: str, attempt_id: int = 0, index: int = 0) -> Read:
        """Return the content of a log that a reader gets from the controller."""
        return read(await self.keeper.provide(f"{name}/task-{index}", attempt_id))


def read(path: Path) -> Read:
    """Return the content that a reader gets from a final log."""
    data, missing, reasons = b"", 0, set()
    with LogReader(path) as reader:
        while records := reader.read(1 << 20, final=True):
            for record in decode(records):
                if record.kind & GAP:
                    size, reason = parse_gap(record.payload)
                    missing += size
                    reasons.add(reason)
                elif record.kind == 0:
                    data += record.payload
        assert reader.missing == missing
        return Read(data, missing, frozenset(reasons), reader.truncated)


def files(path: Path) -> dict[str, bytes]:
    """Return the content of a log by file name, without the files that only the sweep needs. The log may be folded."""
    folded = find_folded(path)
    if not path.exists() and folded is not None:
        content = {name: FoldedSegment(path, name).read(size, 0) for name, size in folded_segments(path)}
        content |= {} if folded.end is None else {"end": folded.end}
        return content | ({} if folded.written is None else {"written": folded.written})
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name not in ("stored", "away")}
