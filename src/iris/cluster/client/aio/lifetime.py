"""Tracks the lifetime of an async client: its event loop, and whether the client was closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from iris.errors import ClientClosedError, FailedPreconditionError


class AsyncLifetime:
    """Ends the calls, streams and pauses of an async client when the client is closed.

    A client belongs to the event loop that runs its first call. Only this loop may use the client, because connections
    and waiting tasks belong to one loop.

    Args:
        whose: The client's name, with which the text of an error begins.
    """

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # The timeouts of the open blocks of `ending`. `close` ends the blocks by letting their timeouts expire.
        self._open: set[asyncio.Timeout] = set()

    def check(self) -> None:
        """Check that the client is open, and that this code runs on the event loop of the client.

        Raises:
            ClientClosedError: The client was closed.
            FailedPreconditionError: This thread runs no asyncio loop, or another loop than the client's loop.
        """
        self._check_loop()
        if self._is_closed:
            raise ClientClosedError(
                f"{self._whose} was closed: its waits, follows and calls have ended; open another client to continue"
            )

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[None]:
        """Return a context manager. Its block ends with a `ClientClosedError` when the client is closed.

        Raises:
            ClientClosedError: The client was closed before or during the block.
            FailedPreconditionError: This thread runs no asyncio loop, or another loop than the client's loop.
        """
        self.check()
        timeout = asyncio.timeout(None)  # The timeout has no deadline until `close` sets one, which ends the block.
        self._open.add(timeout)
        try:
            async with timeout:
                yield
        except TimeoutError:
            self.check()
            raise
        finally:
            self._open.discard(timeout)

    def close(self) -> None:
        """End the `with` blocks of all open context managers that `ending` has returned. Further calls of `close` have
        no effect.

        Raises:
            FailedPreconditionError: Another event loop than the client's loop runs, and the client's loop is open.
        """
        if self._loop is None or not self._loop.is_closed():
            self._check_loop()
        self._is_closed = True
        for timeout in list(self._open):
            # An error is ignored. It means that the block is ending already, or that its loop is closed.
            with suppress(RuntimeError):
                timeout.reschedule(0)

    def _check_loop(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError as error:
            raise FailedPreconditionError(
                f"{self._whose} needs a running asyncio event loop: use it in a coroutine that asyncio runs, or use the"
                " sync IrisClient"
            ) from error
        if self._loop is None:
            self._loop = running
        if self._loop is not running:
            raise FailedPreconditionError(
                f"{self._whose} belongs to another event loop, which ran its first call: make one AsyncIrisClient for"
                " each event loop"
            )
