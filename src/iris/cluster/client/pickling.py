"""Pickles a callable with its arguments, so that a worker can run it where the caller's code is not installed.

What is sent by value and what by name:

* `__main__` (a script, `python -m`, a notebook, a prompt) goes by value, and so does every module of the caller's
  own: one with a source file that is neither installed, nor of the standard library, nor of Iris.
* Everything else goes by name, and has to be installed on the worker.
* With a workspace, own modules that a task can import from its top go by name: their files are there.

By value means all that a function refers to, as it is now: the globals it names, the modules it names with all that
is in them, its defaults, and what it takes from the functions around it. An import that runs inside a function is
not seen: what it imports must be on the worker, or in the workspace.
"""

from __future__ import annotations

import dis
import inspect
import io
import os
import site
import sys
import sysconfig
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import dynamic_subimport

from iris.cluster.types import Entrypoint
from iris.errors import EntrypointError, ResourceExhaustedError

MAX_ENTRYPOINT_BYTES = 64 * 1024**2  # the controller keeps it, and sends it to each worker that runs a task

# cloudpickle is told for the whole process what goes by value: two threads must not take it back under each other.
# Reentrant, since an argument's `__reduce__` may submit a job.
_REGISTRY_LOCK = threading.RLock()

# What describes where a module came from, and means nothing elsewhere.
_NOT_SENT = frozenset({"__builtins__", "__cached__", "__loader__", "__path__", "__spec__"})

_MAX_WAY = 6  # how far an error looks into what cannot be pickled; each step pickles it once more

_IRIS = str(Path(__file__).resolve().parents[2])


def pickle_entrypoint(entrypoint: Entrypoint, *, workspace: Path | None = None) -> bytes:
    """The cloudpickle of (callable, args, kwargs), to be unpickled where the caller's modules are missing.

    Args:
        entrypoint: With a callable. It may be a coroutine function: the task runs it with `asyncio.run`.
        workspace: The folder that is sent along, and will be the task's directory.

    Raises:
        EntrypointError: It is a command, it is a generator function, or something in it cannot be pickled; the text
            says what, and what to do.
        ResourceExhaustedError: It is over `MAX_ENTRYPOINT_BYTES`.
    """
    function = entrypoint.callable
    if function is None:
        raise EntrypointError(f"a command is not pickled: {list(entrypoint.command)}")
    name = _name(function)
    for call in (function, type(function).__call__):
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            raise EntrypointError(
                f"{name} is a generator function: calling it runs none of it. Send a function that goes through it"
            )
    buffer = _CountingBuffer()
    with _own_modules_by_value(workspace) as own:
        try:
            _Pickler(buffer, own).dump((function, entrypoint.args, dict(entrypoint.kwargs)))
        except Exception as error:
            culprit = _find_culprit(entrypoint, own)
            raise EntrypointError(
                f"{name} cannot be sent to a worker, because of {culprit}: {type(error).__name__}: {error}. Create it"
                " inside the function; or move the code into a module of its own, and send its folder along as the"
                " workspace"
            ) from error
    if buffer.size > MAX_ENTRYPOINT_BYTES:
        raise ResourceExhaustedError(
            f"{name} is too large to be sent to a worker: {buffer.size / 1024**2:.1f} MiB with its arguments and the"
            f" globals that it uses, over the limit of {MAX_ENTRYPOINT_BYTES // 1024**2} MiB. Have the task load"
            " large data itself, from where it is stored"
        )
    return buffer.getvalue()


class _CountingBuffer(io.BytesIO):
    """Counts what is written, and keeps it up to the limit: an error can say a size that memory would not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def write(self, data: Any, /) -> int:
        count = memoryview(data).nbytes
        self.size += count
        return super().write(data) if self.size <= MAX_ENTRYPOINT_BYTES else count


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # it publishes no types
    """cloudpickle's, except for modules by value.

    cloudpickle sends what is in a module before the module, so that two modules which import each other never end.
    Here an empty module goes first, and then what is in it.
    """

    def __init__(self, buffer: io.BytesIO, own: frozenset[str]) -> None:
        super().__init__(buffer)
        self._own = own

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.ModuleType) and obj.__name__ in self._own and sys.modules.get(obj.__name__) is obj:
            state = {name: value for name, value in vars(obj).items() if name not in _NOT_SENT}
            return dynamic_subimport, (obj.__name__, {}), state
        return super().reducer_override(obj)


@contextmanager
def _own_modules_by_value(workspace: Path | None) -> Iterator[frozenset[str]]:
    """Has cloudpickle send the caller's own modules by value for a while; yields their names."""
    with _REGISTRY_LOCK:
        own = list(_own_modules(workspace))
        before = cloudpickle.list_registry_pickle_by_value()
        added = [module for module in own if module.__name__ not in before]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield frozenset(module.__name__ for module in own)
        finally:
            still = cloudpickle.list_registry_pickle_by_value()
            for module in added:
                if module.__name__ in still:
                    cloudpickle.unregister_pickle_by_value(module)


def _own_modules(workspace: Path | None) -> Iterator[types.ModuleType]:
    """The modules that the caller has imported and that a worker has no way to import."""
    installed = _installed_folders()
    top = None if workspace is None else os.path.realpath(workspace)
    has_metadata: dict[str, bool] = {}  # by folder: whether pip has installed things there
    for name, module in sys.modules.copy().items():
        # Under another name than its own it is an alias, and `__main__` goes by value anyway.
        if not isinstance(module, types.ModuleType) or name != getattr(module, "__name__", None) or name == "__main__":
            continue
        places = _places(module)
        if not places or any(_is_below(place, installed) for place in places):
            continue
        roots = [_root(name, place) for place in places]
        for root in roots:
            if root not in has_metadata:
                has_metadata[root] = _has_metadata(root)
        if any(has_metadata[root] for root in roots):
            continue
        if any(root != top for root in roots):
            yield module


def _places(module: types.ModuleType) -> list[str]:
    """Where a module's source is: one file; or the folders of a package that is no more than folders."""
    file = getattr(module, "__file__", None)
    if file is not None:
        return [file] if file.endswith((".py", ".pyc")) else []
    return list(getattr(module, "__path__", []))


def _root(name: str, place: str) -> str:
    """The folder from which a module was imported: the one to have on `sys.path`."""
    depth = name.count(".") + (os.path.basename(place) in ("__init__.py", "__init__.pyc"))
    folder = os.path.realpath(place)
    for _ in range(depth + 1):
        folder = os.path.dirname(folder)
    return folder


def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages(), _IRIS}
    return tuple({folder.rstrip(os.sep) + os.sep for path in folders for folder in (path, os.path.realpath(path))})


def _is_below(place: str, folders: tuple[str, ...]) -> bool:
    parts = place.split(os.sep)
    return (
        "site-packages" in parts
        or "dist-packages" in parts  # Debian's
        or place.startswith(folders)
        or os.path.realpath(place).startswith(folders)
    )


def _has_metadata(folder: str) -> bool:
    """Whether things are installed in a folder, as by `pip install --target`."""
    try:
        return any(entry.endswith(".dist-info") for entry in os.listdir(folder))
    except OSError:
        return False  # within a zip file, say


def _name(function: object) -> str:
    if isinstance(function, partial):
        return _name(function.func)
    name = getattr(function, "__qualname__", None)
    return f"the callable {name!r}" if name else f"the callable of type {type(function).__qualname__!r}"


def _find_culprit(entrypoint: Entrypoint, own: frozenset[str]) -> str:
    """The way to what cannot be pickled, as far as it can be told: "the global 'LOCK' (a lock)"."""
    parts: list[tuple[str, Any]] = [(f"argument {index}", value) for index, value in enumerate(entrypoint.args)]
    parts += [(f"the argument {name!r}", value) for name, value in entrypoint.kwargs.items()]
    parts.append(("the callable itself", entrypoint.callable))
    way: list[str] = []
    found: Any = None
    seen: set[int] = set()
    while len(way) < _MAX_WAY:
        culprit = next((part for part in parts if not _pickles(part[1], own)), None)
        if culprit is None:
            break
        label, found = culprit
        way.append(label)
        seen.add(id(found))
        parts = [part for part in _parts(found) if id(part[1]) not in seen]
    if not way:
        return "all of it together"
    if len(way) > 1 and way[0] == "the callable itself":
        del way[0]  # what is in it says enough
    return f"{', in it '.join(way)} (a {type(found).__qualname__})"


def _pickles(value: object, own: frozenset[str]) -> bool:
    try:
        _Pickler(_CountingBuffer(), own).dump(value)
    except Exception:  # noqa: BLE001 - whatever the dump of the whole has failed with
        return False
    return True


def _parts(whole: Any) -> list[tuple[str, Any]]:
    """What is pickled as part of a value, with names for people."""
    if isinstance(whole, dict):
        return [(f"the item {key!r}", value) for key, value in whole.items()]
    if isinstance(whole, list | tuple | set | frozenset):
        return [(f"the item {index}", value) for index, value in enumerate(whole)]
    if isinstance(whole, partial):
        return [("the function", whole.func), ("the arguments", whole.args), ("the arguments", whole.keywords)]
    if isinstance(whole, types.MethodType):
        return [("the object", whole.__self__), ("the method", whole.__func__)]
    if isinstance(whole, types.FunctionType):
        return _parts_of_function(whole)
    return [(f"the attribute {name!r}", value) for name, value in getattr(whole, "__dict__", {}).items()]


def _parts_of_function(function: types.FunctionType) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            parts.append((f"the variable {name!r} of a function around it", cell.cell_contents))
        except ValueError:
            pass  # not assigned yet
    parts += [
        (f"the global {name!r}", function.__globals__[name])
        for name in _names(function.__code__)
        if name in function.__globals__
    ]
    parts += [("a default value", value) for value in function.__defaults__ or ()]
    parts += [(f"the default of {name!r}", value) for name, value in (function.__kwdefaults__ or {}).items()]
    return [*parts, *((f"the attribute {name!r}", value) for name, value in vars(function).items())]


def _names(code: types.CodeType) -> list[str]:
    names = [step.argval for step in dis.get_instructions(code) if step.opname.endswith("_GLOBAL")]
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [*names, *(name for const in inner for name in _names(const))]
