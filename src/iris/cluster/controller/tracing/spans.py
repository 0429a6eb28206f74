"""The spans that the controller records. The module is pure."""

from __future__ import annotations

from typing import NamedTuple

# Attributes of a span as one tuple, in which names and values alternate. A tuple can be a key of the cache of encoded
# attributes.
Attributes = tuple[str | int, ...]


class Trace(NamedTuple):
    """The trace to which spans belong.

    Attributes:
        trace_id: The id of the trace, 16 bytes.
        state: The tracestate, which is passed on unchanged.
    """

    trace_id: bytes
    state: str = ""


class Span(NamedTuple):
    """A span that has ended.

    A span is a named tuple, because an attempt has five spans and a tuple is the cheapest object.

    Attributes:
        trace: The trace to which the span belongs.
        span_id: The id of the span, 8 bytes.
        parent_id: The id of the parent span; empty if the span is the first of its trace.
        name: The name of the span.
        begin_ns: When the span began, in nanoseconds since the epoch.
        end_ns: When the span ended, in nanoseconds since the epoch.
        attributes: The attributes as one tuple, in which names and values alternate. Equal attributes of several spans
            are encoded once.
        task_index: The index of the task, which is a further attribute; None if the span is not about one task.
        error: Why the work of the span failed, which may be an empty string; None if the work did not fail.
        link_id: The id of a related span in the same trace; empty if there is none.
        has_remote_parent: Whether another process made the parent span.
        is_server: Whether the span is the server's side of a call.
    """

    trace: Trace
    span_id: bytes
    parent_id: bytes
    name: str
    begin_ns: int
    end_ns: int
    attributes: Attributes = ()
    task_index: int | None = None
    error: str | None = None
    link_id: bytes = b""
    has_remote_parent: bool = False
    is_server: bool = False
