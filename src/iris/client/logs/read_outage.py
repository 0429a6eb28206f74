"""Decides how a reader handles an unreadable log: with pauses, notices, and finally an error."""

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
# The shortest time between two notices about a connection that breaks repeatedly.
_NOTICE_INTERVAL_S = 10.0

# If a worker does not have the log of an attempt, the user gets a notice after this number of failed tries to read the
# log. Fewer failed tries are normal, because the attempt may have just started.
_QUIET_TRIES = 8


class NotYetError(WorkerUnreachableError):
    """A worker does not have the log of an attempt. For example, the attempt has just started, and the worker does not
    know the attempt yet.
    """


class RefusedError(WorkerUnreachableError):
    """The controller answered that it cannot get the log of an attempt now."""


def retry_rules(options: ReadOptions) -> RetryRules:
    """Return the rules that decide whether the client tries again to read a log."""
    return RetryRules(options.patience_s, end_s=options.until)


def new_pauses() -> Backoff:
    """Return the pauses between the tries to read one log."""
    return Backoff(FIRST_PAUSE_S, _LONGEST_PAUSE_S)


class OutageNotice:
    """Notifies the user, at most once in 10 seconds, that a log or a list of tasks cannot be read at the moment.

    Args:
        options: The options of the log reader.
        subject: The name of the unreadable log, such as `task 3, attempt 0`. If it is an empty string, the error names
            the log.
        quiet: Whether no notice is needed, because the user gets another notice about the same problem.
    """

    def __init__(self, options: ReadOptions, subject: str, *, quiet: bool = False) -> None:
        self._options = options
        self._prefix = f"{subject}: " if subject else ""
        self._quiet = quiet
        self._told_s = -math.inf

    def report(self, error: Exception, failure: Failure, tries: int) -> None:
        """Send a notice about a failed try, unless the failure is normal or the user got a notice recently.

        Args:
            error: The error with which the try has failed.
            failure: In which way the last try has failed.
            tries: The number of failed tries in a row.
        """
        now = time.monotonic()
        is_news = tries == (_QUIET_TRIES if failure is Failure.NOT_YET else 1)
        if is_news and not self._quiet and now - self._told_s >= _NOTICE_INTERVAL_S:
            self._told_s = now
            self._options.on_notice(f"{self._prefix}{error}; trying again")


class ReadOutage:
    """Counts the failed tries to read the log of an attempt or the list of tasks, and returns the pauses between the
    tries.

    Args:
        options: The options of the log reader.
        subject: The name of the log, such as `task 3, attempt 0`, for notices. If it is an empty string, the error
            names the log.
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
        """The time of the first failed try, on the monotonic clock."""
        return self._outage.since_s

    def server_answered(self) -> None:
        """Report that the server has sent a message."""
        self._outage.server_answered()

    def data_arrived(self) -> None:
        """Report that data has arrived. Failed tries before this call no longer count."""
        self._outage.data_arrived()

    def pause_s(self, error: Exception) -> float:
        """Report a failed try, and return the pause in seconds before the next try.

        Raises:
            Exception: The error `error`, if the servers have not answered for `patience_s`.
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
        seconds: For how long the log must have been unreadable.
        attempt: The status of the attempt.
        since_s: The time since which the log is unreadable, on the monotonic clock. None if the log is readable.
    """
    return is_task_finished(attempt.state) and since_s is not None and time.monotonic() - since_s > seconds


def _failure_of(error: Exception) -> Failure:
    if isinstance(error, TokenRenewedError):
        return Failure.TOKEN_RENEWED
    if isinstance(error, NotYetError):
        return Failure.NOT_YET
    return Failure.REFUSED if isinstance(error, RefusedError) else Failure.UNREACHABLE
