"""Defines a page of the list of jobs that follows all changes, as pure code.

Each change of the page gets a version. A reader that knows an earlier version gets all changes since that version in
one message. Therefore a slow reader costs no memory.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from iris.cluster.controller.api.job_lists.pages import LIST_NAME, PageChoice
from iris.rpc import cluster_pb2
from iris.rpc.pages import PAGE_BYTES, page_token_of

# The page remembers at most this many jobs that have left the page. A client that has missed the departures of more
# jobs gets the whole page.
_MAX_LEFT = 1000


@dataclass(slots=True)
class _Entry:
    status: cluster_pb2.JobStatus
    size: int
    version: int


class LivePage:
    """A page of the list of jobs.

    Args:
        choice: The conditions, the order and the size of the page.
        most_bytes: The largest size of all messages together. The page has at least one job if the list has one.

    Attributes:
        version: The number of changes of the page since it was created.
        needs_reading: Whether a job has left the page, so that the jobs of the choice `following` must be read.
    """

    def __init__(self, choice: PageChoice, most_bytes: int = PAGE_BYTES) -> None:
        self.version = 0
        self.needs_reading = False
        self._choice = choice
        self._most_bytes = most_bytes
        self._entries: dict[int, _Entry] = {}
        self._order: list[int] = []
        self._bytes = 0
        self._has_more = False
        # The jobs that have left the page, as pairs of the page's version after the departure and the job's number.
        self._left: deque[tuple[int, int]] = deque()
        # The version of the newest entry that was dropped from `_left`. A reader that knows only an older version gets
        # the whole page.
        self._forgotten = 0

    def __contains__(self, number: int) -> bool:
        return number in self._entries

    def could_contain(self, number: int) -> bool:
        """Return whether the number of a job lies in the range of the page. The conditions are not checked."""
        if not self._choice.in_range(number):
            return False
        # If all jobs have left the page and others follow, the next read decides which of them are on the page.
        return not self._has_more or (bool(self._order) and self._key(number) < self._order[-1])

    def following(self) -> PageChoice:
        """Return the choice of the jobs to read after jobs have left the page: as many jobs as are missing, beginning
        after the last job of the page.
        """
        if not self._order:
            return self._choice
        return replace(self._choice, first=self._next_number(), limit=self._choice.limit - len(self._order))

    def extend(self, found: Mapping[int, cluster_pb2.JobStatus]) -> None:
        """Add the jobs that were read with the choice `following`, after the last job of the page. If further pages
        follow, `found` also has the first job of the next page.
        """
        self.needs_reading = False
        self._has_more = False
        for number, status in found.items():
            self._put(number, status)
        self._cut()

    def replace_all(self, found: Mapping[int, cluster_pb2.JobStatus]) -> None:
        """Replace all jobs of the page by the jobs in `found`, which maps numbers of jobs to statuses. If further pages
        follow, `found` also has the first job of the next page.
        """
        for number in [number for number in self._entries if number not in found]:
            self._remove(number)
        self.extend(found)

    def change(self, number: int, status: cluster_pb2.JobStatus | None) -> None:
        """Show the new status of a job on the page. With the status None, remove the job from the page, because the job
        does not meet the conditions.
        """
        if status is None:
            if number in self._entries:
                self._remove(number)
                self.needs_reading |= self._has_more
        elif number in self._entries or self.could_contain(number):
            self._put(number, status)
            self._cut()

    def fill(self, response: cluster_pb2.Controller.WatchJobsResponse, known: int | None) -> None:
        """Add the changes of the page since a version to a message.

        Args:
            response: The message to the client.
            known: The version that the reader knows, or None for a new reader, who gets the whole page.
        """
        if known is None or known < self._forgotten:
            response.is_snapshot = True
            response.jobs.extend(entry.status for entry in self._entries_in_order())
        else:
            response.jobs.extend(entry.status for entry in self._entries_in_order() if entry.version > known)
            response.left.extend(
                number for version, number in self._left if version > known and number not in self._entries
            )
        if self._has_more and self._order:
            response.next_page_token = page_token_of(LIST_NAME, self._next_number())

    def _next_number(self) -> int:
        """Return the first number that a job of the next page can have. The page must not be empty."""
        last = self._key(self._order[-1])
        return last - 1 if self._choice.newest_first else last + 1

    def _entries_in_order(self) -> Iterator[_Entry]:
        return (self._entries[self._key(key)] for key in self._order)

    def _put(self, number: int, status: cluster_pb2.JobStatus) -> None:
        entry = self._entries.get(number)
        if entry is not None and entry.status == status:
            return
        self.version += 1
        size = status.ByteSize()
        if entry is None:
            insort(self._order, self._key(number))
        else:
            self._bytes -= entry.size
        self._bytes += size
        self._entries[number] = _Entry(status, size, self.version)

    def _remove(self, number: int) -> None:
        self.version += 1
        self._bytes -= self._entries.pop(number).size
        del self._order[bisect_left(self._order, self._key(number))]
        self._left.append((self.version, number))
        if len(self._left) > _MAX_LEFT:
            self._forgotten = self._left.popleft()[0]

    def _cut(self) -> None:
        """Move the last jobs to the next page until the page is small enough."""
        while len(self._order) > self._choice.limit or (self._bytes > self._most_bytes and len(self._order) > 1):
            self._remove(self._key(self._order[-1]))
            self._has_more = True

    def _key(self, number: int) -> int:
        """Convert a job's number to its sort key, or a sort key to the job's number."""
        return -number if self._choice.newest_first else number
