"""Counts the attempts that have ended on a worker, and the bytes of their logs. The module is pure."""

from __future__ import annotations

from typing import NamedTuple

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.types import state_name
from iris.metrics.tallies import Counts


class LogBytes(NamedTuple):
    """How many bytes attempts have written to their logs.

    Attributes:
        written: All bytes, including the missing ones.
        lost: The bytes that are missing because the disk did not accept them, or because the log was removed while the
            attempt ran.
        dropped: The bytes that are missing because the log was larger than its limit.
    """

    written: int = 0
    lost: int = 0
    dropped: int = 0

    def plus(self, log: LogWriter) -> LogBytes:
        """Return these numbers of bytes plus the bytes of one more log."""
        dropped = log.missing - log.lost
        return LogBytes(self.written + sum(log.offsets), self.lost + log.lost, self.dropped + dropped)


class AttemptTally:
    """The tally of the ended attempts of a worker.

    Attributes:
        states: The number of ended attempts, by final state.
        logs: The bytes of the logs of ended attempts.
    """

    def __init__(self) -> None:
        self.states = Counts(("succeeded", "failed", "killed", "worker_failed"))
        self.logs = LogBytes()

    def add(self, state: int, log: LogWriter) -> None:
        """Count an attempt that has ended, after its log was closed."""
        self.states.add(state_name(state).lower())
        self.logs = self.logs.plus(log)
