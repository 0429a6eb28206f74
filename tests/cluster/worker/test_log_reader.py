"""Records are read from any place, also while they are written, and gaps stand for missing and damaged parts."""

from __future__ import annotations

import random
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.log_model import Captured, Gap, Received, lay_out, offsets_of, random_capture, read_all, write, written
from support.open_files import no_more_open_files

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.filters import FilteredReader, LogFilter
from iris.cluster.logs.reading.line_pages import read_page
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.records import (
    BEGINNING,
    GAP,
    HEADER,
    MAX_PAYLOAD,
    SOURCE_ID,
    Offsets,
    decode,
    encode,
    encode_gap,
    parse_gap,
)
from iris.cluster.logs.segments import AWAY, LogEnd, RecordBoundary, list_segments, read_end, write_end, write_written
from iris.errors import UnavailableError

KIB = 1024
SMALL: list[Captured] = [
    ("stdout", b"one\ntw", 1),
    ("stderr", b"warn\n", 2),
    ("stdout", b"o\n", 3),
    ("build", b"built\n", 4),
    ("stderr", b"ing", 5),
    ("stdout", b"\x18\0\0\0three\n", 6),
    ("stderr", b"!\n", 7),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def received(path: Path, captured: list[Captured], offsets: Offsets = BEGINNING) -> Received:
    got = Received(captured, offsets)
    reader = LogReader(path, offsets)
    got.take(read_all(reader))
    assert reader.offsets == got.offsets
    assert reader.missing == got.missing
    return got


# From any place on


def test_log_reader_can_start_at_every_offset(path: Path) -> None:
    captured = random_capture(2, 40, 6)
    lay_out(path, captured, 7)
    total = offsets_of(captured)
    rng = random.Random(4)
    places = [BEGINNING, total]
    counts = [0, 0, 0]
    for source, data, _ in captured:  # each boundary of records, and each byte within
        for count in range(len(data)):
            place = list(counts)
            place[SOURCE_ID[source]] += count
            places.append((place[0], place[1], place[2]))
        counts[SOURCE_ID[source]] += len(data)
    places += [(rng.randint(0, total[0]), rng.randint(0, total[1]), rng.randint(0, total[2])) for _ in range(200)]
    for place in places:
        got = received(path, captured, place)
        assert got.offsets == total
        assert got.given == sum(total) - sum(place)
        assert not got.gaps


def test_log_reader_that_starts_beyond_the_end_returns_nothing(path: Path) -> None:
    lay_out(path, SMALL, 3)
    with LogReader(path, (10**12, 10**12, 10**12)) as reader:
        assert reader.read(1 << 20, final=True) == b""
        assert reader.written == offsets_of(SMALL)
    got = received(path, SMALL, (10**12, 0, 0))
    assert got.given == len(written(SMALL, "stderr") + written(SMALL, "build"))


@pytest.mark.parametrize("max_bytes", [1, 30, 100, 1 << 20])
def test_log_reader_returns_whole_records_for_every_max_bytes(path: Path, max_bytes: int) -> None:
    lay_out(path, SMALL, 3)
    got = Received(SMALL)
    with LogReader(path) as reader:
        while records := reader.read(max_bytes, final=True):
            got.take(records)
            assert len(records) <= max_bytes or len(list(decode(records))) == 1
    assert got.given == sum(offsets_of(SMALL))
    assert got.timestamps == [1, 2, 3, 4, 5, 6, 7]


def test_log_reader_finds_its_start_without_reading_the_log_before_it(path: Path) -> None:
    captured: list[Captured] = [("stderr", b"prompt: ", 0)]
    captured += [("stdout", b"%03d\n" % number, number) for number in range(99)]
    paths = lay_out(path, captured, 10)
    for early in paths[1:8]:
        early.write_bytes(b"damaged")
    assert not received(path, captured, (340, 8, 0)).gaps
    # What a source wrote at the beginning is wanted, of the others nothing that lies between.
    got = received(path, captured, (340, 0, 0))
    assert not got.gaps
    assert got.given == 8 + 99 * 4 - 340


def test_bytes_left_of_a_log_reader_is_the_size_of_the_unread_records(path: Path) -> None:
    lay_out(path, SMALL, 3)
    total = sum(HEADER.size + len(data) for _, data, _ in SMALL)
    reader = LogReader(path)
    assert reader.bytes_left() == total
    while records := reader.read(1, final=True):
        total -= len(records)
        assert reader.bytes_left() == total
    assert LogReader(path, offsets_of(SMALL)).bytes_left() <= HEADER.size + 3 + 2  # it begins at the last segment
    assert LogReader(path.parent / "nothing").bytes_left() == 0


# No log, or an old one


def test_missing_log_is_read_as_empty_and_truncated(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(encode(0, 1, 0, b"of an older version"))
    (tmp_path / "empty").mkdir()
    for name in ("log", "file", "empty"):
        with LogReader(tmp_path / name) as reader:
            assert reader.bytes_left() == 0
            assert reader.read(1 << 20, final=False) == b""
            assert not reader.truncated
            assert reader.read(1 << 20, final=True) == b""
            assert (reader.written, reader.truncated) == (BEGINNING, True)
        assert read_page(tmp_path / name, final=True).lines == []
        tail = FilteredReader(tmp_path / name, log_filter=LogFilter(tail=3))
        assert tail.read(1 << 20, final=True) == b""
        assert (tail.written, tail.truncated) == (BEGINNING, True)


def test_log_without_its_end_file_is_read_as_truncated(path: Path) -> None:
    lay_out(path, SMALL, 3, ended=False)
    reader = LogReader(path)
    read_all(reader)
    assert (reader.written, reader.truncated) == (offsets_of(SMALL), True)
    assert not received(path, SMALL).gaps


def test_output_that_a_lost_worker_did_not_upload_is_a_gap(path: Path) -> None:
    lay_out(path, SMALL[:4], 3, ended=False)
    write_written(path, offsets_of(SMALL))
    reader = LogReader(path)
    got = Received(SMALL)
    got.take(read_all(reader))
    assert got.accounted == sum(offsets_of(SMALL))
    assert {gap.reason for gap in got.gaps} == {"the worker was lost before it had uploaded this part of the log"}
    assert reader.truncated


def test_reader_of_a_removed_log_gets_a_gap_with_the_reason_of_the_removal(path: Path) -> None:
    path.mkdir()
    write_end(path, LogEnd((10, 0, 5), 0, 100, removed="it was older than 30 days", truncated=True))
    reader = LogReader(path)
    got = Received([("stdout", bytes(10), 1), ("build", bytes(5), 1)])
    got.take(read_all(reader))
    assert got.gaps == [
        Gap("stdout", 0, 10, "it was older than 30 days"),
        Gap("build", 0, 5, "it was older than 30 days"),
    ]
    assert (reader.written, reader.truncated) == ((10, 0, 5), True)


# Damage


@pytest.mark.parametrize("per_segment", [2, 100])
@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_records_with_a_flipped_byte_are_never_returned(path: Path, per_segment: int, ended: bool, flip: int) -> None:
    paths = lay_out(path, SMALL, per_segment, ended=ended)
    total = sum(offsets_of(SMALL))
    for segment in paths:
        content = segment.read_bytes()
        for position in range(len(content)):
            broken = bytearray(content)
            broken[position] ^= flip
            segment.write_bytes(broken)
            got = received(path, SMALL)
            assert got.given < total
            if ended or segment != paths[-1]:
                assert {gap.reason for gap in got.gaps} == {"damaged on disk"}
            if ended:
                assert got.accounted == total
            for offsets in ((3, 0, 0), (9, 4, 6), (0, 5, 6)):
                received(path, SMALL, offsets)
            read_all(FilteredReader(path, log_filter=LogFilter(regex="e", tail=2)))
            page = read_page(path, final=True)
            assert sum(line.missing_bytes for line in page.lines) == got.missing
        segment.write_bytes(content)
    assert received(path, SMALL).given == total


@pytest.mark.parametrize("per_segment", [2, 3, 100])
@pytest.mark.parametrize("ended", [True, False])
def test_truncated_log_segment_returns_its_whole_records(path: Path, per_segment: int, ended: bool) -> None:
    paths = lay_out(path, SMALL, per_segment, ended=ended)
    total = sum(offsets_of(SMALL))
    for segment in paths:
        content = segment.read_bytes()
        for length in range(len(content)):
            segment.write_bytes(content[:length])
            got = received(path, SMALL)
            if ended:
                assert got.accounted == total
            elif segment == paths[-1]:
                assert not got.gaps
            assert sum(len(record.payload) for record in decode(content[: whole(content, length)])) == (
                got.given - total + sum(len(record.payload) for record in decode(content))
            )
        segment.unlink()
        assert received(path, SMALL).accounted == (
            total if ended or segment != paths[-1] else received(path, SMALL).given
        )
        segment.write_bytes(content + b"something that was never written")
        assert received(path, SMALL).given == total
        segment.write_bytes(content)


def whole(content: bytes, length: int) -> int:
    """Return where the last whole record ends if only this many bytes are left."""
    end = 0
    for record in decode(content):
        after = end + HEADER.size + len(record.payload)
        if after > length:
            break
        end = after
    return end


@pytest.mark.parametrize(
    "stray",
    [
        pytest.param(encode(3, 2, 0, b"two\n"), id="source"),
        pytest.param(encode(0, 2, 0, b"one\n"), id="offset of what was before"),
        pytest.param(encode(0, 2, 5, b"two\n"), id="offset beyond"),
        pytest.param(encode(0x10, 2, 4, b"short"), id="gap that says nothing"),
        pytest.param(encode(0x13, 2, 0, bytes(8)), id="gap of no source"),
        pytest.param(bytes(4096), id="zeros, as after a crash of the machine"),
        pytest.param(b"\xff" * 100, id="ones"),
    ],
)
def test_foreign_bytes_in_a_log_segment_are_reported_as_a_gap(path: Path, stray: bytes) -> None:
    captured: list[Captured] = [("stdout", b"one\n", 1), ("stdout", b"never given", 2), ("stderr", b"fine\n", 3)]
    lay_out(path, captured, 1)[1].write_bytes(stray)
    got = received(path, captured)
    assert got.gaps == [Gap("stdout", 4, 11, "damaged on disk")]
    assert got.given == 9


def test_output_that_looks_like_records_is_returned_unchanged(path: Path) -> None:
    text = encode(0, 1, 0, b"fake\n") + encode_gap(0, 1, 5, 100, "fake") + b"\x18"
    captured: list[Captured] = [("stdout", text[at : at + 7], at) for at in range(0, len(text), 7)]
    lay_out(path, captured, 4)
    got = received(path, captured)
    assert (got.given, got.gaps) == (len(text), [])


def test_gap_on_disk_counts_only_the_missing_bytes_after_the_start_of_the_reader(path: Path) -> None:
    path.mkdir()
    records = encode(0, 1, 0, b"ab") + encode_gap(0, 2, 2, 100, "why") + encode(0, 3, 102, b"cd")
    (path / RecordBoundary(0, 0, BEGINNING).segment_name).write_bytes(records)
    write_end(path, LogEnd((104, 0, 0), 100, 1000))
    for offset, missing in ((0, 100), (1, 100), (2, 100), (50, 52), (101, 1), (102, 0), (103, 0)):
        with LogReader(path, (offset, 0, 0)) as reader:
            read_all(reader)
            assert (reader.offsets, reader.missing) == ((104, 0, 0), missing)


def test_reader_of_a_damaged_live_log_continues_at_the_last_record_of_the_writer(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"%03d\n" % number, number) for number in range(10)]
    writer = LogWriter(path)
    got = Received([*captured, ("stderr", b"later", 11)])
    reader = LogReader(path, writer=writer)
    for item in captured[:3]:
        writer.append(*item)
    got.take(reader.read(1 << 20, final=False))
    for item in captured[3:]:
        writer.append(*item)
    segment = path / writer.segments[0].segment_name
    with segment.open("r+b") as file:
        file.seek(5 * (HEADER.size + 4))
        file.write(b"\xff")
    got.take(read_all(reader, final=False))
    assert got.gaps == [Gap("stdout", 20, 20, "damaged on disk")]
    assert read_all(reader, final=False) == b""
    writer.append("stderr", b"later", 11)
    got.take(read_all(reader, final=False))
    assert got.offsets == writer.offsets
    writer.close()
    assert read_all(reader) == b""
    assert reader.written == writer.offsets
    page = read_page(path, writer, start_line=3, final=True)
    # Who comes later does not know where the next record begins.
    assert [(line.source, line.data[:5], line.missing_bytes) for line in page.lines] == [
        ("stdout", b"003", 0),
        ("stdout", b"004", 0),
        ("stdout", b"[iris", 20),
        ("stderr", b"[iris", 5),
    ]


def test_a_removed_segment_of_a_live_log_is_a_gap_at_once(path: Path) -> None:
    writer = LogWriter(path)
    writer.append("stdout", b"gone\n", 1)
    (path / writer.segments[0].segment_name).unlink()
    reader = LogReader(path, writer=writer)
    got = Received([("stdout", b"gone\n", 1)])
    got.take(reader.read(1 << 20, final=False))
    assert got.missing == 5
    assert reader.read(1 << 20, final=False) == b""
    writer.close()
    assert reader.read(1 << 20, final=True) == b""


@pytest.mark.parametrize("how", ["removed", "moved", "removed with all above it"])
@pytest.mark.parametrize("before", [0, 1])  # whether the reader has read something by then
def test_live_log_whose_directory_was_removed_continues_in_a_new_directory(
    tmp_path: Path, how: str, before: int
) -> None:
    path = tmp_path / "attempt" / "log"
    path.parent.mkdir()
    writer = LogWriter(path)
    captured: list[Captured] = [("stdout", b"first\n", 1), ("stdout", b"gone\n", 2), ("stdout", b"kept\n", 3)]
    got = Received(captured)
    reader = LogReader(path, writer=writer)
    for item in captured[:before]:
        writer.append(*item)
    got.take(read_all(reader, final=False))
    reader.close()
    for item in captured[before:2]:
        writer.append(*item)
    if how == "moved":
        path.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(path if how == "removed" else path.parent)
    writer.check_directory()
    got.take(read_all(reader, final=False))
    (gap,) = got.gaps
    assert gap.missing == 11 - 6 * before
    assert "removed, or moved, while the task ran" in gap.reason
    assert "11 bytes of its log are missing" in writer.warning
    writer.append(*captured[2])
    got.take(read_all(reader, final=False))
    writer.check_directory()  # all is well again
    writer.close()
    assert writer.missing == 11, "of all that was written, and not only of what this reader lacks"
    assert read_all(reader) == b""
    assert got.given == 5 + 6 * before
    later = Received(captured)  # for who comes when the writer is gone
    with LogReader(path) as late:
        later.take(read_all(late))
    assert later.given == 5
    assert "removed, or moved" in later.gaps[0].reason


def test_a_live_log_whose_directory_cannot_be_recreated_counts_the_missing_bytes(path: Path) -> None:
    writer = LogWriter(path)
    writer.append("stdout", b"gone\n", 1)
    shutil.rmtree(path)
    path.write_text("in the way")
    writer.check_directory()
    reader = LogReader(path, writer=writer)
    got = Received([("stdout", b"gone\n", 1), ("stdout", b"lost\n", 2), ("stdout", b"kept\n", 3)])
    got.take(read_all(reader, final=False))
    assert got.missing == 5
    writer.append("stdout", b"lost\n", 2)
    assert "10 bytes of its log are missing" in writer.warning
    path.unlink()
    writer.append("stdout", b"kept\n", 3)
    got.take(read_all(reader, final=False))
    assert (got.given, got.missing) == (5, 10)
    writer.close()


# While it is written


def test_log_reader_does_not_read_beyond_the_last_record_of_the_writer(path: Path) -> None:
    writer = LogWriter(path)
    writer.append("stdout", b"one\n", 1)
    with (path / writer.segments[0].segment_name).open("ab") as file:
        file.write(encode(0, 2, 4, b"not yet published"))
    reader = LogReader(path, writer=writer)
    assert [record.payload for record in decode(read_all(reader, final=False))] == [b"one\n"]
    writer.close()


def test_open_log_segment_is_read_to_its_end_after_it_was_dropped(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"%06d\n" % number * 1000, number) for number in range(60)]
    writer = LogWriter(path, max_bytes=1)
    got = Received(captured)
    reader = LogReader(path, writer=writer)
    for item in captured[:9]:
        writer.append(*item)
    got.take(reader.read(1000, final=False))
    for item in captured[9:]:
        writer.append(*item)
    assert len(writer.segments) == 1
    got.take(read_all(reader, final=False))
    (gap,) = got.gaps
    assert gap.offset == 63_000  # nine records of 7,000 bytes fit into the first segment
    assert gap.reason == "the oldest records were dropped, because the log reached its limit of 1 bytes (1 bytes)"
    assert got.offsets == writer.offsets
    writer.close()


@pytest.fixture
def begun(path: Path) -> Iterator[LogReader]:
    """A reader that has read the first of several segments. The segments that it has listed are then removed."""
    write(path, [("stdout", b"x" * 60_000, number) for number in range(10)], max_bytes=1 << 20)
    assert len(list_segments(path)) > 2
    with LogReader(path) as reader:
        assert reader.read(1000, final=True)
        yield reader


def remove_segments(path: Path) -> None:
    for place in list_segments(path):
        (path / place.segment_name).unlink()


def test_a_log_that_is_moved_while_it_is_read_is_unavailable(path: Path, begun: LogReader) -> None:
    (path / AWAY).touch()
    remove_segments(path)
    begun.read(1 << 20, final=True)  # the rest of the segment that is open
    with pytest.raises(UnavailableError, match="moved to another location"):
        begun.read(1 << 20, final=True)


def test_a_log_that_is_removed_while_it_is_read_ends_with_a_reason(path: Path, begun: LogReader) -> None:
    end = read_end(path)
    assert end is not None
    write_end(path, end._replace(removed="removed: a test"))
    remove_segments(path)
    reasons = set()
    while records := begun.read(1 << 20, final=True):
        reasons |= {parse_gap(record.payload)[1] for record in decode(records) if record.kind & GAP}
    assert reasons == {"removed: a test"}
    assert begun.offsets == end.bytes_written


def test_log_reader_that_was_closed_can_continue_to_read(path: Path) -> None:
    lay_out(path, SMALL, 3)
    got = Received(SMALL)
    reader = LogReader(path)
    while records := reader.read(1, final=True):
        got.take(records)
        reader.close()
        reader.close()
    assert got.given == sum(offsets_of(SMALL))


@pytest.mark.parametrize("max_bytes", [100 * KIB, 600 * KIB, 2**40])
@pytest.mark.parametrize("seed", range(2))
def test_log_readers_keep_up_with_a_writer_that_drops_old_segments(path: Path, seed: int, max_bytes: int) -> None:
    captured = random_capture(seed, 3000, 300)
    writer = LogWriter(path, max_bytes=max_bytes)
    start, done = threading.Barrier(4), threading.Event()
    failures: list[BaseException] = []

    def write_all() -> None:
        start.wait()
        try:
            for source, data, timestamp_ms in captured:
                writer.append(source, data, timestamp_ms)
            writer.close()
        finally:
            done.set()

    def follow(size: int) -> None:
        rng = random.Random(size)
        got = Received(captured)
        reader = LogReader(path, writer=writer)
        start.wait()
        while True:
            final = done.is_set()
            records = reader.read(size, final=final)
            if not records and final:
                break
            got.take(records)
            assert (got.offsets, got.missing) == (reader.offsets, reader.missing)
            if rng.random() < 0.05:  # another reader goes on from here
                reader.close()
                reader = LogReader(path, reader.offsets, writer=writer)
                got = Received(captured, reader.offsets)
        assert got.offsets == writer.offsets
        assert {gap.reason[:31] for gap in got.gaps} <= {"the oldest records were dropped"}
        assert max_bytes < 2**40 or not got.gaps

    def checked(size: int) -> None:
        try:
            follow(size)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=write_all)]
    threads += [threading.Thread(target=checked, args=(size,)) for size in (1, 3000, 1 << 20)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []


def test_log_reader_can_be_closed_while_a_thread_is_reading(path: Path) -> None:
    captured = random_capture(1, 800, 400)
    write(path, captured, max_bytes=600 * KIB)
    for seed in range(20):
        reader = LogReader(path)
        closer = threading.Thread(target=lambda: [reader.close() for _ in range(300)])  # noqa: B023
        got = Received(captured)
        closer.start()
        while records := reader.read(2000 + seed, final=True):
            got.take(records)
        closer.join()
        assert got.accounted == sum(offsets_of(captured))


def test_largest_log_record_is_returned_even_if_max_bytes_is_small(path: Path) -> None:
    captured: list[Captured] = [("stdout", bytes(MAX_PAYLOAD), 1), ("stdout", b"end", 2)]
    write(path, captured)
    got = received(path, captured)
    assert got.given == MAX_PAYLOAD + 3
    with LogReader(path) as reader:
        assert len(reader.read(10, final=True)) == HEADER.size + MAX_PAYLOAD


# A process that cannot open any more files


def test_reader_that_cannot_open_the_end_of_a_closed_log_does_not_report_a_killed_worker(path: Path) -> None:
    writer = write(path, SMALL)
    with LogReader(path) as reader:
        got = Received(SMALL)
        got.take(reader.read(1 << 20, final=True))
        with no_more_open_files(), pytest.raises(UnavailableError, match="Too many open files"):
            reader.read(1 << 20, final=True)
        assert reader.read(1 << 20, final=True) == b""
        assert (reader.written, reader.truncated, reader.missing) == (writer.offsets, False, 0)


def test_reader_that_cannot_open_the_written_size_of_an_unclosed_log_reports_no_smaller_size(path: Path) -> None:
    write(path, SMALL)
    (path / "end").unlink()
    offsets = offsets_of(SMALL)
    write_written(path, (offsets[0] + 10, offsets[1], offsets[2]))
    with LogReader(path) as reader:
        got = Received(SMALL)
        got.take(reader.read(1 << 20, final=True))
        with no_more_open_files(), pytest.raises(UnavailableError, match="Too many open files"):
            reader.read(1 << 20, final=True)
        reader.read(1 << 20, final=True)
        assert (reader.truncated, reader.missing) == (True, 10)


def test_reader_that_cannot_open_a_segment_reads_the_log_later(path: Path) -> None:
    write(path, SMALL)
    with LogReader(path) as reader:
        with no_more_open_files(), pytest.raises(UnavailableError, match="Too many open files"):
            reader.read(1 << 20, final=True)
        got = Received(SMALL)
        got.take(read_all(reader))
        assert (got.missing, reader.truncated) == (0, False)


def test_end_of_a_log_with_too_many_open_files_is_unavailable_and_not_missing(path: Path) -> None:
    write(path, SMALL)
    with no_more_open_files(), pytest.raises(UnavailableError, match="Too many open files"):
        read_end(path)
    assert read_end(path) is not None


def test_end_that_is_a_directory_counts_as_damaged(path: Path) -> None:
    write(path, SMALL)
    (path / "end").unlink()
    (path / "end").mkdir()
    assert read_end(path) is None
