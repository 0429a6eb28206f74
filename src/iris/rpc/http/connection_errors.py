"""Describes what is wrong with a connection, in plain words instead of the terms of the HTTP libraries."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

from iris.errors import causes, shown

_CLOSED = re.compile(
    "without sending a response|closed before message|connection closed unexpectedly|^server disconnected$"
)
_CLOSED_TEXT = "it closed the connection without an answer"
# Each row is a pattern and a description. The pattern is searched in the error text of an HTTP library, in lower case.
# The first matching row gives the description of the error.
_MEANINGS = (
    (re.compile("dns error|name or service not known|failed to lookup"), "no host of that name is known"),
    (_CLOSED, _CLOSED_TEXT),
    (
        re.compile("without sending complete|end of file before|incomplete|reading a body|connectionterminated|reset"),
        "the connection was lost",
    ),
    (re.compile("invalid http|illegal|malformed|parse"), "it does not answer in HTTP"),
    (re.compile("timed out|timeout"), "no connection in time"),
    (re.compile("broken pipe|connection closed|not connected"), "the connection was lost"),
)
_ERROR_NUMBER = re.compile(r"\((?:os|system) error (\d+)\)|\[errno (\d+)\]")
_LOOKUP_FAILED_NOW = (socket.EAI_AGAIN,)
_FAILED = "the connection failed"


class ClosedWithoutAnswerError(ConnectionError):
    """The server closed the connection without an answer, for example because it speaks TLS and the client does not."""


class NoHttp2Error(Exception):
    """The server does not speak HTTP/2, which the user requires with `http2=True`. A retry is useless."""


class GivenTransportError(Exception):
    """An error: the user's own transport has failed, and the connection is not at fault. A retry is useless."""


def to_connection_error(error: BaseException) -> ConnectionError:
    """Return the `ConnectionError` that stands for an error of an HTTP library."""
    if closed_without_answer(error):
        return ClosedWithoutAnswerError(_CLOSED_TEXT)
    return ConnectionError(describe_fault(error))


def closed_without_answer(error: BaseException) -> bool:
    """Return whether the server closed the connection without an answer."""
    if isinstance(error, ClosedWithoutAnswerError):
        return True
    return describe_fault(error) == _CLOSED_TEXT


def was_dropped(error: BaseException) -> bool:
    """Return whether the other side accepted the connection and then ended it, with or without a part of an answer."""
    return closed_without_answer(error) or describe_fault(error) == os.strerror(errno.ECONNRESET).lower()


def describe_fault(error: BaseException) -> str:
    """Return a description of what is wrong with a connection, for example `connection refused`.

    Args:
        error: The exception that a transport raised. The text of an error of Iris itself is kept.
    """
    if isinstance(error, GivenTransportError):
        return shown(str(error))
    for link in causes(error):
        if isinstance(link, socket.gaierror):
            if link.errno in _LOOKUP_FAILED_NOW:
                return "its host name cannot be looked up now"
            return "no host of that name is known"
        # An SSLError is excluded, because its errno comes from OpenSSL and `os.strerror` cannot describe that number.
        if isinstance(link, OSError) and link.errno is not None and not isinstance(link, ssl.SSLError):
            return os.strerror(link.errno).lower()
    text = str(error).strip().lower()
    number = _ERROR_NUMBER.search(text)
    if number is not None:
        return os.strerror(int(number[1] or number[2])).lower()
    for pattern, meaning in _MEANINGS:
        if pattern.search(text):
            return meaning
    is_ours = type(error) in (ConnectionError, ClosedWithoutAnswerError) or type(error).__module__.startswith("iris.")
    return shown(str(error).strip()) if is_ours and text else _FAILED
