"""Copies logs that are complete to the location, and removes what is too old or too much.

Beside a log on this machine lies `stored` once all of it is at the location, and `away` when not all of it is here.
Of a log that was removed for good `end` stays, which says how much there was and why it is gone: a reader is told that,
and never just nothing.

Everything here but `sweep` itself blocks on the disk and the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.controller.logs.retention import Found, Known, Removal, Retention, choose
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.segments import (
    AWAY,
    END,
    LogEnd,
    has_end,
    list_files,
    list_segments,
    read_end,
    remove_written,
    write_end,
)
from iris.errors import IrisError

_QUIET_MS = 600_000  # what has no end, of an attempt that has ended, gets no more when nothing came for so long
STORED = "stored"  # counts while it is the newest
_READ_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class LogSweep:
    """The logs of attempts that have ended.

    Args:
        directories: Where they lie here.
        location: Where else; None: nowhere.
        retention: What is kept.
        jobs: By id; the controller's own.
    """

    def __init__(
        self,
        directories: LogDirectories,
        location: LogLocation | None,
        retention: Retention,
        jobs: Mapping[str, JobRecord],
    ) -> None:
        self._directories = directories
        self._location = location
        self._retention = retention
        self._jobs = jobs
        self._removing: set[str] = set()
        self._removal = asyncio.Lock()

    async def is_done_with(self, name: str) -> None:
        """Waits while the log of this name is being removed; what is in use is not."""
        if name in self._removing:
            async with self._removal:
                return

    async def sweep(self, now_ms: int, in_use: Callable[[str], bool]) -> None:
        """Copies, then removes.

        It is looked first at what there is, then which attempts have ended: what has begun in between is not seen.

        Args:
            now_ms: The time.
            in_use: Whether somebody reads the log of this name; it stays.
        """
        found = await asyncio.to_thread(self._find)
        known = await self._known()
        if self._location is not None:
            found = await asyncio.to_thread(self._copy, self._location, found, known, now_ms)
            known = await self._known()  # that took long: a log of nobody's may have got a job
        removals = choose(found, known, self._retention, now_ms, has_location=self._location is not None)
        if self._location is not None and self._retention.keep_ms is not None:
            here = {log.name for log in found}
            since_ms = now_ms - self._retention.keep_ms
            removals += [
                Removal(name, self._retention.age_reason)
                for name, attempt in known.items()
                if name not in here and attempt.ended_ms is not None and attempt.ended_ms < since_ms
            ]
        removals = [removal for removal in removals if not in_use(removal.name)]
        self._removing = {removal.name for removal in removals}
        async with self._removal:
            await asyncio.to_thread(self._remove, removals, known)
        self._removing = set()

    async def _known(self) -> dict[str, Known]:
        known = {}
        for record in list(self._jobs.values()):
            for task in record.job.tasks:
                for attempt in task.attempts:
                    name = self._directories.name(task.task_id, attempt.attempt_id)
                    ended_ms = None if attempt.is_live else attempt.finished_at_ms
                    known[name] = Known(ended_ms, stored_as(name, record))
            await asyncio.sleep(0)  # the loop has other things to do
        return known

    def _find(self) -> list[Found]:
        return [_look_at(name, self._directories.root / name) for name in self._directories.names()]

    def _copy(
        self, location: LogLocation, found: Sequence[Found], known: Mapping[str, Known], now_ms: int
    ) -> list[Found]:
        """Copies what gets no more; answers with what there is then. Where that fails, the rest is left for later."""
        logs = list(found)
        for number, log in enumerate(logs):
            attempt = known.get(log.name)
            if log.stored or attempt is None or attempt.ended_ms is None:
                continue
            if not log.closed and now_ms - log.changed_ms < _QUIET_MS:
                continue
            path = self._directories.root / log.name
            try:
                location.store(path, attempt.stored_as)
                (path / STORED).touch()
            except (IrisError, OSError) as error:
                _log.warning("%s; trying again later", error)
                break
            logs[number] = log._replace(stored=True)
        return logs

    def _remove(self, removals: Collection[Removal], known: Mapping[str, Known]) -> None:
        for name, reason in removals:
            path = self._directories.root / name
            attempt = known.get(name)
            try:
                if attempt is None:
                    _remove_stranger(path)
                elif not reason:
                    (path / AWAY).touch()
                    _remove_segments(path)
                else:
                    end = None
                    if self._location is not None:
                        end = self._location.end(attempt.stored_as)
                        self._location.remove(attempt.stored_as)
                    remove_log(path, reason, end)
            except (IrisError, OSError) as error:
                _log.warning("cannot remove the log %s: %s", path, error)
            except Exception:  # noqa: BLE001 - whatever it was, the others are to go
                _log.exception("cannot remove the log %s", path)


def stored_as(name: str, record: JobRecord) -> str:
    """The name of a log at the location: another one for a job whose name another job has had, in another life."""
    task, _, attempt = name.rpartition("/")
    return f"{task}-{record.job.submitted_at_ms:x}/{attempt}"


def fetch_log(location: LogLocation, name: str, path: Path) -> None:
    """Fetches a log that is not here, or not all of it; where it is nowhere, nothing is left of that.

    Raises:
        UnavailableError: Something of it could not be copied.
        OSError: Something of it could not be written here.
    """
    away = path / AWAY
    if not away.exists() and (has_end(path) or list_segments(path)):
        return
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    away.touch()  # what is here when it fails in between is not all
    location.fetch(name, path)
    if list_files(path):
        (path / STORED).touch()
    away.unlink()
    with contextlib.suppress(OSError):  # what has something of the log in it stays
        path.rmdir()
        path.parent.rmdir()


def remove_log(path: Path, reason: str, end: LogEnd | None = None) -> None:
    """Removes a log, and leaves word of it: first the word, so that a reader is told wherever it is.

    Args:
        path: Its directory; made where it is not there.
        reason: Why.
        end: What it said of itself, where that is not here.

    Raises:
        OSError: Something cannot be written or removed.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    end = read_end(path) or end or _end_of_unclosed(path)
    if not end.removed:
        write_end(path, end._replace(bytes_missing=sum(end.bytes_written), removed=reason))
    (path / STORED).touch()
    (path / AWAY).unlink(missing_ok=True)
    _remove_segments(path)
    remove_written(path)


def _remove_segments(path: Path) -> None:
    for place in list_segments(path):
        (path / place.segment_name).unlink(missing_ok=True)


def _remove_stranger(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _look_at(name: str, path: Path) -> Found:
    size = changed_ns = stored_ns = 0
    closed = away = False
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        changed_ns = path.stat().st_ctime_ns if not (files := list(entries)) else 0
        for file in files:
            status = file.stat(follow_symlinks=False)
            if file.name == STORED:
                stored_ns = status.st_mtime_ns
            elif file.name == AWAY:
                away = True
            else:
                changed_ns = max(changed_ns, status.st_mtime_ns)
                closed |= file.name == END
                size += status.st_size if file.name != END else 0
    return Found(name, size, changed_ns // 1_000_000, closed, stored_ns > 0 and stored_ns >= changed_ns, away)


def _end_of_unclosed(path: Path) -> LogEnd:
    """What the end of a log would say that has none: counted, in its last segment."""
    segments = list_segments(path)
    last = segments[-1] if segments else None
    with LogReader(path, last.offsets, position=last.position) if last else LogReader(path) as reader:
        while reader.read(_READ_BYTES, final=True):
            pass
        return LogEnd(reader.written or reader.offsets, 0, 0, truncated=True)
