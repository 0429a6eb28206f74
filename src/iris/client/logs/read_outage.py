"""What a reader does when a log cannot be read at the moment: pauses, notices, and the end of its patience."""

from __future__ import annotations

import math
import time

from iris.client.logs.read_options import ReadOptions
from iris.cluster.logs.outage import FIRST_PAUSE_S, Failure, Outage, RetryRules
from iris.cluster.types import is_task_finished
from iris.errors import WorkerUnreachableError
from iris.rpc import cluster_pb2
from iris.rpc.auth.credentials import TokenRenewedError
from iris.system.backoff import Backoff

_LONGEST_PAUSE_S = 5.0
# The shortest time between two notices about a connection that breaks again and again.
_NOTICE_INTERVAL_S = 10.0

# The number of tries after which a notice says that a worker does not know an attempt. Fewer failed tries are normal.
_QUIET_TRIES = 8


class NotYetError(WorkerUnreachableError):
    """A worker does not have the log of an attempt. It may not have heard of the attempt yet."""


class RefusedError(WorkerUnreachableError):
    """The controller answered that it cannot get the log of an attempt now."""


def retry_rules(options: ReadOptions) -> RetryRules:
    """Return how long and how often the client tries to read a log again."""
    return RetryRules(options.patience_s, end_s=options.until)


def new_pauses() -> Backoff:
    """Return the pauses between the tries to read one log."""
    return Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S)


class OutageNotice:
    """Tells the user that something cannot be read at the moment, at most once in 10 seconds.

    Args:
        options: What the reader wants.
        subject: What cannot be read, such as `task 3, attempt 0`. Empty: the error says it.
        quiet: Whether no notice is needed, because another one says the same.
    """

    def __init__(self, options: ReadOptions, subject: str, *, quiet: bool = False) -> None:
        self._options = options
        self._prefix = f"{subject}: " if subject else ""
        self._quiet = quiet
        self._told_s = -math.inf

    def report(self, error: Exception, failure: Failure, tries: int) -> None:
        """Send a notice about a failed try, if the user should know about it.

        Args:
            error: Why the try failed.
            failure: The kind of failure.
            tries: The number of failed tries in a row.
        """
        now = time.monotonic()
        is_news = tries == (_QUIET_TRIES if failure is Failure.NOT_YET else 1)
        if is_news and not self._quiet and now - self._told_s >= _NOTICE_INTERVAL_S:
            self._told_s = now
            self._options.on_notice(f"{self._prefix}{error}; trying again")


class ReadOutage:
    """The failed tries to read one thing: the log of an attempt, or the list of tasks.

    Args:
        options: What the reader wants.
        subject: What is being read; see `OutageNotice`.
    """

    def __init__(self, options: ReadOptions, subject: str) -> None:
        self._outage = Outage(retry_rules(options), new_pauses())
        self._notice = OutageNotice(options, subject)

    @property
    def tries(self) -> int:
        """The number of failed tries in a row."""
        return self._outage.tries

    @property
    def since_s(self) -> float | None:
        """When the first of the failed tries was noticed, on the monotonic clock."""
        return self._outage.since_s

    def server_answered(self) -> None:
        """Report that the server has sent a message."""
        self._outage.server_answered()

    def data_arrived(self) -> None:
        """Report that the server delivers what the reader wants."""
        self._outage.data_arrived()

    def pause_s(self, error: Exception) -> float:
        """Report a failed try, and return the seconds until the next one.

        Raises:
            Exception: `error`, if the reader's patience is over.
        """
        failure = _failure_of(error)
        now = time.monotonic()
        pause_s = self._outage.failed(failure, now, now)
        if pause_s is None:
            raise error
        self._notice.report(error, failure, self._outage.tries)
        return pause_s


def has_been_silent(seconds: float, attempt: cluster_pb2.TaskAttempt, since_s: float | None) -> bool:
    """Return whether an attempt has ended and its log could not be read for more than `seconds`.

    Args:
        seconds: The time, in seconds.
        attempt: The attempt.
        since_s: Since when its log cannot be read, on the monotonic clock. None: it can be read.
    """
    return is_task_finished(attempt.state) and since_s is not None and time.monotonic() - since_s > seconds


def _failure_of(error: Exception) -> Failure:
    if isinstance(error, TokenRenewedError):
        return Failure.TOKEN_RENEWED
    if isinstance(error, NotYetError):
        return Failure.NOT_YET
    return Failure.REFUSED if isinstance(error, RefusedError) else Failure.UNREACHABLE
