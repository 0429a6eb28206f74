"""The protocols Connect, gRPC and gRPC-Web as their specifications define them, without code of a client library."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from google.protobuf.any_pb2 import Any as PackedDetail
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from support.http_exchange import Exchange

from iris.rpc import cluster_pb2

CODES = [
    "ok",
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
]
COMPRESSED, CONNECT_END, WEB_TRAILERS = 0x01, 0x02, 0x80


@dataclass
class Outcome:
    """The result of a call.

    Attributes:
        messages: The messages, encoded.
        code: The code of the error in Connect's spelling; `ok` if the call succeeded.
        text: The text of the error.
        reason: The reason in the error's detail; empty if the error has no detail.
    """

    messages: list[bytes] = field(default_factory=list)
    code: str = "ok"
    text: str = ""
    reason: str = ""


def envelope(message: bytes, flags: int = 0) -> bytes:
    """Return a message with the prefix that all protocols use in streams."""
    return struct.pack(">BI", flags, len(message)) + message


def envelopes(data: bytes) -> list[tuple[int, bytes]]:
    """Return the flags and the messages of a stream. The stream must not end within a message."""
    found = []
    while data:
        flags, size = struct.unpack_from(">BI", data)
        assert len(data) >= 5 + size, f"the stream ends within a message: {data!r}"
        found.append((flags, data[5 : 5 + size]))
        data = data[5 + size :]
    return found


class ConnectUnary:
    """Connect with one request and one answer."""

    name = "connect"
    timeout = ("connect-timeout-ms", "{}", "soon")

    def content_type(self, codec: str) -> str:
        return f"application/{codec}"

    def body(self, *messages: bytes) -> bytes:
        return b"".join(messages)

    def outcome(self, answer: Exchange) -> Outcome:
        if answer.status == 200:
            return Outcome([answer.body])
        assert answer.headers["content-type"] == "application/json"
        return _connect_error(json.loads(answer.body))


class ConnectStream:
    """Connect with a stream of answers, which ends with a message of its own kind."""

    name = "connect-stream"
    timeout = ConnectUnary.timeout

    def content_type(self, codec: str) -> str:
        return f"application/connect+{codec}"

    def body(self, *messages: bytes) -> bytes:
        return b"".join(map(envelope, messages))

    def outcome(self, answer: Exchange) -> Outcome:
        if answer.status != 200:
            return _connect_error(json.loads(answer.body))
        *frames, (flags, end) = envelopes(answer.body)
        assert flags == CONNECT_END
        assert {flags for flags, _ in frames} <= {0}
        outcome = _connect_error(json.loads(end).get("error", {"code": "ok"}))
        outcome.messages = [message for _, message in frames]
        return outcome


class Grpc:
    """gRPC, whose status is in the trailers, or in the headers of an answer without a body."""

    name = "grpc"
    timeout = ("grpc-timeout", "{}m", "1x")

    def content_type(self, codec: str) -> str:
        return f"application/{self.name}+{codec}"

    def body(self, *messages: bytes) -> bytes:
        return b"".join(map(envelope, messages))

    def outcome(self, answer: Exchange) -> Outcome:
        if answer.status != 200:
            return _connect_error(json.loads(answer.body))
        frames = envelopes(answer.body)
        assert {flags for flags, _ in frames} <= {0}
        status = answer.trailers or answer.headers
        return _grpc_outcome([message for _, message in frames], status)


class GrpcWeb(Grpc):
    """gRPC-Web, whose trailers are the last message of the body."""

    name = "grpc-web"

    def outcome(self, answer: Exchange) -> Outcome:
        if answer.status != 200:
            return _connect_error(json.loads(answer.body))
        assert not answer.trailers
        frames = envelopes(answer.body)
        if not frames:
            return _grpc_outcome([], answer.headers)
        *frames, (flags, end) = frames
        assert flags == WEB_TRAILERS
        assert {flags for flags, _ in frames} <= {0}
        trailers = dict(line.split(": ", 1) for line in end.decode().split("\r\n") if line)
        return _grpc_outcome([message for _, message in frames], trailers)


def _connect_error(error: dict[str, Any]) -> Outcome:
    outcome = Outcome(code=error["code"], text=error.get("message", ""))
    for detail in error.get("details", []):
        assert detail["type"] == "google.rpc.ErrorInfo"
        outcome.reason = _reason(base64.b64decode(detail["value"] + "==="))
    return outcome


def _grpc_outcome(messages: list[bytes], status: dict[str, str]) -> Outcome:
    outcome = Outcome(messages, CODES[int(status["grpc-status"])], unquote(status.get("grpc-message", "")))
    packed = status.get("grpc-status-details-bin")
    if packed:
        details = _Status.FromString(base64.b64decode(packed + "==="))
        assert (CODES[details.code], details.message) == (outcome.code, outcome.text)
        for detail in details.details:
            assert detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo"
            outcome.reason = _reason(detail.value)
    return outcome


def _reason(data: bytes) -> str:
    return str(cluster_pb2.ErrorInfo.FromString(data).reason)


def _status_class() -> Any:
    """Return the class of `google.rpc.Status`, of which no package is installed."""
    kind = FieldDescriptorProto
    file = FileDescriptorProto(name="google/rpc/status.proto", package="google.rpc", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=kind.TYPE_INT32, label=kind.LABEL_OPTIONAL)
    status.field.add(name="message", number=2, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    any_name = f".{PackedDetail.DESCRIPTOR.full_name}"
    status.field.add(name="details", number=3, type=kind.TYPE_MESSAGE, type_name=any_name, label=kind.LABEL_REPEATED)
    pool = DescriptorPool()
    pool.AddSerializedFile(PackedDetail.DESCRIPTOR.file.serialized_pb)
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))


_Status = _status_class()
