"""Interceptors of a server that authenticate callers and authorise their calls.

There are two interceptors, so that a call with a bad token is refused before its body is read:
1. `AuthenticationInterceptor` checks the token and its role, and stores the caller for the call (`caller.py`).
2. `AuthorisationInterceptor` checks the request, and ends a stream whose token expires or is revoked while the stream
   is open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol, TypeVar, cast

from iris.errors import IrisError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from iris.reasons import ErrorReason
from iris.rpc.auth.caller import ADVICE, CONTROLLER, LEEWAY_S, Caller, caller, current_caller, find_web_caller
from iris.rpc.auth.permissions import OPEN, Facts, Rules
from iris.rpc.error_details import to_connect_error
from iris.system.clock import wall_s

Message = TypeVar("Message")

# The check of an expiring token is delayed by this many seconds, because a timer may fire a little early.
_SURELY_S = 0.01


class TokenChecker(Protocol):
    """Checks whether tokens are valid. The controller and the worker have different implementations of this
    protocol."""

    def identify(self, token: str) -> Caller:
        """Return the holder of a valid token.

        Raises:
            UnauthenticatedError: The token is not valid.
        """

    async def confirm(self, known: Caller, token: str) -> None:
        """Check whether a token that `identify` has accepted is still valid, if necessary by a call to another server.

        Raises:
            UnauthenticatedError: The token is no longer valid.
            UnavailableError: No server answers.
        """

    def check(self, known: Caller) -> None:
        """Check whether a token that `identify` has accepted is still valid.

        Raises:
            UnauthenticatedError: The token is no longer valid.
            UnavailableError: This server does not know whether the token is valid.
        """


class AuthenticatedStreams:
    """The open streams of a server, with the caller of each stream."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Timeout, Caller] = {}
        self._streams: Counter[Caller] = Counter()

    @contextmanager
    def waiting(self, limit: asyncio.Timeout, known: Caller) -> Iterator[None]:
        """Register a stream while it waits for its next message. To end the wait early, `recheck` lets the timeout
        `limit` expire at once."""
        self._waiting[limit] = known
        try:
            yield
        finally:
            del self._waiting[limit]

    @contextmanager
    def streaming(self, known: Caller) -> Iterator[None]:
        """Register a stream from its beginning to its end, including the times in which its reader is too slow to
        receive a message."""
        self._streams[known] += 1
        try:
            yield
        finally:
            self._streams[known] -= 1
            if not self._streams[known]:
                del self._streams[known]

    def callers(self) -> list[Caller]:
        """Return the callers that have open streams."""
        return list(self._streams)

    def recheck(self, is_affected: Callable[[Caller], bool]) -> None:
        """Make the open streams check the tokens of their callers now, for the callers that `is_affected` selects."""
        for limit, known in self._waiting.items():
            if is_affected(known):
                limit.reschedule(asyncio.get_running_loop().time())


class AuthenticationInterceptor:
    """A metadata interceptor that checks the headers of a call: whether the token is valid, and whether its role may
    make the call.
    """

    def __init__(self, checker: TokenChecker, rules: Rules) -> None:
        self._checker = checker
        self._rules = rules

    async def on_start(self, ctx: Any) -> None:
        """Accept or refuse a call before its body is read.

        Raises:
            ConnectError: The token is missing or not valid, or its role may not make the call.
        """
        method = ctx.method.name
        if method in OPEN:
            return
        try:
            known = await self.authenticate(ctx.request_headers.get("authorization"), method)
        except IrisError as error:
            raise to_connect_error(error) from None
        current_caller.set(known)

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Do nothing after a call."""

    async def authenticate(self, authorization: str | None, method: str) -> Caller:
        """Return the caller who sent an `authorization` header, or who makes the call in a web session.

        Raises:
            UnauthenticatedError: The token is missing or not valid, or the web session has ended.
            PermissionDeniedError: The role of the token may not call the method, or another page uses the web session.
            UnavailableError: The token must be confirmed by another server, and no server answers.
        """
        find = find_web_caller.get()
        if find is not None:
            known = find()
            _check_role(known, method, self._rules)
            return known
        token = _bearer(authorization)
        known = self._checker.identify(token)
        _check_role(known, method, self._rules)
        await self._checker.confirm(known, token)
        return known


class AuthorisationInterceptor:
    """An interceptor that checks the requests of authenticated callers, and checks their streams while they are
    open.
    """

    def __init__(self, checker: TokenChecker, rules: Rules, facts: Facts, streams: AuthenticatedStreams) -> None:
        self._checker = checker
        self._rules = rules
        self._facts = facts
        self._streams = streams

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Serve a unary call, if the caller may make this request."""
        self._check_call(request, ctx)
        return await call_next(request, ctx)

    def intercept_server_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        """Serve a call whose answer is a stream, if the caller may make this request."""
        self._check_call(request, ctx)
        messages = call_next(request, ctx)
        # A worker does not check the tokens of streams that the controller opens. The controller's own tokens are
        # short-lived, and the controller itself checks the tokens of the readers for whom it opens a stream.
        return messages if caller().role == CONTROLLER else self._while_valid(caller(), messages)

    def intercept_bidi_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], requests: AsyncIterator[Any], ctx: Any
    ) -> AsyncIterator[Any]:
        """Serve a call whose requests are a stream. Such a call is permitted by the role of the caller alone."""
        return self._while_valid(caller(), call_next(requests, ctx))

    def check_request(self, known: Caller, method: str, request: Any) -> None:
        """Check whether a caller may make a request.

        Raises:
            PermissionDeniedError: The caller may not make this request.
        """
        reason = self._rules[method][known.role](known, request, self._facts)
        if reason:
            raise PermissionDeniedError(f"{method}: {reason}", metadata={"role": known.role})

    async def while_valid(self, known: Caller, messages: AsyncIterator[Message]) -> AsyncGenerator[Message]:
        """Yield the messages of a stream until the caller's token is no longer valid.

        Raises:
            UnauthenticatedError: The token is no longer valid.
            UnavailableError: The token's expiry time has passed, but the token is still valid. The client has to open
                the stream again.
        """
        loop = asyncio.get_running_loop()
        try:
            with self._streams.streaming(known):
                while True:
                    self._checker.check(known)
                    left_s = known.expires_at_s + LEEWAY_S - wall_s() + _SURELY_S
                    # A token that the cluster made for one of its own parts can stay valid after its expiry time. After
                    # the expiry time, such a token is checked with each message of the stream.
                    end = loop.time() + left_s if left_s > 0 else None
                    try:
                        async with asyncio.timeout_at(end) as limit:
                            with self._streams.waiting(limit, known):
                                message = await anext(messages, None)
                    except TimeoutError:
                        if not limit.expired():
                            raise
                        self._checker.check(known)
                        raise UnavailableError(
                            "the expiry time of the token passed during the stream, but the token is still accepted:"
                            " open the stream again"
                        ) from None
                    if message is None:
                        return
                    yield message
        finally:
            await cast(Any, messages).aclose()

    def _check_call(self, request: Any, ctx: Any) -> None:
        method = ctx.method.name
        if method in OPEN:
            return
        try:
            self.check_request(caller(), method, request)
        except PermissionDeniedError as error:
            raise to_connect_error(error) from None

    async def _while_valid(self, known: Caller, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async with aclosing(self.while_valid(known, messages)) as valid:
                async for message in valid:
                    yield message
        except (UnauthenticatedError, UnavailableError) as error:
            raise to_connect_error(error) from None


def _bearer(header: str | None) -> str:
    scheme, _, token = (header or "").strip().partition(" ")
    token = token.strip()
    if not header:
        raise UnauthenticatedError(f"this call needs a token: {ADVICE}", reason=ErrorReason.TOKEN_MISSING)
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError(
            f"the authorization header must be 'Bearer TOKEN': {ADVICE}", reason=ErrorReason.TOKEN_INVALID
        )
    return token


def _check_role(known: Caller, method: str, rules: Rules) -> None:
    row = rules.get(method, {})
    if known.role not in row:
        allowed = ", ".join(sorted(row)) or "no role"
        raise PermissionDeniedError(
            f"the role {known.role!r} of this token may not call {method}; accepted roles: {allowed}",
            metadata={"role": known.role},
        )
