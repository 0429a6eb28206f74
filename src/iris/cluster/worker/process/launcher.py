"""The launcher: a process with one thread that starts the processes of attempts.

A worker forks its launcher before it loads its program. Launch limits (resource limits, umask and signals) must be set
before the task's program begins, because a later change from outside would overwrite the program's own settings. The
worker cannot set these limits for itself, because its limits and its umask apply to all of its threads. The worker also
cannot set limits between fork and exec, because running Python code there is unsafe in a process with threads. The
launcher has a single thread. For each start, the launcher sets its own limits and umask, and lets `subprocess` start
the program by vfork.

The launcher is the parent of the attempts' main processes. The launcher collects a main process only when the worker
requests it. Until then, no other process can get the same process id. If the launcher is killed, its children become
children of the worker, which is their subreaper.

When its connection to the worker ends, the launcher ends as well. The launcher starts no program for a worker that has
ended. The launcher also holds the worker's lock and the pipe of the fork server. Therefore a worker counts as running
until the launcher has finished its last start. The launcher does not end attempts, because the worker and its reaper
end attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import termios
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from iris.cluster.worker.process.tracing import allow_tracer, needs_tracer, yama_scope
from iris.system.process_identity import set_process_name

_LENGTH = struct.Struct("!I")
_STREAMS = 3
# The number of unanswered requests is limited. If answers filled the connection, the worker and the launcher would wait
# for each other forever.
_MOST_ASKED = 16


@dataclass(frozen=True, slots=True)
class Program:
    """The program that the launcher starts: the program of an attempt's main process, or a command that a client runs
    in the attempt.

    Attributes:
        command: The command line.
        cwd: The working directory.
        env: The whole environment.
        file_limit: How many files the process may have open (the soft limit).
        umask: The umask of the process; None means the umask of the worker.
        terminal: Whether the standard input is a terminal that becomes the controlling terminal of the process.
    """

    command: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    file_limit: int
    umask: int | None = None
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Collected:
    """How a collected process has ended.

    Attributes:
        status: The exit status in the form that `os.wait4` returns.
        cpu_s: The CPU seconds that the process and its collected children have used.
        memory_peak_bytes: The largest resident memory of one of these processes; 0 if unknown.
    """

    status: int
    cpu_s: float
    memory_peak_bytes: int


class Launcher:
    """The worker's connection to its launcher. All coroutines must run on one event loop.

    Attributes:
        pid: The process id of the launcher.
    """

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self._connection = connection
        # The futures of requests without an answer, in the order in which the launcher answers.
        self._answers: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._received = b""
        self._turns = asyncio.Semaphore(_MOST_ASKED)

    async def start(self, program: Program, streams: Sequence[int]) -> int:
        """Start a program in a new session, and return its process id once the program has begun.

        Args:
            program: The program, with its working directory, environment and limits.
            streams: The descriptors of its standard input, output and error.

        Raises:
            OSError: The program cannot be started.
            ConnectionError: The launcher has ended.
        """
        answer = await self._ask(asdict(program), streams)
        if "pid" not in answer:
            raise OSError(answer["errno"], answer["text"])
        return int(answer["pid"])

    async def collect(self, pid: int) -> Collected:
        """Collect the exit status of a process that the launcher has started. The process must have ended."""
        try:
            return Collected(**await self._ask({"collect": pid}))
        except ConnectionError:
            # The launcher has ended. Its children are now children of this process, so this process collects the status
            # itself.
            pass
        try:
            _, status, usage = os.wait4(pid, 0)  # noqa: ASYNC222 - The process has ended, so the call returns at once.
        except ChildProcessError:  # On a system without subreapers, the process has become a child of another process.
            return Collected(signal.SIGKILL, 0.0, 0)
        return _collected(status, usage)

    def close(self) -> None:
        """End the launcher. Attempts keep running as children of this process."""
        self._connection.close()

    async def _ask(self, message: Mapping[str, Any], streams: Sequence[int] = ()) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        async with self._turns:
            if not self._answers:
                loop.add_reader(self._connection, self._on_answer)
            answer: asyncio.Future[dict[str, Any]] = loop.create_future()
            self._answers.append(answer)
            try:
                _send(self._connection, message, streams)
            except OSError:
                self._on_end()
            return await answer

    def _on_answer(self) -> None:
        try:
            data = self._connection.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_end()
            return
        self._received += data
        while len(self._received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                return
            message, self._received = self._received[_LENGTH.size : end], self._received[end:]
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(json.loads(message))
        if not self._answers:
            asyncio.get_running_loop().remove_reader(self._connection)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._connection)
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(ConnectionResetError("the launcher has ended"))


def start_launcher() -> Launcher:
    """Fork the launcher of this process. Call this function before the process has threads."""
    ours, theirs = socket.socketpair()
    worker_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            # The launcher gets its own session, so that neither Ctrl-C in a terminal nor a signal to the worker's group
            # reaches it.
            os.setsid()
            set_process_name("iris-launcher")  # A kill of all processes with the worker's name must not kill it.
            # A SIGTERM to the launcher is passed on to the worker.
            signal.signal(signal.SIGTERM, lambda *_: os.kill(worker_pid, signal.SIGTERM))
            gc.freeze()
            _serve(theirs, worker_pid)
        finally:
            os._exit(0)
    theirs.close()
    return Launcher(pid, ours)


def _serve(connection: socket.socket, worker_pid: int) -> None:
    with contextlib.suppress(ConnectionError):  # The worker has ended.
        while True:
            asked, streams = _receive(connection)
            if "collect" in asked:
                _, status, usage = os.wait4(asked["collect"], 0)
                _started.pop(asked["collect"]).returncode = os.waitstatus_to_exitcode(status)
                answer: dict[str, Any] = asdict(_collected(status, usage))
            elif os.getppid() != worker_pid:
                return
            else:
                answer = _start(Program(**asked), streams, worker_pid)
            for descriptor in streams:
                os.close(descriptor)
            _send(connection, answer)


# The Popen objects are kept, because `subprocess` collects the processes of dropped objects.
_started: dict[int, subprocess.Popen[bytes]] = {}


def _start(program: Program, streams: Sequence[int], worker_pid: int) -> dict[str, Any]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # Setting the limit of open files fails if the new limit is above the hard limit. The process then keeps its present
    # limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (program.file_limit, hard))
    before = None if program.umask is None else os.umask(program.umask)
    stdin, stdout, stderr = streams
    try:
        # Without a shell and without a preexec_fn, Python starts the process by vfork. A start by vfork takes well
        # under a millisecond.
        process = subprocess.Popen(
            program.command,
            cwd=program.cwd,
            env=program.env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_before_exec(program, worker_pid),
        )
    except OSError as error:
        return {"errno": error.errno, "text": error.strerror or str(error)}
    # The function between fork and exec has failed, because the terminal could not become the controlling terminal of
    # the process.
    except subprocess.SubprocessError as error:
        return {"errno": 0, "text": str(error)}
    # Python raises ValueError for values with which no process can be started, such as a NUL in an argument.
    except ValueError as error:
        return {"errno": 0, "text": str(error)}
    finally:
        if before is not None:
            os.umask(before)
    _started[process.pid] = process
    return {"pid": process.pid}


def _before_exec(program: Program, worker_pid: int) -> Callable[[], None] | None:
    """Return the code that the new process runs before it executes its program; None if there is no need.

    Code between fork and exec is safe here, because the launcher has a single thread. The code has two tasks:
    * In a terminal, the standard input of the new session becomes its controlling terminal.
    * Where Yama restricts tracing, the process must allow the worker to read its stacks. A process does not inherit
      this permission.
    """
    is_traced = needs_tracer(yama_scope())
    if not is_traced and not program.terminal:
        return None

    def run() -> None:
        if program.terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if is_traced:
            allow_tracer(worker_pid)

    return run


def _collected(status: int, usage: resource.struct_rusage) -> Collected:
    # Between vfork and exec, a new process shares the memory of its parent, which is this launcher. Therefore the
    # system counts at least the launcher's memory as the peak of each process.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss if usage.ru_maxrss > own else 0
    return Collected(status, usage.ru_utime + usage.ru_stime, peak * 1024)


# A message is a length followed by JSON. Arguments that are not valid text contain lone surrogates, and JSON preserves
# these.


def _send(connection: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    data = json.dumps(message).encode()
    head = _LENGTH.pack(len(data))
    if descriptors:
        socket.send_fds(connection, [head], descriptors)
        connection.sendall(data)
    else:
        connection.sendall(head + data)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive a message, and the file descriptors that were sent with the message.

    Raises:
        ConnectionError: The process at the other end of the connection has ended.
    """
    head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, _STREAMS)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    head += _read(connection, _LENGTH.size - len(head))
    return json.loads(_read(connection, _LENGTH.unpack(head)[0])), descriptors


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the process at the other end of the connection has ended")
        data += part
    return bytes(data)
