"""Limits the size of an answer. The values of variables of many threads can have gigabytes together."""

from __future__ import annotations


class SizeLimit:
    """The bytes that an answer may still get.

    Args:
        most_bytes: The largest size of the answer.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def admit(self, size: int) -> bool:
        """Return whether a part of this many bytes belongs into the answer. A part that is too large leaves the room to
        smaller ones.
        """
        if size > self._left:
            return False
        self._left -= size
        return True
