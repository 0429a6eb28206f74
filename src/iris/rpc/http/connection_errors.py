"""What is wrong with a connection, in words for a person instead of those of the HTTP libraries."""

from __future__ import annotations

import os
import re
import socket

from iris.errors import shown

# What libraries say, in lower case, and what it means; the first that is found counts.
_MEANINGS = (
    (re.compile("dns error|name or service not known|failed to lookup"), "no host of that name is known"),
    (
        re.compile("without sending a response|closed before message|connection closed unexpectedly"),
        "it closed the connection without an answer",
    ),
    (
        re.compile("without sending complete|end of file before|incomplete|reading a body|connectionterminated|reset"),
        "the connection was lost",
    ),
    (re.compile("invalid http|illegal|malformed|parse"), "it does not answer in HTTP"),
    (re.compile("timed out|timeout"), "no connection in time"),
    (re.compile("broken pipe|connection closed|not connected"), "the connection was lost"),
)
_ERROR_NUMBER = re.compile(r"\((?:os|system) error (\d+)\)|\[errno (\d+)\]")
_NOT_NOW = (socket.EAI_AGAIN,)
_FAILED = "the connection failed"


def describe_fault(error: BaseException) -> str:
    """Return what is wrong with a connection, as words that go on a sentence: `connection refused`.

    Args:
        error: What a transport raised. An error of ours, whose text is in our words, keeps its text.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, socket.gaierror):
            return (
                "its host name cannot be looked up now" if link.errno in _NOT_NOW else "no host of that name is known"
            )
        if isinstance(link, OSError) and link.errno is not None:
            return _words_for_number(link.errno)
        link = link.__cause__ or link.__context__
    text = str(error).strip().lower()
    number = _ERROR_NUMBER.search(text)
    if number is not None:
        return _words_for_number(int(number[1] or number[2]))
    for pattern, meaning in _MEANINGS:
        if pattern.search(text):
            return meaning
    is_ours = type(error) is ConnectionError or type(error).__module__.startswith("iris.")
    return shown(str(error).strip()) if is_ours and text else _FAILED


def _words_for_number(number: int) -> str:
    return os.strerror(number).lower()
