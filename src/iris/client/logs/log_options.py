"""When to try again, and when to give up."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from iris.cluster.types import is_task_finished
from iris.errors import WorkerUnreachableError
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import TokenRenewedError

Chunk = cluster_pb2.StreamTaskLogsResponse.Chunk
Route = Literal["auto", "worker", "controller"]
ROUTES: tuple[Route, ...] = ("auto", "worker", "controller")
PATIENCE_S = 300.0
# Of an attempt that has ended with its worker, when only workers may be asked.
DEAD_WORKER_PATIENCE_S = 15.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 5.0
# At most, after a server that began to answer: it is the line that breaks then, and waiting does not mend it.
_PAUSE_OF_THE_LIVING_S = 0.25
_TELL_AGAIN_S = 10.0  # of a connection that is lost again and again
_QUIET_TRIES = 8  # a worker that has not heard of an attempt yet is no news


class NotYetError(WorkerUnreachableError):
    """A worker does not have the log of an attempt: it may not have heard of it yet."""


class RefusedError(WorkerUnreachableError):
    """The controller is there, and says that it cannot have the log of an attempt now."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader wants of the logs of tasks, and how it is to be had; see `IrisClient.stream_task_logs`."""

    follow: bool
    filter: cluster_pb2.Worker.FetchLogsFilter
    cursor: str | None
    attempt_id: int | None
    max_lines: int
    tail: int | None
    route: Route
    patience_s: float
    on_notice: Callable[[str], None]
    partial: bool = False  # give unfinished lines in pieces, as they are written
    until: float = math.inf  # on the monotonic clock: ends the stream then, wherever it is
    follow_until: float = math.inf  # on the monotonic clock: what comes later passes no filter

    @property
    def counts_lines(self) -> bool:
        """Whether lines have to be counted."""
        return bool(self.max_lines) or self.tail is not None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return not self.filter.ByteSize()


@dataclass(slots=True)
class Trouble:
    """A server that does not answer: how long to wait until the next try, and when to give up.

    Attributes:
        who: Whose log is being read, for the notice.
        quiet: Somebody has said it already.
        tries: How many have failed in a row.
        since_s: When the first of them did.
    """

    wanted: Wanted
    who: str
    quiet: bool = False
    tries: int = 0
    since_s: float | None = None
    _is_refused: bool = False
    _pause_s: float = _FIRST_PAUSE_S
    _told_s: float = -math.inf

    def answered(self) -> None:
        """It is there; whether it brings anything is not said yet. Where it said before that it cannot, patience is not
        without end for that."""
        if not self._is_refused:
            self.tries, self.since_s = 0, None
        self._pause_s = min(self._pause_s, _PAUSE_OF_THE_LIVING_S)

    def chunks_of(self, message: cluster_pb2.StreamTaskLogsResponse) -> Sequence[Chunk]:
        """The chunks of a message of the server, which is there after all."""
        self.answered()
        return message.chunks

    def over(self) -> None:
        """It brings what was asked for."""
        self._is_refused = False
        self.tries, self.since_s, self._pause_s = 0, None, _FIRST_PAUSE_S

    def lasts(self, seconds: float, attempt: cluster_pb2.TaskAttempt) -> bool:
        """Whether an attempt has ended and its worker has not answered for so long."""
        return (
            is_task_finished(attempt.state) and self.since_s is not None and time.monotonic() - self.since_s > seconds
        )

    def pause(self, error: Exception) -> float:
        """Seconds until the next try.

        Raises:
            Exception: `error`, when there is no patience left.
        """
        if isinstance(error, TokenRenewedError):
            return _FIRST_PAUSE_S  # nothing is wrong with the server
        now = time.monotonic()
        if self.since_s is None:
            self.since_s = now
        self.tries += 1
        self._is_refused |= isinstance(error, RefusedError)
        if now - self.since_s >= self.wanted.patience_s or now >= self.wanted.until:
            raise error
        is_news = self.tries == (_QUIET_TRIES if isinstance(error, NotYetError) else 1)
        if is_news and not self.quiet and now - self._told_s >= _TELL_AGAIN_S:
            self._told_s = now
            self.wanted.on_notice(f"{self.who and self.who + ': '}{error}; trying again")
        pause_s = min(self._pause_s * random.uniform(0.5, 1.5), max(0.0, self.wanted.until - now))
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s
