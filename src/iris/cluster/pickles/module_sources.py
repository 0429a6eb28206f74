"""Finds the source of modules without running it. Iris compares the sources on the caller's machine and the worker."""

from __future__ import annotations

import os
import sys
import types
import uuid
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from .trailer import ModuleSource

# If a module was made from a pickle, its global `IDENTITY` is the `ModuleSource` that was sent with the pickle.
# `FOLDER` is the digest of every namespace package, because such a package has no file. `_THIS_PROCESS` is the digest
# of other modules without a file, such as a notebook's `__main__`.
IDENTITY = "__iris_source__"
FOLDER = "folder"
_THIS_PROCESS = f"process:{uuid.uuid4()}"


@dataclass(frozen=True)
class FoundModule:
    """The module that an import would load on this machine.

    Attributes:
        digest: The digest of the source, as in `ModuleSource`. Empty if the source cannot be read.
        file: The file of the module. For a package without a file, one of its folders.
        root: The folder from which the module would be imported.
    """

    digest: str
    file: str
    root: str


def source_of(module: types.ModuleType) -> ModuleSource:
    """Return the identity of a loaded module's source."""
    sent: object = vars(module).get(IDENTITY)
    if sent is not None:
        return ModuleSource(**vars(sent))
    places = places_of(module)
    if not places:
        return ModuleSource("", _THIS_PROCESS, "")
    file = getattr(module, "__file__", None)
    name = getattr(getattr(module, "__spec__", None), "name", module.__name__)
    root = root_of(name, places[0])
    if file is None:
        return ModuleSource(places[0], FOLDER, root)
    return ModuleSource(file, _digest(file, getattr(module, "__loader__", None)) or _THIS_PROCESS, root)


def places_of(module: types.ModuleType) -> list[str]:
    """Return the paths of a module's Python source: its file, or the folders of a package without a file."""
    file = getattr(module, "__file__", None)
    if file is not None:
        return [file] if file.endswith((".py", ".pyc")) else []
    return list(getattr(module, "__path__", []))


def root_of(name: str, place: str) -> str:
    """Return the folder that must be on `sys.path` to import a module whose source is at `place`."""
    depth = name.count(".") + (os.path.basename(place) in ("__init__.py", "__init__.pyc"))
    folder = os.path.realpath(place)
    for _ in range(depth + 1):
        folder = os.path.dirname(folder)
    return folder


def find_module(name: str, skip: object = None) -> FoundModule | None:
    """Find the module that `import name` would load, without running the module. Return None if there is no such
    module.

    Args:
        name: The full name of the module.
        skip: A finder in `sys.meta_path` that is not used.
    """
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    prefix = ""
    for part in name.split("."):
        prefix += part
        spec = _find_spec(prefix, path, skip)
        if spec is None:
            return None
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        if path is None and prefix != name:
            return None
        prefix += "."
    assert spec is not None
    if spec.origin is None or not spec.has_location:
        folders = list(spec.submodule_search_locations or ())
        if not folders:
            # A module that is built in, for example, has no source.
            return FoundModule("", spec.origin or "", "")
        return FoundModule(FOLDER, folders[0], root_of(name, folders[0]))
    return FoundModule(_digest(spec.origin, spec.loader), spec.origin, root_of(name, spec.origin))


def _find_spec(name: str, path: list[str] | None, skip: object) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec: Any = getattr(finder, "find_spec", None)
        if finder is skip or find_spec is None:
            continue
        try:
            spec: ModuleSpec | None = find_spec(name, path)
        except KeyError:
            # If a package has no file, PathFinder needs the parent package in `sys.modules`. With only the last part of
            # the name, PathFinder needs no parent and looks for the same files.
            spec = PathFinder.find_spec(name.rpartition(".")[2], path) if finder is PathFinder else None
        except (ImportError, AttributeError, ValueError, OSError):
            continue
        if spec is not None:
            return spec
    return None


def _digest(file: str, loader: object) -> str:
    """Return the SHA-256 of a source file, or an empty string if the file cannot be read. The file may be in an
    archive.
    """
    try:
        with open(file, "rb") as opened:
            data = opened.read()
    except OSError:
        get_data: Any = getattr(loader, "get_data", None)
        try:
            data = get_data(file)
        except Exception:  # noqa: BLE001 - The user's loader can raise any exception.
            return ""
    import hashlib  # The import is here because most tasks do not need it, and because it is slow.

    return hashlib.sha256(data).hexdigest()
