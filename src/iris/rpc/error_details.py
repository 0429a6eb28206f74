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

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
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
    value = base64.b64encode(info.SerializeToString()).decode().rstrip("=")  # Connect omits the padding
    detail = {"type": _TYPE, "value": value, "debug": {"reason": reason, "domain": DOMAIN}}
    error = {"code": code.value, "message": text, "details": [detail]}
    return json.dumps(error, separators=(",", ":")).encode()


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
