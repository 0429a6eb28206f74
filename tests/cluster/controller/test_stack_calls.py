"""A client that leaves ends its reading of stacks, so that its next reading gets a turn."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from support.waiting import wait_until

from iris.cluster.controller.inspect.stack_calls import StackCalls
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.rpc import cluster_pb2 as pb
from iris.rpc.auth.caller import USER, Caller, current_caller
from iris.rpc.cluster_connect import ControllerService, ControllerServiceASGIApplication
from iris.rpc.http.server.asgi_server import HttpServer
from iris.system.sockets import bind

CALL = "/iris.cluster.ControllerService/ReadStacks"
JSON = {"content-type": "application/json"}


class SilentWorker:
    """The stub of a worker that never answers its first calls, and answers the later ones.

    Args:
        num_silent: The number of calls that get no answer.
    """

    def __init__(self, num_silent: int) -> None:
        self.calls = 0
        self._num_silent = num_silent

    async def read_stacks(self, request: Any, timeout_ms: float | None = None) -> pb.ReadStacksResponse:
        self.calls += 1
        if self.calls <= self._num_silent:
            await asyncio.Event().wait()
        return pb.ReadStacksResponse(tasks=[pb.TaskStacks(task_index=0)])


class Service(StackCalls, ControllerService):
    """The calls about stacks for one running task, with a deadline of an hour. All callers are the same user."""

    def __init__(self, stub: SilentWorker) -> None:
        attempt = SimpleNamespace(worker_id="w", worker_incarnation="i", attempt_id=0)
        task = SimpleNamespace(task_index=0, task_id="train/task-0", live_attempt=attempt)
        record = SimpleNamespace(job=SimpleNamespace(tasks=[task]), check_index=lambda index: None)

        async def find(job_id: str) -> Any:
            return record

        identity = SimpleNamespace(worker_id="w", incarnation="i", address="http://127.0.0.1:1")
        worker = SimpleNamespace(is_dead=False, identity=identity, stub=stub)
        workers = cast(Mapping[str, WorkerRecord], {"w": worker})
        super().__init__(cast(JobTable, SimpleNamespace(find=find)), workers, read_s=3600.0)

    async def read_stacks(self, request: Any, ctx: Any) -> pb.ReadStacksResponse:
        current_caller.set(Caller("anna", USER, "t", 0.0))
        return await super().read_stacks(request, ctx)


@contextmanager
def serving(stub: SilentWorker) -> Iterator[tuple[str, int]]:
    """Serve `Service` in a thread, and yield its address."""
    loop, stopping, listener = asyncio.new_event_loop(), asyncio.Event(), bind("127.0.0.1", 0)

    async def serve() -> None:
        application = ControllerServiceASGIApplication(Service(stub))
        server = HttpServer({application.path: application}, listener)
        server.start()
        await stopping.wait()
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()


def begin_reading(address: tuple[str, int]) -> socket.socket:
    client = socket.create_connection(address)
    client.sendall(f"POST {CALL} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode())
    client.sendall(b"content-length: 2\r\n\r\n{}")
    return client


def test_clients_that_disconnect_free_their_turns_for_reading_stacks() -> None:
    turns = 2  # One user may read stacks this many times at once.
    stub = SilentWorker(turns)
    with serving(stub) as address:
        clients = [begin_reading(address) for _ in range(turns)]
        wait_until(lambda: stub.calls == turns, "all turns to be taken")
        for client in clients:
            client.close()
        later = http.client.HTTPConnection(*address, timeout=60)
        later.request("POST", CALL, b"{}", JSON)
        assert b"tasks" in later.getresponse().read()
        later.close()
