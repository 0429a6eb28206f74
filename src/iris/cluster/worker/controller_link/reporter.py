"""Reports the states of attempts to the controller, and renews the worker's lease.

Each report is repeated until the controller has acknowledged it. Reports are merged: if an attempt changes several
times while the controller is slow or unreachable, only its latest state is sent. One call carries the reports of all
attempts with a new state, unless their results are too large for one call. If no state has changed, an empty report
serves as the worker's heartbeat. Every acknowledged report renews the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from iris import versions
from iris.cluster.worker.attempt.attempt_record import Attempt, AttemptKey
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.cluster.worker.controller_link.token_checker import TokenChecker
from iris.cluster.worker.supervision.lease import Lease
from iris.cluster.worker.supervision.reaper import clock_s
from iris.errors import DeadlineExceededError, IrisError, UnavailableError
from iris.event_log import log_event
from iris.failpoints import failpoint
from iris.reasons import NO_SHORTAGE, Shortage
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import Credentials
from iris.rpc.calls import AsyncUnaryCall, Request, Response, call_async
from iris.rpc.cluster_connect import ControllerServiceClient
from iris.system.backoff import Backoff
from iris.system.event_loop import happens

# The largest size in bytes of all results in one call together. A larger result is sent in a separate call.
_BATCH_BYTES = 16 * 1024 * 1024
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)

DECLARED_LOST = "the controller has declared this worker lost"


class Reporter:
    """Reports the states of attempts to the controller until the controller has acknowledged them.

    Args:
        controller: The connection to the controller.
        registration: The message that registers the worker, at the start and whenever the controller does not know the
            worker.
        lease: The lease of this worker, which each acknowledged report renews.
        on_unwanted: A function that is called with the key of an attempt if the controller answers that the attempt
            must not run on this worker.
        on_fenced: A function that is called with the reason when the controller has declared this worker lost or has
            refused the worker. Afterwards the reporter sends no more reports.
        credentials: The worker's token, which the controller replaces from time to time.
        tokens: The object that stores which tokens the controller has revoked.
    """

    def __init__(
        self,
        controller: ControllerConnection,
        registration: cluster_pb2.Controller.RegisterWorkerRequest,
        lease: Lease,
        on_unwanted: Callable[[AttemptKey], None],
        on_fenced: Callable[[str], None],
        credentials: Credentials,
        tokens: TokenChecker,
    ) -> None:
        self._controller = controller
        self._registration = registration
        self._lease = lease
        self._on_unwanted = on_unwanted
        self._on_fenced = on_fenced
        self._is_fenced = False
        self._credentials = credentials
        self._tokens = tokens
        self._news: dict[AttemptKey, Attempt] = {}
        self._wake = asyncio.Event()
        self._shortage = NO_SHORTAGE
        # Callers wait for this event until the controller has acknowledged all reports. Then the event is set, and a
        # new event replaces it.
        self._acknowledged = asyncio.Event()

    def report(self, attempt: Attempt) -> None:
        """Report the present state of an attempt to the controller with the next call."""
        attempt.revision += 1
        self._news[attempt.key] = attempt
        self._wake.set()

    def set_shortage(self, why: Shortage) -> None:
        """Set the shortage that prevents new attempts on this worker. A `Shortage` that is false means that new
        attempts can start. The beginning and the end of a shortage are reported at once.
        """
        if why and self._shortage:
            # If only the text of the shortage has changed, the text waits for the next report. The text has numbers
            # that change all the time, and an immediate report for each change would be too many.
            self._shortage = why
        elif why or self._shortage:
            self._shortage = why
            self._wake.set()

    async def run(self) -> None:
        """Register the worker, and report attempts until the worker ends."""
        await self._until_answered(self._register)
        while not self._is_fenced:
            await happens(self._wake, self._lease.heartbeat_s)
            self._wake.clear()
            await self._until_answered(self._report)

    async def until_acknowledged(self) -> None:
        """Wait until the controller has acknowledged the states of all attempts."""
        while self._news:
            await self._acknowledged.wait()

    async def flush(self, timeout_s: float) -> None:
        """Report the states of all attempts, if the controller answers within the time limit."""
        with contextlib.suppress(TimeoutError, IrisError):
            async with asyncio.timeout(timeout_s):
                await self._report()

    async def _register(self) -> None:
        sent_s = clock_s()
        failpoint("register.before")
        self._registration.short_of = self._shortage.text
        self._registration.shortage_reason = self._shortage.code  # type: ignore[assignment]
        answer = await self._call(lambda stub: stub.register_worker, self._registration)
        failpoint("register.after")
        why_not = DECLARED_LOST
        if answer.refused:
            why_not = f"the controller refuses this worker: {answer.refused}"
        elif answer.accepted:
            theirs = answer.version or versions.FIRST
            why_not = versions.why_not_together(theirs, "the controller", versions.VERSION, "this worker")
        if why_not:
            self._fenced(why_not)
            return
        self._tokens.learn_key(answer.token_key)
        self._replace_token(answer.token)
        self._lease.grant(answer.lease_ms / 1000, sent_s)
        log_event(_log, "lease.granted", worker_id=self._registration.worker_id, lease_s=self._lease.length_s)

    def _fenced(self, why: str) -> None:
        self._is_fenced = True
        self._on_fenced(why)

    async def _call(
        self, method: Callable[[ControllerServiceClient], AsyncUnaryCall[Request, Response]], request: Request
    ) -> Response:
        return await call_async(
            method(self._controller.stub), request, self._controller.peer, timeout_s=self._lease.call_timeout_s
        )

    async def _report(self) -> None:
        while not self._is_fenced:
            batch = self._next_batch()
            sent = [(attempt, attempt.revision, attempt.state) for attempt in batch]
            request = cluster_pb2.Controller.ReportTaskStatesRequest(
                worker_id=self._registration.worker_id,
                incarnation=self._registration.incarnation,
                reports=[attempt.report(self._registration.worker_id) for attempt in batch],
                revocations=self._tokens.revocations,
                short_of=self._shortage.text,
                shortage_reason=self._shortage.code,  # type: ignore[arg-type]
            )
            sent_s = clock_s()
            failpoint("report.before")
            answer = await self._call(lambda stub: stub.report_task_states, request)
            failpoint("report.after")
            if answer.fenced:
                self._fenced(DECLARED_LOST)
                return
            self._replace_token(answer.token)
            if answer.revocations != self._tokens.revocations:
                self._tokens.learn_revoked(answer.revocations, frozenset(answer.revoked))
            if answer.register_again:
                await self._register()
                continue
            self._lease.renew(sent_s)
            for attempt, revision, state in sent:
                if state != cluster_pb2.TASK_STATE_BUILDING:
                    attempt.announcement.acknowledged()
                if attempt.revision == revision:
                    self._news.pop(attempt.key, None)
                    if attempt.is_final:
                        attempt.reported = True
                        attempt.result = b""
            for unwanted in answer.unwanted:
                self._on_unwanted((unwanted.task_id, unwanted.attempt_id))
            if not self._news:
                acknowledged, self._acknowledged = self._acknowledged, asyncio.Event()
                acknowledged.set()
                return

    async def _send_heartbeat(self) -> None:
        """Renew the lease with a call without reports, because the controller answers calls but cannot store reports
        now. For example, the controller's disk may be full. A full disk of the controller must not end this worker.
        """
        request = cluster_pb2.Controller.ReportTaskStatesRequest(
            worker_id=self._registration.worker_id,
            incarnation=self._registration.incarnation,
            short_of=self._shortage.text,
            shortage_reason=self._shortage.code,  # type: ignore[arg-type]
        )
        sent_s = clock_s()
        with contextlib.suppress(IrisError):
            answer = await self._call(lambda stub: stub.report_task_states, request)
            if answer.fenced:
                self._fenced(DECLARED_LOST)
            elif not answer.register_again:
                self._replace_token(answer.token)
                self._lease.renew(sent_s)

    def _replace_token(self, token: str) -> None:
        if token:
            self._credentials.replace(token)

    def _next_batch(self) -> list[Attempt]:
        batch: list[Attempt] = []
        size = 0
        for attempt in self._news.values():
            size += len(attempt.result)
            if batch and size > _BATCH_BYTES:
                break
            batch.append(attempt)
        return batch

    async def _until_answered(self, send: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(0.1, min(_LONGEST_PAUSE_S, self._lease.heartbeat_s))
        while True:
            try:
                await send()
                return
            except IrisError as error:
                # After any error, each report is repeated until the controller acknowledges the report.
                _log.warning("%s; trying again in %.1f s", error, backoff.expected_s)
                if not isinstance(error, UnavailableError | DeadlineExceededError):
                    await self._send_heartbeat()
                    if self._is_fenced:
                        return
                await self._controller.pause(backoff.next_s())
