"""A process from which workers are forked: `python -m iris.cluster.worker.template`. For engines that start a worker for
each slot.

To load its program costs a worker some 0.4 s of CPU; to be forked from a process that has loaded it, a tenth of that. So
there is one template on a machine for each cluster and user. Whoever wants the first worker starts it, behind a lock,
in a directory that nobody else can read; it ends when it has had nothing to do for a while, or is told to.

What holds whom, however each of them ends:

* A worker is ordered over a connection, which stays open. When it ends, as with the death of who holds it, the template
  kills the worker; the worker's reaper ends its tasks.
* When the template dies, the kernel kills its workers, and the ends of all connections say so.
* The end of a worker is told once nothing of it is left: its reaper has ended too, nothing carries its mark any more. Then
  its scratch directory is removed.

The template has one thread and no asyncio loop: else nothing could be forked from it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from iris.errors import FailedPreconditionError, UnavailableError

IDLE_S = 600.0
_START_S = 60.0  # a machine that is busy takes long to load a program
_ORDER_S = 10.0
_PAUSE_S = 0.02
_LAST_WORDS_BYTES = 2000
_PR_SET_PDEATHSIG = 1
_LAST_DESCRIPTOR = 2**20


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
    """A worker that lives for no longer than this process holds it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def wait(self) -> str:
        """Returns when nothing of it is left, with how it ended, in words."""
        with contextlib.suppress(OSError), self._connection.makefile("r") as lines:
            for line in lines:
                return str(json.loads(line)["ended"])
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
                connection.settimeout(_ORDER_S)
                if connection.recv(1) == b"+":
                    connection.settimeout(None)
                    return HeldWorker(connection)
            connection.close()
        if time.monotonic() > end:
            raise UnavailableError(f"the template of workers does not answer; its messages are in {directory}/messages")
        _start_template(directory, order.env)
        time.sleep(_PAUSE_S)


def end_template(cluster_id: str) -> None:
    """Ends the template of this machine, if there is one, once nothing is left that it has forked."""
    end = time.monotonic() + _ORDER_S
    while time.monotonic() < end:
        directory = _private_directory(cluster_id)
        lock = _try_lock(directory)
        if lock is not None:
            _remove(directory)
            os.close(lock)
            return
        connection = _connect(directory)  # None: it is starting, or ending
        if connection is not None:
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"end\n")
        time.sleep(_PAUSE_S)


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
        raise FailedPreconditionError(
            f"{path} belongs to somebody else, or is open to others: nothing is started there"
        )
    return path


@contextlib.contextmanager
def _inside(directory: Path) -> Iterator[str]:
    """A short path to a directory: those of sockets may have 107 bytes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _connect(directory: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _inside(directory) as short:
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
                [sys.executable, "-P", "-m", "iris.cluster.worker.template", str(directory), str(lock)],
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
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None  # one that ends has just removed it all
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(directory / "lock").st_ino == os.fstat(lock).st_ino:
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


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
        with _inside(self._directory) as short:
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
        connection, _ = self._listener.accept()
        connection.settimeout(_ORDER_S)
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
            print(f"an order that cannot be carried out: {error!r}", file=sys.stderr, flush=True)
            connection.close()
            return
        self._workers[worker.alive] = worker
        self._selector.register(worker.alive, selectors.EVENT_READ)
        self._selector.register(connection, selectors.EVENT_READ, worker)
        with contextlib.suppress(OSError):
            connection.sendall(b"+")
        connection.settimeout(None)

    def _fork(self, order: Order, connection: socket.socket) -> _Worker:
        scratch = Path(tempfile.mkdtemp(prefix=f"{order.worker_id}-", dir=self._directory))
        token = secrets.token_hex(8)
        alive, held = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become_worker(order, token, scratch, held)
        os.close(held)
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
        janitor = os.fork()
        if janitor == 0:
            try:
                _clean_up(worker, os.waitstatus_to_exitcode(status))
            finally:
                os._exit(0)
        self._janitors.add(janitor)
        if worker.connection is not None:
            self._selector.unregister(worker.connection)
            worker.connection.close()

    def _collect_janitors(self) -> None:
        for pid in list(self._janitors):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._janitors.discard(pid)


def _become_worker(order: Order, token: str, scratch: Path, held: int) -> None:
    """In the child: an environment, messages and a session of its own, nothing of the template's, then as __main__.py."""
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

        from iris.cluster.worker import reaper

        own_reaper = reaper.start_reaper(token)
        from iris.cluster.worker.daemon import run

        run(token, own_reaper)
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
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
    from iris.cluster.worker.reaper import kill_marked

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
    directory, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)
    if os.fork():
        os._exit(0)  # nobody's child: what ends ends its children, as Ray does for its actors
    _load()
    _Template(directory).run()
    _remove(directory)


def _remove(directory: Path) -> None:
    """Who has the lock may: who waits for it sees that it is not the one that is there any more."""
    shutil.rmtree(directory, ignore_errors=True)


def _load() -> None:
    """Whatever a worker loads in its first second."""
    import gc

    import uvicorn.lifespan.off
    import uvicorn.loops.auto
    import uvicorn.protocols.http.auto  # noqa: F401

    import iris.cluster.worker.daemon
    import iris.rpc.tokens  # noqa: F401

    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    gc.collect()
    gc.freeze()  # what is shared stays shared: nobody looks through it for what is not needed any more


if __name__ == "__main__":
    main()
