"""Sends the trace context of the calling program along with each call, so that the server can make spans of calls."""

from __future__ import annotations

from typing import Any

from iris.tracing.context import PARENT_HEADER, STATE_HEADER, current_context


class TraceInterceptor:
    """A metadata interceptor for sync and async stubs, which adds the header `traceparent` to each call."""

    def on_start_sync(self, ctx: Any) -> None:
        """Add the context of the current span to the headers of a call, if the program has a span."""
        context = current_context()
        if context is None or PARENT_HEADER in ctx.request_headers:
            return
        ctx.request_headers[PARENT_HEADER] = context.parent
        if context.state:
            ctx.request_headers[STATE_HEADER] = context.state

    def on_end_sync(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Do nothing after a call."""

    async def on_start(self, ctx: Any) -> None:
        """Do the same as `on_start_sync`, for calls of async stubs: add the context of the current span to the headers
        of a call.
        """
        self.on_start_sync(ctx)

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Do nothing after a call."""
