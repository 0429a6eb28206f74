"""What a caller shows to servers: a token, fixed or from a source that is asked again when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iris.errors import InvalidArgumentError, IrisError, UnauthenticatedError, UnavailableError
from iris.rpc.auth.peer_uid import Neighbour
from iris.rpc.auth.permissions import OPEN

TokenSource = Callable[[], str | None]
TOKEN_FILE = "token"  # in the state directory of a cluster: the token of who has started it
KEY_FILE = "token-key"  # beside it: the key that signs all tokens. Whoever has it is every user of the cluster

_REFUSALS = 5  # in a row, until a source is not asked any more


class TokenRenewedError(UnavailableError):
    """A stream was refused, or ended, since its token is not good any more. There is a new one: open it again."""


class Credentials:
    """A token, and where the next one comes from. Safe to use from several threads, and after a fork: without a lock,
    so two threads that are refused at once may both ask.

    Args:
        source: Answers with a token; None: there is none, and calls are made without.
        what: Whose answer it is, as a person calls it; for errors.
    """

    def __init__(self, source: TokenSource, what: str) -> None:
        self._source = source
        self._what = what
        self._token: str | None = None
        self._asked = False
        self._refusals = 0

    def __repr__(self) -> str:
        return f"Credentials({self._what})"  # never the token itself

    @classmethod
    def fixed(cls, token: str, what: str) -> Credentials:
        """One token, and no other."""
        return cls(lambda: token, what)

    def token(self) -> str | None:
        """The token to show now."""
        if not self._asked:
            self._token = self._ask()
            self._asked = True
        return self._token

    def renew(self, refused: str | None) -> bool:
        """After a token was refused: whether there is another one to try."""
        if self._token == refused:
            self._refusals += 1
            if self._refusals > _REFUSALS:
                return False
            self._token = self._ask()
        return self._token is not None and self._token != refused

    def accepted(self) -> None:
        """A token was good."""
        self._refusals = 0

    def replace(self, token: str) -> None:
        """From now on it is this one."""
        self._token, self._asked = token, True

    def _ask(self) -> str | None:
        try:
            token = self._source()
        except IrisError:
            raise
        except Exception as error:
            raise UnauthenticatedError(f"{self._what} gave no token: {type(error).__name__}: {error}") from error
        if token is None:
            return None
        token = token.strip() if isinstance(token, str) else token
        # A header takes no other characters; and what was given is not repeated in an error.
        if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()) or " " in token:
            raise InvalidArgumentError(
                f"{self._what} gave no token: expected one word, as 'iris token create' prints it"
            )
        return token


class Bearer:
    """Shows a token with each call of a stub; a metadata interceptor, for sync and for async ones.

    Args:
        token: Asked before each call.
        neighbour: Whose the server has to be, where it is one of this machine's loopback; None: anybody's.
    """

    def __init__(self, token: Callable[[], str | None], neighbour: Neighbour | None = None) -> None:
        self._token = token
        self._neighbour = neighbour

    def on_start_sync(self, ctx: Any) -> None:
        """Before a call."""
        if ctx.method.name in OPEN:
            return  # it needs none, and it is what strangers are asked
        shown = ctx.request_headers.get("authorization")  # another one, for this call
        token = self._token() if shown is None else None
        if (token is not None or shown is not None) and self._neighbour is not None:
            self._neighbour.check()
        if token is not None:
            ctx.request_headers["authorization"] = f"Bearer {token}"

    def on_end_sync(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Nothing is left of it."""

    async def on_start(self, ctx: Any) -> None:
        """Before a call."""
        self.on_start_sync(ctx)

    async def on_end(self, token: None, ctx: Any, error: Exception | None) -> None:
        """Nothing is left of it."""
