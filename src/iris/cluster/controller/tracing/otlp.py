"""Sends spans to a collector by OTLP over HTTP, with the packages of OpenTelemetry from the extra [otel]."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from iris.cluster.controller.tracing.job_spans import SpanData
from iris.errors import MissingExtraError
from iris.tracing.context import TraceContext
from iris.versions import VERSION

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def has_otel() -> bool:
    """Return whether the extra [otel] is installed."""
    try:
        return all(find_spec(package) is not None for package in _PACKAGES)
    except ModuleNotFoundError:
        return False


class OtlpSender:
    """Sends spans to a collector. The calls block, and are made in a thread.

    Args:
        endpoint: The base URL of the collector, to which `/v1/traces` is added. Empty: the environment variables of
            OpenTelemetry name the collector.

    Raises:
        MissingExtraError: The extra [otel] is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        if not has_otel():
            raise MissingExtraError(what="Traces of jobs", extra="otel")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
        # The variables OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override this name of the service.
        self._resource = Resource({"service.name": "iris", "service.version": VERSION}).merge(
            Resource.create({"service.name": "iris"})
        )
        self._scope = InstrumentationScope("iris", VERSION)

    def send(self, spans: Sequence[SpanData]) -> bool:
        """Send spans, and return whether the collector has accepted them. The exporter tries several times."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.trace import Link, Status, StatusCode

        made = [
            ReadableSpan(
                span.name,
                _context(span.context),
                None if span.parent is None else _context(span.parent),
                self._resource,
                span.attributes,
                links=() if span.link is None else (Link(_context(span.link)),),
                status=Status() if span.error is None else Status(StatusCode.ERROR, span.error),
                start_time=span.start_ms * 1_000_000,
                end_time=span.end_ms * 1_000_000,
                instrumentation_scope=self._scope,
            )
            for span in spans
        ]
        return self._exporter.export(made) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """End a running call, and close the connections."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # The method has no annotations.


def _context(context: TraceContext) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([context.state]) if context.state else TraceState(),
    )
