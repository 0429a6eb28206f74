"""The records of a log. A record holds the bytes of one read from a task's pipe, with their source, time and offset.

Records have the same format on the disk of a worker, on the wire, and in the kept logs of the controller. Servers send
records unchanged, and only the reader makes lines from records.

The offset of a record says how many bytes its source had written before. A reader can therefore drop the bytes that it
already has, and notices missing bytes. A *gap* is a record that states how many bytes of a source are missing from the
gap's offset on, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Literal, NamedTuple

from iris.cluster.logs.checksum import crc32
from iris.errors import InternalError

Source = Literal["stdout", "stderr", "build"]
# The sources of a log. A record contains the index of its source in this tuple.
SOURCES: tuple[Source, ...] = ("stdout", "stderr", "build")
SOURCE_ID: dict[str, int] = {source: source_id for source_id, source in enumerate(SOURCES)}
# The kind of a gap record is the index of the gap's source plus this number.
GAP = 0x10

MAX_PAYLOAD = 1 << 20  # The most bytes of one captured record. A longer read becomes several records.

# For each source, in the order stdout, stderr, build: an offset, or another number of bytes.
Offsets = tuple[int, int, int]
BEGINNING: Offsets = (0, 0, 0)

# The header of a record: magic number (8 bits) and payload length (24 bits), CRC-32 of all bytes after the CRC, time in
# ms, offset, kind.
HEADER = Struct("<IIQQB")
CHECKED = Struct("<QQB")  # The part of a record's header that the checksum covers.
CHECKED_AT = HEADER.size - CHECKED.size
MAGIC = 0x18
LENGTH_BITS = 24
LENGTH_MASK = (1 << LENGTH_BITS) - 1
_MAGIC_WORD = MAGIC << LENGTH_BITS
_GAP = Struct("<Q")
# The smallest length of a record's payload, by the kind of the record.
_SMALLEST = {kind | gap: _GAP.size if gap else 0 for kind in range(len(SOURCES)) for gap in (0, GAP)}
LAST_MS = 253_402_300_799_999  # The last valid time is the end of the year 9999. A record with a later time is damaged.


class Record(NamedTuple):
    """One record.

    Attributes:
        kind: The index of the source in `SOURCES`. `GAP` is added for a gap.
        timestamp_ms: When the record was captured, in milliseconds since the Unix epoch.
        offset: How many bytes the source had written before this record.
        payload: The bytes that the source has written. For a gap, the input of `parse_gap`.
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
    """Return a gap: a record which states that `missing` bytes of a source are missing from `offset` on, and why."""
    return encode(source_id | GAP, timestamp_ms, offset, _GAP.pack(missing) + reason.encode(errors="replace"))


def parse_gap(payload: bytes) -> tuple[int, str]:
    """Return how many bytes are missing, and why, from the payload of a gap."""
    return _GAP.unpack_from(payload)[0], payload[_GAP.size :].decode(errors="replace")


def decode(records: bytes) -> Iterator[Record]:
    """Yield the records that encoded bytes contain.

    The checksums of the records are not checked, because they protect records on a disk. Network connections have
    checksums of their own.

    Raises:
        InternalError: The bytes do not consist of whole records.
    """
    at, end = 0, len(records)
    while at < end:
        start = at + HEADER.size
        if start > end:
            raise InternalError("the data of a log ends in the middle of a record")
        word, _, timestamp_ms, offset, kind = HEADER.unpack_from(records, at)
        # A wrong magic number makes the length much too large, so a check below refuses the record.
        length = word ^ _MAGIC_WORD
        at = start + length
        if at > end or kind not in _SMALLEST or length < _SMALLEST[kind] or timestamp_ms > LAST_MS:
            raise InternalError("the data of a log contains an invalid record")
        yield Record(kind, timestamp_ms, offset, records[start:at])
