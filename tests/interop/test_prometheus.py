"""A real Prometheus reads a real cluster, with the configuration, the alerts and the dashboard of `deploy/`."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.cluster import launch, running_cluster, shell, wait_for_end
from support.deployed_queries import ALERTS, SCRAPES, alert_queries, dashboard_targets, selectors
from support.ports import free_port
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus (Debian: prometheus)")

# A full disk or a busy machine of the test is a cause of these alerts.
_DEPEND_ON_THE_MACHINE = {
    "IrisControllerDown",
    "IrisEventLoopSlow",
    "IrisStateDiskFilling",
    "IrisWorkerDiskFilling",
    "IrisWorkersUnhealthy",
}


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the HTTP API; None while Prometheus does not answer."""
        url = f"{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except (urllib.error.URLError, ConnectionError):
            return None

    def query(self, query: str) -> list[dict[str, Any]]:
        """Return the result of a query."""
        found = self.ask("query", query=query)
        assert found is not None, query
        result: list[dict[str, Any]] = found["result"]
        return result


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has read the cluster twice, after a job with a retry whose log was read."""
    directory = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    _write_configuration(directory, server)
    with RemoteClusterClient(server.address) as client, (directory / "log").open("w") as log:
        job_id = launch(client, shell('echo hello; [ "$IRIS_ATTEMPT_ID" = 1 ]'), max_retries_failure=1)
        wait_for_end(client, job_id)
        assert client.fetch_task_logs(f"{job_id}/task-0")
        next(client.watch_job(job_id))
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            running = Prometheus(port)
            wait_until(
                lambda: all(_has_read_twice(running, job) for job in ("iris", "iris-workers")),
                f"two reads of the controller and the worker; see {directory / 'log'}",
            )
            yield running
        finally:
            process.terminate()
            process.wait(30)


def _write_configuration(directory: Path, server: LocalServer) -> None:
    (directory / "iris-token").write_text(token("reader"))
    shutil.copy(ALERTS, directory)
    text = SCRAPES.read_text().replace("cluster.example.org:50051", server.address.removeprefix("http://"))
    text = text.replace("/etc/prometheus/iris-token", str(directory / "iris-token"))
    (directory / "prometheus.yml").write_text(text.replace("scrape_interval: 15s", "scrape_interval: 1s"))


def _has_read_twice(prometheus: Prometheus, job: str) -> bool:
    found = prometheus.ask("query", query=f'count_over_time(up{{job="{job}"}}[5m]) >= 2 and up{{job="{job}"}} == 1')
    return bool(found and found["result"])


def test_prometheus_targets_are_the_controller_and_its_worker(prometheus: Prometheus, server: LocalServer) -> None:
    def errors() -> dict[tuple[str, str | None], str]:
        targets = prometheus.ask("targets")["activeTargets"]
        return {(one["labels"]["job"], one["labels"].get("worker")): one["lastError"] for one in targets}

    expected = {("iris", None): "", ("iris-workers", "local-0"): ""}
    wait_until(lambda: errors() == expected, f"the targets {expected}")


def test_each_metric_of_the_dashboard_and_the_alerts_has_values(prometheus: Prometheus) -> None:
    names = {
        name
        for query in [target["expr"] for target in dashboard_targets()] + alert_queries()
        for name, _ in selectors(query)
    }
    # A read of a busy machine can fail, and then the metrics have no values until the next read.
    for name in sorted(names):
        wait_until(partial(prometheus.query, name), f"a value of {name}")


def test_each_query_of_the_dashboard_and_the_alerts_can_be_evaluated(prometheus: Prometheus) -> None:
    for query in [target["expr"] for target in dashboard_targets()] + alert_queries():
        prometheus.query(query)  # An invalid query is an error.


def test_healthy_cluster_triggers_no_alert(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(alert_queries())
    for rule in rules:
        if rule["name"] not in _DEPEND_ON_THE_MACHINE:
            assert not prometheus.query(rule["query"]), rule["name"]


def test_values_in_prometheus_equal_the_state_of_the_cluster(prometheus: Prometheus) -> None:
    (retries,) = wait_until(lambda: prometheus.query('iris_retries_total{cause="failure"}'), "the retries")
    assert float(retries["value"][1]) == 1
    (written,) = wait_until(lambda: prometheus.query("iris_worker_log_written_bytes_total"), "the bytes of the log")
    assert float(written["value"][1]) >= 2 * len("hello\n")
    assert written["metric"]["worker"] == "local-0"
