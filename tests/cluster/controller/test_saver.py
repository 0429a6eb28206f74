"""The saver: what waits for a write, which changes share one, and what happens when a write fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from support.stored_jobs import new_job, stored

from iris.cluster.controller.events.event_rows import read_newest
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.jobs.instructions import Instruction, ReleaseAllocation, StopAttempt
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
    """A store whose writes wait until the test lets them through. They fail while `failure` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Semaphore(0)
        self.writes: list[int] = []  # the number of statements of each write
        self.failure: IrisError | None = None

    def write(self, changes: Changes) -> None:
        assert self.gate.acquire(timeout=30)
        self.writes.append(len(changes.statements))
        if self.failure is not None:
            raise self.failure
        super().write(changes)


class Book:
    """A saver, and a record of everything that it handed out."""

    def __init__(self, path: Path, *, with_events: bool = False) -> None:
        self.disk = SlowDisk(path)
        self.journal = EventJournal(self.disk)
        self.launched: list[str] = []
        self.refused: list[str] = []
        self.followed: list[tuple[str, Sequence[Instruction]]] = []
        self.announced: list[str] = []
        self.has_news = asyncio.Event()
        self.currents: list[bool] = []
        self.saver = Saver(self.disk, self.journal if with_events else None)
        self.running = asyncio.create_task(self._carry_out())

    async def _carry_out(self) -> None:
        async for batch in self.saver.batches():
            self.launched += [change.record.job_id for change in batch.added]
            self.refused += [record.job_id for record in batch.refused]
            self.followed += [(change.record.job_id, list(change.instructions)) for change in batch.changes]
            self.announced += [change.record.job_id for change in batch.changes if change.has_news]
            if self.announced:
                self.has_news.set()
            self.currents += [self.saver.is_current(change.record) for change in batch.changes]

    async def launch(self, name: str) -> JobRecord:
        record = new_record(name)
        self.let_through()
        await self.saver.add_job(record, b"")
        return record

    def let_through(self, writes: int = 1) -> None:
        self.disk.gate.release(writes)

    def change(self, record: JobRecord, *steps: Instruction, results: Sequence[tuple[int, bytes]] = ()) -> None:
        """Change a job and report the change, as the controller does with an event."""
        record.job.revision += 1
        record.job.error = f"change {record.job.revision}"
        self.saver.job_changed(record, steps, results)

    async def close(self) -> None:
        self.running.cancel()
        self.let_through(100)
        await self.saver.close()
        self.disk.close()

    async def until_writing(self) -> None:
        """Wait until a write has begun, so that further changes belong to the next one."""
        for _ in range(3):
            await asyncio.sleep(0)

    def kept(self) -> dict[str, str]:
        """Return the error of each job on the disk, by job id."""
        return {one.job.job_id: one.job.error for one in self.disk.load()}


def new_record(name: str) -> JobRecord:
    return stored(new_job(name))


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    made = Book(tmp_path / "controller.db")
    yield made
    await made.close()


STOP = StopAttempt(0, 0, "w")
RELEASE = ReleaseAllocation("job@0")


async def test_instructions_and_changes_of_a_job_are_reported_only_after_the_write(book: Book) -> None:
    record = await book.launch("job")
    book.change(record, RELEASE)
    saved = asyncio.create_task(book.saver.saved())
    await book.until_writing()
    assert not saved.done()
    assert not book.followed
    book.let_through()
    await saved
    assert book.followed == [("job", [RELEASE])]
    assert book.announced == ["job"]
    assert book.currents == [True]
    assert book.kept() == {"job": record.job.error}


async def test_changes_during_a_write_share_the_next_write(book: Book) -> None:
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


async def test_job_that_changes_during_its_write_is_written_again(book: Book) -> None:
    record = await book.launch("job")
    book.change(record, STOP)
    first = asyncio.create_task(book.saver.saved())
    await book.until_writing()
    book.change(record, RELEASE)
    book.let_through()
    await first
    assert book.currents == [False]
    assert book.followed == [("job", [STOP])], "the instructions of the second change wait for its write"
    book.let_through()
    await book.saver.saved()
    assert book.followed == [("job", [STOP]), ("job", [RELEASE])]
    assert book.currents == [False, True]
    assert book.kept() == {"job": record.job.error}


async def test_method_settled_of_the_saver_waits_only_for_changes_made_before_the_call(book: Book) -> None:
    await asyncio.wait_for(book.saver.settled(), 10)  # nothing has changed
    record = await book.launch("job")
    await asyncio.wait_for(book.saver.settled(), 10)
    book.change(record)
    reader = asyncio.create_task(book.saver.settled())
    await book.until_writing()
    assert not reader.done()
    book.let_through()
    await reader


async def test_saver_is_saving_until_the_changes_are_saved(book: Book) -> None:
    record = await book.launch("a")
    assert not book.saver.is_saving()
    book.change(record)
    assert book.saver.is_saving()
    saved = asyncio.create_task(book.saver.saved())
    await book.until_writing()
    assert book.saver.is_saving()
    book.let_through()
    await saved
    assert not book.saver.is_saving()


async def test_saver_is_not_saving_while_it_waits_after_a_failed_write(book: Book) -> None:
    record = await book.launch("a")
    book.disk.failure = ResourceExhaustedError("the disk is full")
    book.change(record)
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await book.saver.saved()
    assert not book.saver.is_saving()
    book.disk.failure = None
    book.let_through()


async def test_failed_write_raises_for_callers_and_is_tried_again(book: Book) -> None:
    record = await book.launch("job")
    book.disk.failure = ResourceExhaustedError("no space left")
    book.change(record, STOP, RELEASE, results=[(0, b"result")])
    book.let_through()
    with pytest.raises(ResourceExhaustedError, match="no space left"):
        await book.saver.saved()
    assert book.followed == [("job", [STOP])], "a stop loses nothing, and may free disk space"
    assert not book.announced
    assert await asyncio.wait_for(book.saver.settled(), 10), "readers see the last saved state"
    shown = book.saver.shown(record)
    assert (shown.job.revision, shown.why_outdated) == (record.job.revision - 1, "no space left")
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await book.saver.saved()  # the changes are still pending although nothing new has come
    book.disk.failure = None
    book.let_through()  # the saver tries again by itself
    await asyncio.wait_for(book.has_news.wait(), 30)
    assert book.followed[-1] == ("job", [RELEASE])
    assert book.kept() == {"job": record.job.error}
    assert book.disk.result(next(book.disk.load()).number, 0) == b"result"
    assert book.saver.shown(record) is record


async def test_new_job_that_does_not_fit_on_the_disk_is_refused_and_other_changes_are_saved(book: Book) -> None:
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
    assert not change.done(), "the change is tried at once without the new job"
    book.disk.failure = None
    book.let_through()
    await change
    assert book.followed == [("job", [RELEASE])]
    assert book.launched == ["job"]
    assert set(book.kept()) == {"job"}
    await book.launch("large")  # the name is free again
    assert set(book.kept()) == {"job", "large"}


async def test_method_settled_of_the_saver_returns_after_the_only_new_job_was_refused(book: Book) -> None:
    book.disk.failure = ResourceExhaustedError("no space left")
    launch = asyncio.create_task(book.saver.add_job(new_record("large"), b"x"))
    await book.until_writing()
    reader = asyncio.create_task(book.saver.settled())
    await book.until_writing()
    assert not reader.done()
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await launch
    async with asyncio.timeout(30):
        await reader


async def test_event_in_the_same_batch_as_a_refused_new_job_is_stored(tmp_path: Path) -> None:
    book = Book(tmp_path / "controller.db", with_events=True)
    book.disk.failure = ResourceExhaustedError("no space left")
    is_stored = book.journal.next_events()

    async def launch_with_event() -> None:  # within one turn of the loop: in one batch
        book.saver.add_event(cluster_pb2.Controller.Event(name="worker.lost"))
        await book.saver.add_job(new_record("large"), b"x")

    launch = asyncio.create_task(launch_with_event())
    await book.until_writing()
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await launch
    book.disk.failure = None
    book.let_through()
    async with asyncio.timeout(30):
        await is_stored.wait()
    assert [event.name for event in book.journal.recent_after(0)] == ["worker.lost"]
    await book.close()


async def test_events_are_all_stored_if_the_saver_stops_during_a_write(tmp_path: Path) -> None:
    book = Book(tmp_path / "controller.db", with_events=True)
    book.saver.add_event(cluster_pb2.Controller.Event(name="worker.registered"))
    await book.until_writing()
    book.running.cancel()
    await asyncio.wait([book.running])
    book.saver.add_event(cluster_pb2.Controller.Event(name="worker.lost"))
    book.let_through(2)
    await book.saver.close()
    assert [event.name for event in book.journal.recent_after(0)] == ["worker.registered", "worker.lost"]
    book.disk.close()
    again = Store(tmp_path / "controller.db")
    assert [event.number for event in again.read(lambda db: read_newest(db, 10))] == [1, 2]
    again.close()


async def test_new_job_is_saved_although_its_caller_was_cancelled(book: Book) -> None:
    launch = asyncio.create_task(book.saver.add_job(new_record("job"), b""))
    await book.until_writing()
    launch.cancel()
    await asyncio.wait([launch])
    book.let_through()
    await book.saver.until_launched("job")
    assert book.launched == ["job"]
    assert set(book.kept()) == {"job"}


async def test_change_that_cannot_be_serialised_is_an_internal_error_and_saving_continues(book: Book) -> None:
    record = await book.launch("job")
    book.change(record)
    record.job.error = b"no text"  # type: ignore[assignment]  # a bug
    with pytest.raises(InternalError, match="cannot save: TypeError"):
        await book.saver.saved()
    book.change(record, RELEASE)
    book.let_through()
    await book.saver.saved()
    assert book.followed[-1] == ("job", [RELEASE])


async def test_new_job_whose_caller_was_cancelled_is_refused_after_a_failed_write(book: Book) -> None:
    book.disk.failure = ResourceExhaustedError("no space left")
    launch = asyncio.create_task(book.saver.add_job(new_record("job"), b""))
    await book.until_writing()
    launch.cancel()
    await asyncio.wait([launch])
    book.let_through()
    await book.saver.until_launched("job")
    assert (book.launched, book.refused) == ([], ["job"])


async def test_stop_of_an_attempt_for_a_gang_restart_waits_until_the_restart_is_saved(book: Book) -> None:
    record = await book.launch("job")
    record.job.tasks[0].stop = Stop.RESTART
    book.disk.failure = ResourceExhaustedError("no space left")
    book.change(record, STOP)
    book.let_through()
    with pytest.raises(ResourceExhaustedError):
        await book.saver.saved()
    assert book.followed == [("job", [])]
    book.disk.failure = None
    book.let_through()
    await book.saver.saved()
    assert book.followed[-1] == ("job", [STOP])


async def test_close_of_the_saver_writes_the_remaining_changes(tmp_path: Path) -> None:
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


async def test_endpoint_that_is_removed_before_its_write_is_not_stored(book: Book) -> None:
    book.saver.endpoint_changed("e", cluster_pb2.Controller.Endpoint(endpoint_id="e", name="n", address="a"))
    book.saver.endpoint_changed("e", None)
    book.let_through()
    await book.saver.saved()
    assert book.disk.load_endpoints() == []


async def test_changed_waiting_reason_is_announced_without_a_write(book: Book) -> None:
    record = await book.launch("job")
    writes = len(book.disk.writes)
    assert record.job.explain_waiting(next(iter(record.job.gangs)), "no free machine")
    book.saver.reason_changed(record)
    book.saver.job_changed(record)
    await book.saver.saved()
    assert book.announced == ["job"]
    assert len(book.disk.writes) == writes


async def test_unsaved_change_is_saved_although_the_waiting_reason_changes_meanwhile(book: Book) -> None:
    record = await book.launch("job")
    book.change(record)
    assert record.job.explain_waiting(next(iter(record.job.gangs)), "no free machine")
    book.saver.reason_changed(record)
    book.let_through()
    await book.saver.saved()
    assert book.currents == [True]
    assert book.kept() == {"job": record.job.error}
