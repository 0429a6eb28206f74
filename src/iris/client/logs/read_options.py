"""Defines the options of a log reader, and makes the options from the arguments of the user.
`IrisClient.stream_task_logs` documents each argument for users.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypedDict

from iris.arguments import (
    MAX_INT32,
    check_callable,
    check_choice,
    check_flag,
    check_names,
    check_text,
    check_timeout,
    check_whole_number,
)
from iris.cluster.logs.records import SOURCES
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.system.clock import wall_s
from iris.terminal.notices import print_notice

Route = Literal["auto", "worker", "controller"]
ROUTES: tuple[Route, ...] = ("auto", "worker", "controller")
DEFAULT_PATIENCE_S = 300.0
# A reader that follows a log up to `end_ms` stops this many seconds later. A line that was captured before `end_ms` may
# arrive during this time.
LATE_LINES_S = 2.0


class LogArguments(TypedDict, total=False):
    """The keyword arguments that `Task.logs` passes on to `IrisClient.stream_task_logs`, and `Job.logs` to
    `IrisClient.stream_job_logs`. The handles of the async client accept the same arguments."""

    cursor: str | None
    attempt_id: int | None
    end_ms: int
    tail: int | None
    sources: Sequence[str]
    regex: str
    route: Route
    patience_s: float | None
    on_notice: Callable[[str], None] | None
    partial: bool


class TreeLogArguments(TypedDict, total=False):
    """The keyword arguments that `Job.tree_logs` passes on to `IrisClient.stream_tree_logs`. `AsyncJob.tree_logs`
    accepts the same arguments."""

    end_ms: int
    tail: int | None
    sources: Sequence[str]
    regex: str
    route: Route
    patience_s: float | None
    on_notice: Callable[[str], None] | None


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The checked options of a reader: which lines it selects, and from which servers it reads them.

    Attributes:
        follow: Whether to wait for future lines.
        filter: The filter that the servers apply. An empty filter passes records unchanged.
        cursor: The cursor of the entry after which the reader starts. If None, the reader starts at the beginning.
        attempt_id: The only attempt to read. If None, all attempts are read.
        max_lines: The number of lines after which the stream ends. 0: no limit.
        tail: The number of last lines with which the stream begins. If None, the stream begins with the first line.
        route: The servers through which the logs are read.
        patience_s: For how many seconds to retry when a server does not answer.
        on_notice: A function that is called with each notice for the user.
        partial: Whether partial lines are returned while the task writes them.
        until: The time at which the stream ends in any case, on the monotonic clock.
        follow_until: The time at which the stream stops waiting for future lines, on the monotonic clock.
    """

    follow: bool
    filter: cluster_pb2.Worker.FetchLogsFilter
    cursor: str | None
    attempt_id: int | None
    max_lines: int
    tail: int | None
    route: Route
    patience_s: float
    on_notice: Callable[[str], None]
    partial: bool
    until: float = math.inf
    follow_until: float = math.inf

    def is_follow_over(self) -> bool:
        """Return whether the stream no longer waits for future lines, but may still read existing lines."""
        return self.follow_until <= time.monotonic() < self.until

    @classmethod
    def checked(
        cls,
        *,
        follow: bool = True,
        cursor: str | None = None,
        attempt_id: int | None = None,
        start_ms: int = 0,
        end_ms: int = 0,
        max_lines: int = 0,
        tail: int | None = None,
        sources: Sequence[str] = (),
        regex: str = "",
        route: Route = "auto",
        patience_s: float | None = DEFAULT_PATIENCE_S,
        on_notice: Callable[[str], None] | None = None,
        partial: bool = False,
    ) -> Self:
        """Return the options for the arguments of `IrisClient.stream_task_logs`.

        Raises:
            InvalidArgumentError: An argument is invalid.
        """
        tail = None if tail is None else check_whole_number("tail", tail, most=MAX_INT32, none="all lines")
        max_lines = check_whole_number("max_lines", max_lines, most=MAX_INT32)
        if tail is not None and max_lines:
            raise InvalidArgumentError(
                "tail and max_lines are mutually exclusive: select either the last or the first lines"
            )
        if tail is not None and cursor is not None:
            raise InvalidArgumentError(
                "tail and cursor are mutually exclusive: select either the last lines or the lines after a cursor"
            )
        if cursor is not None:
            cursor = check_text("cursor", cursor, accepted="the cursor of a line", none="the beginning")
        if on_notice is not None:
            check_callable("on_notice", on_notice, none="a line on stderr")
        end_ms = check_whole_number("end_ms", end_ms)
        return cls(
            follow=check_flag("follow", follow),
            filter=_filter(check_whole_number("start_ms", start_ms), end_ms, sources, regex),
            cursor=cursor,
            attempt_id=check_attempt_id(attempt_id),
            max_lines=max_lines,
            tail=tail,
            route=check_choice("route", route, ROUTES),
            patience_s=check_timeout("patience_s", patience_s),
            on_notice=on_notice or print_notice,
            partial=check_flag("partial", partial),
            follow_until=time.monotonic() + end_ms / 1000 - wall_s() + LATE_LINES_S if end_ms else math.inf,
        )

    @property
    def counts_lines(self) -> bool:
        """Whether the number of lines is limited."""
        return bool(self.max_lines) or self.tail is not None

    @property
    def has_no_filter(self) -> bool:
        """Whether no filter is set, so that the servers send all records. Only in this case, missing bytes are a gap in
        the log."""
        return not self.filter.ByteSize()


def check_attempt_id(attempt_id: int | None) -> int | None:
    """Check the id of an attempt, and return the id. Return None if the user gave no id.

    Raises:
        InvalidArgumentError: The id is not a whole number from 0 to 2**31 - 1.
    """
    if attempt_id is None:
        return None
    return check_whole_number("attempt_id", attempt_id, most=MAX_INT32, none="the newest attempt, or all attempts")


def _filter(start_ms: int, end_ms: int, sources: Sequence[str], regex: str) -> cluster_pb2.Worker.FetchLogsFilter:
    """Return the filter for the servers, with only the fields that differ from their defaults. If no field is set, the
    servers send whole records.
    """
    names = check_names("sources", sources, str(list(SOURCES)))
    chosen = cluster_pb2.Worker.FetchLogsFilter(
        sources=[check_choice("each of sources", source, SOURCES) for source in names]
    )
    regex = check_text("regex", regex, accepted="a pattern (RE2) as text")
    if start_ms:
        chosen.start_ms = start_ms
    if end_ms:
        chosen.end_ms = end_ms
    if regex:
        chosen.regex = regex
    return chosen
