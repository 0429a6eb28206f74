"""The records of a log: what one read from one of a task's pipes gave, with its source, time and place.

They are the same on a worker's disk, on the wire and in the controller's keeping, so nobody in between takes them
apart: they are found, sent on, and become lines at the reader. A record's `offset` is the place of its payload in what
its source has written, so a reader knows for each byte whether it had it already, and notices when one is missing.

A *gap* is a record too: so many bytes of a source are missing from its offset on, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Literal, NamedTuple
from zlib import crc32

from iris.errors import InternalError

Source = Literal["stdout", "stderr", "build"]
SOURCES: tuple[Source, ...] = ("stdout", "stderr", "build")  # a record has the position in this tuple
SOURCE_ID: dict[str, int] = {source: source_id for source_id, source in enumerate(SOURCES)}
GAP = 0x10  # added to the source

MAX_PAYLOAD = 1 << 20  # bytes of one record as it is captured; a longer read becomes several

# How many bytes of each source: of stdout, stderr and build.
Offsets = tuple[int, int, int]
BEGINNING: Offsets = (0, 0, 0)

# A frame: magic (8 bits) and payload length (24 bits), CRC-32 of all that follows it, time in ms, offset, kind.
HEADER = Struct("<IIQQB")
CHECKED = Struct("<QQB")  # the part of the header that the checksum covers
CHECKED_AT = HEADER.size - CHECKED.size
MAGIC = 0x18
LENGTH_BITS = 24
LENGTH_MASK = (1 << LENGTH_BITS) - 1
_MAGIC_WORD = MAGIC << LENGTH_BITS
_GAP = Struct("<Q")
# By kind, how long a payload is at least.
_SMALLEST = {kind | gap: _GAP.size if gap else 0 for kind in range(len(SOURCES)) for gap in (0, GAP)}
LAST_MS = 253_402_300_799_999  # of the year 9999: no clock says more


class Record(NamedTuple):
    """One record.

    Attributes:
        kind: The position of its source in `SOURCES`; `GAP` is added when it is a gap.
        timestamp_ms: When it was captured, ms since the epoch.
        offset: Bytes that its source had written before.
        payload: What was written; see `parse_gap` for a gap's.
    """

    kind: int
    timestamp_ms: int
    offset: int
    payload: bytes


def encode_header(kind: int, timestamp_ms: int, offset: int, payload: bytes) -> bytes:
    """What stands before the payload of a record; the payload is shorter than 16 MiB."""
    checked = CHECKED.pack(timestamp_ms, offset, kind)
    checksum = crc32(payload, crc32(checked))
    return HEADER.pack(MAGIC << LENGTH_BITS | len(payload), checksum, timestamp_ms, offset, kind)


def encode(kind: int, timestamp_ms: int, offset: int, payload: bytes) -> bytes:
    """A whole record."""
    return encode_header(kind, timestamp_ms, offset, payload) + payload


def encode_gap(source_id: int, timestamp_ms: int, offset: int, missing: int, reason: str) -> bytes:
    """A record that says that `missing` bytes of a source are not to be had from `offset` on, and why."""
    return encode(source_id | GAP, timestamp_ms, offset, _GAP.pack(missing) + reason.encode(errors="replace"))


def parse_gap(payload: bytes) -> tuple[int, str]:
    """How many bytes are missing, and why."""
    return _GAP.unpack_from(payload)[0], payload[_GAP.size :].decode(errors="replace")


def decode(records: bytes) -> Iterator[Record]:
    """Takes whole records apart. Checksums were looked at by who read them from a disk; a connection has its own.

    Raises:
        InternalError: These are none: who sent them is not what it says it is.
    """
    at, end = 0, len(records)
    while at < end:
        start = at + HEADER.size
        if start > end:
            raise InternalError("what came of a log is cut off in the middle of a record")
        word, _, timestamp_ms, offset, kind = HEADER.unpack_from(records, at)
        length = word ^ _MAGIC_WORD  # far too long where the magic is wrong
        at = start + length
        if at > end or kind not in _SMALLEST or length < _SMALLEST[kind] or timestamp_ms > LAST_MS:
            raise InternalError("what came of a log are no records of one")
        yield Record(kind, timestamp_ms, offset, records[start:at])
