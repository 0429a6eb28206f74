"""Anything that can happen to a job, in any order, against the model of what it is promised.

The examples are the same each time; `IRIS_MODEL_EXAMPLES=5000 uv run pytest tests/cluster/controller/test_job_model.py`
tries others, and more of them, and makes a failure as short as it can, which takes minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.job_model import JobModel
from support.job_world import World

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import FAILED, KILLED, SUCCEEDED, WORKER_FAILED
from iris.cluster.controller.storage.store import Store

MORE = os.environ.get("IRIS_MODEL_EXAMPLES")
MOST_TASKS = 4
WORKERS = ["w0", "w1", "w2"]
one_of = st.sampled_from


def possible(collection: str) -> Callable[[Any], bool]:
    """Only while the world has some of these."""

    def check(machine: JobMachine) -> bool:
        found = getattr(machine.world, collection)
        return bool(found() if callable(found) else found)

    return check


class JobMachine(RuleBasedStateMachine):
    """Draws what happens next; see `World` for each event."""

    @initialize(
        replicas=st.integers(1, MOST_TASKS),
        coscheduled=st.booleans(),
        tolerated=one_of([0, 0, 1, 2]),
        retries=one_of([0, 1, 2, 9]),
        preemptions=one_of([0, 1, 3, 100]),
        pause_ms=one_of([0, 1000, 60_000]),
        rendezvous=st.booleans(),
        retry_on=one_of([[], [], [75], [75, 1]]),
        fail_on=one_of([[], [], [2]]),
        max_parallel=one_of([0, 1, 2]),
        waits_for=one_of([{}, {}, {"a": "ok"}, {"a": "ok", "b": "any"}]),
    )
    def submit(
        self,
        replicas: int,
        coscheduled: bool,
        tolerated: int,
        retries: int,
        preemptions: int,
        pause_ms: int,
        rendezvous: bool,
        retry_on: list[int],
        fail_on: list[int],
        max_parallel: int,
        waits_for: dict[str, str],
    ) -> None:
        rendezvous = rendezvous and coscheduled and not tolerated  # others are refused
        job = Job.new(
            "parent/job",
            replicas,
            1000,
            coscheduled=coscheduled,
            max_task_failures=tolerated,
            max_retries_failure=retries,
            max_retries_preemption=preemptions,
            retry_pause_ms=pause_ms,
            rendezvous=rendezvous,
            max_parallel=0 if coscheduled else max_parallel,
        )
        job.retry_on, job.fail_on = retry_on, fail_on
        model = JobModel(
            replicas,
            coscheduled=coscheduled,
            tolerated=tolerated,
            retries=retries,
            preemptions=preemptions,
            pause_ms=pause_ms,
            rendezvous=rendezvous,
            retry_on=retry_on,
            fail_on=fail_on,
            waits_for=waits_for,
        )
        self.world = World(job, model, Store(None))
        self.sound = True
        self._do(self.world.begin, waits_for)

    def _do(self, event: Callable[..., None], *arguments: Any, **named: Any) -> None:
        self.sound = False
        self.world.now_ms += 7
        event(*arguments, **named)
        self.sound = True

    @rule(ms=one_of([1000, 70_000, 700_000]))
    def time_passes(self, ms: int) -> None:
        self.world.now_ms += ms

    @rule(job_id=one_of(["a", "b", "other"]), state=one_of([SUCCEEDED, SUCCEEDED, FAILED, KILLED, None]))
    def end_dependency(self, job_id: str, state: int | None) -> None:
        self._do(self.world.end_dependency, job_id, state)

    @precondition(possible("placeable"))
    @rule(data=st.data(), workers=st.lists(one_of(WORKERS), min_size=MOST_TASKS, max_size=MOST_TASKS))
    def place(self, data: st.DataObject, workers: list[str]) -> None:
        self._do(self.world.place, data.draw(one_of(self.world.placeable())), workers)

    @precondition(possible("waiting"))
    @rule(data=st.data(), what=one_of(["lose_room", "explain"]))
    def meet_a_gang_that_waits(self, data: st.DataObject, what: str) -> None:
        self._do(getattr(self.world, what), data.draw(one_of(sorted(self.world.waiting))))

    @precondition(possible("starts"))
    @rule(data=st.data())
    def deliver_start(self, data: st.DataObject) -> None:
        self._do(self.world.deliver_start, data.draw(one_of(self.world.starts)))

    @precondition(possible("stoppable"))
    @rule(data=st.data())
    def deliver_stop(self, data: st.DataObject) -> None:
        self._do(self.world.deliver_stop, data.draw(one_of(self.world.stoppable())))

    @precondition(lambda self: any(not attempt.runs for attempt in self.world.attempts.values()))
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        builds = [key for key, attempt in self.world.attempts.items() if not attempt.runs]
        self._do(self.world.run, data.draw(one_of(builds)))

    @precondition(possible("attempts"))
    @rule(data=st.data(), twice=st.booleans(), exit_code=one_of([1, 2, 75]))
    def finish(self, data: st.DataObject, twice: bool, exit_code: int) -> None:
        key = data.draw(one_of(sorted(self.world.attempts)))
        attempt = self.world.attempts[key]
        if attempt.stopping:
            ends = [KILLED, FAILED, SUCCEEDED]
        elif attempt.runs:
            ends = [SUCCEEDED, FAILED, KILLED]
        else:
            ends = [FAILED]  # its environment could not be built
        self._do(self.world.finish, key, data.draw(one_of(ends)), twice=twice, exit_code=exit_code)

    @precondition(possible("reports"))
    @rule(data=st.data())
    def deliver_report(self, data: st.DataObject) -> None:
        self._do(self.world.deliver_report, data.draw(st.integers(0, len(self.world.reports) - 1)))

    @rule(data=st.data(), state=one_of([SUCCEEDED, FAILED, KILLED, WORKER_FAILED]))
    def repeat_old_report(self, data: st.DataObject, state: int) -> None:
        task = data.draw(one_of(self.world.job.tasks))
        live = task.live_attempt
        others = [n for n in range(len(task.attempts) + 2) if live is None or n != live.attempt_id]
        self._do(self.world.repeat_old_report, task.task_index, data.draw(one_of(others)), state)

    @precondition(possible("attempts"))
    @rule(worker_id=one_of(WORKERS))
    def lose_worker(self, worker_id: str) -> None:
        self._do(self.world.lose_worker, worker_id)

    @rule(data=st.data())
    def terminate_task(self, data: st.DataObject) -> None:
        self._do(self.world.terminate_task, data.draw(st.integers(0, len(self.world.job.tasks) - 1)))

    @rule(what=one_of(["terminate", "time_out"]))
    def end(self, what: str) -> None:
        self._do(getattr(self.world, what))

    @precondition(possible("waiting"))
    @rule()
    def give_up(self) -> None:
        self._do(self.world.give_up)

    @rule(what=one_of(["restart", "restart_alone"]))
    def restart(self, what: str) -> None:
        self._do(getattr(self.world, what))

    @invariant()
    def holds(self) -> None:
        self._do(self.world.check)

    def teardown(self) -> None:
        """From here on nothing goes wrong from outside, and the job ends, in a number of steps that is bounded."""
        if not hasattr(self, "world"):
            return
        try:
            for _ in range(400):
                if not self.sound or self.world.is_quiet:
                    break
                self._go_on()
                self._do(self.world.check)
            if self.sound:
                self._do(self.world.check_end)
        finally:
            self.world.store.close()

    def _go_on(self) -> None:
        world = self.world
        if world.reports:
            self._do(world.deliver_report, 0)
        elif world.starts:
            self._do(world.deliver_start, world.starts[0])
        elif world.stops:
            self._do(world.deliver_stop, world.stops[0])
        elif world.attempts:
            key, attempt = next(iter(world.attempts.items()))
            if attempt.stopping:
                self._do(world.finish, key, KILLED)
            elif attempt.runs:
                self._do(world.finish, key, SUCCEEDED if key[1] % 2 else FAILED)
            else:
                self._do(world.run, key)
        elif world.job.waits_for and not world.job.is_finished:
            self._do(world.end_dependency, next(iter(world.job.waits_for)), SUCCEEDED)
        elif world.placeable():
            self._do(world.place, world.placeable()[0], WORKERS + WORKERS)
        else:
            world.now_ms = min(request.not_before_ms for request in world.waiting.values())


JobMachine.TestCase.settings = settings(
    max_examples=int(MORE or 100),
    stateful_step_count=40,
    derandomize=not MORE,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink) if MORE else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestJobMachine = pytest.mark.timeout(0 if MORE else 120)(JobMachine.TestCase)
