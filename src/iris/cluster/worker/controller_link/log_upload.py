"""Hands the logs of attempts over to the controller while they are written, so that they outlive the worker.

What is handed over are the segments as they lie on the disk, byte by byte, and at last `end`. The controller says how
far it has come, so nothing is lost or doubled by a call that fails, or by a restart of it or of us; a log that a worker
left unfinished is handed over by the next one in its directory, as `handover` beside it says.

Capture comes first: the disk is read in a thread, one call is under way at a time, and it holds a bounded piece of what
there is, of each log in its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from iris.cluster.logs.segments import END, RecordBoundary, encode_end, list_segments
from iris.cluster.logs.upload_answers import RETRY_LATER, UNWANTED
from iris.cluster.logs.writer import LogWriter
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.cluster.worker.paths import AttemptDir, WorkerDir
from iris.errors import IrisError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.system.backoff import Backoff
from iris.system.event_loop import happens

# So long, and a call, after it was written a byte is with the controller: 2 s are promised.
_PERIOD_S = 0.5
_CALL_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20
_PIECES = 500  # in one call
# What a call may take, the more the larger it is: one that was under way when the network broke
# would go on only long after it is mended, and all that is written meanwhile would be lost with the machine.
_CALL_S, _FULL_CALL_S = 5.0, 30.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
_LOOK_S = 0.02
_LONGEST_HOLD_S = 60.0  # of one log
_TRIES = 10  # without coming any further, until a log is given up: the two sides do not understand each other
_log = logging.getLogger(__name__)

Piece = cluster_pb2.Controller.StoreLogsRequest.Piece


@dataclass(slots=True, eq=False)
class _Log:
    """A log that is not handed over yet, or not all of it.

    Attributes:
        directory: The attempt's.
        task_id: Which task's,
        attempt_id: and attempt's it is.
        incarnation: The process that ran the attempt.
        writer: Who writes it; None when that was an earlier process.
        position: What the controller wants next; None before it was asked.
        tries: How often it was sent something and wanted the same again.
        is_held: It cannot be read, or taken, for now.
        backoff: How long nothing of the log is sent after the controller could not accept it.
    """

    directory: AttemptDir
    task_id: str
    attempt_id: int
    incarnation: str
    writer: LogWriter | None = None
    position: int | None = None
    tries: int = 0
    is_held: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_PAUSE_S, _LONGEST_HOLD_S))


class _Sent(NamedTuple):
    """A piece on its way.

    Attributes:
        log: Whose it is.
        piece: What is sent.
        has_more: There was more when it was read.
        is_last: There will be nothing after it.
    """

    log: _Log
    piece: Piece
    has_more: bool
    is_last: bool


class LogUpload:
    """The logs of this worker that the controller does not have yet.

    Args:
        controller: Who takes them.
        worker_id: What the controller calls this worker.
        incarnation: Of this process.
        directory: The worker's.
    """

    def __init__(
        self,
        controller: ControllerConnection,
        worker_id: str,
        incarnation: str,
        directory: WorkerDir,
    ) -> None:
        self._controller = controller
        self._worker_id = worker_id
        self._incarnation = incarnation
        self._directory = directory
        self._news: dict[_Log, None] = {}  # a set that keeps its order
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()  # somebody waits for the end of what there is
        self._sending = asyncio.Lock()
        self._callbacks: dict[_Log, Callable[[], None]] = {}
        self._held: dict[_Log, None] = {}

    def add(self, attempt: Attempt) -> None:
        """An attempt begins."""
        task_id, attempt_id = attempt.key
        log = _Log(attempt.directory, task_id, attempt_id, self._incarnation, attempt.log, position=0)
        with contextlib.suppress(OSError):  # without it, all is well until this worker is restarted
            attempt.directory.upload_pending.write_text(json.dumps([task_id, attempt_id, self._incarnation]))
        self._callbacks[log] = changed = partial(self._changed, log)
        attempt.log.subscribe(changed)

    async def run(self) -> None:
        """Hands over what there is, for as long as the worker lives."""
        for log in await asyncio.to_thread(self._left_by_earlier):
            self._changed(log)
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._sending:
                await self._upload()
            await happens(self._hurry, _PERIOD_S)
            self._hurry.clear()

    async def until_uploaded(self) -> None:
        """Returns when the controller has, or does not want, all that there is. A log that cannot be handed over is
        waited for as well: for who waits to give up."""
        while self._news or self._held or self._sending.locked():
            self._hurry.set()
            await asyncio.sleep(_LOOK_S)

    async def flush(self, timeout_s: float) -> None:
        """Hands over all that there is, if the controller takes it within the time; this is its last chance."""
        for log in list(self._held):
            self._release(log)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._sending:
                while self._news:
                    await self._upload()

    def _changed(self, log: _Log) -> None:
        if not log.is_held:
            self._news[log] = None
            self._wake.set()

    def _left_by_earlier(self) -> list[_Log]:
        logs = []
        for directory in self._directory.attempts():
            with contextlib.suppress(OSError, ValueError, TypeError):
                task_id, attempt_id, incarnation = json.loads(directory.upload_pending.read_bytes())
                if incarnation != self._incarnation:
                    logs.append(_Log(directory, str(task_id), int(attempt_id), str(incarnation)))
        return logs

    async def _upload(self) -> None:
        """Until no log has more than was sent. Of what comes meanwhile, the rest is for the next time.

        1. Take a piece of each log with news, in turn, as many as make up one call.
        2. Send them. Where that fails, they are news again, after a pause.
        3. Go on with the logs that were not in the call, then with those that have news since, then with those of
           which there is more: however fast one is written, the others have their turn.
        """
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        going_on = True
        while going_on and self._news:
            logs, self._news = list(self._news), {}
            try:
                left, more = await self._send(logs)
            except asyncio.CancelledError:
                self._news = dict.fromkeys(logs) | self._news  # for who flushes
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, more is to be handed over after it
                self._news = dict.fromkeys(logs) | self._news
                bug = None if isinstance(error, IrisError) else error
                _log.warning("handing logs over: %s; trying again in %.1f s", error, backoff.expected_s, exc_info=bug)
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            for log in more:
                self._news.pop(log, None)
            self._news = dict.fromkeys(left) | self._news | dict.fromkeys(more)
            going_on = bool(left or more)

    async def _send(self, logs: list[_Log]) -> tuple[list[_Log], list[_Log]]:
        """Sends a piece of each; the logs that were not looked at, and those of which there is more."""
        pieces, left, unreadable = await asyncio.to_thread(_read_pieces, logs)
        for log in unreadable:
            self._hold(log)
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

    def _answered(self, sent: _Sent, wanted: int) -> bool:
        """Takes an answer; whether there is more to be sent of this log now."""
        log = sent.log
        if wanted == RETRY_LATER:
            self._hold(log)
            return False
        expected = sent.piece.position + len(sent.piece.records)
        log.tries = 0 if wanted == expected or wanted > (log.position or 0) else log.tries + 1
        log.position = wanted
        log.backoff.reset()
        if log.tries == _TRIES:
            _log.error("the controller does not take the log of %s, attempt %d", log.task_id, log.attempt_id)
        is_over = sent.is_last and wanted == expected
        if wanted == UNWANTED or log.tries == _TRIES or is_over:
            self._forget(log, uploaded=is_over)
            return False
        return sent.has_more or wanted != expected

    def _hold(self, log: _Log) -> None:
        """Nothing of a log is sent for a while, whatever comes."""
        log.is_held = True
        self._held[log] = None
        asyncio.get_running_loop().call_later(log.backoff.next_s(), self._release, log)

    def _release(self, log: _Log) -> None:
        if log.is_held:
            log.is_held = False
            self._held.pop(log, None)
            self._changed(log)

    def _forget(self, log: _Log, *, uploaded: bool) -> None:
        callback = self._callbacks.pop(log, None)
        if callback is not None and log.writer is not None:
            log.writer.unsubscribe(callback)
        self._news.pop(log, None)
        with contextlib.suppress(OSError):
            if uploaded:  # only then may it go from here before its time
                log.directory.uploaded.touch()
            log.directory.upload_pending.unlink(missing_ok=True)


def _read_pieces(logs: Sequence[_Log]) -> tuple[list[_Sent], list[_Log], list[_Log]]:
    """A piece of each log that has one, until they make up a call; the logs that were not looked at; and those that
    cannot be read now."""
    pieces: list[_Sent] = []
    unreadable: list[_Log] = []
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


def _read_piece(log: _Log, max_bytes: int) -> _Sent | None:
    """What comes next of a log; None when that is nothing now.

    1. Whether it is closed is asked first: then what there is now is all.
    2. Where the controller wants what was dropped, or cannot be read, go on with the next segment.
    3. With the last bytes of a closed log goes its end. An earlier worker's that has none is over without.
    """
    piece = Piece(task_id=log.task_id, attempt_id=log.attempt_id, incarnation=log.incarnation)
    if log.position is None:
        return _Sent(log, piece, has_more=True, is_last=False)  # only asks
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
        return _Sent(log, piece, has_more, is_last)
    return None


def _extent(log: _Log) -> tuple[tuple[RecordBoundary, ...], int]:
    """The segments of a log, and where it ends now."""
    if log.writer is not None:
        tip = log.writer.tip  # first, so that the segments reach up to it
        return log.writer.segments, tip.position
    segments = list_segments(log.directory.log)
    if not segments:
        return (), 0
    with contextlib.suppress(OSError):
        size = (log.directory.log / segments[-1].segment_name).stat().st_size
        return segments, segments[-1].position + size
    return segments, segments[-1].position


def _end_of(log: _Log) -> bytes:
    """What a closed log says of itself; from its writer where the disk was too full for it."""
    end = _read(log.directory.log / END)
    return end or (b"" if log.writer is None or log.writer.end is None else encode_end(log.writer.end))


def _read(path: Path, at: int = 0, size: int = 1 << 20) -> bytes:
    """A part of a file; nothing where it is not there or cannot be read."""
    if size <= 0:
        return b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, at)
    except OSError:
        return b""
    finally:
        os.close(fd)
