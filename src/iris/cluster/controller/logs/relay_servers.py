"""Opens the logs of a job for the follow engine, inside the controller: from workers, or from the kept logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import ExitStack, aclosing

from iris.cluster.controller.api import messages
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.sources import LogSources, end_of
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.logs.cursor import Position, to_message
from iris.cluster.logs.follow_events import Read, Worker
from iris.cluster.logs.streaming.open_log import OpenLog
from iris.cluster.logs.streaming.refused_log import refused_log
from iris.cluster.logs.streaming.serve_stream import stream_logs
from iris.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import stream_async
from iris.rpc.cluster_pb2 import StreamTaskLogsRequest, StreamTaskLogsResponse
from iris.rpc.peer import Peer
from iris.rpc.serving.steps import finish

_OPENED_PER_TURN = 50  # After opening this many logs, the relay lets the event loop handle other events.

Chunk = StreamTaskLogsResponse.Chunk


class RelayServers:
    """The workers and the kept logs of a job, as the servers of an `AsyncioDriver`.

    Args:
        sources: The object that finds the worker or the kept log for each attempt.
        caller: The key under which limits count the caller (`Caller.key`).
        record: The record of the job.
        request: The reader's request. Its filter, `follow` and `max_bytes` apply to each log.
        position_of: A function that returns the position from which an attempt is read.
    """

    def __init__(
        self,
        sources: LogSources,
        caller: str,
        record: JobRecord,
        request: StreamTaskLogsRequest,
        position_of: Callable[[Read], Position],
    ) -> None:
        self._sources = sources
        self._caller = caller
        self._record = record
        self._request = request
        self._position_of = position_of
        # The attempts whose logs are not on their workers. Each attempt is a pair of task index and attempt id.
        self._not_at_worker: set[tuple[int, int]] = set()

    def leave_worker(self, task_index: int, attempt_id: int) -> None:
        """Read the log of an attempt from the kept logs from now on."""
        self._not_at_worker.add((task_index, attempt_id))

    async def statuses(self, task_indices: Sequence[int]) -> AsyncGenerator[list[cluster_pb2.TaskStatus]]:
        """Yield the saved statuses of the given tasks. After each change, yield the saved statuses of the changed
        tasks.
        """
        seen, wanted = 0, set(task_indices)
        while True:
            changed = self._sources.watches.next_change(self._record.job_id)
            record = self._sources.saved.shown(self._record)
            revision = record.job.revision
            changed_tasks = [task.task_index for task in record.job.changes.since(seen)] if seen else []
            indices = [index for index in changed_tasks if index in wanted] if seen else task_indices
            making = messages.some_tasks(record, indices)
            if len(indices) <= messages.AT_ONCE:
                tasks = finish(making)
            else:
                tasks = await self._sources.slices.run_for(self._caller, making)
            if not await self._sources.saved.settled():
                # The latest changes could not be saved, and no reader may see unsaved changes. Therefore the statuses
                # are made again.
                continue
            yield tasks
            seen = revision
            await changed.wait()

    # The methods below implement `AsyncLogServers`. An `AsyncioDriver` calls them to open streams.

    def choose(self, read: Read) -> WorkerRecord | None:
        """Return the worker that has the log of an attempt; None if the controller has the log."""
        if (read.task_index, read.attempt.attempt_id) in self._not_at_worker:
            return None
        return self._sources.source_of(self._record, read.task_index, read.attempt)

    def worker(self, server: WorkerRecord | None) -> Worker | None:
        """Return the id and address of a worker; None for the kept logs."""
        return None if server is None else (server.identity.worker_id, server.identity.address)

    def is_lost(self, server: WorkerRecord | None) -> bool:
        """Return whether the controller has declared a worker lost."""
        return server is not None and server.is_dead

    def open(self, server: WorkerRecord | None, reads: Sequence[Read]) -> AsyncGenerator[StreamTaskLogsResponse]:
        """Return one stream of the logs of some attempts, from a worker, or from the kept logs if `server` is None."""
        return self._kept_stream(reads) if server is None else self._worker_stream(server, reads)

    async def _worker_stream(
        self, worker: WorkerRecord, reads: Sequence[Read]
    ) -> AsyncGenerator[StreamTaskLogsResponse]:
        request = StreamTaskLogsRequest(
            job_id=self._request.job_id,
            positions=[to_message(read.task_index, self._position_of(read)) for read in reads],
            follow=self._request.follow,
            filter=self._request.filter,
            max_bytes=self._request.max_bytes,
        )
        peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id!r}")
        try:
            async with aclosing(stream_async(worker.stub.stream_task_logs(request), peer)) as worker_messages:
                async for message in worker_messages:
                    yield message
        except (UnauthenticatedError, PermissionDeniedError) as error:
            # The worker has refused the token of the controller. The reader gets another error, because the reader's
            # own token is valid.
            raise UnavailableError(str(error)) from error

    async def _kept_stream(self, reads: Iterable[Read]) -> AsyncGenerator[StreamTaskLogsResponse]:
        with ExitStack() as reading:
            async with aclosing(self._kept_messages(reads, reading)) as kept_messages:
                async for message in kept_messages:
                    yield message

    async def _kept_messages(self, reads: Iterable[Read], reading: ExitStack) -> AsyncGenerator[StreamTaskLogsResponse]:
        logs: list[OpenLog] = []
        for number, read in enumerate(reads):
            if not number % _OPENED_PER_TURN:
                await asyncio.sleep(0)
            index, attempt = read.task_index, read.attempt
            position = self._position_of(read)
            try:
                logs.append(
                    await self._sources.open_kept(self._record, index, attempt, position, self._request, reading)
                )
            except NotFoundError as error:
                end = end_of(attempt)
                end.complete = True
                if attempt.started_at_ms:
                    end.missing_reason = f"the log is gone: {error}"
                yield StreamTaskLogsResponse(chunks=[Chunk(task_index=index, attempt_id=attempt.attempt_id, end=end)])
            except UnavailableError as error:
                yield StreamTaskLogsResponse(chunks=[refused_log(index, attempt.attempt_id, error)])
        if logs:
            stream = stream_logs(logs, self._sources.budget, follow=False, caller=self._caller)
            async with aclosing(stream) as kept_messages:
                async for message in kept_messages:
                    yield message
