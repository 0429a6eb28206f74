"""The encoding of spans, the settings of the collector, and the spans of calls."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp
from support.otlp_receiver import attributes_of, collecting

from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.tracing.call_spans import CallSpans
from iris.cluster.controller.tracing.collector_settings import read_settings
from iris.cluster.controller.tracing.job_spans import JobTrace, attempt_spans, job_span
from iris.cluster.controller.tracing.otlp import CollectorAnswer, OtlpSender
from iris.cluster.controller.tracing.pending_spans import PendingSpans
from iris.cluster.controller.tracing.span_encoding import RequestEncoder, encode_spans
from iris.cluster.controller.tracing.span_tally import SpanTally
from iris.cluster.controller.tracing.spans import Span, Trace
from iris.cluster.controller.tracing.traced_jobs import TracedJobs
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2

TRACE = Trace(bytes(range(16)), "vendor=1")
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def decoded(*spans: Span) -> list[otlp.Span]:
    request = ExportTraceServiceRequest.FromString(RequestEncoder({"a": "b"}, "1").request([encode_spans(spans)]))
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert [(one.key, one.value.string_value) for one in resource.resource.attributes] == [("a", "b")]
    assert (scope.scope.name, scope.scope.version) == ("iris", "1")
    return list(scope.spans)


def test_encoded_spans_are_the_messages_of_otlp() -> None:
    name = "ü" * 3000
    plain = Span(TRACE, b"12345678", b"abcdefgh", "running", 10**18 + 1, 10**18 + 2)
    attributes = ("iris.job_id", "train/ü", "iris.tasks", 3, "iris.exit_code", -1)
    full = Span(TRACE, b"87654321", b"", name, 5, 6, attributes, 70000, "exit code 3", b"12345678", True, True)
    first, second, third = decoded(plain, full, plain._replace(task_index=5))
    flags = otlp.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
    assert first == otlp.Span(
        trace_id=TRACE.trace_id,
        trace_state="vendor=1",
        span_id=b"12345678",
        parent_span_id=b"abcdefgh",
        name="running",
        kind=otlp.Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=10**18 + 1,
        end_time_unix_nano=10**18 + 2,
        flags=flags | 1,
    )
    assert (second.name, second.parent_span_id, second.kind) == (name, b"", otlp.Span.SPAN_KIND_SERVER)
    assert second.flags == flags | otlp.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK | 1
    assert attributes_of(second) == {
        "iris.job_id": "train/ü",
        "iris.tasks": 3,
        "iris.exit_code": -1,
        "iris.task_index": 70000,
    }
    assert second.status == otlp.Status(code=otlp.Status.STATUS_CODE_ERROR, message="exit code 3")
    assert [(link.trace_id, link.span_id) for link in second.links] == [(TRACE.trace_id, b"12345678")]
    assert attributes_of(third) == {"iris.task_index": 5}


def test_spans_of_an_attempt_whose_worker_reported_impossible_times_can_be_encoded() -> None:
    job = Job.new("a", 1, 1000)
    job.submit()
    (gang,) = job.gangs.values()
    job.gang_placed(gang.gang_id, [WorkerIdentity("w", "http://w", "i")], 2000)
    job.attempt_running(0, 0, -(2**62))
    job.attempt_ended(0, 0, AttemptEnd(SUCCEEDED, 2**62, exit_code=0), 5000)
    trace = JobTrace("a", 1000, cluster_pb2.Controller.LaunchJobRequest(is_traced=True))
    for span in decoded(*attempt_spans(job, trace, 0, 0), job_span(job, trace)):
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano


def test_settings_of_the_collector_come_from_the_variables_of_opentelemetry() -> None:
    settings = read_settings(
        "",
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318/",
            "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=a%20b, x=1,nonsense",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2.5",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "9",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca.pem",
            "OTEL_RESOURCE_ATTRIBUTES": "team=vision,service.name=other",
            "OTEL_SERVICE_NAME": "mine",
        },
    )
    assert settings.url == "https://collector:4318/v1/traces"
    assert settings.headers == {"api-key": "a b", "x": "1"}
    assert (settings.timeout_s, settings.compression, settings.tls.ca) == (2.5, "gzip", "/ca.pem")
    assert (settings.resource["team"], settings.resource["service.name"]) == ("vision", "mine")
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/own", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    assert read_settings("", own).url == "http://127.0.0.1:1/own"
    assert read_settings("http://localhost:4318", own).url == "http://localhost:4318/v1/traces"
    assert read_settings("", own).compression == "gzip"
    assert read_settings("http://localhost:4318", {}).compression == "none"
    # A number of milliseconds is no number of seconds.
    assert read_settings("http://localhost:4318", {"OTEL_EXPORTER_OTLP_TIMEOUT": "10000"}).timeout_s == 10.0


@pytest.mark.parametrize(
    "url", ["collector:4318", "grpc://collector:4317", "http://", "http://a:port", "http://a b:4318"]
)
def test_invalid_url_of_the_collector_is_refused_with_the_name_of_its_variable(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"OTEL_EXPORTER_OTLP_ENDPOINT must be the URL.*{url}"):
        read_settings("", {"OTEL_EXPORTER_OTLP_ENDPOINT": url})


def test_answers_of_the_collector_are_retried_only_if_otlp_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")

    async def answers() -> dict[int, CollectorAnswer]:
        sender = OtlpSender(collector.endpoint)
        found = {}
        for status in (200, 400, 401, 404, 429, 500, 502, 503, 504):
            collector.status = status
            span = Span(TRACE, b"12345678", b"abcdefgh", "a", 1, 2)
            found[status] = await sender.send([sender.encode([span] * 1000)])
        collector.status = 503
        for seconds in ("7", "100000", "soon"):
            collector.retry_after = seconds
            pauses.append((await sender.send([])).retry_after_s)
        collector.status, collector.rejected = 200, 3
        found[0] = await sender.send([sender.encode([span])])
        collector.close()
        found[1] = await OtlpSender("http://127.0.0.1:9").send([])
        await sender.close()
        return found

    pauses: list[float] = []
    with collecting() as collector:
        found = asyncio.run(answers())
    assert pauses == [7.0, 300.0, 0.0]
    assert found[200].is_accepted
    assert len(collector.spans) == 1001
    assert collector.encodings == {"gzip"}
    retried = {status for status, answer in found.items() if not answer.is_accepted and not answer.is_final}
    assert retried == {1, 429, 502, 503, 504}
    assert (found[0].is_accepted, found[0].num_rejected) == (True, 3)
    assert "the collector answered with HTTP status 404" in found[404].problem


def call(spans: CallSpans, headers: dict[str, str], error: Exception | None = None) -> None:
    async def make() -> None:
        method = SimpleNamespace(service_name="iris.cluster.ControllerService", name="ListJobs")
        context: Any = SimpleNamespace(request_headers=headers, method=method)
        await spans.on_end(await spans.on_start(context), context, error)

    asyncio.run(make())


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, None),
        ({"traceparent": "nonsense"}, None),
        ({"traceparent": f"{CONTEXT}-00"}, None),
        ({"traceparent": f"{CONTEXT}-01"}, ConnectError(Code.UNAUTHENTICATED, "no token")),
    ],
)
def test_untraced_unsampled_and_unauthenticated_calls_make_no_spans(
    headers: dict[str, str], error: Exception | None
) -> None:
    pending = PendingSpans(SpanTally())
    call(CallSpans(pending), headers, error)
    assert len(pending) == 0


def test_span_of_a_failed_call_is_an_error_only_if_the_server_is_at_fault() -> None:
    pending = PendingSpans(SpanTally())
    spans = CallSpans(pending)
    headers = {"traceparent": f"{CONTEXT}-01", "tracestate": "a=b"}
    for error in (None, ConnectError(Code.NOT_FOUND, "no job"), ConnectError(Code.INTERNAL, "secret"), ValueError()):
        call(spans, headers, error)
    made = [one for one in pending.first(10) if isinstance(one, Span)]
    assert [one.error for one in made] == [None, None, "", ""]
    assert {(one.trace.trace_id.hex(), one.trace.state, one.parent_id.hex()) for one in made} == {
        (CONTEXT.split("-")[1], "a=b", CONTEXT.split("-")[2])
    }
    assert len({one.span_id for one in made}) == 4


def test_spans_beyond_the_limit_are_dropped_and_counted() -> None:
    tally = SpanTally()
    pending = PendingSpans(tally, most=2)
    span = Span(TRACE, b"12345678", b"abcdefgh", "a", 1, 2)
    for number in range(5):
        pending.add(span._replace(begin_ns=number))
    assert [one.begin_ns for one in pending.first(9) if isinstance(one, Span)] == [0, 1]
    pending.remove(2)
    assert len(pending) == 0
    assert tally.pop_unreported() == (3, "2 spans of calls and log uploads already waited to be sent")
    assert tally.pop_unreported()[0] == 0


class _Removed:
    async def get(self, job_id: str) -> JobRecord | None:
        return None


def test_removed_traced_jobs_are_kept_until_their_spans_are_made_and_up_to_a_limit() -> None:
    def record(job_id: str) -> JobRecord:
        job = Job.new(job_id, 3, 1000)
        return JobRecord(job, cluster_pb2.Controller.LaunchJobRequest(is_traced=True), [])

    jobs = TracedJobs(_Removed(), max_kept_tasks=6)

    def known(*job_ids: str, time_ms: int = 2000) -> list[bool]:
        async def find() -> list[bool]:
            return [await jobs.find(job_id, time_ms) is not None for job_id in job_ids]

        return asyncio.run(find())

    for number, job_id in enumerate(("a", "b", "c")):
        jobs.keep(record(job_id), number)
    assert known("a", "b", "c") == [False, True, True]
    assert known("c", time_ms=999) == [False]  # The event belongs to an earlier job with the same name.
    jobs.release(1)
    assert known("b", "c") == [False, True]
