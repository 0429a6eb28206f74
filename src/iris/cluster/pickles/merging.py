"""Copies the caller's values of globals into the imported modules of a task.

The code of an imported module comes from the worker. The globals that the sent functions use get the caller's values,
because the caller's program may have changed the globals before it submitted the job. Other modules may have imported a
global by name. Therefore the object of the global is changed in place if possible.
"""

from __future__ import annotations

import types
from collections import deque
from typing import Any

_CODE = (type, types.ModuleType, types.BuiltinFunctionType)
# The types of immutable values. Equal objects of these types are interchangeable, because programs rely only on their
# values.
ATOMS = (int, float, complex, bool, str, bytes, tuple, frozenset, range, type(None), type(...), type(NotImplemented))


class CodeDiffersError(Exception):
    """An error: the caller has replaced a function of a module, so the function of the imported module differs from the
    sent function."""


def merge_global(namespace: dict[str, Any], name: str, sent: Any) -> Any:
    """Set a global of an imported module to the caller's value, and return the resulting object.

    Args:
        namespace: The globals of the imported module.
        name: The name of the global variable.
        sent: The value that the caller has sent.

    Raises:
        CodeDiffersError: The value is a function, and the imported module has another function under this name.
    """
    own = namespace.setdefault(name, sent)
    if own is sent or isinstance(sent, _CODE):
        return own
    if isinstance(sent, types.FunctionType):
        if not isinstance(own, types.FunctionType) or own.__code__ != sent.__code__:
            raise CodeDiffersError(name)
        return own
    if type(own) is not type(sent) or not _replace_content(own, sent):
        namespace[name] = own = sent
    return own


def has_plain_state(value: object) -> bool:
    """Return whether the whole state of an object is in its `__dict__`."""
    kind = type(value)
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return False
    if hasattr(kind, "__setstate__") or any("__slots__" in vars(base) for base in kind.__mro__):
        return False
    try:
        object.__new__(kind)
    except TypeError:
        # `object` cannot make an object of this class, because the class is written in C. Its objects may have state
        # outside of `__dict__`.
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def replace_state(own: Any, sent: Any) -> None:
    """Replace the attributes of `own` by the attributes of `sent`. Both objects must have a plain state."""
    if vars(own) != vars(sent):
        vars(own).clear()
        vars(own).update(vars(sent))


def _replace_content(own: Any, sent: Any) -> bool:
    """If the common type of `own` and `sent` allows it, make `own` equal to `sent` in place. Return whether this was
    done.
    """
    if isinstance(sent, ATOMS):
        return False
    if isinstance(sent, dict | set):
        own.clear()
        own.update(sent)
    elif isinstance(sent, list | deque | bytearray):
        own.clear()
        own.extend(sent)
    elif has_plain_state(sent):
        vars(own).clear()
        vars(own).update(vars(sent))
    else:
        return False
    return True
