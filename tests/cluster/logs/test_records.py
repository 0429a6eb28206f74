"""Records: the same bytes on a disk, on the wire and in the controller's keeping."""

from __future__ import annotations

import random
import struct
import zlib

import pytest

from iris.cluster.logs.records import (
    CHECKED_AT,
    GAP,
    HEADER,
    LAST_MS,
    LENGTH_MASK,
    MAX_PAYLOAD,
    SOURCE_ID,
    SOURCES,
    Record,
    decode,
    encode,
    encode_gap,
    encode_header,
    parse_gap,
)

EDGES = [
    Record(0, 0, 0, b""),
    Record(2, LAST_MS, 2**64 - 1, b"x"),
    Record(1, 1_700_000_000_000, 1 << 40, b"\x00\xff\r\n\x18\x18\x18\x18"),
    Record(0, 1, 2, b"y" * MAX_PAYLOAD),
    Record(0, 1, 2, b"z" * LENGTH_MASK),
]


def test_layout_of_a_record_does_not_change() -> None:
    """As cluster.proto says it of StreamTaskLogsResponse.Chunk.records."""
    frame = encode(1, 0x0102030405060708, 0x1112131415161718, b"payload")
    checked = bytes.fromhex("0807060504030201 1817161514131211 01") + b"payload"
    assert frame == struct.pack("<II", 0x18 << 24 | 7, zlib.crc32(checked)) + checked
    assert HEADER.size + 7 == len(frame)


@pytest.mark.parametrize("record", EDGES, ids=lambda record: f"{len(record.payload)} bytes")
def test_checksum_covers_everything_after_it(record: Record) -> None:
    frame = encode(*record)
    assert HEADER.unpack_from(frame)[1] == zlib.crc32(frame[CHECKED_AT:])
    assert encode_header(*record) == frame[: HEADER.size]


@pytest.mark.parametrize("at", [*range(CHECKED_AT, HEADER.size), HEADER.size, -1])
def test_the_checksum_notices_a_change_of_any_checked_field(at: int) -> None:
    frame = bytearray(encode(1, 2, 3, b"payload"))
    frame[at] ^= 1
    assert HEADER.unpack_from(frame)[1] != zlib.crc32(frame[CHECKED_AT:])


@pytest.mark.parametrize("record", EDGES, ids=lambda record: f"{len(record.payload)} bytes")
def test_record_is_read_back(record: Record) -> None:
    assert list(decode(encode(*record))) == [record]


def test_records_are_read_back_in_order() -> None:
    chance = random.Random(1)
    records = [
        Record(chance.randrange(3), chance.randrange(LAST_MS), chance.randrange(2**64), chance.randbytes(size))
        for size in chance.choices((0, 1, 7, 100, 5000), k=500)
    ]
    assert list(decode(b"".join(encode(*record) for record in records))) == records


def test_empty_bytes_contain_no_records() -> None:
    assert list(decode(b"")) == []


def test_decode_does_not_check_checksums() -> None:
    frame = bytearray(encode(1, 2, 3, b"payload"))
    frame[4] ^= 1
    assert list(decode(bytes(frame))) == [Record(1, 2, 3, b"payload")]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("missing", "reason"),
    [(1, "the disk was full"), (2**64 - 1, ""), (0, "nothing, in fact"), (7, "é\u2028\N{FACE WITH TEARS OF JOY}\n")],
)
def test_gap_is_read_back(source: str, missing: int, reason: str) -> None:
    (record,) = decode(encode_gap(SOURCE_ID[source], 5, 1 << 50, missing, reason))
    assert record[:3] == (SOURCE_ID[source] | GAP, 5, 1 << 50)
    assert parse_gap(record.payload) == (missing, reason)


def test_a_gap_may_stand_between_records() -> None:
    frames = encode(0, 1, 0, b"a") + encode_gap(0, 2, 1, 9, "why") + encode(0, 3, 10, b"b")
    assert [(record.kind, record.offset) for record in decode(frames)] == [(0, 0), (GAP, 1), (0, 10)]


def test_the_reason_of_a_gap_is_always_text() -> None:
    (record,) = decode(encode_gap(0, 1, 2, 3, "a file called \udcff"))
    assert parse_gap(record.payload) == (3, "a file called ?")
    assert parse_gap(struct.pack("<Q", 3) + b"\xff") == (3, "\ufffd")


def test_sources_are_the_numbers_of_the_wire() -> None:
    assert SOURCES == ("stdout", "stderr", "build")
    assert SOURCE_ID == {"stdout": 0, "stderr": 1, "build": 2}
    assert max(SOURCE_ID.values()) < GAP
