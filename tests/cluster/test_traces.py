"""Traces of jobs: the caller's trace in tasks, and the spans that a collector receives by OTLP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from support.cluster import launch, running_cluster, shell, wait_for_end
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.metrics import Samples, read_metrics
from support.otlp_receiver import Collector, attributes_of, collecting
from support.standing_cluster import StandingCluster, standing_cluster
from support.waiting import wait_until
from support.worker_process import running_worker

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.tracing.otlp import OtlpSender
from iris.cluster.logs.directories import LogDirectories
from iris.errors import InvalidArgumentError, NotFoundError
from iris.tracing.context import TraceContext, current_context, parse_context

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SHOW = shell("echo $TRACEPARENT; echo $TRACESTATE")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """A cluster that sends spans."""
    directory = tmp_path_factory.mktemp("traced") / "state"
    with standing_cluster(directory, otlp_endpoint=collector.endpoint) as cluster:
        yield cluster


def spans_of(collector: Collector, job_id: str) -> dict[str, Span]:
    """Wait for the spans of a job that has ended, and return them by name. Phases have the name of their attempt."""

    def found() -> list[Span]:
        received = list(collector.spans)
        traces = [span.trace_id for span in received if span.name == f"job {job_id}"]
        return [span for span in received if span.trace_id in traces]

    own = wait_until(found, f"the span of {job_id}")
    names = {span.span_id: span.name for span in own}
    phases = ("queued", "building", "running", "log upload")
    return {f"{names[span.parent_span_id]} {span.name}" if span.name in phases else span.name: span for span in own}


def lines(cluster: RemoteClusterClient, job_id: str) -> list[str]:
    return [entry.data for entry in cluster.fetch_task_logs(f"{job_id}/task-0")]


def test_spans_of_a_job_belong_to_the_trace_of_its_caller_and_show_its_wait_and_its_run(
    traced: StandingCluster, collector: Collector
) -> None:
    tracer = TracerProvider().get_tracer("test")
    with IrisClient.remote(traced.address) as client:
        with tracer.start_as_current_span("my work") as mine:
            job = client.run(SHOW, max_retries_failure=0)
        job.wait()
        with traced.client() as cluster:
            (parent, *_) = lines(cluster, job.job_id)
    spans = spans_of(collector, job.job_id)
    context = mine.get_span_context()
    whole, attempt = spans[f"job {job.job_id}"], spans["task 0 attempt 0"]
    assert {span.trace_id.hex() for span in spans.values()} == {f"{context.trace_id:032x}"}
    assert whole.parent_span_id.hex() == f"{context.span_id:016x}"
    assert attempt.parent_span_id == whole.span_id
    queued, building, running = (spans[f"task 0 attempt 0 {phase}"] for phase in ("queued", "building", "running"))
    assert whole.start_time_unix_nano == attempt.start_time_unix_nano == queued.start_time_unix_nano
    assert queued.end_time_unix_nano == building.start_time_unix_nano
    assert building.end_time_unix_nano == running.start_time_unix_nano
    assert running.end_time_unix_nano == attempt.end_time_unix_nano <= whole.end_time_unix_nano
    # Spans that the task makes become children of the span in which its process runs.
    assert parent == f"00-{context.trace_id:032x}-{running.span_id.hex()}-01"
    assert collector.services == {"iris"}


def test_retry_is_linked_to_the_failed_attempt_with_its_reason(traced: StandingCluster, collector: Collector) -> None:
    with traced.client() as cluster:
        job_id = launch(cluster, shell("exit 3"), max_retries_failure=1)
        wait_for_end(cluster, job_id)
    spans = spans_of(collector, job_id)
    first, second = spans["task 0 attempt 0"], spans["task 0 attempt 1"]
    assert [link.span_id for link in second.links] == [first.span_id]
    assert not first.links
    assert second.start_time_unix_nano == first.end_time_unix_nano
    assert (attributes_of(first)["iris.reason"], attributes_of(first)["iris.exit_code"]) == ("EXIT_CODE", 3)
    for span in (first, second, spans["task 0 attempt 1 running"], spans[f"job {job_id}"]):
        assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "exit code 3")
    assert spans["task 0 attempt 1 queued"].status.code == Status.STATUS_CODE_UNSET


def test_unsampled_trace_makes_no_spans_and_reaches_tasks(traced: StandingCluster, collector: Collector) -> None:
    parent = f"00-{TRACE}-{PARENT}-00"
    with traced.client() as cluster:
        job_id = launch(cluster, SHOW, traceparent=parent, tracestate="vendor=1")
        wait_for_end(cluster, job_id)
        assert lines(cluster, job_id) == [parent, "vendor=1"]
        later = launch(cluster, ["true"])
        wait_for_end(cluster, later)
    spans_of(collector, later)
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}
    assert f"job {job_id}" not in {span.name for span in collector.spans}


def test_spans_that_the_collector_refused_are_sent_once_after_a_restart_of_the_controller(
    traced: StandingCluster, collector: Collector
) -> None:
    collector.status, before = 503, collector.requests
    with traced.client() as cluster:
        job_id = launch(cluster, ["true"], replicas=2)
        wait_for_end(cluster, job_id)
        wait_until(lambda: collector.requests > before, "a refused request")
        wait_until(lambda: list(cluster.watch_events(kinds=["traces.failing"])), "the event about the collector")
    traced.kill()
    collector.status = 200
    traced.start()
    spans = spans_of(collector, job_id)
    assert {"task 0 attempt 0", "task 1 attempt 0", f"job {job_id}"} <= set(spans)
    with traced.client() as cluster:
        last = launch(cluster, ["true"])
        wait_for_end(cluster, last)
    spans_of(collector, last)
    ids = [(span.trace_id, span.span_id) for span in collector.spans]
    assert len(ids) == len(set(ids))


def test_spans_that_the_collector_refuses_for_good_are_dropped_and_counted(
    traced: StandingCluster, collector: Collector
) -> None:
    def dropped() -> float:
        return Samples(read_metrics(traced.address)).value("iris_trace_spans_dropped_total", reason="refused")

    before = dropped()
    collector.status = 400
    with traced.client() as cluster:
        job_id = launch(cluster, ["true"])
        wait_for_end(cluster, job_id)
        # The attempt has four spans, and the job has one.
        wait_until(lambda: dropped() >= before + 5, "the count of dropped spans")
        (event,) = wait_until(lambda: list(cluster.watch_events(kinds=["traces.dropped"])), "the event about the spans")
        collector.status = 200
        later = launch(cluster, ["true"])
        wait_for_end(cluster, later)
    assert "HTTP status 400" in event.text
    spans_of(collector, later)
    assert f"job {job_id}" not in {span.name for span in collector.spans}


def test_spans_of_a_removed_job_are_sent_when_the_collector_answers_again(
    traced: StandingCluster, collector: Collector
) -> None:
    collector.status, before = 503, collector.requests
    with traced.client() as cluster:
        job_id = launch(cluster, ["true"])
        wait_for_end(cluster, job_id)
        wait_until(lambda: collector.requests > before, "a refused request")
        assert cluster.forget_job(job_id) == [job_id]
        again = launch(cluster, ["false"], name=job_id)
        wait_for_end(cluster, again)
    collector.status = 200

    def states() -> list[object]:
        return [attributes_of(one)["iris.state"] for one in list(collector.spans) if one.name == f"job {job_id}"]

    wait_until(lambda: len(states()) == 2, "the spans of both jobs")
    assert states() == ["SUCCEEDED", "FAILED"]


def test_call_with_a_trace_context_becomes_a_server_span_below_the_callers_span(
    traced: StandingCluster, collector: Collector
) -> None:
    tracer = TracerProvider().get_tracer("test")
    with IrisClient.remote(traced.address) as client:
        with tracer.start_as_current_span("my work") as mine:
            client.list_jobs()
            with pytest.raises(NotFoundError):
                client.status("missing")
            job = client.run(["true"])
            job.wait(progress=False)
        client.list_jobs()
    spans_of(collector, job.job_id)
    trace_id, span_id = f"{mine.get_span_context().trace_id:032x}", f"{mine.get_span_context().span_id:016x}"

    def calls() -> dict[str, Span]:
        own = [span for span in list(collector.spans) if span.trace_id.hex() == trace_id]
        # Later calls with the same name do not replace the first ones.
        return {span.name.rpartition("/")[2]: span for span in own[::-1] if span.kind == Span.SPAN_KIND_SERVER}

    found = wait_until(lambda: found if "WatchJob" in (found := calls()) else None, "the spans of the calls")
    assert {span.parent_span_id.hex() for span in found.values()} == {span_id}
    assert {"ListJobs", "GetJobStatus", "LaunchJob"} <= set(found)
    attributes = attributes_of(found["GetJobStatus"])
    assert attributes["rpc.connect_rpc.error_code"] == "not_found"
    assert (attributes["rpc.service"], attributes["rpc.method"]) == ("iris.cluster.ControllerService", "GetJobStatus")
    assert "rpc.connect_rpc.error_code" not in attributes_of(found["ListJobs"])
    for span in found.values():
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.status.code == Status.STATUS_CODE_UNSET
    # The stream of many messages has one span.
    names = [span.name for span in list(collector.spans) if span.trace_id.hex() == trace_id]
    assert names.count("iris.cluster.ControllerService/WatchJob") == 1


def test_upload_of_a_log_is_a_span_of_its_attempt(collector: Collector, tmp_path: Path) -> None:
    """The worker runs on another machine than the controller, so it uploads its logs."""
    keeping = Keeping(LogDirectories(tmp_path / "logs"))
    sender = OtlpSender(collector.endpoint)
    with (
        serving(FakeEngine(), Store(tmp_path / "controller.db"), kept_logs=keeping, spans=sender) as running,
        running_worker(running.address, tmp_path / "worker"),
        RemoteClusterClient(running.address) as cluster,
    ):
        job_id = launch(cluster, shell("echo one"))
        wait_for_end(cluster, job_id)
        name = "task 0 attempt 0 log upload"
        spans = wait_until(lambda: found if name in (found := spans_of(collector, job_id)) else None, "the upload")
    upload, attempt = spans[name], spans["task 0 attempt 0"]
    assert upload.parent_span_id == attempt.span_id
    assert attempt.start_time_unix_nano <= upload.start_time_unix_nano <= upload.end_time_unix_nano


def test_cluster_without_a_collector_passes_the_trace_of_the_caller_on(cluster: RemoteClusterClient) -> None:
    parent = f"00-{TRACE}-{PARENT}-01"
    job_id = launch(cluster, SHOW, traceparent=parent, tracestate="a=b")
    wait_for_end(cluster, job_id)
    assert lines(cluster, job_id) == [parent, "a=b"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"traceparent": "nonsense"}, "traceparent must have the format"),
        ({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, "traceparent must have the format"),
        ({"tracestate": "a=b"}, "tracestate needs a valid traceparent"),
        ({"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a" * 513}, "tracestate needs a valid traceparent"),
    ],
)
def test_invalid_trace_contexts_are_refused(cluster: RemoteClusterClient, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        launch(cluster, ["true"], **fields)


def test_trace_context_of_the_environment_is_used_without_opentelemetry() -> None:
    parent = f"00-{TRACE}-{PARENT}-01"
    assert current_context({"TRACEPARENT": parent, "TRACESTATE": "a=b"}) == TraceContext(TRACE, PARENT, True, "a=b")
    assert current_context({"TRACEPARENT": "00-x"}) is None
    assert parse_context(parent, "a" * 513) == TraceContext(TRACE, PARENT)
    assert parse_context(f"00-{TRACE}-{PARENT}-00") == TraceContext(TRACE, PARENT, False)


def test_importing_the_client_loads_no_sdk_of_opentelemetry() -> None:
    program = "import sys, iris.client, iris.cluster.controller.controller; print('opentelemetry.sdk' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_stopped_cluster_sends_the_last_spans_once(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("stopped")
    with (
        running_cluster(directory, otlp_endpoint=collector.endpoint) as server,
        RemoteClusterClient(server.address) as client,
    ):
        job_id = launch(client, ["true"])
        wait_for_end(client, job_id)
    spans = spans_of(collector, job_id)
    assert len(spans) == 5
    ids = [(span.trace_id, span.span_id) for span in collector.spans]
    assert len(ids) == len(set(ids))
