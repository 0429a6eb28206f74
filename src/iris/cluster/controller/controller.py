"""Owns the jobs: carries out what `job.py` decides, and turns what comes of it into the next event.

One asyncio loop owns all state, so there is no lock here, and between two awaits nothing changes under one's hands.
Nothing may block that loop: saves are written by a thread (saver.py), calls to workers and engines are awaited in tasks
of their own. State changes at once, what leaves waits: whoever is answered, told or called because of a change is so
when the change is kept. Think again when one loop's worth of Python no longer keeps up with the reports of all workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from pyqwest import Client

from iris.cluster.controller.api import messages
from iris.cluster.controller.api.endpoints import Endpoints
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.api.standard_input import write_stdin
from iris.cluster.controller.api.watch import Watch
from iris.cluster.controller.auth.authority import Authority
from iris.cluster.controller.jobs.job import (
    Instruction,
    Job,
    ReleaseRoom,
    RequestRoom,
    StartAttempt,
    StopAttempt,
)
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.outcomes import add_outcome, outcome_of, result_in
from iris.cluster.controller.jobs.task import FAILED, KILLED, AttemptEnd, TaskAttempt
from iris.cluster.controller.logs.keeper import Keeping, LogKeeper
from iris.cluster.controller.logs.log_service import Logs
from iris.cluster.controller.scheduling.draining import DRAIN_S
from iris.cluster.controller.scheduling.scheduler import START_LIMIT_S, Scheduler
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.headroom import Reserve
from iris.cluster.controller.submission.quotas import Limits, Quotas, trim_report
from iris.cluster.controller.submission.validate import (
    LaunchJobRequest,
    check_launch,
    check_parent,
    is_passed_over,
    job_id_of,
    make_job,
    names_of,
    why_orphaned,
)
from iris.cluster.controller.workers import dispatch
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.rendezvous import Meeting
from iris.cluster.engine.base import Engine
from iris.cluster.lease_terms import DEFAULT_LEASE_S
from iris.cluster.logs.upload_answers import UNWANTED
from iris.cluster.names import check_job_name
from iris.cluster.pickles.transfer_limits import explain_python_mismatch
from iris.cluster.types import TOKEN_VARIABLE, is_task_finished, parse_task_id, state_name
from iris.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    IrisError,
    NotFoundError,
    quoted,
)
from iris.rpc import cluster_pb2
from iris.rpc.auth.tokens import SigningKey
from iris.rpc.pages import PAGE_BYTES, Page, cut_page, page_token_of
from iris.rpc.serving.steps import Steps
from iris.system.clock import now_ms, stamp

Report = cluster_pb2.Controller.ReportTaskStateRequest

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Controller:
    """The jobs of a cluster.

    Args:
        engine: Where gangs are placed.
        store: Where everything is remembered.
        address: The base URL that workers and tasks call.
        kept_logs: Where and how logs are kept beyond their workers; None keeps none.
        lease_s: For how long a worker may be silent until it is declared lost, see worker/supervision/lease.py.
        reserve: What is kept free for what there is already.
        limits: What each user may have.
        authority: Makes the tokens by which it is called; default one whose key lives in memory only.
        http_client: By which workers are called; None: by connectrpc's own.
        drain_s: How long the room of a gang is held for workers that end with it, see draining.py.
        start_limit_s: For how long room is held for workers that do not register, see `Scheduler`.

    Attributes:
        fleet: The workers.
        logs: The logs of all tasks, for readers.
        reserve: As given.
        slices: Makes large answers, so that nothing else waits for them.
        authority: Makes tokens, and knows which are good.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        address: str,
        kept_logs: Keeping | None = None,
        lease_s: float = DEFAULT_LEASE_S,
        reserve: Reserve | None = None,
        limits: Limits | None = None,
        *,
        authority: Authority | None = None,
        http_client: Client | None = None,
        drain_s: float = DRAIN_S,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        self.reserve = reserve or Reserve()
        self._quotas = Quotas(limits or Limits())
        self._engine = engine
        self._store = store
        self._address = address
        self._lease_s = lease_s
        self._jobs: dict[str, JobRecord] = {}
        self._in_order: list[JobRecord] = []  # the same, as they came
        self._unfinished: dict[str, JobRecord] = {}  # of them, those that are not final
        self.slices = Slices()
        self._saver = Saver(store, self._launched, self._refused, self._follow)
        self.authority = authority or Authority(SigningKey.new(), store)
        self.authority.is_live = self._is_live
        self.authority.is_worker_live = self._is_worker_live
        self.authority.changed = self._saver.token_changed
        self.fleet = Fleet(
            lease_s, store, self._saver, self.authority, http_client, self._lose_attempts, self._room_changed
        )
        self._log_keeper = None if kept_logs is None else LogKeeper(kept_logs, self._jobs)
        self.logs = Logs(self._job, self.fleet.workers, self._log_keeper, self._saver.settled, self.slices)
        self._endpoints = Endpoints(store.load_endpoints(), self._saver.endpoint_changed, self._is_live)
        self._scheduler = Scheduler(
            engine, self._jobs, self.fleet, self._apply, self._in_background, drain_s, start_limit_s
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._saving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads what is remembered and begins to schedule. The engine has been started."""
        for stored in self._store.load():
            record = JobRecord(stored.job, stored.launch, stored.facts, saved_revision=stored.job.revision)
            record.concluded = stored.job.is_finished
            self._add(record)
            if not stored.job.is_finished:
                self._quotas.begin(stored.job.owner, len(stored.job.tasks))
        if self._log_keeper is not None:
            self._log_keeper.start()
        self._saving = asyncio.create_task(self._saver.run())
        await self.fleet.start()
        snapshot = self._scheduler.with_forgotten(await self._engine.snapshot())
        self._scheduler.adopt(snapshot)
        for record in list(self._unfinished.values()):
            self._apply(record, record.job.recover(snapshot, now_ms()))
        self._scheduler.take_snapshot(snapshot)  # all that was lost meanwhile at once, before workers register
        self._end_what_belongs_to_ended_jobs()
        self._in_background(self._scheduler.run())
        self._in_background(self._scheduler.watch_engine())
        self._in_background(self.fleet.watch_leases())

    def _end_what_belongs_to_ended_jobs(self) -> None:
        """We may have gone just after a job's end was kept, and before that of its child jobs and endpoints."""
        for record in list(self._jobs.values()):
            self._end_orphans(record)
        for job_id in self._endpoints.job_ids():
            known = self._jobs.get(job_id)
            if known is not None and known.job.is_finished:
                self._endpoints.job_ended(job_id)

    async def stop(self) -> None:
        """Stops scheduling and calling; who calls is still answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def close(self) -> None:
        """Ends all of it. Engine and store are closed by who made them; the store after this."""
        await self.stop()
        if self._log_keeper is not None:
            await self._log_keeper.close()
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
        await self._saver.close()

    # Jobs, for clients.

    async def launch_job(self, request: LaunchJobRequest, owner: str = "") -> str:
        """Takes a job, and answers with its id. It is its parent's owner's, where it has a parent."""
        request.environment.env_vars.pop(TOKEN_VARIABLE, None)  # a secret is not stored, and a task has its own
        check_launch(request)
        bundle = await self._check_bundle(request)
        known = await self._claim_name(request)  # from here on nothing is waited for until the name is taken
        if known is not None:
            return known.job.job_id
        check_job_name(request.name)
        job = make_job(request, now_ms())
        job.submitted_stamp = stamp()
        if request.parent_job_id:
            parent = self._job(request.parent_job_id).job
            check_parent(request, parent)
            owner = parent.owner
        job.owner = owner
        self._quotas.check(owner, len(job.tasks))
        self.reserve.check_job(request.ByteSize())
        launch = LaunchJobRequest()
        launch.CopyFrom(request)
        launch.ClearField("bundle_blob")
        record = JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks])
        if self._log_keeper is not None:
            self._log_keeper.job_launched(job.job_id, len(job.tasks))
        record.to_do += job.submit()
        self._quotas.begin(owner, len(job.tasks))
        await self._saver.add_job(record, bundle)
        return job.job_id

    async def _claim_name(self, request: LaunchJobRequest) -> JobRecord | None:
        """Gives a request the name that it will have; answers with the job of which it is the repeat, if any: the
        reply was lost."""
        parent = self._jobs.get(request.parent_job_id)
        asked_name, taken = request.name, ""
        for name in names_of(request):
            request.name = name
            request.ClearField("asked_name")
            if name != asked_name:
                request.asked_name = asked_name
            await self._saver.until_launched(job_id_of(request))
            known = self._jobs.get(job_id_of(request))
            if known is None:
                return None
            if request.submission_id and request.submission_id == known.launch.submission_id:
                return known
            taken = f"{known.job.job_id!r} already ({state_name(known.job.state)})"
            if not is_passed_over(asked_name, request, known.launch, None if parent is None else parent.job):
                break
        raise AlreadyExistsError(f"there is a job named {taken}: choose another name")

    async def get_job_status(self, job_id: str, *, include_result: bool) -> cluster_pb2.Controller.GetJobStatusResponse:
        """A job with its tasks; with the result of task 0 where asked for."""
        record = self._job(job_id)
        answer = await self._kept(lambda: self._job_with_tasks(record))
        if include_result:
            answer.job.serialized_result = result_in(await self._saver.read(self._store.result, job_id, 0))
        return answer

    async def _job_with_tasks(self, record: JobRecord) -> cluster_pb2.Controller.GetJobStatusResponse:
        job = await self.slices.run(messages.job_with_tasks(record.shown))
        answer = cluster_pb2.Controller.GetJobStatusResponse(job=job)
        kept = await self.slices.run(self._fitting_tasks(answer.job))
        if kept < len(answer.job.tasks):
            del answer.job.tasks[kept:]
            answer.next_page_token = page_token_of("tasks", kept)
        return answer

    async def _kept(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that tells nothing but what is kept.

        Args:
            make: Makes it from what `JobRecord.shown` has. Called again where what it told could not be saved: then the
                records show what was saved last.
        """
        while True:
            answer = await make()
            if await self._saver.settled():
                return answer

    def _fitting_tasks(self, job: cluster_pb2.JobStatus) -> Steps[int]:
        """Update the addresses of the tasks of an answer, and count how many it has room for."""
        room = PAGE_BYTES
        for number, task in enumerate(job.tasks):
            room -= self._update_addresses(task).ByteSize()
            if room < 0 and number:
                return number
            yield
        return len(job.tasks)

    def count_jobs(self) -> tuple[int, int]:
        """How many go on, and how many have ended."""
        return len(self._unfinished), len(self._jobs) - len(self._unfinished)

    async def list_jobs(self, page_size: int, page_token: str) -> Page[cluster_pb2.JobStatus]:
        """A page of the jobs in the order of their submission, without tasks."""
        return await self._kept(
            lambda: self.slices.run(
                cut_page(
                    "jobs",
                    len(self._in_order),
                    lambda number: messages.job_status(self._in_order[number].shown),
                    page_size=page_size,
                    page_token=page_token,
                )
            )
        )

    async def get_task_status(self, job_id: str, task_index: int, *, include_result: bool) -> cluster_pb2.TaskStatus:
        """One task; with its result where asked for."""
        record = self._job(job_id)
        record.check_index(task_index)

        async def make() -> cluster_pb2.TaskStatus:
            return self._update_addresses(messages.task_status(record.shown, task_index))

        answer = await self._kept(make)
        if include_result:
            add_outcome(answer, await self._saver.read(self._store.result, job_id, task_index))
        return answer

    async def list_tasks(self, job_id: str, page_size: int, page_token: str) -> Page[cluster_pb2.TaskStatus]:
        """A page of the tasks of a job, in index order."""
        record = self._job(job_id)
        return await self._kept(
            lambda: self.slices.run(
                cut_page(
                    "tasks",
                    len(record.job.tasks),
                    lambda index: self._update_addresses(messages.task_status(record.shown, index)),
                    page_size=page_size,
                    page_token=page_token,
                )
            )
        )

    def task_count(self, job_id: str) -> int:
        """How many tasks a job has; 0 for one that is not known."""
        record = self._jobs.get(job_id)
        return 0 if record is None else len(record.job.tasks)

    async def terminate_job(self, job_id: str) -> None:
        """Asks a job to end."""
        record = self._job(job_id)
        self._apply(record, record.job.terminate("terminated by a user", now_ms()))
        await self._saver.saved()

    async def terminate_task(self, job_id: str, task_index: int) -> None:
        """Asks one task to end."""
        record = self._job(job_id)
        record.check_index(task_index)
        self._apply(record, record.job.terminate_task(task_index, "terminated by a user", now_ms()))
        await self._saver.saved()

    async def watch_job(
        self, job_id: str, caller: str, *, include_tasks: bool
    ) -> AsyncIterator[cluster_pb2.Controller.WatchJobResponse]:
        """What a job is, then what changes of it, until it is final."""
        record = self._job(job_id)
        self.reserve.check_stream()
        record.watch = record.watch or Watch(record, self._saver.settled, self.slices)
        watching = record.watch.messages(caller, include_tasks=include_tasks)
        async with contextlib.aclosing(watching) as messages:
            async for message in messages:
                yield message

    async def fetch_bundle(self, bundle_hash: str) -> bytes:
        """A workspace."""
        blob = await self._saver.read(self._store.bundle, bundle_hash)
        if blob is None:
            raise NotFoundError(f"no workspace with hash {quoted(bundle_hash)}")
        return blob

    async def write_stdin(
        self, request: cluster_pb2.Controller.WriteStdinRequest
    ) -> cluster_pb2.Controller.WriteStdinResponse:
        """Passes standard input on to the task of a job."""
        return await write_stdin(self._job(request.job_id), self.fleet, request)

    def owner_of_job(self, job_id: str) -> str | None:
        """The name of a job's owner; None when there is no such job."""
        record = self._jobs.get(job_id)
        return None if record is None else record.job.owner

    # Endpoints, for tasks and for who looks for them.

    async def register_endpoint(
        self, request: cluster_pb2.Controller.RegisterEndpointRequest, attempt: tuple[int, int] | None = None
    ) -> str:
        """Adds a name, of a task's attempt where one is given; answers with the endpoint's id."""
        if request.job_id:
            job = self._job(request.job_id).job
            if job.is_finished:
                raise FailedPreconditionError(f"job {job.job_id!r} has ended ({state_name(job.state)})")
        endpoint_id = self._endpoints.register(request, attempt).endpoint_id
        await self._saver.saved()
        return endpoint_id

    async def unregister_endpoint(self, endpoint_id: str) -> None:
        """Takes a name away."""
        self._endpoints.unregister(endpoint_id)
        await self._saver.saved()

    def job_of_endpoint(self, endpoint_id: str) -> str | None:
        """The job that an endpoint belongs to, empty for nobody's; None when there is no such endpoint."""
        return self._endpoints.job_of(endpoint_id)

    async def lookup_endpoint(self, name: str) -> cluster_pb2.Controller.Endpoint:
        """The endpoint of that name."""
        answer = self._endpoints.lookup(name)
        await self._saver.settled()
        return answer

    async def list_endpoints(
        self, prefix: str, page_size: int, page_token: str
    ) -> Page[cluster_pb2.Controller.Endpoint]:
        """A page of the endpoints whose names start with a prefix."""
        page = await self.slices.run(self._endpoints.list(prefix, page_size=page_size, page_token=page_token))
        await self._saver.settled()
        return page

    # Workers.

    async def register_worker(
        self, request: cluster_pb2.Controller.RegisterWorkerRequest
    ) -> cluster_pb2.Controller.RegisterWorkerResponse:
        """A worker is there; it is answered with the address that it should tell its tasks, and with its lease.

        Not accepted is a process that was declared lost, or whose place another one has taken, or that is of a release
        too far away, see `versions`: it has to end.
        """
        answer = self.fleet.register(request)
        if answer.accepted or answer.refused:
            self._scheduler.wake()  # who waits for it is told why, where it was refused
        if answer.accepted:
            answer.controller_address = self._address
            await self._saver.settled()
        return answer

    def _room_changed(self) -> None:
        self._scheduler.wake()

    def _lose_attempts(self, is_lost: Callable[[TaskAttempt], bool], why: str) -> None:
        for record in list(self._unfinished.values()):
            lost = {index: attempt for index, attempt in record.job.live_attempts().items() if is_lost(attempt)}
            if not lost:
                continue
            for attempt in lost.values():
                self.fleet.fence(attempt.worker_id, attempt.worker_incarnation)
            names = ", ".join(sorted({attempt.worker_id for attempt in lost.values()}))
            ids = {index: attempt.attempt_id for index, attempt in lost.items()}
            self._apply(record, record.job.attempts_lost(ids, f"worker {names} was lost: {why}", now_ms()))

    async def list_workers(self, page_size: int, page_token: str) -> Page[cluster_pb2.Controller.WorkerHealthStatus]:
        """A page of the workers, and how they are."""
        running = await self.slices.run(self._running_jobs())
        return await self.slices.run(self.fleet.health(running, page_size=page_size, page_token=page_token))

    def _running_jobs(self) -> Steps[dict[str, set[str]]]:
        running: dict[str, set[str]] = {}
        for record in list(self._unfinished.values()):
            for attempt in record.job.live_attempts().values():
                running.setdefault(attempt.worker_id, set()).add(record.job.job_id)
            yield
        return running

    @property
    def engine_name(self) -> str:
        """What gives places to run: local, ray, slurm."""
        return self._engine.name

    async def list_machines(self, page_size: int, page_token: str) -> cluster_pb2.Controller.ListMachinesResponse:
        """The machines, who holds them, and who waits."""
        return await self._scheduler.list_machines(self.slices, page_size, page_token)

    async def report_task_states(
        self, request: cluster_pb2.Controller.ReportTaskStatesRequest
    ) -> cluster_pb2.Controller.ReportTaskStatesResponse:
        """What became of attempts; stored when this returns."""
        answer = cluster_pb2.Controller.ReportTaskStatesResponse()
        answer.revocations, revoked = self.authority.revocations(request.revocations)
        answer.revoked.extend(revoked)
        if not self.fleet.hear(request, answer):
            return answer
        for job_id, reports in _by_job(request.reports).items():
            for report in self._take_reports(job_id, reports):
                if not is_task_finished(report.state):
                    answer.unwanted.add(task_id=report.task_id, attempt_id=report.attempt_id)
        if request.reports:
            await self._saver.saved()
        return answer

    async def report_task_state(self, report: Report) -> None:
        """What became of one attempt; stored when this returns."""
        job_id, task_index = parse_task_id(report.task_id)
        self._job(job_id).check_index(task_index)
        self._take_reports(job_id, [report])
        await self._saver.saved()

    async def store_logs(
        self, request: cluster_pb2.Controller.StoreLogsRequest
    ) -> cluster_pb2.Controller.StoreLogsResponse:
        """Takes what a worker hands over of its attempts' logs; on disk when this returns."""
        if self._log_keeper is None:
            return cluster_pb2.Controller.StoreLogsResponse(positions=[UNWANTED] * len(request.pieces))
        return await self._log_keeper.store_logs(request)

    def _take_reports(self, job_id: str, reports: Sequence[Report]) -> list[Report]:
        """Applies reports of one job; answers with those of attempts that are not wanted."""
        record = self._jobs.get(job_id)
        if record is None:
            return list(reports)
        job = record.job
        unwanted, instructions, results = [], [], []
        for report in reports:
            trim_report(report)
            live = job.live_attempts([report.task_index]) if 0 <= report.task_index < len(job.tasks) else {}
            attempt = live.get(report.task_index)
            if attempt is None or (attempt.attempt_id, attempt.worker_id) != (report.attempt_id, report.worker_id):
                unwanted.append(report)
                continue
            record.take_facts(report)
            if report.started_at_ms:
                instructions += job.attempt_running(report.task_index, report.attempt_id, report.started_at_ms)
            if is_task_finished(report.state):
                if outcome := outcome_of(report):
                    results.append((report.task_index, outcome))
                end = _attempt_end(report)
                instructions += job.attempt_ended(report.task_index, report.attempt_id, end, now_ms())
        self._apply(record, instructions, results)
        return unwanted

    # Carrying out what a job decided.

    def _apply(
        self, record: JobRecord, instructions: Iterable[Instruction], results: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """Lets what has changed in a job be kept, told of, and followed by what is to be done: in this order, and all
        that a turn of the loop brings together.

        Where it cannot be kept (the disk is full), nothing of it is told, and the error goes to who brought the event
        and waits for `saved`; he will bring it again. What is to be done is kept, and tried again every second: all but
        stops, see `Saver`.
        """
        record.to_do += instructions
        record.unsaved_results += results
        self._saver.job_changed(record)

    def _launched(self, record: JobRecord) -> None:
        """A new job is kept."""
        self._add(record)
        to_do, record.to_do = record.to_do, []
        self._carry_out(record, to_do)
        parent = self._jobs.get(record.job.parent_job_id)
        if parent is not None:
            self._end_if_orphaned(record, parent)  # it may have ended meanwhile

    def _refused(self, record: JobRecord) -> None:
        """A new job is not kept."""
        self._quotas.end(record.job.owner, len(record.job.tasks))

    def _follow(self, record: JobRecord, to_do: Sequence[Instruction]) -> None:
        """What has changed in a job is kept: what follows from it is done."""
        self._carry_out(record, to_do)
        if record.job.is_finished and record.saved_revision == record.job.revision and not record.concluded:
            self._unfinished.pop(record.job.job_id, None)
            self._quotas.end(record.job.owner, len(record.job.tasks))
            self._endpoints.job_ended(record.job.job_id)
            self._scheduler.job_ended(record.job.job_id)
            record.concluded = True
        if record.kept is None:  # else what its children would end for may not have happened, after a kill
            self._end_orphans(record)

    def _carry_out(self, record: JobRecord, instructions: Iterable[Instruction]) -> None:
        starts: dict[str, list[StartAttempt]] = {}
        for instruction in instructions:
            match instruction:
                case RequestRoom(gang_id, task_indices, not_before_ms):
                    self._scheduler.request_room(record, gang_id, len(task_indices), not_before_ms)
                case ReleaseRoom(gang_id):
                    self._scheduler.release_room(gang_id)
                case StartAttempt():
                    starts.setdefault(instruction.worker_id, []).append(instruction)
                case StopAttempt():
                    self._start_all(record, starts)  # before it, or the stop could overtake its start
                    self._in_background(self._stop(record, instruction))
        self._start_all(record, starts)

    def _start_all(self, record: JobRecord, starts: dict[str, list[StartAttempt]]) -> None:
        hosts = dispatch.hosts_of(record.job) if starts else []
        if starts and record.job.rendezvous:
            together = [start for group in starts.values() for start in group]
            self._in_background(self._start_meeting(record, together, hosts))
        else:
            for worker_id, group in starts.items():
                self._in_background(self._start(record, worker_id, group, hosts))
        starts.clear()

    def _end_orphans(self, record: JobRecord) -> None:
        """Ends those children of a job of which the parent, or the attempt that submitted them, has ended."""
        record.children = [child for child in record.children if not child.job.is_finished]
        for child in record.children:
            self._end_if_orphaned(child, record)

    def _end_if_orphaned(self, child: JobRecord, parent: JobRecord) -> None:
        reason = why_orphaned(child.launch, parent.job) if child.job.ending is None else ""
        if reason:
            self._apply(child, child.job.terminate(reason, now_ms()))

    async def _start_meeting(self, record: JobRecord, starts: Sequence[StartAttempt], hosts: Sequence[str]) -> None:
        """Starts the attempts of a rendezvous:

        1. Task 0's worker hears first, since it reserves the port where all meet. After a restart of ours it may have
           heard before, and even run it: it is told again, and says the same port again.
        2. Then the others are told, with that port. Who is to be stopped meanwhile never starts.
        3. Where task 0 has succeeded before a restart of ours, the others are told without a port: a worker that has
           heard before takes no notice, another one refuses.
        """
        job = record.job
        still_live = _still_live(job)

        def is_wanted() -> bool:
            return any(still_live(start.task_index, start.attempt_id) for start in starts)

        for attempt in job.live_attempts().values():
            await self.fleet.registered(attempt.worker_id, is_wanted)
        if not is_wanted():
            return
        meeting = Meeting.of(record, self.fleet.workers)
        groups: dict[str, list[StartAttempt]] = {}
        for start in starts:
            if start.task_index:
                groups.setdefault(start.worker_id, []).append(start)
        first = job.tasks[0].live_attempt
        if first is not None:
            own = [StartAttempt(0, first.attempt_id, first.worker_id), *groups.pop(first.worker_id, ())]
            answer = await self._start(record, first.worker_id, own, hosts, meeting)
            if answer is None:
                return  # nobody wants task 0 any more, or it was refused: its gang restarts, or ends
            meeting.master_port = answer.master_port
        for worker_id, group in groups.items():
            self._in_background(self._start(record, worker_id, group, hosts, meeting))

    async def _start(
        self,
        record: JobRecord,
        worker_id: str,
        starts: Sequence[StartAttempt],
        hosts: Sequence[str],
        meeting: Meeting | None = None,
    ) -> cluster_pb2.Worker.RunTasksResponse | None:
        job = record.job
        still_live = _still_live(job)
        worker = await self.fleet.registered(
            worker_id, lambda: any(still_live(start.task_index, start.attempt_id) for start in starts)
        )
        if worker is None:
            return None
        starts = [start for start in starts if still_live(start.task_index, start.attempt_id)]
        if meeting is not None:  # it may have been a while: a stop of these may be on its way by now
            starts = [start for start in starts if job.tasks[start.task_index].stop is None]
        why_not = explain_python_mismatch(worker.python_version, record.launch.pickled_by)
        if why_not:  # every task would find that out for itself
            self._starts_failed(record, starts, why_not)
            return None
        request = dispatch.run_tasks_request(
            worker.place, job.job_id, record.launch, starts, record.gpu_ids, hosts, self.authority.task_token
        )
        request.shared.stdin = record.launch.stdin and not record.stdin_taken and not record.stdin_over
        request.shared.stdin_spent = record.stdin_taken
        if meeting is not None:
            meeting.describe(request)
        try:
            return await dispatch.start_attempts(worker, job.job_id, starts, request, still_live, self.fleet.calls)
        except IrisError as error:
            self._starts_failed(record, starts, f"worker {worker_id} refused it: {error}")
            return None

    def _starts_failed(self, record: JobRecord, starts: Sequence[StartAttempt], error: str) -> None:
        end = AttemptEnd(FAILED, now_ms(), error=error)
        for start in starts:
            self._apply(record, record.job.attempt_ended(start.task_index, start.attempt_id, end, now_ms()))

    async def _stop(self, record: JobRecord, stop: StopAttempt) -> None:
        still_live = _still_live(record.job)
        worker = await self.fleet.registered(stop.worker_id, lambda: still_live(stop.task_index, stop.attempt_id))
        if worker is None:
            return
        has_it = await dispatch.stop_attempt(worker, record.job.job_id, stop, still_live, self.fleet.calls)
        if not has_it:
            end = AttemptEnd(KILLED, now_ms(), error="stopped before it started")
            self._apply(record, record.job.attempt_ended(stop.task_index, stop.attempt_id, end, now_ms()))

    # Small things.

    def _add(self, record: JobRecord) -> None:
        job = record.job
        self._jobs[job.job_id] = record
        self._in_order.append(record)
        if not job.is_finished:
            self._unfinished[job.job_id] = record
        parent = self._jobs.get(job.parent_job_id)
        if parent is not None:
            parent.children.append(record)
        self._scheduler.job_came(record)

    def _update_addresses(self, task: cluster_pb2.TaskStatus) -> cluster_pb2.TaskStatus:
        """Where a worker is now: a restarted one serves the logs of the attempts that it had before."""
        for attempt in task.attempts:
            worker = self.fleet.workers.get(attempt.worker_id)
            if worker is not None:
                attempt.worker_address = task.worker_address = worker.place.address
        return task

    def _is_live(self, job_id: str, task_index: int, attempt_id: int) -> bool:
        """Whether an attempt goes on, so that its token is good."""
        record = self._jobs.get(job_id)
        if record is None or not 0 <= task_index < len(record.job.tasks):
            return False
        return _still_live(record.job)(task_index, attempt_id)

    def _is_worker_live(self, worker_id: str, incarnation: str) -> bool:
        """Whether a worker's process (empty: any of that worker) is live, as far as is known: it has registered, or,
        after a restart of ours, an attempt that goes on was placed on it and it has yet to register."""
        if self.fleet.is_live(worker_id, incarnation):
            return True
        if worker_id in self.fleet.workers or self.fleet.is_over(worker_id, incarnation):
            return False
        return any(
            attempt.worker_id == worker_id and incarnation in ("", attempt.worker_incarnation)
            for record in self._unfinished.values()
            for attempt in record.job.live_attempts().values()
        )

    def _job(self, job_id: str) -> JobRecord:
        record = self._jobs.get(job_id)
        if record is None:
            hint = self._hint_of_task(job_id)
            raise NotFoundError(f"no job named {quoted(job_id)}{hint}" if job_id else "a job id must not be empty")
        return record

    def _hint_of_task(self, name: str) -> str:
        """What is meant by the id of a task where that of a job is asked for; empty: it is none that is known here."""
        try:
            job_id, task_index = parse_task_id(name)
        except InvalidArgumentError:
            return ""
        return f": that is task {task_index} of job {quoted(job_id)}" if job_id in self._jobs else ""

    async def saved(self) -> None:
        """Returns when all that has changed until now is kept; see `Saver.saved`."""
        await self._saver.saved()

    async def _check_bundle(self, request: LaunchJobRequest) -> bytes:
        if request.bundle_blob and hashlib.sha256(request.bundle_blob).hexdigest() != request.bundle_hash:
            raise InvalidArgumentError(f"bundle_hash {quoted(request.bundle_hash)} is not the SHA-256 of bundle_blob")
        if not request.bundle_hash or request.bundle_blob:
            return request.bundle_blob
        if not await self._saver.read(self._store.has_bundle, request.bundle_hash):
            raise FailedPreconditionError(f"workspace {request.bundle_hash} is not known here: send its bundle_blob")
        return b""

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("in the background", exc_info=task.exception())


def _still_live(job: Job) -> Callable[[int, int], bool]:
    def still_live(task_index: int, attempt_id: int) -> bool:
        attempt = job.tasks[task_index].live_attempt
        return attempt is not None and attempt.attempt_id == attempt_id

    return still_live


def _by_job(reports: Iterable[Report]) -> dict[str, list[Report]]:
    grouped: dict[str, list[Report]] = {}
    for report in reports:
        grouped.setdefault(report.job_id, []).append(report)
    return grouped


def _attempt_end(report: Report) -> AttemptEnd:
    return AttemptEnd(
        state=report.state,
        finished_at_ms=report.finished_at_ms or now_ms(),
        exit_code=report.exit_code if report.HasField("exit_code") else None,
        term_signal=report.term_signal if report.HasField("term_signal") else None,
        error=report.error,
        result_error=report.result_error,
        out_of_memory=report.out_of_memory,
    )
