"""The rules of the protocols Connect, gRPC and gRPC-Web, as one table that runs on HTTP/1.1 and on HTTP/2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson, Parse
from google.protobuf.message import Message
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.http_exchange import Exchange, exchange
from support.rpc_protocols import ConnectStream, ConnectUnary, Grpc, GrpcWeb
from support.tokens import token

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.rpc.cluster_pb2 import Controller

VERSIONS = ("1.1", "2")
SERVICE = "/iris.cluster.ControllerService/"
UNARY, STREAM = (ConnectUnary(), Grpc(), GrpcWeb()), (ConnectStream(), Grpc(), GrpcWeb())
GRPC = (Grpc(), GrpcWeb())
ALL = (ConnectUnary(), ConnectStream(), Grpc(), GrpcWeb())
UNKNOWN_JOB = Controller.WatchJobRequest(job_id="unknown")
TOO_LARGE = str(5 * 1024**2)


@dataclass(frozen=True)
class Row:
    """A call and what the protocols demand of its answer.

    Attributes:
        name: What the row is about.
        protocols: The protocols with which the call is made.
        method: The name of the method.
        messages: The messages of the request, encoded if they are bytes.
        code: The code of the error; `ok` for success.
        reason: The reason of the error.
        words: A part of the error's text.
        headers: Further headers of the request. `TIMEOUT:x` is the timeout of the protocol.
        status: The HTTP status if the protocol is Connect with one answer, or if the call is refused before it begins.
    """

    name: str
    protocols: tuple[Any, ...]
    method: str
    messages: tuple[Message | bytes, ...]
    code: str = "ok"
    reason: str = ""
    words: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    http_method: str = "POST"


LIST = Controller.ListJobsRequest()
ROWS = [
    Row("one answer", UNARY, "ListJobs", (LIST,)),
    Row("a stream with its end", STREAM, "WatchJob", (Controller.WatchJobRequest(job_id="ended"),)),
    Row(
        "an error of a call", UNARY, "GetJobStatus", (Controller.GetJobStatusRequest(job_id="größe"),),
        "not_found", "JOB_NOT_FOUND", "größe", status=404,
    ),
    Row("an error of a stream", STREAM, "WatchJob", (UNKNOWN_JOB,), "not_found", "JOB_NOT_FOUND", "unknown"),
    Row(
        "a call without a token", UNARY, "ListJobs", (LIST,), "unauthenticated", "TOKEN_MISSING", "needs a token",
        {"authorization": ""}, 401,
    ),
    Row(
        "a stream without a token", STREAM, "WatchJob", (UNKNOWN_JOB,), "unauthenticated", "TOKEN_MISSING",
        "needs a token", {"authorization": ""},
    ),
    Row(
        "a call that the role may not make", UNARY, "ListTokens", (Controller.ListTokensRequest(),),
        "permission_denied", "PERMISSION_DENIED", "reader", {"authorization": f"Bearer {token('reader')}"}, 403,
    ),
    Row(
        "a deadline that passes", STREAM, "WatchJob", (Controller.WatchJobRequest(job_id="waiting"),),
        "deadline_exceeded", "DEADLINE_EXCEEDED", "timed out", {"TIMEOUT": "100"},
    ),
    Row("a deadline that does not pass", UNARY, "ListJobs", (LIST,), headers={"TIMEOUT": "60000"}),
    Row(
        "a malformed timeout", UNARY, "ListJobs", (LIST,), "invalid_argument", "MALFORMED_REQUEST", "timeout",
        {"TIMEOUT": "malformed"}, 400,
    ),
    Row(
        "a malformed message", UNARY, "ListJobs", (b"{",), "invalid_argument", "MALFORMED_REQUEST", status=400,
    ),
    Row("a malformed message to a stream", STREAM, "WatchJob", (b"{",), "invalid_argument", "MALFORMED_REQUEST"),
    Row("two messages instead of one", GRPC, "ListJobs", (LIST, LIST), "unimplemented", "UNIMPLEMENTED", "multiple"),
    Row("no message instead of one", (*GRPC, ConnectStream()), "WatchJob", (), "unimplemented", "UNIMPLEMENTED"),
    Row("an unknown method", UNARY, "ListJob", (LIST,), "unimplemented", "UNIMPLEMENTED", "no call", status=404),
    Row(
        "an unknown compression", (ConnectUnary(),), "ListJobs", (LIST,), "unimplemented", "UNIMPLEMENTED",
        "compression", {"content-encoding": "zip"}, 501,
    ),
    Row(
        "an unknown compression of gRPC", GRPC, "ListJobs", (LIST,), "unimplemented", "UNIMPLEMENTED", "compression",
        {"grpc-encoding": "zip"},
    ),
    Row(
        "an accepted compression that is not used", (*UNARY, ConnectStream()), "WatchJob",
        (Controller.WatchJobRequest(job_id="ended"),),
        headers={"accept-encoding": "gzip", "grpc-accept-encoding": "gzip", "connect-accept-encoding": "gzip"},
    ),
    Row(
        "a request that is too large", UNARY, "ListJobs", (b" ",), "resource_exhausted", "TOO_LARGE",
        "too large", {"content-length": TOO_LARGE}, 429,
    ),
]  # fmt: skip


def cases() -> Iterator[Any]:
    for row in ROWS:
        for protocol in row.protocols:
            if row.method == "WatchJob" and isinstance(protocol, ConnectUnary):
                continue  # Connect with one answer cannot call a stream.
            for codec in ("proto", "json"):
                for version in VERSIONS:
                    if isinstance(protocol, GrpcWeb) or not isinstance(protocol, Grpc) or version == "2":
                        yield pytest.param(
                            row, protocol, codec, version, id=f"{row.name}-{protocol.name}-{codec}-{version}"
                        )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a controller without workers, with a job that waits and a job that has ended."""
    with serving(FakeEngine(), Store(None)) as running, RemoteClusterClient(running.address) as client:
        for name in ("waiting", "ended"):
            client.launch_job(Controller.LaunchJobRequest(name=name, command=["true"]))
        client.terminate_job("ended")
        yield running.address


def ask(address: str, version: str, row: Row, protocol: Any, codec: str) -> Exchange:
    """Make the call of a row."""
    encoded = [
        one if isinstance(one, bytes) else one.SerializeToString() if codec == "proto" else MessageToJson(one).encode()
        for one in row.messages
    ]
    headers = {"authorization": f"Bearer {token()}", "content-type": protocol.content_type(codec)} | row.headers
    timeout = headers.pop("TIMEOUT", "")
    if timeout:
        name, form, malformed = protocol.timeout
        headers[name] = malformed if timeout == "malformed" else form.format(timeout)
    if protocol.name == "grpc":
        headers["te"] = "trailers"
    return exchange(address, version, row.http_method, SERVICE + row.method, headers, protocol.body(*encoded))


@pytest.mark.parametrize(("row", "protocol", "codec", "version"), list(cases()))
def test_call_obeys_the_rules_of_its_protocol(address: str, row: Row, protocol: Any, codec: str, version: str) -> None:
    answer = ask(address, version, row, protocol, codec)
    outcome = protocol.outcome(answer)
    assert (outcome.code, outcome.reason) == (row.code, row.reason)
    assert row.words in outcome.text
    assert not answer.was_reset
    is_connect_unary = isinstance(protocol, ConnectUnary)
    assert answer.status == (row.status if is_connect_unary else 200)
    if answer.status == 200:
        # The answer to a failed call may have the content type without a codec.
        assert answer.headers["content-type"].removesuffix(f"+{codec}") in (
            protocol.content_type(codec).removesuffix(f"+{codec}"),
        )
    if row.code != "ok":
        return
    (message,) = outcome.messages
    kind = Controller.ListJobsResponse if row.method == "ListJobs" else Controller.WatchJobResponse
    parsed = kind.FromString(message) if codec == "proto" else Parse(message, kind())
    assert parsed != kind()
