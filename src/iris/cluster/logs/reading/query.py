"""The filters with which readers select lines of a log. Each filter means the same for streams and for pages.

`start_ms` is exclusive, and `end_ms` is inclusive. `max_lines` keeps the first N lines that pass the other filters.
`tail` keeps the last N of the lines that exist when the reader begins. A gap passes every filter if its source is
selected and the reader reaches its place.
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

# The largest number of characters in a pattern.
MAX_PATTERN = 10_000
# `_KNOWS_ENDS` finds the parts of an RE2 pattern that match the ends of the text or any byte, or that change the
# meaning of `^` and `$`.
_KNOWS_ENDS = re.compile(r"\\[AzC]|\(\?[A-Za-z]*-")


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Selects lines of a log.

    Attributes:
        start_ms: Select only lines later than this time; 0 selects all.
        end_ms: Select only lines up to this time; 0 selects all.
        regex: An RE2 pattern that is searched in the text of each line. Bytes that are not valid UTF-8 become U+FFFD.
            "" selects all.
        sources: Select only lines of these sources; an empty sequence selects all.
        tail: Select only the last N lines that pass the other filters; 0 selects all.
        max_lines: Select only the first N lines that pass the other filters; 0 selects all.
        source_ids: The selected sources, by their numbers in records.

    Raises:
        InvalidArgumentError: A value of the filter is invalid, or both `tail` and `max_lines` are given.
        ResourceExhaustedError: The pattern has more than `MAX_PATTERN` characters.
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
                f"tail and max_lines are mutually exclusive, got tail={self.tail} and max_lines={self.max_lines}"
            )
        for source in self.sources:
            if source not in SOURCE_ID:
                raise InvalidArgumentError(f"sources must contain only {', '.join(SOURCES)}, got {quoted(source)}")
        source_ids = frozenset(SOURCE_ID[source] for source in self.sources or SOURCES)
        object.__setattr__(self, "source_ids", source_ids)
        object.__setattr__(self, "_pattern", _Pattern(self.regex) if self.regex else None)

    @property
    def is_open(self) -> bool:
        """Whether the filter selects the whole log."""
        return not (self.has_line_limits or self.start_ms or self.end_ms) and len(self.source_ids) == len(SOURCES)

    @property
    def is_by_source(self) -> bool:
        """Whether the filter selects lines only by their source."""
        return not (self.has_line_limits or self.start_ms or self.end_ms)

    @property
    def has_line_limits(self) -> bool:
        """Whether the filter selects single lines, by their text or their number. Such a filter cannot pass whole
        records."""
        return bool(self.regex or self.tail or self.max_lines)

    def selects(self, block: LineBlock) -> bool:
        """Return whether the source and the time of a block allow the filter to select a line of the block."""
        return (
            block.source_id in self.source_ids
            and (self.start_ms == 0 or block.timestamp_ms > self.start_ms)
            and (self.end_ms == 0 or block.timestamp_ms <= self.end_ms)
        )

    def matching(self, block: LineBlock) -> Iterator[tuple[int, int, int]]:
        """Yield three values for each matching line of a block: its number, the index of its first byte, and the index
        after its newline."""
        data, number, before = block.data, block.number, 0
        for start, end in _spans(data) if self._pattern is None else self._pattern.spans(data):
            number += data.count(b"\n", before, start)
            before = start
            yield number, start, end

    def may_match(self, blocks: Sequence[LineBlock]) -> bool:
        """Return whether one of the blocks may contain a matching line. For blocks without a match, this method is
        faster than `matching`.
        """
        return self._pattern is None or self._pattern.may_be_in([block.data for block in blocks])

    def count(self, block: LineBlock) -> int:
        """Return how many lines of a block `matching` yields."""
        if self._pattern is None:
            return block.data.count(b"\n") + (not block.data.endswith(b"\n"))
        return sum(1 for _ in self._pattern.spans(block.data))


EVERYTHING = LogFilter()


def parse_filter(message: cluster_pb2.Worker.FetchLogsFilter) -> LogFilter:
    """Return the log filter that a message describes. The message's `start_line` is ignored.

    Raises:
        InvalidArgumentError: A value of the filter is invalid; see `LogFilter`.
        ResourceExhaustedError: The pattern has more than `MAX_PATTERN` characters.
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
    """An RE2 pattern that is searched in lines.

    The pattern is searched in the decoded text of a line, because RE2 cannot search arbitrary bytes. In RE2's UTF-8
    mode, not even `.` matches a byte that is not valid UTF-8. In RE2's Latin-1 mode, `é` in a class or with (?i) has
    another meaning.

    Most lines do not match, and searching a whole block of lines is faster than searching each line. Therefore a whole
    block is searched if the result is the same. This holds if `^` and `$` match the ends of lines, and no part of the
    pattern matches a newline.
    """

    def __init__(self, regex: str) -> None:
        if len(regex) > MAX_PATTERN:
            raise ResourceExhaustedError(
                f"the pattern must have at most {MAX_PATTERN:,} characters, got {len(regex):,}"
            )
        import re2  # Importing re2 takes milliseconds, so re2 is imported only when a filter has a pattern.

        options = re2.Options()
        # The caller gets the error, so RE2 must not write the error to the worker's stderr.
        options.log_errors = False
        # RE2 need not find groups, because only the existence of a match matters.
        options.never_capture = True
        try:
            self._of_line = re2.compile(regex, options)
            options.never_nl = True
            self._of_block = None if _KNOWS_ENDS.search(regex) else re2.compile(f"(?m){regex}", options)
        except re2.error as error:
            reason = error.args[0]
            reason = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
            # RE2 may repeat the whole pattern at the end of its reason. Therefore only the first 200 characters of the
            # reason are shown.
            raise InvalidArgumentError(
                f"the pattern {quoted(regex)} is invalid: {reason[:200]} (expected RE2 syntax)"
            ) from None

    def may_be_in(self, blocks: Sequence[bytes]) -> bool:
        """Return whether one of the texts may contain a line that matches the pattern."""
        data = b"".join([block if block.endswith(b"\n") else block + b"\n" for block in blocks])
        return self._of_block is None or not _is_text(data) or next(self.spans(data), None) is not None

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the beginning and the end of each line that matches the pattern."""
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
