"""Copies complete logs to the log location, removes logs that are too old or take too much space, and folds small logs.

Two files mark the state of a log in its directory on this machine. The file `stored` exists once the whole log is at
the log location. The file `away` exists while this machine does not have the whole log. When a log is removed, its file
`end` remains, with the size of the log and the reason of the removal. Therefore a reader of a removed log gets the
reason instead of an empty log. A folded log has the same facts in its row (folding.py).

Functions of this module that read or write logs block on the disk and the network, so they run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from iris.cluster.controller.logs.folding import MAX_FOLDED_BYTES, STORED, Foldable, FoldedLogs
from iris.cluster.controller.logs.logged_attempts import LoggedAttempts
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.controller.logs.removal.log_claims import LogClaims
from iris.cluster.controller.logs.removal.removed_logs import (
    end_of_removed,
    remove_log,
    remove_segments,
    remove_unknown,
)
from iris.cluster.controller.logs.removal.retention import Found, Known, Removal, Retention, choose
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.folded.reading import find_folded
from iris.cluster.logs.segments import (
    AWAY,
    END,
    LogEnd,
    read_end,
)
from iris.errors import IrisError

# A log of an ended attempt counts as complete after 10 minutes without a new part.
_QUIET_MS = 600_000
# A small log stays in its files for a minute after its attempt has ended, because logs are mostly read while they are
# new. Then the sweep moves the log into the database.
_FOLD_AFTER_MS = 60_000
# A small log without an end is moved into the database only after one day without a new part, because a worker that was
# stopped for a while may continue to write the log.
_FOLD_UNCLOSED_MS = 86_400_000
_log = logging.getLogger(__name__)


class LogSweep:
    """Copies, removes and folds the logs of ended attempts.

    Args:
        directories: The log directories on this machine.
        folded: The database that stores the folded logs.
        location: The log location; None if the cluster has no log location.
        retention: The rules by which logs are removed.
        attempts: The object that finds the attempts to which the logs belong.
        claims: The object that records which logs a sweep must not change.

    Attributes:
        kept_bytes: The size of all logs on this machine at the beginning of the last sweep.
    """

    def __init__(
        self,
        directories: LogDirectories,
        folded: FoldedLogs,
        location: LogLocation | None,
        retention: Retention,
        attempts: LoggedAttempts,
        claims: LogClaims,
    ) -> None:
        self.kept_bytes = 0
        self._claims = claims
        self._directories = directories
        self._folded = folded
        self._location = location
        self._retention = retention
        self._attempts = attempts
        # Earlier sweeps have removed the logs of jobs that ended at this time or before it from the log location.
        # Therefore a sweep need not look for these logs again.
        self._removed_until_ms = 0
        self._removing: set[str] = set()
        self._removal = asyncio.Lock()

    async def is_done_with(self, name: str) -> None:
        """If the log with this name is being removed, wait until the removal has ended."""
        if name in self._removing:
            async with self._removal:
                return

    async def sweep(self, now_ms: int, in_use: Callable[[str], bool], writing: Executor) -> None:
        """Copy logs, remove logs, and fold the remaining small logs.

        The sweep lists the log files first, and the attempts afterwards. A log that begins between these two steps is
        not in the list of files. Therefore the sweep never mistakes a new log for the log of an unknown attempt.

        Args:
            now_ms: The time, in milliseconds since the epoch.
            in_use: A function that returns whether the log with the given name has a reader. A log with a reader is not
                removed.
            writing: The thread that writes uploaded parts of logs. The thread also folds logs, so that no part arrives
                for a log while the log is being folded.
        """
        self._claims.begin_sweep()
        found = await asyncio.to_thread(self._find)
        known = await self._attempts.of_logs([log.name for log in found])
        if self._location is not None:
            found = await asyncio.to_thread(self._copy, self._location, found, known, now_ms)
            # The attempts are read again, because new attempts may have begun while logs were being copied.
            known = await self._attempts.of_logs([log.name for log in found])
        folded, other_bytes = await asyncio.to_thread(self._find_folded, found, now_ms)
        known |= {log.name: attempt for log, attempt in folded}
        removals = choose(
            [*found, *(log for log, _ in folded)],
            known,
            self._retention,
            now_ms,
            has_location=self._location is not None,
            other_bytes=other_bytes,
        )
        if self._location is not None and self._retention.keep_ms is not None:
            before_ms = now_ms - self._retention.keep_ms
            here = {log.name for log in found} | {log.name for log, _ in folded}
            known |= await self._attempts.of_jobs_ended(self._removed_until_ms, before_ms - 1)
            removals += await asyncio.to_thread(self._choose_remote, known, here, before_ms)
        removals, all_removals = [removal for removal in removals if not in_use(removal.name)], removals
        self._removing = {removal.name for removal in removals}
        async with self._removal:
            is_done = await asyncio.to_thread(self._remove, removals, known)
        self._removing = set()
        if is_done and len(removals) == len(all_removals) and self._retention.keep_ms is not None:
            self._removed_until_ms = now_ms - self._retention.keep_ms - 1
        foldable = self._choose_foldable(found, known, now_ms, in_use)
        await asyncio.get_running_loop().run_in_executor(writing, self._fold, foldable)

    def _choose_remote(self, known: Mapping[str, Known], here: Collection[str], before_ms: int) -> list[Removal]:
        """Return the logs that only the log location has, and that must be removed, because their attempts ended before
        the given time."""
        old = [
            name
            for name, attempt in known.items()
            if name not in here and attempt.ended_ms is not None and attempt.ended_ms < before_ms
        ]
        root = self._directories.root
        return [
            Removal(name, self._retention.age_reason)
            for name in old
            if (end := read_end(root / name)) is None or not end.removed
        ]

    def _find_folded(self, found: Sequence[Found], now_ms: int) -> tuple[list[tuple[Found, Known]], int]:
        """Return the logs in the database that may be removed because of their age or size, and the size of all other
        logs in the database.
        """
        before_ms = None if self._retention.keep_ms is None else now_ms - self._retention.keep_ms
        total = excess = 0
        try:
            total = self._folded.total_bytes()
            self.kept_bytes = total + sum(log.size for log in found)
            if self._retention.keep_bytes is not None:
                excess = self.kept_bytes - self._retention.keep_bytes
            here = {log.name for log in found}
            folded = [one for one in self._folded.oldest(before_ms, excess) if one[0].name not in here]
            return folded, max(0, total - sum(log.size for log, _ in folded))
        except OSError as error:
            _log.warning("folded logs cannot be removed, trying again with the next sweep: %s", error)
            return [], 0

    def _choose_foldable(
        self, found: Sequence[Found], known: Mapping[str, Known], now_ms: int, in_use: Callable[[str], bool]
    ) -> list[Foldable]:
        logs = []
        for log in found:
            attempt = known.get(log.name)
            if attempt is None or attempt.ended_ms is None or in_use(log.name):
                continue
            is_complete = log.closed or now_ms - log.changed_ms >= _FOLD_UNCLOSED_MS
            is_copied = self._location is None or log.stored
            if is_complete and is_copied and now_ms - attempt.ended_ms >= _FOLD_AFTER_MS:
                logs.append(Foldable(log.name, log.size, attempt.ended_ms, attempt.stored_as))
        return logs

    def _fold(self, logs: Sequence[Foldable]) -> None:
        """Move small logs into the database of folded logs. The sizes are measured again, because the sweep may have
        removed logs meanwhile.
        """
        root = self._directories.root
        now = [
            log._replace(size=_inspect(log.name, root / log.name).size)
            for log in logs
            if not self._claims.is_excluded(log.name)
        ]
        try:
            self._folded.fold(log for log in now if log.size <= MAX_FOLDED_BYTES and (root / log.name).exists())
        except OSError as error:
            _log.warning("logs cannot be folded, trying again with the next sweep: %s", error)

    def _find(self) -> list[Found]:
        return [_inspect(name, self._directories.root / name) for name in self._directories.names()]

    def _copy(
        self, location: LogLocation, found: Sequence[Found], known: Mapping[str, Known], now_ms: int
    ) -> list[Found]:
        """Copy complete logs to the log location, and return the updated list of logs. An error ends the copies of this
        sweep, and the next sweep copies the remaining logs.
        """
        logs = list(found)
        for number, log in enumerate(logs):
            attempt = known.get(log.name)
            if log.stored or attempt is None or attempt.ended_ms is None:
                continue
            if not log.closed and now_ms - log.changed_ms < _QUIET_MS:
                continue
            path = self._directories.root / log.name
            try:
                with self._claims.changing(log.name) as allowed:
                    if not allowed:
                        continue
                    location.store(path, attempt.stored_as)
                    (path / STORED).touch()
            except (IrisError, OSError) as error:
                _log.warning("a log cannot be copied, trying again with the next sweep: %s", error)
                break
            logs[number] = log._replace(stored=True)
        return logs

    def _remove(self, removals: Collection[Removal], known: Mapping[str, Known]) -> bool:
        """Remove logs, and return whether all logs were removed. The next sweep tries again to remove the remaining
        logs. For example, a log remains if its job is being removed, because the removal of the job may fail.
        """
        is_done = True
        folded: dict[str, tuple[Path, LogEnd | None]] = {}
        for name, reason in removals:
            path = self._directories.root / name
            attempt = known.get(name)
            try:
                with self._claims.changing(name) as allowed:
                    if not allowed:
                        is_done = False
                        continue
                    if attempt is None:
                        remove_unknown(path)
                    else:
                        folded[name] = path, self._remove_files(path, attempt, reason)
            except (IrisError, OSError) as error:
                is_done = False
                _log.warning("cannot remove the log %s: %s", path, error)
            except Exception:  # noqa: BLE001 - An error with one log must not keep the other logs from being removed.
                is_done = False
                _log.exception("cannot remove the log %s", path)
        if folded:
            try:
                with self._claims.changing(*folded) as allowed:
                    self._folded.remove_contents([folded[name] for name in allowed])
                    is_done = is_done and len(allowed) == len(folded)
                self._folded.give_back_space()
            except OSError as error:
                is_done = False
                _log.warning("folded logs cannot be removed, trying again with the next sweep: %s", error)
        return is_done

    def _remove_files(self, path: Path, attempt: Known, reason: str) -> LogEnd | None:
        """Remove the files of a log, and return the new end of the log. Without a reason, remove the files from this
        machine only, and return None.
        """
        if not reason:
            if path.exists():
                (path / AWAY).touch()
                remove_segments(path)
            return None
        end = None
        if self._location is not None:
            end = self._location.end(attempt.stored_as)
            self._location.remove(attempt.stored_as)
        end = end_of_removed(path, reason, end)
        if path.exists() or find_folded(path) is None:
            remove_log(path, reason, end)
        return end


def _inspect(name: str, path: Path) -> Found:
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
