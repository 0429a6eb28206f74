"""Answers what the workers and machines of the cluster are."""

from __future__ import annotations

from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.scheduling.scheduler import Scheduler
from iris.cluster.controller.workers.fleet import Fleet
from iris.rpc import cluster_pb2
from iris.rpc.pages import Page
from iris.rpc.serving.steps import Steps


class ClusterView:
    """The calls that read workers and machines.

    Args:
        engine_name: The name of the engine: local, ray or slurm.
        jobs: All jobs.
        fleet: The workers.
        scheduler: Knows the machines and the queue.
        slices: Makes large answers.

    Attributes:
        engine_name: The name of the engine: local, ray or slurm.
    """

    def __init__(self, engine_name: str, jobs: JobTable, fleet: Fleet, scheduler: Scheduler, slices: Slices) -> None:
        self.engine_name = engine_name
        self._jobs = jobs
        self._fleet = fleet
        self._scheduler = scheduler
        self._slices = slices

    async def list_workers(self, page_size: int, page_token: str) -> Page[cluster_pb2.Controller.WorkerHealthStatus]:
        """Return a page of the workers and their health."""
        running = await self._slices.run(self._running_jobs())
        return await self._slices.run(self._fleet.health(running, page_size=page_size, page_token=page_token))

    async def list_machines(self, page_size: int, page_token: str) -> cluster_pb2.Controller.ListMachinesResponse:
        """Return a page of the machines with their allocations, and the queued gangs."""
        return await self._scheduler.list_machines(self._slices, page_size, page_token)

    def _running_jobs(self) -> Steps[dict[str, set[str]]]:
        running: dict[str, set[str]] = {}
        for record in self._jobs.open_jobs():
            for attempt in record.job.live_attempts().values():
                running.setdefault(attempt.worker_id, set()).add(record.job_id)
            yield
        return running
