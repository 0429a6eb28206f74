"""`iris ps`, `status` and `kill` on a running cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cluster import unique
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_ps_and_status_show_a_job_that_runs_and_one_that_failed(remote_iris: Iris) -> None:
    failed = remote_iris.detach("exit 5", "--replicas", "2", "--independent", "--max-task-failures", "1")
    running = remote_iris.detach("exec sleep 600", "--port", "http")
    remote_iris.wait_for(running, "RUNNING")
    job = remote_iris.wait_for(failed, "FAILED")
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


def test_ps_shows_a_limited_number_of_jobs_and_counts_the_hidden_ones(remote_iris: Iris) -> None:
    names = [remote_iris.detach("exec sleep 600") for _ in range(3)]
    done = remote_iris("ps", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3, "a header, and two jobs"
    assert names[2] in done.stdout, "the newest first"
    assert re.search("[0-9]+ more runs? or waits?", done.stderr)
    assert "iris ps --all" in done.stderr
    whole = [job["job_id"] for job in remote_iris.json("ps")["jobs"]]
    assert set(names) <= set(whole)
    assert len(whole) == len(remote_iris.json("ps", "--all")["jobs"])
    assert [job["job_id"] for job in remote_iris.json("ps", "--limit", "2")["jobs"]] == whole[:2]
    assert "--limit" in remote_iris("ps", "--limit", "0", code=2).stderr
    filters = ["--state", "running", "--state", "PENDING", "--name", names[0], "--since", "1h"]
    other = remote_iris("run", "--detach", "--name", f"{names[0]} too", "--", "sleep", "600").stdout.strip()
    hint = remote_iris("ps", "--limit", "1", *filters).stderr
    (told,) = re.findall(r"^iris: 1 more runs or waits: iris (ps --all .*)$", hint, re.MULTILINE)
    assert {job["job_id"] for job in remote_iris.json(*shlex.split(told))["jobs"]} == {names[0], other}
    remote_iris("kill", *names, other)


def test_kill_terminates_the_known_jobs_and_reports_the_unknown_ones(remote_iris: Iris) -> None:
    one, other = (remote_iris.detach("exec sleep 600") for _ in range(2))
    done = remote_iris("kill", one, "unknown-job", other, "--wait", "--json", code=1)
    assert {(job["job_id"], job["state"]) for job in json.loads(done.stdout)["jobs"]} == {
        (one, "KILLED"),
        (other, "KILLED"),
    }
    assert "'unknown-job'" in done.stderr
    assert "had ended" in remote_iris("kill", one).stdout


def test_rm_removes_ended_jobs_and_reports_the_others(remote_iris: Iris) -> None:
    ended, other = (remote_iris.detach("true") for _ in range(2))
    running = remote_iris.detach("exec sleep 600")
    for name in (ended, other):
        remote_iris.wait_for(name, "SUCCEEDED")
    done = remote_iris("rm", ended, running, "unknown-job", "--json", code=1)
    assert json.loads(done.stdout) == {"removed": [ended]}
    assert f"iris kill --wait {running}" in done.stderr
    assert "'unknown-job'" in done.stderr
    assert ended not in remote_iris("ps", "--all").stdout
    assert "only the whole job" in remote_iris("rm", f"{running}/task-0", code=1).stderr
    assert "no job that has ended matches" in remote_iris("rm", f"{running}*", code=1).stderr
    assert f"give the whole id, for example {other}" in remote_iris("rm", other[:-1], code=1).stderr
    assert remote_iris("rm", f"{other}*").stdout == f"{other} was removed\n"
    remote_iris("rm", code=2)
    remote_iris("kill", running)


def test_kill_of_one_task_leaves_the_other_tasks_running(remote_iris: Iris) -> None:
    name = remote_iris.detach("exec sleep 600", "--replicas", "2", "--independent", "--cpu", "0")

    def states() -> list[str]:
        return [task["state"] for task in remote_iris.json("status", name)["tasks"]]

    wait_until(lambda: states() == ["RUNNING", "RUNNING"], "both tasks to run", pause_s=0.2)
    (task,) = remote_iris.json("kill", "--wait", name, "--task", "1")["tasks"]
    assert (task["task_id"], task["state"], task["error"]) == (f"{name}/task-1", "KILLED", "terminated by a user")
    assert f"{name}/task-1 had ended: KILLED" in remote_iris("kill", name, "--task", "1").stdout
    assert states() == ["RUNNING", "KILLED"]
    assert "no task 2" in remote_iris("kill", name, "--task", "2", code=1).stderr
    assert "--task needs exactly one JOB" in remote_iris("kill", name, name, "--task", "0", code=2).stderr
    asked = remote_iris("kill", name, "--task", "0").stdout
    assert asked in (f"{name}/task-0 was asked to end\n", f"{name}/task-0 ended: KILLED\n")
    assert remote_iris.wait_for(name, "KILLED")["error"] == "task 0 and 1 more were terminated by a user"


def test_run_with_option_after_waits_for_the_named_jobs(remote_iris: Iris) -> None:
    name = remote_iris.detach("exec sleep 600")
    then = remote_iris.detach("exit 0", "--after", f"{name}:any")
    never = remote_iris.detach("exit 0", "--after", name)
    assert remote_iris.json("status", then)["status_message"] == f"waiting for job {name!r} to end"
    remote_iris("kill", "--wait", name)
    remote_iris.wait_for(then, "SUCCEEDED")
    assert remote_iris.wait_for(never, "UNSCHEDULABLE")["failure_reason"] == "DEPENDENCY_FAILED"
    assert "no job named 'nowhere'" in remote_iris("run", "--after", "nowhere", "true", code=125).stderr
    wrong = remote_iris("run", "--after", f"afterok:{name}", "true", code=125).stderr
    assert "the conditions of --after are JOB:ok and JOB:any" in wrong
    both = remote_iris("run", "--after", name, "--after", f"{name}:any", "true", code=2).stderr
    assert f"--after names job {name} with two different conditions" in both


def test_job_timeout_ends_a_job_with_retry_pauses(remote_iris: Iris) -> None:
    # A busy machine needs seconds for two attempts.
    limits = ("--retries", "5", "--retry-pause", "60s", "--job-timeout", "12s")
    name = remote_iris.detach("exit 5", *limits)
    job = remote_iris.wait_for(name, "FAILED")
    assert job["error"] == "job timed out after 12 s"
    assert [attempt["exit_code"] for attempt in job["tasks"][0]["attempts"]] == [5, 5]
    done = remote_iris("run", "--retry-pause", "2m", "--", "true", code=2)
    assert "--retry-pause must be a number of seconds from 0 to 60, got 120.0" in done.stderr


def test_unknown_job_is_reported_with_similar_job_ids(remote_iris: Iris) -> None:
    name = unique("spelling")
    remote_iris("run", "--detach", "--name", name, "true")
    for command in ("status", "logs", "kill"):
        assert f"did you mean {name}?" in remote_iris(command, f"{name}x", code=1).stderr
    assert "iris ps --all" in remote_iris("status", "§§§", code=1).stderr


def test_help_and_version_are_printed(remote_iris: Iris) -> None:
    assert remote_iris("--version").stdout.startswith("iris ")
    for command in ("run", "ps", "status", "logs", "kill", "machines", "up", "down"):
        assert f"  iris {command}" in remote_iris(command, "-h").stdout
    assert "iris run" in remote_iris(code=2).stderr


def test_error_of_the_base_install_names_the_missing_extra() -> None:
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
    assert done.stderr == (
        "iris: The command iris needs the extra [cli]: pip install 'iris-cluster[cli]', or '.[cli]' in a checkout\n"
    )


def test_error_names_the_missing_server_extra_even_if_the_port_is_taken(tmp_path: Path) -> None:
    program = """
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "uvicorn" else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from iris.cli import main
main()
"""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["up", "--port", str(taken.getsockname()[1])]
        env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "needs the extra [server]" in done.stderr
    assert "in use" not in done.stderr


def test_task_id_in_place_of_a_job_id_selects_the_task(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo I am $IRIS_TASK_INDEX; exit $IRIS_TASK_INDEX", "--replicas", "2")
    remote_iris.wait_for(name, "FAILED")
    assert remote_iris("logs", f"{name}/task-1").stdout == "I am 1\n"
    assert remote_iris.json("status", f"{name}/task-1")["exit_code"] == 1
    assert "exit code 1" in remote_iris("status", f"{name}/task-1").stdout
    assert "--task needs the id of the job" in remote_iris("logs", f"{name}/task-1", "--task", "0", code=2).stderr
    for command in ("logs", "status", "kill"):
        assert "its tasks are 0 to 1" in remote_iris(command, f"{name}/task-7", code=1).stderr
        assert "no job named" in remote_iris(command, "§no-such/task-0", code=1).stderr
    assert f"{name}/task-1 had ended: FAILED" in remote_iris("kill", f"{name}/task-1").stdout


def test_command_that_is_not_found_exits_with_127(remote_iris: Iris) -> None:
    done = remote_iris("run", "--no-workspace", "--", "no-such-program", code=127)
    assert "command not found: 'no-such-program'" in done.stderr
    assert remote_iris("run", "--no-workspace", "--", "/etc/passwd", code=126)
    assert "/usr/bin" not in remote_iris("ps").stdout


def test_number_without_a_unit_means_seconds_for_every_time_option(remote_iris: Iris) -> None:
    name = remote_iris.detach("echo now", "--timeout", "60", "--job-timeout", "60s", "--retry-pause", "1")
    remote_iris.wait_for(name, "SUCCEEDED")
    assert remote_iris("logs", name, "--since", "3600").stdout == "now\n"
    assert remote_iris("logs", name, "--since", "1h", "--until", "0").stdout == "now\n"


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--replicas", "0", "must be a whole number from 1 to 2147483647, got 0"),
        ("--replicas", "99999999999", "must be a whole number from 1 to 2147483647, got 99999999999"),
        ("--retries", "two", "must be a whole number from 0 to 2147483647, got 'two'"),
        ("--cpu", "two", "cpu must be a number of cores from 0 to 2147483647"),
        ("--cpu", "0.0005", "with at most three decimals, such as 2, 0.25 or '250m', got 0.0005"),
        ("--timeout", "99999999999", "must be at most 2147483647 seconds (68 years), got '99999999999'"),
        ("--job-timeout", "100000d", "must be at most 2147483647 seconds (68 years), got '100000d'"),
        ("--name", "a\u200bb", "the invisible character U+200B (ZERO WIDTH SPACE)"),
        ("--name", " ", "begins or ends with a space"),
    ],
)
def test_error_for_an_option_out_of_bounds_names_the_option_and_no_cluster_starts(
    iris: Iris, option: str, value: str, problem: str
) -> None:
    done = iris("run", option, value, "--", "true", code=2)
    assert f"Invalid value for '{option}'" in done.stderr
    assert problem in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("option", ["--timeout", "--job-timeout", "--scheduling-timeout"])
def test_time_limit_of_years_is_accepted(remote_iris: Iris, option: str) -> None:
    assert remote_iris("run", option, "3650d", "--", "echo", "done").stdout == "done\n"


def test_logs_of_a_job_tree_name_the_job_of_each_line(remote_iris: Iris) -> None:
    name = unique("tree")
    program = (
        "from iris.client import IrisClient; client = IrisClient.remote(); print('root', flush=True);"
        " client.run(['sh', '-c', 'echo task $IRIS_TASK_INDEX'], name='child', replicas=2).wait()"
    )
    remote_iris("run", "--detach", "--name", name, sys.executable, "-c", program)
    done = remote_iris("logs", "--tree", "-f", name)
    shown = {tuple(part.strip() for part in line.split(" | ")) for line in done.stdout.splitlines()}
    children = {(f"{name}/child/task-{index}", f"task {index}") for index in range(2)}
    assert shown == {(name, "root"), *children}
    assert {json.loads(line)["job"] for line in remote_iris("logs", "--tree", "--json", name).stdout.splitlines()} == {
        name,
        f"{name}/child",
    }
    for option in (("--task", "0"), ("--raw",), ("--attempt", "0")):
        assert "exclude each other" in remote_iris("logs", "--tree", name, *option, code=2).stderr
