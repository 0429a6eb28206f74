"""Keeps the token that a client sends with its calls.

A user gives the client either a fixed token, or a source: a function that returns a token. If a server refuses a token
from a source, the client calls the source again to get another token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iris.errors import InvalidArgumentError, IrisError, UnauthenticatedError, UnavailableError
from iris.rpc.auth.peer_uid import PeerUidCheck
from iris.rpc.auth.permissions import OPEN

TokenSource = Callable[[], str | None]
# The name of the file with the token of the user who started the cluster.
TOKEN_FILE = "token"
# The name of the file with the server key. Whoever can read the server key can sign a token for any user.
KEY_FILE = "token-key"

_REFUSALS = 5  # After servers have refused this number of tokens in a row, the client no longer calls the source.


class TokenRenewedError(UnavailableError):
    """The server no longer accepts the token of a stream, and the client has a new token. After this error, the reader
    should open the stream again.
    """


class Credentials:
    """The token that a client sends, with the source that provides another token after a refusal.

    Several threads may use one `Credentials` object, also after a fork. The class has no lock, because a forked child
    process could wait for a lock forever. If calls of two threads are refused at the same time, both threads may call
    the source.

    Args:
        source: A function that returns a token. It returns None if calls are made without a token.
        what: The name of the source in error messages.
    """

    def __init__(self, source: TokenSource, what: str) -> None:
        self._source = source
        self._source_name = what
        self._token: str | None = None
        self._asked = False
        self._refusals = 0

    def __repr__(self) -> str:
        return f"Credentials({self._source_name})"  # The `repr` must not contain the secret token.

    @classmethod
    def fixed(cls, token: str, what: str) -> Credentials:
        """Return credentials with a fixed token, which is never replaced."""
        return cls(lambda: token, what)

    @property
    def is_known(self) -> bool:
        """Whether `token()` can return a token that is stored already, without calling the source."""
        return self._asked

    def token(self) -> str | None:
        """Return the token to send now, or None if no token is sent."""
        if not self._asked:
            self._token = self._ask()
            self._asked = True
        return self._token

    def renew(self, refused: str | None) -> bool:
        """Ask the source for another token, because a server has refused the present token. Return False if the source
        has no other token.
        """
        if self._token == refused:
            self._refusals += 1
            if self._refusals > _REFUSALS:
                return False
            self._token = self._ask()
        return self._token is not None and self._token != refused

    def accepted(self) -> None:
        """Reset the count of refused tokens, because a server has accepted the present token."""
        self._refusals = 0

    def replace(self, token: str) -> None:
        """Send this token from now on."""
        self._token, self._asked = token, True

    def _ask(self) -> str | None:
        try:
            token = self._source()
        except IrisError:
            raise
        except Exception as error:
            raise UnauthenticatedError(
                f"{self._source_name} returned no token, but raised {type(error).__name__}: {error}"
            ) from error
        if token is None:
            return None
        token = token.strip() if isinstance(token, str) else token
        # An HTTP header can contain only visible ASCII characters. The error does not quote the token, because the
        # token is a secret.
        if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()) or " " in token:
            raise InvalidArgumentError(
                f"{self._source_name} returned no token: expected one word, as 'iris token create' prints it"
            )
        return token


class BearerInterceptor:
    """A metadata interceptor for sync and async stubs, which sends a token with each call.

    Args:
        token: A function that returns the token. It is called before each call to the server.
        uid_check: The object that checks which user's program listens at a loopback address. If None, every program is
            accepted.
    """

    def __init__(self, token: Callable[[], str | None], uid_check: PeerUidCheck | None = None) -> None:
        self._token = token
        self._uid_check = uid_check

    def on_start_sync(self, ctx: Any) -> None:
        """Add the token to the headers of a call.

        Raises:
            ConnectError: A program of another user listens at the address.
        """
        # A call of a method in `OPEN` gets no token, because such a call needs no token and may go to an unknown
        # server. A call that already has a token keeps this token.
        if ctx.method.name in OPEN:
            return
        shown = ctx.request_headers.get("authorization")
        token = self._token() if shown is None else None
        if (token is not None or shown is not None) and self._uid_check is not None:
            self._uid_check.check()
        if token is not None:
            ctx.request_headers["authorization"] = f"Bearer {token}"

    def on_end_sync(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Do nothing after a call."""

    async def on_start(self, ctx: Any) -> None:
        """Do the same as `on_start_sync`, for calls of async stubs: add the token to the headers of a call."""
        self.on_start_sync(ctx)

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Do nothing after a call."""
