"""Limits the open streams of a server, for each caller and for all callers together."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar, cast

from iris.errors import ResourceExhaustedError, quoted
from iris.reasons import ErrorReason
from iris.system.event_loop import open_file_limit

Message = TypeVar("Message")

# The largest number of logs in one stream, because a job has at most this number of tasks.
MAX_POSITIONS = 10_000
# The largest number of logs in all streams together. For each log, the server needs about a kilobyte of memory.
_MAX_ALL_POSITIONS = 200_000
_MAX_POSITIONS_OF_CALLER = 50_000


_OPTION_OF_CONTROLLER = "'iris up --max-streams-per-user' sets the limit"


def streams_of_caller() -> int:
    """Return the number of streams that one caller may have open at a worker. Four callers together cannot use up the
    limit of all callers.
    """
    return max(4, min(1000, _streams_overall() // 5))


def _streams_overall() -> int:
    return max(8, min(5000, open_file_limit() // 8))


class OpenStreams:
    """Counts and limits the open streams of a server.

    Args:
        per_caller: The largest number of streams of one caller. If None, only the number of all streams is limited.
        overall: The largest number of all streams. The default is an eighth of the files that this process may have
            open. This is half of the limit of connections (`connection_limits.py`), so that other calls always get a
            connection.
        advice: What a caller with too many streams can do. The error always advises to end some streams, and adds this
            advice.
    """

    def __init__(
        self, per_caller: int | None = None, overall: int | None = None, advice: str = _OPTION_OF_CONTROLLER
    ) -> None:
        self._per_caller = per_caller
        self._advice = advice
        self._overall = overall or _streams_overall()
        # One caller must not use more than half of the streams of all callers, however high its own limit is.
        if per_caller is not None and per_caller > self._overall // 2:
            self._per_caller = max(1, self._overall // 2)
            self._advice = "more files allow more: raise 'ulimit -n' where this server was started"
        self._open: Counter[str] = Counter()
        self._positions: Counter[str] = Counter()

    async def limited(
        self, caller: str, messages: AsyncIterator[Message], positions: int = 1, *, is_limited: bool = True
    ) -> AsyncGenerator[Message]:
        """Yield the messages of a new stream, and count the stream until it ends.

        Args:
            caller: The caller that opens the stream.
            messages: The iterator over the stream's messages, of which none was read yet.
            positions: The number of logs that the stream reads.
            is_limited: Whether the limits of one caller apply. If not, only the limits of all callers apply.

        Raises:
            ResourceExhaustedError: A limit is reached.
        """
        self._check(caller, positions, is_limited=is_limited)
        self._open[caller] += 1
        self._positions[caller] += positions
        try:
            async for message in messages:
                yield message
        finally:
            self._positions[caller] -= positions
            if not self._positions[caller]:
                del self._positions[caller]
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
            await cast(Any, messages).aclose()

    def _check(self, caller: str, positions: int, *, is_limited: bool) -> None:
        if positions > MAX_POSITIONS:
            raise ResourceExhaustedError(
                f"the request names {positions:,} logs, but a stream carries at most {MAX_POSITIONS:,}",
                reason=ErrorReason.TOO_LARGE,
            )
        if is_limited and self._per_caller is not None and self._open[caller] >= self._per_caller:
            user = quoted(caller) if caller else "without a name"
            raise ResourceExhaustedError(
                f"user {user} has {self._open[caller]:,} streams open (logs that are followed, jobs that are watched),"
                f" and the limit is {self._per_caller:,}: end some streams ({self._advice})",
                reason=ErrorReason.QUOTA_EXCEEDED,
            )
        everybody = self._open.total()
        if everybody >= self._overall:
            raise ResourceExhaustedError(
                f"this server has {everybody:,} streams open, and its limit of open files allows no more: try again"
                " when some streams have ended, or restart the server with a higher limit ('ulimit -n')",
                reason=ErrorReason.SHORTAGE,
            )
        if is_limited and self._positions[caller] + positions > _MAX_POSITIONS_OF_CALLER:
            raise ResourceExhaustedError(
                f"user {quoted(caller)} reads {self._positions[caller]:,} logs at once, and {positions:,} more would be"
                f" over the limit of {_MAX_POSITIONS_OF_CALLER:,}: read fewer tasks, or end some streams",
                reason=ErrorReason.QUOTA_EXCEEDED,
            )
        if self._positions.total() + positions > _MAX_ALL_POSITIONS:
            raise ResourceExhaustedError(
                f"the readers of this server read {self._positions.total():,} logs at once, and {positions:,} more"
                f" would exceed the limit of {_MAX_ALL_POSITIONS:,}: read fewer tasks, or try again later",
                reason=ErrorReason.QUOTA_EXCEEDED,
            )
