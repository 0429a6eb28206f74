"""A server that takes long to load its state: it reports progress, answers the health service, and is not killed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.ports import free_port
from support.tokens import keep_key

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import start_server
from iris.config import ClusterConfig
from iris.errors import LocalClusterError
from iris.server.loading import Loading, loading_applications

_HEALTH = "/grpc.health.v1.Health/Check"
_OLD_DATABASE = Path(__file__).parent / "controller" / "databases" / "schema-2.sql"


def post(port: int, path: str) -> tuple[int, dict[str, str]]:
    """Send an empty request as JSON; return the status and the answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", b"{}", {"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def probe(port: int, path: str) -> int:
    """Return the status of a probe."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_loading_server_answers_calls_of_both_versions_of_the_reflection_service() -> None:
    paths = loading_applications(Loading(lambda text: None))
    assert {"/grpc.reflection.v1.ServerReflection", "/grpc.reflection.v1alpha.ServerReflection"} <= paths.keys()


def test_server_with_a_long_migration_reports_progress_and_answers_health_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    keep_key(state)
    with sqlite3.connect(state / "controller.db") as db:
        db.executescript(_OLD_DATABASE.read_text())
    db.close()
    # The thread that migrates waits at both ends of the migration for longer than a quick start may take.
    monkeypatch.setenv("IRIS_FAILPOINTS", "migrate.before=delay:4000;migrate.after=delay:4000")
    port, metrics_port, texts, answers, probes = free_port(), free_port(), [], [], []

    def on_progress(text: str) -> None:
        if text not in texts:
            texts.append(text)
            answers.append((post(port, _HEALTH), post(port, "/iris.cluster.ControllerService/ListJobs")))
            probes.extend((probe(of, "/healthz"), probe(of, "/readyz")) for of in (port, metrics_port))

    config = ClusterConfig(state_dir=state, port=port, metrics_port=metrics_port)
    server = start_server(config, ends_with_us=True, on_progress=on_progress)
    try:
        # A slow machine also shows the progress in between.
        migrating = "the controller is migrating its state: {} of 32 jobs"
        assert (texts[0], texts[-1]) == ("the controller is loading its state", migrating.format(32))
        assert set(texts[1:]) <= {migrating.format(done) for done in range(33)}
        for health, listed in answers:
            assert health == (200, {"status": "NOT_SERVING"})
            assert (listed[0], listed[1]["code"]) == (503, "unavailable")
        # Only these two texts stay long enough to be asked for.
        for text, (_, listed) in [(texts[0], answers[0]), (texts[-1], answers[-1])]:
            assert listed[1]["message"] == f"{text}: try again"
        assert probes == [(200, 503)] * 2 * len(texts)
        assert {probe(of, path) for of in (port, metrics_port) for path in ("/healthz", "/readyz")} == {200}
        assert post(port, _HEALTH) == (200, {"status": "SERVING"})
        with RemoteClusterClient(server.address, token=server.token) as client:
            assert len(client.list_jobs()) == 32
    finally:
        server.stop()


@pytest.mark.parametrize("case", ["copy", "engine"])
def test_migration_before_the_start_of_the_controller_reports_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    state = tmp_path / "state"
    keep_key(state)
    with sqlite3.connect(state / "controller.db") as db:
        db.executescript(_OLD_DATABASE.read_text())
    db.close()
    if case == "copy":
        original = {"device": 1, "inode": 1, "changed_ns": 1, "directory": str(tmp_path / "original")}
        (state / "place").write_text(json.dumps(original))
    else:
        (state / "engine").write_text("ray\n")
    # The controller itself migrates nothing afterwards. Therefore all messages with these texts come before its start.
    monkeypatch.setenv("IRIS_FAILPOINTS", "migrate.before=delay:2500;migrate.after=delay:2500")
    texts: dict[str, None] = {}
    expected = contextlib.nullcontext() if case == "copy" else pytest.raises(LocalClusterError, match="--engine ray")
    with expected:
        start_server(
            ClusterConfig(state_dir=state, port=free_port()), ends_with_us=True, on_progress=texts.setdefault
        ).stop()
    assert list(texts)[:2] == [
        "the controller is loading its state",
        "the controller is migrating its state: 32 of 32 jobs",
    ]
