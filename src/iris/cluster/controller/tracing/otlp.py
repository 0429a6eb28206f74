"""Sends spans to a collector by OTLP over HTTP. The extra [otel] has the messages of OTLP."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pyqwest import Headers, HTTPTransport, Request

from iris.cluster.controller.tracing.collector_settings import read_settings
from iris.cluster.controller.tracing.spans import Span
from iris.errors import MissingExtraError
from iris.rpc.http.client.async_client_transport import pyqwest_proxy_for
from iris.rpc.http.connection_errors import describe_fault
from iris.versions import VERSION

_CONTENT_TYPE = "application/x-protobuf"
# The statuses after which a request is sent again, as the specification of OTLP lists them.
_RETRIED = frozenset({429, 502, 503, 504})
_LONGEST_ADVICE_S = 300.0
_MOST_ANSWER_BYTES = 1 << 16
# A larger request is compressed in a thread, because its compression takes more than a millisecond.
_COMPRESS_IN_THREAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class CollectorAnswer:
    """How a collector has answered a request with spans.

    Attributes:
        problem: Why some or all spans were not accepted, for people; empty if all were accepted.
        is_final: Whether the request must not be sent again.
        retry_after_s: The number of seconds that the collector asks the controller to wait before the next request; 0
            if the answer does not say.
        num_rejected: How many spans of an accepted request the collector has rejected.
    """

    problem: str = ""
    is_final: bool = True
    retry_after_s: float = 0.0
    num_rejected: int = 0

    @property
    def is_accepted(self) -> bool:
        """Whether the collector has accepted the request. The collector may still have rejected single spans."""
        return not self.problem or self.num_rejected > 0


def has_otel() -> bool:
    """Return whether the extra [otel] is installed."""
    try:
        return find_spec("opentelemetry.proto") is not None
    except ModuleNotFoundError:
        return False


class OtlpSender:
    """Sends spans to a collector.

    Args:
        endpoint: The base URL of the collector, to which `/v1/traces` is added. If the string is empty, the environment
            variables of OpenTelemetry name the collector.

    Raises:
        MissingExtraError: The extra [otel] is not installed.
        InvalidArgumentError: The URL of the collector is invalid.
        FailedPreconditionError: A file with certificates cannot be read.
    """

    def __init__(self, endpoint: str) -> None:
        if not has_otel():
            raise MissingExtraError(what="Traces of jobs", extra="otel")
        from iris.cluster.controller.tracing.span_encoding import RequestEncoder, encode_spans

        self._encode_spans = encode_spans
        self._settings = settings = read_settings(endpoint)
        self._encoder = RequestEncoder(settings.resource, VERSION)
        self._headers = {"user-agent": f"iris/{VERSION}", **settings.headers, "content-type": _CONTENT_TYPE}
        if settings.compression != "none":
            self._headers["content-encoding"] = settings.compression
        pems: dict[str, Any] = settings.tls.pems() if settings.url.startswith("https:") else {}
        self._transport = HTTPTransport(
            proxy=pyqwest_proxy_for(settings.url, None),
            timeout=settings.timeout_s,
            connect_timeout=settings.timeout_s,
            pool_idle_timeout=60.0,
            follow_redirects=False,
            enable_otel=False,
            **pems,
        )

    def encode(self, spans: Iterable[Span]) -> bytes:
        """Return spans as bytes for `send`."""
        return self._encode_spans(spans)

    async def send(self, spans: Sequence[bytes]) -> CollectorAnswer:
        """Send encoded spans in one request, and return the collector's answer.

        If the connection fails, return an answer that says so, instead of raising an error.
        """
        body = self._encoder.request(spans)
        if self._settings.compression != "none":
            in_thread = len(body) > _COMPRESS_IN_THREAD_BYTES
            body = await asyncio.to_thread(self._compress, body) if in_thread else self._compress(body)
        request = Request("POST", self._settings.url, headers=Headers(self._headers.items()), content=body)
        timeout_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._transport.execute(request)
                async with aclosing(response):
                    content = await _read(response.content)
                    return _judge(response.status, response.headers.get("retry-after") or "", content)
        except TimeoutError:
            return CollectorAnswer(f"no answer within {timeout_s:g} s", is_final=False)
        except Exception as error:  # noqa: BLE001 - pyqwest raises several types for a connection that fails.
            return CollectorAnswer(f"the connection failed: {describe_fault(error)}", is_final=False)

    def _compress(self, body: bytes) -> bytes:
        return _gzip(body) if self._settings.compression == "gzip" else zlib.compress(body, 1)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def _gzip(body: bytes) -> bytes:
    try:
        from isal import igzip
    except ImportError:  # The package `isal` is missing on machines for which it has no wheel.
        return gzip.compress(body, 1)
    # The package `isal` compresses in a tenth of the time that the standard library needs.
    compressed: bytes = igzip.compress(body, 1)
    return compressed


async def _read(content: Any) -> bytes:
    """Return the beginning of an answer."""
    data = bytearray()
    async for part in content:
        data += part
        if len(data) > _MOST_ANSWER_BYTES:
            break
    return bytes(data)


def _judge(status: int, retry_after: str, content: bytes) -> CollectorAnswer:
    if not 200 <= status < 300:
        wait_s = min(float(retry_after), _LONGEST_ADVICE_S) if retry_after.isascii() and retry_after.isdigit() else 0.0
        return CollectorAnswer(f"the collector answered with HTTP status {status}", status not in _RETRIED, wait_s)
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        rejection = ExportTraceServiceResponse.FromString(content).partial_success
    except DecodeError:
        # Some collectors answer with JSON or HTML, which is ignored, because the HTTP status already says that the
        # spans are accepted.
        return CollectorAnswer()
    if not rejection.rejected_spans > 0:
        return CollectorAnswer()
    problem = f"the collector rejected spans: {rejection.error_message[:200] or 'it gave no reason'}"
    return CollectorAnswer(problem, num_rejected=rejection.rejected_spans)
