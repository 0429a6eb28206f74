"""Tables in terminals of all widths show whole ids, readable values, and reasons on one line."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import Console

from iris.cli.output.columns import Columns
from iris.cli.output.tables import job_view, jobs_table
from iris.rpc import cluster_pb2
from iris.system.clock import now_ms

SHORT, LONG = "train-1a2b3c4d", "nightly-evaluation-of-the-large-model-on-all-held-out-sets-2026-11-24"
WIDE = "実験-モデル評価"
REASON = "waiting: needs 4 x (2 cpu), each on a machine of its own; free now: 3 of 4 cpu on node-1"


def drawn(table: object, width: int) -> list[str]:
    console = Console(width=width, force_terminal=False, highlight=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(table, crop=False)
    return [line.rstrip() for line in captured.get().splitlines()]


def job(job_id: str, state: str = "RUNNING", reason: str = "") -> cluster_pb2.JobStatus:
    return cluster_pb2.JobStatus(
        job_id=job_id,
        state=cluster_pb2.JobState.Value(f"JOB_STATE_{state}"),
        num_tasks=4,
        tasks_running=3,
        status_message=reason,
        submitted_at_ms=now_ms() - 400_000,
        started_at_ms=1000,
        finished_at_ms=311_000,
    )


JOBS = [job(SHORT), job(LONG, "PENDING", REASON), job(WIDE), job("a", "UNSCHEDULABLE", REASON * 5), job("b")]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 132, 200])
def test_tables_of_any_width_show_whole_ids_and_reasons_on_one_line(width: int) -> None:
    lines = drawn(jobs_table(JOBS), width)
    for one in JOBS:
        (line,) = [line for line in lines if line.split() and line.split()[0] == one.job_id]
        assert cell_len(line) <= max(width, cell_len(one.job_id))
    assert all(cell_len(line) <= width or line.strip() in (LONG, WIDE) for line in lines)
    for value in ("RUNNING", "UNSCHEDULABLE", "PENDING", "5m 10s", "3/4 running"):
        assert any(value in line for line in lines), f"{value} is readable"
    assert len([line for line in lines if "waiting: nee" in line]) == 2
    assert "needs 4 x (2 cpu), each on a machine of its own; free now: 3 of 4 cpu on node-1waiting" not in str(lines)


def test_long_id_does_not_narrow_other_table_rows_at_80_columns() -> None:
    lines = drawn(jobs_table(JOBS), 80)
    assert lines[0].split() == ["JOB", "STATE", "TASKS", "AGE", "TIME"]
    assert next(line for line in lines if line.startswith(SHORT)).split()[:3] == [SHORT, "RUNNING", "3/4"]
    at = lines.index(LONG)
    assert lines[at + 1].index("PENDING") == lines[0].index("STATE")
    assert lines[at + 1].endswith("…")


def test_table_row_in_a_pipe_is_one_line() -> None:
    lines = drawn(jobs_table(JOBS), 10_000)
    assert len(lines) == 1 + len(JOBS)
    assert next(line for line in lines if line.startswith("a ")).endswith(REASON * 5)


def test_reason_of_several_lines_is_shown_on_one_table_line() -> None:
    lines = drawn(jobs_table([job("a", "FAILED", "Traceback:\n  File x\nValueError: no")]), 200)
    assert lines[1].endswith("Traceback: File x ValueError: no")


def test_long_list_in_a_table_continues_on_more_lines_without_cutting_ids() -> None:
    table = Columns("MACHINE", "STATE", "HELD BY", last="wrap")
    table.add_row("node-1", "alive", f"{LONG} (16 tasks), {SHORT} (task 3) and 2 more jobs")
    lines = drawn(table, 60)
    assert f"  {LONG} (16" not in lines, "no more on a line than fits, and the id alone where it does not"
    assert f"  {LONG}" in lines
    assert " ".join(" ".join(lines).split()).endswith(f"{LONG} (16 tasks), {SHORT} (task 3) and 2 more jobs")


def test_empty_table_has_its_header_only() -> None:
    assert drawn(Columns("ID", "NAME", ""), 80) == ["ID  NAME"]


def attempt(number: int, state: str, error: str, began_ms: int, ended_ms: int) -> cluster_pb2.TaskAttempt:
    return cluster_pb2.TaskAttempt(
        attempt_id=number,
        state=cluster_pb2.TaskState.Value(f"TASK_STATE_{state}"),
        error=error,
        started_at_ms=began_ms,
        finished_at_ms=ended_ms,
        worker_id="local-0",
        exit_code=int(state == "FAILED"),
    )


def retried() -> cluster_pb2.JobStatus:
    status = job(SHORT)
    for index in range(2):
        task = status.tasks.add(
            task_id=f"{SHORT}/task-{index}",
            task_index=index,
            state=cluster_pb2.TASK_STATE_RUNNING,
            current_attempt_id=1,
        )
        task.started_at_ms = 1000
        task.attempts.append(attempt(0, "FAILED", f"exit code 1 of {index}", 1000, 201_000))
        if index == 0:
            task.attempts.append(attempt(1, "SUCCEEDED", "", 301_000, 311_000))
    return status


def test_status_shows_times_of_attempts_and_why_each_ended() -> None:
    lines = drawn(job_view(retried()), 100)
    (total,) = [line for line in lines if line.startswith("time ")]
    assert "5m 10s" in total
    tasks = lines.index(next(line for line in lines if line.startswith("TASK")))
    assert "10s" in lines[tasks + 1].split(), "of the newest attempt"
    assert "5m 10s" not in lines[tasks + 1]
    attempts = lines[lines.index(next(line for line in lines if line.startswith("ATTEMPT"))) :]
    assert attempts[1].split()[:3] == ["task", "0,", "0"]
    assert attempts[1].endswith("exit code 1 of 0")
    assert "3m 20s" in attempts[1]
    assert len(attempts) == 3, "a task with one attempt says all in its row"


def test_status_of_a_task_shows_only_this_task() -> None:
    lines = drawn(job_view(retried(), 1), 100)
    assert any("exit code 1 of 1" in line for line in lines)
    assert not any("exit code 1 of 0" in line for line in lines)
