"""Follows the list of jobs for `iris ps --watch`: one stream for the unfinished jobs, and one for the ended jobs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from iris.errors import IrisError
from iris.rpc.http.client.stream_handle import StreamHandle

if TYPE_CHECKING:
    from iris.client import IrisClient
    from iris.cluster.client.operations.watches.list_watching import WatchedJobs


# `iris ps --watch` waits until the list of unfinished jobs and the list of ended jobs were made at the same moment. If
# jobs change all the time, that may never happen. After this time in seconds, the lists are shown anyway.
_LONGEST_WAIT_S = 1.0


class JobListWatch:
    """A thread that watches the jobs in some states, and puts itself into a queue after each change of their list.

    Args:
        client: The client of the cluster.
        changes: A queue to which this object adds itself after each change of the list.
        states: The names of the accepted states. If there are none, the list is always empty.
        conditions: Further arguments of `watch_jobs`.

    Attributes:
        newest: The newest list of jobs. None before the first list has arrived.
        error: The error with which the watch has ended.
    """

    def __init__(
        self, client: IrisClient, changes: queue.Queue[JobListWatch], states: Sequence[str], conditions: dict[str, Any]
    ) -> None:
        self.newest: WatchedJobs | None = None
        self.error: IrisError | None = None
        self.is_needed = bool(states)
        self._changes = changes
        self._handle = StreamHandle()
        if self.is_needed:
            lists = client.cluster.watch_jobs(states=states, newest_first=True, handle=self._handle, **conditions)
            threading.Thread(target=self._follow, args=(lists,), name="iris-watch", daemon=True).start()

    @property
    def is_ready(self) -> bool:
        """Whether the first list of jobs has arrived. Also true if no list is needed, because no state is accepted."""
        return self.newest is not None or not self.is_needed

    def end(self) -> None:
        """End the stream."""
        self._handle.abort()

    def _follow(self, lists: Iterator[WatchedJobs]) -> None:
        try:
            for self.newest in lists:
                self._changes.put(self)
        except IrisError as error:
            self.error = error
            self._changes.put(self)


def changes_of_jobs(
    client: IrisClient, live_states: Sequence[str], ended_states: Sequence[str], conditions: dict[str, Any]
) -> Iterator[tuple[WatchedJobs | None, WatchedJobs | None]]:
    """Yield the newest lists of the unfinished and of the ended jobs, after each change.

    Args:
        client: The client of the cluster.
        live_states: The names of the accepted states of unfinished jobs. If there are none, their list is None.
        ended_states: The names of the accepted states of ended jobs. If there are none, their list is None.
        conditions: Further arguments of `watch_jobs`.

    Raises:
        IrisError: The jobs cannot be watched.
    """
    changes: queue.Queue[JobListWatch] = queue.Queue()
    watches = [JobListWatch(client, changes, states, conditions) for states in (live_states, ended_states)]
    live, ended = watches
    shown_at_s = time.monotonic()
    try:
        while True:
            _raise(changes.get())
            with suppress(queue.Empty):
                while True:
                    _raise(changes.get_nowait())
            if (
                live.is_ready
                and ended.is_ready
                and (_same_moment(live.newest, ended.newest) or time.monotonic() - shown_at_s > _LONGEST_WAIT_S)
            ):
                shown_at_s = time.monotonic()
                yield live.newest, ended.newest
    finally:
        for watch in watches:
            watch.end()


def _same_moment(live: WatchedJobs | None, ended: WatchedJobs | None) -> bool:
    """Return whether the list of unfinished jobs and the list of ended jobs were made at the same moment. If they were
    not, a job that has just ended may be missing in both lists.

    Each of the two lists contains the numbers of jobs in all states. If the numbers differ, one list includes a change
    that arrives in the other list some milliseconds later.
    """
    return live is None or ended is None or live.counts == ended.counts


def _raise(watch: JobListWatch) -> None:
    if watch.error is not None:
        raise watch.error
