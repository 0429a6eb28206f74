"""Sends logs while they are written, to one reader: of one attempt, or of many as one stream.

Runs on the loop that captures, so that a line is on its way a millisecond after the task wrote it. What keeps a reader
from costing a task anything:

* A reader that does not read holds one message and the buffers of its connection: while those are full nothing is
  read for it. What it has not got lies on disk.
* Reading what lies far back is done in threads for that (scan_threads.py), in pieces, each caller's in turn.
* All messages that are held together have a size: the more streams there are, the smaller they get.
* News is merged: after each message a stream rests, the longer the more streams there are, so that together they
  send a bounded number of messages a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from iris.cluster.logs.cursor import Position, from_message
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.reading.scan_threads import LogScans
from iris.cluster.logs.records import Offsets
from iris.cluster.logs.writer import LogWriter
from iris.cluster.types import make_task_id
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.worker import Worker
from iris.errors import InvalidArgumentError, NotFoundError
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import StreamTaskLogsResponse
from iris.system.processes import descriptors, happens

BEAT_S = 10.0  # on a silent stream; common proxies cut idle ones after 20 to 60 s
MESSAGE_BYTES = 1 << 20
_HELD_BYTES = 256 << 20  # of all messages of a server that readers have not taken yet
# A stream begins with small messages, which double: on a line that breaks again and again, some get through.
_FIRST_MESSAGE_BYTES = 4 << 10
_INLINE_BYTES = 128 * 1024  # less than this was just written, and is read from memory without a thread
_REST_S = 0.002
_REST_PER_STREAM_S = 0.0003
# How long a line may be unfinished before readers are told to show it as it is (the contract says 200 ms).
_FLUSH_S = 0.1
_OPENED_AT_ONCE = 50  # logs of a stream; then all else has its turn


class Reader(Protocol):
    """Reads on in a log; see writer.py."""

    def read(self, max_bytes: int, *, final: bool) -> bytes: ...

    def behind(self) -> int: ...

    @property
    def is_searching(self) -> bool: ...

    @property
    def exhausted(self) -> bool: ...

    @property
    def position(self) -> int: ...

    @property
    def offsets(self) -> Offsets: ...

    @property
    def missing(self) -> int: ...

    @property
    def written(self) -> Offsets | None: ...

    @property
    def truncated(self) -> bool: ...

    def mark(self) -> bytes: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class OpenLog:
    """The log of an attempt, open for one reader.

    Attributes:
        task_index: Which task's,
        attempt_id: and attempt's it is.
        reader: Where the reader is.
        is_final: Whether the attempt has ended with all of its log on disk.
        end: How its attempt has ended, or is now.
        writer: What tells of news; None when there will be none.
        goal: Where to end, in bytes of records, for who does not follow: a task may write faster than we read.
        held: Its file stays open between two reads.
        until_announced: Waits until readers may have what the process wrote, see announcement.py.
    """

    task_index: int
    attempt_id: int
    reader: Reader
    is_final: Callable[[], bool]
    end: Callable[[], cluster_pb2.LogEnd]
    writer: LogWriter | None = None
    goal: int | None = None
    held: bool = False
    until_announced: Callable[[], Awaitable[None]] | None = None
    _unfinished: tuple[int, ...] = ()
    _flush_at_s: float | None = None

    def arm_flush(self) -> None:
        """All that there is was sent. An unfinished line that is still the same in a while is to be shown."""
        if self.writer is None:
            return
        now = self.writer.unfinished
        if self._flush_at_s is None or not _same_line(self._unfinished, now):
            self._unfinished = now
            self._flush_at_s = time.monotonic() + _FLUSH_S if max(now) >= 0 else None

    def take_flush(self) -> bool:
        """Whether now is the time to tell the reader."""
        if self._flush_at_s is None or self.writer is None or time.monotonic() < self._flush_at_s:
            return False
        self._flush_at_s = None
        return _same_line(self._unfinished, self.writer.unfinished)

    @property
    def flush_at_s(self) -> float | None:
        """When to look whether an unfinished line is to be shown, on the monotonic clock."""
        return self._flush_at_s


@dataclass(slots=True)
class Streams:
    """The streams of a server.

    Attributes:
        beat_s: After so many silent seconds each of them sends a message, whatever there is to say.
        count: How many there are.
        max_held: How many files they may keep open between two reads. Other logs are opened anew for each.
        held: How many they do.
        scans: Threads that read for them.
    """

    beat_s: float = BEAT_S
    count: int = 0
    max_held: int = field(default_factory=lambda: descriptors() // 4)
    held: int = 0
    scans: LogScans = field(default_factory=LogScans)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """For as long as a stream lives."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    def hold(self, log: OpenLog) -> None:
        """After a read: keeps the file of a log open if there is room for it."""
        if not log.held and self.held < self.max_held:
            log.held = True
            self.held += 1
        elif not log.held:
            log.reader.close()

    def let_go(self, log: OpenLog) -> None:
        """Closes the file of a log."""
        self.held -= log.held
        log.held = False
        log.reader.close()

    @property
    def message_bytes(self) -> int:
        """How large a message of each may be, about."""
        return max(_FIRST_MESSAGE_BYTES, min(MESSAGE_BYTES, _HELD_BYTES // max(1, self.count)))

    @property
    def rest_s(self) -> float:
        """How long each rests after a message."""
        return _REST_S + _REST_PER_STREAM_S * self.count


def open_reader(
    directory: Path,
    offsets: Offsets,
    writer: LogWriter | None,
    wanted: cluster_pb2.Worker.FetchLogsFilter,
) -> Reader:
    """What reads a log from a place on, filtered where that is wanted.

    Raises:
        InvalidArgumentError: The filter cannot be meant.
    """
    if not wanted.ByteSize():
        return LogReader(directory, offsets, writer=writer)
    from iris.cluster.logs.reading.filters import FilteredReader, parse_filter  # with re2, which few readers need

    chosen = parse_filter(wanted)
    if chosen.is_open:
        return LogReader(directory, offsets, writer=writer)
    return FilteredReader(directory, offsets, writer=writer, wanted=chosen)


async def stream_logs(
    logs: Sequence[OpenLog], streams: Streams, *, follow: bool, max_bytes: int = 0, caller: str = ""
) -> AsyncGenerator[StreamTaskLogsResponse]:
    """What the logs hold, and what comes.

    1. A first message at once: the headers of an answer wait for it.
    2. Each log with news gives a chunk, until all of it was given. Whether an attempt is final is asked before its log
       is read: what it wrote until then is on disk by now, so an empty read after that is the end.
    3. Wait for news, for the moment to show an unfinished line, or for the time of a beat; that comes also where there
       is news all the time, but nothing of it passes a filter. It carries how far that was looked at.

    Args:
        logs: Closed when the stream ends.
        streams: Those of this server.
        follow: Go on until the attempts have ended.
        max_bytes: End after about so many bytes of records; 0: no limit.
        caller: Whose turn it is when something is read in a thread.
    """
    news = _News(logs)
    sent = 0
    room = _FIRST_MESSAGE_BYTES
    if not follow:
        for log in logs:
            log.goal = None if log.writer is None or log.is_final() else log.writer.position
    try:
        with streams.one_more():
            yield StreamTaskLogsResponse()
            beat_at_s = time.monotonic() + streams.beat_s
            while news.going_on:
                message = StreamTaskLogsResponse()
                size = 0
                for log in news.take():
                    size += await _read(log, message, news, room, streams.scans, caller, follow=follow)
                    if news.has_ended:
                        streams.let_go(log)
                    else:
                        streams.hold(log)
                    if size >= room:
                        break
                for log in news.going_on.values():
                    if log.flush_at_s is not None and log.take_flush():
                        records = log.reader.mark()
                        message.chunks.add(
                            task_index=log.task_index, attempt_id=log.attempt_id, records=records, flush=True
                        )
                is_beat = not message.chunks and time.monotonic() >= beat_at_s
                if is_beat:
                    _mark(news.going_on.values(), message)
                if message.chunks or is_beat:
                    yield message
                    beat_at_s = time.monotonic() + streams.beat_s
                    sent += size
                    if max_bytes and sent >= max_bytes:
                        return
                if size >= room:
                    room = min(2 * room, streams.message_bytes)
                elif news.going_on and not news.has_more:
                    await asyncio.sleep(streams.rest_s)
                if news.going_on:
                    await news.wait(beat_at_s)
    finally:
        news.close()
        for log in logs:
            streams.let_go(log)


class _News:
    """Which logs of a stream are to be read."""

    def __init__(self, logs: Sequence[OpenLog]) -> None:
        self.going_on = dict(enumerate(logs))
        self._dirty = dict.fromkeys(self.going_on)  # a set that keeps its order
        self._event = asyncio.Event()
        self._callbacks = {number: self._callback(number) for number, log in self.going_on.items() if log.writer}
        for number, callback in self._callbacks.items():
            self.going_on[number].writer.subscribe(callback)  # type: ignore[union-attr]

    def _callback(self, number: int) -> Callable[[], None]:
        def changed() -> None:
            self._dirty[number] = None
            self._event.set()

        return changed

    @property
    def has_more(self) -> bool:
        """Whether a log is known to have more than was read of it."""
        return any(self.going_on[number].reader.behind() >= _INLINE_BYTES for number in self._dirty)

    def take(self) -> Iterator[OpenLog]:
        """The logs with news, one after the other."""
        for number in list(self._dirty):
            self._number = number
            del self._dirty[number]
            yield self.going_on[number]

    @property
    def has_ended(self) -> bool:
        """Whether the log that was taken last has no more to give."""
        return self._number not in self.going_on

    def again(self) -> None:
        """The log that was taken last has more."""
        self._dirty[self._number] = None

    def ended(self) -> None:
        """The log that was taken last has no more to give."""
        self._unsubscribe(self._number)
        del self.going_on[self._number]
        self._dirty.pop(self._number, None)

    async def wait(self, until_s: float) -> None:
        """Until there is something to do, or this moment on the monotonic clock."""
        if self._dirty:
            return
        self._event.clear()
        flushes = [log.flush_at_s for log in self.going_on.values() if log.flush_at_s is not None]
        await happens(self._event, max(0.0, min([until_s, *flushes]) - time.monotonic()))

    def close(self) -> None:
        for number in list(self.going_on):
            self._unsubscribe(number)

    def _unsubscribe(self, number: int) -> None:
        callback = self._callbacks.pop(number, None)
        writer = self.going_on[number].writer
        if callback is not None and writer is not None:
            writer.unsubscribe(callback)


async def _read(
    log: OpenLog,
    message: StreamTaskLogsResponse,
    news: _News,
    room: int,
    scans: LogScans,
    caller: str,
    *,
    follow: bool,
) -> int:
    """Adds what a log has to a message; answers with how many bytes that were."""
    final = log.is_final()
    reader = log.reader
    if reader.behind() < _INLINE_BYTES:
        records = reader.read(min(room, _INLINE_BYTES), final=final)
    else:
        records = await scans.read(caller, reader.read, room, final=final)
    if not records and reader.is_searching:
        news.again()
        return 0
    if log.until_announced is not None and (records or final):
        await log.until_announced()  # after the reading, during which the process may have started
    if records:
        message.chunks.add(task_index=log.task_index, attempt_id=log.attempt_id, records=records)
    done = reader.exhausted or (log.goal is not None and reader.position >= log.goal)
    if not done and (records or (follow and not final)):
        if records and (final or reader.behind()):
            news.again()  # of a final log, until an empty read says that this was all
        else:
            log.arm_flush()
        return len(records)
    end = log.end()
    end.complete = final and not done
    end.offsets.extend(reader.offsets)
    _tell_of_missing(end, log)
    message.chunks.add(task_index=log.task_index, attempt_id=log.attempt_id, end=end)
    news.ended()
    return len(records)


def _mark(logs: Iterable[OpenLog], beat: StreamTaskLogsResponse) -> None:
    """Adds to a beat how far a filter has looked since that was said: who connects again goes on from there."""
    for log in logs:
        mark = log.reader.mark()
        if mark:
            beat.chunks.add(task_index=log.task_index, attempt_id=log.attempt_id, records=mark)


def _tell_of_missing(end: cluster_pb2.LogEnd, log: OpenLog) -> None:
    reader = log.reader
    if log.writer is not None:
        end.bytes_written.extend(log.writer.offsets)
        end.bytes_missing = max(log.writer.missing, reader.missing)
        return
    end.bytes_written.extend(reader.written or reader.offsets)
    end.bytes_missing = reader.missing
    if reader.truncated:
        end.missing_reason = "its worker was killed, so what was written in the last moments may not be there"


def _same_line(before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    return any(start >= 0 and start == then for start, then in zip(now, before, strict=False))


async def stream_task_logs(
    worker: Worker, streams: Streams, request: cluster_pb2.StreamTaskLogsRequest, caller: str
) -> AsyncIterator[StreamTaskLogsResponse]:
    """The logs of attempts that a worker has; what it does not have is answered by a chunk with `error`."""
    if not request.positions:
        raise InvalidArgumentError("positions: expected at least one, since a worker does not know what a job is")
    logs = []
    refused = StreamTaskLogsResponse()
    with ExitStack() as reading:
        for count, message in enumerate(request.positions):
            if not count % _OPENED_AT_ONCE:
                await asyncio.sleep(0)
            position = from_message(message)
            task_id = make_task_id(request.job_id, message.task_index)
            try:
                _, directory, attempt = worker.log_of(task_id, position.attempt_id)
            except NotFoundError as error:
                refused.chunks.add(task_index=message.task_index, attempt_id=position.attempt_id, error=str(error))
                continue
            reading.enter_context(worker.reading(directory))
            logs.append(_open(message.task_index, position, directory.log, attempt, request.filter))
        if refused.chunks:
            yield refused
        stream = stream_logs(logs, streams, follow=request.follow, max_bytes=request.max_bytes, caller=caller)
        async with aclosing(stream) as messages:
            async for answer in messages:
                yield answer


def _open(
    task_index: int,
    position: Position,
    directory: Path,
    attempt: Attempt | None,
    wanted: cluster_pb2.Worker.FetchLogsFilter,
) -> OpenLog:
    writer = None if attempt is None else attempt.log
    return OpenLog(
        task_index,
        position.attempt_id,
        open_reader(directory, position.offsets, writer, wanted),
        is_final=lambda: attempt is None or attempt.is_final,
        end=cluster_pb2.LogEnd if attempt is None else attempt.log_end,
        writer=writer,
        until_announced=None if attempt is None else attempt.announcement.wait,
    )
