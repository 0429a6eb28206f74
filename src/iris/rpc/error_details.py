"""Converts between the errors of Iris and the errors of the Connect protocol.

Each error of a call carries one detail: reason, domain and metadata. The detail has the type `google.rpc.ErrorInfo`, so
that the tools and the generated code of other languages can read it. The message `ErrorInfo` in the proto file of Iris
has the same field numbers, and is used to write and read the detail.
"""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any as AnyType
from urllib.parse import quote

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.protobuf.any_pb2 import Any as PackedDetail
from google.protobuf.message import DecodeError
from protobuf.wkt import Any, Struct

from iris.errors import IrisError, shown
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

DOMAIN = "iris"
_TYPE = "google.rpc.ErrorInfo"
# The reasons of errors that connectrpc raises itself, because a request breaks the rules of its protocol.
REASONS = dict.fromkeys(Code, ErrorReason.MALFORMED_REQUEST) | {
    Code.UNIMPLEMENTED: ErrorReason.UNIMPLEMENTED,
    Code.RESOURCE_EXHAUSTED: ErrorReason.TOO_LARGE,
    Code.DEADLINE_EXCEEDED: ErrorReason.DEADLINE_EXCEEDED,
    Code.UNAVAILABLE: ErrorReason.UNAVAILABLE,
    Code.UNKNOWN: ErrorReason.INTERNAL,
}

# The error codes of gRPC in the order of their numbers. Number 0 stands for success.
_GRPC_CODES = (
    None,
    Code.CANCELED,
    Code.UNKNOWN,
    Code.INVALID_ARGUMENT,
    Code.DEADLINE_EXCEEDED,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
    Code.FAILED_PRECONDITION,
    Code.ABORTED,
    Code.OUT_OF_RANGE,
    Code.UNIMPLEMENTED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
    Code.DATA_LOSS,
    Code.UNAUTHENTICATED,
)


class _ReadableDetail(ErrorDetail):
    """An error detail that Connect's JSON shows as a plain object under `debug`.

    connectrpc shows the message of a detail only if the message was made with connectrpc's own library, protobuf-py.
    Therefore this class copies the detail's fields into a `Struct` of protobuf-py, which looks the same in JSON.
    """

    def __init__(self, info: cluster_pb2.ErrorInfo) -> None:
        super().__init__(Any(type_url=f"type.googleapis.com/{_TYPE}", value=info.SerializeToString()))
        self._info = info

    def value(self, *kind: AnyType) -> AnyType:
        """Return the detail as a message of the given type, or by default the detail's fields as a `Struct`."""
        if kind:
            return super().value(*kind)
        info = self._info
        return Struct.from_python({"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)})


def to_connect_error(error: IrisError) -> ConnectError:
    """Return the Connect error that stands for an error of Iris on the wire."""
    return connect_error(Code(error.code), shown(str(error)), error.reason, dict(error.metadata))


def connect_error(code: Code, text: str, reason: str, metadata: dict[str, str] | None = None) -> ConnectError:
    """Return a Connect error with its detail."""
    info = cluster_pb2.ErrorInfo(
        reason=reason,
        domain=DOMAIN,
        metadata={shown(key): shown(value) for key, value in (metadata or {}).items()},
    )
    return ConnectError(code, text, details=[_ReadableDetail(info)])


def error_as_json(code: Code, text: str, reason: str) -> bytes:
    """Return the body of an HTTP answer with an error, as Connect's JSON."""
    info = cluster_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    # Padding is removed from the base64 text, as the Connect protocol does.
    value = base64.b64encode(info.SerializeToString()).decode().rstrip("=")
    detail = {"type": _TYPE, "value": value, "debug": {"reason": reason, "domain": DOMAIN}}
    error = {"code": code.value, "message": text, "details": [detail]}
    return json.dumps(error, separators=(",", ":")).encode()


def is_grpc(content_type: bytes) -> bool:
    """Return whether a content type belongs to gRPC or gRPC-Web."""
    return content_type.startswith(b"application/grpc")


def error_as_grpc_headers(code: Code, text: str, reason: str, content_type: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that has only the error of a call. The specifications of gRPC and gRPC-Web call
    such an answer "trailers-only".

    Args:
        code: The code of the error.
        text: The text of the error.
        reason: The reason of the error.
        content_type: The content type of the request.
    """
    number = _GRPC_CODES.index(code)
    details = base64.b64encode(_grpc_status(number, text, reason)).rstrip(b"=")
    web = b"-web" if content_type.startswith(b"application/grpc-web") else b""
    return [
        (b"content-type", b"application/grpc" + web),
        (b"grpc-status", b"%d" % number),
        (b"grpc-message", quote(text, safe="").encode()),
        (b"grpc-status-details-bin", details),
    ]


def code_of_grpc(number: bytes) -> Code | None:
    """Return the code for a value of the header `grpc-status`. None means that the call has succeeded."""
    return _GRPC_CODES[int(number)]


def _grpc_status(number: int, text: str, reason: str) -> bytes:
    """Return a message `google.rpc.Status` with one detail. The types of that package are not installed with protobuf,
    so the three fields (1 code, 2 message, 3 details) are written by hand.
    """
    detail = PackedDetail()
    detail.Pack(cluster_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    detail.type_url = f"type.googleapis.com/{_TYPE}"
    return b"\x08%c" % number + _field(0x12, text.encode()) + _field(0x1A, detail.SerializeToString())


def _field(tag: int, content: bytes) -> bytes:
    size, encoded = len(content), bytearray([tag])
    while size > 0x7F:
        encoded.append(0x80 | (size & 0x7F))
        size >>= 7
    encoded.append(size)
    return bytes(encoded) + content


def read_detail(error: ConnectError) -> cluster_pb2.ErrorInfo | None:
    """Return the detail of an error that a server of Iris sent, or None if the error has no such detail."""
    for detail in error.details:
        if detail.type_name == _TYPE:
            with contextlib.suppress(DecodeError):
                info = cluster_pb2.ErrorInfo.FromString(detail.message_bytes)
                if info.domain == DOMAIN and info.reason:
                    return info
    return None


def known_reason(name: str) -> str:
    """Return the `ErrorReason` of a name, or the name itself if this release does not know the reason."""
    return ErrorReason(name) if name in ErrorReason.__members__ else name
