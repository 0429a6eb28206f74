"""One open segment of a log, and the checks of its records."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from iris.cluster.logs.checksum import crc32
from iris.cluster.logs.folded.reading import FoldedSegment
from iris.cluster.logs.records import (
    CHECKED_AT,
    GAP,
    HEADER,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC,
    SOURCES,
    parse_gap,
)
from iris.cluster.logs.segments import RecordBoundary, unreadable_now

MAGIC_WORD = MAGIC << LENGTH_BITS
LAST_SOURCE = len(SOURCES) - 1
_SMALLEST_GAP_PAYLOAD = 8
# Errors of a read that mean that the segment is damaged: a bad sector, or a directory in place of the file.
_DAMAGE = (errno.EIO, errno.EISDIR)
# A valid gap record has fewer missing bytes than this.
_LONGEST_GAP = 1 << 60


class SegmentFile:
    """The open file of a segment, or a segment of a folded log.

    The segment's file is closed when the last reference to this object is dropped, and not by a call. A reader may be
    closed while a thread is still reading the file. If a call closed the descriptor, the thread could read another file
    that has got the same descriptor.

    Args:
        directory: The directory of the log.
        start: The position in the log at which the segment begins.

    Raises:
        FileNotFoundError: The log has no such segment.
        UnavailableError: The segment cannot be opened now.
    """

    def __init__(self, directory: Path, start: RecordBoundary) -> None:
        self.fd = -1
        self.start = start
        self._folded: FoldedSegment | None = None
        try:
            self.fd = os.open(directory / start.segment_name, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._folded = FoldedSegment(directory, start.segment_name)
        except OSError as error:
            raise unreadable_now(error) from error

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    @property
    def end(self) -> int:
        """The position in the log at which the segment ends now."""
        return self.start.position + (os.fstat(self.fd).st_size if self._folded is None else self._folded.size)

    def read(self, position: int, max_bytes: int, stop: int) -> bytes:
        """Return bytes of the segment: at least one whole record if there is one, and about `max_bytes`.

        Args:
            position: The position in the log at which to begin.
            max_bytes: About how many bytes of the segment to return.
            stop: The position in the log at which the readable part of the segment ends.

        Returns:
            The bytes; b"" if the bytes are damaged, so that the disk cannot read them.

        Raises:
            UnavailableError: The bytes cannot be read now.
        """
        at, available = position - self.start.position, stop - position
        data = self._read(min(max(max_bytes, HEADER.size), available), at)
        if len(data) >= HEADER.size:
            first = HEADER.size + (HEADER.unpack_from(data)[0] & LENGTH_MASK)
            if len(data) < first <= available:
                data = self._read(first, at)
        return data

    def _read(self, size: int, at: int) -> bytes:
        if self._folded is not None:
            return self._folded.read(size, at)
        try:
            return os.pread(self.fd, size, at)
        except OSError as error:
            if error.errno in _DAMAGE:
                return b""
            raise unreadable_now(error) from error

    def first_ms(self, default_ms: int) -> int:
        """Return the time of the first record, or `default_ms` if that record is damaged. All bytes that are missing
        before this segment were written before the returned time.

        Raises:
            UnavailableError: The record cannot be read now.
        """
        header = self._read(HEADER.size, 0)
        if len(header) < HEADER.size:
            return default_ms
        word, checksum, timestamp_ms, _, _ = HEADER.unpack(header)
        length = word ^ MAGIC_WORD
        payload = self._read(length, HEADER.size) if length <= LENGTH_MASK else b""
        is_whole = len(payload) == length and crc32(payload, crc32(header[CHECKED_AT:])) == checksum
        return int(timestamp_ms) if is_whole else default_ms


def measure_gap(kind: int, payload: bytes) -> tuple[int, int]:
    """Return the source and the number of missing bytes of a gap record. Return -1 and 0 if the record is not a valid
    gap."""
    source_id = kind ^ GAP
    if source_id > LAST_SOURCE or len(payload) < _SMALLEST_GAP_PAYLOAD:
        return -1, 0
    missing = parse_gap(payload)[0]
    return (source_id, missing) if missing < _LONGEST_GAP else (-1, 0)
