"""Calls a callable once for each input of a task, and survives inputs that end the process.

The module `run_callable.py` loads this module in a task with inputs. Like that module, this module imports no part of
Iris. A child process calls the callable, and sends each outcome to the task's first process through a pipe. If the
child process ends before its last input, the input that it worked on has failed. Another child process continues with
the next input. The first process loads nothing of the user's code, so that it can fork at any time.

The input file is a pickle of the tuple (first, is_star, tries, inputs). `first` is the index of the first input in the
job. With `is_star`, each input is a tuple of arguments. `tries` is the largest number of calls of the callable for one
input, until a call succeeds. Each item of `inputs` is a byte, "p" or "v", and a pickle. The byte is "v" if the pickle
has code by value.

The result of the task is the pickle of a list with a tuple (kind, data, text) for each input: `VALUE` with the pickled
value; `RAISED` with the pickled exception, or no data, and its traceback; `FAILED` with the reason as text. `RAISED`
and `FAILED` have the input's `repr` as a fourth element.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import reprlib
import select
import struct
import sys
import types
from typing import Any, NoReturn

VALUE, RAISED, FAILED = 0, 1, 2
_LENGTH = struct.Struct("<I")
_READ_BYTES = 1024 * 1024
# The largest number of bytes that the pickle of an outcome needs besides the data and texts of the outcome.
_FRAME_BYTES = 64
# The largest number of characters of the `repr` of an input.
_SHOWN_CHARACTERS = 200
_PLAIN = (int, float, complex, bool, str, bytes, type(None))


def run_inputs(tools: Any, entrypoint: str, result: str, pickled_by: str, path: str) -> None:
    """Call the callable for each input in a file, and write the outcomes into the result file.

    Args:
        tools: The module `run_callable`, whose functions are used here.
        entrypoint: The file of the pickled callable.
        result: The path of the result file.
        pickled_by: The Python version that pickled the callable.
        path: The path of the file with the inputs.
    """
    with open(path, "rb") as file:
        first, is_star, tries, inputs = pickle.loads(file.read())
    outcomes: list[tuple[Any, ...] | None] = [None] * len(inputs)
    failures = [0] * len(inputs)
    left = tools.max_result_bytes() - _FRAME_BYTES * (1 + len(inputs))
    # If several outcomes share one text object, the pickle of the outcomes contains the text only once.
    too_large = _too_large(len(inputs), tools)
    reasons: dict[str, str] = {}
    start = 0
    while start < len(inputs):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read_end)
            tools.become_task_process()
            pipe = _Pipe(write_end, start, first)
            _work(tools, (entrypoint, pickled_by, result), inputs[start:], (is_star, tries, failures[start]), pipe)
        os.close(write_end)
        is_ready = False
        for kind, index, *outcome in _frames(pid, read_end):
            is_ready = True
            if kind == "failure":
                failures[index] += 1
            if kind == "outcome":
                size = sum(_size_of(part) for part in outcome)
                if size > left:
                    outcome, size = [FAILED, b"", too_large, ""], 0
                left -= size
                outcomes[index] = tuple(outcome)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(read_end)
        start = next((i for i, outcome in enumerate(outcomes) if outcome is None), len(inputs))
        if not is_ready:
            # The child process could not load the callable, and has written the reason into the failure files.
            # Therefore the task ends in the same way.
            _end_like(status)
        if start < len(inputs):
            failures[start] += 1
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            why = f"the process ended with {how} while it worked on this input"
            sys.stderr.write(f"iris: input {first + start}: {why}\n")
            sys.stderr.flush()
            if failures[start] >= tries:
                outcomes[start] = (FAILED, b"", reasons.setdefault(why, why), "")
                start += 1
    tools.write_result(result, pickle.dumps(outcomes))


class _Pipe:
    """The end of a pipe at which a child process sends outcomes.

    Args:
        descriptor: The descriptor of the pipe.
        start: The position of the child's first input in the task.
        first: The index of the task's first input in the job.
    """

    def __init__(self, descriptor: int, start: int, first: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._first = first
        self._pid = os.getpid()

    def job_index(self, position: int) -> int:
        """Return the index in the whole job of the input at a position in this child process."""
        return self._first + self._start + position

    def send(self, kind: str, position: int, *outcome: Any) -> None:
        """Send a message to the task's first process. Do nothing in a copy of this process that the callable has
        forked.
        """
        if os.getpid() != self._pid:
            return
        data = pickle.dumps((kind, self._start + position, *outcome))
        view = memoryview(_LENGTH.pack(len(data)) + data)
        while view:
            view = view[os.write(self._descriptor, view) :]


def _work(
    tools: Any, task: tuple[str, str, str], inputs: list[bytes], mode: tuple[bool, int, int], pipe: _Pipe
) -> NoReturn:
    """Call the callable for each input, in the child process. Then end the child process with exit code 0.
    If the callable cannot be loaded, end the child process with the exit code of the error.

    Args:
        tools: The module `run_callable`, whose functions are used here.
        task: The file of the pickled callable, the Python version that pickled it, and the result file.
        inputs: The pickled inputs.
        mode: Whether an input is a tuple of arguments, how many times an input may be tried, and how many tries of the
            first input have failed in earlier child processes.
        pipe: The pipe to the task's first process.
    """
    entrypoint, pickled_by, result = task
    try:
        (function, _, kwargs), modules = tools.load_callable(entrypoint, pickled_by)
    except BaseException as error:  # noqa: BLE001 - `end` derives the exit code from the exception.
        tools.end(error, result)
    sys.argv[0] = getattr(function, "__name__", type(function).__name__)
    own = modules.own_names()
    pipe.send("ready", 0)
    is_star, tries, failed = mode
    for position, item in enumerate(inputs):
        for left in range(tries - failed - 1, -1, -1):
            is_failure, *outcome = _outcome(tools, function, kwargs, item, is_star, own, pipe.job_index(position))
            if not is_failure or not left:
                break
            # The task's first process must know of the failed try, because the next try may end this child process.
            pipe.send("failure", position)
        pipe.send("outcome", position, *outcome)
        failed = 0
    sys.exit(0)


def _outcome(
    tools: Any, function: Any, kwargs: dict[str, Any], item: bytes, is_star: bool, own: Any, index: int
) -> tuple[Any, ...]:
    """Call the callable for one input. Return a tuple: whether the call has failed, the kind of the outcome, its data,
    and its texts.
    """
    arguments: Any = ()
    try:
        arguments = _load_input(tools, item)
        value = function(*arguments, **kwargs) if is_star else function(arguments, **kwargs)
        if isinstance(value, types.CoroutineType):
            import asyncio  # The import is here, because it is slow and most callables do not need it.

            value = asyncio.run(value)
    except BaseException as error:  # noqa: BLE001 - A failed input must not make the other inputs fail.
        shown = _shown(arguments)
        if not isinstance(error, Exception):
            # The caller must not get a SystemExit or KeyboardInterrupt, which would end the caller's program.
            return True, FAILED, b"", f"the callable raised {type(error).__name__}({error})", shown
        sys.stderr.write(f"iris: input {index} failed: {shown}\n")
        data, text = tools.pickle_exception(error, own)
        tools.show_error(error)
        return True, RAISED, data, text, shown
    try:
        return False, VALUE, pickle.dumps(value) if type(value) in _PLAIN else tools.dumps(value, own), ""
    except Exception as error:  # noqa: BLE001 - The user's __reduce__ may raise any exception.
        # Another call would return a value of the same kind, so the call is not tried again.
        return False, FAILED, b"", f"the return value of the callable cannot be pickled: {error}", _shown(arguments)


def _load_input(tools: Any, item: bytes) -> Any:
    return tools.load_value(item[1:]) if item[:1] == b"v" else pickle.loads(item[1:])


def _shown(value: object) -> str:
    try:
        text = reprlib.repr(value)
    except Exception:  # noqa: BLE001 - The user's __repr__ may raise any exception.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _size_of(part: object) -> int:
    if isinstance(part, str):
        return len(part.encode("utf-8", "surrogatepass"))
    return len(part) if isinstance(part, bytes) else 0


def _too_large(count: int, tools: Any) -> str:
    limit = tools.max_result_bytes() // 1024**2
    return (
        f"the result is too large: the results of the {count:,} inputs of one task may have {limit} MiB together: map"
        " with a smaller chunk, or store large results elsewhere"
    )


def _frames(pid: int, descriptor: int) -> Any:
    """Yield the messages that a child process sends through its pipe, until the process has ended. The pipe may stay
    open after the end of the child process, because processes that it has started may hold the pipe.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = -1
    # Without `pidfd_open`, the system cannot report the end of a process by a descriptor. In this case, only the pipe
    # is polled.
    with contextlib.suppress(AttributeError, OSError):
        ended = os.pidfd_open(pid)
        poll.register(ended, select.POLLIN)
    buffer = bytearray()
    try:
        while True:
            ready = {number for number, _ in poll.poll()}
            if descriptor not in ready:
                return
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                return
            buffer += data
            while len(buffer) >= _LENGTH.size and len(buffer) >= _LENGTH.size + _LENGTH.unpack_from(buffer)[0]:
                end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
                frame = pickle.loads(buffer[_LENGTH.size : end])
                del buffer[:end]
                yield frame
    finally:
        if ended >= 0:
            os.close(ended)


def _end_like(status: int) -> NoReturn:
    """End this process with the exit code or the signal of an ended child process."""
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status or 1)
