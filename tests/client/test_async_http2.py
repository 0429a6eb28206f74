"""The async client over HTTP/2, with which all calls and streams of a client share one connection."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from support.cluster import shell

from iris.client.aio import AsyncIrisClient

pytestmark = pytest.mark.anyio
_FOLLOWS = 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_follows_of_an_async_client_share_one_http2_connection(http2_cluster: Any) -> None:
    port = urlsplit(http2_cluster.address).port
    async with AsyncIrisClient.remote(http2_cluster.address, http2=True) as client:
        job = await client.run(shell("echo up; exec sleep 3600"))
        streams = [client.stream_task_logs(job.job_id, 0, route="controller") for _ in range(_FOLLOWS)]
        assert [line.message for line in await asyncio.gather(*map(anext, streams))] == ["up"] * _FOLLOWS
        connections = psutil.Process().net_connections("tcp")
        assert sum(found.raddr != () and found.raddr.port == port for found in connections) == 1
        for stream in streams:
            await stream.close()
        await job.terminate()
        await job.wait(raise_on_failure=False)
