"""The metrics and the probes of a running cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest
from support.cluster import launch, running_cluster, shell, unique, wait_for_end, wait_for_state
from support.metrics import Samples, ask_metrics, read_metrics
from support.plain_http import ask
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer
from iris.cluster.controller.metrics.collection import CONTROLLER_METRICS
from iris.cluster.worker.metrics.collection import WORKER_METRICS
from iris.metrics.definitions import Metric
from iris.metrics.exposition import CLASSIC
from iris.rpc import cluster_pb2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster whose metrics have the ids of two jobs, and can be read at a port of their own."""
    directory = tmp_path_factory.mktemp("metrics")
    with running_cluster(directory, metrics_port=0, metrics_per_job=2) as server:
        yield server


@pytest.fixture
def client(server: LocalServer) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(server.address) as client:
        yield client


@pytest.fixture
def worker(client: RemoteClusterClient) -> str:
    """The address of the worker."""
    return wait_until(client.list_workers, "a worker")[0].address


def read(address: str) -> Samples:
    return Samples(read_metrics(address))


def test_metrics_of_the_controller_count_jobs_attempts_retries_and_calls(
    server: LocalServer, client: RemoteClusterClient
) -> None:
    before = read(server.address)
    job_id = launch(client, shell('[ "$IRIS_ATTEMPT_ID" = 1 ]'), max_retries_failure=1, retry_pause_ms=1)
    assert wait_for_end(client, job_id).state == cluster_pb2.JOB_STATE_SUCCEEDED
    with pytest.raises(Exception, match="no job named"):
        client.get_job_status(unique("unknown"))

    def grown(name: str, by: float, **labels: str) -> bool:
        return read(server.address).value(name, **labels) - before.value(name, **labels) == by

    wait_until(lambda: grown("iris_jobs_ended_total", 1, state="succeeded"), "the end of the job in the metrics")
    assert grown("iris_jobs_submitted_total", 1)
    assert grown("iris_attempts_started_total", 2)
    assert grown("iris_attempts_ended_total", 1, state="failed")
    assert grown("iris_retries_total", 1, cause="failure")
    assert grown("iris_attempt_failures_total", 1, reason="exit_code")
    assert grown("iris_task_placement_seconds_count", 2)
    assert grown("iris_task_start_seconds_count", 2)
    assert grown("iris_rpc_calls_total", 1, method="LaunchJob", code="ok")
    assert grown("iris_rpc_calls_total", 1, method="GetJobStatus", code="not_found")
    after = read(server.address)
    # An alert misses the first bug if the series begins with the bug.
    assert {"method": "LaunchJob", "code": "internal"} in after.labels("iris_rpc_calls_total")
    assert after.value("iris_rpc_duration_seconds_count", method="LaunchJob") >= 1
    assert after.value("iris_save_batch_jobs_count") > before.value("iris_save_batch_jobs_count")
    assert after.value("iris_workers", state="healthy") == 1
    assert after.value("iris_cpu_capacity_cores") > 0


def test_call_without_a_token_counts_as_unauthenticated(server: LocalServer) -> None:
    before = read(server.address).value("iris_rpc_calls_total", method="ListJobs", code="unauthenticated")
    path = "/iris.cluster.ControllerService/ListJobs"
    assert ask(server.address, "POST", path, b"{}", content_type="application/json", authorization="").status == 401
    wait_until(
        lambda: read(server.address).value("iris_rpc_calls_total", method="ListJobs", code="unauthenticated") > before,
        "the refused call in the metrics",
    )


def test_metrics_of_queue_capacity_and_jobs_show_running_and_waiting_jobs(
    server: LocalServer, client: RemoteClusterClient, worker: str
) -> None:
    cores = wait_until(lambda: int(read(server.address).value("iris_cpu_capacity_cores")), "the machine")
    resources = cluster_pb2.ResourceSpecProto(cpu=cores)
    running = launch(client, shell("echo begun; exec sleep 600"), name=unique("runs"), resources=resources)
    wait_for_state(client, running, cluster_pb2.JOB_STATE_RUNNING)
    last = [launch(client, shell("true"), name=unique("waits"), resources=resources) for _ in range(2)]
    watch = client.watch_job(running)
    next(watch)
    try:
        found = wait_until(
            lambda: (now := read(server.address)).value("iris_queued_gangs") == 2 and now, "two queued gangs"
        )
        assert found.value("iris_queued_tasks") == 2
        assert found.value("iris_queue_oldest_age_seconds") > 0
        assert found.value("iris_jobs", state="running") == 1
        assert found.value("iris_tasks", state="pending") == 2
        assert found.value("iris_cpu_allocated_cores") == cores
        assert found.value("iris_rpc_open_streams", method="WatchJob") == 1
        # Only the jobs that were submitted last have series of their own.
        assert {labels["job_id"] for labels in found.labels("iris_job_tasks")} == set(last)
        assert found.value("iris_job_tasks", job_id=last[0], state="pending") == 1
        assert found.value("iris_jobs_without_metrics") == 1
        of_worker = wait_until(
            lambda: (now := read(worker)).value("iris_worker_log_written_bytes_total") >= len("begun\n") and now,
            "the bytes of the log",
        )
        assert of_worker.value("iris_worker_attempts", state="running") == 1
        assert of_worker.value("iris_worker_lease_left_seconds") > 0
        assert of_worker.value("iris_rpc_calls_total", method="RunTasks", code="ok") >= 1
        sent = of_worker.value("iris_log_sent_bytes_total", call="FetchTaskLogs")
        assert [line.data for line in client.fetch_task_logs(f"{running}/task-0")] == ["begun"]
        wait_until(
            lambda: read(worker).value("iris_log_sent_bytes_total", call="FetchTaskLogs") > sent, "the bytes sent"
        )
    finally:
        watch.close()
        for job_id in (running, *last):
            client.terminate_job(job_id)
    wait_until(lambda: read(server.address).value("iris_rpc_open_streams", method="WatchJob") == 0, "no stream")
    wait_until(lambda: read(worker).value("iris_worker_attempts_ended_total", state="killed") >= 1, "the ended attempt")


@pytest.mark.parametrize("part", ["controller", "worker"])
def test_served_type_and_description_of_each_metric_equal_its_definition(
    server: LocalServer, worker: str, part: str
) -> None:
    address, defined = (server.address, CONTROLLER_METRICS) if part == "controller" else (worker, WORKER_METRICS)
    served = {family.name: (family.type, family.documentation) for family in read(address).families}

    def described(metric: Metric) -> str:
        return metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name

    assert served == {described(metric): (metric.kind, metric.help) for metric in defined}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
@pytest.mark.parametrize("part", ["controller", "worker"])
def test_promtool_reports_no_problem_with_the_metrics(server: LocalServer, worker: str, part: str) -> None:
    address = server.address if part == "controller" else worker
    text = ask(address, "GET", "/metrics", accept="text/plain").body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("role", ["admin", "user", "reader"])
def test_tokens_of_people_may_read_the_metrics(server: LocalServer, worker: str, role: str) -> None:
    assert ask_metrics(server.address, role=role).status == 200
    assert ask_metrics(worker, role=role).status == 200
    assert ask_metrics(server.address, "/metrics/workers", role=role).status == 200


def test_tokens_of_tasks_and_workers_may_not_read_the_metrics(server: LocalServer, worker: str) -> None:
    for role in ("worker", "task"):
        bearer = token(role, name="other", worker_id="other", job_id="j", task_index=0, attempt_id=0)
        for path in ("/metrics", "/metrics/workers"):
            answer = ask(server.address, "GET", path, authorization=f"Bearer {bearer}")
            assert answer.status in (401, 403), role


@pytest.mark.parametrize("path", ["/metrics", "/metrics/workers"])
def test_metrics_without_a_token_are_refused_with_a_next_step(server: LocalServer, path: str) -> None:
    answer = ask(server.address, "GET", path, authorization="")
    assert answer.status == 401
    assert b"iris token create" in answer.body
    assert answer.headers["www-authenticate"] == 'Bearer realm="iris"'


def test_metrics_are_served_for_get_and_head_only(server: LocalServer) -> None:
    assert ask_metrics(server.address, method="HEAD").body == b""
    refused = ask_metrics(server.address, method="POST")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    unknown = ask_metrics(server.address, "/metrics/unknown")
    assert (unknown.status, b"/metrics/workers" in unknown.body) == (404, True)


def test_port_of_option_metrics_port_serves_metrics_without_a_token_but_no_calls(server: LocalServer) -> None:
    assert server.metrics_port is not None
    address = f"http://127.0.0.1:{server.metrics_port}"
    answer = ask(address, "GET", "/metrics", authorization="")
    assert (answer.status, answer.headers["content-type"]) == (200, CLASSIC.content_type)
    assert b"\niris_workers{" in answer.body
    assert ask(address, "GET", "/metrics/workers", authorization="").status == 200
    assert ask(address, "GET", "/readyz", authorization="").status == 200
    body = b"{}"
    call = ask(address, "POST", "/iris.cluster.ControllerService/ListJobs", body, content_type="application/json")
    assert call.status == 404


@pytest.mark.parametrize("path", ["/metrics", "/metrics/workers"])
def test_metrics_port_refuses_requests_whose_host_header_names_another_site(server: LocalServer, path: str) -> None:
    port = server.metrics_port
    address = f"http://127.0.0.1:{port}"
    for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", "LOCALHOST"):
        assert ask(address, "GET", path, authorization="", host=host).status == 200
    for host in (f"rebound.example:{port}", "rebound.example", "localhost.rebound.example", "", "[", "0.0.0.0"):
        refused = ask(address, "GET", path, authorization="", host=host)
        assert refused.status == 403
        assert b"ask 127.0.0.1 or localhost" in refused.body


def test_list_of_workers_has_the_format_of_the_service_discovery_of_prometheus(
    server: LocalServer, worker: str
) -> None:
    answer = ask_metrics(server.address, "/metrics/workers")
    assert answer.headers["content-type"] == "application/json"
    (target,) = answer.document
    assert target == {
        "targets": [worker.removeprefix("http://")],
        "labels": {"worker": "local-0", "__scheme__": "http", "__metrics_path__": "/metrics"},
    }


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_token_and_say_nothing_more_than_ok(server: LocalServer, worker: str, path: str) -> None:
    for address in (server.address, worker):
        answer = ask(address, "GET", path, authorization="")
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert ask(address, "HEAD", path, authorization="").body == b""
        assert ask(address, "POST", path, b"", authorization="").status == 405
