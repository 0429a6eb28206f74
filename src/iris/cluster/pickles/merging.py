"""Gives the imported modules of a task the data that the caller has in their globals.

The code of such a module is the worker's own. The globals that functions use have the caller's values, because a
program may have set them before it submitted the job. Objects that others may have imported by name stay the same
objects where their content can be replaced.
"""

from __future__ import annotations

import types
from collections import deque
from typing import Any

_CODE = (type, types.ModuleType, types.BuiltinFunctionType)
# Two names for one of these need not mean the same object.
ATOMS = (int, float, complex, bool, str, bytes, tuple, frozenset, range, type(None), type(...), type(NotImplemented))


class CodeDiffersError(Exception):
    """A global is a function other than the imported module's: the caller has replaced it."""


def merge_global(namespace: dict[str, Any], name: str, sent: Any) -> Any:
    """Give a global of an imported module its value at the caller, and return it.

    Args:
        namespace: The globals of the imported module.
        name: The global.
        sent: Its value at the caller.

    Raises:
        CodeDiffersError: It is a function, and the imported module's is another.
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
    """Whether the state of an object is all in its `__dict__`."""
    kind = type(value)
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return False
    if hasattr(kind, "__setstate__") or any("__slots__" in vars(base) for base in kind.__mro__):
        return False
    try:
        object.__new__(kind)
    except TypeError:
        return False  # it is made in C, and has state there
    return isinstance(getattr(value, "__dict__", None), dict)


def replace_state(own: Any, sent: Any) -> None:
    """Give an object the attributes of another one; both have a plain state."""
    if vars(own) != vars(sent):
        vars(own).clear()
        vars(own).update(vars(sent))


def _replace_content(own: Any, sent: Any) -> bool:
    """Make an object equal to another one of its type in place; False where that cannot be done."""
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
