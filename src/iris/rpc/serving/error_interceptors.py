"""Interceptors of a server that convert the errors of a service into Connect errors, and release the memory of failed
calls.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from iris.errors import IrisError, causes, shown
from iris.reasons import ErrorReason
from iris.rpc.error_details import REASONS, connect_error, to_connect_error

_log = logging.getLogger(__name__)


class ReleaseInterceptor:
    """An interceptor that releases the memory of a failed call at once. It must be the first interceptor of a server.

    An error refers to the stack frames that it has passed, and these frames refer to the request. In addition,
    connectrpc stores the error in one of the frames. Python's garbage collector may find such a circle of references
    only much later. Without this interceptor, the workspace of each refused submission, of up to 100 MiB, would stay in
    memory until the garbage collector finds the circle.
    """

    async def on_start(self, ctx: Any) -> None:
        """Do nothing before a call."""

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Clear the tracebacks of a call's error."""
        # Only the tracebacks of Connect errors are cleared, because connectrpc logs all other errors with their
        # tracebacks.
        if isinstance(error, ConnectError):
            for one in causes(error):
                one.__traceback__ = None


class DetailInterceptor:
    """An interceptor that adds the missing detail to an error that connectrpc itself raised, for example because a
    request cannot be decoded. It must come directly after `ReleaseInterceptor`.
    """

    async def on_start(self, ctx: Any) -> None:
        """Do nothing before a call."""

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Raise an error of connectrpc again with the missing detail.

        Raises:
            ConnectError: The call failed with an error that has no detail.
        """
        if not isinstance(error, ConnectError) or error.details:
            return
        if error.code is Code.CANCELED:
            # A call is cancelled if its client has left or if the server closes. A client reads the error only if the
            # server closes. The error must not be CANCELED, because the client would conclude that it has cancelled the
            # call itself.
            text = "the server is closing: repeat the call when the server has started again"
            raise connect_error(Code.UNAVAILABLE, text, ErrorReason.UNAVAILABLE) from error
        raise connect_error(error.code, error.message, REASONS[error.code]) from error


class ErrorInterceptor:
    """An interceptor that converts the errors of a service into Connect errors, so that services raise only errors of
    Iris.
    """

    async def intercept_unary(self, call_next: Callable[..., Awaitable[Any]], request: Any, ctx: Any) -> Any:
        """Make a unary call."""
        try:
            return await call_next(request, ctx)
        except Exception as error:
            raise _wire_error(error) from error

    def intercept_server_stream(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        """Make a call whose answer is a stream."""
        return self._with_wire_errors(call_next, request, ctx)

    async def _with_wire_errors(
        self, call_next: Callable[..., AsyncIterator[Any]], request: Any, ctx: Any
    ) -> AsyncIterator[Any]:
        try:
            # A service may refuse a request before it returns an iterator. Therefore the call itself is in the block.
            async with contextlib.aclosing(cast(Any, call_next(request, ctx))) as messages:
                async for message in messages:
                    yield message
        except Exception as error:
            raise _wire_error(error) from error


def _wire_error(error: Exception) -> ConnectError:
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, IrisError):
        return to_connect_error(error)
    # An exception that is not an IrisError is a bug in Iris. The caller gets the exception's text, and the event log
    # gets its traceback.
    _log.error("a call failed", exc_info=error)
    text = shown(f"a bug of Iris, see the server's log: {type(error).__name__}: {error}")
    return connect_error(Code.INTERNAL, text, ErrorReason.INTERNAL)
