"""The thread that encodes large JSON makes one encoding for all streams that send the same message."""

from __future__ import annotations

import asyncio
import json

import pytest

from iris.errors import ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.caller import READER, Caller, current_caller
from iris.rpc.serving.codecs import EncodedAnswer, MessageThread

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def large(jobs: int = 500) -> pb.Controller.WatchJobsResponse:
    return pb.Controller.WatchJobsResponse(jobs=[pb.JobStatus(job_id=f"job-{number}") for number in range(jobs)])


def encode(thread: MessageThread, message: pb.Controller.WatchJobsResponse, name: str) -> asyncio.Task[EncodedAnswer]:
    current_caller.set(Caller(name, READER, name, 0.0))
    return asyncio.create_task(thread.encode(message, as_json=True))


async def test_streams_with_the_same_message_share_one_encoding() -> None:
    thread, message = MessageThread(), large()
    first, *others = await asyncio.gather(*(encode(thread, message, f"user-{number}") for number in range(20)))
    assert thread.encoded == 1
    assert all(other.data is first.data for other in others)
    assert [job["jobId"] for job in json.loads(first.data)["jobs"]] == [job.job_id for job in message.jobs]


async def test_equal_messages_that_are_different_objects_are_encoded_separately() -> None:
    thread = MessageThread()
    one, other = await asyncio.gather(encode(thread, large(), "ann"), encode(thread, large(), "ben"))
    assert thread.encoded == 2
    assert one.data == other.data


async def test_message_that_has_changed_after_its_encoding_is_encoded_again() -> None:
    thread, message = MessageThread(), large()
    await encode(thread, message, "ann")
    message.jobs[0].job_id = "renamed"
    assert b"renamed" in (await encode(thread, message, "ann")).data


async def test_encoding_goes_on_for_other_streams_when_the_first_stream_is_cancelled() -> None:
    thread, message = MessageThread(), large()
    first, other = encode(thread, message, "ann"), encode(thread, message, "ben")
    await asyncio.sleep(0)
    first.cancel()
    assert b"job-499" in (await other).data
    assert thread.encoded == 1


async def test_message_is_not_encoded_when_all_its_streams_are_cancelled() -> None:
    thread, message = MessageThread(), large()
    busy = encode(thread, large(), "ann")
    await asyncio.sleep(0)
    leaving = [encode(thread, message, "ben") for _ in range(2)]
    await asyncio.sleep(0)
    for stream in leaving:
        stream.cancel()
    assert b"job-499" in (await encode(thread, message, "cleo")).data
    await asyncio.gather(busy, *leaving, return_exceptions=True)
    assert thread.encoded == 2, "the messages of ann and cleo"


async def test_message_refused_for_one_caller_with_too_many_calls_is_encoded_for_another_caller() -> None:
    thread, message = MessageThread(), large()
    busy = [encode(thread, large(210), "ann") for _ in range(257)]
    refused = encode(thread, message, "ann")
    other = encode(thread, message, "ben")
    assert b"job-499" in (await other).data
    with pytest.raises(ResourceExhaustedError):
        await refused
    for stream in busy:
        stream.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
