"""Loads the exception of a task in the process of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iris.errors import RemoteTraceback
from iris.rpc import cluster_pb2


def load_exception(task: cluster_pb2.TaskStatus, loads: Callable[[bytes], Any] | None) -> BaseException | None:
    """Return the exception that the callable of a failed task raised. None if the exception is unknown.

    The `__cause__` of the exception is a `RemoteTraceback`. If the exception cannot be loaded here, the
    `RemoteTraceback` itself is returned.

    Args:
        task: The status of the task, with its result.
        loads: A function that converts the bytes sent by the task into the exception. None: return only the
            `RemoteTraceback`. Unpickling runs code of the task, so callers pass a function only if the user has
            requested results.
    """
    if not task.HasField("exception"):
        return None
    text = RemoteTraceback(task.exception.traceback)
    if loads is None or not task.exception.pickled:
        return text
    try:
        loaded: object = loads(task.exception.pickled)
        if isinstance(loaded, BaseException):
            loaded.__cause__ = text
            return loaded
    except Exception:  # noqa: BLE001 - Unpickling runs the user's code, which can raise any exception.
        pass
    return text
