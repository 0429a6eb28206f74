"""Keeps the logs of attempts on the controller's machine, moves small logs into one database, and copies logs to the
log location.

Only threads read and write files, so that the controller's loop never blocks. One thread writes the uploaded parts of
logs, in the order of their arrival, and moves small logs into the database. Other threads copy and remove the logs of
ended attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from iris.cluster.controller.background import BackgroundTasks
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable, removed_meanwhile
from iris.cluster.controller.logs.fetches import LogFetches
from iris.cluster.controller.logs.folding import OLD, FoldedLogs
from iris.cluster.controller.logs.logged_attempts import LoggedAttempts, stored_as
from iris.cluster.controller.logs.receive import Piece, UploadedLog, UploadedLogs
from iris.cluster.controller.logs.remote_store import LogLocation
from iris.cluster.controller.logs.removal.job_log_removal import JobLogRemoval
from iris.cluster.controller.logs.removal.log_claims import LogClaims
from iris.cluster.controller.logs.removal.removal_notes import NOTE, read_note
from iris.cluster.controller.logs.removal.removed_copies import RemovedCopies
from iris.cluster.controller.logs.removal.retention import Retention
from iris.cluster.controller.logs.sweep import LogSweep
from iris.cluster.controller.outputs.output_store import OutputKeeping
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.folded.database_name import DATABASE_NAME
from iris.cluster.logs.folded.reading import folded_tasks
from iris.cluster.logs.upload_answers import RETRY_LATER, UNWANTED
from iris.cluster.types import make_task_id, parse_task_id
from iris.config import DEFAULT_MAX_LOG_BYTES
from iris.errors import InvalidArgumentError, UnavailableError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.system.clock import now_for_ages_ms

# The seconds between two sweeps. In a sweep, the log keeper copies complete logs to the log location, and removes old
# logs.
_SWEEP_S = 60.0
# The log keeper may spend at most this share of its time on sweeps.
_SWEEP_SHARE = 0.02
# If there is a log location, a log stays on this machine for at least an hour after a reader has opened it.
_IN_USE_MS = 3_600_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keeping:
    """The settings of the log keeper.

    Attributes:
        directories: The log directories on this machine. The workers of this machine write their logs directly into
            these directories.
        retention: The rules by which logs are removed.
        location: The log location, to which complete logs are copied; None if the cluster has no log location.
        max_log_bytes: The approximate number of bytes that are kept of each attempt's log. A job may set another limit.
        now_ms: A function that returns the current time, in milliseconds since the epoch, for the ages of logs.
        outputs: The settings for the outputs of tasks; None stores no outputs.
        location_patience_s: The removal of a job fails after the log location has not answered for this many seconds.
    """

    directories: LogDirectories
    retention: Retention = field(default_factory=Retention)
    location: LogLocation | None = None
    max_log_bytes: int = DEFAULT_MAX_LOG_BYTES
    now_ms: Callable[[], int] = now_for_ages_ms
    outputs: OutputKeeping | None = None
    location_patience_s: float = 20.0


class LogKeeper:
    """Stores, copies, fetches and removes the kept logs.

    Args:
        keeping: The settings of the log keeper.
        jobs: The table of all jobs of the cluster.
        on_uploaded: A function that is called on the event loop with each log that was uploaded completely.

    Attributes:
        job_log_removal: The object that removes the logs of ended jobs.
    """

    def __init__(
        self, keeping: Keeping, jobs: JobTable, on_uploaded: Callable[[UploadedLog], None] = lambda log: None
    ) -> None:
        self._keeping = keeping
        self._on_uploaded = on_uploaded
        self._directories = keeping.directories
        self._jobs = jobs
        self._folded = FoldedLogs(keeping.directories)
        attempts = LoggedAttempts(jobs, keeping.directories)
        self._claims = LogClaims()
        self._sweep = LogSweep(
            keeping.directories, self._folded, keeping.location, keeping.retention, attempts, self._claims
        )
        self._pieces = UploadedLogs(self._folded.unfold)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="log-pieces")
        copies = RemovedCopies(
            keeping.directories.root,
            self._folded,
            keeping.location,
            self._claims,
            self._writing,
            keeping.location_patience_s,
        )
        self.job_log_removal = JobLogRemoval(
            keeping.directories, self._folded, self._claims, copies, self._writing, self._forget_use
        )
        # The directories of tasks that existed when this process started.
        self._earlier: set[str] = set()
        location = keeping.location
        self._fetches = LogFetches(keeping.directories.root, location, self._writing) if location is not None else None
        self._used_ms: dict[str, int] = {}  # The time when a reader last opened a log, by the log's name.
        self._readers: Counter[str] = Counter()
        self._background = BackgroundTasks()

    @property
    def received_bytes(self) -> int:
        """How many bytes of log records workers have uploaded since the start of the controller."""
        return self._pieces.received_bytes

    @property
    def missing_bytes(self) -> int:
        """How many bytes are missing from the logs that workers have uploaded since the start of the controller."""
        return self._pieces.missing_bytes

    @property
    def kept_bytes(self) -> int:
        """The size of all logs on this machine at the time of the last sweep."""
        return self._sweep.kept_bytes

    def start(self) -> None:
        """Begin to sweep: about every minute, copy complete logs and remove old logs."""
        with contextlib.suppress(FileNotFoundError):
            self._earlier = {path.name for path in self._directories.root.iterdir()}
        for name in [name for name in self._earlier if name.startswith(OLD)]:
            self._background.start(asyncio.to_thread(shutil.rmtree, self._directories.root / name, ignore_errors=True))
        for name in [name for name in self._earlier if name.startswith(NOTE)]:
            self._background.start(self._finish_removal(self._directories.root / name))
        self._background.start(self._sweep_for_ever())

    async def close(self) -> None:
        """Stop sweeping and fetching. Workers can still upload their last logs."""
        if self._keeping.location is not None:
            self._keeping.location.close()
        if self._fetches is not None:
            await self._fetches.close()
        await self._background.cancel()
        await asyncio.to_thread(self._folded.close)

    # For readers.

    def attempt(self, task_id: str, attempt_id: int) -> Path:
        """Return the directory of an attempt's log. The directory may not exist, because the log may be folded, or may
        only be at the log location.
        """
        return self._directories.attempt(task_id, attempt_id)

    def is_complete(self, task_id: str, attempt_id: int) -> bool:
        """Return whether the whole log of an attempt was uploaded. The result stays true after the log was removed."""
        return self._directories.is_complete(task_id, attempt_id)

    async def provide(self, task_id: str, attempt_id: int) -> Path:
        """Fetch the log of an ended attempt from the log location if the log is not on this machine.

        Returns:
            The directory of the log.

        Raises:
            NotFoundError: There is no such job, or the job was removed during the fetch.
            UnavailableError: The log cannot be fetched.
        """
        path = self.attempt(task_id, attempt_id)
        if self._fetches is None:
            return path
        name = self._directories.name(task_id, attempt_id)
        self._used_ms[name] = self._keeping.now_ms()
        await self._sweep.is_done_with(name)
        record = await self._existing_job(task_id)
        try:
            if await self._fetches.fetch(name, stored_as(name, record)):
                return path
        except OSError as error:
            if isinstance(error, UnavailableError):
                raise
            raise UnavailableError(f"the log of {task_id!r} cannot be fetched: {error}") from error
        raise removed_meanwhile(record, what="logs")

    async def _existing_job(self, task_id: str) -> JobRecord:
        """Return the job of a task. The job was not removed while this method read it, so that a caller can begin a
        fetch of one of its logs before the next await.

        Raises:
            NotFoundError: There is no such job.
        """
        while True:
            removed = self._jobs.removed
            record = await self._jobs.find(parse_task_id(task_id)[0])
            if removed == self._jobs.removed:
                return record

    @contextlib.contextmanager
    def reading(self, task_id: str, attempt_id: int) -> Iterator[None]:
        """Return a context manager that prevents sweeps from removing or folding an attempt's log while the context is
        open. The removal of the job removes the log nevertheless.
        """
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
        """Store the uploaded parts of logs. The answer has, for each part, the position from which the worker has to
        send the next part.
        """
        limits = [await self._limit(request.worker_id, piece) for piece in request.pieces]
        loop = asyncio.get_running_loop()
        positions, uploaded = await loop.run_in_executor(self._writing, self._store, request.pieces, limits)
        for log in uploaded:
            self._on_uploaded(log)
        return cluster_pb2.Controller.StoreLogsResponse(positions=positions)

    async def _limit(self, worker_id: str, piece: Piece) -> int | None:
        """Return the number of bytes of an attempt's log to keep. Return None if the uploaded part must not be stored,
        because the job is unknown, or because the worker that uploads the log never ran the attempt.
        """
        try:
            job_id, task_index = parse_task_id(piece.task_id)
        except ValueError:
            return None
        record = await self._jobs.get(job_id)
        tasks = record.job.tasks if record is not None else ()
        attempts = tasks[task_index].attempts if task_index < len(tasks) else ()
        attempt = attempts[piece.attempt_id] if 0 <= piece.attempt_id < len(attempts) else None
        if record is None or attempt is None:
            return None
        if (attempt.worker_id, attempt.worker_incarnation) != (worker_id, piece.incarnation):
            return None
        if piece.job_submitted_at_ms not in (0, record.job.submitted_at_ms):
            return None  # The uploaded part is dropped, because it belongs to a removed job with the same name.
        return record.launch.max_log_bytes or self._keeping.max_log_bytes

    def _store(self, pieces: Sequence[Piece], limits: Sequence[int | None]) -> tuple[list[int], list[UploadedLog]]:
        """Store uploaded parts. Return the positions of the next parts, and the logs that are complete now."""
        positions = []
        for piece, limit in zip(pieces, limits, strict=True):
            path = self.attempt(piece.task_id, piece.attempt_id)
            try:
                failpoint("keep.before")
                positions.append(UNWANTED if limit is None else self._pieces.store(path, piece, limit))
                failpoint("keep.after")
            except InvalidArgumentError as error:
                # An invalid part must not prevent the other uploaded parts from being stored.
                _log.warning("an invalid part of a log of %s was refused: %s", piece.task_id, error)
                positions.append(UNWANTED)
            except OSError as error:
                # The cause of a failed write may be temporary. Therefore the answer asks the worker to send the part
                # again later.
                _log.warning("a part of a log of %s cannot be stored: %s", piece.task_id, error)
                positions.append(RETRY_LATER)
        return positions, self._pieces.pop_completed()

    # For the controller.

    def job_launched(self, job_id: str, tasks: int) -> None:
        """Remove the logs of an earlier job with the same name. An earlier cluster may have left such logs in the log
        directory, or an earlier controller was killed before it had removed the logs of a removed job.
        """
        if not self._earlier:
            return
        root = self._directories.root
        folders = [self._directories.task(make_task_id(job_id, index)) for index in range(tasks)]
        if DATABASE_NAME in self._earlier:
            self._remove_folded(folders)
        self._claims.exclude_tasks([folder.name for folder in folders])
        for folder in folders:
            if folder.name in self._earlier:
                self._earlier.discard(folder.name)
                old = root / f"{OLD}{secrets.token_hex(8)}"
                try:
                    folder.rename(old)
                except FileNotFoundError:
                    continue  # There is nothing to remove, because a sweep has already removed the directory.
                self._background.start(asyncio.to_thread(shutil.rmtree, old, ignore_errors=True))

    async def _finish_removal(self, note: Path) -> None:
        """Remove the logs that an earlier controller had to remove together with their jobs. A note names the jobs. The
        logs of a job that exists stay: its removal has failed, or it is a new job with the same name.
        """
        try:
            for job_id, tasks in (await asyncio.to_thread(read_note, note)).items():
                if not self._jobs.exists(job_id):
                    self.job_launched(job_id, tasks)
            await asyncio.to_thread(note.unlink, missing_ok=True)
        except OSError as error:
            _log.warning("logs of removed jobs stay on this machine until the next start: %s", error)

    def _remove_folded(self, folders: Sequence[Path]) -> None:
        # The database is written only if it has logs of an earlier job with the same name, which is rare. A write
        # blocks the event loop while another thread writes to the database. An error must not prevent the submission of
        # the new job.
        try:
            tasks = folded_tasks(folders)
            if tasks:
                self._folded.remove_tasks(tasks)
        except OSError as error:
            _log.warning("the folded logs of an earlier job with the same name cannot be removed: %s", error)

    def _forget_use(self, names: Sequence[str]) -> None:
        for name in names:
            self._used_ms.pop(name, None)
        if self._fetches is not None:
            self._fetches.drop(names)

    async def sweep(self) -> None:
        """Copy complete logs to the log location, and remove the logs that the retention rules choose."""
        now_ms = self._keeping.now_ms()
        self._used_ms = {name: at for name, at in self._used_ms.items() if now_ms - at < _IN_USE_MS}
        await self._sweep.sweep(now_ms, lambda name: name in self._used_ms or name in self._readers, self._writing)

    async def _sweep_for_ever(self) -> None:
        while True:
            began_s = time.monotonic()
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - After any exception, the next sweep may succeed.
                _log.exception("a sweep of the logs in %s failed", self._directories.root)
            await asyncio.sleep(max(_SWEEP_S, (time.monotonic() - began_s) / _SWEEP_SHARE))
