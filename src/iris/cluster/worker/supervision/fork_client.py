"""Starts workers for the engines, by forking them from a fork server (fork_server.py)."""

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
# How many seconds a fork server may take to start. On a busy machine, loading the program takes long.
_START_S = 60.0
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Order:
    """A request to start a worker.

    Attributes:
        worker_id: The id of the worker, made of characters that a file name may have.
        arguments: The worker's command line without the program, `--worker-id`, `--directory`, `--identity-file` and
            `--credentials`, which the fork server adds.
        credentials: The credentials, as JSON.
        env: The whole environment of the worker.
    """

    worker_id: str
    arguments: Sequence[str]
    credentials: str
    env: Mapping[str, str]


class HeldWorker:
    """A worker that was started by the fork server. When this process ends, the worker is killed.

    Args:
        connection: The connection to the fork server. The fork server kills the worker when this connection ends.
        alive: The reading end of a pipe that is closed once the worker and its reaper have ended.
    """

    def __init__(self, connection: socket.socket, alive: int) -> None:
        self._connection = connection
        self._alive = alive

    def wait(self) -> str:
        """Wait until no process of the worker is left, and return a text about how the worker has ended."""
        with contextlib.suppress(OSError), self._connection.makefile("r") as lines:
            for line in lines:
                return str(json.loads(line)["ended"])
        os.read(self._alive, 1)  # The kernel kills the worker together with its fork server, which takes a moment.
        return "the process that it was forked from has died"

    def stop(self, *, and_template: bool) -> None:
        """Send SIGTERM to the worker.

        Args:
            and_template: True ends the fork server as well, once its last worker has ended. (The fork server is the
                template from which workers are forked.)
        """
        with contextlib.suppress(OSError):
            self._connection.sendall(b"end\n" if and_template else b"stop\n")


def start_worker(cluster_id: str, order: Order) -> HeldWorker:
    """Start a worker from the fork server that belongs to this cluster and user on this machine. If this fork server
    does not run, start it first.

    Raises:
        FailedPreconditionError: No fork server can run on this machine.
        UnavailableError: The fork server does not answer.
    """
    end = time.monotonic() + _START_S
    while True:
        # The directory is created at each try, because a fork server removes the directory when it ends.
        directory = _private_directory(cluster_id)
        connection = _connect(directory)
        if connection is not None:
            # The connection fails if the fork server is ending. In this case the next try starts a new fork server.
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(asdict(order)).encode() + b"\n")
                connection.settimeout(ORDER_S)
                said, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
                if said == b"+":
                    connection.settimeout(None)
                    return HeldWorker(connection, descriptors[0])
            connection.close()
        if time.monotonic() > end:
            raise UnavailableError(f"the fork server does not answer; its messages are in {directory}/messages")
        _start_template(directory, order.env)
        time.sleep(_PAUSE_S)


def end_template(cluster_id: str) -> None:
    """Make the fork server of this machine end once no worker is left. Do nothing if no fork server runs."""
    end = time.monotonic() + ORDER_S
    while time.monotonic() < end:
        directory = _private_directory(cluster_id)
        lock = _try_lock(directory)
        if lock is not None:
            remove(directory)
            os.close(lock)
            return
        connection = _connect(directory)  # There is no connection if the fork server is starting or ending.
        if connection is not None:
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"end\n")
        time.sleep(_PAUSE_S)


def is_gone(cluster_id: str, worker_id: str) -> bool:
    """Return whether no process of a worker is left on this machine. The answer depends on the worker's directory,
    which the fork server removes last when it cleans up after a worker.
    """
    left = Path(tempfile.gettempdir()).glob(f"iris-{os.getuid()}-{cluster_id}-*/{worker_id}-*")
    return next(left, None) is None


def _private_directory(cluster_id: str) -> Path:
    """Return the private directory for the socket of the fork server and the directories of its workers. Each cluster,
    user and installation of Iris has its own directory.
    """
    which = hashlib.sha256(f"{sys.executable}\0{__file__}\0{os.stat(__file__).st_mtime_ns}".encode()).hexdigest()[:8]
    path = Path(tempfile.gettempdir()) / f"iris-{os.getuid()}-{cluster_id}-{which}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise FailedPreconditionError(
            f"the directory {path}, which a worker needs, cannot be created: {error.strerror}"
        ) from error
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not path.is_dir() or path.is_symlink():
        raise FailedPreconditionError(
            f"no worker is started in {path}, because the directory belongs to another user or is open to other users"
        )
    return path


@contextlib.contextmanager
def inside(directory: Path) -> Iterator[str]:
    """Yield a short path to the directory of a socket. The path is needed because the path of a socket may have at most
    107 bytes.
    """
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
    """Start the fork server. Do nothing if the lock is held, because then a fork server is already running or starting.

    The environment of the fork server does not matter for workers, because each request to start a worker contains the
    worker's whole environment.
    """
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
        return None  # A fork server that is ending may have just removed the directory. Then there is no lock.


def remove(directory: Path) -> None:
    """Remove the directory of a fork server, including the lock file. The caller must hold the lock."""
    shutil.rmtree(directory, ignore_errors=True)
