"""Pickles a callable and its arguments. A worker can run the callable without having the caller's code.

Code is pickled by value or by name:
* By value: `__main__` (a script, `python -m`, a notebook, a prompt) and the caller's own modules. A module is the
  caller's own if it has a source file and belongs neither to an installed package, nor to the standard library, nor to
  Iris. Editable installs are the caller's own. Modules registered with `cloudpickle.register_pickle_by_value` are also
  the caller's own.
* By name: all other code. Code that is pickled by name must be installed on the worker.
* If the job has a workspace, modules of the caller at the top of the workspace are pickled by name, because a task can
  import them.

The pickle of a function by value contains everything to which the function refers, with the current values: the globals
and whole modules named in the function, its defaults, and variables of enclosing functions. Import statements inside a
function are not considered, so a module imported there must be on the worker or in the workspace. If the worker can
import a module with the same source, the task uses the worker's module (see `iris.cluster.pickles.task_modules`).
"""

from __future__ import annotations

import inspect
import os
import pickle
import site
import sys
import sysconfig
import threading
import types
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cloudpickle

from iris.cluster.client.unpicklable import CountingBuffer, find_culprit
from iris.cluster.pickles.by_value import ByValuePickler, dumps
from iris.cluster.pickles.module_sources import IDENTITY, places_of, root_of
from iris.cluster.pickles.rebuilt import ReducesByNameError
from iris.cluster.pickles.trailer import append_trailer
from iris.cluster.types import Entrypoint
from iris.errors import EntrypointError, ResourceExhaustedError

# The largest size of the pickle of a callable. The controller stores a pickle for each job.
MAX_ENTRYPOINT_BYTES = 64 * 1024**2

# cloudpickle has one registry of modules that are pickled by value for the whole process, so only one thread at a time
# may change the registry. The lock is reentrant because the `__reduce__` of an argument may submit a job.
_REGISTRY_LOCK = threading.RLock()

_PLAIN = (int, float, complex, bool, str, bytes, type(None))

_IRIS = str(Path(__file__).resolve().parents[2])


def pickle_entrypoint(entrypoint: Entrypoint, *, workspace: Path | None = None) -> bytes:
    """Return the pickle of the tuple (callable, args, kwargs). A worker without the caller's modules can load the
    pickle.

    Args:
        entrypoint: The entrypoint. If its callable is a coroutine function, the task runs the coroutine with
            `asyncio.run`.
        workspace: The folder that is sent with the job. None: the job has no workspace.

    Raises:
        EntrypointError: The entrypoint is a command or a generator function, or a part of it cannot be pickled. The
            message names the part and a solution.
        ResourceExhaustedError: The pickle is larger than `MAX_ENTRYPOINT_BYTES`.
    """
    function = entrypoint.callable
    if function is None:
        raise EntrypointError(
            f"the entrypoint must be a callable to be pickled, got the command {list(entrypoint.command)}"
        )
    name = _name(function)
    for call in (function, type(function).__call__):
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            raise EntrypointError(
                f"{name} is a generator function, and a call of a generator function does not run its code: submit a"
                " function that iterates over the generator"
            )
    buffer = CountingBuffer(MAX_ENTRYPOINT_BYTES)
    with _own_modules_by_value(workspace) as (own, by_name):
        pickler = ByValuePickler(buffer, own, by_name)
        try:
            pickler.dump((function, entrypoint.args, dict(entrypoint.kwargs)))
        except Exception as error:
            culprit = find_culprit(entrypoint, own)
            why = str(error) if isinstance(error, ReducesByNameError) else f"{type(error).__name__}: {error}"
            raise EntrypointError(
                f"{name} cannot be sent to a worker, because of {culprit}: {why}. Create it"
                " inside the function, or move the code into a module and send the module's folder as the workspace"
            ) from error
        trailer = pickler.trailer()
    pickled = append_trailer(buffer.getvalue(), trailer)
    size = max(buffer.size, len(pickled))
    if size > MAX_ENTRYPOINT_BYTES:
        raise ResourceExhaustedError(
            f"{name} is too large to send to a worker: {size / 1024**2:.1f} MiB with its arguments and the"
            f" globals that it uses, over the limit of {MAX_ENTRYPOINT_BYTES // 1024**2} MiB. Let the task load"
            " large data itself, from the place where the data is stored"
        )
    return pickled


def pickle_inputs(inputs: Sequence[object], *, workspace: Path | None = None) -> list[bytes]:
    """Return the pickle of each input of a mapped callable. The first byte is "v" if the pickle may contain code, and
    "p" if it contains only data and references to importable code.

    Raises:
        EntrypointError: An input cannot be pickled. The message names the index of the input.
    """
    with _own_modules_by_value(workspace) as (own, _):
        pickled = []
        for index, item in enumerate(inputs):
            try:
                pickled.append(b"p" + pickle.dumps(item) if _is_plain(item) else b"v" + dumps(item, own))
            except Exception as error:
                raise EntrypointError(
                    f"input {index} cannot be sent to a worker: {type(error).__name__}: {error}"
                ) from error
    return pickled


def _is_plain(value: object) -> bool:
    """Return whether a value certainly contains no code. Such a value is pickled by `pickle`, which is faster than
    cloudpickle.
    """
    if type(value) in (tuple, list):
        return all(type(part) in _PLAIN for part in value)  # type: ignore[attr-defined]
    return type(value) in _PLAIN


@contextmanager
def _own_modules_by_value(workspace: Path | None) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Register the caller's own modules with cloudpickle inside the `with` block, to pickle them by value.

    Yields:
        Two sets of names: the modules to pickle by value, and the modules of the workspace to pickle by name.
    """
    with _REGISTRY_LOCK:
        own, in_workspace = _own_modules(workspace)
        before = cloudpickle.list_registry_pickle_by_value()
        added = [module for module in own if module.__name__ not in before]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield frozenset(module.__name__ for module in own) | _with_submodules(before), in_workspace
        finally:
            still = cloudpickle.list_registry_pickle_by_value()
            for module in added:
                if module.__name__ in still:
                    cloudpickle.unregister_pickle_by_value(module)


def _with_submodules(registered: Set[str]) -> frozenset[str]:
    """Return the names of all loaded modules registered with cloudpickle, and the names of their submodules."""
    if not registered:
        return frozenset()
    below = tuple(f"{name}." for name in registered)
    return frozenset(name for name in sys.modules.copy() if name in registered or name.startswith(below))


def _own_modules(workspace: Path | None) -> tuple[list[types.ModuleType], frozenset[str]]:
    """Return the caller's modules to pickle by value, and the names of the caller's modules to pickle by name."""
    by_value, by_name = [], set()
    installed = _installed_folders()
    top = None if workspace is None else os.path.realpath(workspace)
    # For each folder that was already checked: whether pip has installed packages into this folder.
    has_metadata: dict[str, bool] = {}
    for name, module in sys.modules.copy().items():
        # Aliases of modules are skipped. `__main__` is skipped because cloudpickle always pickles it by value.
        if not isinstance(module, types.ModuleType) or name != getattr(module, "__name__", None) or name == "__main__":
            continue
        # This program runs in a task, and the module was made from the pickle that the task received. Such a module
        # belongs to the caller's own code.
        if IDENTITY in vars(module):
            by_value.append(module)
            continue
        places = places_of(module)
        if not places or any(_is_below(place, installed) for place in places):
            continue
        roots = [root_of(name, place) for place in places]
        for root in roots:
            if root not in has_metadata:
                has_metadata[root] = _has_metadata(root)
        if any(has_metadata[root] for root in roots):
            continue
        if any(root != top for root in roots):
            by_value.append(module)
        else:
            by_name.add(name)
    return by_value, frozenset(by_name)


def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages(), _IRIS}
    return tuple({folder.rstrip(os.sep) + os.sep for path in folders for folder in (path, os.path.realpath(path))})


def _is_below(place: str, folders: tuple[str, ...]) -> bool:
    parts = place.split(os.sep)
    return (
        "site-packages" in parts
        or "dist-packages" in parts  # The folders into which Debian installs packages.
        or place.startswith(folders)
        or os.path.realpath(place).startswith(folders)
    )


def _has_metadata(folder: str) -> bool:
    """Return whether packages are installed in a folder, for example by `pip install --target`."""
    try:
        return any(entry.endswith(".dist-info") for entry in os.listdir(folder))
    except OSError:
        return False  # A folder inside a zip file cannot be listed, and counts as a folder without packages.


def _name(function: object) -> str:
    if isinstance(function, partial):
        return _name(function.func)
    name = getattr(function, "__qualname__", None)
    return f"the callable {name!r}" if name else f"the callable of type {type(function).__qualname__!r}"
