"""Logs through the controller: for readers that cannot reach the workers, and of workers that are gone.

Nothing is taken apart here. Records go on as they came from a worker, or lie in the log directory; which attempts are
read next is decided by `Progress`, as at a reader that does without us.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.keeper import LogKeeper
from iris.cluster.controller.logs.relay import LogRelay, end_of
from iris.cluster.controller.workers.dispatch import WorkerRecord
from iris.cluster.logs.cursor import Position, from_message
from iris.cluster.logs.reading.line_pages import making_page
from iris.cluster.logs.reading.open_log import OpenLog, StreamBudget, open_reader
from iris.cluster.types import is_task_finished, make_task_id, parse_task_id
from iris.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest, StreamTaskLogsResponse
from iris.rpc.peer import Peer
from iris.rpc.serving.fair_lane import FairLane

_RELAY_S = 10.0  # for a page
_RELAYS = 256  # pages that workers are asked for at once
_RELAYS_OF_CALLER = 16
_NOBODY = "neither its worker nor the controller has it"


class Logs:
    """The logs of a cluster.

    Args:
        job: The job of an id; raises NotFoundError.
        workers: By worker id; the controller's own.
        kept: What workers have handed over, or have written there themselves; None where nothing is kept.
        settled: Returns when what jobs are now is in the store, so that it may be told. False: it cannot be saved now,
            and `JobRecord.shown` is what was saved last.
        slices: Makes statuses of many tasks, one caller after the other.
    """

    def __init__(
        self,
        job: Callable[[str], JobRecord],
        workers: Mapping[str, WorkerRecord],
        kept: LogKeeper | None,
        settled: Callable[[], Awaitable[bool]],
        slices: Slices,
    ) -> None:
        self._job = job
        self.workers = workers
        self._kept = kept
        self.settled = settled
        self.slices = slices
        self._streams = StreamBudget()
        self._relays = FairLane(
            "logs", at_once=_RELAYS, per_caller=_RELAYS_OF_CALLER, waiting_per_caller=1024, waiting=10_000
        )

    async def fetch_task_logs(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, caller: str
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """A page of an attempt's log, by line number."""
        job_id, task_index = parse_task_id(request.task_id)
        task = _task(self._job(job_id), task_index)
        while not await self.settled():  # it could not be saved: what was saved last is shown
            task = _task(self._job(job_id), task_index)
        if not task.attempts and not request.HasField("attempt_id"):
            return cluster_pb2.Worker.FetchTaskLogsResponse(at_end=True, complete=is_task_finished(task.state))
        number = request.attempt_id if request.HasField("attempt_id") else len(task.attempts) - 1
        if not 0 <= number < len(task.attempts):
            raise NotFoundError(f"task {request.task_id!r} has no attempt {number} (it has had {len(task.attempts)})")
        attempt = task.attempts[number]
        worker = self._worker_for(request.task_id, attempt)
        request.attempt_id = number
        final = is_task_finished(attempt.state)
        if worker is not None:
            peer = Peer(worker.place.address, f"worker {worker.place.worker_id!r}, which has the log,")
            try:
                async with self._relays.turn(caller):
                    return await call_async(worker.stub.fetch_task_logs, request, peer, timeout_s=_RELAY_S)
            except (UnauthenticatedError, PermissionDeniedError) as error:
                raise UnavailableError(str(error)) from error  # it is us whom it does not let in, not our reader
            except NotFoundError:
                if self._kept is None or not final:
                    raise
        if self._kept is None or not final:
            raise UnavailableError(f"worker {attempt.worker_id!r}, which has the log, does not answer")
        with self._kept.reading(request.task_id, number):
            directory = await self._kept.provide(request.task_id, number)
            if attempt.started_at_ms and not directory.exists():
                raise NotFoundError(f"the log of attempt {number} of {request.task_id!r} is gone: {_NOBODY}")
            reading = making_page(directory, None, request.filter, number, True)
            return await self._streams.scans.scan(caller, reading)

    async def stream_task_logs(
        self, request: StreamTaskLogsRequest, caller: str
    ) -> AsyncGenerator[StreamTaskLogsResponse]:
        """The logs of tasks, through their attempts, as one stream."""
        record = self._job(request.job_id)
        count = len(record.job.tasks)
        positions = {message.task_index: from_message(message) for message in request.positions}
        for index in positions:
            record.check_index(index)
        relay = LogRelay(self, caller, record, request, positions or dict.fromkeys(range(count), Position()))
        try:
            yield StreamTaskLogsResponse()
            async with aclosing(relay.run()) as messages:
                async for message in messages:
                    yield message
        finally:
            await relay.close()

    def source_of(self, record: JobRecord, index: int, attempt: cluster_pb2.TaskAttempt) -> WorkerRecord | None:
        """Who has the log of an attempt: a worker; None: it is kept here.

        Raises:
            UnavailableError: The worker that is writing it does not answer now.
        """
        worker = self._worker_for(make_task_id(record.job.job_id, index), attempt)
        if worker is None and not is_task_finished(attempt.state):
            raise UnavailableError(f"worker {attempt.worker_id!r}, which has the log, does not answer")
        return worker

    def _worker_for(self, task_id: str, attempt: cluster_pb2.TaskAttempt) -> WorkerRecord | None:
        final = is_task_finished(attempt.state)
        if final and self._kept is not None and self._kept.is_complete(task_id, attempt.attempt_id):
            return None
        worker = self.workers.get(attempt.worker_id)
        return worker if worker is not None and not worker.gone else None

    async def open_kept(
        self,
        record: JobRecord,
        index: int,
        attempt: cluster_pb2.TaskAttempt,
        position: Position,
        request: StreamTaskLogsRequest,
        reading: ExitStack,
    ) -> OpenLog:
        """A log that is kept here, open for a reader: it stays here until `reading` is closed.

        Raises:
            NotFoundError: It is not.
            UnavailableError: It is, but cannot be had now.
        """
        task_id = make_task_id(record.job.job_id, index)
        if self._kept is None:
            raise NotFoundError(_NOBODY)
        reading.enter_context(self._kept.reading(task_id, attempt.attempt_id))
        directory = await self._kept.provide(task_id, attempt.attempt_id)
        if not directory.exists():
            raise NotFoundError(_NOBODY)
        return OpenLog(
            index,
            attempt.attempt_id,
            open_reader(directory, position.offsets, None, request.filter),
            is_final=lambda: True,
            end=lambda: end_of(attempt),
        )

    @property
    def streams(self) -> StreamBudget:
        """Those that read what is kept here."""
        return self._streams


def _task(record: JobRecord, task_index: int) -> cluster_pb2.TaskStatus:
    record.check_index(task_index)
    return messages.task_status(record.shown, task_index)
