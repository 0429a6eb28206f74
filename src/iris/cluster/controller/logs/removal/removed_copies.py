"""Removes the copies of a removed job's logs from the log location, while no sweep changes the same logs.

A removal may fail after some copies are gone. The job then stays, and its logs must be readable as far as they still
exist. Therefore the marks that a log is at the log location are removed before the copies:
1. A log on this machine loses its mark before its copy is removed. The next sweep copies the log again.
2. A folded log loses its mark, too. After a failure, a log whose copy is gone is moved back into files, because sweeps
   copy only files. The other folded logs get their marks again.
3. The content of a log that was only at the log location is lost with its copy. After a failure, the reason of the
   removal is written, so that readers get the reason.

If the controller is killed during a removal, the unmarked folded logs stay on this machine, and are not copied again.

The log location may not answer for a long time. A removal waits for it only for a limited time, because the removals of
all other jobs would wait as well. All functions without `async` block on the disk, so they run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from iris.cluster.controller.logs.folding import STORED, FoldedLogs
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.controller.logs.removal.log_claims import LogClaims
from iris.cluster.controller.logs.removal.removed_logs import mark_removed
from iris.cluster.logs.segments import AWAY, is_away
from iris.errors import UnavailableError

# The text that readers of a log get if the removal of its job has removed the log, and has failed afterwards.
REMOVED_WITH_JOB = "removed: the removal of the job began, but could not be completed"
_log = logging.getLogger(__name__)


class RemovedCopies:
    """Removes copies of logs from the log location, and corrects the marks of the logs if the job stays.

    Args:
        root: The directory of all logs on this machine.
        folded: The database that stores the folded logs.
        location: The log location; None if the cluster has no log location.
        claims: The object that records which logs a sweep must not change.
        writing: The thread that writes uploaded parts of logs. The thread also changes the marks, so that no log is
            folded meanwhile.
        patience_s: After this many seconds without progress, a removal fails.
    """

    def __init__(
        self,
        root: Path,
        folded: FoldedLogs,
        location: LogLocation | None,
        claims: LogClaims,
        writing: Executor,
        patience_s: float,
    ) -> None:
        self._root = root
        self._folded = folded
        self._location = location
        self._claims = claims
        self._writing = writing
        self._patience_s = patience_s
        # Removals have a thread of their own. A log location that does not answer must not occupy the threads that
        # other parts of the controller share.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-copies")
        self._running: Future[None] | None = None

    async def until_unused(self, names: Collection[str]) -> None:
        """Wait until no sweep changes the given logs.

        Raises:
            UnavailableError: A sweep still changes one of the logs after `patience_s`.
        """
        if not self._claims.is_used(names):
            return
        if not await asyncio.to_thread(self._claims.wait_until_unused, names, self._patience_s):
            raise UnavailableError(
                f"a log of the job is being copied to the log location or removed there, and this has not ended after"
                f" {self._patience_s:g} s: try again later"
            )

    @contextlib.asynccontextmanager
    async def removed(self, names: Mapping[str, str]) -> AsyncIterator[None]:
        """Return a context manager that removes copies of logs from the log location at its beginning. If the context
        ends with an exception, the marks of the logs are corrected, because their jobs stay.

        Args:
            names: The name of each log on this machine, with its name at the log location.

        Raises:
            UnavailableError: The log location cannot be reached now, or the marks cannot be written.
        """
        if self._location is None or not names:
            yield
            return
        if self._running is not None and not self._running.done():
            raise UnavailableError(
                f"the log location {self._location.url} has not answered an earlier removal yet: try again when it"
                " answers"
            )
        run = _Run(self._root, self._folded, self._location, self._claims, names)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writing, run.unmark)
            running = self._running = self._thread.submit(run.remove)
            await self._finish(run, asyncio.wrap_future(running), self._location.url)
            yield
        except BaseException:
            run.is_stopped = True
            if self._running is None or self._running.done():
                await asyncio.shield(loop.run_in_executor(self._writing, run.restore))
            else:
                # A removal still waits for an answer of the log location. The marks of the logs are restored after this
                # answer.
                self._running.add_done_callback(lambda _: self._writing.submit(run.restore))
            raise

    async def _finish(self, run: _Run, running: asyncio.Future[None], url: str) -> None:
        try:
            while not running.done():
                answers = run.num_answers
                await asyncio.wait([running], timeout=self._patience_s)
                if not running.done() and answers == run.num_answers:
                    raise UnavailableError(
                        f"the log location {url} has not answered for {self._patience_s:g} s: try again when it answers"
                    )
            running.result()
        finally:
            # Without this call, asyncio logs a later error of a removal for which this method no longer waits.
            running.cancel()


class _Run:
    """One removal of copies.

    Attributes:
        gone: The names of the logs whose copies at the log location were removed.
        num_answers: How often the log location has answered: once for each removed file and for each removed log. A log
            may have so many files that the removal of the whole log takes longer than `patience_s`.
        is_stopped: Whether the removal was stopped, so that no further copies are removed.
    """

    def __init__(
        self, root: Path, folded: FoldedLogs, location: LogLocation, claims: LogClaims, names: Mapping[str, str]
    ) -> None:
        self.gone: set[str] = set()
        self.num_answers = 0
        self.is_stopped = False
        self._root = root
        self._folded = folded
        self._location = location
        self._claims = claims
        self._names = names
        self._tried: list[str] = []
        # The folded logs from which the mark "this log is at the log location" was removed.
        self._unmarked: list[str] = []

    def unmark(self) -> None:
        """Remove the marks that the logs are at the log location, from the logs that are on this machine.

        Raises:
            UnavailableError: The mark of a log cannot be removed, for example because the disk is full.
        """
        try:
            for name in self._names:
                path = self._root / name
                if not (path / AWAY).exists():
                    (path / STORED).unlink(missing_ok=True)
            self._unmarked = self._folded.unmark_stored(self._names)
        except OSError as error:
            raise UnavailableError(f"the removal of logs cannot be prepared: {error}") from error

    def remove(self) -> None:
        """Remove the copies from the log location.

        Raises:
            UnavailableError: A copy cannot be removed.
        """
        for name, stored_as in self._names.items():
            if self.is_stopped:
                return
            with self._claims.removing(name):
                self._tried.append(name)
                self._location.remove(stored_as, self._count_answer)
                self.gone.add(name)
                self._count_answer()

    def _count_answer(self) -> None:
        self.num_answers += 1

    def restore(self) -> None:
        """Correct the marks of the logs after their removal from the log location has failed."""
        try:
            lost = []
            for name in self._tried:
                path = self._root / name
                if not is_away(path):
                    if path.exists():
                        # A reader may have fetched the log from the log location, which marks it, during the removal.
                        (path / STORED).unlink(missing_ok=True)
                    else:
                        self._folded.unfold(path)
                elif name in self.gone:
                    lost.append(path)
            mark_removed(self._folded, lost, REMOVED_WITH_JOB)
            self._folded.mark_stored(set(self._unmarked).difference(self._tried))
        except OSError as error:
            _log.warning("the marks of logs cannot be corrected after a failed removal: %s", error)
