"""Forks workers from the server of a cluster.

A worker needs about 0.25 s of CPU to load its program, and the server needs almost the same modules. Therefore a server
forks its first workers from itself. `prepare_workers` must be called while the server has a single thread and no
asyncio loop, because forking a process with threads or a loop is unsafe. At that time the server does not know the
arguments of its workers yet. Therefore a prepared worker waits for an order.

When the server ends, its connections to the prepared workers end. A prepared worker that has received no order then
exits.

A prepared worker has the command line of its server. Other processes recognise the worker by its name and by its
identity file (worker_identity.py).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from iris.cluster.worker.supervision.forked_program import become_worker, close_all_except, load_worker
from iris.cluster.worker.supervision.worker_identity import WORKER_NAME
from iris.system.process_identity import set_process_name

_LENGTH = struct.Struct("!I")
# An order contains the descriptors of the event log, of the worker's lock, and of the pipe with the credentials.
_DESCRIPTORS = 3


class PreparedWorker:
    """A forked process of this program that waits for the order to become a worker.

    Args:
        pid: The id of the process, which is a child of this process.
        connection: The connection by which the process gets its order.
    """

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self._connection = connection
        self._exit_code: int | None = None

    def start(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        umask: int,
        *,
        event_log: int,
        lock: int,
        credentials: int,
    ) -> bool:
        """Make the process a worker. Return False if the process has ended meanwhile, for example if it was killed.

        Args:
            arguments: The worker's command line without the program and `--credentials`.
            env: The whole environment of the worker.
            umask: The umask of the worker; -1 means no change.
            event_log: The descriptor of the file that becomes the worker's stdout and stderr.
            lock: The descriptor of the worker's lock, which the worker holds until it ends.
            credentials: The reading end of a pipe with the worker's credentials.
        """
        order = json.dumps({"arguments": list(arguments), "env": dict(env), "umask": umask}).encode()
        try:
            with self._connection as connection:
                socket.send_fds(connection, [_LENGTH.pack(len(order))], [event_log, lock, credentials])
                connection.sendall(order)
        except OSError:
            self.wait()
            return False
        return True

    def discard(self) -> None:
        """End a process that has received no order."""
        self._connection.close()
        self.wait()

    def poll(self) -> int | None:
        """Return the exit code of the process, or None while the process runs, in the same way as `Popen.poll`."""
        return self._collect(os.WNOHANG)

    def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        code = self._collect(0)
        assert code is not None
        return code

    def _collect(self, options: int) -> int | None:
        if self._exit_code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code


def prepare_workers(number: int) -> list[PreparedWorker]:
    """Load the program of a worker, and fork processes that wait to become workers. This process must have a single
    thread and no asyncio loop.

    Args:
        number: The number of processes. If the system refuses a fork, the list is shorter.
    """
    load_worker()
    prepared = []
    with contextlib.suppress(OSError):
        for _ in range(number):
            ours, theirs = socket.socketpair()
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
            if pid == 0:
                become_worker(partial(_receive_order, theirs))
            theirs.close()
            prepared.append(PreparedWorker(pid, ours))
    return prepared


def _receive_order(connection: socket.socket) -> str:
    """Wait for the order, and set up this process as the order says. Return the worker's token, with which the worker
    marks its processes.
    """
    os.setsid()  # The worker gets its own session, so that Ctrl-C in a terminal does not reach it.
    close_all_except(connection.fileno())
    _set_name()
    header, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, _DESCRIPTORS, socket.MSG_WAITALL)
    if len(descriptors) < _DESCRIPTORS:
        os._exit(0)  # The connection has ended without an order, because the server has ended or needs no more workers.
    with connection, connection.makefile("rb") as reading:
        order = json.loads(reading.read(_LENGTH.unpack(header)[0]))
    event_log, _, credentials = descriptors
    nothing = os.open(os.devnull, os.O_RDONLY)
    for standard, descriptor in enumerate((nothing, event_log, event_log)):
        os.dup2(descriptor, standard)
    os.close(nothing)
    os.close(event_log)
    if order["umask"] >= 0:
        os.umask(order["umask"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["iris.cluster.worker", *order["arguments"], "--credentials", f"/dev/fd/{credentials}"]
    # The server paused the garbage collector while its modules were loaded. The launcher and the reaper need the
    # garbage collector.
    gc.freeze()
    gc.enable()
    return secrets.token_hex(8)


def _set_name() -> None:
    """Set the name of this process, which `ps -e` and `top` show. Without the name, the next server would not recognise
    the worker. Therefore a process that cannot set its name ends, and the server starts the worker as a program.
    """
    if not set_process_name(WORKER_NAME):
        os._exit(1)
