"""Defines `TreeLogStream`, the iterator over the lines of a job and of all its child jobs.

The existing lines of all jobs come first, ordered by time. With `follow`, each further line follows as it arrives, and
child jobs that are submitted later are added. Each job is read by a `LogStream`, so that no line is lost or repeated.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Generic, TypeVar

from iris.client.logs.read_options import ReadOptions
from iris.client.logs.streams import LogStream, TaskLogReader
from iris.cluster.client.operations.jobs import get_job_status, list_jobs
from iris.cluster.client.operations.steps import Operation
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.logs.entries.log_entry import LogEntry
from iris.errors import IrisError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import DEFAULT_TIMEOUT_S

Batch = Sequence[LogEntry]
Source = TypeVar("Source")
# At most this many jobs of a tree are followed at the same time. Each ended job makes room for another job.
MAX_FOLLOWED = 200
# The list of child jobs is read again after this many seconds. If reading the list takes long, the pause is twenty
# times as long as the reading, so that readers of large trees do not keep the controller busy.
_LIST_S = 1.0
_LIST_SHARE = 20
_BUFFERED_BATCHES = 256
_DRAIN_S = 0.05
_JOIN_S = 2.0


def list_tree(job_id: str) -> Operation[list[cluster_pb2.JobStatus]]:
    """Return a job with all jobs below it in its job tree, the oldest job first.

    Raises:
        NotFoundError: There is no such job.
    """
    root = yield from get_job_status(job_id, without_tasks=True, timeout_s=DEFAULT_TIMEOUT_S)
    below = f"{job_id}/"
    children = yield from list_jobs(id_prefix=below)
    # The ids are compared here, too, because controllers of earlier releases ignore `id_prefix` and return all jobs.
    return [root, *(job for job in children if job.job_id.startswith(below))]


class JobTree(Generic[Source]):
    """The known jobs of a job tree. This object keeps the jobs whose lines were not read yet, and the sources of lines
    that are not followed yet. `Source` is the type of the iterators over the lines of a job.

    Args:
        job_id: The id of the job at the top of the tree, which may itself be a child job.
        open_job: A function that returns a source with the existing and future lines of the job with a given id.
        max_followed: At most this many jobs are followed at the same time.

    Attributes:
        job_id: The id of the job at the top of the tree.
        known: The jobs that `add` has added, by job id, with their status at that time.
    """

    def __init__(self, job_id: str, open_job: Callable[[str], Source], max_followed: int = MAX_FOLLOWED) -> None:
        self.job_id = job_id
        self.known: dict[str, cluster_pb2.JobStatus] = {}
        self._open_job = open_job
        self._max_followed = max_followed
        self._lock = threading.Lock()  # The lock is needed because two threads may call `add` at the same time.
        self._unread: deque[str] = deque()
        self._paused: deque[Source] = deque()

    def add(self, jobs: Sequence[cluster_pb2.JobStatus]) -> None:
        """Add those jobs of a list that this tree does not contain yet."""
        with self._lock:
            for job in jobs:
                if job.job_id not in self.known:
                    self.known[job.job_id] = job
                    self._unread.append(job.job_id)

    @property
    def has_unread(self) -> bool:
        """Whether the tree contains jobs whose lines were not read yet."""
        return bool(self._unread)

    def add_paused(self, sources: Iterable[Source]) -> None:
        """Add the sources of jobs whose existing lines were read, and whose future lines are not followed yet."""
        self._paused.extend(sources)

    def next_source(self, num_followed: int) -> Source | None:
        """Return a source to follow next. Jobs whose existing lines were read come first.

        Args:
            num_followed: How many jobs are being followed.

        Returns:
            The source, or None if there is none, or if `max_followed` jobs are being followed.
        """
        if num_followed >= self._max_followed:
            return None
        if self._paused:
            return self._paused.popleft()
        return self._open_job(self._unread.popleft()) if self._unread else None

    def take_all(self) -> list[str]:
        """Return the ids of all jobs that were not read yet, and mark these jobs as read."""
        unread, self._unread = list(self._unread), deque()
        return unread


def last_lines(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Yield the last `count` lines of batches."""
    kept: deque[Batch] = deque()
    size = 0
    for batch in batches:
        kept.append(batch)
        size += len(batch)
        while kept and size - len(kept[0]) >= count:
            size -= len(kept.popleft())
    if kept and size > count:
        kept[0] = kept[0][size - count :]
    if count:
        yield from kept


def pause_between_lists(took_s: float) -> float:
    """Return the number of seconds to wait before the list of jobs is read again. `took_s` is how long the last reading
    took."""
    return max(_LIST_S, took_s * _LIST_SHARE)


class TreeLogStream(Iterator[LogEntry]):
    """An iterator over the lines of a job and of all its child jobs.

    `LogEntry.job_id` names the job of a line. To end the stream early, close the stream:

        with job.tree_logs(follow=True) as lines:
            for line in lines:
                print(line.job_id, line.task_index, line.message)

    Only one thread may iterate over the stream. `close` may be called from any thread.
    """

    def __init__(
        self, cluster: RemoteClusterClient, job_id: str, options: ReadOptions, *, max_followed: int = MAX_FOLLOWED
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._tree = JobTree[Iterator[Batch]](job_id, self._open_later, max_followed)
        self._tree.add(cluster.connection.perform(list_tree(job_id)))
        self._streams: dict[str, LogStream] = {}
        self._is_closed = threading.Event()
        self._batches = self._read()
        self._lines = itertools.chain.from_iterable(self._batches)

    @property
    def jobs(self) -> Mapping[str, cluster_pb2.JobStatus]:
        """The known jobs of the tree, by job id, without their tasks. A child job is added when it is found, and its
        status here does not change afterwards."""
        return self._tree.known

    @property
    def ends(self) -> Mapping[str, Mapping[int, cluster_pb2.LogEnd]]:
        """The ends of the tasks' logs, by job id and task index. `LogStream.ends` describes them."""
        return {job_id: stream.ends for job_id, stream in self._streams.items()}

    def batches(self) -> Iterator[Batch]:
        """Return an iterator over batches of lines that arrived together, instead of single lines; see
        `LogStream.batches`.
        """
        return self._batches

    def close(self) -> None:
        """End the stream. Any thread may call this method. A thread that is waiting for a line stops waiting."""
        self._is_closed.set()
        for stream in list(self._streams.values()):
            stream.close()
        # A generator cannot be closed while another thread iterates over it. The error is ignored, because that thread
        # ends by itself when the streams are closed.
        with suppress(ValueError):
            self._batches.close()

    def __iter__(self) -> Iterator[LogEntry]:
        return self._lines

    def __next__(self) -> LogEntry:
        return next(self._lines)

    def __enter__(self) -> TreeLogStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, job_id: str, options: ReadOptions) -> Iterator[Batch]:
        stream = LogStream(TaskLogReader(self._cluster, job_id, None, options))
        self._streams[job_id] = stream
        return stream.batches()

    def _open_later(self, job_id: str) -> Iterator[Batch]:
        """Open the log stream of a job that was found while other jobs were followed. The stream returns the job's
        existing lines, too."""
        return self._open(job_id, replace(self._options, tail=None))

    def _read(self) -> Generator[Batch]:
        left = self._options.max_lines
        for batch in self._all_batches():
            if self._options.max_lines:
                batch, left = batch[:left], left - len(batch)
            yield batch
            if self._options.max_lines and left <= 0:
                return

    def _all_batches(self) -> Iterator[Batch]:
        """Yield the existing log lines of all jobs, ordered by time, and then the new lines as they arrive.

        1. Read each stream up to its first pause. A stream that ends before its first pause is read completely.
        2. With `follow`, read the other streams in threads, at most `max_followed` at the same time. Look for new child
           jobs.
        """
        options, paused = self._options, list[Iterator[Batch]]()
        existing = [_until_pause(self._open(job_id, options), paused) for job_id in self._tree.take_all()]
        merged: Iterator[Batch] = heapq.merge(*existing, key=lambda batch: batch[0].timestamp_ms)
        yield from merged if options.tail is None else last_lines(merged, options.tail)
        yield ()
        if options.follow:
            self._tree.add_paused(paused)
            yield from self._follow()

    def _follow(self) -> Iterator[Batch]:
        arrived: queue.Queue[Batch | IrisError | None] = queue.Queue(_BUFFERED_BATCHES)
        watch = threading.Thread(target=self._watch_tree, args=(arrived,), name="iris-tree", daemon=True)
        watch.start()
        threads = list[threading.Thread]()
        running = 0
        try:
            while not self._is_closed.is_set():
                while (batches := self._tree.next_source(running)) is not None:
                    threads.append(_reader(batches, arrived))
                    threads[-1].start()
                    running += 1
                if not running:
                    # All known jobs have ended. The list is read again, because a child job may have been submitted
                    # since the last list.
                    self._read_list()
                    if not self._tree.has_unread:
                        return
                    continue
                try:
                    batch = arrived.get_nowait()
                except queue.Empty:
                    yield ()
                    batch = arrived.get()
                if batch is None:
                    running -= 1
                elif isinstance(batch, IrisError):
                    raise batch
                elif batch:
                    yield batch
        finally:
            self._is_closed.set()
            for stream in list(self._streams.values()):
                stream.close()
            _drain(arrived, threads)
            watch.join(_JOIN_S)

    def _read_list(self) -> None:
        self._tree.add(self._cluster.connection.perform(list_tree(self._tree.job_id)))

    def _watch_tree(self, arrived: queue.Queue[Batch | IrisError | None]) -> None:
        """Look for new child jobs until the stream is closed. If a child job was found, an empty batch in the queue
        wakes the iterating thread."""
        pause_s = _LIST_S
        while not self._is_closed.wait(pause_s):
            began_s = time.monotonic()
            try:
                self._read_list()
                if self._tree.has_unread:
                    arrived.put(())
            except UnavailableError:
                # The controller does not answer. This error is ignored here, because the log streams of the jobs decide
                # for how long to retry.
                pass
            except IrisError as error:
                arrived.put(error)
                return
            pause_s = pause_between_lists(time.monotonic() - began_s)


def _until_pause(batches: Iterator[Batch], paused: list[Iterator[Batch]]) -> Iterator[Batch]:
    """Yield the batches of a log stream up to its first pause, which is an empty batch. If the stream has a pause, add
    the iterator over the remaining batches to `paused`."""
    for batch in batches:
        if not batch:
            paused.append(batches)
            return
        yield batch


def _reader(batches: Iterator[Batch], arrived: queue.Queue[Batch | IrisError | None]) -> threading.Thread:
    """Return a thread that puts the batches of a log stream into a queue, and None after the last batch."""

    def read() -> None:
        try:
            for batch in batches:
                if batch:
                    arrived.put(batch)
        except IrisError as error:
            arrived.put(error)
        arrived.put(None)

    return threading.Thread(target=read, name="iris-tree-logs", daemon=True)


def _drain(arrived: queue.Queue[Batch | IrisError | None], threads: Sequence[threading.Thread]) -> None:
    """Discard the remaining batches until all threads have ended. A thread may wait for room in the full queue."""
    for thread in threads:
        while thread.is_alive():
            try:
                arrived.get(timeout=_DRAIN_S)
            except queue.Empty:
                thread.join(_DRAIN_S)
