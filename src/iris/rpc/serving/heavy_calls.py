"""Limits heavy calls, whose answers grow with the state of a server. Heavy calls wait for turns, with a queue for each
caller.

Equal calls share one answer. While an answer is being made, further equal calls wait, and all of them get the next
answer. Therefore no call gets an answer that was begun before the call arrived. Forty readers of one large job cost as
much as two readers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from connectrpc.errors import ConnectError
from google.protobuf.message import Message

from iris.errors import IrisError
from iris.rpc.auth.caller import caller
from iris.rpc.error_details import to_connect_error
from iris.rpc.serving.codecs import EncodedAnswer, MessageThread, is_json
from iris.rpc.serving.fair_lane import FairLane

# The rules for heavy calls. A rule is a function for one method, which returns whether a request is heavy.
HeavyRules = dict[str, Callable[[Any], bool]]


def always(request: Any) -> bool:
    """Return True: the rule for a method whose requests are all heavy."""
    return True


def reading_lane(clock: Callable[[], float] = time.perf_counter) -> FairLane:
    """Return the `FairLane` that limits heavy calls that only read the state of a server.

    All answers are made in slices on one event loop, therefore more turns at the same time would make nothing faster.
    Two turns per caller allow one answer to be encoded while the next one is made.
    """
    return FairLane(
        "lists and other large answers", at_once=4, per_caller=2, waiting_per_caller=256, waiting=4096, clock=clock
    )


@dataclass(slots=True)
class _Asked:
    """An answer that was requested by one or more equal heavy calls. The work on the answer has not begun yet."""

    making: asyncio.Task[EncodedAnswer]
    calls: int = 0


class HeavyCalls:
    """An interceptor that makes heavy calls wait for turns, and shares answers. It must come after the interceptor that
    authorises calls.

    Args:
        rules: The rules that decide which calls are heavy. The answers of heavy calls must not depend on the caller.
        lane: The lane in which heavy calls wait for turns.
        thread: The thread that encodes large JSON.
    """

    def __init__(self, rules: HeavyRules, lane: FairLane, thread: MessageThread) -> None:
        self._rules = rules
        self._lane = lane
        self._thread = thread
        self._asked: dict[tuple[str, bool, bytes], _Asked] = {}

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Make a unary call. A heavy call waits for its turn."""
        is_heavy = self._rules.get(ctx.method.name)
        if is_heavy is None or not is_heavy(request):
            return await call_next(request, ctx)
        as_json = is_json(ctx)
        key = (ctx.method.name, as_json, request.SerializeToString(deterministic=True))
        asked = self._asked.get(key)
        if asked is None:
            making = asyncio.create_task(self._make(key, call_next, request, ctx))
            asked = self._asked[key] = _Asked(making)
        asked.calls += 1
        try:
            return await asyncio.shield(asked.making)
        except ConnectError as error:
            # Each call gets a separate error object, because an error refers to the stack frames that it has passed.
            raise ConnectError(error.code, error.message, error.details) from None
        finally:
            asked.calls -= 1
            if not asked.calls and not asked.making.done():
                asked.making.cancel()
                if self._asked.get(key) is asked:
                    del self._asked[key]

    async def _make(
        self, key: tuple[str, bool, bytes], call_next: Callable[..., Awaitable[Any]], request: Message, ctx: Any
    ) -> EncodedAnswer:
        asked = self._asked[key]
        try:
            async with self._lane.turn(caller().key):
                # The work on this answer begins now, so calls that arrive later wait for the next answer.
                self._forget(key, asked)
                answer = await call_next(request, ctx)
                return await self._thread.encode(answer, as_json=key[1])
        except IrisError as error:
            raise to_connect_error(error) from None
        finally:
            self._forget(key, asked)

    def _forget(self, key: tuple[str, bool, bytes], asked: _Asked) -> None:
        if self._asked.get(key) is asked:
            del self._asked[key]
