"""Serves the calls of a service over HTTP: an ASGI application around the application of connectrpc.

connectrpc answers some bad requests with an HTTP status alone, knows no content type for a call made with GET, and
compresses either all answers or none. `ServiceApplication` adds what is missing, at the interface between connectrpc
and the HTTP server.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, unquote

from connectrpc.code import Code

from iris.errors import IrisError, quoted, shown
from iris.reasons import ErrorReason
from iris.rpc.address import is_loopback_host
from iris.rpc.auth.caller import connection_ends
from iris.rpc.error_details import REASONS, code_of_grpc, error_as_grpc_headers, error_as_json, is_grpc
from iris.rpc.serving.codecs import MessageThread

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# Answers below this size are not compressed, because they fit into a few packets, and compression would take more time
# than it saves.
_LEAST_COMPRESSED_BYTES = 4096
# Answers above this size are not compressed. They contain a workspace or a result, and the compression would take a
# second or more.
_MOST_COMPRESSED_BYTES = 32 * 1024**2
# Only the answers of unary Connect calls have these content types. The other protocols compress each message.
_COMPRESSED_TYPES = (b"application/json", b"application/proto")
_ENCODINGS = ("json", "proto")
# The headers with which a client says that it accepts compressed answers. They are hidden from connectrpc, which would
# compress every answer.
_ACCEPTED_ENCODINGS = (b"accept-encoding", b"connect-accept-encoding", b"grpc-accept-encoding")


class ServiceApplication:
    """An ASGI application around one service of connectrpc, which changes the answers of the service:
    * A call that was made with GET gets the content type of its `encoding` parameter.
    * A refused request gets an error with a text and a reason.
    * A large answer is compressed with gzip, if the client accepts gzip and runs on another machine.

    Args:
        application: The application of connectrpc for the service.
        thread: The thread that compresses large answers.
        is_near: A function that returns whether a host is so near that compression costs more time than it saves. The
            default is whether the host is this machine's loopback.
    """

    def __init__(
        self, application: Any, thread: MessageThread, is_near: Callable[[str], bool] = is_loopback_host
    ) -> None:
        self.path: str = application.path
        self._application = application
        self._thread = thread
        self._is_near = is_near

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """Answer a call."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        connection_ends.set((scope.get("client"), scope.get("server")))
        headers = dict(scope["headers"])
        if scope["method"] == "GET":
            scope = _with_content_type(scope)
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in _ACCEPTED_ENCODINGS]}
        thread = self._thread if self._is_compressed(scope, headers) else None
        answer = _Answer(scope, headers.get(b"content-type", b""), send, thread)
        await self._application(scope, receive, answer.send)

    def _is_compressed(self, scope: Message, headers: dict[bytes, bytes]) -> bool:
        client = scope.get("client")
        return (
            client is not None and _accepts_gzip(headers.get(b"accept-encoding", b"")) and not self._is_near(client[0])
        )


class _Answer:
    """The answer to one call, on its way from connectrpc to the HTTP server.

    Args:
        scope: The ASGI scope of the call.
        content_type: The content type of the request.
        send: The function of the HTTP server that sends a part of the answer.
        thread: The thread that compresses the answer, or None if the answer must not be compressed.
    """

    def __init__(self, scope: Message, content_type: bytes, send: Send, thread: MessageThread | None) -> None:
        self._scope = scope
        self._content_type = content_type
        self._send = send
        self._thread = thread
        # The head of the answer. It is kept until the body has arrived, because the body decides which headers are
        # sent.
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Send a part of the answer. Errors get a text and a reason, and large answers are compressed."""
        if message["type"] == "http.response.start":
            if self._scope["method"] == "GET":
                # Caches must not keep answers, because a kept answer could be out of date.
                message["headers"].append((b"cache-control", b"no-store"))
            if message["status"] != 200 or self._may_compress(message["headers"]):
                self._start = message
                return
            if is_grpc(self._content_type):
                _add_grpc_detail(message["headers"])
        elif self._start is not None:
            start, self._start = self._start, None
            if start["status"] == 200:
                message = await self._compress(start, message)
            else:
                message = self._complete_error(start, message)
            await self._send(start)
        await self._send(message)

    def _may_compress(self, headers: Headers) -> bool:
        return self._thread is not None and dict(headers).get(b"content-type") in _COMPRESSED_TYPES

    async def _compress(self, start: Message, message: Message) -> Message:
        data = message["body"]
        has_fitting_size = _LEAST_COMPRESSED_BYTES <= len(data) <= _MOST_COMPRESSED_BYTES
        if self._thread is None or not has_fitting_size or message.get("more_body"):
            return message
        try:
            compressed = await self._thread.compress(data)
        except IrisError:
            # The answer is sent uncompressed, because too many answers already wait for the compressing thread.
            return message
        if len(compressed) > len(data) * 0.9:
            return message
        start["headers"] = [pair for pair in start["headers"] if pair[0] != b"content-encoding"]
        start["headers"].append((b"content-encoding", b"gzip"))
        return {**message, "body": compressed}

    def _complete_error(self, start: Message, message: Message) -> Message:
        """Add a text and a reason to an answer that has no content type, and a reason to an error that has none."""
        headers: Headers = start["headers"]
        if b"content-type" not in dict(headers):
            code, text, reason = self._describe(start["status"])
            if start["status"] == 404 and is_grpc(self._content_type):
                # An answer of gRPC has its error in the header `grpc-status`, so it is not changed here.
                start["status"] = 200
                headers += error_as_grpc_headers(code, text, reason, self._content_type)
                return message
            headers.append((b"content-type", b"application/json"))
            return {**message, "body": error_as_json(code, text, reason)}
        body = _json_object(message["body"])
        if "code" in body and "details" not in body:
            code = Code(body["code"])
            return {**message, "body": error_as_json(code, body.get("message", ""), REASONS[code])}
        return message

    def _describe(self, status: int) -> tuple[Code, str, str]:
        """Return the code, the text and the reason of an error that connectrpc reports with a status alone."""
        path, method = shown(self._scope["path"][:200]), self._scope["method"]
        if status == 404:
            return Code.UNIMPLEMENTED, f"this server has no call {path}", ErrorReason.UNIMPLEMENTED
        if status == 405:
            text = f"{path} cannot be called with {method}: send POST"
            return Code.UNIMPLEMENTED, text, ErrorReason.MALFORMED_REQUEST
        if method == "GET":
            text = f"a call with GET needs the parameter 'encoding', which is one of {', '.join(_ENCODINGS)}"
        else:
            given = quoted(self._content_type[:100].decode(errors="replace"))
            text = (
                f"the content type {given} is not accepted for {path}: expected application/json or application/proto,"
                " for a stream application/connect+json or application/connect+proto, or the content type of gRPC or"
                " gRPC-Web"
            )
        return Code.INVALID_ARGUMENT, text, ErrorReason.MALFORMED_REQUEST


def _add_grpc_detail(headers: Headers) -> None:
    """Add the missing detail to the headers of an answer of gRPC that has only an error."""
    found = dict(headers)
    code = code_of_grpc(found.get(b"grpc-status", b"0"))
    if code is not None and b"grpc-status-details-bin" not in found:
        text = unquote(found.get(b"grpc-message", b"").decode())
        described = error_as_grpc_headers(code, text, REASONS[code], found[b"content-type"])
        headers += [pair for pair in described if pair[0] not in found]


def _with_content_type(scope: Message) -> Message:
    """Return the scope of a call made with GET, with the content type that the same call has with POST."""
    headers = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
    encoding = parse_qs(scope["query_string"].decode(errors="replace")).get("encoding", [""])[0]
    if encoding in _ENCODINGS:
        headers.append((b"content-type", f"application/{encoding}".encode()))
    return {**scope, "headers": headers}


def _accepts_gzip(accepted: bytes) -> bool:
    """Return whether an `accept-encoding` header names gzip with a weight above zero."""
    for one in accepted.lower().split(b","):
        name, _, weight = one.partition(b";")
        if name.strip() == b"gzip":
            return weight.replace(b" ", b"").rstrip(b".0") != b"q="
    return False


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
