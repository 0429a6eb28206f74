"""Defines all paths in the directory of a worker.

{root}/attempts/{task}/{attempt}/log/          the log of the attempt, see cluster/logs/segments.py
                                 work/         the working directory: a copy of the workspace, or an empty folder
                                 incoming/     the files that are being copied to the working directory
                                 entrypoint    the pickled callable
                                 inputs        the pickled inputs of the callable, for a task with inputs
                                 result        the pickled return value; `result.*` explain a missing result
                                 profiled/     the memory profile of the attempt
                                 hosts         the hosts of the gang's tasks; a copy that the attempt may change
                                 handover      names the attempt until its log is uploaded (log_upload.py)
                                 handed_over   exists once the log is uploaded
{root}/bundles/{hash}/                         the workspaces, unpacked once for all attempts
{root}/discarded/                              the files and directories that are being removed
{root}/clock                                   the clock that measures ages, see iris.system.clock
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.logs.directories import LogDirectories, subfolders, task_folder
from iris.cluster.memory_profile import PROFILE_PATH
from iris.errors import FailedPreconditionError, ResourceExhaustedError
from iris.system.private_dir import make_private

_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AttemptDir:
    """The paths of one attempt.

    Attributes:
        path: The directory of the attempt, which only `create` creates.
        kept_log: The directory of the log if the log is written outside `path`; None if the log is written inside.
    """

    path: Path
    kept_log: Path | None = None

    @property
    def log(self) -> Path:
        """The directory of the attempt's log."""
        return self.path / "log" if self.kept_log is None else self.kept_log

    @property
    def upload_pending(self) -> Path:
        """The path of the file `handover`, which names the attempt. The file exists until the attempt's log is
        uploaded.
        """
        return self.path / "handover"

    @property
    def uploaded(self) -> Path:
        """The path of a file that exists if the controller has the whole log."""
        return self.path / "handed_over"

    @property
    def work(self) -> Path:
        """The attempt's working directory."""
        return self.path / "work"

    @property
    def incoming(self) -> Path:
        """The folder for the parts of files that are being copied to the working directory."""
        return self.path / "incoming"

    @property
    def entrypoint(self) -> Path:
        """The file of the pickled callable."""
        return self.path / "entrypoint"

    @property
    def inputs(self) -> Path:
        """The file of the pickled inputs of a task with inputs."""
        return self.path / "inputs"

    @property
    def result(self) -> Path:
        """The file of the pickled return value."""
        return self.path / "result"

    @property
    def result_error(self) -> Path:
        """The file with one sentence about the reason why a successful callable has no result."""
        return self.path / "result.error"

    @property
    def failure(self) -> Path:
        """The file with one sentence about the reason why a callable failed."""
        return self.path / "result.failure"

    @property
    def failure_code(self) -> Path:
        """The file that contains why a callable failed, as the name of a `FailureCode`."""
        return self.path / "result.code"

    @property
    def exception(self) -> Path:
        """The file of the pickled exception that a callable raised."""
        return self.path / "result.exception"

    @property
    def traceback(self) -> Path:
        """The file with the traceback of the exception that a callable raised, as text."""
        return self.path / "result.traceback"

    @property
    def profiled(self) -> Path:
        """The directory that contains the memory profile of the attempt. The worker sends it to the controller like the
        outputs.
        """
        return self.path / "profiled"

    @property
    def hosts(self) -> Path:
        """The file with the hosts of the gang's tasks: one host per line, by task index."""
        return self.path / "hosts"

    def spent_files(self) -> list[Path]:
        """Return the existing files that nobody needs after the worker has handled the end of the attempt."""
        files = (
            self.entrypoint,
            self.inputs,
            self.hosts,
            self.result,
            self.result_error,
            self.failure,
            self.failure_code,
            self.exception,
            self.traceback,
            self.profiled / PROFILE_PATH,
        )
        return [file for file in files if file.is_file()]

    def create(self) -> None:
        """Create the attempt's directory. A directory with the same path from an earlier job of the same name is
        removed first.

        While a controller remembers a job, it never uses the number of an attempt twice. Therefore an existing
        directory with this path belongs to a job that no controller remembers.
        """
        for leftover in (self.path, self.log):
            if leftover.exists():
                shutil.rmtree(leftover)
        self.path.mkdir(parents=True)
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


class WorkerDir:
    """The directory of one worker.

    Args:
        root: The directory. A missing directory is created, and only its owner can read the directory, because logs and
            code are private.
        logs: The directory for logs that outlive the worker; None writes the log of each attempt into the attempt's
            directory.
    """

    def __init__(self, root: Path, logs: LogDirectories | None = None) -> None:
        self._root = root
        self._logs = logs
        make_private(root)
        for leftover in ((root / "discarded"), *(root / "bundles").glob(".*")):
            # Remove the directories that an earlier worker process was removing or unpacking when it was killed.
            shutil.rmtree(leftover, ignore_errors=True)

    @property
    def clock(self) -> Path:
        """The file of the clock that measures the ages of attempts; see `iris.system.clock.keep_ages_in`."""
        return self._root / "clock"

    @property
    def disks(self) -> list[Path]:
        """The directories below which attempts and their logs are written."""
        return [self._root, *([] if self._logs is None else [self._logs.root])]

    def attempt(self, task_id: str, attempt_id: int) -> AttemptDir:
        """Return the paths of the directory and the log of an attempt, even if these do not exist."""
        kept_log = None if self._logs is None else self._logs.attempt(task_id, attempt_id)
        return AttemptDir(self._task(task_id) / str(attempt_id), kept_log)

    def attempt_ids(self, task_id: str) -> list[int]:
        """Return the ids of a task's attempts that are on disk, in order."""
        try:
            return sorted(int(entry.name) for entry in self._task(task_id).iterdir() if entry.name.isdigit())
        except FileNotFoundError:
            return []

    def attempts_of(self, task_id: str) -> list[AttemptDir]:
        """Return the attempts of a task that are on disk."""
        return [self.attempt(task_id, attempt_id) for attempt_id in self.attempt_ids(task_id)]

    def attempts(self) -> Iterator[AttemptDir]:
        """Yield all attempts that are on disk."""
        root = self._root / "attempts"
        for task in subfolders(root):
            for attempt in filter(str.isdigit, subfolders(root / task)):
                kept_log = None if self._logs is None else self._logs.root / task / attempt
                yield AttemptDir(root / task / attempt, kept_log)

    def discard(self, path: Path) -> Path | None:
        """Move a file or directory of an attempt to the directory `discarded`, whose contents are removed later.

        Returns:
            The new path; None if `path` did not exist or could not be moved.
        """
        discarded = self._root / "discarded" / secrets.token_hex(8)
        try:
            discarded.parent.mkdir(exist_ok=True)
            path.rename(discarded)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # The folder of the task is removed together with its last attempt.
        return discarded

    def discard_bundle(self, bundle_hash: str) -> Path | None:
        """Move the unpacked workspace with a hash to the directory `discarded`, as `discard` does.

        Returns:
            The new path; None if there is no such workspace, or if the text is not a hash.
        """
        return self.discard(self.bundle(bundle_hash)) if _HASH.fullmatch(bundle_hash) else None

    def bundle(self, bundle_hash: str) -> Path:
        """Return the directory of the workspace with a hash, whether or not it exists."""
        return self._root / "bundles" / bundle_hash

    def _task(self, task_id: str) -> Path:
        return self._root / "attempts" / task_folder(task_id)


def read_task_file(path: Path, max_bytes: int) -> bytes:
    """Read a file that a task has left in its own directory. The task controls what exists at this path. For example,
    the path may be a pipe, a link, or a huge file.

    Raises:
        FileNotFoundError: The file does not exist.
        ResourceExhaustedError: The file is larger than `max_bytes`.
        FailedPreconditionError: The path is not a regular file, or the file cannot be read.
    """
    try:
        # With O_NONBLOCK, opening a pipe does not wait for its other end. With O_NOFOLLOW, opening a link fails.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FailedPreconditionError(f"{path.name} is not a regular file")
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FailedPreconditionError(f"the file {path.name} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise ResourceExhaustedError(f"the file {path.name} is over the limit of {max_bytes:,} bytes")
    return data
