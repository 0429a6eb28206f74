"""Starts the processes of attempts: a small process of one thread, which the worker forks before it loads its program.

What a task inherits (limits, umask, signals) is set before the task's program begins: set from outside, it would undo
what the program has set for itself by then. The worker cannot set it: its own limits and umask are those of all its
threads, and Python code between fork and exec is not safe in a process that has threads. The launcher has one thread,
sets its own limits and umask for each start, and lets `subprocess` start the program by vfork.

The launcher is the parent of the attempts' main processes, and collects each when the worker says so: until then the
process id is not given to others. When the launcher is killed, its children come to the worker, their subreaper.

The launcher ends when its connection does, as with the worker, and starts nothing for a worker that has ended. It
holds what the worker was started with (its lock, and the pipe that its template waits for), so that nobody takes the
worker to be gone while a start is under way. It has no part in ending attempts: that is for the worker and its reaper.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_LENGTH = struct.Struct("!I")
_STREAMS = 3
_MOST_ASKED = 16  # at a time: both sides would wait for each other if the answers filled the connection


@dataclass(frozen=True, slots=True)
class Program:
    """What the main process of an attempt runs.

    Attributes:
        command: argv.
        cwd: Its working directory.
        env: All of its environment.
        file_limit: How many files it may have open (the soft limit).
        umask: Its umask; None: the worker's.
    """

    command: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    file_limit: int
    umask: int | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """How a process ended.

    Attributes:
        status: As `os.wait4` gives it.
        cpu_s: CPU seconds that it and its waited-for children used.
        memory_peak_bytes: The largest resident set of one of them; 0 where that is not known.
    """

    status: int
    cpu_s: float
    memory_peak_bytes: int


class Launcher:
    """The worker's side of its launcher; its coroutines run on one loop.

    Attributes:
        pid: The launcher's process.
    """

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self._connection = connection
        self._answers: deque[asyncio.Future[dict[str, Any]]] = deque()  # in the order in which they will come
        self._received = b""
        self._turns = asyncio.Semaphore(_MOST_ASKED)

    async def start(self, program: Program, streams: Sequence[int]) -> int:
        """Starts a program, in a session of its own; returns its process id once it has begun.

        Args:
            program: What is to run.
            streams: Its standard input, output and error.

        Raises:
            OSError: It cannot be started; ConnectionError: the launcher has ended.
        """
        answer = await self._ask(asdict(program), streams)
        if "pid" not in answer:
            raise OSError(answer["errno"], answer["text"])
        return int(answer["pid"])

    async def collect(self, pid: int) -> Collected:
        """Collects the main process of an attempt, which has ended."""
        try:
            return Collected(**await self._ask({"collect": pid}))
        except ConnectionError:
            pass  # the launcher has ended: what it had started came to us
        try:
            _, status, usage = os.wait4(pid, 0)  # noqa: ASYNC222 - it has ended: this collects it at once
        except ChildProcessError:  # or went to somebody else, where there are no subreapers
            return Collected(signal.SIGKILL, 0.0, 0)
        return _collected(status, usage)

    def close(self) -> None:
        """Ends the launcher; attempts go on, as children of this process."""
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
    """Forks the launcher of this process; call it before there are threads."""
    ours, theirs = socket.socketpair()
    worker_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.setsid()  # a terminal's Ctrl-C, or a signal to the worker's group, is not for it
            signal.signal(signal.SIGTERM, lambda *_: os.kill(worker_pid, signal.SIGTERM))  # meant for the worker
            gc.freeze()
            _serve(theirs, worker_pid)
        finally:
            os._exit(0)
    theirs.close()
    return Launcher(pid, ours)


def _serve(connection: socket.socket, worker_pid: int) -> None:
    with contextlib.suppress(ConnectionError):  # the worker has ended
        while True:
            asked, streams = _receive(connection)
            if "collect" in asked:
                _, status, usage = os.wait4(asked["collect"], 0)
                _started.pop(asked["collect"]).returncode = os.waitstatus_to_exitcode(status)
                answer: dict[str, Any] = asdict(_collected(status, usage))
            elif os.getppid() != worker_pid:
                return
            else:
                answer = _start(Program(**asked), streams)
            for descriptor in streams:
                os.close(descriptor)
            _send(connection, answer)


_started: dict[int, subprocess.Popen[bytes]] = {}  # `subprocess` collects the processes of objects that nobody holds


def _start(program: Program, streams: Sequence[int]) -> dict[str, Any]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # it may be beyond the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (program.file_limit, hard))
    before = None if program.umask is None else os.umask(program.umask)
    stdin, stdout, stderr = streams
    try:
        # No shell, no preexec_fn: with neither, Python starts the process by vfork, in well under a millisecond.
        process = subprocess.Popen(
            program.command,
            cwd=program.cwd,
            env=program.env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        return {"errno": error.errno, "text": error.strerror or str(error)}
    except ValueError as error:  # nothing that a process can be started with
        return {"errno": 0, "text": str(error)}
    finally:
        if before is not None:
            os.umask(before)
    _started[process.pid] = process
    return {"pid": process.pid}


def _collected(status: int, usage: resource.struct_rusage) -> Collected:
    # Until a process becomes its program it shares the memory of its parent, and the system counts that as its peak.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = usage.ru_maxrss if usage.ru_maxrss > own else 0
    return Collected(status, usage.ru_utime + usage.ru_stime, peak * 1024)


# Messages: JSON behind its length. Lone surrogates, for bytes that are no text, pass through JSON as they are.


def _send(connection: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    data = json.dumps(message).encode()
    head = _LENGTH.pack(len(data))
    if descriptors:
        socket.send_fds(connection, [head], descriptors)
        connection.sendall(data)
    else:
        connection.sendall(head + data)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A message, and the descriptors that came with it.

    Raises:
        ConnectionError: The other side has ended.
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
            raise ConnectionResetError("the other side has ended")
        data += part
    return bytes(data)
