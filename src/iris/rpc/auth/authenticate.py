"""Before a server's services: lets in who has a token that is good for the call, and out again when it is not any more.

Two interceptors, since a request is refused by its headers before its body is read:

1. `Gate` looks at the token and at the role, and notes who is calling (`caller.py`).
2. `Inspector` looks at the request, and ends a stream whose token expires or is revoked while it is open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from iris.errors import IrisError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from iris.rpc.auth.caller import ADVICE, CONTROLLER, LEEWAY_S, Caller, caller, current_caller
from iris.rpc.auth.permissions import OPEN, Facts, Rules
from iris.rpc.error_details import to_connect_error
from iris.system.clock import wall_s

_SURELY_S = 0.01  # timers may be a little early


class Judge(Protocol):
    """Knows tokens: the controller's authority, or what a worker knows of it."""

    def identify(self, token: str) -> Caller:
        """Whose token it is; UnauthenticatedError when it is nobody's, or not good any more."""

    async def confirm(self, known: Caller, token: str) -> None:
        """Ask elsewhere about a token that was identified, where it is not known here whether it is still good.

        Raises:
            UnauthenticatedError: It is not.
            UnavailableError: Nobody says.
        """

    def check(self, known: Caller) -> None:
        """UnauthenticatedError when a token that was good is so no more, UnavailableError when that is not known."""


class Doors:
    """The streams that are open, by the tokens that opened them."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Timeout, Caller] = {}
        self._streams: Counter[Caller] = Counter()

    @contextmanager
    def open(self, limit: asyncio.Timeout, known: Caller) -> Iterator[None]:
        """For as long as a stream waits for its next message."""
        self._open[limit] = known
        try:
            yield
        finally:
            del self._open[limit]

    @contextmanager
    def streaming(self, known: Caller) -> Iterator[None]:
        """For as long as a stream is open, whether it waits for a message or its reader is slow to take one."""
        self._streams[known] += 1
        try:
            yield
        finally:
            self._streams[known] -= 1
            if not self._streams[known]:
                del self._streams[known]

    def callers(self) -> list[Caller]:
        """Return who has streams open."""
        return list(self._streams)

    def look_again(self, is_out: Callable[[Caller], bool]) -> None:
        """Wakes the streams of those whose tokens are not good any more."""
        for limit, known in self._open.items():
            if is_out(known):
                limit.reschedule(asyncio.get_running_loop().time())


class Gate:
    """Looks at the headers of a call; a metadata interceptor."""

    def __init__(self, judge: Judge, rules: Rules) -> None:
        self._judge = judge
        self._rules = rules

    async def on_start(self, ctx: Any) -> None:
        """Lets a call in, or raises."""
        method = ctx.method.name
        if method in OPEN:
            return
        try:
            token = _bearer(ctx.request_headers.get("authorization"))
            known = self._judge.identify(token)
            _check_role(known, method, self._rules)
            await self._judge.confirm(known, token)
        except IrisError as error:
            raise to_connect_error(error) from None
        current_caller.set(known)

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Nothing is left of it."""


class Inspector:
    """Looks at the requests of those whom the gate has let in, and at streams for as long as they are open."""

    def __init__(self, judge: Judge, rules: Rules, facts: Facts, doors: Doors) -> None:
        self._judge = judge
        self._rules = rules
        self._facts = facts
        self._doors = doors

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Around a unary call."""
        self._check_request(request, ctx)
        return await call_next(request, ctx)

    def intercept_server_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        """Around a server stream."""
        self._check_request(request, ctx)
        messages = call_next(request, ctx)
        # The controller reads for others, whom it looks after itself; its own tokens are short-lived.
        return messages if caller().role == CONTROLLER else self._while_good(caller(), messages)

    def _check_request(self, request: Any, ctx: Any) -> None:
        method = ctx.method.name
        if method in OPEN:
            return
        known = caller()
        refused = self._rules[method][known.role](known, request, self._facts)
        if refused:
            raise to_connect_error(PermissionDeniedError(f"{method}: {refused}"))

    async def _while_good(self, known: Caller, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        try:
            with self._doors.streaming(known):
                while True:
                    self._judge.check(known)
                    left_s = known.expires_at_s + LEEWAY_S - wall_s() + _SURELY_S
                    # A token of the cluster's own can be good after its time: it is looked at with each message then.
                    end = loop.time() + left_s if left_s > 0 else None
                    try:
                        async with asyncio.timeout_at(end) as limit:
                            with self._doors.open(limit, known):
                                message = await anext(messages, None)
                    except TimeoutError:
                        if not limit.expired():
                            raise
                        self._judge.check(known)
                        text = "the time of the token is over, and it is still good: open the stream again"
                        raise to_connect_error(UnavailableError(text)) from None
                    if message is None:
                        return
                    yield message
        except (UnauthenticatedError, UnavailableError) as error:
            raise to_connect_error(error) from None
        finally:
            await cast(Any, messages).aclose()


def _bearer(header: str | None) -> str:
    scheme, _, token = (header or "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        given = "the authorization header has another form than 'Bearer TOKEN'" if header else "this call needs a token"
        raise UnauthenticatedError(f"{given}: {ADVICE}")
    return token


def _check_role(known: Caller, method: str, rules: Rules) -> None:
    row = rules.get(method, {})
    if known.role not in row:
        allowed = ", ".join(sorted(row)) or "nobody"
        raise PermissionDeniedError(f"{method} is not for the role {known.role!r} of this token, but for: {allowed}")
