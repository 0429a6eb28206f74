"""Tells the controller what became of attempts, until it has acknowledged that; without news it is the heartbeat.

News is merged: an attempt that has moved on while the controller was slow, or away, is told of once, as it is now.
What 200 tasks have to tell at once travels in one call. What the controller acknowledges renews the worker's lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from iris import versions
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.controller_link.connection import ControllerLine
from iris.cluster.worker.controller_link.trust import Trust
from iris.cluster.worker.supervision.lease import Lease
from iris.cluster.worker.supervision.reaper import clock_s
from iris.errors import DeadlineExceededError, IrisError, UnavailableError
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import Credentials
from iris.rpc.calls import AsyncUnaryCall, Request, Response, call_async
from iris.rpc.cluster_connect import ControllerServiceClient
from iris.system.processes import happens

_BATCH_BYTES = 16 * 1024 * 1024  # of return values in one call; a single larger one travels alone
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)

DECLARED_LOST = "the controller has declared it lost"

AttemptKey = tuple[str, int]


class Reporter:
    """The worker's line to the controller.

    Args:
        controller: The other end.
        registration: What the worker says of itself, at the start and whenever the controller does not know it.
        lease: The worker's.
        on_unwanted: Called for an attempt that the controller does not want to run here.
        on_fenced: Called with the reason when the controller does not want this worker any more: nothing is reported.
        credentials: What the worker shows; the controller hands it new ones.
        trust: Learns from the controller which tokens are good.
    """

    def __init__(
        self,
        controller: ControllerLine,
        registration: cluster_pb2.Controller.RegisterWorkerRequest,
        lease: Lease,
        on_unwanted: Callable[[AttemptKey], None],
        on_fenced: Callable[[str], None],
        credentials: Credentials,
        trust: Trust,
    ) -> None:
        self._controller = controller
        self._registration = registration
        self._lease = lease
        self._on_unwanted = on_unwanted
        self._on_fenced = on_fenced
        self._is_fenced = False
        self._credentials = credentials
        self._trust = trust
        self._news: dict[AttemptKey, Attempt] = {}
        self._wake = asyncio.Event()
        self._short_of = ""
        self._told = asyncio.Event()  # set, and replaced, when there is no news that is not acknowledged

    def tell(self, attempt: Attempt) -> None:
        """There is news of the attempt."""
        attempt.revision += 1
        self._news[attempt.key] = attempt
        self._wake.set()

    def say_short_of(self, why: str) -> None:
        """Why nothing new can be started here; empty: it can. Told at once where that is news."""
        if why and self._short_of:
            self._short_of = why  # told with the next report: its numbers change all the time
        elif why != self._short_of:
            self._short_of = why
            self._wake.set()

    async def run(self) -> None:
        """Registers, then reports for as long as the worker lives."""
        await self._until_answered(self._register)
        while not self._is_fenced:
            await happens(self._wake, self._lease.heartbeat_s)
            self._wake.clear()
            await self._until_answered(self._report)

    async def until_told(self) -> None:
        """Returns when the controller has acknowledged all that there is to tell."""
        while self._news:
            await self._told.wait()

    async def flush(self, timeout_s: float) -> None:
        """Reports what there is, if the controller answers within the time."""
        with contextlib.suppress(TimeoutError, IrisError):
            async with asyncio.timeout(timeout_s):
                await self._report()

    async def _register(self) -> None:
        sent_s = clock_s()
        failpoint("register.before")
        self._registration.short_of = self._short_of
        answer = await self._call(lambda stub: stub.register_worker, self._registration)
        failpoint("register.after")
        why_not = DECLARED_LOST
        if answer.refused:
            why_not = f"the controller refuses it: {answer.refused}"
        elif answer.accepted:
            theirs = answer.version or versions.FIRST
            why_not = versions.why_not_together(theirs, "the controller", versions.VERSION, "this worker")
        if why_not:
            self._fenced(why_not)
            return
        self._trust.learn_key(answer.token_key)
        self._take_token(answer.token)
        self._lease.grant(answer.lease_ms / 1000, sent_s)

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
                revocations=self._trust.revocations,
                short_of=self._short_of,
            )
            sent_s = clock_s()
            failpoint("report.before")
            answer = await self._call(lambda stub: stub.report_task_states, request)
            failpoint("report.after")
            if answer.fenced:
                self._fenced(DECLARED_LOST)
                return
            self._take_token(answer.token)
            if answer.revocations != self._trust.revocations:
                self._trust.learn_revoked(answer.revocations, frozenset(answer.revoked))
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
                        attempt.result = b""  # the controller has it now
            for unwanted in answer.unwanted:
                self._on_unwanted((unwanted.task_id, unwanted.attempt_id))
            if not self._news:
                told, self._told = self._told, asyncio.Event()
                told.set()
                return

    async def _beat(self) -> None:
        """The controller is there and cannot take our news now: its disk may be full. That is no reason to end."""
        request = cluster_pb2.Controller.ReportTaskStatesRequest(
            worker_id=self._registration.worker_id,
            incarnation=self._registration.incarnation,
            short_of=self._short_of,
        )
        sent_s = clock_s()
        with contextlib.suppress(IrisError):
            answer = await self._call(lambda stub: stub.report_task_states, request)
            if answer.fenced:
                self._fenced(DECLARED_LOST)
            elif not answer.register_again:
                self._take_token(answer.token)
                self._lease.renew(sent_s)

    def _take_token(self, token: str) -> None:
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
        pause_s = 0.1
        while True:
            try:
                await send()
                return
            except IrisError as error:
                # Whatever the reason, the news stays ours until it is acknowledged.
                _log.warning("%s; trying again in %.1f s", error, pause_s)
                if not isinstance(error, UnavailableError | DeadlineExceededError):
                    await self._beat()
                    if self._is_fenced:
                        return
                await self._controller.pause(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S, self._lease.heartbeat_s)
