"""Tests that the checks of chaos find violations of each rule."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.faults import Event, draw_failpoints
from chaos.invariants import LOST_WITH_WORKER_LINES, Facts, check
from chaos.load import Promise
from chaos.proofs import Run, read_proofs
from chaos.task import PAUSE_S
from iris.failpoints import parse
from iris.rpc import cluster_pb2 as pb

OK, FAILED, KILLED, LOST = 4, 5, 6, 7


def attempt(attempt_id: int, state: int) -> pb.TaskAttempt:
    return pb.TaskAttempt(attempt_id=attempt_id, state=state)


def good() -> Facts:
    """Return the facts about a gang of two tasks without a violation: the worker of the first task was lost once, the
    second task failed once, and then both succeeded."""
    tasks = [
        pb.TaskStatus(job_id="j", task_index=0, task_id="j/task-0", state=OK, preemption_count=1),
        pb.TaskStatus(job_id="j", task_index=1, task_id="j/task-1", state=OK, failure_count=1),
    ]
    tasks[0].attempts.extend([attempt(0, LOST), attempt(1, KILLED), attempt(2, OK)])
    tasks[1].attempts.extend([attempt(0, KILLED), attempt(1, FAILED), attempt(2, OK)])
    runs = {
        ("j", index, number): Run(
            (number + 100, number), began=10.0 * number, seen=10.0 * number + 9, lines=[10.0 * number + 1]
        )
        for index in range(2)
        for number in range(3)
    }
    runs["j", 1, 1].exit_code = 3
    runs["j", 0, 2].exit_code = runs["j", 1, 2].exit_code = 0
    return Facts(
        jobs={"j": pb.JobStatus(job_id="j", state=OK, tasks=tasks)},
        promises={"j": Promise("j", 2, [0, 1], max_retries_failure=1, acknowledged=True, is_callable=True)},
        runs=runs,
        logs={key: ["0"] for key in runs},
        results={("j", index): pickle.dumps([index, 2]) for index in range(2)},
    )


def test_chaos_check_reports_nothing_for_a_correct_history() -> None:
    assert check(good()) == []


def _forget(facts: Facts) -> None:
    del facts.jobs["j"]
    facts.runs = {}


def _lose_a_task(facts: Facts) -> None:
    del facts.jobs["j"].tasks[1]


def _run_again(facts: Facts) -> None:
    facts.again = ["j.0.1.again.77"]


def _run_unknown(facts: Facts) -> None:
    facts.runs = {**facts.runs, ("j", 1, 3): Run()}


def _overlap(facts: Facts) -> None:
    facts.runs["j", 0, 0].seen = 10.5


def _succeed_without_an_end(facts: Facts) -> None:
    facts.runs["j", 0, 2].exit_code = None


def _succeed_and_go_on(facts: Facts) -> None:
    facts.jobs["j"].tasks[0].attempts[1].state = OK
    facts.runs["j", 0, 1].exit_code = 0


def _succeed_in_name_only(facts: Facts) -> None:
    facts.jobs["j"].tasks[0].attempts[2].state = KILLED


def _stay_running(facts: Facts) -> None:
    facts.jobs["j"].tasks[0].attempts[0].state = 3


def _charge_a_lost_worker_as_a_failure(facts: Facts) -> None:
    facts.jobs["j"].tasks[0].attempts[0].state = FAILED


def _charge_too_much(facts: Facts) -> None:
    facts.jobs["j"].tasks[0].preemption_count = 2


def _fail_too_often(facts: Facts) -> None:
    facts.promises["j"].max_retries_failure = -1


def _restart_for_nothing(facts: Facts) -> None:
    task = facts.jobs["j"].tasks[0]
    task.attempts.insert(2, attempt(2, KILLED))
    task.attempts[3].attempt_id = 3
    facts.runs = {**facts.runs, ("j", 0, 3): Run(began=30.0, seen=31.0, exit_code=0)}
    facts.results = {**facts.results, ("j", 0): pickle.dumps([0, 3])}
    facts.jobs["j"].tasks[1].attempts[0].state = KILLED
    facts.jobs["j"].tasks[0].attempts[0].state = KILLED
    task.preemption_count = 0


def _skip_an_attempt(facts: Facts) -> None:
    facts.jobs["j"].tasks[0].attempts[2].attempt_id = 3


def _end_as_nobody_asked(facts: Facts) -> None:
    facts.jobs["j"].state = KILLED


def _never_end(facts: Facts) -> None:
    facts.jobs["j"].state = 3


def _fail_as_a_whole(facts: Facts) -> None:
    facts.jobs["j"].state = FAILED


def _succeed_with_a_failed_task(facts: Facts) -> None:
    facts.jobs["j"].tasks[0].state = FAILED


def _forget_a_child(facts: Facts) -> None:
    facts.runs["j", 0, 2].children = ["j/child-2"]


def _fail_a_child(facts: Facts) -> None:
    facts.runs["j", 0, 2].children = ["j/child-2"]
    facts.jobs["j/child-2"] = pb.JobStatus(job_id="j/child-2", state=FAILED)


def _mix_results_up(facts: Facts) -> None:
    facts.results = {("j", 0): facts.results["j", 1], ("j", 1): facts.results["j", 0]}


def _lose_a_result(facts: Facts) -> None:
    facts.results = {}


def _take_a_final_state_back(facts: Facts) -> None:
    facts.promises["j"].seen_final = pb.JOB_STATE_FAILED


def _lose_a_line(facts: Facts) -> None:
    facts.logs["j", 0, 2].clear()


def _double_a_line(facts: Facts) -> None:
    facts.logs["j", 0, 2].append("0")


def _lose_an_old_line_with_a_worker(facts: Facts) -> None:
    run = facts.runs["j", 0, 0]
    run.lines = [run.seen - 5.0 + number * PAUSE_S for number in range(LOST_WITH_WORKER_LINES + 10)]
    facts.logs["j", 0, 0] = [str(number) for number in range(9)]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_forget, "was acknowledged, and is forgotten"),
        (_lose_a_task, "has 1 tasks, 2 were asked for"),
        (_run_again, "an attempt ran twice"),
        (_run_unknown, "attempt 3 of task 1 ran, and the controller knows nothing of it"),
        (_overlap, "attempts 0 and 1 of task 0 ran side by side for 0.500 s"),
        (_succeed_without_an_end, "SUCCEEDED, and did not run to its end"),
        (_succeed_and_go_on, "SUCCEEDED, and its task is SUCCEEDED after 3 attempts"),
        (_succeed_in_name_only, "is KILLED and the last of a task that SUCCEEDED"),
        (_stay_running, "is RUNNING at the end"),
        (_charge_a_lost_worker_as_a_failure, "FAILED (''), and its run ended with None"),
        (_charge_too_much, "is charged for 0 and 2, of 0 and 1"),
        (_fail_too_often, "failed 1 times, -1 retries were allowed"),
        (_restart_for_nothing, "has 4 attempts, for 1 reasons"),
        (_skip_an_attempt, "has attempts [0, 1, 3]"),
        (_end_as_nobody_asked, "and nobody asked for that"),
        (_never_end, "RUNNING with"),
        (_fail_as_a_whole, "though its tasks fail only [0, 1] times"),
        (_succeed_with_a_failed_task, "and 0 may fail"),
        (_forget_a_child, "its child j/child-2 was acknowledged, and is forgotten"),
        (_fail_a_child, "j/child-2: FAILED at the end"),
        (_mix_results_up, "the result of task 0 is [1, 2], not [0, 2]"),
        (_lose_a_result, "the result of task 1 is None, not [1, 2]"),
        (_take_a_final_state_back, "was said to be FAILED, and is SUCCEEDED"),
        (_lose_a_line, "ends after 0 lines, 1 were printed (it is SUCCEEDED)"),
        (_double_a_line, "has lines out of order, twice or missing in between: … 0, 0 …"),
        (_lose_an_old_line_with_a_worker, "ends after 9 lines, 10 were printed (it is WORKER_FAILED)"),
    ],
)
def test_chaos_check_reports_each_violated_invariant(spoil: Callable[[Facts], None], found: str) -> None:
    facts = good()
    spoil(facts)
    assert any(found in wrong for wrong in check(facts)), check(facts)


def test_chaos_check_allows_lost_output_of_a_killed_worker() -> None:
    facts = good()
    facts.logs["j", 0, 0].clear()
    facts.runs["j", 0, 0].seen = 2.5  # the line was printed 1.5 s before
    assert check(facts) == []
    facts.runs["j", 0, 0].seen = 9.5  # The machine stood still, because no further line was printed.
    assert check(facts) == []
    facts = good()
    _lose_an_old_line_with_a_worker(facts)
    facts.events = [Event(5.0, "stop worker", pid=0, until=8.0)]
    assert check(facts) == [], "it was stopped, and killed before it had read all"


def test_chaos_check_allows_lost_output_on_a_full_disk() -> None:
    facts = good()
    facts.logs["j", 0, 2].clear()
    facts.events = [Event(20.5, "fill disk", until=22.0)]
    assert check(facts) == [], "a line is missing"
    facts.logs["j", 0, 2][:] = ["1", "0"]
    assert any("out of order, or twice" in wrong for wrong in check(facts))
    facts = good()
    facts.results = {**facts.results, ("j", 1): b""}
    facts.jobs["j"].tasks[1].result_error = "the return value of the callable could not be stored on the worker: disk"
    assert check(facts) == []


def test_files_written_by_chaos_tasks_are_parsed_into_runs_of_attempts(tmp_path: Path) -> None:
    (tmp_path / "a~b.1.2").write_text(
        "1000000000 start 5 4 2\n2000000000 line 0\n3000000000 child a/b/c\n4000000000 end 3\n"
    )
    (tmp_path / "a.0.0").write_text("")
    (tmp_path / "a.0.0.again.9").write_text("")
    runs, again = read_proofs(tmp_path)
    assert runs == {
        ("a/b", 1, 2): Run((4, 2), began=1.0, seen=4.0, lines=[2.0], exit_code=3, children=["a/b/c"]),
        ("a", 0, 0): Run(),
    }
    assert again == ["a.0.0.again.9"]


def test_chaos_seed_determines_the_failpoints() -> None:
    first, again, other = (random.Random(seed) for seed in (1, 1, 2))
    drawn = [draw_failpoints(first) for _ in range(200)]
    assert drawn == [draw_failpoints(again) for _ in range(200)]
    assert drawn != [draw_failpoints(other) for _ in range(200)]
    for text in drawn:
        parse(text)
