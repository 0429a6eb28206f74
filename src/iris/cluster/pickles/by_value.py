"""Pickles code by value, with marks that allow the loading machine to use its own modules instead.

The mark of a function or class is its name. An object gets a mark if a module that is pickled by value contains the
object under this name. `resolving.py` reads the marks. Plain cloudpickle ignores marks, so other releases of Iris can
load these pickles too.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import types
import typing
from collections.abc import Collection
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import _class_setstate, _make_function, dynamic_subimport

from .merging import ATOMS, has_plain_state
from .module_sources import IDENTITY, source_of
from .rebuilt import (
    NEW_OBJECT,
    Rebuilt,
    is_dispatcher,
    is_wrapper,
    make_empty,
    rebuild,
    rebuild_dispatcher,
    rebuild_wrapper,
)
from .source_lines import SourceLines
from .trailer import ModuleSource, Trailer, append_trailer

# In a pickle, a mark is a text that names a pickled object, such as "iris:module:qualified.name". A mark begins with
# `MARK`. If the state of the object comes later in the pickle, the mark begins with `STATE_FOLLOWS`. The key `APART` is
# set in the globals of a function if these globals have the `__name__` of a module but are not the globals of that
# module.
MARK = "iris:"
STATE_FOLLOWS = "iris-state"
APART = "__iris_apart__"

# These names in a module describe its location on this machine, and have no meaning on another machine.
_NOT_SENT = frozenset({"__builtins__", "__cached__", "__loader__", "__path__", "__spec__", IDENTITY})
_FLAT = (int, float, complex, bool, str, bytes, type(None))
_NOT_SHARED = (*ATOMS, type, types.FunctionType, types.ModuleType)
_CODE_ARGUMENTS = (
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_nlocals", "co_stacksize", "co_flags", "co_code"),
    *("co_consts", "co_names", "co_varnames", "co_filename", "co_name", "co_qualname", "co_firstlineno"),
    *("co_linetable", "co_exceptiontable", "co_freevars", "co_cellvars"),
)


def dumps(value: object, own: Collection[str] = ()) -> bytes:
    """Return the pickle of a result or an exception, without source lines, because the caller has the source files."""
    buffer = io.BytesIO()
    pickler = ByValuePickler(buffer, own)
    pickler.dump(value)
    return append_trailer(buffer.getvalue(), Trailer(pickler.sources(), shared=pickler.shared))


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """A subclass of cloudpickle's pickler with three extensions for code that is pickled by value:
    * A module is first pickled empty and filled later, because two modules may import each other.
    * Code objects keep their file names.
    * An object that would be pickled as a bare name is created again on the loading machine if that machine cannot find
      the name.

    Args:
        buffer: The file to which the pickle is written.
        own: The names of the modules that are pickled by value. These modules must be registered with cloudpickle.
            `__main__` is always pickled by value.
        by_name: The names of the caller's modules that are pickled by name. Objects in the globals of these modules
            stay shared after loading.

    Attributes:
        shared: The shared globals of all objects pickled so far, in the form of `Trailer.shared`.
    """

    def __init__(self, buffer: io.BytesIO, own: Collection[str], by_name: Collection[str] = ()) -> None:
        super().__init__(buffer)
        self._own = own
        self._by_name = by_name
        self._travelled: set[str] = set()
        self._lines = SourceLines()
        self.shared: dict[str, dict[str, list[str]]] = {}
        self._places: dict[int, list[tuple[str, str]]] | None = None

    def trailer(self) -> Trailer:
        """Return the trailer for all objects pickled so far, with the source lines of their code."""
        return Trailer(self.sources(), self._lines.collect(), self.shared)

    def sources(self) -> dict[str, ModuleSource]:
        """Return the modules whose code was pickled, and the packages that contain them."""
        modules: dict[str, ModuleSource] = {}
        for travelled in self._travelled:
            name = travelled
            while name and name not in modules:
                module = sys.modules.get(name)
                if isinstance(module, types.ModuleType) and (name in self._own or name == "__main__"):
                    modules[name] = source_of(module)
                name = name.rpartition(".")[0]
        return modules

    def reducer_override(self, obj: Any) -> Any:
        """Return the reduction of an object. See the documentation of `pickle.Pickler.reducer_override`."""
        kind = type(obj)
        if kind is types.CodeType:
            self._lines.add(obj)
            return types.CodeType, tuple(getattr(obj, name) for name in _CODE_ARGUMENTS)
        if kind is Rebuilt:
            return obj.reduced
        # `kind` is checked instead of `obj`, because a proxy claims to have the class of its target.
        if issubclass(kind, types.ModuleType):
            return self._reduce_module(obj)
        if kind is types.FunctionType:
            if is_dispatcher(obj) and not self._goes_by_name(obj):
                return self._marked(obj, rebuild_dispatcher(obj))
            return self._reduce_function(obj)
        if issubclass(kind, type):
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
                self._note_shared(home, reduced[2][1]["__globals__"])
            else:
                names[APART] = True
        return reduced[0], (code, names, self._mark(function), *rest), *reduced[2:]

    def _note_shared(self, home: str, used: dict[str, Any]) -> None:
        """Note which globals of a function are also globals of other modules. For example, two modules share an object
        if one module imports it from the other module.
        """
        for name, value in used.items():
            if isinstance(value, _NOT_SHARED):
                continue
            places = [(module, key) for module, key in self._find_globals().get(id(value), ()) if module != home]
            targets = [f"{module}:{key}" for module, key in places if module != "__main__"]
            if targets:
                self._travelled.update(module for module, _ in places)
                self.shared.setdefault(home, {})[name] = targets

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
        if obj is os.environ:
            # `os.environ` is not copied, because changing a copy would not change the environment of the process.
            return getattr, (os, "environ")
        if reducer is None and type(obj) is functools.cached_property:
            return rebuild(obj, "")
        if reducer is None and is_wrapper(obj):
            return self._marked(obj, rebuild_wrapper(obj))
        reduced = obj.__reduce_ex__(self.proto) if reducer is None else reducer(obj)
        if isinstance(reduced, str):
            return reduced if self._goes_by_name(obj, reduced) else self._marked(obj, rebuild(obj, reduced), reduced)
        if not isinstance(reduced, tuple):
            return reduced  # An invalid reduction is returned unchanged, because pickle itself will raise an error.
        name = self._named_in(reduced[1], obj)
        if name:
            return self._marked(obj, rebuild(obj, name), name)
        if reduced[0] is NEW_OBJECT and len(reduced[1]) == 1 and not any(reduced[3:]):
            return self._reduce_global(obj, reduced)
        return reduced

    def _named_in(self, arguments: Any, obj: object) -> str:
        """Return the name of an object if an argument of the object's reduction is a text "module:name" that names the
        object. Otherwise return an empty string.
        """
        for text in arguments if isinstance(arguments, tuple) else ():
            if isinstance(text, str) and ":" in text:
                module, _, name = text.partition(":")
                if self._is_own(module) and _find(module, name) is obj:
                    return name
        return ""

    def _reduce_global(self, obj: Any, reduced: Any) -> Any:
        """Return the reduction of an object. If the object is a global of one of the caller's modules, and has a plain
        state, the reduction has a mark that names the global.
        """
        places = self._find_globals().get(id(obj))
        state = reduced[2]
        if not places or not (not state or has_plain_state(obj)):
            return reduced
        self._travelled.update(module for module, _ in places)
        marks = " ".join(f"{MARK}{module}:{name}" for module, name in places)
        empty = make_empty(*reduced[1])
        if not state or all(isinstance(value, _FLAT) for value in vars(obj).values()):
            return self._with_mark(marks, (*empty, state))
        # The state is pickled after its object, because the state may refer to the object.
        return (*self._with_mark(f"{STATE_FOLLOWS} {marks}", empty), state)

    def _goes_by_name(self, obj: Any, name: str | None = None) -> bool:
        """Return whether the machine that loads the pickle can probably find an object by its name."""
        name = name or getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
        if not name:
            return False
        module = _module_of(obj, name)
        return module is not None and not self._is_own(module) and _find(module, name) is obj

    def _is_own(self, module: str) -> bool:
        return module == "__main__" or module in self._own

    def _mark(self, obj: Any, name: str | None = None) -> str | None:
        """Return the mark of an object if a module that is pickled by value contains the object, and None otherwise."""
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
        # `typing.cast` returns its second argument, so a machine without Iris loads the marked object too.
        return typing.cast, (mark, Rebuilt(reduced))

    def _find_globals(self) -> dict[int, list[tuple[str, str]]]:
        """Return the module and name of each global of the caller's modules. The keys are the ids of the objects."""
        if self._places is None:
            self._places = {}
            for name in (*self._own, *self._by_name, "__main__"):
                module = sys.modules.get(name)
                for key, value in list(vars(module).items()) if isinstance(module, types.ModuleType) else ():
                    self._places.setdefault(id(value), []).append((name, key))
        return self._places


def _module_of(obj: object, name: str) -> str | None:
    """Return the name of the module in which pickle looks for an object."""
    module = getattr(obj, "__module__", None)
    if isinstance(module, str):
        return module
    return next((key for key in list(sys.modules) if key != "__main__" and _find(key, name) is obj), None)


def _find(module: str, name: str) -> object:
    """Return the object with a dotted name in a module of this process, or None if there is no such object."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except Exception:  # noqa: BLE001 - The user's __getattr__ can raise any exception.
            return None
    return found
