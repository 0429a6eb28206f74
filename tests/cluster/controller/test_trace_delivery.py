"""The delivery of spans that cannot be encoded, and of the last spans of a controller that stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import pytest

from iris.cluster.controller.events.event_streams import EventPages
from iris.cluster.controller.events.journal import EventJournal
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.tracing import trace_delivery
from iris.cluster.controller.tracing.otlp import CollectorAnswer
from iris.cluster.controller.tracing.span_encoding import encode_spans
from iris.cluster.controller.tracing.spans import Span, Trace
from iris.cluster.controller.tracing.trace_delivery import TraceDelivery
from iris.event_log.events import EventRecord

pytestmark = pytest.mark.anyio
TRACE = Trace(bytes(range(16)), "")
GOOD = Span(TRACE, b"12345678", b"abcdefgh", "running", 1, 2)
INVALID = GOOD._replace(begin_ns=-1)  # A time before the epoch cannot be encoded.


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Collector:
    """A collector that accepts all spans, or none."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.is_up = True
        self.is_answering = asyncio.Event()
        self.is_answering.set()

    def encode(self, spans: Iterable[Span]) -> bytes:
        return encode_spans(spans)

    async def send(self, spans: Sequence[bytes]) -> CollectorAnswer:
        self.requests.append(b"".join(spans))
        await self.is_answering.wait()
        return CollectorAnswer() if self.is_up else CollectorAnswer("it is down", is_final=False)

    async def close(self) -> None:
        """Do nothing."""


class Unused:
    """The database and the jobs of a cluster without jobs."""

    async def get(self, job_id: str) -> JobRecord | None:
        return None

    async def write_once(self, add: Callable[[Changes], object], /) -> None:
        """Do nothing."""


def delivery_to(collector: Collector, last_request_s: float = 60.0) -> TraceDelivery:
    store = Store(None)
    journal = EventJournal(store)
    pages = EventPages(journal, store, None)  # type: ignore[arg-type] # All events are in memory.
    return TraceDelivery(collector, 0, journal, pages, Unused(), Unused(), gather_s=0, last_request_s=last_request_s)


async def stop_during_a_request(delivery: TraceDelivery, collector: Collector, *, is_answered: bool = True) -> None:
    """Run a delivery, and stop it while it waits for the answer to its first request."""
    collector.is_answering.clear()
    task = asyncio.create_task(delivery.run())
    while not collector.requests:  # noqa: ASYNC110 - There is no event for a request.
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    if is_answered:
        collector.is_answering.set()
    await asyncio.gather(task, return_exceptions=True)


async def test_spans_that_cannot_be_encoded_are_dropped_and_the_others_are_sent() -> None:
    collector = Collector()
    delivery = delivery_to(collector)
    for span in (GOOD, INVALID, GOOD):
        delivery.pending.add(span)
    assert await delivery.deliver_page()
    assert len(delivery.pending) == 0
    assert collector.requests == [2 * encode_spans([GOOD])]
    dropped, problem = delivery.tally.pop_unreported()
    assert (delivery.tally.sent, dropped) == (2, 1)
    assert problem.startswith("a span cannot be made: error: ")


async def test_thousands_of_invalid_spans_cause_one_warning_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = Collector()
    delivery = delivery_to(collector)
    for span in [*[INVALID] * (trace_delivery._MOST_PENDING + 1000), GOOD]:
        delivery.pending.add(span)
    await stop_during_a_request(delivery, collector)
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.exc_info is None
    assert isinstance(warning, EventRecord)
    assert warning.msg == "traces.dropped"
    assert warning.fields["count"] == trace_delivery._MOST_PENDING
    assert warning.fields["error"].startswith("a span cannot be made: error: ")


async def test_delivery_that_stops_sends_all_remaining_spans() -> None:
    collector = Collector()
    delivery = delivery_to(collector)
    pages = 3
    for _ in range(pages * trace_delivery._MOST_PENDING):
        delivery.pending.add(GOOD)
    await stop_during_a_request(delivery, collector)
    assert len(collector.requests) == pages
    assert delivery.tally.sent == pages * trace_delivery._MOST_PENDING


async def test_delivery_that_stops_does_not_try_again_after_a_failure() -> None:
    collector = Collector()
    collector.is_up = False
    delivery = delivery_to(collector)
    delivery.pending.add(GOOD)
    await stop_during_a_request(delivery, collector)
    assert len(collector.requests) == 1


async def test_delivery_that_stops_without_an_answer_does_not_send_the_same_spans_again() -> None:
    collector = Collector()
    delivery = delivery_to(collector, last_request_s=0.01)
    delivery.pending.add(GOOD)
    await stop_during_a_request(delivery, collector, is_answered=False)
    assert len(collector.requests) == 1
