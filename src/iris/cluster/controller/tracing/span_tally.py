"""Counts the spans that were sent, and the spans that were given up, for metrics. The module is pure."""

from __future__ import annotations

import enum

from iris.metrics.definitions import Family, counter
from iris.metrics.tallies import Counts


class Drop(enum.StrEnum):
    """Why spans were given up. The value is a label of the metric."""

    # The collector refused a whole request, with a status that forbids a retry.
    REFUSED = "refused"
    # The collector accepted a request, but refused these spans of it.
    REJECTED = "rejected"
    # The job of the spans was removed before the spans were sent.
    JOB_REMOVED = "job_removed"
    # The events from which the spans are made are not stored any more.
    EXPIRED = "expired"
    # The spans could not be made or encoded, because of a fault of Iris.
    INVALID = "invalid"
    # The spans were dropped, because too many spans of calls and of log uploads waited to be sent.
    OVERFLOW = "overflow"


SENT = counter("iris_trace_spans_sent_total", "Spans of traces that the collector has accepted.")
DROPPED = counter(
    "iris_trace_spans_dropped_total",
    "Spans of traces that were given up, by reason: refused or rejected by the collector, job_removed or expired before"
    " they were sent, invalid (a fault of Iris), or overflow of the buffer. Each attempt and job counts once for"
    " job_removed, and each event for expired.",
    "reason",
)
TRACE_METRICS = (SENT, DROPPED)


class SpanTally:
    """The numbers of spans that were sent and given up.

    Attributes:
        sent: The number of spans that the collector has accepted.
    """

    def __init__(self) -> None:
        self.sent = 0
        self._dropped = Counts(known=[reason.value for reason in Drop])
        self._unreported = 0
        self._last_problem = ""

    def drop(self, reason: Drop, problem: str, amount: int = 1) -> None:
        """Count spans that were given up.

        Args:
            reason: Why the spans were given up, as a code.
            problem: The reason for the loss, as text for people.
            amount: How many spans were given up.
        """
        self._dropped.add(reason.value, amount=amount)
        self._unreported += amount
        self._last_problem = problem

    def pop_unreported(self) -> tuple[int, str]:
        """Return how many spans were given up since the last call of this method, and why the newest of them was."""
        amount, self._unreported = self._unreported, 0
        return amount, self._last_problem

    def families(self) -> list[Family]:
        """Return the present values."""
        return [SENT.one(self.sent), DROPPED.many(self._dropped)]
