"""A pass of the scheduler with 500 machines, 4,000 gangs that hold them, and 5,000 that wait, alike or of 500 kinds.

The real scheduler and its queue, on an engine that keeps books only (`load_peers.py`), in this process. Before each
pass that is timed, one gang that holds room ends and one more joins the queue, as on a cluster where something happens
all the time. Time is that of the CPU, without the engine's. Once a second a pass tells all that wait why: these passes
are shown apart. In the last world the oldest has waited for so long that room is kept for it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from collections.abc import Iterable
from typing import Any

import psutil

from benchmarks.load_peers import PaperEngine
from benchmarks.measure import aim, p50, show
from iris.cluster.controller.jobs.instructions import Instruction, ReleaseAllocation, RequestAllocation
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.scheduling.scheduler import Scheduler
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.worker_record import WorkerLimits, WorkerRecord
from iris.cluster.engine.base import GangRequest, GangStatus, Machine, Resources
from iris.rpc import cluster_pb2

_NAME = "scheduling"
_MACHINES = 500
_HELD = 4000
_WAITING = 5000
_KINDS = 500
_PASSES = 60
_AIM_MS = 50.0
_GIB = 2**30
_ZONES = "abcd"
_PLACEMENTS = (
    cluster_pb2.PLACEMENT_UNSPECIFIED,
    cluster_pb2.PLACEMENT_SPREAD,
    cluster_pb2.PLACEMENT_TOGETHER,
)


class _TimedEngine(PaperEngine):
    """Knows how long it was busy."""

    busy_s = 0.0

    async def submit(self, gang: GangRequest) -> None:
        begin = time.thread_time()
        await super().submit(gang)
        self.busy_s += time.thread_time() - begin

    async def release(self, gang_id: str) -> None:
        begin = time.thread_time()
        await super().release(gang_id)
        self.busy_s += time.thread_time() - begin

    async def snapshot(self) -> dict[str, GangStatus]:
        begin = time.thread_time()
        known = await super().snapshot()
        self.busy_s += time.thread_time() - begin
        return known


class _World:
    """A scheduler with jobs that come and end."""

    def __init__(self) -> None:
        self._chance = random.Random(1)
        machines = [self._machine(number) for number in range(_MACHINES)]
        self.engine = _TimedEngine(machines)
        self._jobs: dict[str, JobRecord] = {}
        nobody: Any = None
        fleet = Fleet(1e9, Store(None), nobody, nobody, None, nobody, WorkerLimits())
        fleet.workers |= {machine.name: _worker(machine.name) for machine in machines}
        self._scheduler = Scheduler(self.engine, self._jobs, fleet, self, nobody, start_limit_s=WorkerLimits().start_s)
        self._numbers = itertools.count()
        self._running: list[JobRecord] = []

    def _machine(self, number: int) -> Machine:
        gpu = 8 if number % 4 == 0 else 0
        memory = 256 * _GIB - self._chance.randrange(2**28)  # no two are quite alike
        total = Resources.of(cpu=64, memory_bytes=memory, gpu=gpu)
        zone = ("zone", _ZONES[number * len(_ZONES) // _MACHINES])
        return Machine(f"m{number:03}", total, total, labels=(zone, ("model", "a100")) if gpu else (zone,))

    async def make_pass(self, *, explain_all: bool) -> float:
        """Makes a pass, and answers with the time that it took, in ms, without the engine's."""
        begin, busy_s = time.thread_time(), self.engine.busy_s
        await self._scheduler.make_pass(explain_all=explain_all)
        return (time.thread_time() - begin - self.engine.busy_s + busy_s) * 1000

    async def fill(self) -> None:
        """Lets gangs come until the machines are full; those that found no room go."""
        for _ in range(_HELD):
            self._come(1, Resources(self._chance.randint(5, 10), self._chance.randint(8, 40) * _GIB))
        before = -1
        while len(self._running) > before:
            before = len(self._running)
            await self.make_pass(explain_all=True)
        for record in [record for record in self._jobs.values() if not _placed(record)]:
            self._end(record)
        await self.make_pass(explain_all=True)

    def wait(self, kinds: int, waited_s: float) -> None:
        """Lets gangs come that will wait."""
        self._wanted = [self._kind(number) for number in range(kinds)]
        for number in range(_WAITING):
            self.one_more(number, waited_s)

    def one_more(self, number: int, waited_s: float = 0.0) -> None:
        """One more of a kind comes, which has waited for a while already."""
        slots, need, placement, labels = self._wanted[number % len(self._wanted)]
        self._come(slots, need, placement, labels, waited_s)

    def _kind(self, number: int) -> tuple[int, Resources, cluster_pb2.Placement, dict[str, str]]:
        chance = self._chance
        if number == 0:
            return 2, Resources.of(cpu=48, memory_bytes=64 * _GIB), cluster_pb2.PLACEMENT_UNSPECIFIED, {}
        slots, cpu = chance.randint(1, 24), chance.randint(8, 64)
        need = Resources.of(cpu, chance.randint(1, 200) * _GIB, chance.choice((0, 0, 0, 1, 4)))
        placement = chance.choice(_PLACEMENTS)
        if placement == cluster_pb2.PLACEMENT_TOGETHER:
            slots, need = 4, Resources.of(max(2, cpu // 4), need.memory_bytes // 4, need.gpu // 4)
        labels = chance.choice(({}, {}, {"zone": chance.choice(_ZONES)}, {"model": "a100"}))
        return slots, need, placement, labels

    def _come(
        self,
        slots: int,
        need: Resources,
        placement: cluster_pb2.Placement = cluster_pb2.PLACEMENT_UNSPECIFIED,
        labels: dict[str, str] | None = None,
        waited_s: float = 0.0,
    ) -> None:
        launch = cluster_pb2.Controller.LaunchJobRequest(name=f"job-{next(self._numbers)}", placement=placement)
        launch.resources.cpu_millicores, launch.resources.memory_bytes = need.cpu_millicores, need.memory_bytes
        if need.gpu:
            launch.resources.device.gpu.count = need.gpu
        for key, value in sorted((labels or {}).items()):
            launch.constraints.add(key=key, value=cluster_pb2.AttributeValue(string_value=value))
        now_ms = time.time_ns() // 1_000_000 - round(waited_s * 1000)
        record = JobRecord(Job.new(launch.name, slots, now_ms), launch, [cluster_pb2.TaskStatus()] * slots)
        self._jobs[launch.name] = record
        self.job_changed(record, record.job.submit())

    def end_one(self) -> None:
        """One that holds room gives it back."""
        self._end(self._running.pop(self._chance.randrange(len(self._running))))

    def _end(self, record: JobRecord) -> None:
        for index, attempt in record.job.live_attempts().items():
            self.job_changed(record, record.job.attempt_ended(index, attempt.attempt_id, AttemptEnd(SUCCEEDED, 1)))
        self.job_changed(record, record.job.terminate("not wanted", 1))
        del self._jobs[record.job.job_id]

    def reason_changed(self, record: JobRecord) -> None:
        """Do nothing: this benchmark saves nothing."""

    def job_changed(self, record: JobRecord, instructions: Iterable[Instruction] = ()) -> None:
        """Carry out the instructions that concern the scheduler."""
        instructions = list(instructions)
        for instruction in instructions:
            match instruction:
                case RequestAllocation(gang_id, indices, not_before_ms):
                    self._scheduler.request_allocation(record, gang_id, indices, not_before_ms)
                case ReleaseAllocation(gang_id):
                    self._scheduler.release_allocation(gang_id)
        if _placed(record) and instructions and not record.job.is_finished:
            self._running.append(record)

    async def passes(self) -> tuple[list[float], list[float]]:
        """How long passes take, in ms: those that look at what has come, and those that look at all."""
        took: list[list[float]] = [[], []]
        for number in range(_PASSES):
            self.end_one()
            self.one_more(number)
            looks_at_all = number % 10 == 9
            took[looks_at_all].append(await self.make_pass(explain_all=looks_at_all))
        return took[0], took[1]


def run() -> None:
    """Prints the figures."""
    asyncio.run(_run())


async def _run() -> None:
    for kinds, waited_s in ((1, 0.0), (_KINDS, 0.0), (_KINDS, 45.0)):
        world = _World()
        await world.fill()
        gc.collect()
        before = psutil.Process().memory_info().rss
        world.wait(kinds, waited_s)
        first_ms = await world.make_pass(explain_all=True)
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
        quick, all_of_them = await world.passes()
        what = "alike" if kinds == 1 else f"of {kinds} kinds"
        kept = ", room is kept for the oldest" if waited_s else ""
        show(
            _NAME,
            f"{_WAITING} waiting gangs {what}{kept}: a pass {p50(quick):.1f} ms, at most {max(quick):.1f} ms"
            f" ({aim(p50(quick), _AIM_MS, 'ms')}); that tells all {p50(all_of_them):.1f} ms; the first"
            f" {first_ms:.0f} ms; memory {grown / _WAITING / 1024:.1f} KiB a gang",
        )


def _placed(record: JobRecord) -> bool:
    return any(gang.placed for gang in record.job.gangs.values())


def _worker(name: str) -> WorkerRecord:
    place = WorkerIdentity(name, f"http://{name}", "one")
    nobody: Any = None
    heard_s = time.monotonic() + 1e6  # it is never silent
    return WorkerRecord(place, cluster_pb2.WorkerMetadata(), nobody, 1e9, heard_s, 0, heard_s)
