"""`iris up --engine slurm`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from support.cluster import is_alive
from support.slurm_cluster import Node, SlurmCluster, skip_where_there_is_none
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def test_run_on_slurm_shows_the_lines_of_the_job(iris: Iris, tmp_path: Path) -> None:
    skip_where_there_is_none()
    nodes = [Node("n0", ("zone=a",)), Node("n1", ("zone=b",))]
    with SlurmCluster(tmp_path / "slurm", nodes) as slurm:
        iris.env |= slurm.environment
        options = ("--engine", "slurm", "--slurm-option=--partition=main", "--slurm-option=--comment=x")
        refused = iris("up", "--port", "0", *options, code=1)
        assert "Iris sets the sbatch option '--comment=x' itself" in refused.stderr
        up = iris.json("up", "--port", "0", *options[:3])
        assert (up["engine"], up["slurm_options"]) == ("slurm", ["--partition=main"])
        try:
            again = iris("up", "--slurm-option=--partition=other", code=1)
            assert "--slurm-option --partition=main" in again.stderr
            command = ("sh", "-c", "echo task $IRIS_TASK_INDEX")
            done = iris("run", "--replicas", "2", "--spread", "--", *command)
            assert sorted(line.rpartition("task ")[2] for line in done.stdout.splitlines()) == ["0", "1"]
            iris("run", "--constraint", "zone=b", "--", "true")
        finally:
            assert iris.json("down")["stopped"]
        assert slurm.jobs() == {}


def test_down_ends_the_slurm_jobs_of_a_killed_server(iris: Iris, tmp_path: Path) -> None:
    skip_where_there_is_none()
    with SlurmCluster(tmp_path / "slurm", [Node("n0"), Node("n1")]) as slurm:
        iris.env |= slurm.environment
        up = iris.json("up", "--port", "0", "--engine", "slurm")
        try:
            job_id = iris("run", "--detach", "--replicas", "2", "--spread", "--", "sleep", "1000").stdout.strip()
            wait_until(
                lambda: {task["state"] for task in iris.json("status", job_id)["tasks"]} == {"RUNNING"},
                "its tasks to run",
            )
            os.kill(up["pid"], signal.SIGKILL)
            wait_until(lambda: not is_alive(up["pid"]), "the end of the server")
        finally:
            down = iris.json("down")
        assert (down["stopped"], down["workers_ended"]) == (False, 2)
        refused = iris("up", "--port", "0", code=1).stderr
        assert f"contains unfinished jobs ({job_id}) of --engine slurm" in refused
        assert slurm.jobs() == {}


def test_down_reports_that_slurm_cannot_be_reached(iris: Iris, tmp_path: Path) -> None:
    skip_where_there_is_none()
    with SlurmCluster(tmp_path / "slurm", [Node("n0")]) as slurm:
        iris.env |= slurm.environment
        iris.json("up", "--port", "0", "--engine", "slurm", "--lease", "5s")
        try:
            iris("run", "--detach", "--", "sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000")
            pid = int(wait_until(lambda: _text_of(tmp_path / "pid"), "its task to run"))
            slurm.kill_controller()
        finally:
            down = iris("down")
        assert "the cluster at" in down.stdout
        assert "Slurm cannot be reached" in down.stderr
        assert "attempts that still run there end with their lease" in down.stderr
        wait_until(lambda: not is_alive(pid), "the end of its lease")


def _text_of(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def test_up_refuses_options_of_another_engine(iris: Iris) -> None:
    words = iris("up", "--port", "0", "--slurm-option=--time=1", code=2).stderr
    assert "--slurm-option applies to --engine slurm only, but this cluster uses --engine local" in words
    words = iris("up", "--port", "0", "--engine", "slurm", "--workers", "2", code=2).stderr
    assert "--workers applies to --engine local only, but this cluster uses --engine slurm" in words
    words = iris("up", "--port", "0", "--engine", "slurm", "--label", "a=b", code=2).stderr
    assert "--label applies to --engine local only" in words


def test_up_without_an_installed_slurm_is_refused(iris: Iris, tmp_path: Path) -> None:
    words = iris("up", "--port", "0", "--engine", "slurm", code=1, PATH=str(tmp_path)).stderr
    assert "not found on PATH: sbatch, squeue, scancel, scontrol" in words
    assert "login node" in words
