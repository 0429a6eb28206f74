"""`iris wait` and `iris attach`, and the exit codes of the commands that exit with the code of a job."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique

from iris.cli.exit_codes import exit_code_of
from iris.rpc import cluster_pb2 as pb

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def blocked(path: Path) -> str:
    """A script that ends when there is a file."""
    return f"echo started; while [ ! -e {path} ]; do sleep 0.05; done; exit 4"


def test_wait_for_several_jobs_returns_when_all_have_ended_and_exits_with_the_first_failure_code(
    remote_iris: Iris, tmp_path: Path
) -> None:
    good, bad = remote_iris.detach("true"), remote_iris.detach(blocked(tmp_path / "go"), "--replicas", "2")
    waits = remote_iris.start("wait", good, bad)
    assert waits.line() == f"{good} ended: SUCCEEDED"
    (tmp_path / "go").touch()
    assert waits.line() == f"{bad} ended: FAILED"
    assert waits.exit_code() == 4
    waits.says(f"job {bad} ended as FAILED: task ")
    done = remote_iris("wait", bad, f"{good}/task-0", "--json", code=4)
    document = json.loads(done.stdout)
    assert [job["state"] for job in document["jobs"]] == ["FAILED"]
    assert [task["state"] for task in document["tasks"]] == ["SUCCEEDED"]
    assert document["timed_out"] is False


def test_wait_command_with_any_returns_when_the_first_job_has_ended(remote_iris: Iris, tmp_path: Path) -> None:
    endless, job = remote_iris.detach("exec sleep 600"), remote_iris.detach(blocked(tmp_path / "go"))
    waits = remote_iris.start("wait", "--any", endless, f"{job}/task-0")
    (tmp_path / "go").touch()
    assert waits.rest() == [f"{job}/task-0 ended: FAILED"]
    assert waits.exit_code() == 4
    timed_out = remote_iris("wait", endless, job, "--timeout", "0.2", code=124)
    assert f"{endless} has not ended within 0.2s" in timed_out.stderr
    assert timed_out.stdout == f"{job} ended: FAILED\n"
    assert remote_iris("wait", endless, job, "--timeout", "0.2", "--any", code=4)
    remote_iris("kill", endless)
    assert remote_iris("wait", endless, code=143)


def test_attach_follows_the_latest_job_and_exits_with_its_code(remote_iris: Iris) -> None:
    name = remote_iris.detach("for i in 1 2 3; do echo $i; done; exit 5")
    done = remote_iris("attach", code=5)
    assert done.stdout == "1\n2\n3\n"
    assert f"iris: job {name}\n" in done.stderr
    assert remote_iris("attach", name, "--tail", "1", code=5).stdout == "3\n"
    events = [json.loads(line) for line in remote_iris("attach", name, "--json", code=5).stdout.splitlines()]
    assert events[-1]["event"] == "ended"
    assert [event["message"] for event in events if event.get("source") == "stdout"] == ["1", "2", "3"]
    assert f"expected a job, got the task '{name}/task-0'" in remote_iris("attach", f"{name}/task-0", code=125).stderr


def test_attach_leaves_the_job_running_after_ctrl_c_in_a_terminal(remote_iris: Iris, tmp_path: Path) -> None:
    name = remote_iris.detach(blocked(tmp_path / "go"))
    terminal = remote_iris.terminal("attach", name)
    terminal.shows("started", "")
    terminal.type("\x03")
    assert terminal.exit_code() == 128 + signal.SIGINT
    assert "goes on" in "".join(terminal.screen)
    assert remote_iris.json("status", name)["state"] == "RUNNING"
    (tmp_path / "go").touch()
    assert remote_iris("attach", name, code=4)


def test_commands_that_exit_with_the_code_of_a_job_exit_with_125_after_an_error_of_iris(remote_iris: Iris) -> None:
    for words in (["run", "true"], ["wait", "x"], ["attach", "x"], ["logs", "-f", "x"]):
        assert "iris: " in remote_iris("--address", "127.0.0.1:9", *words, code=125).stderr
    for words in (["ps"], ["status", "x"], ["logs", "x"]):
        assert "iris: " in remote_iris("--address", "127.0.0.1:9", *words, code=1).stderr
    assert "no job named" in remote_iris("wait", unique("§"), code=125).stderr


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"state": pb.JOB_STATE_SUCCEEDED}, 0),
        ({"state": pb.JOB_STATE_FAILED, "exit_code": 3}, 3),
        ({"state": pb.JOB_STATE_FAILED, "exit_code": 137}, 137),
        ({"state": pb.JOB_STATE_FAILED, "exit_code": 127, "failure_reason": pb.FAILURE_REASON_START_FAILED}, 127),
        ({"state": pb.JOB_STATE_FAILED, "failure_reason": pb.FAILURE_REASON_START_FAILED}, 125),
        ({"state": pb.JOB_STATE_FAILED, "failure_reason": pb.FAILURE_REASON_JOB_TIMEOUT}, 124),
        ({"state": pb.JOB_STATE_FAILED, "failure_reason": pb.FAILURE_REASON_ATTEMPT_TIMEOUT, "exit_code": 143}, 124),
        ({"state": pb.JOB_STATE_FAILED, "failure_reason": pb.FAILURE_REASON_EXCEPTION}, 1),
        ({"state": pb.JOB_STATE_KILLED, "exit_code": 3}, 143),
        ({"state": pb.JOB_STATE_WORKER_FAILED}, 125),
        ({"state": pb.JOB_STATE_UNSCHEDULABLE}, 125),
    ],
)
def test_exit_code_of_an_ended_job_follows_the_documented_table(fields: dict[str, Any], code: int) -> None:
    assert exit_code_of(pb.JobStatus(**fields)) == code
    assert exit_code_of(pb.TaskStatus(**fields)) == code
