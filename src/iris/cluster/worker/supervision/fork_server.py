"""The process from which an engine forks many workers: `python -m iris.cluster.worker.supervision.fork_server`.

To load its program costs a worker some 0.4 s of CPU; to be forked from a process that has loaded it, a tenth of that.
So there is one template on a machine for each cluster and user. Whoever wants the first worker starts it, behind a
lock, in a directory that nobody else can read; it ends when it has had nothing to do for a while, or is told to.

What holds whom, however each of them ends:

* A worker is ordered over a connection, which stays open. When it ends, as with the death of who holds it, the template
  kills the worker; the worker's reaper ends its tasks.
* When the template dies, the kernel kills its workers, and the ends of all connections say so. When that has come to
  pass is told by the end of a pipe, which the worker and its reaper hold, and who has ordered it reads.
* The end of a worker is told once nothing of it is left: its reaper has ended too, nothing carries its mark any more.
  Then its scratch directory is removed.

The template has one thread and no asyncio loop: else nothing could be forked from it.
"""

from __future__ import annotations

import contextlib
import ctypes
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
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.worker.supervision.fork_client import ORDER_S, Order, inside, remove
from iris.system.inherited import use_defaults

IDLE_S = 600.0
_PAUSE_S = 0.02
_LAST_WORDS_BYTES = 2000
_PR_SET_PDEATHSIG = 1
_LAST_DESCRIPTOR = 2**20


@dataclass(slots=True)
class _Worker:
    """A worker that was forked.

    Attributes:
        token: Begins the marks of what it runs.
        alive: Ends with the last of the worker and its reaper.
        connection: To who holds it; None: nobody does any more.
    """

    pid: int
    token: str
    scratch: Path
    alive: int
    connection: socket.socket | None


class _Template:
    """The process itself.

    Args:
        directory: Its own.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._workers: dict[int, _Worker] = {}  # by `alive`
        self._janitors: set[int] = set()
        self._is_ending = False

    def run(self) -> None:
        """Forks until there is nothing to do for long."""
        for left in self._directory.iterdir():  # by one that was killed: the kernel has ended its workers
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
                    self._take_order()
                elif isinstance(key.fileobj, int):
                    self._worker_ended(self._workers.pop(key.fileobj))
                else:
                    self._hear(key.data)
            self._collect_janitors()
            if events or self._workers or self._janitors:
                idle_since = time.monotonic()
            is_idle = not self._workers and not self._janitors
            if is_idle and (self._is_ending or time.monotonic() - idle_since > IDLE_S):
                return

    def _take_order(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # there are no descriptors left; who calls waits
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
            worker = self._fork(Order(**json.loads(line)), connection)
        except (OSError, ValueError, TypeError) as error:
            sys.stderr.write(f"an order that cannot be carried out: {error!r}\n")
            sys.stderr.flush()
            connection.close()
            return
        self._workers[worker.alive] = worker
        self._selector.register(worker.alive, selectors.EVENT_READ)
        self._selector.register(connection, selectors.EVENT_READ, worker)
        with contextlib.suppress(OSError):
            socket.send_fds(connection, [b"+"], [worker.alive])
        connection.settimeout(None)

    def _fork(self, order: Order, connection: socket.socket) -> _Worker:
        scratch = Path(tempfile.mkdtemp(prefix=f"{order.worker_id}-", dir=self._directory))
        token = secrets.token_hex(8)
        with contextlib.ExitStack() as undo:  # whoever orders tries again, many times
            undo.callback(shutil.rmtree, scratch, ignore_errors=True)
            alive, held = os.pipe()
            undo.callback(os.close, alive)
            try:
                pid = os.fork()
                if pid == 0:
                    _become_worker(order, token, scratch, held)
            finally:
                os.close(held)
            undo.pop_all()
        return _Worker(pid, token, scratch, alive, connection)

    def _hear(self, worker: _Worker) -> None:
        """Who holds the worker says that it is to end, or is dead."""
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

    def _worker_ended(self, worker: _Worker) -> None:
        """It and its reaper: where the reaper was killed, a janitor does its work, then takes the scratch away."""
        self._selector.unregister(worker.alive)
        os.close(worker.alive)
        _, status = os.waitpid(worker.pid, 0)
        try:
            janitor = os.fork()
        except OSError:  # there is no room for a process: then others wait for it
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


def _become_worker(order: Order, token: str, scratch: Path, held: int) -> None:
    """In the child: an environment, messages and a session of its own, nothing of the template's; then as __main__.py
    does."""
    code = 1
    try:
        template = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != template:
            os._exit(1)
        os.setsid()
        messages = os.open(scratch / "messages", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(messages, 1)
        os.dup2(messages, 2)
        os.closerange(3, held)
        os.closerange(held + 1, _LAST_DESCRIPTOR)
        os.environ.clear()
        os.environ.update(order.env)
        os.chdir(scratch)
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(order.credentials)
        own = ["--worker-id", order.worker_id, "--directory", str(scratch / "attempts")]
        own += ["--identity-file", str(scratch / "identity"), "--credentials", f"/dev/fd/{reading}"]
        sys.argv = ["iris.cluster.worker", *own, *order.arguments]

        from iris.cluster.worker.process import launcher
        from iris.cluster.worker.supervision import reaper

        own_launcher = launcher.start_launcher()
        own_reaper = reaper.start_reaper(token, own_launcher)
        from iris.cluster.worker.wiring import run

        run(token, own_reaper, own_launcher)
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - nothing may return to the template's own stack
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _clean_up(worker: _Worker, exit_code: int) -> None:
    from iris.cluster.worker.supervision.reaper import kill_marked

    kill_marked(worker.token)
    words = ""
    with contextlib.suppress(OSError):
        words = (worker.scratch / "messages").read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace").strip()
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    last = words.splitlines()[-1] if words else ""
    if worker.connection is not None:
        with contextlib.suppress(OSError):
            worker.connection.sendall(json.dumps({"ended": f"{how}: {last}" if last else how}).encode() + b"\n")
            worker.connection.shutdown(socket.SHUT_RDWR)
    shutil.rmtree(worker.scratch, ignore_errors=True)


def main() -> None:
    """Loads what workers need, then forks them. The lock is held until the end."""
    use_defaults()
    directory, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)
    if os.fork():
        os._exit(0)  # nobody's child: what ends ends its children, as Ray does for its actors
    _load()
    _Template(directory).run()
    remove(directory)


def _load() -> None:
    """Whatever a worker loads in its first second."""
    import gc

    import uvicorn.lifespan.off
    import uvicorn.loops.auto
    import uvicorn.protocols.http.auto  # noqa: F401

    import iris.cluster.worker.wiring
    import iris.rpc.auth.tokens  # noqa: F401

    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    with contextlib.suppress(ImportError):  # which pyqwest loads with its first transport, where they are installed
        import opentelemetry.metrics
        import opentelemetry.propagate
        import opentelemetry.trace  # noqa: F401
    gc.collect()
    gc.freeze()  # what is shared stays shared: nobody looks through it for what is not needed any more


if __name__ == "__main__":
    main()
