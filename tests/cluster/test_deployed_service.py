"""The files in `deploy/` that run a cluster as a service: the unit of systemd, and the container file."""

from __future__ import annotations

import ast
import asyncio
import configparser
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.cluster import launch, shell, wait_for_end, wait_for_state
from support.ports import free_port
from support.tokens import keep_key
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.engine.worker_process import end_standing, find_standing
from iris.config import ClusterConfig, read_config_file
from iris.rpc import cluster_pb2
from iris.rpc.http.tls import check_exposure

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "iris.service"
CONTAINER = DEPLOY / "container" / "Containerfile"
FILES = [DEPLOY / "systemd" / "cluster.toml", DEPLOY / "container" / "cluster.toml"]
_PYTHON = "/opt/iris/bin/python"


def unit() -> configparser.SectionProxy:
    """Return the section [Service] of the unit."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # This is how the case of names is kept.
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_example_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(_PYTHON, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.parent.name))
def test_example_configuration_is_accepted_and_does_not_serve_other_machines_without_tls(path: Path) -> None:
    config = ClusterConfig(**read_config_file(path))
    assert config.state_dir == Path("/var/lib/iris")
    assert config.port == 50051
    check_exposure(config.host, tls=bool(config.tls_cert), insecure=config.insecure_no_tls)


def test_example_container_starts_the_server_like_the_systemd_unit_and_checks_its_readiness() -> None:
    text = CONTAINER.read_text()
    command = json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[-1])
    assert command[1:] == shlex.split(unit()["ExecStart"])[1:]
    assert re.search(r"^COPY cluster.toml /etc/iris/cluster.toml$", text, re.MULTILINE)
    (check,) = re.findall(r"^    CMD (\[.*\])$", text, re.MULTILINE)
    program = json.loads(check)[-1]
    ast.parse(program)
    port = read_config_file(CONTAINER.with_name("cluster.toml"))["metrics_port"]
    assert f"http://127.0.0.1:{port}/readyz" in program


def test_service_continues_tasks_after_a_kill_and_ends_them_when_it_is_stopped(tmp_path: Path) -> None:
    """Runs the command of the unit with another directory and port, as systemd would: kill, restart, stop."""
    state, port = tmp_path / "state", free_port()
    keep_key(state)
    text = FILES[0].read_text().replace('"/var/lib/iris"', json.dumps(str(state))).replace("50051", str(port))
    config = tmp_path / "cluster.toml"
    config.write_text(text.replace("metrics_port = 9464", "metrics_port = 0"))
    words = [word.replace("/etc/iris/cluster.toml", str(config)) for word in shlex.split(unit()["ExecStart"])]
    command = [sys.executable, *words[1:]]
    assert unit()["KillMode"] == "process"  # systemd kills and stops only the server, as this test does.
    with (tmp_path / "messages").open("wb") as messages:
        server = subprocess.Popen(command, stderr=messages)
        try:
            with RemoteClusterClient(f"http://127.0.0.1:{port}") as client:
                wait_until(lambda: _is_ready(port), "the server")
                job_id = launch(
                    client, shell("while [ ! -e go ]; do sleep 0.05; done"), working_directory=str(tmp_path)
                )
                wait_for_state(client, job_id, cluster_pb2.JOB_STATE_RUNNING)
                server.kill()
                server.wait()
                server = subprocess.Popen(command, stderr=messages)
                wait_until(lambda: _is_ready(port), "the second server")
                (tmp_path / "go").touch()
                ended = wait_for_end(client, job_id)
                assert (ended.state, len(ended.tasks[0].attempts)) == (cluster_pb2.JOB_STATE_SUCCEEDED, 1)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
            assert find_standing(state / "workers") == []
        finally:
            server.kill()
            server.wait()
            asyncio.run(end_standing(state / "workers"))


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
