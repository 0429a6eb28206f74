"""Decides whether a task is retried after the end of an attempt: by its retry budgets and by exit codes. The module is
pure. `Task.end_attempt` calls the module, and counts the failures and the lost workers. `retry_pause.py` computes how
long a retry waits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

DEFAULT_RETRIES_FAILURE = 0
DEFAULT_RETRIES_PREEMPTION = 100


@dataclass(frozen=True, slots=True)
class ExitCodeRules:
    """The exit codes after which a failed task may be retried.

    Attributes:
        retry_on: Only a failure with one of these exit codes may be retried. If the list is empty, every failure may be
            retried, also a failure without an exit code.
        fail_on: A failure with one of these exit codes is never retried.
    """

    retry_on: Collection[int] = ()
    fail_on: Collection[int] = ()

    def allow_retry(self, exit_code: int | None) -> bool:
        """Return whether a task may be retried after a failure, if its retry budget is not used up.

        Args:
            exit_code: The exit code of the failed attempt, or None if the attempt had no process.
        """
        return exit_code not in self.fail_on and (not self.retry_on or exit_code in self.retry_on)

    def forbid_retry(self, exit_code: int | None) -> bool:
        """Return whether the exit code forbids a retry, even a retry together with the other tasks of the gang."""
        return exit_code in self.fail_on


ANY_EXIT_CODE = ExitCodeRules()


def failure_is_retried(failures: int, max_retries: int, exit_code: int | None, exit_codes: ExitCodeRules) -> bool:
    """Return whether a task is retried after an attempt has failed.

    Args:
        failures: How many failures were charged to the failure budget of the task, including this failure.
        max_retries: The failure budget of the task, `max_retries_failure`.
        exit_code: The exit code of the failed attempt, or None if the attempt had no process.
        exit_codes: The exit codes after which the job's tasks are retried.
    """
    return failures <= max_retries and exit_codes.allow_retry(exit_code)


def lost_worker_is_retried(preemptions: int, max_retries: int) -> bool:
    """Return whether a task is retried after the worker of its attempt was lost.

    Args:
        preemptions: How many lost attempts were charged to the preemption budget of the task, including this attempt.
        max_retries: The preemption budget of the task, `max_retries_preemption`.
    """
    return preemptions <= max_retries
