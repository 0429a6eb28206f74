"""The jobs of the cluster. Only unfinished jobs are in memory; an ended job is read from the database on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.types import parse_task_id
from iris.errors import InvalidArgumentError, NotFoundError, quoted
from iris.reasons import ErrorReason

T = TypeVar("T")
MAX_RECENT_JOBS = 256
MAX_RECENT_BYTES = 32 << 20
# How many times a job is looked for in the database at most. Another try follows if a new job with the same id may have
# ended during the last one.
_READ_TRIES = 3
# The approximate memory in bytes that the record of a job needs besides its submission: a fixed part, and a part for
# each task.
_JOB_BYTES = 3000
_TASK_BYTES = 4000


class EndedJobs(Protocol):
    """The interface through which the table reads ended jobs. `storage.ended_jobs.StoredJobs` implements it."""

    async def find(self, job_id: str) -> JobRecord | None:
        """Return a job whose end is saved, without its entry point; None if there is no such job."""
        ...

    def has(self, job_id: str) -> bool:
        """Return whether a job is stored, whether or not it has ended. The call takes microseconds."""
        ...

    def ended_between(self, after_ms: int, until_ms: int) -> AsyncIterator[JobRecord]:
        """Yield the jobs that ended later than `after_ms`, and not later than `until_ms`."""
        ...

    def newest_first(self) -> AsyncIterator[tuple[str, int, Callable[[], JobRecord]]]:
        """Yield the id and the number of tasks of each ended job, and a function that returns the job's record."""
        ...


class RecentJobs:
    """A cache of records of ended jobs, so that most calls need not wait for the database. The least recently used
    records are dropped first.

    Args:
        max_jobs: The largest number of job records in the cache.
        max_bytes: The largest approximate size of all records together. A single record may be larger than this limit.

    Attributes:
        dropped: How many records were dropped to make room for others.
    """

    def __init__(self, max_jobs: int = MAX_RECENT_JOBS, max_bytes: int = MAX_RECENT_BYTES) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._records: OrderedDict[str, JobRecord] = OrderedDict()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._records)

    def get(self, job_id: str) -> JobRecord | None:
        """Return the record of a job from the cache, and mark it as used. Return None if the cache does not have it."""
        record = self._records.get(job_id)
        if record is not None:
            self._records.move_to_end(job_id)
        return record

    def add(self, record: JobRecord) -> None:
        """Add a record of an ended job, or replace it."""
        self.remove(record.job_id)
        self._records[record.job_id] = record
        self._bytes += _size_of(record)
        while len(self._records) > self._max_jobs or (self._bytes > self._max_bytes and len(self._records) > 1):
            self._bytes -= _size_of(self._records.popitem(last=False)[1])
            self.dropped += 1

    def remove(self, job_id: str) -> None:
        """Remove a record, if the cache has it."""
        record = self._records.pop(job_id, None)
        if record is not None:
            self._bytes -= _size_of(record)


def _size_of(record: JobRecord) -> int:
    # The size of the submission is not measured. The submission of an ended job is small, because it has no entry
    # point.
    return _JOB_BYTES + _TASK_BYTES * len(record.job.tasks)


class RemovalMark:
    """A mark by which calls that read the logs or results of a job learn whether the job was removed. The table has
    only weak references to its marks.
    """

    def __init__(self) -> None:
        self.is_removed = False


def removed_meanwhile(record: JobRecord, what: str) -> NotFoundError:
    """Return the error for a job that was removed while a call read its logs or results.

    Args:
        record: The record of the job.
        what: What the call has read: "logs" or "results".
    """
    return NotFoundError(
        f"job {quoted(record.job_id)} was removed while its {what} were being read",
        reason=ErrorReason.JOB_NOT_FOUND,
        metadata={"job_id": record.job_id},
    )


def _check_mark(mark: RemovalMark, record: JobRecord, what: str) -> None:
    if mark.is_removed:
        raise removed_meanwhile(record, what)


class JobTable:
    """The saved jobs of a cluster.

    The controller adds a job to the table once the job is saved. Once the job's end is saved and its consequences are
    carried out, the controller concludes the job, which drops the job from memory. All other code only reads the table.

    A call that runs while a job ends finds the job exactly once, in memory or in the database. The job is dropped from
    memory only after its end is in the database.

    Args:
        ended: The object that reads ended jobs from the database.
        num_ended: The number of ended jobs in the database.

    Attributes:
        by_id: A read-only view of the jobs whose end is not saved, by id. The view follows every change.
        ended: The object that reads ended jobs from the database.
        removed: How many ended jobs were removed since the start.
    """

    def __init__(self, ended: EndedJobs, num_ended: int = 0) -> None:
        self.ended = ended
        self.removed = 0
        self._open: dict[str, JobRecord] = {}
        self._recent = RecentJobs()
        self._children: dict[str, dict[str, JobRecord]] = {}
        self._num_ended = num_ended
        # The ids of the jobs that are being removed, each with an `asyncio.Event` that is set at the end of the
        # removal.
        self._being_removed: dict[str, asyncio.Event] = {}
        self._marks: WeakValueDictionary[int, RemovalMark] = WeakValueDictionary()
        self.by_id: Mapping[str, JobRecord] = MappingProxyType(self._open)

    def add(self, record: JobRecord) -> None:
        """Add a job whose end is not saved."""
        self._open[record.job_id] = record
        if record.job.parent_job_id:
            self._children.setdefault(record.job.parent_job_id, {})[record.job_id] = record

    def conclude(self, record: JobRecord) -> None:
        """Count a job as ended, because its final state is saved. Its record stays in memory only while it is among the
        recently used records of ended jobs.
        """
        if self.is_concluded(record):
            return
        del self._open[record.job_id]
        self._num_ended += 1
        siblings = self._children.get(record.job.parent_job_id)
        if siblings is not None:
            siblings.pop(record.job_id, None)
            if not siblings:
                del self._children[record.job.parent_job_id]
        self._recent.add(record.without_entry_point())

    @contextlib.contextmanager
    def being_removed(self, job_ids: Collection[str]) -> Iterator[None]:
        """Return a context manager for the removal of ended jobs. Inside the context, no new job can get the id of one
        of these jobs.
        """
        end = asyncio.Event()
        self._being_removed.update(dict.fromkeys(job_ids, end))
        try:
            yield
        finally:
            for job_id in job_ids:
                del self._being_removed[job_id]
            end.set()

    async def removal_ended(self, job_id: str) -> None:
        """If a job with this id is being removed, wait until the removal has ended."""
        end = self._being_removed.get(job_id)
        if end is not None:
            await end.wait()

    def forget(self, record: JobRecord) -> None:
        """Drop an ended job that was removed from the database. A new job can get the same id once the context
        `being_removed` has ended.
        """
        self._recent.remove(record.job_id)
        self.removed += 1
        self._num_ended -= 1
        mark = self._marks.get(record.number)
        if mark is not None:
            mark.is_removed = True

    async def until_removed(self, record: JobRecord, items: AsyncGenerator[T], what: str = "logs") -> AsyncGenerator[T]:
        """Yield the items that a call makes from a job's logs or results, until the job is removed.

        Args:
            record: The record of the job.
            items: The generator of the items, which is closed at the end.
            what: What the items are made from, for the error: "logs" or "results".

        Raises:
            NotFoundError: The job was removed, so the rest of its logs and results is gone.
        """
        mark = self._marks.setdefault(record.number, RemovalMark())
        async with contextlib.aclosing(items):
            async for item in items:
                _check_mark(mark, record, what)
                yield item
        # If the job was removed meanwhile, items may be missing, and the reader must get an error.
        _check_mark(mark, record, what)

    def is_concluded(self, record: JobRecord) -> bool:
        """Return whether the job's final state is saved."""
        return self._open.get(record.job_id) is not record

    # The next methods search only the memory, which has the unfinished jobs and the ended jobs that were used recently.

    def in_memory(self, job_id: str) -> JobRecord | None:
        """Return a job if it is unfinished or was used recently. None does not mean that there is no such job."""
        return self._open.get(job_id) or self._recent.get(job_id)

    def open_jobs(self) -> list[JobRecord]:
        """Return the jobs whose end is not saved, in the order of their submission."""
        return list(self._open.values())

    def open_children(self, parent_job_id: str) -> list[JobRecord]:
        """Return the child jobs of a job that have not ended."""
        children = self._children.get(parent_job_id, {}).values()
        return [child for child in children if not child.job.is_finished]

    def parents_of_open_jobs(self) -> list[str]:
        """Return the ids of the jobs that have child jobs whose end is not saved."""
        return list(self._children)

    def is_attempt_live(self, job_id: str, task_index: int, attempt_id: int) -> bool:
        """Return whether an attempt has not ended yet."""
        record = self._open.get(job_id)
        if record is None or not 0 <= task_index < len(record.job.tasks):
            return False
        return record.job.is_attempt_live(task_index, attempt_id)

    def count(self) -> tuple[int, int]:
        """Return the number of jobs whose end is not saved, and the number of jobs whose end is saved."""
        return len(self._open), self._num_ended

    # All jobs.

    def exists(self, job_id: str) -> bool:
        """Return whether there is a job with this id. The call reads an index of the database, without waiting."""
        return self.in_memory(job_id) is not None or job_id in self._being_removed or self.ended.has(job_id)

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job; None if there is no job with this id."""
        for _ in range(_READ_TRIES):
            record = self.in_memory(job_id)
            if record is not None:
                return record
            dropped, removed = self._recent.dropped, self.removed
            record = await self.ended.find(job_id)
            if record is not None:
                if removed == self.removed:  # Cache the job only if no job was removed during the read.
                    self._recent.add(record)
                return record
            # A job with this id may have been submitted, and may even have ended, while the database was read.
            # Therefore the loop looks for the job again if ended jobs have left the memory meanwhile.
            if dropped == self._recent.dropped:
                break
        return self.in_memory(job_id)

    async def find(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises:
            NotFoundError: There is no job with this id.
        """
        record = await self.get(job_id)
        if record is None:
            raise NotFoundError(
                f"no job named {quoted(job_id)}{self._hint(job_id)}" if job_id else "a job id must not be empty",
                reason=ErrorReason.JOB_NOT_FOUND,
                metadata={"job_id": job_id},
            )
        return record

    def _hint(self, name: str) -> str:
        """Return a hint for the error about an unknown job id. The hint is empty unless the id is the id of a task."""
        try:
            job_id, task_index = parse_task_id(name)
        except InvalidArgumentError:
            return ""
        return f": that is task {task_index} of job {quoted(job_id)}" if self.exists(job_id) else ""
