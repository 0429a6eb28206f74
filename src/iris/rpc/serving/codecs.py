"""Decodes the requests and encodes the answers of a server, without blocking the event loop for long.

connectrpc calls codecs on the event loop, which a large message in JSON would block for seconds. Therefore a thread
(`MessageThread`) decodes and encodes large JSON. The JSON codec passes a large request on undecoded, and the
interceptor `MessageCoding` lets the thread decode the request. The thread encodes a large answer before connectrpc
passes the answer to the codec.

Binary messages are encoded and decoded on the loop. Protobuf handles hundreds of megabytes per second, and holds
Python's global lock meanwhile. Therefore a thread would save no time.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from iris.errors import InvalidArgumentError, IrisError
from iris.rpc.auth.caller import current_caller
from iris.rpc.error_details import to_connect_error
from iris.rpc.serving.fair_lane import FairLane
from iris.rpc.serving.request_enums import check_enums
from iris.rpc.serving.request_json import parse_request

# Smaller messages are encoded and decoded on the event loop, because that takes only a millisecond or two. The first
# limit is the size of a request in JSON. The second limit is the size of an answer in binary form, whose JSON is about
# seven times as large.
_INLINE_JSON_BYTES = 8 * 1024
_INLINE_ANSWER_BYTES = 2 * 1024
_INLINE_GZIP_BYTES = 64 * 1024
_GZIP_LEVEL = 1  # Higher levels of gzip take several times as long, and make JSON only a little smaller.


@dataclass(frozen=True, slots=True)
class UndecodedRequest:
    """A request in JSON that is not decoded yet, and the class of its message."""

    data: bytes | bytearray
    message_class: type[Message]


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """An encoded answer."""

    data: bytes


class BinaryCodec:
    """The codec for protobuf's binary format. Unknown fields are ignored, because a newer client may send them."""

    def name(self) -> str:
        """Return the codec's name in content types."""
        return "proto"

    def encode(self, message: Message | EncodedAnswer) -> bytes:
        """Return the bytes of a message."""
        return message.data if isinstance(message, EncodedAnswer) else message.SerializeToString()

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Message:
        """Return the message in the data."""
        return message_class.FromString(bytes(data))


class JsonCodec:
    """The codec for JSON, which leaves large requests to `MessageCoding`."""

    def name(self) -> str:
        """Return the codec's name in content types."""
        return "json"

    def encode(self, message: Message | EncodedAnswer) -> bytes:
        """Return the bytes of a message."""
        return message.data if isinstance(message, EncodedAnswer) else _to_json(message)

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Message | UndecodedRequest:
        """Parse a message from bytes. If there are many bytes, return an `UndecodedRequest` instead, which is parsed
        later.
        """
        if len(data) > _INLINE_JSON_BYTES:
            return UndecodedRequest(data, message_class)
        return _parse(data, message_class)


CODECS = (BinaryCodec(), JsonCodec())


@dataclass(slots=True)
class _Encoding:
    """A message that is being encoded.

    Attributes:
        task: The asyncio task that encodes the message.
        waiting: The number of callers that wait for the encoded message.
    """

    task: asyncio.Task[bytes]
    waiting: int = 0


class MessageThread:
    """The thread that decodes and encodes large JSON, and compresses large answers. Callers wait for their turns.

    Attributes:
        encoded: The number of messages that the thread has encoded.
    """

    def __init__(self) -> None:
        self.encoded = 0
        # The messages that are being encoded, by the identity of the message object. Each task keeps its message alive,
        # therefore no other message can have the same identity.
        self._encoding: dict[int, _Encoding] = {}
        self._thread = ThreadPoolExecutor(1, "iris-json")
        self._lane = FairLane("large JSON", at_once=1, per_caller=1, waiting_per_caller=256)

    async def decode(self, request: UndecodedRequest) -> Message:
        """Return the message in the data."""
        message: Message = await self._run(_parse, request.data, request.message_class)
        return message

    async def encode(self, answer: Message, *, as_json: bool) -> EncodedAnswer:
        """Return an answer in its encoded form. Calls with the same message object share the work of the thread, for
        example if many clients watch one list of jobs.
        """
        if not as_json:
            return EncodedAnswer(answer.SerializeToString())
        if answer.ByteSize() <= _INLINE_ANSWER_BYTES:
            return EncodedAnswer(_to_json(answer))
        running = self._encoding.get(id(answer))
        if running is None:
            return EncodedAnswer(await self._wait_for(self._start_encoding(answer), answer))
        try:
            return EncodedAnswer(await self._wait_for(running, answer))
        except IrisError:
            # Another caller has started to encode this message, and was refused because of its many calls. Therefore
            # the message is encoded again for this caller.
            return EncodedAnswer(await self._to_json(answer))

    async def compress(self, data: bytes) -> bytes:
        """Return data in the format of gzip.

        Raises:
            ResourceExhaustedError: Too many answers wait for the thread.
        """
        if len(data) <= _INLINE_GZIP_BYTES:
            return _to_gzip(data)
        compressed: bytes = await self._run(_to_gzip, data)
        return compressed

    def _start_encoding(self, answer: Message) -> _Encoding:
        encoding = self._encoding[id(answer)] = _Encoding(asyncio.create_task(self._to_json(answer)))
        encoding.task.add_done_callback(lambda _: self._forget(encoding, answer))
        return encoding

    async def _wait_for(self, encoding: _Encoding, answer: Message) -> bytes:
        """Return the encoded answer. If all callers that wait for the answer are cancelled, cancel the encoding, too,
        because the thread would otherwise work for nobody.
        """
        encoding.waiting += 1
        try:
            return await asyncio.shield(encoding.task)
        finally:
            encoding.waiting -= 1
            if not encoding.waiting:
                # The task is removed before it is cancelled, so that the next caller does not wait for a cancelled
                # task.
                self._forget(encoding, answer)
                encoding.task.cancel()

    def _forget(self, encoding: _Encoding, answer: Message) -> None:
        if self._encoding.get(id(answer)) is encoding:
            del self._encoding[id(answer)]

    async def _to_json(self, answer: Message) -> bytes:
        data: bytes = await self._run(_to_json, answer)
        self.encoded += 1
        return data

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        known = current_caller.get()
        async with self._lane.turn(known.key if known else ""):
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class MessageCoding:
    """An interceptor that decodes the requests that the codecs left undecoded, and checks enums. It must come before
    all other interceptors that read requests.
    """

    def __init__(self, thread: MessageThread) -> None:
        self._thread = thread

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Make a unary call with the decoded request."""
        answer = await call_next(await self._decoded(request), ctx)
        return await self._encoded(answer, ctx)

    async def intercept_server_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        """Make a call whose answer is a stream, with the decoded request."""
        messages = call_next(await self._decoded(request), ctx)
        try:
            async for message in messages:
                yield await self._encoded(message, ctx)
        finally:
            await cast(Any, messages).aclose()

    async def _decoded(self, request: Message | UndecodedRequest) -> Message:
        try:
            message = await self._thread.decode(request) if isinstance(request, UndecodedRequest) else request
            check_enums(message)
        except IrisError as error:
            raise to_connect_error(error) from None
        return message

    async def _encoded(self, answer: Message | EncodedAnswer, ctx: Any) -> Message | EncodedAnswer:
        if isinstance(answer, EncodedAnswer) or not is_json(ctx) or answer.ByteSize() <= _INLINE_ANSWER_BYTES:
            return answer
        try:
            return await self._thread.encode(answer, as_json=True)
        except IrisError as error:
            raise to_connect_error(error) from None


def is_json(ctx: Any) -> bool:
    """Return whether the request and the answer of a call are JSON."""
    return "json" in (ctx.request_headers.get("content-type") or "")


def _parse(data: bytes | bytearray, message_class: type[Message]) -> Message:
    try:
        return parse_request(data, message_class)
    except InvalidArgumentError as error:
        raise to_connect_error(error) from None


def _to_json(message: Message) -> bytes:
    return json.dumps(MessageToDict(message), ensure_ascii=False, separators=(",", ":")).encode()


def _to_gzip(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=_GZIP_LEVEL, mtime=0)
