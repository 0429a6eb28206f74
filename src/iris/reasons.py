"""Defines the codes of reasons and errors, which programs compare instead of texts.

The proto file explains each code, and `docs/errors.md` describes the solutions. The enums here have the same names as
the enums in the proto file, without their prefixes. They also have the same numbers, except `ErrorReason`, whose values
are the names. They are defined a second time, because some modules that use these enums must not import the generated
messages. An example is the module for the state of a job.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class PendingCode(enum.IntEnum):
    """The reason why a task, a gang or a job waits. The value is the number of a `PendingReason` on the wire."""

    UNSPECIFIED = 0
    QUEUED = 100
    INSUFFICIENT_FREE = 101
    INSUFFICIENT_CAPACITY = 102
    NO_MATCHING_MACHINE = 103
    NO_MACHINE = 104
    RESERVED = 105
    RETRY_PAUSE = 106
    GANG_RESTART = 107
    ENGINE_QUEUE = 108
    ENGINE_UNREACHABLE = 109
    WORKERS_STARTING = 110
    ALLOCATION_LOST = 111
    STOPPING = 112
    TOO_FEW_MACHINES = 113
    WORKER_UNREACHABLE = 114
    WORKER_REFUSED = 115
    MAX_PARALLEL = 320
    DEPENDENCY = 370


class FailureCode(enum.IntEnum):
    """The reason why a job, a task or an attempt ended without success. The value is the number of a `FailureReason` on
    the wire.
    """

    UNSPECIFIED = 0
    EXIT_CODE = 100
    SIGNAL = 101
    EXCEPTION = 102
    OUT_OF_MEMORY = 103
    TOO_MANY_PROCESSES = 104
    START_FAILED = 105
    ATTEMPT_TIMEOUT = 106
    JOB_TIMEOUT = 107
    SCHEDULING_TIMEOUT = 108
    UNPLACEABLE = 109
    WORKER_LOST = 110
    LEASE_EXPIRED = 111
    WORKER_SHUTDOWN = 112
    WORKER_SHORTAGE = 113
    TERMINATED = 114
    PARENT_ENDED = 115
    MAX_TASK_FAILURES = 116
    JOB_ENDED = 117
    GANG_RESTART = 118
    STOPPED_ON_WORKER = 119
    PEER_SUCCEEDED = 120
    DISOWNED = 121
    CALLABLE_NOT_LOADED = 122
    MEMORY_LIMIT = 123
    INTERNAL = 124
    DEPENDENCY_FAILED = 370
    HUNG = 460

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the attempt failed because its own memory or the machine's memory ran out."""
        return self in (FailureCode.OUT_OF_MEMORY, FailureCode.MEMORY_LIMIT)


class HangCode(enum.IntEnum):
    """The reason why a job seems to hang. The value is the number of a `HangReason` on the wire."""

    UNSPECIFIED = 0
    ALL_TASKS_IDLE = 460
    SOME_TASKS_IDLE = 461


class ShortageCode(enum.IntEnum):
    """What a worker's machine lacks for new attempts. The value is the number of a `ShortageReason` on the wire."""

    UNSPECIFIED = 0
    DISK_SPACE = 100
    INODES = 101
    DISK_UNUSABLE = 102
    FILE_DESCRIPTORS = 103
    PROCESSES = 104
    MEMORY = 105
    OTHER = 106


class Shortage(NamedTuple):
    """What a worker's machine lacks for new attempts. A `Shortage` is false if the machine lacks nothing.

    Attributes:
        text: The shortage and a remedy, for people. Empty if the machine lacks nothing.
        code: The code of the shortage, a `ShortageCode`, or a number that this release does not know.
    """

    text: str = ""
    code: int = ShortageCode.UNSPECIFIED

    def __bool__(self) -> bool:
        return bool(self.text)


NO_SHORTAGE = Shortage()


class ErrorReason(enum.StrEnum):
    """The reason of an error. The value is the name of an `ErrorReason` on the wire, without its prefix."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    INVALID_ADDRESS = "INVALID_ADDRESS"
    INVALID_ENTRYPOINT = "INVALID_ENTRYPOINT"
    INVALID_NAME = "INVALID_NAME"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    NOT_FOUND = "NOT_FOUND"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    ATTEMPT_NOT_FOUND = "ATTEMPT_NOT_FOUND"
    ENDPOINT_NOT_FOUND = "ENDPOINT_NOT_FOUND"
    LOG_NOT_FOUND = "LOG_NOT_FOUND"
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    WORKSPACE_NOT_FOUND = "WORKSPACE_NOT_FOUND"
    TOKEN_NOT_FOUND = "TOKEN_NOT_FOUND"
    TUNNEL_NOT_FOUND = "TUNNEL_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    JOB_EXISTS = "JOB_EXISTS"
    ENDPOINT_EXISTS = "ENDPOINT_EXISTS"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    TOO_LARGE = "TOO_LARGE"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    SHORTAGE = "SHORTAGE"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    CLIENT_CLOSED = "CLIENT_CLOSED"
    WORKSPACE_NEEDED = "WORKSPACE_NEEDED"
    ATTEMPT_NOT_RUNNING = "ATTEMPT_NOT_RUNNING"
    TRANSFER_UNKNOWN = "TRANSFER_UNKNOWN"
    NO_STDIN = "NO_STDIN"
    FORWARDING_OFF = "FORWARDING_OFF"
    EXEC_OFF = "EXEC_OFF"
    JOB_NOT_ENDED = "JOB_NOT_ENDED"
    RESULT_DROPPED = "RESULT_DROPPED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOKEN_MISSING = "TOKEN_MISSING"
    TOKEN_INVALID = "TOKEN_INVALID"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_REVOKED = "TOKEN_REVOKED"
    SESSION_ENDED = "SESSION_ENDED"
    SIGN_IN_CODE_INVALID = "SIGN_IN_CODE_INVALID"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    FOREIGN_PAGE = "FOREIGN_PAGE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNAVAILABLE = "UNAVAILABLE"
    CONTROLLER_UNREACHABLE = "CONTROLLER_UNREACHABLE"
    WORKER_UNREACHABLE = "WORKER_UNREACHABLE"
    EXEC_LOST = "EXEC_LOST"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    FOREIGN_ANSWER = "FOREIGN_ANSWER"
    DATA_LOSS = "DATA_LOSS"
    MISSING_EXTRA = "MISSING_EXTRA"
    LOCAL_CLUSTER_FAILED = "LOCAL_CLUSTER_FAILED"
    JOB_FAILED = "JOB_FAILED"
    NO_RESULT = "NO_RESULT"
    REMOTE_TRACEBACK = "REMOTE_TRACEBACK"
