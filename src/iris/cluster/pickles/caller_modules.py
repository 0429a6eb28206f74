"""The modules of a process that asks for results: its own where their source is what the task used."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Collection
from typing import Any

from .module_sources import find_module, source_of
from .trailer import Trailer


class CallerModules:
    """Finds the modules of this process for a result; it enters none into `sys.modules` that an import would not.

    Args:
        trailer: What the task says of the modules; None when it has said nothing.
        differing: Modules that turned out to be other than what was sent although their source is the same.
    """

    def __init__(self, trailer: Trailer | None, differing: Collection[str] = ()) -> None:
        self._sources = {} if trailer is None else trailer.modules
        self._found: dict[str, types.ModuleType | None] = dict.fromkeys(differing)

    def imported(self, name: str) -> types.ModuleType | None:
        """Return this process's own module, where its source is the same."""
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
        """Return None: what a task has in its globals does not change those of this process."""
        return None

    def make_globals(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return the globals for the functions of a module that was sent: a dict of their own."""
        return names

    def make_module(self, name: str) -> types.ModuleType:
        """Return a new module for what was sent of a module."""
        return types.ModuleType(name)
