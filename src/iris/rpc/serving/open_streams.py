"""How many streams a server has open: of each caller, and of all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar, cast

from iris.errors import ResourceExhaustedError, quoted
from iris.reasons import ErrorReason
from iris.system.event_loop import open_file_limit

Message = TypeVar("Message")

MAX_POSITIONS = 10_000  # in a stream: of so many tasks a job can be
_MAX_ALL_POSITIONS = 200_000  # in all streams: each takes about a kilobyte
_MAX_POSITIONS_OF_CALLER = 50_000


_OPTION_OF_CONTROLLER = "'iris up --max-streams-per-user' sets the limit"


def streams_of_caller() -> int:
    """Return how many streams one caller may have open at a worker: four callers together cannot take them all."""
    return max(4, min(1000, _streams_overall() // 5))


def _streams_overall() -> int:
    return max(8, min(5000, open_file_limit() // 8))


class OpenStreams:
    """The streams of a server.

    Args:
        per_caller: At most so many of each; None: of all together only.
        overall: And so many of all; default: an eighth of the descriptors that this process may have. That is half of
            the connections (`connection_limits.py`), so that other calls always find one.
        advice: What a caller with too many can do, besides ending some.
    """

    def __init__(
        self, per_caller: int | None = None, overall: int | None = None, advice: str = _OPTION_OF_CONTROLLER
    ) -> None:
        self._per_caller = per_caller
        self._advice = advice
        self._overall = overall or _streams_overall()
        if per_caller is not None and per_caller > self._overall // 2:  # two callers together never take all
            self._per_caller = max(1, self._overall // 2)
            self._advice = "more files allow more: raise 'ulimit -n' where this server was started"
        self._open: Counter[str] = Counter()
        self._positions: Counter[str] = Counter()

    async def limited(
        self, caller: str, messages: AsyncIterator[Message], positions: int = 1, *, is_limited: bool = True
    ) -> AsyncGenerator[Message]:
        """The messages of one stream more, if it may be opened.

        Args:
            caller: Whose it is.
            messages: Nothing was taken of it.
            positions: In how many logs it is.
            is_limited: Whether the limit for each caller counts; else only that of all together.

        Raises:
            ResourceExhaustedError: It may not.
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
                f"{positions:,} positions: a stream carries the logs of {MAX_POSITIONS:,} tasks at most",
                reason=ErrorReason.TOO_LARGE,
            )
        if is_limited and self._per_caller is not None and self._open[caller] >= self._per_caller:
            whose = f"user {quoted(caller)} has" if caller else "there are"
            raise ResourceExhaustedError(
                f"{whose} {self._open[caller]:,} streams open (logs that are followed, jobs that are watched), and the"
                f" limit is {self._per_caller:,}: end some ({self._advice})",
                reason=ErrorReason.QUOTA_EXCEEDED,
            )
        everybody = self._open.total()
        if everybody >= self._overall:
            raise ResourceExhaustedError(
                f"this server has {everybody:,} streams open, as many as the files that it may open allow: try again"
                " when some have ended, or raise the limit of files ('ulimit -n') where it was started",
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
                f"this server is read in {self._positions.total():,} logs at once, and {positions:,} more would be over"
                f" the limit of {_MAX_ALL_POSITIONS:,}: read fewer tasks, or try again later",
                reason=ErrorReason.QUOTA_EXCEEDED,
            )
