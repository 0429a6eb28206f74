"""Large answers are made in slices, of one moment, and between two slices everything else has its turn."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator

import pytest

from iris.cluster.controller.api.messages import AT_ONCE, job_with_tasks
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.rpc import cluster_pb2 as pb

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def steps(log: list[str], name: str, count: int) -> Generator[None, None, str]:
    try:
        for _ in range(count):
            log.append(name)
            yield
        return name
    finally:
        log.append(f"end of {name}")


async def test_event_loop_handles_events_after_each_slice_of_work_for_many_readers() -> None:
    log: list[str] = []
    slices = Slices(slice_s=0.0)  # each step is a slice
    done = asyncio.Event()

    async def turn() -> None:
        while not done.is_set():
            log.append("loop")
            await asyncio.sleep(0)

    others = asyncio.create_task(turn())
    works = [slices.run(steps(log, f"reader {number}", 5)) for number in range(20)]
    assert await asyncio.gather(*works) == [f"reader {number}" for number in range(20)]
    done.set()
    await others
    made = [entry for entry in log if not entry.startswith("end")]
    pairs = list(itertools.pairwise(made))
    assert sum(entry.startswith("reader") for entry in made) == 100
    assert not [pair for pair in pairs if "loop" not in pair], "two slices without a turn of the loop between them"


async def test_work_of_a_cancelled_reader_ends_and_the_work_of_the_next_reader_runs() -> None:
    log: list[str] = []
    slices = Slices(slice_s=0.0)
    endless = asyncio.create_task(slices.run(steps(log, "gone", 10**9)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert log.count("gone") > 3
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    assert log[-1] == "end of gone"
    assert await slices.run(steps(log, "next", 3)) == "next"


class World:
    """Work whose steps take half a second each, by the clock of the test. Each step is a slice."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now_s = 0.0
        self.is_urgent = False
        self.slices = Slices(0.0, lambda: self.is_urgent, clock=lambda: self.now_s, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.log.append("pause")
        self.now_s += seconds
        await asyncio.sleep(0)

    def work(self, name: str, count: int = 3, seconds: float = 0.0) -> Generator[None, None, str]:
        for number in range(count):
            self.now_s += seconds
            self.log.append(f"{name} {number}")
            yield
        return name


async def test_slices_of_a_reader_wait_for_the_end_of_urgent_work() -> None:
    world = World()
    world.is_urgent = True
    making = asyncio.create_task(world.slices.run(world.work("page")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert set(world.log) == {"pause"}
    world.is_urgent = False
    assert await making == "page"


async def test_slices_of_a_reader_continue_after_a_tenth_of_a_second_of_urgent_work() -> None:
    world = World()
    world.is_urgent = True
    assert await world.slices.run(world.work("page")) == "page"
    assert [entry for entry in world.log if entry != "pause"] == ["page 0", "page 1", "page 2"]
    assert world.log[-1] == "page 2", "no slice after the first one waits again"
    assert 0.1 <= world.now_s < 0.11


async def test_slice_does_not_begin_if_urgent_work_began_while_the_reader_waited_for_another_slice() -> None:
    world = World()
    making = [asyncio.create_task(world.slices.run(world.work(name))) for name in "ab"]
    await asyncio.sleep(0)
    assert world.log == ["a 0"]
    world.is_urgent = True
    for _ in range(20):
        await asyncio.sleep(0)
    assert set(world.log) == {"a 0", "pause"}
    world.is_urgent = False
    assert await asyncio.gather(*making) == ["a", "b"]


async def test_readers_that_wait_for_a_turn_wait_for_urgent_work_in_the_same_tenth_of_a_second() -> None:
    world = World()
    world.is_urgent = True
    await asyncio.gather(*(world.slices.run_for(name, world.work(name)) for name in "abcdefghijkl"))
    assert 0.1 <= world.now_s < 0.11


async def test_parts_of_one_answer_wait_for_urgent_work_in_the_same_tenth_of_a_second() -> None:
    world = World()
    world.is_urgent = True
    async with world.slices.lane.turn("reader"):
        for name in "abc":
            await world.slices.run(world.work(name))
    assert 0.1 <= world.now_s < 0.11
    await world.slices.run(world.work("later"))
    assert world.now_s > 0.2


async def test_work_in_the_background_pauses_after_each_slice_and_one_piece_runs_at_a_time() -> None:
    world = World()
    background = world.slices.in_background()
    await asyncio.gather(background.run(world.work("a")), world.slices.in_background().run(world.work("b")))
    assert world.log == ["a 0", "pause", "a 1", "pause", "a 2", "pause", "b 0", "pause", "b 1", "pause", "b 2", "pause"]


async def test_work_in_the_background_continues_without_pauses_after_a_second() -> None:
    world = World()
    background = world.slices.in_background()
    world.is_urgent = True
    await background.run(world.work("a", count=4, seconds=0.25))
    assert [entry for entry in world.log if entry != "pause"] == ["a 0", "a 1", "a 2", "a 3"]
    assert world.log[0] == "pause"
    assert world.log[-4:] == ["a 0", "a 1", "a 2", "a 3"]
    assert background.busy_s == pytest.approx(1.0)


async def test_calls_of_one_piece_of_work_in_the_background_wait_for_urgent_work_in_the_same_second() -> None:
    world = World()
    background = world.slices.in_background()
    world.is_urgent = True
    for name in "abc":
        await background.run(world.work(name))
    assert 1.0 <= world.now_s < 1.1
    background.begin_work()
    await background.run(world.work("next"))
    assert world.now_s >= 2.0


def running_job(tasks: int) -> JobRecord:
    job = Job.new("job", tasks, 1, coscheduled=False)
    job.submit()
    for gang in list(job.gangs):
        job.gang_placed(gang, [WorkerIdentity("w", "http://w")])
    for index in range(tasks):
        job.attempt_running(index, 0, 5)
    return JobRecord(job, pb.Controller.LaunchJobRequest(), [pb.TaskStatus() for _ in job.tasks])


@pytest.mark.parametrize("tasks", [AT_ONCE, AT_ONCE + 1, 10 * AT_ONCE])
def test_message_of_a_job_that_changes_while_the_message_is_made_shows_the_newest_state(tasks: int) -> None:
    record = running_job(tasks)
    to_end = list(range(tasks))
    making = job_with_tasks(record)
    try:
        while True:
            next(making)
            for index in to_end[:3]:  # faster than its tasks are looked at
                record.job.attempt_ended(index, 0, AttemptEnd(SUCCEEDED, 9, exit_code=0), 9)
            del to_end[:3]
    except StopIteration as made:
        job: pb.JobStatus = made.value
    assert [task.task_index for task in job.tasks] == list(range(tasks))
    assert [task.state for task in job.tasks] == [task.state for task in record.job.tasks]
    assert job.state == record.job.state
    assert job.tasks_succeeded == sum(task.state == SUCCEEDED for task in job.tasks)
