"""The async client over HTTP/2, with which all calls and streams of a client share one connection."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import psutil
import pytest
from support.cluster import shell
from support.sockets import ESTABLISHED, count_connections
from support.waiting import wait_until

from iris.client.aio import AsyncIrisClient
from iris.cluster.client.server_process import LocalServer

pytestmark = pytest.mark.anyio
_FOLLOWS = 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def connections_to(ports: set[int | None]) -> int:
    """Return the number of connections that the processes which listen at these ports hold."""
    return count_connections(ports, ESTABLISHED)


async def test_log_streams_over_http2_share_one_connection_and_end_when_closed(
    shared_cluster: LocalServer,
) -> None:
    port = urlsplit(shared_cluster.address).port
    async with AsyncIrisClient.remote(shared_cluster.address, http2=True) as client:
        job = await client.run(shell("while echo line; do sleep 0.2; done"))
        streams = [client.stream_task_logs(job.job_id, 0, route="controller", tail=0) for _ in range(_FOLLOWS)]
        # Each line is new, so each stream is open and waits for the next line.
        assert [line.message for line in await asyncio.gather(*map(anext, streams))] == ["line"] * _FOLLOWS
        connections = psutil.Process().net_connections("tcp")
        assert sum(found.raddr != () and found.raddr.port == port for found in connections) == 1
        # The controller reads each of these follows from the worker, over a connection of its own.
        workers = {urlsplit(worker.address).port for worker in await client.cluster.list_workers()}
        assert connections_to(workers) >= _FOLLOWS
        for stream in streams:
            await stream.close()
        await asyncio.to_thread(wait_until, lambda: connections_to(workers) < _FOLLOWS / 2, "the end of the relays")
        await job.terminate()
        await job.wait(raise_on_failure=False)
