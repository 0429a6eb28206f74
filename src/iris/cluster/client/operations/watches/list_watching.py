"""The operation that watches the list of jobs. `WatchVerbs` documents the arguments and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from iris.arguments import check_callable, check_flag, check_timeout, check_whole_number
from iris.cluster.client.operations.jobs import list_request
from iris.cluster.client.operations.steps import ItemOperation, NextMessage, OpenStream
from iris.cluster.client.operations.watches.job_watching import LONGEST_PAUSE_S, Watch
from iris.cluster.types import JobState, state_name
from iris.errors import UnavailableError
from iris.rpc import cluster_pb2

MOST_JOBS = 1000  # The largest number of jobs on one page of the list.


@dataclass(frozen=True, slots=True)
class WatchedJobs:
    """The list of jobs at one moment.

    Attributes:
        jobs: The jobs that meet all conditions, without their tasks, up to the limit.
        counts: How many jobs meet all conditions other than `states`, by the name of their state, for example
            `{"RUNNING": 3}`. The limit does not apply.
        has_more: Whether more jobs meet all conditions than the limit allows.
        changed: The ids of the jobs that are new in the list or have changed since the previous state.
    """

    jobs: list[cluster_pb2.JobStatus]
    counts: dict[str, int]
    has_more: bool
    changed: frozenset[str]


def watch_jobs(
    *,
    id_prefix: str = "",
    id_contains: str = "",
    states: Iterable[JobState | str | int] = (),
    owner: str = "",
    since_ms: int = 0,
    until_ms: int = 0,
    newest_first: bool = False,
    limit: int = MOST_JOBS,
    patience_s: float | None = 60.0,
    on_silence: Callable[[UnavailableError], None] = lambda error: None,
    is_aborted: Callable[[], bool] = lambda: False,
) -> ItemOperation[WatchedJobs, None]:
    """Check the arguments, and return the operation that yields the states of the list."""
    listed = list_request(id_prefix, id_contains, states, owner, since_ms, until_ms)
    request = cluster_pb2.Controller.WatchJobsRequest(
        id_prefix=listed.id_prefix,
        id_contains=listed.id_contains,
        states=listed.states,
        owner=listed.owner,
        since_ms=listed.since_ms,
        until_ms=listed.until_ms,
        newest_first=check_flag("newest_first", newest_first),
        page_size=check_whole_number("limit", limit, least=1, most=MOST_JOBS),
    )
    patience = check_timeout("patience_s", patience_s)
    return _ListWatch(request, patience, check_callable("on_silence", on_silence), is_aborted).states()


class JobListState:
    """Keeps the list of jobs up to date by the messages of a stream.

    Args:
        newest_first: Whether the newest job comes first.
    """

    def __init__(self, *, newest_first: bool) -> None:
        self._newest_first = newest_first
        self._jobs: dict[int, cluster_pb2.JobStatus] = {}

    def apply(self, message: cluster_pb2.Controller.WatchJobsResponse) -> WatchedJobs:
        """Apply a message from the stream to the list of jobs, and return the new list. The caller does not pass
        messages that only show that the connection works.
        """
        if message.is_snapshot:
            known, self._jobs = self._jobs, {}
            changed = [job for job in message.jobs if known.get(job.number) != job]
        else:
            changed = list(message.jobs)
        for number in message.left:
            self._jobs.pop(number, None)
        self._jobs.update((job.number, job) for job in message.jobs)
        return WatchedJobs(
            [self._jobs[number] for number in sorted(self._jobs, reverse=self._newest_first)],
            {state_name(count.state): count.jobs for count in message.counts.counts},
            bool(message.next_page_token),
            frozenset(job.job_id for job in changed),
        )


class _ListWatch(Watch[WatchedJobs]):
    """Watches the list of jobs until the caller ends the watch."""

    def __init__(
        self,
        request: cluster_pb2.Controller.WatchJobsRequest,
        patience_s: float,
        on_silence: Callable[[UnavailableError], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        super().__init__("", math.inf, patience_s, LONGEST_PAUSE_S, on_silence, is_aborted)
        self._request = request
        self._state = JobListState(newest_first=request.newest_first)

    def _read_stream(self, end: float) -> ItemOperation[WatchedJobs, bool]:
        """Yield each version of the list of jobs that one stream sends. Return False, because the watch of a list never
        ends by itself.
        """
        stream = yield OpenStream("watch_jobs", self._request)
        while True:
            message: cluster_pb2.Controller.WatchJobsResponse | None = yield NextMessage(stream)
            if message is None:
                return False
            self._answered()
            if message.HasField("counts"):
                yield self._state.apply(message)
