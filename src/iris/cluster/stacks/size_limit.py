"""Limits the size of an answer with call stacks, because the local variables of many threads can have gigabytes."""

from __future__ import annotations


class SizeLimit:
    """Counts how many bytes an answer may still contain.

    Args:
        most_bytes: The largest size of the answer.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def admit(self, size: int) -> bool:
        """Return whether a part of `size` bytes fits into the answer. If the part fits, count its bytes. After a part
        that does not fit, smaller parts may still fit.
        """
        if size > self._left:
            return False
        self._left -= size
        return True
