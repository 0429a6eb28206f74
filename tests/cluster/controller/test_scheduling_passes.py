"""What one pass of the scheduler does, with an engine and workers that exist only in memory, and a clock of the test.

No server, socket or process takes part, and nothing waits.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support.fake_engine import FakeEngine
from support.waiting import wait_until

from iris.cluster.controller.jobs.instructions import Instruction, ReleaseAllocation, RequestAllocation
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import FAILED, PENDING, UNSCHEDULABLE, AttemptEnd, WorkerIdentity
from iris.cluster.controller.scheduling.job_reports import JobLosses
from iris.cluster.controller.scheduling.scheduler import AllocationChange, Scheduler
from iris.cluster.controller.scheduling.waiting.reasons import Loss, LossKind, PendingReason
from iris.cluster.controller.workers.unavailability import MissingKind, MissingWorker
from iris.cluster.engine.base import Resources
from iris.errors import UnavailableError
from iris.reasons import PendingCode, Shortage
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

LAUNCH = cluster_pb2.Controller.LaunchJobRequest


@dataclass
class FakeWorkers:
    """Workers by id, each either registered or missing."""

    registered: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)

    def missing_worker(self, worker_id: str) -> MissingWorker | None:
        if worker_id in self.registered:
            return None
        if worker_id in self.refused:
            return MissingWorker(worker_id, MissingKind.REFUSED, self.refused[worker_id])
        return MissingWorker(worker_id, MissingKind.STARTING)

    def why_refused(self, worker_ids: Iterable[str]) -> str:
        return next((self.refused[worker_id] for worker_id in worker_ids if worker_id in self.refused), "")

    def identity_of(self, worker_id: str) -> WorkerIdentity:
        return WorkerIdentity(worker_id, f"http://{worker_id}", "1")

    def short(self) -> dict[str, Shortage]:
        return {}

    def mark_dead(self, worker_id: str, incarnation: str | None = None) -> None:
        self.dead.append(worker_id)


class World:
    """A scheduler, and jobs whose instructions are carried out at once, as if saving took no time."""

    def __init__(self) -> None:
        self.engine = FakeEngine({"a": Resources.of(cpu=4), "b": Resources.of(cpu=4)})
        self.workers = FakeWorkers({"a", "b"})
        self.now_s = 1000.0
        self.jobs: dict[str, JobRecord] = {}
        self.scheduler = Scheduler(
            self.engine,
            self.jobs,
            self.workers,
            self,
            self._in_background,
            start_limit_s=60.0,
            withdraw_after_s=20.0,
            clock=lambda: self.now_s,
        )

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        raise AssertionError("workers that serve many gangs do not drain")

    def job_changed(self, record: JobRecord, instructions: Iterable[Instruction] = ()) -> None:
        for instruction in instructions:
            match instruction:
                case RequestAllocation(gang_id, indices, not_before_ms):
                    self.scheduler.request_allocation(record, gang_id, indices, not_before_ms)
                case ReleaseAllocation(gang_id):
                    self.scheduler.release_allocation(gang_id)

    def reason_changed(self, record: JobRecord) -> None:
        """Do nothing, because this world saves nothing."""

    def submit(self, name: str, cpu: int, replicas: int = 1, *, independent: bool = False, **fields: Any) -> Job:
        job, instructions = self.add(name, cpu, replicas, independent=independent, **fields)
        self.job_changed(self.jobs[name], instructions)
        return job

    def add(
        self, name: str, cpu: int, replicas: int, *, independent: bool, **fields: Any
    ) -> tuple[Job, Iterable[Instruction]]:
        """Add a job, and return it with its first instructions, which are not carried out yet."""
        self.now_s += 1.0  # no two jobs are equally old
        launch = LAUNCH(name=name, resources=cluster_pb2.ResourceSpecProto(cpu=cpu, replicas=replicas), **fields)
        job = Job.new(name, replicas, now_ms(), coscheduled=not independent)
        record = JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in range(replicas)])
        self.jobs[name] = record
        self.scheduler.job_added(record)
        return job, job.submit()

    def allocation_changes(self, job: Job, instructions: Iterable[Instruction]) -> list[AllocationChange]:
        """Return the instructions that request and release allocations, with the record of their job."""
        chosen = [step for step in instructions if isinstance(step, RequestAllocation | ReleaseAllocation)]
        return [(self.jobs[job.job_id], step) for step in chosen]

    def make_pass(self, *, explain_all: bool = True) -> None:
        asyncio.run(self.scheduler.make_pass(explain_all=explain_all))

    async def outage(self) -> None:
        """Let the scheduler find the engine unreachable, and make the engine reachable again."""
        self.engine.reachable = False
        running = asyncio.create_task(self.scheduler.run())
        self.scheduler.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        self.engine.reachable = True

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.make_pass()

    def end(self, job: Job) -> None:
        for index, attempt in job.live_attempts().items():
            end = AttemptEnd(FAILED, now_ms(), error="exit code 1")
            self.job_changed(self.jobs[job.job_id], job.attempt_ended(index, attempt.attempt_id, end))


@pytest.fixture
def world() -> World:
    return World()


def reason(job: Job) -> PendingReason:
    (gang,) = job.gangs.values()
    assert gang.reason is not None
    return gang.reason


def workers(job: Job) -> list[str]:
    return [attempt.worker_id for attempt in job.live_attempts().values()]


def test_job_starts_at_once_although_its_submission_time_is_in_the_future(world: World) -> None:
    """The controller was restarted after the wall clock was set back by an hour. The job has not run yet, so it has no
    retry pause."""
    job = world.submit("job", 1)
    (gang_id,) = job.gangs
    world.scheduler.release_allocation(gang_id)
    world.scheduler.request_allocation(world.jobs["job"], "job@1", (0,), now_ms() + 3_600_000)
    world.make_pass()
    assert world.engine.submitted == ["job@1"]


def test_gang_that_fits_starts_in_the_pass_that_requests_it(world: World) -> None:
    job = world.submit("job", 2, replicas=3)
    world.make_pass()
    assert workers(job) == ["a", "b", "a"]
    assert world.engine.submitted == ["job@0"]
    assert {index: slot.machine for index, slot in world.scheduler.slots.of_job("job").items()} == {
        0: "a",
        1: "b",
        2: "a",
    }


def test_gang_that_does_not_fit_waits_and_a_smaller_gang_starts(world: World) -> None:
    world.submit("first", 3, replicas=2)
    large, small = world.submit("large", 4), world.submit("small", 1)
    world.make_pass()
    assert reason(large).code is PendingCode.INSUFFICIENT_FREE
    assert len(workers(small)) == 1


def test_independent_tasks_start_in_the_order_of_their_indices_although_the_wall_clock_advances(world: World) -> None:
    job, requests = world.add("job", 1, replicas=20, independent=True)
    for request in requests:
        moment_ms = now_ms()
        wait_until(lambda moment_ms=moment_ms: now_ms() > moment_ms, "the next millisecond")  # type: ignore[misc]
        world.job_changed(world.jobs["job"], [request])
    world.make_pass()
    assert list(job.live_attempts()) == list(range(8))
    assert world.engine.submitted == [f"job@{number}" for number in range(8)]


def test_ended_gang_frees_its_capacity_for_the_next_gang(world: World) -> None:
    first, second = world.submit("first", 4, replicas=2), world.submit("second", 4)
    world.make_pass()
    world.end(first)
    world.make_pass()
    assert world.engine.released == ["first@0"]
    assert workers(second) == ["a"]


def test_older_gang_gets_a_reservation_after_later_gangs_had_a_turn_of_30_seconds(world: World) -> None:
    world.submit("runs", 2)
    world.make_pass()
    large, later = world.submit("large", 4, replicas=2), None
    world.pass_time(1.0)
    world.pass_time(31.0)
    later = world.submit("later", 4)
    world.make_pass()
    assert reason(large).code is PendingCode.INSUFFICIENT_FREE
    assert reason(later).code is PendingCode.RESERVED


def calls_of_a_pass(world: World) -> int:
    """Return how many Python functions one pass calls."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        world.make_pass()
    finally:
        sys.setprofile(None)
    return calls


def test_finding_the_waiting_reason_of_2000_equal_gangs_costs_as_much_as_for_one_gang(world: World) -> None:
    world.submit("runs", 4, replicas=2)
    first = world.submit("one", 3)
    for _ in range(2):
        world.make_pass()
    one = calls_of_a_pass(world)
    many = world.submit("many", 3, replicas=2000, independent=True)
    for _ in range(2):
        world.make_pass()
    assert calls_of_a_pass(world) < 1.2 * one
    assert {gang.reason for gang in many.gangs.values()} == {reason(first)}


def test_new_gang_with_an_outdated_waiting_reason_gets_the_reason_of_similar_gangs_in_the_next_pass(
    world: World,
) -> None:
    world.submit("runs", 2, replicas=2)
    world.make_pass()
    old = world.submit("old", 3)
    world.make_pass()
    before = reason(old)
    world.engine.others_take("a", Resources.of(cpu=1))
    new = world.submit("new", 3)
    world.make_pass(explain_all=False)
    assert (reason(old), reason(new) == before) == (before, False)
    world.engine.others_take("a", Resources() - Resources.of(cpu=1))
    world.make_pass()
    assert reason(new) == reason(old) == before


def test_waiting_reason_contains_the_last_loss_of_the_job_until_one_of_its_tasks_starts(world: World) -> None:
    world.workers.registered.remove("b")
    job = world.submit("job", 4, replicas=4, independent=True)
    world.make_pass()
    (waiting,) = [gang for index, gang in enumerate(job.gangs.values()) if index == 3]
    assert waiting.reason is not None
    before = waiting.reason
    world.pass_time(60.0)
    world.make_pass()
    assert waiting.reason.earlier_loss is not None
    assert replace(waiting.reason, earlier_loss=None) == before
    world.workers.registered.add("b")
    world.make_pass()
    world.make_pass()
    assert (waiting.placed, waiting.reason) == (False, before)


def test_lost_allocations_of_an_ended_job_are_forgotten() -> None:
    losses = JobLosses()
    losses.add("job", Loss(LossKind.BROKEN))
    losses.forget_job("job")
    assert (losses.last("job"), losses.pop_changed()) == (None, [])


def test_gang_that_can_never_fit_ends_its_job(world: World) -> None:
    job = world.submit("huge", 5)
    world.make_pass()
    assert job.state == UNSCHEDULABLE
    assert "it can never be placed: needs 5 cpu" in job.error


def test_gang_that_can_never_fit_waits_if_the_engine_is_elastic(world: World) -> None:
    world.engine.elastic = True
    job = world.submit("huge", 5)
    world.make_pass()
    assert job.state == PENDING
    assert reason(job).code is PendingCode.INSUFFICIENT_CAPACITY


def test_waiting_reason_of_a_requested_gang_contains_the_reason_of_the_engine(world: World) -> None:
    world.engine.granting = False
    job = world.submit("job", 1)
    world.make_pass()
    assert reason(job).code is PendingCode.ENGINE_QUEUE
    world.engine.granting = True
    world.make_pass()
    assert len(workers(job)) == 1


def test_gang_waits_for_its_worker_and_starts_when_the_worker_registers(world: World) -> None:
    world.workers.registered.clear()
    job = world.submit("job", 1)
    world.make_pass()
    assert reason(job).code is PendingCode.WORKERS_STARTING
    world.workers.registered |= {"a", "b"}
    world.make_pass()
    assert workers(job) == ["a"]


def test_waiting_reason_of_a_gang_names_its_refused_worker(world: World) -> None:
    world.workers.registered.clear()
    world.workers.refused["b"] = "worker b was refused"
    job = world.submit("job", 1, replicas=2)
    world.make_pass()
    assert reason(job).code is PendingCode.WORKER_REFUSED


def test_allocation_without_registered_workers_is_released_and_requested_again(world: World) -> None:
    world.workers.registered.clear()
    job = world.submit("job", 1)
    world.make_pass()
    world.pass_time(59.0)
    assert list(job.gangs) == ["job@0"]
    world.pass_time(1.0)
    world.make_pass()
    assert list(job.gangs) == ["job@1"]
    assert world.engine.released == ["job@0"]
    loss = reason(job).earlier_loss
    assert loss is not None
    assert (loss.kind, loss.limit_s) == (LossKind.UNREGISTERED, 60.0)


def test_second_lost_allocation_in_a_row_delays_the_next_request(world: World) -> None:
    world.workers.registered.clear()
    job = world.submit("job", 1)
    for _ in range(2):
        world.make_pass()
        world.pass_time(60.0)
    assert reason(job).code is PendingCode.ALLOCATION_LOST
    assert world.engine.submitted == ["job@0", "job@1"]
    world.workers.registered |= {"a", "b"}
    world.pass_time(1.0)
    world.make_pass()
    assert workers(job) == ["a"]


def test_error_of_a_job_that_its_scheduling_timeout_has_ended_contains_the_waiting_reason(world: World) -> None:
    world.submit("first", 4, replicas=2)
    job = world.submit("job", 1, scheduling_timeout_seconds=10)
    world.make_pass()
    world.pass_time(9.0)
    assert job.state == PENDING
    world.pass_time(1.0)
    assert job.state == UNSCHEDULABLE
    assert job.error.startswith("not placed within its scheduling timeout of 10 s (waiting: needs 1 cpu; free now: ")


def test_scheduling_timeout_does_not_end_a_job_whose_other_tasks_run(world: World) -> None:
    job = world.submit("job", 4, replicas=3, independent=True, scheduling_timeout_seconds=10)
    world.make_pass()
    world.pass_time(10.0)
    world.pass_time(9.0)
    assert (len(job.live_attempts()), len(job.gangs)) == (2, 3)
    world.end(job)
    assert job.ending is not None or job.is_finished


def test_job_timeout_ends_a_job(world: World) -> None:
    job = world.submit("job", 1, job_timeout_seconds=30)
    world.make_pass()
    world.pass_time(29.0)
    assert job.ending is None
    world.pass_time(2.0)
    assert job.ending == FAILED


def test_waiting_reason_mentions_an_unreachable_engine_and_timeouts_still_expire(world: World) -> None:
    job = world.submit("job", 1, scheduling_timeout_seconds=10)
    world.engine.reachable = False
    with pytest.raises(UnavailableError):
        world.make_pass()
    with pytest.raises(UnavailableError):
        world.pass_time(10.0)
    assert job.state == UNSCHEDULABLE


def test_waiting_reasons_do_not_mention_the_engine_any_more_when_it_answers_again(world: World) -> None:
    world.submit("runs", 4, replicas=2)
    job = world.submit("job", 1)
    world.make_pass()
    before = reason(job)
    asyncio.run(world.outage())
    assert reason(job).code is PendingCode.ENGINE_UNREACHABLE
    world.make_pass()
    assert reason(job) == before


def test_lost_slot_ends_its_attempt_and_stops_calls_to_its_worker(world: World) -> None:
    job = world.submit("job", 2, replicas=2)
    world.make_pass()
    world.engine.lose("job@0", 1)
    world.make_pass()
    assert world.workers.dead == ["b"]
    assert job.tasks[1].attempts[0].is_worker_failure
    assert job.tasks[0].live_attempt is not None


def test_gang_that_the_engine_forgets_loses_all_its_attempts(world: World) -> None:
    job = world.submit("job", 2, replicas=2)
    world.make_pass()
    world.engine.forget("job@0")
    world.make_pass()
    assert all(task.attempts[0].is_worker_failure for task in job.tasks)


def test_request_that_blocks_an_older_gang_is_withdrawn_after_a_time_limit(world: World) -> None:
    world.submit("runs", 2, replicas=2)
    world.make_pass()
    large = world.submit("large", 4, replicas=2)
    world.make_pass()
    world.engine.granting = False
    small = world.submit("small", 2)
    world.make_pass()
    world.engine.others_take("a", Resources.of(cpu=2))
    world.engine.others_take("b", Resources.of(cpu=2))
    world.pass_time(31.0)
    world.pass_time(19.0)
    assert list(small.gangs) == ["small@0"]
    world.pass_time(1.0)
    assert list(small.gangs) == ["small@1"]
    world.make_pass()
    assert "small@0" in world.engine.released
    assert reason(large).code is PendingCode.INSUFFICIENT_FREE


def test_gang_that_is_adopted_after_a_restart_starts_without_a_second_request(world: World) -> None:
    job = world.submit("job", 1)
    world.workers.registered.clear()
    world.make_pass()
    again = World()
    again.engine, again.jobs = world.engine, world.jobs
    again.scheduler = Scheduler(
        again.engine,
        again.jobs,
        again.workers,
        again,
        again._in_background,
        start_limit_s=60.0,
        clock=lambda: again.now_s,
    )
    snapshot = asyncio.run(again.engine.snapshot())
    again.scheduler.adopt(snapshot)
    again.make_pass()
    assert workers(job) == ["a"]
    assert again.engine.submitted == ["job@0"]


def test_gang_of_an_ended_job_is_released_after_a_restart(world: World) -> None:
    world.submit("job", 1)
    world.make_pass()
    again = World()
    again.engine = world.engine
    again.scheduler = Scheduler(
        again.engine,
        again.jobs,
        again.workers,
        again,
        again._in_background,
        start_limit_s=60.0,
        clock=lambda: again.now_s,
    )
    again.scheduler.adopt(asyncio.run(again.engine.snapshot()))
    again.make_pass()
    assert again.engine.released == ["job@0"]


def test_requests_and_releases_of_many_gangs_let_scheduling_passes_run_in_between(world: World) -> None:
    job, requests = world.add("job", 1, replicas=1000, independent=True)

    async def change(instructions: Iterable[Instruction]) -> list[int]:
        """Change the allocations of the job's gangs, and return the numbers of gangs in the queue between the steps."""
        queued: list[int] = []
        changing = asyncio.create_task(world.scheduler.change_allocations(world.allocation_changes(job, instructions)))
        while not changing.done():
            await asyncio.sleep(0)
            await world.scheduler.make_pass(explain_all=False)
            queued.append(len((await world.scheduler.survey()).waiting))
        return queued

    queued = asyncio.run(change(requests))
    assert queued == [*range(92, 992, 100), 992]
    assert list(job.live_attempts()) == list(range(8))
    assert world.engine.submitted == [f"job@{number}" for number in range(8)]
    assert asyncio.run(change(job.terminate("no need", now_ms())))[-1] == 0
