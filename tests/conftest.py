"""Fixtures that many tests share: real clusters, and the check that nothing outlives the tests."""

from __future__ import annotations

import gc
import os
import secrets
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import forked_servers
from support.cluster import RUN_VARIABLE, iris_processes, is_alive, running_cluster
from support.distribution import ByModule, is_on_ray, sort_for_processes
from support.memory_files import use_memory
from support.preloaded import Preloaded
from support.ray_cluster import RayCluster, running_ray_cluster
from support.tokens import prepare_environment
from support.waiting import wait_until
from xdist.remote import Producer

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer

pytest_plugins = ["support.hangs"]

os.environ[RUN_VARIABLE] = secrets.token_hex(8)
# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start inherits that: the programs
# that tests interrupt would go on.
signal.signal(signal.SIGINT, signal.default_int_handler)
prepare_environment()
use_memory()


# Ends the Ray cluster and the server that uses it. They end after the last test on Ray, not with the session, because
# an idle Ray cluster takes a tenth of a core from the tests that follow.
_on_ray = ExitStack()


# Collection creates thousands of objects that live as long as the tests. Without the two calls below, the garbage
# collector would search these objects again and again.
gc.disable()


def pytest_collection_finish() -> None:
    """Start the garbage collector, which from now on skips the objects of the collection."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out the tests with the marker `long`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of long.txt as `long`, and put the slow tests first."""
    lines = Path(__file__).with_name("long.txt").read_text().splitlines()
    long = tuple(f"tests/{line}" for line in lines if line and not line.startswith("#"))
    for item in items:
        if item.nodeid.startswith(long):
            item.add_marker("long")
    sort_for_processes(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    """Keep the tests of a module in one process."""
    return ByModule(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End the Ray cluster after the last test that needs it."""
    try:
        yield
    finally:
        if nextitem is not None and is_on_ray(item.nodeid) and not is_on_ray(nextitem.nodeid):
            _on_ray.close()


@pytest.fixture(scope="session", autouse=True)
def no_leaked_processes() -> Iterator[None]:
    """Fails the run when a process of Iris, or one that a task started, is left at the end."""
    yield
    _on_ray.close()
    wait_until(
        lambda: not {pid for pid in iris_processes() if is_alive(pid)},
        f"the end of what the tests started; now there are {iris_processes()}",
    )


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> Iterator[Preloaded]:
    """Starts `iris`, programs that use `iris`, servers and workers in processes that need not load modules."""
    with Preloaded() as template:
        forked_servers.install(template)
        yield template
        forked_servers.uninstall()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """One cluster of two workers for all tests that do not break it."""
    directory: Path = tmp_path_factory.mktemp("cluster")
    with running_cluster(directory, workers=2) as server:
        with RemoteClusterClient(server.address) as client:
            wait_until(lambda: len(client.list_workers()) == 2, "the workers")
        yield server


@pytest.fixture(scope="session")
def ray_cluster() -> RayCluster:
    """One Ray cluster for all tests that do not break it."""
    return _on_ray.enter_context(running_ray_cluster())


@pytest.fixture(scope="session")
def ray_server(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> LocalServer:
    """A cluster of Iris on the Ray cluster, for tests that do not break it either."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ray_cluster.env.items():
            environment.setenv(name, value)
        options = {"engine": "ray", "ray_address": ray_cluster.address}
        return _on_ray.enter_context(running_cluster(tmp_path_factory.mktemp("on-ray"), **options))


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
