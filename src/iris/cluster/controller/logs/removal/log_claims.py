"""Records which logs a sweep may change, and which logs are being changed now. The module does no I/O."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator


class LogClaims:
    """Says which logs a sweep may change. The removal of a job and a sweep never change the same log at the same time.
    Threads may share an instance.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # The logs of jobs that were removed since the present sweep began. The sweep must not touch these logs.
        self._forgotten: set[str] = set()
        # The logs of jobs that are being removed now. No sweep may touch these logs.
        self._excluded: set[str] = set()
        # The directories of the tasks of jobs that were submitted since the present sweep began. The sweep must not
        # touch the logs of these jobs.
        self._new_tasks: set[str] = set()
        # How many threads are changing each log.
        self._busy: Counter[str] = Counter()

    def begin_sweep(self) -> None:
        """Allow the next sweep to change all logs, except the logs of jobs that are being removed now."""
        self._forgotten.clear()
        self._new_tasks.clear()

    def forget(self, names: Collection[str]) -> None:
        """Exclude the logs with these names from the present sweep, because their state has changed."""
        self._forgotten.update(names)

    def exclude_tasks(self, directories: Collection[str]) -> None:
        """Exclude the logs of new tasks from the present sweep. The arguments are the tasks' directories, in which the
        sweep may have found logs of an earlier job with the same name.
        """
        self._new_tasks.update(directories)

    @contextlib.contextmanager
    def excluding(self, names: Collection[str]) -> Iterator[None]:
        """Return a context manager in which no sweep begins to change the logs with these names, because their jobs are
        being removed. The present sweep does not change the logs afterwards either. A change that has already begun may
        continue (see `wait_until_unused`).
        """
        with self._changed:
            self._excluded.update(names)
        try:
            yield
        finally:
            with self._changed:
                # The present sweep must not change these logs. It may have read a log's file `stored` or `away` before
                # the removal of the job changed that file.
                self._forgotten.update(names)
                self._excluded.difference_update(names)

    def is_excluded(self, name: str) -> bool:
        """Return whether a log is excluded from the changes of the present sweep."""
        is_removed = name in self._forgotten or name in self._excluded
        return is_removed or name.rpartition("/")[0] in self._new_tasks

    @contextlib.contextmanager
    def changing(self, *names: str) -> Iterator[Collection[str]]:
        """Return a context manager in which the present sweep changes logs. The value of the context are the names of
        the logs that the sweep may change.
        """
        with self._changed:
            allowed = {name for name in names if not (self.is_excluded(name) or self._busy[name])}
            self._busy.update(allowed)
        with self._released(allowed):
            yield allowed

    @contextlib.contextmanager
    def removing(self, name: str) -> Iterator[None]:
        """Return a context manager in which the removal of a job changes a log. No sweep changes the log meanwhile."""
        with self._changed:
            self._busy[name] += 1
        with self._released({name}):
            yield

    @contextlib.contextmanager
    def _released(self, names: Collection[str]) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._busy.subtract(names)
                self._busy = +self._busy
                self._changed.notify_all()

    def is_used(self, names: Collection[str]) -> bool:
        """Return whether a thread is changing one of the logs with these names."""
        return not self._busy.keys().isdisjoint(names)

    def wait_until_unused(self, names: Collection[str], timeout_s: float) -> bool:
        """Wait until no thread changes a log with one of these names. Return False after `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_used(names), timeout_s)
