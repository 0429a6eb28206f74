"""Checks the cluster from the controller's side, for `iris doctor`: the controller itself, its engine, and each worker.
The controller calls each worker. Therefore one check runs at a time, and callers that ask within two seconds get the
same answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from iris.cluster.controller.overview.cluster_status import ClusterStatus
from iris.cluster.controller.overview.cluster_view import ClusterView
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.errors import IrisError
from iris.metrics.process_metrics import count_descriptors
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.system.clock import now_ms
from iris.system.event_loop import open_file_limit

CheckClusterResponse = cluster_pb2.Controller.CheckClusterResponse
WorkerCheck = cluster_pb2.Controller.WorkerCheck

_FRESH_S = 2.0
_CALL_S = 2.0  # A worker that does not answer within this many seconds counts as unreachable.
_ENGINE_S = 5.0
# This many workers are called at the same time, so that the calls to 1,000 dead machines end before the client's
# timeout of 10 s.
_CALLS_AT_ONCE = 400
_MAX_WORKERS = 1000


class ClusterCheck:
    """Checks the cluster when a client asks.

    Args:
        view: The object that lists the workers and machines.
        status: The object that describes the controller.
        workers: The registered workers, by id.
    """

    def __init__(self, view: ClusterView, status: ClusterStatus, workers: Mapping[str, WorkerRecord]) -> None:
        self._view = view
        self._status = status
        self._workers = workers
        self._checking = asyncio.Lock()
        self._calls = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._checked_s = -_FRESH_S
        self._answer = CheckClusterResponse()

    async def check(self) -> CheckClusterResponse:
        """Return the results of the checks, which are at most two seconds old."""
        async with self._checking:
            if time.monotonic() - self._checked_s >= _FRESH_S:
                self._answer = await self._check()
                self._checked_s = time.monotonic()
            return self._answer

    async def _check(self) -> CheckClusterResponse:
        page = await self._view.list_workers(_MAX_WORKERS, "")
        workers = asyncio.gather(*map(self._check_worker, page.items))
        engine_problem, checks = await asyncio.gather(self._engine_problem(), workers)
        return CheckClusterResponse(
            # The disk is checked in a thread, because a disk that hangs must not stop the event loop.
            status=await asyncio.to_thread(self._status.message),
            now_ms=now_ms(),
            engine_problem=engine_problem,
            open_files=count_descriptors(),
            max_files=min(open_file_limit(), 2**31 - 1),
            workers=checks,
            num_workers=len(self._workers),
        )

    async def _engine_problem(self) -> str:
        try:
            async with asyncio.timeout(_ENGINE_S):
                return (await self._view.list_machines(1, "")).problem
        except TimeoutError:
            return f"the engine has not answered within {_ENGINE_S:g} s"

    async def _check_worker(self, health: cluster_pb2.Controller.WorkerHealthStatus) -> WorkerCheck:
        """Call a worker, and compare its clock with the clock of this machine."""
        found = WorkerCheck(worker=health)
        worker = self._workers.get(health.worker_id)
        if worker is None or worker.is_dead:
            found.problem = "its process has ended, or its lease has expired"
            return found
        async with self._calls:
            began_s, began_ms = time.monotonic(), now_ms()
            try:
                peer = Peer(health.address, f"worker {health.worker_id}")
                answer = await call_async(worker.stub.health_check, cluster_pb2.Empty(), peer, timeout_s=_CALL_S)
            except IrisError as error:
                found.problem = str(error)
                return found
            took_ms = (time.monotonic() - began_s) * 1000
        found.latency_ms = round(took_ms)
        if answer.worker_id and answer.worker_id != health.worker_id:
            found.problem = f"another worker, {answer.worker_id}, answers at this address"
        elif answer.now_ms:
            found.clock_offset_ms = answer.now_ms - round(began_ms + took_ms / 2)
        return found
