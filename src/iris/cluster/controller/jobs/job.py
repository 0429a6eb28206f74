"""The state machine of a job: its tasks, their gangs, and the instructions that follow from events. The module is pure.
Each event is a method call that returns instructions. The controller carries out the instructions in order.

A *gang* is one placement of tasks that all start together. A coscheduled job has one gang for all its tasks. A job of
independent tasks has one gang for each task. For a retry, a gang first releases its allocation, once none of its
attempts is live. Afterwards its tasks request a new allocation under a new gang id.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from iris.cluster.controller.jobs.gang import Gang, culprit_of, derive_gangs, make_gang_id
from iris.cluster.controller.jobs.instructions import (
    Instruction,
    ReleaseAllocation,
    RequestAllocation,
    StartAttempt,
    StopAttempt,
)
from iris.cluster.controller.jobs.job_state import (
    Condition,
    Transition,
    Why,
    failed_dependency_text,
    incomplete_rendezvous_texts,
    judge,
    roll_up,
    terminated_tasks_text,
)
from iris.cluster.controller.jobs.retry_pause import DEFAULT_PAUSE_MS, next_in_row, pause_before
from iris.cluster.controller.jobs.retry_rules import DEFAULT_RETRIES_FAILURE, DEFAULT_RETRIES_PREEMPTION, ExitCodeRules
from iris.cluster.controller.jobs.tally import ChangedTasks, Tally
from iris.cluster.controller.jobs.task import (
    BUILDING,
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
    WorkerIdentity,
)
from iris.cluster.controller.scheduling.waiting.reasons import PendingReason
from iris.cluster.types import is_job_finished
from iris.reasons import FailureCode


@dataclass(slots=True)
class Job:
    """A job and its tasks.

    Attributes:
        job_id: The job's id.
        tasks: The tasks of the job, in the order of their indices.
        submitted_at_ms: When the job was submitted, as wall clock time.
        coscheduled: True if the tasks form one gang, False if they are independent.
        max_task_failures: How many tasks may fail before the job fails.
        parent_job_id: The id of the parent job; empty if the job has no parent.
        retry_pause_ms: The pause before the second retry in a row, in milliseconds (see `retry_pause.py`).
        state: The job's state.
        error: Why the job did not succeed; empty otherwise.
        failure: The code of `error`, a `FailureCode`.
        ending: The final state that the job will have once its live attempts have stopped; None if no end is decided.
        first_failed: The index of the first task that has failed for good, without a retry; None if no task has.
        started_at_ms: When the first process of the job started; 0 if none has.
        finished_at_ms: When the job's state became final; 0 before that.
        gangs: The gangs that wait or have an allocation, by id.
        rounds: The number of the job's next gang. The number is a part of the gang's id. The number of the first gang
            may be greater than 0 (see `JobRemoval.first_round`).
        revision: A number that increases with each change of the job.
        owner: The name in the token with which the job was submitted. A child job has the owner of its parent job.
        rendezvous: True if the tasks meet at a rendezvous. Then a retry must start all tasks again.
        submitted_stamp: The time of the submission on the machine's boot clock, as a text; empty if unknown.
        waits_for: The `Condition` of each job for which this job waits before it requests allocations, by job id.
        retry_on, fail_on: The exit codes that allow and that forbid a retry of a failed task (see `ExitCodeRules`).
        max_parallel: How many independent tasks may have or request an allocation at the same time; 0 sets no limit.
        counts_a_core: True if each task counts as one core because the submission asks for no resources.
        deferred: The tasks without a gang because of `max_parallel`, as indices in the order of their turns.
        tally: The object that counts the tasks of the job by state.
        changes: The object that remembers which tasks have changed, and at which revision.
        transitions: The changes of state for which no event was made yet.
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
    failure: int = FailureCode.UNSPECIFIED
    retry_on: list[int] = field(default_factory=list)
    fail_on: list[int] = field(default_factory=list)
    waits_for: dict[str, str] = field(default_factory=dict)
    max_parallel: int = 0
    counts_a_core: bool = False
    deferred: dict[int, None] = field(init=False, repr=False, compare=False)
    tally: Tally = field(init=False, repr=False, compare=False)
    changes: ChangedTasks = field(init=False, repr=False, compare=False)
    transitions: list[Transition] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        self.tally, self.changes = Tally(self.tasks), ChangedTasks(self.tasks)
        self.gangs = self.gangs or derive_gangs(self.tasks)  # The store contains no gangs.
        limited = self.tasks if self.max_parallel and not self.waits_for else []
        self.deferred = {task.task_index: None for task in limited if task.state == PENDING and not task.gang_id}

    def pop_transitions(self) -> list[Transition]:
        """Return the changes of state since the last call, and remove these changes from `transitions`."""
        transitions, self.transitions = self.transitions, []
        return transitions

    @property
    def is_finished(self) -> bool:
        """True if the job's state is final. All tasks of a finished job are final."""
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
        max_parallel: int = 0,
    ) -> Job:
        """Return a new job with `replicas` tasks, all PENDING."""
        tasks = [
            Task(job_id, index, max_retries_failure, max_retries_preemption, not_before_ms=now_ms)
            for index in range(replicas)
        ]
        job = cls(job_id, tasks, now_ms, coscheduled, max_task_failures, parent_job_id, retry_pause_ms)
        job.rendezvous, job.max_parallel = rendezvous, max_parallel
        return job

    def explain_waiting(self, gang_id: str, reason: PendingReason) -> bool:
        """Set the reason why a gang waits. Return False if the job no longer has this gang, or if the gang already has
        this reason object.
        """
        gang = self.gangs.get(gang_id)
        if gang is None or gang.reason is reason:
            return False
        gang.reason = reason
        self.revision += 1
        self.changes.note((self.tasks[index] for index in gang.task_indices), self.revision)
        return True

    def submit(self) -> list[Instruction]:
        """Return the requests for the first allocations of a job. A job that waits for other jobs requests none."""
        unfinished = [task for task in self.tasks if not task.is_finished]
        requests = [] if self.waits_for else self._request_tasks(unfinished)
        self.update_state()
        return requests

    def dependency_ended(self, job_id: str, state: int | None, now_ms: int) -> list[Instruction]:
        """Record the end of a job for which this job waits. If this job waits for no further job, request its first
        allocations. If the ended job does not meet the condition that this job has set for it, this job ends as
        UNSCHEDULABLE.

        Args:
            job_id: The job that has ended.
            state: The final state of the ended job; None if the ended job was removed and its state is unknown.
            now_ms: The time. The waiting time for allocations begins at this time.
        """
        condition = self.waits_for.get(job_id)
        if condition is None or self.is_finished or self.ending is not None:
            return []
        if not Condition(condition).is_met(state):
            return self.unschedulable(failed_dependency_text(job_id, state), now_ms, FailureCode.DEPENDENCY_FAILED)
        del self.waits_for[job_id]
        for task in self.tasks:
            if not task.is_finished:
                task.not_before_ms = now_ms
                self._mark_changed(task)
        return self.submit()

    def gang_placed(self, gang_id: str, workers: Sequence[WorkerIdentity], now_ms: int = 0) -> list[Instruction]:
        """Start the attempts of a gang at the time `now_ms`. The gang must have its allocation and its workers.

        Args:
            gang_id: The id of the gang.
            workers: The workers that serve the gang's slots, in the order of the gang's tasks.
        """
        gang = self.gangs.get(gang_id)
        if gang is None or gang.placed:
            return []
        gang.placed = True
        starts: list[Instruction] = []
        for index, worker in zip(gang.task_indices, workers, strict=True):
            attempt = self.tasks[index].start_attempt(worker, now_ms)
            self._mark_changed(self.tasks[index])
            self.transitions.append(Transition(attempt.state, index, attempt.attempt_id))
            starts.append(StartAttempt(index, attempt.attempt_id, worker.worker_id))
        self.update_state()
        return starts

    def attempt_running(self, task_index: int, attempt_id: int, started_at_ms: int) -> list[Instruction]:
        """Record that the process of an attempt has started."""
        task = self.tasks[task_index]
        if task.attempt_is_running(attempt_id, started_at_ms):
            self.started_at_ms = self.started_at_ms or started_at_ms
            self._mark_changed(task)
            self.transitions.append(Transition(RUNNING, task_index, attempt_id))
            self.update_state()
        return []

    def attempt_ended(self, task_index: int, attempt_id: int, end: AttemptEnd, now_ms: int = 0) -> list[Instruction]:
        """Record the end of an attempt, unless its worker was lost (see `attempts_lost`).

        Args:
            task_index: The index of the task in its job, from 0.
            attempt_id: The number of the attempt, from 0.
            end: How the attempt ended, with times by the worker's clock.
            now_ms: When a retry pause begins, by the controller's clock. With 0, the pause begins at the time in `end`.
        """
        return self._attempts_ended({task_index: attempt_id}, end, now_ms or end.finished_at_ms)

    def attempts_lost(
        self, attempts: Mapping[int, int], error: str, now_ms: int, failure: int = FailureCode.WORKER_LOST
    ) -> list[Instruction]:
        """Record that attempts were lost with their worker. A lost attempt is charged to the preemption budget, unless
        the attempt was being stopped.

        Args:
            attempts: The ids of the lost attempts, by task index.
            error: Why the attempts were lost.
            now_ms: The present time, in milliseconds since the epoch.
            failure: The code of `error`, a `FailureCode`.
        """
        return self._attempts_ended(attempts, AttemptEnd(WORKER_FAILED, now_ms, error=error, failure=failure), now_ms)

    def live_attempts(self, task_indices: Iterable[int] | None = None) -> dict[int, TaskAttempt]:
        """Return the live attempts of the given tasks, by task index. Without an argument, return the live attempts of
        all tasks.
        """
        tasks = self.tasks if task_indices is None else [self.tasks[index] for index in task_indices]
        return {task.task_index: attempt for task in tasks if (attempt := task.live_attempt) is not None}

    def is_attempt_live(self, task_index: int, attempt_id: int) -> bool:
        """Return whether an attempt has not ended yet."""
        attempt = self.tasks[task_index].live_attempt
        return attempt is not None and attempt.attempt_id == attempt_id

    def allocation_lost(self, gang_id: str) -> list[Instruction]:
        """Request a new allocation for a gang. The gang has lost its request or its allocation before its attempts
        started.
        """
        gang = self.gangs.get(gang_id)
        if gang is None or gang.placed:
            return []
        instructions = self._request_again(gang)
        self.update_state()
        return instructions

    def unschedulable(self, error: str, now_ms: int, failure: int = FailureCode.UNPLACEABLE) -> list[Instruction]:
        """End the job as UNSCHEDULABLE: it was not placed in time, can never be placed, or has a failed dependency."""
        return self._end(UNSCHEDULABLE, (error, failure), (error, failure), now_ms)

    def terminate(self, error: str, now_ms: int, failure: int = FailureCode.TERMINATED) -> list[Instruction]:
        """End the job as KILLED, for example on a user's request, or because its parent job has ended."""
        return self._end(KILLED, (error, failure), (error, failure), now_ms)

    def time_out(self, error: str, now_ms: int, failure: int = FailureCode.JOB_TIMEOUT) -> list[Instruction]:
        """Fail the job, because its job timeout has expired, or because it seems to hang."""
        why = (error, failure)
        return self._end(FAILED, why, why, now_ms)

    def terminate_task(self, task_index: int, error: str, now_ms: int) -> list[Instruction]:
        """End one task on a user's request, without a retry. The other tasks continue.

        A gang may lack up to `max_task_failures` of its tasks. If more tasks are missing, the job ends, because the
        remaining tasks of the gang would wait forever for the missing tasks.
        """
        task = self.tasks[task_index]
        if task.is_finished or task.stop is Stop.TASK or self.ending is not None:
            return []
        instructions: list[Instruction] = []
        waits = task.live_attempt is None
        if waits:
            task.finish_unstarted(KILLED, error, now_ms, FailureCode.TERMINATED)
            self.transitions.append(Transition(KILLED, task_index))
        else:
            instructions += task.request_final_stop(Stop.TASK, error, FailureCode.TERMINATED)
        self._mark_changed(task)
        self.deferred.pop(task_index, None)
        gang = self.gangs.get(task.gang_id)  # A job that waits for other jobs has no gang yet, so the result is None.
        missing = sum(one.state in (FAILED, KILLED) or one.stop is Stop.TASK for one in self.tasks)
        if self.coscheduled and missing > self.max_task_failures:
            text = f"task {task_index} was {error}"
            why, stop_why = (text, FailureCode.TERMINATED), (f"Job ended: {text}", FailureCode.JOB_ENDED)
            return instructions + self._end(KILLED, why, stop_why, now_ms)
        if waits and gang is not None and not gang.placed:
            instructions += self._request_again(gang)
        self.update_state(now_ms)
        return instructions

    # What the next methods do after attempts have ended:
    # 1. If the end of the job is decided, the remaining attempts are stopped.
    # 2. If a task has to be retried, its gang restarts: the gang's other attempts are stopped, without a charge to a
    #    retry budget. A job with a rendezvous ends instead of restarting if one of its tasks has succeeded, because the
    #    retried tasks would wait for that task forever.
    # 3. If a gang has no live attempts, its allocation is released, and its PENDING tasks request a new allocation.
    # 4. If every task is final, the job is final.

    def _attempts_ended(self, attempts: Mapping[int, int], end: AttemptEnd, now_ms: int) -> list[Instruction]:
        ended = []
        # `unasked` is a task whose attempt was killed on its worker without a request of the controller.
        unasked = None
        exit_codes = ExitCodeRules(self.retry_on, self.fail_on)
        for task_index, attempt_id in attempts.items():
            task = self.tasks[task_index]
            asked = task.stop is not None
            if task.end_attempt(attempt_id, end, exit_codes):
                self._mark_changed(task)
                self.transitions.append(Transition(end.state, task_index, attempt_id, task.state == PENDING))
                ended.append(task)
                if task.state == KILLED and not asked:
                    unasked = task
        instructions: list[Instruction] = []
        if self.ending is None:
            instructions += self._end_if_enough(ended, unasked, end.finished_at_ms)
        for gang in {task.gang_id: self.gangs.get(task.gang_id) for task in ended}.values():
            if gang is not None:
                instructions += self._continue_gang(gang, now_ms)
        self.update_state(end.finished_at_ms)
        return instructions

    def _end_if_enough(self, ended: Sequence[Task], unasked: Task | None, now_ms: int) -> list[Instruction]:
        for task in ended:
            if task.state in (FAILED, WORKER_FAILED) and self.first_failed is None:
                self.first_failed = task.task_index
        verdict = judge(ended, unasked, self.tasks, self.tally, self.max_task_failures, self.first_failed)
        if verdict is None:
            return []
        self.first_failed = verdict.first_failed
        return self._end(verdict.state, verdict.why, verdict.stopped, now_ms)

    def _continue_gang(self, gang: Gang, now_ms: int) -> list[Instruction]:
        """Return the instructions for a gang after some of its attempts have ended."""
        live, waits = self.tally.count(BUILDING) + self.tally.count(RUNNING), self.tally.count(PENDING)
        if self.rendezvous and waits and self.tally.count(SUCCEEDED):
            return self._end_incomplete_rendezvous(now_ms)
        if self.coscheduled and live and (gang.restarting or not waits):
            return []  # Return early. Otherwise each report of a large gang would loop over all tasks of the gang.
        members = [self.tasks[index] for index in gang.task_indices]
        waiting = [task for task in members if task.state == PENDING]
        instructions: list[Instruction] = []
        if waiting and not gang.restarting:
            instructions += self._restart_gang(gang, members, waiting)
        if not any(task.live_attempt for task in members):
            for task in waiting:
                pause_ms = pause_before(task.retries_in_row, self.retry_pause_ms, gang.gang_id)
                task.not_before_ms = now_ms + pause_ms
            instructions += self._request_again(gang)
        return instructions

    def _restart_gang(self, gang: Gang, members: Sequence[Task], waiting: Sequence[Task]) -> list[StopAttempt]:
        """Count a retry for the gang, and stop its live attempts."""
        gang.restarting = True
        ran_ms = max(task.attempts[-1].ran_ms for task in waiting)
        row = next_in_row(max(task.retries_in_row for task in waiting), ran_ms)
        for task in members:
            if not task.is_finished:
                task.retries_in_row = row
                self._mark_changed(task)
        return [task.request_stop(Stop.RESTART) for task in members if task.live_attempt and not task.stop]

    def _end_incomplete_rendezvous(self, now_ms: int) -> list[Instruction]:
        """End a job with a rendezvous, because a task needs a retry after another task has succeeded. The retried task
        would wait forever for the succeeded task.
        """
        culprit = self.tasks[culprit_of([task for task in self.tasks if task.state == PENDING])]
        gone = next(task for task in self.tasks if task.state == SUCCEEDED)
        text, stopped_text = incomplete_rendezvous_texts(culprit, gone)
        culprit.give_up(text, FailureCode.PEER_SUCCEEDED)
        self.transitions.append(Transition(culprit.state, culprit.task_index))
        self._mark_changed(culprit)
        self.first_failed = culprit.task_index
        return self._end(culprit.state, (culprit.error, culprit.failure), (stopped_text, FailureCode.JOB_ENDED), now_ms)

    def _request_again(self, gang: Gang) -> list[Instruction]:
        """Release a gang, and request an allocation for a new gang of its PENDING tasks."""
        del self.gangs[gang.gang_id]
        waiting = [self.tasks[index] for index in gang.task_indices if self.tasks[index].state == PENDING]
        return [ReleaseAllocation(gang.gang_id), *self._request_tasks(waiting)]

    def _end(self, state: int, why: Why, stopped: Why, now_ms: int) -> list[Instruction]:
        """Begin to end the job, and stop its live attempts. If the job has ended or is ending, nothing changes.

        Args:
            state: The final state of the job.
            why: The error text of the job, with its code.
            stopped: The error of each task that is stopped, or that never starts.
            now_ms: The present time, in milliseconds since the epoch.
        """
        if self.is_finished or self.ending is not None:
            return []
        self.ending, (self.error, self.failure) = state, why
        self.deferred.clear()
        instructions: list[Instruction] = []
        for task in self.tasks:
            if task.stop is Stop.TASK:
                continue
            if task.live_attempt is not None:
                instructions += task.request_final_stop(Stop.END, *stopped)
                self._mark_changed(task)
            elif not task.is_finished:
                task.finish_unstarted(state if state == UNSCHEDULABLE else KILLED, stopped[0], now_ms, stopped[1])
                self.transitions.append(Transition(task.state, task.task_index))
                self._mark_changed(task)
        for gang in list(self.gangs.values()):
            if not any(self.tasks[index].live_attempt for index in gang.task_indices):
                del self.gangs[gang.gang_id]
                instructions.append(ReleaseAllocation(gang.gang_id))
        self.update_state(now_ms)
        return instructions

    def _request_tasks(self, tasks: Sequence[Task]) -> list[Instruction]:
        """Request allocations for PENDING tasks. With `max_parallel`, tasks that were deferred earlier come first."""
        if not self.max_parallel:
            return self._request_gangs(tasks) if tasks else []
        for task in tasks:
            task.gang_id = ""
            self._mark_changed(task)
            self.deferred[task.task_index] = None
        due = list(itertools.islice(self.deferred, max(0, self.max_parallel - len(self.gangs))))
        for index in due:
            del self.deferred[index]
        return self._request_gangs([self.tasks[index] for index in due])

    def _request_gangs(self, tasks: Sequence[Task]) -> list[Instruction]:
        requests: list[Instruction] = []
        for group in [tasks] if self.coscheduled else [[task] for task in tasks]:
            indices = tuple(task.task_index for task in group)
            gang = Gang(make_gang_id(self.job_id, self.rounds), indices, culprit_of(group))
            self.rounds += 1
            self.gangs[gang.gang_id] = gang
            for task in group:
                task.gang_id = gang.gang_id
                self._mark_changed(task)
            not_before_ms = max(task.not_before_ms for task in group)
            requests.append(RequestAllocation(gang.gang_id, gang.task_indices, not_before_ms))
        return requests

    def update_state(self, now_ms: int = 0) -> None:
        """Derive the state of the job from its tasks. Increase the revision of the job, unless the job had already
        ended.
        """
        if self.is_finished:
            return
        before = self.state
        rolled_up = roll_up(self.tally, self.max_task_failures)
        if self.tally.all_finished:
            # If enough tasks have succeeded, the job has succeeded, even if another end was decided before.
            self.state = rolled_up if self.ending is None or rolled_up == SUCCEEDED else self.ending
            self.finished_at_ms = max(now_ms, *(task.finished_at_ms for task in self.tasks))
            if self.state == SUCCEEDED:
                self.error, self.failure = "", FailureCode.UNSPECIFIED
            elif self.state == KILLED and not self.error:
                self.error, self.failure = terminated_tasks_text(self.tasks), FailureCode.TERMINATED
        elif self.ending is None:
            self.state = rolled_up
        # After its end is decided, a job keeps its state until the last attempt has ended. Therefore a final state
        # never changes, and the logs are complete once the state is final.
        if self.state != before:
            self.transitions.append(Transition(self.state))
        self.revision += 1

    def _mark_changed(self, task: Task) -> None:
        # The revision is one higher than the present one, because the next call of `update_state` increases it.
        self.changes.note((task,), self.revision + 1)
        self.tally.recount(task)
