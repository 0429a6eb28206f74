"""Makes a span of each call that comes with a trace context, as a child of the caller's span.

A call has one span, whether its answer is one message or a stream of many. A call without the header `traceparent`
costs one lookup. A call without a valid token has no span. Otherwise anyone could fill the collector with spans.
"""

from __future__ import annotations

import os
import time
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from iris.cluster.controller.tracing.pending_spans import PendingSpans
from iris.cluster.controller.tracing.spans import Attributes, Span, Trace
from iris.system.clock import now_ms
from iris.tracing.context import PARENT_HEADER, STATE_HEADER, TraceContext, parse_context

# The codes that OpenTelemetry's conventions regard as faults of the server. Other codes are faults of the caller.
_FAULTS = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)
_Begin = tuple[TraceContext, int, float]


class CallSpans:
    """The interceptor that makes the spans of calls. It must come before the interceptors that refuse calls.

    Args:
        pending: The queue to which finished spans are added before they are sent.
    """

    def __init__(self, pending: PendingSpans) -> None:
        self._pending = pending

    async def on_start(self, ctx: Any) -> _Begin | None:
        """Return the caller's span and the present time; None if the call gets no span."""
        parent = ctx.request_headers.get(PARENT_HEADER)
        if parent is None:
            return None
        context = parse_context(parent, ctx.request_headers.get(STATE_HEADER) or "")
        if context is None or not context.is_sampled:
            return None
        return context, now_ms(), time.perf_counter()

    async def on_end(self, begin: _Begin | None, ctx: Any, error: Exception | None) -> None:
        """Make the span of a call that has ended."""
        if begin is None:
            return
        code = None if error is None else error.code if isinstance(error, ConnectError) else Code.UNKNOWN
        if code is Code.UNAUTHENTICATED:
            return
        context, begin_ms, began_s = begin
        service, name = ctx.method.service_name, ctx.method.name
        attributes: Attributes = ("rpc.system", "connect_rpc", "rpc.service", service, "rpc.method", name)
        if code is not None:
            attributes += ("rpc.connect_rpc.error_code", code.value)
        begin_ns = begin_ms * 1_000_000
        self._pending.add(
            Span(
                Trace(bytes.fromhex(context.trace_id), context.state),
                os.urandom(8),
                bytes.fromhex(context.span_id),
                f"{service}/{name}",
                begin_ns,
                begin_ns + round((time.perf_counter() - began_s) * 1e9),
                attributes,
                # The text of the error is left out, because it may contain data of users.
                error="" if code in _FAULTS else None,
                has_remote_parent=True,
                is_server=True,
            )
        )
