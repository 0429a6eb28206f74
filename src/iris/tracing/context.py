"""The trace context of a job or a call: which trace it belongs to, and which span is the parent of its spans."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

PARENT_VARIABLE, STATE_VARIABLE = "TRACEPARENT", "TRACESTATE"
PARENT_HEADER, STATE_HEADER = "traceparent", "tracestate"
# A tracestate with up to this many characters must be passed on, as the standard W3C Trace Context requires.
MAX_STATE = 512
_PARENT = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
_STATE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The identity of a span.

    Attributes:
        trace_id: The id of the trace, as 32 hexadecimal digits.
        span_id: The id of the span, as 16 hexadecimal digits.
        is_sampled: Whether the spans of the trace are recorded.
        state: The tracestate, which is passed on unchanged.
    """

    trace_id: str
    span_id: str
    is_sampled: bool = True
    state: str = ""

    @property
    def parent(self) -> str:
        """The text of this context for the header or variable `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


def new_trace(*names: object) -> TraceContext:
    """Return the context of a new trace without a parent span. The id of the trace is computed from the given names, so
    equal names give the same trace."""
    digits = hashlib.sha256("\0".join(map(str, ("trace", *names))).encode()).hexdigest()
    return TraceContext(digits[:32], "")


def parse_context(parent: str, state: str = "") -> TraceContext | None:
    """Return the trace context that a traceparent and a tracestate contain, or None if the traceparent is invalid."""
    match = _PARENT.fullmatch(parent)
    if match is None or not int(match["trace"], 16) or not int(match["span"], 16):
        return None
    is_valid = len(state) <= MAX_STATE and _STATE.fullmatch(state)
    return TraceContext(match["trace"], match["span"], bool(int(match["flags"], 16) & 1), state if is_valid else "")


def current_context(environment: Mapping[str, str] = os.environ) -> TraceContext | None:
    """Return the trace context of this program, or None if the program has none.

    The current span of OpenTelemetry is used if the program has imported OpenTelemetry. Otherwise the environment
    variables `TRACEPARENT` and `TRACESTATE` are used, which Iris also sets for tasks.
    """
    propagate = sys.modules.get("opentelemetry.propagate")
    if propagate is not None:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        found = parse_context(carrier.get(PARENT_HEADER, ""), carrier.get(STATE_HEADER, ""))
        if found is not None:
            return found
    return parse_context(environment.get(PARENT_VARIABLE, ""), environment.get(STATE_VARIABLE, ""))
