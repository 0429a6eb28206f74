"""A small OpenTelemetry collector: a real HTTP server that parses the spans of OTLP requests."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """The collector.

    Attributes:
        spans: All received spans.
        services: The value of `service.name` of each request.
        status: The status of the answers.
        retry_after: The header `Retry-After` of the answers; empty if they have none.
        rejected: How many spans each accepted request is told to contain that are rejected.
        encodings: The compressions of the requests; an uncompressed request has "".
        requests: The number of requests, also of refused ones.
    """

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.status = 200
        self.retry_after = ""
        self.rejected = 0
        self.encodings: set[str] = set()
        self.requests = 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.encodings.add(self.headers["content-encoding"] or "")
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                collector.requests += 1
                if collector.status == 200 and self.path == "/v1/traces":
                    collector.add(ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                if collector.retry_after:
                    self.send_header("retry-after", collector.retry_after)
                self.end_headers()
                answer = ExportTraceServiceResponse()
                if collector.rejected:
                    answer.partial_success.rejected_spans = collector.rejected
                self.wfile.write(answer.SerializeToString())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore a killed sender."""

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            for attribute in resource.resource.attributes:
                if attribute.key == "service.name":
                    self.services.add(attribute.value.string_value)
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector(port)
    try:
        yield collector
    finally:
        collector.close()


def attributes_of(span: Span) -> dict[str, Any]:
    """Return the attributes of a span, by name."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in span.attributes}
