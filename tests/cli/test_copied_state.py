"""A copy of a state directory, or of a whole home directory, begins as a new cluster and leaves the original alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import is_alive
from support.ports import free_port
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.

TASK = "echo $$ > {0}.new; mv {0}.new {0}; while [ ! -e {1} ]; do sleep 0.05; done; echo went on"


@pytest.fixture
def elsewhere(iris: Iris, tmp_path: Path) -> Iterator[Iris]:
    """`iris` under another home, which knows nothing of the first."""
    program = iris.under_another_home(tmp_path / "elsewhere")
    yield program
    program("down")
    program.close()


def copy(source: Path, target: Path) -> Path:
    """Copy a directory. `cp` fails if a running cluster removes a file meanwhile. The copy is then made again."""

    def is_copied() -> bool:
        shutil.rmtree(target, ignore_errors=True)
        return subprocess.run(["cp", "-a", str(source), str(target)]).returncode == 0

    wait_until(is_copied, "a copy of all files", pause_s=0.2)
    return target


def run_task(iris: Iris, name: str) -> int:
    """Submit a job that waits for the file `gate`, and return the process of its task."""
    pid_file = iris.folder / f"{name}.pid"
    iris("run", "--detach", "--name", name, "--", "sh", "-c", TASK.format(pid_file, iris.folder / "gate"))
    return int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the task's process"))


def finish(iris: Iris, name: str) -> None:
    """Let the jobs of the original end, and see that one of them ended well at its first attempt."""
    (iris.folder / "gate").touch()
    job = iris.wait_for(name, "SUCCEEDED")
    assert len(job["tasks"][0]["attempts"]) == 1
    assert iris("logs", name).stdout.endswith("went on\n")


def kill_server(up: dict[str, Any]) -> None:
    os.kill(up["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(up["pid"]), "the end of the server")


def test_copied_state_directory_of_a_running_cluster_does_not_affect_the_tasks_of_the_original(
    iris: Iris, elsewhere: Iris, tmp_path: Path
) -> None:
    up = iris.json("up", "--port", "0", "--workers", "2", "--state-dir", "state")
    pid = run_task(iris, "goes-on")
    iris("run", "--detach", "--name", "waits", "--cpu", "1", "--replicas", "1", "--", "true")
    iris.wait_for("waits", "SUCCEEDED")
    copied = copy(Path(up["state_dir"]), tmp_path / "copy")

    started = elsewhere("up", "--port", "0", "--workers", "2", "--state-dir", str(copied), "--json")
    document = json.loads(started.stdout)
    assert document["copied"] == {"original": up["state_dir"], "jobs_not_taken_over": 1}
    assert f"is a copy of {up['state_dir']}: this is a new cluster" in started.stderr
    assert "1 job that had not ended was not taken over" in started.stderr
    assert f"is a copy of {up['state_dir']}" in (copied / "server.log").read_text()

    # The copy knows what had ended, and has let the rest go without a charge to any budget.
    assert elsewhere.json("status", "waits")["state"] == "SUCCEEDED"
    job = elsewhere.json("status", "goes-on")
    assert job["state"] == "KILLED"
    assert "was not taken over" in job["error"]
    assert job["failure_count"] == job["preemption_count"] == 0
    elsewhere("run", "--", "true")

    # Neither it nor its end touches the original.
    elsewhere("down")
    assert is_alive(pid)
    assert iris.json("status", "goes-on")["state"] == "RUNNING"
    finish(iris, "goes-on")

    # Once it is a cluster of its own, it is an original.
    again = elsewhere.json("up", "--port", "0", "--state-dir", str(copied))
    assert again["copied"] is None


def test_workers_of_a_killed_cluster_refuse_the_controller_of_a_copied_state_directory_on_the_same_port(
    iris: Iris, elsewhere: Iris, tmp_path: Path
) -> None:
    up = iris.json("up", "--port", str(free_port()), "--state-dir", "state")
    pid = run_task(iris, "goes-on")
    kill_server(up)
    copied = copy(Path(up["state_dir"]), tmp_path / "copy")
    token = (copied / "token").read_text().strip()

    # The original's workers look for their controller at just this address, and call it.
    other = elsewhere.json("up", "--port", str(up["port"]), "--state-dir", str(copied))
    assert other["copied"]["jobs_not_taken_over"] == 1
    messages = Path(up["state_dir"]) / "workers" / "local-0.log"
    wait_until(
        lambda: "another cluster, or from before" in messages.read_text(),
        "a refusal of the worker's calls",
    )
    assert "another cluster" in elsewhere("--address", up["address"], "ps", code=1, IRIS_TOKEN=token).stderr
    elsewhere("run", "--", "true")
    elsewhere("down")
    assert is_alive(pid)

    back = iris.json("up")
    assert back["found"]["workers_running"] == 1
    assert back["copied"] is None
    finish(iris, "goes-on")


def test_down_in_a_copied_state_directory_does_not_end_the_attempts_of_a_killed_cluster(
    iris: Iris, elsewhere: Iris, tmp_path: Path
) -> None:
    up = iris.json("up", "--port", "0", "--state-dir", "state")
    pid = run_task(iris, "goes-on")
    kill_server(up)
    copied = copy(Path(up["state_dir"]), tmp_path / "copy")
    # `iris down` there, as after a kill of its server, ends what its record and its files name: nothing.
    elsewhere.json("up", "--port", "0", "--state-dir", str(tmp_path / "other"))
    record = next((elsewhere.home / "state" / "iris").glob("up-*.json"))
    known = json.loads(record.read_text())
    kill_server(known)
    record.write_text(json.dumps(known | {"state_dir": str(copied)}))
    assert elsewhere.json("down")["workers_ended"] == 0
    assert is_alive(pid)
    record.write_text(json.dumps(known))  # the last `iris down` of the other user ends the other worker
    iris("up")
    finish(iris, "goes-on")


def test_down_in_a_copied_home_directory_does_not_end_the_original_cluster(iris: Iris, tmp_path: Path) -> None:
    up = iris.json("up", "--port", "0")
    pid = run_task(iris, "goes-on")
    other = iris.under_another_home(tmp_path / "elsewhere")
    shutil.rmtree(other.home)
    copy(iris.home, other.home)
    assert "iris up" in other("ps", code=1).stderr
    assert other.json("down") == {"stopped": False, "address": None, "workers_ended": 0}
    assert is_alive(up["pid"])
    assert is_alive(pid)
    finish(iris, "goes-on")
    other.close()


@pytest.mark.parametrize(
    "how", ["in place", pytest.param("moved", marks=pytest.mark.long), "moved while a worker lives"]
)
def test_state_directory_that_was_moved_or_used_before_is_not_treated_as_a_copy(
    iris: Iris, tmp_path: Path, how: str
) -> None:
    up = iris.json("up", "--port", "0", "--state-dir", "state")
    name = iris.detach("echo done")
    iris.wait_for(name, "SUCCEEDED")
    if how == "moved while a worker lives":
        kill_server(up)
    else:
        iris("down")
    state = Path(up["state_dir"])
    if how != "in place":
        state = state.rename(tmp_path / "moved")
    state.chmod(0o750)
    again = iris.json("up", "--port", "0", "--state-dir", str(state))
    assert again["copied"] is None
    assert iris.json("status", name)["state"] == "SUCCEEDED"


def test_up_with_take_over_continues_the_jobs_of_a_restored_state_directory_and_accepts_its_tokens(
    iris: Iris, tmp_path: Path
) -> None:
    up = iris.json("up", "--port", "0", "--state-dir", "state")
    token = iris("token", "create", "ana").stdout.strip().splitlines()[-1].removeprefix("IRIS_TOKEN=")
    run_task(iris, "goes-on")
    iris("down")
    restored = copy(Path(up["state_dir"]), tmp_path / "restored")
    shutil.rmtree(up["state_dir"])
    again = iris.json("up", "--port", "0", "--state-dir", str(restored), "--take-over")
    assert again["copied"] is None
    assert again["found"]["jobs_going_on"] == 1
    (iris.folder / "gate").touch()
    job = iris.wait_for("goes-on", "SUCCEEDED")
    assert len(job["tasks"][0]["attempts"]) == 2
    assert "goes-on" in iris("--address", again["address"], "ps", "--all", IRIS_TOKEN=token, code=None).stdout
    iris("down")
    assert iris.json("up", "--port", "0", "--state-dir", str(restored))["copied"] is None
