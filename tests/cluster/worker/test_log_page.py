"""A log that is read page by page shows each line once, with its number."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.log_model import (
    Captured,
    bars_and_lines,
    bytes_of,
    lay_out,
    lines_of,
    random_capture,
    write,
    written,
)

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.line_pages import (
    LINE_COST,
    PAGE_BYTES,
    LinePage,
    NumberedLine,
    fetch_page_steps,
    read_page,
    read_page_steps,
)
from iris.cluster.logs.reading.numbered_lines import MAX_PARTIAL_LINE
from iris.cluster.logs.reading.query import EVERYTHING, LogFilter
from iris.cluster.logs.records import BEGINNING, SOURCES, Source, encode, encode_gap
from iris.cluster.logs.segments import LogEnd, RecordBoundary, list_segments, write_end
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.rpc.serving.steps import finish

KIB = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def page_of(
    path: Path,
    writer: LogWriter | None = None,
    *,
    final: bool,
    start_line: int = 0,
    max_bytes: int = PAGE_BYTES,
    **fields: Any,
) -> LinePage:
    return read_page(path, writer, LogFilter(**fields), start_line=start_line, final=final, max_bytes=max_bytes)


def pages(path: Path, writer: LogWriter | None = None, *, final: bool = True, **wanted: Any) -> Iterator[LinePage]:
    """Read page after page, until nothing is left."""
    while True:
        page = page_of(path, writer, final=final, **wanted)
        yield page
        if page.at_end:
            return
        assert page.lines, "a page without lines that is not the end"
        wanted["start_line"] = page.next_line


def read_all(path: Path, writer: LogWriter | None = None, *, final: bool = True, **wanted: Any) -> list[NumberedLine]:
    return [line for page in pages(path, writer, final=final, **wanted) for line in page.lines]


def numbers(page: LinePage) -> list[int]:
    return [line.number for line in page.lines]


# Lines


def test_log_lines_are_ordered_by_their_completion(path: Path) -> None:
    writer = write(
        path,
        [
            ("build", b"fetching", 1),
            ("stdout", b"one\ntw", 2),
            ("stderr", b"warn", 3),
            ("stdout", b"o\n", 4),
            ("stderr", b"ing\n\n", 5),
            ("build", b"\n", 6),
        ],
    )
    assert read_all(path, writer) == [
        NumberedLine(0, 2, "stdout", b"one", False),
        NumberedLine(1, 4, "stdout", b"two", False),
        NumberedLine(2, 5, "stderr", b"warning", False),
        NumberedLine(3, 5, "stderr", b"", False),
        NumberedLine(4, 6, "build", b"fetching", False),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_log_pages_contain_all_bytes_of_each_source(path: Path, seed: int) -> None:
    captured = random_capture(seed, records=300, longest=40)
    lines = read_all(path, write(path, captured))
    assert lines == lines_of(captured)
    for source in SOURCES:
        assert bytes_of(lines, source) == written(captured, source)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"a\0b\n", id="nul"),
        pytest.param(b"\xff\xfe\n", id="no UTF-8"),
        pytest.param(b"10%\r20%\r\n", id="carriage return"),
        pytest.param("naïve \u2028 line\n".encode(), id="unicode line separator"),
        pytest.param(b"\x0b\x0c\x1c\x85\n", id="what str.splitlines splits at"),
        pytest.param(encode(1, 5, 0, b"fake\n"), id="our own frame"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_log_lines_contain_the_exact_bytes_of_the_task(path: Path, data: bytes, step: int) -> None:
    # The middle of it captured in pieces too: a character, or what looks like a frame, is split anywhere.
    captured: list[Captured] = [("stdout", data[at : at + step], 7) for at in range(0, len(data), step)]
    writer = write(path, captured)
    assert [line.data for line in read_all(path, writer)] == data.split(b"\n")[:-1]
    assert bytes_of(read_all(path), "stdout") == data


def test_a_partial_line_is_shown_when_the_log_is_final(path: Path) -> None:
    writer = write(path, [("stderr", b"bye", 1), ("stdout", b"a\nb", 2), ("stderr", b"!", 3), ("build", b"x", 4)])
    live = page_of(path, writer, final=False)
    assert live == LinePage([NumberedLine(0, 2, "stdout", b"a", False)], next_line=1, at_end=True)
    final = page_of(path, writer, start_line=live.next_line, final=True)
    assert final.lines == [
        NumberedLine(1, 2, "stdout", b"b", True),
        NumberedLine(2, 3, "stderr", b"bye!", True),
        NumberedLine(3, 4, "build", b"x", True),
    ]
    assert (final.next_line, final.at_end) == (4, True)


def test_ten_megabytes_without_a_newline_are_shown_in_pieces(path: Path) -> None:
    data = random.Random(1).randbytes(10 << 20).replace(b"\n", b"").replace(b"\r", b"")
    captured: list[Captured] = [("stdout", data[at : at + 65_521], at) for at in range(0, len(data), 65_521)]
    captured.append(("stdout", b"end\nnext\n", 10**9))
    writer = write(path, captured)
    live = read_all(path, writer, final=False)
    assert live == lines_of(captured, final=False) == read_all(path, final=False)
    assert bytes_of(live, "stdout") == data + b"end\nnext\n"
    assert [line.partial for line in live] == [True] * (len(live) - 2) + [False, False]
    assert all(MAX_PARTIAL_LINE <= len(line.data) < MAX_PARTIAL_LINE + 65_521 for line in live[:-2])


def test_a_line_of_forty_megabytes_is_split_into_bounded_pages(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(640):
        writer.append("stdout", b"0123456789abcdef" * 4096, number)
    writer.append("stdout", b"\nnext\n", 640)
    tracemalloc.start()
    try:
        for log_writer in (writer, None):
            size = 0
            for page in pages(path, log_writer, final=False):
                assert sum(len(line.data) for line in page.lines) <= PAGE_BYTES
                size += sum(len(line.data) + (not line.partial) for line in page.lines)
            assert size == 640 * 65_536 + len(b"\nnext\n")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        writer.close()
    assert peak < 16_000_000


def test_reader_of_a_missing_log_gets_an_empty_log(path: Path) -> None:
    empty = LinePage([], next_line=0, at_end=True)
    for final in (False, True):
        assert page_of(path, final=final) == empty
        assert page_of(path, start_line=-5, final=final) == empty
        assert page_of(path, tail=5, final=final) == empty
    writer = write(path, [("stdout", b"", 1)])
    for final in (False, True):
        for given in (writer, None):
            assert page_of(path, given, final=final) == empty
            assert page_of(path, given, start_line=-5, final=final) == empty


def test_log_page_contains_lines_that_were_appended_just_before(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(20):
        writer.append("stdout", b"%d\n" % number, number)
        page = page_of(path, writer, start_line=number, final=False)
        assert page.lines == [NumberedLine(number, number, "stdout", b"%d" % number, False)]
        assert (page.next_line, page.at_end) == (number + 1, True)
    writer.close()


# Pages


@pytest.mark.parametrize("per_segment", [4, 100])
def test_log_pages_of_every_size_return_every_line_once(path: Path, per_segment: int) -> None:
    captured = random_capture(11, records=60, longest=12)
    lay_out(path, captured, per_segment)
    expected = lines_of(captured, per_segment=per_segment)
    total = sum(len(line.data) + LINE_COST for line in expected)
    for max_lines in range(1, len(expected) + 2):
        got = list(pages(path, max_lines=max_lines))
        assert [line for page in got for line in page.lines] == expected
        assert {len(page.lines) for page in got[:-1]} <= {max_lines}
    for max_bytes in range(1, total + 2, 37):
        got = list(pages(path, max_bytes=max_bytes))
        assert [line for page in got for line in page.lines] == expected
        for page in got:
            size = sum(len(line.data) + LINE_COST for line in page.lines)
            assert size <= max_bytes or len(page.lines) == 1


def test_log_page_that_is_just_full_reports_whether_more_lines_follow(path: Path) -> None:
    writer = write(path, [("stdout", b"a\nb\n", 1), ("stderr", b"tail", 1), ("stdout", b"c\n", 1), ("stdout", b"d", 1)])
    assert not page_of(path, writer, max_lines=2, final=False).at_end
    assert page_of(path, writer, max_lines=3, final=False).at_end
    assert not page_of(path, writer, max_lines=3, final=True).at_end
    assert not page_of(path, writer, max_lines=4, final=True).at_end
    assert page_of(path, writer, max_lines=5, final=True).at_end


@pytest.mark.parametrize("look_bytes", [1, 50_000])
def test_a_page_reads_a_limited_part_of_the_log(path: Path, look_bytes: int) -> None:
    writer = write(path, random_capture(8, records=1500, longest=300), max_bytes=1 << 20)
    for wanted in (EVERYTHING, LogFilter(regex="word word"), LogFilter(regex="nowhere"), LogFilter(sources=("build",))):
        whole = read_page(path, writer, wanted, final=True, max_bytes=1 << 30)
        assert whole.at_end
        lines, start_line, pages, at_end = [], 0, 0, False
        while not at_end:
            page = read_page(path, writer, wanted, start_line=start_line, final=True, look_bytes=look_bytes)
            lines, start_line, at_end = lines + page.lines, page.next_line, page.at_end
            pages += 1
        assert lines == whole.lines
    assert pages > 1  # each step is a MiB


def test_empty_lines_count_towards_the_size_of_a_log_page(path: Path) -> None:
    writer = write(path, [("stdout", b"\n" * 10_000, 1)])
    page = page_of(path, writer, max_bytes=100 * LINE_COST, final=True)
    assert (len(page.lines), page.next_line, page.at_end) == (100, 100, False)


@pytest.mark.parametrize("seed", range(2))
def test_log_pages_are_the_same_with_and_without_the_writer(path: Path, seed: int) -> None:
    captured = random_capture(seed, records=1500, longest=2500)
    writer = write(path, captured, max_bytes=4 << 20)
    assert len(writer.segments) > 2
    assert writer.index.points.back(2).position > 1 << 20  # several points in the index, or this shows nothing
    segments = [place.position for place in writer.segments]
    for final in (False, True):
        expected = lines_of(captured, final=final, segments=segments)
        for start_line in range(0, len(expected) + 3, 22_347):
            want = expected[start_line : start_line + 50]
            for given in (writer, None):
                page = page_of(path, given, start_line=start_line, max_lines=50, final=final)
                assert page.lines == want
                assert page.next_line == start_line + len(want)
        for start_ms in range(captured[0][2], captured[-1][2] + 2, 297):
            want = [line for line in expected if line.timestamp_ms > start_ms][:20]
            for given in (writer, None):
                assert page_of(path, given, start_ms=start_ms, max_lines=20, final=final).lines == want


@pytest.mark.parametrize("prompt", [b"", b"a progress bar: 10%\r"])
def test_lines_of_a_log_that_were_counted_are_not_read_again_for_a_page(path: Path, prompt: bytes) -> None:
    # One source's unfinished line must not keep a reader of the others at the start.
    captured: list[Captured] = [("stderr", prompt, 1), ("build", b"never ended", 3)]
    captured += [("stdout", b"a line of record %d\n" % number * 1000, number) for number in range(300)]
    captured += [("stderr", b"100%\n", 300)]
    writer = write(path, captured)
    expected = lines_of(captured)
    segment = path / writer.segments[0].segment_name
    for given in (writer, None):
        assert page_of(path, given, start_line=299_999, max_lines=1, final=False).lines == expected[299_999:300_000]
    before = segment.stat()
    with segment.open("r+b") as file:
        file.write(bytes(700_000))
    os.utime(segment, ns=(before.st_atime_ns, before.st_mtime_ns))  # The times of the file now hide the change.
    for given in (writer, None):
        assert page_of(path, given, start_line=250_000, max_lines=3, final=True).lines == expected[250_000:250_003]
        assert page_of(path, given, start_ms=290, max_lines=3, final=True).lines == expected[291_000:291_003]
        assert page_of(path, given, start_line=-2, final=True).lines == expected[-2:]
        assert page_of(path, given, tail=2, final=True).lines == expected[-2:]
    assert expected[-2].data == prompt + b"100%"
    assert expected[-1] == NumberedLine(300_001, 3, "build", b"never ended", True)


def test_page_of_a_long_log_needs_little_memory(path: Path) -> None:
    writer = write(path, ((("stdout", b"0123456789 " * 6000 + b"\n", n)) for n in range(600)))
    assert writer.position > 38_000_000
    tracemalloc.start()
    try:
        for given in (writer, None):
            page_of(path, given, start_line=-3, final=False)
            page_of(path, given, regex="no such text", final=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


def test_long_partial_lines_do_not_fill_the_index(path: Path) -> None:
    # A long unfinished line on one source while another one writes: each point of the index has to remember it.
    def captured() -> Iterator[Captured]:
        yield "stderr", b"x" * (MAX_PARTIAL_LINE - 1), 7
        for number in range(800):
            yield "stdout", b"%060000d\n" % number, number

    tracemalloc.start()
    try:
        writer = write(path, captured())
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert writer.position > 48_000_000
    assert kept < 4_000_000  # the line itself, and few copies of it
    last = page_of(path, writer, start_line=800, final=True).lines
    assert last == [NumberedLine(800, 7, "stderr", b"x" * (MAX_PARTIAL_LINE - 1), True)]


# Filters


@pytest.fixture
def ten(path: Path) -> LogWriter:
    """A log with the lines 0 to 9, at 100, 110, … 190 ms."""
    return write(path, [("stdout", b"line %d\n" % number, 100 + 10 * number) for number in range(10)])


@pytest.mark.parametrize("with_writer", [True, False])
def test_negative_start_line_counts_from_the_end_of_the_log(path: Path, ten: LogWriter, with_writer: bool) -> None:
    writer = ten if with_writer else None
    assert numbers(page_of(path, writer, start_line=-3, final=False)) == [7, 8, 9]
    assert numbers(page_of(path, writer, start_line=-10, final=False)) == list(range(10))
    assert numbers(page_of(path, writer, start_line=-99, final=False)) == list(range(10))
    # Before the other filters: the last five lines, and of these the later ones.
    assert numbers(page_of(path, writer, start_line=-5, start_ms=170, final=False)) == [8, 9]
    assert numbers(page_of(path, writer, start_line=-5, end_ms=140, final=False)) == []


def test_negative_start_line_counts_the_partial_lines_of_a_final_log(path: Path) -> None:
    write(path, [("stdout", b"a\nb\nc", 1), ("stderr", b"d", 2)])
    assert [line.data for line in page_of(path, start_line=-3, final=True).lines] == [b"b", b"c", b"d"]
    assert [line.data for line in page_of(path, start_line=-1, final=False).lines] == [b"b"]


def test_log_filter_start_ms_is_exclusive_and_end_ms_is_inclusive(path: Path, ten: LogWriter) -> None:
    assert numbers(page_of(path, ten, start_ms=120, final=True)) == [3, 4, 5, 6, 7, 8, 9]
    assert numbers(page_of(path, ten, start_ms=119, final=True)) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert numbers(page_of(path, ten, end_ms=120, final=True)) == [0, 1, 2]
    assert numbers(page_of(path, ten, end_ms=119, final=True)) == [0, 1]
    assert numbers(page_of(path, ten, start_ms=120, end_ms=140, final=True)) == [3, 4]


def test_log_filters_apply_to_partial_lines(path: Path) -> None:
    writer = write(path, [("stdout", b"early", 10), ("stderr", b"late", 20)])
    assert [line.data for line in page_of(path, writer, start_ms=10, final=True).lines] == [b"late"]
    assert [line.data for line in page_of(path, writer, end_ms=10, final=True).lines] == [b"early"]
    assert [line.data for line in page_of(path, writer, regex="^l", final=True).lines] == [b"late"]
    assert [line.data for line in page_of(path, writer, tail=1, final=True).lines] == [b"late"]


def test_max_lines_counts_the_lines_that_pass_the_other_filters(path: Path, ten: LogWriter) -> None:
    page = page_of(path, ten, regex="[13579]", start_ms=110, max_lines=2, final=True)
    assert (numbers(page), page.next_line, page.at_end) == ([3, 5], 6, False)
    page = page_of(path, ten, regex="[13579]", start_line=6, max_lines=2, final=True)
    assert (numbers(page), page.next_line, page.at_end) == ([7, 9], 10, True)
    # Lines that were filtered out have been passed, too.
    page = page_of(path, ten, regex="[0-4]", max_lines=100, final=False)
    assert (numbers(page), page.next_line, page.at_end) == ([0, 1, 2, 3, 4], 10, True)


@pytest.mark.parametrize("with_writer", [True, False])
def test_a_tail_is_the_last_lines_that_pass_the_other_filters(path: Path, ten: LogWriter, with_writer: bool) -> None:
    writer = ten if with_writer else None
    assert numbers(page_of(path, writer, tail=3, final=True)) == [7, 8, 9]
    assert numbers(page_of(path, writer, tail=3, regex="[0-4]", final=True)) == [2, 3, 4]
    assert numbers(page_of(path, writer, tail=3, end_ms=130, final=True)) == [1, 2, 3]
    assert numbers(page_of(path, writer, tail=3, start_line=8, final=True)) == [8, 9]
    assert numbers(page_of(path, writer, tail=3, start_line=-2, final=True)) == [8, 9]
    assert numbers(page_of(path, writer, tail=30, final=True)) == list(range(10))
    page = page_of(path, writer, tail=3, regex="[0-4]", final=True)
    assert (page.next_line, page.at_end) == (10, True)
    assert numbers(page_of(path, writer, tail=3, sources=("stderr",), final=True)) == []


@pytest.mark.parametrize("per_segment", [5, 1000])
def test_a_long_tail_is_split_into_pages(path: Path, per_segment: int) -> None:
    captured = bars_and_lines(4, 200)
    lay_out(path, captured, per_segment)
    lines = [line for line in lines_of(captured, per_segment=per_segment) if line.source != "stderr"]
    for tail in (1, 7, 50, 10_000):
        wanted = {"tail": tail, "sources": ("stdout", "build"), "max_bytes": 20_000}
        assert read_all(path, **wanted) == lines[-tail:]


def test_a_filter_by_source_keeps_the_line_numbers(path: Path) -> None:
    write(path, [("stdout", b"a\n", 1), ("stderr", b"b\nc\n", 2), ("build", b"d\n", 3), ("stdout", b"e", 4)])
    assert numbers(page_of(path, sources=("stdout",), final=True)) == [0, 4]
    assert numbers(page_of(path, sources=("stderr", "build"), final=True)) == [1, 2, 3]
    page = page_of(path, sources=("stderr",), max_lines=1, final=True)
    assert (numbers(page), page.next_line) == ([1], 2)


def test_log_page_from_beyond_the_end_is_empty_and_keeps_its_start_line(path: Path, ten: LogWriter) -> None:
    page = page_of(path, ten, start_line=50, final=False)
    assert (page.lines, page.next_line, page.at_end) == ([], 50, True)


# Gaps


def gap_line(number: int, timestamp_ms: int, missing: int, reason: str) -> NumberedLine:
    words = f"[iris: {missing} bytes of stdout are missing here: {reason}]".encode()
    return NumberedLine(number, timestamp_ms, "stdout", words, False, missing)


@pytest.fixture
def with_gaps(path: Path) -> list[NumberedLine]:
    """A log with several gaps, one of them at its end."""
    path.mkdir()
    records = [
        encode(0, 1, 0, b"a\nb"),
        encode_gap(0, 2, 3, 10, "full"),
        encode(1, 3, 0, b"c\n"),
        encode(0, 4, 13, b"d\n"),
        encode_gap(0, 5, 15, 20, "full"),
    ]
    (path / RecordBoundary(0, 0, BEGINNING).segment_name).write_bytes(b"".join(records))
    write_end(path, LogEnd((35, 2, 0), 30, 1000))
    return [
        NumberedLine(0, 1, "stdout", b"a", False),
        NumberedLine(1, 2, "stdout", b"b", True),
        gap_line(2, 2, 10, "full"),
        NumberedLine(2, 3, "stderr", b"c", False),
        NumberedLine(3, 4, "stdout", b"d", False),
        gap_line(4, 5, 20, "full"),
    ]


def test_gap_in_a_log_page_has_no_number_and_appears_once(path: Path, with_gaps: list[NumberedLine]) -> None:
    page = page_of(path, final=True)
    expected = list(with_gaps)
    expected[1] = NumberedLine(1, 1, "stdout", b"b", True)
    assert [(line.number, line.source, line.data, line.missing_bytes) for line in page.lines] == [
        (line.number, line.source, line.data, line.missing_bytes) for line in with_gaps
    ]
    assert (page.next_line, page.at_end) == (4, True)
    for max_lines in (1, 2, 3, 4, 5):
        got = list(pages(path, max_lines=max_lines))
        assert [line for page in got for line in page.lines] == page.lines
        assert got[-1].next_line == 4
    for max_bytes in range(1, 300, 10):
        assert read_all(path, max_bytes=max_bytes) == page.lines
    assert [line.data for line in page_of(path, start_line=3, final=True).lines] == [b"d", with_gaps[5].data]
    # A reader of a live log asks again and again from its end: a gap there waits for the line after it.
    assert [line.missing_bytes for line in page_of(path, final=False).lines] == [0, 0, 10, 0, 0]
    assert page_of(path, start_line=4, final=False).lines == []


def test_gaps_of_a_log_pass_all_filters_except_the_source_filter(path: Path, with_gaps: list[NumberedLine]) -> None:
    assert [line.missing_bytes for line in page_of(path, regex="none", final=True).lines] == [10, 20]
    assert [line.missing_bytes for line in page_of(path, start_ms=100, final=True).lines] == [10, 20]
    assert [line.missing_bytes for line in page_of(path, sources=("stderr",), final=True).lines] == [0]
    assert [line.missing_bytes for line in page_of(path, tail=1, final=True).lines] == [0, 20]
    assert [line.missing_bytes for line in page_of(path, tail=2, final=True).lines] == [10, 0, 0, 20]


def test_log_page_that_starts_before_the_oldest_line_begins_at_the_oldest_line(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"line %d\n" % number, number) for number in range(10_000)]
    writer = LogWriter(path, max_bytes=100 * KIB)
    for item in captured:
        writer.append(*item)
    first = writer.segments[0]
    oldest = b"".join(data for _, data, _ in captured)[: first.offsets[0]].count(b"\n")
    assert oldest > 1000
    for given in (writer, None):
        # The dropped lines were not counted, so the numbers jump at the gap.
        number = first.position
        for start_line in (0, 1, number - 1):
            page = page_of(path, given, start_line=start_line, max_lines=2, final=False)
            assert [(line.number, line.missing_bytes) for line in page.lines] == [
                (number, first.offsets[0]),
                (number, 0),
                (number + 1, 0),
            ]
            assert page.lines[1].data == b"line %d" % oldest
            assert page.next_line == number + 2
        page = page_of(path, given, start_line=number + 5, max_lines=1, final=False)
        assert [(line.number, line.data) for line in page.lines] == [(number + 5, b"line %d" % (oldest + 5))]
        assert page_of(path, given, start_line=-1, final=False).lines[0].data == b"line 9999"
        lines = read_all(path, given, final=False, start_line=number, max_bytes=5000)
        assert [line.number for line in lines[1:]] == list(range(number, number + 10_000 - oldest))
    writer.close()


def test_line_numbers_of_a_log_do_not_change_when_counted_lines_are_dropped(path: Path) -> None:
    writer = LogWriter(path, max_bytes=100 * KIB)
    for number in range(10_000):
        writer.append("stdout", b"line %d\n" % number, number)
        if not number % 500:
            assert [line.number for line in page_of(path, writer, start_line=-1, final=False).lines] == [number]
    gap, *lines = read_all(path, writer, final=False)
    assert gap.missing_bytes == writer.segments[0].offsets[0] > 0
    assert [line.data for line in lines] == [b"line %d" % line.number for line in lines]
    assert lines[-1].number == 9999
    writer.close()


@pytest.mark.parametrize("max_bytes", [100 * KIB, 1 << 30])
def test_log_pages_with_a_small_reading_limit_reach_a_line_deep_in_a_log(path: Path, max_bytes: int) -> None:
    writer = LogWriter(path, max_bytes=max_bytes)
    writer.append("stderr", b"a long prompt " * 1000, 0)
    for number in range(100):
        writer.append("stdout", b"line %d\n" % number * 500, number)
    writer.close()
    (last,) = page_of(path, start_line=-1, final=False).lines
    for given in (writer, None):
        start_line = last.number - 10
        for _ in range(1000):
            page = read_page(path, given, start_line=start_line, final=True, look_bytes=1)
            if page.lines:
                break
            assert (page.next_line, page.at_end) == (start_line, False)
        assert [line.data for line in page.lines][:11] == [b"line 99"] * 11
        assert page.lines[0].number == start_line


def test_pages_of_a_log_that_are_read_at_the_same_time_number_its_lines_alike(path: Path) -> None:
    captured = [*bars_and_lines(5, 3000), *random_capture(6, 3000, 1000)]
    writer = write(path, captured, max_bytes=32 << 20)
    assert len(writer.segments) > 1
    segments = [place.position for place in writer.segments]
    expected = lines_of(captured, segments=segments)
    for given in (writer, None):
        starts = [len(expected) - 1, -7, len(expected) // 2, 0, -len(expected)]
        reading = {
            number: read_page_steps(path, given, LogFilter(max_lines=3), start_line=start, final=True)
            for number, start in enumerate(starts)
        }
        pages = {}
        while reading:
            for number, steps in list(reading.items()):
                try:
                    next(steps)
                except StopIteration as done:
                    pages[number] = done.value
                    del reading[number]
        for number, start in enumerate(starts):
            assert pages[number].lines == expected[start:][:3]


def test_line_numbers_of_a_removed_log_are_not_used_for_a_new_log_in_its_directory(path: Path) -> None:
    for size in (3, 5):
        lines = [("stdout", b"x" * size + b"\n", 1)] * 10
        captured: list[Captured] = [(source, data * 100_000, ms) for source, data, ms in lines]
        write(path, captured)
        (last,) = page_of(path, start_line=-1, final=True).lines
        assert (last.number, last.data) == (999_999, b"x" * size)
        (line,) = page_of(path, start_line=900_000, max_lines=1, final=True).lines
        assert (line.number, line.data) == (900_000, b"x" * size)
        shutil.rmtree(path)


def test_line_numbers_continue_after_a_damaged_part_of_a_log(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"%d\nthe beginning of " % number, number) for number in range(30)]
    paths = lay_out(path, captured, 10)
    lines = lines_of(captured, per_segment=10)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:100] + b"\xff" + whole[101:])
    segments = list_segments(path)
    got = read_all(path)
    assert [line for line in got if line.number > segments[2].line] == lines[segments[2].line + 1 :]
    (gap,) = [line for line in got if line.missing_bytes]
    assert gap.number == segments[2].line
    counted = [line for line in got if not line.missing_bytes and line.data != b"the beginning of "]
    assert [line.number for line in counted] == [*range(12), *range(20, 30)]
    for max_lines in range(1, 23):
        assert read_all(path, max_lines=max_lines) == got
    # What cannot be read is all of what is missing.
    assert len(bytes_of(got, "stdout")) + gap.missing_bytes == len(written(captured, "stdout"))


# The answer


def page_message(
    path: Path,
    writer: LogWriter | None,
    wanted: cluster_pb2.Worker.FetchLogsFilter,
    attempt_id: int,
    final: bool,
) -> cluster_pb2.Worker.FetchTaskLogsResponse:
    return finish(fetch_page_steps(path, writer, wanted, attempt_id, final))


def test_fetch_task_logs_returns_lines_of_a_page(path: Path) -> None:
    writer = write(path, [("stdout", b"fine\n\xff\xfe\n", 1), ("stderr", b"caf\xc3\xa9", 2)])
    filter_message = cluster_pb2.Worker.FetchLogsFilter
    message = page_message(path, writer, filter_message(), 3, True)
    assert [(entry.data, entry.raw, entry.partial) for entry in message.logs] == [
        ("fine", b"", False),
        ("\ufffd\ufffd", b"\xff\xfe", False),
        ("café", b"", True),
    ]
    assert (message.next_line, message.at_end, message.complete, message.attempt_id) == (3, True, True, 3)
    assert not page_message(path, writer, filter_message(), 3, False).complete
    message = page_message(path, writer, filter_message(start_line=-1, sources=["stderr"]), 3, True)
    assert [entry.data for entry in message.logs] == ["café"]
    with pytest.raises(InvalidArgumentError, match="sources must contain only stdout, stderr, build, got 'nowhere'"):
        page_message(path, writer, filter_message(sources=["nowhere"]), 3, True)


def test_fetch_task_logs_returns_gaps_as_messages(path: Path, with_gaps: list[NumberedLine]) -> None:
    message = page_message(path, None, cluster_pb2.Worker.FetchLogsFilter(), 0, True)
    assert [entry.missing_bytes for entry in message.logs] == [0, 0, 10, 0, 0, 20]
    assert message.logs[2].data == "[iris: 10 bytes of stdout are missing here: full]"
    assert message.next_line == 4


# While it is being written


def runs_of_lines(page: LinePage) -> Iterator[list[NumberedLine]]:
    """Yield each gap of a page, and the lines between two gaps."""
    for is_line, group in itertools.groupby(page.lines, lambda line: not line.missing_bytes):
        lines = list(group)
        yield from [lines] if is_line else [[gap] for gap in lines]


def find_lines(lines: list[NumberedLine], expected: list[NumberedLine], start: int, after_gap: set[Source]) -> int:
    """Return the index from `start` on at which the lines occur, whatever their numbers. The first line of a source
    after a gap may lack its beginning.
    """
    for index in range(start, len(expected) - len(lines) + 1):
        cut = set(after_gap)
        for line, whole in zip(lines, expected[index : index + len(lines)], strict=True):
            # This comparison excludes almost all lines, and is much cheaper than the next one.
            if line.source != whole.source or not whole.data.endswith(line.data):
                break
            is_cut = line.source in cut and whole.data.endswith(line.data)
            if line != replace(whole, number=line.number, data=line.data if is_cut else whole.data):
                break
            cut.discard(line.source)
        else:
            return index
    raise AssertionError(f"the lines {lines[:3]}... are not expected after line {start}")


@pytest.mark.parametrize("max_bytes", [600 * KIB, 2**40])
def test_readers_of_a_growing_log_see_a_prefix_of_it(path: Path, max_bytes: int) -> None:
    captured = random_capture(5, records=2500, longest=300)
    writer = LogWriter(path, max_bytes=max_bytes)
    is_limited = max_bytes < 2**40
    # Where segments will begin is known only afterwards; these lines are too short for it to matter.
    expected = lines_of(captured)
    ended = len(lines_of(captured, final=False))
    start, caught_up, done = threading.Barrier(3), threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def write_all() -> None:
        try:
            start.wait()
            for number, (source, data, timestamp_ms) in enumerate(captured):
                if number == 500:  # so that the reader has met the end of a live log, however threads are scheduled
                    caught_up.wait()
                writer.append(source, data, timestamp_ms)
        finally:
            done.set()

    def read_tails() -> None:
        # Readers who come when they like, and start near the end.
        start.wait()
        try:
            # The pause leaves the lock of the interpreter to the writer: on a busy machine, each change of the thread
            # that holds the lock takes milliseconds.
            while not done.wait(0.001):
                for wanted in ({"start_line": -20}, {"tail": 20}):
                    page = page_of(path, writer, final=False, **wanted)  # type: ignore[arg-type]
                    lines = [line for line in page.lines if not line.missing_bytes]
                    if is_limited:  # what was to be read may have been dropped meanwhile
                        assert len(lines) <= 20
                        find_lines(lines, expected, 0, set(SOURCES))
                    else:
                        assert len(lines) == min(20, page.next_line)
                        assert lines == expected[page.next_line - len(lines) : page.next_line]
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=write_all), threading.Thread(target=read_tails)]
    try:
        for thread in threads:
            thread.start()
        start.wait()
        next_line = at = 0
        gaps: set[Source] = set()  # Sources that miss something before their next line, which may be in a later page.
        while True:
            final = done.is_set()  # before the page is read: what is complete then is all in it
            page = page_of(path, writer, start_line=next_line, max_lines=700, final=final)
            if not is_limited:
                assert page.next_line == next_line + len(page.lines)
            for run in runs_of_lines(page):
                if run[0].missing_bytes:
                    gaps.add(run[0].source)
                    continue
                assert [line.number for line in run] == list(range(run[0].number, run[0].number + len(run)))
                assert run[0].number >= next_line if gaps else run[0].number == next_line
                found = find_lines(run, expected, at, gaps)
                assert gaps or found == at
                next_line, at = run[-1].number + 1, found + len(run)
                gaps -= {line.source for line in run}
            assert page.next_line >= next_line
            next_line = page.next_line
            assert final or at <= ended
            if page.at_end:
                caught_up.set()
            if page.at_end and final:
                break
    finally:
        caught_up.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        writer.close()
    assert at == len(expected)
    assert is_limited or next_line == at
    assert failures == []
