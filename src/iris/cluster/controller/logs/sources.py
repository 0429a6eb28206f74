"""Finds the place from which the log of an attempt can be read: the attempt's worker or the kept logs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.api.watch import JobWatches
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.keeper import LogKeeper
from iris.cluster.controller.storage.saver import SavedJobs
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.logs.cursor import Position
from iris.cluster.logs.progress import complete_end
from iris.cluster.logs.segments import has_log
from iris.cluster.logs.streaming.open_log import OpenLog, StreamBudget, open_reader
from iris.cluster.types import is_task_finished, make_task_id
from iris.errors import NotFoundError, UnavailableError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest

NOWHERE = "neither its worker nor the controller has it"


class LogSources:
    """Finds the place from which each log can be read. A stream of logs gets the other parts of the controller that it
    needs from this object, for example the watches.

    Attributes:
        workers: The workers that have registered, by id.
        keeper: The object that keeps logs on the controller; None if no logs are kept.
        saved: The object that returns the last saved state of a job, which readers may see.
        watches: The object that notifies other code of changes of jobs.
        slices: The object that makes statuses of many tasks.
        budget: The object that limits the memory that all streams of kept logs use together.
    """

    def __init__(
        self,
        workers: Mapping[str, WorkerRecord],
        keeper: LogKeeper | None,
        saved: SavedJobs,
        watches: JobWatches,
        slices: Slices,
    ) -> None:
        self.workers = workers
        self.keeper = keeper
        self.saved = saved
        self.watches = watches
        self.slices = slices
        self.budget = StreamBudget()

    def source_of(self, record: JobRecord, index: int, attempt: cluster_pb2.TaskAttempt) -> WorkerRecord | None:
        """Return the worker from which the log of an attempt is read; None if the log is read from the kept logs.

        Raises:
            UnavailableError: The attempt is live, but its worker is lost, or has not registered since the controller's
                restart.
        """
        worker = self.worker_with(make_task_id(record.job_id, index), attempt)
        if worker is None and not is_task_finished(attempt.state):
            raise worker_unreachable(attempt.worker_id)
        return worker

    def worker_with(self, task_id: str, attempt: cluster_pb2.TaskAttempt) -> WorkerRecord | None:
        """Return the attempt's worker. Return None if the worker is lost or has not registered, or if the controller
        keeps the whole log.
        """
        final = is_task_finished(attempt.state)
        if final and self.keeper is not None and self.keeper.is_complete(task_id, attempt.attempt_id):
            return None
        worker = self.workers.get(attempt.worker_id)
        return worker if worker is not None and not worker.is_dead else None

    async def open_kept(
        self,
        record: JobRecord,
        index: int,
        attempt: cluster_pb2.TaskAttempt,
        position: Position,
        request: StreamTaskLogsRequest,
        reading: ExitStack,
    ) -> OpenLog:
        """Open a kept log for a reader. The log is not removed until the caller closes the context `reading`.

        Raises:
            NotFoundError: The log is not kept, or the job was removed meanwhile.
            UnavailableError: The log is at the log location, which cannot be reached now.
        """
        task_id = make_task_id(record.job_id, index)
        if self.keeper is None:
            raise NotFoundError(NOWHERE, reason=ErrorReason.LOG_NOT_FOUND)
        reading.enter_context(self.keeper.reading(task_id, attempt.attempt_id))
        directory = await self.keeper.provide(task_id, attempt.attempt_id)
        if not has_log(directory):
            raise NotFoundError(NOWHERE, reason=ErrorReason.LOG_NOT_FOUND)
        return OpenLog(
            index,
            attempt.attempt_id,
            open_reader(directory, position.offsets, None, request.filter),
            is_final=lambda: True,
            end=lambda: end_of(attempt),
        )


def end_of(attempt: cluster_pb2.TaskAttempt) -> cluster_pb2.LogEnd:
    """Return the end record of an attempt's log, derived from the attempt's state."""
    end = cluster_pb2.LogEnd()
    complete_end(end, attempt)
    return end


def log_lost(task_id: str, attempt_id: int) -> NotFoundError:
    """Return the error for the reader of a log that neither a worker nor the controller has."""
    return NotFoundError(
        f"the log of attempt {attempt_id} of {task_id!r} is lost: {NOWHERE}", reason=ErrorReason.LOG_NOT_FOUND
    )


def worker_unreachable(worker_id: str) -> UnavailableError:
    """Return the error for the reader of a log if the only copy of the log is on an unreachable worker."""
    return UnavailableError(
        f"worker {worker_id!r}, which has the log, does not answer",
        reason=ErrorReason.WORKER_UNREACHABLE,
        metadata={"worker_id": worker_id},
    )
