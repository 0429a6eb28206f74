"""The two sides of a cluster without tasks, each a process: `python -m benchmarks.load_peers ROLE …`.

`controller DIRECTORY CPUS` is the real controller on a real port and a file, with an engine that keeps the books of one
machine that does not exist. `worker ADDRESS` takes attempts and runs none: it tells that they run, then that they have
succeeded, as fast as the controller takes it. A command `["hold"]` runs until it is stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iris.cluster.controller.api.service import ControllerService
from iris.cluster.controller.controller import Controller
from iris.cluster.controller.storage.store import Store
from iris.cluster.engine.base import (
    GangRejectedError,
    GangRequest,
    GangState,
    GangStatus,
    Machine,
    Resources,
    Slot,
)
from iris.cluster.engine.placement import choose_machines
from iris.cluster.types import make_task_id
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.auth.tokens import SigningKey
from iris.rpc.calls import call_async
from iris.rpc.http.server.asgi_server import HttpServer
from iris.rpc.peer import Peer
from iris.rpc.serving.error_interceptors import ErrorInterceptor
from iris.server.application import controller_application
from iris.system.event_loop import happens, raise_file_limit, run_loop
from iris.system.processes import call_when_parent_ends
from iris.system.sockets import address_of, bind

WORKER = "load-0"
_HEARTBEAT_S = 2.0
Report = cluster_pb2.Controller.ReportTaskStateRequest


class PaperEngine:
    """Keeps the books of machines that do not exist, each with a worker of its name. What is submitted fits: the
    controller asks for no more than is free."""

    name = "paper"
    elastic = False
    shared_workers = True
    adopted = 0

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = list(machines)
        self._gangs: dict[str, tuple[GangRequest, list[int], GangStatus]] = {}

    async def start(self, controller_address: str) -> None:
        """Nothing to start."""

    async def submit(self, gang: GangRequest) -> None:
        spots = choose_machines(gang, self._machines)
        if spots is None:
            raise GangRejectedError("it does not fit now")
        slots = tuple(Slot(self._machines[spot].name, self._machines[spot].name) for spot in spots)
        self._gangs[gang.gang_id] = (gang, spots, GangStatus(GangState.HELD, slots))
        self._take(gang, spots, 1)

    async def release(self, gang_id: str) -> None:
        if gang_id in self._gangs:
            gang, spots, _ = self._gangs.pop(gang_id)
            self._take(gang, spots, -1)

    def _take(self, gang: GangRequest, spots: Sequence[int], sign: int) -> None:
        for spot, slots in Counter(spots).items():
            known = self._machines[spot]
            taken = sign * slots
            self._machines[spot] = replace(known, free=known.free - gang.need * taken, tasks=known.tasks + taken)

    async def snapshot(self) -> dict[str, GangStatus]:
        return {gang_id: status for gang_id, (_, _, status) in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        return list(self._machines)

    async def wait_for_change(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def abandon(self) -> None:
        """Nothing to let go of."""

    async def close(self) -> None:
        """Nothing to close."""


class PaperWorker(cluster_connect.WorkerService):
    """Reports of attempts that it does not run."""

    def __init__(self) -> None:
        self._news: dict[tuple[str, int], Report] = {}  # by task id and attempt id
        self._holding: dict[str, Report] = {}
        self._wake = asyncio.Event()

    async def run_tasks(self, request: cluster_pb2.Worker.RunTasksRequest, ctx: Any) -> Any:
        """Takes attempts."""
        job_id = request.shared.job_id
        for assigned in request.places:
            report = Report(
                worker_id=WORKER,
                task_id=make_task_id(job_id, assigned.task_index),
                job_id=job_id,
                task_index=assigned.task_index,
                attempt_id=assigned.attempt_id,
                state=cluster_pb2.TASK_STATE_RUNNING,
                started_at_ms=1,
            )
            if list(request.shared.command) == ["hold"]:
                self._holding[report.task_id] = report
            self._tell(report)
        return cluster_pb2.Worker.RunTasksResponse()

    async def kill_task(self, request: cluster_pb2.Worker.KillTaskRequest, ctx: Any) -> cluster_pb2.Empty:
        """Ends an attempt that holds."""
        report = self._holding.pop(request.task_id, None)
        if report is not None:
            self._tell(report)
        return cluster_pb2.Empty()

    async def report(self, address: str, own_address: str) -> None:
        """Tells the controller, for ever. What runs has ended by the next report, unless it holds."""
        controller = cluster_connect.ControllerServiceClient(
            address, accept_compression=(), send_compression=None, interceptors=(BearerInterceptor(_token),)
        )
        peer = Peer(address, "the controller")
        registration = cluster_pb2.Controller.RegisterWorkerRequest(
            worker_id=WORKER, address=own_address, incarnation="one"
        )
        await call_async(controller.register_worker, registration, peer)
        print("registered", flush=True)
        while True:
            await happens(self._wake, _HEARTBEAT_S)
            self._wake.clear()
            told, self._news = self._news, {}
            request = cluster_pb2.Controller.ReportTaskStatesRequest(
                worker_id=WORKER, incarnation="one", reports=told.values()
            )
            await call_async(controller.report_task_states, request, peer)
            for report in told.values():
                if report.state == cluster_pb2.TASK_STATE_RUNNING and report.task_id not in self._holding:
                    report.state = cluster_pb2.TASK_STATE_SUCCEEDED
                    report.exit_code = 0
                    report.finished_at_ms = 2
                    self._tell(report)

    def _tell(self, report: Report) -> None:
        self._news[(report.task_id, report.attempt_id)] = report
        self._wake.set()


async def _controller(directory: Path, cpus: int) -> None:
    stop = _until_told_to_stop()
    listener = bind("127.0.0.1", 0)
    store = Store(directory / "controller.db")
    total = Resources.of(cpu=cpus, memory_bytes=2**40)
    engine = PaperEngine([Machine(WORKER, total, total)])
    controller = Controller(engine, store, address_of(listener), key=SigningKey.new())
    made = cluster_pb2.Controller.CreateTokenRequest(name="benchmark", role="admin")
    token = controller.authority.create_token(made)[1]
    application = controller_application(ControllerService(controller))
    server = HttpServer({application.path: application}, listener)
    await controller.start()
    server.start()
    print(address_of(listener), token, flush=True)
    await stop.wait()
    await controller.stop()
    await server.close()
    await controller.close()
    store.close()


async def _worker(address: str) -> None:
    stop = _until_told_to_stop()
    worker = PaperWorker()
    listener = bind("127.0.0.1", 0)
    application = cluster_connect.WorkerServiceASGIApplication(
        worker, interceptors=(ErrorInterceptor(),), compressions=()
    )
    server = HttpServer({application.path: application}, listener)
    server.start()
    reporting = asyncio.create_task(worker.report(address, address_of(listener)))
    await asyncio.wait([reporting, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    await server.close()


def _token() -> str:
    return os.environ["IRIS_TOKEN"]


def _until_told_to_stop() -> asyncio.Event:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    call_when_parent_ends(os.getppid(), stop.set)
    return stop


if __name__ == "__main__":
    raise_file_limit()
    role, *arguments = sys.argv[1:]
    run_loop(_controller(Path(arguments[0]), int(arguments[1])) if role == "controller" else _worker(arguments[0]))
