"""Drains the workers of engines that start one worker for each slot, and forgets the workers of released gangs.

Some engines start a worker for each slot, and kill the worker when its gang is released. Before the release, the
controller lets the worker drain. A draining worker reports how its attempts ended, and uploads the logs of these
attempts. The ids of such workers are never used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping

from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.worker_record import WorkerLimits
from iris.cluster.engine.base import GangStatus
from iris.errors import DeadlineExceededError, IrisError, UnimplementedError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.system.backoff import Backoff

# The seconds to wait for a worker that has not registered. After a restart of the controller, a live worker registers
# at its next heartbeat or its next try to connect.
_REGISTER_S = 20.0
# The timeout, in seconds, of one drain call. If a worker needs more time to drain, the controller calls it again.
_CALL_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_log = logging.getLogger(__name__)


class SlotWorkers:
    """Tracks which workers serve the slots of each gang, and drains these workers. The engine's snapshots name the
    workers.

    Args:
        fleet: The workers that have registered.
        limits: How long the workers of a gang may drain, and how long a worker without a gang is kept.
    """

    def __init__(self, fleet: Fleet, limits: WorkerLimits) -> None:
        self._fleet = fleet
        self._limits = limits
        self._of_gang: dict[str, tuple[str, ...]] = {}
        self._placed: set[str] = set()  # The workers of all gangs that have slots.

    def apply_snapshot(self, snapshot: Mapping[str, GangStatus]) -> None:
        """Mark the workers of lost slots as dead. Forget the workers of gangs that the engine has released."""
        for gang_id in self._of_gang.keys() - snapshot.keys():
            for worker_id in self._of_gang.pop(gang_id):
                self._placed.discard(worker_id)
                self._fleet.forget(worker_id)
        for gang_id, known in snapshot.items():
            if known.slots and gang_id not in self._of_gang:
                self._of_gang[gang_id] = tuple(slot.worker_id for slot in known.slots)
                self._placed.update(self._of_gang[gang_id])
            for position in known.lost:
                self._fleet.mark_dead(known.slots[position].worker_id)

    def forget_strays(self, keep: Collection[str]) -> None:
        """Forget the workers that belong to no gang. For example, a gang may have been released before its worker
        registered.

        Args:
            keep: The workers that run attempts. These workers are kept, because the engine may not have reported their
                gangs yet after a restart of the controller.
        """
        until_s = time.monotonic() - self._limits.unplaced_s
        for worker in list(self._fleet.workers.values()):
            worker_id = worker.identity.worker_id
            if worker_id not in self._placed and worker_id not in keep and worker.registered_s < until_s:
                _log.warning("worker %s has to end, because no gang has it", worker_id)
                self._fleet.forget(worker_id)

    async def drain(self, gang_id: str) -> None:
        """Let all workers of a gang drain at the same time. Return when each worker has drained, has died or has not
        registered in time, or when the time limit of the gang is over.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.drain_s):
                await asyncio.gather(*(self._drain(worker_id) for worker_id in self._of_gang.get(gang_id, ())))
                return
        _log.warning("gang %s is released, although some of its workers have not drained", gang_id)

    def mark_dead(self, gang_id: str) -> None:
        """Mark the workers of a gang as dead, because the engine will kill these workers next."""
        for worker_id in self._of_gang.get(gang_id, ()):
            self._fleet.mark_dead(worker_id)

    async def _drain(self, worker_id: str) -> None:
        until_s = time.monotonic() + _REGISTER_S
        worker = await self._fleet.registered(worker_id, lambda: time.monotonic() < until_s)
        if worker is None:
            return
        peer = Peer(worker.identity.address, f"worker {worker_id}")
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while not worker.is_dead:
            try:
                failpoint("drain.before")
                await call_async(worker.stub.drain, cluster_pb2.Worker.DrainRequest(), peer, timeout_s=_CALL_S)
                failpoint("drain.after")
                return
            except UnimplementedError:
                return  # A worker of version 0.1.0 cannot drain, so the wait ends at once.
            except DeadlineExceededError:
                continue
            except IrisError as error:
                _log.warning("%s; trying again in %.1f s", error, backoff.expected_s)
                await asyncio.sleep(backoff.next_s())
