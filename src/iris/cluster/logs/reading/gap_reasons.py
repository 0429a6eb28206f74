"""Explains to people why parts of a log are missing."""

from __future__ import annotations

from pathlib import Path

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.segments import has_log, is_away, read_end
from iris.errors import UnavailableError

DAMAGED = "damaged on disk"
NOT_ON_DISK = "not on disk"
LOST_WITH_WORKER = "the worker was lost before it had uploaded this part of the log"
WORKER_KILLED = "the worker was killed, so the last output of the task may be missing"


class GapReasons:
    """Finds out why parts of one log are missing.

    Args:
        directory: The directory of the log.
        writer: The log's writer if this process writes the log or has written it; None if another process has written
            it.
    """

    def __init__(self, directory: Path, writer: LogWriter | None) -> None:
        self._directory = directory
        self._writer = writer
        # If the log had files when reading began but has none later, the log was removed. The controller knows the
        # reason of the removal.
        self._had_files = directory.exists()

    def of_dropped(self) -> str:
        """Return the reason why the oldest part of the log is missing."""
        if self._writer is not None:
            limit = self._writer.max_bytes
        else:
            end = read_end(self._directory)
            if end is not None and (end.removed or end.lost):
                return end.removed or end.lost
            limit = 0 if end is None else end.max_bytes
        size = f" of {limit} bytes ({_readable(limit)})" if limit else ""
        return f"the oldest records were dropped, because the log reached its limit{size}"

    def of_segment(self) -> str:
        """Return the reason why a segment has disappeared since the segments of the log were listed.

        Raises:
            UnavailableError: The controller has moved the log to another location, from which the log can be read. Or
                the complete log was removed, for example together with its job; the controller knows the reason.
        """
        if is_away(self._directory):
            raise UnavailableError("the log was moved to another location while it was being read")
        if self._writer is not None and self._writer.removed:
            return self._writer.removed
        is_ended = self._writer is None or self._writer.is_ended
        if is_ended and self._had_files and not has_log(self._directory):
            raise UnavailableError("the log was removed while it was being read")
        end = read_end(self._directory)
        return DAMAGED if end is None else end.removed or end.lost or DAMAGED


def _readable(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
