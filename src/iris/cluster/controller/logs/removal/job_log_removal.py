"""Removes the logs of ended jobs when the jobs are removed. The logs are on the controller's machine, and the log
location may have copies of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.folding import OLD, FoldedLogs
from iris.cluster.controller.logs.logged_attempts import stored_as
from iris.cluster.controller.logs.removal.log_claims import LogClaims
from iris.cluster.controller.logs.removal.removal_notes import remove_note, write_note
from iris.cluster.controller.logs.removal.removed_copies import RemovedCopies
from iris.cluster.logs.directories import LogDirectories
from iris.failpoints import failpoint

_log = logging.getLogger(__name__)


class JobLogRemoval:
    """Removes the logs of ended jobs. A removal has three steps, in this order: `without_sweeps`, `copies_removed` and
    `remove`.

    Args:
        directories: The log directories on this machine.
        folded: The folded logs.
        claims: The logs that a sweep may change.
        copies: The object that removes copies from the log location.
        writing: The thread that writes uploaded parts of logs.
        on_removed: A function that is called on the event loop with the names of the logs, before the logs are removed
            from this machine.
    """

    def __init__(
        self,
        directories: LogDirectories,
        folded: FoldedLogs,
        claims: LogClaims,
        copies: RemovedCopies,
        writing: Executor,
        on_removed: Callable[[Sequence[str]], None],
    ) -> None:
        self._directories = directories
        self._folded = folded
        self._claims = claims
        self._copies = copies
        self._writing = writing
        self._on_removed = on_removed

    @contextlib.asynccontextmanager
    async def without_sweeps(self, records: Sequence[JobRecord]) -> AsyncIterator[None]:
        """Return a context manager for the removal of ended jobs. Inside the context, no sweep changes their logs. If a
        sweep copied a log after the removal of the copies, the copy would stay at the log location forever.

        Raises:
            UnavailableError: A sweep copies a log of the jobs, and the log location does not answer.
        """
        names = [name for record in records for name in self._names(record)]
        with self._claims.excluding(names):
            await self._copies.until_unused(names)
            yield

    @contextlib.asynccontextmanager
    async def copies_removed(self, records: Sequence[JobRecord]) -> AsyncIterator[None]:
        """Return a context manager that removes the logs of ended jobs from the log location at its beginning, and
        notes that the logs on this machine are removed next. If the context ends with an exception, the jobs stay, and
        their remaining logs can still be read. Use this context inside of the context of `without_sweeps`.

        Raises:
            UnavailableError: The log location cannot be reached now.
        """
        names = {name: stored_as(name, record) for record in records for name in self._names(record)}
        async with self._copies.removed(names):
            try:
                await asyncio.get_running_loop().run_in_executor(
                    self._writing, write_note, self._directories.root, records
                )
            except OSError as error:
                # A full disk must not prevent a removal, which frees space. Without the note, the logs stay on this
                # machine if the controller is killed before it has removed them.
                _log.warning("the removal of logs cannot be noted: %s", error)
            yield

    async def remove(self, records: Sequence[JobRecord]) -> None:
        """Remove the logs of ended jobs from this machine. An error is logged, because the jobs are already removed.
        The next start of the controller then removes the remaining logs.
        """
        names = [name for record in records for name in self._names(record)]
        self._claims.forget(names)
        self._on_removed(names)
        tasks = [task for record in records for task in record.job.tasks if task.attempts]
        folders = [self._directories.task(task.task_id) for task in tasks]

        def remove() -> None:
            failpoint("forget.before")
            for folder in folders:
                old = self._directories.root / f"{OLD}{secrets.token_hex(8)}"
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(old)
                    shutil.rmtree(old, ignore_errors=True)
            self._folded.remove_tasks([folder.name for folder in folders])
            remove_note(self._directories.root, records)
            self._folded.give_back_space()

        try:
            # The thread that writes uploaded parts also removes the logs, so that no part arrives during the removal.
            await asyncio.get_running_loop().run_in_executor(self._writing, remove)
        except OSError as error:
            _log.warning("logs of removed jobs stay on this machine: %s", error)

    def _names(self, record: JobRecord) -> Iterator[str]:
        for task in record.job.tasks:
            for attempt in task.attempts:
                yield self._directories.name(task.task_id, attempt.attempt_id)
