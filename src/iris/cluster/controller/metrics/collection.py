"""Collects the present values of the controller's metrics, when Prometheus asks."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.task import BUILDING, PENDING, RUNNING
from iris.cluster.controller.logs.keeper import LogKeeper
from iris.cluster.controller.metrics import cluster_definitions as names
from iris.cluster.controller.metrics.job_tally import JOB_TALLY_METRICS, JobTally
from iris.cluster.controller.metrics.save_tally import SAVE_METRICS
from iris.cluster.controller.scheduling.scheduler import Scheduler
from iris.cluster.controller.scheduling.survey import Survey
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.headroom import Headroom
from iris.cluster.controller.tracing.span_tally import TRACE_METRICS, SpanTally
from iris.cluster.controller.tracing.trace_delivery import TraceDelivery
from iris.cluster.controller.usage.history import UsageHistory
from iris.cluster.controller.usage.series import CPU, GPU, MEMORY
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.leases import LeaseWatch
from iris.cluster.states import STATE_NAMES
from iris.cores import MILLICORES
from iris.metrics.definitions import Family, Labels, Metric
from iris.metrics.process_metrics import PROCESS_METRICS, ProcessMetrics
from iris.rpc.monitoring.call_tally import CALL_METRICS, CallTally
from iris.rpc.monitoring.metrics_route import MetricsText

CONTROLLER_METRICS: tuple[Metric, ...] = (
    *names.CLUSTER_METRICS,
    *JOB_TALLY_METRICS,
    *CALL_METRICS,
    *SAVE_METRICS,
    *TRACE_METRICS,
    *PROCESS_METRICS,
)

Gang = TypeVar("Gang")

# After counting this many jobs or gangs, the collection lets the event loop do other work.
_JOBS_AT_ONCE = 200
_GANGS_AT_ONCE = 5000
_ENGINE_S = 2.0  # An engine that does not answer within this many seconds counts as unreachable.
_MIB = 2**20
# A state without tasks is shown as 0, because a series that appears late breaks rates and alerts.
_STATES = tuple(number for number in STATE_NAMES if number)
_UNFINISHED = (PENDING, BUILDING, RUNNING)


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of the controller from which metrics are read.

    Attributes:
        engine_name: The name of the engine: local, ray or slurm.
        jobs: The table of all jobs of the cluster.
        scheduler: The scheduler, which provides the machines and the queue.
        fleet: The object that knows all workers of the cluster.
        lease_watch: The object that declares workers lost when their leases have expired.
        usage: The object that knows how much CPU, memory and GPUs the tasks use.
        saver: The object that saves all changes.
        store: The database of the controller.
        headroom: The object that measures the disk with the state directory.
        log_keeper: The object that keeps logs on the controller; None if no logs are kept.
        traces: The delivery of spans; None if no spans are made.
    """

    engine_name: str
    jobs: JobTable
    scheduler: Scheduler
    fleet: Fleet
    lease_watch: LeaseWatch
    usage: UsageHistory
    saver: Saver
    store: Store
    headroom: Headroom
    log_keeper: LogKeeper | None
    traces: TraceDelivery | None = None


class ControllerMetrics:
    """The metrics of a controller.

    Args:
        sources: The parts of the controller from which metrics are collected.
        most_jobs: The largest number of unfinished jobs whose ids appear as labels of metrics. 0 means that no ids
            appear.

    Attributes:
        calls: The object that counts the calls of the controller.
        job_tally: The object that counts the changes of jobs.
        process: The object that measures the controller's process.
        text: The object that makes the text of the metrics for Prometheus.
    """

    def __init__(self, sources: Sources, most_jobs: int = 0) -> None:
        self.calls = CallTally()
        self.job_tally = JobTally()
        self.process = ProcessMetrics()
        self.text = MetricsText(self.collect)
        self._sources = sources
        self._most_jobs = most_jobs

    async def collect(self) -> list[Family]:
        """Return the present values of all metrics."""
        sources = self._sources
        return [
            names.ENGINE.labelled([((sources.engine_name,), 1)]),
            *await self._jobs(),
            *await self._machines(),
            *self._workers(),
            *self._storage(),
            *self.job_tally.families(),
            *self.calls.families(),
            *sources.saver.tally.families(),
            *(SpanTally() if sources.traces is None else sources.traces.tally).families(),
            *self.process.families(),
        ]

    async def _jobs(self) -> list[Family]:
        jobs: Counter[int] = Counter()
        tasks: Counter[int] = Counter()
        records = self._sources.jobs.open_jobs()
        for count, record in enumerate(records, 1):
            jobs[record.job.state] += 1
            for state in _STATES:
                tasks[state] += record.job.tally.count(state)
            if count % _JOBS_AT_ONCE == 0:
                await asyncio.sleep(0)
        _, ended = self._sources.jobs.count()
        return [
            names.JOBS.labelled([((_label(state),), jobs[state]) for state in _UNFINISHED]),
            names.STORED_JOBS.one(ended),
            names.TASKS.labelled([((_label(state),), tasks[state]) for state in _STATES]),
            *await self._each_job(records),
        ]

    async def _each_job(self, records: Sequence[JobRecord]) -> list[Family]:
        """Return the metrics with the ids of jobs, for the jobs that were submitted last."""
        if not self._most_jobs:
            return []
        last = records[-self._most_jobs :]
        tasks: list[tuple[Labels, float]] = []
        known: list[tuple[Labels, Sequence[int]]] = []
        for count, record in enumerate(last, 1):
            tasks += [((record.job_id, _label(state)), record.job.tally.count(state)) for state in _STATES]
            now = self._sources.usage.job_now(record.number)
            if now is not None:
                known.append(((record.job_id,), now))
            if count % _JOBS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return [
            names.JOB_TASKS.labelled(tasks),
            names.JOB_CPU_USED.labelled([(labels, now[CPU] / MILLICORES) for labels, now in known]),
            names.JOB_MEMORY_USED.labelled([(labels, now[MEMORY] * _MIB) for labels, now in known]),
            names.JOBS_LEFT_OUT.one(len(records) - len(last)),
        ]

    async def _machines(self) -> list[Family]:
        survey = None
        try:
            async with asyncio.timeout(_ENGINE_S):
                survey = await self._sources.scheduler.survey()
        except TimeoutError:
            pass  # An engine that does not answer in time counts as unreachable.
        if survey is None or survey.problem:
            return [names.ENGINE_UP.one(0)]
        return [names.ENGINE_UP.one(1), *await _capacity(survey), *await _queue(survey)]

    def _workers(self) -> list[Family]:
        fleet, now_s = self._sources.fleet, time.monotonic()
        states = {"healthy": 0, "unhealthy": 0, "dead": 0}
        for worker in fleet.workers.values():
            is_gone = worker.is_dead or worker.is_lost(now_s)
            states["dead" if is_gone else "healthy" if worker.is_healthy(now_s) else "unhealthy"] += 1
        uses = [self._sources.usage.worker_now(worker_id) for worker_id in fleet.workers]
        known = [use for use in uses if use is not None]
        return [
            names.WORKERS.labelled([((state,), number) for state, number in states.items()]),
            names.WORKERS_SHORT.one(len(fleet.short())),
            names.LEASES_LOST.one(self._sources.lease_watch.workers_lost),
            names.CPU_USED.one(sum(use[CPU] for use in known) / MILLICORES),
            names.MEMORY_USED.one(sum(use[MEMORY] for use in known) * _MIB),
            names.GPUS_USED.one(sum(use[GPU] for use in known) / 100),
        ]

    def _storage(self) -> list[Family]:
        total = free = database = 0
        # If the disk cannot be read, the metrics of the disk are 0, and all other metrics are still returned.
        with contextlib.suppress(OSError):
            total, free = self._sources.headroom.disk_bytes()
            database = self._sources.store.bytes_on_disk()
        families = [names.DISK_SIZE.one(total), names.DISK_FREE.one(free), names.DATABASE_SIZE.one(database)]
        keeper = self._sources.log_keeper
        if keeper is not None:
            families += [
                names.LOGS_RECEIVED.one(keeper.received_bytes),
                names.LOGS_MISSING.one(keeper.missing_bytes),
                names.LOGS_KEPT.one(keeper.kept_bytes),
            ]
        return families


async def _capacity(survey: Survey) -> list[Family]:
    states = Counter(
        "avoided" if machine.why_avoided else "alive" if machine.alive else "dead" for machine in survey.machines
    )
    capacity = [machine.total for machine in survey.machines if machine.alive or machine.why_avoided]
    cpu = memory = gpu = 0
    for some in _parts(survey.allocations):
        gangs = [allocation.gang for _, allocation in some]
        cpu += sum(gang.need.cpu_millicores * gang.slots for gang in gangs)
        memory += sum(gang.need.memory_bytes * gang.slots for gang in gangs)
        gpu += sum(gang.need.gpu * gang.slots for gang in gangs)
        await asyncio.sleep(0)
    return [
        names.MACHINES.labelled([((state,), states[state]) for state in ("alive", "avoided", "dead")]),
        names.CPU_CAPACITY.one(sum(total.cpu_millicores for total in capacity) / MILLICORES),
        names.CPU_ALLOCATED.one(cpu / MILLICORES),
        names.MEMORY_CAPACITY.one(sum(total.memory_bytes for total in capacity)),
        names.MEMORY_ALLOCATED.one(memory),
        names.GPU_CAPACITY.one(sum(total.gpu for total in capacity)),
        names.GPU_ALLOCATED.one(gpu),
    ]


async def _queue(survey: Survey) -> list[Family]:
    oldest_s, tasks = math.inf, 0
    for some in _parts(survey.waiting):
        oldest_s = min(oldest_s, *(gang.since_s for gang in some))
        tasks += sum(gang.gang.slots for gang in some)
        await asyncio.sleep(0)
    return [
        names.QUEUED_GANGS.one(len(survey.waiting)),
        names.QUEUED_TASKS.one(tasks),
        names.OLDEST_GANG.one(max(0.0, time.monotonic() - oldest_s)),
    ]


def _parts(gangs: Sequence[Gang]) -> Iterator[Sequence[Gang]]:
    """Yield a list of gangs in parts. Work on one part keeps the event loop busy for a few milliseconds."""
    for begin in range(0, len(gangs), _GANGS_AT_ONCE):
        yield gangs[begin : begin + _GANGS_AT_ONCE]


def _label(state: int) -> str:
    return STATE_NAMES[state].lower()
