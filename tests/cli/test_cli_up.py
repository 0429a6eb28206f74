"""`iris up` and `iris down`: the cluster outlives the command, other commands find it, and nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

from support.certificates import self_signed
from support.cluster import is_alive
from support.lossy_proxy import LossyProxy
from support.ports import free_port
from support.waiting import wait_until

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def record_of(iris: Iris) -> Path:
    (path,) = (iris.home / "state" / "iris").glob("up-*.json")
    return path


def test_cluster_of_up_runs_jobs_until_down(iris: Iris) -> None:
    first = iris.json("up", "--port", "0", "--workers", "2")
    assert first["started"]
    again = iris.json("up", "--port", "0")
    assert (again["started"], again["address"]) == (False, first["address"])
    assert "--workers 2" in iris("up", "--workers", "3", code=1).stderr

    # Detached: the id alone on stdout. It runs here, with this shell's variables.
    script = "echo $MINE; pwd; while [ ! -e go-on ]; do sleep 0.05; done; echo went on"
    job_id = iris("run", "--detach", "--name", "stays", "--", "sh", "-c", script, MINE="mine").stdout
    assert job_id == "stays\n"
    follow = iris.start("logs", "-f", "stays")
    assert [follow.line(), follow.line()] == ["mine", str(iris.folder)]
    (iris.folder / "go-on").touch()
    assert follow.rest() == ["went on"]
    assert follow.exit_code() == 0

    # Jobs are remembered; what ran is ended with the cluster.
    iris("run", "--detach", "--", "sh", "-c", "echo $$ > pid.new; mv pid.new pid; exec sleep 600")
    pid = int(wait_until(lambda: (p := iris.folder / "pid").exists() and p.read_text(), "the task's pid"))
    assert iris.json("down") == {"stopped": True, "address": first["address"], "workers_ended": 0}
    assert not is_alive(first["pid"])
    assert not is_alive(pid)
    assert iris.json("down") == {"stopped": False, "address": None, "workers_ended": 0}
    iris("up", "--port", "0")
    assert iris.json("status", "stays")["state"] == "SUCCEEDED"
    assert iris("logs", "stays").stdout.splitlines()[-1] == "went on"


def test_up_on_a_taken_port_names_the_port_option(iris: Iris) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = iris("up", "--port", str(port), code=1)
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_task_over_its_limits_is_ended_with_a_reason(iris: Iris) -> None:
    iris("up", "--port", "0", "--enforce", "watch", "--max-processes", "50")
    iris("up", "--enforce", "watch", "--max-processes", "50")
    assert "--max-processes 50" in iris("up", "--max-processes", "60", code=1).stderr
    assert "--enforce watch" in iris("up", "--enforce", "none", code=1).stderr

    take = ["python3", "-c", "import time; block = b'x' * (100 << 20); time.sleep(600)"]
    done = iris("run", "--name", "hungry", "--memory", "50MiB", "--", *take, code=137)
    assert "out of memory: the task used" in done.stderr
    assert "its limit is 50 MiB" in done.stderr
    job = iris.json("status", "hungry")
    assert job["error"].startswith("out of memory: the task used")
    assert [attempt["out_of_memory"] for attempt in job["tasks"][0]["attempts"]] == [True]

    done = iris("run", "--", "sh", "-c", "for i in $(seq 100); do sleep 600 & done; wait", code=137)
    assert "too many processes: the task had " in done.stderr
    assert "its limit is 50 (iris up --max-processes)" in done.stderr


def test_up_prints_the_port_of_its_metrics_and_refuses_a_taken_port(iris: Iris) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in iris("up", "--port", "0", "--metrics-port", str(port), code=1).stderr
    done = iris("up", "--port", "0", "--metrics-port", "0")
    (url,) = re.findall(r"without a token: (http://127\.0\.0\.1:[0-9]+/metrics)\n", done.stderr)
    with urllib.request.urlopen(url) as answer:
        assert b"iris_jobs{" in answer.read()


def test_up_uses_the_given_state_directory(iris: Iris) -> None:
    up = iris.json("up", "--port", "0", "--state-dir", "kept")
    assert up["state_dir"] == str(iris.folder / "kept")
    assert (iris.folder / "kept" / "controller.db").exists()
    assert iris.json("ps") == {"jobs": []}


def test_state_directory_that_cannot_be_created_is_named(iris: Iris) -> None:
    (iris.folder / "file").touch()
    assert "file" in iris("up", "--port", "0", "--state-dir", "file/below", code=1).stderr


def test_server_record_that_names_a_dead_or_foreign_process_is_ignored(iris: Iris) -> None:
    dead = iris.json("up", "--port", "0")
    record = record_of(iris)
    kept = json.loads(record.read_text())
    os.kill(dead["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(dead["pid"]), "the end of the server")
    assert "iris up" in iris("ps", code=1).stderr
    # The id was given to another process, ours: it is not taken for a cluster, and not killed.
    record.write_text(json.dumps(kept | {"pid": os.getpid()}))
    assert "iris up" in iris("ps", code=1).stderr
    assert iris.json("down")["stopped"] is False
    for broken in ("", "[]", "{}", "not JSON", json.dumps(kept | {"another": "key"})):
        record.write_text(broken)
        assert "iris up" in iris("ps", code=1).stderr
    assert iris.json("up", "--port", "0")["started"]
    assert iris.json("ps") == {"jobs": []}


def kill_server(up: dict[str, Any]) -> None:
    os.kill(up["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(up["pid"]), "the end of the server")


def test_up_after_a_killed_server_continues_its_jobs_with_its_options(iris: Iris) -> None:
    port = str(free_port())
    first = iris.json("up", "--port", port, "--workers", "2", "--lease", "2m", "--max-log-bytes", "1MB")
    assert first["found"] is None
    done = iris.detach("echo done")
    iris.wait_for(done, "SUCCEEDED")
    goes_on = iris.detach("while [ ! -e go-on ]; do sleep 0.05; done; echo went on; exit 3")
    iris.wait_for(goes_on, "RUNNING")
    kill_server(first)
    assert "iris up" in iris("ps", code=1).stderr

    # As it was: its port, its workers, its lease. And it says what it has found.
    second = iris.json("up")
    kept = ("port", "address", "workers", "state_dir", "lease", "max_log_bytes")
    assert {name: second[name] for name in kept} == {name: first[name] for name in kept}
    assert second["found"] == {"jobs_going_on": 1, "jobs_ended": 1, "workers_running": 2}
    kill_server(second)
    again = iris("up", "--port", "0")
    assert second["address"] in again.stdout, "any free port: best the one that its tasks know"
    assert "1 job going on, 2 workers still running, 1 ended" in again.stderr
    (iris.folder / "go-on").touch()
    assert iris.wait_for(goes_on, "FAILED")["exit_code"] == 3
    assert iris("logs", goes_on).stdout == "went on\n"
    assert len(iris.json("status", goes_on)["tasks"][0]["attempts"]) == 1
    assert iris.json("down")["stopped"]
    assert iris.json("up", "--port", "0")["workers"] == 1, "after 'iris down' the defaults are meant again"


def test_up_with_another_certificate_after_a_killed_server_is_refused(iris: Iris) -> None:
    up = iris.json("up", "--port", str(free_port()))
    goes_on = iris.detach("while [ ! -e go-on ]; do sleep 0.05; done")
    iris.wait_for(goes_on, "RUNNING")
    assert "up --insecure-no-tls\n" in iris("up", "--insecure-no-tls", code=1).stderr
    kill_server(up)
    shown = self_signed(iris.folder, "127.0.0.1")
    refused = iris("up", "--tls-cert", str(shown.cert), "--tls-key", str(shown.key), code=1).stderr
    assert "cannot change --tls-cert" in refused
    assert "iris down" in refused
    assert iris.json("up")["found"]["workers_running"] == 1
    (iris.folder / "go-on").touch()
    assert len(iris.wait_for(goes_on, "SUCCEEDED")["tasks"][0]["attempts"]) == 1


def test_up_with_a_certificate_for_another_name_is_refused(iris: Iris) -> None:
    shown = self_signed(iris.folder, "cluster.example.org")
    refused = iris("up", "--port", "0", "--tls-cert", str(shown.cert), "--tls-key", str(shown.key), code=1).stderr
    assert "another name" in refused
    assert "--host must be a name" in refused
    assert "cannot keep" not in refused


def test_down_ends_the_workers_of_a_killed_server(iris: Iris) -> None:
    up = iris.json("up", "--port", "0", "--workers", "2")
    iris.detach("echo $$ > pid.new; mv pid.new pid; exec sleep 600")
    pid = int(wait_until(lambda: (p := iris.folder / "pid").exists() and p.read_text(), "the task's pid"))
    kill_server(up)
    assert is_alive(pid), "it goes on without its controller"
    done = iris("down")
    assert "2 workers of one whose server was killed have ended" in done.stdout + done.stderr
    assert not is_alive(pid)
    assert iris.json("down") == {"stopped": False, "address": None, "workers_ended": 0}


def test_invalid_lease_is_refused(iris: Iris) -> None:
    for text in ("soon", "0s", "-5m"):
        assert "--lease" in iris("up", "--port", "0", f"--lease={text}", code=2).stderr


def test_second_cluster_in_the_same_state_directory_is_refused(iris: Iris, tmp_path: Path) -> None:
    up = iris.json("up", "--port", "0")
    record_of(iris).unlink()  # as if it were another user's, or another machine's with the same home
    refused = iris("up", "--port", "0", code=1).stderr
    assert f"in use by the controller of process {up['pid']}" in refused
    assert "--state-dir" in refused
    os.kill(up["pid"], signal.SIGTERM)
    wait_until(lambda: not is_alive(up["pid"]), "the end of the server")


def test_clients_and_tasks_use_the_address_of_the_option_advertise(iris: Iris) -> None:
    port = free_port()
    with LossyProxy(f"http://127.0.0.1:{port}") as forwarded:
        advertised = forwarded.address.removeprefix("http://")
        up = iris.json("up", "--port", str(port), "--advertise", advertised)
        assert (up["address"], up["port"]) == (forwarded.address, port)
        done = iris("run", "--", "sh", "-c", "echo $IRIS_CONTROLLER_ADDRESS $IRIS_ADVERTISE_HOST")
        assert done.stdout == f"{forwarded.address} 127.0.0.1\n"
        assert iris("--address", f"localhost:{port}", "ps").stdout, "past it, with the same token"
        os.kill(up["pid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(up["pid"]), "its end")
        again = iris.json("up")
        assert (again["address"], again["port"], again["advertise"]) == (forwarded.address, port, advertised)
        iris("down")
        assert (
            "the address of --advertise must reach the cluster from this machine, too"
            in iris("up", "--port", str(port), "--advertise", "127.0.0.1:9", code=1).stderr
        )
    assert "all addresses of a machine" in iris("up", "--port", "0", "--advertise", "0.0.0.0", code=2).stderr
    assert "a client cannot connect to port 0" in iris("up", "--advertise", "some-host:0", code=2).stderr


def test_up_reads_options_from_a_file_and_a_flag_wins_over_it(iris: Iris) -> None:
    (iris.folder / "cluster.toml").write_text(
        'port = 0\nstate_dir = "kept"\nworkers = 2\nkeep_logs = "12h"\nlog_format = "json"\n'
    )
    up = iris.json("up", "--config", "cluster.toml", "--workers", "1", "--verbose")
    assert (up["workers"], up["keep_logs"], up["log_format"], up["log_level"]) == (1, "12h", "json", "debug")
    assert up["state_dir"] == str(iris.folder / "kept")
    assert "--workers 1; to change this option" in iris("up", "--config", "cluster.toml", code=1).stderr
    iris("up", "--config", "cluster.toml", "--workers", "1")
    kill_server(up)
    again = iris.json("up")
    assert {name: again[name] for name in ("port", "keep_logs", "state_dir")} == {
        name: up[name] for name in ("port", "keep_logs", "state_dir")
    }


def test_up_with_a_file_that_has_a_mistake_starts_nothing(iris: Iris) -> None:
    (iris.folder / "cluster.toml").write_text('lease = "soon"\n')
    refused = iris("up", "--config", "cluster.toml", code=2).stderr
    assert "cluster.toml: lease: expected a time of 1s or more" in refused
    assert "got 'soon'" in refused
    assert iris.json("down")["stopped"] is False
