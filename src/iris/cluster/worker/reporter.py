"""Tells the controller what became of attempts, until it has acknowledged that; without news it is the heartbeat.

News is merged: an attempt that has moved on while the controller was slow, or away, is told of once, as it is now.
What 200 tasks have to tell at once travels in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from iris.cluster.worker.attempt import Attempt
from iris.cluster.worker.trust import Trust
from iris.errors import IrisError, UnavailableError
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.calls import Peer, call_async
from iris.rpc.credentials import Credentials
from iris.rpc.process import happens

HEARTBEAT_S = 5.0
_BATCH_BYTES = 16 * 1024 * 1024  # of return values in one call; a single larger one travels alone
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)

AttemptKey = tuple[str, int]


class Reporter:
    """The worker's line to the controller.

    Args:
        controller: The stub.
        peer: Who that is, for messages.
        registration: What the worker says of itself, at the start and whenever the controller does not know it.
        on_unwanted: Called for an attempt that the controller does not want to run here.
        credentials: What the worker shows; the controller hands it new ones.
        trust: Learns from the controller which tokens are good.
    """

    def __init__(
        self,
        controller: cluster_connect.ControllerServiceClient,
        peer: Peer,
        registration: cluster_pb2.Controller.RegisterWorkerRequest,
        on_unwanted: Callable[[AttemptKey], None],
        credentials: Credentials,
        trust: Trust,
    ) -> None:
        self._controller = controller
        self._peer = peer
        self._registration = registration
        self._on_unwanted = on_unwanted
        self._credentials = credentials
        self._trust = trust
        self._news: dict[AttemptKey, Attempt] = {}
        self._wake = asyncio.Event()

    def tell(self, attempt: Attempt) -> None:
        """There is news of the attempt."""
        attempt.revision += 1
        self._news[attempt.key] = attempt
        self._wake.set()

    async def run(self) -> None:
        """Registers, then reports for as long as the worker lives."""
        await self._until_answered(self._register)
        while True:
            await happens(self._wake, HEARTBEAT_S)
            self._wake.clear()
            await self._until_answered(self._report)

    async def flush(self, timeout_s: float) -> None:
        """Reports what there is, if the controller answers within the time."""
        with contextlib.suppress(TimeoutError, IrisError):
            async with asyncio.timeout(timeout_s):
                await self._report()

    async def _register(self) -> None:
        answer = await call_async(self._controller.register_worker, self._registration, self._peer)
        if not answer.accepted:
            raise UnavailableError(f"the controller at {self._peer.address} does not accept this worker now")
        self._trust.learn_key(answer.token_key)
        self._take_token(answer.token)

    async def _report(self) -> None:
        while True:
            batch = self._next_batch()
            told = [(attempt, attempt.revision) for attempt in batch]
            request = cluster_pb2.Controller.ReportTaskStatesRequest(
                worker_id=self._registration.worker_id,
                incarnation=self._registration.incarnation,
                reports=[attempt.report(self._registration.worker_id) for attempt in batch],
                revocations=self._trust.revocations,
            )
            answer = await call_async(self._controller.report_task_states, request, self._peer)
            self._take_token(answer.token)
            if answer.revocations != self._trust.revocations:
                self._trust.learn_revoked(answer.revocations, frozenset(answer.revoked))
            if answer.register_again:
                await self._register()
                continue
            for attempt, revision in told:
                if attempt.revision == revision:
                    self._news.pop(attempt.key, None)
                    if attempt.is_final:
                        attempt.reported = True
                        attempt.result = b""  # the controller has it now
            for unwanted in answer.unwanted:
                self._on_unwanted((unwanted.task_id, unwanted.attempt_id))
            if not self._news:
                return

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
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
