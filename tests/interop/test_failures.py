"""Failures, deadlines and streams that a client leaves, with the client libraries of grpcio and Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.client_programs import TypeScript
from support.controller_thread import serving
from support.fake_engine import FakeEngine
from support.tokens import token
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.quotas import Quota
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import Controller

SERVICE = "/iris.cluster.ControllerService/"


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a controller with a job that waits, where a caller may have one stream."""
    with serving(FakeEngine(), Store(None), quota=Quota(streams=1)) as running:
        with RemoteClusterClient(running.address) as client:
            client.launch_job(Controller.LaunchJobRequest(name="waiting", command=["true"]))
        yield running.address


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program probe.ts."""
    programs = TypeScript(tmp_path_factory.mktemp("probe") / "typescript")
    shutil.copy(Path(__file__).parent / "probe.ts", programs.directory)
    return programs.bundle("probe.ts", "node")


@pytest.mark.parametrize(
    ("protocol", "version"),
    [("connect", "1.1"), ("connect", "2"), ("grpc", "2"), ("grpc-web", "1.1"), ("grpc-web", "2")],
)
def test_node_program_gets_errors_with_reasons_and_can_end_a_stream_early(
    probe: Path, address: str, protocol: str, version: str
) -> None:
    command = ["node", probe, address, token(), protocol, version]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    del results["deadline"]["reason"]  # The client may notice the deadline first, and then knows no reason.
    assert results == {
        "notFound": {"code": "NotFound", "reason": "JOB_NOT_FOUND"},
        "unauthenticated": {"code": "Unauthenticated", "reason": "TOKEN_INVALID"},
        "streamNotFound": {"code": "NotFound", "reason": "JOB_NOT_FOUND"},
        "deadline": {"code": "DeadlineExceeded"},
        "second": {"code": "ResourceExhausted", "reason": "QUOTA_EXCEEDED"},
    }


class GrpcioClient:
    """A client of grpcio."""

    def __init__(self, address: str) -> None:
        self.grpc = pytest.importorskip("grpc")
        self.channel = self.grpc.insecure_channel(address.removeprefix("http://"))

    def unary(self, name: str, request: Any, answer: Any, secret: str | None = None, **options: Any) -> Any:
        call = self.channel.unary_unary(SERVICE + name, type(request).SerializeToString, answer.FromString)
        metadata = (("authorization", f"Bearer {secret or token()}"),)
        return call(request, metadata=metadata, timeout=options.pop("timeout", 30), **options)

    def watch(self, job_id: str, timeout: float = 30) -> Any:
        call = self.channel.unary_stream(
            SERVICE + "WatchJob", Controller.WatchJobRequest.SerializeToString, Controller.WatchJobResponse.FromString
        )
        metadata = (("authorization", f"Bearer {token()}"),)
        return call(Controller.WatchJobRequest(job_id=job_id), metadata=metadata, timeout=timeout)

    def code(self, caught: pytest.ExceptionInfo[Any]) -> str:
        return str(caught.value.code().name)


@pytest.fixture
def grpcio(address: str) -> Iterator[GrpcioClient]:
    client = GrpcioClient(address)
    with client.channel:
        yield client


def test_grpcio_gets_an_error_with_its_text_and_its_reason(grpcio: GrpcioClient) -> None:
    request = Controller.GetJobStatusRequest(job_id="größe")
    with pytest.raises(grpcio.grpc.RpcError, match="größe") as caught:
        grpcio.unary("GetJobStatus", request, Controller.GetJobStatusResponse)
    trailers = dict(caught.value.trailing_metadata())
    assert (grpcio.code(caught), b"JOB_NOT_FOUND" in trailers["grpc-status-details-bin"]) == ("NOT_FOUND", True)


def test_grpcio_without_a_valid_token_is_refused(grpcio: GrpcioClient) -> None:
    with pytest.raises(grpcio.grpc.RpcError) as caught:
        grpcio.unary("ListJobs", Controller.ListJobsRequest(), Controller.ListJobsResponse, secret="x")
    assert grpcio.code(caught) == "UNAUTHENTICATED"


def test_grpcio_gets_unimplemented_for_an_unknown_call_and_for_an_unknown_compression(grpcio: GrpcioClient) -> None:
    with pytest.raises(grpcio.grpc.RpcError, match="has no call") as unknown:
        grpcio.unary("ListJob", Controller.ListJobsRequest(), Controller.ListJobsResponse)
    compressed = {"compression": grpcio.grpc.Compression.Deflate}
    request = Controller.LookupEndpointRequest(name="x" * 1000)
    with pytest.raises(grpcio.grpc.RpcError, match="supported encodings are gzip") as deflate:
        grpcio.unary("LookupEndpoint", request, Controller.LookupEndpointResponse, **compressed)
    assert (grpcio.code(unknown), grpcio.code(deflate)) == ("UNIMPLEMENTED", "UNIMPLEMENTED")


def test_compressed_request_of_grpcio_is_answered(grpcio: GrpcioClient) -> None:
    request = Controller.LookupEndpointRequest(name="x" * 1000)
    with pytest.raises(grpcio.grpc.RpcError, match="xxx") as caught:
        grpcio.unary(
            "LookupEndpoint", request, Controller.LookupEndpointResponse, compression=grpcio.grpc.Compression.Gzip
        )
    assert grpcio.code(caught) == "NOT_FOUND"


def test_grpcio_checks_health_without_a_token(grpcio: GrpcioClient) -> None:
    check = grpcio.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=30) == b"\x08\x01"  # SERVING


def test_grpcio_watches_a_job_until_its_end_and_gets_the_status_ok(grpcio: GrpcioClient) -> None:
    messages = grpcio.watch("waiting")
    assert next(messages).job.state == cluster_pb2.JOB_STATE_PENDING
    grpcio.unary("TerminateJob", Controller.TerminateJobRequest(job_id="waiting"), cluster_pb2.Empty)
    states = [message.job.state for message in messages if message.HasField("job")]
    assert (states[-1], messages.code()) == (cluster_pb2.JOB_STATE_KILLED, grpcio.grpc.StatusCode.OK)


def test_stream_that_grpcio_cancels_or_that_passes_its_deadline_no_longer_counts_for_the_quota(
    grpcio: GrpcioClient,
) -> None:
    cancelled = grpcio.watch("waiting")
    next(cancelled)
    with pytest.raises(grpcio.grpc.RpcError) as second:
        next(grpcio.watch("waiting"))
    assert grpcio.code(second) == "RESOURCE_EXHAUSTED"
    cancelled.cancel()

    def watch_for_a_moment() -> Any:
        messages = grpcio.watch("waiting", timeout=0.2)
        try:
            list(messages)
        except grpcio.grpc.RpcError as error:
            return error.code()

    wait_until(
        lambda: watch_for_a_moment() is grpcio.grpc.StatusCode.DEADLINE_EXCEEDED, "the end of the cancelled stream"
    )
    wait_until(
        lambda: watch_for_a_moment() is grpcio.grpc.StatusCode.DEADLINE_EXCEEDED,
        "the end of the stream whose deadline passed",
    )
