"""Pieces of logs, as workers hand them over: whatever order they come in, a log is what its worker has."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from iris.cluster.controller.logs.folding import FoldedLogs
from iris.cluster.controller.logs.receive import Piece, UploadedLogs
from iris.cluster.controller.logs.removal.removed_logs import remove_log
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.reading.reader import LogReader
from iris.cluster.logs.segments import END, list_segments, read_end, read_written
from iris.cluster.logs.upload_answers import UNWANTED
from iris.errors import InvalidArgumentError

ALL = 1 << 40


def uploaded_logs(directory: Path) -> UploadedLogs:
    """The state of a controller that has just started."""
    return UploadedLogs(FoldedLogs(LogDirectories(directory / "logs")).unfold)


def write_log(directory: Path, *, records: int = 60, max_bytes: int = ALL, close: bool = True) -> LogWriter:
    """A log of several segments, of three sources."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    writer = LogWriter(directory, max_bytes=max_bytes)
    chance = random.Random(records)
    for number in range(records):
        source = ("stdout", "stderr", "build")[number % 3]
        writer.append(source, chance.randbytes(chance.randrange(1, 20_000)) + b"\n", number)  # type: ignore[arg-type]
    if close:
        writer.close()
    return writer


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def cut(directory: Path, sizes: random.Random) -> list[Piece]:
    """All pieces of a log, in order; the end is one of its own."""
    pieces = []
    position = 0
    for place in list_segments(directory):
        data = (directory / place.segment_name).read_bytes()
        position = place.position
        while data:
            size = sizes.randrange(1, 50_000)
            piece = Piece(position=position, records=data[:size], bytes_written=(1, 2, 3))
            if position == place.position:
                piece.offsets.extend(place.offsets)
                piece.line = place.line
            pieces.append(piece)
            position, data = position + len(data[:size]), data[size:]
    pieces.append(Piece(position=position, end=(directory / END).read_bytes()))
    return pieces


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_log(tmp_path / "source", max_bytes=8 * 65536)
    assert len(list_segments(tmp_path / "source")) > 3
    return tmp_path / "source"


@pytest.mark.parametrize("seed", range(20))
def test_log_parts_that_arrive_twice_late_or_early_give_the_whole_log(source: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    pieces = cut(source, chance)
    kept, there = tmp_path / "kept" / "0", uploaded_logs(tmp_path)
    wanted, asked = 0, 0
    while asked < len(pieces):
        step = chance.choice(["next", "next", "next", "again", "early", "restart", "ask"])
        if step == "restart":
            there = uploaded_logs(tmp_path)
        elif step == "ask":
            assert there.store(kept, Piece(), ALL) == wanted
        elif step == "again" and asked:
            assert there.store(kept, chance.choice(pieces[:asked]), ALL) == wanted
        elif step == "early" and asked + 2 < len(pieces) and not pieces[asked + 1].offsets:
            assert there.store(kept, pieces[asked + 1], ALL) == wanted
        elif step == "next":
            piece = pieces[asked]
            wanted, asked = piece.position + len(piece.records), asked + 1
            assert there.store(kept, piece, ALL) == wanted
            assert read_written(kept) == ((0, 0, 0) if piece.end else (1, 2, 3))
    assert files(kept) == files(source)
    assert there.store(kept, pieces[0], ALL) == wanted  # what is complete stays as it is
    assert there.store(kept, Piece(position=wanted, records=b"more"), ALL) == wanted
    assert files(kept) == files(source)


def test_segment_that_the_worker_dropped_leaves_a_gap_in_the_uploaded_log(source: Path, tmp_path: Path) -> None:
    first, *_, last = list_segments(source)
    kept, there = tmp_path / "kept" / "0", uploaded_logs(tmp_path)
    half = (source / first.segment_name).read_bytes()[:1000]
    there.store(kept, Piece(position=first.position, offsets=first.offsets, line=first.line, records=half), ALL)
    rest = (source / last.segment_name).read_bytes()
    piece = Piece(position=last.position, offsets=last.offsets, line=last.line, records=rest)
    piece.end = (source / END).read_bytes()
    assert there.store(kept, piece, ALL) == last.position + len(rest)
    end = read_end(kept)
    assert end is not None
    with LogReader(kept) as reader:
        while reader.read(1 << 20, final=True):
            pass
        assert reader.offsets == end.bytes_written
        assert reader.missing > 0


def test_oldest_segment_of_a_too_large_log_is_removed(source: Path, tmp_path: Path) -> None:
    kept, there = tmp_path / "kept" / "0", uploaded_logs(tmp_path)
    for piece in cut(source, random.Random(1)):
        there.store(kept, piece, 200_000)
        segments = list_segments(kept)
        assert len(segments) < 2 or sum(path.stat().st_size for path in kept.iterdir()) < 200_000 + 65536 + 50_000
    assert list_segments(kept) == list_segments(source)[-len(list_segments(kept)) :]


def test_empty_log_is_stored_with_its_end(tmp_path: Path) -> None:
    write_log(tmp_path / "source", records=0)
    kept = tmp_path / "kept" / "0"
    assert uploaded_logs(tmp_path).store(kept, Piece(), ALL) == 0
    assert not kept.exists()
    assert uploaded_logs(tmp_path).store(kept, Piece(end=(tmp_path / "source" / END).read_bytes()), ALL) == 0
    assert files(kept) == files(tmp_path / "source")


def test_uploaded_part_of_a_removed_log_is_not_stored(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "0"
    for piece in cut(source, random.Random(1)):
        uploaded_logs(tmp_path).store(kept, piece, ALL)
    remove_log(kept, "too old")
    assert uploaded_logs(tmp_path).store(kept, Piece(), ALL) == UNWANTED


@pytest.mark.parametrize(
    "piece",
    [
        Piece(position=-1, offsets=(0, 0, 0)),
        Piece(offsets=(0, 0)),
        Piece(offsets=(0, -1, 0)),
        Piece(offsets=(0, 0, 0), line=-1),
        Piece(end=b"not JSON"),
        Piece(end=b"{}"),
        Piece(end=json.dumps({"bytes_written": [1, 2], "bytes_missing": 0, "max_bytes": 0}).encode()),
        Piece(offsets=(0, 0, 0), records=b"x", bytes_written=(1,)),
    ],
    ids=str,
)
def test_invalid_uploaded_log_part_is_refused(tmp_path: Path, piece: Piece) -> None:
    if piece.position < 0:
        assert uploaded_logs(tmp_path).store(tmp_path / "0", piece, ALL) == 0
    else:
        with pytest.raises(InvalidArgumentError):
            uploaded_logs(tmp_path).store(tmp_path / "0", piece, ALL)
    assert read_end(tmp_path / "0") is None


def test_log_that_vanished_from_the_disk_is_requested_from_its_beginning(source: Path, tmp_path: Path) -> None:
    kept, there = tmp_path / "kept" / "0", uploaded_logs(tmp_path)
    first, second, *_ = cut(source, random.Random(3))
    there.store(kept, first, ALL)
    for path in kept.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError):
        there.store(kept, second, ALL)
    assert there.store(kept, second, ALL) == 0
    assert there.store(kept, first, ALL) == first.position + len(first.records)


def test_log_part_that_does_not_fit_on_a_full_disk_raises_and_is_stored_later(source: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the directory should be")
    first = cut(source, random.Random(3))[0]
    with pytest.raises(OSError):
        uploaded_logs(tmp_path).store(tmp_path / "kept" / "0", first, ALL)
    (tmp_path / "kept").unlink()
    assert uploaded_logs(tmp_path).store(tmp_path / "kept" / "0", first, ALL) == first.position + len(first.records)


def test_incomplete_end_file_of_a_log_is_written_again(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "0"
    pieces = cut(source, random.Random(4))
    for piece in pieces:
        uploaded_logs(tmp_path).store(kept, piece, ALL)
    (kept / END).write_text("{")  # as a crash of the machine may leave it
    last = pieces[-1]
    assert uploaded_logs(tmp_path).store(kept, Piece(), ALL) == last.position
    assert uploaded_logs(tmp_path).store(kept, last, ALL) == last.position
    assert files(kept) == files(source)
