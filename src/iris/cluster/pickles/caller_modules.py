"""Chooses the modules for loading a result in the caller's process. If a module has the same source in the caller's
process as in the task, the module of the caller's process is used.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Collection
from typing import Any

from .module_sources import find_module, source_of
from .trailer import Trailer


class CallerModules:
    """Chooses the modules for loading one result in this process. Modules that are made from the pickle are not added
    to `sys.modules`.

    Args:
        trailer: The trailer of the result, if the result has a trailer.
        differing: The names of modules whose objects on this machine differ from the objects in the pickle, although
            the source files are equal.
    """

    def __init__(self, trailer: Trailer | None, differing: Collection[str] = ()) -> None:
        self._sources = {} if trailer is None else trailer.modules
        self._found: dict[str, types.ModuleType | None] = dict.fromkeys(differing)

    def imported(self, name: str) -> types.ModuleType | None:
        """Return this process's module if its source equals the source in the task, and None otherwise. A module with
        an equal source is imported if this process has not imported it yet.
        """
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> types.ModuleType | None:
        source = self._sources.get(name)
        if source is None:
            return None
        module = sys.modules.get(name)
        if module is None:
            here = find_module(name)
            if here is None or here.digest != source.digest:
                return None
            module = importlib.import_module(name)
        return module if source_of(module).digest == source.digest else None

    def sharing(self, name: str) -> types.ModuleType | None:
        """Return None, because loading a result must not change the globals of modules in this process."""
        return None

    def make_globals(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return the dict to use as the globals of a module's unpickled functions. No module of this process uses the
        dict."""
        return names

    def make_module(self, name: str) -> types.ModuleType:
        """Return a new, empty module for a module in the pickle."""
        return types.ModuleType(name)
