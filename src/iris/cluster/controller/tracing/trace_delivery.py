"""Sends the spans of attempts and jobs to a collector once they have ended.

The delivery follows the journal of events, and makes the spans from the stored times of the job. The place of the
delivery in the journal is stored. Therefore a collector that does not answer costs no memory, and a restarted
controller sends the remaining spans. If the controller is killed before the place is stored, the spans of the last
second are sent again, with the same ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from iris.cluster.controller.events.event_rows import SAVE_WEBHOOK, Event, EventFilter
from iris.cluster.controller.events.event_streams import EventPages
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.saver import Saver
from iris.cluster.controller.storage.store import Changes
from iris.cluster.controller.tracing.job_spans import JobTrace, SpanData, attempt_spans, job_span
from iris.errors import IrisError
from iris.event_kinds import JOB_ENDS
from iris.event_log import log_event
from iris.system.backoff import Backoff

PLACE = "traces"  # The name under which the place in the journal is stored, beside the places of webhooks.
KINDS = (
    *JOB_ENDS,
    "task.retried",
    "task.succeeded",
    "task.failed",
    "task.killed",
    "task.worker_failed",
)
GATHER_S = 1.0  # Spans are gathered for this time, so that many of them share one request.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_YIELD_EVERY = 50
_LAST_REQUEST_S = 10.0  # When the controller stops, the delivery of spans waits this long for its last request.
_log = logging.getLogger(__name__)


class SpanSender(Protocol):
    """Sends spans. The calls block."""

    def send(self, spans: Sequence[SpanData]) -> bool:
        """Send spans, and return whether they were accepted."""

    def close(self) -> None:
        """End a running call."""


class Jobs(Protocol):
    """Finds jobs."""

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a job; None if there is no job with this id."""


class TraceDelivery:
    """The delivery of spans.

    Args:
        sender: Sends the spans.
        number: The last event whose spans were sent.
        journal: The events.
        pages: Reads the stored events.
        jobs: Finds the jobs of events.
        saver: Stores the place in the journal.
        gather_s: For how many seconds spans are gathered before they are sent.
    """

    def __init__(
        self,
        sender: SpanSender,
        number: int,
        journal: EventJournal,
        pages: EventPages,
        jobs: Jobs,
        saver: Saver,
        *,
        gather_s: float = GATHER_S,
    ) -> None:
        self._sender = sender
        self._number = self._saved_number = number
        self._journal = journal
        self._pages = pages
        self._jobs = jobs
        self._saver = saver
        self._gather_s = gather_s
        self._filter = EventFilter(KINDS)
        self._thread = ThreadPoolExecutor(1, "iris-traces")
        self._pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._is_failing = False
        # The request that is being sent, and the event up to which it has spans. None: no request is being sent.
        self._sending: tuple[asyncio.Future[bool], int] | None = None
        # The trace of the last job, because the events of one job often follow each other.
        self._trace: tuple[JobRecord, JobTrace] | None = None

    async def run(self) -> None:
        """Send spans until the task is cancelled. Then try once to send the remaining spans."""
        try:
            while True:
                stored = self._journal.next_events()
                while self._number < self._journal.last_number:
                    if not await self._try_page():
                        await asyncio.sleep(self._pauses.next_s())
                await stored.wait()
                await asyncio.sleep(self._gather_s)
        finally:
            if self._sending is not None:
                await self._finish_sending(*self._sending)
            elif not self._is_failing and self._number < self._journal.last_number:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_REQUEST_S):
                        await self._try_page()
            self._sender.close()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _try_page(self) -> bool:
        """Send the spans of the next events. Return whether the page is done. An error must not end the delivery."""
        try:
            return await self._send_page()
        except Exception:  # noqa: BLE001 - A failing disk, for example, must not end the delivery.
            _log.exception("spans cannot be made, trying again later")
            return False

    async def _send_page(self) -> bool:
        """Send the spans of the next events. Return whether the collector has accepted them."""
        self._number = max(self._number, self._journal.first_number - 1)
        events, reached = await self._pages.page(self._number, self._filter)
        spans: list[SpanData] = []
        for count, event in enumerate(events, 1):
            spans += await self._spans_of(event)
            if not count % _YIELD_EVERY:
                await asyncio.sleep(0)
        if spans:
            if not await self._send(spans, reached):
                if not self._is_failing:
                    self._is_failing = True
                    text = "the collector does not accept spans, which are sent again later"
                    log_event(_log, "traces.failing", level=logging.WARNING, error=text)
                return False
            if self._is_failing:
                self._is_failing = False
                log_event(_log, "traces.recovered")
            self._pauses.reset()
        self._number = reached
        if spans or reached - self._saved_number > 1000:
            await self._save()
        return True

    async def _send(self, spans: Sequence[SpanData], reached: int) -> bool:
        """Send spans, and return whether the collector has accepted them."""
        sent = asyncio.get_running_loop().run_in_executor(self._thread, self._sender.send, spans)
        self._sending = sent, reached
        try:
            is_accepted = await asyncio.shield(sent)
        except Exception:  # noqa: BLE001 - An exporter that raises must not end the delivery for good.
            _log.exception("spans cannot be sent")
            is_accepted = False
        self._sending = None
        return is_accepted

    async def _finish_sending(self, sent: asyncio.Future[bool], reached: int) -> None:
        """Wait for the request that is being sent, so that the next controller does not send it again."""
        await asyncio.wait([sent], timeout=_LAST_REQUEST_S)
        if sent.done() and not sent.cancelled() and sent.exception() is None and sent.result():
            self._number = reached
            await self._save()

    async def _spans_of(self, event: Event) -> list[SpanData]:
        record = await self._jobs.get(event.job_id)
        # The job may have been removed, and a later job may have its name.
        if record is None or not record.launch.is_traced or record.job.submitted_at_ms > event.time_ms:
            return []
        job = record.job
        if self._trace is None or self._trace[0] is not record:
            self._trace = record, JobTrace(job.job_id, job.submitted_at_ms, record.launch)
        trace = self._trace[1]
        if not event.HasField("task_index"):
            return [job_span(job, trace)]
        if not event.HasField("attempt_id"):
            return []  # Only attempts have spans, and the event is about a task that ended without a further attempt.
        if event.task_index >= len(job.tasks) or event.attempt_id >= len(job.tasks[event.task_index].attempts):
            return []  # The clock was set back, and the event belongs to an earlier job with the same name.
        return list(attempt_spans(job, trace, event.task_index, event.attempt_id))

    async def _save(self) -> None:
        number = self._number

        def add(changes: Changes) -> None:
            changes.add_rows(SAVE_WEBHOOK, [(PLACE, number)])

        with suppress(IrisError):
            await self._saver.write_once(add)
            self._saved_number = number
