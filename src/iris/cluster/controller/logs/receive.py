"""Puts the pieces together that workers hand over of their attempts' logs: into segments, as they had them.

Used by one thread, which blocks on the disk. Where a log is, is read from the disk when it is met first, so nothing is
lost with this process; what is kept in memory only saves looking again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iris.cluster.logs.records import SOURCES, Offsets
from iris.cluster.logs.segments import (
    AWAY,
    RecordBoundary,
    has_end,
    list_segments,
    parse_end,
    read_end,
    remove_written,
    write_end,
    write_written,
)
from iris.cluster.logs.upload_answers import UNWANTED
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2

Piece = cluster_pb2.Controller.StoreLogsRequest.Piece

_REMEMBERED = 10_000


@dataclass(slots=True)
class _Kept:
    """A log that is being handed over: where its segments begin, and where it ends."""

    segments: list[RecordBoundary]
    position: int
    complete: bool = False


class LogPieces:
    """The logs that are being handed over."""

    def __init__(self) -> None:
        self._logs: dict[Path, _Kept] = {}

    def store(self, directory: Path, piece: Piece, max_bytes: int) -> int:
        """Takes a piece, if it is the one that is wanted next.

        1. Nothing is wanted of a log that was removed. One that is complete stays as it is.
        2. A piece that begins a segment may lie beyond what we have: its worker has dropped what is between.
        3. Any other follows what we have, without a byte between.

        Args:
            directory: Of the attempt's log; made when it is missing.
            piece: From its worker.
            max_bytes: What is kept of it, about; the oldest segment is dropped where it becomes more.

        Returns:
            Where the piece begins that is wanted next; `UNWANTED` when none is.

        Raises:
            InvalidArgumentError: The piece cannot be meant.
            OSError: It cannot be written.
        """
        if has_end(directory):
            self._logs.pop(directory, None)  # it was removed meanwhile
        kept = self._logs.get(directory) or self._load(directory)
        if kept is None:
            return UNWANTED
        if kept.complete:
            return kept.position
        try:
            if piece.offsets and piece.position >= kept.position:
                self._begin_segment(directory, kept, _place(piece))
            if piece.position != kept.position or not (kept.segments or piece.end):
                return kept.position
            self._append(directory, kept, piece.records)
            self._drop_oldest(directory, kept, max_bytes)
            if piece.end:
                self._complete(directory, kept, piece)
            elif piece.bytes_written and (piece.records or kept.segments):
                write_written(directory, _offsets(piece.bytes_written))
        except OSError:
            self._logs.pop(directory, None)  # what is there is looked at anew
            raise
        return kept.position

    def _load(self, directory: Path) -> _Kept | None:
        segments = list(list_segments(directory))
        position = 0
        if segments:
            with contextlib.suppress(FileNotFoundError):
                position = segments[-1].position + (directory / segments[-1].segment_name).stat().st_size
        end = read_end(directory)
        if end is not None:
            return None if end.removed else _Kept(segments, position, complete=True)
        (directory / AWAY).unlink(missing_ok=True)  # what a late worker brings replaces what was stored elsewhere
        kept = self._logs[directory] = _Kept(segments, position)
        if len(self._logs) > _REMEMBERED:
            del self._logs[next(iter(self._logs))]
        return kept

    def _begin_segment(self, directory: Path, kept: _Kept, place: RecordBoundary) -> None:
        if kept.segments and kept.segments[-1].position == place.position:
            return  # the piece comes again
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(directory / place.segment_name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
        kept.segments.append(place)
        kept.position = place.position

    def _append(self, directory: Path, kept: _Kept, records: bytes) -> None:
        if not records:
            return
        last = kept.segments[-1]
        fd = os.open(directory / last.segment_name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            rest, at = memoryview(records), kept.position - last.position
            while rest:
                written = os.pwrite(fd, rest, at)
                rest, at = rest[written:], at + written
        finally:
            os.close(fd)
        kept.position += len(records)

    def _drop_oldest(self, directory: Path, kept: _Kept, max_bytes: int) -> None:
        while len(kept.segments) > 1 and kept.position - kept.segments[0].position > max_bytes:
            (directory / kept.segments.pop(0).segment_name).unlink(missing_ok=True)

    def _complete(self, directory: Path, kept: _Kept, piece: Piece) -> None:
        try:
            end = parse_end(piece.end)
        except ValueError as error:
            raise InvalidArgumentError(str(error)) from error
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_end(directory, end)
        remove_written(directory)
        kept.complete = True
        self._logs.pop(directory, None)


def _place(piece: Piece) -> RecordBoundary:
    if piece.position < 0 or piece.line < 0:
        raise InvalidArgumentError(f"position={piece.position}, line={piece.line}: expected numbers from 0")
    return RecordBoundary(piece.position, piece.line, _offsets(piece.offsets))


def _offsets(numbers: Sequence[int]) -> Offsets:
    if len(numbers) != len(SOURCES) or min(numbers) < 0:
        raise InvalidArgumentError(f"offsets {list(numbers)}: expected three numbers from 0, one for each source")
    return numbers[0], numbers[1], numbers[2]
