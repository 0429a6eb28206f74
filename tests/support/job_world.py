"""A small world for one job: rooms, workers and attempts that carry out its instructions, and go wrong at random.

The world is as unkind as a real one: instructions take a while to reach a worker, reports come late, twice and out of
order, workers die with all that they run, room is lost before it was used, the controller is killed and comes back
with what its store has. After every step `check` looks at what must hold whatever happened.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import dataclass, field

from iris.cluster.controller.job import Instruction, Job, ReleaseRoom, RequestRoom, StartAttempt, StopAttempt
from iris.cluster.controller.record import JobRecord
from iris.cluster.controller.status import job_status
from iris.cluster.controller.store import Changes, Store, StoredJob
from iris.cluster.controller.task import (
    FAILED,
    KILLED,
    PENDING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    AttemptEnd,
    Task,
    WorkerPlace,
)
from iris.cluster.types import is_job_finished, is_task_finished
from iris.rpc import cluster_pb2

Key = tuple[int, int]  # task index, attempt id


@dataclass
class _Running:
    gang_id: str
    worker_id: str
    runs: bool = False
    stopping: bool = False


@dataclass
class World:
    """Everything outside of the job.

    Attributes:
        waiting: Gangs that have asked for room.
        held: Gangs that have it.
        attempts: What exists on workers.
        reports: What workers have to say, not heard yet.
    """

    job: Job
    chance: random.Random
    store: Store
    restarts: bool = False
    now_ms: int = 10_000
    waiting: dict[str, tuple[int, ...]] = field(default_factory=dict)
    held: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rooms: Counter[str] = field(default_factory=Counter)
    released: Counter[str] = field(default_factory=Counter)
    starts: list[StartAttempt] = field(default_factory=list)
    stops: list[StopAttempt] = field(default_factory=list)
    stopped: Counter[Key] = field(default_factory=Counter)
    started: Counter[Key] = field(default_factory=Counter)
    known: set[Key] = field(default_factory=set)
    attempts: dict[Key, _Running] = field(default_factory=dict)
    reports: list[tuple[int, int, AttemptEnd | None]] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Submits the job, as the controller does."""
        instructions = self.job.submit()
        launch = cluster_pb2.Controller.LaunchJobRequest(name=self.job.job_id)
        self.record = StoredJob(self.job, launch, [cluster_pb2.TaskStatus() for _ in self.job.tasks])
        self.store.write(Changes().add_job(self.record, b""))
        self.saved_revision = self.job.revision
        self._carry_out(instructions)

    def step(self, *, quietly: bool = False) -> None:
        """One random event that is possible now; `quietly` only those that lead to an end."""
        moves = [
            (6, self.place, bool(self.waiting)),
            (8, self.deliver_start, bool(self.starts)),
            (8, self.deliver_stop, bool(self.stops)),
            (8, self.run, any(not attempt.runs for attempt in self.attempts.values())),
            (5, self.finish, bool(self.attempts)),
            (8, self.deliver_report, bool(self.reports)),
        ]
        if not quietly:
            moves += [
                (2, self.lose_worker, bool(self.attempts)),
                (1, self.lose_room, bool(self.waiting)),
                (2, self.repeat_old_report, True),
                (1, self.explain, bool(self.waiting)),
                (0.15, self.terminate, True),
                (0.15, self.give_up, bool(self.waiting)),
                (0.5, self.restart, self.restarts),
                (0.5, self.restart_alone, self.restarts),
            ]
        possible = [(weight, move) for weight, move, can in moves if can]
        move = self.chance.choices([move for _, move in possible], [weight for weight, _ in possible])[0]
        self.now_ms += self.chance.randint(1, 50)
        self.trace.append(move.__name__)
        move()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way any more."""
        return not (self.waiting or self.starts or self.stops or self.attempts or self.reports)

    # Events.

    def place(self) -> None:
        """The engine has room for a gang."""
        gang_id = self.chance.choice(list(self.waiting))
        indices = self.waiting.pop(gang_id)
        self.held[gang_id] = indices
        workers = [WorkerPlace(f"w{self.chance.randrange(3)}", "http://w", "0") for _ in indices]
        self._event("gang_placed", gang_id, workers)

    def lose_room(self) -> None:
        """The engine has lost a gang that has not started."""
        self._event("room_lost", self.chance.choice(list(self.waiting)))

    def explain(self) -> None:
        """The queue says why a gang waits."""
        assert self.job.explain_waiting(self.chance.choice(list(self.waiting)), f"reason {self.now_ms}")
        self._save()

    def deliver_start(self) -> None:
        """A worker hears that it has to run an attempt."""
        start = self.starts.pop(self.chance.randrange(len(self.starts)))
        key = (start.task_index, start.attempt_id)
        if key not in self.known:  # the same again has no effect
            self.known.add(key)
            self.attempts[key] = _Running(self.job.tasks[start.task_index].gang_id, start.worker_id)

    def deliver_stop(self) -> None:
        """A worker hears that it has to end an attempt; never before it has heard of the start."""
        stop = self.chance.choice(self.stops)
        key = (stop.task_index, stop.attempt_id)
        if any((start.task_index, start.attempt_id) == key for start in self.starts):
            return
        self.stops.remove(stop)
        if key in self.attempts:
            self.attempts[key].stopping = True
        elif key not in self.known:  # it will never start
            self.known.add(key)
            self._event("attempt_ended", *key, AttemptEnd(KILLED, self.now_ms, error="stopped before it started"))

    def run(self) -> None:
        """A process runs."""
        key = self.chance.choice([key for key, attempt in self.attempts.items() if not attempt.runs])
        self.attempts[key].runs = True
        self.reports.append((*key, None))

    def finish(self) -> None:
        """An attempt ends by itself, or because it was stopped."""
        key = self.chance.choice(list(self.attempts))
        attempt = self.attempts.pop(key)
        if attempt.stopping:
            state = self.chance.choices([KILLED, FAILED, SUCCEEDED], [8, 1, 1])[0]
        elif attempt.runs:
            state = self.chance.choices([SUCCEEDED, FAILED, KILLED], [60, 38, 2])[0]
        else:
            state = FAILED  # its environment could not be built
        end = AttemptEnd(
            state, self.now_ms, exit_code=self.chance.choice([None, 0, 1, 143]), error=f"end {self.now_ms}"
        )
        self.reports += [(*key, end)] * self.chance.choice([1, 1, 1, 2])

    def deliver_report(self) -> None:
        """The controller hears a report; not in order."""
        index, attempt_id, end = self.reports.pop(self.chance.randrange(len(self.reports)))
        if end is None:
            self._event("attempt_running", index, attempt_id, self.now_ms)
        else:
            self._event("attempt_ended", index, attempt_id, end)

    def repeat_old_report(self) -> None:
        """A report of an attempt that has ended, or never was, changes nothing."""
        task = self.chance.choice(self.job.tasks)
        live = task.live_attempt
        attempt_id = self.chance.choice(
            [n for n in range(len(task.attempts) + 2) if live is None or n != live.attempt_id]
        )
        before = _visible(copy.deepcopy(self.job))
        end = AttemptEnd(self.chance.choice([SUCCEEDED, FAILED, KILLED, WORKER_FAILED]), self.now_ms, error="stale")
        assert self.job.attempt_running(task.task_index, attempt_id, self.now_ms) == []
        assert self.job.attempt_ended(task.task_index, attempt_id, end) == []
        assert self.job.attempts_lost({task.task_index: attempt_id}, "stale", self.now_ms) == []
        assert _visible(self.job) == before
        self._save()

    def lose_worker(self) -> None:
        """A worker dies with all that it runs; the controller learns of it at once."""
        worker_id = self.chance.choice(list(self.attempts.values())).worker_id
        lost = {i: a.attempt_id for i, a in self.job.live_attempts().items() if a.worker_id == worker_id}
        self.attempts = {key: attempt for key, attempt in self.attempts.items() if attempt.worker_id != worker_id}
        self.starts = [start for start in self.starts if start.worker_id != worker_id]
        self.stops = [stop for stop in self.stops if stop.worker_id != worker_id]
        self._event("attempts_lost", lost, f"worker {worker_id} was lost", self.now_ms)

    def terminate(self) -> None:
        """A user has had enough; perhaps twice."""
        self._event("terminate", "terminated by a user", self.now_ms)
        if self.chance.random() < 0.5:
            assert self.job.terminate("again", self.now_ms) == []

    def give_up(self) -> None:
        """A gang has waited for longer than its scheduling timeout."""
        self._event("unschedulable", "not placed in time", self.now_ms)

    def restart(self) -> None:
        """The controller is killed and comes back; engine and workers went on. What was on its way to them is lost."""
        self.starts, self.stops = [], []
        self._reload()
        self._event("recover", dict(self.held), self.now_ms)

    def restart_alone(self) -> None:
        """The controller is killed, and engine and workers went with it, as on one machine."""
        self.attempts, self.starts, self.stops, self.reports = {}, [], [], []
        self.held.clear()
        self._reload()
        self._event("recover", {}, self.now_ms)

    # Carrying out.

    def _event(self, name: str, *arguments: object) -> None:
        before = copy.deepcopy(self.job)
        instructions = getattr(self.job, name)(*arguments)
        self._check_change(name, before)
        self._save()
        self._carry_out(instructions)

    def _save(self) -> None:
        if self.job.revision > self.saved_revision:
            self.store.write(Changes().save_job(self.record, self.saved_revision))
            self.saved_revision = self.job.revision

    def _reload(self) -> None:
        before = self.job
        (self.record,) = self.store.load()
        self.job = self.record.job
        self.saved_revision = self.job.revision
        assert _visible(self.job) == _visible(before)
        assert _unfinished_gangs(self.job) == _unfinished_gangs(before)
        assert self.job.rounds == before.rounds, "gang ids would be given out twice"

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            self.trace.append(f"    {instruction}")
            match instruction:
                case RequestRoom(gang_id, indices):
                    self.rooms[gang_id] += 1
                    assert self.rooms[gang_id] == 1, f"{gang_id} is asked for twice"
                    assert all(self.job.tasks[i].state == PENDING for i in indices)
                    others = {i for known in (self.waiting, self.held) for gang in known.values() for i in gang}
                    assert not others & set(indices), "room is asked for while the old one is held"
                    self.waiting[gang_id] = indices
                case ReleaseRoom(gang_id):
                    self.released[gang_id] += 1
                    assert self.released[gang_id] == 1, f"{gang_id} is released twice"
                    assert self.rooms[gang_id] == 1, f"{gang_id} was never asked for"
                    assert not [key for key, running in self.attempts.items() if running.gang_id == gang_id], (
                        "room is given back while something runs in it"
                    )
                    self.waiting.pop(gang_id, None)
                    self.held.pop(gang_id, None)
                case StartAttempt(index, attempt_id, _):
                    self.started[index, attempt_id] += 1
                    assert self.restarts or self.started[index, attempt_id] == 1, "an attempt is started twice"
                    assert self.job.tasks[index].gang_id in self.held, "an attempt is started without room"
                    self.starts.append(instruction)
                case StopAttempt(index, attempt_id, _):
                    self.stopped[index, attempt_id] += 1
                    self.stops.append(instruction)
                    assert self.restarts or self.stopped[index, attempt_id] == 1, "an attempt is stopped twice"

    # What must hold.

    def _check_change(self, name: str, before: Job) -> None:
        job = self.job
        changed = [new for old, new in zip(before.tasks, job.tasks, strict=True) if old != new]
        assert job.revision >= before.revision
        if changed or _visible(before) != _visible(job):
            assert job.revision > before.revision, f"{name} changed something without a new revision"
        for task in changed:
            assert before.revision < task.revision <= job.revision, f"{name}: {task.task_id} changed without saying so"
        for old, new in zip(before.tasks, job.tasks, strict=True):
            if old.is_finished:
                assert old == new, f"{name} changed a task that was final"
        if before.is_finished:
            assert _visible(before) == _visible(job), f"{name} changed a job that was final"

    def check(self) -> None:
        """What must hold after each step."""
        job = self.job
        assert job.is_finished == all(task.is_finished for task in job.tasks)
        for task in job.tasks:
            self._check_task(task)
        for gang in job.gangs.values():
            live = [i for i in gang.task_indices if job.tasks[i].live_attempt]
            assert gang.placed == bool(live), "placed gangs run, others do not"
            assert gang.gang_id in (self.held if gang.placed else self.waiting)
        if job.coscheduled:
            assert len(job.gangs) <= 1
            assert len({job.tasks[i].gang_id for i in job.live_attempts()}) <= 1
        else:
            assert all(len(gang.task_indices) == 1 for gang in job.gangs.values())
        assert {*self.waiting, *self.held} == set(job.gangs)
        if not job.is_finished:
            assert job.finished_at_ms == 0
        self._check_counts()

    def _check_task(self, task: Task) -> None:
        assert [attempt.attempt_id for attempt in task.attempts] == list(range(len(task.attempts)))
        assert not any(attempt.is_live for attempt in task.attempts[:-1]), "two attempts at once"
        failed = sum(attempt.state == FAILED for attempt in task.attempts)
        lost = sum(attempt.is_worker_failure for attempt in task.attempts)
        assert task.failure_count <= min(failed, task.max_retries_failure + 1)
        assert task.preemption_count <= min(lost, task.max_retries_preemption + 1)
        if task.failure_count > task.max_retries_failure:
            assert task.state == FAILED
        if task.preemption_count > task.max_retries_preemption:
            assert task.state == WORKER_FAILED
        if task.is_finished:
            assert task.stop is None
            assert task.live_attempt is None
            assert task.finished_at_ms > 0
        else:
            assert task.task_index in self.job.gangs[task.gang_id].task_indices
            assert (task.live_attempt is not None) == (task.state != PENDING)
        running = [attempt_id for index, attempt_id in self.attempts if index == task.task_index]
        assert len(running) <= 1, "an attempt runs beside another one of its task"
        if running:
            live = task.live_attempt
            assert live is not None
            assert running == [live.attempt_id]

    def _check_counts(self) -> None:
        record = JobRecord(self.job, self.record.launch, self.record.facts)
        status = job_status(record, tasks_since=0)
        states = [task.state for task in self.job.tasks]
        assert [self.job.tally.count(state) for state in range(9)] == [states.count(state) for state in range(9)]
        attempts = [attempt for task in self.job.tasks for attempt in task.attempts]
        assert status.failure_count == sum(attempt.state == FAILED for attempt in attempts)
        assert status.preemption_count == sum(attempt.is_worker_failure for attempt in attempts)
        counts = (status.tasks_pending, status.tasks_running, status.tasks_succeeded, status.tasks_failed)
        assert sum(counts) + status.tasks_killed == status.num_tasks == len(status.tasks)
        assert is_job_finished(status.state) == all(is_task_finished(task.state) for task in status.tasks)

    def check_end(self) -> None:
        """What must hold when the job is final and the world is quiet."""
        job = self.job
        assert job.is_finished
        assert not job.gangs
        assert self.released == self.rooms, "every room that was asked for is given back once"
        assert not self.waiting
        assert not self.held
        assert job.finished_at_ms > 0
        failed = [task for task in job.tasks if task.state == FAILED]
        if job.state == SUCCEEDED:
            assert len(failed) <= job.max_task_failures
            assert {task.state for task in job.tasks} <= {SUCCEEDED, FAILED}
            assert job.error == ""
        else:
            assert job.error
        if job.state == FAILED:
            assert len(failed) > job.max_task_failures
            assert job.first_failed is not None
            assert job.tasks[job.first_failed].state in (FAILED, WORKER_FAILED)
        if job.state == UNSCHEDULABLE:
            assert job.error == "not placed in time"
        for task in job.tasks:
            assert task.error or task.state == SUCCEEDED, f"{task.task_id} does not say why"


def _visible(job: Job) -> object:
    """What users can see of a job, apart from why it waits."""
    head = (job.state, job.error, job.ending, job.first_failed, job.started_at_ms, job.finished_at_ms)
    return head, [(task.state, task.error, task.attempts, task.stop, task.stop_error) for task in job.tasks]


def _unfinished_gangs(job: Job) -> dict[str, tuple[set[int], bool]]:
    return {
        gang.gang_id: ({i for i in gang.task_indices if not job.tasks[i].is_finished}, gang.placed)
        for gang in job.gangs.values()
    }
