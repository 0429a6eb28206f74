"""Opens the database of a controller: one connection that writes, and other connections that read at the same time.

In the usual mode, SQLite's write-ahead log lets other connections read while the first connection writes. Each reading
thread uses a connection of its own, so a long write delays no reader. Two kinds of databases have only one connection,
which all threads use in turn: a database in memory, and a database on a file system without shared memory, for example
some network file systems.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iris.errors import FailedPreconditionError, ResourceExhaustedError
from iris.system.locks import try_lock

# At most this many unused connections are kept open for the next readers.
_MAX_SPARE = 4
# How long a reader waits for the lock of the file, in seconds. Locks last for milliseconds.
_BUSY_S = 5.0


class Connections:
    """The connections to one database.

    The object locks a separate file next to the database, so that only one controller uses the database. The lock of
    the database itself does not serve this purpose, because it would exclude the reading connections of this process.

    Args:
        path: The file, which is created if it is missing; None keeps the database in memory.

    Attributes:
        name: The name of the database in error texts.
        writer: The connection that writes. Only one thread at a time may use this connection.

    Raises:
        FailedPreconditionError: Another controller uses the same database file.
        ResourceExhaustedError: The file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.name = "memory" if path is None else str(path)
        self._path = path
        self._lock: int | None = None
        self._is_closed = False
        # The lock with which threads take turns with the only connection, or None if each reading thread has its own
        # connection.
        self._turn: threading.RLock | None = threading.RLock() if path is None else None
        self._spare: list[sqlite3.Connection] = []
        self._in_use: set[sqlite3.Connection] = set()
        self._guard = threading.Lock()
        try:
            if path is not None:
                self._lock_file(path)
            self.writer = self._connect(timeout_s=0)
        except (OSError, sqlite3.OperationalError) as error:
            self._unlock()
            raise ResourceExhaustedError(f"cannot write {self.name}: {error}") from error
        except BaseException:
            self._unlock()
            raise

    def bytes_on_disk(self) -> int:
        """Return the size of the file and its write-ahead log in bytes; 0 if the database is in memory."""
        if self._path is None:
            return 0
        paths = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in paths if path.exists())

    def _lock_file(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = try_lock(path.with_name(f"{path.name}.lock"))
        if self._lock is None:
            raise FailedPreconditionError(
                f"another controller is running on {self.name}: end that controller first, or use another file"
            )
        # Only the user of the controller may read the file, because it contains the environments of jobs. SQLite gives
        # its other files the same permissions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _connect(self, timeout_s: float) -> sqlite3.Connection:
        # At any time only one thread uses a connection, but not always the same thread. Therefore SQLite's check that
        # only one thread uses a connection is switched off.
        place = ":memory:" if self._path is None else self._path
        return sqlite3.connect(place, timeout=timeout_s, isolation_level=None, check_same_thread=False)

    def use_write_ahead_log(self) -> None:
        """Switch the database to the write-ahead log, with an fsync for each commit.

        Raises:
            sqlite3.OperationalError: The file cannot be written, or another program has locked it.
        """
        try:
            self._begin_write_ahead_log()
        except sqlite3.OperationalError:
            if self._path is None or self._turn is not None:
                raise
            # The file system probably lacks the shared memory that SQLite's write-ahead log needs. Therefore the
            # database is opened again with an exclusive lock, with which SQLite needs no shared memory.
            self._turn = threading.RLock()
            self.writer.close()
            self.writer = self._connect(timeout_s=0)
            self.writer.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._begin_write_ahead_log()

    def _begin_write_ahead_log(self) -> None:
        self.writer.execute("PRAGMA journal_mode=WAL")
        self.writer.execute("PRAGMA synchronous=FULL")
        # This empty transaction is a test: it fails if the file system does not support the shared memory of the
        # write-ahead log.
        self.writer.execute("BEGIN IMMEDIATE")
        self.writer.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Return a context manager with the writing connection."""
        with self._turn or contextlib.nullcontext():
            yield self.writer

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Return a context manager with a connection for reading. Any thread may use this method."""
        if self._turn is not None:
            with self._turn:
                yield self.writer
            return
        with self._guard:
            if self._is_closed:
                raise sqlite3.OperationalError("the read was interrupted, because the database is closed")
            connection = self._spare.pop() if self._spare else self._connect(_BUSY_S)
            self._in_use.add(connection)
        try:
            yield connection
        finally:
            with self._guard:
                self._in_use.discard(connection)
                is_spare = not self._is_closed and len(self._spare) < _MAX_SPARE
                if is_spare:
                    self._spare.append(connection)
            if not is_spare:
                connection.close()

    def interrupt(self) -> None:
        """Make the reads in progress fail, because the controller stops. Later reads fail as well. A database with only
        one connection is not interrupted, because the same connection still writes.
        """
        with self._guard:
            self._is_closed = True
            for connection in self._in_use:
                connection.interrupt()

    def close(self) -> None:
        """Close all connections, and release the lock."""
        self.interrupt()
        with self._guard:
            spare, self._spare = self._spare, []
        for connection in spare:
            connection.close()
        self.writer.close()
        self._unlock()
