"""`iris describe`: a job, its submission, and what went wrong, without the values of variables."""

from __future__ import annotations

from typing import Any

import pytest

from iris.cli.output.description import by_urgency, next_commands
from iris.rpc import cluster_pb2 as pb

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_describe_shows_the_submission_and_the_last_lines_of_the_failed_task(remote_iris: Iris) -> None:
    script = "echo line $IRIS_TASK_INDEX; exit $((IRIS_TASK_INDEX / 2))"
    options = ("-n", "3", "--independent", "--cpu", "0.5", "--memory", "64MB", "-e", "SECRET=value", "--retries", "1")
    name = remote_iris.detach(script, *options, "--retry-pause", "0")
    remote_iris("wait", name, code=1)
    document = remote_iris.json("describe")
    submission = document["submission"]
    assert submission["command"] == ["sh", "-c", script]
    assert (submission["replicas"], submission["independent"], submission["max_retries_failure"]) == (3, True, 1)
    assert (submission["cpu_millicores"], submission["memory_bytes"]) == (500, 64_000_000)
    assert "SECRET" in submission["environment"]
    assert document["job"]["owner"]
    assert document["last_lines"] == {"task": 2, "lines": ["line 2", "line 2"]}
    assert document["next"] == [f"iris logs {name} --task 2", f"iris retry {name} --failed"]
    text = remote_iris("describe", name).stdout
    assert "0.5 cpu, 64 MB memory" in text
    assert "value" not in text
    rows = [line.split()[0] for line in text.partition("TASK ")[2].splitlines()[1:4]]
    assert rows[0] == "2", "the failed task comes first"
    assert "task 2, 1" in text
    assert remote_iris.json("describe", f"{name}/task-0")["last_lines"] == {"task": 0, "lines": ["line 0"]}
    assert "did you mean" in remote_iris("describe", f"{name}x", code=1).stderr


def test_describe_shows_the_tasks_with_problems_first() -> None:
    states = [pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_RUNNING, pb.TASK_STATE_FAILED, pb.TASK_STATE_PENDING]
    tasks = [pb.TaskStatus(task_index=index, state=state) for index, state in enumerate(states)]
    tasks.append(pb.TaskStatus(task_index=4, state=pb.TASK_STATE_SUCCEEDED, attempts=[pb.TaskAttempt()] * 2))
    assert [task.task_index for task in by_urgency(tasks)] == [2, 3, 1, 4, 0]


@pytest.mark.parametrize(
    ("state", "commands"),
    [
        (pb.JOB_STATE_PENDING, ["iris machines --address a", "iris kill --address a 'the job'"]),
        (pb.JOB_STATE_RUNNING, ["iris logs -f --address a 'the job'", "iris kill --address a 'the job'"]),
        (pb.JOB_STATE_SUCCEEDED, ["iris logs --address a 'the job'"]),
        (pb.JOB_STATE_FAILED, ["iris logs --address a 'the job'", "iris retry --address a 'the job'"]),
    ],
)
def test_commands_that_describe_suggests_fit_the_state_of_the_job(state: Any, commands: list[str]) -> None:
    assert next_commands(pb.JobStatus(job_id="the job", state=state, num_tasks=1), None, " --address a") == commands


def test_describe_suggests_to_look_at_the_jobs_for_which_a_job_waits() -> None:
    others = [pb.JobDependency(job_id="the first"), pb.JobDependency(job_id="b")]
    job = pb.JobStatus(job_id="job", state=pb.JOB_STATE_PENDING, num_tasks=1, waits_for=others)
    assert next_commands(job, None) == ["iris status 'the first' b", "iris kill job"]


@pytest.mark.parametrize(
    ("state", "commands"),
    [(pb.TASK_STATE_FAILED, ["iris profile --memory --address a job/task-3"]), (pb.TASK_STATE_KILLED, [])],
)
def test_describe_suggests_the_memory_profile_of_a_task_that_was_not_terminated(
    state: Any, commands: list[str]
) -> None:
    job = pb.JobStatus(job_id="job", state=pb.JOB_STATE_FAILED, num_tasks=4)
    shown = pb.TaskStatus(task_index=3, state=state)
    assert next_commands(job, shown, " --address a", profile_memory=True)[2:] == commands


@pytest.mark.parametrize(("independent", "failed"), [(True, " --failed"), (False, "")])
def test_describe_suggests_a_retry_of_only_the_failed_tasks_if_they_are_independent(
    independent: bool, failed: str
) -> None:
    job = pb.JobStatus(job_id="job", state=pb.JOB_STATE_FAILED, num_tasks=2)
    assert next_commands(job, None, independent=independent)[-1] == f"iris retry job{failed}"


def test_duration_of_a_job_that_never_started_is_counted_from_its_submission(remote_iris: Iris) -> None:
    name = remote_iris.detach("true", "--cpu", "1000")
    remote_iris("wait", name, code=125)
    (ended,) = (line for line in remote_iris("describe", name).stdout.splitlines() if line.startswith("ended "))
    assert "after the submission" in ended
    assert "after the start" not in ended
