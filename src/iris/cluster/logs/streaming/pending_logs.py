"""Keeps track of the logs of one stream that may have unread records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from iris.cluster.logs.streaming.open_log import OpenLog
from iris.system.event_loop import happens


class PendingLogs:
    """The logs of a stream that may have unread records, so that a log is read only when it may have grown.

    Args:
        logs: The logs of the stream. At first, all logs are pending.

    Attributes:
        unfinished: The logs that were not read to their end yet, by their index in `logs`.
    """

    def __init__(self, logs: Sequence[OpenLog]) -> None:
        self.unfinished = dict(enumerate(logs))
        # The numbers of the logs that have new records. The dict serves as an ordered set.
        self._pending = dict.fromkeys(self.unfinished)
        self._event = asyncio.Event()
        self._callbacks: dict[int, Callable[[], None]] = {}
        for number, log in self.unfinished.items():
            if log.writer is not None:
                self._callbacks[number] = callback = self._make_callback(number)
                log.writer.subscribe(callback)

    def _make_callback(self, number: int) -> Callable[[], None]:
        def on_append() -> None:
            self._pending[number] = None
            self._event.set()

        return on_append

    def has_more_than(self, size: int) -> bool:
        """Return whether a pending log has at least `size` bytes of records left to read."""
        return any(self.unfinished[number].reader.bytes_left() >= size for number in self._pending)

    def drain(self) -> Iterator[OpenLog]:
        """Yield each pending log. A yielded log is not pending any more."""
        for number in list(self._pending):
            self._current = number
            del self._pending[number]
            yield self.unfinished[number]

    @property
    def current_is_finished(self) -> bool:
        """Whether the log that `drain` yielded last was read to its end."""
        return self._current not in self.unfinished

    def requeue_current(self) -> None:
        """Make the log that `drain` yielded last pending again, because more of it can be read."""
        self._pending[self._current] = None

    def finish_current(self) -> None:
        """Remove the log that `drain` yielded last, because it was read to its end."""
        self._unsubscribe(self._current)
        del self.unfinished[self._current]
        self._pending.pop(self._current, None)

    async def wait(self, until_s: float) -> None:
        """Wait until a log is pending or a partial line must be shown, but not longer than until `until_s` on the
        monotonic clock.
        """
        if self._pending:
            return
        self._event.clear()
        partial = [log.show_partial_at_s for log in self.unfinished.values() if log.show_partial_at_s is not None]
        await happens(self._event, max(0.0, min([until_s, *partial]) - time.monotonic()))

    def close(self) -> None:
        """End the subscriptions to the writers of the logs."""
        for number in list(self.unfinished):
            self._unsubscribe(number)

    def _unsubscribe(self, number: int) -> None:
        callback = self._callbacks.pop(number, None)
        writer = self.unfinished[number].writer
        if callback is not None and writer is not None:
            writer.unsubscribe(callback)
