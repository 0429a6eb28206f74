"""The journal of events: numbers, failed writes, removal of old events, cursors, and the events of a job's states."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from support.stored_jobs import new_job

from iris.cluster import controller
from iris.cluster.controller.events.event_rows import Event, EventFilter
from iris.cluster.controller.events.event_streams import (
    EventPages,
    EventStreams,
    WatchEventsRequest,
    WatchEventsResponse,
)
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.events.logged_events import LoggedEvents, event_of
from iris.cluster.controller.events.state_events import state_events
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import FAILED, WORKER_FAILED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.store import Changes, Store
from iris.errors import InvalidArgumentError
from iris.event_kinds import EVENT_KINDS, check_kinds
from iris.event_log.events import EventRecord
from iris.reasons import FailureCode

pytestmark = pytest.mark.anyio
MAX_UNSAVED = 600
WORKER = WorkerIdentity("w", "http://w", "i")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A database, and a journal whose transactions succeed or fail as a test decides."""

    def __init__(self, path: Path, kept: int = 100_000) -> None:
        self.store = Store(path)
        self.threads = StoredJobs(self.store)
        self.journal = EventJournal(self.store, kept, max_unsaved=MAX_UNSAVED)
        self.pages = EventPages(self.journal, self.store, self.threads)
        self.streams = EventStreams(self.journal, self.pages)

    def add(self, count: int, name: str = "worker.registered") -> None:
        for _ in range(count):
            self.journal.add(Event(name=name, level="info"))

    async def write(self, *changed: Job, is_saved: bool = True) -> None:
        changes = Changes()
        await self.journal.begin_write(changes, [], changed)
        if is_saved:
            self.store.write(changes)
        self.journal.end_write(is_saved=is_saved)

    async def read(self, **request: object) -> list[Event]:
        stream = self.streams.messages(WatchEventsRequest(**request), is_admin=True)  # type: ignore[arg-type]
        return [event async for message in stream for event in message.events]

    def close(self) -> None:
        self.threads.close()
        self.store.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "controller.db", kept=1000)
    yield made
    made.close()


async def test_event_numbers_continue_after_a_failed_write_and_after_a_restart(world: World, tmp_path: Path) -> None:
    world.add(2)
    await world.write(is_saved=False)
    assert (await world.read(), world.journal.last_number) == ([], 0)
    world.add(1, "worker.lost")
    await world.write()
    events = await world.read()
    assert [(event.number, event.name) for event in events] == [
        (1, "worker.registered"),
        (2, "worker.registered"),
        (3, "worker.lost"),
    ]
    world.store.close()
    world.store = Store(tmp_path / "controller.db")
    again = EventJournal(world.store)
    assert (again.journal_id, again.last_number, again.cursor(3)) == (world.journal.journal_id, 3, events[2].cursor)


async def test_events_that_cannot_be_stored_for_too_long_are_dropped_and_counted(tmp_path: Path) -> None:
    with closing(World(tmp_path / "controller.db")) as world:
        world.add(10)
        await world.write(is_saved=False)
        world.add(MAX_UNSAVED - 3)
        await world.write()
        events = await world.read()
        assert (events[0].name, events[0].fields["count"]) == ("events.dropped", "7")
        assert len(events) == MAX_UNSAVED + 1


async def test_more_events_than_the_limit_are_stored_if_the_first_write_succeeds(world: World) -> None:
    job = Job.new("large", MAX_UNSAVED, now_ms=1)
    job.submit()
    job.terminate("terminated by a user", 5)
    await world.write(job)
    assert [event.name for event in await world.read()] == ["task.killed"] * MAX_UNSAVED + ["job.killed"]


async def test_large_transaction_leaves_the_loop_time_for_other_work_and_for_later_events(world: World) -> None:
    turns, tasks = 0, 900

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            if turns == 2:
                world.add(1, "worker.lost")
            await asyncio.sleep(0)

    job = Job.new("large", tasks, now_ms=1)
    job.submit()
    job.terminate("terminated by a user", 5)
    world.add(1)
    other = asyncio.create_task(count_turns())
    await world.write(job)
    other.cancel()
    assert turns >= tasks // 200
    await world.write()
    names = [event.name for event in await world.read()]
    assert names == ["worker.registered", *["task.killed"] * tasks, "job.killed", "worker.lost"]


async def test_client_whose_next_event_was_removed_gets_a_gap_and_all_later_events(world: World) -> None:
    world.add(10)
    await world.write()
    cursor = (await world.read())[4].cursor
    for _ in range(4):
        world.add(500)
        await world.write()
    gap, *events = await world.read(cursor=cursor, kinds=["job.failed", "worker.registered"])
    first = int(gap.fields["last"]) + 1
    assert (gap.name, gap.fields["first"]) == ("events.gap", "6")
    assert [event.number for event in events] == list(range(first, 2011))
    assert 1000 <= len(events) < 1500
    # A client without a place misses nothing. The gap comes whatever kinds the client has chosen.
    assert [event.number for event in await world.read()] == list(range(first, 2011))
    assert [event.name for event in await world.read(cursor=cursor, kinds=["job.failed"])] == ["events.gap"]


async def test_events_after_a_cursor_of_another_journal_begin_with_a_gap(world: World) -> None:
    world.add(2)
    await world.write()
    for cursor in ("0a0b0c0d-1", world.journal.cursor(99)):
        gap, *events = await world.read(cursor=cursor)
        assert (gap.name, [event.number for event in events]) == ("events.gap", [1, 2])
    for invalid in ("x", "-5", "0a0b0c0d-", "0a0b0c0d-99999999999999999999", "a b-1"):
        with pytest.raises(InvalidArgumentError, match="cursor must be"):
            await world.read(cursor=invalid)


async def test_tail_of_events_returns_the_newest_events_that_meet_the_conditions(world: World) -> None:
    for name in ("worker.lost", "worker.registered", "worker.lost", "worker.registered"):
        world.add(1, name)
    await world.write()
    found = await world.read(kinds=["worker.lost"], tail=1)
    assert [event.number for event in found] == [3]
    assert len(await world.read(kinds=["worker.*"], tail=50)) == 4


async def test_follower_of_events_gets_new_events_and_cursors_after_filtered_out_events(world: World) -> None:
    world.add(1)
    await world.write()
    stream = world.streams.messages(WatchEventsRequest(follow=True, kinds=["worker.lost"]), is_admin=False)
    assert (await anext(stream)).cursor == world.journal.cursor(1)
    waiting = stream.__anext__()
    world.add(1, "worker.lost")
    await world.write()
    message = await waiting
    assert [event.number for event in message.events] == [2]
    await stream.aclose()


async def turns_of_the_loop() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_follower_of_rare_events_gets_cursors_while_other_events_are_frequent(world: World) -> None:
    now_s = 0.0
    streams = EventStreams(world.journal, world.pages, beat_s=1000, clock_s=lambda: now_s)
    stream = streams.messages(WatchEventsRequest(follow=True, kinds=["worker.lost"]), is_admin=False)
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    for now_s in (0.0, 999.0, 1000.0):  # noqa: B007 - The clock of the streams returns the variable.
        assert not waiting.done()
        await turns_of_the_loop()
        world.add(1)
        await world.write()
        await turns_of_the_loop()
    assert waiting.done()
    message = await waiting
    assert (message.cursor, len(message.events)) == (world.journal.cursor(3), 0)
    now_s = 2000.0
    assert await anext(stream) == WatchEventsResponse()
    await stream.aclose()


def test_session_events_are_for_admins_and_events_of_a_job_include_its_child_jobs() -> None:
    session, child = Event(name="session.opened"), Event(name="job.failed", job_id="a/b")
    assert [EventFilter(for_admin=admin).accepts(session) for admin in (True, False)] == [True, False]
    assert [EventFilter(job_id=job_id).accepts(child) for job_id in ("a", "a/b", "", "b", "a/")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def events_of(job: Job) -> list[tuple[str, str]]:
    return [(event.name, event.reason) for event in state_events(job, job.pop_transitions(), 1)]


def test_states_of_a_job_with_a_retry_become_events_with_reasons() -> None:
    job = Job.new("train", 1, now_ms=1, max_retries_failure=1)
    job.submit()
    for attempt in range(2):
        (gang,) = job.gangs.values()
        job.gang_placed(gang.gang_id, [WORKER], 2)
        job.attempt_running(0, attempt, 3)
        end = AttemptEnd(FAILED, 4, exit_code=3, error="exit code 3", failure=FailureCode.EXIT_CODE)
        job.attempt_ended(0, attempt, end, 4)
    assert events_of(job) == [
        ("task.placed", ""),
        ("job.building", ""),
        ("task.running", ""),
        ("job.running", ""),
        ("task.retried", "EXIT_CODE"),
        ("job.waiting", ""),
        ("task.placed", ""),
        ("job.building", ""),
        ("task.running", ""),
        ("job.running", ""),
        ("task.failed", "EXIT_CODE"),
        ("job.failed", "EXIT_CODE"),
    ]


def test_tasks_that_end_without_an_attempt_get_events_too() -> None:
    job = new_job("waits")
    job.terminate("terminated by a user", 5)
    assert [name for name, _ in events_of(job)] == ["task.killed"] * 3 + ["job.killed"]


def test_event_of_a_retry_after_a_lost_worker_has_the_reason_of_the_loss() -> None:
    job = Job.new("train", 1, now_ms=1)
    job.submit()
    (gang,) = job.gangs.values()
    job.gang_placed(gang.gang_id, [WORKER], 2)
    job.attempts_lost({0: 0}, "worker w was lost", 3, FailureCode.LEASE_EXPIRED)
    (event,) = [event for event in state_events(job, job.pop_transitions(), 1) if event.name == "task.retried"]
    assert (event.reason, event.worker_id, event.attempt_id) == ("LEASE_EXPIRED", "w", 0)
    assert event.HasField("attempt_id")
    assert event.fields["state"] == "WORKER_FAILED"
    assert job.tasks[0].attempts[0].state == WORKER_FAILED


def record(name: str, level: int = logging.INFO, **fields: object) -> EventRecord:
    made = EventRecord("iris.test", level, "", 0, name, (), None)
    made.fields = fields
    return made


def test_logged_events_of_known_kinds_and_problems_become_events() -> None:
    event = event_of(record("tunnel.used", user="ann", task_id="a/b/task-3", attempt_id=2, port="8080"))
    assert event is not None
    assert (event.job_id, event.task_index, event.attempt_id, event.owner) == ("a/b", 3, 2, "ann")
    assert dict(event.fields) == {"port": "8080"}
    for name in ("job.state", "attempt.state", "job.failed", "lease.granted"):
        assert event_of(record(name)) is None
    plain = logging.LogRecord("iris.test", logging.WARNING, "", 0, "%d workers", (2,), None)
    problem = event_of(plain)
    assert problem is not None
    assert (problem.name, problem.text) == ("server.warning", "2 workers")


def test_each_event_kind_that_the_controller_logs_becomes_an_event() -> None:
    logged: set[str] = set()
    for file in Path(controller.__file__).parent.rglob("*.py"):
        logged |= set(re.findall(r'log_event\(\s*_log,\s*"([a-z_]+\.[a-z_]+)"', file.read_text()))
    assert {"job.hang", "job.removed", "worker.lost"} <= logged
    # The event of a submission is stored together with the job instead.
    assert {kind for kind in logged & set(EVENT_KINDS) if event_of(record(kind)) is None} == {"job.submitted"}


def test_unknown_event_kind_is_refused_with_similar_kinds() -> None:
    assert check_kinds(["job.failed", "worker.*"]) == ("job.failed", "worker.*")
    for kind, advice in (
        ("job.fail", "'job.failed'"),
        ("jobs.*", "'job.*'"),
        ("", "or a group: contents.*"),
        ("job", "'job.*'"),
    ):
        with pytest.raises(InvalidArgumentError, match="among the kinds of events") as refused:
            check_kinds([kind])
        assert advice in str(refused.value)
    assert all("." in kind for kind in EVENT_KINDS)


def test_log_record_that_cannot_be_formatted_makes_no_event(capsys: pytest.CaptureFixture[str]) -> None:
    found: list[Event] = []

    async def log() -> None:
        handler = LoggedEvents(found.append)
        logger = logging.Logger("iris.test")
        logger.addHandler(handler)
        logger.warning("%d workers", "no number")
        logger.warning("%d workers", 2)
        await asyncio.to_thread(logger.warning, "from a thread")
        await asyncio.sleep(0)

    asyncio.run(log())
    assert [event.text for event in found] == ["2 workers", "from a thread"]
    assert "Logging error" in capsys.readouterr().err
