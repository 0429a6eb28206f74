"""What a reader wants of a log: one meaning for streams and pages.

`start_ms` is exclusive, `end_ms` inclusive; `max_lines` keeps the first N that pass the other filters, `tail` the last
N of what is there when reading begins. What is missing is told whatever the filter, if its source is wanted and reading
comes through that place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from iris.arguments import MAX_INT32, MAX_INT64, check_whole_number
from iris.cluster.logs.reading.line_index import LineBlock
from iris.cluster.logs.records import SOURCE_ID, SOURCES
from iris.errors import InvalidArgumentError, ResourceExhaustedError, quoted
from iris.rpc import cluster_pb2

MAX_PATTERN = 10_000  # characters
# What means the ends of the text, or any byte, or switches off that `^` and `$` are those of lines.
_KNOWS_ENDS = re.compile(r"\\[AzC]|\(\?[A-Za-z]*-")


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines of a log are wanted.

    Attributes:
        start_ms: Only lines later than this; 0 = all.
        end_ms: Only lines not later than this; 0 = all.
        regex: RE2, searched in the line as UTF-8 text, in which bytes that are none are U+FFFD; "" = all.
        sources: Only lines of these; none = all.
        tail: The last so many lines that pass the others; 0 = all.
        max_lines: The first so many lines that pass the others; 0 = all.
        source_ids: The wanted sources, as records have them.

    Raises:
        InvalidArgumentError: One of them is none of these, or there are both `tail` and `max_lines`.
    """

    start_ms: int = 0
    end_ms: int = 0
    regex: str = ""
    sources: tuple[str, ...] = ()
    tail: int = 0
    max_lines: int = 0
    source_ids: frozenset[int] = field(init=False, repr=False, compare=False)
    _pattern: _Pattern | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("start_ms", "end_ms", "tail", "max_lines"):
            check_whole_number(name, getattr(self, name), most=MAX_INT64 if name.endswith("_ms") else MAX_INT32)
        if self.tail and self.max_lines:
            raise InvalidArgumentError(
                f"tail={self.tail}, max_lines={self.max_lines}: expected one of them, the last lines or the first ones"
            )
        for source in self.sources:
            if source not in SOURCE_ID:
                raise InvalidArgumentError(f"sources={quoted(source)}: expected {', '.join(SOURCES)}")
        source_ids = frozenset(SOURCE_ID[source] for source in self.sources or SOURCES)
        object.__setattr__(self, "source_ids", source_ids)
        object.__setattr__(self, "_pattern", _Pattern(self.regex) if self.regex else None)

    @property
    def is_open(self) -> bool:
        """Whether all of a log passes."""
        return not (self.has_line_limits or self.start_ms or self.end_ms) and len(self.source_ids) == len(SOURCES)

    @property
    def is_by_source(self) -> bool:
        """Whether nothing else counts than the source."""
        return not (self.has_line_limits or self.start_ms or self.end_ms)

    @property
    def has_line_limits(self) -> bool:
        """Whether lines have to be looked at one by one, or counted."""
        return bool(self.regex or self.tail or self.max_lines)

    def wants(self, block: LineBlock) -> bool:
        """Whether lines of that source and time are wanted."""
        return (
            block.source_id in self.source_ids
            and (self.start_ms == 0 or block.timestamp_ms > self.start_ms)
            and (self.end_ms == 0 or block.timestamp_ms <= self.end_ms)
        )

    def matching(self, block: LineBlock) -> Iterator[tuple[int, int, int]]:
        """The lines of a block in which the pattern is found: number, and from where to where, newline included."""
        data, number, before = block.data, block.number, 0
        for start, end in _spans(data) if self._pattern is None else self._pattern.spans(data):
            number += data.count(b"\n", before, start)
            before = start
            yield number, start, end

    def may_match(self, blocks: Sequence[LineBlock]) -> bool:
        """Whether one of the blocks may have lines that match; to ask this first is cheaper where none has."""
        return self._pattern is None or self._pattern.may_be_in([block.data for block in blocks])

    def count(self, block: LineBlock) -> int:
        """How many lines of a block `matching` gives."""
        if self._pattern is None:
            return block.data.count(b"\n") + (not block.data.endswith(b"\n"))
        return sum(1 for _ in self._pattern.spans(block.data))


EVERYTHING = LogFilter()


def parse_filter(message: cluster_pb2.Worker.FetchLogsFilter) -> LogFilter:
    """The filter of a message; its `start_line` is not looked at.

    Raises:
        InvalidArgumentError: See `LogFilter`.
    """
    return LogFilter(
        start_ms=message.start_ms,
        end_ms=message.end_ms,
        regex=message.regex,
        sources=tuple(message.sources),
        tail=message.tail,
        max_lines=message.max_lines,
    )


class _Pattern:
    """An RE2 that is searched in lines.

    A line is searched as the text that a reader sees: in RE2's UTF-8 mode nothing matches a byte that is no UTF-8, not
    even `.`; in its Latin-1 mode `é` in a class or with (?i) means something else.

    Lines in which nothing is found are many, and to search each one costs more than to search all of them at once. So
    a block is searched as a whole where that finds the same: `^` and `$` are at the ends of lines, and nothing matches
    a newline.
    """

    def __init__(self, regex: str) -> None:
        if len(regex) > MAX_PATTERN:
            raise ResourceExhaustedError(
                f"the pattern is too long: {len(regex):,} characters, over the limit of {MAX_PATTERN:,}"
            )
        import re2  # not needed before somebody gives a pattern, and it costs milliseconds of each worker's start

        options = re2.Options()
        options.log_errors = False  # the caller is told; RE2 would also write to the worker's stderr
        options.never_capture = True  # only whether it matches is asked
        try:
            self._of_line = re2.compile(regex, options)
            options.never_nl = True
            self._of_block = None if _KNOWS_ENDS.search(regex) else re2.compile(f"(?m){regex}", options)
        except re2.error as error:
            reason = error.args[0]
            reason = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
            # The reason may end with all of the pattern.
            raise InvalidArgumentError(
                f"not a pattern: {quoted(regex)}: {reason[:200]} (expected RE2 syntax)"
            ) from None

    def may_be_in(self, blocks: Sequence[bytes]) -> bool:
        """Whether one of them may have a line in which it is found."""
        data = b"".join([block if block.endswith(b"\n") else block + b"\n" for block in blocks])
        return self._of_block is None or not _is_text(data) or next(self.spans(data), None) is not None

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where the lines are in which it is found."""
        if self._of_block is None or not _is_text(data):
            for start, end in _spans(data):
                if self._of_line.search(data[start:end].removesuffix(b"\n").decode(errors="replace").encode()):
                    yield start, end
            return
        at, size = 0, len(data)
        stop = size - data.endswith(b"\n")
        while at <= stop and at < size:
            found = self._of_block.search(data, at, stop)
            if found is None:
                return
            start = data.rfind(b"\n", at, found.start()) + 1 or at
            at = data.find(b"\n", found.start()) + 1 or size
            yield start, at


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    start, size = 0, len(data)
    while start < size:
        end = data.find(b"\n", start) + 1 or size
        yield start, end
        start = end


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
