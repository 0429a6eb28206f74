"""Loads the exception of a task in the process of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iris.errors import RemoteTraceback
from iris.rpc import cluster_pb2


def load_exception(task: cluster_pb2.TaskStatus, loads: Callable[[bytes], Any] | None) -> BaseException | None:
    """Return the exception that the callable of a failed task raised. Return None if the exception is unknown.

    The `__cause__` of the exception is a `RemoteTraceback`. If the exception cannot be loaded here, the
    `RemoteTraceback` itself is returned.

    Args:
        task: The status of the task, with its result.
        loads: A function that converts the bytes sent by the task into the exception. If None, only the
            `RemoteTraceback` is returned. Unpickling runs code of the task, so callers pass a function only if the user
            has requested results.
    """
    if not task.HasField("exception"):
        return None
    return load_raised(task.exception.pickled, task.exception.traceback, loads)


def load_raised(pickled: bytes, traceback: str, loads: Callable[[bytes], Any] | None) -> BaseException:
    """Return an exception that a task has raised, with a `RemoteTraceback` as its `__cause__`. If the exception cannot
    be loaded here, return the `RemoteTraceback` itself, which contains the traceback in the task as text.

    Args:
        pickled: The pickled exception, or no bytes if the task could not pickle the exception.
        traceback: The traceback of the exception in the task, as text.
        loads: `load_exception` documents this argument.
    """
    text = RemoteTraceback(traceback)
    if loads is None or not pickled:
        return text
    try:
        loaded: object = loads(pickled)
    except Exception:  # noqa: BLE001 - Unpickling runs the user's code, which can raise any exception.
        return text
    if not isinstance(loaded, BaseException):
        return text
    loaded.__cause__ = text
    return loaded
