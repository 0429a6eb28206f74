"""Lines end at the same places wherever reading begins."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.log_model import Captured, bars_and_lines, lay_out, lines_of, random_capture

from iris.cluster.logs.reading.line_index import StoredIndex
from iris.cluster.logs.reading.line_pages import NumberedLine, read_page
from iris.cluster.logs.reading.numbered_lines import BAR_BYTES, MAX_PARTIAL_LINE, LineSplitter
from iris.cluster.logs.records import SOURCE_ID, SOURCES
from iris.cluster.logs.segments import list_segments


def split(captured: list[Captured]) -> list[NumberedLine]:
    """Return the lines that a splitter takes, and check after each record that a skipping splitter counts the same."""
    taking, skipping = LineSplitter(), LineSplitter()
    lines: list[NumberedLine] = []
    for source, data, timestamp_ms in captured:
        whole, piece = taking.take(SOURCE_ID[source], timestamp_ms, data)
        skipping.skip(SOURCE_ID[source], timestamp_ms, data)
        parts = [(line, False) for line in whole.split(b"\n")[:-1]] + [(piece, True)] * bool(piece)
        lines += [NumberedLine(len(lines) + count, timestamp_ms, source, *part) for count, part in enumerate(parts)]
        assert taking.line == skipping.line == len(lines)
        assert taking.leftovers() == skipping.leftovers()
    for source_id, timestamp_ms, data in taking.leftovers():
        lines.append(NumberedLine(len(lines), timestamp_ms, SOURCES[source_id], data, True))
    return lines


@pytest.mark.parametrize("seed", range(10))
def test_method_skip_of_a_line_splitter_counts_the_lines_that_method_take_returns(seed: int) -> None:
    for captured in (random_capture(seed, 300, 40), bars_and_lines(seed, 300)):
        assert split(captured) == lines_of(captured)


def test_a_progress_bar_is_cut_at_its_carriage_returns() -> None:
    states = [b"\r%3d%% %s" % (percent, b"#" * percent) for percent in range(101)]
    lines = split([("stderr", state, 1000 + number) for number, state in enumerate(states)])
    assert b"".join(line.data for line in lines) == b"".join(states)
    assert all(line.partial for line in lines)
    assert all(line.data.startswith(b"\r") for line in lines)
    assert all(BAR_BYTES - 110 < len(line.data) <= BAR_BYTES + 110 for line in lines[:-1])
    done = split([("stderr", state, 1) for state in states] + [("stderr", b"\ndone\n", 2)])
    assert [line.data for line in done][-2:] == [lines[-1].data, b"done"]
    assert [line.partial for line in done][-2:] == [False, False]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([b"x" * 5000, b"\r\n"], [b"x" * 5000 + b"\r"], id="the end of a line"),
        pytest.param([b"x" * 5000 + b"\r", b"\n"], [b"x" * 5000 + b"\r"], id="the end of a line in two"),
        pytest.param(
            [b"a\r" + b"x" * 5000 + b"\r", b"\n"], [b"a", b"\r" + b"x" * 5000 + b"\r"], id="one before the end"
        ),
        pytest.param([b"\r" + b"x" * 5000, b"\n"], [b"\r" + b"x" * 5000], id="the first byte"),
        pytest.param([b"x" * 5000 + b"\r", b"y", b"\n"], [b"x" * 5000, b"\ry"], id="not the end after all"),
        pytest.param([b"x\r" * 2047 + b"\r\n"], [b"x\r" * 2047 + b"\r"], id="whole in one record"),
        pytest.param([b"x\r" * 2048, b"y\n"], [b"x\r" * 2048 + b"y"], id="just short enough"),
        pytest.param([b"x\r" * 2048 + b"y", b"z\n"], [b"x\r" * 2047 + b"x", b"\ryz"], id="just too long"),
        pytest.param([b"one\n" + b"\rx" * 2500, b"\n"], [b"one", b"\rx" * 2499, b"\rx"], id="behind a newline"),
    ],
)
def test_a_carriage_return_cuts_only_long_partial_lines(pieces: list[bytes], expected: list[bytes]) -> None:
    lines = split([("stdout", piece, 1) for piece in pieces])
    assert [line.data for line in lines] == expected


def test_a_long_line_is_cut_at_the_end_of_the_record_that_makes_it_long() -> None:
    size = MAX_PARTIAL_LINE // 2 + 1
    lines = split([("stdout", b"x" * size, 1), ("stdout", b"x" * size, 2), ("stdout", b"end\n", 3)])
    assert [(len(line.data), line.timestamp_ms, line.partial) for line in lines] == [(2 * size, 2, True), (3, 3, False)]


# Segments


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_segment", [1, 3, 10, 40])
def test_log_reader_that_starts_at_any_segment_finds_the_same_lines(
    tmp_path: Path, seed: int, per_segment: int
) -> None:
    for name, captured in (("bars", bars_and_lines(seed, 200)), ("lines", random_capture(seed, 200, 6))):
        directory = tmp_path / name
        lay_out(directory, captured, per_segment)
        expected = lines_of(captured, per_segment=per_segment)
        segments = list_segments(directory)
        assert read_page(directory, final=True, max_bytes=1 << 30).lines == expected
        index = StoredIndex(directory)
        for number in range(0, len(segments), 1 + len(segments) // 12):
            segment = segments[number]
            if number:
                assert index.back(len(segments) - number).position == segment.position
            page = read_page(directory, start_line=segment.line, final=True, max_bytes=1 << 30)
            assert page.lines == expected[segment.line :]


def test_a_line_that_spans_a_whole_segment_is_cut(tmp_path: Path) -> None:
    captured: list[Captured] = [
        ("stderr", b"begin, ", 1),  # where the source begins: all of it is known from here
        ("stdout", b"1\n", 2),
        ("stderr", b"go on, ", 3),  # through all of the second segment
        ("stdout", b"2\n", 4),
        ("stderr", b"end\n", 5),
        ("stderr", b"silent", 6),  # nothing in the fourth segment
        ("stdout", b"3\n", 7),
        ("stdout", b"4\n", 8),
        ("stderr", b"ly\n", 9),
    ]
    lay_out(tmp_path / "log", captured, 2)
    lines = read_page(tmp_path / "log", final=True).lines
    assert [line.data for line in lines if line.source == "stderr"] == [b"begin, go on, ", b"end", b"silently"]
    assert [line.partial for line in lines if line.source == "stderr"] == [True, False, False]
    assert lines == lines_of(captured, per_segment=2)


def test_line_number_in_the_name_of_a_segment_is_used_after_a_damaged_part(tmp_path: Path) -> None:
    rng = random.Random(3)
    captured: list[Captured] = [("build", b"once\n", 1), ("stderr", b"prompt: ", 1)]
    captured += [("stdout", b"%d\n" % number * rng.randint(1, 9), number) for number in range(398)]
    paths = lay_out(tmp_path / "log", captured, 20)
    for path in paths[1:-2]:  # not the first: there the prompt is
        path.write_bytes(b"damaged")
    lines = lines_of(captured, per_segment=20)
    line = list_segments(tmp_path / "log")[-1].line
    assert read_page(tmp_path / "log", start_line=line, final=True).lines == lines[line:]
    assert lines[-1].data == b"prompt: "
