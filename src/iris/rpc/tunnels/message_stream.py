"""Carries messages over a channel. Before each message, its length is sent as a number of 4 bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError, Message

_LENGTH = struct.Struct("!I")
_MAX_BYTES = 64 * 1024


def frame(message: Message) -> bytes:
    """Return the bytes that carry a message."""
    data = message.SerializeToString()
    return _LENGTH.pack(len(data)) + data


class MessageWriter:
    """The receiving end of a channel that carries messages. It calls a function with each received message.

    Args:
        make: A function that returns a new, empty message.
        on_message: A function that is called with each message.
        on_end: A function that is called when the channel has ended or was reset.
    """

    def __init__(
        self,
        make: Callable[[], Message],
        on_message: Callable[[Any], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._on_message = on_message
        self._on_end = on_end
        self._received = b""

    @property
    def transport(self) -> MessageWriter:
        """The object with the method `abort`, which is this object."""
        return self

    def write(self, data: bytes) -> None:
        """Keep received bytes. The next call of `drain` reads the messages in them."""
        self._received += data

    async def drain(self) -> None:
        """Call `on_message` with each message that is complete now.

        Raises:
            OSError: The bytes are not messages, so the channel must be reset.
        """
        for message in self._complete():
            self._on_message(message)

    def write_eof(self) -> None:
        """Report the end of the messages."""
        self._on_end()

    def abort(self) -> None:
        """Report the end of the messages."""
        self._on_end()

    def close(self) -> None:
        """Do nothing, because no connection needs to be closed."""

    def get_extra_info(self, name: str) -> Any:
        """Return None, because there is no socket that has the requested information."""
        return None

    def _complete(self) -> Iterator[Message]:
        while len(self._received) >= _LENGTH.size:
            size = _LENGTH.unpack_from(self._received)[0]
            if size > _MAX_BYTES:
                raise OSError(f"a message of a channel has {size:,} bytes, over the limit of {_MAX_BYTES:,}")
            end = _LENGTH.size + size
            if len(self._received) < end:
                return
            message = self._make()
            try:
                message.ParseFromString(self._received[_LENGTH.size : end])
            except DecodeError as error:
                raise OSError(f"a message of a channel cannot be read: {error}") from error
            self._received = self._received[end:]
            yield message
