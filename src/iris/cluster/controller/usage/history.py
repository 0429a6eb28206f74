"""Owns what tasks and workers have used over time, and writes the series of tasks to the database.

Workers report what each attempt uses about every two seconds. Each report becomes a sample of the task's series, of the
sum over its job, and of the sum over its worker. The series of unfinished jobs and of workers are in memory. The series
of jobs are written to the database about once a minute, and soon after the end of their job. Therefore a kill of the
controller loses the last minute of these series. The series of workers are not stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.submission.request import need_of
from iris.cluster.controller.usage import rows
from iris.cluster.controller.usage.series import (
    TASK_COLUMNS,
    Points,
    UsageSeries,
    clamped,
    points_per_task,
)
from iris.cluster.controller.usage.totals import UsageTotal
from iris.cluster.types import is_task_finished
from iris.errors import IrisError
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms
from iris.system.event_loop import happens

Report = cluster_pb2.Controller.ReportTaskStateRequest

# The largest size in bytes of the stored usage of all jobs together. If the usage needs more space, the usage of the
# oldest ended jobs is removed.
MAX_BYTES = 256 * 2**20
# The usage of at most this many workers is kept. If there are more, the workers that have reported last are kept.
_MAX_WORKERS = 2000
# If the disk is full, the usage of at most this many ended jobs waits in memory to be written.
_MAX_ENDED = 1000
# If the usage of this many ended jobs waits to be written, it is written at once, before the next tick.
_HURRY_ENDED = 200
_TICK_S = 5.0
# The usage of unfinished jobs is written at every twelfth tick. The usage of ended jobs is written at every tick.
_TICKS = 12
# Packing the usage of one task takes about 50 µs. After this many tasks, the event loop does other work.
_PACKED_AT_ONCE = 20
_ROWS_AT_ONCE = 500
_REMOVED_AT_ONCE = 100
_MIB = 2**20
_log = logging.getLogger(__name__)


class JobUsage:
    """The series of one unfinished job.

    Args:
        record: The record of the job.
        stored: The points of usage that an earlier controller has stored, by task index.

    Attributes:
        number: The number of the job in the database.
        tasks: The series of the tasks that have samples, by task index.
        total: The usage of all tasks of the job together.
        changed: The indices of the series that have changed since the last write.
        requested: What each task has requested: millicores, MiB of memory, and GPUs.
    """

    def __init__(self, record: JobRecord, stored: dict[int, Points]) -> None:
        self.number = record.number
        self._points = points_per_task(len(record.job.tasks))
        self.total = UsageTotal(stored.pop(rows.SUM_INDEX, None))
        self.tasks = {index: UsageSeries(TASK_COLUMNS, self._points, life) for index, life in stored.items()}
        self.changed: set[int] = set()
        millicores, memory_bytes, gpus = need_of(record.launch).amounts()
        self.requested = (clamped(millicores), clamped(memory_bytes // _MIB), clamped(gpus))

    def series_of(self, task_index: int) -> UsageSeries:
        """Return the series of a task. If the task has no series yet, create one."""
        series = self.tasks.get(task_index)
        if series is None:
            series = self.tasks[task_index] = UsageSeries(TASK_COLUMNS, self._points)
        return series

    def series(self, index: int) -> UsageSeries | None:
        """Return the series of a task by its index, or the sum over all tasks for `rows.SUM_INDEX`. Return None if
        there are no samples.
        """
        return self.total.series if index == rows.SUM_INDEX else self.tasks.get(index)


class UsageHistory:
    """The series of all unfinished jobs and of the workers.

    Args:
        store: The database of the controller.
        stored_jobs: The object that reads ended jobs from the database, in its own threads.
        saver: The object that writes the series.
        max_bytes: The largest number of bytes of all stored series.
        now: A function that returns the current time, in milliseconds since the epoch.
        tick_s: The time in seconds between two writes of the series of ended jobs, unless very many jobs end.
    """

    def __init__(
        self,
        store: Store,
        stored_jobs: StoredJobs,
        saver: Saver,
        max_bytes: int = MAX_BYTES,
        now: Callable[[], int] = now_ms,
        tick_s: float = _TICK_S,
    ) -> None:
        self._store = store
        self._stored_jobs = stored_jobs
        self._saver = saver
        self._max_bytes = max_bytes
        self._now = now
        self._tick_s = tick_s
        # Only one write runs at a time. A second write would drop series from memory that the first write may fail to
        # store.
        self._writing = asyncio.Lock()
        self._jobs: dict[int, JobUsage] = {}
        # The ended jobs whose series are not written yet.
        self._ended: OrderedDict[int, JobUsage] = OrderedDict()
        self._hurry = asyncio.Event()
        # The usage of each worker. The worker that has reported last comes last.
        self._workers: OrderedDict[str, UsageTotal] = OrderedDict()

    # Samples.

    def report(self, record: JobRecord, reports: Iterable[Report]) -> None:
        """Add a worker's accepted reports about the live attempts of one job."""
        now_s = self._now() // 1000
        usage = self._jobs.get(record.number)
        if usage is None:
            usage = self._jobs[record.number] = JobUsage(record, {})
        for report in reports:
            self._add(record, usage, report, now_s)
        if usage.total.num_tasks:
            usage.total.sample(now_s)
            usage.changed.add(rows.SUM_INDEX)

    def _add(self, record: JobRecord, usage: JobUsage, report: Report, now_s: int) -> None:
        index, used = report.task_index, report.resource_usage
        key = (record.number, index)
        if is_task_finished(report.state):
            usage.total.remove(key)
            self._worker(report.worker_id).remove(key)
            series = usage.series_of(index)
            # An attempt that ended before its first sample gets one point, with the averages of its whole time.
            if report.started_at_ms and series.last_s < report.started_at_ms // 1000:
                memory_mb = max(used.memory_mb, used.memory_peak_mb)
                series.add(now_s, _values(used, memory_mb))
                usage.changed.add(index)
        elif used.process_count > 0:
            values = _values(used, used.memory_mb)
            usage.series_of(index).add(now_s, values)
            usage.changed.add(index)
            usage.total.set(key, now_s, values, usage.requested)
            self._worker(report.worker_id).set(key, now_s, values, usage.requested)

    def worker_reported(self, worker_id: str) -> None:
        """Add a sample of a worker, after its reports were added. A worker without attempts uses nothing."""
        self._worker(worker_id).sample(self._now() // 1000)

    def _worker(self, worker_id: str) -> UsageTotal:
        total = self._workers.get(worker_id)
        if total is None:
            total = self._workers[worker_id] = UsageTotal()
            if len(self._workers) > _MAX_WORKERS:
                self._workers.popitem(last=False)
        self._workers.move_to_end(worker_id)
        return total

    def job_ended(self, record: JobRecord) -> None:
        """Write the usage of an ended job soon, and then drop it from memory. The job's end is saved."""
        usage = self._jobs.pop(record.number, None)
        if usage is not None:
            self._ended[record.number] = usage
            if len(self._ended) >= _HURRY_ENDED:
                self._hurry.set()
            if len(self._ended) > _MAX_ENDED:
                self._ended.popitem(last=False)

    # Reading.

    def worker(self, worker_id: str) -> UsageSeries | None:
        """Return the series of a worker; None if the worker has not reported."""
        total = self._workers.get(worker_id)
        return None if total is None else total.series

    def worker_now(self, worker_id: str) -> Sequence[int] | None:
        """Return the CPU, memory and GPUs that the tasks on a worker use together now, with one value for each column
        of `SUM_COLUMNS`. Return None if the worker has not reported.
        """
        total = self._workers.get(worker_id)
        return None if total is None else total.present

    def job_now(self, number: int) -> Sequence[int] | None:
        """Return the CPU, memory and GPUs that the tasks of an unfinished job use together now, with one value for each
        column of `SUM_COLUMNS`. Return None if there are no samples.
        """
        usage = self._jobs.get(number)
        return None if usage is None else usage.total.present

    async def series(self, number: int, indices: Sequence[int]) -> dict[int, UsageSeries]:
        """Return the requested series of a job, by index. A series without samples is left out.

        Args:
            number: The number of the job in the database.
            indices: Task indices; `rows.SUM_INDEX` is the sum over the tasks.
        """
        usage = self._jobs.get(number) or self._ended.get(number)
        if usage is not None:
            found = {index: usage.series(index) for index in indices}
            return {index: series for index, series in found.items() if series is not None and len(series.life)}
        return await self._stored_jobs.run(
            lambda: {
                index: UsageSeries(len(points.columns), life=points)
                for index, points in self._stored(partial(rows.read_tasks, number=number, indices=indices)).items()
            }
        )

    def _stored(self, read: Callable[[sqlite3.Connection], dict[int, bytes]]) -> dict[int, Points]:
        """Return stored points. Points that this version cannot read are left out, because only plots need them."""
        found = {}
        for index, packed in self._store.read(read).items():
            try:
                found[index] = Points.unpack(packed)
            except ValueError as error:
                _log.warning("stored usage cannot be read: %s", error)
        return found

    # The database.

    async def load(self, records: Sequence[JobRecord]) -> None:
        """Load the resource usage of unfinished jobs that an earlier controller has stored in the database."""
        found = await self._stored_jobs.run(self._read_jobs, [record.number for record in records])
        for record in records:
            if found[record.number]:
                self._jobs[record.number] = JobUsage(record, found[record.number])

    def _read_jobs(self, numbers: Sequence[int]) -> dict[int, dict[int, Points]]:
        return {number: self._stored(partial(rows.read_job, number=number)) for number in numbers}

    async def run(self) -> None:
        """Run forever. About every five seconds, write the changed series to the database."""
        ticks, last_s = 0, time.monotonic()
        while True:
            await happens(self._hurry, max(0.0, last_s + self._tick_s - time.monotonic()))
            self._hurry.clear()
            is_tick = time.monotonic() >= last_s + self._tick_s
            if is_tick:
                ticks, last_s = ticks + 1, time.monotonic()
            try:
                if is_tick:
                    self._remove_silent()
                await self.write(with_unfinished=is_tick and ticks % _TICKS == 0)
            except IrisError as error:
                _log.warning("the usage of tasks cannot be written, trying again later: %s", error)
                await asyncio.sleep(self._tick_s)
            except Exception:  # noqa: BLE001 - After a bug with one series, the other series are still written.
                _log.exception("the usage of tasks cannot be written")
                await asyncio.sleep(self._tick_s)

    def _remove_silent(self) -> None:
        now_s = self._now() // 1000
        for usage in self._jobs.values():
            usage.total.remove_silent(now_s)
        for total in self._workers.values():
            total.remove_silent(now_s)

    async def write(self, *, with_unfinished: bool = True) -> None:
        """Write the changed series of ended jobs and, if `with_unfinished` is set, of unfinished jobs.

        Raises:
            IrisError: The series could not be written. A later call of this method writes the same series.
        """
        async with self._writing:
            ended = list(self._ended.values())
            await self._write_jobs(ended)
            for usage in ended:
                self._ended.pop(usage.number, None)
            if with_unfinished:
                await self._write_jobs(list(self._jobs.values()))
            await self._remove_oldest()

    async def _remove_oldest(self) -> None:
        """Remove the series of the oldest ended jobs until the stored series are within the limit."""
        before = None
        while (stored := await self._stored_jobs.run(self._store.read, rows.total_bytes)) > self._max_bytes:
            if stored == before:
                return  # Nothing more can be removed, because only the usage of unfinished jobs is left.
            before = stored
            await self._saver.write_once(_remove_oldest)

    async def _write_jobs(self, usages: Sequence[JobUsage]) -> None:
        """Write the changed series of jobs. One transaction has the series of several jobs."""
        while taken := _take_changed(usages):
            try:
                packed = [row for usage, indices in taken for row in await _pack(usage, indices)]
                await self._saver.write_once(partial(_save, packed=packed))
            except BaseException:
                for usage, indices in taken:
                    usage.changed.update(indices)
                raise

    async def close(self) -> None:
        """Write all changed series, if possible."""
        with contextlib.suppress(IrisError):
            await self.write()


def _take_changed(usages: Sequence[JobUsage]) -> list[tuple[JobUsage, list[int]]]:
    """Choose up to `_ROWS_AT_ONCE` changed series for the next write, and return their indices by job. The chosen
    series no longer count as changed.
    """
    taken, left = [], _ROWS_AT_ONCE
    for usage in usages:
        indices = list(itertools.islice(usage.changed, left))
        if indices:
            usage.changed.difference_update(indices)
            taken.append((usage, indices))
            left -= len(indices)
        if not left:
            break
    return taken


async def _pack(usage: JobUsage, indices: Sequence[int]) -> list[tuple[int, int, bytes]]:
    packed = []
    for count, index in enumerate(indices, 1):
        series = usage.series(index)
        if series is not None:
            packed.append((usage.number, index, series.life.pack()))
        if count % _PACKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return packed


def _save(changes: Changes, packed: Sequence[tuple[int, int, bytes]]) -> None:
    changes.add_rows(rows.SAVE, packed)


def _remove_oldest(changes: Changes) -> None:
    changes.add_rows(rows.REMOVE_OLDEST, [(_REMOVED_AT_ONCE,)])


def _values(used: cluster_pb2.ResourceUsage, memory_mb: int) -> tuple[int, int, int, int]:
    return (
        clamped(used.cpu_millicores),
        clamped(memory_mb),
        clamped(used.gpu_percent),
        clamped(used.gpu_memory_mb),
    )
