"""The second stage of reading logs: what comes, from several servers at once, until the tasks have ended."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from iris.client.logs.log_options import Trouble
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.cursor import Position, to_message
from iris.cluster.types import is_task_finished
from iris.errors import DeadlineExceededError, IrisError, UnavailableError, WorkerUnreachableError
from iris.rpc import cluster_pb2
from iris.rpc.http.stream_handle import StreamHandle

if TYPE_CHECKING:
    from iris.client.logs.streams import Items, Reading

_HELD_MESSAGES = 4  # of each stream, between its thread and the one that iterates
# Of a worker that the controller has declared lost: what it has to say still comes at once, or never.
_LAST_WORDS_S = 2.0
_JOIN_S = 1.0  # for a thread to end whose connection was shut down; one that is still connecting may take longer
# Those that a program ends without closing: they are ended before the interpreter is.
_open_followings: weakref.WeakSet[Following] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for following in list(_open_followings):
        following.end()


class Following:
    """The second stage of reading logs: what comes.

    1. A thread watches the job. Attempts that are to be read, and are not, are opened: one stream for all that are
       read from the same server.
    2. What the threads bring is taken one by one: lines are given out, ends are noted in the books.
    3. A stream that broke is opened again after a pause, from where its tasks have come to. One that is silent is held
       to be broken as soon as the controller says that its worker is lost: a machine that is gone ends no connection.
    4. At the end, however it comes, the threads' connections are shut down, which ends them. They are waited for: a
       thread that wakes up while the interpreter ends would abort the process.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._progress = reading.progress(reading.positions(), follow=True)
        self._events: queue.SimpleQueue[tuple[_Stream | None, Any]] = queue.SimpleQueue()
        self._watch = _Watch(reading, self._events)
        self._streams: set[_Stream] = set()
        self._troubles: dict[int, Trouble] = {}
        self._due: dict[int, float] = {}  # tasks that wait for another try, on the monotonic clock
        self._dying: dict[_Stream, float] = {}  # of lost workers: when they are left, on the monotonic clock
        self._unfinished: list[Items] = []  # lines that will never be finished, since their attempts were given up
        self._until = min(reading.wanted.until, reading.wanted.follow_until)

    def run(self) -> Iterator[Items]:
        """Lines, or bytes, as they come."""
        reading, progress = self._reading, self._progress
        reading.update(progress, reading.tasks.values())
        if progress.is_over or time.monotonic() >= self._until:
            return
        self._watch.start()
        _open_followings.add(self)
        try:
            while not progress.is_over:
                self._leave_lost()
                self._open()
                yield from self._take_unfinished()
                if self._events.empty():
                    yield ()
                try:
                    stream, event = self._events.get(timeout=self._wait_s())
                except queue.Empty:
                    if time.monotonic() >= self._until:
                        return
                    continue
                if reading.is_closed:
                    return
                if stream is None:
                    if isinstance(event, Exception):
                        raise event
                    if event is not None and not self._streams and not self._is_troubled():
                        reading.wanted.on_notice(event)  # else they say it
                    reading.update(progress, self._watch.take())
                    self._doubt_lost()
                elif isinstance(event, Exception):
                    self._broken(stream, event)
                else:
                    stream.taken()
                    yield from self._take(stream, event)
                yield from self._take_unfinished()
        finally:
            self.end()

    def wake(self) -> None:
        """Makes `run` yield soon, also where nothing comes; from any thread."""
        self._events.put((None, None))

    def end(self) -> None:
        """Ends the threads; from any thread."""
        threads: list[_Stream | _Watch] = [self._watch, *list(self._streams)]
        for thread in threads:
            thread.end()
        for thread in threads:
            thread.join(_JOIN_S)
        self._events.put((None, None))
        _open_followings.discard(self)

    def _open(self) -> None:
        now = time.monotonic()
        for index in [index for index, at in self._due.items() if at <= now]:
            del self._due[index]
            self._progress.interrupted(index)
        reading = self._reading
        by_server: dict[tuple[tuple[str, str] | None, bool], list[tuple[int, Position]]] = {}
        for index, attempt, _ in self._progress.to_open():
            position = reading.reader(index, attempt.attempt_id).received
            server = (reading.worker_of(index, attempt), reading.is_since_now(index))
            by_server.setdefault(server, []).append((index, position))
        for (worker, since_now), positions in by_server.items():
            places = [to_message(index, position) for index, position in positions]
            request = reading.request(places, follow=True, since_now=since_now)
            stream = _Stream(reading.cluster, request, worker, self._events, [index for index, _ in positions])
            self._streams.add(stream)
            stream.start()

    def _take_unfinished(self) -> list[Items]:
        unfinished, self._unfinished = self._unfinished, []
        return unfinished

    def _is_troubled(self) -> bool:
        return any(trouble.tries for trouble in self._troubles.values())

    def _wait_s(self) -> float | None:
        until = min([self._until, *self._due.values(), *self._dying.values()])
        return None if until == math.inf else max(0.0, until - time.monotonic())

    def _doubt_lost(self) -> None:
        """Those that read something of a worker that is lost, and may be read elsewhere."""
        if self._reading.wanted.route != "worker":
            for stream in self._streams - self._dying.keys():
                attempts = map(self._progress.attempt, stream.going_on)
                if stream.worker is not None and any(map(_is_lost, filter(None, attempts))):
                    self._dying[stream] = time.monotonic() + _LAST_WORDS_S

    def _leave_lost(self) -> None:
        now = time.monotonic()
        for stream in [stream for stream, at in self._dying.items() if at <= now]:
            stream.end()
            assert stream.worker is not None
            for index in stream.going_on:
                attempt = self._progress.attempt(index)
                if attempt is not None and _is_lost(attempt):
                    self._reading.leave_worker(index, attempt.attempt_id)
            self._broken(stream, WorkerUnreachableError(f"worker {stream.worker[0]!r} was lost, and is silent"))
            stream.going_on.clear()  # what it brings still is read elsewhere

    def _take(self, stream: _Stream, message: cluster_pb2.StreamTaskLogsResponse) -> Iterator[Items]:
        reading = self._reading
        if stream in self._dying:
            self._dying[stream] = time.monotonic() + _LAST_WORDS_S
        for index in stream.going_on & self._troubles.keys():
            self._troubles[index].answered()
        for chunk in message.chunks:
            index = chunk.task_index
            if index not in stream.going_on:
                continue  # it is read from another stream by now
            reader = reading.reader(index, chunk.attempt_id)
            if not chunk.error and index in self._troubles:
                self._troubles[index].over()
            come: Iterable[tuple[int, Items]] = reader.read(chunk.records)
            if reading.is_final(chunk.end):
                come = itertools.chain(come, reader.flush(ended=True))
            elif chunk.flush and reading.gives_pieces:
                come = itertools.chain(come, reader.flush())
            for timestamp_ms, items in come:
                if not reading.is_too_early(index, timestamp_ms):
                    reading.place(index, items)
                    yield items
            if chunk.flush and reading.catches_up(index):
                stream.going_on.discard(index)
                self._due[index] = time.monotonic()
                if not stream.going_on:
                    stream.end()
            elif chunk.error:
                stream.going_on.discard(index)
                attempt = self._progress.attempt(index)
                assert attempt is not None, "a stream of an attempt that is not known"
                error = self._reading.not_here(index, attempt, chunk.error, stream.worker)
                self._try_again(index, stream.worker, error)
            elif chunk.HasField("end"):
                stream.going_on.discard(index)
                if chunk.end.complete:
                    reading.ended(self._progress, index, chunk.end)
                else:
                    self._due[index] = time.monotonic()  # it was sent by a server that is being stopped

    def _broken(self, stream: _Stream, error: Exception) -> None:
        self._streams.discard(stream)
        self._dying.pop(stream, None)
        if not stream.going_on:
            return
        if not isinstance(error, UnavailableError | DeadlineExceededError):
            raise error
        for index in sorted(stream.going_on):
            self._try_again(index, stream.worker, error)

    def _try_again(self, index: int, worker: tuple[str, str] | None, error: Exception) -> None:
        reading = self._reading
        attempt = self._progress.attempt(index)
        assert attempt is not None, "a stream of an attempt that is not known"
        trouble = self._troubles.get(index)
        if trouble is None:
            quiet = bool(self._troubles)  # one has said it for all
            who = f"task {index}, attempt {attempt.attempt_id}"
            trouble = self._troubles[index] = Trouble(reading.wanted, who, quiet=quiet)
        if worker is not None and trouble.tries:
            reading.cluster.lost_worker(worker[1])
        if reading.wanted.route == "worker":
            # It may have come back under another address; the controller knows.
            with contextlib.suppress(UnavailableError, DeadlineExceededError):
                reading.update(self._progress, [reading.cluster.get_task_status(reading.job_id, index)])
            attempt = self._progress.attempt(index) or attempt
            if reading.is_out_of_reach(attempt, trouble):
                reader = reading.reader(index, attempt.attempt_id)
                for _, items in reader.flush(ended=True):
                    reading.place(index, items)
                    self._unfinished.append(items)
                reading.ended(self._progress, index, reading.given_up(index, attempt, error).end)
                return
        self._due[index] = time.monotonic() + trouble.pause(error)


class _Stream:
    """One stream from one server, read by a thread of its own.

    Args:
        cluster: How it is reached.
        request: What is asked.
        worker: Of whom; None: of the controller.
        events: Where messages go, and the error, or None, with which it ended.
        tasks: Whose logs it carries.
    """

    def __init__(
        self,
        cluster: RemoteClusterClient,
        request: cluster_pb2.StreamTaskLogsRequest,
        worker: tuple[str, str] | None,
        events: queue.SimpleQueue[tuple[Any, Any]],
        tasks: Iterable[int],
    ) -> None:
        self.worker = worker
        self.going_on = set(tasks)
        self._cluster = cluster
        self._request = request
        self._events = events
        self._handle = StreamHandle()
        self._room = threading.Semaphore(_HELD_MESSAGES)
        self._thread = threading.Thread(target=self._run, name="iris-logs", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def taken(self) -> None:
        """One of its messages was taken: there is room for another one."""
        self._room.release()

    def end(self) -> None:
        """Ends it, wherever it is."""
        self._handle.abort()
        self._room.release()

    def join(self, timeout_s: float) -> None:
        """Waits until its thread has ended."""
        _join(self._thread, timeout_s)

    def _run(self) -> None:
        ended: Exception = WorkerUnreachableError("the stream ended")
        try:
            with closing(self._cluster.stream_task_logs(self._request, self.worker, self._handle)) as messages:
                for message in messages:
                    self._room.acquire()
                    if self._handle.aborted:
                        return
                    self._events.put((self, message))
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to the thread that iterates
            ended = error
        self._events.put((self, ended))


class _Watch:
    """Watches the tasks of the job, in a thread of its own; what the iterating thread has not taken is merged."""

    def __init__(self, reading: Reading, events: queue.SimpleQueue[tuple[Any, Any]]) -> None:
        self._cluster = reading.cluster
        self._job_id = reading.job_id
        self._patience_s = reading.wanted.patience_s
        self._events = events
        self._handle = StreamHandle()
        self._lock = threading.Lock()
        self._news: dict[int, cluster_pb2.TaskStatus] = {}
        self._thread = threading.Thread(target=self._run, name="iris-watch", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def take(self) -> list[cluster_pb2.TaskStatus]:
        """The tasks that have changed since the last time."""
        with self._lock:
            news, self._news = self._news, {}
        return list(news.values())

    def end(self) -> None:
        """Ends it."""
        self._handle.abort()

    def join(self, timeout_s: float) -> None:
        """Waits until its thread has ended."""
        _join(self._thread, timeout_s)

    def _run(self) -> None:
        try:
            for job in self._cluster.watch_job(
                self._job_id,
                patience_s=self._patience_s,
                include_tasks=True,
                handle=self._handle,
                on_silence=lambda error: self._events.put((None, f"{error}; trying again")),
            ):
                if self._handle.aborted:
                    return
                with self._lock:
                    told = bool(self._news)
                    self._news |= {task.task_index: task for task in job.tasks}
                if not told:
                    self._events.put((None, None))
        except IrisError as error:
            if not self._handle.aborted:
                self._events.put((None, error))


def _is_lost(attempt: cluster_pb2.TaskAttempt) -> bool:
    return attempt.is_worker_failure and is_task_finished(attempt.state)


def _join(thread: threading.Thread, timeout_s: float) -> None:
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join(timeout_s)
