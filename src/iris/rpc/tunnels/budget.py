"""Limits the memory that all channels of a process hold together."""

from __future__ import annotations

_MIB = 1024**2
# The largest number of bytes that one direction of a channel holds.
WINDOW_BYTES = 4 * _MIB
# The number of bytes that one direction of a channel may hold even if all channels together hold too many.
LEAST_WINDOW_BYTES = 64 * 1024
_WIDE_UNTIL_BYTES = 32 * _MIB
_MIDDLE_BYTES = _MIB // 2
_MIDDLE_UNTIL_BYTES = 64 * _MIB


class Budget:
    """Counts the bytes that all channels of a process hold, and limits each channel accordingly.

    The more bytes all channels hold, the less each channel may hold. Therefore a few channels are fast, and a thousand
    channels need no more than about 260 MiB, the buffers of their connections included.
    """

    def __init__(self) -> None:
        self.held = 0

    def add(self, size: int) -> None:
        """Count `size` more bytes, or fewer bytes if `size` is negative."""
        self.held += size

    @property
    def window(self) -> int:
        """How many bytes one direction of a tunnel's channel may hold in memory now."""
        if self.held < _WIDE_UNTIL_BYTES:
            return WINDOW_BYTES
        if self.held < _MIDDLE_UNTIL_BYTES:
            return _MIDDLE_BYTES
        return LEAST_WINDOW_BYTES
