"""Simulates the surroundings of one job: an engine and workers that carry out the job's instructions, and faults that a
test chooses.

The simulation has the faults of a real cluster. Instructions reach a worker late. Reports arrive late, twice, or in
another order. Workers die with their attempts. Allocations are lost before they are used. The controller is killed, and
a new controller continues from the store. `check` compares the job with its model and checks invariants.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from support.job_model import JobModel

from iris.cluster.controller.api.messages import job_status
from iris.cluster.controller.jobs.instructions import (
    Instruction,
    ReleaseAllocation,
    RequestAllocation,
    StartAttempt,
    StopAttempt,
)
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.recovery import recover
from iris.cluster.controller.jobs.task import (
    FAILED,
    KILLED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    AttemptEnd,
    Task,
    WorkerIdentity,
)
from iris.cluster.controller.scheduling.waiting.reasons import PendingReason
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.types import is_job_finished, is_task_finished, state_name
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
    """The simulated engine, workers and controller around one job.

    Attributes:
        waiting: Gangs that have asked for room.
        held: Gangs that have it.
        attempts: What exists on workers.
        reports: What workers have to say, not heard yet.
        not_before_ms: Of each task, from when on it was to be placed, when room was last asked for.
        restarted: Whether the controller was killed: what it had set out to do may be done twice.
    """

    job: Job
    model: JobModel
    store: Store
    now_ms: int = 10_000
    restarted: bool = False
    waiting: dict[str, RequestAllocation] = field(default_factory=dict)
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
    not_before_ms: dict[int, int] = field(default_factory=dict)

    def begin(self, waits_for: Mapping[str, str] | None = None) -> None:
        """Submit the job in the same way as the controller. The job may wait for other jobs, as in `Job.waits_for`."""
        self.job.waits_for = dict(waits_for or {})
        instructions = self.job.submit()
        launch = cluster_pb2.Controller.LaunchJobRequest(name=self.job.job_id)
        self.record = JobRecord(self.job, launch, [cluster_pb2.TaskStatus() for _ in self.job.tasks])
        self.store.write(Changes().add_job(self.record, b""))
        self.saved_revision = self.job.revision
        self.not_before_ms = dict.fromkeys(range(len(self.job.tasks)), self.job.submitted_at_ms)
        self._carry_out(instructions)

    @property
    def is_quiet(self) -> bool:
        """Return whether no instruction and no report is on its way."""
        is_ready = self.job.is_finished or not self.job.waits_for
        return is_ready and not (self.waiting or self.starts or self.stops or self.attempts or self.reports)

    def placeable(self) -> list[str]:
        """Return the gangs that wait for an allocation and whose pause is over."""
        return [gang_id for gang_id, request in self.waiting.items() if request.not_before_ms <= self.now_ms]

    def stoppable(self) -> list[StopAttempt]:
        """Return the stops that can reach their worker now. A stop cannot reach a worker before the start of the same
        attempt."""
        on_their_way = {(start.task_index, start.attempt_id) for start in self.starts}
        return [stop for stop in self.stops if (stop.task_index, stop.attempt_id) not in on_their_way]

    # Events.

    def place(self, gang_id: str, worker_ids: list[str]) -> None:
        """Let the engine grant the allocation of a gang."""
        indices = self.waiting.pop(gang_id).task_indices
        self.held[gang_id] = indices
        self.model.placed(indices)
        workers = [WorkerIdentity(worker_id, "http://w", "0") for worker_id in worker_ids[: len(indices)]]
        self._event("gang_placed", gang_id, workers)

    def end_dependency(self, job_id: str, state: int | None) -> None:
        """Let a job end for which the job waits. None stands for a job that was removed."""
        was_waiting = bool(self.model.waits_for)
        self.model.dependency_ended(job_id, state)
        if was_waiting and not self.model.waits_for:  # The waiting time for allocations begins now.
            self.not_before_ms |= {task.task_index: self.now_ms for task in self.job.tasks if not task.is_finished}
        self._event("dependency_ended", job_id, state, self.now_ms)

    def lose_room(self, gang_id: str) -> None:
        """Let the engine lose a gang before its attempts have started."""
        self._event("allocation_lost", gang_id)

    def explain(self, gang_id: str) -> None:
        """Set the reason why a gang waits."""
        assert self.job.explain_waiting(gang_id, PendingReason(engine_problem=f"problem {self.now_ms}"))
        self._save()

    def deliver_start(self, start: StartAttempt) -> None:
        """Deliver the start of an attempt to its worker."""
        self.starts.remove(start)
        key = (start.task_index, start.attempt_id)
        if key not in self.known:  # the same again has no effect
            self.known.add(key)
            self.attempts[key] = _Running(self.job.tasks[start.task_index].gang_id, start.worker_id)

    def deliver_stop(self, stop: StopAttempt) -> None:
        """Deliver the stop of an attempt to its worker."""
        self.stops.remove(stop)
        key = (stop.task_index, stop.attempt_id)
        if key in self.attempts:
            self.attempts[key].stopping = True
        elif key not in self.known:  # it will never start
            self.known.add(key)
            self._attempt_ended(*key, AttemptEnd(KILLED, self.now_ms, error="stopped before it started"))

    def run(self, key: Key) -> None:
        """A process runs."""
        self.attempts[key].runs = True
        self.reports.append((*key, None))

    def finish(self, key: Key, state: int, *, twice: bool = False, exit_code: int = 1) -> None:
        """End an attempt, by itself or because it was stopped. Its worker reports the end once or twice."""
        del self.attempts[key]
        end = AttemptEnd(state, self.now_ms, exit_code=exit_code, error=f"end {self.now_ms}")
        self.reports += [(*key, end)] * (1 + twice)

    def deliver_report(self, number: int) -> None:
        """Deliver any one of the waiting reports to the controller."""
        index, attempt_id, end = self.reports.pop(number)
        if end is None:
            self.model.runs(index, attempt_id, self.now_ms)
            self._event("attempt_running", index, attempt_id, self.now_ms)
        else:
            self._attempt_ended(index, attempt_id, end)

    def _attempt_ended(self, index: int, attempt_id: int, end: AttemptEnd) -> None:
        if index in self.model.live() and attempt_id == len(self.model.attempts[index]) - 1:
            self.model.over({index: end.state}, end.finished_at_ms, end.exit_code)
        self._event("attempt_ended", index, attempt_id, end, self.now_ms)

    def repeat_old_report(self, index: int, attempt_id: int, state: int) -> None:
        """Deliver a report about an attempt that has ended or never existed. Such a report must change nothing."""
        before = _visible(copy.deepcopy(self.job))
        end = AttemptEnd(state, self.now_ms, error="stale")
        assert self.job.attempt_running(index, attempt_id, self.now_ms) == []
        assert self.job.attempt_ended(index, attempt_id, end) == []
        assert self.job.attempts_lost({index: attempt_id}, "stale", self.now_ms) == []
        assert _visible(self.job) == before
        self._save()

    def lose_worker(self, worker_id: str) -> None:
        """Kill a worker with its attempts. The controller learns of the death at once."""
        lost = {i: a.attempt_id for i, a in self.job.live_attempts().items() if a.worker_id == worker_id}
        self.attempts = {key: attempt for key, attempt in self.attempts.items() if attempt.worker_id != worker_id}
        self.starts = [start for start in self.starts if start.worker_id != worker_id]
        self.stops = [stop for stop in self.stops if stop.worker_id != worker_id]
        self.model.over(dict.fromkeys(lost, WORKER_FAILED), self.now_ms)
        self._event("attempts_lost", lost, f"worker {worker_id} was lost", self.now_ms)

    def terminate(self) -> None:
        """Let a user terminate the job."""
        self.model.asked_to_end(KILLED)
        self._event("terminate", "terminated by a user", self.now_ms)

    def terminate_task(self, index: int) -> None:
        """Let a user terminate one task."""
        self.model.terminate_task(index)
        self._event("terminate_task", index, "terminated by a user", self.now_ms)

    def time_out(self) -> None:
        """Let the job timeout expire."""
        self.model.asked_to_end(FAILED)
        self._event("time_out", "job timed out", self.now_ms)

    def give_up(self) -> None:
        """Let the scheduling timeout of a gang expire."""
        self.model.asked_to_end(UNSCHEDULABLE)
        self._event("unschedulable", "not placed in time", self.now_ms)

    def restart(self) -> None:
        """Kill and restart the controller, while engine and workers continue. Instructions on their way are lost."""
        self.starts, self.stops = [], []
        self._reload()
        self._event("recover", dict(self.held), self.now_ms)

    def restart_alone(self) -> None:
        """Kill the controller together with the engine and the workers, as if their machine had died, and restart the
        controller."""
        self.attempts, self.starts, self.stops, self.reports = {}, [], [], []
        self.held.clear()
        self._reload()
        self.model.over(dict.fromkeys(self.model.live(), WORKER_FAILED), self.now_ms)
        self._event("recover", {}, self.now_ms)

    # Carrying out.

    def _event(self, name: str, *arguments: object) -> None:
        before = copy.deepcopy(self.job)
        event = getattr(self.job, name) if name != "recover" else partial(recover, self.job)
        instructions = event(*arguments)
        self._check_change(name, before)
        self._save()
        self._carry_out(instructions)

    def _save(self) -> None:
        if self.job.revision > self.saved_revision:
            self.store.write(Changes().save_job(self.record, self.saved_revision))
            self.saved_revision = self.job.revision

    def _reload(self) -> None:
        self.restarted = True
        before = self.job
        (self.record,) = self.store.load()
        self.job = self.record.job
        self.saved_revision = self.job.revision
        assert _visible(self.job) == _visible(before)
        assert _unfinished_gangs(self.job) == _unfinished_gangs(before)
        assert self.job.deferred.keys() == before.deferred.keys()
        assert self.job.rounds == before.rounds, "gang ids would be given out twice"

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for index in (
            self.job.deferred.keys() - self.not_before_ms.keys()
        ):  # Each task has just failed or was just lost.
            self._check_pause(RequestAllocation("", (index,), self.job.tasks[index].not_before_ms))
        for instruction in instructions:
            match instruction:
                case RequestAllocation(gang_id, indices):
                    self.rooms[gang_id] += 1
                    assert self.rooms[gang_id] == 1, f"{gang_id} is asked for twice"
                    assert all(self.job.tasks[i].state == PENDING for i in indices)
                    taken = {i for request in self.waiting.values() for i in request.task_indices}
                    taken |= {i for gang in self.held.values() for i in gang}
                    assert not taken & set(indices), "room is asked for while the old one is held"
                    self._check_pause(instruction)
                    self.waiting[gang_id] = instruction
                case ReleaseAllocation(gang_id):
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
                    assert self.restarted or self.started[index, attempt_id] == 1, "an attempt is started twice"
                    assert self.job.tasks[index].gang_id in self.held, "an attempt is started without room"
                    self.starts.append(instruction)
                case StopAttempt(index, attempt_id, _):
                    self.stopped[index, attempt_id] += 1
                    self.stops.append(instruction)
                    assert self.restarted or self.stopped[index, attempt_id] == 1, "an attempt is stopped twice"

    def _check_pause(self, request: RequestAllocation) -> None:
        """Check the retry pauses after an event: a retried task pauses from now on, and the pause of a task that only
        waits does not change."""
        known = {self.not_before_ms.get(i) for i in request.task_indices}
        if known == {None}:
            longest_ms = self.model.longest_pause_ms(request.task_indices)
            assert longest_ms * 0.8 <= request.not_before_ms - self.now_ms <= longest_ms
        else:
            assert known == {request.not_before_ms}
        self.not_before_ms |= dict.fromkeys(request.task_indices, request.not_before_ms)

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
            if new.attempts and new.state != PENDING:
                self.not_before_ms.pop(new.task_index, None)  # its next attempt, if any, is a retry
        if before.is_finished:
            assert _visible(before) == _visible(job), f"{name} changed a job that was final"

    def check(self) -> None:
        """Check the invariants that hold after each step."""
        job = self.job
        self._check_model()
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
        if job.max_parallel:
            assert len(job.gangs) <= job.max_parallel
            assert len(job.gangs) == job.max_parallel or not job.deferred, "a task waits although another may start"
        else:
            assert not job.deferred
        if not job.is_finished:
            assert job.finished_at_ms == 0
        self._check_counts()

    def _check_model(self) -> None:
        model, tasks = self.model, self.job.tasks
        shown = [RUNNING if task.live_attempt else task.state for task in tasks]
        assert [state_name(state) for state in shown] == [state_name(state) for state in model.states]
        assert [[0 if one.is_live else one.state for one in task.attempts] for task in tasks] == model.attempts
        charged = [{FAILED: task.failure_count, WORKER_FAILED: task.preemption_count} for task in tasks]
        assert charged == model.charged
        if self.job.ending is None and not self.job.is_finished:
            assert self.job.waits_for == model.waits_for
        assert [task.stop is not None for task in tasks] == [bool(wanted) for wanted in model.wanted]
        if model.end is not None:
            assert state_name(self.job.state) == state_name(model.end)

    def _check_task(self, task: Task) -> None:
        assert [attempt.attempt_id for attempt in task.attempts] == list(range(len(task.attempts)))
        assert not any(attempt.is_live for attempt in task.attempts[:-1]), "two attempts at once"
        if task.is_finished:
            assert task.live_attempt is None
            assert task.finished_at_ms > 0
        elif self.job.waits_for:
            assert (task.state, task.gang_id, task.attempts) == (PENDING, "", []), "a waiting job asks for no room"
        elif task.task_index in self.job.deferred:
            assert (task.state, task.gang_id, task.live_attempt) == (PENDING, "", None)
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
        """Check the invariants that hold when the job is final and nothing is on its way."""
        job = self.job
        assert job.is_finished
        assert not job.gangs
        assert self.released == self.rooms, "every room that was asked for is given back once"
        assert not self.waiting
        assert not self.held
        assert job.finished_at_ms > 0
        assert bool(job.error) == (job.state != SUCCEEDED)
        if job.first_failed is not None:
            assert job.tasks[job.first_failed].state in (FAILED, WORKER_FAILED)
        for task in job.tasks:
            assert task.error or task.state == SUCCEEDED, f"{task.task_id} does not say why"


def _visible(job: Job) -> object:
    """Return the state of a job that users can see, without the reason why it waits."""
    head = (job.state, job.error, job.ending, job.first_failed, job.started_at_ms, job.finished_at_ms)
    return head, [(task.state, task.error, task.attempts, task.stop, task.stop_error) for task in job.tasks]


def _unfinished_gangs(job: Job) -> dict[str, tuple[set[int], bool]]:
    return {
        gang.gang_id: ({i for i in gang.task_indices if not job.tasks[i].is_finished}, gang.placed)
        for gang in job.gangs.values()
    }
