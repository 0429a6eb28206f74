"""Fixtures of several modules: a cluster whose workers everybody reaches through proxies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from support.chaos_proxy import ChaosProxy
from support.cluster import running_http2_cluster

# Another address of this machine. The workers say that they are there, and the proxies listen there.
_PROXIED_HOST = "127.0.0.2"


@dataclass
class Http2Cluster:
    """A cluster whose controller speaks HTTP/2 and HTTP/1.1.

    Attributes:
        address: The controller's address, past its proxy.
        workers: The workers' addresses, past their proxies.
        worker_proxies: The proxies at the addresses that the workers advertise.
        controller_proxy: The proxy of the controller.
    """

    address: str
    workers: list[str]
    worker_proxies: list[ChaosProxy]
    controller_proxy: ChaosProxy


@pytest.fixture(scope="module")
def http2_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http2Cluster]:
    with ExitStack() as opened:
        address, workers = opened.enter_context(running_http2_cluster(tmp_path_factory.mktemp("http2"), _PROXIED_HOST))
        ports = workers.values()
        proxies = [
            opened.enter_context(ChaosProxy(("127.0.0.1", port), host=_PROXIED_HOST, port=port)) for port in ports
        ]
        controller_proxy = opened.enter_context(ChaosProxy(("127.0.0.1", urlsplit(address).port or 0)))
        yield Http2Cluster(address, [f"http://127.0.0.1:{port}" for port in ports], proxies, controller_proxy)
