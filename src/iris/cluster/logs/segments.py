"""How an attempt's log lies on disk: a directory of segments, and a word about its end.

A segment is a file of whole records (iris.cluster.logs.records). Its name carries where it begins, so a reader finds
the one it needs in the listing, and knows how much is missing where one is damaged or gone:

    {position}-{line}-{stdout}-{stderr}-{build}      all hexadecimal; the position has 16 digits

`end` is written when the log is closed; a log without it was not closed: its writer was killed. Of a log that was
removed `end` stays, and says so. `written` lies beside what a worker hands over, until it has handed over all. `away`
says that not all of a log that a controller keeps is here, the rest is elsewhere, and only the controller can fetch it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.records import BEGINNING, Offsets
from iris.system.files import write_file

_SEGMENT_NAME = re.compile(r"([0-9a-f]{16,})" + r"-([0-9a-f]+)" * 4)
END = "end"  # the name of the file
AWAY = "away"
_WRITTEN = "written"


class RecordBoundary(NamedTuple):
    """A place between two records of a log.

    Attributes:
        position: Bytes of all records before it, frames included.
        line: How many lines end before it.
        offsets: How much of each source lies before it.
    """

    position: int
    line: int
    offsets: Offsets

    @property
    def segment_name(self) -> str:
        """The file name of a segment that begins here."""
        return f"{self.position:016x}-{self.line:x}-" + "-".join(f"{offset:x}" for offset in self.offsets)


ORIGIN = RecordBoundary(0, 0, BEGINNING)


def list_segments(directory: Path) -> tuple[RecordBoundary, ...]:
    """Where the segments of a log begin, in order; none where there is no such directory."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    places = []
    for match in filter(None, map(_SEGMENT_NAME.fullmatch, names)):
        position, line, stdout, stderr, build = (int(number, 16) for number in match.groups())
        places.append(RecordBoundary(position, line, (stdout, stderr, build)))
    return tuple(sorted(places))


class LogEnd(NamedTuple):
    """What a closed log says of itself.

    Attributes:
        bytes_written: By each source, what is missing included.
        bytes_missing: Of these: what the disk did not take, and what was dropped.
        max_bytes: The limit above which the oldest was dropped.
        removed: Why its segments are gone; empty while they are kept.
        truncated: It was removed, and had no end before: its writer was killed.
        lost: Why its oldest segments are gone although others are kept; empty: they were dropped for `max_bytes`.
    """

    bytes_written: Offsets
    bytes_missing: int
    max_bytes: int
    removed: str = ""
    truncated: bool = False
    lost: str = ""


def write_end(directory: Path, end: LogEnd) -> None:
    """Says that the log is complete.

    Raises:
        OSError: It cannot be written.
    """
    write_file(directory / END, encode_end(end))


def encode_end(end: LogEnd) -> bytes:
    """The content of its file."""
    return json.dumps(end._asdict()).encode()


def read_end(directory: Path) -> LogEnd | None:
    """The end of a closed log; None when it has none that can be read."""
    try:
        return parse_end((directory / END).read_bytes())
    except (OSError, ValueError):
        return None


def parse_end(text: bytes) -> LogEnd:
    """What `write_end` has written.

    Raises:
        ValueError: It has not written this.
    """
    try:
        fields = json.loads(text)
        written = _offsets(fields["bytes_written"])
        removed, truncated = str(fields.get("removed", "")), bool(fields.get("truncated"))
        missing, most = _number(fields["bytes_missing"]), _number(fields["max_bytes"])
        return LogEnd(written, missing, most, removed, truncated, str(fields.get("lost", "")))
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not the end of a log: {text[:100]!r}") from error


def has_end(directory: Path) -> bool:
    """Whether the log is closed."""
    return (directory / END).exists()


def is_file_name(name: str) -> bool:
    """Whether a file of this name can belong to a log."""
    return name in (_WRITTEN, END) or _SEGMENT_NAME.fullmatch(name) is not None


def list_files(directory: Path) -> list[Path]:
    """The files that make up a log, its end last."""
    segments = [directory / place.segment_name for place in list_segments(directory)]
    return segments + [path for name in (_WRITTEN, END) if (path := directory / name).exists()]


def write_written(directory: Path, written: Offsets) -> None:
    """Notes how much an attempt has written whose log is still being handed over.

    Raises:
        OSError: It cannot be written.
    """
    (directory / _WRITTEN).write_text(json.dumps(written))


def read_written(directory: Path) -> Offsets:
    """How much an attempt had written when that was noted last, by source; nothing where it was not."""
    try:
        return _offsets(json.loads((directory / _WRITTEN).read_bytes()))
    except (OSError, ValueError, TypeError):
        return BEGINNING


def remove_written(directory: Path) -> None:
    """Takes the note away: the end of the log says it now."""
    (directory / _WRITTEN).unlink(missing_ok=True)


def _offsets(numbers: Iterable[object]) -> Offsets:
    stdout, stderr, build = map(_number, numbers)
    return stdout, stderr, build


def _number(value: object) -> int:
    number = int(value)  # type: ignore[call-overload]
    if not 0 <= number < 2**63:
        raise ValueError(f"not a number of bytes: {value}")
    return int(number)
