"""Unpickles code that was pickled by value. A module of this machine is preferred if its source is the same.

The following rules apply to each module with code in the pickle (docs/explanation/code.md explains the rules for
users):
* If this machine can import a module with the same name and the same source, the functions, classes and constants of
  the imported module are used. A class of the module then exists only once.
* Otherwise the code in the pickle is used. In a task, `TaskModules` gives this copy the name of the module, so that
  later imports return the copy.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import cloudpickle.cloudpickle

from .by_value import APART, MARK, STATE_FOLLOWS
from .merging import CodeDiffersError, has_plain_state, merge_global, replace_state

_CLOUDPICKLE = "cloudpickle.cloudpickle"


class SourceDiffersError(Exception):
    """An error: an imported module differs from the sent module, although their source files are equal. This error
    occurs if the module's file on the caller's machine was changed after the caller had imported the module.
    """

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


class Modules(Protocol):
    """Chooses the modules for the code in one pickle."""

    def imported(self, name: str) -> types.ModuleType | None:
        """Return this machine's module if its source equals the source of the sent module, and None otherwise."""

    def sharing(self, name: str) -> types.ModuleType | None:
        """Return the module with the given name on this machine if the globals from the pickle must be written into it.
        Return None if the pickle's own copy of the module is used.
        """

    def make_globals(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return the dict to use as the globals of the unpickled functions of a module.

        Args:
            names: The unpickled globals. They include names that describe the module, such as `__name__`.
        """

    def make_module(self, name: str) -> types.ModuleType:
        """Return the module object to use for a module whose code is in the pickle."""


class ResolvingUnpickler(pickle.Unpickler):
    """Loads one pickle.

    Args:
        data: The bytes of the pickle.
        modules: The object that chooses the modules for the code in the pickle.
        shared: The shared globals, in the form of `Trailer.shared`.

    Attributes:
        made: The functions and classes that were created from the pickle.
    """

    def __init__(self, data: bytes, modules: Modules, shared: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        super().__init__(io.BytesIO(data))
        self._modules = modules
        self._shared = shared
        self._resolved: dict[int, object] = {}
        self._merges: list[tuple[str, str, Any, dict[str, Any], str]] = []
        self.made: list[Any] = []
        self._calls = {
            (_CLOUDPICKLE, "_make_function"): self._make_function,
            (_CLOUDPICKLE, "_function_setstate"): self._set_function_state,
            (_CLOUDPICKLE, "_make_skeleton_class"): self._make_class,
            (_CLOUDPICKLE, "_make_skeleton_enum"): self._make_enum,
            (_CLOUDPICKLE, "_class_setstate"): self._set_class_state,
            (_CLOUDPICKLE, "dynamic_subimport"): self._make_module,
            ("typing", "cast"): self._resolve_value,
        }

    def load_all(self) -> Any:
        """Load the pickle, copy the sent values into the globals of imported modules, and return the loaded object.

        Raises:
            SourceDiffersError: An imported module differs from the sent module.
        """
        loaded = self.load()
        # The sent values are merged into this process's modules only after the pickle was loaded, because a sent object
        # may refer to itself.
        for module_name, name, sent, holder, key in self._merges:
            own = self._modules.sharing(module_name)
            # Names such as `__file__` describe this machine's module and are not replaced.
            if own is not None and not (name.startswith("__") and name.endswith("__")):
                try:
                    holder[key] = merge_global(vars(own), name, sent)
                except CodeDiffersError:
                    raise SourceDiffersError(module_name) from None
        return loaded

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the object for a global name in the pickle."""
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
        sent = state[1]["__globals__"]
        module_name = function.__globals__.get("__name__", "")
        own = self._modules.imported(module_name)
        if own is not None and function.__globals__ is vars(own):
            self._merges += [(module_name, name, value, vars(own), name) for name, value in sent.items()]
            state[1]["__globals__"] = {name: value for name, value in sent.items() if name not in vars(own)}
        else:
            self._merge_shared(module_name, function.__globals__, sent)
        if id(function) not in self._resolved:
            cloudpickle.cloudpickle._function_setstate(function, state)

    def _merge_shared(self, module_name: str, holder: dict[str, Any], sent: Mapping[str, Any]) -> None:
        for name, targets in self._shared.get(module_name, {}).items():
            for target in targets if name in sent else ():
                place, _, key = target.partition(":")
                if self._modules.sharing(place) is not None:
                    self._merges.append((place, key, sent[name], holder, name))
                    break

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
        # A class that this process has already sent or received is used again. It already has its attributes.
        if known is not None:
            self._resolved[id(known)] = known
            return known
        made = make(*args)
        self.made.append(made)
        return made

    def _set_class_state(self, thing: Any, state: Any) -> None:
        if isinstance(thing, types.ModuleType) and id(thing) in self._resolved:
            name = thing.__name__
            self._merges += [(name, key, value, vars(thing), key) for key, value in state[0].items()]
        elif id(thing) in self._resolved:
            return
        elif isinstance(thing, types.ModuleType):
            vars(thing).update(state[0])
        else:
            cloudpickle.cloudpickle._class_setstate(thing, state)

    def _make_module(self, name: str, state: dict[str, Any]) -> types.ModuleType:
        # A dynamic module is made from its state and not imported, because another module may have the same name.
        if state:
            made: types.ModuleType = cloudpickle.cloudpickle.dynamic_subimport(name, state)
            return made
        own = self._modules.imported(name)
        if own is None:
            return self._modules.make_module(name)
        self._resolved[id(own)] = own
        return own

    def _resolve_value(self, marks: Any, value: Any) -> Any:
        words = marks.split(" ") if isinstance(marks, str) else [""]
        state_follows = words[0] == STATE_FOLLOWS
        for mark in words[state_follows:]:
            if not mark.startswith(MARK):
                # The value is left unchanged, because a call of `typing.cast` without a mark comes from the user's own
                # pickle.
                break
            module_name, qualname = _split(mark)
            sharing = self._modules.sharing(module_name)
            own = sharing if state_follows else sharing or self._modules.imported(module_name)
            found = None if own is None else _look_up(own, qualname)
            if found is None or type(found) is not type(value):
                continue
            if state_follows or not has_plain_state(found):
                return found
            if sharing is not None:
                replace_state(found, value)
            if vars(found) == vars(value):
                return found
        return value

    def _find(self, mark: str | None) -> Any:
        """Return the marked object from this machine's module, or None if that module has another source."""
        if mark is None or not mark.startswith(MARK):
            return None
        module_name, qualname = _split(mark)
        own = self._modules.imported(module_name)
        if own is None:
            return None
        found = _look_up(own, qualname)
        if found is None:
            raise SourceDiffersError(module_name)
        self._resolved[id(found)] = found
        return found


def _look_up(found: Any, qualname: str) -> Any:
    """Return the object with a dotted name in a module, or None if there is no such object."""
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _split(mark: str | None) -> tuple[str, str]:
    module, _, qualname = (mark or "").removeprefix(MARK).partition(":")
    return module, qualname
