"""The program that a worker starts in a task's process to run a callable.

    python -P run_callable.py ENTRYPOINT_FILE RESULT_FILE [PICKLED_BY]

It can be started as `python -m iris.cluster.worker.run_callable` too, but then a file `iris.py` in the working
directory, which is the task's, takes the place of Iris. It imports no part of Iris, for the same reason and to
start fast.

It unpickles (callable, args, kwargs), calls, and ends as Python ends a script: threads are waited for, `atexit`
functions run, `sys.exit()` has its code, an uncaught exception is a traceback and 1, Ctrl-C is 130. A coroutine
function is run with `asyncio.run`. Beside the exit code the worker finds:

    RESULT_FILE           the cloudpickle of the return value, None included
    RESULT_FILE.error     why there is none, though the task succeeded: one sentence
    RESULT_FILE.failure   why the task failed: one sentence, or the last line of the traceback

To the code that it runs it looks like the script that the callable came from. The current directory is first on
`sys.path`. `__main__` is a new module with the caller's `__main__` functions and classes that were sent, not this
program. A module that travelled by value and that nobody could import here is entered into `sys.modules` with as
much of it as was sent; one that can be imported here stays what it is, beside the copy that was sent. So processes
that are forked can be handed such functions by name, as `multiprocessing` and `concurrent.futures` do. Processes
that are spawned import what they run: for them the modules must be on the worker, or in the workspace.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, BinaryIO

import cloudpickle

MAX_RESULT_BYTES = 8 * 1024**2  # results are kept in the controller's database and travel in one message
OUT_OF_MEMORY = "out of memory: "  # begins the sentence of a failure that is one
_MAX_SENTENCE = 1000  # characters
_PID = os.getpid()

# Where cloudpickle says that things come from; the names are part of what it pickles, so they stay.
_CLOUDPICKLE = "cloudpickle.cloudpickle"


def main() -> None:
    """Runs what the command line says; see the module's docstring. What does not succeed ends in `SystemExit`."""
    entrypoint, result, *rest = sys.argv[1:]
    # The task's directory first, and not the one of this program, which Python puts there without -P.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd(), *(path for path in sys.path if path not in ("", os.getcwd(), here))]
    sys.argv[:] = [entrypoint]
    try:
        _check_python(rest[0] if rest else "")
        function, args, kwargs = _load(entrypoint)
        sys.argv[0] = getattr(function, "__name__", type(function).__name__)
        value = function(*args, **kwargs)
        if isinstance(value, types.CoroutineType):
            import asyncio  # here, since most tasks need not wait for it

            value = asyncio.run(value)
    except BaseException as error:  # noqa: BLE001 - nobody but the interpreter is above
        _end(error, result)
    else:
        _keep(value, result)


class _CannotStart(Exception):
    """The callable cannot be had here; the text is a sentence for the user."""


def _check_python(pickled_by: str) -> None:
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    why_not = why_not_on(mine, pickled_by)
    if why_not:
        raise _CannotStart(why_not)  # not even tried: bytecode of another version can crash the interpreter


def why_not_on(python: str, pickled_by: str) -> str:
    """Why a callable cannot run on a worker's Python; empty: it can, or one of the two is not known. The controller
    asks as well, before it starts anything."""
    if python == pickled_by or not python or not pickled_by:
        return ""
    return (
        f"the callable was pickled by Python {pickled_by} and cannot run on this worker's Python {python}:"
        f" submit it from Python {python}, use a worker with Python {pickled_by}, or submit a command instead"
    )


_Loaded = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _load(entrypoint: str) -> _Loaded:
    try:
        with open(entrypoint, "rb") as file:
            return _Unpickler(file).load_all()
    except ModuleNotFoundError as error:
        raise _CannotStart(f"the callable cannot be unpickled on the worker: {_describe(error)}") from error
    except Exception as error:
        raise _CannotStart(
            f"the callable cannot be unpickled on the worker: {_describe(error)} (is what it uses installed there in"
            " the versions that it was submitted with?)"
        ) from error


class _Unpickler(pickle.Unpickler):
    """Gives what travelled by value a module to live in.

    `cloudpickle` makes such functions and classes in no module, where nothing can find them by name. Here the
    functions of a module have that module's names as their globals, as where they came from.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        # Without __file__: a spawned process would run it, and it is the caller's script.
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        self._homes: dict[str, types.ModuleType] = {"__main__": main}
        self._globals: dict[str, dict[str, Any]] = {}  # by module: the dict that was sent for its functions
        self._made: list[Any] = []  # the functions and classes

    def load_all(self) -> _Loaded:
        """Unpickles, then gives functions and classes their names, where nothing that was sent has them."""
        loaded: _Loaded = self.load()
        for thing in self._made:
            home = self._homes.get(thing.__module__)
            if home is not None and thing.__qualname__.isidentifier():
                vars(home).setdefault(thing.__qualname__, thing)
        return loaded

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = super().find_class(module_name, global_name)
        if module_name == _CLOUDPICKLE:
            if global_name == "_make_function":
                return lambda code, names, *rest: self._note(found(code, self._globals_of(names), *rest))
            if global_name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return lambda *args: self._note(found(*args))
            if global_name == "dynamic_subimport":
                # With a state it is a module that some code has made up: its name need not be the only one.
                return lambda name, state: found(name, state) if state else self._home(name)
        return found

    def _note(self, thing: Any) -> Any:
        self._made.append(thing)
        return thing

    def _globals_of(self, names: dict[str, Any]) -> dict[str, Any]:
        """The dict to be a function's globals.

        Args:
            names: What was sent for it, one dict for all functions of a module; it describes the module.
        """
        name = names.get("__name__")
        # Two dicts may say the same name (of code that was run by `exec`, say): the second stays by itself.
        if not isinstance(name, str) or self._globals.setdefault(name, names) is not names:
            return names
        home = vars(self._home(name))
        home["__package__"] = names.get("__package__")
        if name != "__main__":
            home["__file__"] = names.get("__file__")
        if "__path__" in names:
            home["__path__"] = []  # a package, with nothing that could be imported from the caller's disk
        return home

    def _home(self, name: str) -> types.ModuleType:
        """The module for what was sent of a module, entered into `sys.modules` if its name is free."""
        home = self._homes.get(name)
        if home is None:
            home = self._homes[name] = types.ModuleType(name)
            package, _, leaf = name.rpartition(".")
            if package:
                parent = self._home(package)
                vars(parent).setdefault("__path__", [])
                setattr(parent, leaf, home)
                is_free = sys.modules.get(package) is parent
            else:
                is_free = not _is_importable(name)
            if is_free:
                sys.modules[name] = home
                # What the task returns, or sends to jobs of its own, goes on by value.
                cloudpickle.register_pickle_by_value(home)
        return home


def _is_importable(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return True  # no name for a module: leave it alone


def _end(error: BaseException, result: str) -> None:
    """Says why the callable did not return, and raises the `SystemExit` that Python would have ended with."""
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
        if isinstance(code, int):
            code &= 0xFF  # what the parent process gets to see
        if code == 0:
            _tell(result + ".error", "the callable ended by sys.exit() and returned nothing")
        else:
            _tell(result + ".failure", f"sys.exit({code})" if isinstance(code, int) else _one_line(code))
        sys.exit(code)
    if isinstance(error, _CannotStart):
        _tell(result + ".failure", str(error))
        cause = error.__cause__
        if cause is not None and _trim(cause).__traceback__ is not None:  # it came from the user's own modules
            sys.excepthook(type(cause), cause, cause.__traceback__)
        sys.exit(f"iris: {error}")
    _tell(result + ".failure", _describe(error))
    sys.excepthook(type(error), _trim(error), error.__traceback__)
    sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _trim(error: BaseException) -> BaseException:
    """Lets the traceback of an error begin where the user's code does."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == _trim.__code__.co_filename:
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def _describe(error: BaseException) -> str:
    """The last line of the error's traceback, and what to do where we know."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    text = _one_line(error)
    described = f"{name}: {text}" if text else name
    if isinstance(error, MemoryError):
        described = f"{OUT_OF_MEMORY}{described} (it asked the system for more than it could get)"
    if isinstance(error, ModuleNotFoundError):
        described += " (install it on the worker, or send it along in a workspace, without .gitignore naming it)"
    return described


def _one_line(value: object) -> str:
    try:
        text = " ".join(str(value).split())
    except Exception:  # noqa: BLE001 - a __str__ of the user's
        return "(it cannot be shown: its __str__ fails)"
    return text if len(text) <= _MAX_SENTENCE else text[: _MAX_SENTENCE - 1] + "…"


def _keep(value: object, result: str) -> None:
    """Stores the return value, or else the reason why not."""
    try:
        data = cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - a __reduce__ of the user's
        _tell(result + ".error", f"what the callable returned cannot be pickled: {_describe(error)}")
        return
    if len(data) > MAX_RESULT_BYTES:
        reason = (
            f"what the callable returned is too large: {len(data) / 1024**2:.1f} MiB pickled, over the limit of"
            f" {MAX_RESULT_BYTES // 1024**2} MiB (store it where others can read it, and return where that is)"
        )
        _tell(result + ".error", reason)
        return
    try:
        _write(result, data)
    except OSError as error:
        _tell(result + ".error", f"what the callable returned could not be stored on the worker: {_describe(error)}")


def _tell(path: str, sentence: str) -> None:
    try:
        _write(path, sentence.encode("utf-8", "replace"))
    except OSError as error:
        # The disk is full, say. The exit code tells what matters most; the task's log has the rest.
        sys.excepthook(type(error), error, None)


def _write(path: str, data: bytes) -> None:
    if os.getpid() != _PID:
        return  # a process that the callable forked, and let return, does not speak for the task
    beside = f"{path}.{_PID}"
    try:
        with open(beside, "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # half of a file on a full disk
        raise


if __name__ == "__main__":
    main()
