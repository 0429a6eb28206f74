"""The processes of the local engine's workers: started by this engine, or by an earlier one that was killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from iris.cluster.worker.supervision.reaper import kill_marked
from iris.cluster.worker.supervision.worker_identity import identity_file, lock_file, read_identity, try_lock
from iris.errors import UnavailableError
from iris.system.private_dir import inherited_umask, open_private
from iris.system.process_identity import command_line

_LOOK_S = 0.01
_CLEAR_S = 45.0  # for a worker that starts to say who it is, and for the reaper of one that has died to do its work
_STOP_S = 15.0  # for a worker to end its tasks and itself, before it is killed
_log = logging.getLogger(__name__)


class WorkerProcess:
    """A worker that runs.

    Args:
        workers: The directory of all workers.
        worker_id: Which it is.
        incarnation: What it registers with.
        pid: Its process.
        child: The process, where this engine has started it; None: an earlier one has.

    Raises:
        ProcessLookupError: It has just ended.
    """

    def __init__(
        self, workers: Path, worker_id: str, incarnation: str, pid: int, child: subprocess.Popen[bytes] | None
    ) -> None:
        self._workers = workers
        self._worker_id = worker_id
        self.incarnation = incarnation
        self._pid = pid
        self._child = child
        self._pidfd: int | None = None
        with contextlib.suppress(NotImplementedError, PermissionError):
            self._pidfd = _open_pidfd(pid)
        self._identity = read_identity(identity_file(workers, worker_id))

    @property
    def is_adopted(self) -> bool:
        """Whether an earlier engine has started it."""
        return self._child is None

    def reads(self, controller_file: Path) -> bool:
        """Whether it looks for its controller in this file, by this path or another one, say of a bind mount. It does
        not where the directory was renamed under it."""
        words = command_line(self._pid)
        with contextlib.suppress(ValueError, IndexError, OSError):
            return os.path.samefile(words[words.index("--controller-file") + 1], controller_file)
        return False

    async def wait(self) -> None:
        """Returns when it has ended, and nothing of it or of its attempts is left:

        1. The process ends.
        2. Its reaper ends what it ran, and itself: then nobody holds the worker's lock any more.
        3. Where the reaper was killed, too, we do its work.
        """
        await self._exited()
        await _until_free(lock_file(self._workers, self._worker_id))
        await sweep(self._workers, self._worker_id)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that has not ended it after a long time. Returns when nothing of it is left."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await self._exited()
        except TimeoutError:
            self._signal(signal.SIGKILL)
        await self.wait()

    def kill(self) -> None:
        """SIGKILL; `wait` tells when nothing of it is left."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Forgets it; it goes on."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._child is not None:
                self._child.send_signal(number)
            elif self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._is_running():
                os.kill(self._pid, number)

    async def _exited(self) -> None:
        if self._pidfd is not None:
            exited = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(self._pidfd, exited.set)
            try:
                await exited.wait()
            finally:
                loop.remove_reader(self._pidfd)
        else:  # an old kernel, or a sandbox without the call
            while self._is_running():  # noqa: ASYNC110 - the system tells nobody else of it
                await asyncio.sleep(_LOOK_S)
        if self._child is not None:
            self._child.wait()  # it has ended: this collects it at once

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._identity is not None and self._identity.pid == self._pid and self._identity.is_alive


def find_standing(workers: Path) -> list[str]:
    """The ids of the workers that run, or have just been killed and are not all gone, in order."""
    found = []
    for path in sorted(workers.glob("local-*.lock"), key=lambda path: (len(path.name), path.name)):
        lock = try_lock(path)
        if lock is None:
            found.append(path.stem)
        else:
            os.close(lock)
    return found


async def adopt(workers: Path, worker_id: str, clear_s: float = _CLEAR_S) -> WorkerProcess | None:
    """Return the worker of that name which an earlier engine has started; None once there is none, nor anything of it.

    Args:
        workers: The directory of all workers.
        worker_id: The worker's name.
        clear_s: Seconds in which a worker that starts says who it is, or the reaper of a dead one does its work.

    Raises:
        UnavailableError: Somebody holds its lock, and does not turn out to be that worker.
    """
    lock_path = lock_file(workers, worker_id)
    until_s = time.monotonic() + clear_s
    while (lock := try_lock(lock_path)) is None:
        # It may be starting and not have said yet who it is, or be dead, and its reaper at work.
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
    """Ends the workers that stand here, whose engine was killed, with all that they run; answers how many there were.

    Nobody else may use the directory meanwhile.
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
    command: Sequence[str],
    env: dict[str, str],
    credentials: Callable[[], str],
) -> WorkerProcess:
    """Starts a worker, which inherits the lock that says so. There is none of that name, see `adopt`.

    Its credentials are asked for once it runs, and go through a pipe: neither a command line nor an environment is a
    place for a secret.
    """
    lock = try_lock(lock_file(workers, worker_id))
    assert lock is not None, f"{worker_id} runs already"
    ours, theirs = os.pipe()
    try:
        with open(workers / f"{worker_id}.log", "ab", opener=open_private) as messages:
            child = subprocess.Popen(
                [*command, "--credentials", f"/dev/fd/{ours}"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                pass_fds=(lock, ours),
                start_new_session=True,  # a terminal's Ctrl-C is for the client, not for the workers
                umask=inherited_umask(),  # which its tasks have
            )
    except BaseException:
        os.close(theirs)
        raise
    finally:
        os.close(lock)  # ours: the child has its own
        os.close(ours)
    with contextlib.suppress(BrokenPipeError), os.fdopen(theirs, "w") as pipe:
        pipe.write(credentials())
    return WorkerProcess(workers, worker_id, incarnation, child.pid, child)


async def sweep(workers: Path, worker_id: str) -> None:
    """End what a worker left that could not end it itself: it and its reaper were killed, and its lock is free.

    A worker that ended as it should has taken its identity away.

    Nothing is ended where the identity came with a copy of another directory: its worker holds a lock of its own, so
    that it may live though this one is free.
    """
    path = identity_file(workers, worker_id)
    identity = read_identity(path)
    if identity is not None and (identity.is_alive or not identity.belongs_to(lock_file(workers, worker_id))):
        _log.warning("%s names a worker of another directory, of which this is a copy: it is left alone", path)
    elif identity is not None:
        await asyncio.to_thread(kill_marked, identity.token)
    path.unlink(missing_ok=True)


async def _until_free(lock_path: Path) -> None:
    while (lock := try_lock(lock_path)) is None:  # noqa: ASYNC110 - a lock tells nobody that it is free
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
    if identity.is_worker:  # now, so it is this process that we hold, and no other that was given its id
        return process
    process.close()
    return None


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None
