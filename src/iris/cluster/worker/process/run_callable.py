"""Runs a callable in a task's process. The program `start_callable.py` loads this module by its path.

        python -P start_callable.py ENTRYPOINT_FILE RESULT_FILE [PICKLED_BY [INPUT_FILE]]

This module imports no part of Iris, because a file `iris.py` in the task's working directory would hide the package,
and because a task must start fast.

The program unpickles the callable and its arguments, calls the callable, and ends like a Python script. The program
waits for threads and runs `atexit` functions. `sys.exit()` sets the exit code, an uncaught exception prints a traceback
and exits with 1, and Ctrl-C exits with 130. A coroutine function is run by `asyncio.run`. Apart from the exit code, the
worker finds these files:
        RESULT_FILE           the pickled return value, also if it is None
        RESULT_FILE.error     why a successful task has no return value: one sentence; empty if the disk had no room for
                              the return value, and no room for the sentence either
        RESULT_FILE.failure   why the task failed: one sentence, or the last line of the traceback
        RESULT_FILE.code      why the task failed, as the name of a `FailureCode`
        RESULT_FILE.exception the pickled exception, if it can be pickled and is not too large
        RESULT_FILE.traceback the traceback of the exception as text

The callable sees a process that looks like the script from which it was submitted. The current directory is first on
`sys.path`. `__main__` is not this program, but a new module. The new module contains the functions and classes that
were sent from the caller's `__main__`. A module whose code was sent is imported from this machine if its source is the
same here. Otherwise the sent copy is entered into `sys.modules` (`iris.cluster.pickles.task_modules`). Therefore forked
processes find such functions by their names, as `multiprocessing` and `concurrent.futures` require. Spawned processes
import the modules themselves, so the modules must be installed on the worker or lie in the workspace.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_MAX_SENTENCE = 1000  # The largest number of characters in a failure text.
_PID = os.getpid()
_INPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_inputs.py")
_PICKLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "pickles")


_Loaded = tuple[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def main() -> None:
    """Run the callable that the command line names. Every failure ends in `SystemExit`."""
    entrypoint, result, *rest = sys.argv[1:]
    # Without -P, Python puts the directory of this program first on `sys.path`. The task's working directory must be
    # first.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd(), *(path for path in sys.path if path not in ("", os.getcwd(), here))]
    sys.argv[:] = [entrypoint]
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _show_thread_error
    _allow_stacks_of_forks()
    if len(rest) > 1:
        _resume_collector()
        _load_beside("run_inputs").run_inputs(sys.modules[__name__], entrypoint, result, *rest)
        return
    modules = None
    try:
        _check_python(rest[0] if rest else "")
        (function, args, kwargs), modules = _load(entrypoint)
        sys.argv[0] = getattr(function, "__name__", type(function).__name__)
        value = function(*args, **kwargs)
        if isinstance(value, types.CoroutineType):
            import asyncio  # The import is here, because it is slow and most tasks do not need it.

            value = asyncio.run(value)
    except BaseException as error:  # noqa: BLE001 - Every error of the user's code must end in `SystemExit`.
        _end(error, result, modules)
    else:
        _keep(value, result, modules.own_names())


def _resume_collector() -> None:
    """Start the garbage collector, which `start_callable.py` has stopped. From now on, the collector skips the modules
    that the program itself has loaded. This saves about 8 ms of CPU time in each task, mostly at the end of the task.

    Call this function before the user's objects are loaded, because the collector never frees skipped objects.
    """
    gc.freeze()
    gc.enable()


def _allow_stacks_of_forks() -> None:
    """Let forked processes of this task, such as those of `multiprocessing`, allow the worker to read their stacks.

    The permission is needed only under Yama's setting 1. The kernel keeps the tracer of this process, which the
    launcher has set, but does not pass it on to forked processes (`iris.cluster.worker.process.tracing`).
    """
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            if file.read().strip() != "1":
                return
        with open(f"/proc/{os.getppid()}/stat") as file:
            # This process is a child of the launcher, and the launcher is a child of the worker. Therefore the parent
            # of the launcher is the worker.
            worker = int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return
    import ctypes  # The import is here because only machines with this setting of Yama need it.

    prctl = ctypes.CDLL(None).prctl
    os.register_at_fork(after_in_child=lambda: prctl(0x59616D61, worker, 0, 0, 0))


# In a task with inputs, `main` loads `run_inputs.py`, which calls the functions below.


def become_task_process() -> None:
    """Allow this process, a child of the task's first process, to write the task's files."""
    global _PID
    _PID = os.getpid()


def load_callable(entrypoint: str, pickled_by: str) -> _Loaded:
    """Return the callable in a file with its arguments, and the modules that contain it."""
    _check_python(pickled_by)
    return _load(entrypoint)


def end(error: BaseException, result: str) -> NoReturn:
    """End the process because of an error, in the same way as in a task without inputs."""
    _end(error, result, None)
    raise AssertionError("`_end` has returned, but it must raise SystemExit")


def load_value(data: bytes) -> Any:
    """Return the value in a pickle, which may contain code."""
    return _load_pickles("loading").load_here(data)


def dumps(value: object, own: Sequence[str]) -> bytes:
    """Return the pickle of a value. Code in the value is pickled by value."""
    pickled: bytes = _load_pickles("by_value").dumps(value, own)
    return pickled


def pickle_exception(error: BaseException, own: Sequence[str]) -> tuple[bytes, str]:
    """Return the pickle of an exception, and its traceback as text. The pickle is empty if the exception cannot be
    pickled, or is too large.
    """
    _trim(error)
    data = b""
    with contextlib.suppress(Exception):
        data = dumps(error, own)
    text = _end_of("".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")).decode()
    return (data if len(data) <= _limits().MAX_EXCEPTION_BYTES else b""), text


def show_error(error: BaseException) -> None:
    """Print the traceback of an error."""
    _show_error(error)


def max_result_bytes() -> int:
    """Return the largest size of a pickled result."""
    limit: int = _limits().MAX_RESULT_BYTES
    return limit


def write_result(result: str, data: bytes) -> None:
    """Write the result file."""
    _write(result, data)


def _load_beside(name: str) -> Any:
    """Load a module from this folder by its path, so that the package `iris` is not imported."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"_iris_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_pickles(name: str) -> Any:
    """Return a module of `iris.cluster.pickles` without importing `iris`; see the docstring of that package."""
    package = "_iris_pickles"
    if package not in sys.modules:
        file = os.path.join(_PICKLES, "__init__.py")
        spec = importlib.util.spec_from_file_location(package, file, submodule_search_locations=[_PICKLES])
        assert spec is not None
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{name}")


def _limits() -> Any:
    return _load_pickles("transfer_limits")


class _CannotStart(Exception):
    """An error: the callable cannot be loaded in this process. The error text is a sentence for the user."""


def _check_python(pickled_by: str) -> None:
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    why_not = _limits().explain_python_mismatch(mine, pickled_by)
    if why_not:
        # Bytecode of another Python version can crash the interpreter, so the callable is not even loaded.
        raise _CannotStart(why_not)


def _load(entrypoint: str) -> _Loaded:
    """Return the callable with its arguments, and the `TaskModules` that contain the callable's module."""
    try:
        with open(entrypoint, "rb") as file:
            loading = _load_pickles("loading")
            _resume_collector()
            loaded: _Loaded = loading.load_in_task(file.read())
            return loaded
    except ModuleNotFoundError as error:
        raise _CannotStart(f"the callable cannot be unpickled on the worker: {_describe(error)}") from error
    except Exception as error:
        raise _CannotStart(
            f"the callable cannot be unpickled on the worker: {_describe(error)} (check that the worker has the"
            " modules that the callable uses, in the same versions as the caller)"
        ) from error


def _end(error: BaseException, result: str, modules: Any) -> None:
    """Write into the failure files why the callable did not return. Afterwards raise `SystemExit` with the exit code
    that Python would have used.
    """
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
        if isinstance(code, int):
            code &= 0xFF  # A parent process sees only the lowest 8 bits, so the other bits are dropped here.
        if code == 0:
            _write_text(result + ".error", "the callable ended by sys.exit() and returned nothing")
        else:
            _write_text(result + ".failure", f"sys.exit({code})" if isinstance(code, int) else _one_line(code))
        sys.exit(code)
    if isinstance(error, _CannotStart):
        _write_text(result + ".failure", str(error))
        _write_text(result + ".code", "CALLABLE_NOT_LOADED")
        cause = error.__cause__
        # The traceback is shown if modules of the user have raised the error.
        if cause is not None and _trim(cause).__traceback__ is not None:
            _show_error(cause)
        sys.exit(f"iris: {error}")
    advice = "" if modules is None else modules.explain(error)
    _write_text(result + ".failure", f"{_describe(error)} ({advice})" if advice else _describe(error))
    _write_text(result + ".code", "OUT_OF_MEMORY" if isinstance(error, MemoryError) else "EXCEPTION")
    if advice:
        error.add_note(f"({advice})")
    _trim(error)
    if not isinstance(error, KeyboardInterrupt):
        _keep_exception(error, result, () if modules is None else modules.own_names())
    _show_error(error)
    sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _trim(error: BaseException) -> BaseException:
    """Remove the frames of this program from the beginning of an error's traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((__file__, _INPUTS, _PICKLES + os.sep)):
        trace = trace.tb_next
    return error.with_traceback(trace)


def _show_error(error: BaseException) -> None:
    """Print a traceback as Python does when it ends.

    Before Python 3.13, the interpreter reads source lines only from files, and shows no source lines of code that was
    sent from another machine.
    """
    if sys.excepthook is not sys.__excepthook__ or sys.stderr is None:
        sys.excepthook(type(error), error, error.__traceback__)
        return
    # Errors are ignored, because printing fails if the standard error is closed.
    with contextlib.suppress(OSError, ValueError):
        traceback.print_exception(error)


def _show_thread_error(args: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, with source lines."""
    if args.exc_value is None or args.exc_type is SystemExit or sys.stderr is None:
        threading.__excepthook__(args)
        return
    name = threading.get_ident() if args.thread is None else args.thread.name
    text = "".join(traceback.format_exception(args.exc_value))
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"Exception in thread {name}:\n{text}")
        sys.stderr.flush()


def _describe(error: BaseException) -> str:
    """Return the last line of an error's traceback, with advice for some errors."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    text = _one_line(error)
    described = f"{name}: {text}" if text else name
    if isinstance(error, MemoryError):
        described = f"out of memory: {described} (it asked the system for more than it could get)"
    if isinstance(error, ModuleNotFoundError) and not hasattr(error, "iris_reason"):
        described += " (install it on the worker, or send it along in a workspace, without .gitignore naming it)"
    return described


def _one_line(value: object) -> str:
    try:
        text = " ".join(str(value).split())
    except Exception:  # noqa: BLE001 - The user's __str__ may raise any exception.
        return "(no text, because its __str__ failed)"
    return text if len(text) <= _MAX_SENTENCE else text[: _MAX_SENTENCE - 1] + "…"


def _keep_exception(error: BaseException, result: str, own: Sequence[str]) -> None:
    """Store an exception for the caller if it can be pickled, and its traceback as text in any case."""
    with contextlib.suppress(Exception):
        text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
        _write(result + ".traceback", _end_of(text))
        data = _load_pickles("by_value").dumps(error, own)
        if len(data) <= _limits().MAX_EXCEPTION_BYTES:
            _write(result + ".exception", data)


def _end_of(text: bytes) -> bytes:
    """Return the last lines of a traceback within the size limit. The last lines contain the exception."""
    if len(text) <= _limits().MAX_TRACEBACK_BYTES:
        return text
    cut = b"(the beginning was cut)\n"
    rest = text[len(cut) - _limits().MAX_TRACEBACK_BYTES :]
    return cut + rest[rest.find(b"\n", 0, -1) + 1 :]


def _keep(value: object, result: str, own: Sequence[str]) -> None:
    """Store the return value, or the reason why it cannot be stored."""
    try:
        data = _load_pickles("by_value").dumps(value, own)
    except Exception as error:  # noqa: BLE001 - The user's __reduce__ may raise any exception.
        _write_text(result + ".error", f"the return value of the callable cannot be pickled: {_describe(error)}")
        return
    if len(data) > _limits().MAX_RESULT_BYTES:
        reason = (
            f"the return value of the callable is too large: {len(data) / 1024**2:.1f} MiB pickled, over the limit of"
            f" {_limits().MAX_RESULT_BYTES // 1024**2} MiB (store the value elsewhere and return its location)"
        )
        _write_text(result + ".error", reason)
        return
    try:
        _write(result, data)
    except OSError as error:
        reason = f"the return value of the callable could not be stored on the worker: {_describe(error)}"
        try:
            _write(result + ".error", reason.encode("utf-8", "replace"))
        except OSError:
            # An empty file needs no space on a full disk. Without the file, the worker would report by mistake that the
            # callable has not returned.
            with contextlib.suppress(OSError):
                _write(result + ".error", b"")


def _write_text(path: str, sentence: str) -> None:
    try:
        _write(path, sentence.encode("utf-8", "replace"))
    except OSError as error:
        # The disk may be full. The exit code and the task's log still contain the most important facts.
        sys.excepthook(type(error), error, None)


def _write(path: str, data: bytes) -> None:
    if os.getpid() != _PID:
        # The callable may have forked this process. If the forked copy returns from the callable, it must not write the
        # task's result.
        return
    beside = f"{path}.{_PID}"
    try:
        with open(beside, "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # The file may be incomplete, because the disk is full. Therefore the file is removed.
        raise
