"""What a service answers over plain HTTP: calls with GET, the texts of refused requests, compact JSON and gzip."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.plain_http import Answer, ask
from support.tokens import token

from iris.cluster.controller.storage.store import Store
from iris.rpc import cluster_pb2
from iris.rpc.cluster_connect import ControllerService, ControllerServiceASGIApplication
from iris.rpc.http.server.asgi_server import HttpServer
from iris.rpc.serving.codecs import CODECS, MessageThread
from iris.rpc.serving.service_application import ServiceApplication
from iris.system.sockets import address_of, bind

Controller = cluster_pb2.Controller
CALL = "/iris.cluster.ControllerService/"
JSON = "application/json"
READS = {
    "ControllerService": {
        "CheckCluster",
        "DescribeCluster",
        "FetchBundle",
        "FetchInput",
        "FetchLogParts",
        "FetchTaskLogs",
        "GetJobStatus",
        "GetSubmission",
        "GetTaskStatus",
        "GetUsage",
        "ListEndpoints",
        "ListJobs",
        "ListWebhooks",
        "ListMachines",
        "ListOutputs",
        "ListTaskFiles",
        "ListTasks",
        "ListTokens",
        "ListWorkers",
        "LookupEndpoint",
        "ReadStacks",
        "ReadTaskFile",
        "SampleStacks",
    },
    "WorkerService": {
        "FetchLogParts",
        "FetchTaskLogs",
        "GetTaskStatus",
        "HealthCheck",
        "ListTaskFiles",
        "ListTasks",
        "ReadStacks",
        "ReadTaskFile",
        "SampleStacks",
    },
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a controller without workers."""
    with serving(FakeEngine(), Store(None)) as running:
        yield running.address


def get_path(name: str, message: str = "{}", encoding: str = "json") -> str:
    return f"{CALL}{name}?connect=v1&encoding={encoding}&message={quote(message)}"


def test_calls_that_only_read_are_marked_in_the_schema() -> None:
    for name, service in cluster_pb2.DESCRIPTOR.services_by_name.items():
        marked = {
            method.name
            for method in service.methods
            if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        }
        assert marked == READS[name]


@pytest.mark.parametrize("name", sorted(READS["ControllerService"]))
def test_call_that_only_reads_gives_the_same_answer_with_get_and_post(address: str, name: str) -> None:
    authorization = f"Bearer {token()}"  # the same for both, because DescribeCluster names the token
    got = ask(address, "GET", get_path(name), authorization=authorization)
    posted = ask(address, "POST", CALL + name, b"{}", content_type=JSON, authorization=authorization)
    assert got.status == posted.status
    if name != "CheckCluster":  # Each check measures anew.
        assert got.document == posted.document
    assert (got.headers["content-type"], got.headers["cache-control"]) == (JSON, "no-store")


def test_get_and_post_of_a_call_write_the_same_event_to_the_event_log(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "iris.rpc.serving.call_events"):
        ask(address, "GET", get_path("DescribeCluster"))
        ask(address, "POST", CALL + "DescribeCluster", b"{}", content_type=JSON)
    written = [record.getMessage() for record in caplog.records if "DescribeCluster" in str(record.__dict__)]
    assert len(written) == 2
    assert written[0] == written[1]


def test_get_in_binary_is_answered_in_binary(address: str) -> None:
    message = base64.urlsafe_b64encode(Controller.ListJobsRequest(page_size=1).SerializeToString()).decode()
    answer = ask(address, "GET", get_path("ListJobs", message, "proto") + "&base64=1")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/proto")
    assert not Controller.ListJobsResponse.FromString(answer.body).jobs


def test_get_is_authenticated_and_authorised_like_post(address: str) -> None:
    for authorization, status, reason in (
        ("", 401, "TOKEN_MISSING"),
        ("Bearer x", 401, "TOKEN_INVALID"),
        (f"Bearer {token('reader')}", 403, "PERMISSION_DENIED"),
    ):
        answer = ask(address, "GET", get_path("ListTokens"), authorization=authorization)
        assert (answer.status, answer.reason) == (status, reason)


@pytest.mark.parametrize(
    ("method", "path", "content_type", "status", "words"),
    [
        ("GET", get_path("LaunchJob"), JSON, 405, "send POST"),
        ("PUT", CALL + "ListJobs", JSON, 405, "cannot be called with PUT: send POST"),
        ("GET", CALL + "ListJobs?message={}", JSON, 415, "'encoding', which is one of json, proto"),
        ("GET", get_path("ListJobs", "{}", "xml"), JSON, 415, "'encoding'"),
        ("GET", CALL + "ListJobs?encoding=json", JSON, 400, "'message' parameter is required"),
        ("GET", get_path("ListJobs", "{"), JSON, 400, "not valid JSON"),
        ("POST", CALL + "ListJob", JSON, 404, "this server has no call /iris.cluster.ControllerService/ListJob"),
        ("POST", CALL + "ListJobs", "text/plain", 415, "the content type 'text/plain' is not accepted"),
        ("POST", CALL + "WatchJob", JSON, 415, "for a stream application/connect+json"),
        ("POST", CALL + "ListJobs", "application/proto", 400, "unmarshal message"),
    ],
)
def test_refused_request_gets_an_error_with_a_text_and_a_reason(
    address: str, method: str, path: str, content_type: str, status: int, words: str
) -> None:
    answer = ask(address, method, path, b"{", content_type=content_type)
    assert (answer.status, answer.headers["content-type"]) == (status, JSON)
    assert words in answer.document["message"]
    assert answer.reason in ("MALFORMED_REQUEST", "UNIMPLEMENTED")


@pytest.mark.parametrize(
    ("headers", "code", "reason"),
    [
        ({"connect_timeout_ms": "soon"}, "invalid_argument", "MALFORMED_REQUEST"),
        ({"connect_protocol_version": "2"}, "invalid_argument", "MALFORMED_REQUEST"),
        ({"content_encoding": "br"}, "unimplemented", "UNIMPLEMENTED"),
    ],
)
def test_invalid_header_of_the_protocol_is_refused_with_a_reason(
    address: str, headers: dict[str, str], code: str, reason: str
) -> None:
    answer = ask(address, "POST", CALL + "ListJobs", b"{}", content_type=JSON, **headers)
    assert (answer.document["code"], answer.reason) == (code, reason)


def test_unknown_call_of_grpc_web_gets_the_status_of_grpc(address: str) -> None:
    answer = ask(address, "POST", CALL + "ListJob", b"\0" * 5, content_type="application/grpc-web+proto")
    assert (answer.status, answer.headers["grpc-status"], answer.body) == (200, "12", b"")
    assert answer.headers["content-type"] == "application/grpc-web"


def test_json_answer_has_no_spaces_and_keeps_other_alphabets(address: str) -> None:
    launch = {"name": "größe", "command": ["true"]}
    assert ask(address, "POST", CALL + "LaunchJob", json.dumps(launch).encode(), content_type=JSON).status == 200
    body = ask(address, "GET", get_path("ListJobs")).body.decode()
    assert '"jobId":"größe"' in body
    assert body == json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":"))


class Workers(ControllerService):
    """A controller that lists as many workers as the page size says."""

    async def list_workers(self, request: Any, ctx: Any) -> Any:
        """Return a page of workers."""
        ids = [f"worker-{number}" for number in range(request.page_size)]
        return Controller.ListWorkersResponse(
            workers=[Controller.WorkerHealthStatus(worker_id=each, healthy=True) for each in ids]
        )


@contextmanager
def workers_served(*, is_near: bool) -> Iterator[str]:
    """Serve `Workers`, to clients that count as near or as far away."""
    loop, stopping = asyncio.new_event_loop(), asyncio.Event()
    listener = bind("127.0.0.1", 0)
    application = ControllerServiceASGIApplication(Workers(), codecs=CODECS, compressions=())
    served = ServiceApplication(application, MessageThread(), is_near=lambda host: is_near)

    async def serve() -> None:
        server = HttpServer({served.path: served}, listener)
        server.start()
        await stopping.wait()
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield address_of(listener)
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def far_address() -> Iterator[str]:
    """The address of `Workers`, for which this machine counts as another one."""
    with workers_served(is_near=False) as far:
        yield far


def list_workers(address: str, count: int, accepted: str) -> Answer:
    body = json.dumps({"pageSize": count}).encode()
    return ask(address, "POST", CALL + "ListWorkers", body, content_type=JSON, accept_encoding=accepted)


@pytest.mark.parametrize("count", [200, 3000])
def test_large_answer_is_compressed_if_the_client_accepts_gzip(far_address: str, count: int) -> None:
    plain, compressed = list_workers(far_address, count, "identity"), list_workers(far_address, count, "br, gzip;q=0.8")
    assert compressed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(compressed.body) == plain.body
    assert len(compressed.body) < len(plain.body) / 4
    assert plain.headers["vary"] == compressed.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("count", "accepted"), [(5, "gzip"), (200, "gzip;q=0"), (200, "identity"), (200, "br"), (200, "gzip; q=0.0")]
)
def test_answer_that_is_small_or_for_which_gzip_is_not_accepted_is_not_compressed(
    far_address: str, count: int, accepted: str
) -> None:
    answer = list_workers(far_address, count, accepted)
    assert answer.headers["content-encoding"] == "identity"
    assert len(answer.document["workers"]) == count


def test_client_on_this_machine_gets_uncompressed_answers() -> None:
    with workers_served(is_near=True) as near:
        assert list_workers(near, 200, "gzip").headers["content-encoding"] == "identity"
