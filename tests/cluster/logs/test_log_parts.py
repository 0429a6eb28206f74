"""A log that is read in parts shows each line once, from any place and in both directions."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.log_model import bars_and_lines, lay_out, lines_of, random_capture, write
from support.seeds import for_each_seed

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.parts.answer import PartsRequest
from iris.cluster.logs.parts.places import AtByte, AtPosition, AtTime, Place
from iris.cluster.logs.parts.read_part import LogPart, PartLimits, Selection, read_part_steps
from iris.cluster.logs.reading.query import EVERYTHING, LogFilter
from iris.cluster.logs.records import GAP, SOURCE_ID, SOURCES, decode, parse_gap
from iris.cluster.logs.segments import list_segments
from iris.errors import InvalidArgumentError
from iris.rpc.cluster_pb2 import FetchLogPartsRequest
from iris.rpc.serving.steps import finish

LIMITS = PartLimits(max_bytes=4000, max_line_bytes=1 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


class Line(NamedTuple):
    source: str
    timestamp_ms: int
    data: bytes


def part_of(
    path: Path,
    place: Place | None = None,
    *,
    writer: LogWriter | None = None,
    log_filter: LogFilter = EVERYTHING,
    limits: PartLimits = LIMITS,
    find: str = "",
    backwards: bool = False,
    stop: int = 0,
    final: bool = True,
) -> LogPart:
    selection = Selection(log_filter, LogFilter(regex=find))
    steps = read_part_steps(path, writer, selection, place, limits, backwards=backwards, stop=stop, final=final)
    return finish(steps)


def lines_in(part: LogPart) -> list[Line]:
    lines = []
    for kind, timestamp_ms, _, payload in decode(part.records):
        assert kind < GAP
        lines += [Line(SOURCES[kind], timestamp_ms, line) for line in re.findall(rb"[^\n]*\n|[^\n]+", payload)]
    return lines


def forwards(path: Path, place: Place | None = None, **options: Any) -> Iterator[LogPart]:
    """Read part after part up to the end of the log."""
    while True:
        part = part_of(path, place, **options)
        assert part.begin <= part.end <= part.size
        yield part
        if part.at_end:
            return
        assert part.end > part.begin, "a part that reads nothing is not the end"
        place = AtPosition(part.end)


def backwards(path: Path, place: Place | None = None, **options: Any) -> Iterator[LogPart]:
    """Read part after part back to the beginning of the log."""
    while True:
        part = part_of(path, place, backwards=True, **options)
        yield part
        if part.begin == 0:
            return
        place = AtPosition(part.begin)


def all_lines(parts: Iterator[LogPart]) -> list[Line]:
    return [line for part in parts for line in lines_in(part)]


def all_lines_backwards(parts: Iterator[LogPart]) -> list[Line]:
    return [line for part in reversed(list(parts)) for line in lines_in(part)]


def model_lines(captured: Any, *, per_segment: int = 0, final: bool = True) -> list[Line]:
    return [
        Line(line.source, line.timestamp_ms, line.data + (b"" if line.partial else b"\n"))
        for line in lines_of(captured, per_segment=per_segment, final=final)
    ]


@for_each_seed(2)
@pytest.mark.parametrize("per_segment", [7, 60, 100_000])
def test_parts_of_a_stored_log_contain_every_line_once_in_both_directions(
    path: Path, per_segment: int, seed: int
) -> None:
    make = bars_and_lines if seed % 2 else lambda seed, records: random_capture(seed, records, 200)
    captured = make(seed, 200)
    directory = path.with_name(f"log-{seed}")
    lay_out(directory, captured, per_segment)
    expected = model_lines(captured, per_segment=per_segment)
    assert all_lines(forwards(directory)) == expected
    assert all_lines_backwards(backwards(directory)) == expected
    rng = random.Random(seed)
    size = part_of(directory).size
    for _ in range(4):
        place = AtPosition(rng.randrange(size))
        first = part_of(directory, place)
        after = all_lines(forwards(directory, place))
        before = all_lines_backwards(backwards(directory, AtPosition(first.begin)))
        assert before + after == expected, place


@pytest.mark.parametrize("final", [False, True])
def test_parts_of_a_log_that_is_being_written_contain_every_line_once(path: Path, final: bool) -> None:
    captured = random_capture(3, 1000, 300)
    writer = LogWriter(path)
    for source, data, timestamp_ms in captured:
        writer.append(source, data, timestamp_ms)
    expected = model_lines(captured, final=final)
    options: dict[str, Any] = {"writer": writer, "final": final, "limits": PartLimits(50_000, 1 << 20)}
    assert all_lines(forwards(path, **options)) == expected
    assert all_lines_backwards(backwards(path, **options)) == expected
    last = part_of(path, backwards=True, **options)
    assert last.at_end
    assert last.end == last.size == writer.position
    writer.close()


def test_offsets_of_a_log_part_state_where_the_next_line_of_each_source_begins(path: Path) -> None:
    writer = LogWriter(path)
    writer.append("stdout", b"one\ntwo", 1000)
    writer.append("stderr", b"three", 1001)
    part = part_of(path, backwards=True, writer=writer, final=False)
    assert lines_in(part) == [Line("stdout", 1000, b"one\n")]
    assert (part.offsets, part.at_end) == ((4, 0, 0), True)
    writer.append("stdout", b" is long\n", 1002)
    rest = part_of(path, AtPosition(part.end), writer=writer, final=False)
    assert lines_in(rest) == [Line("stdout", 1002, b"two is long\n")]
    writer.close()


def test_log_part_begins_at_the_first_record_of_a_given_time(path: Path) -> None:
    captured = [("stdout", b"line %d\n" % number, 1000 + 10 * number) for number in range(100)]
    lay_out(path, captured, 9)
    for time, first in ((0, 0), (1000, 0), (1001, 1), (1010, 1), (1495, 50), (1990, 99)):
        part = part_of(path, AtTime(time))
        assert lines_in(part)[0].data == b"line %d\n" % first
        before = part_of(path, AtTime(time), backwards=True)
        assert [line.data for line in lines_in(before)[-1:]] == ([b"line %d\n" % (first - 1)] if first else [])
    assert lines_in(part_of(path, AtTime(5000))) == []
    write(path.with_name("by writer"), captured)
    writer = LogWriter(path.with_name("writing"))
    for source, data, timestamp_ms in captured:
        writer.append(source, data, timestamp_ms)
    assert (
        lines_in(part_of(path.with_name("writing"), AtTime(1495), writer=writer, final=False))[0].timestamp_ms == 1500
    )
    writer.close()


def test_log_part_begins_or_ends_with_the_record_that_contains_a_given_byte(path: Path) -> None:
    captured = []
    for number in range(100):
        captured.append(("stdout", b"out %d\n" % number, 1000))
        captured.append(("stderr", b"err %d\n" % number, 1000))
    lay_out(path, captured, 13)
    offset = sum(len(data) for source, data, _ in captured[:100] if source == "stderr")
    place = AtByte(SOURCE_ID["stderr"], offset + 3)
    assert lines_in(part_of(path, place))[0].data == b"err 50\n"
    assert lines_in(part_of(path, place, backwards=True))[-1].data == b"err 50\n"
    assert lines_in(part_of(path, AtByte(2, 0))) == []


@pytest.mark.parametrize("is_backwards", [False, True])
def test_filtered_log_parts_contain_the_matching_lines_of_a_limited_range(path: Path, is_backwards: bool) -> None:
    captured = [("stdout", b"line %d\n" % number, 1000 + number) for number in range(20_000)]
    lay_out(path, captured, 1000)
    log_filter = LogFilter(regex="(?i)LINE 1?7000$")
    options: dict[str, Any] = {"log_filter": log_filter, "limits": PartLimits(1000, 1000, look_bytes=100_000)}
    parts = list(backwards(path, **options) if is_backwards else forwards(path, **options))
    assert len(parts) > 4, "one part searches at most about look_bytes"
    found = [line.data for part in parts for line in lines_in(part)]
    assert found == ([b"line 17000\n", b"line 7000\n"] if is_backwards else [b"line 7000\n", b"line 17000\n"])


def test_log_part_that_is_searched_backwards_has_a_limited_size(path: Path) -> None:
    # The newer 3 MB do not match, therefore a step of 2.5 MB backwards reaches the older lines, which all match.
    lines = [b"%s %044d\n" % (b"old" if number < 120_000 else b"new", number) for number in range(180_000)]
    writer = LogWriter(path)
    for start in range(0, len(lines), 100):
        writer.append("stdout", b"".join(lines[start : start + 100]), 1000)
    options: dict[str, Any] = {"writer": writer, "find": "^old", "limits": PartLimits(10_000, 1000)}
    part = next(part for part in backwards(path, **options) if part.records)
    assert len(part.records) < 2_000_000
    count = len(lines_in(part))
    assert [line.data for line in lines_in(part)] == lines[120_000 - count : 120_000]
    before = part_of(path, AtPosition(part.begin), backwards=True, **options)
    assert lines_in(before)[-1].data == lines[120_000 - count - 1]
    writer.close()


def test_log_part_has_the_lines_that_match_both_the_filter_and_the_search(path: Path) -> None:
    lay_out(path, [("stdout", b"line %d\n" % number, 1000) for number in range(300)], 50)
    for regex, find in (("7$", "^line 1"), ("^line 1", "7$"), ("", "^line 1.*7$"), ("^line 1.*7$", "")):
        found = lines_in(part_of(path, log_filter=LogFilter(regex=regex), find=find))
        numbers = [17, *range(107, 200, 10)]
        assert [line.data for line in found] == [b"line %d\n" % number for number in numbers]


def test_log_part_ends_at_a_given_position(path: Path) -> None:
    lay_out(path, [("stdout", b"line %d\n" % number, 1000) for number in range(300)], 50)
    whole = part_of(path, limits=PartLimits(1 << 20, 1000))
    half = part_of(path, stop=whole.end // 2, limits=PartLimits(1 << 20, 1000))
    rest = part_of(path, AtPosition(half.end), limits=PartLimits(1 << 20, 1000))
    assert half.records + rest.records == whole.records
    assert whole.end // 2 <= half.end < whole.end // 2 + 100
    assert not half.at_end


def test_filter_by_source_and_time_selects_lines_of_a_log_part(path: Path) -> None:
    captured = [(("stdout", "stderr")[number % 2], b"%d\n" % number, 1000 + number) for number in range(50)]
    lay_out(path, captured, 10)
    log_filter = LogFilter(sources=("stderr",), start_ms=1010, end_ms=1016)
    found = lines_in(part_of(path, log_filter=log_filter, limits=PartLimits(1 << 20, 1000)))
    assert [line.data for line in found] == [b"11\n", b"13\n", b"15\n"]


def test_middle_of_a_long_line_is_left_out_of_a_log_part(path: Path) -> None:
    line = b"begin" + b"x" * 5000 + b"end\n"
    writer = write(path, [("stdout", b"a\n" + line + b"z\n", 1000)])
    part = part_of(path, limits=PartLimits(1 << 20, 100))
    records = [(offset, payload) for _, _, offset, payload in decode(part.records)]
    assert records == [
        (0, b"a\n"),
        (2, line[:100]),
        (2 + len(line) - 1, b"\n"),
        (2 + len(line), b"z\n"),
    ]
    assert writer.offsets[0] == 2 + len(line) + 2


def test_beginning_of_a_log_line_with_many_pieces_is_sent_once(path: Path) -> None:
    size = 5 << 20
    write(path, [("stdout", b"x" * size + b"\nnext\n", 1000)])
    part = part_of(path, limits=PartLimits(100_000, 100))
    payloads = [(offset, payload) for _, _, offset, payload in decode(part.records) if payload]
    assert payloads == [(0, b"x" * 100), (size, b"\nnext\n")]


def test_long_progress_bar_is_sent_as_its_last_state(path: Path) -> None:
    bar = b"".join(b"\r%d%%" % percent for percent in range(101)) + b"\n"
    write(path, [("stderr", bar, 1000)])
    part = part_of(path, limits=PartLimits(1 << 20, 100))
    assert [payload for _, _, _, payload in decode(part.records)] == [b"\r100%\n"]


def test_gap_of_dropped_records_is_in_the_first_part_of_a_log(path: Path) -> None:
    captured = [("stdout", b"%07d\n" % number, 1000) for number in range(1000)]
    segments = lay_out(path, captured, 100)
    for segment in segments[:3]:
        segment.unlink()
    for parts in (list(forwards(path)), list(reversed(list(backwards(path))))):
        gaps = [parse_gap(payload)[0] for part in parts for kind, _, _, payload in decode(part.records) if kind & GAP]
        assert gaps == [300 * 8]
        count = sum(
            payload.count(b"\n") for part in parts for kind, _, _, payload in decode(part.records) if kind < GAP
        )
        assert count == 700


def test_damage_in_a_log_segment_is_a_gap_between_two_log_parts(path: Path) -> None:
    captured = [("stdout", b"%07d\n" % number, 1000) for number in range(1000)]
    segments = lay_out(path, captured, 100)
    data = bytearray(segments[5].read_bytes())
    data[len(data) // 2] ^= 1
    segments[5].write_bytes(data)
    for parts in (list(forwards(path)), list(reversed(list(backwards(path))))):
        records = [record for part in parts for record in decode(part.records)]
        missing = sum(parse_gap(record.payload)[0] for record in records if record.kind & GAP)
        there = sum(len(record.payload) for record in records if not record.kind & GAP)
        assert (there + missing, missing > 0) == (8000, True)


def test_missing_log_is_read_as_one_empty_part(path: Path) -> None:
    for is_backwards in (False, True):
        part = part_of(path, backwards=is_backwards)
        assert (part.records, part.begin, part.end, part.size, part.at_end) == (b"", 0, 0, 0, True)


def test_later_part_of_a_large_segment_is_not_read_from_the_beginning_of_the_segment(path: Path) -> None:
    write(path, [("stdout", b"x" * 4095 + b"\n", 1000) for _ in range(2000)])
    assert len(list_segments(path)) == 1
    everything = Selection(EVERYTHING)
    steps = read_part_steps(path, None, everything, AtPosition(7_000_000), LIMITS, backwards=False, final=True)
    first = len(list(steps))
    steps = read_part_steps(path, None, everything, AtPosition(7_010_000), LIMITS, backwards=False, final=True)
    assert len(list(steps)) < first / 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reads": []}, "reads must have 1 to 64 items, got 0"),
        ({"reads": [{}] * 65}, "got 65"),
        ({"reads": [{}], "filter": {"tail": 3}}, "filter.tail is not accepted"),
        ({"reads": [{"position": -1}]}, "position must be"),
        ({"reads": [{"timestamp_ms": -1}]}, "timestamp_ms must be"),
        ({"reads": [{"source_byte": {"source": "x"}}]}, "source_byte.source must be one of stdout, stderr, build"),
        ({"reads": [{"attempt_id": -1}]}, "attempt_id must be"),
        ({"reads": [{"backwards": True, "stop": 5}]}, "stop and backwards are mutually exclusive"),
        ({"reads": [{}], "find": "("}, "the pattern '(' is invalid"),
        ({"reads": [{}], "max_bytes": 3 << 20}, "max_bytes must be"),
        ({"reads": [{}], "filter": {"regex": "("}}, "the pattern '(' is invalid"),
    ],
)
def test_invalid_request_for_log_parts_is_refused_with_an_explanation(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(words)):
        PartsRequest(FetchLogPartsRequest(job_id="x", **fields))
