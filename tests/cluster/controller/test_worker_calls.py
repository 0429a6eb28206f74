"""The controller makes only a few calls to each worker at once, however many attempts are due."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from support.cluster import launch, wait_for_end
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.call_slots import WorkerCalls
from iris.cluster.engine.base import Resources
from iris.rpc import cluster_pb2 as pb

JOBS = 30
MOST_OF_WORKER = 4


@contextmanager
def silent_worker() -> Iterator[tuple[str, list[socket.socket]]]:
    """Yield the address of a server that accepts connections and never answers, and the list of its connections."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:

        def accept() -> None:
            while True:
                try:
                    connections.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


def register(controller: ControllerThread, worker_id: str, address: str) -> None:
    request = pb.Controller.RegisterWorkerRequest(worker_id=worker_id, address=address, incarnation="1")
    assert controller.run(controller.controller.reports.register(request)).accepted


def calls_of(controller: ControllerThread) -> WorkerCalls:
    return controller.controller.fleet.calls


def test_starts_on_an_unresponsive_worker_wait_beyond_a_few_concurrent_calls() -> None:
    engine = FakeEngine({"silent": Resources.of(cpu=1000)})
    with (
        silent_worker() as (address, connections),
        serving(engine, Store(None)) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        register(controller, "silent", address)
        job_ids = [launch(client, ["true"]) for _ in range(JOBS)]
        calls = calls_of(controller)
        wait_until(
            lambda: calls.num_running == MOST_OF_WORKER and calls.num_waiting == JOBS - MOST_OF_WORKER,
            "all starts to be called, or to wait",
        )
        wait_until(lambda: len(connections) == MOST_OF_WORKER, "a connection for each call")
        for job_id in job_ids:
            client.terminate_job(job_id)
        wait_until(lambda: calls.num_running == MOST_OF_WORKER, "no more calls than before")
        assert len(connections) == MOST_OF_WORKER


def test_unresponsive_worker_delays_no_start_on_another_worker() -> None:
    engine = FakeEngine({"silent": Resources.of(cpu=1), "refusing": Resources.of(cpu=1000)})
    with (
        silent_worker() as (address, _),
        serving(engine, Store(None)) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        register(controller, "silent", address)
        register(
            controller, "refusing", controller.address
        )  # the controller has no RunTasks, which counts as an answer
        held = pb.ResourceSpecProto(cpu=1)
        for _ in range(MOST_OF_WORKER * 2):
            launch(client, ["true"], resources=held)
        wait_until(lambda: calls_of(controller).num_running, "a start that is not answered")
        job_id = launch(client, ["true"], resources=pb.ResourceSpecProto(cpu=2))
        assert "refused the attempt" in wait_for_end(client, job_id).error
