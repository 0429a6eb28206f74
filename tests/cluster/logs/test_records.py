"""Records: the same bytes on a disk, on the wire and in the controller's keeping."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
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


def test_binary_layout_of_a_log_record_does_not_change() -> None:
    """As cluster.proto says it of StreamTaskLogsResponse.Chunk.records."""
    frame = encode(1, 0x0102030405060708, 0x1112131415161718, b"payload")
    checked = bytes.fromhex("0807060504030201 1817161514131211 01") + b"payload"
    assert frame == struct.pack("<II", 0x18 << 24 | 7, zlib.crc32(checked)) + checked
    assert HEADER.size + 7 == len(frame)


@pytest.mark.parametrize("record", EDGES, ids=lambda record: f"{len(record.payload)} bytes")
def test_checksum_of_a_record_covers_all_bytes_after_the_checksum(record: Record) -> None:
    frame = encode(*record)
    assert HEADER.unpack_from(frame)[1] == zlib.crc32(frame[CHECKED_AT:])
    assert encode_header(*record) == frame[: HEADER.size]


def test_log_record_has_the_same_bytes_without_the_library_isal() -> None:
    program = (
        "import sys; sys.modules['isal'] = None\n"
        "from iris.cluster.logs.records import encode\n"
        "sys.stdout.buffer.write(encode(1, 2, 3, b'payload' * 1000))"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert made.stdout == encode(1, 2, 3, b"payload" * 1000)


@pytest.mark.parametrize("at", [*range(CHECKED_AT, HEADER.size), HEADER.size, -1])
def test_changed_field_of_a_record_is_detected_by_its_checksum(at: int) -> None:
    frame = bytearray(encode(1, 2, 3, b"payload"))
    frame[at] ^= 1
    assert HEADER.unpack_from(frame)[1] != zlib.crc32(frame[CHECKED_AT:])


@pytest.mark.parametrize("record", EDGES, ids=lambda record: f"{len(record.payload)} bytes")
def test_encoded_log_record_is_decoded_unchanged(record: Record) -> None:
    assert list(decode(encode(*record))) == [record]


def test_encoded_log_records_are_decoded_in_order() -> None:
    chance = random.Random(1)
    records = [
        Record(chance.randrange(3), chance.randrange(LAST_MS), chance.randrange(2**64), chance.randbytes(size))
        for size in chance.choices((0, 1, 7, 100, 5000), k=500)
    ]
    assert list(decode(b"".join(encode(*record) for record in records))) == records


def test_decode_of_empty_bytes_yields_no_log_records() -> None:
    assert list(decode(b"")) == []


def test_decode_accepts_log_records_with_wrong_checksums() -> None:
    frame = bytearray(encode(1, 2, 3, b"payload"))
    frame[4] ^= 1
    assert list(decode(bytes(frame))) == [Record(1, 2, 3, b"payload")]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("missing", "reason"),
    [(1, "the disk was full"), (2**64 - 1, ""), (0, "nothing, in fact"), (7, "é\u2028\N{FACE WITH TEARS OF JOY}\n")],
)
def test_encoded_log_gap_is_decoded_unchanged(source: str, missing: int, reason: str) -> None:
    (record,) = decode(encode_gap(SOURCE_ID[source], 5, 1 << 50, missing, reason))
    assert record[:3] == (SOURCE_ID[source] | GAP, 5, 1 << 50)
    assert parse_gap(record.payload) == (missing, reason)


def test_gap_between_two_log_records_is_decoded() -> None:
    frames = encode(0, 1, 0, b"a") + encode_gap(0, 2, 1, 9, "why") + encode(0, 3, 10, b"b")
    assert [(record.kind, record.offset) for record in decode(frames)] == [(0, 0), (GAP, 1), (0, 10)]


def test_gap_reason_of_invalid_utf8_is_decoded_as_text() -> None:
    (record,) = decode(encode_gap(0, 1, 2, 3, "a file called \udcff"))
    assert parse_gap(record.payload) == (3, "a file called ?")
    assert parse_gap(struct.pack("<Q", 3) + b"\xff") == (3, "\ufffd")


def test_log_sources_have_the_numbers_of_the_wire_protocol() -> None:
    assert SOURCES == ("stdout", "stderr", "build")
    assert SOURCE_ID == {"stdout": 0, "stderr": 1, "build": 2}
    assert max(SOURCE_ID.values()) < GAP
