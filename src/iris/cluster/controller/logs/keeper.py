"""Keeps what attempts wrote, on this machine and at a URL: takes it from workers, and gives it to readers.

What attempts there are is read on the controller's loop. Files are touched in threads only: pieces in a thread of their
own, in the order in which they come; copies in others, and only of attempts that have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.receive import LogPieces, Piece
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.controller.logs.retention import Retention
from iris.cluster.controller.logs.sweep import LogSweep, fetch_log, stored_as
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.upload_answers import RETRY_LATER, UNWANTED
from iris.cluster.types import make_task_id, parse_task_id
from iris.config import DEFAULT_MAX_LOG_BYTES
from iris.errors import InvalidArgumentError, UnavailableError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.system.clock import now_for_ages_ms

_SWEEP_S = 60.0
_SWEEP_SHARE = 0.02  # of the time, at most, is spent on looking at what there is
_IN_USE_MS = 3_600_000  # for so long after it was fetched for a reader, a copy stays
_OLD = ".old-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How logs are kept.

    Attributes:
        directories: Where they lie on this machine. The workers of this machine write there themselves.
        retention: For how long.
        location: Where they are copied to once they are complete; None: nowhere.
        max_log_bytes: What is taken of an attempt, about, where its job does not say that.
        now_ms: The time, as ages are measured by it.
    """

    directories: LogDirectories
    retention: Retention = field(default_factory=Retention)
    location: LogLocation | None = None
    max_log_bytes: int = DEFAULT_MAX_LOG_BYTES
    now_ms: Callable[[], int] = now_for_ages_ms


class LogKeeper:
    """The logs that are kept.

    Args:
        keeping: Where and how.
        jobs: By id; the controller's own.
    """

    def __init__(self, keeping: Keeping, jobs: Mapping[str, JobRecord]) -> None:
        self._keeping = keeping
        self._directories = keeping.directories
        self._jobs = jobs
        self._sweep = LogSweep(keeping.directories, keeping.location, keeping.retention, jobs)
        self._pieces = LogPieces()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="log-pieces")
        self._earlier: set[str] = set()  # the directories of tasks that were here before this process was
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._used_ms: dict[str, int] = {}  # when a log was fetched, or found to be here, for a reader
        self._readers: Counter[str] = Counter()
        self._background: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Begins to copy and to remove, every minute or so."""
        with contextlib.suppress(FileNotFoundError):
            self._earlier = {path.name for path in self._directories.root.iterdir()}
        for name in [name for name in self._earlier if name.startswith(_OLD)]:
            self._in_background(asyncio.to_thread(shutil.rmtree, self._directories.root / name, ignore_errors=True))
        self._in_background(self._sweep_for_ever())

    async def close(self) -> None:
        """Ends what is under way in the background. Workers that end still hand over what they have."""
        if self._keeping.location is not None:
            self._keeping.location.close()
        tasks = [*self._background, *self._fetching.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # For readers.

    def attempt(self, task_id: str, attempt_id: int) -> Path:
        """Where the log of an attempt lies, or will once it was provided."""
        return self._directories.attempt(task_id, attempt_id)

    def is_complete(self, task_id: str, attempt_id: int) -> bool:
        """Whether all of an attempt's log is kept, or was and is removed: nothing will be added to it."""
        return self._directories.is_complete(task_id, attempt_id)

    async def provide(self, task_id: str, attempt_id: int) -> Path:
        """Fetches the log of an attempt that has ended, where it is at the location and not here.

        Returns:
            Where it lies.

        Raises:
            UnavailableError: It cannot be fetched.
        """
        path, location = self.attempt(task_id, attempt_id), self._keeping.location
        if location is None:
            return path
        name = self._directories.name(task_id, attempt_id)
        self._used_ms[name] = self._keeping.now_ms()
        await self._sweep.is_done_with(name)
        fetching = self._fetching.get(name)
        if fetching is None:
            stored = stored_as(name, self._jobs[parse_task_id(task_id)[0]])
            fetching = asyncio.create_task(asyncio.to_thread(fetch_log, location, stored, path))
            self._fetching[name] = fetching
            fetching.add_done_callback(lambda _: self._fetching.pop(name, None))
        try:
            await asyncio.shield(fetching)  # others may be waiting for it too
        except OSError as error:
            if isinstance(error, UnavailableError):
                raise
            raise UnavailableError(f"the log of {task_id!r} cannot be fetched: {error}") from error
        return path

    @contextlib.contextmanager
    def reading(self, task_id: str, attempt_id: int) -> Iterator[None]:
        """For as long as somebody reads the log of an attempt, it stays here."""
        name = self._directories.name(task_id, attempt_id)
        self._readers[name] += 1
        try:
            yield
        finally:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]

    # For workers.

    async def store_logs(
        self, request: cluster_pb2.Controller.StoreLogsRequest
    ) -> cluster_pb2.Controller.StoreLogsResponse:
        """Takes what a worker hands over; of each log what is wanted next, also where this one cannot be written."""
        limits = [self._limit(request.worker_id, piece) for piece in request.pieces]
        loop = asyncio.get_running_loop()
        positions = await loop.run_in_executor(self._writing, self._store, request.pieces, limits)
        return cluster_pb2.Controller.StoreLogsResponse(positions=positions)

    def _limit(self, worker_id: str, piece: Piece) -> int | None:
        """What is kept of the attempt of a piece; None: nothing, it is none of ours, or not this worker's."""
        try:
            job_id, task_index = parse_task_id(piece.task_id)
        except ValueError:
            return None
        record = self._jobs.get(job_id)
        tasks = record.job.tasks if record is not None else ()
        attempts = tasks[task_index].attempts if task_index < len(tasks) else ()
        attempt = attempts[piece.attempt_id] if 0 <= piece.attempt_id < len(attempts) else None
        if record is None or attempt is None:
            return None
        if (attempt.worker_id, attempt.worker_incarnation) != (worker_id, piece.incarnation):
            return None
        return record.launch.max_log_bytes or self._keeping.max_log_bytes

    def _store(self, pieces: Sequence[Piece], limits: Sequence[int | None]) -> list[int]:
        positions = []
        for piece, limit in zip(pieces, limits, strict=True):
            path = self.attempt(piece.task_id, piece.attempt_id)
            try:
                failpoint("keep.before")
                positions.append(UNWANTED if limit is None else self._pieces.store(path, piece, limit))
                failpoint("keep.after")
            except InvalidArgumentError as error:  # it must not stand in the way of the others
                _log.warning("refused a piece of a log of %s: %s", piece.task_id, error)
                positions.append(UNWANTED)
            except OSError as error:  # neither must this, which may pass
                _log.warning("cannot keep a piece of a log of %s: %s", piece.task_id, error)
                positions.append(RETRY_LATER)
        return positions

    # For the controller.

    def job_launched(self, job_id: str, tasks: int) -> None:
        """A job is new: what lies here of one with its name was left by another life of this directory."""
        if not self._earlier:
            return
        root = self._directories.root
        for index in range(tasks):
            folder = self._directories.task(make_task_id(job_id, index))
            if folder.name in self._earlier:
                self._earlier.discard(folder.name)
                old = root / f"{_OLD}{secrets.token_hex(8)}"
                try:
                    folder.rename(old)
                except FileNotFoundError:
                    continue  # removed since, by a sweep
                self._in_background(asyncio.to_thread(shutil.rmtree, old, ignore_errors=True))

    async def sweep(self) -> None:
        """Copies what is complete, and removes what is not to be kept."""
        now_ms = self._keeping.now_ms()
        self._used_ms = {name: at for name, at in self._used_ms.items() if now_ms - at < _IN_USE_MS}
        await self._sweep.sweep(now_ms, lambda name: name in self._used_ms or name in self._readers)

    async def _sweep_for_ever(self) -> None:
        while True:
            began_s = time.monotonic()
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - whatever it was, the next sweep may do better
                _log.exception("looking after the logs in %s", self._directories.root)
            await asyncio.sleep(max(_SWEEP_S, (time.monotonic() - began_s) / _SWEEP_SHARE))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._background.discard)
