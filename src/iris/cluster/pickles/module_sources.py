"""Finds the source of modules without running any of it, to tell whether two machines have the same."""

from __future__ import annotations

import hashlib
import os
import sys
import types
import uuid
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from .trailer import ModuleSource

IDENTITY = "__iris_source__"  # in a module that was made of what a caller sent: its `ModuleSource`, as it was sent
FOLDER = "folder"  # the digest of a package that is only folders
_THIS_PROCESS = f"process:{uuid.uuid4()}"  # the digest of modules that have no file, such as a notebook's `__main__`


@dataclass(frozen=True)
class FoundModule:
    """What an import would load on this machine.

    Attributes:
        digest: As in `ModuleSource`; empty when the source cannot be read.
        file: Its file; for a package of only folders, one of its folders.
        root: The folder from which it would be imported.
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
    """Return where a module's Python source is: one file, or the folders of a package of only folders."""
    file = getattr(module, "__file__", None)
    if file is not None:
        return [file] if file.endswith((".py", ".pyc")) else []
    return list(getattr(module, "__path__", []))


def root_of(name: str, place: str) -> str:
    """Return the folder from which a module was imported: the one to have on `sys.path`."""
    depth = name.count(".") + (os.path.basename(place) in ("__init__.py", "__init__.pyc"))
    folder = os.path.realpath(place)
    for _ in range(depth + 1):
        folder = os.path.dirname(folder)
    return folder


def find_module(name: str, skip: object = None) -> FoundModule | None:
    """Return what `import name` would load, without running it; None when there is nothing of that name.

    Args:
        name: The module's full name.
        skip: A finder in `sys.meta_path` that is not asked.
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
            return FoundModule("", spec.origin or "", "")  # built in, for example
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
            # PathFinder wants the parent of a package of only folders in `sys.modules`, unless it gets the last part of
            # the name alone. The files that it looks for are the same.
            spec = PathFinder.find_spec(name.rpartition(".")[2], path) if finder is PathFinder else None
        except (ImportError, AttributeError, ValueError, OSError):
            continue
        if spec is not None:
            return spec
    return None


def _digest(file: str, loader: object) -> str:
    """Return the SHA-256 of a source file, which may lie in an archive; empty when it cannot be read."""
    try:
        with open(file, "rb") as opened:
            data = opened.read()
    except OSError:
        get_data: Any = getattr(loader, "get_data", None)
        try:
            data = get_data(file)
        except Exception:  # noqa: BLE001 - a loader of the user's
            return ""
    return hashlib.sha256(data).hexdigest()
