"""Loads the pickles of callables in tasks, and the pickles of results and exceptions in the caller's process."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from .caller_modules import CallerModules
from .resolving import Modules, ResolvingUnpickler, SourceDiffersError
from .source_lines import show_lines
from .task_modules import TaskModules
from .trailer import Trailer, read_trailer

_M = TypeVar("_M", bound=Modules)


def load_in_task(data: bytes) -> tuple[Any, TaskModules]:
    """Return the callable and arguments sent by the caller, and their modules. A task's process may call this only
    once.
    """
    trailer = read_trailer(data)
    if trailer is not None:
        show_lines(trailer.lines)
    value, modules, made = _load(data, trailer, TaskModules)
    modules.add_definitions(made)
    return value, modules


def load_here(data: bytes) -> Any:
    """Return the result or exception sent by a task."""
    value, _, _ = _load(data, read_trailer(data), CallerModules)
    return value


def _load(
    data: bytes, trailer: Trailer | None, make: Callable[[Trailer | None, Collection[str]], _M]
) -> tuple[Any, _M, list[Any]]:
    differing: set[str] = set()
    while True:
        modules = make(trailer, differing)
        unpickler = ResolvingUnpickler(data, modules, {} if trailer is None else trailer.shared)
        try:
            return unpickler.load_all(), modules, unpickler.made
        except SourceDiffersError as error:
            if error.module in differing:
                raise
            # If a module differs from the caller's module, the pickle is loaded again, with the sent copies of all
            # modules in the package of this module.
            differing.add(error.module)
