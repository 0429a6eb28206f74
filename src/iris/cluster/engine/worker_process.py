"""Starts the processes of workers on this machine, adopts the worker processes of an earlier engine, and ends worker
processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from iris.cluster.worker.supervision.prepared_worker import PreparedWorker
from iris.cluster.worker.supervision.reaper import kill_marked
from iris.cluster.worker.supervision.worker_identity import event_log_file, identity_file, lock_file, read_identity
from iris.errors import UnavailableError
from iris.system.locks import try_lock
from iris.system.private_dir import inherited_umask, open_private
from iris.system.process_identity import command_line
from iris.system.processes import ProcessHandle

_LOOK_S = 0.01
# The seconds within which a starting worker must write its identity file, and within which the reaper of a dead worker
# must end the worker's tasks.
_CLEAR_S = 45.0
_STOP_S = 15.0  # The seconds that a worker has to end its tasks and itself. Afterwards the worker is killed.
_log = logging.getLogger(__name__)


class ChildProcess(Protocol):
    """A process that is a child of this process: a `Popen` object or a prepared worker."""

    def poll(self) -> int | None:
        """Return the exit code of the process, or None while the process runs."""

    def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""


class WorkerProcess:
    """The running process of a worker.

    Args:
        workers: The directory of all workers.
        worker_id: The worker's id.
        incarnation: The random id of this process, with which it registers.
        pid: The id of the process.
        child: The process as a child of this process, or None if an earlier engine has started the worker.

    Raises:
        ProcessLookupError: The process has already ended.
    """

    def __init__(self, workers: Path, worker_id: str, incarnation: str, pid: int, child: ChildProcess | None) -> None:
        self._workers = workers
        self._worker_id = worker_id
        self.incarnation = incarnation
        self._pid = pid
        self._child = child
        self._identity = read_identity(identity_file(workers, worker_id))
        self._process = ProcessHandle(pid, self._is_running, poll_s=_LOOK_S)

    @property
    def is_adopted(self) -> bool:
        """Whether an earlier engine has started this worker process."""
        return self._child is None

    def reads(self, controller_file: Path) -> bool:
        """Return whether the worker reads the controller's address from the given file.

        The worker may know the file with the controller's address by another path, for example through a bind mount. If
        the worker's directory was renamed while it ran, the worker reads another file.
        """
        with contextlib.suppress(ValueError, IndexError, OSError):
            return os.path.samefile(self._controller_file(), controller_file)
        return False

    def _controller_file(self) -> str:
        if self._identity is not None and self._identity.controller_file:
            return self._identity.controller_file
        # The identity file of a worker of an old version does not contain the path. Therefore the path is read from the
        # command line of the worker.
        words = command_line(self._pid)
        return words[words.index("--controller-file") + 1]

    async def wait(self) -> None:
        """Wait until the worker and all processes of its attempts have ended.

        A worker ends in these steps:
        1. The worker's process ends.
        2. The worker's reaper ends the attempts and then itself, which frees the worker's lock.
        3. If the reaper was killed too, this engine ends the attempts.
        """
        await self._exited()
        await _until_free(lock_file(self._workers, self._worker_id))
        await sweep(self._workers, self._worker_id)

    async def stop(self) -> None:
        """Send SIGTERM, then SIGKILL after 15 s, and wait until the worker and its attempts have ended."""
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await self._exited()
        except TimeoutError:
            self._process.send_signal(signal.SIGKILL)
        await self.wait()

    def kill(self) -> None:
        """Send SIGKILL. `wait` returns once the worker's attempts have ended, too."""
        self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the file descriptor of the process. The process keeps running."""
        self._process.close()

    async def _exited(self) -> None:
        await self._process.wait()
        if self._child is not None:
            self._child.wait()  # The process has already ended, and waiting for it collects its exit status.

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._identity is not None and self._identity.pid == self._pid and self._identity.is_alive


def find_standing(workers: Path) -> list[str]:
    """Return the sorted ids of workers whose locks are held. Such a worker runs, or its reaper is still ending
    attempts.
    """
    found = []
    for path in sorted(workers.glob("local-*.lock"), key=lambda path: (len(path.name), path.name)):
        lock = try_lock(path)
        if lock is None:
            found.append(path.stem)
        else:
            os.close(lock)
    return found


async def adopt(workers: Path, worker_id: str, clear_s: float = _CLEAR_S) -> WorkerProcess | None:
    """Return the process of a worker that an earlier engine started, or None if neither the worker nor its attempts
    run.

    Args:
        workers: The directory of all workers.
        worker_id: The worker's id.
        clear_s: The seconds in which a starting worker must write its identity, or a dead worker's reaper must finish.

    Raises:
        UnavailableError: Another process holds the worker's lock for longer than `clear_s`.
    """
    lock_path = lock_file(workers, worker_id)
    until_s = time.monotonic() + clear_s
    while (lock := try_lock(lock_path)) is None:
        # Try again while no identity is found. A starting worker may not have written its identity yet, and the reaper
        # of a dead worker may still be at work.
        process = _find(workers, worker_id)
        if process is not None:
            return process
        if time.monotonic() > until_s:
            raise UnavailableError(
                f"{lock_path} is held, but {identity_file(workers, worker_id)} does not name the worker that holds it:"
                f" 'fuser -v {lock_path}' shows which process does; end it, and try again"
            )
        await asyncio.sleep(_LOOK_S)
    os.close(lock)
    await sweep(workers, worker_id)
    return None


async def end_standing(workers: Path) -> int:
    """End all workers and attempts that a killed engine has left in a directory, and return the number of workers. No
    other process may use the directory during the call.
    """
    found = [process for worker_id in find_standing(workers) if (process := await adopt(workers, worker_id))]
    await asyncio.gather(*(process.stop() for process in found))
    for process in found:
        process.close()
    return len(found)


def start(
    workers: Path,
    worker_id: str,
    incarnation: str,
    arguments: Sequence[str],
    env: Mapping[str, str],
    credentials: Callable[[], str],
    prepared: PreparedWorker | None = None,
) -> WorkerProcess:
    """Start a worker process, which inherits the worker's lock. No other process of the same worker may run, see
    `adopt`.

    Args:
        workers: The directory of all workers.
        worker_id: The worker's id.
        incarnation: The random id with which the process registers.
        arguments: The command line of the worker, without the program and the credentials.
        env: The environment variables of the process.
        credentials: A function that returns the credentials, and is called once the process runs. The credentials pass
            through a pipe, because other users could read credentials in a command line or an environment.
        prepared: A forked process that becomes the worker. If None, or if this process has ended, a new program is
            started.

    Raises:
        OSError: The process cannot be started.
    """
    lock = try_lock(lock_file(workers, worker_id))
    assert lock is not None, f"{worker_id} runs already"
    ours, theirs = os.pipe()
    # The worker gets the umask of the user and not the umask of this process, because tasks inherit the umask of their
    # worker.
    umask = inherited_umask()
    try:
        with open(event_log_file(workers, worker_id), "ab", opener=open_private) as messages:
            started: PreparedWorker | subprocess.Popen[bytes]
            if prepared is not None and prepared.start(
                arguments, env, umask, event_log=messages.fileno(), lock=lock, credentials=ours
            ):
                started = prepared
            else:
                started = subprocess.Popen(
                    # The option -P prevents modules in the current folder from hiding modules of Iris.
                    [sys.executable, "-P", "-m", "iris.cluster.worker", *arguments, "--credentials", f"/dev/fd/{ours}"],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=messages,
                    stderr=messages,
                    pass_fds=(lock, ours),
                    start_new_session=True,  # In a new session, the worker does not receive Ctrl-C from a terminal.
                    umask=umask,
                )
    except BaseException:
        os.close(theirs)
        raise
    finally:
        os.close(lock)  # The worker process has a copy of the lock's descriptor, and keeps the lock.
        os.close(ours)
    with contextlib.suppress(BrokenPipeError), os.fdopen(theirs, "w") as pipe:
        pipe.write(credentials())
    return WorkerProcess(workers, worker_id, incarnation, started.pid, started)


async def sweep(workers: Path, worker_id: str) -> None:
    """End the processes that a worker left behind because both the worker and its reaper were killed.

    The worker's lock must be free. If the worker ended normally, it has deleted its identity file, and there is nothing
    to end. If the identity file is part of a copied directory, this function ends no process either. The original
    directory has another lock, so the original worker may be alive although the lock of the copy is free.
    """
    path = identity_file(workers, worker_id)
    identity = read_identity(path)
    if identity is not None and (identity.is_alive or not identity.belongs_to(lock_file(workers, worker_id))):
        _log.warning("%s was copied from another directory, therefore its worker is not ended", path)
    elif identity is not None:
        await asyncio.to_thread(kill_marked, identity.token)
    path.unlink(missing_ok=True)


async def _until_free(lock_path: Path) -> None:
    while (lock := try_lock(lock_path)) is None:  # noqa: ASYNC110 - There is no event for a lock that becomes free.
        await asyncio.sleep(_LOOK_S)
    os.close(lock)


def _find(workers: Path, worker_id: str) -> WorkerProcess | None:
    identity = read_identity(identity_file(workers, worker_id))
    if identity is None or not identity.belongs_to(lock_file(workers, worker_id)):
        return None
    try:
        process = WorkerProcess(workers, worker_id, identity.incarnation, identity.pid, None)
    except ProcessLookupError:
        return None
    # The identity is checked after the pidfd was opened. In this order, the pid cannot be reused between the check and
    # the use of the pidfd.
    if identity.is_worker:
        return process
    process.close()
    return None
