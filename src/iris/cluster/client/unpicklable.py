"""Finds the part of a callable or of its arguments that cannot be pickled, for an error message."""

from __future__ import annotations

import dis
import io
import types
from collections.abc import Collection
from functools import partial
from typing import Any

from iris.cluster.pickles.by_value import ByValuePickler
from iris.cluster.types import Entrypoint

_MAX_DEPTH = 6  # The largest number of objects on the path of the search. Each step pickles all parts of one object.


class CountingBuffer(io.BytesIO):
    """A buffer that stores bytes up to a limit. The buffer counts all written bytes, so that an error message can
    contain the full size.

    Args:
        limit: The largest number of bytes that the buffer stores.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.size = 0
        self._limit = limit

    def write(self, data: Any, /) -> int:
        count = memoryview(data).nbytes
        self.size += count
        return super().write(data) if self.size <= self._limit else count


def find_culprit(entrypoint: Entrypoint, own: Collection[str]) -> str:
    """Return the path to the part that cannot be pickled, for example "the global 'LOCK' (a lock)"."""
    parts: list[tuple[str, Any]] = [(f"argument {index}", value) for index, value in enumerate(entrypoint.args)]
    parts += [(f"the argument {name!r}", value) for name, value in entrypoint.kwargs.items()]
    parts.append(("the callable itself", entrypoint.callable))
    way: list[str] = []
    found: Any = None
    seen: set[int] = set()
    while len(way) < _MAX_DEPTH:
        culprit = next((part for part in parts if not _pickles(part[1], own)), None)
        if culprit is None:
            break
        label, found = culprit
        way.append(label)
        seen.add(id(found))
        parts = [part for part in _parts(found) if id(part[1]) not in seen]
    if not way:
        return "the combination of its parts"
    if len(way) > 1 and way[0] == "the callable itself":
        # The error message names the callable anyway, so the path to the culprit begins with a part of the callable.
        del way[0]
    return f"{', in it '.join(way)} (a {type(found).__qualname__})"


def _pickles(value: object, own: Collection[str]) -> bool:
    try:
        ByValuePickler(CountingBuffer(0), own).dump(value)
    except Exception:  # noqa: BLE001 - Pickling runs the user's code, which can raise any exception.
        return False
    return True


def _parts(whole: Any) -> list[tuple[str, Any]]:
    """Return the parts of a value that `pickle` pickles, each with a description for an error message."""
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
            pass  # the variable has no value yet
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
