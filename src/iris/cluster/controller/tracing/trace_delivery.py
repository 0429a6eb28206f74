"""Sends the spans of attempts, jobs, calls and log uploads to a collector once they have ended.

The delivery follows the journal of events, and makes the spans of attempts and jobs from the stored times of the job.
The database stores the number of the last event whose spans were sent. Therefore a collector that does not answer costs
no memory, and a restarted controller sends the remaining spans. If the controller is killed before this number is
stored, the spans of the last request are sent again, with the same ids.

The spans of calls and log uploads are only in memory, in a limited number (`pending_spans.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from iris.cluster.controller.events.event_rows import SAVE_WEBHOOK, Event, EventFilter
from iris.cluster.controller.events.event_streams import EventPages
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.logs.receive import UploadedLog
from iris.cluster.controller.storage.store import Changes
from iris.cluster.controller.tracing.job_spans import attempt_spans, job_span, log_upload_span
from iris.cluster.controller.tracing.otlp import CollectorAnswer
from iris.cluster.controller.tracing.pending_spans import PendingSpans
from iris.cluster.controller.tracing.span_tally import Drop, SpanTally
from iris.cluster.controller.tracing.spans import Span
from iris.cluster.controller.tracing.traced_jobs import FoundJob, Jobs, TracedJobs
from iris.errors import IrisError
from iris.event_kinds import JOB_ENDS
from iris.event_log import log_event
from iris.system.backoff import Backoff
from iris.system.event_loop import happens

# The table of webhooks stores the number of the last event whose spans were sent under this name.
PLACE = "traces"
KINDS = (
    "task.succeeded",
    "task.retried",
    "task.failed",
    "task.killed",
    "task.worker_failed",
    *JOB_ENDS,
)
# Spans are gathered for this many seconds, so that many spans share one request.
GATHER_S = 1.0
# If more than this number of events arrive while spans are gathered, their spans are sent at once, because the journal
# has only the newest 1,000 events in memory.
_GATHER_EVENTS = 700
_MOST_PENDING = 2000  # One request has at most this many spans of calls and log uploads.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
# After making the spans of this many events, the event loop does other work.
_ITEMS_AT_ONCE = 50
# A controller that stops waits at most this many seconds for the answer to its last request, and then at most as many
# seconds until the remaining spans are sent.
_LAST_REQUEST_S = 10.0
_REPORT_EVERY_S = 60.0
_log = logging.getLogger(__name__)


class SpanSender(Protocol):
    """Sends spans."""

    def encode(self, spans: Iterable[Span]) -> bytes:
        """Return spans as bytes for `send`."""

    async def send(self, spans: Sequence[bytes]) -> CollectorAnswer:
        """Send encoded spans in one request, and return the answer of the collector."""

    async def close(self) -> None:
        """Close the connections."""


class PlaceSaver(Protocol):
    """Stores rows of the database."""

    async def write_once(self, add: Callable[[Changes], object], /) -> None:
        """Store the rows that a function adds."""


@dataclass(frozen=True, slots=True)
class _Page:
    """The spans of one request.

    Attributes:
        spans: The encoded spans in the request.
        num_spans: The number of spans in the request.
        reached: The number of the last event that was read for the request.
        num_pending: How many spans of calls and log uploads are in the request.
    """

    spans: Sequence[bytes]
    num_spans: int
    reached: int
    num_pending: int


class TraceDelivery:
    """The delivery of spans.

    Args:
        sender: The object that sends requests with spans to the collector.
        number: The number of the last event whose spans were sent.
        journal: The object that stores the events of the cluster.
        pages: The object that reads the stored events.
        jobs: The object that finds the jobs of events.
        saver: The object that stores the number of the last event whose spans were sent.
        gather_s: For how many seconds spans are gathered before they are sent.
        last_request_s: How many seconds a stopped delivery waits for the answer to the request that is being sent, and
            how many seconds it then spends at most on the remaining spans.

    Attributes:
        tally: The numbers of spans that were sent and given up.
        pending: The spans of calls and log uploads that wait to be sent.
    """

    def __init__(
        self,
        sender: SpanSender,
        number: int,
        journal: EventJournal,
        pages: EventPages,
        jobs: Jobs,
        saver: PlaceSaver,
        *,
        gather_s: float = GATHER_S,
        last_request_s: float = _LAST_REQUEST_S,
    ) -> None:
        self.tally = SpanTally()
        self.pending = PendingSpans(self.tally)
        self._sender = sender
        self._number = self._saved_number = number
        self._journal = journal
        self._pages = pages
        self._jobs = TracedJobs(jobs)
        self._saver = saver
        self._gather_s = gather_s
        self._last_request_s = last_request_s
        self._filter = EventFilter(KINDS)
        self._pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._retry_after_s = 0.0
        self._is_failing = False
        self._reported_at_s = -_REPORT_EVERY_S
        # The request that is being sent, or None if no request is being sent.
        self._sending: tuple[asyncio.Task[CollectorAnswer], _Page] | None = None

    def job_removed(self, record: JobRecord) -> None:
        """Keep the record of a removed job until the job's spans are sent. The number of kept records is limited."""
        if self._number < self._journal.last_number:
            self._jobs.keep(record, self._journal.last_number)

    async def run(self) -> None:
        """Send spans until the task is cancelled. Then send the remaining spans, within some seconds."""
        try:
            while True:
                await self._wait_for_spans()
                if not await self.deliver_page():
                    await asyncio.sleep(max(self._pauses.next_s(), self._retry_after_s))
                self._report_drops()
        finally:
            # If the collector does not answer the last request, another request would only send the same spans twice.
            is_answered = self._sending is None or await self._finish_sending(*self._sending)
            if is_answered and not self._is_failing:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._last_request_s):
                        await self._deliver_rest()
            self._report_drops()
            await self.close()

    async def _deliver_rest(self) -> None:
        """Send the remaining spans. Stop after a request whose spans would have to be sent again."""
        while self._has_work and await self.deliver_page():
            pass

    async def close(self) -> None:
        """Close the connections to the collector."""
        await self._sender.close()

    @property
    def _has_work(self) -> bool:
        return self._number < self._journal.last_number or len(self.pending) > 0

    async def _wait_for_spans(self) -> None:
        """Wait until there are events or spans to handle. Then wait a little longer for further events and spans, so
        that they share one request.
        """
        if not self._has_work:
            await self._wait_for_work()
        until_s = time.monotonic() + self._gather_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._journal.last_number - self._number > _GATHER_EVENTS:
                return
            await happens(self._journal.next_events(), left_s)

    async def _wait_for_work(self) -> None:
        waits = [asyncio.create_task(self._journal.next_events().wait()), asyncio.create_task(self.pending.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def deliver_page(self) -> bool:
        """Send the spans of the next events. Return False if these spans must be sent again later. An error does not
        end the delivery.
        """
        try:
            return await self._send_page()
        except Exception:  # noqa: BLE001 - A failing disk, for example, must not end the delivery.
            _log.exception("spans cannot be made, trying again later")
            return False

    async def _send_page(self) -> bool:
        """Send the spans of the next events. Return True if the spans are accepted or given up, and False if they must
        be sent again.
        """
        expired = self._journal.first_number - 1 - self._number
        if expired > 0:
            self.tally.drop(Drop.EXPIRED, "the events are not stored any more", expired)
            self._number += expired
        page = await self._make_page()
        if page.num_spans:
            answer = await self._send(page)
            if not await self._conclude(answer, page):
                return False
        else:
            self._number = page.reached
            self.pending.remove(page.num_pending)
        self._jobs.release(self._number)
        if page.reached - self._saved_number > 1000:
            await self._save()
        return True

    async def _make_page(self) -> _Page:
        events, reached = await self._pages.page(self._number, self._filter)
        pending = self.pending.first(_MOST_PENDING)
        parts: list[bytes] = []
        num_spans = 0
        # The spans of a few events are encoded at a time, because many living objects would cause long pauses of the
        # garbage collector.
        for first in range(0, len(events) + len(pending), _ITEMS_AT_ONCE):
            spans: list[Span] = []
            for event in events[first : first + _ITEMS_AT_ONCE]:
                found = self._jobs.find_again(event.job_id, event.time_ms)
                found = found or await self._jobs.find(event.job_id, event.time_ms)
                spans += self._made(partial(self._spans_of, event, found))
            for one in pending[max(0, first - len(events)) : max(0, first + _ITEMS_AT_ONCE - len(events))]:
                if isinstance(one, Span):
                    spans.append(one)
                    continue
                # The task id needs no check here, because the log keeper has checked it.
                job_id, _, index = one.task_id.rpartition("/task-")
                found = self._jobs.find_again(job_id, one.end_ms) or await self._jobs.find(job_id, one.end_ms)
                spans += self._made(partial(self._spans_of_upload, one, int(index), found))
            part, count = self._encoded(spans)
            parts.append(part)
            num_spans += count
            await asyncio.sleep(0)
        self._jobs.forget_last()
        return _Page(parts, num_spans, reached, len(pending))

    def _made(self, make: Callable[[], Sequence[Span]]) -> Sequence[Span]:
        """Return new spans. If an error prevents this, drop the spans, because the same error would occur again."""
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - A fault of Iris must not prevent all later spans from being sent.
            self._drop_invalid(error)
            return ()

    def _encoded(self, spans: Sequence[Span]) -> tuple[bytes, int]:
        """Return encoded spans, and the number of these spans. Spans that cannot be encoded are dropped."""
        try:
            return self._sender.encode(spans), len(spans)
        except Exception:  # noqa: BLE001 - The spans are encoded one by one below, to find the invalid spans.
            parts = []
        for span in spans:
            try:
                parts.append(self._sender.encode([span]))
            except Exception as error:  # noqa: BLE001 - See `_made`.
                self._drop_invalid(error)
        return b"".join(parts), len(parts)

    def _drop_invalid(self, error: Exception) -> None:
        # The traceback is logged only at the level DEBUG, because one client may cause thousands of invalid spans.
        # `_report_drops` logs one warning about all invalid spans of a minute.
        _log.debug("a span cannot be made", exc_info=error)
        self.tally.drop(Drop.INVALID, f"a span cannot be made: {type(error).__name__}: {error}")

    async def _send(self, page: _Page) -> CollectorAnswer:
        """Send spans, and return the collector's answer. If the caller is cancelled, the request continues, and stays
        in `_sending`.
        """
        sending = asyncio.create_task(self._sender.send(page.spans))
        self._sending = sending, page
        try:
            answer = await asyncio.shield(sending)
        except Exception as error:  # noqa: BLE001 - A sender that raises must not end the delivery for good.
            _log.exception("spans cannot be sent")
            answer = CollectorAnswer(f"spans cannot be sent: {type(error).__name__}", is_final=False)
        self._sending = None
        return answer

    async def _conclude(self, answer: CollectorAnswer, page: _Page) -> bool:
        """Count the spans of an answered request, and store the number of its last event. Return False if the spans
        must be sent again.
        """
        if not answer.is_accepted and not answer.is_final:
            self._retry_after_s = answer.retry_after_s
            if not self._is_failing:
                self._is_failing = True
                text = f"{answer.problem}; the spans are sent again later"
                log_event(_log, "traces.failing", level=logging.WARNING, error=text)
            return False
        if not answer.is_accepted:
            self.tally.drop(Drop.REFUSED, answer.problem, page.num_spans)
        else:
            rejected = min(answer.num_rejected, page.num_spans)
            self.tally.sent += page.num_spans - rejected
            if rejected:
                self.tally.drop(Drop.REJECTED, answer.problem, rejected)
        if self._is_failing:
            self._is_failing = False
            log_event(_log, "traces.recovered")
        self._retry_after_s = 0.0
        self._pauses.reset()
        self._number = page.reached
        self.pending.remove(page.num_pending)
        if self._number != self._saved_number:
            await self._save()
        return True

    async def _finish_sending(self, sending: asyncio.Task[CollectorAnswer], page: _Page) -> bool:
        """Wait for the end of the request that is being sent, so that the next controller does not send the same spans
        again. Return False if the collector has not answered the request.
        """
        await asyncio.wait([sending], timeout=self._last_request_s)
        if not sending.done() or sending.cancelled() or sending.exception() is not None:
            return False
        await self._conclude(sending.result(), page)
        return True

    def _spans_of(self, event: Event, found: FoundJob | None) -> Sequence[Span]:
        """Return the spans that can be sent after an event: the span of the ended job, or the spans of the ended
        attempt.
        """
        if found is None:
            self.tally.drop(Drop.JOB_REMOVED, "the job was removed before its spans were sent")
            return ()
        job, trace = found
        if trace is None:
            return ()
        if not event.HasField("attempt_id"):
            # Tasks have no spans. An event without an attempt is about a job, or about a task that had no attempt.
            return () if event.HasField("task_index") else (job_span(job, trace),)
        task_index, attempt_id = event.task_index, event.attempt_id
        if task_index >= len(job.tasks) or attempt_id >= len(job.tasks[task_index].attempts):
            return ()  # The event belongs to an earlier job with the same name, so it has no spans.
        return attempt_spans(job, trace, task_index, attempt_id)

    def _spans_of_upload(self, log: UploadedLog, task_index: int, found: FoundJob | None) -> Sequence[Span]:
        if found is None or (log.job_submitted_at_ms and found[0].submitted_at_ms != log.job_submitted_at_ms):
            self.tally.drop(Drop.JOB_REMOVED, "the job was removed before its spans were sent")
            return ()
        _, trace = found
        if trace is None:
            return ()
        return (log_upload_span(trace, task_index, log.attempt_id, log.begin_ms, log.end_ms),)

    def _report_drops(self) -> None:
        """Record how many spans were given up. There is at most one event in a minute, because an event for each page
        could remove all other events from the journal.
        """
        if time.monotonic() < self._reported_at_s + _REPORT_EVERY_S:
            return
        count, problem = self.tally.pop_unreported()
        if count:
            self._reported_at_s = time.monotonic()
            log_event(_log, "traces.dropped", level=logging.WARNING, count=count, error=problem)

    async def _save(self) -> None:
        number = self._number

        def add(changes: Changes) -> None:
            changes.add_rows(SAVE_WEBHOOK, [(PLACE, number)])

        with suppress(IrisError):
            await self._saver.write_once(add)
            self._saved_number = number
