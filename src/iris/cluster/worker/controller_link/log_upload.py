"""Uploads the logs of attempts to the controller while they are written, so that the logs outlive the worker.

The worker sends the segments unchanged from the disk, and finally the file `end`. The controller answers with the
position at which the next part must begin. Therefore no byte is lost or stored twice if a call fails or if the
controller or the worker restarts. If a worker ends before a log is uploaded, the next process with the same directory
uploads the rest. The next process finds such a log because the attempt's directory contains a file `handover`.

Capturing output has priority over uploads. Therefore a thread reads the disk, only one call is in progress at a time,
and each call has a limited part of each log.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.logs.segments import END, RecordBoundary, encode_end, list_segments
from iris.cluster.logs.upload_answers import RETRY_LATER, UNWANTED
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.cluster.worker.paths import AttemptDir, WorkerDir
from iris.errors import IrisError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.system.backoff import Backoff
from iris.system.event_loop import happens

# The seconds between two calls that upload logs. A written byte reaches the controller after at most this time and the
# time of one call. The documentation promises 2 s.
_PERIOD_S = 0.5
_CALL_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20
# The largest number of parts of logs in one call.
_PIECES = 500
# The timeout of a call grows with the size of the call. If the network fails during a call, uploads resume only after
# the timeout. If the machine fails during this time, everything written since the beginning of the call is lost.
_CALL_S, _FULL_CALL_S = 5.0, 30.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
_LOOK_S = 0.02
# The longest pause in seconds before the upload of a log is tried again. The pauses grow up to this length if the
# upload fails repeatedly.
_LONGEST_LOG_PAUSE_S = 60.0
# The upload of a log is given up after this number of calls in a row that the controller answers with the same
# position.
_TRIES = 10
# After these errors a file is read again later. Otherwise the part of the log would be left out as if it were damaged.
_READABLE_LATER = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_log = logging.getLogger(__name__)

Piece = cluster_pb2.Controller.StoreLogsRequest.Piece


@dataclass(slots=True, eq=False)
class _PendingLog:
    """A log that is not completely uploaded yet.

    Attributes:
        directory: The attempt's directory.
        task_id: The id of the task.
        attempt_id: The id of the attempt.
        incarnation: The worker process that ran the attempt.
        submitted_at_ms: When the job was submitted, in milliseconds since the epoch.
        writer: The writer of the log; None for a log of an earlier worker process.
        position: Where the next part must begin; None for a log of an earlier worker process, until the controller
            answers with the position.
        tries: How many times in a row the controller has requested a part that the worker had already sent.
        is_paused: Whether the upload of the log is paused, because the log cannot be read now or the controller cannot
            store the log now.
        backoff: The lengths of the pauses in the upload of this log.
    """

    directory: AttemptDir
    task_id: str
    attempt_id: int
    incarnation: str
    submitted_at_ms: int = 0
    writer: LogWriter | None = None
    position: int | None = None
    tries: int = 0
    is_paused: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_PAUSE_S, _LONGEST_LOG_PAUSE_S))


class _SentPart(NamedTuple):
    """A part of a log that is being sent.

    Attributes:
        log: The log to which the part belongs.
        piece: The message with the part.
        has_more: Whether the log had more records when the part was read.
        is_last: Whether this is the last part of the log.
    """

    log: _PendingLog
    piece: Piece
    has_more: bool
    is_last: bool


class LogUpload:
    """Uploads the logs of this worker's attempts to the controller.

    Args:
        controller: The connection to the controller.
        worker_id: The id of this worker.
        incarnation: The random id of this worker process.
        directory: The worker directory.

    Attributes:
        uploaded_bytes: How many bytes of records the controller has accepted from this worker process.
    """

    def __init__(
        self,
        controller: ControllerConnection,
        worker_id: str,
        incarnation: str,
        directory: WorkerDir,
    ) -> None:
        self.uploaded_bytes = 0
        self._controller = controller
        self._worker_id = worker_id
        self._incarnation = incarnation
        self._directory = directory
        # The keys are the logs with new records, in order. The values mean nothing.
        self._news: dict[_PendingLog, None] = {}
        self._wake = asyncio.Event()
        self._flush_requested = asyncio.Event()  # Set while a caller waits for the end of all uploads.
        self._sending = asyncio.Lock()
        self._callbacks: dict[_PendingLog, Callable[[], None]] = {}
        self._paused: dict[_PendingLog, None] = {}

    def add(self, attempt: Attempt) -> None:
        """Begin to upload the log of a new attempt in the background."""
        task_id, attempt_id = attempt.key
        submitted_at_ms = attempt.request.job_submitted_at_ms
        log = _PendingLog(
            attempt.directory, task_id, attempt_id, self._incarnation, submitted_at_ms, attempt.log, position=0
        )
        # If the file cannot be written, the error is ignored, because only a restarted worker needs the file.
        with contextlib.suppress(OSError):
            attempt.directory.upload_pending.write_text(
                json.dumps([task_id, attempt_id, self._incarnation, submitted_at_ms])
            )
        self._callbacks[log] = changed = partial(self._changed, log)
        attempt.log.subscribe(changed)

    async def run(self) -> None:
        """Upload logs until the worker ends."""
        for log in await asyncio.to_thread(self._left_by_earlier):
            self._changed(log)
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._sending:
                await self._upload()
            await happens(self._flush_requested, _PERIOD_S)
            self._flush_requested.clear()

    async def until_uploaded(self) -> None:
        """Wait until the controller has received each log or has answered that the log is unwanted. The wait may last
        forever if a log cannot be uploaded. Therefore the caller limits the time to wait.
        """
        while self._news or self._paused or self._sending.locked():
            self._flush_requested.set()
            await asyncio.sleep(_LOOK_S)

    async def flush(self, timeout_s: float) -> None:
        """Try to upload the rest of all logs within a time limit. The worker calls this method before it ends."""
        for log in list(self._paused):
            self._resume(log)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._sending:
                while self._news:
                    await self._upload()

    def _changed(self, log: _PendingLog) -> None:
        if not log.is_paused:
            self._news[log] = None
            self._wake.set()

    def _left_by_earlier(self) -> list[_PendingLog]:
        logs = []
        for directory in self._directory.attempts():
            with contextlib.suppress(OSError, ValueError, TypeError):
                # The time of the job's submission is missing in a file from a worker of an older release. The time then
                # counts as 0.
                task_id, attempt_id, incarnation, *rest = json.loads(directory.upload_pending.read_bytes())
                if incarnation != self._incarnation:
                    submitted_at_ms = int(rest[0]) if rest else 0
                    logs.append(
                        _PendingLog(directory, str(task_id), int(attempt_id), str(incarnation), submitted_at_ms)
                    )
        return logs

    async def _upload(self) -> None:
        """Upload all logs up to their present ends. Records that are written during the last call are left for the next
        upload.

        The upload has these steps:
        1. Read a part of each log with new records, until one call is full.
        2. Send the parts. If the call fails, repeat the upload of these logs after a pause.
        3. Repeat with the logs that did not fit into the call, and with logs that have received new records. Logs from
           the call that have more records come last, so that a log that grows fast does not delay the other logs.
        """
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        going_on = True
        while going_on and self._news:
            logs, self._news = list(self._news), {}
            try:
                left, more = await self._send(logs)
            except asyncio.CancelledError:
                # The upload was cancelled before its answer, so `flush` must send these logs again.
                self._news = dict.fromkeys(logs) | self._news
                raise
            except Exception as error:  # noqa: BLE001 - Other logs must be uploaded after any error.
                self._news = dict.fromkeys(logs) | self._news
                bug = None if isinstance(error, IrisError) else error
                _log.warning("uploading logs: %s; trying again in %.1f s", error, backoff.expected_s, exc_info=bug)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            for log in more:
                self._news.pop(log, None)
            self._news = dict.fromkeys(left) | self._news | dict.fromkeys(more)
            going_on = bool(left or more)

    async def _send(self, logs: list[_PendingLog]) -> tuple[list[_PendingLog], list[_PendingLog]]:
        """Send a part of each log in one call. Return the logs that did not fit into the call, and the logs with more
        to send.
        """
        pieces, left, unreadable = await asyncio.to_thread(_read_pieces, logs)
        for log in unreadable:
            self._pause(log)
        if not pieces:
            return left, []
        request = cluster_pb2.Controller.StoreLogsRequest(
            worker_id=self._worker_id, pieces=[one.piece for one in pieces]
        )
        failpoint("handover.before")
        timeout_s = _CALL_S + (_FULL_CALL_S - _CALL_S) * request.ByteSize() / _CALL_BYTES
        answer = await call_async(self._controller.stub.store_logs, request, self._controller.peer, timeout_s=timeout_s)
        failpoint("handover.after")
        answered = zip(pieces, answer.positions, strict=True)
        return left, [one.log for one, position in answered if self._answered(one, position)]

    def _answered(self, sent: _SentPart, wanted: int) -> bool:
        """Apply the controller's answer to a sent part. Return whether more of the log can be sent now."""
        log = sent.log
        if wanted == RETRY_LATER:
            self._pause(log)
            return False
        size = len(sent.piece.records)
        expected = sent.piece.position + size
        self.uploaded_bytes += size if wanted == expected else 0
        log.tries = 0 if wanted == expected or wanted > (log.position or 0) else log.tries + 1
        log.position = wanted
        log.backoff.reset()
        if log.tries == _TRIES:
            _log.error("the controller does not accept the log of task %s, attempt %d", log.task_id, log.attempt_id)
        is_over = sent.is_last and wanted == expected
        if wanted == UNWANTED or log.tries == _TRIES or is_over:
            self._forget(log, uploaded=is_over)
            return False
        return sent.has_more or wanted != expected

    def _pause(self, log: _PendingLog) -> None:
        """Pause the upload of a log for a while, even if the log grows."""
        log.is_paused = True
        self._paused[log] = None
        asyncio.get_running_loop().call_later(log.backoff.next_s(), self._resume, log)

    def _resume(self, log: _PendingLog) -> None:
        if log.is_paused:
            log.is_paused = False
            self._paused.pop(log, None)
            self._changed(log)

    def _forget(self, log: _PendingLog, *, uploaded: bool) -> None:
        callback = self._callbacks.pop(log, None)
        if callback is not None and log.writer is not None:
            log.writer.unsubscribe(callback)
        self._news.pop(log, None)
        with contextlib.suppress(OSError):
            # The file `handed_over` shows that the controller has the whole log. Therefore the log may be removed early
            # from this disk.
            if uploaded:
                log.directory.uploaded.touch()
            log.directory.upload_pending.unlink(missing_ok=True)


def _read_pieces(logs: Sequence[_PendingLog]) -> tuple[list[_SentPart], list[_PendingLog], list[_PendingLog]]:
    """Read a part of each log until one call is full.

    Returns:
        The parts, the logs that did not fit into the call, and the logs that cannot be read now.
    """
    pieces: list[_SentPart] = []
    unreadable: list[_PendingLog] = []
    room = _CALL_BYTES
    fair = max(_PIECE_BYTES, _CALL_BYTES // max(1, len(logs)))
    for number, log in enumerate(logs):
        if room <= 0 or len(pieces) == _PIECES:
            return pieces, list(logs[number:]), unreadable
        try:
            sent = _read_piece(log, min(room, fair))
        except OSError as error:
            _log.warning("cannot read the log of %s, attempt %d: %s", log.task_id, log.attempt_id, error)
            unreadable.append(log)
            continue
        if sent is not None:
            pieces.append(sent)
            room -= len(sent.piece.records)
    return pieces, [], unreadable


def _read_piece(log: _PendingLog, max_bytes: int) -> _SentPart | None:
    """Return the next part of a log; None if the log has no more records now.

    The parts of a log follow these rules:
    1. Read the log's end before anything else. If the end exists, all records of the log are on disk.
    2. If the controller requests records that were dropped or are damaged, continue with the next segment.
    3. Send the end together with the last records of a closed log. A log of an earlier worker process may have no end.

    Raises:
        OSError: The log cannot be read now.
    """
    piece = Piece(
        task_id=log.task_id,
        attempt_id=log.attempt_id,
        incarnation=log.incarnation,
        job_submitted_at_ms=log.submitted_at_ms,
    )
    if log.position is None:
        # A message without data only requests the position at which the upload must begin.
        return _SentPart(log, piece, has_more=True, is_last=False)
    end = _end_of(log)
    segments, stop = _extent(log)
    if log.writer is not None:
        piece.bytes_written.extend(log.writer.offsets)
    piece.position = log.position
    first = max(0, bisect_right(segments, log.position, key=attrgetter("position")) - 1)
    for number, segment in enumerate(segments[first:], first):
        piece.position = max(log.position, segment.position)
        if piece.position == segment.position:
            piece.offsets.extend(segment.offsets)
            piece.line = segment.line
        segment_stop = segments[number + 1].position if number + 1 < len(segments) else stop
        at, room = piece.position - segment.position, segment_stop - piece.position
        piece.records = _read(log.directory.log / segment.segment_name, at, min(room, max_bytes))
        if piece.records or number + 1 == len(segments):
            break
        piece.ClearField("offsets")
    has_more = piece.position + len(piece.records) < stop and bool(piece.records)
    is_last = not has_more and (bool(end) or log.writer is None)
    if is_last:
        piece.end = end
    if piece.records or is_last:
        return _SentPart(log, piece, has_more, is_last)
    return None


def _extent(log: _PendingLog) -> tuple[tuple[RecordBoundary, ...], int]:
    """Return the segments of a log, and the position at which the log ends now."""
    if log.writer is not None:
        # Read the writer's `tip` before its `segments`. Otherwise a segment that begins before the tip could be
        # missing.
        tip = log.writer.tip
        return log.writer.segments, tip.position
    segments = list_segments(log.directory.log)
    if not segments:
        return (), 0
    with contextlib.suppress(OSError):
        size = (log.directory.log / segments[-1].segment_name).stat().st_size
        return segments, segments[-1].position + size
    return segments, segments[-1].position


def _end_of(log: _PendingLog) -> bytes:
    """Return the file `end` of a closed log, or its content from the writer if a full disk did not accept the file."""
    end = _read(log.directory.log / END)
    return end or (b"" if log.writer is None or log.writer.end is None else encode_end(log.writer.end))


def _read(path: Path, at: int = 0, size: int = 1 << 20) -> bytes:
    """Return a part of a file; b"" if the file is missing or damaged.

    Raises:
        OSError: The worker lacks descriptors or memory, so the file can be read later.
    """
    if size <= 0:
        return b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, at)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _READABLE_LATER:
            raise
        return b""
