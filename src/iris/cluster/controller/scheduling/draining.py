"""Workers that serve one slot each, where an engine's workers are not shared: they end with the room of their gang.

That end is abrupt. So before the room is given back they hand over what they still have: the ends of their attempts and
their logs. Once the engine no longer knows a gang, its workers are forgotten: their ids never come again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping

from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.engine.base import GangStatus
from iris.errors import DeadlineExceededError, IrisError, UnimplementedError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.system.backoff import Backoff

# How long the room of a gang is held for its workers' sake, once its attempts have ended. What is not handed over by
# then is missing, and its readers are told so.
DRAIN_S = 60.0
# After a restart of ours a worker that lives registers again with its next heartbeat, or with its next try.
_REGISTER_S = 20.0
_CALL_S = 10.0  # of one call: the next one waits again
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
# A worker may register before the engine says that its gang has room: Slurm does when the last of its slots has begun.
_UNPLACED_S = 300.0
_log = logging.getLogger(__name__)


class SlotWorkers:
    """Which workers serve which gang, as the engine says it.

    Args:
        fleet: The workers that have registered.
        drain_s: How long to wait for those of a gang.
    """

    def __init__(self, fleet: Fleet, drain_s: float) -> None:
        self._fleet = fleet
        self._drain_s = drain_s
        self._of_gang: dict[str, tuple[str, ...]] = {}
        self._placed: set[str] = set()  # all of them

    def take_snapshot(self, snapshot: Mapping[str, GangStatus]) -> None:
        """Those that are certainly dead are called no more; those of gangs that are gone are forgotten."""
        for gang_id in self._of_gang.keys() - snapshot.keys():
            for worker_id in self._of_gang.pop(gang_id):
                self._placed.discard(worker_id)
                self._fleet.forget(worker_id)
        for gang_id, known in snapshot.items():
            if known.slots and gang_id not in self._of_gang:
                self._of_gang[gang_id] = tuple(slot.worker_id for slot in known.slots)
                self._placed.update(self._of_gang[gang_id])
            for position in known.lost:
                self._fleet.end(known.slots[position].worker_id)

    def forget_strays(self, but: Collection[str]) -> None:
        """Forgets those that have registered, and that no gang has: of one that was gone before they came. Not those
        that run something for a gang of which the engine does not say, after a restart, which it has."""
        until_s = time.monotonic() - _UNPLACED_S
        for worker in list(self._fleet.workers.values()):
            worker_id = worker.place.worker_id
            if worker_id not in self._placed and worker_id not in but and worker.registered_s < until_s:
                _log.warning("no gang has worker %s: it is told to end", worker_id)
                self._fleet.forget(worker_id)

    async def drain(self, gang_id: str) -> None:
        """Returns when nothing would be lost with the workers of a gang, or it is not to be had: all of them at once,
        but for those that are gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await asyncio.gather(*(self._drain(worker_id) for worker_id in self._of_gang.get(gang_id, ())))
                return
        _log.warning("gang %s is given up before its workers have handed over all that they have", gang_id)

    def ending(self, gang_id: str) -> None:
        """The engine is about to end the workers of a gang: what they had is to be read elsewhere from now on."""
        for worker_id in self._of_gang.get(gang_id, ()):
            self._fleet.end(worker_id)

    async def _drain(self, worker_id: str) -> None:
        until_s = time.monotonic() + _REGISTER_S
        worker = await self._fleet.registered(worker_id, lambda: time.monotonic() < until_s)
        if worker is None:
            return
        peer = Peer(worker.place.address, f"worker {worker_id}")
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while not worker.gone:
            try:
                failpoint("drain.before")
                await call_async(worker.stub.drain, cluster_pb2.Worker.DrainRequest(), peer, timeout_s=_CALL_S)
                failpoint("drain.after")
                return
            except UnimplementedError:
                return  # of 0.1.0, which has no such call
            except DeadlineExceededError:
                continue
            except IrisError as error:
                _log.warning("%s; trying again in %.1f s", error, backoff.expected_s)
                await asyncio.sleep(backoff.next_s())
