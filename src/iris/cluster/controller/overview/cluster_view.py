"""Answers the calls that list the workers and machines of the cluster."""

from __future__ import annotations

from iris.cluster.controller.api.slices import RunsSteps
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.overview import machine_view
from iris.cluster.controller.scheduling.scheduler import Scheduler
from iris.cluster.controller.scheduling.survey import Survey
from iris.cluster.controller.workers.fleet import Fleet
from iris.rpc import cluster_pb2
from iris.rpc.pages import Page
from iris.rpc.serving.steps import Steps

_TASKS_OF_A_STEP = 100


class ClusterView:
    """Answers the calls that list workers and machines.

    Args:
        engine_name: The name of the engine: local, ray or slurm.
        jobs: The table of all jobs of the cluster.
        fleet: The object that knows all workers of the cluster.
        scheduler: The scheduler, which provides the machines and the queue.
        uses: The object that knows how much CPU, memory and GPUs the tasks on workers use.
        slices: The object that makes large answers in small steps.

    Attributes:
        engine_name: The name of the engine: local, ray or slurm.
    """

    def __init__(
        self,
        engine_name: str,
        jobs: JobTable,
        fleet: Fleet,
        scheduler: Scheduler,
        uses: machine_view.Uses,
        slices: RunsSteps,
    ) -> None:
        self.engine_name = engine_name
        self._jobs = jobs
        self._fleet = fleet
        self._scheduler = scheduler
        self._uses = uses
        self._slices = slices

    async def list_workers(self, page_size: int, page_token: str) -> Page[cluster_pb2.Controller.WorkerHealthStatus]:
        """Return a page of the workers and their health."""
        running = await self._slices.run(self._running_jobs())
        return await self._slices.run(self._fleet.health(running, page_size=page_size, page_token=page_token))

    async def all_workers(self) -> list[cluster_pb2.Controller.WorkerHealthStatus]:
        """Return all workers and their health."""
        workers: list[cluster_pb2.Controller.WorkerHealthStatus] = []
        token = ""
        while True:
            page = await self.list_workers(0, token)
            workers += page.items
            token = page.next_token
            if not token:
                return workers

    async def list_machines(self, page_size: int, page_token: str) -> cluster_pb2.Controller.ListMachinesResponse:
        """Return a page of the machines with their allocations. The first page also has the queued gangs."""
        survey = await self._scheduler.survey()
        page = await self._machine_page(survey, page_size, page_token)
        gangs = [] if page_token else await self._slices.run(self._waiting(survey, machine_view.MOST_WAITING))
        return cluster_pb2.Controller.ListMachinesResponse(
            engine=self.engine_name,
            machines=page.items,
            waiting=gangs,
            num_waiting=len(survey.waiting),
            problem=survey.problem,
            next_page_token=page.next_token,
        )

    async def all_machines(
        self, most_waiting: int
    ) -> tuple[list[cluster_pb2.Controller.Machine], cluster_pb2.Controller.MachineQueue]:
        """Return all machines with their allocations, and the queue.

        Args:
            most_waiting: The largest number of queued gangs in the result.
        """
        survey = await self._scheduler.survey()
        machines: list[cluster_pb2.Controller.Machine] = []
        token = ""
        while True:
            page = await self._machine_page(survey, 0, token)
            machines += page.items
            token = page.next_token
            if not token:
                break
        queue = cluster_pb2.Controller.MachineQueue(
            waiting=await self._slices.run(self._waiting(survey, most_waiting)),
            num_waiting=len(survey.waiting),
            problem=survey.problem,
        )
        return machines, queue

    async def _machine_page(
        self, survey: Survey, page_size: int, page_token: str
    ) -> Page[cluster_pb2.Controller.Machine]:
        return await self._slices.run(
            machine_view.machine_page(
                survey.machines,
                survey.allocations,
                # A worker that serves a whole machine has the machine's name. Such a worker is listed even if it serves
                # no slot now.
                {worker_id: worker_id for worker_id in self._fleet.workers} | dict(survey.workers),
                self._uses,
                page_size=page_size,
                page_token=page_token,
            )
        )

    def _waiting(self, survey: Survey, most: int) -> Steps[list[cluster_pb2.Controller.WaitingGang]]:
        """Make messages about the queued gangs that have waited longest."""
        first = yield from machine_view.longest_waiting(survey.waiting, most)
        # A gang is left out if the gang's job has ended since the survey was made.
        found = [(self._jobs.by_id.get(entry.job_id), entry) for entry in first]
        records = [(record, entry) for record, entry in found if record is not None]
        return (yield from machine_view.waiting_messages(records, survey.reserved_for))

    def _running_jobs(self) -> Steps[dict[str, set[str]]]:
        running: dict[str, set[str]] = {}
        for record in self._jobs.open_jobs():
            for index, task in enumerate(record.job.tasks):
                attempt = task.live_attempt
                if attempt is not None:
                    running.setdefault(attempt.worker_id, set()).add(record.job_id)
                if not index % _TASKS_OF_A_STEP:
                    yield
        return running
