"""Fetches logs from the log location for readers.

A fetch may wait for the log location for a long time. Meanwhile the job of the log may be removed, and a new job with
the same name may write its logs into the same directories. Therefore a fetch has two steps:
1. A thread copies the files of the log into a directory that only this fetch uses.
2. The thread that writes uploaded parts of logs moves the files into the directory of the log. If the job of the log
   was removed meanwhile, this thread removes the files instead. The same thread removes the logs of removed jobs, so
   the second step and the removal of a job cannot overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from iris.cluster.controller.logs.folding import OLD, STORED
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.logs.segments import AWAY, has_end, is_away, list_files, list_segments

_AT_ONCE = 8  # The largest number of logs that are copied from the log location at the same time.


class LogFetches:
    """The fetches of logs that are in progress.

    Args:
        root: The directory of all logs on this machine.
        location: The log location.
        writing: The thread that writes uploaded parts of logs.
    """

    def __init__(self, root: Path, location: LogLocation, writing: Executor) -> None:
        self._root = root
        self._location = location
        self._writing = writing
        # Fetches have threads of their own. A log location that does not answer must not occupy the threads that other
        # parts of the controller share.
        self._copying = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="log-fetches")
        self._running: dict[str, _Fetch] = {}

    async def fetch(self, name: str, stored_as: str) -> bool:
        """Fetch a log, unless this machine has the whole log. If the log location does not have the log, this machine
        gets no files. Readers of the same log share one fetch.

        Args:
            name: The directory of the log, below the root of all logs.
            stored_as: The name of the log at the log location.

        Returns:
            Whether the job of the log still exists. False means that `drop` was called during the fetch.

        Raises:
            UnavailableError: A file of the log could not be fetched.
            OSError: A file of the log could not be written on this machine.
        """
        fetch = self._running.get(name)
        if fetch is None:
            fetch = self._running[name] = _Fetch(self._root / name)
            fetch.task = asyncio.create_task(self._run(fetch, stored_as))
            fetch.task.add_done_callback(lambda _: self._forget(name, fetch))
        try:
            # The cancellation of one reader must not cancel the fetch, because other readers may wait for the same log.
            await asyncio.shield(fetch.task)
        except OSError:
            if not fetch.is_dropped:
                raise
        return not fetch.is_dropped

    def drop(self, names: Iterable[str]) -> None:
        """End the fetches of logs whose jobs are removed. Call this method before the logs are removed from this
        machine.
        """
        for name in names:
            fetch = self._running.pop(name, None)
            if fetch is not None:
                fetch.is_dropped = True

    async def close(self) -> None:
        """Cancel all fetches. Close the log location before. A thread that copies a log ends after its current file.
        The next start of the log keeper removes files that the thread may leave.
        """
        tasks = [fetch.task for fetch in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, fetch: _Fetch, stored_as: str) -> None:
        loop = asyncio.get_running_loop()
        copied = await loop.run_in_executor(self._copying, self._copy, fetch.path, stored_as)
        if copied is not None:
            await loop.run_in_executor(self._writing, fetch.install, copied)

    def _copy(self, path: Path, stored_as: str) -> Path | None:
        """Copy the files of a log into a new directory, and return this directory. Return None if this machine has the
        whole log. This method runs in a thread.
        """
        if _is_here(path):
            return None
        # If the controller is killed, its next start removes a directory with this name.
        copied = self._root / f"{OLD}{secrets.token_hex(8)}"
        copied.mkdir(mode=0o700, parents=True)
        try:
            self._location.fetch(stored_as, copied)
        except BaseException:
            shutil.rmtree(copied, ignore_errors=True)
            raise
        return copied

    def _forget(self, name: str, fetch: _Fetch) -> None:
        if self._running.get(name) is fetch:
            del self._running[name]
        if not fetch.task.cancelled():
            # If all readers have left, no other code reads the exception, and asyncio would log it as never retrieved.
            fetch.task.exception()


class _Fetch:
    """One fetch of a log.

    Args:
        path: The directory of the log.

    Attributes:
        path: The directory of the log.
        task: The asyncio task of the fetch.
        is_dropped: Whether the job of the log was removed. The fetched files then must not be moved into the directory
            of the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task: asyncio.Task[None]
        self.is_dropped = False

    def install(self, copied: Path) -> None:
        """Move the fetched files into the directory of the log. If the job of the log was removed, or if a worker has
        uploaded the log meanwhile, remove the fetched files. This method runs in the thread that writes uploaded parts.
        """
        try:
            if not self.is_dropped and not _is_here(self.path):
                _move_files(copied, self.path)
        finally:
            shutil.rmtree(copied, ignore_errors=True)


def _is_here(path: Path) -> bool:
    """Return whether this machine has a whole log."""
    return not is_away(path) and (has_end(path) or bool(list_segments(path)))


def _move_files(copied: Path, path: Path) -> None:
    """Move the files of a log into its directory. If there are no files, leave no empty directory."""
    away = path / AWAY
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    away.touch()  # The file `away` is written first, so that the log counts as incomplete if the controller is killed.
    for file in list_files(copied):
        os.replace(file, path / file.name)
    if list_files(path):
        (path / STORED).touch()
    away.unlink()
    with contextlib.suppress(OSError):  # Only empty directories are removed, because `rmdir` fails for all others.
        path.rmdir()
        path.parent.rmdir()
