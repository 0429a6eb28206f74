"""The answers to requests that the connection limits refuse, in the protocol of the request's client."""

from __future__ import annotations

import base64
from urllib.parse import quote

from connectrpc.code import Code
from google.protobuf.any_pb2 import Any

from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.error_details import DOMAIN, error_as_json

_TOO_LARGE = (Code.RESOURCE_EXHAUSTED, ErrorReason.TOO_LARGE)
_CODES = {
    400: (Code.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST),
    408: (Code.DEADLINE_EXCEEDED, ErrorReason.DEADLINE_EXCEEDED),
    415: (Code.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST),
    503: (Code.UNAVAILABLE, ErrorReason.TOO_MANY_CALLS),
}
# The numbers of the codes in gRPC.
_GRPC_NUMBERS = {
    Code.INVALID_ARGUMENT: 3,
    Code.DEADLINE_EXCEEDED: 4,
    Code.RESOURCE_EXHAUSTED: 8,
    Code.UNAVAILABLE: 14,
}

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def refusal(status: int, text: str, content_type: bytes = b"") -> Answer:
    """Return the status, the headers and the body of the answer to a refused request.

    A client of gRPC or gRPC-Web gets a response with the status of gRPC in its headers and without a body. The
    specifications of both protocols call such a response "trailers-only". Every other client gets an error of Connect.

    Args:
        status: The HTTP status that tells why the request is refused, for example 503.
        text: Why the request is refused.
        content_type: The content type of the request.
    """
    code, reason = _CODES.get(status, _TOO_LARGE)
    if content_type.startswith(b"application/grpc"):
        number = _GRPC_NUMBERS[code]
        details = base64.b64encode(_grpc_status(number, text, reason)).rstrip(b"=")
        web = b"-web" if content_type.startswith(b"application/grpc-web") else b""
        return (
            200,
            [
                (b"content-type", b"application/grpc" + web),
                (b"grpc-status", b"%d" % number),
                (b"grpc-message", quote(text, safe="").encode()),
                (b"grpc-status-details-bin", details),
            ],
            b"",
        )
    body = error_as_json(code, text, reason)
    return status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body


def _grpc_status(number: int, text: str, reason: str) -> bytes:
    """Return a message `google.rpc.Status` with one detail. The types of that package are not installed with protobuf,
    so the three fields (1 code, 2 message, 3 details) are written by hand.
    """
    detail = Any()
    detail.Pack(cluster_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    detail.type_url = "type.googleapis.com/google.rpc.ErrorInfo"
    return b"\x08%c" % number + _field(0x12, text.encode()) + _field(0x1A, detail.SerializeToString())


def _field(tag: int, content: bytes) -> bytes:
    size, encoded = len(content), bytearray([tag])
    while size > 0x7F:
        encoded.append(0x80 | (size & 0x7F))
        size >>= 7
    encoded.append(size)
    return bytes(encoded) + content
