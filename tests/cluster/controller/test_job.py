"""The state machine of a job: its state, its retry budgets, and the instructions that follow from each event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from iris.cluster.controller.jobs.instructions import ReleaseAllocation, RequestAllocation, StartAttempt, StopAttempt
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_state import EXCEEDED_FAILURES, roll_up
from iris.cluster.controller.jobs.recovery import disown, recover
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
    WorkerIdentity,
)
from iris.cluster.controller.scheduling.waiting.reasons import PendingReason
from iris.cluster.types import state_name

STATES = {
    "P": PENDING,
    "B": BUILDING,
    "R": RUNNING,
    "S": SUCCEEDED,
    "F": FAILED,
    "K": KILLED,
    "W": WORKER_FAILED,
    "U": UNSCHEDULABLE,
}
LETTERS = {state: letter for letter, state in STATES.items()}
LOST = "worker w0 was lost"


def end(state: int, error: str = "", *, at: int = 3000, exit_code: int | None = None) -> AttemptEnd:
    return AttemptEnd(state, at, exit_code=exit_code, error=error or f"it {state_name(state)}")


def places(indices: Sequence[int]) -> list[WorkerIdentity]:
    return [WorkerIdentity(f"w{index}", f"http://w{index}", "0") for index in indices]


def submitted(
    replicas: int,
    *,
    coscheduled: bool = True,
    tolerated: int = 0,
    retries: int = 0,
    preemptions: int = 100,
    rendezvous: bool = False,
    max_parallel: int = 0,
) -> Job:
    """Return a job that has requested its allocations."""
    job = Job.new(
        "job",
        replicas,
        1000,
        coscheduled=coscheduled,
        max_task_failures=tolerated,
        max_retries_failure=retries,
        max_retries_preemption=preemptions,
        rendezvous=rendezvous,
        max_parallel=max_parallel,
    )
    job.submit()
    return job


def placed(job: Job) -> Job:
    """Place all gangs of the job, task n on worker wn, and return the job."""
    for gang in list(job.gangs.values()):
        if not gang.placed:
            job.gang_placed(gang.gang_id, places(gang.task_indices))
    return job


def running(job: Job) -> Job:
    """Start the processes of all tasks, and return the job."""
    for index, attempt in placed(job).live_attempts().items():
        job.attempt_running(index, attempt.attempt_id, 2000)
    return job


def states(job: Job) -> str:
    """Return one letter for the state of each task, and the state of the job."""
    return "".join(LETTERS[task.state] for task in job.tasks) + " " + state_name(job.state)


def budgets(job: Job) -> list[tuple[int, int]]:
    return [(task.failure_count, task.preemption_count) for task in job.tasks]


# The roll-up.


@pytest.mark.parametrize(
    ("tasks", "tolerated", "state"),
    [
        ("KR", 0, RUNNING),  # a user has ended one task, and the others continue
        ("KP", 0, RUNNING),
        ("KB", 0, BUILDING),
        ("FKR", 1, RUNNING),
        ("FK", 1, KILLED),
        ("FKS", 1, KILLED),
        ("UR", 0, UNSCHEDULABLE),
        ("P", 0, PENDING),
        ("PPP", 0, PENDING),
        ("PB", 0, BUILDING),
        ("BB", 0, BUILDING),
        ("BR", 0, RUNNING),
        ("PR", 0, RUNNING),
        ("R", 0, RUNNING),
        ("RS", 0, RUNNING),
        ("PS", 0, RUNNING),  # one task has ended, and another waits
        ("BS", 0, BUILDING),
        ("SS", 0, SUCCEEDED),
        ("F", 0, FAILED),
        ("FR", 0, FAILED),  # although another task runs
        ("FP", 0, FAILED),
        ("FS", 0, FAILED),
        ("FR", 1, RUNNING),
        ("FP", 1, RUNNING),
        ("FS", 1, SUCCEEDED),
        ("F", 1, SUCCEEDED),
        ("FFS", 1, FAILED),
        ("FFS", 2, SUCCEEDED),
        ("FFFF", 9, SUCCEEDED),
        ("FKK", 0, FAILED),
        ("WS", 0, WORKER_FAILED),
        ("WR", 5, WORKER_FAILED),  # only failures are tolerated, not lost workers
        ("FW", 0, FAILED),
        ("FW", 1, WORKER_FAILED),
        ("KS", 0, KILLED),
        ("KK", 0, KILLED),
        ("UU", 0, UNSCHEDULABLE),
    ],
)
def test_state_of_a_job_follows_from_the_states_of_its_tasks(tasks: str, tolerated: int, state: int) -> None:
    for order in (tasks, tasks[::-1]):
        assert state_name(roll_up([STATES[letter] for letter in order], tolerated)) == state_name(state)


# The instructions in the life of a gang.


def test_gang_requests_one_allocation_and_starts_together() -> None:
    job = Job.new("job", 3, 1000)
    assert job.submit() == [RequestAllocation("job@0", (0, 1, 2), 1000)]
    assert states(job) == "PPP PENDING"
    assert job.gang_placed("job@0", places([0, 1, 2])) == [
        StartAttempt(0, 0, "w0"),
        StartAttempt(1, 0, "w1"),
        StartAttempt(2, 0, "w2"),
    ]
    assert states(job) == "BBB BUILDING"
    assert job.gang_placed("job@0", places([0, 1, 2])) == []
    assert job.attempt_running(1, 0, 2000) == []
    assert states(job) == "BRB RUNNING"
    assert job.started_at_ms == 2000
    assert job.attempt_ended(1, 0, end(SUCCEEDED)) == []
    assert job.attempt_ended(0, 0, end(SUCCEEDED)) == []
    assert job.attempt_ended(2, 0, end(SUCCEEDED, at=4000)) == [ReleaseAllocation("job@0")]
    assert states(job) == "SSS SUCCEEDED"
    assert (job.finished_at_ms, job.error, job.first_failed, job.gangs) == (4000, "", None, {})


def test_independent_tasks_request_allocations_and_start_one_by_one() -> None:
    job = Job.new("job", 2, 1000, coscheduled=False)
    assert job.submit() == [RequestAllocation("job@0", (0,), 1000), RequestAllocation("job@1", (1,), 1000)]
    assert job.gang_placed("job@1", places([1])) == [StartAttempt(1, 0, "w1")]
    assert states(job) == "PB BUILDING"
    assert job.attempt_ended(1, 0, end(SUCCEEDED)) == [ReleaseAllocation("job@1")]
    assert states(job) == "PS RUNNING"
    assert job.gang_placed("job@0", places([0])) == [StartAttempt(0, 0, "w0")]
    assert job.attempt_ended(0, 0, end(SUCCEEDED)) == [ReleaseAllocation("job@0")]
    assert states(job) == "SS SUCCEEDED"


def test_tasks_beyond_max_parallel_request_allocations_as_earlier_tasks_end() -> None:
    job = Job.new("job", 4, 1000, coscheduled=False, max_parallel=2)
    assert job.submit() == [RequestAllocation("job@0", (0,), 1000), RequestAllocation("job@1", (1,), 1000)]
    assert list(job.deferred) == [2, 3]
    job.gang_placed("job@0", places([0]))
    assert job.attempt_ended(0, 0, end(SUCCEEDED)) == [
        ReleaseAllocation("job@0"),
        RequestAllocation("job@2", (2,), 1000),
    ]
    assert list(job.deferred) == [3]
    assert states(job) == "SPPP RUNNING"


def test_retried_task_waits_behind_the_tasks_that_max_parallel_has_deferred() -> None:
    job = submitted(3, coscheduled=False, retries=1, max_parallel=1)
    job.gang_placed("job@0", places([0]))
    assert job.attempt_ended(0, 0, end(FAILED)) == [ReleaseAllocation("job@0"), RequestAllocation("job@1", (1,), 1000)]
    assert list(job.deferred) == [2, 0]


def test_end_of_a_job_ends_the_tasks_that_max_parallel_has_deferred() -> None:
    job = submitted(3, coscheduled=False, max_parallel=1)
    assert job.terminate("terminated by a user", 5000) == [ReleaseAllocation("job@0")]
    assert (states(job), job.deferred) == ("KKK KILLED", {})


def test_terminated_deferred_task_never_requests_an_allocation() -> None:
    job = submitted(3, coscheduled=False, max_parallel=1)
    assert job.terminate_task(1, "terminated by a user", 5000) == []
    job.gang_placed("job@0", places([0]))
    assert job.attempt_ended(0, 0, end(SUCCEEDED))[1:] == [RequestAllocation("job@1", (2,), 1000)]


def test_recovered_job_keeps_its_deferred_tasks_and_max_parallel() -> None:
    job = reloaded(submitted(3, coscheduled=False, max_parallel=1))
    assert recover(job, {"job@0": None}, 9000) == []
    assert list(job.deferred) == [1, 2]
    # Without the gang at the engine, the first task loses its turn.
    assert recover(job, {}, 9000) == [ReleaseAllocation("job@0"), RequestAllocation("job@1", (1,), 1000)]
    assert list(job.deferred) == [2, 0]


def test_allocation_lost_before_its_gang_started_is_requested_again() -> None:
    job = submitted(2)
    assert job.allocation_lost("job@0") == [ReleaseAllocation("job@0"), RequestAllocation("job@1", (0, 1), 1000)]
    assert job.allocation_lost("job@0") == []
    assert job.gang_placed("job@0", places([0, 1])) == []
    assert job.gang_placed("job@1", places([0, 1])) == [StartAttempt(0, 0, "w0"), StartAttempt(1, 0, "w1")]
    assert job.allocation_lost("job@1") == []  # after the start, only workers report losses


def test_loss_of_an_allocation_increases_the_revision_of_the_job() -> None:
    job = submitted(2)
    before = job.revision
    job.allocation_lost("job@0")
    # Otherwise the store would keep the old gang, and gang ids would be used twice after a restart.
    assert job.revision > before
    assert all(task.revision == job.revision for task in job.tasks)


def test_failure_without_an_error_text_fails_the_job() -> None:
    job = running(submitted(1))
    assert job.attempt_ended(0, 0, AttemptEnd(FAILED, 4000)) == [ReleaseAllocation("job@0")]
    assert (job.state, job.error) == (FAILED, "")


def test_same_waiting_reason_set_twice_is_one_change() -> None:
    job = submitted(2)
    before = job.revision
    reason = PendingReason(engine_problem="no network")
    assert job.explain_waiting("job@0", reason)
    assert job.revision == before + 1
    assert [task.revision for task in job.tasks] == [job.revision] * 2
    assert not job.explain_waiting("job@0", reason)
    assert not job.explain_waiting("job@7", PendingReason())
    assert job.revision == before + 1


# Failures and budgets.


def test_failure_beyond_max_task_failures_ends_the_job() -> None:
    job = running(submitted(4))
    assert job.attempt_ended(0, 0, end(SUCCEEDED)) == []
    assert job.attempt_ended(2, 0, end(FAILED, "exit code 3", exit_code=3)) == [
        StopAttempt(1, 0, "w1"),
        StopAttempt(3, 0, "w3"),
    ]
    assert states(job) == "SRFR RUNNING"  # not final while an attempt is live
    assert (job.ending, job.error, job.first_failed) == (FAILED, "exit code 3", 2)
    assert job.attempt_ended(1, 0, end(KILLED, "stopped; it ended by SIGTERM")) == []
    assert job.attempt_ended(3, 0, end(KILLED, at=5000)) == [ReleaseAllocation("job@0")]
    assert states(job) == "SKFK FAILED"
    assert [task.error for task in job.tasks] == ["", EXCEEDED_FAILURES, "exit code 3", EXCEEDED_FAILURES]
    assert EXCEEDED_FAILURES == "Job exceeded max_task_failures"
    assert (job.finished_at_ms, job.error) == (5000, "exit code 3")
    assert budgets(job) == [(0, 0), (0, 0), (1, 0), (0, 0)]


def test_failed_job_ends_its_building_and_waiting_tasks() -> None:
    job = submitted(3, coscheduled=False)
    job.gang_placed("job@0", places([0]))
    job.gang_placed("job@1", places([1]))
    assert states(job) == "BBP BUILDING"
    assert job.attempt_ended(0, 0, end(FAILED)) == [
        StopAttempt(1, 0, "w1"),
        ReleaseAllocation("job@0"),
        ReleaseAllocation("job@2"),
    ]
    assert states(job) == "FBK BUILDING"
    assert job.attempt_ended(1, 0, end(KILLED)) == [ReleaseAllocation("job@1")]
    assert states(job) == "FKK FAILED"
    assert [task.error for task in job.tasks[1:]] == [EXCEEDED_FAILURES] * 2


@pytest.mark.parametrize("tolerated", [0, 1, 2, 3])
def test_job_succeeds_with_tolerated_failures(tolerated: int) -> None:
    job = running(submitted(3, tolerated=tolerated))
    for index in range(min(tolerated, 3)):
        job.attempt_ended(index, 0, end(FAILED, f"failure {index}"))
        assert job.ending is None
    if tolerated < 3:
        job.attempt_ended(tolerated, 0, end(FAILED, "one too many"))
        for index in range(tolerated + 1, 3):
            job.attempt_ended(index, 0, end(KILLED))
        assert states(job) == "F" * (tolerated + 1) + "K" * (2 - tolerated) + " FAILED"
        assert job.error == ("failure 0" if tolerated else "one too many")  # the error of the first failed task
        assert [task.error for task in job.tasks[tolerated + 1 :]] == [EXCEEDED_FAILURES] * (2 - tolerated)
    else:
        assert states(job) == "FFF SUCCEEDED"
        assert job.error == ""
    assert job.first_failed == 0
    assert job.gangs == {}


def test_tolerated_failure_does_not_release_the_allocation_of_its_gang() -> None:
    job = running(submitted(2, tolerated=1))
    assert job.attempt_ended(0, 0, end(FAILED)) == []
    assert states(job) == "FR RUNNING"
    assert job.attempt_ended(1, 0, end(SUCCEEDED)) == [ReleaseAllocation("job@0")]
    assert states(job) == "FS SUCCEEDED"


@pytest.mark.parametrize("how", [FAILED, WORKER_FAILED])
def test_retry_restarts_the_gang_and_charges_only_the_failed_task(how: int) -> None:
    job = running(submitted(3, retries=1))
    stops = [StopAttempt(0, 0, "w0"), StopAttempt(2, 0, "w2")]
    if how == FAILED:
        assert job.attempt_ended(1, 0, end(FAILED)) == stops
    else:
        assert job.attempts_lost({1: 0}, LOST, 3000) == stops
    assert states(job) == "RPR RUNNING"
    assert job.attempt_ended(0, 0, end(KILLED)) == []
    assert states(job) == "PPR RUNNING"
    assert job.attempt_ended(2, 0, end(KILLED)) == [
        ReleaseAllocation("job@0"),
        RequestAllocation("job@1", (0, 1, 2), 3000),
    ]
    assert states(job) == "PPP PENDING"
    assert [task.attempts[0].state for task in job.tasks] == [KILLED, how, KILLED]
    assert budgets(job) == [(0, 0), (1, 0) if how == FAILED else (0, 1), (0, 0)]
    assert job.gang_placed("job@1", places([0, 1, 2])) == [StartAttempt(i, 1, f"w{i}") for i in range(3)]
    for index in range(3):
        job.attempt_ended(index, 1, end(SUCCEEDED))
    assert states(job) == "SSS SUCCEEDED"
    assert (job.first_failed, job.error) == (None, "")


@pytest.mark.parametrize("how", [FAILED, KILLED, WORKER_FAILED])
def test_other_attempts_that_end_during_a_gang_restart_are_not_charged_to_a_retry_budget(how: int) -> None:
    job = running(submitted(3, retries=1, preemptions=1))
    job.attempt_ended(1, 0, end(FAILED))
    if how == WORKER_FAILED:
        assert job.attempts_lost({0: 0, 2: 0}, LOST, 3000)[-1] == RequestAllocation("job@1", (0, 1, 2), 3000)
    else:
        job.attempt_ended(0, 0, end(how))
        assert job.attempt_ended(2, 0, end(how))[-1] == RequestAllocation("job@1", (0, 1, 2), 3000)
    assert budgets(job) == [(0, 0), (1, 0), (0, 0)]
    assert states(job) == "PPP PENDING"


def test_task_that_succeeds_during_a_gang_restart_has_succeeded_for_good() -> None:
    job = running(submitted(3, retries=1))
    job.attempt_ended(0, 0, end(SUCCEEDED))
    assert job.attempt_ended(1, 0, end(FAILED)) == [StopAttempt(2, 0, "w2")]
    assert job.attempt_ended(2, 0, end(SUCCEEDED)) == [
        ReleaseAllocation("job@0"),
        RequestAllocation("job@1", (1,), 3000),
    ]
    assert states(job) == "SPS RUNNING"
    assert job.gang_placed("job@1", places([1])) == [StartAttempt(1, 1, "w1")]
    assert job.attempt_ended(1, 1, end(SUCCEEDED)) == [ReleaseAllocation("job@1")]
    assert states(job) == "SSS SUCCEEDED"
    assert [len(task.attempts) for task in job.tasks] == [1, 2, 1]


@pytest.mark.parametrize("how", [FAILED, WORKER_FAILED])
def test_job_with_a_rendezvous_ends_if_a_task_needs_a_retry_after_another_task_has_succeeded(how: int) -> None:
    job = running(submitted(4, retries=9, rendezvous=True))
    assert job.attempt_ended(2, 0, end(SUCCEEDED)) == []
    stops = job.attempts_lost({1: 0}, LOST, 4000) if how == WORKER_FAILED else job.attempt_ended(1, 0, end(how, LOST))
    assert stops == [StopAttempt(0, 0, "w0"), StopAttempt(3, 0, "w3")]
    assert states(job) == f"R{LETTERS[how]}SR RUNNING"
    assert job.error == job.tasks[1].error
    assert job.error == (
        f"{LOST}; it is not tried again, since task 2 has succeeded already,"
        " and the tasks of a rendezvous only start together"
    )
    job.attempt_ended(0, 0, end(KILLED))
    assert job.attempt_ended(3, 0, end(KILLED)) == [ReleaseAllocation("job@0")]
    assert states(job) == f"K{LETTERS[how]}SK {state_name(how)}"
    assert job.first_failed == 1
    assert job.tasks[0].error == "Job ended: task 1 cannot be tried again without task 2"


def test_job_with_a_rendezvous_ends_if_a_task_succeeds_during_a_restart_of_the_gang() -> None:
    job = running(submitted(3, retries=9, rendezvous=True))
    stops = job.attempt_ended(1, 0, end(FAILED, "boom", exit_code=7))
    assert stops == [StopAttempt(0, 0, "w0"), StopAttempt(2, 0, "w2")]
    assert job.attempt_ended(0, 0, end(SUCCEEDED)) == [], "the stop of task 2 is under way already"
    assert states(job) == "SFR RUNNING"
    assert job.attempt_ended(2, 0, end(KILLED)) == [ReleaseAllocation("job@0")]
    assert states(job) == "SFK FAILED"
    assert (job.first_failed, job.tasks[1].exit_code) == (1, 7)
    assert job.error.startswith("boom; it is not tried again, since task 0 has succeeded already")


def test_job_with_a_rendezvous_restarts_all_tasks_if_no_task_has_succeeded() -> None:
    job = running(submitted(2, retries=1, rendezvous=True))
    assert job.attempt_ended(1, 0, end(FAILED)) == [StopAttempt(0, 0, "w0")]
    assert job.attempt_ended(0, 0, end(KILLED)) == [
        ReleaseAllocation("job@0"),
        RequestAllocation("job@1", (0, 1), 3000),
    ]


def test_independent_task_is_retried_alone() -> None:
    job = running(submitted(2, coscheduled=False, retries=1))
    assert job.attempt_ended(0, 0, end(FAILED)) == [ReleaseAllocation("job@0"), RequestAllocation("job@2", (0,), 3000)]
    assert states(job) == "PR RUNNING"
    assert job.attempts_lost({1: 0}, LOST, 3000) == [ReleaseAllocation("job@1"), RequestAllocation("job@3", (1,), 3000)]
    assert states(job) == "PP PENDING"
    assert budgets(job) == [(1, 0), (0, 1)]


# (failure budget, preemption budget), ends of the attempts of task 0 -> state of the job, charges to both budgets.
BUDGETS = [
    ((0, 0), "F", FAILED, (1, 0)),
    ((0, 0), "W", WORKER_FAILED, (0, 1)),
    ((0, 0), "S", SUCCEEDED, (0, 0)),
    ((1, 0), "FF", FAILED, (2, 0)),
    ((1, 0), "FS", SUCCEEDED, (1, 0)),
    ((1, 0), "FW", WORKER_FAILED, (1, 1)),
    ((0, 2), "WWS", SUCCEEDED, (0, 2)),
    ((0, 2), "WWW", WORKER_FAILED, (0, 3)),
    ((0, 2), "WWF", FAILED, (1, 2)),
    ((2, 2), "WFWFS", SUCCEEDED, (2, 2)),
    ((2, 2), "WFWFF", FAILED, (3, 2)),
    ((2, 2), "FWFWW", WORKER_FAILED, (2, 3)),
    ((9, 9), "FFFFFFFFFWWWWWWWWWS", SUCCEEDED, (9, 9)),
]


@pytest.mark.parametrize("coscheduled", [True, False], ids=["gang", "independent"])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(("budget", "ends", "state", "charged"), BUDGETS)
def test_retry_budgets_decide_how_many_times_a_task_is_retried(
    budget: tuple[int, int], ends: str, state: int, charged: tuple[int, int], replicas: int, coscheduled: bool
) -> None:
    job = submitted(replicas, coscheduled=coscheduled, retries=budget[0], preemptions=budget[1])
    for number, how in enumerate(ends):
        assert job.ending is None
        running(job)
        if how == "W":
            job.attempts_lost({0: number}, LOST, 3000)
        else:
            job.attempt_ended(0, number, end(STATES[how]))
        for index in [index for index in job.live_attempts() if job.tasks[index].stop]:
            job.attempt_ended(index, job.tasks[index].attempts[-1].attempt_id, end(KILLED))
    for index, attempt in job.live_attempts().items():
        job.attempt_ended(index, attempt.attempt_id, end(SUCCEEDED))
    assert state_name(job.state) == state_name(state)
    assert budgets(job) == [charged] + [(0, 0)] * (replicas - 1)
    assert [LETTERS[attempt.state] for attempt in job.tasks[0].attempts] == list(ends)
    if state != SUCCEEDED:
        assert job.first_failed == 0
        assert job.error == job.tasks[0].error
    assert job.gangs == {}


def test_lost_worker_after_the_preemption_budget_is_used_up_ends_the_job_as_worker_failed() -> None:
    job = running(submitted(3, preemptions=0))
    assert job.attempts_lost({1: 0}, LOST, 3000) == [StopAttempt(0, 0, "w0"), StopAttempt(2, 0, "w2")]
    job.attempt_ended(0, 0, end(KILLED))
    assert job.attempt_ended(2, 0, end(KILLED)) == [ReleaseAllocation("job@0")]
    assert states(job) == "KWK WORKER_FAILED"
    assert (job.error, job.tasks[1].error) == (LOST, LOST)
    assert all(LOST in task.error for task in job.tasks)


def test_lost_worker_is_charged_once_to_the_preemption_budget_of_each_of_its_tasks() -> None:
    job = running(submitted(3, preemptions=1))
    assert job.attempts_lost({0: 0, 1: 0}, LOST, 3000) == [StopAttempt(2, 0, "w2")]
    job.attempt_ended(2, 0, end(KILLED))
    assert budgets(job) == [(0, 1), (0, 1), (0, 0)]
    assert job.attempts_lost({0: 0, 1: 0}, LOST, 4000) == []
    assert budgets(job) == [(0, 1), (0, 1), (0, 0)]


def test_error_of_a_job_is_the_error_of_its_first_failure() -> None:
    job = running(submitted(3))
    job.attempt_ended(2, 0, end(FAILED, "the cause"))
    job.attempt_ended(0, 0, end(FAILED, "a consequence"))
    job.attempt_ended(1, 0, end(KILLED))
    assert states(job) == "FKF FAILED"
    assert (job.error, job.first_failed) == ("the cause", 2)


def test_attempt_killed_on_its_worker_ends_the_job() -> None:
    job = running(submitted(2, retries=5))
    assert job.attempt_ended(0, 0, AttemptEnd(KILLED, 3000)) == [StopAttempt(1, 0, "w1")]
    job.attempt_ended(1, 0, end(KILLED))
    assert states(job) == "KK KILLED"
    assert "job/task-0 was killed on its worker" in job.error


# Ends that users and timeouts request.


def test_terminating_a_waiting_job_ends_it_at_once() -> None:
    job = submitted(2)
    assert job.terminate("terminated by a user", 5000) == [ReleaseAllocation("job@0")]
    assert states(job) == "KK KILLED"
    assert (job.error, job.finished_at_ms, job.gangs) == ("terminated by a user", 5000, {})
    assert [task.error for task in job.tasks] == ["terminated by a user"] * 2
    assert job.gang_placed("job@0", places([0, 1])) == []
    assert job.terminate("again", 6000) == []
    assert job.unschedulable("late", 6000) == []
    assert (job.error, job.finished_at_ms) == ("terminated by a user", 5000)


@pytest.mark.parametrize("runs", [True, False], ids=["running", "building"])
def test_terminating_a_running_job_ends_it_after_its_attempts(runs: bool) -> None:
    job = (running if runs else placed)(submitted(2))
    assert job.terminate("terminated by a user", 5000) == [StopAttempt(0, 0, "w0"), StopAttempt(1, 0, "w1")]
    assert job.ending == KILLED
    assert not job.is_finished
    assert job.terminate("again", 6000) == []
    assert job.attempt_ended(0, 0, end(KILLED)) == []
    assert not job.is_finished
    assert job.attempt_ended(1, 0, end(KILLED, at=7000)) == [ReleaseAllocation("job@0")]
    assert states(job) == "KK KILLED"
    assert (job.error, job.finished_at_ms) == ("terminated by a user", 7000)
    assert [task.error for task in job.tasks] == ["terminated by a user"] * 2
    assert job.terminate("again", 8000) == []


@pytest.mark.parametrize("coscheduled", [True, False])
@pytest.mark.parametrize(
    "stage", [submitted, lambda **more: placed(submitted(**more)), lambda **more: running(placed(submitted(**more)))]
)
def test_live_job_in_a_copied_state_directory_is_killed_without_charging_a_retry_budget(
    stage: Callable[..., Job], coscheduled: bool
) -> None:
    job = stage(replicas=3, coscheduled=coscheduled)
    disown(job, "taken elsewhere", 5000)
    assert (job.state, job.error) == (KILLED, "taken elsewhere")
    assert states(job) == "KKK KILLED"
    assert budgets(job) == [(0, 0)] * 3
    assert not job.live_attempts()
    assert not job.gangs


def test_failed_job_with_a_live_attempt_in_a_copied_state_directory_stays_failed() -> None:
    job = running(placed(submitted(replicas=2)))
    job.attempt_ended(0, 0, end(FAILED, "no luck"))
    assert not job.is_finished
    disown(job, "taken elsewhere", 5000)
    assert (job.state, job.error) == (FAILED, "no luck")
    assert not job.live_attempts()


def test_terminating_a_job_keeps_the_states_of_its_ended_tasks() -> None:
    job = running(submitted(4, tolerated=1))
    job.attempt_ended(0, 0, end(SUCCEEDED))
    job.attempt_ended(1, 0, end(FAILED, "exit code 1"))
    assert job.terminate("terminated by a user", 5000) == [StopAttempt(2, 0, "w2"), StopAttempt(3, 0, "w3")]
    job.attempt_ended(2, 0, end(SUCCEEDED))  # the task succeeded before its attempt was stopped
    job.attempts_lost({3: 0}, LOST, 6000)
    assert states(job) == "SFSK KILLED"
    assert (job.error, job.tasks[3].error) == ("terminated by a user", "terminated by a user")


def test_terminating_a_job_during_a_gang_restart_prevents_the_retry() -> None:
    job = running(submitted(3, retries=1))
    assert job.attempt_ended(0, 0, end(FAILED)) == [StopAttempt(1, 0, "w1"), StopAttempt(2, 0, "w2")]
    assert job.attempt_ended(1, 0, end(KILLED)) == []
    assert states(job) == "PPR RUNNING"
    assert job.terminate("terminated by a user", 5000) == []  # the live attempts are being stopped already
    assert job.tasks[2].stop is Stop.END
    assert states(job) == "KKR RUNNING"
    assert job.attempt_ended(2, 0, end(KILLED, at=6000)) == [ReleaseAllocation("job@0")]
    assert states(job) == "KKK KILLED"
    assert [task.error for task in job.tasks] == ["terminated by a user"] * 3


def test_terminating_a_job_releases_its_gang_that_waits_for_a_restart() -> None:
    job = running(submitted(2, retries=1))
    job.attempt_ended(0, 0, end(FAILED))
    job.attempt_ended(1, 0, end(KILLED))
    assert job.terminate("terminated by a user", 5000) == [ReleaseAllocation("job@1")]
    assert states(job) == "KK KILLED"


def test_failed_job_stops_an_independent_task_that_was_retried() -> None:
    job = running(submitted(2, coscheduled=False, retries=1))
    job.attempt_ended(0, 0, end(FAILED))
    job.attempt_ended(1, 0, end(FAILED))
    assert states(job) == "PP PENDING"
    running(job)
    assert job.attempt_ended(1, 1, end(FAILED)) == [StopAttempt(0, 1, "w0"), ReleaseAllocation("job@3")]
    assert job.attempt_ended(0, 1, end(KILLED)) == [ReleaseAllocation("job@2")]
    assert states(job) == "KF FAILED"


@pytest.mark.parametrize("coscheduled", [True, False])
def test_job_that_cannot_be_placed_ends_as_unschedulable(coscheduled: bool) -> None:
    job = submitted(2, coscheduled=coscheduled)
    released = [ReleaseAllocation("job@0")] if coscheduled else [ReleaseAllocation("job@0"), ReleaseAllocation("job@1")]
    assert job.unschedulable("not placed in time", 5000) == released
    assert states(job) == "UU UNSCHEDULABLE"
    assert [job.error, *(task.error for task in job.tasks)] == ["not placed in time"] * 3
    assert job.terminate("terminated by a user", 6000) == []


def test_unschedulable_job_stops_its_running_tasks() -> None:
    job = submitted(2, coscheduled=False)
    job.gang_placed("job@1", places([1]))
    assert job.unschedulable("not placed in time", 5000) == [StopAttempt(1, 0, "w1"), ReleaseAllocation("job@0")]
    assert job.attempt_ended(1, 0, end(KILLED)) == [ReleaseAllocation("job@1")]
    assert states(job) == "UK UNSCHEDULABLE"


def test_terminated_job_still_succeeds_if_all_its_tasks_succeed_before_they_are_stopped() -> None:
    job = running(submitted(2))
    job.terminate("terminated by a user", 5000)
    job.attempt_ended(0, 0, end(SUCCEEDED))
    job.attempt_ended(1, 0, end(SUCCEEDED))
    assert (states(job), job.error) == ("SS SUCCEEDED", "")


def test_job_timeout_fails_the_job() -> None:
    job = running(submitted(3, coscheduled=False, tolerated=1, retries=5))
    job.attempt_ended(0, 0, end(SUCCEEDED))
    job.attempt_ended(1, 0, end(FAILED))
    assert job.time_out("job timed out after 5 s", 5000) == [StopAttempt(2, 0, "w2"), ReleaseAllocation("job@3")]
    assert job.time_out("job timed out after 5 s", 6000) == []
    job.attempt_ended(2, 0, end(KILLED))
    assert states(job) == "SKK FAILED"
    assert {job.error, job.tasks[1].error, job.tasks[2].error} == {"job timed out after 5 s"}
    assert job.first_failed is None


def test_error_of_a_job_names_the_lost_worker_and_not_a_tolerated_failure() -> None:
    job = running(submitted(3, coscheduled=False, tolerated=1, preemptions=0))
    job.attempt_ended(0, 0, end(FAILED, "tolerated"))
    job.attempts_lost({1: 0}, LOST, 4000)
    job.attempt_ended(2, 0, end(KILLED))
    assert states(job) == "FWK WORKER_FAILED"
    assert (job.error, job.first_failed) == (LOST, 1)


# The termination of one task.


def test_terminated_independent_task_does_not_affect_the_other_tasks() -> None:
    job = running(submitted(3, coscheduled=False, retries=3))
    assert job.terminate_task(1, "terminated by a user", 4000) == [StopAttempt(1, 0, "w1")]
    assert job.terminate_task(1, "terminated by a user", 4001) == []
    assert job.attempt_ended(1, 0, end(KILLED)) == [ReleaseAllocation("job@1")]
    assert states(job) == "RKR RUNNING"
    assert job.terminate_task(1, "terminated by a user", 4002) == []
    job.attempt_ended(0, 0, end(FAILED))  # which is retried as usual
    running(job)
    job.attempt_ended(0, 1, end(SUCCEEDED))
    job.attempt_ended(2, 0, end(SUCCEEDED, at=7000))
    assert states(job) == "SKS KILLED"
    assert (job.error, job.first_failed, job.finished_at_ms) == ("task 1 was terminated by a user", None, 7000)
    assert budgets(job) == [(1, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize("how", [FAILED, WORKER_FAILED])
def test_terminated_task_is_killed_even_if_its_attempt_fails(how: int) -> None:
    job = running(submitted(2, coscheduled=False))
    job.terminate_task(0, "terminated by a user", 4000)
    if how == FAILED:
        job.attempt_ended(0, 0, end(FAILED))
    else:
        job.attempts_lost({0: 0}, LOST, 5000)
    assert states(job) == "KR RUNNING"
    assert (job.tasks[0].error, job.tasks[0].attempts[0].state) == ("terminated by a user", how)
    assert budgets(job) == [(0, 0), (0, 0)]


def test_task_that_succeeds_before_its_termination_arrives_has_succeeded() -> None:
    job = running(submitted(2, coscheduled=False))
    job.terminate_task(0, "terminated by a user", 4000)
    for index in range(2):
        job.attempt_ended(index, 0, end(SUCCEEDED))
    assert (states(job), job.error) == ("SS SUCCEEDED", "")


def test_terminating_an_independent_task_that_waits_ends_the_task_at_once() -> None:
    job = submitted(3, coscheduled=False)
    assert job.terminate_task(1, "terminated by a user", 4000) == [ReleaseAllocation("job@1")]
    assert states(job) == "PKP RUNNING"
    assert job.terminate_task(0, "terminated by a user", 5000) == [ReleaseAllocation("job@0")]
    assert job.terminate_task(2, "terminated by a user", 6000) == [ReleaseAllocation("job@2")]
    assert states(job) == "KKK KILLED"
    assert job.error == "task 0 and 2 more were terminated by a user"


def test_terminated_task_of_a_gang_ends_the_job() -> None:
    job = running(submitted(3, retries=5))
    assert job.terminate_task(1, "terminated by a user", 4000) == [StopAttempt(i, 0, f"w{i}") for i in (1, 0, 2)]
    for index in range(3):
        assert job.ending == KILLED
        job.attempt_ended(index, 0, end(KILLED))
    assert states(job) == "KKK KILLED"
    assert job.error == "task 1 was terminated by a user"
    assert job.tasks[1].error == "terminated by a user"
    assert job.tasks[0].error == job.tasks[2].error == "Job ended: task 1 was terminated by a user"


def test_terminated_task_of_a_waiting_gang_ends_the_job() -> None:
    job = submitted(2)
    assert job.terminate_task(0, "terminated by a user", 4000) == [ReleaseAllocation("job@0")]
    assert states(job) == "KK KILLED"
    assert (job.gangs, job.finished_at_ms) == ({}, 4000)


def test_gang_continues_without_terminated_tasks_up_to_the_number_max_task_failures() -> None:
    job = running(submitted(3, tolerated=1, retries=1))
    assert job.terminate_task(2, "terminated by a user", 4000) == [StopAttempt(2, 0, "w2")]
    job.attempt_ended(2, 0, end(KILLED))
    assert states(job) == "RRK RUNNING"
    # The other tasks restart as usual, without the terminated task.
    assert job.attempt_ended(0, 0, end(FAILED)) == [StopAttempt(1, 0, "w1")]
    assert job.attempt_ended(1, 0, end(KILLED)) == [
        ReleaseAllocation("job@0"),
        RequestAllocation("job@1", (0, 1), 3000),
    ]
    # One more terminated task is one too many.
    assert job.terminate_task(0, "terminated by a user", 5000) == [ReleaseAllocation("job@1")]
    assert states(job) == "KKK KILLED"


def test_waiting_gang_requests_a_smaller_allocation_without_a_terminated_task() -> None:
    job = submitted(3, tolerated=1)
    assert job.terminate_task(1, "terminated by a user", 4000) == [
        ReleaseAllocation("job@0"),
        RequestAllocation("job@1", (0, 2), 1000),
    ]
    running(job)
    job.attempt_ended(0, 0, end(SUCCEEDED))
    job.attempt_ended(2, 0, end(SUCCEEDED))
    assert states(job) == "SKS KILLED"


def test_task_terminated_during_a_restart_is_not_retried() -> None:
    job = running(submitted(3, tolerated=2, retries=1))
    assert job.attempt_ended(0, 0, end(FAILED)) == [StopAttempt(1, 0, "w1"), StopAttempt(2, 0, "w2")]
    assert job.terminate_task(0, "terminated by a user", 4000) == []  # the task waits for its retry
    assert job.terminate_task(1, "terminated by a user", 4000) == []  # the attempt is being stopped already
    assert states(job) == "KRR RUNNING"
    job.attempt_ended(1, 0, end(KILLED))
    assert job.attempt_ended(2, 0, end(KILLED)) == [ReleaseAllocation("job@0"), RequestAllocation("job@1", (2,), 3000)]
    assert states(job) == "KKP RUNNING"
    assert [task.error for task in job.tasks] == ["terminated by a user"] * 2 + [""]


def test_termination_of_a_task_is_stored_while_its_attempt_stops() -> None:
    job = running(submitted(2, coscheduled=False))
    job.terminate_task(0, "terminated by a user", 5000)
    instructions = recover(reloaded(job), {"job@0": None, "job@1": None}, 9000)
    assert instructions == [StopAttempt(0, 0, "w0")]
    job.attempt_ended(0, 0, end(KILLED))
    assert states(job) == "KR RUNNING"


# Pauses between retries.


def fail_again(job: Job, index: int = 0, *, ran_ms: int = 0, now_ms: int = 50_000) -> int:
    """Run the job, let a task fail, and return the pause that follows, in milliseconds."""
    attempt = running(job).tasks[index].attempts[-1]
    attempt.started_at_ms = now_ms - ran_ms
    instructions = job.attempt_ended(index, attempt.attempt_id, end(FAILED, at=now_ms), now_ms)
    for other, live in [*job.live_attempts().items()]:
        if job.tasks[other].stop is not None:
            instructions += job.attempt_ended(other, live.attempt_id, end(KILLED, at=now_ms), now_ms)
    (request,) = [step for step in instructions if isinstance(step, RequestAllocation)]
    return request.not_before_ms - now_ms


@pytest.mark.parametrize("coscheduled", [True, False], ids=["gang", "independent"])
def test_first_retry_has_no_pause_and_later_pauses_double(coscheduled: bool) -> None:
    job = submitted(2, coscheduled=coscheduled, retries=20)
    assert fail_again(job) == 0
    for longest in (1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000):
        assert longest * 0.8 <= fail_again(job) <= longest


def test_retries_of_a_gang_are_counted_together_for_all_its_tasks() -> None:
    job = submitted(2, retries=20)
    assert fail_again(job, 0) == 0
    assert 800 <= fail_again(job, 1) <= 1000
    assert 1600 <= fail_again(job, 0) <= 2000


def test_retry_pauses_of_independent_tasks_are_counted_separately() -> None:
    job = submitted(2, coscheduled=False, retries=20)
    assert [fail_again(job, 0), fail_again(job, 1)] == [0, 0]


def test_long_run_of_an_attempt_resets_the_retry_pause() -> None:
    job = submitted(1, retries=20)
    assert [fail_again(job) > 0 for _ in range(3)] == [False, True, True]
    assert fail_again(job, ran_ms=599_999, now_ms=9_000_000) > 2000
    assert fail_again(job, ran_ms=600_000, now_ms=9_000_000) == 0
    assert 800 <= fail_again(job) <= 1000


def test_lost_worker_increases_the_retry_pause() -> None:
    job = running(submitted(1, retries=20))
    assert job.attempts_lost({0: 0}, LOST, 5000)[-1] == RequestAllocation("job@1", (0,), 5000)
    running(job)
    job.attempts_lost({0: 1}, LOST, 5000)
    assert 5800 <= job.tasks[0].not_before_ms <= 6000
    assert 1600 <= fail_again(job) <= 2000


def test_retry_pause_of_zero_means_no_pauses() -> None:
    job = Job.new("job", 1, 1000, max_retries_failure=20, retry_pause_ms=0)
    job.submit()
    assert [fail_again(job) for _ in range(9)] == [0] * 9


def test_retry_pause_continues_after_a_restart_of_the_controller() -> None:
    job = submitted(1, retries=5)
    fail_again(job)
    pause_ms = fail_again(job)
    job = reloaded(job)
    assert recover(job, {}, 50_001) == [
        ReleaseAllocation("job@2"),
        RequestAllocation("job@3", (0,), 50_000 + pause_ms),
    ]
    assert job.tasks[0].retries_in_row == 2


def test_gang_that_loses_its_allocation_keeps_its_waiting_time() -> None:
    job = submitted(1, retries=5)
    assert job.allocation_lost("job@0")[-1] == RequestAllocation("job@1", (0,), 1000)
    job = reloaded(job)
    assert recover(job, {}, 9000)[-1] == RequestAllocation("job@2", (0,), 1000)


# Events that change nothing.


def test_reports_about_attempts_that_are_not_live_do_not_change_a_job() -> None:
    job = running(submitted(2, retries=1))
    job.attempt_ended(0, 0, end(FAILED))
    job.attempt_ended(1, 0, end(KILLED))
    running(job)
    before = (states(job), budgets(job), [list(task.attempts) for task in job.tasks])
    for how in (SUCCEEDED, FAILED, KILLED):
        assert job.attempt_ended(0, 0, end(how)) == []
        assert job.attempt_ended(0, 2, end(how)) == []
    assert job.attempt_running(0, 0, 9000) == []
    assert job.attempts_lost({0: 0, 1: 0}, LOST, 9000) == []
    assert before == (states(job), budgets(job), [list(task.attempts) for task in job.tasks])


def test_events_do_not_change_an_ended_job() -> None:
    job = running(submitted(1))
    job.attempt_ended(0, 0, end(SUCCEEDED))
    revision = job.revision
    assert job.attempt_ended(0, 0, end(FAILED)) == []
    assert job.attempts_lost({0: 0}, LOST, 9000) == []
    assert job.allocation_lost("job@0") == []
    assert recover(job, {}, 9000) == []
    assert (job.state, job.revision, job.finished_at_ms) == (SUCCEEDED, revision, 3000)


# After a restart of the controller.


def reloaded(job: Job) -> Job:
    """Return the job as the store loads it, with gangs that are derived from the tasks."""
    return replace(job, gangs={})


def test_recovered_job_keeps_attempts_of_gangs_that_the_engine_still_holds() -> None:
    job = reloaded(running(submitted(2)))
    assert recover(job, {"job@0": None}, 9000) == []
    assert states(job) == "RR RUNNING"
    job.attempt_ended(0, 0, end(SUCCEEDED))
    assert job.attempt_ended(1, 0, end(SUCCEEDED)) == [ReleaseAllocation("job@0")]
    assert states(job) == "SS SUCCEEDED"


def test_recovered_job_requests_its_waiting_gangs_again() -> None:
    job = reloaded(submitted(2))
    assert recover(job, {}, 9000) == [ReleaseAllocation("job@0"), RequestAllocation("job@1", (0, 1), 1000)]


def test_recovered_job_charges_each_lost_attempt_to_the_preemption_budget_of_its_task() -> None:
    job = reloaded(running(submitted(3)))
    assert recover(job, {}, 9000) == [ReleaseAllocation("job@0"), RequestAllocation("job@1", (0, 1, 2), 9000)]
    assert states(job) == "PPP PENDING"
    assert budgets(job) == [(0, 1)] * 3
    assert "while the controller was away" in job.tasks[0].attempts[0].error


def test_terminated_job_is_killed_although_the_controller_restarts_before_its_tasks_are_stopped() -> None:
    job = running(submitted(3))
    job.attempt_ended(0, 0, end(SUCCEEDED))
    job.terminate("terminated by a user", 5000)
    job = reloaded(job)
    assert recover(job, {}, 9000) == [ReleaseAllocation("job@0")]
    assert states(job) == "SKK KILLED"
    assert [task.error for task in job.tasks] == ["", "terminated by a user", "terminated by a user"]


def test_recovered_job_continues_the_restart_of_its_gang() -> None:
    job = running(submitted(3, retries=1))
    job.attempt_ended(0, 0, end(FAILED))
    job = reloaded(job)
    assert recover(job, {}, 9000) == [ReleaseAllocation("job@0"), RequestAllocation("job@1", (0, 1, 2), 9000)]
    assert states(job) == "PPP PENDING"
    assert budgets(job) == [(1, 0), (0, 0), (0, 0)]


def test_recovered_job_ends_if_its_preemption_budget_is_used_up() -> None:
    job = reloaded(running(submitted(2, preemptions=0)))
    assert recover(job, {}, 9000) == [ReleaseAllocation("job@0")]
    assert states(job) == "WW WORKER_FAILED"


def test_recovered_job_repeats_its_stop_instructions() -> None:
    """The earlier instruction may have been lost with the controller, and nothing else would stop the attempt."""
    job = running(submitted(2))
    job.terminate("terminated by a user", 5000)
    instructions = recover(reloaded(job), {"job@0": None}, 9000)
    assert [step for step in instructions if isinstance(step, StopAttempt)] == [
        StopAttempt(0, 0, "w0"),
        StopAttempt(1, 0, "w1"),
    ]


def test_recovered_job_repeats_the_starts_of_building_attempts() -> None:
    """The worker may not have got the earlier start; a repeated start has no effect."""
    job = reloaded(placed(submitted(2)))
    assert recover(job, {"job@0": None}, 9000) == [StartAttempt(0, 0, "w0"), StartAttempt(1, 0, "w1")]
