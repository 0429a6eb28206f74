"""The token that a client sends: a fixed one, or one from a source that is asked again when a server refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iris.errors import InvalidArgumentError, IrisError, UnauthenticatedError, UnavailableError
from iris.rpc.auth.peer_uid import PeerUidCheck
from iris.rpc.auth.permissions import OPEN

TokenSource = Callable[[], str | None]
TOKEN_FILE = "token"  # in the state directory of a cluster: the token of the user who started the cluster
KEY_FILE = "token-key"  # in the same directory: the server key, which can sign a token for every user

_REFUSALS = 5  # after this many refused tokens in a row, the source is not asked again


class TokenRenewedError(UnavailableError):
    """The token of a stream is no longer valid, and there is a new token: open the stream again."""


class Credentials:
    """A token, and the source of the next token. Safe to use from several threads and after a fork.

    There is no lock, so that two threads whose calls are refused at the same time may both ask the source.

    Args:
        source: Returns a token; None: there is no token, and calls are made without one.
        what: The name of the source, for errors.
    """

    def __init__(self, source: TokenSource, what: str) -> None:
        self._source = source
        self._what = what
        self._token: str | None = None
        self._asked = False
        self._refusals = 0

    def __repr__(self) -> str:
        return f"Credentials({self._what})"  # not the token, which is a secret

    @classmethod
    def fixed(cls, token: str, what: str) -> Credentials:
        """Return credentials with one token that is never replaced."""
        return cls(lambda: token, what)

    def token(self) -> str | None:
        """Return the token to send now; None: send none."""
        if not self._asked:
            self._token = self._ask()
            self._asked = True
        return self._token

    def renew(self, refused: str | None) -> bool:
        """Ask the source for another token after a server refused one; return whether there is another one to try."""
        if self._token == refused:
            self._refusals += 1
            if self._refusals > _REFUSALS:
                return False
            self._token = self._ask()
        return self._token is not None and self._token != refused

    def accepted(self) -> None:
        """Report that a server accepted the token."""
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
            raise UnauthenticatedError(f"{self._what} returned no token: {type(error).__name__}: {error}") from error
        if token is None:
            return None
        token = token.strip() if isinstance(token, str) else token
        # A header can contain no other characters. The value itself is not quoted, because it may be a secret.
        if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()) or " " in token:
            raise InvalidArgumentError(
                f"{self._what} returned no token: expected one word, as 'iris token create' prints it"
            )
        return token


class BearerInterceptor:
    """Sends a token with each call of a stub. A metadata interceptor for sync and async stubs.

    Args:
        token: Returns the token; called before each call.
        uid_check: Checks which user's program listens at a loopback address; None: every program is accepted.
    """

    def __init__(self, token: Callable[[], str | None], uid_check: PeerUidCheck | None = None) -> None:
        self._token = token
        self._uid_check = uid_check

    def on_start_sync(self, ctx: Any) -> None:
        """Add the token to the headers of a call.

        Raises:
            ConnectError: A program of another user listens at the address.
        """
        if ctx.method.name in OPEN:
            return  # these calls need no token, and may go to unknown servers
        shown = ctx.request_headers.get("authorization")  # this call has a token of its own
        token = self._token() if shown is None else None
        if (token is not None or shown is not None) and self._uid_check is not None:
            self._uid_check.check()
        if token is not None:
            ctx.request_headers["authorization"] = f"Bearer {token}"

    def on_end_sync(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Do nothing after a call."""

    async def on_start(self, ctx: Any) -> None:
        """Add the token to the headers of a call, like `on_start_sync`."""
        self.on_start_sync(ctx)

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Do nothing after a call."""
