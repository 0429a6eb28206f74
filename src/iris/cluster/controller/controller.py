"""The controller's loop: builds the controller's parts, starts and stops them, and carries out saved changes.

One asyncio loop owns all state. Therefore no locks are needed, and the state cannot change between two awaits. Nothing
may block the loop. A thread writes to the store (storage/saver.py), and calls to workers and engines run as separate
asyncio tasks. Reconsider this design when one event loop cannot keep up with the reports of all workers.

The packages of the controller own the following state:
    jobs/         The state of each job, and the table of all jobs.
    submission/   New jobs, until they are saved.
    storage/      The database, and changes that are not saved yet.
    scheduling/   The queue, the gangs and their slots.
    workers/      The registered workers, their leases, and the calls that start and stop attempts.
    events/       The events of the cluster, and their deliveries to webhooks.
    logs/         The kept logs.
    outputs/      The stored outputs of attempts.
    api/          The calls of clients, and the clients that watch jobs.
    auth/         The tokens.
    usage/        What tasks and workers have used over time.

A job changes in three steps. A part of the controller applies an event to the job, and passes the job and the resulting
instructions to the saver. The saver writes a batch of changes to the disk. Afterwards the method `_carry_out_batches`
notifies the watchers of the job and carries out the instructions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pyqwest import Client

from iris.cluster.controller.api.endpoint_calls import EndpointCalls
from iris.cluster.controller.api.endpoints import Endpoints
from iris.cluster.controller.api.job_control import JobControl
from iris.cluster.controller.api.job_lists.list_watches import JobListWatches
from iris.cluster.controller.api.job_lists.pages import JobPages
from iris.cluster.controller.api.job_queries import JobQueries
from iris.cluster.controller.api.results import ResultStreams
from iris.cluster.controller.api.slices import Slices
from iris.cluster.controller.api.standard_input import StandardInput
from iris.cluster.controller.api.watch import JobWatches
from iris.cluster.controller.auth.authority import Authority
from iris.cluster.controller.auth.cluster_tokens import ClusterTokens
from iris.cluster.controller.auth.web_sessions import WebSessions
from iris.cluster.controller.background import BackgroundTasks
from iris.cluster.controller.events.events import ClusterEvents, EventSettings
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.hangs.hang_watch import HangWatch
from iris.cluster.controller.jobs.instructions import ReleaseAllocation, RequestAllocation, StartAttempt, StopAttempt
from iris.cluster.controller.jobs.job_events import TransitionLog, log_new_job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.jobs.recovery import recover
from iris.cluster.controller.logs.keeper import Keeping, LogKeeper
from iris.cluster.controller.logs.log_service import LogService
from iris.cluster.controller.logs.sources import LogSources
from iris.cluster.controller.metrics.collection import ControllerMetrics, Sources
from iris.cluster.controller.outputs.file_calls import FileCalls
from iris.cluster.controller.outputs.output_calls import OutputCalls
from iris.cluster.controller.outputs.output_store import OutputStore
from iris.cluster.controller.overview.cluster_check import ClusterCheck
from iris.cluster.controller.overview.cluster_status import ClusterStatus
from iris.cluster.controller.overview.cluster_view import ClusterView
from iris.cluster.controller.overview.cluster_watch import ClusterWatch
from iris.cluster.controller.removal.job_removal import JobRemoval, JobRetention
from iris.cluster.controller.removal.stored_bytes import StoredBytes
from iris.cluster.controller.removal.unused_workspaces import UnusedWorkspaces
from iris.cluster.controller.scheduling.scheduler import WITHDRAW_AFTER_S, AllocationChange, Scheduler
from iris.cluster.controller.storage.batch import JobChange, TriedBatch
from iris.cluster.controller.storage.contents.reading import owner_of
from iris.cluster.controller.storage.ended_jobs import StoredJobs
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.dependencies import Dependencies
from iris.cluster.controller.submission.headroom import Headroom
from iris.cluster.controller.submission.parents import why_orphaned
from iris.cluster.controller.submission.quotas import Quota, QuotaUse
from iris.cluster.controller.submission.resubmission import Resubmissions
from iris.cluster.controller.submission.submit import Submissions
from iris.cluster.controller.submission.workspaces import Workspaces
from iris.cluster.controller.usage.history import UsageHistory
from iris.cluster.controller.usage.queries import UsageQueries
from iris.cluster.controller.workers.attempt_control import AttemptControl
from iris.cluster.controller.workers.draining import SlotWorkers
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.leases import LeaseWatch
from iris.cluster.controller.workers.lost_attempts import LostAttempts
from iris.cluster.controller.workers.reports import WorkerReports
from iris.cluster.controller.workers.token_liveness import ClusterLiveness
from iris.cluster.controller.workers.worker_record import WorkerLimits
from iris.cluster.engine.base import Engine
from iris.cluster.lease_terms import DEFAULT_LEASE_S
from iris.reasons import FailureCode
from iris.rpc.auth.tokens import SigningKey
from iris.system.clock import now_ms

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Controller:
    """The parts of a controller, and the loop that connects them.

    Args:
        engine: The engine that provides the machines. The caller has started the engine.
        store: The database, which stores all state.
        address: The base URL that workers and tasks call.
        kept_logs: The settings for logs on the controller; None keeps no logs there.
        lease_s: The length of each worker's lease, in seconds (see worker/supervision/lease.py).
        headroom: The object that refuses new work when too little disk space or too few file descriptors are left.
        quota: How many jobs, tasks and streams each user may have.
        key: The server key; None makes a new one that is kept in memory only.
        http_client: The HTTP client that calls workers; None uses connectrpc's own client.
        worker_limits: How many workers the cluster may have, and how long the controller waits for workers.
        withdraw_after_s: The seconds for which a request to the engine may block an older gang. After this time the
            request is withdrawn.
        job_retention: How long ended jobs are kept; None keeps all.
        max_bytes_per_user: How many bytes of entry points, workspaces and results are stored for one user; None sets no
            limit.
        web_sessions: The sessions of browsers that have signed in to the page; None keeps them in memory.
        metrics_per_job: The number of unfinished jobs whose ids may appear in metrics.
        events: How many events stay stored, and where they are sent.
        watch_hang_s: After how many seconds without output and CPU use a job seems to hang, if the job does not set
            this time itself; 0 does not watch such jobs.

    Attributes:
        jobs: The jobs, of which only the unfinished ones are in memory.
        saver: The object that saves all changes.
        slices: The object that makes large answers in small steps.
        headroom: The object that refuses new work when too little disk space or too few file descriptors are left.
        authority: The object that checks and creates tokens.
        fleet: The object that knows all workers of the cluster.
        watches: The object that sends changes of jobs to the watching clients.
        list_watches: The object that sends changes of the list of jobs to the watching clients.
        log_sources: The object that finds out whether a log is read from a worker or from the kept logs.
        metrics: The object that collects the metrics of the controller.
        cluster_watch: The object that sends changes of the machines, the workers and the events to the watching
            clients.
        events: The object that stores the events of the cluster and sends them to webhooks.
        cluster_check: The object that checks the cluster for `iris doctor`.
        removal, submissions, resubmissions, workspaces, queries, results, control, stdin, reports, cluster, endpoints,
        logs, files, outputs, usage: The objects that answer the calls of clients and workers. Each one is named after
            its subject.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        address: str,
        kept_logs: Keeping | None = None,
        lease_s: float = DEFAULT_LEASE_S,
        headroom: Headroom | None = None,
        quota: Quota | None = None,
        *,
        key: SigningKey | None = None,
        http_client: Client | None = None,
        worker_limits: WorkerLimits | None = None,
        withdraw_after_s: float = WITHDRAW_AFTER_S,
        job_retention: JobRetention | None = None,
        max_bytes_per_user: int | None = None,
        web_sessions: WebSessions | None = None,
        metrics_per_job: int = 0,
        events: EventSettings | None = None,
        watch_hang_s: int = 0,
    ) -> None:
        self._engine, self._store = engine, store
        self._background, self._transition_log = BackgroundTasks(), TransitionLog()
        self._saving: asyncio.Task[None] | None = None
        tokens = ClusterTokens(key := key or SigningKey.new())
        self.headroom, events = headroom or Headroom(), events or EventSettings()
        self._journal = EventJournal(store, events.kept)
        self._stored_jobs, self.saver = StoredJobs(store), Saver(store, self._journal)
        self.slices = Slices(is_urgent=self.saver.is_saving)
        self.jobs = JobTable(self._stored_jobs, store.count_ended())
        self.events = ClusterEvents(self._journal, store, self._stored_jobs, self.saver, events, self.jobs)
        self.watches = JobWatches(self.jobs, self.saver, self.slices)
        self.list_watches = self._make_list_watches()
        lose = LostAttempts(self.jobs, self.saver).end
        limits, wake = worker_limits or WorkerLimits(), self._wake_scheduler
        self.fleet = Fleet(lease_s, store, self.saver, tokens, http_client, lose, limits, wake)
        self._lease_watch, liveness = LeaseWatch(self.fleet, lease_s), ClusterLiveness(self.jobs, self.fleet)
        self.authority = Authority(key, store.load_tokens(), self.saver.token_changed, liveness, web_sessions)
        self._scheduler = self._make_scheduler(limits, withdraw_after_s)
        self.stdin, self._attempts = self._make_attempt_control(tokens)
        self._usage, self.reports = self._make_reports(address, watch_hang_s)
        self._log_keeper = None if kept_logs is None else LogKeeper(kept_logs, self.jobs, self.events.log_uploaded)
        self.log_sources = LogSources(self.fleet.workers, self._log_keeper, self.saver, self.watches, self.slices)
        self.logs = LogService(self.jobs, self.log_sources, self.saver.is_saving)
        self._output_store, self.outputs, self.files = self._make_file_calls(kept_logs)
        self._quotas = QuotaUse(quota or Quota())
        unused = UnusedWorkspaces(store, self._stored_jobs, self.saver)
        self.workspaces = Workspaces(store, self._stored_jobs, unused)
        self._stored_bytes = StoredBytes(store, self._stored_jobs, self.saver, unused, max_bytes_per_user)
        self.removal = self._make_removal(unused, job_retention or JobRetention())
        self.submissions = self._make_submissions(watch_hang_s)
        self._dependencies = Dependencies(self.jobs, self.saver, self._background.start)
        self.resubmissions = Resubmissions(store, self._stored_jobs, self.submissions)
        self.queries = self._make_queries()
        self.results = ResultStreams(self.jobs, self._stored_jobs, self.saver, store, self.watches)
        self.usage, self.control = UsageQueries(self.jobs, self._usage, self.slices), JobControl(self.jobs, self.saver)
        self.cluster, self.cluster_watch, self.cluster_check = self._make_cluster_view(lease_s)
        self.metrics = self._make_metrics(metrics_per_job)
        self._registry = Endpoints(store.load_endpoints(), self.saver.endpoint_changed, self.jobs.is_attempt_live)
        self.endpoints = EndpointCalls(self._registry, self.jobs, self.saver, self.slices)

    def _make_list_watches(self) -> JobListWatches:
        pages = JobPages(self.jobs, self._stored_jobs, self._store, self.saver, self.slices)
        return JobListWatches(self.jobs, pages, self.saver, self.slices)

    def _make_queries(self) -> JobQueries:
        pages, workers = self.list_watches.pages, self.fleet.workers
        return JobQueries(self.jobs, pages, self._stored_jobs, self._store, workers, self.saver, self.slices)

    def _make_attempt_control(self, tokens: ClusterTokens) -> tuple[StandardInput, AttemptControl]:
        stdin = StandardInput(self.fleet, self.watches)
        return stdin, AttemptControl(self.fleet, self._scheduler.slots, stdin, tokens, self.saver, self._background)

    def _make_reports(self, address: str, watch_hang_s: int) -> tuple[UsageHistory, WorkerReports]:
        usage = UsageHistory(self._store, self._stored_jobs, self.saver)
        wake = self._wake_scheduler
        hangs = HangWatch(watch_hang_s)
        return usage, WorkerReports(self.jobs, self.fleet, self.saver, self.authority, address, wake, usage, hangs)

    def _make_cluster_view(self, lease_s: float) -> tuple[ClusterView, ClusterWatch, ClusterCheck]:
        name = self._engine.name
        background = self.slices.in_background()
        view, watched = (
            ClusterView(name, self.jobs, self.fleet, self._scheduler, self._usage, slices)
            for slices in (self.slices, background)
        )
        status = ClusterStatus(name, self.jobs, self._store, self.headroom, lease_s)
        watch = ClusterWatch(watched, status, self._journal, background, self.slices.stream_turns)
        return view, watch, ClusterCheck(view, status, self.fleet.workers)

    def _make_file_calls(self, kept_logs: Keeping | None) -> tuple[OutputStore | None, OutputCalls, FileCalls]:
        keeping = None if kept_logs is None else kept_logs.outputs
        stored = None if keeping is None else OutputStore(keeping, self.jobs)
        files = FileCalls(self.jobs, self.saver, self.fleet.workers, stored)
        return stored, OutputCalls(self.jobs, self.saver, stored), files

    def _make_metrics(self, most_jobs: int) -> ControllerMetrics:
        sources = Sources(
            self._engine.name,
            self.jobs,
            self._scheduler,
            self.fleet,
            self._lease_watch,
            self._usage,
            self.saver,
            self._store,
            self.headroom,
            self._log_keeper,
            self.events.traces,
        )
        return ControllerMetrics(sources, most_jobs)

    def _make_removal(self, unused: UnusedWorkspaces, retention: JobRetention) -> JobRemoval:
        return JobRemoval(
            self.jobs,
            self._store,
            self._stored_jobs,
            self.saver,
            None if self._log_keeper is None else self._log_keeper.job_log_removal,
            self.fleet,
            self._background,
            unused,
            retention,
            on_removed=(self.list_watches.job_removed, self.events.job_removed),
            outputs=self._output_store,
        )

    def _make_submissions(self, watch_hang_s: int) -> Submissions:
        return Submissions(
            self.jobs,
            self.workspaces,
            self._quotas,
            self.headroom,
            self._log_keeper,
            self.saver,
            self._stored_bytes,
            self.removal,
            is_traced=self.events.makes_spans,
            watch_hang_s=watch_hang_s,
        )

    def _make_scheduler(self, limits: WorkerLimits, withdraw_after_s: float) -> Scheduler:
        return Scheduler(
            self._engine,
            self.jobs.by_id,
            self.fleet,
            self.saver,
            self._background.start,
            slot_workers=None if self._engine.shared_workers else SlotWorkers(self.fleet, limits),
            start_limit_s=limits.start_s,
            withdraw_after_s=withdraw_after_s,
        )

    async def start(self) -> None:
        """Load the unfinished jobs, compare them with the engine's gangs, and begin to schedule.

        1. The unfinished jobs are loaded, and the saver starts. Ended jobs stay in the database.
        2. The scheduler adopts the gangs that the engine still has. All attempts of a lost gang end at once, before
           workers register. Therefore all these attempts are charged to the preemption budget, and none counts as
           stopped because its gang restarts.
        3. The child jobs and endpoints of ended jobs end, and the jobs that waited for ended jobs learn of their ends.
           An earlier controller may have been killed before it reported these ends.
        4. Scheduling begins.
        """
        self.events.start(self._background.start)
        # The jobs are read in a thread, so that the server answers calls while thousands of jobs are loaded.
        number = 0
        while records := await self._stored_jobs.run(self._store.unfinished_after, number):
            number = records[-1].number
            for record in records:
                self.saver.adopt(record)
                self._add(record)
                self._quotas.add(record.job.owner, len(record.job.tasks))
            await self._usage.load(records)
        if self._log_keeper is not None:
            self._log_keeper.start()
        self._saving = asyncio.create_task(self._carry_out_batches())
        await self.fleet.start()
        snapshot = self._scheduler.with_forgotten(await self._engine.snapshot())
        self._scheduler.adopt(snapshot)
        for record in self.jobs.open_jobs():
            self.saver.job_changed(record, recover(record.job, snapshot, now_ms()))
        self._scheduler.apply_snapshot(snapshot)
        for job_id in self.jobs.parents_of_open_jobs():
            parent = await self.jobs.get(job_id)
            if parent is not None:
                self._end_orphans(parent)
        for job_id in self._registry.job_ids():
            if job_id and job_id not in self.jobs.by_id:
                self._registry.job_ended(job_id)
        for record in self.jobs.open_jobs():
            self._dependencies.job_added(record)
        self._background.start(self._scheduler.run())
        self._background.start(self._scheduler.watch_engine())
        self._background.start(self._lease_watch.run())
        self._background.start(self.removal.run())
        if self._output_store is not None:
            self._background.start(self._output_store.run())
        self._background.start(self._stored_bytes.run())
        self._background.start(self._usage.run())
        self._background.start(self.metrics.process.measure_lag())

    async def stop(self) -> None:
        """Stop scheduling, and stop calling workers. The controller still answers calls."""
        await self._background.cancel()

    async def close(self) -> None:
        """Stop all parts of the controller, and save the remaining changes. The caller must close the engine before
        this call, and the store after this call.
        """
        self.events.stop()
        await self.stop()
        if self._log_keeper is not None:
            await self._log_keeper.close()
        if self._output_store is not None:
            self._output_store.close()
        if self._saving is not None:
            await self._usage.close()
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
        self._transition_log.close()
        self._stored_jobs.close()
        await self.saver.close()

    # The next methods return the owners of jobs and endpoints, for the permission checks of calls.

    def owner_of_job(self, job_id: str) -> str | None:
        """Return the name of a job's owner, or None if the job does not exist. If the job has ended, the call reads one
        row of the database.
        """
        record = self.jobs.in_memory(job_id)
        return record.job.owner if record is not None else self._store.read(partial(owner_of, job_id=job_id))

    def job_of_endpoint(self, endpoint_id: str) -> str | None:
        """Return the id of the job that an endpoint belongs to. Return an empty string if the endpoint belongs to no
        job, and None if there is no endpoint with this id.
        """
        return self._registry.job_of(endpoint_id)

    # After saving.

    async def _carry_out_batches(self) -> None:
        async with contextlib.aclosing(self.saver.batches()) as batches:
            async for batch in batches:
                await self._carry_out_batch(batch)

    async def _carry_out_batch(self, batch: TriedBatch) -> None:
        """Carry out the consequences of a batch.

        1. Add the new jobs. All of them are in memory before the event loop does other work.
        2. Start and stop attempts. Stops begin before the allocations of their gangs are released.
        3. Request and release allocations. A job may have thousands of gangs, so the event loop does other work in
           between. The saver counts the batch as being written, so readers wait, and the next batch follows later.
        4. Announce the changes, and clean up after saved ends of jobs. A job that ends during step 3 is not saved yet.
        """
        for change in batch.added:
            self._guarded(self._add_new_job, change)
        for record in batch.refused:
            self._guarded(self._drop_refused_job, record)
        allocations: list[AllocationChange] = []
        for change in (*batch.added, *batch.changes):
            self._guarded(self._control_attempts, change)
            allocations += [
                (change.record, step)
                for step in change.instructions
                if isinstance(step, RequestAllocation | ReleaseAllocation)
            ]
        await self._scheduler.change_allocations(allocations)
        for change in batch.changes:
            self._guarded(self._announce, change)

    def _guarded(self, carry_out: Callable[[T], None], what: T) -> None:
        try:
            carry_out(what)
        except Exception:  # noqa: BLE001 - An error with one job must not end the saving of all jobs.
            _log.exception("the consequences of a saved change failed")

    def _add_new_job(self, change: JobChange) -> None:
        record = change.record
        self._add(record)
        log_new_job(record.job)
        self.metrics.job_tally.job_added()
        self.list_watches.job_added(record)
        self._dependencies.job_added(record)
        # While a child job is being saved, its parent job may end. In this case the child job must end, too.
        if record.job.parent_job_id:
            parent = self.jobs.in_memory(record.job.parent_job_id)
            if parent is None:
                self._background.start(self._end_child_of_ended_job(record))
            else:
                self._end_if_orphaned(record, parent)

    async def _end_child_of_ended_job(self, child: JobRecord) -> None:
        parent = await self.jobs.get(child.job.parent_job_id)
        if parent is not None:
            self._end_if_orphaned(child, parent)
        elif child.job.ending is None and not child.job.is_finished:
            reason = f"its parent job {child.job.parent_job_id!r} was removed"
            self.saver.job_changed(child, child.job.terminate(reason, now_ms(), FailureCode.PARENT_ENDED))

    def _drop_refused_job(self, record: JobRecord) -> None:
        self._quotas.remove(record.job.owner, len(record.job.tasks))

    def _control_attempts(self, change: JobChange) -> None:
        job = change.record.job
        self._transition_log.write(job, change.transitions)
        self.metrics.job_tally.add(job, change.transitions)
        steps = [step for step in change.instructions if isinstance(step, StartAttempt | StopAttempt)]
        self._attempts.carry_out(change.record, steps)

    def _announce(self, change: JobChange) -> None:
        record = change.record
        if change.has_news:
            self.watches.publish(record)
            self.list_watches.publish(record)
        if record.job.is_finished and self.saver.is_current(record) and not self.jobs.is_concluded(record):
            self._conclude(record)
        # If the controller is killed before it has saved the end of a job, the restarted controller does not know that
        # the job has ended. Therefore child jobs end only after the end of their parent job is saved.
        if change.is_saved:
            self._end_orphans(record)

    def _conclude(self, record: JobRecord) -> None:
        """Clean up after a job whose end is saved, and drop the job from memory."""
        self.jobs.conclude(record)
        self._quotas.remove(record.job.owner, len(record.job.tasks))
        self._registry.job_ended(record.job_id)
        self._scheduler.job_ended(record.job_id)
        self.stdin.forget_job(record.job_id)
        self._dependencies.job_ended(record)
        self._usage.job_ended(record)

    def _end_orphans(self, parent: JobRecord) -> None:
        """Terminate the child jobs that must end, because their parent job or the attempt that submitted them has
        ended.
        """
        for child in self.jobs.open_children(parent.job_id):
            self._end_if_orphaned(child, parent)

    def _end_if_orphaned(self, child: JobRecord, parent: JobRecord) -> None:
        can_end = child.job.ending is None and not child.job.is_finished
        reason = why_orphaned(child.launch, parent.job) if can_end else ""
        if reason:
            self.saver.job_changed(child, child.job.terminate(reason, now_ms(), FailureCode.PARENT_ENDED))

    def _add(self, record: JobRecord) -> None:
        self.jobs.add(record)
        self._scheduler.job_added(record)

    def _wake_scheduler(self) -> None:
        self._scheduler.wake()
