"""Writes the uploaded parts of logs. The stored log has the same segments as the log on the worker.

Writing blocks on the disk, so this module runs in a thread. Only one thread uses the module. When the first part of a
log arrives, the state of the log is read from the disk. Therefore no state is lost if the controller is killed. The
state is kept in memory only to avoid repeated reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.records import SOURCES, Offsets
from iris.cluster.logs.segments import (
    AWAY,
    RecordBoundary,
    has_end,
    list_segments,
    parse_end,
    read_end,
    remove_written,
    segment_size,
    write_end,
    write_written,
)
from iris.cluster.logs.upload_answers import UNWANTED
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

Piece = cluster_pb2.Controller.StoreLogsRequest.Piece

_MAX_LOGS = 10_000  # The upload state of at most this many logs is kept in memory.


class UploadedLog(NamedTuple):
    """The upload of a log whose end was stored.

    Attributes:
        task_id: The id of the task.
        attempt_id: The id of the attempt.
        job_submitted_at_ms: When the job was submitted, in milliseconds since the epoch; 0 if the worker does not know.
        begin_ms: When this process of the controller got the first part of the log, in milliseconds since the epoch.
        end_ms: When the end of the log was stored, in milliseconds since the epoch.
    """

    task_id: str
    attempt_id: int
    job_submitted_at_ms: int
    begin_ms: int
    end_ms: int


@dataclass(slots=True)
class _Kept:
    """The state of a log that is being uploaded.

    Attributes:
        segments: The positions in the log at which its segments begin.
        position: How many bytes of the log come before the next part.
        begin_ms: When the first part of the log arrived, in milliseconds since the epoch.
        complete: Whether the log has its end. No part follows the end.
    """

    segments: list[RecordBoundary]
    position: int
    begin_ms: int = 0
    complete: bool = False


class UploadedLogs:
    """The logs that workers are uploading.

    Args:
        unfold: A function that gets the directory of a log. If the log is folded, the function writes the log into
            files again.

    Attributes:
        received_bytes: How many bytes of records were stored since the start of the controller.
        missing_bytes: How many bytes are missing from the logs whose ends were stored since the start of the
            controller.
    """

    def __init__(self, unfold: Callable[[Path], object]) -> None:
        self.received_bytes = self.missing_bytes = 0
        self._unfold = unfold
        self._logs: dict[Path, _Kept] = {}
        self._completed: list[UploadedLog] = []

    def pop_completed(self) -> list[UploadedLog]:
        """Return the uploads that have ended since the last call of this method. Only the thread that stores the parts
        may call the method.
        """
        completed, self._completed = self._completed, []
        return completed

    def store(self, directory: Path, piece: Piece, max_bytes: int) -> int:
        """Store an uploaded part of a log if the part follows the stored parts.

        1. Parts of a removed log are not stored. A complete log does not change.
        2. A part that begins a segment may leave a gap after the stored parts, because the worker may have dropped the
            segments in the gap.
        3. Any other part has to follow the stored parts without a gap.

        Args:
            directory: The directory of the log, which is created if it is missing.
            piece: The message with the uploaded part.
            max_bytes: About how many bytes to keep. If the log is larger, its oldest segments are removed.

        Returns:
            The position of the next part to send; `UNWANTED` if no part is wanted.

        Raises:
            InvalidArgumentError: A number or the end of the log in the part is invalid.
            OSError: The part cannot be written.
        """
        if has_end(directory) or not directory.exists():
            # The upload state in memory is dropped. It is outdated if a sweep has removed the log or moved it into the
            # database.
            self._logs.pop(directory, None)
        kept = self._logs.get(directory) or self._load(directory)
        if kept is None:
            return UNWANTED
        if kept.complete:
            return kept.position
        try:
            if piece.offsets and piece.position >= kept.position:
                self._begin_segment(directory, kept, _boundary(piece))
            if piece.position != kept.position or not (kept.segments or piece.end):
                return kept.position
            self._append(directory, kept, piece.records)
            self._drop_oldest(directory, kept, max_bytes)
            if piece.end:
                self._complete(directory, kept, piece)
            elif piece.bytes_written and (piece.records or kept.segments):
                write_written(directory, _offsets(piece.bytes_written))
        except OSError:
            # After a failed write, the state of the log in memory may be wrong. When the next part of the log arrives,
            # the state is read from the disk.
            self._logs.pop(directory, None)
            raise
        return kept.position

    def _load(self, directory: Path) -> _Kept | None:
        segments = list(list_segments(directory))
        position = 0
        if segments:
            position = segments[-1].position + segment_size(directory, segments[-1])
        end = read_end(directory)
        if end is not None:
            return None if end.removed else _Kept(segments, position, complete=True)
        if not directory.exists():
            self._unfold(directory)
        # The log location has a copy of the log without this late part. Therefore the log must be copied again.
        (directory / AWAY).unlink(missing_ok=True)
        kept = self._logs[directory] = _Kept(segments, position, now_ms())
        if len(self._logs) > _MAX_LOGS:
            del self._logs[next(iter(self._logs))]
        return kept

    def _begin_segment(self, directory: Path, kept: _Kept, boundary: RecordBoundary) -> None:
        if kept.segments and kept.segments[-1].position == boundary.position:
            return  # The part is stored already.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(
            os.open(directory / boundary.segment_name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        )
        kept.segments.append(boundary)
        kept.position = boundary.position

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
        self.received_bytes += len(records)

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
        self.missing_bytes += end.bytes_missing
        self._completed.append(
            UploadedLog(piece.task_id, piece.attempt_id, piece.job_submitted_at_ms, kept.begin_ms, now_ms())
        )
        self._logs.pop(directory, None)


def _boundary(piece: Piece) -> RecordBoundary:
    if piece.position < 0 or piece.line < 0:
        raise InvalidArgumentError(f"position and line must be 0 or greater, got {piece.position} and {piece.line}")
    return RecordBoundary(piece.position, piece.line, _offsets(piece.offsets))


def _offsets(numbers: Sequence[int]) -> Offsets:
    if len(numbers) != len(SOURCES) or min(numbers) < 0:
        raise InvalidArgumentError(
            f"offsets must be three numbers of 0 or greater, one for each source, got {list(numbers)}"
        )
    return numbers[0], numbers[1], numbers[2]
