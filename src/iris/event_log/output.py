"""Writes the event log of a process to its stderr, which is a rotated file.

The process that starts a server or a worker opens the event log and passes it as stdout and stderr. Therefore the
traceback of a crash and the messages of child processes are in the same file. A rotation copies `server.log` to
`server.log.1` and then empties `server.log` in place, because the child processes continue to write to the open file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from pathlib import Path

from iris.event_log.events import JsonFormatter, TextFormatter
from iris.system.private_dir import open_private

_STDERR = 2


def set_up_event_log(
    path: Path | None, *, level: str, log_format: str, max_bytes: float = 10_000_000, max_files: int = 4
) -> None:
    """Write the events of this process to its stderr.

    Args:
        path: The path of the event log. The file is rotated only if stderr writes to this file. With None, nothing is
            rotated.
        level: The lowest level that is written: `debug`, `info` or `warning`. Other libraries write only warnings.
        log_format: The format of an event, `text` or `json`.
        max_bytes: The size in bytes at which the file is rotated.
        max_files: How many rotated files are kept.
    """
    handler = EventLogHandler(
        _STDERR, path if path is not None and _is_file(_STDERR, path) else None, max_bytes, max_files
    )
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    handler.setLevel(level.upper())
    # The level applies to this handler only. Other handlers get all events, for example the handler that makes the
    # events of `iris events`.
    logging.getLogger("iris").setLevel(min(handler.level, logging.INFO))
    # Python's `logging` stores the thread and the process in each record. Iris shows neither. Not storing them saves
    # some microseconds for each record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class EventLogHandler(logging.Handler):
    """Writes records to a file descriptor, and rotates its file.

    Args:
        descriptor: The descriptor of a file that was opened for appending (`O_APPEND`).
        path: The path of the file, or None if the file is not rotated.
        max_bytes: The size in bytes at which the file is rotated.
        max_files: How many rotated files are kept.
    """

    def __init__(self, descriptor: int, path: Path | None, max_bytes: float, max_files: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._rotate_at = max_bytes
        self._size = 0 if path is None else os.fstat(descriptor).st_size

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. If the disk is full or the pipe is closed, drop the record without an error."""
        try:
            data = f"{self.format(record)}\n".encode(errors="backslashreplace")
            with contextlib.suppress(OSError):
                os.write(self._descriptor, data)
            self._size += len(data)
            if self._path is not None and self._size >= self._rotate_at:
                self._rotate_if_large(self._path)
        except Exception:  # noqa: BLE001 - A failure to write a log record must not disturb the process.
            if sys.stderr is not None:
                self.handleError(record)

    def _rotate_if_large(self, path: Path) -> None:
        """Rotate the file, unless another process has just rotated it. If the disk is full, try again later."""
        try:
            self._size = os.fstat(self._descriptor).st_size
            if self._size >= self._rotate_at:
                self._rotate(path)
                self._size, self._rotate_at = 0, self._max_bytes
        except OSError:
            self._rotate_at = self._size + self._max_bytes / 10

    def _rotate(self, path: Path) -> None:
        def rotated(number: int) -> Path:
            return path.with_name(f"{path.name}.{number}")

        rotated(self._max_files).unlink(missing_ok=True)
        for number in range(self._max_files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                rotated(number).rename(rotated(number + 1))
        try:
            with open(path, "rb") as source, open(rotated(1), "wb", opener=open_private) as copy:
                shutil.copyfileobj(source, copy)
        except OSError:
            rotated(1).unlink(missing_ok=True)
            raise
        os.ftruncate(self._descriptor, 0)


def _is_file(descriptor: int, path: Path) -> bool:
    """Return whether a descriptor is open on the file at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
