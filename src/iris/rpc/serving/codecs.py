"""How a server reads requests and writes answers: strictly, and without holding its loop for long.

connectrpc decodes and encodes on the loop, through two codecs. These two leave the slow cases, large messages in JSON,
to a thread (`MessageThread`), by way of an interceptor: a large request comes to the interceptor as it was sent, and an
answer may leave it as it will be sent.

Binary messages stay on the loop: protobuf reads and writes them at hundreds of megabytes a second, and lets no other
thread run meanwhile, so that a thread would gain nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from iris.errors import InvalidArgumentError, IrisError
from iris.rpc.auth.caller import current_caller
from iris.rpc.error_details import to_connect_error
from iris.rpc.serving.fair_lane import FairLane
from iris.rpc.serving.request_enums import check_enums
from iris.rpc.serving.request_json import parse_request

# Less than this takes a millisecond or two: going to the thread would only delay it.
_INLINE_JSON_BYTES = 8 * 1024  # of a request as it was sent
_INLINE_ANSWER_BYTES = 2 * 1024  # of an answer in binary; as JSON it is some seven times that


@dataclass(frozen=True, slots=True)
class UndecodedRequest:
    """A request in JSON as it was sent, and what it has to become."""

    data: bytes | bytearray
    message_class: type[Message]


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """An answer as it will be sent."""

    data: bytes


class BinaryCodec:
    """Protobuf's own format. Unknown fields are passed over: a newer client may know more of them."""

    def name(self) -> str:
        """Return the name in content types."""
        return "proto"

    def encode(self, message: Message | EncodedAnswer) -> bytes:
        """Return a message as it is sent."""
        return message.data if isinstance(message, EncodedAnswer) else message.SerializeToString()

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Message:
        """Return the message that was sent."""
        return message_class.FromString(bytes(data))


class JsonCodec:
    """JSON. A large request is left to `MessageCoding`."""

    def name(self) -> str:
        """Return the name in content types."""
        return "json"

    def encode(self, message: Message | EncodedAnswer) -> bytes:
        """Return a message as it is sent."""
        return message.data if isinstance(message, EncodedAnswer) else _to_json(message)

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Message | UndecodedRequest:
        """Return the message that was sent, or the request as it is."""
        if len(data) > _INLINE_JSON_BYTES:
            return UndecodedRequest(data, message_class)
        return _parse(data, message_class)


CODECS = (BinaryCodec(), JsonCodec())


class MessageThread:
    """The thread that reads and writes large JSON, for one caller after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "iris-json")
        self._lane = FairLane("large JSON", at_once=1, per_caller=1, waiting_per_caller=256)

    async def decode(self, request: UndecodedRequest) -> Message:
        """Return the message that was sent."""
        message: Message = await self._run(_parse, request.data, request.message_class)
        return message

    async def encode(self, answer: Message, *, as_json: bool) -> EncodedAnswer:
        """Return an answer as it will be sent."""
        if not as_json:
            return EncodedAnswer(answer.SerializeToString())
        if answer.ByteSize() <= _INLINE_ANSWER_BYTES:
            return EncodedAnswer(_to_json(answer))
        return EncodedAnswer(await self._run(_to_json, answer))

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        known = current_caller.get()
        async with self._lane.turn(known.key if known else ""):
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class MessageCoding:
    """An interceptor before all that look at requests: reads what the codecs have left, and checks enums."""

    def __init__(self, thread: MessageThread) -> None:
        self._thread = thread

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Around a unary call."""
        answer = await call_next(await self._decoded(request), ctx)
        return await self._encoded(answer, ctx)

    async def intercept_server_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        """Around a server stream."""
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
    """Whether a call speaks JSON."""
    return "json" in (ctx.request_headers.get("content-type") or "")


def _parse(data: bytes | bytearray, message_class: type[Message]) -> Message:
    try:
        return parse_request(data, message_class)
    except InvalidArgumentError as error:
        raise to_connect_error(error) from None


def _to_json(message: Message) -> bytes:
    return MessageToJson(message).encode()
