"""Removes the directories and logs of ended attempts from a worker's disk when they are old enough.

The files of an attempt are kept until the attempt has ended, the controller has acknowledged the end, and the log is
uploaded. A minute later the worker removes its own files of the attempt, for example the pickled callable, because only
the running attempt needs these files. If the directory then contains neither a log nor a file of the task, the whole
directory is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.paths import AttemptDir, WorkerDir
from iris.system.clock import now_for_ages_ms

DEFAULT_KEEP_S = 30 * 86400.0
DEFAULT_KEEP_UPLOADED_S = 3600.0
_SPENT_AFTER_S = 60.0
_EVERY_S = 60.0
_SHARE = 0.02  # The largest share of the worker's time that the search for old attempts may take.
_log = logging.getLogger(__name__)


class _Left(NamedTuple):
    """The files of one ended attempt that are still on disk.

    Attributes:
        directory: The object that knows the paths of the attempt's files.
        changed_s: The newest modification time of the attempt's directory, of its log, and of the entries directly in
            these two directories, in seconds of the file system's clock.
        has_log: Whether the log lies in the attempt's directory.
        waits: Whether the log waits to be uploaded to the controller.
        uploaded: Whether the controller has received the whole log.
        spent: The files that were needed only while the attempt was running.
        has_work: Whether the working directory contains anything.
    """

    directory: AttemptDir
    changed_s: float
    has_log: bool
    waits: bool
    uploaded: bool
    spent: list[Path]
    has_work: bool

    @property
    def is_empty(self) -> bool:
        """Whether the directory contains no log and no file of the task."""
        return not (self.has_log or self.has_work)


class Cleanup:
    """Removes old attempts of one worker.

    Args:
        registry: The object that stores the attempts of the worker.
        directory: The worker directory.
        keep_s: How many seconds an attempt's directory is kept after the attempt's end; inf means forever.
        keep_log_s: How many seconds an uploaded log is kept; None keeps the log as long as the attempt's directory.
        now_s: A function that returns the time in seconds, for measuring ages.
    """

    def __init__(
        self,
        registry: AttemptRegistry,
        directory: WorkerDir,
        keep_s: float = DEFAULT_KEEP_S,
        keep_log_s: float | None = None,
        now_s: Callable[[], float] = lambda: now_for_ages_ms() / 1000,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._keep_s = keep_s
        self._keep_log_s = keep_s if keep_log_s is None else min(keep_s, keep_log_s)
        self._now_s = now_s

    async def run(self) -> None:
        """Remove old attempts about every minute until the worker ends."""
        while True:
            began_s = time.monotonic()
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - The next sweep may succeed after any error.
                _log.exception("cannot remove the files of old attempts")
            await asyncio.sleep(max(_EVERY_S, (time.monotonic() - began_s) / _SHARE))

    async def sweep(self) -> None:
        """Remove all attempts and logs that are old enough now. The disk is searched before the running attempts are
        listed. Therefore an attempt that begins during the search is never removed.
        """
        left = await asyncio.to_thread(self._find)
        busy = self._registry.busy_directories()
        now_s = self._now_s()
        ended = [one for one in left if one.directory.path not in busy and not one.waits]
        directories = [
            one.directory.path
            for one in ended
            if now_s - one.changed_s > (min(self._keep_s, _SPENT_AFTER_S) if one.is_empty else self._keep_s)
        ]
        spent = [file for one in ended if now_s - one.changed_s > _SPENT_AFTER_S for file in one.spent]
        logs = [
            one.directory.log
            for one in ended
            if one.has_log and one.uploaded and now_s - one.changed_s > self._keep_log_s
        ]
        # The records of the attempts are dropped first, so that no new reader finds a directory that will be removed.
        # Afterwards all directories are moved away at once, and the moved directories are removed.
        self._registry.forget({*directories, *(log.parent for log in logs)})
        discarded = [self._directory.discard(path) for path in (*logs, *directories)]
        await asyncio.to_thread(remove_discarded, discarded)
        await asyncio.to_thread(_unlink, spent)

    def _find(self) -> list[_Left]:
        return [_look_at(directory) for directory in self._directory.attempts()]


def _look_at(directory: AttemptDir) -> _Left:
    return _Left(
        directory,
        max([0.0, *_times(directory.path), *_times(directory.log)]),
        has_log=directory.log.parent == directory.path and directory.log.exists(),
        waits=directory.upload_pending.exists(),
        uploaded=directory.uploaded.exists(),
        spent=directory.spent_files(),
        has_work=_has_entries(directory.work),
    )


def _has_entries(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except OSError:
        return True  # A directory that cannot be read counts as not empty. The task may have removed the permissions.


def _times(path: Path) -> Iterable[float]:
    with contextlib.suppress(OSError):
        yield path.stat().st_mtime
        with os.scandir(path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_mtime


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        # Errors are ignored, because the directory of the file may have been removed meanwhile.
        with contextlib.suppress(OSError):
            path.unlink()


def remove_discarded(paths: Iterable[Path | None]) -> None:
    """Remove directories that `WorkerDir.discard` has moved. None stands for a directory that could not be moved."""
    for path in paths:
        try:
            if path is not None:
                shutil.rmtree(path)
        except OSError as error:
            _log.warning("cannot remove %s, which is no longer needed: %s", path, error)
