"""Counts the unfinished jobs and tasks of each user, and refuses jobs that exceed the user's quota."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from iris.counts import counted, word_for
from iris.errors import ResourceExhaustedError, quoted
from iris.reasons import ErrorReason


@dataclass(frozen=True, slots=True)
class Quota:
    """How many jobs, tasks and streams each user of a cluster may have at the same time. The defaults are the same as
    in `iris.config`.

    Attributes:
        jobs: The largest number of unfinished jobs of a user.
        tasks: The largest number of tasks in the unfinished jobs of a user.
        streams: The largest number of open streams, which follow logs or watch jobs.
    """

    jobs: int = 10_000
    tasks: int = 100_000
    streams: int = 2000


class QuotaUse:
    """Counts the unfinished jobs and tasks of each user.

    Args:
        quota: The limits that apply to every user.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._jobs: Counter[str] = Counter()
        self._tasks: Counter[str] = Counter()

    def check(self, user: str, tasks: int) -> None:
        """Refuse a new job that exceeds its owner's quota.

        Args:
            user: The job's owner; empty if the caller has no name.
            tasks: The number of tasks in the job.

        Raises:
            ResourceExhaustedError: The user has too many unfinished jobs or tasks.
        """
        for one, many, num_now, num_new, limit, option in (
            ("job", "jobs", self._jobs[user], 1, self._quota.jobs, "--max-jobs-per-user"),
            ("task of a job", "tasks of jobs", self._tasks[user], tasks, self._quota.tasks, "--max-tasks-per-user"),
        ):
            if num_now + num_new > limit:
                user_has = f"user {quoted(user)} has" if user else word_for(num_now, "there is", "there are")
                unfinished = counted(num_now, f"unfinished {one}", f"unfinished {many}")
                raise ResourceExhaustedError(
                    f"{user_has} {unfinished}, and {num_new:,} more would exceed the limit of {limit:,}: wait until"
                    " some of the jobs end, or end jobs with 'iris kill' ('iris ps' lists them;"
                    f" 'iris up {option}' sets the limit)",
                    reason=ErrorReason.QUOTA_EXCEEDED,
                    metadata={"user": user, "limit": str(limit)},
                )

    def add(self, user: str, tasks: int) -> None:
        """Count a new job with this number of tasks."""
        self._jobs[user] += 1
        self._tasks[user] += tasks

    def remove(self, user: str, tasks: int) -> None:
        """Stop counting a job, because the job has ended or could not be saved."""
        self._jobs[user] -= 1
        self._tasks[user] -= tasks
        if not self._jobs[user]:
            del self._jobs[user], self._tasks[user]
