"""Writes each call that a server answers to the event log.

Calls are events of the level DEBUG. The events never contain requests or answers, because a request may contain code, a
token or data.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from connectrpc.errors import ConnectError

from iris.event_log import log_event

_log = logging.getLogger(__name__)


class CallEventInterceptor:
    """An interceptor that writes an event at the end of each call, with the method, the duration and the code of the
    error.
    """

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Make a unary call."""
        if not _log.isEnabledFor(logging.DEBUG):
            return await call_next(request, ctx)
        started_s = time.perf_counter()
        try:
            response = await call_next(request, ctx)
        except (Exception, asyncio.CancelledError) as error:
            _log_call(ctx, started_s, error)
            raise
        _log_call(ctx, started_s)
        return response

    def intercept_server_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        """Make a call whose answer is a stream."""
        messages = call_next(request, ctx)
        return self._with_event(messages, ctx) if _log.isEnabledFor(logging.DEBUG) else messages

    async def _with_event(self, messages: AsyncIterator[Any], ctx: Any) -> AsyncIterator[Any]:
        started_s = time.perf_counter()
        error: BaseException | None = None
        try:
            async for message in messages:
                yield message
        except (Exception, asyncio.CancelledError) as caught:
            error = caught
            raise
        finally:
            await cast(Any, messages).aclose()
            _log_call(ctx, started_s, error)


def _log_call(ctx: Any, started_s: float, error: BaseException | None = None) -> None:
    code = ""
    if error is not None:
        code = error.code.value if isinstance(error, ConnectError) else type(error).__name__
    log_event(
        _log,
        "call.answered",
        level=logging.DEBUG,
        method=ctx.method.name,
        duration_ms=round((time.perf_counter() - started_s) * 1000, 1),
        error=code,
    )
