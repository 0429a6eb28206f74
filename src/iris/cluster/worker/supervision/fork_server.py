"""The process from which an engine forks many workers: `python -m iris.cluster.worker.supervision.fork_server`.

A worker needs about 0.4 s of CPU to load its program, but only about 0.04 s if the worker is forked from a process that
has loaded the program. Therefore each user of each cluster has one fork server on a machine. The process that needs the
first worker starts the fork server. A lock prevents a second start, and the fork server's directory can be read only by
the user. The fork server ends when it has had no work for a while, or on request.

The following rules hold, no matter how a process ends:
* A process that orders a worker keeps its connection open. When the connection ends, the fork server kills the worker,
  and the worker's reaper kills its tasks.
* When the fork server ends, the kernel kills its workers, and all connections end. The worker and its reaper hold a
  pipe. The process that has ordered the worker reads from this pipe. The end of the pipe shows that the worker and the
  reaper have ended.
* The end of a worker is reported once its reaper has ended and no process carries the worker's mark. Then the worker's
  directory is removed.

The fork server has a single thread and no asyncio loop, because forking a process with more threads or with a loop is
unsafe.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from iris.cluster.worker.supervision.fork_client import ORDER_S, Order, inside, remove
from iris.cluster.worker.supervision.forked_program import become_worker, close_all_except, load_worker
from iris.cluster.worker.supervision.worker_identity import WORKER_NAME, event_log_file
from iris.system.inherited import use_defaults
from iris.system.process_identity import set_process_name

IDLE_S = 600.0
_PAUSE_S = 0.02
_LAST_WORDS_BYTES = 2000
_ATTEMPTS = "attempts"  # The name of a worker's directory below its scratch directory.
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class ForkedWorker:
    """A worker that was forked.

    Attributes:
        pid: The process id of the worker.
        token: The worker's token. Each process of an attempt has a mark in its environment, and the mark begins with
            this token.
        scratch: The directory that contains the worker directory, the event log and the identity file of the worker.
        alive: The reading end of a pipe that is closed once the worker and its reaper have ended.
        connection: The connection of the process that ordered the worker; None once that connection has ended.
    """

    pid: int
    token: str
    scratch: Path
    alive: int
    connection: socket.socket | None


class ForkServer:
    """The fork server of one cluster and user on this machine.

    Args:
        directory: The private directory of this fork server.
        fork: A function that forks this process, as `os.fork` does.
    """

    def __init__(self, directory: Path, fork: Callable[[], int] = os.fork) -> None:
        self._directory = directory
        self._fork = fork
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        # The forked workers. The key is a file descriptor that shows the end of a worker and its reaper.
        self._workers: dict[int, ForkedWorker] = {}
        self._janitors: set[int] = set()
        self._is_ending = False

    def run(self) -> None:
        """Fork workers until no worker was running for `IDLE_S` seconds, or until a process requests the end of the
        fork server.
        """
        # Remove the directories that a killed fork server has left. The kernel has killed its workers together with it.
        for left in self._directory.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        with inside(self._directory) as short:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{short}/socket")
            self._listener.bind(f"{short}/socket")
        self._listener.listen(1024)
        self._selector.register(self._listener, selectors.EVENT_READ)
        idle_since = time.monotonic()
        while True:
            events = self._selector.select(_PAUSE_S if self._janitors else 1.0)
            for key, _ in events:
                if key.fileobj is self._listener:
                    self._accept_order()
                elif isinstance(key.fileobj, int):
                    self.worker_ended(self._workers[key.fileobj])
                else:
                    self._read_message(key.data)
            self._collect_janitors()
            if events or self._workers or self._janitors:
                idle_since = time.monotonic()
            is_idle = not self._workers and not self._janitors
            if is_idle and (self._is_ending or time.monotonic() - idle_since > IDLE_S):
                return

    def _accept_order(self) -> None:
        try:
            connection, _ = self._listener.accept()
        # If the process has no free descriptors now, the connection is accepted later, and the client waits.
        except OSError as error:
            sys.stderr.write(f"an order cannot be taken now: {error!r}\n")
            sys.stderr.flush()
            time.sleep(_PAUSE_S)
            return
        connection.settimeout(ORDER_S)
        try:
            with connection.makefile("rb") as reading:
                line = reading.readline()
            if line == b"end\n":
                self._is_ending = True
            if not line.startswith(b"{"):
                connection.close()
                return
            worker = self.start_worker(Order(**json.loads(line)), connection)
        except (OSError, ValueError, TypeError) as error:
            sys.stderr.write(f"an order cannot be carried out: {error!r}\n")
            sys.stderr.flush()
            connection.close()
            return
        self.add_worker(worker)
        self._selector.register(connection, selectors.EVENT_READ, worker)
        with contextlib.suppress(OSError):
            socket.send_fds(connection, [b"+"], [worker.alive])
        connection.settimeout(None)

    def add_worker(self, worker: ForkedWorker) -> None:
        """Watch a forked worker, so that `worker_ended` is called when the worker ends."""
        self._workers[worker.alive] = worker
        self._selector.register(worker.alive, selectors.EVENT_READ)

    def start_worker(self, order: Order, connection: socket.socket | None) -> ForkedWorker:
        """Fork a worker.

        Raises:
            OSError: The worker cannot be forked. No directory or process of the worker is left behind.
        """
        scratch = Path(tempfile.mkdtemp(prefix=f"{order.worker_id}-", dir=self._directory))
        token, own_pid = secrets.token_hex(8), os.getpid()
        # A failed start must leave no directory or process behind, because the caller may try again many times.
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, scratch, ignore_errors=True)
            alive, held = os.pipe()
            undo.callback(os.close, alive)
            try:
                pid = self._fork()
                if pid == 0:
                    become_worker(partial(_set_up_worker, order, token, scratch, held, own_pid))
            finally:
                os.close(held)
            undo.pop_all()
        return ForkedWorker(pid, token, scratch, alive, connection)

    def _read_message(self, worker: ForkedWorker) -> None:
        """Stop a worker on request of the process that ordered it, or kill the worker if that process has ended."""
        assert worker.connection is not None
        try:
            said = worker.connection.recv(16)
        except OSError:
            said = b""
        if b"end" in said:
            self._is_ending = True
        if not said:
            self._selector.unregister(worker.connection)
            worker.connection.close()
            worker.connection = None
        if worker.alive in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM if said else signal.SIGKILL)

    def worker_ended(self, worker: ForkedWorker) -> None:
        """Clean up after a worker that has ended together with its reaper. A forked janitor process does the work, so
        that the fork server can continue.
        """
        del self._workers[worker.alive]
        self._selector.unregister(worker.alive)
        os.close(worker.alive)
        _, status = os.waitpid(worker.pid, 0)
        try:
            janitor = self._fork()
        except OSError:  # If no janitor can be forked now, the fork server itself cleans up.
            janitor = None
            _clean_up(worker, os.waitstatus_to_exitcode(status))
        if janitor == 0:
            try:
                _clean_up(worker, os.waitstatus_to_exitcode(status))
            finally:
                os._exit(0)
        if janitor is not None:
            self._janitors.add(janitor)
        if worker.connection is not None:
            self._selector.unregister(worker.connection)
            worker.connection.close()

    def _collect_janitors(self) -> None:
        for pid in list(self._janitors):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._janitors.discard(pid)


def _set_up_worker(order: Order, token: str, scratch: Path, held: int, server_pid: int) -> str:
    """Turn this forked process into a worker: set its name, environment, event log, session and arguments, and close
    all descriptors of the fork server. Return the worker's token, with which the worker marks its processes.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server_pid:
        # The fork server has ended before the call of `prctl`, so the kernel will not kill this process.
        os._exit(1)
    os.setsid()
    set_process_name(WORKER_NAME)
    messages = os.open(event_log_file(scratch, _ATTEMPTS), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(messages, 1)
    os.dup2(messages, 2)
    close_all_except(held)
    os.environ.clear()
    os.environ.update(order.env)
    os.chdir(scratch)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        pipe.write(order.credentials)
    own = ["--worker-id", order.worker_id, "--directory", str(scratch / _ATTEMPTS)]
    own += ["--identity-file", str(scratch / "identity"), "--credentials", f"/dev/fd/{reading}"]
    sys.argv = ["iris.cluster.worker", *own, *order.arguments]
    return token


def _clean_up(worker: ForkedWorker, exit_code: int) -> None:
    from iris.cluster.worker.supervision.reaper import kill_marked

    kill_marked(worker.token)
    words = ""
    with contextlib.suppress(OSError):
        words = (
            event_log_file(worker.scratch, _ATTEMPTS).read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace").strip()
        )
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    last = words.splitlines()[-1] if words else ""
    if worker.connection is not None:
        with contextlib.suppress(OSError):
            worker.connection.sendall(json.dumps({"ended": f"{how}: {last}" if last else how}).encode() + b"\n")
            worker.connection.shutdown(socket.SHUT_RDWR)
    shutil.rmtree(worker.scratch, ignore_errors=True)


def main() -> None:
    """Load the modules that workers need, and then fork workers. The lock is held until the end of this process."""
    use_defaults()
    directory, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)
    if os.fork():
        # The fork server must not remain a child of the program that started it, because some programs kill their
        # children. For example, Ray kills the children of its actors. Therefore the parent process ends at once.
        os._exit(0)
    load_worker()
    gc.collect()
    # The garbage collector must not write to the memory that is shared with workers, because changed pages are copied.
    gc.freeze()
    ForkServer(directory).run()
    remove(directory)


if __name__ == "__main__":
    main()
