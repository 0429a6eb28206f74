"""Describes the server that a client calls, and turns the errors of Connect into errors of Iris that name the
server.
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from iris.errors import (
    ERROR_FOR_CODE,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    IrisError,
    ResourceExhaustedError,
    UnavailableError,
    shown,
)
from iris.reasons import ErrorReason
from iris.rpc.address import is_loopback
from iris.rpc.auth.credentials import Credentials
from iris.rpc.error_details import known_reason, read_detail
from iris.rpc.http.client.client_lifetime import Lifetime
from iris.rpc.http.client.foreign_answers import PROXY_LOGIN, describe_answer
from iris.rpc.http.client.proxies import Proxy, ProxyFaultError
from iris.rpc.http.connection_errors import NoHttp2Error, closed_without_answer, describe_fault, was_dropped
from iris.rpc.http.tls import CERT_VARIABLE, explain

# If an answer does not follow the Connect protocol, connectrpc's error has one of these texts: the phrase of the HTTP
# status, or why the answer cannot be read. With another text, the answer comes from an earlier release of Iris, which
# sent no error details.
_HTTP_PHRASES = {"", *(status.phrase for status in HTTPStatus)}
_UNREADABLE = ("invalid content-type", "unmarshal message")
# The beginnings of connectrpc's error texts for a stream that ends without Connect's end message. A proxy that has lost
# the server may still end the HTTP response in an orderly way. The transport then sees no broken connection.
_CUT_STREAM = (
    "protocol error: unexpected EOF",
    "protocol error: incomplete envelope",
    "protocol error: promised ",
)
_ERROR_TYPE = "application/json"


class Peer:
    """A server that a client calls: the server's address, its name in errors, and the credentials for it.

    Args:
        address: The base URL of the server.
        name: The server's name in error messages, for example "the controller".
        unreachable: The error class for a server that does not answer.
        advice: The advice for a person if the server does not answer. The error's text ends with it.
        credentials: The token for the server, and the source of new tokens.
        lifetime: The object that ends the client's calls when the client is closed.
        proxy: The proxy that calls go through, or None if calls go directly to the server.
    """

    def __init__(
        self,
        address: str,
        name: str,
        unreachable: type[UnavailableError] = UnavailableError,
        advice: str = "",
        credentials: Credentials | None = None,
        lifetime: Lifetime | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self.address = address
        self.name = name
        self.lifetime = lifetime
        self.credentials = credentials
        self._unreachable = unreachable
        self._advice = advice
        self._proxy = proxy

    def error(self, error: ConnectError, answer: ResponseMetadata | None = None) -> IrisError:
        """Return the error of Iris that stands for an error of Connect. The text of the error names the server, except
        if the server itself wrote the text.

        Args:
            error: The error that connectrpc raised.
            answer: The status and headers of the HTTP answer that connectrpc made the error from, or None if there was
                no answer.
        """
        # The client itself has refused to send the call, for example because it was closed.
        if isinstance(error.__cause__, FailedPreconditionError):
            return type(error.__cause__)(str(error.__cause__))
        if error.code is Code.UNAVAILABLE and error.__cause__ is not None:
            return self._unreachable(self._describe_broken(error.__cause__), metadata={"address": self.address})
        if error.code is Code.DEADLINE_EXCEEDED and error.__cause__ is not None:
            return DeadlineExceededError(
                f"{self.name} at {self.address} did not answer in time", metadata={"address": self.address}
            )
        detail = read_detail(error)
        if detail is None and error.message.startswith(_CUT_STREAM):
            text = self._with_advice(f"{self.name} at {self.address} does not answer (the stream was cut)")
            return self._unreachable(text, metadata={"address": self.address})
        foreign = "" if detail is not None else self._describe_foreign(error, answer)
        if foreign:
            return self._foreign_error(error, answer, foreign)
        text = shown(error.message)
        kind: type[IrisError] = ERROR_FOR_CODE[error.code.value]
        if error.code in (Code.UNAVAILABLE, Code.CANCELED):
            text = f"{self.name} at {self.address} is not available now: {text}"
            kind = self._unreachable
        if detail is None:
            return kind(text)
        return kind(text, reason=known_reason(detail.reason), metadata=dict(detail.metadata))

    def _foreign_error(self, error: ConnectError, answer: ResponseMetadata | None, foreign: str) -> IrisError:
        """Return the error for an answer of a proxy, or of another program at the address."""
        kind, what = self._foreign_kind(error, answer), "did not answer itself"
        if error.code in (Code.UNAVAILABLE, Code.CANCELED):
            kind, what = self._unreachable, "is not available now"
        text = f"{self.name} at {self.address} {what}: {foreign}"
        return kind(text, reason=ErrorReason.FOREIGN_ANSWER, metadata={"address": self.address})

    def _foreign_kind(self, error: ConnectError, answer: ResponseMetadata | None) -> type[IrisError]:
        status = _status(answer)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return ResourceExhaustedError
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return self._unreachable
        kind = ERROR_FOR_CODE[error.code.value]
        # The error must not be an `InvalidArgumentError`, because no server of Iris has read the caller's arguments.
        return InternalError if issubclass(kind, ValueError) else kind

    def _describe_broken(self, cause: BaseException) -> str:
        """Return a description of what is wrong with the connection, and what a person can do about it."""
        fault = explain(cause)
        if fault:
            return f"{self.name} at {self.address} cannot be reached: {fault}"
        if isinstance(cause, NoHttp2Error):
            return f"{self.name} at {self.address} cannot be reached: {cause}; leave http2=True out"
        if isinstance(cause, ProxyFaultError):
            reason = shown(cause.reason)
            if cause.asks_for_login:
                reason += f": {PROXY_LOGIN}"
            return (
                f"{self.name} at {self.address} cannot be reached through {cause.proxy}: {reason};"
                f" {self._advice_without_proxy()}"
            )
        text = f"{self.name} at {self.address} does not answer ({describe_fault(cause)})"
        if closed_without_answer(cause):
            text += (
                f"; if it asks for a certificate of yours: cert=… or {CERT_VARIABLE}"
                if self.address.startswith("https://")
                else "; if it speaks TLS, its address begins with https://"
            )
        if is_loopback(self.address) and was_dropped(cause):
            text += "; if ssh forwards this port: is the controller running?"
        return self._with_advice(text)

    def _with_advice(self, text: str) -> str:
        return f"{text}; {self._advice}" if self._advice else text

    def _describe_foreign(self, error: ConnectError, answer: ResponseMetadata | None) -> str:
        """Return a description of an answer from a program other than Iris. Return an empty string if the answer came
        from Iris.
        """
        says_nothing = error.message in _HTTP_PHRASES or error.message.startswith(_UNREADABLE)
        status = _status(answer)
        if answer is None or status is None:
            return f"{shown(error.message) or 'an empty answer'}; is the address right?" if says_nothing else ""
        is_error_of_iris = status == HTTPStatus.OK or answer.headers.get("content-type", "").startswith(_ERROR_TYPE)
        if is_error_of_iris and not says_nothing:
            return ""
        text = describe_answer(status, dict(answer.headers), self.address)
        # An HTTP proxy may have sent this answer itself, except in two cases: calls to https addresses and calls
        # through a SOCKS proxy are tunnelled, so their answers come from the other end of the tunnel.
        if self._proxy is not None and not self._proxy.is_socks and self.address.startswith("http://"):
            text += f"; the call went through {self._proxy}; {self._advice_without_proxy()}"
        return shown(text)

    def _advice_without_proxy(self) -> str:
        return f"to call without a proxy: NO_PROXY={urlsplit(self.address).hostname}"


def _status(answer: ResponseMetadata | None) -> int | None:
    return None if answer is None else answer.http_status
