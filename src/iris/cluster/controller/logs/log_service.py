"""Serves the logs of tasks through the controller. Readers use this route if they cannot reach a worker, or if the
worker was lost.

The controller does not change the log records from workers and log directories. The class `Progress` decides which
attempt is read next. Clients that read directly from workers use the same class.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.stream_turns import StreamTurns, never
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable, removed_meanwhile
from iris.cluster.controller.logs.relay import LogRelay
from iris.cluster.controller.logs.sources import LogSources, log_lost, worker_unreachable
from iris.cluster.logs.cursor import Position, from_message
from iris.cluster.logs.parts.answer import Part, PartsRequest, refused_part
from iris.cluster.logs.reading.line_pages import fetch_page_steps
from iris.cluster.logs.segments import has_log
from iris.cluster.logs.upload_answers import UNWANTED
from iris.cluster.types import is_task_finished, make_task_id, parse_task_id
from iris.errors import IrisError, NotFoundError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.cluster_pb2 import (
    FetchLogPartsRequest,
    FetchLogPartsResponse,
    StreamTaskLogsRequest,
    StreamTaskLogsResponse,
)
from iris.rpc.peer import Peer
from iris.rpc.serving.fair_lane import FairLane

# The timeout, in seconds, of a call to a worker for a page of a log.
_PAGE_TIMEOUT_S = 10.0
# The largest number of calls to workers for pages of logs that run at the same time.
_MAX_PAGE_CALLS = 256
_MAX_PAGE_CALLS_OF_CALLER = 16
# The longest time, in seconds, for which a read of parts of logs waits because of urgent work. A person who scrolls a
# log does not notice this time.
_MOST_URGENT_S = 0.02


class LogService:
    """Answers the calls that read and store logs.

    Args:
        jobs: The table of all jobs of the cluster.
        sources: The object that finds the place from which a log can be read.
        is_urgent: A function that returns whether the controller does urgent work, which goes before reads of parts of
            logs.
    """

    def __init__(self, jobs: JobTable, sources: LogSources, is_urgent: Callable[[], bool] = never) -> None:
        self._jobs = jobs
        self._sources = sources
        # The streams of logs send their messages in turns. Otherwise, several readers of fast logs would keep the event
        # loop busy with large messages. There is no pause between two turns, because pauses would slow a single reader.
        self._stream_turns = StreamTurns(pause_s=0.0)
        self._part_turns = StreamTurns(pause_s=0.0, is_urgent=is_urgent, most_urgent_s=_MOST_URGENT_S)
        self._page_calls = FairLane(
            "logs",
            at_once=_MAX_PAGE_CALLS,
            per_caller=_MAX_PAGE_CALLS_OF_CALLER,
            waiting_per_caller=1024,
            waiting=10_000,
        )

    async def fetch_task_logs(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, caller: str
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        """Return a page of an attempt's log, by line number.

        Raises:
            NotFoundError: The task, the attempt or the log does not exist, or the job was removed during the read.
            UnavailableError: The worker or the log location that has the log does not answer.
        """
        num_removed = self._jobs.removed
        record, task = await self._saved_task(request.task_id)
        if not task.attempts and not request.HasField("attempt_id"):
            return cluster_pb2.Worker.FetchTaskLogsResponse(at_end=True, complete=is_task_finished(task.state))
        number = request.attempt_id if request.HasField("attempt_id") else len(task.attempts) - 1
        attempt = _attempt_of(task, number)
        request.attempt_id = number
        answer = await self._page_from_worker(request, attempt, caller)
        if answer is None:
            answer = await self._kept_page(request, attempt, caller)
        await self._check_not_removed(record, num_removed)
        return answer

    async def fetch_log_parts(self, request: FetchLogPartsRequest, caller: str) -> FetchLogPartsResponse:
        """Return the requested parts of the logs of attempts. If a log cannot be read, the answer has a part with an
        error instead of the lines.

        1. Group the reads by the server that has the log: a worker, or the controller.
        2. Read the parts from all workers at the same time.
        3. Read the remaining parts from the kept logs. The kept logs include the logs that a worker has already
           removed.

        Raises:
            InvalidArgumentError: The request is invalid.
            NotFoundError: The job or a task does not exist, or the job was removed during the read.
        """
        num_removed = self._jobs.removed
        wanted = PartsRequest(request)
        await self._part_turns.turn()
        parts: dict[int, Part] = {}
        records: dict[int, JobRecord] = {}
        attempts: dict[int, cluster_pb2.TaskAttempt] = {}
        by_worker: dict[str, list[int]] = {}
        kept: list[int] = []
        for number, read in enumerate(wanted.reads):
            task_id = make_task_id(request.job_id, read.task_index)
            record, task = await self._saved_task(task_id)
            records[record.number] = record
            try:
                attempt = attempts[number] = _attempt_of(task, read.attempt_id)
                worker = self._sources.worker_with(task_id, attempt)
                if worker is not None:
                    by_worker.setdefault(worker.identity.worker_id, []).append(number)
                elif self._keeps(attempt):
                    kept.append(number)
                else:
                    raise worker_unreachable(attempt.worker_id)
            except (NotFoundError, UnavailableError) as error:
                parts[number] = refused_part(read, error)
        calls = [
            self._parts_from_worker(request, worker_id, numbers, wanted.limits.max_bytes, caller)
            for worker_id, numbers in by_worker.items()
        ]
        for answered in await asyncio.gather(*calls):
            parts |= answered
        kept += [
            number for number, part in parts.items() if number in attempts and self._is_kept(part, attempts[number])
        ]
        for number in kept:
            parts[number] = await self._kept_part(request.job_id, wanted, number, attempts[number], caller)
        for record in records.values():
            await self._check_not_removed(record, num_removed)
        return FetchLogPartsResponse(parts=[parts[number] for number in range(len(wanted.reads))])

    async def stream_task_logs(
        self, request: StreamTaskLogsRequest, caller: str
    ) -> AsyncGenerator[StreamTaskLogsResponse]:
        """Yield the logs of tasks, through all their attempts, as one stream."""
        record = await self._jobs.find(request.job_id)
        positions = {message.task_index: from_message(message) for message in request.positions}
        for index in positions:
            record.check_index(index)
        all_tasks = dict.fromkeys(range(len(record.job.tasks)), Position())
        relay = LogRelay(self._sources, caller, record, request, positions or all_tasks)
        try:
            yield StreamTaskLogsResponse()
            async with aclosing(self._jobs.until_removed(record, relay.run())) as messages:
                async for message in messages:
                    await self._stream_turns.turn()
                    yield message
        finally:
            await relay.close()

    async def store_logs(
        self, request: cluster_pb2.Controller.StoreLogsRequest
    ) -> cluster_pb2.Controller.StoreLogsResponse:
        """Store the parts of logs that a worker uploads, and return once the parts are on the disk."""
        if self._sources.keeper is None:
            return cluster_pb2.Controller.StoreLogsResponse(positions=[UNWANTED] * len(request.pieces))
        return await self._sources.keeper.store_logs(request)

    async def _saved_task(self, task_id: str) -> tuple[JobRecord, cluster_pb2.TaskStatus]:
        job_id, task_index = parse_task_id(task_id)
        record = await self._jobs.find(job_id)
        task = self._shown_task(record, task_index)
        # If the latest change of the task could not be saved, the reader gets the last saved state of the task.
        while not await self._sources.saved.settled():
            task = self._shown_task(record, task_index)
        return record, task

    async def _check_not_removed(self, record: JobRecord, num_removed: int) -> None:
        """Check that a job still exists after one of its logs was read. Otherwise a new job with the same name may have
        written the log.

        Args:
            record: The record of the job.
            num_removed: How many jobs had been removed before the job was looked up.

        Raises:
            NotFoundError: The job was removed meanwhile.
        """
        if self._jobs.removed == num_removed:
            return
        known = await self._jobs.get(record.job_id)
        if known is None or known.number != record.number:
            raise removed_meanwhile(record, what="logs")

    def _shown_task(self, record: JobRecord, task_index: int) -> cluster_pb2.TaskStatus:
        record.check_index(task_index)
        return messages.task_status(self._sources.saved.shown(record), task_index)

    def _keeps(self, attempt: cluster_pb2.TaskAttempt) -> bool:
        """Return whether the controller keeps the log of an attempt that its worker no longer has."""
        return self._sources.keeper is not None and is_task_finished(attempt.state)

    def _is_kept(self, part: Part, attempt: cluster_pb2.TaskAttempt) -> bool:
        """Return whether a worker's answer says that the worker does not have a log, although the controller may have
        this log.
        """
        return part.error_reason == cluster_pb2.ERROR_REASON_LOG_NOT_FOUND and self._keeps(attempt)

    async def _parts_from_worker(
        self, request: FetchLogPartsRequest, worker_id: str, numbers: Sequence[int], max_bytes: int, caller: str
    ) -> dict[int, Part]:
        """Ask a worker for some of the parts of logs that a request names, and return the parts by number. If the
        worker does not answer, return an error for each part.
        """
        reads = [request.reads[number] for number in numbers]
        worker = self._sources.workers.get(worker_id)
        if worker is None:  # The logs cannot be read, because the controller has just forgotten the worker.
            return {
                number: refused_part(read, worker_unreachable(worker_id))
                for number, read in zip(numbers, reads, strict=True)
            }
        peer = Peer(worker.identity.address, f"worker {worker_id!r}, which has the log,")
        of_worker = FetchLogPartsRequest(
            job_id=request.job_id,
            reads=reads,
            filter=request.filter,
            max_bytes=max_bytes * len(reads),
            max_line_bytes=request.max_line_bytes,
            find=request.find,
        )
        try:
            async with self._page_calls.turn(caller):
                answer = await call_async(worker.stub.fetch_log_parts, of_worker, peer, timeout_s=_PAGE_TIMEOUT_S)
        except IrisError as error:
            # One worker that does not answer, or that refuses the token of the controller, must not hide the logs of
            # the other workers.
            return {number: refused_part(read, error) for number, read in zip(numbers, reads, strict=True)}
        return dict(zip(numbers, answer.parts, strict=True))

    async def _kept_part(
        self, job_id: str, wanted: PartsRequest, number: int, attempt: cluster_pb2.TaskAttempt, caller: str
    ) -> Part:
        """Return a part of a kept log. If the log cannot be read, the part has an error."""
        keeper, read = self._sources.keeper, wanted.reads[number]
        assert keeper is not None, "only a controller with kept logs reads a part from them"
        task_id = make_task_id(job_id, read.task_index)
        with keeper.reading(task_id, read.attempt_id):
            try:
                directory = await keeper.provide(task_id, read.attempt_id)
                if attempt.started_at_ms and not has_log(directory):
                    raise log_lost(task_id, read.attempt_id)
                steps = wanted.part_steps(number, directory, None, final=True)
                return await self._sources.budget.scans.scan(caller, steps)
            except (NotFoundError, UnavailableError) as error:
                return refused_part(read, error)

    async def _page_from_worker(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, attempt: cluster_pb2.TaskAttempt, caller: str
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse | None:
        """Return a page of a log from the attempt's worker; None if the log has to be read from the kept logs."""
        keeps = self._keeps(attempt)
        worker = self._sources.worker_with(request.task_id, attempt)
        if worker is None:
            if not keeps:
                raise worker_unreachable(attempt.worker_id)
            return None
        peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id!r}, which has the log,")
        try:
            async with self._page_calls.turn(caller):
                return await call_async(worker.stub.fetch_task_logs, request, peer, timeout_s=_PAGE_TIMEOUT_S)
        except (UnauthenticatedError, PermissionDeniedError) as error:
            # The worker has refused the token of the controller. The reader gets another error, because the reader's
            # own token is valid.
            raise UnavailableError(str(error)) from error
        except NotFoundError:
            if not keeps:
                raise
            return None

    async def _kept_page(
        self, request: cluster_pb2.Worker.FetchTaskLogsRequest, attempt: cluster_pb2.TaskAttempt, caller: str
    ) -> cluster_pb2.Worker.FetchTaskLogsResponse:
        keeper = self._sources.keeper
        assert keeper is not None, "the worker was asked, which has the only copy"
        with keeper.reading(request.task_id, request.attempt_id):
            directory = await keeper.provide(request.task_id, request.attempt_id)
            if attempt.started_at_ms and not has_log(directory):
                raise log_lost(request.task_id, request.attempt_id)
            reading = fetch_page_steps(directory, None, request.filter, request.attempt_id, True)
            return await self._sources.budget.scans.scan(caller, reading)


def _attempt_of(task: cluster_pb2.TaskStatus, number: int) -> cluster_pb2.TaskAttempt:
    if 0 <= number < len(task.attempts):
        return task.attempts[number]
    raise NotFoundError(
        f"task {task.task_id!r} has no attempt {number}: it has had {len(task.attempts)}, with ids that start at 0",
        reason=ErrorReason.ATTEMPT_NOT_FOUND,
        metadata={"task_id": task.task_id, "attempt_id": str(number)},
    )
