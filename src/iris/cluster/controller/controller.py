"""Owns the jobs: carries out what `job.py` decides, and turns what comes of it into the next event.

One asyncio loop owns all state, so there is no lock here, and between two awaits nothing changes under one's hands.
What may block that loop is a save (`store.py`) and nothing else; calls to workers and engines are awaited in tasks of
their own. Think again when one loop's worth of Python no longer keeps up with the reports of all workers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from pyqwest import Client

from iris.cluster.controller import status, workers
from iris.cluster.controller.authority import Authority
from iris.cluster.controller.endpoints import Endpoints
from iris.cluster.controller.job import (
    Instruction,
    Job,
    ReleaseRoom,
    RequestRoom,
    StartAttempt,
    StopAttempt,
)
from iris.cluster.controller.launch import LaunchJobRequest, make_job
from iris.cluster.controller.log_keeper import Keeping, LogKeeper
from iris.cluster.controller.logs import Logs
from iris.cluster.controller.record import JobRecord
from iris.cluster.controller.scheduler import Scheduler
from iris.cluster.controller.store import Store
from iris.cluster.controller.task import FAILED, KILLED, AttemptEnd
from iris.cluster.engine.base import Engine
from iris.cluster.types import TOKEN_VARIABLE, is_task_finished, parse_task_id, state_name
from iris.cluster.worker.handover import UNWANTED
from iris.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    IrisError,
    NotFoundError,
)
from iris.rpc import cluster_pb2
from iris.rpc.credentials import Bearer
from iris.rpc.process import happens
from iris.rpc.tokens import SigningKey

Report = cluster_pb2.Controller.ReportTaskStateRequest

_BEAT_S = 10.0  # on a stream without news; common proxies cut idle ones after 20 to 60 s
_MERGE_S = 0.02  # news within this time travels in one message of a watch; the end never waits
_log = logging.getLogger(__name__)


class Controller:
    """The jobs of a cluster.

    Args:
        engine: Where gangs are placed.
        store: Where everything is remembered.
        address: The base URL that workers and tasks call.
        kept_logs: Where and how logs are kept beyond their workers; None keeps none.
        authority: Makes the tokens by which it is called; default one whose key lives in memory only.
        http_client: By which workers are called, where TLS needs one of its own.

    Attributes:
        logs: The logs of all tasks, for readers.
        authority: Makes tokens, and knows which are good.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        address: str,
        kept_logs: Keeping | None = None,
        *,
        authority: Authority | None = None,
        http_client: Client | None = None,
    ) -> None:
        self.authority = authority or Authority(SigningKey.new(), store)
        self.authority.is_live = self._is_live
        self._http_client = http_client
        self._engine = engine
        self._store = store
        self._address = address
        self._jobs: dict[str, JobRecord] = {}
        self._workers: dict[str, workers.WorkerRecord] = {}
        self._log_keeper = None if kept_logs is None else LogKeeper(kept_logs, self._jobs)
        self.logs = Logs(self._job, self._workers, self._log_keeper)
        self._endpoints = Endpoints(store)
        self._scheduler = Scheduler(engine, self._jobs, self._workers, self._apply)
        self._registration = asyncio.Event()  # set, and replaced, when a worker registers
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Loads what is remembered and begins to schedule. The engine has been started."""
        for stored in self._store.load():
            record = JobRecord(stored.job, stored.launch, stored.facts, saved_revision=stored.job.revision)
            if stored.job.is_finished:
                record.finished.set()
            self._jobs[stored.job.job_id] = record
        if self._log_keeper is not None:
            self._log_keeper.start()
        snapshot = await self._engine.snapshot()
        self._scheduler.adopt(snapshot)
        for record in list(self._jobs.values()):
            if not record.job.is_finished:
                self._apply(record, record.job.recover(snapshot, _now_ms()))
        self._in_background(self._scheduler.run())
        self._in_background(self._scheduler.watch_engine())

    async def close(self) -> None:
        """Stops scheduling and calling. Engine and store are closed by who made them, after this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._log_keeper is not None:
            await self._log_keeper.close()

    # Jobs, for clients.

    def launch_job(self, request: LaunchJobRequest, owner: str = "") -> str:
        """Takes a job, and answers with its id. It is its parent's owner's, where it has a parent."""
        request.environment.env_vars.pop(TOKEN_VARIABLE, None)  # a secret is not stored, and a task has its own
        job = make_job(request, _now_ms())
        known = self._jobs.get(job.job_id)
        if known is not None:
            if request.submission_id and request.submission_id == known.launch.submission_id:
                return job.job_id  # the repeat of a submission whose reply was lost
            state = state_name(known.job.state)
            raise AlreadyExistsError(f"there is a job named {job.job_id!r} already ({state}): choose another name")
        parent = self._check_parent(request)
        job.owner = owner if parent is None else parent.owner
        bundle = self._check_bundle(request)
        launch = LaunchJobRequest()
        launch.CopyFrom(request)
        launch.ClearField("bundle_blob")
        record = JobRecord(job, launch, [cluster_pb2.TaskStatus() for _ in job.tasks])
        if self._log_keeper is not None:
            self._log_keeper.job_launched(job.job_id, len(job.tasks))
        instructions = job.submit()
        self._store.add_job(record, bundle)
        record.saved_revision = job.revision
        self._jobs[job.job_id] = record
        self._carry_out(record, instructions)
        return job.job_id

    def get_job_status(self, job_id: str, *, include_result: bool) -> cluster_pb2.JobStatus:
        """A job with its tasks; with the result of task 0 where asked for."""
        record = self._job(job_id)
        answer = status.job_status(record, tasks_since=0)
        for task in answer.tasks:
            self._update_addresses(task)
        if include_result:
            answer.serialized_result = self._store.result(job_id, 0)
        return answer

    def list_jobs(self) -> list[cluster_pb2.JobStatus]:
        """All jobs in the order of their submission, without tasks."""
        return [status.job_status(record) for record in self._jobs.values()]

    def get_task_status(self, job_id: str, task_index: int, *, include_result: bool) -> cluster_pb2.TaskStatus:
        """One task; with its result where asked for."""
        record = self._job(job_id)
        if not 0 <= task_index < len(record.job.tasks):
            raise NotFoundError(
                f"job {job_id!r} has no task {task_index}: its tasks are 0 to {len(record.job.tasks) - 1}"
            )
        answer = self._update_addresses(status.task_status(record, task_index))
        if include_result:
            answer.serialized_result = self._store.result(job_id, task_index)
        return answer

    def list_tasks(self, job_id: str) -> list[cluster_pb2.TaskStatus]:
        """The tasks of a job, in index order."""
        record = self._job(job_id)
        return [self._update_addresses(status.task_status(record, index)) for index in range(len(record.job.tasks))]

    def terminate_job(self, job_id: str) -> None:
        """Asks a job to end."""
        record = self._job(job_id)
        self._apply(record, record.job.terminate("terminated by a user", _now_ms()))

    async def watch_job(
        self, job_id: str, *, include_tasks: bool
    ) -> AsyncIterator[cluster_pb2.Controller.WatchJobResponse]:
        """What a job is, then what changes of it, until it is final."""
        record = self._job(job_id)
        sent = 0
        while True:
            changed = record.changed
            revision = record.job.revision
            news = status.job_status(record, tasks_since=sent if include_tasks else None)
            yield cluster_pb2.Controller.WatchJobResponse(job=news)
            sent = revision
            if record.job.is_finished:
                return
            while not changed.is_set():
                if not await happens(changed, _BEAT_S):
                    yield cluster_pb2.Controller.WatchJobResponse()
            await happens(record.finished, _MERGE_S)

    def fetch_bundle(self, bundle_hash: str) -> bytes:
        """A workspace."""
        blob = self._store.bundle(bundle_hash)
        if blob is None:
            raise NotFoundError(f"no workspace with hash {bundle_hash!r}")
        return blob

    # Endpoints, for tasks and for who looks for them.

    def register_endpoint(self, request: cluster_pb2.Controller.RegisterEndpointRequest) -> str:
        """Adds a name; answers with the endpoint's id."""
        if request.job_id:
            job = self._job(request.job_id).job
            if job.is_finished:
                raise FailedPreconditionError(f"job {job.job_id!r} has ended ({state_name(job.state)})")
        return self._endpoints.register(request).endpoint_id

    def unregister_endpoint(self, endpoint_id: str) -> None:
        """Takes a name away."""
        self._endpoints.unregister(endpoint_id)

    def job_of_endpoint(self, endpoint_id: str) -> str | None:
        """The job that an endpoint belongs to, empty for nobody's; None when there is no such endpoint."""
        return self._endpoints.job_of(endpoint_id)

    def lookup_endpoint(self, name: str) -> cluster_pb2.Controller.Endpoint:
        """The endpoint of that name."""
        return self._endpoints.lookup(name)

    def list_endpoints(self, prefix: str) -> list[cluster_pb2.Controller.Endpoint]:
        """The endpoints whose names start with a prefix."""
        return self._endpoints.list(prefix)

    # Workers.

    def register_worker(self, request: cluster_pb2.Controller.RegisterWorkerRequest) -> str:
        """A worker is there; answers with the address that it should tell its tasks."""
        if not request.worker_id or not request.address:
            raise InvalidArgumentError("a worker registers with its worker_id and its address")
        known = self._workers.get(request.worker_id)
        if known is not None and known.place.incarnation != request.incarnation:
            known.gone = True
        bearer = Bearer(partial(self.authority.controller_token, request.worker_id))
        self._workers[request.worker_id] = workers.new_record(request, _now_ms(), bearer, self._http_client)
        registration, self._registration = self._registration, asyncio.Event()
        registration.set()
        error = f"worker {request.worker_id} was lost: another process has taken its place"
        for record in list(self._jobs.values()):
            lost = {
                index: attempt.attempt_id
                for index, attempt in record.job.live_attempts().items()
                if attempt.worker_id == request.worker_id and attempt.worker_incarnation != request.incarnation
            }
            if lost:
                self._apply(record, record.job.attempts_lost(lost, error, _now_ms()))
        self._scheduler.wake()
        return self._address

    def list_workers(self) -> list[cluster_pb2.Controller.WorkerHealthStatus]:
        """The workers, and how they are."""
        running: dict[str, set[str]] = {}
        for record in self._jobs.values():
            for attempt in record.job.live_attempts().values():
                running.setdefault(attempt.worker_id, set()).add(record.job.job_id)
        return [_health(worker, running.get(worker_id, set())) for worker_id, worker in self._workers.items()]

    def report_task_states(
        self, request: cluster_pb2.Controller.ReportTaskStatesRequest
    ) -> cluster_pb2.Controller.ReportTaskStatesResponse:
        """What became of attempts; stored when this returns."""
        answer = cluster_pb2.Controller.ReportTaskStatesResponse()
        answer.revocations, revoked = self.authority.revocations(request.revocations)
        answer.revoked.extend(revoked)
        worker = self._workers.get(request.worker_id)
        if worker is None:
            answer.register_again = True
            return answer
        if worker.place.incarnation != request.incarnation:
            # Another process has taken its place: what it still runs was given up then.
            for report in request.reports:
                answer.unwanted.add(task_id=report.task_id, attempt_id=report.attempt_id)
            return answer
        worker.last_heartbeat_ms = _now_ms()
        for job_id, reports in _by_job(request.reports).items():
            for report in self._take_reports(job_id, reports):
                if not is_task_finished(report.state):
                    answer.unwanted.add(task_id=report.task_id, attempt_id=report.attempt_id)
        return answer

    def report_task_state(self, report: Report) -> None:
        """What became of one attempt; stored when this returns."""
        job_id, task_index = parse_task_id(report.task_id)
        self.get_task_status(job_id, task_index, include_result=False)
        self._take_reports(job_id, [report])

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
            live = job.live_attempts([report.task_index]) if 0 <= report.task_index < len(job.tasks) else {}
            attempt = live.get(report.task_index)
            if attempt is None or (attempt.attempt_id, attempt.worker_id) != (report.attempt_id, report.worker_id):
                unwanted.append(report)
                continue
            _take_facts(record.facts[report.task_index], report)
            if report.started_at_ms:
                instructions += job.attempt_running(report.task_index, report.attempt_id, report.started_at_ms)
            if is_task_finished(report.state):
                if report.serialized_result:
                    results.append((report.task_index, report.serialized_result))
                instructions += job.attempt_ended(report.task_index, report.attempt_id, _attempt_end(report))
        self._apply(record, instructions, results)
        return unwanted

    # Carrying out what a job decided.

    def _apply(
        self, record: JobRecord, instructions: Iterable[Instruction], results: Sequence[tuple[int, bytes]] = ()
    ) -> None:
        """Remembers what has changed in a job, tells of it, and does what follows: in this order.

        Where it cannot be remembered (the disk is full), nothing of it is told, and the error goes to who brought the
        event, who will bring it again. What is to be done is kept, and tried again with every tick: all but stops,
        which are carried out at once. They lose nothing, and what is stopped may be what fills the disk.
        """
        job = record.job
        record.to_do += instructions
        record.unsaved_results += results
        if job.revision > record.saved_revision or record.unsaved_results:
            try:
                self._store.save_job(record, record.saved_revision, record.unsaved_results)
            except IrisError:
                self._carry_out(record, [step for step in record.to_do if isinstance(step, StopAttempt)])
                record.to_do = [step for step in record.to_do if not isinstance(step, StopAttempt)]
                raise
            record.saved_revision = job.revision
            record.unsaved_results = []
            record.tell_watchers()
        to_do, record.to_do = record.to_do, []
        self._carry_out(record, to_do)
        if job.is_finished and not record.finished.is_set():
            self._job_finished(record)

    def _carry_out(self, record: JobRecord, instructions: Iterable[Instruction]) -> None:
        starts: dict[str, list[StartAttempt]] = {}
        for instruction in instructions:
            match instruction:
                case RequestRoom(gang_id, task_indices):
                    self._scheduler.request_room(record, gang_id, len(task_indices))
                case ReleaseRoom(gang_id):
                    self._scheduler.release_room(gang_id)
                case StartAttempt():
                    starts.setdefault(instruction.worker_id, []).append(instruction)
                case StopAttempt():
                    self._in_background(self._stop(record, instruction))
        for worker_id, group in starts.items():
            self._in_background(self._start(record, worker_id, group))

    def _job_finished(self, record: JobRecord) -> None:
        job_id = record.job.job_id
        record.finished.set()
        self._endpoints.job_ended(job_id)
        for child in list(self._jobs.values()):
            if child.job.parent_job_id == job_id and not child.job.is_finished:
                reason = f"its parent job {job_id!r} has ended ({state_name(record.job.state)})"
                self._apply(child, child.job.terminate(reason, _now_ms()))

    async def _start(self, record: JobRecord, worker_id: str, starts: Sequence[StartAttempt]) -> None:
        job = record.job
        worker = await self._registered(worker_id)
        request = workers.run_tasks_request(
            job.job_id, record.launch, starts, record.gpu_ids, self.authority.task_token
        )
        refused = await workers.start_attempts(worker, job.job_id, starts, request, _still_live(job))
        if refused:
            end = AttemptEnd(FAILED, _now_ms(), error=f"worker {worker_id} refused it: {refused}")
            for start in starts:
                self._apply(record, job.attempt_ended(start.task_index, start.attempt_id, end))

    async def _stop(self, record: JobRecord, stop: StopAttempt) -> None:
        worker = await self._registered(stop.worker_id)
        if not await workers.stop_attempt(worker, record.job.job_id, stop, _still_live(record.job)):
            end = AttemptEnd(KILLED, _now_ms(), error="stopped before it started")
            self._apply(record, record.job.attempt_ended(stop.task_index, stop.attempt_id, end))

    async def _registered(self, worker_id: str) -> workers.WorkerRecord:
        """The worker, which after a restart of ours may still have to register again."""
        while (worker := self._workers.get(worker_id)) is None:
            await self._registration.wait()
        return worker

    # Small things.

    def _update_addresses(self, task: cluster_pb2.TaskStatus) -> cluster_pb2.TaskStatus:
        """Where a worker is now: a restarted one serves the logs of the attempts that it had before."""
        for attempt in task.attempts:
            worker = self._workers.get(attempt.worker_id)
            if worker is not None:
                attempt.worker_address = task.worker_address = worker.place.address
        return task

    def _is_live(self, job_id: str, task_index: int, attempt_id: int) -> bool:
        """Whether an attempt goes on, so that its token is good."""
        record = self._jobs.get(job_id)
        known = record is not None and 0 <= task_index < len(record.job.tasks)
        return known and record is not None and _still_live(record.job)(task_index, attempt_id)

    def _job(self, job_id: str) -> JobRecord:
        record = self._jobs.get(job_id)
        if record is None:
            raise NotFoundError(f"no job named {job_id!r}" if job_id else "a job id must not be empty")
        return record

    def _check_parent(self, request: LaunchJobRequest) -> Job | None:
        if not request.parent_job_id:
            return None
        parent = self._job(request.parent_job_id).job
        if parent.is_finished or parent.ending is not None:
            raise FailedPreconditionError(f"parent job {parent.job_id!r} has ended: it can have no more jobs")
        return parent

    def _check_bundle(self, request: LaunchJobRequest) -> bytes:
        if request.bundle_blob and hashlib.sha256(request.bundle_blob).hexdigest() != request.bundle_hash:
            raise InvalidArgumentError(f"bundle_hash {request.bundle_hash} is not the SHA-256 of bundle_blob")
        if request.bundle_hash and not request.bundle_blob and not self._store.has_bundle(request.bundle_hash):
            raise FailedPreconditionError(f"workspace {request.bundle_hash} is not known here: send its bundle_blob")
        return request.bundle_blob

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("in the background", exc_info=task.exception())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


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


def _take_facts(facts: cluster_pb2.TaskStatus, report: Report) -> None:
    facts.ClearField("ports")
    facts.ports.update(report.ports)
    facts.resource_usage.CopyFrom(report.resource_usage)
    facts.build_metrics.CopyFrom(report.build_metrics)


def _attempt_end(report: Report) -> AttemptEnd:
    return AttemptEnd(
        state=report.state,
        finished_at_ms=report.finished_at_ms or _now_ms(),
        exit_code=report.exit_code if report.HasField("exit_code") else None,
        term_signal=report.term_signal if report.HasField("term_signal") else None,
        error=report.error,
        result_error=report.result_error,
    )


def _health(worker: workers.WorkerRecord, jobs: set[str]) -> cluster_pb2.Controller.WorkerHealthStatus:
    missed = worker.missed_heartbeats(_now_ms())
    return cluster_pb2.Controller.WorkerHealthStatus(
        worker_id=worker.place.worker_id,
        healthy=worker.is_healthy(_now_ms()),
        consecutive_failures=missed,
        last_heartbeat_ms=worker.last_heartbeat_ms,
        running_job_ids=sorted(jobs),
        address=worker.place.address,
        metadata=worker.metadata,
    )
