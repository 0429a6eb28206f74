"""Pickles objects that normally pickle as a bare name, such as the wrappers of `functools.lru_cache`.

The loading machine cannot find a bare name in `__main__` or in another module that is pickled by value. Therefore the
loading machine creates the object again. The reductions of this module use only public constructors of the standard
library, so every unpickler can load these reductions.
"""

from __future__ import annotations

import functools
import operator
import pickle
import sys
import types
from typing import Any

_TYPE_PARAMETERS = frozenset({"ParamSpec", "TypeVarTuple"})
# The attributes that `functools.lru_cache` sets on a function.
_WRAPPER_STATE = frozenset({"__wrapped__", "cache_parameters"})
# The function `copyreg.__newobj__`, which creates an object without calling `__init__`.
NEW_OBJECT: Any = object().__reduce_ex__(2)[0]
_DISPATCHER_CODE = vars(functools)["singledispatch"](lambda _: None).__code__
_DISPATCHER_STATE = frozenset({"register", "dispatch", "registry", "_clear_cache", "__wrapped__"})


class ReducesByNameError(pickle.PicklingError):
    """An error: the loading machine can neither find an object by its name nor create the object again."""


class Rebuilt:
    """A placeholder for an object that cannot be pickled itself. `ByValuePickler` pickles the reduction that the
    placeholder contains.
    """

    def __init__(self, reduced: Any) -> None:
        self.reduced = reduced


def rebuild(obj: Any, name: str) -> Any:
    """Return a reduction that creates an object again. By default, pickle would replace the object by its bare name.

    Args:
        obj: The object to pickle.
        name: The bare name with which pickle would replace the object.

    Raises:
        ReducesByNameError: The object cannot be created again. The message contains advice.
    """
    kind: Any = type(obj)
    # A cached property is created again, because it contains a lock before Python 3.12, and a lock cannot be pickled.
    if isinstance(obj, functools.cached_property):
        return kind, (obj.func,), {"attrname": obj.attrname, "__doc__": obj.__doc__}
    if callable(getattr(obj, "cache_parameters", None)) and hasattr(obj, "__wrapped__"):
        parameters = obj.cache_parameters()
        decorator = Rebuilt((functools.lru_cache, (parameters["maxsize"], parameters["typed"])))
        return operator.call, (decorator, obj.__wrapped__), _rest(vars(obj), _WRAPPER_STATE)
    if isinstance(getattr(obj, "args", None), tuple) and isinstance(getattr(obj, "keywords", None), dict):
        return functools.partial(kind, obj.func, *obj.args, **obj.keywords), ()  # for example toolz.curry
    if kind.__module__ in ("typing", "typing_extensions"):
        return _rebuild_typing(obj, name)
    if kind.__module__ != "builtins" and isinstance(kind.__init__, types.FunctionType | types.WrapperDescriptorType):
        try:
            object.__new__(kind)
        except TypeError:
            pass  # the class is written in C
        else:
            return (*make_empty(kind), obj.__getstate__())
    raise _cannot_rebuild(obj, name)


def make_empty(kind: type) -> tuple[Any, ...]:
    """Return a reduction (the form in which `pickle` stores an object) that creates an instance without `__init__`.
    The reduction does not use `copyreg.__newobj__`, because `pickle` accepts that function only in the reduction of
    the created object itself.
    """
    return operator.methodcaller("__new__", kind), (kind,)


def _rebuild_typing(obj: Any, name: str) -> Any:
    kind: Any = type(obj)
    if kind.__name__ in _TYPE_PARAMETERS:
        options = (
            {name: getattr(obj, f"__{name}__") for name in ("bound", "covariant", "contravariant")}
            if (kind.__name__ == "ParamSpec")
            else {}
        )
        return functools.partial(kind, obj.__name__, **options), ()
    if kind.__name__ == "NewType":
        return kind, (obj.__name__, obj.__supertype__), {"__module__": obj.__module__}
    if kind.__name__ == "TypeAliasType":
        return functools.partial(kind, obj.__name__, obj.__value__, type_params=obj.__type_params__), ()
    raise _cannot_rebuild(obj, name)


def _cannot_rebuild(obj: Any, name: str) -> ReducesByNameError:
    kind = f"{type(obj).__module__}.{type(obj).__name__}"
    module = getattr(obj, "__module__", None)
    place = f" in {module!r}" if isinstance(module, str) and module in sys.modules else ""
    return ReducesByNameError(f"{kind} pickles as a name only, and a worker cannot find {name!r}{place}")


def is_wrapper(obj: object) -> bool:
    """Return whether an object is a function wrapper of `wrapt`. Such a wrapper refuses to be pickled."""
    wrapt = sys.modules.get("wrapt")
    return wrapt is not None and issubclass(type(obj), getattr(wrapt, "FunctionWrapper", ()))


def rebuild_wrapper(obj: Any) -> Any:
    """Return a tuple from which pickle creates an object of the library `wrapt` again, as `__reduce__` returns such
    tuples."""
    wrapt = sys.modules["wrapt"]
    # `FunctionWrapper` is found in `wrapt` when the pickle is loaded. pickle itself would look in the class's
    # `__module__`, and that module does not export the class.
    kind: Any = type(obj)
    make = Rebuilt((getattr, (wrapt, "FunctionWrapper"))) if kind is wrapt.FunctionWrapper else kind
    return operator.call, (make, obj.__wrapped__, obj._self_wrapper, obj._self_enabled)


def is_dispatcher(function: types.FunctionType) -> bool:
    """Return whether a function was created by `functools.singledispatch`."""
    return function.__code__ is _DISPATCHER_CODE and hasattr(function, "registry")


def rebuild_dispatcher(function: Any) -> Any:
    """Return a reduction that re-creates a function that was decorated with `functools.singledispatch`.

    The caches of the original function cannot be pickled. The implementations are registered after the function was
    created, because an implementation may call the function.
    """
    registered = [(kind, call) for kind, call in function.registry.items() if kind is not object]
    attributes = _rest(vars(function), _DISPATCHER_STATE)
    return (
        functools.singledispatch,
        (function.registry[object],),
        (registered, attributes),
        None,
        None,
        _fill_dispatcher,
    )


def _rest(attributes: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in known}


def _make_fill_dispatcher() -> types.FunctionType:
    def fill(dispatcher: Any, state: Any) -> None:
        registered, attributes = state
        for kind, implementation in registered:
            dispatcher.register(kind, implementation)
        for name in attributes:
            setattr(dispatcher, name, attributes[name])

    # A function without globals belongs to no module and is pickled by value, so the loading machine needs no Iris.
    return types.FunctionType(fill.__code__, {}, "fill")


_fill_dispatcher = _make_fill_dispatcher()
