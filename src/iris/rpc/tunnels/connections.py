"""Describes the connections that channels copy from and to: asyncio's streams, and other objects of the same form."""

from __future__ import annotations

from typing import Any, Protocol


class ByteReader(Protocol):
    """An object from which a channel reads, for example an `asyncio.StreamReader`."""

    async def read(self, size: int, /) -> bytes:
        """Wait until bytes have arrived, and return at most `size` of them. Return no bytes at the end of the
        connection.
        """


class Abortable(Protocol):
    """A connection that can be closed at once, without sending the bytes that were not sent yet."""

    def abort(self) -> None:
        """Close the connection at once. Bytes that were not sent yet are lost."""


class ByteWriter(Protocol):
    """An object to which a channel writes, for example an `asyncio.StreamWriter`."""

    @property
    def transport(self) -> Abortable:
        """The transport, which can close the connection at once."""

    def write(self, data: bytes, /) -> None:
        """Write bytes."""

    async def drain(self) -> None:
        """Wait until the connection has room for more bytes."""

    def write_eof(self) -> None:
        """Send the end of the stream. The connection stays open for reading."""

    def close(self) -> None:
        """Close the connection after all written bytes were sent."""

    def get_extra_info(self, name: str, /) -> Any:
        """Return a fact about the connection, for example its `socket`. Return None if the fact is not known."""


Streams = tuple[ByteReader, ByteWriter]
