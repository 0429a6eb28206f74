"""The low-level async client, by the contract of all cluster clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contracts.cluster_client import *  # noqa: F403 - the contract's tests run here
from support.async_client import open_async_client

from iris.cluster.client.aio.remote_client import AsyncRemoteClusterClient
from iris.cluster.client.server_process import LocalServer


@pytest.fixture(scope="module")
def cluster_client(shared_cluster: LocalServer) -> Iterator[Any]:
    with open_async_client(lambda: AsyncRemoteClusterClient(shared_cluster.address)) as client:
        yield client
