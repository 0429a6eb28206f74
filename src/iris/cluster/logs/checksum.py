"""The checksum of records: the CRC-32 of zlib.

The extra `[server]` installs `isal`, which computes the same checksum more than ten times as fast as zlib. Capture and
reading would otherwise spend a large part of their time on checksums.
"""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # The base install has no isal, and isal has no wheel for some machines.
    from zlib import crc32

__all__ = ["crc32"]
