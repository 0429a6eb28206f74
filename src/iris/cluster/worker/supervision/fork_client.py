"""Workers that are forked from a template (fork_server.py), as who orders them sees it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from iris.errors import FailedPreconditionError, UnavailableError
from iris.system.locks import try_lock

ORDER_S = 10.0
_START_S = 60.0  # a machine that is busy takes long to load a program
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Order:
    """A worker to be started.

    Attributes:
        worker_id: Its own, of characters that a file's name may have.
        arguments: Its command line, without the program, `--worker-id`, `--directory` and `--credentials`.
        credentials: What it reads at its start.
        env: Its whole environment.
    """

    worker_id: str
    arguments: Sequence[str]
    credentials: str
    env: Mapping[str, str]


class HeldWorker:
    """A worker that lives for no longer than this process holds it.

    Args:
        connection: To its template.
        alive: A pipe that ends with the last of the worker and its reaper.
    """

    def __init__(self, connection: socket.socket, alive: int) -> None:
        self._connection = connection
        self._alive = alive

    def wait(self) -> str:
        """Returns when nothing of it is left, with how it ended, in words."""
        with contextlib.suppress(OSError), self._connection.makefile("r") as lines:
            for line in lines:
                return str(json.loads(line)["ended"])
        os.read(self._alive, 1)  # the kernel kills it, which takes a moment
        return "the process that it was forked from has died"

    def stop(self, *, and_template: bool) -> None:
        """SIGTERM; `and_template`: the process that it was forked from is to end with the last of its workers."""
        with contextlib.suppress(OSError):
            self._connection.sendall(b"end\n" if and_template else b"stop\n")


def start_worker(cluster_id: str, order: Order) -> HeldWorker:
    """Has a worker forked, by a template that is started where there is none.

    Raises:
        FailedPreconditionError: There can be none on this machine; the text says why.
        UnavailableError: It does not answer.
    """
    end = time.monotonic() + _START_S
    while True:
        directory = _private_directory(cluster_id)  # each time: one that ends takes it away
        connection = _connect(directory)
        if connection is not None:
            with contextlib.suppress(OSError):  # it was about to end
                connection.sendall(json.dumps(asdict(order)).encode() + b"\n")
                connection.settimeout(ORDER_S)
                said, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
                if said == b"+":
                    connection.settimeout(None)
                    return HeldWorker(connection, descriptors[0])
            connection.close()
        if time.monotonic() > end:
            raise UnavailableError(f"the template of workers does not answer; its messages are in {directory}/messages")
        _start_template(directory, order.env)
        time.sleep(_PAUSE_S)


def end_template(cluster_id: str) -> None:
    """Ends the template of this machine, if there is one, once nothing is left that it has forked."""
    end = time.monotonic() + ORDER_S
    while time.monotonic() < end:
        directory = _private_directory(cluster_id)
        lock = _try_lock(directory)
        if lock is not None:
            remove(directory)
            os.close(lock)
            return
        connection = _connect(directory)  # None: it is starting, or ending
        if connection is not None:
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"end\n")
        time.sleep(_PAUSE_S)


def is_gone(cluster_id: str, worker_id: str) -> bool:
    """Whether nothing of a worker is left on this machine: its template takes its scratch away last of all."""
    left = Path(tempfile.gettempdir()).glob(f"iris-{os.getuid()}-{cluster_id}-*/{worker_id}-*")
    return next(left, None) is None


def _private_directory(cluster_id: str) -> Path:
    """Where the template of this cluster, user and installation has its socket, and workers their scratch."""
    which = hashlib.sha256(f"{sys.executable}\0{__file__}\0{os.stat(__file__).st_mtime_ns}".encode()).hexdigest()[:8]
    path = Path(tempfile.gettempdir()) / f"iris-{os.getuid()}-{cluster_id}-{which}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise FailedPreconditionError(f"a worker needs a directory at {path}: {error.strerror}") from error
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not path.is_dir() or path.is_symlink():
        raise FailedPreconditionError(f"{path} is another user's, or open to others: nothing is started there")
    return path


@contextlib.contextmanager
def inside(directory: Path) -> Iterator[str]:
    """A short path to a directory: those of sockets may have 107 bytes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _connect(directory: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with inside(directory) as short:
            connection.connect(f"{short}/socket")
    except OSError:
        connection.close()
        return None
    return connection


def _start_template(directory: Path, env: Mapping[str, str]) -> None:
    """Starts it unless one runs, or is being started: that one has the lock. Its environment is no worker's: each has
    the one that is ordered."""
    lock = _try_lock(directory)
    if lock is None:
        return
    try:
        with open(directory / "messages", "ab") as messages:
            subprocess.run(
                [sys.executable, "-P", "-m", "iris.cluster.worker.supervision.fork_server", str(directory), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                env=env,
                cwd="/",
                pass_fds=(lock,),
                start_new_session=True,
                check=False,
            )
    finally:
        os.close(lock)


def _try_lock(directory: Path) -> int | None:
    try:
        return try_lock(directory / "lock")
    except FileNotFoundError:
        return None  # a template that ends has just removed the directory


def remove(directory: Path) -> None:
    """Takes the directory of a template away. Who has the lock may: whoever waits for it sees that it is gone."""
    shutil.rmtree(directory, ignore_errors=True)
