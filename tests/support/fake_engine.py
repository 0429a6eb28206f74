"""An engine for tests without real machines. A test can make it grant late, refuse gangs, lose slots, or become
unreachable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from iris.cluster.engine.base import (
    GangRejectedError,
    GangRequest,
    GangState,
    GangStatus,
    GpuId,
    Machine,
    Resources,
    Slot,
)
from iris.cluster.engine.placement import choose_machines
from iris.errors import UnavailableError
from iris.reasons import Shortage
from iris.system.event_loop import happens


class FakeEngine:
    """An engine that counts the slots of simulated machines.

    Attributes:
        granting: Whether gangs get room; False lets them wait.
        refusal: Why every new gang is rejected; empty accepts them.
        reachable: Whether it answers at all.
        elastic: Whether it may get more machines; False unless it is set.
        lingering: Whether what is released stays in snapshots, and keeps its room, until `let_go`.
        keeping: Gangs that it fails to release.
        taking: Whether it takes new gangs; False fails to, though it can be reached.
    """

    name = "fake"
    elastic = False
    shared_workers = True
    adopted = 0

    def __init__(
        self, machines: dict[str, Resources] | None = None, labels: dict[str, tuple[tuple[str, str], ...]] | None = None
    ) -> None:
        totals = machines or {"w": Resources.of(cpu=4, memory_bytes=2**30)}
        self._machines = [
            Machine(name, total, total, labels=(labels or {}).get(name, ())) for name, total in totals.items()
        ]
        self._free_gpus: dict[str, list[GpuId]] = {name: list(range(total.gpu)) for name, total in totals.items()}
        self._gangs: dict[str, tuple[GangRequest, GangStatus]] = {}
        self.granting = True
        self.refusal = ""
        self.reachable = True
        self.lingering = False
        self.keeping: set[str] = set()
        self.taking = True
        self._avoided: dict[str, Shortage] = {}
        self._lingers: list[str] = []
        self.submitted: list[str] = []
        self.released: list[str] = []
        self._changed = asyncio.Event()

    async def start(self, controller_address: str) -> None:
        """Do nothing, because a simulated machine needs no start."""

    async def submit(self, gang: GangRequest) -> None:
        self._check_reachable()
        if gang.gang_id in self._gangs:
            return
        self.submitted.append(gang.gang_id)
        if not self.taking:
            raise UnavailableError("the fake engine takes nobody now")
        empty = [replace(machine, free=machine.total, tasks=0) for machine in self._machines]
        if self.refusal or (choose_machines(gang, empty) is None and not self.elastic):
            raise GangRejectedError(self.refusal or "it does not fit")
        self._gangs[gang.gang_id] = (gang, GangStatus(GangState.WAITING, reason="the fake engine takes its time"))
        self._grant()

    async def release(self, gang_id: str) -> None:
        self._check_reachable()
        if gang_id in self.keeping:
            raise UnavailableError(f"the fake engine does not let go of {gang_id}")
        self.released.append(gang_id)
        if self.lingering and gang_id in self._gangs:
            self._lingers.append(gang_id)
        else:
            self._free(gang_id)

    def let_go(self) -> None:
        """Let the released gangs disappear from snapshots."""
        for gang_id in self._lingers:
            self._free(gang_id)
        self._lingers.clear()

    def _free(self, gang_id: str) -> None:
        gang, status = self._gangs.pop(gang_id, (None, None))
        if gang is not None and status is not None:
            for slot in status.slots:
                self._take(slot.machine, Resources() - gang.need, -1)
                self._free_gpus[slot.machine] += slot.gpu_ids
        self._grant()

    async def snapshot(self) -> dict[str, GangStatus]:
        self._check_reachable()
        self._grant()
        return {gang_id: status for gang_id, (_, status) in self._gangs.items()}

    async def machines(self) -> Sequence[Machine]:
        self._check_reachable()
        return self._open()

    def _open(self) -> list[Machine]:
        """Return the machines. Machines whose workers cannot start attempts are marked."""
        return [
            replace(machine, alive=False, why_avoided=self._avoided[machine.name])
            if machine.name in self._avoided
            else machine
            for machine in self._machines
        ]

    async def wait_for_change(self, timeout_s: float) -> None:
        await happens(self._changed, min(timeout_s, 0.05))
        self._changed.clear()

    async def close(self) -> None:
        """Release all gangs."""
        for gang_id in list(self._gangs):
            await self.release(gang_id)

    async def abandon(self) -> None:
        """Do nothing, because the engine has no process."""

    def avoid(self, workers: Mapping[str, Shortage]) -> None:
        """See `AvoidsWorkers.avoid`."""
        self._avoided = dict(workers)

    def lose(self, gang_id: str, *positions: int) -> None:
        """Report slots of a gang as lost."""
        gang, status = self._gangs[gang_id]
        self._gangs[gang_id] = (gang, GangStatus(GangState.BROKEN, status.slots, frozenset(positions), "power cut"))

    def end_worker(self, worker_id: str) -> None:
        """Report all slots of a worker as lost."""
        for gang_id, (_, status) in list(self._gangs.items()):
            lost = [i for i, slot in enumerate(status.slots) if slot.worker_id == worker_id]
            if lost:
                self.lose(gang_id, *lost)

    def forget(self, gang_id: str) -> None:
        """Remove a gang from all later snapshots, although nothing has released the gang."""
        del self._gangs[gang_id]

    def bury(self, name: str) -> None:
        """Report a machine as dead."""
        self._machines = [replace(m, alive=False) if m.name == name else m for m in self._machines]

    def revive(self, name: str) -> None:
        """Report a dead machine as alive again."""
        self._machines = [replace(m, alive=True) if m.name == name else m for m in self._machines]

    def others_take(self, name: str, amount: Resources) -> None:
        """Let other users of the engine take resources of a machine. Negative amounts give resources back."""
        self._take(name, amount, 0)

    def for_next_controller(self) -> FakeEngine:
        """Return an engine with the same machines and gangs for the next controller, whose event loop is another
        one."""
        engine = FakeEngine()
        engine._machines, engine._gangs, engine._free_gpus = self._machines, self._gangs, self._free_gpus
        return engine

    def _grant(self) -> None:
        if not self.granting:
            return
        for gang_id, (gang, status) in self._gangs.items():
            spots = choose_machines(gang, self._open()) if status.state is GangState.WAITING else None
            if spots is not None:
                slots = tuple(self._hold(self._machines[spot].name, gang.need) for spot in spots)
                self._gangs[gang_id] = (gang, GangStatus(GangState.HELD, slots))

    def _hold(self, name: str, need: Resources) -> Slot:
        self._take(name, need, 1)
        own, self._free_gpus[name] = self._free_gpus[name][: need.gpu], self._free_gpus[name][need.gpu :]
        return Slot(name, name, tuple(own))

    def _take(self, name: str, need: Resources, tasks: int) -> None:
        self._machines = [
            replace(m, free=m.free - need, tasks=m.tasks + tasks) if m.name == name else m for m in self._machines
        ]

    def _check_reachable(self) -> None:
        if not self.reachable:
            raise UnavailableError("the fake engine is out of reach")
