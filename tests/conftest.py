"""Fixtures that many tests share: real clusters, and the check that nothing outlives the tests."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.cluster import RUN_VARIABLE, iris_processes, is_alive, running_cluster
from support.ray_cluster import RayCluster, running_ray_cluster
from support.tokens import prepare_environment
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, PlaceOptions

os.environ[RUN_VARIABLE] = secrets.token_hex(8)
# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start inherits that: the programs
# that tests interrupt would go on.
signal.signal(signal.SIGINT, signal.default_int_handler)
prepare_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on Ray come first, side by side: each process that runs some of them starts a Ray cluster."""
    items.sort(key=lambda item: "ray" not in item.path.stem.split("_"))


@pytest.fixture(scope="session", autouse=True)
def no_leaked_processes() -> Iterator[None]:
    """Fails the run when a process of Iris, or one that a task started, is left at the end."""
    yield
    wait_until(
        lambda: not {pid for pid in iris_processes() if is_alive(pid)},
        f"the end of what the tests started; now there are {iris_processes()}",
    )


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """One cluster of two workers for all tests that do not break it."""
    directory: Path = tmp_path_factory.mktemp("cluster")
    with running_cluster(directory, workers=2) as server:
        yield server


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """One Ray cluster for all tests that do not break it."""
    with running_ray_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ray_server(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A cluster of Iris on it, for tests that do not break that either."""
    opened = ExitStack()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ray_cluster.env.items():
            environment.setenv(name, value)
        place = PlaceOptions(engine="ray", ray_address=ray_cluster.address)
        cluster = opened.enter_context(running_cluster(tmp_path_factory.mktemp("on-ray"), place=place))
    with opened:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: LocalServer) -> Iterator[RemoteClusterClient]:
    """A low-level client of the shared cluster."""
    with RemoteClusterClient(shared_cluster.address) as client:
        yield client


@pytest.fixture
def client(shared_cluster: LocalServer) -> Iterator[IrisClient]:
    """A user's client of the shared cluster."""
    with IrisClient.remote(shared_cluster.address) as remote:
        yield remote
