"""Defines the database into which the controller moves the small logs of ended attempts, and opens it for readers.

The database lies beside the directories of the logs, in the root directory of all kept logs. Each folded log is one row
of `logs`, and each of its segments is one row of `segments`. A segment keeps the name and the bytes of its file, so
cursors stay valid.

Columns of `logs`:

    task, attempt  the name of the log's directory, as `iris.cluster.logs.directories` makes it
    stored_as      the name of the log at the log location
    ended_ms       when the attempt ended, in milliseconds since the epoch
    size           how many bytes the segments have
    stored         whether the whole log is at the log location
    away           whether only the log location has the segments
    end, written   the content of the files with these names; NULL without the file
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from iris.errors import UnavailableError

SCHEMA = """
CREATE TABLE IF NOT EXISTS logs (
    task TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    stored_as TEXT NOT NULL,
    ended_ms INTEGER NOT NULL,
    size INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    away INTEGER NOT NULL,
    end BLOB,
    written BLOB,
    PRIMARY KEY (task, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS logs_with_bytes ON logs (ended_ms) WHERE size > 0 OR away;
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    name TEXT NOT NULL,
    data BLOB NOT NULL,
    FOREIGN KEY (task, attempt) REFERENCES logs (task, attempt) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS segments_by_name ON segments (task, attempt, name);
"""
_MOST_OPEN = 4  # The largest number of databases that this process keeps open for readers.
_TIMEOUT_S = 10.0
T = TypeVar("T")


@contextmanager
def reported_as_os_error(path: Path) -> Iterator[None]:
    """Convert errors of SQLite to `UnavailableError`, which is an `OSError`. The error may pass, for example if this
    process has too many open files. Therefore a reader of a log must try again.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise UnavailableError(f"the database of folded logs {path} cannot be used: {error}") from error


class Databases:
    """The databases of folded logs that one process has opened to read logs. Threads may share an instance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The open connections, by the path of the database, each with the identity of the database file. The connection
        # that was used last is at the end.
        self._open: OrderedDict[Path, tuple[tuple[int, int], sqlite3.Connection]] = OrderedDict()
        self._process_id = os.getpid()
        # In a forked process, the connections of the parent process. This process must neither use nor close these
        # connections.
        self._of_parent: OrderedDict[Path, tuple[tuple[int, int], sqlite3.Connection]] | None = None

    def read(self, path: Path, reading: Callable[[sqlite3.Connection], T]) -> T | None:
        """Call `reading` with a connection to a database, and return the result of the call. Return None if there is no
        database.

        Raises:
            OSError: The database cannot be read.
        """
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        with self._lock, reported_as_os_error(path):
            return reading(self._connection(path, (status.st_dev, status.st_ino)))

    def _connection(self, path: Path, identity: tuple[int, int]) -> sqlite3.Connection:
        if self._process_id != os.getpid():
            # SQLite forbids the use of a connection after a fork. The old connections must not be closed here, either.
            self._of_parent = self._open
            self._open, self._process_id = OrderedDict(), os.getpid()
        opened = self._open.pop(path, None)
        if opened is not None and opened[0] != identity:
            opened[1].close()
            opened = None
        if opened is None:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, check_same_thread=False, timeout=_TIMEOUT_S
            )
            connection.execute("PRAGMA query_only=1")
            opened = identity, connection
        self._open[path] = opened
        while len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1][1].close()
        return opened[1]
