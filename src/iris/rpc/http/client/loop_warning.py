"""Warns a program that makes blocking calls in a running event loop."""

from __future__ import annotations

import asyncio
import itertools
import sys
import warnings

from iris.display.notebook import is_notebook
from iris.errors import BlockingCallWarning

_OUR_PACKAGE = __name__.partition(".")[0]
# `next(counter)` is atomic. Therefore only one of several threads gets the number 0 and prints the warning.
_warnings = itertools.count()


def warn_in_event_loop() -> None:
    """Warn if this thread runs an asyncio event loop, because a blocking call would stop the loop. Each process warns
    once. In a notebook, there is no warning, because each cell runs in an event loop and the user expects a cell to
    block.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if is_notebook():
        return
    if next(_warnings) == 0:
        warnings.warn(
            "this call of IrisClient blocks the running event loop until the cluster has answered:"
            " in async code, use iris.client.aio.AsyncIrisClient, or call asyncio.to_thread"
            " (this warning is given once)",
            BlockingCallWarning,
            stacklevel=_callers_level(),
        )


def _callers_level() -> int:
    """Return the argument `stacklevel` with which a warning names the first caller outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None:
        frame, level = frame.f_back, level + 1
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in (_OUR_PACKAGE, "contextlib"):
            return level
    return level
