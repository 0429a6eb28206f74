"""The answers to requests that the connection limits refuse, in the protocol of the request's client."""

from __future__ import annotations

from connectrpc.code import Code

from iris.reasons import ErrorReason
from iris.rpc.error_details import error_as_grpc_headers, error_as_json, is_grpc

_TOO_LARGE = (Code.RESOURCE_EXHAUSTED, ErrorReason.TOO_LARGE)
_CODES = {
    400: (Code.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST),
    408: (Code.DEADLINE_EXCEEDED, ErrorReason.DEADLINE_EXCEEDED),
    415: (Code.INVALID_ARGUMENT, ErrorReason.MALFORMED_REQUEST),
    503: (Code.UNAVAILABLE, ErrorReason.TOO_MANY_CALLS),
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
    if is_grpc(content_type):
        return 200, error_as_grpc_headers(code, text, reason, content_type), b""
    body = error_as_json(code, text, reason)
    return status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body
