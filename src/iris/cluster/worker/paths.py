"""Where everything of a worker lies on disk: the one owner of every path.

{root}/attempts/{task}/{attempt}/log/          what the attempt wrote (segments.py)
                                 work/         its working directory: a copy of the workspace, or empty
                                 entrypoint    the pickled callable
                                 result        what it returned; `result.error`, `result.failure`: why there is none
                                 hosts         where the tasks of its gang are; the attempt's own, which it may change
                                 handover      its log is not yet with the controller (log_upload.py); handed_over: it
{root}/bundles/{hash}/                         workspaces, unpacked once for all attempts
{root}/discarded/                              what is being removed
{root}/clock                                   by what ages are measured, see iris.system.clock
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.logs.directories import LogDirectories, subfolders, task_folder
from iris.errors import FailedPreconditionError, ResourceExhaustedError
from iris.system.private_dir import make_private


@dataclass(frozen=True, slots=True)
class AttemptDir:
    """The paths of one attempt. `create` makes the directory; nothing else does.

    Attributes:
        path: The directory.
        kept_log: Where its log lies when that is elsewhere.
    """

    path: Path
    kept_log: Path | None = None

    @property
    def log(self) -> Path:
        """The directory of the attempt's log."""
        return self.path / "log" if self.kept_log is None else self.kept_log

    @property
    def upload_pending(self) -> Path:
        """Names the attempt, for as long as its log is not completely uploaded."""
        return self.path / "handover"

    @property
    def uploaded(self) -> Path:
        """Exists once the controller has the whole log."""
        return self.path / "handed_over"

    @property
    def work(self) -> Path:
        """The attempt's working directory."""
        return self.path / "work"

    @property
    def entrypoint(self) -> Path:
        """The pickled callable."""
        return self.path / "entrypoint"

    @property
    def result(self) -> Path:
        """The pickled return value."""
        return self.path / "result"

    @property
    def result_error(self) -> Path:
        """Why a callable that returned has no result: one sentence."""
        return self.path / "result.error"

    @property
    def failure(self) -> Path:
        """Why a callable failed: one sentence."""
        return self.path / "result.failure"

    @property
    def failure_code(self) -> Path:
        """The code of the reason why a callable failed, see failure_codes.py."""
        return self.path / "result.code"

    @property
    def exception(self) -> Path:
        """The pickled exception that a callable raised."""
        return self.path / "result.exception"

    @property
    def traceback(self) -> Path:
        """The traceback of the exception that a callable raised, as text."""
        return self.path / "result.traceback"

    @property
    def hosts(self) -> Path:
        """Where the tasks of the attempt's gang are: one host a line, by task index."""
        return self.path / "hosts"

    def create(self) -> None:
        """Makes the attempt's directory anew: what an earlier worker with the same place left is removed.

        A controller counts attempts on for as long as it remembers the job, so what is found here belongs to a job of
        that name that nobody remembers.
        """
        for leftover in (self.path, self.log):
            if leftover.exists():
                shutil.rmtree(leftover)
        self.path.mkdir(parents=True)
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


class WorkerDir:
    """The directory of one worker.

    Args:
        root: Made when it is missing, readable by its owner only: logs and code are private.
        logs: Where logs are kept for longer than workers live, and are written to at once; None: with the attempts.
    """

    def __init__(self, root: Path, logs: LogDirectories | None = None) -> None:
        self._root = root
        self._logs = logs
        make_private(root)
        for leftover in ((root / "discarded"), *(root / "bundles").glob(".*")):
            shutil.rmtree(leftover, ignore_errors=True)  # half removed, or unpacked, when an earlier worker was killed

    @property
    def clock(self) -> Path:
        """By what the ages of attempts are measured, see `iris.system.clock.keep_ages_in`."""
        return self._root / "clock"

    @property
    def disks(self) -> list[Path]:
        """The directories below which attempts and their logs are written."""
        return [self._root, *([] if self._logs is None else [self._logs.root])]

    def attempt(self, task_id: str, attempt_id: int) -> AttemptDir:
        """The paths of an attempt, whether it exists or not."""
        kept_log = None if self._logs is None else self._logs.attempt(task_id, attempt_id)
        return AttemptDir(self._task(task_id) / str(attempt_id), kept_log)

    def attempt_ids(self, task_id: str) -> list[int]:
        """The attempts of a task that are on disk, in order."""
        try:
            return sorted(int(entry.name) for entry in self._task(task_id).iterdir() if entry.name.isdigit())
        except FileNotFoundError:
            return []

    def attempts(self) -> Iterator[AttemptDir]:
        """All attempts that are on disk."""
        root = self._root / "attempts"
        for task in subfolders(root):
            for attempt in filter(str.isdigit, subfolders(root / task)):
                kept_log = None if self._logs is None else self._logs.root / task / attempt
                yield AttemptDir(root / task / attempt, kept_log)

    def discard(self, path: Path) -> Path | None:
        """Takes something of an attempt out of the way, as a whole.

        Returns:
            Where it lies now, to be removed; None where it was not there, or could not be moved.
        """
        discarded = self._root / "discarded" / secrets.token_hex(8)
        try:
            discarded.parent.mkdir(exist_ok=True)
            path.rename(discarded)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # of the task, with its last attempt
        return discarded

    def bundle(self, bundle_hash: str) -> Path:
        """Where the workspace with this hash lies, or will lie."""
        return self._root / "bundles" / bundle_hash

    def _task(self, task_id: str) -> Path:
        return self._root / "attempts" / task_folder(task_id)


def read_task_file(path: Path, max_bytes: int) -> bytes:
    """What a task has left for us in its own directory, where it could make anything: a pipe, a link, a huge file.

    Raises:
        FileNotFoundError: There is nothing.
        ResourceExhaustedError: It is larger than `max_bytes`.
        FailedPreconditionError: It is no file, or cannot be read.
    """
    try:
        # Without waiting for who may open the other end, and without following a link.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FailedPreconditionError(f"{path.name} is no file")
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FailedPreconditionError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise ResourceExhaustedError(f"{path.name} is over the limit of {max_bytes:,} bytes")
    return data
