"""Lines from records: each byte once, whatever the records, the pieces they come in, and where reading begins."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from support.seeds import for_each_seed

from iris.cluster.logs.cursor import Position, decode_cursor
from iris.cluster.logs.entries.line_cursor import OtherPositions
from iris.cluster.logs.entries.line_reader import MAX_HELD_LINE_BYTES, LineReader, RawReader, join_parts
from iris.cluster.logs.entries.log_entry import EntryOrigin, LogEntry
from iris.cluster.logs.records import SOURCES, encode, encode_gap

JOB = "train-0a1b"
OUT, ERR, BUILD = range(3)


def line_reader(
    position: Position = Position(),  # noqa: B008 - a tuple
    *,
    whole: bool = True,
    pieces: bool = False,
) -> LineReader:
    return LineReader(JOB, 3, position, whole=whole, parts=pieces)


def read(reader: LineReader, *frames: bytes) -> list[LogEntry]:
    return [entry for _, entries in reader.read(b"".join(frames)) for entry in entries]


def flush(reader: LineReader) -> list[LogEntry]:
    return [entry for _, entries in reader.flush() for entry in entries]


def shown(entries: Iterable[LogEntry]) -> list[bytes]:
    """Lines as bytes: with a newline, without one where they are partial."""
    return [entry.data + (b"" if entry.partial else b"\n") for entry in entries]


def content(entries: Iterable[LogEntry], source: int) -> list[bytes | int]:
    """All bytes of a source; where some are missing, how many."""
    found: list[bytes | int] = []
    for entry in entries:
        if entry.source == SOURCES[source]:
            found.append(entry.missing_bytes or entry.data + (b"" if entry.partial else b"\n"))
    return joined(found)


def joined(parts: Iterable[bytes | int]) -> list[bytes | int]:
    return [
        part
        for kind, group in itertools.groupby(parts, type)
        for part in ([b"".join(group)] if kind is bytes else group)  # type: ignore[arg-type]
        if part
    ]


# --- lines


def test_record_with_several_lines_becomes_several_entries() -> None:
    reader = line_reader(Position(2))
    entries = read(reader, encode(OUT, 17, 0, b"one\n\ntwo\r\nthree"))
    assert [entry.data for entry in entries] == [b"one", b"", b"two\r"]
    for entry in entries:
        assert (entry.task_index, entry.attempt_id, entry.source, entry.timestamp_ms) == (3, 2, "stdout", 17)
        assert (entry.partial, entry.missing_bytes) == (False, 0)
    assert [entry.position() for entry in entries] == [Position(2, (end, 0, 0)) for end in (4, 5, 10)]
    assert [entry.position(before=True) for entry in entries] == [Position(2, (end, 0, 0)) for end in (0, 4, 5)]
    assert [decode_cursor(JOB, entry.cursor) for entry in entries] == [{3: entry.position()} for entry in entries]
    assert reader.received == Position(2, (15, 0, 0))
    assert reader.delivered == Position(2, (10, 0, 0))


@pytest.mark.parametrize("piece_bytes", [1, 3, 4, 100])
def test_record_read_in_pieces_becomes_the_same_entries(piece_bytes: int) -> None:
    record = encode(OUT, 17, 0, b"one\n\ntwo\r\nthree")
    whole = read(line_reader(Position(2)), record)
    in_pieces = LineReader(JOB, 3, Position(2), whole=True, piece_bytes=piece_bytes)
    entries = read(in_pieces, record)
    assert entries == whole
    assert [entry.cursor for entry in entries] == [entry.cursor for entry in whole]
    assert in_pieces.received == Position(2, (15, 0, 0))


def test_line_longer_than_the_limit_is_returned_in_parts() -> None:
    reader = LineReader(JOB, 3, Position(2), whole=True, longest=4)
    entries = [*read(reader, encode(OUT, 17, 0, b"abc")), *read(reader, encode(OUT, 18, 3, b"def"))]
    entries += read(reader, encode(OUT, 19, 6, b"g\n"))
    assert [(entry.data, entry.partial) for entry in entries] == [(b"abcdef", True), (b"g", False)]


def test_line_in_several_records_has_the_time_of_its_end() -> None:
    reader = line_reader()
    frames = [encode(OUT, 1, 0, b"a"), encode(OUT, 2, 1, b"b"), encode(OUT, 3, 2, b"c\nd\ne"), encode(OUT, 4, 7, b"\n")]
    assert [read(reader, frame) for frame in frames[:2]] == [[], []]
    entries = read(reader, *frames[2:])
    assert [(entry.data, entry.timestamp_ms) for entry in entries] == [(b"abc", 3), (b"d", 3), (b"e", 4)]
    assert [entry.position()[1][OUT] for entry in entries] == [4, 6, 8]


def test_partial_lines_of_different_sources_are_not_joined() -> None:
    reader = line_reader()
    frames = [
        encode(OUT, 1, 0, b"out"),
        encode(ERR, 2, 0, b"err\nmore "),
        encode(BUILD, 3, 0, b"build\n"),
        encode(OUT, 4, 3, b"put\n"),
        encode(ERR, 5, 9, b"err\n"),
    ]
    entries = read(reader, *frames)
    assert [(entry.source, entry.message) for entry in entries] == [
        ("stderr", "err"),
        ("build", "build"),
        ("stdout", "output"),
        ("stderr", "more err"),
    ]
    # Each cursor: what was given out of every source, not what was received of it.
    assert [entry.position().offsets for entry in entries] == [(0, 4, 0), (0, 4, 6), (7, 4, 6), (7, 13, 6)]


def test_reader_returns_the_time_of_each_record() -> None:
    frames = encode(OUT, 5, 0, b"a\nb\n") + encode(OUT, 6, 4, b"c") + encode(OUT, 7, 5, b"\n")
    blocks = [(at, shown(entries)) for at, entries in line_reader().read(frames)]
    assert blocks == [(5, [b"a\n", b"b\n"]), (7, [b"c\n"])]


def test_empty_log_record_becomes_no_entry() -> None:
    assert read(line_reader(), encode(OUT, 1, 0, b""), encode(OUT, 2, 0, b"a\n")) == read(
        line_reader(), encode(OUT, 2, 0, b"a\n")
    )


def test_message_of_a_log_entry_replaces_invalid_utf8() -> None:
    (entry,) = read(line_reader(), encode(OUT, 1, 0, b"\xff\x00\xc3\xa9 \xed\xa0\x80\n"))
    assert entry.data == b"\xff\x00\xc3\xa9 \xed\xa0\x80"
    assert entry.message == "\ufffd\x00é \ufffd\ufffd\ufffd"


# --- what is not finished


def test_flush_returns_partial_lines_and_repeats_nothing() -> None:
    reader = line_reader()
    assert read(reader, encode(OUT, 1, 0, b"pass"), encode(ERR, 2, 0, b"\nwarn"), encode(OUT, 3, 4, b"word? ")) != []
    pieces = flush(reader)
    assert [(entry.source, entry.data, entry.partial) for entry in pieces] == [
        ("stdout", b"password? ", True),
        ("stderr", b"warn", True),
    ]
    assert [entry.timestamp_ms for entry in pieces] == [3, 2]
    assert [entry.position().offsets for entry in pieces] == [(10, 1, 0), (10, 5, 0)]
    assert [entry.position(before=True).offsets for entry in pieces] == [(0, 1, 0), (10, 1, 0)]
    assert reader.delivered == reader.received == Position(0, (10, 5, 0))
    assert flush(reader) == []
    assert shown(read(reader, encode(OUT, 9, 10, b"secret\nnext\n"))) == [b"secret\n", b"next\n"]


def test_flush_at_the_end_of_an_attempt_marks_the_line_as_ended() -> None:
    for ended in (False, True):
        reader = line_reader()
        read(reader, encode(OUT, 1, 0, b"no newline"))
        (entry,) = [entry for _, entries in reader.flush(ended=ended) for entry in entries]
        assert (entry.partial, entry.origin.ended) == (True, ended)


def test_newline_right_after_a_flush_is_an_entry_with_an_empty_line() -> None:
    reader = line_reader()
    read(reader, encode(OUT, 1, 0, b"done"))
    assert shown(flush(reader)) == [b"done"]
    assert shown(read(reader, encode(OUT, 2, 4, b"\n"))) == [b"\n"]


def test_progress_bar_of_a_reader_without_partial_lines_is_one_line() -> None:
    bar = b"".join(b"\r%3d%% %s" % (percent, b"=" * 50) for percent in range(101))
    (entry,) = read(line_reader(), *cut(OUT, bar + b"\n", 4096))
    assert (entry.data, entry.partial) == (bar, False)


def test_progress_bar_of_a_reader_with_partial_lines_is_cut_before_a_carriage_return() -> None:
    reader = line_reader(pieces=True)
    bar = b"".join(b"\r%3d%% %s" % (percent, b"=" * 50) for percent in range(101))
    frames = [encode(OUT, at, 56 * at, bar[56 * at : 56 * (at + 1)]) for at in range(101)]
    entries = read(reader, *frames)
    assert entries, "no line ends, and yet something is seen"
    assert all(entry.partial and entry.data.startswith(b"\r") for entry in entries)
    assert max(len(entry.data) for entry in entries) < 5000
    entries += read(reader, encode(OUT, 101, len(bar), b"\n"))
    assert content(entries, OUT) == [bar + b"\n"]
    assert b"".join(shown(join_parts(entries))) == bar + b"\n"
    assert len(list(join_parts(entries))) == len(entries), "the states of a bar are not put together"


def test_long_line_without_carriage_returns_is_not_cut() -> None:
    long = bytes(range(32, 127)) * 2000
    (entry,) = read(line_reader(), *cut(OUT, long + b"\n", 4096))
    assert entry.data == long


def test_carriage_return_of_a_windows_newline_does_not_cut_the_line() -> None:
    reader = line_reader()
    long = b"x" * 6000
    assert read(reader, encode(OUT, 1, 0, long + b"\r")) == []
    (entry,) = read(reader, encode(OUT, 1, 6001, b"\n"))
    assert entry.data == long + b"\r"


def test_line_that_exceeds_the_limit_is_cut() -> None:
    megabyte = b"x" * (1 << 20)
    size = MAX_HELD_LINE_BYTES + 3 * len(megabyte)
    reader = line_reader()
    entries: list[LogEntry] = []
    for offset in range(0, size, len(megabyte)):
        entries += read(reader, encode(OUT, offset >> 20, offset, megabyte))
    assert [(len(entry.data), entry.partial) for entry in entries] == [(MAX_HELD_LINE_BYTES, True)]
    assert entries[0].position()[1][OUT] == MAX_HELD_LINE_BYTES
    entries += read(reader, encode(OUT, 99, size, b"\nnext\n"))
    assert [(len(entry.data), entry.partial) for entry in entries[1:]] == [(3 << 20, False), (4, False)]
    whole, following = join_parts(entries)
    assert (len(whole.data), whole.partial, whole.timestamp_ms) == (size, False, 99)
    assert whole.position(before=True) == Position()
    assert whole.position() == Position(0, (size + 1, 0, 0))
    assert following.data == b"next"


# --- what is missing


def test_gap_is_an_entry_between_the_lines_around_it() -> None:
    reader = line_reader()
    frames = [
        encode(OUT, 1, 0, b"a\nb"),
        encode_gap(OUT, 2, 3, 1234, "the disk was full"),
        encode(OUT, 3, 1237, b"c\n"),
    ]
    entries = read(reader, *frames)
    assert content(entries, OUT) == [b"a\nb", 1234, b"c\n"]
    line, piece, gap, last = entries
    assert (line.partial, piece.partial, last.partial) == (False, True, False)
    assert (gap.missing_bytes, gap.data, gap.source, gap.timestamp_ms) == (1234, b"", "stdout", 2)
    assert gap.message == "[iris: 1,234 bytes of stdout are missing here: the disk was full]"
    assert [entry.position()[1][OUT] for entry in entries] == [2, 3, 1237, 1239]
    assert reader.received == Position(0, (1239, 0, 0))


def test_gap_that_is_received_twice_is_one_entry() -> None:
    gap = encode_gap(ERR, 2, 3, 100, "why")
    reader = line_reader(Position(0, (0, 3, 0)))
    assert [entry.missing_bytes for entry in read(reader, gap, gap)] == [100]
    assert read(line_reader(Position(0, (0, 103, 0))), gap) == []
    assert [entry.missing_bytes for entry in read(line_reader(Position(0, (0, 53, 0))), gap)] == [50]


def test_gap_of_one_source_does_not_affect_other_sources() -> None:
    reader = line_reader()
    read(reader, encode(OUT, 1, 0, b"half "))
    read(reader, encode_gap(ERR, 1, 0, 7, "why"))
    assert shown(read(reader, encode(OUT, 2, 5, b"of it\n"))) == [b"half of it\n"]


def test_missing_bytes_in_an_unfiltered_log_stream_are_a_gap() -> None:
    reader = line_reader()
    entries = read(reader, encode(OUT, 1, 0, b"a\nb"), encode(OUT, 2, 10, b"c\n"))
    assert content(entries, OUT) == [b"a\nb", 7, b"c\n"]
    assert "it was not sent" in entries[2].message


# --- filtered streams


def test_missing_bytes_in_a_filtered_log_stream_are_no_gap() -> None:
    reader = line_reader(whole=False)
    entries = read(reader, encode(OUT, 1, 100, b"a\nb\n"), encode(ERR, 2, 7, b"x\n"), encode(OUT, 3, 1000, b"c\n"))
    assert shown(entries) == [b"a\n", b"b\n", b"x\n", b"c\n"]
    assert [entry.position().offsets for entry in entries] == [(102, 0, 0), (104, 0, 0), (104, 9, 0), (1002, 9, 0)]
    assert reader.received == Position(0, (1002, 9, 0))


def test_partial_line_before_a_filtered_line_is_an_entry() -> None:
    reader = line_reader(whole=False)
    entries = read(reader, encode(OUT, 1, 0, b"piece"), encode(OUT, 2, 50, b"line\n"))
    assert shown(entries) == [b"piece", b"line\n"]
    assert [entry.position()[1][OUT] for entry in entries] == [5, 55]


def test_gap_in_a_filtered_stream_has_its_exact_size() -> None:
    reader = line_reader(whole=False)
    entries = read(reader, encode(OUT, 1, 0, b"a\n"), encode_gap(OUT, 2, 1000, 50, "why"), encode(OUT, 3, 2000, b"b\n"))
    assert content(entries, OUT) == [b"a\n", 50, b"b\n"]


def test_method_skip_to_moves_a_log_reader_to_the_given_offsets() -> None:
    reader = line_reader(whole=False)
    read(reader, encode(OUT, 1, 10, b"a\nb"), encode(ERR, 1, 10, b"c\n"))
    reader.skip_to((100, 200, 300))
    assert reader.received == Position(0, (13, 200, 300)), "an unfinished line is still to be finished"
    assert shown(flush(reader)) == [b"b"]
    reader.skip_to((100, 50, 0))
    assert reader.received == Position(0, (100, 200, 300)), "never back"


def test_missing_bytes_after_the_tail_are_a_gap() -> None:
    """As who begins with `tail`: jumps to the first line, none after the last."""
    reader = line_reader()
    reader.jumps = True
    assert shown(read(reader, encode(OUT, 1, 500, b"last\nhalf"))) == [b"last\n"]
    reader.skip_to((509, 70, 0))
    reader.jumps = False
    assert shown(read(reader, encode(OUT, 2, 509, b" done\n"), encode(ERR, 2, 70, b"e\n"))) == [b"half done\n", b"e\n"]
    assert [entry.missing_bytes for entry in read(reader, encode(OUT, 3, 516, b"x\n"))] == [1, 0]


# --- against a model


@dataclass(frozen=True)
class Recorded:
    """A record, and what it stands for.

    Attributes:
        source: Its source.
        end: Where it ends in its source.
        frame: The record itself.
        part: Its payload; of a gap how many bytes are missing.
    """

    source: int
    end: int
    frame: bytes
    part: bytes | int


def recorded(chance: random.Random, count: int, *, bars: bool, gaps: bool = True) -> list[Recorded]:
    """Random records of three sources."""
    records: list[Recorded] = []
    ends = [0, 0, 0]
    alphabet = b"ab\n\xff\x00" + (b"\r" if bars else b"")
    for at in range(count):
        source = chance.choice((OUT, OUT, ERR, BUILD))
        offset, now_ms = ends[source], 1000 + at // 3
        if gaps and chance.random() < 0.05:
            missing = chance.choice((1, 100, 1 << 40))
            ends[source] += missing
            records.append(Recorded(source, ends[source], encode_gap(source, now_ms, offset, missing, "why"), missing))
            continue
        size = chance.choice((0, 1, 2, 5, 30, 3000 if bars else 100))
        # Some have many lines, some none: then one gets long.
        payload = bytes(chance.choices(alphabet if chance.random() < 0.5 else alphabet.replace(b"\n", b""), k=size))
        ends[source] += size
        records.append(Recorded(source, ends[source], encode(source, now_ms, offset, payload), payload))
    return records


def expected(records: Iterable[Recorded], source: int) -> list[bytes | int]:
    return joined(record.part for record in records if record.source == source)


def read_in_pieces(
    chance: random.Random, reader: LineReader, records: Sequence[Recorded]
) -> tuple[list[LogEntry], set[int]]:
    """Reads as from a connection that breaks, and goes on from what has been received, or some records before that.

    Returns:
        What was read, and after which numbers of records the reader was flushed.
    """
    entries: list[LogEntry] = []
    flushes: set[int] = set()
    at = furthest = 0
    while at < len(records):
        stop = min(len(records), at + chance.choice((1, 2, 5, 20)))
        entries += read(reader, *(record.frame for record in records[at:stop]))
        at, furthest = stop, max(stop, furthest)
        if chance.random() < 0.2:
            flushes.add(furthest)
            entries += flush(reader)
        if chance.random() < 0.3:
            received = reader.received.offsets
            at = next((i for i, record in enumerate(records) if record.end > received[record.source]), len(records))
            assert at >= furthest
            at = max(0, at - chance.choice((0, 0, 1, 10)))
    flushes.add(len(records))
    return entries + flush(reader), flushes


def read_again(reader: LineReader, records: Sequence[Recorded], flushes: set[int], start: int) -> list[LogEntry]:
    entries: list[LogEntry] = []
    for at, record in enumerate(records[start:], start + 1):
        entries += read(reader, record.frame)
        if at in flushes:
            entries += flush(reader)
    return entries


def told(entry: LogEntry) -> tuple[object, ...]:
    return entry, entry.timestamp_ms, entry.position(), entry.cursor, entry.missing_bytes


@pytest.mark.parametrize("bars", [False, True])
@for_each_seed(20)
def test_random_records_become_the_lines_that_were_written(seed: int, bars: bool) -> None:
    chance = random.Random(seed)
    records = recorded(chance, 300, bars=bars)
    reader = line_reader(Position(1))
    entries, _ = read_in_pieces(chance, reader, records)
    for source in range(3):
        assert content(entries, source) == expected(records, source)
        for entry in entries:
            assert entry.partial or b"\n" not in entry.data
    ends = tuple(max((r.end for r in records if r.source == source), default=0) for source in range(3))
    assert reader.received == reader.delivered == Position(1, ends)
    before = Position(1)
    for entry in entries:
        # Each begins where the one before has ended. Of a gap, both places are its end.
        assert entry.missing_bytes or entry.position(before=True) == before
        before = entry.position()


@for_each_seed(20)
def test_log_reader_with_the_position_of_any_line_continues_after_the_line(seed: int) -> None:
    chance = random.Random(seed)
    records = recorded(chance, 150, bars=False)
    entries, flushes = read_in_pieces(chance, line_reader(), records)
    for at in chance.sample(range(len(entries)), 10):
        place = entries[at].position()
        # Any record from which on nothing is missing.
        last = min((i for i, r in enumerate(records) if r.end > place.offsets[r.source]), default=len(records))
        start = chance.choice((0, last, chance.randint(0, last)))
        rest = read_again(line_reader(place), records, {n for n in flushes if n > start}, start)
        assert [told(entry) for entry in rest] == [told(entry) for entry in entries[at + 1 :]]


@for_each_seed(10)
def test_log_reader_that_starts_after_any_part_of_a_progress_bar_returns_the_remaining_bytes(seed: int) -> None:
    """Where a bar is cut depends on where reading began; its bytes do not."""
    chance = random.Random(seed)
    records = recorded(chance, 300, bars=True)
    entries, flushes = read_in_pieces(chance, line_reader(), records)
    for at in chance.sample(range(len(entries)), 5):
        rest = read_again(line_reader(entries[at].position()), records, flushes, 0)
        for source in range(3):
            assert content(rest, source) == content(entries[at + 1 :], source)


@for_each_seed(20)
def test_random_filtered_records_become_the_selected_lines(seed: int) -> None:
    """A filter leaves out lines, and cuts records where they stand."""
    chance = random.Random(seed)
    frames: list[bytes] = []
    wanted: list[tuple[int, bytes, int]] = []
    ends = [0, 0, 0]
    for at in range(200):
        source = chance.randrange(3)
        lines = [bytes(chance.choices(b"abc", k=chance.randrange(5))) + b"\n" for _ in range(chance.randrange(1, 4))]
        offset = ends[source]
        ends[source] += sum(map(len, lines))
        if chance.random() < 0.5:
            wanted += [(source, line, ends[source]) for line in lines[-1:]]
            offset = ends[source] - len(lines[-1])
            frames.append(encode(source, at, offset, lines[-1]))
    reader = line_reader(whole=False)
    entries = read(reader, *frames)
    assert [(e.source, e.data + b"\n") for e in entries] == [(SOURCES[source], line) for source, line, _ in wanted]
    for at, entry in enumerate(entries):
        place = entry.position()
        assert place.offsets[wanted[at][0]] == wanted[at][2]
        if at % 20 == 0:
            again = read(line_reader(place, whole=False), *frames)
            assert [told(line) for line in again] == [told(line) for line in entries[at + 1 :]]


def cut(source: int, data: bytes, size: int) -> Iterator[bytes]:
    """A source's bytes as records of at most so many."""
    for offset in range(0, len(data), size):
        yield encode(source, offset, offset, data[offset : offset + size])


# --- an entry


def entry(
    data: bytes = b"line", end: int = 5, *, task_index: int = 3, source: int = OUT, partial: bool = False
) -> LogEntry:
    return LogEntry(data, end, EntryOrigin(JOB, task_index, 0, source, 17, (end, 7, 0), partial=partial))


def test_log_entries_of_the_same_line_are_equal() -> None:
    assert entry() == entry()
    assert hash(entry()) == hash(entry())
    assert len({entry(), entry(), entry(b"other", 6)}) == 2
    others = [entry(b"else"), entry(end=6), entry(task_index=4), entry(source=ERR), entry(partial=True)]
    assert all(other != entry() for other in others)
    assert entry() != "line"
    assert entry() != b"line"


def test_entries_of_the_same_line_from_two_readers_are_equal() -> None:
    data = b"one\ntwo\nthree\n"
    assert read(line_reader(), encode(OUT, 1, 0, data)) == read(line_reader(), *cut(OUT, data, 1))


def test_repr_of_a_log_entry_shows_its_fields() -> None:
    assert repr(entry(b"caf\xc3\xa9")) == (
        "LogEntry(task_index=3, attempt_id=0, source='stdout', timestamp_ms=17, message='café')"
    )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_log_entry_can_be_pickled(protocol: int) -> None:
    for each in read(line_reader(), encode(OUT, 1, 0, b"line\n"), encode_gap(OUT, 2, 5, 10, "why")):
        again = pickle.loads(pickle.dumps(each, protocol))
        assert told(again) == told(each)
        assert again.message == each.message


def test_log_entry_of_a_stream_of_several_tasks_can_be_pickled() -> None:
    each = entry()
    each.set_other_positions(OtherPositions(lambda: {0: Position(1, (2, 3, 4)), 3: Position()}))
    for again in (pickle.loads(pickle.dumps(each)), copy.copy(each), copy.deepcopy(each)):
        assert told(again) == told(each)
        assert decode_cursor(JOB, again.cursor) == {0: Position(1, (2, 3, 4)), 3: each.position()}


def test_cursor_of_an_entry_contains_the_positions_of_the_other_tasks() -> None:
    one = entry()
    one.set_other_positions(OtherPositions(lambda: {0: Position(0, (9, 9, 9)), 3: Position(0, (1, 1, 1))}))
    assert decode_cursor(JOB, one.cursor) == {0: Position(0, (9, 9, 9)), 3: Position(0, (5, 7, 0))}


# --- pieces


def piece(data: bytes, *, source: int = OUT, partial: bool = True) -> LogEntry:
    return entry(data, len(data), source=source, partial=partial)


def missing(source: int = OUT) -> LogEntry:
    return LogEntry(b"", 5, EntryOrigin(JOB, 3, 0, source, 17, (0, 0, 0), partial=True, missing=(5, "why")))


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([], []),
        ([piece(b"a", partial=False)], [b"a\n"]),
        ([piece(b"a"), piece(b"b", partial=False)], [b"ab\n"]),
        ([piece(b"a"), piece(b"b"), piece(b"", partial=False)], [b"ab\n"]),
        ([piece(b"a")], [b"a"]),
        ([piece(b"a"), piece(b"b")], [b"ab"]),
        ([piece(b"10%"), piece(b"\r20%"), piece(b"\r30%", partial=False)], [b"10%", b"\r20%", b"\r30%\n"]),
        ([piece(b"a"), missing(), piece(b"b", partial=False)], [b"a", b"", b"b\n"]),
        ([missing(), missing()], [b"", b""]),
        ([piece(b"a"), missing(ERR), piece(b"b", partial=False)], [b"", b"ab\n"]),
        ([piece(b"a"), piece(b"x", source=ERR, partial=False), piece(b"b", partial=False)], [b"x\n", b"ab\n"]),
        ([piece(b"a"), piece(b"x", source=ERR)], [b"a", b"x"]),
    ],
)
def test_partial_entries_of_one_line_are_joined(pieces: list[LogEntry], whole: list[bytes]) -> None:
    assert shown(join_parts(pieces)) == whole


def test_partial_line_of_an_ended_attempt_is_not_continued_by_the_next_attempt() -> None:
    ended = LogEntry(b"no newline", 10, EntryOrigin(JOB, 3, 0, OUT, 1, (0, 0, 0), partial=True))
    first = LogEntry(b"a line", 7, EntryOrigin(JOB, 3, 1, OUT, 2, (0, 0, 0)))
    assert shown(join_parts([ended, first])) == [b"no newline", b"a line\n"]


def test_partial_entries_of_different_tasks_are_not_joined() -> None:
    pieces = [entry(b"of 3", 4, partial=True), entry(b"of 4", 5, task_index=4), entry(b" it", 8)]
    assert shown(join_parts(pieces)) == [b"of 4\n", b"of 3 it\n"]


@for_each_seed(10)
def test_random_parts_of_lines_are_joined(seed: int) -> None:
    chance = random.Random(seed)
    records = recorded(chance, 200, bars=False, gaps=False)
    entries, _ = read_in_pieces(chance, line_reader(), records)
    whole = list(join_parts(entries))
    for source in range(3):
        mine = [line for line in whole if line.source == SOURCES[source]]
        (data,) = expected(records, source)
        assert isinstance(data, bytes)
        assert shown(mine) == [line for line in re.split(rb"(?<=\n)", data) if line]
        assert [line.partial for line in mine[:-1]] == [False] * (len(mine) - 1)


# --- bytes


def raw_reader(position: Position = Position()) -> tuple[RawReader, list[str]]:  # noqa: B008 - a tuple
    notices: list[str] = []
    return RawReader(position, notices.append), notices


def test_raw_reader_returns_the_bytes_unchanged() -> None:
    reader, notices = raw_reader(Position(1))
    found = [
        (at, b"".join(items)) for at, items in reader.read(encode(OUT, 1, 0, b"a\nb") + encode(ERR, 2, 0, b"\xff"))
    ]
    assert found == [(1, b"a\nb"), (2, b"\xff")]
    assert reader.received == reader.delivered == Position(1, (3, 1, 0))
    assert list(reader.flush()) == []
    assert notices == []


def test_raw_reader_drops_repeated_bytes() -> None:
    reader, _ = raw_reader(Position(0, (2, 0, 0)))
    frames = encode(OUT, 1, 0, b"ab") + encode(OUT, 2, 0, b"abcd") + encode(OUT, 3, 4, b"ef") + encode(OUT, 3, 4, b"ef")
    assert [b"".join(items) for _, items in reader.read(frames)] == [b"cd", b"ef"]


def test_raw_reader_reports_a_gap_once() -> None:
    reader, notices = raw_reader()
    gap = encode_gap(ERR, 1, 5, 1000, "the disk was full")
    frames = encode(ERR, 1, 0, b"first") + gap + gap + encode(ERR, 2, 1005, b"last")
    assert [b"".join(items) for _, items in reader.read(frames)] == [b"first", b"last"]
    assert notices == ["1,000 bytes of stderr are missing: the disk was full"]


def test_raw_reader_skips_to_the_given_offsets() -> None:
    reader, _ = raw_reader(Position(0, (5, 5, 5)))
    reader.skip_to((9, 1, 5))
    assert reader.received == Position(0, (9, 5, 5))


@for_each_seed(10)
def test_raw_reader_returns_the_bytes_of_random_records(seed: int) -> None:
    chance = random.Random(seed)
    records = recorded(chance, 300, bars=True, gaps=False)
    reader, notices = raw_reader()
    found = b""
    at = 0
    while at < len(records):
        stop = min(len(records), at + chance.choice((1, 5, 20)))
        found += b"".join(b"".join(items) for _, items in reader.read(b"".join(r.frame for r in records[at:stop])))
        at = max(0, stop - chance.choice((0, 0, 7))) if stop < len(records) else stop
    assert found == b"".join(record.part for record in records if isinstance(record.part, bytes))
    assert notices == []


def test_reader_makes_at_most_the_given_number_of_entries_at_a_time() -> None:
    data = b"".join(b"%d\n" % number for number in range(1000, 9000))
    reader = LineReader(JOB, 3, Position(), whole=True, piece_lines=100)
    batches = [entries for _, entries in reader.read(encode(OUT, 1000, 0, data))]
    assert {len(entries) for entries in batches} == {100}
    assert b"".join(shown(itertools.chain(*batches))) == data


def test_lines_returned_in_blocks_have_the_same_bytes_and_cursors_as_single_lines() -> None:
    frames = [
        encode(OUT, 1000, 0, b"one\ntwo\nthr"),
        encode(ERR, 1001, 0, b"error\n"),
        encode(OUT, 1002, 11, b"ee\n\n"),
        encode_gap(OUT, 1003, 15, 100, "the disk was full"),
        encode(OUT, 1004, 115, b"no newline"),
    ]
    blocks = LineReader(JOB, 3, Position(), whole=True, blocks=True)
    lines = line_reader()
    of_blocks, of_lines = read(blocks, *frames) + flush(blocks), read(lines, *frames) + flush(lines)
    assert [entry.data for entry in of_blocks] == [b"one\ntwo", b"error", b"three\n", b"", b"no newline"]
    assert b"".join(shown(of_blocks)) == b"".join(shown(of_lines))
    assert blocks.delivered == lines.delivered
    assert {entry.cursor for entry in of_blocks} <= {entry.cursor for entry in of_lines}
