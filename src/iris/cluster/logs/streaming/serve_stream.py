"""Sends one or several logs to one reader, as a single stream, while the logs are written.

The stream runs on the event loop that captures the output, so a line is sent about a millisecond after the task wrote
it. These rules keep readers from slowing tasks down:
* Nothing is read from the log for a reader whose connection is full. Such a reader costs the memory of one message and
  of the connection's buffers. The rest of the log stays on disk.
* Threads read the older parts of a log (scan_threads.py), in small steps, one caller after another.
* All messages in memory share one limit, so messages get smaller when there are more streams.
* Each stream pauses after a message, unless the message was full or much of a log is still unread. The pause grows with
  the number of streams, so that all streams together send a bounded number of messages per second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from iris.cluster.logs.streaming.open_log import FIRST_MESSAGE_BYTES, OpenLog, StreamBudget
from iris.cluster.logs.streaming.pending_logs import PendingLogs
from iris.rpc.cluster_pb2 import StreamTaskLogsResponse

# If a log has fewer unread bytes than this, the event loop reads them itself instead of using a thread. The operating
# system still has these bytes in memory, because the task has just written them.
_INLINE_BYTES = 128 * 1024


async def stream_logs(
    logs: Sequence[OpenLog], budget: StreamBudget, *, follow: bool, max_bytes: int = 0, caller: str = ""
) -> AsyncGenerator[StreamTaskLogsResponse]:
    """Yield the records of the logs. With `follow`, also yield the records that the attempts still write.

    A stream has these steps:
    1. Send an empty message at once, because the headers of the response wait for the first message.
    2. Send a chunk for each pending log, until the log was read to its end. Before each read, check whether the attempt
       is final. The whole log of a final attempt is on disk, so an empty read means the end.
    3. Wait for new records, for the time to show a partial line, or for the next beat (an empty message). While a task
       writes only lines that the filter drops, a beat carries how far the filter has read.

    Args:
        logs: The open logs to send. The stream closes the logs when the stream ends.
        budget: The object that limits the memory and the files of this server's streams.
        follow: Whether the stream continues until all attempts have ended.
        max_bytes: About how many bytes of records are sent at most; 0 means no limit.
        caller: Identifies the reader, because the threads share their time between callers.
    """
    stream = _LogStream(logs, budget, caller, follow=follow)
    sent = 0
    try:
        with budget.count_stream():
            yield StreamTaskLogsResponse()
            beat_at_s = time.monotonic() + budget.beat_s
            while stream.pending.unfinished:
                message = await stream.next_message()
                is_beat = not message.chunks and time.monotonic() >= beat_at_s
                if is_beat:
                    stream.add_marks(message)
                if message.chunks or is_beat:
                    yield message
                    beat_at_s = time.monotonic() + budget.beat_s
                    sent += stream.size
                    if max_bytes and sent >= max_bytes:
                        return
                await stream.pause(beat_at_s)
    finally:
        stream.close()


class _LogStream:
    """The state of one stream of logs.

    Attributes:
        pending: The logs that may have something to read.
        size: How many bytes of records the last message carried.
    """

    def __init__(self, logs: Sequence[OpenLog], budget: StreamBudget, caller: str, *, follow: bool) -> None:
        self.pending = PendingLogs(logs)
        self.size = 0
        self._logs = logs
        self._budget = budget
        self._caller = caller
        self._follow = follow
        # The largest size of the next message. The size doubles after each full message, up to the limit of `budget`.
        self._max_size = FIRST_MESSAGE_BYTES
        if not follow:
            for log in logs:
                log.goal = None if log.writer is None or log.is_final() else log.writer.position

    async def next_message(self) -> StreamTaskLogsResponse:
        """Return the next message of the stream. The message is empty when nothing can be read now."""
        message = StreamTaskLogsResponse()
        self.size = 0
        for log in self.pending.drain():
            self.size += await self._read(log, message)
            if self.pending.current_is_finished:
                self._budget.close_file(log)
            else:
                self._budget.keep_file_open(log)
            if self.size >= self._max_size:
                break
        for log in self.pending.unfinished.values():
            if log.show_partial_at_s is not None and log.must_show_partial_line():
                message.chunks.add(
                    task_index=log.task_index, attempt_id=log.attempt_id, records=log.reader.mark(), flush=True
                )
        return message

    def add_marks(self, beat: StreamTaskLogsResponse) -> None:
        """Add to an empty message (a beat) how far the filters have read, so that a reader that reconnects continues
        from there.
        """
        for log in self.pending.unfinished.values():
            mark = log.reader.mark()
            if mark:
                beat.chunks.add(task_index=log.task_index, attempt_id=log.attempt_id, records=mark)

    async def pause(self, beat_at_s: float) -> None:
        """Wait until the stream must send its next message. After a full message, the next message is sent at once.
        After a long silence, an empty message is sent, which is called a beat.
        """
        pending = self.pending
        if self.size >= self._max_size:
            self._max_size = min(2 * self._max_size, self._budget.message_bytes)
        elif pending.unfinished and not pending.has_more_than(_INLINE_BYTES):
            await asyncio.sleep(self._budget.pause_s)
        if pending.unfinished:
            await pending.wait(beat_at_s)

    def close(self) -> None:
        """Close the logs of the stream."""
        self.pending.close()
        for log in self._logs:
            self._budget.close_file(log)

    async def _read(self, log: OpenLog, message: StreamTaskLogsResponse) -> int:
        """Add the next records of a log to a message, and return how many bytes of records were added."""
        final = log.is_final()  # Check whether the attempt is final before the read; see `stream_logs`.
        reader = log.reader
        if reader.bytes_left() < _INLINE_BYTES:
            records = reader.read(min(self._max_size, _INLINE_BYTES), final=final)
        else:
            records = await self._budget.scans.read(self._caller, reader.read, self._max_size, final=final)
        if not records and reader.is_searching:
            self.pending.requeue_current()
            return 0
        if log.until_announced is not None and (records or final):
            # Wait until the controller knows that the attempt runs. The process may have started during the read, so
            # the wait comes after it.
            await log.until_announced()
        if records:
            message.chunks.add(
                task_index=log.task_index, attempt_id=log.attempt_id, records=records, position=reader.position
            )
        done = reader.exhausted or (log.goal is not None and reader.position >= log.goal)
        if not done and (records or (self._follow and not final)):
            if records and (final or reader.bytes_left()):
                self.pending.requeue_current()  # The rest of the log is read for one of the next messages.
            else:
                log.schedule_partial_line()
            return len(records)
        end = log.finished(complete=final and not done)
        message.chunks.add(task_index=log.task_index, attempt_id=log.attempt_id, end=end)
        self.pending.finish_current()
        return len(records)
