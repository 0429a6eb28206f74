"""The log of an attempt: what was captured comes back as lines, each once, however it is read."""

from __future__ import annotations

import random
import resource
import sys
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iris.cluster.worker.log_store import (
    LINE_COST,
    MAX_LINE_PIECE,
    MAX_PAYLOAD,
    SOURCES,
    Line,
    LogIndex,
    LogWriter,
    Page,
    RecordReader,
    Source,
    encode_header,
    read_page,
)
from iris.errors import InvalidArgumentError

Captured = tuple[Source, bytes, int]  # source, data, time in ms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def write(path: Path, captured: Iterable[Captured]) -> LogIndex:
    writer = LogWriter(path)
    for source, data, timestamp_ms in captured:
        writer.append(source, data, timestamp_ms)
    writer.close()
    return writer.index


def read_all(path: Path, index: LogIndex | None = None, *, final: bool = True, **filters: Any) -> list[Line]:
    """Goes from page to page, as a reader does, until there is nothing left."""
    return [line for page in pages(path, index, final=final, **filters) for line in page.lines]


def pages(path: Path, index: LogIndex | None, *, final: bool, **filters: Any) -> Iterator[Page]:
    while True:
        page = read_page(path, index, final=final, **filters)
        yield page
        if page.at_end:
            return
        assert page.lines, "a page without lines that is not the end"
        filters["start_line"] = page.next_line


def lines_of(captured: Iterable[Captured], *, final: bool = True) -> list[Line]:
    """The rules of the line layer, said once more and simply."""
    lines: list[Line] = []
    tails: dict[Source, tuple[bytes, int]] = dict.fromkeys(SOURCES, (b"", 0))

    def add(source: Source, data: bytes, timestamp_ms: int, partial: bool) -> None:
        lines.append(Line(len(lines), timestamp_ms, source, data, partial))

    for source, data, timestamp_ms in captured:
        *ended, tail = (tails[source][0] + data).split(b"\n")
        for line in ended:
            add(source, line, timestamp_ms, False)
        if len(tail) >= MAX_LINE_PIECE:
            add(source, tail, timestamp_ms, True)
            tail = b""
        tails[source] = (tail, timestamp_ms)
    for source, (tail, timestamp_ms) in tails.items():
        if final and tail:
            add(source, tail, timestamp_ms, True)
    return lines


def bytes_of(lines: Iterable[Line], source: Source) -> bytes:
    """What a source wrote, put together from its lines."""
    return b"".join(line.data + (b"" if line.partial else b"\n") for line in lines if line.source == source)


def random_capture(seed: int, records: int, longest: int) -> list[Captured]:
    """Pieces of all sources, cut anywhere, with a clock that sometimes goes back."""
    rng = random.Random(seed)
    captured: list[Captured] = []
    timestamp_ms = 1_000_000
    for _ in range(records):
        timestamp_ms += rng.choice((0, 1, 1, 5, -3))
        words = rng.choices((b"\n", b"\r", b"word ", b"\xff\x00", b"\xc3", b"\xa9"), k=rng.randint(1, longest))
        captured.append((rng.choice(SOURCES), b"".join(words), timestamp_ms))
    return captured


# Lines


def test_lines_come_in_the_order_in_which_they_were_completed(path: Path) -> None:
    index = write(
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
    assert read_all(path, index) == [
        Line(0, 2, "stdout", b"one", False),
        Line(1, 4, "stdout", b"two", False),
        Line(2, 5, "stderr", b"warning", False),
        Line(3, 5, "stderr", b"", False),
        Line(4, 6, "build", b"fetching", False),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_of_a_source(path: Path, seed: int) -> None:
    captured = random_capture(seed, records=300, longest=40)
    index = write(path, captured)
    lines = read_all(path, index)
    assert lines == lines_of(captured)
    for source in SOURCES:
        assert bytes_of(lines, source) == b"".join(data for name, data, _ in captured if name == source)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"a\0b\n", id="nul"),
        pytest.param(b"\xff\xfe\n", id="no UTF-8"),
        pytest.param(b"10%\r20%\r\n", id="carriage return"),
        pytest.param("naïve \u2028 line\n".encode(), id="unicode line separator"),
        pytest.param(b"\x0b\x0c\x1c\x85\n", id="what str.splitlines splits at"),
        pytest.param(encode_header(1, 5, b"fake\n") + b"fake\n", id="our own frame"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_bytes_are_the_tasks(path: Path, data: bytes, step: int) -> None:
    # The middle of it captured in pieces too: a character, or what looks like a frame, is split anywhere.
    captured: list[Captured] = [("stdout", data[at : at + step], 7) for at in range(0, len(data), step)]
    index = write(path, captured)
    assert [line.data for line in read_all(path, index)] == data.split(b"\n")[:-1]
    assert bytes_of(read_all(path), "stdout") == data


def test_a_tail_without_newline_shows_when_the_log_is_final(path: Path) -> None:
    index = write(path, [("stderr", b"bye", 1), ("stdout", b"a\nb", 2), ("stderr", b"!", 3), ("build", b"x", 4)])
    live = read_page(path, index, final=False)
    assert live == Page([Line(0, 2, "stdout", b"a", False)], next_line=1, at_end=True, damaged=False)
    final = read_page(path, index, start_line=live.next_line, final=True)
    assert final.lines == [
        Line(1, 2, "stdout", b"b", True),
        Line(2, 3, "stderr", b"bye!", True),
        Line(3, 4, "build", b"x", True),
    ]
    assert (final.next_line, final.at_end) == (4, True)


def test_ten_megabytes_without_newline_come_in_pieces(path: Path) -> None:
    data = random.Random(1).randbytes(10 << 20).replace(b"\n", b"")
    captured: list[Captured] = [("stdout", data[at : at + 65_521], at) for at in range(0, len(data), 65_521)]
    captured.append(("stdout", b"end\nnext\n", 10**9))
    index = write(path, captured)
    live = read_all(path, index, final=False)
    assert live == lines_of(captured, final=False) == read_all(path, final=False)
    assert bytes_of(live, "stdout") == data + b"end\nnext\n"
    assert [line.partial for line in live] == [True] * (len(live) - 2) + [False, False]
    assert all(MAX_LINE_PIECE <= len(line.data) < MAX_LINE_PIECE + 65_521 for line in live[:-2])
    assert index.lines == len(live)


def test_an_append_longer_than_a_record_is_split(path: Path) -> None:
    data = b"x" * (2 * MAX_PAYLOAD) + b"y\nz\n"
    writer = LogWriter(path)
    writer.append("stdout", data, 1)
    assert writer.bytes_written == len(data)
    writer.close()
    with path.open("rb") as file:
        payloads = [payload for _, _, payload in RecordReader(file.fileno(), 0, path.stat().st_size)]
    assert [len(payload) for payload in payloads] == [MAX_PAYLOAD, MAX_PAYLOAD, 4]
    assert bytes_of(read_all(path, writer.index), "stdout") == data


def test_no_log_is_an_empty_log(path: Path) -> None:
    empty = Page([], next_line=0, at_end=True, damaged=False)
    for final in (False, True):
        assert read_page(path, final=final) == empty
        assert read_page(path, start_line=-5, final=final) == empty
    index = write(path, [("stdout", b"", 1)])
    assert path.read_bytes() == b""
    for final in (False, True):
        assert read_page(path, index, final=final) == empty
        assert read_page(path, start_line=-5, final=final) == empty


def test_what_was_appended_can_be_read_at_once(path: Path) -> None:
    writer = LogWriter(path)
    for number in range(20):
        writer.append("stdout", b"%d\n" % number, number)
        page = read_page(path, writer.index, start_line=number, final=False)
        assert page.lines == [Line(number, number, "stdout", b"%d" % number, False)]
        assert (page.next_line, page.at_end, writer.lines) == (number + 1, True, number + 1)
    writer.close()


# Pages


def test_every_page_size_gives_every_line_once(path: Path) -> None:
    captured = random_capture(11, records=60, longest=12)
    index = write(path, captured)
    expected = lines_of(captured)
    total = sum(len(line.data) + LINE_COST for line in expected)
    for max_lines in range(1, len(expected) + 2):
        got = list(pages(path, index, final=True, max_lines=max_lines))
        assert [line for page in got for line in page.lines] == expected
        assert {len(page.lines) for page in got[:-1]} <= {max_lines}
    for max_bytes in range(1, total + 2, 7):
        got = list(pages(path, index, final=True, max_bytes=max_bytes))
        assert [line for page in got for line in page.lines] == expected
        for page in got:
            size = sum(len(line.data) + LINE_COST for line in page.lines)
            assert size <= max_bytes or len(page.lines) == 1


def test_a_page_that_is_just_full_knows_whether_more_follows(path: Path) -> None:
    index = write(path, [("stdout", b"a\nb\n", 1), ("stderr", b"tail", 1), ("stdout", b"c\n", 1), ("stdout", b"d", 1)])
    assert not read_page(path, index, max_lines=2, final=False).at_end
    assert read_page(path, index, max_lines=3, final=False).at_end
    assert not read_page(path, index, max_lines=3, final=True).at_end
    assert not read_page(path, index, max_lines=4, final=True).at_end
    assert read_page(path, index, max_lines=5, final=True).at_end


def test_empty_lines_fill_a_page_too(path: Path) -> None:
    index = write(path, [("stdout", b"\n" * 10_000, 1)])
    page = read_page(path, index, max_bytes=100 * LINE_COST, final=True)
    assert (len(page.lines), page.next_line, page.at_end) == (100, 100, False)


@pytest.mark.parametrize("seed", range(3))
def test_reading_is_the_same_with_and_without_index(path: Path, seed: int) -> None:
    captured = random_capture(seed, records=900, longest=1500)
    index = write(path, captured)
    assert path.stat().st_size > 1_000_000  # several points in the index, or this shows nothing
    for final in (False, True):
        expected = lines_of(captured, final=final)
        scanned = LogIndex.scan(path)
        assert scanned.lines == index.lines
        for start_line in range(0, len(expected) + 3, 12_347):
            want = expected[start_line : start_line + 50]
            for given in (index, scanned, None):
                page = read_page(path, given, start_line=start_line, max_lines=50, final=final)
                assert page.lines == want
                assert page.next_line == start_line + len(want)
        for start_ms in range(captured[0][2], captured[-1][2] + 2, 97):
            want = [line for line in expected if line.timestamp_ms > start_ms][:20]
            for given in (index, scanned, None):
                assert read_page(path, given, start_ms=start_ms, max_lines=20, final=final).lines == want


@pytest.mark.parametrize("prompt", [b"", b"a progress bar: 10%\r"])
def test_a_deep_page_does_not_read_the_log_from_its_start(path: Path, prompt: bytes) -> None:
    # One source's unfinished line must not keep a reader of the others at the start.
    captured: list[Captured] = [("stderr", prompt, 1), ("build", b"never ended", 3)]
    captured += [("stdout", b"line %d\n" % number * 100, number) for number in range(2000)]
    captured += [("stderr", b"100%\n", 2000)]
    index = write(path, captured)
    expected = lines_of(captured)
    with path.open("r+b") as file:
        file.write(bytes(500_000))
    assert read_page(path, index, start_line=150_000, max_lines=3, final=True).lines == expected[150_000:150_003]
    assert read_page(path, index, start_ms=1900, max_lines=3, final=True).lines == expected[190_100:190_103]
    assert read_page(path, index, start_line=-2, final=True).lines == expected[-2:]
    assert expected[-2].data == prompt + b"100%"
    assert expected[-1] == Line(200_001, 3, "build", b"never ended", True)


def test_a_page_needs_little_memory_of_a_long_log(path: Path) -> None:
    index = write(path, ((("stdout", b"0123456789 " * 6000 + b"\n", n)) for n in range(600)))
    assert path.stat().st_size > 38_000_000
    tracemalloc.start()
    try:
        for given in (index, None):
            read_page(path, given, start_line=-3, final=False)
            read_page(path, given, regex="no such text", final=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000


def test_long_unfinished_lines_do_not_fill_the_index(path: Path) -> None:
    # A long unfinished line on one source while another one writes: each point of the index has to remember it.
    def captured() -> Iterator[Captured]:
        yield "stderr", b"x" * (MAX_LINE_PIECE - 1), 7
        for number in range(800):
            yield "stdout", b"%060000d\n" % number, number

    tracemalloc.start()
    try:
        index = write(path, captured())
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 48_000_000
    assert kept < 4_000_000  # the line itself, and few copies of it
    last = read_page(path, index, start_line=800, final=True).lines
    assert last == [Line(800, 7, "stderr", b"x" * (MAX_LINE_PIECE - 1), True)]


# Filters


@pytest.fixture
def ten(path: Path) -> LogIndex:
    """Lines 0 to 9, at 100, 110, … 190 ms."""
    return write(path, [("stdout", b"line %d\n" % number, 100 + 10 * number) for number in range(10)])


def numbers(page: Page) -> list[int]:
    return [line.number for line in page.lines]


@pytest.mark.parametrize("with_index", [True, False])
def test_a_negative_start_counts_from_the_end(path: Path, ten: LogIndex, with_index: bool) -> None:
    index = ten if with_index else None
    assert numbers(read_page(path, index, start_line=-3, final=False)) == [7, 8, 9]
    assert numbers(read_page(path, index, start_line=-10, final=False)) == list(range(10))
    assert numbers(read_page(path, index, start_line=-99, final=False)) == list(range(10))
    # Before the other filters: the last five lines, and of these the later ones.
    assert numbers(read_page(path, index, start_line=-5, start_ms=170, final=False)) == [8, 9]
    assert numbers(read_page(path, index, start_line=-5, end_ms=140, final=False)) == []


def test_a_negative_start_counts_the_unfinished_lines_of_a_final_log(path: Path) -> None:
    write(path, [("stdout", b"a\nb\nc", 1), ("stderr", b"d", 2)])
    assert [line.data for line in read_page(path, start_line=-3, final=True).lines] == [b"b", b"c", b"d"]
    assert [line.data for line in read_page(path, start_line=-1, final=False).lines] == [b"b"]


def test_start_ms_is_exclusive_and_end_ms_inclusive(path: Path, ten: LogIndex) -> None:
    assert numbers(read_page(path, ten, start_ms=120, final=True)) == [3, 4, 5, 6, 7, 8, 9]
    assert numbers(read_page(path, ten, start_ms=119, final=True)) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert numbers(read_page(path, ten, end_ms=120, final=True)) == [0, 1, 2]
    assert numbers(read_page(path, ten, end_ms=119, final=True)) == [0, 1]
    assert numbers(read_page(path, ten, start_ms=120, end_ms=140, final=True)) == [3, 4]


def test_filters_look_at_the_unfinished_lines_too(path: Path) -> None:
    index = write(path, [("stdout", b"early", 10), ("stderr", b"late", 20)])
    assert [line.data for line in read_page(path, index, start_ms=10, final=True).lines] == [b"late"]
    assert [line.data for line in read_page(path, index, end_ms=10, final=True).lines] == [b"early"]
    assert [line.data for line in read_page(path, index, regex="^l", final=True).lines] == [b"late"]


def test_max_lines_counts_what_passed_the_other_filters(path: Path, ten: LogIndex) -> None:
    page = read_page(path, ten, regex="[13579]", start_ms=110, max_lines=2, final=True)
    assert (numbers(page), page.next_line, page.at_end) == ([3, 5], 6, False)
    page = read_page(path, ten, regex="[13579]", start_line=6, max_lines=2, final=True)
    assert (numbers(page), page.next_line, page.at_end) == ([7, 9], 10, True)
    # Lines that were filtered out have been passed, too.
    page = read_page(path, ten, regex="[0-4]", max_lines=100, final=False)
    assert (numbers(page), page.next_line, page.at_end) == ([0, 1, 2, 3, 4], 10, True)


def test_a_start_beyond_the_end_waits_there(path: Path, ten: LogIndex) -> None:
    page = read_page(path, ten, start_line=50, final=False)
    assert (page.lines, page.next_line, page.at_end) == ([], 50, True)


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
        ("nothing like it", []),
    ],
)
def test_regex_is_searched_in_the_text_of_a_line(path: Path, regex: str, found: list[int]) -> None:
    lines = [b"an error", b"ERROR", b"warning 5", "un été".encode(), b"bad \xff byte", b"nul \0 byte", b""]
    index = write(path, [("stdout", b"\n".join(lines) + b"\n", 1)])
    page = read_page(path, index, regex=regex, final=True)
    assert numbers(page) == found
    assert [line.data for line in page.lines] == [lines[number] for number in found]


@pytest.mark.parametrize("regex", ["(", "a(?=b)", "(a)\\1", "*"])
def test_a_pattern_that_is_no_re2_is_refused(path: Path, regex: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read_page(path, regex=regex, final=False)
    assert repr(regex) in str(caught.value)
    reason = str(caught.value).removeprefix(f"not a pattern: {regex!r}: ").removesuffix(" (expected RE2 syntax)")
    assert reason
    assert reason != str(caught.value)
    assert capfd.readouterr() == ("", "")  # RE2 itself would write it to the worker's stderr


def test_a_negative_max_lines_is_refused(path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="max_lines=-1"):
        read_page(path, max_lines=-1, final=False)


# Damage


def test_a_log_that_is_cut_off_ends_at_its_last_whole_record(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"one\ntwo\n", 1), ("stderr", b"three", 2), ("stderr", b"\nfour\n", 3)]
    write(path, captured)
    content = path.read_bytes()
    ends = [0]
    with path.open("rb") as file:
        records = RecordReader(file.fileno(), 0, len(content))
        ends += [records.offset for _ in records]
    assert ends[-1] == len(content)
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends) - 1
        live = read_page(path, final=False)
        assert live.lines == lines_of(captured[:whole], final=False)
        assert not live.damaged  # it may still be in the middle of being written
        final = read_page(path, final=True)
        assert final.lines == lines_of(captured[:whole])
        assert final.damaged == (length not in ends)
        assert live.at_end
        assert final.at_end


def test_a_damaged_record_ends_the_log(path: Path) -> None:
    captured: list[Captured] = [("stdout", b"one\n", 1), ("stderr", b"two\n", 2), ("stdout", b"three\n", 3)]
    write(path, captured)
    content = path.read_bytes()
    with path.open("rb") as file:
        records = RecordReader(file.fileno(), 0, len(content))
        ends = [records.offset for _ in records]
    for position in range(ends[0], ends[1]):
        for flip in (0x01, 0x80):
            broken = bytearray(content)
            broken[position] ^= flip
            path.write_bytes(broken)
            page = read_page(path, final=True)
            assert page == Page(lines_of(captured[:1]), next_line=1, at_end=True, damaged=True)
            assert LogIndex.scan(path).lines == 1


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(encode_header(len(SOURCES), 2, b"two\n") + b"two\n", id="source"),
        pytest.param(encode_header(0, 2, bytes(MAX_PAYLOAD + 1)), id="length"),
    ],
)
def test_what_no_writer_of_ours_wrote_is_damage(path: Path, frame: bytes) -> None:
    # Also in a live log: to wait for the rest of it would be to wait for ever.
    write(path, [("stdout", b"one\n", 1)])
    with path.open("ab") as file:
        file.write(frame)
    assert read_page(path, final=False) == Page([Line(0, 1, "stdout", b"one", False)], 1, at_end=True, damaged=True)


def test_zeros_at_the_end_are_damage(path: Path) -> None:
    # What a file system leaves after a crash of the machine.
    write(path, [("stdout", b"one\n", 1)])
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert read_page(path, final=False) == Page([Line(0, 1, "stdout", b"one", False)], 1, at_end=True, damaged=True)


def test_a_full_disk_leaves_whole_records_and_a_writer_that_goes_on(path: Path) -> None:
    writer = LogWriter(path)
    writer.append("stdout", b"before\n", 1)
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # the write of 500 bytes ends after 100 of them
    try:
        with pytest.raises(OSError):
            writer.append("stderr", b"x" * 500 + b"\n", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    assert (writer.bytes_written, writer.lines) == (7, 1)
    writer.append("stderr", b"after\n", 3)
    writer.close()
    expected = [Line(0, 1, "stdout", b"before", False), Line(1, 3, "stderr", b"after", False)]
    assert read_page(path, writer.index, final=True) == Page(expected, 2, at_end=True, damaged=False)


def test_a_log_is_written_once(path: Path) -> None:
    write(path, [("stdout", b"precious\n", 1)])
    with pytest.raises(FileExistsError):
        LogWriter(path)
    assert [line.data for line in read_all(path)] == [b"precious"]


def test_a_closed_writer_writes_nowhere(path: Path) -> None:
    writer = LogWriter(path)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append("stdout", b"x", 1)


# While it is being written


def test_readers_see_a_prefix_while_it_is_being_written(path: Path) -> None:
    captured = random_capture(5, records=2500, longest=300)
    expected = lines_of(captured)
    ended = len(lines_of(captured, final=False))
    writer = LogWriter(path)
    start, caught_up, done = threading.Barrier(3), threading.Event(), threading.Event()

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
        # Readers who come when they like, and start near the end, with the writer's index.
        start.wait()
        while not done.is_set():
            page = read_page(path, writer.index, start_line=-20, final=False)
            assert not page.damaged
            assert len(page.lines) == min(20, page.next_line)
            assert page.lines == expected[page.next_line - len(page.lines) : page.next_line]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=write_all), threading.Thread(target=read_tails)]
    try:
        for thread in threads:
            thread.start()
        start.wait()
        got: list[Line] = []
        while True:
            final = done.is_set()  # before the page is read: what is complete then is all in it
            page = read_page(path, writer.index, start_line=len(got), max_lines=700, final=final)
            assert not page.damaged
            got += page.lines
            assert page.next_line == len(got)
            assert got[-700:] == expected[: len(got)][-700:]
            assert final or len(got) <= ended
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
    assert got == expected
