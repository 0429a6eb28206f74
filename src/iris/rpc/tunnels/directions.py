"""The states of the two directions of a channel: positions, kept bytes, ends and acknowledgements. This module sends
and receives nothing.

The end of a direction counts as one byte. Therefore a direction with 10 bytes is complete when its receiver has
acknowledged 11 bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from iris.errors import InvalidArgumentError


class Piece(NamedTuple):
    """Bytes of one direction.

    Attributes:
        position: How many bytes of this direction come before `data`.
        data: The next bytes of this direction.
        end: Whether nothing follows `data`.
    """

    position: int
    data: bytes
    end: bool


class Outgoing:
    """The direction of a channel in which this side sends. Sent bytes are kept until the other side has acknowledged
    them."""

    def __init__(self) -> None:
        self._kept = bytearray()
        # The position in the stream of the first byte in `_kept`.
        self._first = 0
        # `take` has returned the stream up to this position. The end of the stream counts as one byte.
        self._taken = 0
        self._has_end = False
        self._acknowledged = 0

    @property
    def held(self) -> int:
        """The number of kept bytes."""
        return len(self._kept)

    @property
    def has_end(self) -> bool:
        """Whether `finish` was called."""
        return self._has_end

    @property
    def is_all_taken(self) -> bool:
        """Whether `take` has returned all added bytes and, if it was added, the end."""
        return self._taken == self._size + self._has_end

    @property
    def is_done(self) -> bool:
        """Whether the other side has acknowledged the end."""
        return self._has_end and self._acknowledged == self._size + 1

    @property
    def _size(self) -> int:
        return self._first + len(self._kept)

    def add(self, data: bytes) -> None:
        """Add bytes to the direction."""
        self._kept += data

    def finish(self) -> None:
        """Add the end of the direction."""
        self._has_end = True

    def take(self, max_bytes: int) -> Piece | None:
        """Return the next bytes to send, at most `max_bytes`. Return None if everything was taken."""
        if self.is_all_taken:
            return None
        position = min(self._taken, self._size)
        begin = position - self._first
        data = bytes(memoryview(self._kept)[begin : begin + max_bytes])
        end = self._has_end and position + len(data) == self._size
        self._taken = position + len(data) + end
        return Piece(position, data, end)

    def acknowledge(self, received: int) -> int:
        """Drop the bytes that the other side has passed on, and return their number.

        Raises:
            InvalidArgumentError: `received` is larger than the number of bytes that were added. The end counts as one
                byte.
        """
        most = self._size + self._has_end
        if received > most:
            raise InvalidArgumentError(
                f"received must be at most {most}, the number of bytes that were sent, got {received}"
            )
        self._acknowledged = max(self._acknowledged, received)
        # An acknowledgement may be about bytes that were sent before a rewind. These bytes are not sent again.
        self._taken = max(self._taken, self._acknowledged)
        dropped = min(received, self._size) - self._first
        if dropped <= 0:
            return 0
        del self._kept[:dropped]
        self._first += dropped
        return dropped

    def rewind(self) -> None:
        """Let `take` return all unacknowledged bytes again, because sent bytes may be lost."""
        self._taken = self._acknowledged


class Incoming:
    """The direction of a channel in which this side receives.

    Attributes:
        passed_on: The number of bytes that were passed on to the connection of this side. The end counts as one byte.
    """

    def __init__(self) -> None:
        self._accepted = 0
        self._has_end = False
        self.passed_on = 0

    @property
    def has_end(self) -> bool:
        """Whether the end has arrived."""
        return self._has_end

    @property
    def is_done(self) -> bool:
        """Whether all bytes and the end were passed on to the connection of this side."""
        return self._has_end and self.passed_on == self._accepted + 1

    def accept(self, position: int, data: bytes, *, end: bool) -> bytes | None:
        """Accept received bytes, and return the bytes that are new. Return None if bytes before `position` are missing.

        Raises:
            InvalidArgumentError: There are bytes after the end, or the end has moved.
        """
        if position > self._accepted:
            return None
        new = data[self._accepted - position :]
        last = position + len(data)
        if self._has_end and (new or (end and last != self._accepted)):
            raise InvalidArgumentError(f"the channel has ended after {self._accepted} bytes, got bytes up to {last}")
        self._accepted += len(new)
        self._has_end = self._has_end or (end and last == self._accepted)
        return new
