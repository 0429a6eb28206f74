"""Finds the content of a folded log by the directory in which the log was written.

All functions block on the disk. They return nothing if the log is not folded, so a caller tries the files of a log
first, and this module afterwards. The controller saves a folded log before it removes the files. Therefore a caller
that does not find the files any more finds the folded log.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from iris.cluster.logs.folded.database_name import DATABASE_NAME

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from iris.cluster.logs.folded.database import Databases

T = TypeVar("T")
_SEGMENT = "SELECT id, length(data) FROM segments WHERE task=? AND attempt=? AND name=?"


class FoldedLog(NamedTuple):
    """The row of a log in the database of small ended logs.

    Attributes:
        size: The size of all segments of the log in bytes.
        stored: Whether the log location has the whole log.
        away: Whether only the log location has the segments.
        end: The content of the file `end`; None without that file.
        written: The content of the file `written`; None without that file.
    """

    size: int
    stored: bool
    away: bool
    end: bytes | None
    written: bytes | None


def find_folded(directory: Path) -> FoldedLog | None:
    """Return the row of a log in the database of small ended logs. Return None if the log is not there.

    Raises:
        OSError: The database cannot be read.
    """

    def find(database: sqlite3.Connection) -> FoldedLog | None:
        row = database.execute(
            "SELECT size, stored, away, end, written FROM logs WHERE task=? AND attempt=?",
            (directory.parent.name, int(directory.name)),
        ).fetchone()
        return None if row is None else FoldedLog(row[0], bool(row[1]), bool(row[2]), row[3], row[4])

    return _read(directory, find)


def folded_segments(directory: Path) -> list[tuple[str, int]]:
    """Return the name and the size of each segment of a log in the database of small ended logs.

    Raises:
        OSError: The database cannot be read.
    """
    return (
        _read(
            directory,
            lambda database: database.execute(
                "SELECT name, length(data) FROM segments WHERE task=? AND attempt=?",
                (directory.parent.name, int(directory.name)),
            ).fetchall(),
        )
        or []
    )


def folded_tasks(directories: Sequence[Path]) -> list[str]:
    """Return the names of the tasks' directories whose logs were moved into the database of small ended logs.

    Args:
        directories: The directories of tasks, all below the same root.

    Raises:
        OSError: The database cannot be read.
    """

    def find(database: sqlite3.Connection) -> list[str]:
        statement = "SELECT 1 FROM logs WHERE task=? LIMIT 1"
        names = [directory.name for directory in directories]
        return [name for name in names if database.execute(statement, (name,)).fetchone() is not None]

    path = directories[0].parent / DATABASE_NAME
    return (_databases().read(path, find) if path.exists() else None) or []


class FoldedSegment:
    """A segment of a log in the database of small ended logs.

    Args:
        directory: The directory in which the log was written.
        name: The name of the segment's file.

    Attributes:
        size: The size of the segment in bytes.

    Raises:
        FileNotFoundError: The log is not folded, or has no such segment.
        OSError: The database cannot be read.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = directory.parent.name, int(directory.name) if directory.name.isdigit() else -1, name
        row = _read(directory, self._find)
        if row is None:
            raise FileNotFoundError(str(directory / name))
        self.size = row[1]

    def read(self, size: int, at: int) -> bytes:
        """Return at most `size` bytes of the segment, from the byte `at` on. Return no bytes if the segment was removed
        meanwhile.

        Raises:
            OSError: The database cannot be read.
        """

        def read(database: sqlite3.Connection) -> bytes:
            # The row is found again for each read, because another row may have got the number of a removed row.
            row = self._find(database)
            if row is None:
                return b""
            with database.blobopen("segments", "data", row[0], readonly=True) as blob:
                blob.seek(min(at, len(blob)))
                return blob.read(max(size, 0))

        return _read(self._directory, read) or b""

    def _find(self, database: sqlite3.Connection) -> tuple[int, int] | None:
        row: tuple[int, int] | None = database.execute(_SEGMENT, self._key).fetchone()
        return row


def _read(directory: Path, reading: Callable[[sqlite3.Connection], T]) -> T | None:
    if not directory.name.isdigit():
        # A worker that uploads its logs has no database. Only the directories of the controller have a database.
        return None
    path = directory.parent.parent / DATABASE_NAME
    return _databases().read(path, reading) if path.exists() else None


@functools.cache
def _databases() -> Databases:
    # SQLite is loaded only for a folded log, because a worker without folded logs starts faster without SQLite.
    from iris.cluster.logs.folded.database import Databases

    return Databases()
