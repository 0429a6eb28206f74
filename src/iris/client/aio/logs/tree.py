"""Defines `AsyncTreeLogStream`, the asynchronous iterator over the lines of a job and of all its child jobs. The
docstring of the module `iris.client.logs.tree` describes the order of the lines.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

from iris.client.aio.streams import AsyncLogStream, AsyncTaskLogReader
from iris.client.logs.read_options import ReadOptions
from iris.client.logs.tree import MAX_FOLLOWED, Batch, JobTree, last_lines, list_tree, pause_between_lists
from iris.cluster.client.aio.connection import AsyncClusterConnection
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.errors import IrisError, UnavailableError
from iris.rpc import cluster_pb2

_BUFFERED_BATCHES = 256
_Arrived = asyncio.Queue["Batch | IrisError | None"]


class AsyncTreeLogStream(AsyncIterator[LogEntry]):
    """An iterator over the lines of a job and of all its child jobs.

    `LogEntry.job_id` names the job of a line. To end the stream early, cancel the task that reads it, or close the
    stream:

        async with job.tree_logs(follow=True) as lines:
            async for line in lines:
                print(line.job_id, line.task_index, line.message)

    Only one task may iterate over the stream. Other tasks of the same event loop may call `close`.
    """

    def __init__(
        self, connection: AsyncClusterConnection, job_id: str, options: ReadOptions, *, max_followed: int = MAX_FOLLOWED
    ) -> None:
        self._connection = connection
        self._options = options
        self._tree = JobTree[AsyncIterator[Batch]](job_id, self._open_later, max_followed)
        self._streams: dict[str, AsyncLogStream] = {}
        self._is_closed = False
        self._batches = self._read()
        self._lines = self._each()

    @property
    def jobs(self) -> Mapping[str, cluster_pb2.JobStatus]:
        """The known jobs of the tree, by job id, without their tasks. A child job is added when it is found, and its
        status here does not change afterwards."""
        return self._tree.known

    @property
    def ends(self) -> Mapping[str, Mapping[int, cluster_pb2.LogEnd]]:
        """The ends of the tasks' logs, by job id and task index. `AsyncLogStream.ends` describes them."""
        return {job_id: stream.ends for job_id, stream in self._streams.items()}

    def batches(self) -> AsyncIterator[Batch]:
        """Return an iterator over batches of lines that arrived together, instead of single lines; see
        `AsyncLogStream.batches`.
        """
        return self._batches

    async def close(self) -> None:
        """End the stream. Any task of the event loop may call this method. A task that is waiting for a line stops
        waiting.
        """
        self._is_closed = True
        for stream in list(self._streams.values()):
            await stream.close()
        # A generator cannot be closed while another asyncio task iterates over it. The error is ignored, because that
        # task then ends the generator.
        with suppress(RuntimeError):
            await self._lines.aclose()
            await self._batches.aclose()

    async def aclose(self) -> None:
        """End the stream, as `close` does. `contextlib.aclosing` calls this method."""
        await self.close()

    def __aiter__(self) -> AsyncIterator[LogEntry]:
        return self._lines

    async def __anext__(self) -> LogEntry:
        return await anext(self._lines)

    async def __aenter__(self) -> AsyncTreeLogStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _each(self) -> AsyncGenerator[LogEntry]:
        async for batch in self._batches:
            for entry in batch:
                yield entry

    def _open(self, job_id: str, options: ReadOptions) -> AsyncIterator[Batch]:
        stream = AsyncLogStream(AsyncTaskLogReader(self._connection, job_id, None, options))
        self._streams[job_id] = stream
        return stream.batches()

    def _open_later(self, job_id: str) -> AsyncIterator[Batch]:
        """Open the log stream of a job that was found while other jobs were followed. The stream returns the job's
        existing lines, too."""
        return self._open(job_id, replace(self._options, tail=None))

    async def _read(self) -> AsyncGenerator[Batch]:
        left = self._options.max_lines
        async with aclosing(self._all_batches()) as batches:
            async for batch in batches:
                shown = batch
                if self._options.max_lines:
                    shown, left = batch[:left], left - len(batch)
                yield shown
                if self._options.max_lines and left <= 0:
                    return

    async def _all_batches(self) -> AsyncGenerator[Batch]:
        await self._read_list()
        options, paused = self._options, list[AsyncIterator[Batch]]()
        sources = [self._open(job_id, options) for job_id in self._tree.take_all()]
        async with aclosing(_merged(sources, paused)) as merged:
            if options.tail is None:
                async for batch in merged:
                    yield batch
            else:
                for batch in last_lines(iter([batch async for batch in merged]), options.tail):
                    yield batch
        yield ()
        if options.follow:
            self._tree.add_paused(paused)
            async with aclosing(self._follow()) as arriving:
                async for batch in arriving:
                    yield batch

    async def _follow(self) -> AsyncGenerator[Batch]:
        arrived: _Arrived = asyncio.Queue(_BUFFERED_BATCHES)
        watch = asyncio.create_task(self._watch_tree(arrived))
        tasks = list[asyncio.Task[None]]()
        running = 0
        try:
            while not self._is_closed:
                while (source := self._tree.next_source(running)) is not None:
                    tasks.append(asyncio.create_task(_forward(source, arrived)))
                    running += 1
                if not running:
                    # All known jobs have ended. The list is read again, because a child job may have been submitted
                    # since the last list.
                    await self._read_list()
                    if not self._tree.has_unread:
                        return
                    continue
                if arrived.empty():
                    yield ()
                batch = await arrived.get()
                if batch is None:
                    running -= 1
                elif isinstance(batch, IrisError):
                    raise batch
                elif batch:
                    yield batch
        finally:
            for task in (watch, *tasks):
                task.cancel()
            await asyncio.gather(watch, *tasks, return_exceptions=True)

    async def _read_list(self) -> None:
        self._tree.add(await self._connection.perform(list_tree(self._tree.job_id)))

    async def _watch_tree(self, arrived: _Arrived) -> None:
        """Look for new child jobs until this asyncio task is cancelled. If a child job was found, an empty batch in the
        queue wakes the iterating task."""
        pause_s = pause_between_lists(0.0)
        while True:
            await asyncio.sleep(pause_s)
            began_s = time.monotonic()
            try:
                await self._read_list()
                if self._tree.has_unread:
                    await arrived.put(())
            except UnavailableError:
                # The controller does not answer. This error is ignored here, because the log streams of the jobs decide
                # for how long to retry.
                pass
            except IrisError as error:
                await arrived.put(error)
                return
            pause_s = pause_between_lists(time.monotonic() - began_s)


async def _merged(sources: Sequence[AsyncIterator[Batch]], paused: list[AsyncIterator[Batch]]) -> AsyncGenerator[Batch]:
    """Yield the batches of several log streams, ordered by time. Read each stream up to its first pause, which is an
    empty batch, and add the streams that have a pause to `paused`.
    """
    heads: list[tuple[int, int, Batch]] = []

    async def read_next(number: int) -> None:
        batch = await anext(sources[number], None)
        if batch:
            heapq.heappush(heads, (batch[0].timestamp_ms, number, batch))
        elif batch is not None:
            paused.append(sources[number])

    for number in range(len(sources)):
        await read_next(number)
    while heads:
        _, number, batch = heapq.heappop(heads)
        yield batch
        await read_next(number)


async def _forward(source: AsyncIterator[Batch], arrived: _Arrived) -> None:
    """Put the batches of a log stream into a queue, and None after the last batch."""
    try:
        async for batch in source:
            if batch:
                await arrived.put(batch)
    except IrisError as error:
        await arrived.put(error)
    await arrived.put(None)
