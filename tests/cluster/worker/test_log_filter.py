"""A filtered reader returns the lines that a simple model selects, wherever it starts."""

from __future__ import annotations

import random
import re
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import re2
from support.log_model import (
    Captured,
    bars_and_lines,
    bytes_of,
    lay_out,
    lines_of,
    offsets_of,
    random_capture,
    read_all,
    write,
    written,
)

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.filters import FilteredReader, LogFilter, parse_filter
from iris.cluster.logs.reading.line_index import LineBlock
from iris.cluster.logs.reading.line_pages import NumberedLine
from iris.cluster.logs.reading.numbered_lines import MAX_PARTIAL_LINE
from iris.cluster.logs.records import (
    BEGINNING,
    GAP,
    HEADER,
    SOURCE_ID,
    SOURCES,
    Offsets,
    decode,
    encode,
    encode_gap,
    parse_gap,
)
from iris.cluster.logs.segments import LogEnd, RecordBoundary, write_end
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2

KIB = 1024
MEBIBYTE = 1024 * KIB
Given = tuple[str, int, bytes]  # source, time, a line with its newline


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def by_hand(lines: Iterable[NumberedLine], wanted: LogFilter) -> list[Given]:
    """Return the lines that a filter selects, computed by a simple model."""
    kept: list[Given] = []
    for line in lines:
        in_time = (not wanted.start_ms or line.timestamp_ms > wanted.start_ms) and (
            not wanted.end_ms or line.timestamp_ms <= wanted.end_ms
        )
        found = re.search(wanted.regex, line.data.decode(errors="replace"))
        if in_time and found and line.source in (wanted.sources or SOURCES):
            kept.append((line.source, line.timestamp_ms, line.data + b"\n" * (not line.partial)))
    if wanted.tail:
        return kept[-wanted.tail :]
    return kept[: wanted.max_lines or None]


def given(records: bytes) -> list[Given]:
    """Return the lines in records, without gaps and empty records."""
    lines: list[Given] = []
    for kind, timestamp_ms, _, payload in decode(records):
        if not kind & GAP:
            pieces = payload.splitlines(keepends=True) if b"\r" not in payload else split_at_newlines(payload)
            lines += [(SOURCES[kind], timestamp_ms, piece) for piece in pieces]
    return lines


def split_at_newlines(payload: bytes) -> list[bytes]:
    *lines, rest = payload.split(b"\n")
    return [line + b"\n" for line in lines] + [rest] * bool(rest)


def filtered(
    path: Path, wanted: LogFilter, *, writer: LogWriter | None = None, offsets: Offsets = BEGINNING, final: bool = True
) -> list[Given]:
    return given(read_all(FilteredReader(path, offsets, writer=writer, log_filter=wanted), final=final))


def some_filters(captured: Sequence[Captured], rng: random.Random) -> list[LogFilter]:
    times = [timestamp_ms for _, _, timestamp_ms in captured]
    filters = []
    for _ in range(40):
        fields: dict[str, Any] = {}
        if rng.random() < 0.4:
            fields["start_ms"] = rng.choice(times)
        if rng.random() < 0.4:
            fields["end_ms"] = rng.choice(times)
        if rng.random() < 0.5:
            fields["regex"] = rng.choice(("word", "^$", "(word ){3}", "^[^w]", "[0-4]\\b", "x|y", "%", "\ufffd"))
        if rng.random() < 0.4:
            fields["sources"] = tuple(rng.sample(SOURCES, rng.randint(1, 3)))
        if rng.random() < 0.7:
            fields[rng.choice(("tail", "max_lines"))] = rng.choice((1, 2, 3, 10, 100, 10**6))
        filters.append(LogFilter(**fields))
    return filters


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("per_segment", [3, 30, 1000])
def test_log_filter_returns_the_same_lines_as_a_simple_model(path: Path, seed: int, per_segment: int) -> None:
    captured = (random_capture if seed % 2 else bars_and_lines)(seed, 150, *([8] if seed % 2 else []))
    lay_out(path, captured, per_segment)
    lines = lines_of(captured, per_segment=per_segment)
    unfinished = lines_of(captured, per_segment=per_segment, final=False)
    for wanted in some_filters(captured, random.Random(seed)):
        expected = by_hand(lines, wanted)
        if is_by_source(wanted):  # then records come as they are
            for source in wanted.sources or SOURCES:
                records = decode(read_all(FilteredReader(path, log_filter=wanted)))
                data = b"".join(payload for kind, _, _, payload in records if SOURCES[kind] == source)
                assert data == written(captured, source)
            continue
        assert filtered(path, wanted) == expected, wanted
        if not wanted.tail:
            assert filtered(path, wanted, final=False) == by_hand(unfinished, wanted), wanted


def is_by_source(wanted: LogFilter) -> bool:
    return wanted == LogFilter(sources=wanted.sources)


@pytest.mark.parametrize("seed", range(4))
def test_log_filter_returns_the_same_lines_while_the_log_is_written(path: Path, seed: int) -> None:
    # What passes, and in which order, does not depend on when it is read.
    captured = bars_and_lines(seed, 200) if seed % 2 else random_capture(seed, 200, 300)
    rng = random.Random(seed)
    for number, wanted in enumerate(some_filters(captured, rng)[:12]):
        if wanted.tail or is_by_source(wanted):
            continue
        directory = path.with_name(f"log{number}")
        writer = LogWriter(directory, max_bytes=2**40)
        reader = FilteredReader(directory, writer=writer, log_filter=wanted)
        records = b""
        for source, data, timestamp_ms in captured:
            writer.append(source, data, timestamp_ms)
            if rng.random() < 0.3:
                records += read_all(reader, final=False, max_bytes=rng.choice((1, 1000, 1 << 20)))
        writer.close()
        records += read_all(reader)
        assert given(records) == by_hand(lines_of(captured), wanted)
        assert reader.exhausted == bool(0 < wanted.max_lines <= len(given(records)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_segment", [3, 30])
def test_filtered_log_reader_can_continue_where_another_reader_stopped(path: Path, seed: int, per_segment: int) -> None:
    captured = bars_and_lines(seed, 120) if seed % 2 else random_capture(seed, 120, 8)
    lay_out(path, captured, per_segment)
    lines = lines_of(captured, per_segment=per_segment)
    for wanted in some_filters(captured, random.Random(seed)):
        if wanted.tail or wanted.max_lines or is_by_source(wanted):
            continue
        records, reader = b"", FilteredReader(path, log_filter=wanted)
        while True:
            piece = reader.read(100, final=True)
            if not piece:
                break
            records += piece
            reader.close()
            reader = FilteredReader(path, reader.offsets, log_filter=wanted)
        assert given(records) == by_hand(lines, wanted)
        assert reader.offsets == offsets_of(captured)


@pytest.mark.parametrize("seed", range(4))
def test_log_reader_that_stopped_at_max_lines_is_continued_by_another_reader(path: Path, seed: int) -> None:
    captured = random_capture(seed, 120, 8)
    lay_out(path, captured, 10)
    for fields in ({}, {"regex": "word"}, {"sources": ("stderr", "build")}):
        expected = by_hand(lines_of(captured, per_segment=10), LogFilter(**fields))  # type: ignore[arg-type]
        lines: list[Given] = []
        offsets = BEGINNING
        while True:
            reader = FilteredReader(path, offsets, log_filter=LogFilter(**fields, max_lines=7))  # type: ignore[arg-type]
            page = given(read_all(reader))
            lines += page
            assert reader.exhausted == (len(page) == 7)
            if not reader.exhausted:
                break
            assert reader.read(1 << 20, final=True) == b""
            offsets = reader.offsets
        assert sorted(lines) == sorted(expected)
        for source in SOURCES:
            assert [line for line in lines if line[0] == source] == [line for line in expected if line[0] == source]


def test_adjacent_matching_lines_become_one_record(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"a1\na2\nb3\na4\na", 5), ("stdout", b"5\nb\n", 6)]
    write(path, captured)
    records = read_all(FilteredReader(path, log_filter=LogFilter(regex="^a")))
    assert [tuple(record) for record in decode(records)] == [
        (0, 5, 0, b"a1\na2\n"),
        (0, 5, 9, b"a4\n"),
        (0, 6, 12, b"a5\n"),
    ]


def test_a_line_has_the_time_of_the_record_that_completed_it(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"first\nsec", 10), ("stdout", b"ond\nthird", 20), ("stderr", b"x", 30)]
    write(path, captured)
    assert filtered(path, LogFilter(start_ms=10)) == [
        ("stdout", 20, b"second\n"),
        ("stdout", 20, b"third"),
        ("stderr", 30, b"x"),
    ]
    assert filtered(path, LogFilter(start_ms=10, end_ms=20)) == [("stdout", 20, b"second\n"), ("stdout", 20, b"third")]
    assert filtered(path, LogFilter(end_ms=19)) == [("stdout", 10, b"first\n")]


def test_a_filter_by_source_returns_the_original_records(path: Path) -> None:
    captured: list[Captured] = [
        ("stdout", b"no newline", 1),
        ("stderr", b"un", 2),
        ("build", b"x", 3),
        ("stderr", b"f", 4),
    ]
    writer = LogWriter(path)
    reader = FilteredReader(path, writer=writer, log_filter=LogFilter(sources=("stderr", "build")))
    for item in captured:
        writer.append(*item)
    records = [tuple(record) for record in decode(read_all(reader, final=False))]
    assert records == [(1, 2, 0, b"un"), (2, 3, 0, b"x"), (1, 4, 2, b"f")]
    assert reader.offsets == (10, 3, 1)
    writer.append("stdout", b"not wanted", 5)
    assert read_all(reader, final=False) == b""
    assert reader.offsets == (20, 3, 1)
    writer.close()


# Gaps


def test_gaps_of_a_log_pass_every_log_filter(path: Path) -> None:
    path.mkdir()
    records = encode(0, 5, 0, b"be") + encode_gap(0, 6, 2, 100, "lost") + encode(0, 7, 102, b"fore\nx\n")
    records += encode_gap(1, 8, 0, 5, "lost")
    (path / RecordBoundary(0, 0, BEGINNING).segment_name).write_bytes(records)
    write_end(path, LogEnd((109, 5, 0), 105, 1000))
    for wanted, lines, gaps in (
        (LogFilter(regex="."), [b"be", b"fore\n", b"x\n"], [0, 1]),
        (LogFilter(regex="^be"), [b"be"], [0, 1]),
        (LogFilter(start_ms=6), [b"fore\n", b"x\n"], [0, 1]),
        (LogFilter(regex="nothing", start_ms=100, sources=("stdout",)), [], [0]),
        (LogFilter(sources=("stderr",)), [], [1]),
        (LogFilter(tail=1), [b"x\n"], [1]),
        (LogFilter(tail=2), [b"fore\n", b"x\n"], [0, 1]),
        (LogFilter(tail=100), [b"be", b"fore\n", b"x\n"], [0, 1]),
        (LogFilter(max_lines=1), [b"be"], []),
        (LogFilter(max_lines=2), [b"be", b"fore\n"], [0]),
    ):
        reader = FilteredReader(path, log_filter=wanted)
        got = read_all(reader)
        assert [line for _, _, line in given(got)] == lines, wanted
        told = [(kind & ~GAP, parse_gap(payload)) for kind, _, _, payload in decode(got) if kind & GAP]
        assert told == [(source, ((100, 5)[source], "lost")) for source in gaps], wanted
        if wanted.sources != ("stderr",) or gaps:
            assert reader.missing >= sum(missing for _, (missing, _) in told)


def test_tail_of_a_log_whose_beginning_was_dropped_has_no_gap(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"line %d\n" % number, number) for number in range(10_000)]
    writer = LogWriter(path, max_bytes=100 * KIB)
    for item in captured:
        writer.append(*item)
    kept = int(given(read_all(FilteredReader(path, log_filter=LogFilter()), final=False))[0][2].split()[1])
    assert 0 < kept < 10_000
    for log_writer in (writer, None):
        for tail in (1, 100, 10_000 - kept - 1, 10_000 - kept):
            reader = FilteredReader(path, writer=log_writer, log_filter=LogFilter(tail=tail))
            records = read_all(reader, final=False)
            assert [line for _, _, line in given(records)] == [data for _, data, _ in captured[-tail:]]
            assert reader.missing == 0
        reader = FilteredReader(path, writer=log_writer, log_filter=LogFilter(tail=10**6))
        records = read_all(reader, final=False)
        assert len(given(records)) == 10_000 - kept
        assert reader.missing == writer.missing
    writer.close()


# Tails


def test_reader_of_a_log_tail_continues_with_new_lines(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(20):
        writer.append("stdout", b"%d\n" % number, number)
    writer.append("stdout", b"unfinished", 20)
    reader = FilteredReader(path, writer=writer, log_filter=LogFilter(tail=3, regex="[02468]$|unf"))
    assert [line for _, _, line in given(read_all(reader, final=False))] == [b"14\n", b"16\n", b"18\n"]
    writer.append("stdout", b" no more\nodd 21\n22\n", 21)
    assert [line for _, _, line in given(read_all(reader, final=False))] == [b"unfinished no more\n", b"22\n"]
    writer.append("stderr", b"end 8", 22)
    assert read_all(reader, final=False) == b""
    writer.close()
    assert [line for _, _, line in given(read_all(reader))] == [b"end 8"]


def test_a_tail_counts_only_lines_after_the_given_offsets(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"%03d\n" % number, number) for number in range(300)]
    lay_out(path, captured, 20)
    for offset, tail, expected in ((0, 5, 5), (1196, 5, 1), (1184, 3, 3), (600, 1000, 150)):
        lines = filtered(path, LogFilter(tail=tail), offsets=(offset, 0, 0))
        assert [line for _, _, line in lines] == [data for _, data, _ in captured[-expected:]]


def test_the_tail_of_a_long_log_is_searched_from_its_end(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"line %d\n" % number * 100, number) for number in range(400)]
    paths = lay_out(path, captured, 20)
    for early in paths[:-4]:
        early.write_bytes(b"damaged")
    expected = by_hand(lines_of(captured, per_segment=20), LogFilter(tail=1900))
    assert filtered(path, LogFilter(tail=1900)) == expected
    reader = FilteredReader(path, log_filter=LogFilter(tail=3))
    started = reader.read(1 << 20, final=True)
    assert len(given(started)) == 3
    assert reader.missing == 0


def test_tail_of_a_log_needs_little_memory(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(300):
        writer.append("stdout", b"0123456789" * 10_000 + b"\n" * 1000, number)
    tracemalloc.start()
    try:
        for log_writer in (writer, None):
            reader = FilteredReader(path, writer=log_writer, log_filter=LogFilter(tail=10**9, regex="no such text"))
            while reader.read(1 << 20, final=False):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        writer.close()
    assert peak < 8_000_000


# Much that does not pass


def test_empty_records_contain_the_offsets_up_to_which_a_filter_has_read(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(80):
        writer.append("stdout", b"nothing of it\n" * 40_000, number)
    writer.append("stderr", b"at last\n", 1000)
    for wanted, looked in (
        (LogFilter(regex="last"), 2),
        (LogFilter(start_ms=500), 0),  # the index knows
        (LogFilter(sources=("stderr",)), 1),  # segments without it are passed over
        (LogFilter(tail=1, regex="last"), 0),  # it begins at the end
    ):
        reader = FilteredReader(path, writer=writer, log_filter=wanted)
        answers = []
        while answer := reader.read(1 << 20, final=False):
            answers.append((list(decode(answer)), reader.offsets))
        *marks, (records, _) = answers
        assert [(record.kind, record.payload) for record in records if record.payload] == [(1, b"at last\n")]
        assert len(marks) == looked
        for empty, offsets in marks:
            assert {record.payload for record in empty} == {b""}
            for record in empty:
                assert record.offset == offsets[record.kind]
                again = FilteredReader(path, offsets, writer=writer, log_filter=wanted)
                assert b"at last" in read_all(again, final=False)
    writer.close()


def test_matching_log_lines_are_preceded_by_the_offsets_of_the_other_sources(path: Path) -> None:
    """A reader that reconnects there, with any filter, gets everything after the line and nothing before it."""
    writer = LogWriter(path)
    block = b"nothing of it\n" * 5000
    for number in range(100):
        writer.append("stdout", block, number)
        writer.append("stderr", b"something\n", number)
    for wanted in (LogFilter(regex="some"), LogFilter(regex="some", start_ms=50), LogFilter(regex="some", tail=7)):
        reader = FilteredReader(path, writer=writer, log_filter=wanted)
        records = list(decode(read_all(reader, final=False)))
        places = [0, 0]
        for record in records:
            places[record.kind] = record.offset
            if record.payload:
                assert places == [(record.timestamp_ms + 1) * len(block), record.timestamp_ms * len(b"something\n")]
        assert len([record for record in records if record.payload]) == wanted.tail or 100 - wanted.start_ms
    for wanted in (LogFilter(sources=("stderr",)), LogFilter(sources=("stderr",), regex="some", tail=5)):
        reader = FilteredReader(path, writer=writer, log_filter=wanted)
        place = 0
        for record in decode(read_all(reader, final=False)):
            if record.kind == 0:
                place = record.offset
            else:  # what nobody asked for is known as of the beginning of a chunk
                assert 0 <= (record.timestamp_ms + 1) * len(block) - place <= 2 * MEBIBYTE
    writer.close()


@pytest.mark.parametrize("wanted", [LogFilter(regex="1"), LogFilter(regex="1", tail=2)], ids=["regex", "tail"])
def test_lines_after_the_last_match_of_a_record_are_read_before_the_next_source(path: Path, wanted: LogFilter) -> None:
    """One record of stdout contains a matching line and later lines that do not match. The next matching line is a line
    of stderr. A reader that continues after the line of stderr must not get the later lines of stdout."""
    writer = LogWriter(path)
    stdout = b"line 21\nline 22\n"
    writer.append("stdout", stdout, 1)
    writer.append("stderr", b"error 21\n", 1)
    records = list(decode(read_all(FilteredReader(path, writer=writer, log_filter=wanted), final=False)))
    assert [(record.kind, record.offset, record.payload) for record in records] == [
        (0, 0, b"line 21\n"),
        (0, len(stdout), b""),
        (1, 0, b"error 21\n"),
    ]
    writer.close()


def test_a_filter_by_source_skips_segments_without_that_source(path: Path) -> None:
    captured: list[Captured] = [("stderr", b"one\n", 1)]
    captured += [("stdout", b"%03d\n" % number, number) for number in range(99)]
    captured += [("stderr", b"two\n", 2)]
    paths = lay_out(path, captured, 10)
    for between in paths[1:-1]:
        between.write_bytes(b"damaged")
    for wanted in (LogFilter(sources=("stderr",)), LogFilter(sources=("stderr",), regex=".")):
        reader = FilteredReader(path, log_filter=wanted)
        assert [line for _, _, line in given(read_all(reader))] == [b"one\n", b"two\n"]
        assert (reader.missing, reader.offsets) == (0, (396, 8, 0))


def test_segments_before_start_ms_are_not_read(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(400):
        writer.append("stdout", b"x" * 65_000 + b"\n", number)
    early = path / writer.segments[0].segment_name
    with early.open("r+b") as file:
        file.write(bytes(8 << 20))
    reader = FilteredReader(path, writer=writer, log_filter=LogFilter(start_ms=390))
    assert [timestamp_ms for _, timestamp_ms, _ in given(read_all(reader, final=False))] == list(range(391, 400))
    assert reader.missing == 0
    # From a place that is further on, it is that place that counts.
    reader = FilteredReader(path, (65_001 * 395, 0, 0), writer=writer, log_filter=LogFilter(start_ms=390))
    assert [timestamp_ms for _, timestamp_ms, _ in given(read_all(reader, final=False))] == list(range(395, 400))
    writer.close()


def test_log_line_is_whole_even_if_it_begins_before_an_index_point(path: Path) -> None:
    """Lines before start_ms are not read, except a line that begins before and ends after."""
    writer = LogWriter(path)
    longest = (1 << 20) - HEADER.size
    for number in range(16):  # a segment and a point of the index end with the last of them
        writer.append("stdout", b"x" * (longest - 7) + b"\nERROR ", number + 1)
    writer.append("stdout", b"disk on fire\n", 100)
    assert writer.index.points.before(0, 16).position == writer.segments[-1].position
    for regex in ("ERROR", ""):
        for live in (writer, None):
            reader = FilteredReader(path, writer=live, log_filter=LogFilter(start_ms=16, regex=regex))
            records = list(decode(read_all(reader, final=False)))
            assert [(record.kind, record.payload) for record in records if record.payload] == [
                (0, b"ERROR disk on fire\n")
            ]
    writer.close()


def test_filtering_a_line_of_a_hundred_megabytes_needs_little_memory(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(1600):
        writer.append("stdout", b"0123456789abcdef" * 4096, number)
    writer.append("stdout", b"\nnext\n", 1600)
    writer.close()
    tracemalloc.start()
    try:
        reader = FilteredReader(path, log_filter=LogFilter(regex="[a-f]"))
        lengths: list[int] = []
        while records := reader.read(1 << 20, final=True):
            lengths += [len(piece) for _, _, piece in given(records)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(lengths) == 1600 * 65_536 + len(b"\nnext\n")
    assert all(MAX_PARTIAL_LINE <= length < 2 * MAX_PARTIAL_LINE for length in lengths[:-2])
    assert peak < 16_000_000


# What a filter can be


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_lines": -1}, "max_lines must be a whole number from 0 to 2147483647, got -1"),
        ({"tail": -5}, "tail must be a whole number from 0 to 2147483647, got -5"),
        ({"start_ms": -1}, "start_ms must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"end_ms": -1}, "end_ms must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"sources": ["stdout", "stdin"]}, "sources must contain only stdout, stderr, build, got 'stdin'"),
        ({"tail": 2, "max_lines": 3}, "tail and max_lines are mutually exclusive, got tail=2 and max_lines=3"),
        ({"regex": "(unclosed"}, r"the pattern '\(unclosed' is invalid: "),
    ],
)
def test_invalid_log_filter_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse_filter(cluster_pb2.Worker.FetchLogsFilter(**fields))


def test_log_filter_without_conditions_selects_the_whole_log() -> None:
    message = cluster_pb2.Worker.FetchLogsFilter
    assert parse_filter(message()).is_open
    assert parse_filter(message(sources=SOURCES)).is_open
    for closed in (message(tail=1), message(regex="."), message(sources=["build"]), message(end_ms=5)):
        assert not parse_filter(closed).is_open


@pytest.mark.parametrize("regex", ["(", "a(?=b)", "(a)\\1", "*"])
def test_pattern_of_a_log_filter_with_invalid_re2_syntax_is_refused(
    regex: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        LogFilter(regex=regex)
    reason = (
        str(caught.value).removeprefix(f"the pattern {regex!r} is invalid: ").removesuffix(" (expected RE2 syntax)")
    )
    assert reason
    assert reason != str(caught.value)
    assert capfd.readouterr() == ("", "")  # RE2 itself would write it to the worker's stderr


LINES = [
    b"an error",
    b"ERROR",
    b"warning 5",
    "un été".encode(),
    b"bad \xff byte",
    b"nul \0 byte",
    b"",
    b"two words",
    b"x",
]


@pytest.mark.parametrize(
    ("regex", "found"),
    [
        ("error", [0]),
        ("(?i)error", [0, 1]),
        ("^warn.*[0-9]$", [2]),
        ("é", [3]),
        ("[àé]t", [3]),
        ("(?i)É", [3]),
        ("^bad . byte$", [4]),
        ("^nul \\x00 byte$", [5]),
        ("^$", [6]),
        ("\\A\\z", [6]),
        ("\\Atwo", [7]),
        ("byte\\z", [4, 5]),
        ("(?-m)^x$", [8]),
        ("^.$", [8]),
        ("x*", list(range(9))),
        ("(?s)r.E", []),
        ("r\\CE", []),
        ("r\\sE", []),
        ("r[^a]E", []),
        ("error\nERROR", []),
        ("\n", []),
        ("nothing like it", []),
    ],
)
@pytest.mark.parametrize("bad_bytes", [True, False])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_pattern_of_a_log_filter_is_searched_in_the_text_of_a_line(
    regex: str, found: list[int], bad_bytes: bool, end: bytes
) -> None:
    lines = [line if bad_bytes else line.replace(b"\xff", b"?") for line in LINES]
    data = b"\n".join(lines) + end
    wanted = LogFilter(regex=regex)
    block = LineBlock(0, 0, 1, 0, data)
    matching = list(wanted.matching(block))
    assert [number for number, _, _ in matching] == found
    assert [data[start:stop].rstrip(b"\n") for _, start, stop in matching] == [lines[number] for number in found]
    assert wanted.count(block) == len(found)


def test_searching_a_block_of_lines_finds_the_same_lines_as_searching_each_line(path: Path) -> None:
    rng = random.Random(5)
    atoms = ("a", "b", "^", "$", ".", "[^a]", "\\s", "\\b", "(a|b)", "a*", "\\B", "(?i)A", "b+?", "(?s:.)", "\\W", "")
    for _ in range(2000):
        regex = "".join(rng.choices(atoms, k=rng.randint(1, 4)))
        data = bytes(rng.choices(b"aab \n\n", k=rng.randint(1, 30)))
        lines = data.split(b"\n")[: None if data[-1:] != b"\n" else -1]
        expected = [number for number, line in enumerate(lines) if re2.search(regex, line)]
        got = [number for number, _, _ in LogFilter(regex=regex).matching(LineBlock(0, 0, 1, 0, data))]
        assert got == expected, (regex, data)


def test_search_of_a_log_without_a_match_is_fast(path: Path) -> None:
    data = b"a line of a log, of some length, as they are\n" * 20_000
    block = LineBlock(0, 0, 1, 0, data)
    wanted = LogFilter(regex="not there")
    started_s = time.thread_time()  # The CPU time does not depend on what else the machine does.
    for _ in range(20):
        assert wanted.count(block) == 0
    assert time.thread_time() - started_s < 5  # 18 MB; line by line it is a second


def test_filter_that_selects_all_lines_returns_the_written_bytes(path: Path) -> None:
    captured = bars_and_lines(9, 300)
    lay_out(path, captured, 25)
    lines = [
        NumberedLine(number, timestamp_ms, source, data.removesuffix(b"\n"), not data.endswith(b"\n"))  # type: ignore[arg-type]
        for number, (source, timestamp_ms, data) in enumerate(filtered(path, LogFilter(start_ms=1)))
    ]
    for source in SOURCE_ID:
        assert bytes_of(lines, source) == written(captured, source)  # type: ignore[arg-type]
