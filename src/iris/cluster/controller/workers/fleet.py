"""Manages the registered workers of a cluster, and grants their leases. `leases.py` declares workers lost.

A process of a worker is fenced if it was declared lost, or if another process has registered as the same worker. The
controller ignores the reports of a fenced process, even after a restart of the controller. The module
worker/supervision/lease.py explains the length of leases, and why no attempt runs twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from pyqwest import Client

from iris import versions
from iris.cluster.controller.auth.cluster_tokens import ClusterTokens
from iris.cluster.controller.jobs.task import TaskAttempt, WorkerIdentity
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.sizes import check_worker
from iris.cluster.controller.workers.call_slots import WorkerCalls
from iris.cluster.controller.workers.unavailability import MissingKind, MissingWorker
from iris.cluster.controller.workers.worker_record import WorkerLimits, WorkerRecord, new_record, reported_shortage
from iris.cluster.lease_terms import lost_after_s
from iris.errors import ResourceExhaustedError, quoted, shown
from iris.event_log import log_event
from iris.reasons import FailureCode, Shortage
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.auth.peer_uid import PeerUidCheck
from iris.rpc.auth.tokens import QUEUED_WORKER_TTL_S
from iris.rpc.pages import Page, cut_named_page
from iris.rpc.serving.steps import Steps
from iris.system.clock import now_for_ages_ms, now_ms
from iris.system.event_loop import happens

_MAX_REFUSALS = 1000  # The largest number of refused workers that the fleet remembers.
_HOST_CHARACTERS = 200
# How long a fenced process is remembered, in milliseconds. After this time, the last token of the process has expired,
# so the process cannot call the controller any more, even if its machine was suspended for a long time.
KEEP_FENCED_MS = int(QUEUED_WORKER_TTL_S * 1000)
_WANTED_CHECK_S = 5.0  # The seconds between two calls of `still_wanted`, a function that the method `registered` gets.
_log = logging.getLogger(__name__)

RegisterWorkerResponse = cluster_pb2.Controller.RegisterWorkerResponse

# A function that ends lost attempts, and returns them. Its arguments are a predicate that selects the lost attempts,
# the reason why their worker counts as lost, and the code of this reason.
LoseAttempts = Callable[[Callable[[TaskAttempt], bool], str, FailureCode], list[TaskAttempt]]


class Fleet:
    """The registered workers. No other code changes the worker records, except their attribute `starting`.

    Args:
        lease_s: The length of the leases that this controller grants, in seconds.
        store: The database, which contains the fences and the lease of an earlier controller. The fleet only reads the
            store.
        saver: The object that saves which processes are fenced, and the length of the longest lease.
        tokens: The object that makes the tokens with which the controller calls workers.
        http_client: The HTTP client that makes the calls to workers; None uses connectrpc's own client.
        lose_attempts: A function that ends the attempts of a lost worker.
        limits: The object that limits the number of workers.
        shortage_changed: A function that is called when a worker begins to report a shortage, or reports that it lacks
            nothing any more.

    Attributes:
        workers: The registered workers, by id. Other parts of the controller only read this mapping.
        calls: The object that limits the calls that start and stop attempts.
        longest_lease_s: The length of the longest lease that a worker may have, in seconds. This controller or an
            earlier controller may have granted the lease.
    """

    def __init__(
        self,
        lease_s: float,
        store: Store,
        saver: Saver,
        tokens: ClusterTokens,
        http_client: Client | None,
        lose_attempts: LoseAttempts,
        limits: WorkerLimits,
        shortage_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.calls = WorkerCalls()
        self._lease_s = lease_s
        self._known_lease_s = store.load_lease()
        self.longest_lease_s = max(lease_s, self._known_lease_s)
        # The time when each process of a worker was fenced, by worker id and incarnation, oldest first.
        self._fenced = store.load_fenced()
        # The time when each worker was forgotten, by worker id, oldest first.
        self._forgotten: dict[str, float] = {}
        # The reason why each worker was refused, by worker id.
        self._refused: dict[str, str] = {}
        self._saver = saver
        self._tokens = tokens
        self._http_client = http_client
        self._lose_attempts = lose_attempts
        self._limits = limits
        self._shortage_changed = shortage_changed
        # An event for code that waits for a worker. When a worker registers, this event is set, and a new event
        # replaces it.
        self._registration = asyncio.Event()

    async def start(self) -> None:
        """Save the length of the longest lease. The caller must await this method before a worker gets a lease."""
        if self.longest_lease_s > self._known_lease_s:
            self._saver.lease_changed(self.longest_lease_s)
            await self._saver.saved()

    def earlier_leases_expired(self) -> None:
        """Record that all leases have expired that an earlier controller granted. The longest lease that a worker may
        have is now a lease of this controller.
        """
        self.longest_lease_s = self._lease_s
        self._saver.lease_changed(self._lease_s)

    def register(self, request: cluster_pb2.Controller.RegisterWorkerRequest) -> RegisterWorkerResponse:
        """Accept a worker and grant its lease, or refuse the worker. A refused or fenced worker must end itself. The
        answer to a refused worker contains the reason. The answer to a fenced worker has `accepted` false and no
        reason.

        Raises:
            InvalidArgumentError: The request is malformed.
            ResourceExhaustedError: The request is too large, or the cluster has too many workers.
        """
        check_worker(request)
        answer = RegisterWorkerResponse(version=versions.VERSION)
        answer.refused = self._why_refused(request)
        if not answer.refused and (request.worker_id, request.incarnation) not in self._fenced:
            self._accept(request)
            answer.accepted = True
            answer.lease_ms = round(self._lease_s * 1000)
        return answer

    def _why_refused(self, request: cluster_pb2.Controller.RegisterWorkerRequest) -> str:
        """Return why a worker can never be accepted. Return an empty string if the worker can be accepted."""
        worker_id = request.worker_id
        if worker_id in self._forgotten:
            return f"no gang of this cluster has worker {quoted(worker_id)} any more"
        version = shown(request.version) or versions.FIRST
        why_not = versions.why_not_together(version, "it", versions.VERSION, "this controller")
        self._refused.pop(worker_id, None)
        if why_not:
            self._refuse(request, why_not)
        return why_not

    def _refuse(self, request: cluster_pb2.Controller.RegisterWorkerRequest, why_not: str) -> None:
        """Refuse a worker, and remember why. The waiting reasons of gangs that need this worker mention the refusal."""
        worker_id = request.worker_id
        while len(self._refused) >= _MAX_REFUSALS:
            del self._refused[next(iter(self._refused))]
        host = shown(request.metadata.hostname[:_HOST_CHARACTERS]) or "a host that it does not name"
        self._refused[worker_id] = f"worker {shown(worker_id)} on {host} was refused: {why_not}"
        _log.warning("%s", self._refused[worker_id])

    def why_refused(self, worker_ids: Iterable[str]) -> str:
        """Return why one of these workers was refused. Return an empty string if none of them was refused."""
        return next((self._refused[worker_id] for worker_id in worker_ids if worker_id in self._refused), "")

    def missing_worker(self, worker_id: str) -> MissingWorker | None:
        """Return why a worker is not available. Return None if the worker is available."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.is_healthy(time.monotonic()):
            return None
        if worker is not None and not worker.is_dead:
            return MissingWorker(worker_id, MissingKind.UNREACHABLE)
        if worker_id in self._refused:
            return MissingWorker(worker_id, MissingKind.REFUSED, self._refused[worker_id])
        return MissingWorker(worker_id, MissingKind.STARTING)

    def identity_of(self, worker_id: str) -> WorkerIdentity:
        """Return the identity of the process that has registered as a worker. The worker must have registered."""
        return self.workers[worker_id].identity

    def _accept(self, request: cluster_pb2.Controller.RegisterWorkerRequest) -> None:
        worker_id, incarnation = request.worker_id, request.incarnation
        if worker_id not in self.workers and len(self.workers) >= self._limits.count:
            why_not = f"there are {self._limits.count:,} workers already, which is the limit of a cluster"
            self._refuse(request, why_not)
            raise ResourceExhaustedError(why_not)
        known = self.workers.get(worker_id)
        if known is not None and known.identity.incarnation != incarnation:
            known.is_dead = True
            self.fence(worker_id, known.identity.incarnation)
            # The tokens for the earlier process of the worker are dropped, because the new process refuses them.
            self._tokens.forget_worker(worker_id)
        bearer = BearerInterceptor(
            partial(self._tokens.controller_token, worker_id, incarnation), PeerUidCheck(request.address)
        )
        # The answer with the new lease can get lost, and then the worker still has an older lease. Therefore the record
        # assumes the longest lease that this controller or an earlier one may have granted, until the worker's next
        # report.
        record = new_record(request, self.longest_lease_s, bearer, self._http_client)
        self.workers[worker_id] = record
        if known is not None and known.identity.incarnation == incarnation:
            # The same worker process has registered again. The new record takes over the tasks that are calling the
            # worker to start attempts, because a call to stop an attempt may be waiting for the end of such a task.
            record.starting = known.starting
        log_event(_log, "worker.registered", worker_id=worker_id, incarnation=incarnation, address=request.address)
        log_event(_log, "lease.granted", worker_id=worker_id, incarnation=incarnation, lease_s=self._lease_s)
        registration, self._registration = self._registration, asyncio.Event()
        registration.set()
        self.lose(
            lambda attempt: attempt.worker_id == worker_id and attempt.worker_incarnation != incarnation,
            "another process has taken its place",
        )

    async def registered(self, worker_id: str, still_wanted: Callable[[], bool]) -> WorkerRecord | None:
        """Wait until a worker has registered, and return the worker. For example, workers have to register after a
        restart of the controller. The method calls `still_wanted` every few seconds, and returns None as soon as
        `still_wanted` returns False.
        """
        while (worker := self.workers.get(worker_id)) is None and still_wanted():
            await happens(self._registration, _WANTED_CHECK_S)
        return worker

    def short(self) -> dict[str, Shortage]:
        """Return the workers that cannot start new attempts now. The result maps each of their ids to the reason."""
        return {worker_id: worker.short_of for worker_id, worker in self.workers.items() if worker.short_of}

    def is_live(self, worker_id: str, incarnation: str) -> bool:
        """Return True if a process of a worker has registered, and its lease has not expired.

        Args:
            worker_id: The id of the worker.
            incarnation: The incarnation of the worker's process; empty for the process that is registered now.
        """
        worker = self.workers.get(worker_id)
        if worker is None or worker.is_dead or worker.is_lost(time.monotonic()):
            return False
        return incarnation in ("", worker.identity.incarnation)

    def is_over(self, worker_id: str, incarnation: str) -> bool:
        """Return True if the given process of a worker will never be live again, because the worker was forgotten or
        the process is fenced.
        """
        return worker_id in self._forgotten or (worker_id, incarnation) in self._fenced

    def mark_dead(self, worker_id: str, incarnation: str | None = None) -> None:
        """Stop calling a worker, because its process is dead or is about to be killed.

        Args:
            worker_id: The id of the worker.
            incarnation: The incarnation of the dead process; None means the process that is registered now.
        """
        worker = self.workers.get(worker_id)
        if worker is not None and incarnation in (None, worker.identity.incarnation):
            worker.is_dead = True

    def forget(self, worker_id: str) -> None:
        """Remove a worker, because the engine has released its gang. The id of the worker is never used again.

        The worker's process may still run on an unreachable machine. If the process calls the controller, the answer
        orders the process to end. Otherwise the process ends by itself when its lease expires.
        """
        self.mark_dead(worker_id)
        if self.workers.pop(worker_id, None) is not None:
            log_event(_log, "worker.removed", worker_id=worker_id)
        self._refused.pop(worker_id, None)
        self._tokens.forget_worker(worker_id)
        self.calls.forget(worker_id)
        # The entries of the dictionary must be in the order of their times. Therefore the old entry is removed first,
        # so that the new entry becomes the last entry.
        self._forgotten.pop(worker_id, None)
        self._forgotten[worker_id] = time.monotonic()

    def forget_old(self, now_s: float) -> None:
        """Remove the records of forgotten workers and of fenced processes, if their processes have certainly ended."""
        until_s = now_s - 2 * lost_after_s(self.longest_lease_s)
        while self._forgotten and self._forgotten[oldest := next(iter(self._forgotten))] < until_s:
            del self._forgotten[oldest]
        until_ms = now_for_ages_ms() - KEEP_FENCED_MS
        while self._fenced and self._fenced[process := next(iter(self._fenced))] < until_ms:
            del self._fenced[process]
            self._saver.unfence(*process)

    def hear(
        self,
        request: cluster_pb2.Controller.ReportTaskStatesRequest,
        answer: cluster_pb2.Controller.ReportTaskStatesResponse,
    ) -> bool:
        """Record that a worker has called the controller. Return True if the reports of this call must be applied, and
        False if they must be ignored. If the result is False, this method changes `answer` to ask the worker to end or
        to register again.
        """
        if (request.worker_id, request.incarnation) in self._fenced or request.worker_id in self._forgotten:
            answer.fenced = True
            return False
        worker = self.workers.get(request.worker_id)
        if worker is None or worker.identity.incarnation != request.incarnation:
            answer.register_again = True
            return False
        was_short = bool(worker.short_of)
        worker.heard(self._lease_s, reported_shortage(request))
        if was_short != bool(worker.short_of):
            _log.warning("worker %s %s", request.worker_id, worker.short_of.text or "accepts new attempts again")
            self._shortage_changed()
        return True

    def fence(self, worker_id: str, incarnation: str) -> None:
        """Fence a worker's process: from now on, the controller ignores the reports of the process."""
        if incarnation and (worker_id, incarnation) not in self._fenced:
            self._fenced[worker_id, incarnation] = now_ms()
            self._saver.fence(worker_id, incarnation)
            log_event(_log, "worker.fenced", worker_id=worker_id, incarnation=incarnation)

    def lose(
        self, is_lost: Callable[[TaskAttempt], bool], why: str, failure: FailureCode = FailureCode.WORKER_LOST
    ) -> None:
        """End the attempts of lost workers, and fence the processes of these workers.

        Args:
            is_lost: A function that returns whether an attempt was lost with its worker.
            why: Why the worker counts as lost. The error of each attempt contains this text.
            failure: The code of `why`.
        """
        for attempt in self._lose_attempts(is_lost, why, failure):
            self.fence(attempt.worker_id, attempt.worker_incarnation)

    def health(
        self, running: Mapping[str, set[str]], *, page_size: int, page_token: str
    ) -> Steps[Page[cluster_pb2.Controller.WorkerHealthStatus]]:
        """Make a page of the workers and their health, ordered by worker id.

        Args:
            running: For each worker id, the ids of the jobs that run on the worker.
            page_size: The largest number of items in the page (see `cut_named_page`).
            page_token: The token of the previous page; empty for the first page.

        Raises:
            InvalidArgumentError: The page size or the page token is invalid.
        """
        now_s = time.monotonic()

        def message(worker_id: str) -> cluster_pb2.Controller.WorkerHealthStatus | None:
            worker = self.workers.get(worker_id)
            if worker is None:
                return None
            return cluster_pb2.Controller.WorkerHealthStatus(
                worker_id=worker_id,
                healthy=worker.is_healthy(now_s),
                consecutive_failures=worker.missed_heartbeats(now_s),
                last_heartbeat_ms=worker.last_heartbeat_ms,
                running_job_ids=sorted(running.get(worker_id, ())),
                address=worker.identity.address,
                metadata=worker.metadata,
                short_of=worker.short_of.text,
                shortage_reason=worker.short_of.code,  # type: ignore[arg-type]  # Both enums have the same numbers.
            )

        names = sorted(self.workers)
        return cut_named_page("workers", names, message, page_size=page_size, page_token=page_token)
