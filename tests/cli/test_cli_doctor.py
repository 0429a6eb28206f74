"""`iris doctor` against real clusters, and against none."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from support.certificates import self_signed
from support.cluster import is_alive, running_cluster
from support.ports import free_port
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.server_process import LocalServer

Iris = Any  # Tests cannot import the class from tests/cli/conftest.py.


def doctor(iris: Iris, *words: str, code: int, **env: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Run the command, and return its findings by subject and check."""
    document = json.loads(iris(*words, "doctor", "--json", code=code, **env).stdout)
    assert document["ok"] == (code == 0)
    return {(finding["subject"], finding["check"]): finding for finding in document["findings"]}


def test_doctor_finds_nothing_wrong_with_a_healthy_cluster(iris: Iris, shared_cluster: LocalServer) -> None:
    found = doctor(
        iris, code=0, IRIS_CONTROLLER_ADDRESS=shared_cluster.address, IRIS_TOKEN=token("reader", ttl_s=30 * 86400.0)
    )
    assert {finding["status"] for finding in found.values()} <= {"ok", "unknown"}
    for subject, checks in {
        "client": {"cluster", "token"},
        "controller": {"reachability", "clock", "version", "disk", "descriptors"},
        "engine": {"engine"},
        "worker local-1": {"reachability", "reachability-here", "clock", "version", "cgroups"},
    }.items():
        assert checks <= {check for known, check in found if known == subject}, subject
    assert "'reader'" in found["client", "token"]["text"]


def test_doctor_reports_a_token_that_the_cluster_refuses(iris: Iris, shared_cluster: LocalServer) -> None:
    other = token("reader", ttl_s=-100.0)
    found = doctor(iris, code=1, IRIS_CONTROLLER_ADDRESS=shared_cluster.address, IRIS_TOKEN=other)
    assert found["client", "token"]["status"] == "problem"
    assert found["controller", "reachability"]["status"] == "ok"
    assert "iris login" in found["client", "token"]["advice"]


def test_doctor_without_a_cluster_shows_the_next_steps(iris: Iris) -> None:
    found = doctor(iris, code=1)
    (finding,) = found.values()
    assert "iris up" in finding["advice"]


def test_doctor_names_an_address_at_which_nothing_listens(iris: Iris) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    found = doctor(iris, code=1, IRIS_CONTROLLER_ADDRESS=address, IRIS_TOKEN=token(ttl_s=30 * 86400.0))
    assert address in found["controller", "reachability"]["text"]
    assert found["client", "token"]["status"] == "ok"
    assert "FAIL  controller: " in iris("doctor", code=1, IRIS_CONTROLLER_ADDRESS=address).stdout


def test_doctor_names_a_host_name_that_does_not_resolve(iris: Iris) -> None:
    found = doctor(iris, code=1, IRIS_CONTROLLER_ADDRESS="http://nowhere.invalid:1", IRIS_TOKEN=token())
    assert "'nowhere.invalid' is unknown" in found["controller", "reachability"]["text"]


def test_doctor_names_the_event_log_of_a_killed_server_of_iris_up(iris: Iris) -> None:
    up = iris.json("up", "--port", "0")
    os.kill(up["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(up["pid"]), "the end of the server")
    found = doctor(iris, code=1)
    process = found["server of 'iris up'", "process"]
    assert (process["status"], "server.log" in process["text"]) == ("problem", True)
    assert found["server of 'iris up'", "disk"]["status"] == "ok"
    iris("down")


def test_doctor_checks_the_certificate_of_the_server(iris: Iris, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    options = {"tls_cert": str(certificate.cert), "tls_key": str(certificate.key)}
    with running_cluster(tmp_path / "state", **options) as server:
        env = {"IRIS_CONTROLLER_ADDRESS": server.address, "IRIS_TOKEN": token()}
        found = doctor(iris, code=0, IRIS_CA=str(certificate.cert), **env)
        assert "expires in" in found["controller", "tls"]["text"]
        refused = doctor(iris, code=1, **env)["controller", "reachability"]
        assert "its certificate is not accepted" in refused["text"]
        assert "IRIS_CA" in refused["advice"]
