"""The workers of a cluster: which process speaks for which worker, and for how long a silent one is believed to live.

A process that was declared lost, or whose place another one has taken, is fenced: nobody listens to it any more, also
after a restart of the controller. worker/supervision/lease.py says how long leases
are and why no attempt runs twice.
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
from iris.cluster.controller.jobs.task import TaskAttempt, WorkerPlace
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Store
from iris.cluster.controller.submission.sizes import MAX_WORKERS, check_worker
from iris.cluster.controller.workers.call_slots import WorkerCalls
from iris.cluster.controller.workers.dispatch import WorkerRecord, new_record
from iris.cluster.controller.workers.missing import MissingKind, MissingWorker
from iris.cluster.lease_terms import format_span, lost_after_s
from iris.errors import ResourceExhaustedError, quoted, shown
from iris.event_log import log_event
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.auth.peer_uid import PeerUidCheck
from iris.rpc.auth.tokens import QUEUED_WORKER_TTL_S
from iris.rpc.pages import Page, cut_named_page
from iris.rpc.serving.steps import Steps
from iris.system.clock import now_for_ages_ms, now_ms
from iris.system.event_loop import happens

_REFUSALS = 1000  # that are remembered
_HOST_CHARACTERS = 200
# For so long a process that was declared lost is remembered: longer than any machine sleeps, and for as long as its
# token can be good, of which it gets no other.
KEEP_FENCED_MS = int(QUEUED_WORKER_TTL_S * 1000)
_LOOK_S = 5.0  # whether a worker that is waited for is still wanted
_log = logging.getLogger(__name__)

RegisterWorkerResponse = cluster_pb2.Controller.RegisterWorkerResponse

# Ends the attempts for which this is true, and returns them. The text says why their worker counts as lost.
LoseAttempts = Callable[[Callable[[TaskAttempt], bool], str], list[TaskAttempt]]


class Fleet:
    """The workers that have registered.

    Args:
        lease_s: For how long a worker may be silent until it is declared lost.
        store: What an earlier life has left; read here only.
        saver: Keeps who is fenced, and the longest lease.
        tokens: Makes the tokens with which the controller calls workers.
        http_client: By which they are called; None: by connectrpc's own.
        lose_attempts: Ends the attempts of a lost worker.
        room_changed: Called when a worker has become short of something, or is so no more.

    Attributes:
        workers: By worker id.
        calls: Turns at starting and stopping attempts on them.
        longest_lease_s: The longest lease that a worker may have, of this life of the controller or of an earlier one.
    """

    def __init__(
        self,
        lease_s: float,
        store: Store,
        saver: Saver,
        tokens: ClusterTokens,
        http_client: Client | None,
        lose_attempts: LoseAttempts,
        room_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.calls = WorkerCalls()
        self._lease_s = lease_s
        self._known_lease_s = store.load_lease()
        self.longest_lease_s = max(lease_s, self._known_lease_s)
        self._fenced = store.load_fenced()  # since when; the newest come last
        self._forgotten: dict[str, float] = {}  # worker ids that do not come again, and since when
        self._refused: dict[str, str] = {}  # why, by worker id
        self._saver = saver
        self._tokens = tokens
        self._http_client = http_client
        self._lose_attempts = lose_attempts
        self._room_changed = room_changed
        self._registration = asyncio.Event()  # set, and replaced, when a worker registers

    async def start(self) -> None:
        """Keeps how long leases are, before anybody is granted one."""
        if self.longest_lease_s > self._known_lease_s:
            self._saver.lease_changed(self.longest_lease_s)
            await self._saver.saved()

    def register(self, request: cluster_pb2.Controller.RegisterWorkerRequest) -> RegisterWorkerResponse:
        """A worker is there: it is accepted, with its lease, or refused and has to end; without a reason: it is fenced.

        Raises:
            InvalidArgumentError, ResourceExhaustedError: It is no worker, or one too many.
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
        """Why it can never be accepted; empty: it can."""
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
        """Who waits for it is told why it does not come."""
        worker_id = request.worker_id
        while len(self._refused) >= _REFUSALS:
            del self._refused[next(iter(self._refused))]
        host = shown(request.metadata.hostname[:_HOST_CHARACTERS]) or "a host that it does not name"
        self._refused[worker_id] = f"worker {shown(worker_id)} on {host} was refused: {why_not}"
        _log.warning("%s", self._refused[worker_id])

    def why_refused(self, worker_ids: Iterable[str]) -> str:
        """Why one of these workers was refused; empty: none was."""
        return next((self._refused[worker_id] for worker_id in worker_ids if worker_id in self._refused), "")

    def missing_worker(self, worker_id: str) -> MissingWorker | None:
        """Return why a worker that a gang needs is not available, or None if it is available."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.is_healthy(time.monotonic()):
            return None
        if worker is not None and not worker.gone:
            return MissingWorker(worker_id, MissingKind.UNREACHABLE)
        if worker_id in self._refused:
            return MissingWorker(worker_id, MissingKind.REFUSED, self._refused[worker_id])
        return MissingWorker(worker_id, MissingKind.STARTING)

    def place_of(self, worker_id: str) -> WorkerPlace:
        """Return the registered process of a worker."""
        return self.workers[worker_id].place

    def _accept(self, request: cluster_pb2.Controller.RegisterWorkerRequest) -> None:
        worker_id, incarnation = request.worker_id, request.incarnation
        if worker_id not in self.workers and len(self.workers) >= MAX_WORKERS:
            why_not = f"there are {MAX_WORKERS:,} workers already, which is the limit of a cluster"
            self._refuse(request, why_not)
            raise ResourceExhaustedError(why_not)
        known = self.workers.get(worker_id)
        if known is not None and known.place.incarnation != incarnation:
            known.gone = True
            self.fence(worker_id, known.place.incarnation)
            self._tokens.forget_worker(worker_id)  # tokens that only its earlier process takes
        bearer = BearerInterceptor(
            partial(self._tokens.controller_token, worker_id, incarnation), PeerUidCheck(request.address)
        )
        # What it is granted counts once it is known to have heard of it: with its next report.
        record = new_record(request, self.longest_lease_s, bearer, self._http_client)
        self.workers[worker_id] = record
        if known is not None and known.place.incarnation == incarnation:
            record.starting = known.starting  # it was not answered: a stop still waits for a start that is under way
        log_event(_log, "worker.registered", worker_id=worker_id, incarnation=incarnation, address=request.address)
        log_event(_log, "lease.granted", worker_id=worker_id, incarnation=incarnation, lease_s=self._lease_s)
        registration, self._registration = self._registration, asyncio.Event()
        registration.set()
        self._lose(
            lambda attempt: attempt.worker_id == worker_id and attempt.worker_incarnation != incarnation,
            "another process has taken its place",
        )

    async def registered(self, worker_id: str, still_wanted: Callable[[], bool]) -> WorkerRecord | None:
        """The worker, which after a restart of ours may still have to register again; None: nobody wants it any more,
        which is asked from time to time."""
        while (worker := self.workers.get(worker_id)) is None and still_wanted():
            await happens(self._registration, _LOOK_S)
        return worker

    def short(self) -> dict[str, str]:
        """The workers that can start nothing new now, and why."""
        return {worker_id: worker.short_of for worker_id, worker in self.workers.items() if worker.short_of}

    def is_live(self, worker_id: str, incarnation: str) -> bool:
        """Whether a process of a worker has registered, and has not been silent for longer than its lease.

        Args:
            worker_id: The worker.
            incarnation: Its process; empty: whichever is registered.
        """
        worker = self.workers.get(worker_id)
        if worker is None or worker.gone or worker.is_lost(time.monotonic()):
            return False
        return incarnation in ("", worker.place.incarnation)

    def is_over(self, worker_id: str, incarnation: str) -> bool:
        """Whether a worker does not come again, or nobody listens to this process of it any more."""
        return worker_id in self._forgotten or (worker_id, incarnation) in self._fenced

    def mark_dead(self, worker_id: str, incarnation: str | None = None) -> None:
        """Stop calling a worker, because its process is dead or about to be ended.

        Args:
            worker_id: The worker.
            incarnation: The process that is dead; None means the process that is registered now.
        """
        worker = self.workers.get(worker_id)
        if worker is not None and incarnation in (None, worker.place.incarnation):
            worker.gone = True

    def forget(self, worker_id: str) -> None:
        """Nothing refers to a worker any more, and another one will not have its id. If its process goes on somewhere,
        out of reach, it is told to end, for as long as a lease lasts: after that it has ended by itself."""
        self.mark_dead(worker_id)
        if self.workers.pop(worker_id, None) is not None:
            log_event(_log, "worker.removed", worker_id=worker_id)
        self._refused.pop(worker_id, None)
        self._tokens.forget_worker(worker_id)
        self.calls.forget(worker_id)
        self._forgotten.pop(worker_id, None)  # the newest come last
        self._forgotten[worker_id] = time.monotonic()

    def _forget_old(self, now_s: float) -> None:
        """Drops what does not matter any more: who was forgotten, or fenced, too long ago to come back."""
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
        """A worker has called: whether its reports count. Where not, the answer says what it has to do."""
        if (request.worker_id, request.incarnation) in self._fenced or request.worker_id in self._forgotten:
            answer.fenced = True
            return False
        worker = self.workers.get(request.worker_id)
        if worker is None or worker.place.incarnation != request.incarnation:
            answer.register_again = True
            return False
        was_short = bool(worker.short_of)
        worker.heard(self._lease_s, request.short_of)
        if was_short != bool(worker.short_of):
            _log.warning("worker %s %s", request.worker_id, worker.short_of or "has room for new attempts again")
            self._room_changed()
        return True

    def fence(self, worker_id: str, incarnation: str) -> None:
        """From now on nobody listens to this process of a worker: what it ran is given up."""
        if incarnation and (worker_id, incarnation) not in self._fenced:
            self._fenced[worker_id, incarnation] = now_ms()
            self._saver.fence(worker_id, incarnation)
            log_event(_log, "worker.fenced", worker_id=worker_id, incarnation=incarnation)

    async def watch_leases(self) -> None:
        """Declares lost whoever is silent for too long; after a start of ours everybody has a lease's time to call."""
        started_s = time.monotonic()
        are_all_back = False
        while True:
            await asyncio.sleep(min(1.0, self._lease_s / 8))
            now_s = time.monotonic()
            self._forget_old(now_s)
            for worker in list(self.workers.values()):
                if not worker.gone and worker.is_lost(now_s):
                    worker.gone = True
                    self._declare_lost(worker)
            if not are_all_back and now_s - started_s > lost_after_s(self.longest_lease_s):
                are_all_back = True
                self._lose(lambda attempt: attempt.worker_id not in self.workers, _silent_for(self.longest_lease_s))
                self.longest_lease_s = self._lease_s
                self._saver.lease_changed(self._lease_s)

    def _lose(self, is_lost: Callable[[TaskAttempt], bool], why: str) -> None:
        for attempt in self._lose_attempts(is_lost, why):
            self.fence(attempt.worker_id, attempt.worker_incarnation)

    def _declare_lost(self, worker: WorkerRecord) -> None:
        worker_id, incarnation = worker.place.worker_id, worker.place.incarnation
        why = _silent_for(worker.lease_s)
        log_event(_log, "lease.expired", worker_id=worker_id, incarnation=incarnation, lease_s=worker.lease_s)
        log_event(_log, "worker.lost", level=logging.WARNING, worker_id=worker_id, incarnation=incarnation, error=why)
        self.fence(worker_id, incarnation)
        self._lose(lambda attempt: (attempt.worker_id, attempt.worker_incarnation) == (worker_id, incarnation), why)

    def health(
        self, running: Mapping[str, set[str]], *, page_size: int, page_token: str
    ) -> Steps[Page[cluster_pb2.Controller.WorkerHealthStatus]]:
        """Make a page of how the workers are, by id.

        Args:
            running: Which jobs each runs, by worker id.
            page_size: See `cut_named_page`.
            page_token: See `cut_named_page`.

        Raises:
            InvalidArgumentError: See `cut_named_page`.
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
                address=worker.place.address,
                metadata=worker.metadata,
                short_of=worker.short_of,
            )

        names = sorted(self.workers)
        return cut_named_page("workers", names, message, page_size=page_size, page_token=page_token)


def _silent_for(lease_s: float) -> str:
    return f"it has been silent for longer than its lease of {format_span(lease_s)}"
