"""The codes of the reasons for which attempts do not succeed."""

from __future__ import annotations

import enum


class FailureCode(enum.StrEnum):
    """Why an attempt did not succeed, for programs.

    The program of a task's process (run_callable.py) writes some of these codes, by their values, into a file.
    """

    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    EXCEPTION = "exception"
    CALLABLE_NOT_LOADED = "callable_not_loaded"
    OUT_OF_MEMORY = "out_of_memory"
    MEMORY_LIMIT = "memory_limit"
    PROCESS_LIMIT = "process_limit"
    TIMEOUT = "timeout"
    NOT_STARTED = "not_started"
    STOPPED = "stopped"
    WORKER_SHORTAGE = "worker_shortage"
    WORKER_ENDED = "worker_ended"
    INTERNAL = "internal"

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the attempt failed because memory ran out: its own, or the machine's."""
        return self in (FailureCode.OUT_OF_MEMORY, FailureCode.MEMORY_LIMIT)
