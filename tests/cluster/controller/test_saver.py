"""Many changes with one fsync: what waits for what, and what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from support.stored_jobs import new_job, stored

from iris.cluster.controller.jobs.job import Instruction, ReleaseRoom, StopAttempt
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import Stop
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import InternalError, IrisError, ResourceExhaustedError
from iris.rpc import cluster_pb2

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SlowDisk(Store):
    """A store whose writes wait until the test lets them through, and fail while it says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Semaphore(0)
        self.writes: list[int] = []  # how many statements each had
        self.failure: IrisError | None = None

    def write(self, changes: Changes) -> None:
        assert self.gate.acquire(timeout=30)
        self.writes.append(len(changes.statements))
        if self.failure is not None:
            raise self.failure
        super().write(changes)


class Book:
    """A saver, and what came of what it was given."""

    def __init__(self, path: Path) -> None:
        self.disk = SlowDisk(path)
        self.launched: list[str] = []
        self.refused: list[str] = []
        self.followed: list[tuple[str, Sequence[Instruction]]] = []
        self.saver = Saver(
            self.disk,
            lambda record: self.launched.append(record.job.job_id),
            lambda record: self.refused.append(record.job.job_id),
            lambda record, steps: self.followed.append((record.job.job_id, list(steps))),
        )
        self.running = asyncio.create_task(self.saver.run())

    async def launch(self, name: str) -> JobRecord:
        record = new_record(name)
        self.let_through()
        await self.saver.add_job(record, b"")
        return record

    def let_through(self, writes: int = 1) -> None:
        self.disk.gate.release(writes)

    def change(self, record: JobRecord, *steps: Instruction) -> None:
        """What a controller does with an event."""
        record.job.revision += 1
        record.job.error = f"change {record.job.revision}"
        record.to_do += steps
        self.saver.job_changed(record)

    async def until_writing(self) -> None:
        """Until the write that has begun waits for the disk, and what comes now is for the next."""
        for _ in range(3):
            await asyncio.sleep(0)

    def kept(self) -> dict[str, str]:
        """The jobs on the disk, and their errors."""
        return {one.job.job_id: one.job.error for one in self.disk.load()}


def new_record(name: str) -> JobRecord:
    one = stored(new_job(name))
    return JobRecord(one.job, one.launch, one.facts)


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    made = Book(tmp_path / "controller.db")
    yield made
    made.running.cancel()
    made.let_through(100)
    await made.saver.close()
    made.disk.close()


STOP = StopAttempt(0, 0, "w")
RELEASE = ReleaseRoom("job@0")


async def test_nothing_follows_before_it_is_kept(book: Book) -> None:
    record = await book.launch("job")
    changed = record.changed
    book.change(record, RELEASE)
    saved = asyncio.create_task(book.saver.saved())
    await book.until_writing()
    assert not saved.done()
    assert not book.followed
    assert not changed.is_set()
    book.let_through()
    await saved
    assert book.followed == [("job", [RELEASE])]
    assert changed.is_set()
    assert record.saved_revision == record.job.revision
    assert book.kept() == {"job": record.job.error}


async def test_what_comes_while_one_write_is_under_way_shares_the_next(book: Book) -> None:
    records = [await book.launch(f"job-{number}") for number in range(50)]
    before = len(book.disk.writes)
    book.change(records[0])
    first = asyncio.create_task(book.saver.saved())
    await book.until_writing()
    waiting = []
    for record in records:
        book.change(record)
        waiting.append(asyncio.create_task(book.saver.saved()))
    launched = [asyncio.create_task(book.saver.add_job(new_record(f"new-{number}"), b"")) for number in range(20)]
    await book.until_writing()
    book.let_through()
    await first
    assert not any(task.done() for task in [*waiting, *launched])
    book.let_through()
    await asyncio.gather(*waiting, *launched)
    assert len(book.disk.writes) - before == 2
    assert len(book.kept()) == 70


async def test_what_changes_while_it_is_written_is_written_again(book: Book) -> None:
    record = await book.launch("job")
    book.change(record, STOP)
    first = asyncio.create_task(book.saver.saved())
    await book.until_writing()
    book.change(record, RELEASE)
    book.let_through()
    await first
    assert record.saved_revision == record.job.revision - 1
    assert book.followed == [("job", [STOP])], "what follows from the second change waits for it"
    book.let_through()
    await book.saver.saved()
    assert book.followed == [("job", [STOP]), ("job", [RELEASE])]
    assert book.kept() == {"job": record.job.error}


async def test_readers_wait_for_what_they_have_seen_and_for_nothing_else(book: Book) -> None:
    await asyncio.wait_for(book.saver.settled(), 10)  # nothing has changed
    record = await book.launch("job")
    await asyncio.wait_for(book.saver.settled(), 10)
    book.change(record)
    reader = asyncio.create_task(book.saver.settled())
    await book.until_writing()
    assert not reader.done()
    book.let_through()
    await reader


async def test_a_full_disk(book: Book) -> None:
    record = await book.launch("job")
    book.disk.failure = ResourceExhaustedError("no space left")
    changed = record.changed
    book.change(record, STOP, RELEASE)
    record.unsaved_results = [(0, b"result")]
    book.let_through()
    with pytest.raises(ResourceExhaustedError, match="no space left"):
        await book.saver.saved()
    assert book.followed == [("job", [STOP])], "a stop loses nothing, and may make room"
    assert not changed.is_set()
    assert await asyncio.wait_for(book.saver.settled(), 10), "readers are not kept waiting, and see what was saved last"
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await book.saver.saved()  # nor is it forgotten when nothing new has come
    book.disk.failure = None
    book.let_through()  # tried again by itself
    await asyncio.wait_for(changed.wait(), 30)
    assert book.followed[-1] == ("job", [RELEASE])
    assert book.kept() == {"job": record.job.error}
    assert book.disk.result("job", 0) == b"result"
    assert record.unsaved_results == []


async def test_a_job_that_does_not_fit_is_given_up_and_takes_nobody_along(book: Book) -> None:
    record = await book.launch("job")
    book.disk.failure = ResourceExhaustedError("no space left")

    async def change_and_launch() -> None:  # within one turn of the loop: in one batch
        book.change(record, RELEASE)
        await book.saver.add_job(new_record("large"), b"x")

    launch = asyncio.create_task(change_and_launch())
    await asyncio.sleep(0)
    change = asyncio.create_task(book.saver.saved())
    await book.until_writing()
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await launch
    assert not change.done(), "it is tried at once without the new job"
    book.disk.failure = None
    book.let_through()
    await change
    assert book.followed == [("job", [RELEASE])]
    assert book.launched == ["job"]
    assert set(book.kept()) == {"job"}
    await book.launch("large")  # its name is free
    assert set(book.kept()) == {"job", "large"}


async def test_who_looks_while_a_job_is_given_up_is_answered(book: Book) -> None:
    book.disk.failure = ResourceExhaustedError("no space left")
    launch = asyncio.create_task(book.saver.add_job(new_record("large"), b"x"))
    await book.until_writing()
    reader = asyncio.create_task(book.saver.settled())
    await book.until_writing()
    assert not reader.done()
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await launch
    async with asyncio.timeout(30):  # it would hear of it with somebody else's next change, whenever that is
        await reader


async def test_who_stops_waiting_changes_nothing(book: Book) -> None:
    launch = asyncio.create_task(book.saver.add_job(new_record("job"), b""))
    await book.until_writing()
    launch.cancel()
    await asyncio.wait([launch])
    book.let_through()
    await book.saver.until_launched("job")
    assert book.launched == ["job"]
    assert set(book.kept()) == {"job"}


async def test_what_cannot_be_put_into_words_is_said_to_who_waits_and_ends_no_saving(book: Book) -> None:
    record = await book.launch("job")
    book.change(record)
    record.job.error = b"no text"  # type: ignore[assignment]  # a bug
    with pytest.raises(InternalError, match="cannot save: TypeError"):
        await book.saver.saved()
    book.change(record, RELEASE)
    book.let_through()
    await book.saver.saved()
    assert book.followed[-1] == ("job", [RELEASE])


async def test_a_job_is_given_up_also_when_nobody_waits_for_it_any_more(book: Book) -> None:
    book.disk.failure = ResourceExhaustedError("no space left")
    launch = asyncio.create_task(book.saver.add_job(new_record("job"), b""))
    await book.until_writing()
    launch.cancel()
    await asyncio.wait([launch])
    book.let_through()
    await book.saver.until_launched("job")
    assert (book.launched, book.refused) == ([], ["job"])


async def test_peers_are_not_stopped_for_a_restart_that_is_not_kept(book: Book) -> None:
    record = await book.launch("job")
    record.job.tasks[0].stop = Stop.RESTART
    book.disk.failure = ResourceExhaustedError("no space left")
    book.change(record, STOP)
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await book.saver.saved()
    assert record.to_do == [STOP]
    book.disk.failure = None
    book.let_through()
    await book.saver.saved()
    assert book.followed[-1] == ("job", [STOP])


async def test_what_is_left_at_the_end_is_written(tmp_path: Path) -> None:
    book = Book(tmp_path / "controller.db")
    record = await book.launch("job")
    book.running.cancel()
    await asyncio.wait([book.running])
    book.change(record)
    book.saver.endpoint_changed("e", cluster_pb2.Controller.Endpoint(endpoint_id="e", name="n", address="a"))
    book.saver.fence("w", "process")
    book.let_through()
    await book.saver.close()
    assert book.kept() == {"job": record.job.error}
    assert [endpoint.name for endpoint in book.disk.load_endpoints()] == ["n"]
    assert set(book.disk.load_fenced()) == {("w", "process")}
    book.disk.close()


async def test_an_endpoint_that_comes_and_goes_before_it_is_written(book: Book) -> None:
    book.saver.endpoint_changed("e", cluster_pb2.Controller.Endpoint(endpoint_id="e", name="n", address="a"))
    book.saver.endpoint_changed("e", None)
    book.let_through()
    await book.saver.saved()
    assert book.disk.load_endpoints() == []
