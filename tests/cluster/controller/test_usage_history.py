"""The usage history of jobs in the database: kept over restarts, removed with its job, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from support.stored_jobs import stored
from support.waiting import wait_until

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.usage import rows
from iris.cluster.controller.usage.history import UsageHistory
from iris.rpc import cluster_pb2 as pb

BEGIN_MS = 1_790_000_000_000
RUNNING, SUCCEEDED = pb.TASK_STATE_RUNNING, pb.TASK_STATE_SUCCEEDED


class World:
    """A usage history on a real database, with a clock that the test sets."""

    def __init__(self, store: Store, max_bytes: int, tick_s: float) -> None:
        self.now_ms = BEGIN_MS
        self.store = store
        self.saver = Saver(store)
        self.stored_jobs = StoredJobs(store)
        self.history = UsageHistory(store, self.stored_jobs, self.saver, max_bytes, lambda: self.now_ms, tick_s)

    async def add_job(self, name: str, tasks: int = 1) -> JobRecord:
        record = stored(Job.new(name, tasks, BEGIN_MS))
        record.number = self.saver.next_number()
        await self.saver.add_job(record, b"")
        return record

    def report(self, record: JobRecord, index: int = 0, *, samples: int = 1, **values: int) -> None:
        for _ in range(samples):
            self.now_ms += 2000
            usage = pb.ResourceUsage(process_count=1, **values)
            fields = {"worker_id": "w", "task_index": index, "state": RUNNING, "started_at_ms": BEGIN_MS}
            report = pb.Controller.ReportTaskStateRequest(resource_usage=usage, **fields)  # type: ignore[arg-type]
            self.history.report(record, [report])
            self.history.worker_reported("w")

    async def add_jobs(self, count: int) -> list[JobRecord]:
        """Add jobs in one transaction."""
        return await asyncio.gather(*(self.add_job(f"job-{number}") for number in range(count)))

    def is_stored(self, record: JobRecord) -> bool:
        return bool(self.store.read(partial(rows.read_job, number=record.number)))

    async def until_stored(self, records: Iterable[JobRecord]) -> None:
        await asyncio.to_thread(wait_until, lambda: all(map(self.is_stored, records)), "the series are stored")

    async def points(self, record: JobRecord, index: int = 0) -> int:
        found = await self.history.series(record.number, [index])
        return sum(len(series.life) for series in found.values())

    def stored_bytes(self) -> int:
        return self.store.read(rows.total_bytes)


@asynccontextmanager
async def world(path: Path, max_bytes: int = 10**9, tick_s: float = 5.0) -> AsyncIterator[World]:
    made = World(Store(path), max_bytes, tick_s)

    async def write() -> None:
        async for _ in made.saver.batches():
            pass

    saving = asyncio.create_task(write())
    try:
        yield made
    finally:
        await made.history.close()
        saving.cancel()
        with suppress(asyncio.CancelledError):
            await saving
        made.stored_jobs.close()
        await made.saver.close()
        made.store.close()


async def end_job(world: World, record: JobRecord) -> None:
    record.job.submit()
    world.saver.job_changed(record, record.job.terminate("terminated", world.now_ms))
    await world.saver.saved()
    world.history.job_ended(record)


def test_usage_of_a_running_job_continues_after_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path / "db") as first:
            record = await first.add_job("job", tasks=2)
            first.report(record, 1, samples=300, memory_mb=100)
        async with world(tmp_path / "db") as second:
            await second.history.load([record])
            second.now_ms = first.now_ms
            second.report(record, 1, samples=1, memory_mb=700)
            found = await second.history.series(record.number, [0, 1, rows.SUM_INDEX])
            assert found.keys() == {1, rows.SUM_INDEX}
            for series in found.values():
                points = series.read(0, 2**32 - 1, 1000)
                assert points.times[0] * 1000 <= BEGIN_MS + 4000
                assert points.columns[1][0] == 100
                assert points.columns[1][-1] == 700

    asyncio.run(run())


def test_usage_of_a_removed_job_is_removed_and_not_written_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path / "db") as it:
            record = await it.add_job("removed")
            it.report(record, samples=5)
            await end_job(it, record)
            await it.history.write()
            assert await it.points(record) == 5
            late = await it.add_job("late")
            it.report(late, samples=5)
            await end_job(it, late)
            for one in (record, late):
                await it.saver.write_once(partial(Changes.remove_job, number=one.number, rounds=1))
            await it.history.write()
            assert it.stored_bytes() == 0
            assert await it.points(record) == await it.points(late) == 0

    asyncio.run(run())


def test_usage_of_the_oldest_ended_jobs_is_removed_beyond_the_limit(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path / "db") as it:
            unfinished = await it.add_job("unfinished")
            it.report(unfinished, samples=5)
            await it.history.write()
            ended = await it.add_jobs(320)
            for record in ended:
                it.report(record)
            await asyncio.gather(*(end_job(it, record) for record in ended))
            await it.history.write()
            most = it.stored_bytes()
            limited = UsageHistory(it.store, it.stored_jobs, it.saver, most // 3, now=lambda: it.now_ms)
            await limited.write()  # One removal takes the series of 100 jobs.
            assert it.stored_bytes() <= most // 3
            assert await it.points(ended[0]) == 0
            assert await it.points(ended[-1]) == 1
            assert await it.points(unfinished) == 5
            assert len(it.store.read(partial(rows.read_job, number=unfinished.number))) == 2

    asyncio.run(run())


def test_usage_of_200_jobs_that_end_together_is_stored_before_the_next_periodic_write(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path / "db", tick_s=3600.0) as it:
            writing = asyncio.create_task(it.history.run())
            try:
                ended = await it.add_jobs(400)
                for some in (ended[:200], ended[200:]):
                    for record in some:
                        it.report(record)
                        it.history.job_ended(record)
                    await it.until_stored(some)
            finally:
                writing.cancel()

    asyncio.run(run())


def test_write_of_usage_waits_for_another_write_of_usage(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path / "db") as it:
            record = await it.add_job("job")
            it.report(record)
            it.history.job_ended(record)
            first = asyncio.create_task(it.history.write())
            await asyncio.sleep(0)
            await it.history.write()
            assert first.done()
            assert it.is_stored(record)

    asyncio.run(run())


def test_stored_bytes_of_usage_are_counted_exactly(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path / "db") as it:
            record = await it.add_job("job", tasks=3)
            for index in range(3):
                it.report(record, index, samples=4 * (index + 1), cpu_millicores=index)
                await it.history.write()
            found = it.store.read(partial(rows.read_job, number=record.number))
            assert sorted(found) == [-1, 0, 1, 2]
            assert it.stored_bytes() == sum(map(len, found.values()))

    asyncio.run(run())


def test_usage_of_a_task_over_one_hour_takes_less_than_two_kilobytes(tmp_path: Path) -> None:
    async def run() -> None:
        async with world(tmp_path / "db") as it:
            record = await it.add_job("job")
            for second in range(0, 3600, 2):
                it.report(record, cpu_millicores=second * 7919 % 4000, memory_mb=second * 6007 % 9000)
            await it.history.write()
            assert 200 < len(it.store.read(partial(rows.read_job, number=record.number))[0]) < 2000

    asyncio.run(run())
