"""The exceptions of tasks in the caller's process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iris.errors import RemoteTraceback
from iris.rpc import cluster_pb2


def load_exception(task: cluster_pb2.TaskStatus, loads: Callable[[bytes], Any] | None) -> BaseException | None:
    """Return what the callable of a failed task raised; None when nothing is known of it.

    The exception has its remote traceback as `__cause__`. One that cannot be loaded here is only that traceback.

    Args:
        task: Asked for with its result.
        loads: Makes the exception of the bytes that the task sent; None: return its traceback only. Unpickling runs
            code that the task has sent, so only a caller who asks for results may cause it.
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
    except Exception:  # noqa: BLE001 - whatever it is: unpickling runs the code of what was raised
        pass
    return text
