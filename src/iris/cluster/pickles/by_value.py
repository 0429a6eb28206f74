"""Pickles code by value in a form that the other side can resolve to its own modules.

A function or a class that is found by name in a module that travels by value is marked with that name; see
`resolving.py` for what becomes of it. The marks stand where plain cloudpickle ignores them, so other releases of Iris
load these pickles as well.
"""

from __future__ import annotations

import functools
import io
import sys
import types
import typing
from collections.abc import Collection
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import _class_setstate, _make_function, dynamic_subimport

from .module_sources import IDENTITY, source_of
from .rebuilt import NEW_OBJECT, Rebuilt, is_dispatcher, make_empty, rebuild, rebuild_dispatcher
from .source_lines import SourceLines
from .trailer import ModuleSource, Trailer, append_trailer

MARK = "iris:"  # begins the name of what can be resolved: "iris:module:qualified.name"
APART = "__iris_apart__"  # among the globals of a function that are not the dict of the module they name

# What describes where a module came from, and means nothing elsewhere.
_NOT_SENT = frozenset({"__builtins__", "__cached__", "__loader__", "__path__", "__spec__", IDENTITY})
_CODE_ARGUMENTS = (
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_nlocals", "co_stacksize", "co_flags", "co_code"),
    *("co_consts", "co_names", "co_varnames", "co_filename", "co_name", "co_qualname", "co_firstlineno"),
    *("co_linetable", "co_exceptiontable", "co_freevars", "co_cellvars"),
)


def dumps(value: object, own: Collection[str] = ()) -> bytes:
    """Return the pickle of a value with its trailer; see `ByValuePickler`."""
    buffer = io.BytesIO()
    pickler = ByValuePickler(buffer, own)
    pickler.dump(value)
    return append_trailer(buffer.getvalue(), pickler.trailer())


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc] # it publishes no types
    """cloudpickle's pickler, and more for what goes by value.

    * An empty module goes first, and then what is in it: two modules may import each other.
    * Code keeps its file name.
    * What pickles by its name alone is rebuilt where that name could not be found.

    Args:
        buffer: Receives the pickle.
        own: The names of the modules that go by value; they must be registered with cloudpickle. `__main__` always
            goes by value.
    """

    def __init__(self, buffer: io.BytesIO, own: Collection[str]) -> None:
        super().__init__(buffer)
        self._own = own
        self._travelled: set[str] = set()
        self._lines = SourceLines()
        self._constants: dict[int, list[tuple[str, str]]] | None = None

    def trailer(self) -> Trailer:
        """Return where the code that was pickled comes from."""
        modules: dict[str, ModuleSource] = {}
        for travelled in self._travelled:
            name = travelled
            while name and name not in modules:
                module = sys.modules.get(name)
                if isinstance(module, types.ModuleType) and (name in self._own or name == "__main__"):
                    modules[name] = source_of(module)
                name = name.rpartition(".")[0]
        return Trailer(modules, self._lines.collect())

    def reducer_override(self, obj: Any) -> Any:
        """Return how to pickle an object, as `pickle.Pickler` documents it."""
        kind = type(obj)
        if kind is types.CodeType:
            self._lines.add(obj)
            return types.CodeType, tuple(getattr(obj, name) for name in _CODE_ARGUMENTS)
        if kind is Rebuilt:
            return obj.reduced
        if isinstance(obj, types.ModuleType):
            return self._reduce_module(obj)
        if kind is types.FunctionType:
            if is_dispatcher(obj) and not self._goes_by_name(obj):
                return self._marked(obj, rebuild_dispatcher(obj))
            return self._reduce_function(obj)
        if isinstance(obj, type):
            return self._reduce_class(obj)
        return self._reduce_instance(obj)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if name not in self._own or sys.modules.get(name) is not module:
            return NotImplemented
        self._travelled.add(name)
        state = {key: value for key, value in vars(module).items() if key not in _NOT_SENT}
        return dynamic_subimport, (name, {}), (state, {}), None, None, _class_setstate

    def _reduce_function(self, function: types.FunctionType) -> Any:
        reduced = super().reducer_override(function)
        if reduced is NotImplemented or reduced[0] is not _make_function:
            return reduced
        self._lines.add_globals(function)
        code, names, _, *rest = reduced[1]
        home = names.get("__name__")
        if isinstance(home, str):
            if self._is_own(home) and vars(sys.modules[home]) is function.__globals__:
                self._travelled.add(home)
            else:
                names[APART] = True
        return reduced[0], (code, names, self._mark(function), *rest), *reduced[2:]

    def _reduce_class(self, kind: type) -> Any:
        reduced = super().reducer_override(kind)
        if reduced is NotImplemented or not getattr(reduced[0], "__name__", "").startswith("_make_skeleton_"):
            return reduced
        if self._is_own(kind.__module__):
            self._travelled.add(kind.__module__)
        mark = self._mark(kind)
        return reduced if mark is None else (reduced[0], (*reduced[1][:-1], {MARK: mark}), *reduced[2:])

    def _reduce_instance(self, obj: Any) -> Any:
        reducer = self.dispatch_table.get(type(obj))
        if reducer is None and type(obj) is functools.cached_property:
            return rebuild(obj)
        reduced = obj.__reduce_ex__(self.proto) if reducer is None else reducer(obj)
        if isinstance(reduced, str):
            return reduced if self._goes_by_name(obj, reduced) else self._marked(obj, rebuild(obj), reduced)
        if not isinstance(reduced, tuple):
            return reduced  # pickle refuses it
        if reduced[0] is NEW_OBJECT and len(reduced[1]) == 1 and not any(reduced[2:]):
            places = self._find_constants().get(id(obj))
            if places:
                self._travelled.update(module for module, _ in places)
                marks = " ".join(f"{MARK}{module}:{name}" for module, name in places)
                return self._with_mark(marks, make_empty(*reduced[1]))
        return reduced

    def _goes_by_name(self, obj: Any, name: str | None = None) -> bool:
        """Whether the other side can be expected to find an object by its name."""
        name = name or getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
        if not name:
            return False
        module = _module_of(obj, name)
        return module is not None and not self._is_own(module) and _find(module, name) is obj

    def _is_own(self, module: str) -> bool:
        return module == "__main__" or module in self._own

    def _mark(self, obj: Any, name: str | None = None) -> str | None:
        """Return the mark of an object that is found by name in a module that goes by value."""
        name = name or getattr(obj, "__qualname__", None)
        module = getattr(obj, "__module__", None)
        if not isinstance(module, str) or not name or not self._is_own(module) or _find(module, name) is not obj:
            return None
        self._travelled.add(module)
        return f"{MARK}{module}:{name}"

    def _marked(self, obj: Any, reduced: Any, name: str | None = None) -> Any:
        mark = self._mark(obj, name)
        return reduced if mark is None else self._with_mark(mark, reduced)

    def _with_mark(self, mark: str, reduced: Any) -> Any:
        # The mark needs a call that gives its second argument back, in every release and without Iris.
        return typing.cast, (mark, Rebuilt(reduced))

    def _find_constants(self) -> dict[int, list[tuple[str, str]]]:
        """Return by id where the globals of own modules are: a sentinel is one in each module that imports it."""
        if self._constants is None:
            self._constants = {}
            for name in (*self._own, "__main__"):
                module = sys.modules.get(name)
                for key, value in list(vars(module).items()) if isinstance(module, types.ModuleType) else ():
                    self._constants.setdefault(id(value), []).append((name, key))
        return self._constants


def _module_of(obj: object, name: str) -> str | None:
    """Return the name of the module in which pickle looks for an object."""
    module = getattr(obj, "__module__", None)
    if isinstance(module, str):
        return module
    return next((key for key in list(sys.modules) if key != "__main__" and _find(key, name) is obj), None)


def _find(module: str, name: str) -> object:
    """Return what a dotted name stands for in a module of this process; None when there is nothing."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except Exception:  # noqa: BLE001 - a module or a class may have a __getattr__
            return None
    return found
