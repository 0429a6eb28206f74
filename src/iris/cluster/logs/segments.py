"""The files of one attempt's log: a directory of segments, and a file that describes the end of the log.

A segment is a file of whole records (iris.cluster.logs.records). The name of a segment states where the segment begins,
so a reader finds the right segment in the listing, and knows how much is missing if a segment is damaged or gone:
        {position}-{line}-{stdout}-{stderr}-{build}      all hexadecimal; the position has 16 digits

The writer of a segment has not counted the lines before the segment, because counting would take longer than writing.
Therefore `line` is equal to `position` (see `RecordBoundary`). Segments of earlier releases contain counted lines.

The other files are:
* `end` is written when the log is closed. A log without this file was not closed, because its writer was killed. If the
  segments of a log are removed, `end` stays and states the reason.
* `written` notes how much an attempt has written, while the worker is still uploading its log.
* `away` marks a log of the controller that lies partly at another location. Only the controller can fetch that part.

The controller moves small logs of ended attempts from their files into a database (iris.cluster.logs.folded). The
functions of this module that read a log look into the database if they do not find a file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.folded.reading import find_folded, folded_segments
from iris.cluster.logs.records import BEGINNING, Offsets
from iris.errors import UnavailableError
from iris.system.files import write_file

_SEGMENT_NAME = re.compile(r"([0-9a-f]{16,})" + r"-([0-9a-f]+)" * 4)
END = "end"  # The name of the file that describes the end of a log.
AWAY = "away"
WRITTEN = "written"


class RecordBoundary(NamedTuple):
    """A place between two records of a log.

    Attributes:
        position: How many bytes of records, headers included, come before this place.
        line: The number of lines that end before this place, if the lines were counted. Otherwise the same value as
            `position`. A log has fewer lines than bytes of records, so the two cases can be told apart. Both values
            grow along the log. Therefore a reader that needs only the order of lines can use either value.
        offsets: How many bytes of each source come before this place.
    """

    position: int
    line: int
    offsets: Offsets

    @property
    def segment_name(self) -> str:
        """The file name of the segment that begins at this place."""
        return f"{self.position:016x}-{self.line:x}-" + "-".join(f"{offset:x}" for offset in self.offsets)


ORIGIN = RecordBoundary(0, 0, BEGINNING)


def unreadable_now(error: OSError) -> UnavailableError:
    """Return the error for the reader of a log if the operating system cannot open or read a file of the log now. For
    example, this process has too many open files. The log is not damaged, so the reader must try again.
    """
    return UnavailableError(f"the log cannot be read now: {error.strerror or error}")


def list_segments(directory: Path) -> tuple[RecordBoundary, ...]:
    """Return the place at which each segment of a log begins, in order. The list is empty if there is no such log.

    Raises:
        UnavailableError: The directory of the log, or the database of folded logs, cannot be read now.
    """
    return _parse_names(list_segment_files(directory)) or _parse_names(name for name, _ in folded_segments(directory))


def list_segment_files(directory: Path) -> list[str]:
    """Return the names of the segments that are files. The list is empty if the directory is missing.

    Raises:
        UnavailableError: The directory cannot be read now.
    """
    try:
        return list(filter(_SEGMENT_NAME.fullmatch, os.listdir(directory)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable_now(error) from error


def segment_size(directory: Path, place: RecordBoundary) -> int:
    """Return how many bytes a segment has now; 0 if the segment is missing."""
    try:
        return (directory / place.segment_name).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return dict(folded_segments(directory)).get(place.segment_name, 0)


def _parse_names(names: Iterable[str]) -> tuple[RecordBoundary, ...]:
    places = []
    for match in filter(None, map(_SEGMENT_NAME.fullmatch, names)):
        position, line, stdout, stderr, build = (int(number, 16) for number in match.groups())
        places.append(RecordBoundary(position, line, (stdout, stderr, build)))
    return tuple(sorted(places))


class LogEnd(NamedTuple):
    """The summary of a closed log.

    Attributes:
        bytes_written: How many bytes each source has written, missing bytes included.
        bytes_missing: How many bytes of the sources were dropped, or not accepted by the disk.
        max_bytes: The size limit, above which the oldest segments were dropped.
        removed: Why all segments were removed; empty while they are kept.
        truncated: Whether the writer of the log was killed, so that it wrote no file `end`. The file `end` was then
            written when the log was removed.
        lost: Why the oldest segments are missing although later ones are kept; empty if they were dropped because of
            `max_bytes`.
    """

    bytes_written: Offsets
    bytes_missing: int
    max_bytes: int
    removed: str = ""
    truncated: bool = False
    lost: str = ""


def write_end(directory: Path, end: LogEnd) -> None:
    """Write the file `end` of a log, which marks the log as complete.

    Raises:
        OSError: The file cannot be written.
    """
    write_file(directory / END, encode_end(end))


def encode_end(end: LogEnd) -> bytes:
    """Return the content of the file `end`."""
    return json.dumps(end._asdict()).encode()


def read_end(directory: Path) -> LogEnd | None:
    """Return the end of a closed log; None if the end is missing or damaged.

    Raises:
        UnavailableError: The end cannot be read now. A reader must not conclude that the end is missing.
    """
    text = _read_file(directory, END)
    try:
        return None if text is None else parse_end(text)
    except ValueError:
        return None


def parse_end(text: bytes) -> LogEnd:
    """Parse the content of the file `end`.

    Raises:
        ValueError: The text is not the content of a file `end`.
    """
    try:
        fields = json.loads(text)
        written = _offsets(fields["bytes_written"])
        removed, truncated = str(fields.get("removed", "")), bool(fields.get("truncated"))
        missing, most = _number(fields["bytes_missing"]), _number(fields["max_bytes"])
        return LogEnd(written, missing, most, removed, truncated, str(fields.get("lost", "")))
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the text does not describe the end of a log: {text[:100]!r}") from error


def has_end(directory: Path) -> bool:
    """Return whether the log is closed."""
    if (directory / END).exists():
        return True
    try:
        folded = find_folded(directory)
    except OSError:
        return False  # The error is ignored here, because the next read of the log raises the same error.
    return folded is not None and folded.end is not None


def has_log(directory: Path) -> bool:
    """Return whether a log exists, as files or as a folded log.

    Raises:
        OSError: The database of folded logs cannot be read.
    """
    return directory.exists() or find_folded(directory) is not None


def is_away(directory: Path) -> bool:
    """Return whether a part of the log is only at another location. Only the controller can fetch that part.

    Raises:
        OSError: The database of folded logs cannot be read.
    """
    if (directory / AWAY).exists():
        return True
    if (directory / END).exists():
        # The controller has fetched the log back from the log location, so the files of the log replace the folded log.
        return False
    folded = find_folded(directory)
    return folded is not None and folded.away


def is_file_name(name: str) -> bool:
    """Return whether a log may contain a file with this name."""
    return name in (WRITTEN, END) or _SEGMENT_NAME.fullmatch(name) is not None


def list_files(directory: Path) -> list[Path]:
    """Return the paths of a log's files. The file `end` is the last one. A folded log has no files."""
    segments = [directory / name for name in sorted(list_segment_files(directory))]
    return segments + [path for name in (WRITTEN, END) if (path := directory / name).exists()]


def write_written(directory: Path, written: Offsets) -> None:
    """Write into the file `written` how much an attempt has written, while the attempt's log is being uploaded.

    Raises:
        OSError: The file cannot be written.
    """
    (directory / WRITTEN).write_text(json.dumps(written))


def read_written(directory: Path) -> Offsets:
    """Return how many bytes each source has written, from the file `written`; zeros if the file is missing or
    invalid.

    Raises:
        UnavailableError: The file cannot be read now.
    """
    text = _read_file(directory, WRITTEN) or b""
    try:
        return _offsets(json.loads(text))
    except (ValueError, TypeError):
        return BEGINNING


def remove_written(directory: Path) -> None:
    """Remove the file `written`, because the file `end` now contains the same information."""
    (directory / WRITTEN).unlink(missing_ok=True)


def _read_file(directory: Path, name: str) -> bytes | None:
    """Return the content of the file `end` or `written`, from the disk or from the folded log."""
    try:
        return (directory / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        folded = find_folded(directory)
    except IsADirectoryError:
        return b""  # The file is damaged: another program has put a directory in its place.
    except OSError as error:
        raise unreadable_now(error) from error
    if folded is None:
        return None
    return folded.end if name == END else folded.written


def _offsets(numbers: Iterable[object]) -> Offsets:
    stdout, stderr, build = map(_number, numbers)
    return stdout, stderr, build


def _number(value: object) -> int:
    number = int(value)  # type: ignore[call-overload]
    if not 0 <= number < 2**63:
        raise ValueError(f"the number of bytes must be a whole number of 0 or greater, got {value}")
    return int(number)
