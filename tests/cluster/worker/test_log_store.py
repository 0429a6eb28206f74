"""The log of an attempt is written into segments, within its limit, also on disks that are full."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.log_model import (
    Captured,
    Gap,
    Received,
    offsets_of,
    random_capture,
    read_all,
    write,
)

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_pages import read_page
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.records import BEGINNING, HEADER, MAX_PAYLOAD, Record, decode
from iris.cluster.logs.segments import RecordBoundary, list_segments, read_end

KIB = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def received(path: Path, captured: list[Captured], writer: LogWriter | None = None) -> Received:
    """Return what a reader gets of a complete log."""
    got = Received(captured)
    got.take(read_all(LogReader(path, writer=writer)))
    return got


def size_on_disk(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.iterdir() if entry.name != "end")


# What is on disk


def test_records_of_a_log_on_disk_are_the_appended_records(path: Path) -> None:
    writer = LogWriter(path)
    writer.append("stdout", b"one\n", 11)
    writer.append("build", b"two\n", 12)
    writer.append("stdout", b"", 13)
    writer.append("stdout", b"three", 14)
    (segment,) = path.iterdir()
    assert segment.name == "0000000000000000-0-0-0-0"
    assert list(decode(segment.read_bytes())) == [
        Record(0, 11, 0, b"one\n"),
        Record(2, 12, 0, b"two\n"),
        Record(0, 14, 4, b"three"),
    ]
    assert (writer.offsets, writer.missing) == ((9, 0, 4), 0)
    assert writer.position == segment.stat().st_size
    assert writer.unfinished == (4, -1, -1)
    assert read_end(path) is None
    writer.close()
    assert read_end(path) == ((9, 0, 4), 0, writer.max_bytes, "", False, "")


def test_append_longer_than_a_log_record_is_split_into_records(path: Path) -> None:
    data = b"x" * (2 * MAX_PAYLOAD) + b"y\nz\n"
    writer = write(path, [("stdout", data, 1)])
    records = list(decode(read_all(LogReader(path))))
    assert [len(record.payload) for record in records] == [MAX_PAYLOAD, MAX_PAYLOAD, 4]
    assert b"".join(record.payload for record in records) == data
    assert writer.offsets == (len(data), 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_log_segments_begin_at_the_positions_in_their_names(path: Path, seed: int) -> None:
    captured = random_capture(seed, 400, 1000)
    writer = write(path, captured, max_bytes=512 * KIB - 1)
    segments = list_segments(path)
    assert segments == writer.segments
    assert len(segments) > 4
    position, counts = 0, [0, 0, 0]
    for place in segments:
        assert place.position == position
        assert list(place.offsets) == counts
        content = (path / place.segment_name).read_bytes()
        assert len(content) <= 64 * KIB
        position += len(content)
        for record in decode(content):
            counts[record.kind] += len(record.payload)
    assert position == writer.position
    # The writer does not count lines, so the names have positions instead.
    assert [place.line for place in segments] == [place.position for place in segments]


def test_an_existing_log_cannot_be_written_again(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"precious\n", 1)]
    write(path, captured)
    with pytest.raises(FileExistsError):
        LogWriter(path)
    assert received(path, captured).given == 9


def test_append_to_a_closed_log_raises_an_error(path: Path) -> None:
    writer = LogWriter(path)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append("stdout", b"x", 1)
    assert [entry.name for entry in path.iterdir()] == ["end"]


# News


def test_subscribers_of_a_log_are_called_for_each_append_and_when_the_log_is_closed(path: Path) -> None:
    writer = LogWriter(path)
    heard: list[tuple[str, int]] = []

    def first() -> None:
        heard.append(("first", writer.position))

    def second() -> None:
        heard.append(("second", writer.position))
        writer.unsubscribe(second)  # also from within

    writer.subscribe(first)
    writer.subscribe(second)
    writer.subscribe(first)
    writer.append("stdout", b"x", 1)
    size = HEADER.size + 1
    assert heard == [("first", size), ("second", size)]
    writer.append("stdout", b"", 2)
    assert len(heard) == 2
    writer.append("stdout", b"y" * (2 * MAX_PAYLOAD), 3)
    assert len(heard) == 3
    writer.close()
    writer.close()
    assert len(heard) == 4
    writer.unsubscribe(first)
    writer.unsubscribe(first)


def test_each_append_to_a_log_can_be_read_at_once(path: Path) -> None:
    captured = random_capture(3, 300, 200)
    writer = LogWriter(path, max_bytes=2**40)
    got = Received(captured)
    with LogReader(path, writer=writer) as reader:
        assert reader.read(1 << 20, final=False) == b""
        for source, data, timestamp_ms in captured:
            writer.append(source, data, timestamp_ms)
            assert reader.bytes_left() == HEADER.size + len(data)
            got.take(reader.read(1 << 20, final=False))
            assert got.offsets == reader.offsets == writer.offsets
            assert reader.read(1 << 20, final=False) == b""
    writer.close()
    assert not got.gaps


# Limits


@pytest.mark.parametrize("max_bytes", [1, 100 * KIB, 600 * KIB])
def test_oldest_log_segments_are_dropped_beyond_the_size_limit(path: Path, max_bytes: int) -> None:
    captured = random_capture(1, 600, 2000)
    writer = LogWriter(path, max_bytes=max_bytes)
    highest = 0
    for source, data, timestamp_ms in captured:
        writer.append(source, data, timestamp_ms)
        highest = max(highest, size_on_disk(path))
    writer.close()
    segment = max(64 * KIB, max_bytes // 8)
    assert highest <= max(max_bytes, segment)
    assert size_on_disk(path) > min(max_bytes, segment) - segment
    assert list_segments(path) == writer.segments
    dropped = sum(writer.segments[0].offsets)
    assert writer.missing == dropped > 0
    for log_writer in (writer, None):
        got = received(path, captured, log_writer)
        assert got.accounted == sum(writer.offsets)
        assert got.missing == dropped
        assert {gap.reason.partition(" (")[0] for gap in got.gaps} == {
            f"the oldest records were dropped, because the log reached its limit of {max_bytes} bytes"
        }
    end = read_end(path)
    assert end is not None
    assert (end.bytes_written, end.bytes_missing) == (offsets_of(captured), dropped)


def test_the_reason_of_a_gap_shows_the_limit_in_a_readable_unit(path: Path) -> None:
    captured = random_capture(1, 600, 400)
    write(path, captured, max_bytes=200 * KIB)
    assert received(path, captured).gaps[0].reason.endswith("its limit of 204800 bytes (200 KiB)")


@pytest.mark.parametrize(("max_bytes", "least", "most"), [(1000, 1000, 70_000), (200_000, 120_000, 200_000)])
def test_one_long_append_to_a_log_does_not_drop_all_earlier_output(
    path: Path, max_bytes: int, least: int, most: int
) -> None:
    captured: list[Captured] = [("stdout", bytes([65 + number]) * 260_000, number) for number in range(8)]
    write(path, captured, max_bytes=max_bytes)
    got = received(path, captured)
    (gap,) = got.gaps
    assert gap == Gap("stdout", 0, 8 * 260_000 - got.given, gap.reason)
    assert least <= got.given <= most


def test_line_index_forgets_dropped_log_segments(path: Path) -> None:
    writer = LogWriter(path, max_bytes=4 << 20)
    for number in range(400):
        writer.append("stdout", b"x" * (256 * KIB - 1) + b"\n", number)
        if not number % 5:
            assert read_page(path, writer, start_line=number, final=False).lines[0].number == number
    for points in (writer.index.points, writer.numbers.points(None)):
        assert points.back(1).position > 90 << 20
        count = 1
        while points.back(count).position:
            count += 1
        assert count < 10
    assert read_page(path, writer, start_line=399, final=False).lines[0].number == 399
    writer.close()


def test_bytes_that_were_lost_and_dropped_count_once_as_missing(path: Path) -> None:
    # Losses whose gaps lie in segments that are dropped later.
    captured: list[Captured] = []
    writer = LogWriter(path, max_bytes=300 * KIB)
    for number in range(60):
        captured.append(("stdout", b"%06d\n" % number * 2000, number))
        with file_limit(10) if number % 3 == 1 else contextlib.nullcontext():
            writer.append(*captured[-1])
    writer.close()
    got = received(path, captured)
    assert got.accounted == sum(writer.offsets) == sum(offsets_of(captured))
    assert got.missing == writer.missing
    assert got.missing > 20 * 14_000


# A disk that takes no more


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Make writes beyond this file size fail, or end there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_bytes_that_the_disk_refused_become_a_gap_before_the_next_record(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LogWriter(path)
    writer.append("stdout", b"before\n", 1)
    size = size_on_disk(path)
    with file_limit(size + 100):  # the write of 500 bytes ends after 100 of them
        writer.append("stderr", b"x" * 500 + b"\n", 2)
        writer.append("stderr", b"y" * 500 + b"\n", 3)
        writer.append("stdout", b"z" * 500, 4)
        assert size_on_disk(path) == size
    assert (writer.offsets, writer.missing) == ((507, 1002, 0), 1502)
    assert writer.unfinished == (-1, -1, -1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert str(path) in caplog.text
    writer.append("stderr", b"after\n", 5)
    records = list(decode(read_all(LogReader(path, writer=writer), final=False)))
    reason = f"the log could not be written: {os.strerror(27)}".encode()
    assert [(record.kind, record.timestamp_ms, record.offset, record.payload) for record in records] == [
        (0, 1, 0, b"before\n"),
        (0x10, 4, 7, (500).to_bytes(8, "little") + reason),
        (0x11, 3, 0, (1002).to_bytes(8, "little") + reason),
        (1, 5, 1002, b"after\n"),
    ]
    writer.append("stdout", b"again\n", 6)
    writer.close()
    assert len(caplog.records) == 1
    page = read_page(path, writer, final=True)
    assert [(line.number, line.data, line.missing_bytes) for line in page.lines] == [
        (0, b"before", 0),
        (1, b"[iris: 500 bytes of stdout are missing here: " + reason + b"]", 500),
        (1, b"[iris: 1002 bytes of stderr are missing here: " + reason + b"]", 1002),
        (1, b"after", 0),
        (2, b"again", 0),
    ]
    assert page.next_line == 3


def test_only_the_first_part_of_a_long_append_may_fit_on_a_full_disk(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"x" * (3 * MAX_PAYLOAD), 1), ("stdout", b"end", 2)]
    writer = LogWriter(path)
    with file_limit(2 * MAX_PAYLOAD):
        writer.append(*captured[0])
    writer.append(*captured[1])
    writer.close()
    got = received(path, captured)
    assert got.gaps == [Gap("stdout", MAX_PAYLOAD, 2 * MAX_PAYLOAD, got.gaps[0].reason)]
    assert got.accounted == 3 * MAX_PAYLOAD + 3


def test_bytes_that_the_disk_refused_last_become_a_gap_when_the_log_is_closed(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"one\n", 1), ("stderr", b"x" * 500, 2)]
    writer = LogWriter(path)
    writer.append(*captured[0])
    with file_limit(50):
        writer.append(*captured[1])
    writer.close()
    assert writer.position == size_on_disk(path)
    for log_writer in (writer, None):
        got = received(path, captured, log_writer)
        assert got.gaps == [Gap("stderr", 0, 500, f"the log could not be written: {os.strerror(27)}")]


def test_log_reader_beside_the_writer_gets_a_gap_that_the_disk_refused(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"one\n", 1), ("stderr", b"x" * 500, 2)]
    writer = LogWriter(path)
    writer.append(*captured[0])
    with file_limit(size_on_disk(path)):
        writer.append(*captured[1])
        writer.close()
    assert writer.missing == 500
    got = received(path, captured, writer)
    assert got.gaps == [Gap("stderr", 0, 500, f"the log could not be written: {os.strerror(27)}")]
    # Another process can only know as much as is on the disk: `end` needs less room than the declaration.
    assert received(path, captured).gaps == [Gap("stderr", 0, 500, "not on disk")] or read_end(path) is None


def test_log_without_its_directory_counts_new_output_as_lost(path: Path) -> None:
    writer = LogWriter(path)
    path.rmdir()
    path.write_text("in the way of another one")
    writer.append("stdout", b"nowhere\n", 1)
    writer.close()
    assert (writer.offsets, writer.missing) == ((8, 0, 0), 8)
    got = received(path, [("stdout", b"nowhere\n", 1)], writer)
    assert got.gaps == [Gap("stdout", 0, 8, f"the log could not be written: {os.strerror(20)}")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB with inodes for 12 files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=12", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if mounted.returncode:
        pytest.skip(f"a disk cannot be mounted here (root only): {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("other_bytes", [0, 300 * KIB, 900 * KIB])
@pytest.mark.parametrize("size", [100, 5000, 100_000])
def test_log_on_a_full_disk_loses_only_the_refused_bytes(small_disk: Path, other_bytes: int, size: int) -> None:
    # It fills, somebody makes room, it fills again, and at the end there is room.
    other = small_disk / "other"
    captured: list[Captured] = []
    writer = LogWriter(small_disk / "log")

    def append(count: int) -> None:
        for number in range(count):
            captured.append((("stdout", "stderr")[number % 2], b"%07d\n" % len(captured) * (size // 8), len(captured)))
            writer.append(*captured[-1])

    other.write_bytes(bytes(other_bytes))
    count = 2 * (1 << 20) // size
    append(count)
    lost = writer.missing
    assert lost > 0
    other.write_bytes(b"")
    append(count)
    (small_disk / "log" / writer.segments[0].segment_name).stat()
    got = Received(captured)
    got.take(read_all(LogReader(small_disk / "log", writer=writer), final=False))
    assert sum(got.offsets) == sum(writer.tip.offsets)
    writer.close()
    got = received(small_disk / "log", captured, writer)
    assert got.accounted == sum(offsets_of(captured)) == sum(writer.offsets)
    assert got.missing == writer.missing >= lost
    assert {gap.reason for gap in got.gaps} == {"the disk was full: No space left on device"}


def test_a_disk_without_inodes_loses_bytes_until_it_has_inodes_again(small_disk: Path) -> None:
    captured: list[Captured] = []
    writer = LogWriter(small_disk / "log", max_bytes=512 * KIB)
    others = [small_disk / f"other{number}" for number in range(7)]
    for other in others:
        other.touch()
    for number in range(40):
        if number == 20:
            for other in others:
                other.unlink()
        captured.append(("stdout", b"%06d\n" % number * 1500, number))
        writer.append(*captured[-1])
    writer.close()
    got = received(small_disk / "log", captured)
    assert [gap.reason for gap in got.gaps] == ["the disk was full: No space left on device"]
    assert got.accounted == sum(offsets_of(captured))
    assert got.missing == writer.missing > 0
    assert sum(got.offsets) == sum(writer.tip.offsets)


def test_log_segments_are_listed_in_the_order_of_their_positions() -> None:
    places = [RecordBoundary(1 << 70, 1, BEGINNING), RecordBoundary(5, 0, (1, 2, 3)), RecordBoundary(0, 0, BEGINNING)]
    assert [place.segment_name for place in sorted(places)][:2] == [
        "0000000000000000-0-0-0-0",
        "0000000000000005-0-1-2-3",
    ]
