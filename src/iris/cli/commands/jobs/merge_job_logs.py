"""Merges the lines of several jobs: first the existing lines, ordered by time, and then each new line as it arrives."""

from __future__ import annotations

import heapq
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from iris.errors import IrisError

if TYPE_CHECKING:
    from iris.client import LogEntry
    from iris.client.logs.streams import LogStream

    Batch = Sequence[LogEntry]

_BUFFERED_BATCHES = 256
_DRAIN_S = 0.05


def merged_batches(streams: Sequence[LogStream], *, follow: bool) -> Iterator[Batch]:
    """Yield the batches of lines of several streams.

    An empty batch means that no more lines are ready. The caller should then show all lines that it has received.

    Args:
        streams: The streams, none of which has been read. The caller closes the streams.
        follow: Whether the streams continue with new lines after the existing lines.

    Raises:
        IrisError: A stream cannot be read.
    """
    batches = [stream.batches() for stream in streams]
    existing = [_existing(source, follow=follow) for source in batches]
    yield from heapq.merge(*existing, key=lambda batch: batch[0].timestamp_ms)
    yield ()
    if follow:
        yield from _arriving(streams, batches)


def _existing(batches: Iterator[Batch], *, follow: bool) -> Iterator[Batch]:
    """Yield the batches up to the first pause of a followed log, or all batches of a log that is not followed."""
    for batch in batches:
        if batch:
            yield batch
        elif follow:
            return


def _arriving(streams: Sequence[LogStream], batches: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """Read each stream in a thread, and yield the batches in the order of their arrival."""
    arrived: queue.Queue[Batch | IrisError | None] = queue.Queue(_BUFFERED_BATCHES)

    def read(source: Iterator[Batch]) -> None:
        try:
            for batch in source:
                if batch:
                    arrived.put(batch)
        except IrisError as error:
            arrived.put(error)
        arrived.put(None)

    threads = [threading.Thread(target=read, args=(source,), name="iris-logs", daemon=True) for source in batches]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            try:
                batch = arrived.get_nowait()
            except queue.Empty:
                yield ()
                batch = arrived.get()
            if batch is None:
                running -= 1
            elif isinstance(batch, IrisError):
                raise batch
            else:
                yield batch
    finally:
        for stream in streams:
            stream.close()
        _drain(arrived, threads)


def _drain(arrived: queue.Queue[Batch | IrisError | None], threads: Sequence[threading.Thread]) -> None:
    """Discard the remaining batches until all threads have ended. A thread may wait for room in the full queue."""
    for thread in threads:
        while thread.is_alive():
            try:
                arrived.get(timeout=_DRAIN_S)
            except queue.Empty:
                thread.join(_DRAIN_S)
