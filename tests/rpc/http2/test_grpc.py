"""gRPC with a real client, grpcio, against an application of connectrpc on the server of Iris."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import psutil
import pytest
from support.grpc_service import LARGE_BYTES, SERVICE, Controller, GrpcWorld
from support.waiting import wait_until


@pytest.fixture(scope="module")
def world() -> Iterator[GrpcWorld]:
    running = GrpcWorld()
    with running.running():
        yield running


@pytest.fixture
def channel(world: GrpcWorld) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{world.address[1]}") as channel:
        yield channel


def unary(channel: Any, job_id: str, timeout_s: float = 30, **options: Any) -> Any:
    call = channel.unary_unary(
        f"/{SERVICE}/GetJobStatus",
        request_serializer=Controller.GetJobStatusRequest.SerializeToString,
        response_deserializer=Controller.GetJobStatusResponse.FromString,
    )
    return call(Controller.GetJobStatusRequest(job_id=job_id), timeout=timeout_s, **options)


def watch(channel: Any, job_id: str) -> Any:
    call = channel.unary_stream(
        f"/{SERVICE}/WatchJob",
        request_serializer=Controller.WatchJobRequest.SerializeToString,
        response_deserializer=Controller.WatchJobResponse.FromString,
    )
    return call(Controller.WatchJobRequest(job_id=job_id))


def test_grpc_unary_call_is_answered(channel: Any) -> None:
    assert unary(channel, "train").job.job_id == "train"


def test_compressed_grpc_call_is_answered(channel: Any) -> None:
    assert unary(channel, "train" * 1000, compression=grpc.Compression.Gzip).job.job_id == "train" * 1000


@pytest.mark.parametrize(
    ("job_id", "code", "text"),
    [
        ("absent", grpc.StatusCode.NOT_FOUND, "no job named 'absent'"),
        ("secret", grpc.StatusCode.UNAUTHENTICATED, "this call needs a token"),
    ],
)
def test_failed_grpc_call_has_a_status_and_details(channel: Any, job_id: str, code: Any, text: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        unary(channel, job_id)
    assert (failed.value.code(), failed.value.details()) == (code, text)
    assert "grpc-status-details-bin" in dict(failed.value.trailing_metadata())


def test_grpc_call_ends_at_its_deadline(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        unary(channel, "slow", timeout_s=0.2)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_unknown_grpc_method_gets_the_status_unimplemented(channel: Any) -> None:
    call = channel.unary_unary(f"/{SERVICE}/Nothing")
    with pytest.raises(grpc.RpcError) as failed:
        call(b"", timeout=30)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_call_of_an_unknown_grpc_service_gets_the_status_unimplemented(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/other.Service/Call")(b"", timeout=30)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert failed.value.details() == f"This is Iris. It serves Connect, gRPC and gRPC-Web at /{SERVICE}"


def test_grpc_stream_gets_the_status_unavailable_when_the_server_shuts_down() -> None:
    running = GrpcWorld()
    with running.running():
        channel = grpc.insecure_channel(f"127.0.0.1:{running.address[1]}")
        stream = watch(channel, "train")
        next(stream)
    with channel, pytest.raises(grpc.RpcError) as failed:
        next(stream)
    # CANCELLED would tell the program that it has ended the call itself.
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "the server is closing" in failed.value.details()


def test_stream_over_http1_ends_with_an_error_and_no_traceback_when_the_server_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = GrpcWorld()
    body = struct.pack(">BI", 0, 2) + b"{}"
    headers = {"content-type": "application/connect+json"}
    with contextlib.ExitStack() as stack:
        with running.running():
            answer = stack.enter_context(
                httpx.stream("POST", f"{running.url}/{SERVICE}/WatchJob", content=body, headers=headers)
            )
            parts = answer.iter_raw()
            next(parts)
        end = json.loads(b"".join(parts)[5:])
    assert end["error"]["code"] == "unavailable"
    assert "CancelledError" not in caplog.text


def test_messages_of_a_stream_arrive_at_once_and_its_end_has_the_status_ok(world: GrpcWorld, channel: Any) -> None:
    stream = watch(channel, "train")
    for number in range(3):
        assert next(stream).job.num_tasks == number + 1  # Each message arrives before the next one is sent.
        world.call(world.service.next.set)
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.code() is grpc.StatusCode.OK


def test_grpc_stream_that_fails_ends_with_a_status(world: GrpcWorld, channel: Any) -> None:
    stream = watch(channel, "failing")
    for _ in range(3):
        next(stream)
        world.call(world.service.next.set)
    with pytest.raises(grpc.RpcError) as failed:
        next(stream)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_server_notices_a_grpc_stream_that_its_client_closes_early(world: GrpcWorld, how: str) -> None:
    world.service.ended.clear()
    channel = grpc.insecure_channel(f"127.0.0.1:{world.address[1]}")
    stream = watch(channel, "train")
    next(stream)
    if how == "cancel":
        stream.cancel()
    channel.close()
    wait_until(world.service.ended.is_set, "the service to hear that its reader has left")


def test_many_streams_share_one_connection_with_calls(world: GrpcWorld, channel: Any) -> None:
    streams = [watch(channel, "train") for _ in range(100)]
    assert [next(stream).job.num_tasks for stream in streams] == [1] * 100
    assert unary(channel, "train").job.job_id == "train"
    for stream in streams:
        stream.cancel()


def test_grpc_reader_that_stops_occupies_at_most_a_megabyte_of_the_server() -> None:
    readers = 200
    with subprocess.Popen(
        [sys.executable, "-m", "support.grpc_service"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        assert server.stdout is not None
        with grpc.insecure_channel(f"127.0.0.1:{int(server.stdout.readline())}") as channel:
            assert unary(channel, "train").job.job_id == "train"
            memory = psutil.Process(server.pid).memory_info
            before = memory().rss
            streams = [watch(channel, "large") for _ in range(readers)]
            for stream in streams:
                assert len(next(stream).job.error) == LARGE_BYTES
            for _ in range(50):
                assert unary(channel, "train").job.job_id == "train"  # Calls on the same connection go on.
            assert memory().rss - before < readers * 1024**2
            for stream in streams:
                stream.cancel()
        server.communicate()
