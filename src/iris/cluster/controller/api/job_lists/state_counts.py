"""Counts the jobs that meet conditions by their states, as pure code. The counts begin with one read of the database,
and follow the changes of jobs from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.storage.job_lists import JobFilter
from iris.cluster.states import FINAL_STATES
from iris.rpc import cluster_pb2


class StateCounts:
    """The number of jobs in each state.

    The database is read while jobs end. Therefore the jobs that were unfinished before the read are counted separately,
    and the read must leave out the jobs with the numbers in `unfinished`. Otherwise a job that ends during the read
    would be counted twice.

    Args:
        wanted: The conditions for the counted jobs. The conditions must accept all states.
        last: The highest number that a job has before the database is read.

    Attributes:
        last: The highest number among all jobs so far, whether or not the jobs meet the conditions.
        version: How many times the counts have changed.
    """

    def __init__(self, wanted: JobFilter, last: int) -> None:
        self.last = last
        self.version = 0
        self._wanted = wanted
        self._unfinished: dict[int, int] = {}
        self._counts: Counter[int] = Counter()

    @property
    def unfinished(self) -> list[int]:
        """The numbers of the counted jobs that have not ended."""
        return list(self._unfinished)

    def add_unfinished(self, number: int, job: Job) -> None:
        """Count an unfinished job. The caller must count all unfinished jobs before it reads the database."""
        if self._wanted.matches(job):
            self._unfinished[number] = int(job.state)
            self._counts[int(job.state)] += 1

    def add_ended(self, counts: Mapping[int, int]) -> None:
        """Add the number of ended jobs in each state, as counted by the database."""
        self._counts.update(counts)

    def change(self, number: int, job: Job, state: int) -> None:
        """Count a job in its new state. New jobs must come in the order of their numbers."""
        is_new = number > self.last
        self.last = max(self.last, number)
        known = self._unfinished.pop(number, None)
        if known is None and not (is_new and self._wanted.matches(job)):
            return  # The job needs no count, because it does not meet the conditions, or its end was counted before.
        if known is not None:
            self._counts[known] -= 1
        self._counts[state] += 1
        if state not in FINAL_STATES:
            self._unfinished[number] = state
        if known != state:
            self.version += 1

    def remove(self, job: Job) -> None:
        """Forget an ended job that was removed."""
        if self._wanted.matches(job):
            self._counts[int(job.state)] -= 1
            self.version += 1

    def fill(self, response: cluster_pb2.Controller.WatchJobsResponse) -> None:
        """Add the counts to a message."""
        response.counts.SetInParent()
        for state, count in sorted(self._counts.items()):
            if count > 0:
                response.counts.counts.add(state=state, jobs=count)
