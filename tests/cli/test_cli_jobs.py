"""`iris ps`, `status`, `logs` and `kill`, on a cluster that was there before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from support.cluster import unique
from support.waiting import wait_until

Iris = Any  # tests/cli/conftest.py


def detach(iris: Iris, script: str, *options: str) -> str:
    name = unique("job")
    assert iris("run", "--detach", "--name", name, *options, "--", "sh", "-c", script).stdout == f"{name}\n"
    return name


def wait_for(iris: Iris, name: str, state: str) -> Any:
    return wait_until(lambda: (job := iris.json("status", name))["state"] == state and job, f"{name} is {state}")


def test_ps_and_status(remote_iris: Iris) -> None:
    failed = detach(remote_iris, "exit 5", "--replicas", "2", "--independent", "--max-task-failures", "1")
    running = detach(remote_iris, "exec sleep 600", "--port", "http")
    wait_for(remote_iris, running, "RUNNING")
    job = wait_for(remote_iris, failed, "FAILED")
    assert job["exit_code"] == 5
    assert [task["exit_code"] for task in job["tasks"]] == [5, 5]
    assert [attempt["state"] for attempt in job["tasks"][0]["attempts"]] == ["FAILED"]
    shown = {job["job_id"]: job for job in remote_iris.json("ps")["jobs"]}
    assert shown[failed]["tasks_failed"] == 2
    assert (shown[running]["state"], shown[running]["tasks_running"]) == ("RUNNING", 1)
    assert remote_iris.json("status", running)["tasks"][0]["ports"]["http"] > 0
    for words in (["ps"], ["ps", "--all"], ["status", running], ["status", failed]):
        done = remote_iris(*words, NO_COLOR="")
        assert "\x1b" not in done.stdout
        assert words[-1] in done.stdout or failed in done.stdout
    assert remote_iris.json("kill", "--wait", running)["jobs"][0]["state"] == "KILLED"


def test_kill_ends_what_it_can(remote_iris: Iris) -> None:
    one, other = (detach(remote_iris, "exec sleep 600") for _ in range(2))
    done = remote_iris("kill", one, "nobody", other, "--wait", "--json", code=1)
    assert {(job["job_id"], job["state"]) for job in json.loads(done.stdout)["jobs"]} == {
        (one, "KILLED"),
        (other, "KILLED"),
    }
    assert "'nobody'" in done.stderr
    assert "had ended" in remote_iris("kill", one).stdout


def test_an_unknown_job_is_told_with_those_that_are_spelt_alike(remote_iris: Iris) -> None:
    name = unique("spelling")
    remote_iris("run", "--detach", "--name", name, "true")
    for command in ("status", "logs", "kill"):
        assert f"did you mean {name}?" in remote_iris(command, name[:-1], code=1).stderr
    assert "iris ps --all" in remote_iris("status", "§§§", code=1).stderr


def test_logs_of_all_tasks_and_of_some(remote_iris: Iris) -> None:
    name = detach(remote_iris, "echo out $IRIS_TASK_INDEX; echo err >&2", "--replicas", "3")
    wait_for(remote_iris, name, "SUCCEEDED")
    done = remote_iris("logs", name)
    assert sorted(done.stdout.splitlines()) == sorted(
        f"task-{i} | {line}" for i in range(3) for line in (f"out {i}", "err")
    )
    assert sorted(remote_iris("logs", "-f", name).stdout) == sorted(done.stdout)
    assert set(remote_iris("logs", name, "--task", "1").stdout.splitlines()) == {"out 1", "err"}
    some = [
        json.loads(x) for x in remote_iris("logs", name, "--task", "2", "--task", "0", "--json").stdout.splitlines()
    ]
    assert {line["task"] for line in some} == {0, 2}
    assert set(some[0]) == {"task", "attempt", "source", "timestamp_ms", "message"}
    assert "its tasks are 0 to 2" in remote_iris("logs", name, "--task", "3", code=1).stderr


def test_logs_of_all_attempts_over_many_pages(remote_iris: Iris) -> None:
    count = 30_000
    name = detach(remote_iris, f"seq {count}; exit $((1 - IRIS_ATTEMPT_ID))", "--retries", "1")
    wait_for(remote_iris, name, "SUCCEEDED")
    done = remote_iris("logs", name)
    assert done.stdout == "".join(f"{n}\n" for n in range(1, count + 1)) * 2
    assert "attempt 0 of task 0 ended: exit code 1" in done.stderr
    assert remote_iris("logs", "-f", name).stdout == done.stdout


def test_a_reader_that_leaves_is_no_error(remote_iris: Iris) -> None:
    name = detach(remote_iris, "while :; do echo more; done")
    wait_for(remote_iris, name, "RUNNING")
    for words in (["logs", name], ["logs", "-f", name]):
        logs = remote_iris.start(*words)
        assert logs.line() == "more"
        logs.process.stdout.close()
        assert logs.exit_code() == 141
        assert "iris:" not in logs.stderr
    remote_iris("kill", "--wait", name)


def test_a_reader_that_leaves_a_silent_task(remote_iris: Iris) -> None:
    name = detach(remote_iris, "echo once; exec sleep 600")
    logs = remote_iris.start("logs", "-f", name)
    assert logs.line() == "once"
    logs.process.stdout.close()
    assert logs.exit_code() == 141
    assert "iris:" not in logs.stderr
    remote_iris("kill", "--wait", name)


def test_ctrl_c_ends_a_follow(remote_iris: Iris) -> None:
    name = detach(remote_iris, "echo once; exec sleep 600")
    logs = remote_iris.start("logs", "-f", name)
    assert logs.line() == "once"
    logs.interrupt()
    assert logs.exit_code() == 130
    assert "iris:" not in logs.stderr
    assert remote_iris.json("kill", "--wait", name)["jobs"][0]["state"] == "KILLED"


def test_help_and_version(remote_iris: Iris) -> None:
    assert remote_iris("--version").stdout.startswith("iris ")
    for command in ("run", "ps", "status", "logs", "kill", "up", "down"):
        assert f"  iris {command}" in remote_iris(command, "-h").stdout
    assert "iris run" in remote_iris(code=2).stderr


def test_a_base_install_says_what_is_missing() -> None:
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("click", "rich"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from iris.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "ps"], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1
    assert done.stderr == "iris: The command iris needs the extra [cli]: pip install 'iris-cluster[cli]'\n"
