"""A job: its tasks, their gangs, its state, and what has to be done next.

Pure, like `task`: a method takes an event and answers with instructions, in the order in which they have to be
carried out. `controller.py` does that; what comes of it is the next event.

A *gang* is one placement: room for some of the job's tasks that start together or not at all. A job of which all
tasks belong together has one gang at a time; a job of independent tasks has one for each task. A retry gives the
old room back, once nothing runs in it any more, and asks for new room under a new gang id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from iris.cluster.controller.jobs.retry_pause import DEFAULT_PAUSE_MS, next_in_row, pause_before
from iris.cluster.controller.jobs.tally import Tally
from iris.cluster.controller.jobs.task import (
    BUILDING,
    DEFAULT_RETRIES_FAILURE,
    DEFAULT_RETRIES_PREEMPTION,
    FAILED,
    KILLED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    UNSCHEDULABLE,
    WORKER_FAILED,
    AttemptEnd,
    Stop,
    Task,
    TaskAttempt,
    WorkerPlace,
)
from iris.cluster.controller.scheduling.reasons import PendingReason
from iris.cluster.types import is_job_finished

EXCEEDED_FAILURES = "Job exceeded max_task_failures"


@dataclass(frozen=True, slots=True)
class RequestAllocation:
    """Ask for room for these tasks, all or none; not before a moment, from which on they wait."""

    gang_id: str
    task_indices: tuple[int, ...]
    not_before_ms: int


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Tell the worker to run the attempt."""

    task_index: int
    attempt_id: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Tell the worker to end the attempt, gracefully; its end comes as an event."""

    task_index: int
    attempt_id: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class ReleaseAllocation:
    """Give the gang's room back, or take its request out of the queue."""

    gang_id: str


Instruction = RequestAllocation | StartAttempt | StopAttempt | ReleaseAllocation


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a job's state, or of the state of one of its attempts, for the event log.

    Attributes:
        state: The new state.
        task_index: The task of the attempt; None for a change of the job.
        attempt_id: The attempt.
    """

    state: int
    task_index: int | None = None
    attempt_id: int = 0


class States(Protocol):
    """The states of all tasks of a job: a list of them, or a `Tally`."""

    def count(self, state: int, /) -> int: ...
    def __len__(self) -> int: ...


def roll_up(states: States, max_task_failures: int) -> int:
    """The state of a job whose tasks are in these states, while nobody has decided to end it.

    Too many failures is FAILED at once, and so are WORKER_FAILED and UNSCHEDULABLE. A KILLED task is one that a user
    has ended: the others go on, and the job is KILLED when all are final. All SUCCEEDED, or all final with no more
    failures than are tolerated, is SUCCEEDED. Otherwise the job is as far as the task that has got furthest: RUNNING,
    also between a task that is done and one that waits, BUILDING, PENDING.
    """
    if states.count(FAILED) > max_task_failures:
        return FAILED
    for final in (WORKER_FAILED, UNSCHEDULABLE):
        if states.count(final):
            return final
    if states.count(SUCCEEDED) + states.count(FAILED) + states.count(KILLED) == len(states):
        return KILLED if states.count(KILLED) else SUCCEEDED
    if states.count(RUNNING):
        return RUNNING
    if states.count(BUILDING):
        return BUILDING
    return RUNNING if states.count(PENDING) < len(states) else PENDING


@dataclass(slots=True)
class Gang:
    """One placement of some tasks of the job."""

    gang_id: str
    task_indices: tuple[int, ...]
    culprit: int  # the task whose failure made them wait anew; where there was none, any
    placed: bool = False
    restarting: bool = False  # a member failed or was lost: the others are being stopped
    reason: PendingReason | None = None


@dataclass(slots=True)
class Job:
    """A job and its tasks.

    Attributes:
        retry_pause_ms: Before the second retry in a row, see `backoff`.
        submitted_stamp: When it was submitted, by a clock that nobody can set; empty where that is not known.
        ending: The final state that was decided while attempts still have to be stopped; None before.
        first_failed: The index of the first task that failed for good; None while none has.
        gangs: The placements that are asked for or held, by id.
        rounds: How many gangs there have been; numbers their ids.
        revision: Counts the changes; see `Task.revision`.
        tally: The tasks, counted.
        transitions: The changes of state that the event log does not have yet.
        owner: Who submitted it, or the job above it: the name in the token.
        rendezvous: Its tasks meet, and so can only start all together, also when they are tried again.
    """

    job_id: str
    tasks: list[Task]
    submitted_at_ms: int
    coscheduled: bool = True
    max_task_failures: int = 0
    parent_job_id: str = ""
    retry_pause_ms: int = DEFAULT_PAUSE_MS
    state: int = PENDING
    error: str = ""
    ending: int | None = None
    first_failed: int | None = None
    started_at_ms: int = 0
    finished_at_ms: int = 0
    gangs: dict[str, Gang] = field(default_factory=dict)
    rounds: int = 0
    revision: int = 1
    owner: str = ""
    rendezvous: bool = False
    submitted_stamp: str = ""
    tally: Tally = field(init=False, repr=False, compare=False)
    transitions: list[Transition] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        self.tally = Tally(self.tasks)

    @property
    def is_finished(self) -> bool:
        """Whether its state is final: all tasks are, and nothing of it runs."""
        return is_job_finished(self.state)

    @classmethod
    def new(
        cls,
        job_id: str,
        replicas: int,
        now_ms: int,
        *,
        coscheduled: bool = True,
        max_task_failures: int = 0,
        max_retries_failure: int = DEFAULT_RETRIES_FAILURE,
        max_retries_preemption: int = DEFAULT_RETRIES_PREEMPTION,
        retry_pause_ms: int = DEFAULT_PAUSE_MS,
        parent_job_id: str = "",
        rendezvous: bool = False,
    ) -> Job:
        """A job of `replicas` tasks, none of which has been placed."""
        tasks = [
            Task(job_id, index, max_retries_failure, max_retries_preemption, not_before_ms=now_ms)
            for index in range(replicas)
        ]
        job = cls(job_id, tasks, now_ms, coscheduled, max_task_failures, parent_job_id, retry_pause_ms)
        job.rendezvous = rendezvous
        return job

    def restore_gangs(self) -> None:
        """After a load: the gangs follow from their tasks."""
        members: dict[str, list[Task]] = {}
        for task in self.tasks:
            members.setdefault(task.gang_id, []).append(task)
        for gang_id, tasks in members.items():
            if gang_id and any(not task.is_finished for task in tasks):
                placed = any(task.live_attempt is not None for task in tasks)
                restarting = placed and any(task.state == PENDING or task.stop is Stop.RESTART for task in tasks)
                indices = tuple(task.task_index for task in tasks)
                self.gangs[gang_id] = Gang(gang_id, indices, _culprit(tasks), placed, restarting)

    def explain_waiting(self, gang_id: str, reason: PendingReason) -> bool:
        """Set why a gang waits. Return False if the gang has the same reason already, or is gone."""
        gang = self.gangs.get(gang_id)
        if gang is None or gang.reason == reason:
            return False
        gang.reason = reason
        self.revision += 1
        for index in gang.task_indices:
            self.tasks[index].revision = self.revision
        return True

    def submit(self) -> list[Instruction]:
        """The job is new: ask for room."""
        requests = self._request_room([task for task in self.tasks if not task.is_finished])
        self._update_state()
        return requests

    def gang_placed(self, gang_id: str, workers: Sequence[WorkerPlace]) -> list[Instruction]:
        """The gang has room and its workers are there: start its attempts.

        Args:
            gang_id: The gang.
            workers: For each of its tasks, in order, the worker that serves its slot.
        """
        gang = self.gangs.get(gang_id)
        if gang is None or gang.placed:
            return []
        gang.placed = True
        starts: list[Instruction] = []
        for index, worker in zip(gang.task_indices, workers, strict=True):
            attempt = self.tasks[index].start_attempt(worker)
            self._touch(self.tasks[index])
            self.transitions.append(Transition(attempt.state, index, attempt.attempt_id))
            starts.append(StartAttempt(index, attempt.attempt_id, worker.worker_id))
        self._update_state()
        return starts

    def attempt_running(self, task_index: int, attempt_id: int, started_at_ms: int) -> list[Instruction]:
        """A process runs."""
        task = self.tasks[task_index]
        if task.attempt_is_running(attempt_id, started_at_ms):
            self.started_at_ms = self.started_at_ms or started_at_ms
            self._touch(task)
            self.transitions.append(Transition(RUNNING, task_index, attempt_id))
            self._update_state()
        return []

    def attempt_ended(self, task_index: int, attempt_id: int, end: AttemptEnd, now_ms: int = 0) -> list[Instruction]:
        """An attempt ended, for whatever reason but the loss of its worker; at `now_ms` of our clock, where the time in
        `end` is of another."""
        return self._attempts_ended({task_index: attempt_id}, end, now_ms or end.finished_at_ms)

    def attempts_lost(self, attempts: Mapping[int, int], error: str, now_ms: int) -> list[Instruction]:
        """Attempts (attempt id by task index) ended with their worker. Each is charged to the second budget only."""
        return self._attempts_ended(attempts, AttemptEnd(WORKER_FAILED, now_ms, error=error), now_ms)

    def live_attempts(self, task_indices: Iterable[int] | None = None) -> dict[int, TaskAttempt]:
        """The attempts under way, by task index: of all tasks, or of these."""
        tasks = self.tasks if task_indices is None else [self.tasks[index] for index in task_indices]
        return {task.task_index: attempt for task in tasks if (attempt := task.live_attempt) is not None}

    def is_attempt_live(self, task_index: int, attempt_id: int) -> bool:
        """Return whether this attempt has not ended."""
        attempt = self.tasks[task_index].live_attempt
        return attempt is not None and attempt.attempt_id == attempt_id

    def room_lost(self, gang_id: str) -> list[Instruction]:
        """The gang's room is gone before its attempts started: ask again."""
        gang = self.gangs.get(gang_id)
        if gang is None or gang.placed:
            return []
        instructions = self._ask_again(gang)
        self._update_state()
        return instructions

    def unschedulable(self, error: str, now_ms: int) -> list[Instruction]:
        """It waited for longer than its scheduling timeout, or can never be placed."""
        return self._end(UNSCHEDULABLE, error, error, now_ms)

    def terminate(self, error: str, now_ms: int) -> list[Instruction]:
        """Somebody wants it to end: a user, or the end of its parent."""
        return self._end(KILLED, error, error, now_ms)

    def disown(self, error: str, now_ms: int) -> None:
        """End the job KILLED at once, with its attempts: it is another cluster's, so nothing is stopped here."""
        self._end(KILLED, error, error, now_ms)
        live = {index: attempt.attempt_id for index, attempt in self.live_attempts().items()}
        self._attempts_ended(live, AttemptEnd(KILLED, now_ms, error=error), now_ms)

    def time_out(self, error: str, now_ms: int) -> list[Instruction]:
        """It took longer than it may take as a whole."""
        return self._end(FAILED, error, error, now_ms)

    def terminate_task(self, task_index: int, error: str, now_ms: int) -> list[Instruction]:
        """A user wants one task to end, for good.

        The others go on where they can. The tasks of a gang can do without as many as may fail; without one more the
        job ends, since they would only hang.
        """
        task = self.tasks[task_index]
        if task.is_finished or task.stop is Stop.TASK or self.ending is not None:
            return []
        instructions: list[Instruction] = []
        waits = task.live_attempt is None
        if waits:
            task.finish_unstarted(KILLED, error, now_ms)
        else:
            task.stop_error = error
            if task.stop is None:
                instructions.append(self._stop(task, Stop.TASK))
            task.stop = Stop.TASK  # where it is being stopped already: now for good
        self._touch(task)
        gang = self.gangs[task.gang_id]
        missing = sum(one.state in (FAILED, KILLED) or one.stop is Stop.TASK for one in self.tasks)
        if self.coscheduled and missing > self.max_task_failures:
            why = f"task {task_index} was {error}"
            return instructions + self._end(KILLED, why, f"Job ended: {why}", now_ms)
        if waits and not gang.placed:
            instructions += self._ask_again(gang)
        self._update_state(now_ms)
        return instructions

    def recover(self, held: Mapping[str, object], now_ms: int) -> list[Instruction]:
        """The controller is back, and what it had set out to do may not have been done.

        1. Attempts in gangs that the engine no longer knows went with their workers: all at once, so that each is
           charged as lost and none as restarted.
        2. Those that go on are started and stopped once more; a worker that has heard of it takes no notice.
        3. Gangs that had only waited ask for room again.

        Args:
            held: The gangs that the engine still knows, by id.
            now_ms: The time.
        """
        for task in self.tasks:
            task.not_before_ms = task.not_before_ms or now_ms  # saved before there were pauses
        waiting = [gang.gang_id for gang in self.gangs.values() if not gang.placed and gang.gang_id not in held]
        live = self.live_attempts()
        lost = {index: live[index].attempt_id for index in live if self.tasks[index].gang_id not in held}
        instructions: list[Instruction] = []
        for index in sorted(live.keys() - lost.keys()):
            attempt = live[index]
            if attempt.state == BUILDING:
                instructions.append(StartAttempt(index, attempt.attempt_id, attempt.worker_id))
            if self.tasks[index].stop is not None:
                instructions.append(StopAttempt(index, attempt.attempt_id, attempt.worker_id))
        instructions += self.attempts_lost(lost, "the worker was lost while the controller was away", now_ms)
        for gang_id in waiting:
            instructions += self.room_lost(gang_id)
        return instructions

    # What follows from the end of attempts, in the order of the questions:
    # 1. Has the job had enough? Then it ends, and the rest is stopped.
    # 2. Does somebody go on with another attempt? Then the gang restarts: peers are stopped, at no cost.
    #    Where they would have to meet one that has succeeded, they would wait for ever: then the job ends instead.
    # 3. Does nothing run in a gang any more? Then its room goes back, and who still waits asks for new room.
    # 4. Is every task final? Then the job is.

    def _attempts_ended(self, attempts: Mapping[int, int], end: AttemptEnd, now_ms: int) -> list[Instruction]:
        ended = []
        unasked = None  # somebody killed it on its worker
        for task_index, attempt_id in attempts.items():
            task = self.tasks[task_index]
            asked = task.stop is not None
            if task.end_attempt(attempt_id, end):
                self._touch(task)
                self.transitions.append(Transition(end.state, task_index, attempt_id))
                ended.append(task)
                if task.state == KILLED and not asked:
                    unasked = task
        instructions: list[Instruction] = []
        if self.ending is None:
            instructions += self._end_if_enough(ended, unasked, end.finished_at_ms)
        for gang in {task.gang_id: self.gangs.get(task.gang_id) for task in ended}.values():
            if gang is not None:
                instructions += self._gang_moved(gang, now_ms)
        self._update_state(end.finished_at_ms)
        return instructions

    def _end_if_enough(self, ended: Sequence[Task], unasked: Task | None, now_ms: int) -> list[Instruction]:
        for task in ended:
            if task.state in (FAILED, WORKER_FAILED) and self.first_failed is None:
                self.first_failed = task.task_index
        decided = roll_up(self.tally, self.max_task_failures)
        if decided == FAILED and self.first_failed is not None:
            return self._end(FAILED, self.tasks[self.first_failed].error, EXCEEDED_FAILURES, now_ms)
        if decided == WORKER_FAILED:
            lost = next(task for task in ended if task.state == WORKER_FAILED)
            self.first_failed = lost.task_index  # not a failure before it, which was tolerated
            return self._end(WORKER_FAILED, lost.error, f"Job ended: {lost.error}", now_ms)
        if unasked is not None:
            error = unasked.error or f"{unasked.task_id} was killed on its worker"
            return self._end(KILLED, error, f"Job ended: {error}", now_ms)
        return []

    def _gang_moved(self, gang: Gang, now_ms: int) -> list[Instruction]:
        live, waits = self.tally.count(BUILDING) + self.tally.count(RUNNING), self.tally.count(PENDING)
        if self.rendezvous and waits and self.tally.count(SUCCEEDED):
            return self._end_apart(now_ms)
        if self.coscheduled and live and (gang.restarting or not waits):
            return []  # the one gang goes on: most ends of a large one are looked at no further
        members = [self.tasks[index] for index in gang.task_indices]
        instructions: list[Instruction] = []
        waiting = [task for task in members if task.state == PENDING]
        if waiting and not gang.restarting:
            gang.restarting = True
            ran_ms = max(task.attempts[-1].ran_ms for task in waiting)
            row = next_in_row(max(task.retries_in_row for task in waiting), ran_ms)
            for task in members:
                if not task.is_finished:
                    task.retries_in_row = row
                    self._touch(task)
            instructions += [self._stop(task, Stop.RESTART) for task in members if task.live_attempt and not task.stop]
        if not any(task.live_attempt for task in members):
            for task in waiting:
                pause_ms = pause_before(task.retries_in_row, self.retry_pause_ms, gang.gang_id)
                task.not_before_ms = now_ms + pause_ms
            instructions += self._ask_again(gang)
        return instructions

    def _end_apart(self, now_ms: int) -> list[Instruction]:
        """Tasks that meet would be tried again, but not all of them."""
        culprit = self.tasks[_culprit([task for task in self.tasks if task.state == PENDING])]
        gone = next(task for task in self.tasks if task.state == SUCCEEDED)
        culprit.give_up(
            f"{culprit.error}; it is not tried again, since task {gone.task_index} has succeeded already, and the tasks"
            " of a rendezvous only start together"
        )
        self._touch(culprit)
        self.first_failed = culprit.task_index
        why = f"Job ended: task {culprit.task_index} cannot be tried again without task {gone.task_index}"
        return self._end(culprit.state, culprit.error, why, now_ms)

    def _ask_again(self, gang: Gang) -> list[Instruction]:
        """Gives up the gang's room, or its place in the queue; those of its tasks that wait get another."""
        del self.gangs[gang.gang_id]
        waiting = [self.tasks[index] for index in gang.task_indices if self.tasks[index].state == PENDING]
        return [ReleaseAllocation(gang.gang_id), *(self._request_room(waiting) if waiting else [])]

    def _end(self, state: int, error: str, stop_error: str, now_ms: int) -> list[Instruction]:
        if self.is_finished or self.ending is not None:
            return []
        self.ending, self.error = state, error
        instructions: list[Instruction] = []
        for task in self.tasks:
            if task.stop is Stop.TASK:
                continue
            if task.live_attempt is not None:
                task.stop_error = stop_error
                if task.stop is None:
                    instructions.append(self._stop(task, Stop.END))
                task.stop = Stop.END  # where it is being stopped already: now for good
                self._touch(task)
            elif not task.is_finished:
                task.finish_unstarted(UNSCHEDULABLE if state == UNSCHEDULABLE else KILLED, stop_error, now_ms)
                self._touch(task)
        for gang in list(self.gangs.values()):
            if not any(self.tasks[index].live_attempt for index in gang.task_indices):
                del self.gangs[gang.gang_id]
                instructions.append(ReleaseAllocation(gang.gang_id))
        self._update_state(now_ms)
        return instructions

    def _stop(self, task: Task, why: Stop) -> StopAttempt:
        attempt = _live(task)
        task.stop = why
        self._touch(task)
        return StopAttempt(task.task_index, attempt.attempt_id, attempt.worker_id)

    def _request_room(self, tasks: Sequence[Task]) -> list[Instruction]:
        groups = [tasks] if self.coscheduled else [[task] for task in tasks]
        requests: list[Instruction] = []
        for group in groups:
            indices = tuple(task.task_index for task in group)
            gang = Gang(make_gang_id(self.job_id, self.rounds), indices, _culprit(group))
            self.rounds += 1
            self.gangs[gang.gang_id] = gang
            for task in group:
                task.gang_id = gang.gang_id
                self._touch(task)
            not_before_ms = max(task.not_before_ms for task in group)
            requests.append(RequestAllocation(gang.gang_id, gang.task_indices, not_before_ms))
        return requests

    def _update_state(self, now_ms: int = 0) -> None:
        if self.is_finished:
            return
        before = self.state
        rolled_up = roll_up(self.tally, self.max_task_failures)
        if self.tally.all_finished:
            # Whoever wanted it to end came too late where everything has succeeded meanwhile.
            self.state = rolled_up if self.ending is None or rolled_up == SUCCEEDED else self.ending
            self.finished_at_ms = max(now_ms, *(task.finished_at_ms for task in self.tasks))
            if self.state == SUCCEEDED:
                self.error = ""
            elif self.state == KILLED and not self.error:
                self.error = self._killed_by_users()
        elif self.ending is None:
            self.state = rolled_up
        # Otherwise the end is decided and attempts are still being stopped: the state stays what it was until the
        # last of them has ended, so that a final state is final and all that was written is readable by then.
        if self.state != before:
            self.transitions.append(Transition(self.state))
        self.revision += 1

    def _touch(self, task: Task) -> None:
        task.revision = self.revision + 1  # `_update_state` makes that the job's
        self.tally.recount(task)

    def _killed_by_users(self) -> str:
        killed = [task for task in self.tasks if task.state == KILLED]
        more = f" and {len(killed) - 1} more were" if len(killed) > 1 else " was"
        return f"task {killed[0].task_index}{more} {killed[0].error}"


def make_gang_id(job_id: str, number: int) -> str:
    """Return the id of a job's gang. The number counts the gangs that the job has had before."""
    return f"{job_id}@{number}"


def job_id_of_gang(gang_id: str) -> str:
    """Return the id of the job that has made a gang id."""
    return gang_id.rpartition("@")[0]


def _culprit(tasks: Sequence[Task]) -> int:
    # The peers of one that failed were only stopped, and have no error.
    return next((task for task in tasks if task.error), tasks[0]).task_index


def _live(task: Task) -> TaskAttempt:
    attempt = task.live_attempt
    if attempt is None:
        raise AssertionError(f"{task.task_id} has no attempt under way")
    return attempt
