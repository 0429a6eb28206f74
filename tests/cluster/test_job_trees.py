"""Child jobs get the environment of their parents, exit codes decide about retries, and attempts are warned before
their time limits.
"""

from __future__ import annotations

import sys

import pytest
from support.cluster import shell

from iris.client import IrisClient, Job
from iris.client.shell_environment import Surroundings
from iris.rpc import cluster_pb2 as pb

SHOW = ["sh", "-c", "echo ${A-none} ${B-none} ${PARENT_ONLY-none}; umask"]


def lines_of(job: Job) -> list[str]:
    return [line.message for line in job.logs() if line.source == "stdout"]


def submit_children(show: list[str]) -> list[list[str]]:
    from iris.client import IrisClient

    def submit_grandchild() -> list[str]:
        with IrisClient.remote() as inner:
            job = inner.run(show)
            job.wait()
            return [line.message for line in job.logs() if line.source == "stdout"]

    with IrisClient.remote() as inner:
        jobs = [inner.run(show), inner.run(show, env={"B": "child"}), inner.run(show, inherit_env=False)]
        for job in jobs:
            job.wait()
        (grandchild,) = inner.run(submit_grandchild, env={"B": "child"}).results()
        return [[line.message for line in job.logs() if line.source == "stdout"] for job in jobs] + [grandchild]


def test_child_jobs_inherit_the_environment_of_their_parent_and_override_it(client: IrisClient) -> None:
    parent = client.run(submit_children, args=[SHOW], env={"A": "parent", "B": "parent"})
    (found,) = parent.results()
    assert [lines[0] for lines in found] == [
        "parent parent none",
        "parent child none",
        "none none none",
        "parent child none",  # This line is from the grandchild job.
    ]


def test_child_job_inherits_the_shell_environment_of_its_parent_job(client: IrisClient) -> None:
    variables = {"PATH": "/usr/bin:/bin", "PARENT_ONLY": "shell"}
    shell_environment = Surroundings({**variables, "B": "shell"}, umask=0o027)
    parent = client.run(submit_children, args=[SHOW], env={"A": "parent"}, surroundings=shell_environment)
    (found,) = parent.results()
    assert found[0] == ["parent shell shell", "0027"]
    assert found[1] == ["parent child shell", "0027"]
    assert found[2][0] == "none none none"


@pytest.mark.parametrize(
    ("retry_on", "fail_on", "attempts", "exit_code"),
    [([75], [], 3, 3), ([], [75], 1, 75), ([3], [], 1, 75), ([], [], 4, 4)],
)
def test_exit_codes_decide_how_often_a_failed_task_is_retried(
    client: IrisClient, retry_on: list[int], fail_on: list[int], attempts: int, exit_code: int
) -> None:
    """The attempts exit with 75, 75, 3 and 4."""
    script = "set -- 75 75 3 4; shift $IRIS_ATTEMPT_ID; exit $1"
    job = client.run(shell(script), max_retries_failure=3, retry_pause=0, retry_on=retry_on, fail_on=fail_on)
    (task,) = client.wait(job.job_id).tasks
    assert (task.state, len(task.attempts), task.exit_code) == (pb.TASK_STATE_FAILED, attempts, exit_code)


WARNED = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(0))
signal.pause()
"""


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"timeout": 600}, "the attempt's timeout"),
        ({"job_timeout": 600}, "the job's timeout"),
        ({"timeout": 700, "job_timeout": 600}, "the job's timeout"),
    ],
)
def test_process_that_handles_sigusr1_is_warned_before_the_time_limit_of_its_attempt(
    client: IrisClient, limits: dict[str, float], name: str
) -> None:
    # The shell does not handle SIGUSR1, so the shell must not get it.
    job = client.run(
        ["sh", "-c", '"$@"; echo ended with $?', "sh", sys.executable, "-c", WARNED], timeout_warning=599, **limits
    )
    job.wait()
    assert lines_of(job) == ["ended with 0"]
    assert any(f"sent SIGUSR1 to 1 process: {name} ends" in line.message for line in job.logs(sources=["build"]))


def test_timeout_warning_of_an_attempt_without_a_time_limit_is_explained_in_its_log(client: IrisClient) -> None:
    job = client.run(["true"], timeout_warning=60)
    job.wait()
    assert any("no time limit of this attempt is known" in line.message for line in job.logs(sources=["build"]))
