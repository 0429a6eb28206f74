"""Unpickles code that travelled by value: as this machine's own modules where their source is the same.

The rule, also for people in docs/python-api.md. For each module whose code a pickle has by value:

* If this machine can import a module of that name with the same source, its functions, classes and constants are
  those of the imported module. There is one class, whoever else imports it.
* Else they are what was sent. In a task (`TaskModules`) the copy that was sent then takes the module's name, so that
  whoever imports the module gets the copy.
"""

from __future__ import annotations

import io
import pickle
import types
import typing
from typing import Any, Protocol

import cloudpickle.cloudpickle

from .by_value import APART, MARK

_CLOUDPICKLE = "cloudpickle.cloudpickle"


class SourceDiffersError(Exception):
    """An imported module is not what was sent, although its file is: the caller's was changed after its import."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


class Modules(Protocol):
    """Decides what the code in one pickle becomes."""

    def imported(self, name: str) -> types.ModuleType | None:
        """Return this machine's own module, where its source is the same."""

    def make_globals(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return the globals for the functions of a module that was sent; `names` describe the module."""

    def make_module(self, name: str) -> types.ModuleType:
        """Return the module for what was sent of a module."""


class ResolvingUnpickler(pickle.Unpickler):
    """Loads one pickle.

    Args:
        data: The pickle.
        modules: Decides what its code becomes.
    """

    def __init__(self, data: bytes, modules: Modules) -> None:
        super().__init__(io.BytesIO(data))
        self._modules = modules
        self._resolved: dict[int, object] = {}
        self.made: list[Any] = []  # the functions and classes that were made of what was sent
        self._calls = {
            (_CLOUDPICKLE, "_make_function"): self._make_function,
            (_CLOUDPICKLE, "_function_setstate"): self._set_function_state,
            (_CLOUDPICKLE, "_make_skeleton_class"): self._make_class,
            (_CLOUDPICKLE, "_make_skeleton_enum"): self._make_enum,
            (_CLOUDPICKLE, "_class_setstate"): self._set_class_state,
            (_CLOUDPICKLE, "dynamic_subimport"): self._make_module,
            ("typing", "cast"): self._resolve_value,
        }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return what a name in the pickle stands for."""
        call = self._calls.get((module_name, global_name))
        return super().find_class(module_name, global_name) if call is None else call

    def _make_function(
        self, code: types.CodeType, names: dict[str, Any], mark: str | None, *rest: Any
    ) -> types.FunctionType:
        found = self._find(mark)
        if found is not None:
            if not isinstance(found, types.FunctionType) or found.__code__ != code:
                raise SourceDiffersError(_split(mark)[0])
            return found
        function_globals = self._make_globals(names)
        made: types.FunctionType = cloudpickle.cloudpickle._make_function(code, function_globals, None, *rest)
        self.made.append(made)
        return made

    def _make_globals(self, names: dict[str, Any]) -> dict[str, Any]:
        if names.pop(APART, False):
            return names
        own = self._modules.imported(names.get("__name__", ""))
        return self._modules.make_globals(names) if own is None else vars(own)

    def _set_function_state(self, function: types.FunctionType, state: Any) -> None:
        if id(function) in self._resolved:
            return
        own = self._modules.imported(function.__globals__.get("__name__", ""))
        if own is not None and function.__globals__ is vars(own):
            # The globals are those of the imported module: what others have imported from it stays what it is.
            sent = state[1]["__globals__"]
            state[1]["__globals__"] = {name: value for name, value in sent.items() if name not in vars(own)}
        cloudpickle.cloudpickle._function_setstate(function, state)

    def _make_class(self, *args: Any) -> Any:
        return self._find_or_make_class(cloudpickle.cloudpickle._make_skeleton_class, *args)

    def _make_enum(self, *args: Any) -> Any:
        return self._find_or_make_class(cloudpickle.cloudpickle._make_skeleton_enum, *args)

    def _find_or_make_class(self, make: Any, *args: Any) -> Any:
        tracker_id, extra = args[-2:]
        mark = extra.get(MARK) if isinstance(extra, dict) else None
        found = self._find(mark)
        if found is not None:
            if not isinstance(found, type):
                raise SourceDiffersError(_split(mark)[0])
            return found
        known = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
        if known is not None:  # this process has sent it, or has received it before: it has all its attributes
            self._resolved[id(known)] = known
            return known
        made = make(*args)
        self.made.append(made)
        return made

    def _set_class_state(self, thing: Any, state: Any) -> None:
        if id(thing) in self._resolved:
            return
        if isinstance(thing, types.ModuleType):
            vars(thing).update(state[0])
        else:
            cloudpickle.cloudpickle._class_setstate(thing, state)

    def _make_module(self, name: str, state: dict[str, Any]) -> types.ModuleType:
        if state:  # some code has made it up: its name need not be the only one
            made: types.ModuleType = cloudpickle.cloudpickle.dynamic_subimport(name, state)
            return made
        own = self._modules.imported(name)
        if own is None:
            return self._modules.make_module(name)
        self._resolved[id(own)] = own
        return own

    def _resolve_value(self, mark: Any, value: Any) -> Any:
        if not isinstance(mark, str) or not mark.startswith(MARK):
            return typing.cast(mark, value)
        for one in mark.split(" "):
            found = self._find(one)
            if found is not None and type(found) is type(value):
                return found
        return value

    def _find(self, mark: str | None) -> Any:
        """Return what a mark names in a module of this machine; None when the module is not the same here."""
        if mark is None or not mark.startswith(MARK):
            return None
        module_name, qualname = _split(mark)
        found: Any = self._modules.imported(module_name)
        if found is None:
            return None
        for part in qualname.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise SourceDiffersError(module_name) from None
        self._resolved[id(found)] = found
        return found


def _split(mark: str | None) -> tuple[str, str]:
    module, _, qualname = (mark or "").removeprefix(MARK).partition(":")
    return module, qualname
