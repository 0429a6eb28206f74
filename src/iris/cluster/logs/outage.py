"""Decides when to retry a log that cannot be read, and when its reader gives up. The module has no clock and no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

FIRST_PAUSE_S = 0.02
# The longest pause in seconds before the next try if the server answers, but its connections break. A longer pause
# would not help.
_PAUSE_AFTER_ANSWER_S = 0.25


class Failure(Enum):
    """Why a try to read a log has failed."""

    UNREACHABLE = auto()
    """The server did not answer, or the connection broke."""
    NOT_YET = auto()
    """The worker answered that it does not have the log: it may not have heard of the attempt yet."""
    REFUSED = auto()
    """The controller answered that it cannot get the log now."""
    TOKEN_RENEWED = auto()
    """The token had expired, and the client has a new one. The server works."""


class Pauses(Protocol):
    """Protocol of an object that returns the lengths of the pauses between tries. `iris.system.backoff.Backoff` is one
    implementation.
    """

    def next_s(self) -> float:
        """Return the next pause in seconds. The pauses grow up to a longest pause."""

    def limit(self, longest_s: float) -> None:
        """Shorten the next pause to at most `longest_s` seconds."""

    def reset(self) -> None:
        """Start with the first pause again."""


@dataclass(frozen=True, slots=True)
class RetryRules:
    """For how many seconds, and how many times, a reader tries again to read a log.

    Attributes:
        patience_s: After how many seconds of an outage the reader gives up.
        max_tries: The number of failed tries in a row after which the reader gives up.
        end_s: The time on the monotonic clock after which the reader gives up at the first failure.
        any_answer_counts: Whether every message from a server ends the outage, even one without log data.
    """

    patience_s: float
    max_tries: float = math.inf
    end_s: float = math.inf
    any_answer_counts: bool = True


class Outage:
    """The failed tries to read one log.

    Args:
        rules: For how many seconds, and how many times, the reader tries again to read the log.
        pauses: The rule for the lengths of the pauses between two tries.

    Attributes:
        tries: The number of failed tries in a row.
        since_s: When the first of these failed tries began, on the monotonic clock; None if the last try did not fail.
    """

    def __init__(self, rules: RetryRules, pauses: Pauses) -> None:
        self.tries = 0
        self.since_s: float | None = None
        self._rules = rules
        self._pauses = pauses
        self._is_refused = False

    def server_answered(self) -> None:
        """Report a message from the server, which ends the outage if `RetryRules.any_answer_counts` is set. If the
        server has refused to deliver the log, only data of the log ends the outage.
        """
        if not self._rules.any_answer_counts:
            return
        if not self._is_refused:
            self.tries, self.since_s = 0, None
        self._pauses.limit(_PAUSE_AFTER_ANSWER_S)

    def data_arrived(self) -> None:
        """Report that the server has delivered data of the log, which ends the outage."""
        self._is_refused = False
        self.tries, self.since_s = 0, None
        self._pauses.reset()

    def failed(self, failure: Failure, now: float, began_s: float) -> float | None:
        """Report a failed try, and return the seconds until the next try; None if the reader should give up. The reader
        never gives up after the failures `NOT_YET` and `TOKEN_RENEWED`.

        Args:
            failure: In which way the try has failed.
            now: The present time on the monotonic clock, in seconds.
            began_s: When the try began, on the monotonic clock, in seconds.
        """
        if failure is Failure.TOKEN_RENEWED:
            return FIRST_PAUSE_S
        self.tries += 1
        if self.since_s is None:
            self.since_s = began_s
        self._is_refused |= failure is Failure.REFUSED
        is_over = now - self.since_s >= self._rules.patience_s or self.tries >= self._rules.max_tries
        if failure is not Failure.NOT_YET and (is_over or now >= self._rules.end_s):
            return None
        return min(self._pauses.next_s(), max(0.0, self._rules.end_s - now))
