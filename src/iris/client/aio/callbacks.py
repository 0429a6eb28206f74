"""Lets a thread call functions of the user that must run on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec

Arguments = ParamSpec("Arguments")


class LoopCallbacks:
    """Wraps functions, so that threads can call them. The functions run on the event loop that made this object."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def wrap(self, function: Callable[Arguments, None]) -> Callable[Arguments, None]:
        """Return a function that calls `function` on the event loop, waits for its end, and raises its errors."""

        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            if _running_loop() is self._loop:
                function(*args, **kwargs)
                return
            done: Future[None] = Future()

            def run() -> None:
                try:
                    function(*args, **kwargs)
                except BaseException as error:  # noqa: BLE001 - The thread that waits for the result raises the error.
                    done.set_exception(error)
                else:
                    done.set_result(None)

            self._loop.call_soon_threadsafe(run)
            done.result()

        return call


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
