"""Keeps the records of the attempts that this worker knows, and counts the readers of their logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Coroutine, Iterator
from pathlib import Path

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.segments import has_log, is_away
from iris.cluster.types import make_task_id, parse_task_id
from iris.cluster.worker.attempt.attempt_record import Attempt, AttemptKey
from iris.cluster.worker.metrics.attempt_tally import AttemptTally
from iris.cluster.worker.paths import AttemptDir, WorkerDir
from iris.errors import NotFoundError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.pages import Page, cut_named_page
from iris.rpc.serving.steps import finish

_REMEMBERED = 10_000  # The largest number of records of attempts in memory, including the records of ended attempts.


class AttemptRegistry:
    """The records of this worker's attempts.

    Args:
        worker_id: The id of this worker, for error texts.
        directory: The worker directory, where the logs of forgotten attempts are found.

    Attributes:
        tally: The object that counts the ended attempts.
    """

    def __init__(self, worker_id: str, directory: WorkerDir) -> None:
        self.worker_id = worker_id
        self._directory = directory
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._runs: dict[AttemptKey, asyncio.Task[None]] = {}
        self._without_end: dict[AttemptKey, LogWriter] = {}
        # For each attempt's directory, how many calls are reading the log of this attempt.
        self._readers: Counter[Path] = Counter()
        self.tally = AttemptTally()

    def add(self, attempt: Attempt) -> None:
        """Add the record of a new attempt."""
        self._attempts[attempt.key] = attempt
        attempt.log_state()

    def start_run(self, attempt: Attempt, run: Coroutine[None, None, None]) -> None:
        """Run an attempt in a task of the event loop. The attempt counts as running until the asyncio task is done."""
        task = self._runs[attempt.key] = asyncio.create_task(run)
        task.add_done_callback(lambda _: self._runs.pop(attempt.key, None))

    def get(self, task_id: str, attempt_id: int) -> Attempt | None:
        """Return an attempt, or None if this process does not know the attempt."""
        return self._attempts.get((task_id, attempt_id))

    def find(self, task_id: str, attempt_id: int) -> Attempt:
        """Return an attempt.

        Raises:
            NotFoundError: This process does not know the attempt.
        """
        attempt = self._attempts.get((task_id, attempt_id))
        if attempt is None:
            raise NotFoundError(
                f"worker {self.worker_id} has no attempt {attempt_id} of task {task_id!r}",
                reason=ErrorReason.ATTEMPT_NOT_FOUND,
                metadata={"task_id": task_id, "attempt_id": str(attempt_id)},
            )
        return attempt

    def newest(self, task_id: str) -> Attempt:
        """Return the newest attempt of a task.

        Raises:
            NotFoundError: This process knows no attempt of the task.
        """
        attempts = [attempt for (task, _), attempt in self._attempts.items() if task == task_id]
        if not attempts:
            raise NotFoundError(
                f"worker {self.worker_id} has no task {task_id!r}",
                reason=ErrorReason.TASK_NOT_FOUND,
                metadata={"task_id": task_id},
            )
        return attempts[-1]

    def list_statuses(self, page_size: int, page_token: str) -> Page[cluster_pb2.TaskStatus]:
        """Return one page with the status of each task's newest attempt, ordered by job and task index."""
        newest = {_sort_key(task_id): attempt for (task_id, _), attempt in self._attempts.items()}

        def status(key: str) -> cluster_pb2.TaskStatus:
            return newest[key].status(self.worker_id)

        return finish(cut_named_page("tasks", sorted(newest), status, page_size=page_size, page_token=page_token))

    def running(self) -> list[Attempt]:
        """Return the attempts that are prepared, running or being concluded."""
        return [self._attempts[key] for key in self._runs]

    def with_process(self) -> list[Attempt]:
        """Return the attempts whose process has started and that have not ended."""
        return [attempt for attempt in self._attempts.values() if attempt.process is not None]

    def is_running(self, job_id: str, task_index: int, attempt_id: int, submitted_at_ms: int) -> bool | None:
        """Return True if an attempt runs, False if it has ended, and None if this process does not know the attempt.

        Args:
            job_id: The id of the job.
            task_index: The index of the task in its job, from 0.
            attempt_id: The number of the attempt, from 0.
            submitted_at_ms: When the job was submitted, because a removed job may have had the same id; 0 means any
                job with the id.
        """
        attempt = self._attempts.get((make_task_id(job_id, task_index), attempt_id))
        if attempt is None or submitted_at_ms not in (0, attempt.request.job_submitted_at_ms):
            return None
        return not attempt.is_final

    def discard(self, key: AttemptKey) -> None:
        """Stop an attempt that should not run on this worker, according to the controller."""
        attempt = self._attempts.get(key)
        if attempt is not None:
            attempt.stop(attempt.grace_s)

    def stop_all(self, max_grace_s: float) -> None:
        """Stop all attempts. Each attempt has the grace period of its job, but at most `max_grace_s` seconds."""
        for attempt in self._attempts.values():
            attempt.stop(min(attempt.grace_s, max_grace_s))

    def kill_all(self) -> None:
        """Kill the processes of all attempts at once, without a grace period."""
        for attempt in self._attempts.values():
            attempt.kill()

    async def until_all_ended(self) -> None:
        """Wait until no attempt is running, including attempts that begin during the wait. The tasks that run the
        attempts are not awaited by `asyncio.gather`, because a cancelled caller would cancel these tasks, too.
        """
        while self._runs:
            await asyncio.wait(self._runs.values())

    def log_of(self, task_id: str, attempt_id: int | None) -> tuple[int, AttemptDir, Attempt | None]:
        """Return the id, the directory and the record of an attempt whose log is on this disk. The record is None for
        an attempt of an earlier process of this worker. Attempts of earlier processes have ended.

        Args:
            task_id: The id of the task.
            attempt_id: The id of the attempt; None means the newest attempt.

        Raises:
            NotFoundError: The log is not on this disk, or the controller has moved parts of it elsewhere.
        """
        if attempt_id is None:
            known = [attempt for task, attempt in self._attempts if task == task_id]
            on_disk = known or self._directory.attempt_ids(task_id)
            if not on_disk:
                raise NotFoundError(
                    f"worker {self.worker_id} has no log of task {task_id!r}",
                    reason=ErrorReason.LOG_NOT_FOUND,
                    metadata={"task_id": task_id},
                )
            attempt_id = max(on_disk)
        attempt = self._attempts.get((task_id, attempt_id))
        directory = self._directory.attempt(task_id, attempt_id)
        if attempt is None and not (directory.path.exists() and has_log(directory.log)):
            raise NotFoundError(
                f"worker {self.worker_id} has no log of attempt {attempt_id} of task {task_id!r}",
                reason=ErrorReason.LOG_NOT_FOUND,
                metadata={"task_id": task_id, "attempt_id": str(attempt_id)},
            )
        if (attempt is None or attempt.is_final) and is_away(directory.log):
            raise NotFoundError(
                f"worker {self.worker_id} no longer has the log of attempt {attempt_id} of {task_id!r}",
                reason=ErrorReason.LOG_NOT_FOUND,
                metadata={"task_id": task_id, "attempt_id": str(attempt_id)},
            )
        return attempt_id, directory, attempt

    def directory_of(self, task_id: str, attempt_id: int | None) -> tuple[int, AttemptDir, Attempt | None]:
        """Return the id, the directory and the record of an attempt whose directory is on this disk. The record is None
        for an attempt of an earlier process of this worker.

        Args:
            task_id: The id of the task.
            attempt_id: The id of the attempt; None means the newest attempt.

        Raises:
            InvalidArgumentError: The task id is invalid.
            NotFoundError: The directory is not on this disk.
        """
        parse_task_id(task_id)
        known = self._directory.attempt_ids(task_id)
        number = attempt_id if attempt_id is not None else max(known, default=-1)
        if number not in known:
            raise NotFoundError(
                f"worker {self.worker_id} does not have the directory of attempt {number} of task {task_id!r}"
                if known
                else f"worker {self.worker_id} does not have the directory of task {task_id!r}",
                reason=ErrorReason.ATTEMPT_NOT_FOUND,
                metadata={"task_id": task_id},
            )
        return number, self._directory.attempt(task_id, number), self._attempts.get((task_id, number))

    @contextlib.contextmanager
    def reading(self, directory: AttemptDir) -> Iterator[None]:
        """Protect the directory of an attempt from removal while the context is open. A caller that reads the attempt's
        log opens the context.
        """
        self._readers[directory.path] += 1
        try:
            yield
        finally:
            self._readers[directory.path] -= 1
            if not self._readers[directory.path]:
                del self._readers[directory.path]

    def busy_directories(self) -> set[Path]:
        """Return the directories of attempts that must not be removed.

        A directory must stay while its attempt has not ended, while the controller has not acknowledged the attempt's
        end, and while the attempt's log is being read.
        """
        unreported = {a.directory.path for a in self._attempts.values() if not (a.is_final and a.reported)}
        return unreported | self._readers.keys()

    def owner_of_job(self, job_id: str) -> str | None:
        """Return the owner of a job, or None if this process knows no attempt of the job."""
        owners = (attempt.request.owner for attempt in self._attempts.values() if attempt.request.job_id == job_id)
        return next(owners, None)

    def directories_of(self, job_id: str) -> set[Path]:
        """Return the directories of the attempts of a job that this process knows."""
        return {a.directory.path for a in self._attempts.values() if a.request.job_id == job_id}

    def forget(self, directories: Collection[Path]) -> None:
        """Drop the records of attempts whose directories or logs are about to be removed."""
        for key, attempt in list(self._attempts.items()):
            if attempt.directory.path in directories:
                del self._attempts[key]

    def forget_job(self, job_id: str, submitted_at_ms: int) -> None:
        """Drop the records of a job's ended attempts. The records of a later job with the same name stay."""
        for key, attempt in list(self._attempts.items()):
            request = attempt.request
            if request.job_id == job_id and request.job_submitted_at_ms == submitted_at_ms and attempt.is_final:
                del self._attempts[key]

    def forget_surplus(self) -> None:
        """Drop the oldest record of an ended and reported attempt when there are too many records. The log of a
        forgotten attempt stays on disk, where `log_of` finds it.
        """
        if len(self._attempts) <= _REMEMBERED:
            return
        for key, attempt in self._attempts.items():
            if attempt.is_final and attempt.reported:
                del self._attempts[key]
                return

    def log_without_end(self, attempt: Attempt) -> None:
        """Record that the end of an attempt's log could not be written. The method `close_logs` tries to write the end
        again.
        """
        self._without_end[attempt.key] = attempt.log

    def close_logs(self) -> None:
        """Try again to write the files `end` of logs that a full disk did not accept when the attempts ended."""
        for key, log in list(self._without_end.items()):
            if key in self._attempts:
                log.close()
            if log.is_ended or key not in self._attempts:
                del self._without_end[key]


def _sort_key(task_id: str) -> str:
    job_id, index = parse_task_id(task_id)
    return f"{job_id}/{index:010}"
