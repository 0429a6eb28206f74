"""`iris ps` with filters, `iris ps --watch`, `iris status --watch` and `iris top`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.cluster import unique
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def blocked(path: Path) -> str:
    """A script that ends when there is a file."""
    return f"while [ ! -e {path} ]; do sleep 0.05; done; exit 4"


def test_ps_selects_jobs_by_state_owner_name_and_time(remote_iris: Iris) -> None:
    base = unique("select")
    for word, script in (("good", "true"), ("bad", "exit 1")):
        remote_iris("run", "-d", "--name", f"{base}-{word}", "--", "sh", "-c", script)
    remote_iris("wait", f"{base}-*", code=1)

    def listed(*words: str) -> list[str]:
        return [
            job["job_id"].removeprefix(f"{base}-") for job in remote_iris.json("ps", "--name", base, *words)["jobs"]
        ]

    assert listed() == ["bad", "good"]
    assert listed("--state", "failed", "--state", "RUNNING") == ["bad"]
    assert listed("--state", "failed,Killed") == ["bad"]
    assert listed("--state", "running, succeeded", "--state", "failed") == ["bad", "good"]
    assert listed("--since", "1h") == ["bad", "good"]
    assert listed("--since", "2100-01-01") == []
    owner = remote_iris.json("status", f"{base}-good")["owner"]
    assert listed("--owner", owner) == ["bad", "good"]
    assert listed("--owner", "somebody else") == []
    assert [job["job_id"] for job in remote_iris.json("ps", "--name", f"{base}-g*")["jobs"]] == [f"{base}-good"]
    assert remote_iris("ps", "--name", "§").stdout == "no such jobs\n"
    for wrong in ("LOST", "failed,LOST", "failed,"):
        refused = remote_iris("ps", "--state", wrong, code=2).stderr
        assert "'--state'" in refused
        assert f"{wrong.rpartition(',')[2]!r} is not one of" in refused


def test_watched_status_in_a_pipe_has_one_line_for_each_change_and_ends_with_the_job(
    remote_iris: Iris, tmp_path: Path
) -> None:
    name = remote_iris.detach(blocked(tmp_path / "go"))
    remote_iris.wait_for(name, "RUNNING")
    watch = remote_iris.start("status", "--watch", "--json", name)
    assert json.loads(watch.line())["state"] == "RUNNING"
    (tmp_path / "go").touch()
    states = [json.loads(line)["state"] for line in watch.rest()]
    assert states[-1] == "FAILED"
    assert watch.exit_code() == 0
    assert remote_iris("status", "--watch", name).stdout.count("exit code 4") == 2, "the job and its task, once"


def test_watched_jobs_are_redrawn_in_place_on_a_terminal_until_ctrl_c(remote_iris: Iris, tmp_path: Path) -> None:
    name = unique("drawn")
    remote_iris("run", "-d", "--name", name, "--", "sh", "-c", blocked(tmp_path / "go"))
    remote_iris.wait_for(name, "RUNNING")
    terminal = remote_iris.terminal("ps", "--watch", "--name", name)

    def rows() -> list[str]:
        return [row for row in terminal.screen if name in row or "JOB" in row]

    wait_until(lambda: any("RUNNING" in row for row in terminal.screen), f"the job on the screen: {terminal.screen}")
    (tmp_path / "go").touch()
    # The screen may show a part of the new rows.
    wait_until(
        lambda: "FAILED" in (screen := "\n".join(terminal.screen)) and "RUNNING" not in screen,
        f"the end on the screen in place of the earlier rows: {terminal.screen}",
    )
    assert sum("JOB" in row for row in rows()) == 1
    terminal.type("\x03")
    assert terminal.exit_code() == 130


def test_watched_jobs_in_a_pipe_have_one_line_for_each_change_and_every_line_has_the_job(
    remote_iris: Iris, tmp_path: Path
) -> None:
    name = remote_iris.detach(blocked(tmp_path / "go"))
    remote_iris.wait_for(name, "RUNNING")
    watch = remote_iris.start("ps", "--watch", "--json", "--name", f"{name[:-2]}*")
    states = [json.loads(watch.line())["jobs"][0]["state"]]
    (tmp_path / "go").touch()
    while states[-1] != "FAILED":
        (job,) = json.loads(watch.line())["jobs"]
        states.append(job["state"])
    watch.interrupt()
    assert watch.exit_code() == 130
    assert states[0] == "RUNNING"


def test_top_lists_running_tasks_with_the_largest_cpu_use_first(remote_iris: Iris) -> None:
    busy = remote_iris.detach("while :; do :; done")
    idle = remote_iris.detach("exec sleep 600", "-n", "2", "--independent")

    def used() -> Any:
        tasks = remote_iris.json("top", busy, idle)["tasks"]
        assert [task["cpu_millicores"] for task in tasks] == sorted(
            (task["cpu_millicores"] for task in tasks), reverse=True
        )
        # Tasks that have just started have used more CPU time than they will later.
        is_first = tasks and tasks[0]["task_id"] == f"{busy}/task-0" and tasks[0]["cpu_millicores"] > 0
        return len(tasks) == 3 and is_first and tasks

    tasks = wait_until(used, "three tasks, of which the busy one is the first")
    assert {task["task_id"] for task in tasks[1:]} == {f"{idle}/task-0", f"{idle}/task-1"}
    assert set(tasks[0]) >= {"cpu_millicores", "memory_mb", "memory_peak_mb", "gpu", "worker_id"}
    assert [task["task_id"] for task in remote_iris.json("top", f"{idle}/task-1")["tasks"]] == [f"{idle}/task-1"]
    assert len(remote_iris.json("top", f"{idle}/task-1", idle)["tasks"]) == 2
    once = remote_iris("top", "--once", "--limit", "1", busy).stdout.splitlines()
    assert [line.split()[0] for line in once] == ["TASK", f"{busy}/task-0"]
    terminal = remote_iris.terminal("top", busy)
    wait_until(lambda: any(busy in row for row in terminal.screen), "the task on the screen")
    terminal.type("\x03")
    assert terminal.exit_code() == 130
    remote_iris("kill", busy, idle)
