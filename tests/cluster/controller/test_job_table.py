"""The table of jobs: which jobs are in memory, and how an ended job is found in the database, also while jobs end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
from support.stored_jobs import new_job, stored

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_state import Condition
from iris.cluster.controller.jobs.job_table import JobTable, RecentJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.dependencies import Dependencies
from iris.cluster.controller.submission.names import claim_name
from iris.errors import NotFoundError, UnavailableError
from iris.rpc import cluster_pb2

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Database:
    """Ended jobs, and an event that happens during each read of a job, after the content of the database was read."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobRecord] = {}
        self.reads = 0
        self.during_read: Callable[[], None] = lambda: None

    async def find(self, job_id: str) -> JobRecord | None:
        self.reads += 1
        await asyncio.sleep(0)
        found = self.jobs.get(job_id)
        self.during_read()
        return found

    def has(self, job_id: str) -> bool:
        return job_id in self.jobs

    async def ended_between(self, after_ms: int, until_ms: int) -> AsyncIterator[JobRecord]:
        for record in self.jobs.values():
            if after_ms < record.job.finished_at_ms <= until_ms:
                yield record

    async def newest_first(self) -> AsyncIterator[tuple[str, int, Callable[[], JobRecord]]]:
        for record in self.jobs.values():
            yield record.job_id, len(record.job.tasks), partial(self.jobs.__getitem__, record.job_id)


def ended(job_id: str) -> JobRecord:
    job = new_job(job_id)
    job.terminate("terminated by a user", 2000)
    return stored(job)


def conclude(table: JobTable, database: Database, record: JobRecord) -> None:
    """End a job in the table, as the controller does: in the database first, and in memory afterwards."""
    table.add(record)
    database.jobs[record.job_id] = record
    table.conclude(record)


async def test_job_whose_end_is_saved_leaves_the_memory_and_is_found_in_the_database() -> None:
    database = Database()
    table = JobTable(database)
    record = ended("job")
    table.add(record)
    assert table.by_id == {"job": record}
    assert not table.is_concluded(record)
    database.jobs["job"] = record
    table.conclude(record)
    assert table.by_id == {}
    assert table.is_concluded(record)
    assert table.count() == (0, 1)
    assert (await table.find("job")).job is record.job
    assert database.reads == 0, "a job that has just ended is read from memory"


async def test_end_of_an_awaited_job_is_reported_although_its_first_read_fails() -> None:
    database = Database()
    table = JobTable(database, num_ended=1)
    database.jobs["old"] = ended("old")
    saver = Saver(Store(None))
    tasks: list[asyncio.Task[None]] = []

    def fail_once() -> None:
        database.during_read = lambda: None
        raise UnavailableError("the disk does not answer")

    database.during_read = fail_once
    waiting = stored(new_job("waiting"))
    waiting.job.waits_for = {"old": Condition.ENDED.value}
    saver.adopt(waiting)
    table.add(waiting)
    Dependencies(table, saver, lambda report: tasks.append(asyncio.create_task(report))).job_added(waiting)
    await asyncio.gather(*tasks)
    assert (waiting.job.waits_for, database.reads) == ({}, 2)
    await saver.close()


async def test_ended_job_in_memory_is_kept_without_its_entry_point() -> None:
    database = Database()
    table = JobTable(database)
    record = ended("job")
    record.launch.serialized_entrypoint = b"x" * 1000
    record.launch.environment.env_vars["A"] = "b"
    conclude(table, database, record)
    kept = await table.find("job")
    assert not kept.launch.serialized_entrypoint
    assert not kept.launch.environment.env_vars
    assert not kept.launch.command
    assert kept.launch.submission_id == record.launch.submission_id


async def test_job_of_an_earlier_controller_is_read_from_the_database_only_once() -> None:
    database = Database()
    table = JobTable(database, num_ended=1)
    database.jobs["old"] = ended("old")
    assert await table.find("old") is database.jobs["old"]
    assert await table.find("old") is database.jobs["old"]
    assert database.reads == 1
    assert table.exists("old")


async def test_error_for_an_unknown_job_has_a_hint_if_its_id_is_the_id_of_a_task() -> None:
    database = Database()
    table = JobTable(database)
    database.jobs["old"] = ended("old")
    assert await table.get("none") is None
    with pytest.raises(NotFoundError, match=r"no job named 'none'$"):
        await table.find("none")
    with pytest.raises(NotFoundError, match="that is task 1 of job 'old'"):
        await table.find("old/task-1")
    with pytest.raises(NotFoundError, match="must not be empty"):
        await table.find("")


async def test_job_that_is_submitted_during_a_database_read_is_found() -> None:
    database = Database()
    table = JobTable(database)
    record = stored(new_job("new"))
    database.during_read = lambda: table.add(record)
    assert await table.get("new") is record


async def test_job_that_is_submitted_and_ends_during_a_database_read_is_found() -> None:
    database = Database()
    table = JobTable(database)
    record = ended("new")
    database.during_read = lambda: conclude(table, database, record)
    found = await table.get("new")
    assert found is not None
    assert found.job is record.job


async def test_job_that_ends_and_leaves_the_memory_during_a_database_read_is_found() -> None:
    database = Database()
    table = JobTable(database)
    record = ended("new")

    def end_many() -> None:
        if database.reads == 1:
            conclude(table, database, record)
            for number in range(300):
                conclude(table, database, ended(f"other-{number}"))

    database.during_read = end_many
    assert await table.get("new") is record
    assert database.reads == 2


async def test_ended_job_that_is_removed_during_its_read_is_not_kept_in_memory() -> None:
    database = Database()
    table = JobTable(database, num_ended=1)
    record = database.jobs["old"] = ended("old")

    def remove() -> None:
        del database.jobs["old"]
        table.forget(record)

    database.during_read = remove
    assert await table.get("old") is not None, "the job existed when the call began"
    database.during_read = lambda: None
    assert await table.get("old") is None
    assert not table.exists("old")
    assert table.count() == (0, 0)


async def test_removed_job_is_forgotten_and_its_id_can_be_used_again() -> None:
    database = Database()
    table = JobTable(database)
    first, second = ended("job"), stored(new_job("job"))
    conclude(table, database, first)
    del database.jobs["job"]
    table.forget(first)
    assert await table.get("job") is None
    table.add(second)
    assert await table.get("job") is second
    assert table.is_concluded(first)
    assert not table.is_concluded(second)


def test_ended_child_jobs_do_not_count_as_open_child_jobs_of_their_parent_job() -> None:
    database = Database()
    table = JobTable(database)
    first, second = stored(new_job("parent/a")), stored(new_job("parent/b"))
    table.add(first)
    table.add(second)
    assert table.open_children("parent") == [first, second]
    first.job.terminate("terminated by a user", 2000)
    assert table.open_children("parent") == [second]
    table.conclude(first)
    second.job.terminate("terminated by a user", 2000)
    table.conclude(second)
    assert table.parents_of_open_jobs() == []


def test_cache_of_recently_used_jobs_is_limited_in_number_and_in_size() -> None:
    recent = RecentJobs(max_jobs=3, max_bytes=10**9)
    for name in "abcd":
        recent.add(ended(name))
    assert [name for name in "abcd" if recent.get(name)] == ["b", "c", "d"]
    assert recent.dropped == 1
    recent.get("b")
    recent.add(ended("e"))
    assert [name for name in "bcde" if recent.get(name)] == ["b", "d", "e"], "the least recently used one is dropped"
    small = RecentJobs(max_jobs=100, max_bytes=1)
    small.add(ended("a"))
    assert small.get("a"), "one record is always kept"
    small.add(ended("b"))
    assert (small.get("a"), len(small)) == (None, 1)
    small.remove("b")
    small.remove("b")
    assert len(small) == 0


class NothingLaunched:
    """A stand-in for a saver that has no unsaved new jobs."""

    async def until_launched(self, job_id: str) -> None:
        pass


async def test_submission_with_the_name_of_a_job_that_is_being_removed_waits_for_the_end_of_the_removal() -> None:
    database = Database()
    table = JobTable(database)
    request = cluster_pb2.Controller.LaunchJobRequest(name="old")
    with table.being_removed(["old"]):  # The database does not have the job any more, and its logs are being removed.
        claiming = asyncio.create_task(claim_name(request, None, table, NothingLaunched()))  # type: ignore[arg-type]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not claiming.done()
        assert database.reads == 1, "the submission waits for the removal without reading the database again and again"
    assert await claiming is None
    assert request.name == "old"
