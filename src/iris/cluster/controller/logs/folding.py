"""Folds logs: moves the small logs of ended attempts from their files into one database, which all folded logs share.
Without folding, the log of each attempt would stay on the disk as two directories and at least one file.

The database is SQLite in WAL mode with `synchronous=FULL`. A batch of logs is committed before the files of the batch
are removed. The directory of a log is renamed before its files are removed, so that a reader finds either all files or
none. A controller that is killed between the commit and the renaming leaves a log both in the database and in files.
Readers then prefer the files, and the next sweep folds the files again. Reconsider this design when one database cannot
store the logs of a cluster quickly enough.

All methods block on the disk, so they run in threads.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from iris.cluster.controller.logs.removal.retention import Found, Known
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.folded.database import SCHEMA, reported_as_os_error
from iris.cluster.logs.folded.database_name import DATABASE_NAME
from iris.cluster.logs.folded.reading import find_folded
from iris.cluster.logs.segments import AWAY, END, WRITTEN, LogEnd, encode_end, list_segment_files
from iris.failpoints import failpoint

# A log of up to this many bytes is moved from its files into the database. A larger log stays in files.
MAX_FOLDED_BYTES = 1 << 20
# A directory of logs that is being removed has a name with this prefix.
OLD = ".old-"
# The file that marks a log as copied to the log location. The mark is ignored if another file of the log is newer.
STORED = "stored"
_BATCH_LOGS = 200
_BATCH_BYTES = 8 << 20
_TIMEOUT_S = 10.0
_ROW = "task=? AND attempt=?"


class Foldable(NamedTuple):
    """A small log that the controller moves from its files into the database of folded logs.

    Attributes:
        name: The directory of the log, below the root of all logs.
        size: The size of the log's segments in bytes.
        ended_ms: When the attempt ended, in milliseconds since the epoch.
        stored_as: The name of the log at the log location.
    """

    name: str
    size: int
    ended_ms: int
    stored_as: str


class FoldedLogs:
    """The database of folded logs for its only writer, the controller. Threads may share an instance.

    Args:
        directories: The log directories on this machine. The database is created in their root when the first log is
            folded.
    """

    def __init__(self, directories: LogDirectories) -> None:
        self._root = directories.root
        self._path = directories.root / DATABASE_NAME
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the database. A later call opens the database again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    @property
    def exists(self) -> bool:
        """Whether the database exists, because a log was folded at some time."""
        return self._path.exists()

    # Folding.

    def fold(self, logs: Iterable[Foldable]) -> None:
        """Move logs from their files into the database, in batches.

        Raises:
            OSError: A log cannot be read, or the database cannot be written. The files of the remaining logs stay.
        """
        batch: list[Foldable] = []
        # Rows that are inserted in the order of their keys fill the pages of the database. In the reverse order, in
        # which some file systems list new folders, the pages would stay half empty.
        for log in sorted(logs, key=lambda log: log.name):
            batch.append(log)
            if len(batch) == _BATCH_LOGS or sum(each.size for each in batch) > _BATCH_BYTES:
                self._fold_batch(batch)
                batch = []
        if batch:
            self._fold_batch(batch)

    def unfold(self, directory: Path) -> bool:
        """Move a log from the database back into files, so that more records can be appended. Return False if the log
        is not in the database.

        Raises:
            OSError: The files cannot be written, or the database cannot be written.
        """
        folded = find_folded(directory)
        if folded is None:
            return False
        with self._transaction() as database:
            segments = database.execute(f"SELECT name, data FROM segments WHERE {_ROW}", _key(directory)).fetchall()
            files = [*segments, (END, folded.end), (WRITTEN, folded.written)]
            beside = self._root / f"{OLD}{secrets.token_hex(8)}"
            beside.mkdir(mode=0o700)
            for name, content in files:
                if content is not None:
                    (beside / name).write_bytes(content)
            directory.parent.mkdir(mode=0o700, exist_ok=True)
            beside.rename(directory)
            database.execute(f"DELETE FROM logs WHERE {_ROW}", _key(directory))
        return True

    # Retention.

    def total_bytes(self) -> int:
        """Return the size of all logs in the database, in bytes of their segments."""
        if not self.exists:
            return 0
        with self._transaction() as database:
            return int(database.execute("SELECT coalesce(sum(size), 0) FROM logs WHERE size > 0 OR away").fetchone()[0])

    def oldest(self, ended_before_ms: int | None, excess_bytes: int) -> list[tuple[Found, Known]]:
        """Return the logs in the database that may be removed because of their age or their total size, oldest first.

        Args:
            ended_before_ms: Return all logs of attempts that ended before this time, in milliseconds since the epoch;
                None returns no logs because of their age.
            excess_bytes: Also return the oldest logs until the returned logs have at least this many bytes.
        """
        logs: list[tuple[Found, Known]] = []
        if not self.exists:
            return logs
        with self._transaction() as database:
            rows = database.execute(
                "SELECT task, attempt, size, ended_ms, stored_as, end IS NOT NULL, stored, away"
                " FROM logs WHERE size > 0 OR away ORDER BY ended_ms"
            )
            for task, attempt, size, ended_ms, stored_as, closed, stored, away in rows:
                if excess_bytes <= 0 and (ended_before_ms is None or ended_ms >= ended_before_ms):
                    break
                excess_bytes -= size
                found = Found(f"{task}/{attempt}", size, ended_ms, bool(closed), bool(stored), bool(away))
                logs.append((found, Known(ended_ms, stored_as)))
        return logs

    def remove_contents(self, logs: Sequence[tuple[Path, LogEnd | None]]) -> None:
        """Remove the contents of logs from the database. A row with the reason of the removal remains for readers.

        Args:
            logs: For each log, the directory in which the log was written, and the new end of the log, which contains
                the reason of the removal. If the log location has a copy of the log, None takes the place of the end,
                and readers use the copy.

        Raises:
            OSError: The database cannot be written.
        """
        if not (logs and self.exists):
            return
        with self._transaction() as database:
            for directory, end in logs:
                key = _key(directory)
                database.execute(f"DELETE FROM segments WHERE {_ROW}", key)
                if end is None:
                    database.execute(f"UPDATE logs SET size=0, away=1 WHERE {_ROW}", key)
                else:
                    changes = "size=0, away=0, stored=1, stored_as='', written=NULL, end=?"
                    database.execute(f"UPDATE logs SET {changes} WHERE {_ROW}", (encode_end(end), *key))

    def unmark_stored(self, names: Iterable[str]) -> list[str]:
        """Remove the marks of logs in the database that say that the log location has the logs. Return the names of the
        logs that had marks. A log whose segments are only at the log location keeps its mark.

        Args:
            names: The directories of the logs, below the root of all logs.

        Raises:
            OSError: The database cannot be written.
        """
        return self._set_stored(names, is_stored=False)

    def mark_stored(self, names: Iterable[str]) -> None:
        """Mark logs in the database, because the log location has them.

        Args:
            names: The directories of the logs, below the root of all logs.

        Raises:
            OSError: The database cannot be written.
        """
        self._set_stored(names, is_stored=True)

    def _set_stored(self, names: Iterable[str], *, is_stored: bool) -> list[str]:
        if not self.exists:
            return []
        with self._transaction() as database:
            return [
                name
                for name in names
                if database.execute(
                    f"UPDATE logs SET stored=? WHERE {_ROW} AND stored!=? AND NOT away",
                    (is_stored, *_key(self._root / name), is_stored),
                ).rowcount
            ]

    def remove_tasks(self, tasks: Sequence[str]) -> None:
        """Remove all logs of some tasks from the database.

        Args:
            tasks: The folders of the tasks, below the root of all logs.

        Raises:
            OSError: The database cannot be written.
        """
        if not self.exists:
            return
        with self._transaction() as database:
            database.executemany("DELETE FROM logs WHERE task=?", [(task,) for task in tasks])

    def give_back_space(self) -> None:
        """Shrink the database by the space of removed logs.

        Raises:
            OSError: The database cannot be written.
        """
        if not self.exists:
            return
        with self._lock, reported_as_os_error(self._path):
            database = self._open()
            # `executescript` runs this statement to its end. `execute` would stop after the first freed page.
            database.executescript("PRAGMA incremental_vacuum")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _fold_batch(self, batch: Sequence[Foldable]) -> None:
        directories = [self._root / log.name for log in batch]
        with self._transaction() as database:
            for log, directory in zip(batch, directories, strict=True):
                _insert(database, log, directory)
            failpoint("fold.before")
        failpoint("fold.after")
        for directory in directories:
            self._remove_files(directory)

    def _remove_files(self, directory: Path) -> None:
        old = self._root / f"{OLD}{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            directory.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(OSError):
            directory.parent.rmdir()  # The folder of a task is removed together with the task's last log.

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, reported_as_os_error(self._path):
            database = self._open()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                # On a full disk, SQLite has already undone the transaction, and a rollback would hide the error. If
                # another connection has blocked the commit, the transaction is still open, and no other could begin.
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        if self._database is None or not self._path.exists():
            self.close()
            if not self._path.exists():
                self._create()
            database = self._connect(self._path)
            try:
                database.execute("PRAGMA journal_mode=WAL").fetchall()
                database.execute("SELECT count(*) FROM logs WHERE size > 0 OR away").fetchall()
            except sqlite3.OperationalError:
                # Some network file systems lack the shared memory that the write-ahead log needs. On such a file
                # system, the database uses a rollback journal.
                database.close()
                database = self._connect(self._path)
                database.execute("PRAGMA journal_mode=DELETE").fetchall()
            self._database = database
        return self._database

    def _create(self) -> None:
        """Create the database. The file gets its final name last, so that readers find either no database or a database
        with all tables.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_name(f"{DATABASE_NAME}.new")
        beside.unlink(missing_ok=True)
        database = self._connect(beside)
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.executescript(SCHEMA)
        database.close()
        beside.rename(self._path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_TIMEOUT_S)
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA foreign_keys=ON")
        return database


def _key(directory: Path) -> tuple[str, int]:
    return directory.parent.name, int(directory.name)


def _insert(database: sqlite3.Connection, log: Foldable, directory: Path) -> None:
    """Insert a log from its directory into the database. If the database already has the segments, and only the end of
    the log is in the directory, add the end to the row of the log.
    """
    segments = [(name, (directory / name).read_bytes()) for name in list_segment_files(directory)]
    end, written = _content(directory / END), _content(directory / WRITTEN)
    is_away, is_stored = (directory / AWAY).exists(), (directory / STORED).exists()
    key = _key(directory)
    if not segments and not is_away:
        changed = database.execute(
            f"UPDATE logs SET end=coalesce(?, end), stored=? WHERE {_ROW}", (end, is_stored, *key)
        )
        if changed.rowcount:
            return
    database.execute(f"DELETE FROM logs WHERE {_ROW}", key)
    size = sum(len(data) for _, data in segments)
    database.execute(
        "INSERT INTO logs (task, attempt, stored_as, ended_ms, size, stored, away, end, written)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, log.stored_as, log.ended_ms, size, is_stored, is_away, end, written),
    )
    database.executemany(
        "INSERT INTO segments (task, attempt, name, data) VALUES (?, ?, ?, ?)",
        [(*key, name, data) for name, data in segments],
    )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
