"""What `iris run` and `iris logs -f` show while a job waits, and while its tasks are quiet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.waiting import wait_until

from iris.cli.job_watch import activity_of
from iris.client import IrisClient
from iris.rpc import cluster_pb2

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.
PENDING, RUNNING = cluster_pb2.JOB_STATE_PENDING, cluster_pb2.JOB_STATE_RUNNING


def test_activity_of_a_waiting_job_is_the_reason_why_it_waits() -> None:
    job = cluster_pb2.JobStatus(job_id="a", state=PENDING, status_message="waiting for 4 GPUs")
    assert (activity_of(job).who, activity_of(job).waits) == ("job a", "waiting for 4 GPUs")
    assert activity_of(cluster_pb2.JobStatus(job_id="a", state=PENDING)).waits == "waiting for a worker"


def test_activity_of_a_running_job_is_the_number_of_its_running_and_ended_tasks() -> None:
    job = cluster_pb2.JobStatus(
        job_id="a", state=RUNNING, num_tasks=40, tasks_running=3, tasks_succeeded=25, tasks_failed=1
    )
    assert (activity_of(job).waits, activity_of(job).runs) == ("", "RUNNING, 3/40 running, 25 succeeded, 1 failed")


def test_activity_of_waiting_tasks_is_the_waiting_reason_of_the_first_task() -> None:
    job = cluster_pb2.JobStatus(job_id="a", state=RUNNING, num_tasks=3, tasks_running=1)
    waits = cluster_pb2.TaskStatus(task_id="a/task-2", state=cluster_pb2.TASK_STATE_PENDING, status_message="waiting")
    runs = cluster_pb2.TaskStatus(task_id="a/task-0", state=cluster_pb2.TASK_STATE_RUNNING)
    assert (activity_of(job, [waits]).who, activity_of(job, [waits]).waits) == ("task a/task-2", "waiting")
    assert activity_of(job, [runs, waits]).waits == ""


def test_activity_of_an_ended_job_is_empty() -> None:
    activity = activity_of(cluster_pb2.JobStatus(job_id="a", state=cluster_pb2.JOB_STATE_FAILED))
    assert (activity.waits, activity.runs) == ("", "")


@pytest.fixture
def every_core(client: IrisClient) -> Iterator[tuple[int, Any]]:
    """The number of cores of each machine, and a job that occupies all cores of the cluster."""
    machines = client.machines()
    cores = machines[0].total.cpu
    blocker = client.run(
        ["sleep", "600"],
        name=unique("blocker"),
        replicas=len(machines),
        resources={"cpu": cores},
        placement="spread",
    )
    wait_until(lambda: blocker.state == "RUNNING", "the blocker")
    yield cores, blocker
    blocker.terminate()


def test_followed_log_of_a_waiting_job_prints_once_on_stderr_why_the_job_waits(
    remote_iris: Iris, client: IrisClient, every_core: tuple[int, Any]
) -> None:
    cores, blocker = every_core
    job = client.run(["echo", "hello"], name=unique("waits"), resources={"cpu": cores})
    following = remote_iris.start("logs", "-f", job.job_id)
    following.says(f"iris: job {job.job_id} is ")
    # The reason names the free resources, which may change.
    reason = wait_until(
        lambda: (text := client.status(job).status_message) in following.stderr and text, "the present reason on stderr"
    )
    blocker.terminate()
    assert following.rest() == ["hello"]
    assert following.exit_code() == 0
    assert following.stderr.count(f"{reason}\n") == 1


def test_followed_log_of_a_waiting_task_says_why_the_task_waits(
    remote_iris: Iris, client: IrisClient, every_core: tuple[int, Any]
) -> None:
    cores, blocker = every_core
    job = client.run(["echo", "hello"], name=unique("waits"), replicas=2, resources={"cpu": cores}, coscheduled=False)
    following = remote_iris.start("logs", "-f", f"{job.job_id}/task-1")
    following.says(f"iris: task {job.job_id}/task-1 is ")
    blocker.terminate()
    assert following.rest() == ["hello"]
    assert following.exit_code() == 0


def test_run_of_a_quiet_task_on_a_terminal_shows_a_status_line_until_the_task_writes(
    remote_iris: Iris, tmp_path: Path
) -> None:
    wait = "until test -e {}; do sleep 0.05; done"
    script = f"{wait.format(tmp_path / 'go')}; echo hello; {wait.format(tmp_path / 'end')}"
    name = unique("quiet")
    terminal = remote_iris.terminal("run", "--no-workspace", "--name", name, "--", "sh", "-c", script)
    wait_until(
        lambda: (
            terminal.screen[-1].startswith("iris: RUNNING, 1/1 running, for ")
            and "; no output for " in terminal.screen[-1]
        ),
        f"the status line on {terminal.screen}",
    )
    (tmp_path / "go").touch()
    wait_until(lambda: "hello" in terminal.screen, "the line of the task")
    terminal.type("typed\n")
    wait_until(lambda: "no output" not in " ".join(terminal.screen), "the end of the status line")
    (tmp_path / "end").touch()
    assert terminal.exit_code() == 0
    assert not [line for line in terminal.screen if "no output" in line]


def test_run_of_several_tasks_on_a_terminal_ends_with_a_summary(remote_iris: Iris) -> None:
    name = unique("sums")
    terminal = remote_iris.terminal("run", "--no-workspace", "--replicas", "2", "--name", name, "--", "true")
    assert terminal.exit_code() == 0
    summary = " ".join(terminal.screen)
    assert f"iris: job {name}: SUCCEEDED, 2/2 succeeded, in " in summary


def test_run_of_a_job_that_fails_on_a_terminal_counts_the_failed_tasks(remote_iris: Iris) -> None:
    terminal = remote_iris.terminal("run", "--no-workspace", "--replicas", "2", "--", "sh", "-c", "exit 3")
    assert terminal.exit_code() == 3
    assert [line for line in terminal.screen if line.startswith(("iris: 1/2 failed, in ", "iris: 2/2 failed, in "))]
