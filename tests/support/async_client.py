"""Runs async clients for the tests of sync clients, so that one test body checks both.

`open_async_client` returns an object with the methods of `IrisClient`. All its calls run on one event loop in a thread.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

from iris.client.aio import AsyncIrisClient, AsyncJob, AsyncLogStream, AsyncTask
from iris.cluster.client.aio.remote_client import AsyncClusterClient

Result = TypeVar("Result")
_ADAPTED = (AsyncIrisClient, AsyncClusterClient, AsyncJob, AsyncTask, AsyncLogStream, AsyncIterator)


def open_async_client(make: Callable[[], Any]) -> Any:
    """Return a sync object with the methods of the async object that `make` returns."""
    return _adapt(make())


def run_on_loop(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the event loop of this module, and return its result."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop()).result()


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the event loop, which runs in a thread until the end of this process."""
    new = asyncio.new_event_loop()
    thread = threading.Thread(target=new.run_forever, name="async-clients", daemon=True)
    thread.start()

    def stop() -> None:
        new.call_soon_threadsafe(new.stop)
        thread.join()

    atexit.register(stop)
    return new


def _adapt(value: Any) -> Any:
    if isinstance(value, _ADAPTED):
        return _Adapted(value)
    if isinstance(value, list):
        return [_adapt(item) for item in value]
    return value


def _original(value: Any) -> Any:
    return value._original if isinstance(value, _Adapted) else value


class _Adapted:
    """A sync object with the methods of an async object."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._original, name)
        if not inspect.ismethod(attribute):
            return _adapt(attribute)

        def call(*args: Any, **kwargs: Any) -> Any:
            async def on_loop() -> Any:
                result = attribute(*map(_original, args), **kwargs)
                return await result if inspect.isawaitable(result) else result

            return _adapt(run_on_loop(on_loop()))

        return call

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        async def on_loop() -> tuple[bool, Any]:
            try:
                return True, await anext(self._original)
            except StopAsyncIteration:
                return False, None

        is_item, item = run_on_loop(on_loop())
        if not is_item:
            raise StopIteration
        return item

    def __enter__(self) -> Any:
        if hasattr(self._original, "__aenter__"):
            run_on_loop(self._original.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        if hasattr(self._original, "__aexit__"):
            run_on_loop(self._original.__aexit__(*error))
