"""Reads the parameters of the log route. The parameters have the names and meanings of the options of `iris logs`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC
from typing import TypeVar
from urllib.parse import parse_qsl

from iris.arguments import MAX_INT32
from iris.cluster.logs.reading.query import parse_filter
from iris.cluster.logs.records import SOURCES
from iris.errors import InvalidArgumentError, quoted
from iris.moments import read_moment
from iris.rpc import cluster_pb2

FORMATS = ("text", "raw", "ndjson", "json", "sse")
# The controller holds the last lines in memory while it merges them, so their number has a limit.
MAX_TAIL = 10_000
_LONGEST_NUMBER = 10  # MAX_INT32 has this number of digits. A longer number is refused before it is parsed.
_FLAGS = {"": True, "1": True, "true": True, "0": False, "false": False}
_REPEATED = ("task", "source")
_NAMES = (
    "task", "attempt", "follow", "since", "until", "tail", "max_lines", "grep", "source", "timestamps", "cursor",
    "partial", "format",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The parameters of one request to the log route.

    Attributes:
        tasks: The indices of the tasks to read; an empty tuple reads all tasks of the job.
        attempt_id: The id of the only attempt to read; None reads all attempts.
        follow: Whether to wait for future lines until the tasks have ended.
        start_ms: Only lines later than this time are read, in milliseconds since the epoch; 0 sets no limit.
        end_ms: Only lines up to this time are read, in milliseconds since the epoch; 0 sets no limit.
        tail: The answer begins with this number of last lines; None begins with the first line.
        max_lines: The number of lines after which the answer ends; 0 sets no limit.
        regex: The regular expression that a line must match somewhere; an empty string reads all lines.
        sources: The sources to read, for example stdout; an empty tuple reads all sources.
        timestamps: Whether each line of text begins with its time.
        cursor: The place in the logs after which the answer begins; None begins with the first line.
        partial: Whether JSON contains lines without their newline while the task writes them.
        format: The format of the answer, one of `FORMATS`; if the string is empty, the `Accept` header decides.
    """

    tasks: tuple[int, ...] = ()
    attempt_id: int | None = None
    follow: bool = False
    start_ms: int = 0
    end_ms: int = 0
    tail: int | None = None
    max_lines: int = 0
    regex: str = ""
    sources: tuple[str, ...] = ()
    timestamps: bool = False
    cursor: str | None = None
    partial: bool = False
    format: str = ""

    @property
    def filter(self) -> cluster_pb2.Worker.FetchLogsFilter:
        """The filter that is sent to the servers of logs. Only fields that differ from their defaults are set."""
        chosen = cluster_pb2.Worker.FetchLogsFilter(sources=self.sources)
        if self.start_ms:
            chosen.start_ms = self.start_ms
        if self.end_ms:
            chosen.end_ms = self.end_ms
        if self.regex:
            chosen.regex = self.regex
        return chosen

    def continued(self, cursor: str, *, start_ms: int, end_ms: int, max_lines: int) -> LogQuery:
        """Return a query that continues this query at a cursor, with the given times and number of lines."""
        return replace(self, cursor=cursor, tail=None, start_ms=start_ms, end_ms=end_ms, max_lines=max_lines)


def read_query(text: str) -> LogQuery:
    """Return the parameters in the query of a URL.

    Raises:
        InvalidArgumentError: A parameter is unknown, is given twice, or has a value that is not accepted, or two
            parameters exclude each other.
    """
    given = _Parameters(text)
    query = LogQuery(
        tasks=tuple(sorted({_number("task", value) for value in given.all("task")})),
        attempt_id=given.one("attempt", _number, None),
        follow=given.one("follow", _flag, False),
        start_ms=given.one("since", _moment, 0),
        end_ms=given.one("until", _moment, 0),
        tail=given.one("tail", _tail, None),
        max_lines=given.one("max_lines", _count, 0),
        regex=given.one("grep", _text, ""),
        sources=tuple(_choice("source", value, SOURCES) for value in given.all("source")),
        timestamps=given.one("timestamps", _flag, False),
        cursor=given.one("cursor", _text, None),
        partial=given.one("partial", _flag, False),
        format=given.one("format", lambda name, value: _choice(name, value, FORMATS), ""),
    )
    _check_together(query)
    try:
        parse_filter(query.filter)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"grep must be a valid regular expression: {error}") from None
    return query


class _Parameters:
    """The parameters of a URL by name, each with all its values."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in _pairs(text):
            if name not in _NAMES:
                near = difflib.get_close_matches(name, _NAMES, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"the parameters are {', '.join(_NAMES)}"
                raise InvalidArgumentError(f"unknown parameter {quoted(name)}: {advice}")
            self._values.setdefault(name, []).append(value)
        for name, values in self._values.items():
            if len(values) > 1 and name not in _REPEATED:
                raise InvalidArgumentError(
                    f"{name} is given {len(values)} times, and only {' and '.join(_REPEATED)} may be given several"
                    " times: give it once"
                )

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def one(self, name: str, read: Callable[[str, str], T], default: T) -> T:
        return read(name, self._values[name][0]) if name in self._values else default


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        bad = "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end])
        raise InvalidArgumentError(
            f"{bad} is not UTF-8: write each character of a parameter as the percent encoding of its UTF-8 bytes, for"
            " example %C3%A9 for 'é'"
        ) from None


def _refuse(name: str, value: str, accepted: str, example: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name}={quoted(value)} is not accepted: expected {accepted}, for example {example}")


def _number(name: str, value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= _LONGEST_NUMBER and int(value) <= MAX_INT32:
        return int(value)
    example = f"{name}=0&{name}=2 for two tasks" if name == "task" else f"{name}=2"
    raise _refuse(name, value, accepted=f"a whole number from 0 to {MAX_INT32}", example=example)


def _count(name: str, value: str) -> int:
    number = _number(name, value)
    if number:
        return number
    raise _refuse(
        name, value, accepted=f"a whole number from 1 to {MAX_INT32}", example=f"{name}=100, or no {name} for all lines"
    )


def _tail(name: str, value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) <= _LONGEST_NUMBER and int(value) <= MAX_TAIL:
        return int(value)
    accepted = f"a whole number from 0 to {MAX_TAIL:,} ('iris logs --tail' has no limit)"
    raise _refuse(name, value, accepted, example=f"{name}=100")


def _flag(name: str, value: str) -> bool:
    if value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise _refuse(name, value, accepted="1, true, 0 or false", example=f"{name}=1")


def _moment(name: str, value: str) -> int:
    try:
        return read_moment(value, UTC)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"{name}: {error}; a time without a zone is in UTC, and '+' is written as %2B in a URL"
        ) from None


def _text(name: str, value: str) -> str:
    if value:
        return value
    raise InvalidArgumentError(f"{name} has no value: give it one, or leave it out")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value in choices:
        return value
    raise _refuse(name, value, accepted=f"one of {', '.join(choices)}", example=f"{name}={choices[0]}")


def _check_together(query: LogQuery) -> None:
    if query.tail is not None and query.cursor is not None:
        raise InvalidArgumentError("tail and cursor exclude each other: both select the first line; leave one out")
    if query.tail is not None and query.max_lines:
        raise InvalidArgumentError("tail and max_lines exclude each other: select either the last or the first lines")
    if query.start_ms and query.end_ms and query.start_ms > query.end_ms:
        raise InvalidArgumentError("since must be earlier than until: exchange the two times, or leave one out")
    if query.follow and query.end_ms:
        raise InvalidArgumentError(
            "follow and until exclude each other, because follow=1 reads until the tasks have ended: leave one out"
        )
