"""Removes the files of logs, and writes the reason of the removal for the readers of the logs.

All functions block on the disk, so they run in threads.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path

from iris.cluster.controller.logs.folding import STORED, FoldedLogs
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.segments import (
    AWAY,
    LogEnd,
    list_segment_files,
    list_segments,
    read_end,
    remove_written,
    write_end,
)

_READ_BYTES = 1 << 20


def remove_log(path: Path, reason: str, end: LogEnd | None = None) -> None:
    """Remove the segments of a log, and write the reason into the log's file `end`.

    The reason of the removal is written before the segments are removed, so that a reader always finds either the
    segments or the reason.

    Args:
        path: The directory of the log; created if it is missing.
        reason: Why the log is removed, as text for its readers.
        end: The end of the log from the log location, if this machine does not have it.

    Raises:
        OSError: A file cannot be written or removed.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_end(path, end_of_removed(path, reason, end))
    (path / STORED).touch()
    (path / AWAY).unlink(missing_ok=True)
    remove_segments(path)
    remove_written(path)


def mark_removed(folded: FoldedLogs, paths: Collection[Path], reason: str) -> None:
    """Write the reason into the ends of logs that are neither on this machine nor at the log location any more.

    Args:
        folded: The database that stores the folded logs.
        paths: The directories of the logs. A log may be folded.
        reason: Why the logs are gone, as text for their readers.

    Raises:
        OSError: A file or the database cannot be written.
    """
    ends: list[tuple[Path, LogEnd | None]] = []
    for path in paths:
        if path.exists():
            remove_log(path, reason)
        else:
            ends.append((path, end_of_removed(path, reason, None)))
    folded.remove_contents(ends)


def end_of_removed(path: Path, reason: str, end: LogEnd | None) -> LogEnd:
    """Return the content of the file `end` of a log that is being removed: the end of the log, with the reason of the
    removal. A log that was already removed keeps its reason.

    Args:
        path: The directory of the log.
        reason: Why the log is removed, as text for its readers.
        end: The end of the log from the log location, if this machine does not have it.
    """
    end = read_end(path) or end or _end_of_unclosed(path)
    return end if end.removed else end._replace(bytes_missing=sum(end.bytes_written), removed=reason)


def remove_segments(path: Path) -> None:
    """Remove the segments of a log from this machine."""
    for name in list_segment_files(path):
        (path / name).unlink(missing_ok=True)


def remove_unknown(path: Path) -> None:
    """Remove the directory of a log whose attempt is unknown."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _end_of_unclosed(path: Path) -> LogEnd:
    """Return the content that the missing file `end` of a log must have. The size of the log is found by reading the
    last segment.
    """
    segments = list_segments(path)
    last = segments[-1] if segments else None
    with LogReader(path, last.offsets, position=last.position) if last else LogReader(path) as reader:
        while reader.read(_READ_BYTES, final=True):
            pass
        return LogEnd(reader.written or reader.offsets, 0, 0, truncated=True)
