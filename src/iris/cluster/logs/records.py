"""The records of a log. A record is what one read from a task's pipe returned, with its source, time and offset.

Records have the same format on the disk of a worker, on the wire, and in the kept logs of the controller. Servers send
them unchanged, and only the reader makes lines from them.

The offset of a record says how many bytes its source had written before. A reader can therefore drop the bytes that it
already has, and notices missing bytes.

A *gap* is a record too: it says how many bytes of a source are missing from its offset on, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Literal, NamedTuple
from zlib import crc32

from iris.errors import InternalError

Source = Literal["stdout", "stderr", "build"]
SOURCES: tuple[Source, ...] = ("stdout", "stderr", "build")  # a record contains the index in this tuple
SOURCE_ID: dict[str, int] = {source: source_id for source_id, source in enumerate(SOURCES)}
GAP = 0x10  # the kind of a gap is the source plus this number

MAX_PAYLOAD = 1 << 20  # bytes of one captured record; a longer read becomes several records

# The number of bytes of stdout, stderr and build.
Offsets = tuple[int, int, int]
BEGINNING: Offsets = (0, 0, 0)

# Magic (8 bits) and payload length (24 bits), CRC-32 of everything after the CRC, time in ms, offset, kind.
HEADER = Struct("<IIQQB")
CHECKED = Struct("<QQB")  # the part of the header that the checksum covers
CHECKED_AT = HEADER.size - CHECKED.size
MAGIC = 0x18
LENGTH_BITS = 24
LENGTH_MASK = (1 << LENGTH_BITS) - 1
_MAGIC_WORD = MAGIC << LENGTH_BITS
_GAP = Struct("<Q")
# By kind: the smallest length of a payload.
_SMALLEST = {kind | gap: _GAP.size if gap else 0 for kind in range(len(SOURCES)) for gap in (0, GAP)}
LAST_MS = 253_402_300_799_999  # the end of the year 9999; a later time shows a broken record


class Record(NamedTuple):
    """One record.

    Attributes:
        kind: The index of the source in `SOURCES`. `GAP` is added for a gap.
        timestamp_ms: When the record was captured, in milliseconds since the Unix epoch.
        offset: How many bytes the source had written before.
        payload: The bytes. `parse_gap` reads the payload of a gap.
    """

    kind: int
    timestamp_ms: int
    offset: int
    payload: bytes


def encode_header(kind: int, timestamp_ms: int, offset: int, payload: bytes) -> bytes:
    """Return the header of a record. The payload must be shorter than 16 MiB."""
    checked = CHECKED.pack(timestamp_ms, offset, kind)
    checksum = crc32(payload, crc32(checked))
    return HEADER.pack(MAGIC << LENGTH_BITS | len(payload), checksum, timestamp_ms, offset, kind)


def encode(kind: int, timestamp_ms: int, offset: int, payload: bytes) -> bytes:
    """Return a record: its header and its payload."""
    return encode_header(kind, timestamp_ms, offset, payload) + payload


def encode_gap(source_id: int, timestamp_ms: int, offset: int, missing: int, reason: str) -> bytes:
    """Return a gap: a record that says that `missing` bytes of a source are missing from `offset` on, and why."""
    return encode(source_id | GAP, timestamp_ms, offset, _GAP.pack(missing) + reason.encode(errors="replace"))


def parse_gap(payload: bytes) -> tuple[int, str]:
    """Return how many bytes are missing, and why, from the payload of a gap."""
    return _GAP.unpack_from(payload)[0], payload[_GAP.size :].decode(errors="replace")


def decode(records: bytes) -> Iterator[Record]:
    """Yield the records in `records`.

    Checksums are not checked here: they protect records on a disk, and connections have checksums of their own.

    Raises:
        InternalError: The bytes are not whole records.
    """
    at, end = 0, len(records)
    while at < end:
        start = at + HEADER.size
        if start > end:
            raise InternalError("the data of a log ends in the middle of a record")
        word, _, timestamp_ms, offset, kind = HEADER.unpack_from(records, at)
        length = word ^ _MAGIC_WORD  # much too large if the magic is wrong
        at = start + length
        if at > end or kind not in _SMALLEST or length < _SMALLEST[kind] or timestamp_ms > LAST_MS:
            raise InternalError("the data of a log contains an invalid record")
        yield Record(kind, timestamp_ms, offset, records[start:at])
