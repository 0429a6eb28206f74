"""Who cancels a call gets a cancellation, who waits for a silent server a timeout: none is taken for the other."""

from __future__ import annotations

import asyncio
import socket

import pytest

from iris.errors import DeadlineExceededError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.calls import call_async, stream_async
from iris.rpc.peer import Peer


def test_cancelling_an_asyncio_task_cancels_its_call() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            stub = cluster_connect.ControllerServiceClient(address)
            request = cluster_pb2.Controller.ListJobsRequest()
            calling = asyncio.create_task(call_async(stub.list_jobs, request, Peer(address, "nobody")))
            await asyncio.get_running_loop().run_in_executor(None, silent.accept)  # the call is under way
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert calling.cancelled()

    asyncio.run(main())


def test_stream_of_a_silent_server_ends_with_an_error() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            stub = cluster_connect.ControllerServiceClient(address)
            watched = stub.watch_job(cluster_pb2.Controller.WatchJobRequest())
            with pytest.raises(DeadlineExceededError, match="has sent no message"):
                await anext(stream_async(watched, Peer(address, "nobody"), first_s=0.1))

    asyncio.run(main())
