from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Placement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACEMENT_UNSPECIFIED: _ClassVar[Placement]
    PLACEMENT_SPREAD: _ClassVar[Placement]
    PLACEMENT_TOGETHER: _ClassVar[Placement]

class Rendezvous(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RENDEZVOUS_UNSPECIFIED: _ClassVar[Rendezvous]
    RENDEZVOUS_TORCH: _ClassVar[Rendezvous]
    RENDEZVOUS_JAX: _ClassVar[Rendezvous]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_PENDING: _ClassVar[JobState]
    JOB_STATE_BUILDING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_KILLED: _ClassVar[JobState]
    JOB_STATE_WORKER_FAILED: _ClassVar[JobState]
    JOB_STATE_UNSCHEDULABLE: _ClassVar[JobState]

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_PENDING: _ClassVar[TaskState]
    TASK_STATE_BUILDING: _ClassVar[TaskState]
    TASK_STATE_RUNNING: _ClassVar[TaskState]
    TASK_STATE_SUCCEEDED: _ClassVar[TaskState]
    TASK_STATE_FAILED: _ClassVar[TaskState]
    TASK_STATE_KILLED: _ClassVar[TaskState]
    TASK_STATE_WORKER_FAILED: _ClassVar[TaskState]
    TASK_STATE_UNSCHEDULABLE: _ClassVar[TaskState]

class PendingReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PENDING_REASON_UNSPECIFIED: _ClassVar[PendingReason]
    PENDING_REASON_QUEUED: _ClassVar[PendingReason]
    PENDING_REASON_INSUFFICIENT_FREE: _ClassVar[PendingReason]
    PENDING_REASON_INSUFFICIENT_CAPACITY: _ClassVar[PendingReason]
    PENDING_REASON_NO_MATCHING_MACHINE: _ClassVar[PendingReason]
    PENDING_REASON_NO_MACHINE: _ClassVar[PendingReason]
    PENDING_REASON_RESERVED: _ClassVar[PendingReason]
    PENDING_REASON_RETRY_PAUSE: _ClassVar[PendingReason]
    PENDING_REASON_GANG_RESTART: _ClassVar[PendingReason]
    PENDING_REASON_ENGINE_QUEUE: _ClassVar[PendingReason]
    PENDING_REASON_ENGINE_UNREACHABLE: _ClassVar[PendingReason]
    PENDING_REASON_WORKERS_STARTING: _ClassVar[PendingReason]
    PENDING_REASON_ALLOCATION_LOST: _ClassVar[PendingReason]
    PENDING_REASON_STOPPING: _ClassVar[PendingReason]
    PENDING_REASON_TOO_FEW_MACHINES: _ClassVar[PendingReason]
    PENDING_REASON_WORKER_UNREACHABLE: _ClassVar[PendingReason]
    PENDING_REASON_WORKER_REFUSED: _ClassVar[PendingReason]
    PENDING_REASON_MAX_PARALLEL: _ClassVar[PendingReason]
    PENDING_REASON_DEPENDENCY: _ClassVar[PendingReason]

class FailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_REASON_UNSPECIFIED: _ClassVar[FailureReason]
    FAILURE_REASON_EXIT_CODE: _ClassVar[FailureReason]
    FAILURE_REASON_SIGNAL: _ClassVar[FailureReason]
    FAILURE_REASON_EXCEPTION: _ClassVar[FailureReason]
    FAILURE_REASON_OUT_OF_MEMORY: _ClassVar[FailureReason]
    FAILURE_REASON_TOO_MANY_PROCESSES: _ClassVar[FailureReason]
    FAILURE_REASON_START_FAILED: _ClassVar[FailureReason]
    FAILURE_REASON_ATTEMPT_TIMEOUT: _ClassVar[FailureReason]
    FAILURE_REASON_JOB_TIMEOUT: _ClassVar[FailureReason]
    FAILURE_REASON_SCHEDULING_TIMEOUT: _ClassVar[FailureReason]
    FAILURE_REASON_UNPLACEABLE: _ClassVar[FailureReason]
    FAILURE_REASON_WORKER_LOST: _ClassVar[FailureReason]
    FAILURE_REASON_LEASE_EXPIRED: _ClassVar[FailureReason]
    FAILURE_REASON_WORKER_SHUTDOWN: _ClassVar[FailureReason]
    FAILURE_REASON_WORKER_SHORTAGE: _ClassVar[FailureReason]
    FAILURE_REASON_TERMINATED: _ClassVar[FailureReason]
    FAILURE_REASON_PARENT_ENDED: _ClassVar[FailureReason]
    FAILURE_REASON_MAX_TASK_FAILURES: _ClassVar[FailureReason]
    FAILURE_REASON_JOB_ENDED: _ClassVar[FailureReason]
    FAILURE_REASON_GANG_RESTART: _ClassVar[FailureReason]
    FAILURE_REASON_STOPPED_ON_WORKER: _ClassVar[FailureReason]
    FAILURE_REASON_PEER_SUCCEEDED: _ClassVar[FailureReason]
    FAILURE_REASON_DISOWNED: _ClassVar[FailureReason]
    FAILURE_REASON_CALLABLE_NOT_LOADED: _ClassVar[FailureReason]
    FAILURE_REASON_MEMORY_LIMIT: _ClassVar[FailureReason]
    FAILURE_REASON_INTERNAL: _ClassVar[FailureReason]
    FAILURE_REASON_DEPENDENCY_FAILED: _ClassVar[FailureReason]
    FAILURE_REASON_HUNG: _ClassVar[FailureReason]

class HangReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HANG_REASON_UNSPECIFIED: _ClassVar[HangReason]
    HANG_REASON_ALL_TASKS_IDLE: _ClassVar[HangReason]
    HANG_REASON_SOME_TASKS_IDLE: _ClassVar[HangReason]

class HangAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HANG_ACTION_UNSPECIFIED: _ClassVar[HangAction]
    HANG_ACTION_END: _ClassVar[HangAction]

class ShortageReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHORTAGE_REASON_UNSPECIFIED: _ClassVar[ShortageReason]
    SHORTAGE_REASON_DISK_SPACE: _ClassVar[ShortageReason]
    SHORTAGE_REASON_INODES: _ClassVar[ShortageReason]
    SHORTAGE_REASON_DISK_UNUSABLE: _ClassVar[ShortageReason]
    SHORTAGE_REASON_FILE_DESCRIPTORS: _ClassVar[ShortageReason]
    SHORTAGE_REASON_PROCESSES: _ClassVar[ShortageReason]
    SHORTAGE_REASON_MEMORY: _ClassVar[ShortageReason]
    SHORTAGE_REASON_OTHER: _ClassVar[ShortageReason]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_ARGUMENT: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_ADDRESS: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_ENTRYPOINT: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_NAME: _ClassVar[ErrorReason]
    ERROR_REASON_MALFORMED_REQUEST: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ATTEMPT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ENDPOINT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_LOG_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_FILE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_WORKSPACE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TUNNEL_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_ENDPOINT_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_RESOURCE_EXHAUSTED: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_QUOTA_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_CALLS: _ClassVar[ErrorReason]
    ERROR_REASON_SHORTAGE: _ClassVar[ErrorReason]
    ERROR_REASON_FAILED_PRECONDITION: _ClassVar[ErrorReason]
    ERROR_REASON_CLIENT_CLOSED: _ClassVar[ErrorReason]
    ERROR_REASON_WORKSPACE_NEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_NOT_ENDED: _ClassVar[ErrorReason]
    ERROR_REASON_RESULT_DROPPED: _ClassVar[ErrorReason]
    ERROR_REASON_ATTEMPT_NOT_RUNNING: _ClassVar[ErrorReason]
    ERROR_REASON_TRANSFER_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_NO_STDIN: _ClassVar[ErrorReason]
    ERROR_REASON_FORWARDING_OFF: _ClassVar[ErrorReason]
    ERROR_REASON_EXEC_OFF: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_MISSING: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_REVOKED: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_ENDED: _ClassVar[ErrorReason]
    ERROR_REASON_SIGN_IN_CODE_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_FOREIGN_PAGE: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_CONTROLLER_UNREACHABLE: _ClassVar[ErrorReason]
    ERROR_REASON_WORKER_UNREACHABLE: _ClassVar[ErrorReason]
    ERROR_REASON_EXEC_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_UNIMPLEMENTED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_FOREIGN_ANSWER: _ClassVar[ErrorReason]
    ERROR_REASON_DATA_LOSS: _ClassVar[ErrorReason]
    ERROR_REASON_MISSING_EXTRA: _ClassVar[ErrorReason]
    ERROR_REASON_LOCAL_CLUSTER_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_JOB_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_NO_RESULT: _ClassVar[ErrorReason]
    ERROR_REASON_REMOTE_TRACEBACK: _ClassVar[ErrorReason]

class DependencyCondition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEPENDENCY_CONDITION_UNSPECIFIED: _ClassVar[DependencyCondition]
    DEPENDENCY_CONDITION_SUCCEEDED: _ClassVar[DependencyCondition]
    DEPENDENCY_CONDITION_ENDED: _ClassVar[DependencyCondition]

class ChannelReset(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_RESET_UNSPECIFIED: _ClassVar[ChannelReset]
    CHANNEL_RESET_BROKEN: _ClassVar[ChannelReset]
    CHANNEL_RESET_REFUSED: _ClassVar[ChannelReset]
    CHANNEL_RESET_NO_SUCH_PORT: _ClassVar[ChannelReset]
    CHANNEL_RESET_FOREIGN_PORT: _ClassVar[ChannelReset]
    CHANNEL_RESET_LIMIT: _ClassVar[ChannelReset]
    CHANNEL_RESET_IDLE: _ClassVar[ChannelReset]
    CHANNEL_RESET_ATTEMPT_ENDED: _ClassVar[ChannelReset]
    CHANNEL_RESET_LOST: _ClassVar[ChannelReset]

class ExecStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXEC_STREAM_UNSPECIFIED: _ClassVar[ExecStream]
    EXEC_STREAM_CONTROL: _ClassVar[ExecStream]
    EXEC_STREAM_STDIO: _ClassVar[ExecStream]
    EXEC_STREAM_STDERR: _ClassVar[ExecStream]

class ConstraintOp(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSTRAINT_OP_UNSPECIFIED: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_EQ: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_NE: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_EXISTS: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_NOT_EXISTS: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_GT: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_GE: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_LT: _ClassVar[ConstraintOp]
    CONSTRAINT_OP_LE: _ClassVar[ConstraintOp]

class FileType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_TYPE_UNSPECIFIED: _ClassVar[FileType]
    FILE_TYPE_REGULAR: _ClassVar[FileType]
    FILE_TYPE_DIRECTORY: _ClassVar[FileType]
    FILE_TYPE_SYMLINK: _ClassVar[FileType]
    FILE_TYPE_OTHER: _ClassVar[FileType]

class OutputReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_REASON_UNSPECIFIED: _ClassVar[OutputReason]
    OUTPUT_REASON_NOT_ENDED: _ClassVar[OutputReason]
    OUTPUT_REASON_TOO_LARGE: _ClassVar[OutputReason]
    OUTPUT_REASON_TOO_MANY_FILES: _ClassVar[OutputReason]
    OUTPUT_REASON_CLUSTER_LIMIT: _ClassVar[OutputReason]
    OUTPUT_REASON_SHORTAGE: _ClassVar[OutputReason]
    OUTPUT_REASON_UNREADABLE: _ClassVar[OutputReason]
    OUTPUT_REASON_TERMINATED: _ClassVar[OutputReason]
    OUTPUT_REASON_WORKER_LOST: _ClassVar[OutputReason]
    OUTPUT_REASON_NOT_COLLECTED: _ClassVar[OutputReason]
    OUTPUT_REASON_REMOVED: _ClassVar[OutputReason]

class StackReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STACK_REASON_UNSPECIFIED: _ClassVar[StackReason]
    STACK_REASON_NOT_RUNNING: _ClassVar[StackReason]
    STACK_REASON_WORKER_UNREACHABLE: _ClassVar[StackReason]
    STACK_REASON_WORKER_TOO_OLD: _ClassVar[StackReason]
    STACK_REASON_TOOL_MISSING: _ClassVar[StackReason]
    STACK_REASON_PERMISSION: _ClassVar[StackReason]
    STACK_REASON_NOT_PYTHON: _ClassVar[StackReason]
    STACK_REASON_UNSUPPORTED: _ClassVar[StackReason]
    STACK_REASON_TIMEOUT: _ClassVar[StackReason]
    STACK_REASON_ENDED: _ClassVar[StackReason]
    STACK_REASON_FAILED: _ClassVar[StackReason]
PLACEMENT_UNSPECIFIED: Placement
PLACEMENT_SPREAD: Placement
PLACEMENT_TOGETHER: Placement
RENDEZVOUS_UNSPECIFIED: Rendezvous
RENDEZVOUS_TORCH: Rendezvous
RENDEZVOUS_JAX: Rendezvous
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_PENDING: JobState
JOB_STATE_BUILDING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_KILLED: JobState
JOB_STATE_WORKER_FAILED: JobState
JOB_STATE_UNSCHEDULABLE: JobState
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_PENDING: TaskState
TASK_STATE_BUILDING: TaskState
TASK_STATE_RUNNING: TaskState
TASK_STATE_SUCCEEDED: TaskState
TASK_STATE_FAILED: TaskState
TASK_STATE_KILLED: TaskState
TASK_STATE_WORKER_FAILED: TaskState
TASK_STATE_UNSCHEDULABLE: TaskState
PENDING_REASON_UNSPECIFIED: PendingReason
PENDING_REASON_QUEUED: PendingReason
PENDING_REASON_INSUFFICIENT_FREE: PendingReason
PENDING_REASON_INSUFFICIENT_CAPACITY: PendingReason
PENDING_REASON_NO_MATCHING_MACHINE: PendingReason
PENDING_REASON_NO_MACHINE: PendingReason
PENDING_REASON_RESERVED: PendingReason
PENDING_REASON_RETRY_PAUSE: PendingReason
PENDING_REASON_GANG_RESTART: PendingReason
PENDING_REASON_ENGINE_QUEUE: PendingReason
PENDING_REASON_ENGINE_UNREACHABLE: PendingReason
PENDING_REASON_WORKERS_STARTING: PendingReason
PENDING_REASON_ALLOCATION_LOST: PendingReason
PENDING_REASON_STOPPING: PendingReason
PENDING_REASON_TOO_FEW_MACHINES: PendingReason
PENDING_REASON_WORKER_UNREACHABLE: PendingReason
PENDING_REASON_WORKER_REFUSED: PendingReason
PENDING_REASON_MAX_PARALLEL: PendingReason
PENDING_REASON_DEPENDENCY: PendingReason
FAILURE_REASON_UNSPECIFIED: FailureReason
FAILURE_REASON_EXIT_CODE: FailureReason
FAILURE_REASON_SIGNAL: FailureReason
FAILURE_REASON_EXCEPTION: FailureReason
FAILURE_REASON_OUT_OF_MEMORY: FailureReason
FAILURE_REASON_TOO_MANY_PROCESSES: FailureReason
FAILURE_REASON_START_FAILED: FailureReason
FAILURE_REASON_ATTEMPT_TIMEOUT: FailureReason
FAILURE_REASON_JOB_TIMEOUT: FailureReason
FAILURE_REASON_SCHEDULING_TIMEOUT: FailureReason
FAILURE_REASON_UNPLACEABLE: FailureReason
FAILURE_REASON_WORKER_LOST: FailureReason
FAILURE_REASON_LEASE_EXPIRED: FailureReason
FAILURE_REASON_WORKER_SHUTDOWN: FailureReason
FAILURE_REASON_WORKER_SHORTAGE: FailureReason
FAILURE_REASON_TERMINATED: FailureReason
FAILURE_REASON_PARENT_ENDED: FailureReason
FAILURE_REASON_MAX_TASK_FAILURES: FailureReason
FAILURE_REASON_JOB_ENDED: FailureReason
FAILURE_REASON_GANG_RESTART: FailureReason
FAILURE_REASON_STOPPED_ON_WORKER: FailureReason
FAILURE_REASON_PEER_SUCCEEDED: FailureReason
FAILURE_REASON_DISOWNED: FailureReason
FAILURE_REASON_CALLABLE_NOT_LOADED: FailureReason
FAILURE_REASON_MEMORY_LIMIT: FailureReason
FAILURE_REASON_INTERNAL: FailureReason
FAILURE_REASON_DEPENDENCY_FAILED: FailureReason
FAILURE_REASON_HUNG: FailureReason
HANG_REASON_UNSPECIFIED: HangReason
HANG_REASON_ALL_TASKS_IDLE: HangReason
HANG_REASON_SOME_TASKS_IDLE: HangReason
HANG_ACTION_UNSPECIFIED: HangAction
HANG_ACTION_END: HangAction
SHORTAGE_REASON_UNSPECIFIED: ShortageReason
SHORTAGE_REASON_DISK_SPACE: ShortageReason
SHORTAGE_REASON_INODES: ShortageReason
SHORTAGE_REASON_DISK_UNUSABLE: ShortageReason
SHORTAGE_REASON_FILE_DESCRIPTORS: ShortageReason
SHORTAGE_REASON_PROCESSES: ShortageReason
SHORTAGE_REASON_MEMORY: ShortageReason
SHORTAGE_REASON_OTHER: ShortageReason
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_ARGUMENT: ErrorReason
ERROR_REASON_INVALID_ADDRESS: ErrorReason
ERROR_REASON_INVALID_ENTRYPOINT: ErrorReason
ERROR_REASON_INVALID_NAME: ErrorReason
ERROR_REASON_MALFORMED_REQUEST: ErrorReason
ERROR_REASON_NOT_FOUND: ErrorReason
ERROR_REASON_JOB_NOT_FOUND: ErrorReason
ERROR_REASON_TASK_NOT_FOUND: ErrorReason
ERROR_REASON_ATTEMPT_NOT_FOUND: ErrorReason
ERROR_REASON_ENDPOINT_NOT_FOUND: ErrorReason
ERROR_REASON_LOG_NOT_FOUND: ErrorReason
ERROR_REASON_FILE_NOT_FOUND: ErrorReason
ERROR_REASON_WORKSPACE_NOT_FOUND: ErrorReason
ERROR_REASON_TOKEN_NOT_FOUND: ErrorReason
ERROR_REASON_TUNNEL_NOT_FOUND: ErrorReason
ERROR_REASON_ALREADY_EXISTS: ErrorReason
ERROR_REASON_JOB_EXISTS: ErrorReason
ERROR_REASON_ENDPOINT_EXISTS: ErrorReason
ERROR_REASON_RESOURCE_EXHAUSTED: ErrorReason
ERROR_REASON_TOO_LARGE: ErrorReason
ERROR_REASON_QUOTA_EXCEEDED: ErrorReason
ERROR_REASON_TOO_MANY_CALLS: ErrorReason
ERROR_REASON_SHORTAGE: ErrorReason
ERROR_REASON_FAILED_PRECONDITION: ErrorReason
ERROR_REASON_CLIENT_CLOSED: ErrorReason
ERROR_REASON_WORKSPACE_NEEDED: ErrorReason
ERROR_REASON_JOB_NOT_ENDED: ErrorReason
ERROR_REASON_RESULT_DROPPED: ErrorReason
ERROR_REASON_ATTEMPT_NOT_RUNNING: ErrorReason
ERROR_REASON_TRANSFER_UNKNOWN: ErrorReason
ERROR_REASON_NO_STDIN: ErrorReason
ERROR_REASON_FORWARDING_OFF: ErrorReason
ERROR_REASON_EXEC_OFF: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_TOKEN_MISSING: ErrorReason
ERROR_REASON_TOKEN_INVALID: ErrorReason
ERROR_REASON_TOKEN_EXPIRED: ErrorReason
ERROR_REASON_TOKEN_REVOKED: ErrorReason
ERROR_REASON_SESSION_ENDED: ErrorReason
ERROR_REASON_SIGN_IN_CODE_INVALID: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_FOREIGN_PAGE: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_UNAVAILABLE: ErrorReason
ERROR_REASON_CONTROLLER_UNREACHABLE: ErrorReason
ERROR_REASON_WORKER_UNREACHABLE: ErrorReason
ERROR_REASON_EXEC_LOST: ErrorReason
ERROR_REASON_UNIMPLEMENTED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_FOREIGN_ANSWER: ErrorReason
ERROR_REASON_DATA_LOSS: ErrorReason
ERROR_REASON_MISSING_EXTRA: ErrorReason
ERROR_REASON_LOCAL_CLUSTER_FAILED: ErrorReason
ERROR_REASON_JOB_FAILED: ErrorReason
ERROR_REASON_NO_RESULT: ErrorReason
ERROR_REASON_REMOTE_TRACEBACK: ErrorReason
DEPENDENCY_CONDITION_UNSPECIFIED: DependencyCondition
DEPENDENCY_CONDITION_SUCCEEDED: DependencyCondition
DEPENDENCY_CONDITION_ENDED: DependencyCondition
CHANNEL_RESET_UNSPECIFIED: ChannelReset
CHANNEL_RESET_BROKEN: ChannelReset
CHANNEL_RESET_REFUSED: ChannelReset
CHANNEL_RESET_NO_SUCH_PORT: ChannelReset
CHANNEL_RESET_FOREIGN_PORT: ChannelReset
CHANNEL_RESET_LIMIT: ChannelReset
CHANNEL_RESET_IDLE: ChannelReset
CHANNEL_RESET_ATTEMPT_ENDED: ChannelReset
CHANNEL_RESET_LOST: ChannelReset
EXEC_STREAM_UNSPECIFIED: ExecStream
EXEC_STREAM_CONTROL: ExecStream
EXEC_STREAM_STDIO: ExecStream
EXEC_STREAM_STDERR: ExecStream
CONSTRAINT_OP_UNSPECIFIED: ConstraintOp
CONSTRAINT_OP_EQ: ConstraintOp
CONSTRAINT_OP_NE: ConstraintOp
CONSTRAINT_OP_EXISTS: ConstraintOp
CONSTRAINT_OP_NOT_EXISTS: ConstraintOp
CONSTRAINT_OP_GT: ConstraintOp
CONSTRAINT_OP_GE: ConstraintOp
CONSTRAINT_OP_LT: ConstraintOp
CONSTRAINT_OP_LE: ConstraintOp
FILE_TYPE_UNSPECIFIED: FileType
FILE_TYPE_REGULAR: FileType
FILE_TYPE_DIRECTORY: FileType
FILE_TYPE_SYMLINK: FileType
FILE_TYPE_OTHER: FileType
OUTPUT_REASON_UNSPECIFIED: OutputReason
OUTPUT_REASON_NOT_ENDED: OutputReason
OUTPUT_REASON_TOO_LARGE: OutputReason
OUTPUT_REASON_TOO_MANY_FILES: OutputReason
OUTPUT_REASON_CLUSTER_LIMIT: OutputReason
OUTPUT_REASON_SHORTAGE: OutputReason
OUTPUT_REASON_UNREADABLE: OutputReason
OUTPUT_REASON_TERMINATED: OutputReason
OUTPUT_REASON_WORKER_LOST: OutputReason
OUTPUT_REASON_NOT_COLLECTED: OutputReason
OUTPUT_REASON_REMOVED: OutputReason
STACK_REASON_UNSPECIFIED: StackReason
STACK_REASON_NOT_RUNNING: StackReason
STACK_REASON_WORKER_UNREACHABLE: StackReason
STACK_REASON_WORKER_TOO_OLD: StackReason
STACK_REASON_TOOL_MISSING: StackReason
STACK_REASON_PERMISSION: StackReason
STACK_REASON_NOT_PYTHON: StackReason
STACK_REASON_UNSUPPORTED: StackReason
STACK_REASON_TIMEOUT: StackReason
STACK_REASON_ENDED: StackReason
STACK_REASON_FAILED: StackReason

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Hang(_message.Message):
    __slots__ = ("reason", "task_indices", "since_ms", "text")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    reason: HangReason
    task_indices: _containers.RepeatedScalarFieldContainer[int]
    since_ms: int
    text: str
    def __init__(self, reason: _Optional[_Union[HangReason, str]] = ..., task_indices: _Optional[_Iterable[int]] = ..., since_ms: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class ErrorInfo(_message.Message):
    __slots__ = ("reason", "domain", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    reason: str
    domain: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., domain: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ChannelPart(_message.Message):
    __slots__ = ("channel", "target", "position", "data", "end", "received", "reset", "reset_text")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    RESET_TEXT_FIELD_NUMBER: _ClassVar[int]
    channel: int
    target: ChannelTarget
    position: int
    data: bytes
    end: bool
    received: int
    reset: ChannelReset
    reset_text: str
    def __init__(self, channel: _Optional[int] = ..., target: _Optional[_Union[ChannelTarget, _Mapping]] = ..., position: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ..., received: _Optional[int] = ..., reset: _Optional[_Union[ChannelReset, str]] = ..., reset_text: _Optional[str] = ...) -> None: ...

class ChannelTarget(_message.Message):
    __slots__ = ("port", "name", "exec")
    PORT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    port: int
    name: str
    exec: ExecTarget
    def __init__(self, port: _Optional[int] = ..., name: _Optional[str] = ..., exec: _Optional[_Union[ExecTarget, _Mapping]] = ...) -> None: ...

class ExecTarget(_message.Message):
    __slots__ = ("stream", "command")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    stream: ExecStream
    command: ExecCommand
    def __init__(self, stream: _Optional[_Union[ExecStream, str]] = ..., command: _Optional[_Union[ExecCommand, _Mapping]] = ...) -> None: ...

class ExecCommand(_message.Message):
    __slots__ = ("command", "terminal", "rows", "columns", "env_vars", "input")
    class EnvVarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ENV_VARS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    command: _containers.RepeatedScalarFieldContainer[str]
    terminal: bool
    rows: int
    columns: int
    env_vars: _containers.ScalarMap[str, str]
    input: bool
    def __init__(self, command: _Optional[_Iterable[str]] = ..., terminal: _Optional[bool] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., env_vars: _Optional[_Mapping[str, str]] = ..., input: _Optional[bool] = ...) -> None: ...

class ExecControl(_message.Message):
    __slots__ = ("rows", "columns", "signal")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    signal: int
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., signal: _Optional[int] = ...) -> None: ...

class ExecEvent(_message.Message):
    __slots__ = ("pid", "exit")
    PID_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    pid: int
    exit: ExecExit
    def __init__(self, pid: _Optional[int] = ..., exit: _Optional[_Union[ExecExit, _Mapping]] = ...) -> None: ...

class ExecExit(_message.Message):
    __slots__ = ("exit_code", "error")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    error: str
    def __init__(self, exit_code: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class TunnelMessage(_message.Message):
    __slots__ = ("opened", "parts", "waiting", "closed")
    class Opened(_message.Message):
        __slots__ = ("attempt_id", "channels", "ports")
        class PortsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: int
            def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        CHANNELS_FIELD_NUMBER: _ClassVar[int]
        PORTS_FIELD_NUMBER: _ClassVar[int]
        attempt_id: int
        channels: _containers.RepeatedScalarFieldContainer[int]
        ports: _containers.ScalarMap[str, int]
        def __init__(self, attempt_id: _Optional[int] = ..., channels: _Optional[_Iterable[int]] = ..., ports: _Optional[_Mapping[str, int]] = ...) -> None: ...
    class Closed(_message.Message):
        __slots__ = ("text", "state")
        TEXT_FIELD_NUMBER: _ClassVar[int]
        STATE_FIELD_NUMBER: _ClassVar[int]
        text: str
        state: TaskState
        def __init__(self, text: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ...) -> None: ...
    OPENED_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    opened: TunnelMessage.Opened
    parts: _containers.RepeatedCompositeFieldContainer[ChannelPart]
    waiting: str
    closed: TunnelMessage.Closed
    def __init__(self, opened: _Optional[_Union[TunnelMessage.Opened, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[ChannelPart, _Mapping]]] = ..., waiting: _Optional[str] = ..., closed: _Optional[_Union[TunnelMessage.Closed, _Mapping]] = ...) -> None: ...

class WriteTunnelResponse(_message.Message):
    __slots__ = ("again",)
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    again: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, again: _Optional[_Iterable[int]] = ...) -> None: ...

class JobDependency(_message.Message):
    __slots__ = ("job_id", "condition")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    condition: DependencyCondition
    def __init__(self, job_id: _Optional[str] = ..., condition: _Optional[_Union[DependencyCondition, str]] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("job_id", "state", "exit_code", "error", "started_at_ms", "finished_at_ms", "ports", "resource_usage", "status_message", "build_metrics", "serialized_result", "parent_job_id", "failure_count", "preemption_count", "num_tasks", "tasks_pending", "tasks_running", "tasks_succeeded", "tasks_failed", "tasks", "submitted_at_ms", "first_failed_task_index", "term_signal", "tasks_killed", "owner", "pending_reason", "failure_reason", "waits_for", "inputs_digest", "num_inputs", "inputs_per_task", "number", "hang")
    class PortsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_USAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BUILD_METRICS_FIELD_NUMBER: _ClassVar[int]
    SERIALIZED_RESULT_FIELD_NUMBER: _ClassVar[int]
    PARENT_JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREEMPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
    TASKS_PENDING_FIELD_NUMBER: _ClassVar[int]
    TASKS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    TASKS_SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    TASKS_FAILED_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAILED_TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    TASKS_KILLED_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PENDING_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    INPUTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUM_INPUTS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_PER_TASK_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HANG_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    state: JobState
    exit_code: int
    error: str
    started_at_ms: int
    finished_at_ms: int
    ports: _containers.ScalarMap[str, int]
    resource_usage: ResourceUsage
    status_message: str
    build_metrics: BuildMetrics
    serialized_result: bytes
    parent_job_id: str
    failure_count: int
    preemption_count: int
    num_tasks: int
    tasks_pending: int
    tasks_running: int
    tasks_succeeded: int
    tasks_failed: int
    tasks: _containers.RepeatedCompositeFieldContainer[TaskStatus]
    submitted_at_ms: int
    first_failed_task_index: int
    term_signal: int
    tasks_killed: int
    owner: str
    pending_reason: PendingReason
    failure_reason: FailureReason
    waits_for: _containers.RepeatedCompositeFieldContainer[JobDependency]
    inputs_digest: str
    num_inputs: int
    inputs_per_task: int
    number: int
    hang: Hang
    def __init__(self, job_id: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., exit_code: _Optional[int] = ..., error: _Optional[str] = ..., started_at_ms: _Optional[int] = ..., finished_at_ms: _Optional[int] = ..., ports: _Optional[_Mapping[str, int]] = ..., resource_usage: _Optional[_Union[ResourceUsage, _Mapping]] = ..., status_message: _Optional[str] = ..., build_metrics: _Optional[_Union[BuildMetrics, _Mapping]] = ..., serialized_result: _Optional[bytes] = ..., parent_job_id: _Optional[str] = ..., failure_count: _Optional[int] = ..., preemption_count: _Optional[int] = ..., num_tasks: _Optional[int] = ..., tasks_pending: _Optional[int] = ..., tasks_running: _Optional[int] = ..., tasks_succeeded: _Optional[int] = ..., tasks_failed: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[TaskStatus, _Mapping]]] = ..., submitted_at_ms: _Optional[int] = ..., first_failed_task_index: _Optional[int] = ..., term_signal: _Optional[int] = ..., tasks_killed: _Optional[int] = ..., owner: _Optional[str] = ..., pending_reason: _Optional[_Union[PendingReason, str]] = ..., failure_reason: _Optional[_Union[FailureReason, str]] = ..., waits_for: _Optional[_Iterable[_Union[JobDependency, _Mapping]]] = ..., inputs_digest: _Optional[str] = ..., num_inputs: _Optional[int] = ..., inputs_per_task: _Optional[int] = ..., number: _Optional[int] = ..., hang: _Optional[_Union[Hang, _Mapping]] = ...) -> None: ...

class TaskStatus(_message.Message):
    __slots__ = ("task_id", "job_id", "task_index", "state", "worker_id", "worker_address", "exit_code", "error", "started_at_ms", "finished_at_ms", "ports", "resource_usage", "build_metrics", "current_attempt_id", "attempts", "status_message", "serialized_result", "result_error", "result_dropped", "term_signal", "failure_count", "preemption_count", "retry_at_ms", "exception", "log_warning", "pending_reason", "failure_reason", "output_warning", "idle_ms")
    class PortsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_USAGE_FIELD_NUMBER: _ClassVar[int]
    BUILD_METRICS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SERIALIZED_RESULT_FIELD_NUMBER: _ClassVar[int]
    RESULT_ERROR_FIELD_NUMBER: _ClassVar[int]
    RESULT_DROPPED_FIELD_NUMBER: _ClassVar[int]
    TERM_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    FAILURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREEMPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_MS_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_FIELD_NUMBER: _ClassVar[int]
    LOG_WARNING_FIELD_NUMBER: _ClassVar[int]
    PENDING_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_WARNING_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    job_id: str
    task_index: int
    state: TaskState
    worker_id: str
    worker_address: str
    exit_code: int
    error: str
    started_at_ms: int
    finished_at_ms: int
    ports: _containers.ScalarMap[str, int]
    resource_usage: ResourceUsage
    build_metrics: BuildMetrics
    current_attempt_id: int
    attempts: _containers.RepeatedCompositeFieldContainer[TaskAttempt]
    status_message: str
    serialized_result: bytes
    result_error: str
    result_dropped: bool
    term_signal: int
    failure_count: int
    preemption_count: int
    retry_at_ms: int
    exception: TaskException
    log_warning: str
    pending_reason: PendingReason
    failure_reason: FailureReason
    output_warning: str
    idle_ms: int
    def __init__(self, task_id: _Optional[str] = ..., job_id: _Optional[str] = ..., task_index: _Optional[int] = ..., state: _Optional[_Union[TaskState, str]] = ..., worker_id: _Optional[str] = ..., worker_address: _Optional[str] = ..., exit_code: _Optional[int] = ..., error: _Optional[str] = ..., started_at_ms: _Optional[int] = ..., finished_at_ms: _Optional[int] = ..., ports: _Optional[_Mapping[str, int]] = ..., resource_usage: _Optional[_Union[ResourceUsage, _Mapping]] = ..., build_metrics: _Optional[_Union[BuildMetrics, _Mapping]] = ..., current_attempt_id: _Optional[int] = ..., attempts: _Optional[_Iterable[_Union[TaskAttempt, _Mapping]]] = ..., status_message: _Optional[str] = ..., serialized_result: _Optional[bytes] = ..., result_error: _Optional[str] = ..., result_dropped: _Optional[bool] = ..., term_signal: _Optional[int] = ..., failure_count: _Optional[int] = ..., preemption_count: _Optional[int] = ..., retry_at_ms: _Optional[int] = ..., exception: _Optional[_Union[TaskException, _Mapping]] = ..., log_warning: _Optional[str] = ..., pending_reason: _Optional[_Union[PendingReason, str]] = ..., failure_reason: _Optional[_Union[FailureReason, str]] = ..., output_warning: _Optional[str] = ..., idle_ms: _Optional[int] = ...) -> None: ...

class TaskException(_message.Message):
    __slots__ = ("pickled", "traceback", "attempt_id")
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    pickled: bytes
    traceback: str
    attempt_id: int
    def __init__(self, pickled: _Optional[bytes] = ..., traceback: _Optional[str] = ..., attempt_id: _Optional[int] = ...) -> None: ...

class TaskAttempt(_message.Message):
    __slots__ = ("attempt_id", "worker_id", "state", "exit_code", "error", "started_at_ms", "finished_at_ms", "is_worker_failure", "worker_address", "term_signal", "out_of_memory", "failure_reason", "placed_at_ms")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    IS_WORKER_FAILURE_FIELD_NUMBER: _ClassVar[int]
    WORKER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TERM_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_MEMORY_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    PLACED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    attempt_id: int
    worker_id: str
    state: TaskState
    exit_code: int
    error: str
    started_at_ms: int
    finished_at_ms: int
    is_worker_failure: bool
    worker_address: str
    term_signal: int
    out_of_memory: bool
    failure_reason: FailureReason
    placed_at_ms: int
    def __init__(self, attempt_id: _Optional[int] = ..., worker_id: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ..., exit_code: _Optional[int] = ..., error: _Optional[str] = ..., started_at_ms: _Optional[int] = ..., finished_at_ms: _Optional[int] = ..., is_worker_failure: _Optional[bool] = ..., worker_address: _Optional[str] = ..., term_signal: _Optional[int] = ..., out_of_memory: _Optional[bool] = ..., failure_reason: _Optional[_Union[FailureReason, str]] = ..., placed_at_ms: _Optional[int] = ...) -> None: ...

class ResourceUsage(_message.Message):
    __slots__ = ("memory_mb", "disk_mb", "cpu_millicores", "memory_peak_mb", "cpu_percent", "process_count", "gpu_percent", "gpu_memory_mb")
    MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    DISK_MB_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_MB_FIELD_NUMBER: _ClassVar[int]
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    PROCESS_COUNT_FIELD_NUMBER: _ClassVar[int]
    GPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    memory_mb: int
    disk_mb: int
    cpu_millicores: int
    memory_peak_mb: int
    cpu_percent: int
    process_count: int
    gpu_percent: int
    gpu_memory_mb: int
    def __init__(self, memory_mb: _Optional[int] = ..., disk_mb: _Optional[int] = ..., cpu_millicores: _Optional[int] = ..., memory_peak_mb: _Optional[int] = ..., cpu_percent: _Optional[int] = ..., process_count: _Optional[int] = ..., gpu_percent: _Optional[int] = ..., gpu_memory_mb: _Optional[int] = ...) -> None: ...

class UsageSeries(_message.Message):
    __slots__ = ("task_index", "worker_id", "step_ms", "times_ms", "cpu_millicores", "memory_mb", "gpu_percent", "gpu_memory_mb", "num_tasks", "requested_cpu_millicores", "requested_memory_mb", "requested_gpus")
    TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_MS_FIELD_NUMBER: _ClassVar[int]
    TIMES_MS_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    GPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_GPUS_FIELD_NUMBER: _ClassVar[int]
    task_index: int
    worker_id: str
    step_ms: int
    times_ms: _containers.RepeatedScalarFieldContainer[int]
    cpu_millicores: _containers.RepeatedScalarFieldContainer[int]
    memory_mb: _containers.RepeatedScalarFieldContainer[int]
    gpu_percent: _containers.RepeatedScalarFieldContainer[int]
    gpu_memory_mb: _containers.RepeatedScalarFieldContainer[int]
    num_tasks: _containers.RepeatedScalarFieldContainer[int]
    requested_cpu_millicores: _containers.RepeatedScalarFieldContainer[int]
    requested_memory_mb: _containers.RepeatedScalarFieldContainer[int]
    requested_gpus: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task_index: _Optional[int] = ..., worker_id: _Optional[str] = ..., step_ms: _Optional[int] = ..., times_ms: _Optional[_Iterable[int]] = ..., cpu_millicores: _Optional[_Iterable[int]] = ..., memory_mb: _Optional[_Iterable[int]] = ..., gpu_percent: _Optional[_Iterable[int]] = ..., gpu_memory_mb: _Optional[_Iterable[int]] = ..., num_tasks: _Optional[_Iterable[int]] = ..., requested_cpu_millicores: _Optional[_Iterable[int]] = ..., requested_memory_mb: _Optional[_Iterable[int]] = ..., requested_gpus: _Optional[_Iterable[int]] = ...) -> None: ...

class BuildMetrics(_message.Message):
    __slots__ = ("build_started_ms", "build_finished_ms", "from_cache", "image_tag")
    BUILD_STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    BUILD_FINISHED_MS_FIELD_NUMBER: _ClassVar[int]
    FROM_CACHE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_TAG_FIELD_NUMBER: _ClassVar[int]
    build_started_ms: int
    build_finished_ms: int
    from_cache: bool
    image_tag: str
    def __init__(self, build_started_ms: _Optional[int] = ..., build_finished_ms: _Optional[int] = ..., from_cache: _Optional[bool] = ..., image_tag: _Optional[str] = ...) -> None: ...

class WorkerMetadata(_message.Message):
    __slots__ = ("hostname", "ip_address", "cpu_count", "memory_bytes", "disk_bytes", "device", "gpu_count", "gpu_name", "gpu_memory_mb", "attributes", "version", "enforcement", "has_py_spy", "ptrace_scope")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AttributeValue, _Mapping]] = ...) -> None: ...
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    IP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    GPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    GPU_NAME_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENFORCEMENT_FIELD_NUMBER: _ClassVar[int]
    HAS_PY_SPY_FIELD_NUMBER: _ClassVar[int]
    PTRACE_SCOPE_FIELD_NUMBER: _ClassVar[int]
    hostname: str
    ip_address: str
    cpu_count: int
    memory_bytes: int
    disk_bytes: int
    device: DeviceConfig
    gpu_count: int
    gpu_name: str
    gpu_memory_mb: int
    attributes: _containers.MessageMap[str, AttributeValue]
    version: str
    enforcement: str
    has_py_spy: bool
    ptrace_scope: int
    def __init__(self, hostname: _Optional[str] = ..., ip_address: _Optional[str] = ..., cpu_count: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., device: _Optional[_Union[DeviceConfig, _Mapping]] = ..., gpu_count: _Optional[int] = ..., gpu_name: _Optional[str] = ..., gpu_memory_mb: _Optional[int] = ..., attributes: _Optional[_Mapping[str, AttributeValue]] = ..., version: _Optional[str] = ..., enforcement: _Optional[str] = ..., has_py_spy: _Optional[bool] = ..., ptrace_scope: _Optional[int] = ...) -> None: ...

class ResourceSpecProto(_message.Message):
    __slots__ = ("cpu", "memory_bytes", "device", "replicas", "preemptible", "regions", "disk_bytes", "cpu_millicores")
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIBLE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
    cpu: int
    memory_bytes: int
    device: DeviceConfig
    replicas: int
    preemptible: bool
    regions: _containers.RepeatedScalarFieldContainer[str]
    disk_bytes: int
    cpu_millicores: int
    def __init__(self, cpu: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., device: _Optional[_Union[DeviceConfig, _Mapping]] = ..., replicas: _Optional[int] = ..., preemptible: _Optional[bool] = ..., regions: _Optional[_Iterable[str]] = ..., disk_bytes: _Optional[int] = ..., cpu_millicores: _Optional[int] = ...) -> None: ...

class DeviceConfig(_message.Message):
    __slots__ = ("cpu", "gpu", "tpu")
    CPU_FIELD_NUMBER: _ClassVar[int]
    GPU_FIELD_NUMBER: _ClassVar[int]
    TPU_FIELD_NUMBER: _ClassVar[int]
    cpu: CpuDevice
    gpu: GpuDevice
    tpu: TpuDevice
    def __init__(self, cpu: _Optional[_Union[CpuDevice, _Mapping]] = ..., gpu: _Optional[_Union[GpuDevice, _Mapping]] = ..., tpu: _Optional[_Union[TpuDevice, _Mapping]] = ...) -> None: ...

class CpuDevice(_message.Message):
    __slots__ = ("variant",)
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    variant: str
    def __init__(self, variant: _Optional[str] = ...) -> None: ...

class GpuDevice(_message.Message):
    __slots__ = ("variant", "count")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    variant: str
    count: int
    def __init__(self, variant: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class TpuDevice(_message.Message):
    __slots__ = ("variant", "topology", "count")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    variant: str
    topology: str
    count: int
    def __init__(self, variant: _Optional[str] = ..., topology: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class EnvironmentConfig(_message.Message):
    __slots__ = ("workspace", "pip_packages", "env_vars", "extras", "complete", "umask")
    class EnvVarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    PIP_PACKAGES_FIELD_NUMBER: _ClassVar[int]
    ENV_VARS_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    workspace: str
    pip_packages: _containers.RepeatedScalarFieldContainer[str]
    env_vars: _containers.ScalarMap[str, str]
    extras: _containers.RepeatedScalarFieldContainer[str]
    complete: bool
    umask: int
    def __init__(self, workspace: _Optional[str] = ..., pip_packages: _Optional[_Iterable[str]] = ..., env_vars: _Optional[_Mapping[str, str]] = ..., extras: _Optional[_Iterable[str]] = ..., complete: _Optional[bool] = ..., umask: _Optional[int] = ...) -> None: ...

class AttributeValue(_message.Message):
    __slots__ = ("string_value", "int_value", "float_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    int_value: int
    float_value: float
    def __init__(self, string_value: _Optional[str] = ..., int_value: _Optional[int] = ..., float_value: _Optional[float] = ...) -> None: ...

class Constraint(_message.Message):
    __slots__ = ("key", "op", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    op: ConstraintOp
    value: AttributeValue
    def __init__(self, key: _Optional[str] = ..., op: _Optional[_Union[ConstraintOp, str]] = ..., value: _Optional[_Union[AttributeValue, _Mapping]] = ...) -> None: ...

class CoschedulingConfig(_message.Message):
    __slots__ = ("group_by",)
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    group_by: str
    def __init__(self, group_by: _Optional[str] = ...) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("healthy", "uptime_ms", "running_tasks", "worker_id", "now_ms")
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_TASKS_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    healthy: bool
    uptime_ms: int
    running_tasks: int
    worker_id: str
    now_ms: int
    def __init__(self, healthy: _Optional[bool] = ..., uptime_ms: _Optional[int] = ..., running_tasks: _Optional[int] = ..., worker_id: _Optional[str] = ..., now_ms: _Optional[int] = ...) -> None: ...

class LogPosition(_message.Message):
    __slots__ = ("task_index", "attempt_id", "offsets")
    TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    task_index: int
    attempt_id: int
    offsets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., offsets: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamTaskLogsRequest(_message.Message):
    __slots__ = ("job_id", "positions", "follow", "one_attempt", "filter", "max_bytes")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    ONE_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    positions: _containers.RepeatedCompositeFieldContainer[LogPosition]
    follow: bool
    one_attempt: bool
    filter: Worker.FetchLogsFilter
    max_bytes: int
    def __init__(self, job_id: _Optional[str] = ..., positions: _Optional[_Iterable[_Union[LogPosition, _Mapping]]] = ..., follow: _Optional[bool] = ..., one_attempt: _Optional[bool] = ..., filter: _Optional[_Union[Worker.FetchLogsFilter, _Mapping]] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class StreamTaskLogsResponse(_message.Message):
    __slots__ = ("chunks",)
    class Chunk(_message.Message):
        __slots__ = ("task_index", "attempt_id", "records", "flush", "end", "error", "error_reason", "position")
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        FLUSH_FIELD_NUMBER: _ClassVar[int]
        END_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        task_index: int
        attempt_id: int
        records: bytes
        flush: bool
        end: LogEnd
        error: str
        error_reason: ErrorReason
        position: int
        def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., records: _Optional[bytes] = ..., flush: _Optional[bool] = ..., end: _Optional[_Union[LogEnd, _Mapping]] = ..., error: _Optional[str] = ..., error_reason: _Optional[_Union[ErrorReason, str]] = ..., position: _Optional[int] = ...) -> None: ...
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[StreamTaskLogsResponse.Chunk]
    def __init__(self, chunks: _Optional[_Iterable[_Union[StreamTaskLogsResponse.Chunk, _Mapping]]] = ...) -> None: ...

class FetchLogPartsRequest(_message.Message):
    __slots__ = ("job_id", "reads", "filter", "max_bytes", "max_line_bytes", "find")
    class SourceByte(_message.Message):
        __slots__ = ("source", "offset")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        OFFSET_FIELD_NUMBER: _ClassVar[int]
        source: str
        offset: int
        def __init__(self, source: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...
    class Read(_message.Message):
        __slots__ = ("task_index", "attempt_id", "position", "timestamp_ms", "source_byte", "backwards", "stop")
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
        SOURCE_BYTE_FIELD_NUMBER: _ClassVar[int]
        BACKWARDS_FIELD_NUMBER: _ClassVar[int]
        STOP_FIELD_NUMBER: _ClassVar[int]
        task_index: int
        attempt_id: int
        position: int
        timestamp_ms: int
        source_byte: FetchLogPartsRequest.SourceByte
        backwards: bool
        stop: int
        def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., position: _Optional[int] = ..., timestamp_ms: _Optional[int] = ..., source_byte: _Optional[_Union[FetchLogPartsRequest.SourceByte, _Mapping]] = ..., backwards: _Optional[bool] = ..., stop: _Optional[int] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_LINE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FIND_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    reads: _containers.RepeatedCompositeFieldContainer[FetchLogPartsRequest.Read]
    filter: Worker.FetchLogsFilter
    max_bytes: int
    max_line_bytes: int
    find: str
    def __init__(self, job_id: _Optional[str] = ..., reads: _Optional[_Iterable[_Union[FetchLogPartsRequest.Read, _Mapping]]] = ..., filter: _Optional[_Union[Worker.FetchLogsFilter, _Mapping]] = ..., max_bytes: _Optional[int] = ..., max_line_bytes: _Optional[int] = ..., find: _Optional[str] = ...) -> None: ...

class FetchLogPartsResponse(_message.Message):
    __slots__ = ("parts",)
    class Part(_message.Message):
        __slots__ = ("task_index", "attempt_id", "records", "begin", "end", "size", "offsets", "at_end", "complete", "missing_reason", "error", "error_reason")
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        RECORDS_FIELD_NUMBER: _ClassVar[int]
        BEGIN_FIELD_NUMBER: _ClassVar[int]
        END_FIELD_NUMBER: _ClassVar[int]
        SIZE_FIELD_NUMBER: _ClassVar[int]
        OFFSETS_FIELD_NUMBER: _ClassVar[int]
        AT_END_FIELD_NUMBER: _ClassVar[int]
        COMPLETE_FIELD_NUMBER: _ClassVar[int]
        MISSING_REASON_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
        task_index: int
        attempt_id: int
        records: bytes
        begin: int
        end: int
        size: int
        offsets: _containers.RepeatedScalarFieldContainer[int]
        at_end: bool
        complete: bool
        missing_reason: str
        error: str
        error_reason: ErrorReason
        def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., records: _Optional[bytes] = ..., begin: _Optional[int] = ..., end: _Optional[int] = ..., size: _Optional[int] = ..., offsets: _Optional[_Iterable[int]] = ..., at_end: _Optional[bool] = ..., complete: _Optional[bool] = ..., missing_reason: _Optional[str] = ..., error: _Optional[str] = ..., error_reason: _Optional[_Union[ErrorReason, str]] = ...) -> None: ...
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[FetchLogPartsResponse.Part]
    def __init__(self, parts: _Optional[_Iterable[_Union[FetchLogPartsResponse.Part, _Mapping]]] = ...) -> None: ...

class LogEnd(_message.Message):
    __slots__ = ("complete", "state", "exit_code", "term_signal", "error", "bytes_written", "bytes_missing", "missing_reason", "offsets", "failure_reason")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    TERM_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    BYTES_MISSING_FIELD_NUMBER: _ClassVar[int]
    MISSING_REASON_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    state: TaskState
    exit_code: int
    term_signal: int
    error: str
    bytes_written: _containers.RepeatedScalarFieldContainer[int]
    bytes_missing: int
    missing_reason: str
    offsets: _containers.RepeatedScalarFieldContainer[int]
    failure_reason: FailureReason
    def __init__(self, complete: _Optional[bool] = ..., state: _Optional[_Union[TaskState, str]] = ..., exit_code: _Optional[int] = ..., term_signal: _Optional[int] = ..., error: _Optional[str] = ..., bytes_written: _Optional[_Iterable[int]] = ..., bytes_missing: _Optional[int] = ..., missing_reason: _Optional[str] = ..., offsets: _Optional[_Iterable[int]] = ..., failure_reason: _Optional[_Union[FailureReason, str]] = ...) -> None: ...

class TaskFile(_message.Message):
    __slots__ = ("path", "type", "size", "mode", "modified_ns", "link_target")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NS_FIELD_NUMBER: _ClassVar[int]
    LINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    path: str
    type: FileType
    size: int
    mode: int
    modified_ns: int
    link_target: str
    def __init__(self, path: _Optional[str] = ..., type: _Optional[_Union[FileType, str]] = ..., size: _Optional[int] = ..., mode: _Optional[int] = ..., modified_ns: _Optional[int] = ..., link_target: _Optional[str] = ...) -> None: ...

class OutputIndex(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[TaskFile]
    def __init__(self, files: _Optional[_Iterable[_Union[TaskFile, _Mapping]]] = ...) -> None: ...

class ListTaskFilesRequest(_message.Message):
    __slots__ = ("task_id", "attempt_id", "path", "recursive", "page_token")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt_id: int
    path: str
    recursive: bool
    page_token: str
    def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., path: _Optional[str] = ..., recursive: _Optional[bool] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTaskFilesResponse(_message.Message):
    __slots__ = ("attempt_id", "files", "next_page_token")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    attempt_id: int
    files: _containers.RepeatedCompositeFieldContainer[TaskFile]
    next_page_token: str
    def __init__(self, attempt_id: _Optional[int] = ..., files: _Optional[_Iterable[_Union[TaskFile, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReadTaskFileRequest(_message.Message):
    __slots__ = ("task_id", "attempt_id", "path", "offset", "max_bytes", "hash_only", "with_hash")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    HASH_ONLY_FIELD_NUMBER: _ClassVar[int]
    WITH_HASH_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt_id: int
    path: str
    offset: int
    max_bytes: int
    hash_only: bool
    with_hash: bool
    def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ..., max_bytes: _Optional[int] = ..., hash_only: _Optional[bool] = ..., with_hash: _Optional[bool] = ...) -> None: ...

class ReadTaskFileResponse(_message.Message):
    __slots__ = ("attempt_id", "data", "sha256", "hashed_bytes", "inode")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    HASHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    attempt_id: int
    data: bytes
    sha256: str
    hashed_bytes: int
    inode: int
    def __init__(self, attempt_id: _Optional[int] = ..., data: _Optional[bytes] = ..., sha256: _Optional[str] = ..., hashed_bytes: _Optional[int] = ..., inode: _Optional[int] = ...) -> None: ...

class WriteTaskFileRequest(_message.Message):
    __slots__ = ("task_id", "attempt_id", "file", "transfer_id", "offset", "data", "end", "sha256")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt_id: int
    file: TaskFile
    transfer_id: str
    offset: int
    data: bytes
    end: bool
    sha256: str
    def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., file: _Optional[_Union[TaskFile, _Mapping]] = ..., transfer_id: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ..., sha256: _Optional[str] = ...) -> None: ...

class WriteTaskFileResponse(_message.Message):
    __slots__ = ("attempt_id", "offset")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    attempt_id: int
    offset: int
    def __init__(self, attempt_id: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class StackFrame(_message.Message):
    __slots__ = ("function", "file", "line")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    function: str
    file: str
    line: int
    def __init__(self, function: _Optional[str] = ..., file: _Optional[str] = ..., line: _Optional[int] = ...) -> None: ...

class StackVariable(_message.Message):
    __slots__ = ("name", "value", "is_argument")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    IS_ARGUMENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    is_argument: bool
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., is_argument: _Optional[bool] = ...) -> None: ...

class StackVariables(_message.Message):
    __slots__ = ("variables",)
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    variables: _containers.RepeatedCompositeFieldContainer[StackVariable]
    def __init__(self, variables: _Optional[_Iterable[_Union[StackVariable, _Mapping]]] = ...) -> None: ...

class ThreadStack(_message.Message):
    __slots__ = ("name", "thread_id", "is_active", "holds_gil", "frames", "variables")
    NAME_FIELD_NUMBER: _ClassVar[int]
    THREAD_ID_FIELD_NUMBER: _ClassVar[int]
    IS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    HOLDS_GIL_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    thread_id: int
    is_active: bool
    holds_gil: bool
    frames: _containers.RepeatedScalarFieldContainer[int]
    variables: _containers.RepeatedCompositeFieldContainer[StackVariables]
    def __init__(self, name: _Optional[str] = ..., thread_id: _Optional[int] = ..., is_active: _Optional[bool] = ..., holds_gil: _Optional[bool] = ..., frames: _Optional[_Iterable[int]] = ..., variables: _Optional[_Iterable[_Union[StackVariables, _Mapping]]] = ...) -> None: ...

class ProcessStacks(_message.Message):
    __slots__ = ("pid", "parent_pid", "command", "state", "threads", "reason", "problem")
    PID_FIELD_NUMBER: _ClassVar[int]
    PARENT_PID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    pid: int
    parent_pid: int
    command: str
    state: str
    threads: _containers.RepeatedCompositeFieldContainer[ThreadStack]
    reason: StackReason
    problem: str
    def __init__(self, pid: _Optional[int] = ..., parent_pid: _Optional[int] = ..., command: _Optional[str] = ..., state: _Optional[str] = ..., threads: _Optional[_Iterable[_Union[ThreadStack, _Mapping]]] = ..., reason: _Optional[_Union[StackReason, str]] = ..., problem: _Optional[str] = ...) -> None: ...

class TaskStacks(_message.Message):
    __slots__ = ("task_index", "attempt_id", "worker_id", "read_at_ms", "processes", "reason", "problem")
    TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    READ_AT_MS_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    task_index: int
    attempt_id: int
    worker_id: str
    read_at_ms: int
    processes: _containers.RepeatedCompositeFieldContainer[ProcessStacks]
    reason: StackReason
    problem: str
    def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., worker_id: _Optional[str] = ..., read_at_ms: _Optional[int] = ..., processes: _Optional[_Iterable[_Union[ProcessStacks, _Mapping]]] = ..., reason: _Optional[_Union[StackReason, str]] = ..., problem: _Optional[str] = ...) -> None: ...

class ReadStacksResponse(_message.Message):
    __slots__ = ("frames", "tasks")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[StackFrame]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskStacks]
    def __init__(self, frames: _Optional[_Iterable[_Union[StackFrame, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[TaskStacks, _Mapping]]] = ...) -> None: ...

class SampledStack(_message.Message):
    __slots__ = ("frames", "samples")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[int]
    samples: int
    def __init__(self, frames: _Optional[_Iterable[int]] = ..., samples: _Optional[int] = ...) -> None: ...

class SampledTask(_message.Message):
    __slots__ = ("task_index", "attempt_id", "worker_id", "samples", "processes", "reason", "problem")
    TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    task_index: int
    attempt_id: int
    worker_id: str
    samples: int
    processes: int
    reason: StackReason
    problem: str
    def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., worker_id: _Optional[str] = ..., samples: _Optional[int] = ..., processes: _Optional[int] = ..., reason: _Optional[_Union[StackReason, str]] = ..., problem: _Optional[str] = ...) -> None: ...

class SampleStacksResponse(_message.Message):
    __slots__ = ("frames", "stacks", "tasks")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    STACKS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[StackFrame]
    stacks: _containers.RepeatedCompositeFieldContainer[SampledStack]
    tasks: _containers.RepeatedCompositeFieldContainer[SampledTask]
    def __init__(self, frames: _Optional[_Iterable[_Union[StackFrame, _Mapping]]] = ..., stacks: _Optional[_Iterable[_Union[SampledStack, _Mapping]]] = ..., tasks: _Optional[_Iterable[_Union[SampledTask, _Mapping]]] = ...) -> None: ...

class Controller(_message.Message):
    __slots__ = ()
    class LaunchJobRequest(_message.Message):
        __slots__ = ("name", "serialized_entrypoint", "resources", "environment", "bundle_gcs_path", "bundle_hash", "bundle_blob", "scheduling_timeout_seconds", "ports", "parent_job_id", "max_task_failures", "max_retries_failure", "max_retries_preemption", "constraints", "coscheduling", "command", "submission_id", "independent_tasks", "timeout_seconds", "pickled_by", "kill_grace_period_ms", "max_log_bytes", "working_directory", "job_timeout_seconds", "retry_pause_ms", "parent_task_index", "parent_attempt_id", "placement", "rendezvous", "asked_name", "stdin", "seen_task_indices", "seen_num_tasks", "retry_on", "fail_on", "timeout_warning_seconds", "ignore_parent_environment", "traceparent", "tracestate", "is_traced", "max_parallel", "inputs_blob", "inputs_hash", "inputs_digest", "num_inputs", "inputs_per_task", "after", "outputs", "watch_hang_seconds", "hang_action", "profile_memory")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SERIALIZED_ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
        RESOURCES_FIELD_NUMBER: _ClassVar[int]
        ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
        BUNDLE_GCS_PATH_FIELD_NUMBER: _ClassVar[int]
        BUNDLE_HASH_FIELD_NUMBER: _ClassVar[int]
        BUNDLE_BLOB_FIELD_NUMBER: _ClassVar[int]
        SCHEDULING_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
        PORTS_FIELD_NUMBER: _ClassVar[int]
        PARENT_JOB_ID_FIELD_NUMBER: _ClassVar[int]
        MAX_TASK_FAILURES_FIELD_NUMBER: _ClassVar[int]
        MAX_RETRIES_FAILURE_FIELD_NUMBER: _ClassVar[int]
        MAX_RETRIES_PREEMPTION_FIELD_NUMBER: _ClassVar[int]
        CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
        COSCHEDULING_FIELD_NUMBER: _ClassVar[int]
        COMMAND_FIELD_NUMBER: _ClassVar[int]
        SUBMISSION_ID_FIELD_NUMBER: _ClassVar[int]
        INDEPENDENT_TASKS_FIELD_NUMBER: _ClassVar[int]
        TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
        PICKLED_BY_FIELD_NUMBER: _ClassVar[int]
        KILL_GRACE_PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
        MAX_LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
        WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
        JOB_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
        RETRY_PAUSE_MS_FIELD_NUMBER: _ClassVar[int]
        PARENT_TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        PARENT_ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        PLACEMENT_FIELD_NUMBER: _ClassVar[int]
        RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
        ASKED_NAME_FIELD_NUMBER: _ClassVar[int]
        STDIN_FIELD_NUMBER: _ClassVar[int]
        SEEN_TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
        SEEN_NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
        RETRY_ON_FIELD_NUMBER: _ClassVar[int]
        FAIL_ON_FIELD_NUMBER: _ClassVar[int]
        TIMEOUT_WARNING_SECONDS_FIELD_NUMBER: _ClassVar[int]
        IGNORE_PARENT_ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
        TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
        TRACESTATE_FIELD_NUMBER: _ClassVar[int]
        IS_TRACED_FIELD_NUMBER: _ClassVar[int]
        MAX_PARALLEL_FIELD_NUMBER: _ClassVar[int]
        INPUTS_BLOB_FIELD_NUMBER: _ClassVar[int]
        INPUTS_HASH_FIELD_NUMBER: _ClassVar[int]
        INPUTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
        NUM_INPUTS_FIELD_NUMBER: _ClassVar[int]
        INPUTS_PER_TASK_FIELD_NUMBER: _ClassVar[int]
        AFTER_FIELD_NUMBER: _ClassVar[int]
        OUTPUTS_FIELD_NUMBER: _ClassVar[int]
        WATCH_HANG_SECONDS_FIELD_NUMBER: _ClassVar[int]
        HANG_ACTION_FIELD_NUMBER: _ClassVar[int]
        PROFILE_MEMORY_FIELD_NUMBER: _ClassVar[int]
        name: str
        serialized_entrypoint: bytes
        resources: ResourceSpecProto
        environment: EnvironmentConfig
        bundle_gcs_path: str
        bundle_hash: str
        bundle_blob: bytes
        scheduling_timeout_seconds: int
        ports: _containers.RepeatedScalarFieldContainer[str]
        parent_job_id: str
        max_task_failures: int
        max_retries_failure: int
        max_retries_preemption: int
        constraints: _containers.RepeatedCompositeFieldContainer[Constraint]
        coscheduling: CoschedulingConfig
        command: _containers.RepeatedScalarFieldContainer[str]
        submission_id: str
        independent_tasks: bool
        timeout_seconds: int
        pickled_by: str
        kill_grace_period_ms: int
        max_log_bytes: int
        working_directory: str
        job_timeout_seconds: int
        retry_pause_ms: int
        parent_task_index: int
        parent_attempt_id: int
        placement: Placement
        rendezvous: Rendezvous
        asked_name: str
        stdin: bool
        seen_task_indices: _containers.RepeatedScalarFieldContainer[int]
        seen_num_tasks: int
        retry_on: _containers.RepeatedScalarFieldContainer[int]
        fail_on: _containers.RepeatedScalarFieldContainer[int]
        timeout_warning_seconds: int
        ignore_parent_environment: bool
        traceparent: str
        tracestate: str
        is_traced: bool
        max_parallel: int
        inputs_blob: bytes
        inputs_hash: str
        inputs_digest: str
        num_inputs: int
        inputs_per_task: int
        after: _containers.RepeatedCompositeFieldContainer[JobDependency]
        outputs: _containers.RepeatedScalarFieldContainer[str]
        watch_hang_seconds: int
        hang_action: HangAction
        profile_memory: bool
        def __init__(self, name: _Optional[str] = ..., serialized_entrypoint: _Optional[bytes] = ..., resources: _Optional[_Union[ResourceSpecProto, _Mapping]] = ..., environment: _Optional[_Union[EnvironmentConfig, _Mapping]] = ..., bundle_gcs_path: _Optional[str] = ..., bundle_hash: _Optional[str] = ..., bundle_blob: _Optional[bytes] = ..., scheduling_timeout_seconds: _Optional[int] = ..., ports: _Optional[_Iterable[str]] = ..., parent_job_id: _Optional[str] = ..., max_task_failures: _Optional[int] = ..., max_retries_failure: _Optional[int] = ..., max_retries_preemption: _Optional[int] = ..., constraints: _Optional[_Iterable[_Union[Constraint, _Mapping]]] = ..., coscheduling: _Optional[_Union[CoschedulingConfig, _Mapping]] = ..., command: _Optional[_Iterable[str]] = ..., submission_id: _Optional[str] = ..., independent_tasks: _Optional[bool] = ..., timeout_seconds: _Optional[int] = ..., pickled_by: _Optional[str] = ..., kill_grace_period_ms: _Optional[int] = ..., max_log_bytes: _Optional[int] = ..., working_directory: _Optional[str] = ..., job_timeout_seconds: _Optional[int] = ..., retry_pause_ms: _Optional[int] = ..., parent_task_index: _Optional[int] = ..., parent_attempt_id: _Optional[int] = ..., placement: _Optional[_Union[Placement, str]] = ..., rendezvous: _Optional[_Union[Rendezvous, str]] = ..., asked_name: _Optional[str] = ..., stdin: _Optional[bool] = ..., seen_task_indices: _Optional[_Iterable[int]] = ..., seen_num_tasks: _Optional[int] = ..., retry_on: _Optional[_Iterable[int]] = ..., fail_on: _Optional[_Iterable[int]] = ..., timeout_warning_seconds: _Optional[int] = ..., ignore_parent_environment: _Optional[bool] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., is_traced: _Optional[bool] = ..., max_parallel: _Optional[int] = ..., inputs_blob: _Optional[bytes] = ..., inputs_hash: _Optional[str] = ..., inputs_digest: _Optional[str] = ..., num_inputs: _Optional[int] = ..., inputs_per_task: _Optional[int] = ..., after: _Optional[_Iterable[_Union[JobDependency, _Mapping]]] = ..., outputs: _Optional[_Iterable[str]] = ..., watch_hang_seconds: _Optional[int] = ..., hang_action: _Optional[_Union[HangAction, str]] = ..., profile_memory: _Optional[bool] = ...) -> None: ...
    class LaunchJobResponse(_message.Message):
        __slots__ = ("job_id",)
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        def __init__(self, job_id: _Optional[str] = ...) -> None: ...
    class GetSubmissionRequest(_message.Message):
        __slots__ = ("job_id",)
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        def __init__(self, job_id: _Optional[str] = ...) -> None: ...
    class GetSubmissionResponse(_message.Message):
        __slots__ = ("submission", "callable_bytes", "problem")
        SUBMISSION_FIELD_NUMBER: _ClassVar[int]
        CALLABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        submission: Controller.LaunchJobRequest
        callable_bytes: int
        problem: str
        def __init__(self, submission: _Optional[_Union[Controller.LaunchJobRequest, _Mapping]] = ..., callable_bytes: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...
    class ResubmitJobRequest(_message.Message):
        __slots__ = ("job_id", "submission", "kept_variables")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        SUBMISSION_FIELD_NUMBER: _ClassVar[int]
        KEPT_VARIABLES_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        submission: Controller.LaunchJobRequest
        kept_variables: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, job_id: _Optional[str] = ..., submission: _Optional[_Union[Controller.LaunchJobRequest, _Mapping]] = ..., kept_variables: _Optional[_Iterable[str]] = ...) -> None: ...
    class GetJobStatusRequest(_message.Message):
        __slots__ = ("job_id", "include_result", "without_tasks")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_RESULT_FIELD_NUMBER: _ClassVar[int]
        WITHOUT_TASKS_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        include_result: bool
        without_tasks: bool
        def __init__(self, job_id: _Optional[str] = ..., include_result: _Optional[bool] = ..., without_tasks: _Optional[bool] = ...) -> None: ...
    class GetJobStatusResponse(_message.Message):
        __slots__ = ("job", "next_page_token")
        JOB_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        job: JobStatus
        next_page_token: str
        def __init__(self, job: _Optional[_Union[JobStatus, _Mapping]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
    class TerminateJobRequest(_message.Message):
        __slots__ = ("job_id",)
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        def __init__(self, job_id: _Optional[str] = ...) -> None: ...
    class TerminateTaskRequest(_message.Message):
        __slots__ = ("job_id", "task_index")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_index: int
        def __init__(self, job_id: _Optional[str] = ..., task_index: _Optional[int] = ...) -> None: ...
    class ForgetJobRequest(_message.Message):
        __slots__ = ("job_id", "request_id")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        request_id: str
        def __init__(self, job_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...
    class ForgetJobResponse(_message.Message):
        __slots__ = ("job_ids",)
        JOB_IDS_FIELD_NUMBER: _ClassVar[int]
        job_ids: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, job_ids: _Optional[_Iterable[str]] = ...) -> None: ...
    class ListJobsRequest(_message.Message):
        __slots__ = ("page_size", "page_token", "id_prefix", "states", "owner", "since_ms", "until_ms", "newest_first", "include_counts", "id_contains")
        PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
        STATES_FIELD_NUMBER: _ClassVar[int]
        OWNER_FIELD_NUMBER: _ClassVar[int]
        SINCE_MS_FIELD_NUMBER: _ClassVar[int]
        UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
        NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_COUNTS_FIELD_NUMBER: _ClassVar[int]
        ID_CONTAINS_FIELD_NUMBER: _ClassVar[int]
        page_size: int
        page_token: str
        id_prefix: str
        states: _containers.RepeatedScalarFieldContainer[JobState]
        owner: str
        since_ms: int
        until_ms: int
        newest_first: bool
        include_counts: bool
        id_contains: str
        def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., id_prefix: _Optional[str] = ..., states: _Optional[_Iterable[_Union[JobState, str]]] = ..., owner: _Optional[str] = ..., since_ms: _Optional[int] = ..., until_ms: _Optional[int] = ..., newest_first: _Optional[bool] = ..., include_counts: _Optional[bool] = ..., id_contains: _Optional[str] = ...) -> None: ...
    class ListJobsResponse(_message.Message):
        __slots__ = ("jobs", "next_page_token", "num_unfinished", "num_ended")
        JOBS_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        NUM_UNFINISHED_FIELD_NUMBER: _ClassVar[int]
        NUM_ENDED_FIELD_NUMBER: _ClassVar[int]
        jobs: _containers.RepeatedCompositeFieldContainer[JobStatus]
        next_page_token: str
        num_unfinished: int
        num_ended: int
        def __init__(self, jobs: _Optional[_Iterable[_Union[JobStatus, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., num_unfinished: _Optional[int] = ..., num_ended: _Optional[int] = ...) -> None: ...
    class GetTaskStatusRequest(_message.Message):
        __slots__ = ("job_id", "task_index", "include_result")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_RESULT_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_index: int
        include_result: bool
        def __init__(self, job_id: _Optional[str] = ..., task_index: _Optional[int] = ..., include_result: _Optional[bool] = ...) -> None: ...
    class GetTaskStatusResponse(_message.Message):
        __slots__ = ("task",)
        TASK_FIELD_NUMBER: _ClassVar[int]
        task: TaskStatus
        def __init__(self, task: _Optional[_Union[TaskStatus, _Mapping]] = ...) -> None: ...
    class ListTasksRequest(_message.Message):
        __slots__ = ("job_id", "page_size", "page_token")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        page_size: int
        page_token: str
        def __init__(self, job_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...
    class ListTasksResponse(_message.Message):
        __slots__ = ("tasks", "next_page_token")
        TASKS_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        tasks: _containers.RepeatedCompositeFieldContainer[TaskStatus]
        next_page_token: str
        def __init__(self, tasks: _Optional[_Iterable[_Union[TaskStatus, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
    class RegisterWorkerRequest(_message.Message):
        __slots__ = ("worker_id", "address", "metadata", "incarnation", "version", "python_version", "visible_devices", "short_of", "shortage_reason")
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        METADATA_FIELD_NUMBER: _ClassVar[int]
        INCARNATION_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
        VISIBLE_DEVICES_FIELD_NUMBER: _ClassVar[int]
        SHORT_OF_FIELD_NUMBER: _ClassVar[int]
        SHORTAGE_REASON_FIELD_NUMBER: _ClassVar[int]
        worker_id: str
        address: str
        metadata: WorkerMetadata
        incarnation: str
        version: str
        python_version: str
        visible_devices: _containers.RepeatedScalarFieldContainer[str]
        short_of: str
        shortage_reason: ShortageReason
        def __init__(self, worker_id: _Optional[str] = ..., address: _Optional[str] = ..., metadata: _Optional[_Union[WorkerMetadata, _Mapping]] = ..., incarnation: _Optional[str] = ..., version: _Optional[str] = ..., python_version: _Optional[str] = ..., visible_devices: _Optional[_Iterable[str]] = ..., short_of: _Optional[str] = ..., shortage_reason: _Optional[_Union[ShortageReason, str]] = ...) -> None: ...
    class RegisterWorkerResponse(_message.Message):
        __slots__ = ("accepted", "controller_address", "lease_ms", "token_key", "token", "refused", "version")
        ACCEPTED_FIELD_NUMBER: _ClassVar[int]
        CONTROLLER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
        LEASE_MS_FIELD_NUMBER: _ClassVar[int]
        TOKEN_KEY_FIELD_NUMBER: _ClassVar[int]
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        REFUSED_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        accepted: bool
        controller_address: str
        lease_ms: int
        token_key: bytes
        token: str
        refused: str
        version: str
        def __init__(self, accepted: _Optional[bool] = ..., controller_address: _Optional[str] = ..., lease_ms: _Optional[int] = ..., token_key: _Optional[bytes] = ..., token: _Optional[str] = ..., refused: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
    class WorkerHealthStatus(_message.Message):
        __slots__ = ("worker_id", "healthy", "consecutive_failures", "last_heartbeat_ms", "running_job_ids", "address", "metadata", "short_of", "shortage_reason")
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        HEALTHY_FIELD_NUMBER: _ClassVar[int]
        CONSECUTIVE_FAILURES_FIELD_NUMBER: _ClassVar[int]
        LAST_HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
        RUNNING_JOB_IDS_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        METADATA_FIELD_NUMBER: _ClassVar[int]
        SHORT_OF_FIELD_NUMBER: _ClassVar[int]
        SHORTAGE_REASON_FIELD_NUMBER: _ClassVar[int]
        worker_id: str
        healthy: bool
        consecutive_failures: int
        last_heartbeat_ms: int
        running_job_ids: _containers.RepeatedScalarFieldContainer[str]
        address: str
        metadata: WorkerMetadata
        short_of: str
        shortage_reason: ShortageReason
        def __init__(self, worker_id: _Optional[str] = ..., healthy: _Optional[bool] = ..., consecutive_failures: _Optional[int] = ..., last_heartbeat_ms: _Optional[int] = ..., running_job_ids: _Optional[_Iterable[str]] = ..., address: _Optional[str] = ..., metadata: _Optional[_Union[WorkerMetadata, _Mapping]] = ..., short_of: _Optional[str] = ..., shortage_reason: _Optional[_Union[ShortageReason, str]] = ...) -> None: ...
    class Amounts(_message.Message):
        __slots__ = ("cpu", "memory_bytes", "gpu", "cpu_millicores")
        CPU_FIELD_NUMBER: _ClassVar[int]
        MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
        GPU_FIELD_NUMBER: _ClassVar[int]
        CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
        cpu: int
        memory_bytes: int
        gpu: int
        cpu_millicores: int
        def __init__(self, cpu: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., gpu: _Optional[int] = ..., cpu_millicores: _Optional[int] = ...) -> None: ...
    class Machine(_message.Message):
        __slots__ = ("name", "labels", "total", "free", "alive", "holdings", "why_avoided", "shortage_reason", "used", "worker_ids")
        class Holding(_message.Message):
            __slots__ = ("job_id", "task_indices")
            JOB_ID_FIELD_NUMBER: _ClassVar[int]
            TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
            job_id: str
            task_indices: _containers.RepeatedScalarFieldContainer[int]
            def __init__(self, job_id: _Optional[str] = ..., task_indices: _Optional[_Iterable[int]] = ...) -> None: ...
        class LabelsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        NAME_FIELD_NUMBER: _ClassVar[int]
        LABELS_FIELD_NUMBER: _ClassVar[int]
        TOTAL_FIELD_NUMBER: _ClassVar[int]
        FREE_FIELD_NUMBER: _ClassVar[int]
        ALIVE_FIELD_NUMBER: _ClassVar[int]
        HOLDINGS_FIELD_NUMBER: _ClassVar[int]
        WHY_AVOIDED_FIELD_NUMBER: _ClassVar[int]
        SHORTAGE_REASON_FIELD_NUMBER: _ClassVar[int]
        USED_FIELD_NUMBER: _ClassVar[int]
        WORKER_IDS_FIELD_NUMBER: _ClassVar[int]
        name: str
        labels: _containers.ScalarMap[str, str]
        total: Controller.Amounts
        free: Controller.Amounts
        alive: bool
        holdings: _containers.RepeatedCompositeFieldContainer[Controller.Machine.Holding]
        why_avoided: str
        shortage_reason: ShortageReason
        used: Controller.MachineUse
        worker_ids: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., total: _Optional[_Union[Controller.Amounts, _Mapping]] = ..., free: _Optional[_Union[Controller.Amounts, _Mapping]] = ..., alive: _Optional[bool] = ..., holdings: _Optional[_Iterable[_Union[Controller.Machine.Holding, _Mapping]]] = ..., why_avoided: _Optional[str] = ..., shortage_reason: _Optional[_Union[ShortageReason, str]] = ..., used: _Optional[_Union[Controller.MachineUse, _Mapping]] = ..., worker_ids: _Optional[_Iterable[str]] = ...) -> None: ...
    class MachineUse(_message.Message):
        __slots__ = ("cpu_millicores", "memory_bytes", "gpu_percent", "gpu_memory_bytes", "num_tasks")
        CPU_MILLICORES_FIELD_NUMBER: _ClassVar[int]
        MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
        GPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
        GPU_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
        NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
        cpu_millicores: int
        memory_bytes: int
        gpu_percent: int
        gpu_memory_bytes: int
        num_tasks: int
        def __init__(self, cpu_millicores: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., gpu_percent: _Optional[int] = ..., gpu_memory_bytes: _Optional[int] = ..., num_tasks: _Optional[int] = ...) -> None: ...
    class WaitingGang(_message.Message):
        __slots__ = ("job_id", "slots", "need", "placement", "labels", "since_ms", "reason", "has_reservation", "pending_reason")
        class LabelsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        SLOTS_FIELD_NUMBER: _ClassVar[int]
        NEED_FIELD_NUMBER: _ClassVar[int]
        PLACEMENT_FIELD_NUMBER: _ClassVar[int]
        LABELS_FIELD_NUMBER: _ClassVar[int]
        SINCE_MS_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        HAS_RESERVATION_FIELD_NUMBER: _ClassVar[int]
        PENDING_REASON_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        slots: int
        need: Controller.Amounts
        placement: Placement
        labels: _containers.ScalarMap[str, str]
        since_ms: int
        reason: str
        has_reservation: bool
        pending_reason: PendingReason
        def __init__(self, job_id: _Optional[str] = ..., slots: _Optional[int] = ..., need: _Optional[_Union[Controller.Amounts, _Mapping]] = ..., placement: _Optional[_Union[Placement, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., since_ms: _Optional[int] = ..., reason: _Optional[str] = ..., has_reservation: _Optional[bool] = ..., pending_reason: _Optional[_Union[PendingReason, str]] = ...) -> None: ...
    class ListMachinesRequest(_message.Message):
        __slots__ = ("page_size", "page_token")
        PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        page_size: int
        page_token: str
        def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...
    class ListMachinesResponse(_message.Message):
        __slots__ = ("engine", "machines", "waiting", "num_waiting", "problem", "next_page_token")
        ENGINE_FIELD_NUMBER: _ClassVar[int]
        MACHINES_FIELD_NUMBER: _ClassVar[int]
        WAITING_FIELD_NUMBER: _ClassVar[int]
        NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        engine: str
        machines: _containers.RepeatedCompositeFieldContainer[Controller.Machine]
        waiting: _containers.RepeatedCompositeFieldContainer[Controller.WaitingGang]
        num_waiting: int
        problem: str
        next_page_token: str
        def __init__(self, engine: _Optional[str] = ..., machines: _Optional[_Iterable[_Union[Controller.Machine, _Mapping]]] = ..., waiting: _Optional[_Iterable[_Union[Controller.WaitingGang, _Mapping]]] = ..., num_waiting: _Optional[int] = ..., problem: _Optional[str] = ..., next_page_token: _Optional[str] = ...) -> None: ...
    class ListWorkersRequest(_message.Message):
        __slots__ = ("page_size", "page_token")
        PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        page_size: int
        page_token: str
        def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...
    class ListWorkersResponse(_message.Message):
        __slots__ = ("workers", "next_page_token")
        WORKERS_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        workers: _containers.RepeatedCompositeFieldContainer[Controller.WorkerHealthStatus]
        next_page_token: str
        def __init__(self, workers: _Optional[_Iterable[_Union[Controller.WorkerHealthStatus, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
    class ReportTaskStateRequest(_message.Message):
        __slots__ = ("worker_id", "task_id", "job_id", "task_index", "state", "exit_code", "error", "finished_at_ms", "attempt_id", "started_at_ms", "ports", "resource_usage", "build_metrics", "serialized_result", "result_error", "term_signal", "out_of_memory", "exception", "log_warning", "failure_reason", "job_submitted_at_ms", "output_warning", "idle_ms")
        class PortsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: int
            def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        STATE_FIELD_NUMBER: _ClassVar[int]
        EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        FINISHED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        PORTS_FIELD_NUMBER: _ClassVar[int]
        RESOURCE_USAGE_FIELD_NUMBER: _ClassVar[int]
        BUILD_METRICS_FIELD_NUMBER: _ClassVar[int]
        SERIALIZED_RESULT_FIELD_NUMBER: _ClassVar[int]
        RESULT_ERROR_FIELD_NUMBER: _ClassVar[int]
        TERM_SIGNAL_FIELD_NUMBER: _ClassVar[int]
        OUT_OF_MEMORY_FIELD_NUMBER: _ClassVar[int]
        EXCEPTION_FIELD_NUMBER: _ClassVar[int]
        LOG_WARNING_FIELD_NUMBER: _ClassVar[int]
        FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
        JOB_SUBMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_WARNING_FIELD_NUMBER: _ClassVar[int]
        IDLE_MS_FIELD_NUMBER: _ClassVar[int]
        worker_id: str
        task_id: str
        job_id: str
        task_index: int
        state: TaskState
        exit_code: int
        error: str
        finished_at_ms: int
        attempt_id: int
        started_at_ms: int
        ports: _containers.ScalarMap[str, int]
        resource_usage: ResourceUsage
        build_metrics: BuildMetrics
        serialized_result: bytes
        result_error: str
        term_signal: int
        out_of_memory: bool
        exception: TaskException
        log_warning: str
        failure_reason: FailureReason
        job_submitted_at_ms: int
        output_warning: str
        idle_ms: int
        def __init__(self, worker_id: _Optional[str] = ..., task_id: _Optional[str] = ..., job_id: _Optional[str] = ..., task_index: _Optional[int] = ..., state: _Optional[_Union[TaskState, str]] = ..., exit_code: _Optional[int] = ..., error: _Optional[str] = ..., finished_at_ms: _Optional[int] = ..., attempt_id: _Optional[int] = ..., started_at_ms: _Optional[int] = ..., ports: _Optional[_Mapping[str, int]] = ..., resource_usage: _Optional[_Union[ResourceUsage, _Mapping]] = ..., build_metrics: _Optional[_Union[BuildMetrics, _Mapping]] = ..., serialized_result: _Optional[bytes] = ..., result_error: _Optional[str] = ..., term_signal: _Optional[int] = ..., out_of_memory: _Optional[bool] = ..., exception: _Optional[_Union[TaskException, _Mapping]] = ..., log_warning: _Optional[str] = ..., failure_reason: _Optional[_Union[FailureReason, str]] = ..., job_submitted_at_ms: _Optional[int] = ..., output_warning: _Optional[str] = ..., idle_ms: _Optional[int] = ...) -> None: ...
    class ReportTaskStateResponse(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class ReportTaskStatesRequest(_message.Message):
        __slots__ = ("worker_id", "incarnation", "reports", "revocations", "short_of", "shortage_reason")
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        INCARNATION_FIELD_NUMBER: _ClassVar[int]
        REPORTS_FIELD_NUMBER: _ClassVar[int]
        REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
        SHORT_OF_FIELD_NUMBER: _ClassVar[int]
        SHORTAGE_REASON_FIELD_NUMBER: _ClassVar[int]
        worker_id: str
        incarnation: str
        reports: _containers.RepeatedCompositeFieldContainer[Controller.ReportTaskStateRequest]
        revocations: int
        short_of: str
        shortage_reason: ShortageReason
        def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., reports: _Optional[_Iterable[_Union[Controller.ReportTaskStateRequest, _Mapping]]] = ..., revocations: _Optional[int] = ..., short_of: _Optional[str] = ..., shortage_reason: _Optional[_Union[ShortageReason, str]] = ...) -> None: ...
    class ReportTaskStatesResponse(_message.Message):
        __slots__ = ("unwanted", "register_again", "fenced", "token", "revoked", "revocations")
        class Attempt(_message.Message):
            __slots__ = ("task_id", "attempt_id")
            TASK_ID_FIELD_NUMBER: _ClassVar[int]
            ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
            task_id: str
            attempt_id: int
            def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ...) -> None: ...
        UNWANTED_FIELD_NUMBER: _ClassVar[int]
        REGISTER_AGAIN_FIELD_NUMBER: _ClassVar[int]
        FENCED_FIELD_NUMBER: _ClassVar[int]
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        REVOKED_FIELD_NUMBER: _ClassVar[int]
        REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
        unwanted: _containers.RepeatedCompositeFieldContainer[Controller.ReportTaskStatesResponse.Attempt]
        register_again: bool
        fenced: bool
        token: str
        revoked: _containers.RepeatedScalarFieldContainer[str]
        revocations: int
        def __init__(self, unwanted: _Optional[_Iterable[_Union[Controller.ReportTaskStatesResponse.Attempt, _Mapping]]] = ..., register_again: _Optional[bool] = ..., fenced: _Optional[bool] = ..., token: _Optional[str] = ..., revoked: _Optional[_Iterable[str]] = ..., revocations: _Optional[int] = ...) -> None: ...
    class WatchJobRequest(_message.Message):
        __slots__ = ("job_id", "include_tasks")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_TASKS_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        include_tasks: bool
        def __init__(self, job_id: _Optional[str] = ..., include_tasks: _Optional[bool] = ...) -> None: ...
    class WatchJobResponse(_message.Message):
        __slots__ = ("job",)
        JOB_FIELD_NUMBER: _ClassVar[int]
        job: JobStatus
        def __init__(self, job: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...
    class WatchJobsRequest(_message.Message):
        __slots__ = ("id_prefix", "id_contains", "states", "owner", "since_ms", "until_ms", "newest_first", "page_size", "page_token")
        ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
        ID_CONTAINS_FIELD_NUMBER: _ClassVar[int]
        STATES_FIELD_NUMBER: _ClassVar[int]
        OWNER_FIELD_NUMBER: _ClassVar[int]
        SINCE_MS_FIELD_NUMBER: _ClassVar[int]
        UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
        NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
        PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        id_prefix: str
        id_contains: str
        states: _containers.RepeatedScalarFieldContainer[JobState]
        owner: str
        since_ms: int
        until_ms: int
        newest_first: bool
        page_size: int
        page_token: str
        def __init__(self, id_prefix: _Optional[str] = ..., id_contains: _Optional[str] = ..., states: _Optional[_Iterable[_Union[JobState, str]]] = ..., owner: _Optional[str] = ..., since_ms: _Optional[int] = ..., until_ms: _Optional[int] = ..., newest_first: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...
    class WatchJobsResponse(_message.Message):
        __slots__ = ("is_snapshot", "jobs", "left", "next_page_token", "counts")
        class Count(_message.Message):
            __slots__ = ("state", "jobs")
            STATE_FIELD_NUMBER: _ClassVar[int]
            JOBS_FIELD_NUMBER: _ClassVar[int]
            state: JobState
            jobs: int
            def __init__(self, state: _Optional[_Union[JobState, str]] = ..., jobs: _Optional[int] = ...) -> None: ...
        class Counts(_message.Message):
            __slots__ = ("counts",)
            COUNTS_FIELD_NUMBER: _ClassVar[int]
            counts: _containers.RepeatedCompositeFieldContainer[Controller.WatchJobsResponse.Count]
            def __init__(self, counts: _Optional[_Iterable[_Union[Controller.WatchJobsResponse.Count, _Mapping]]] = ...) -> None: ...
        IS_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
        JOBS_FIELD_NUMBER: _ClassVar[int]
        LEFT_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        COUNTS_FIELD_NUMBER: _ClassVar[int]
        is_snapshot: bool
        jobs: _containers.RepeatedCompositeFieldContainer[JobStatus]
        left: _containers.RepeatedScalarFieldContainer[int]
        next_page_token: str
        counts: Controller.WatchJobsResponse.Counts
        def __init__(self, is_snapshot: _Optional[bool] = ..., jobs: _Optional[_Iterable[_Union[JobStatus, _Mapping]]] = ..., left: _Optional[_Iterable[int]] = ..., next_page_token: _Optional[str] = ..., counts: _Optional[_Union[Controller.WatchJobsResponse.Counts, _Mapping]] = ...) -> None: ...
    class StreamResultsRequest(_message.Message):
        __slots__ = ("job_id", "task_indices", "follow", "received")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
        FOLLOW_FIELD_NUMBER: _ClassVar[int]
        RECEIVED_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_indices: _containers.RepeatedScalarFieldContainer[int]
        follow: bool
        received: bytes
        def __init__(self, job_id: _Optional[str] = ..., task_indices: _Optional[_Iterable[int]] = ..., follow: _Optional[bool] = ..., received: _Optional[bytes] = ...) -> None: ...
    class StreamResultsResponse(_message.Message):
        __slots__ = ("tasks", "job")
        TASKS_FIELD_NUMBER: _ClassVar[int]
        JOB_FIELD_NUMBER: _ClassVar[int]
        tasks: _containers.RepeatedCompositeFieldContainer[TaskStatus]
        job: JobStatus
        def __init__(self, tasks: _Optional[_Iterable[_Union[TaskStatus, _Mapping]]] = ..., job: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...
    class FetchBundleRequest(_message.Message):
        __slots__ = ("bundle_hash",)
        BUNDLE_HASH_FIELD_NUMBER: _ClassVar[int]
        bundle_hash: str
        def __init__(self, bundle_hash: _Optional[str] = ...) -> None: ...
    class FetchBundleResponse(_message.Message):
        __slots__ = ("bundle_blob",)
        BUNDLE_BLOB_FIELD_NUMBER: _ClassVar[int]
        bundle_blob: bytes
        def __init__(self, bundle_blob: _Optional[bytes] = ...) -> None: ...
    class FetchInputRequest(_message.Message):
        __slots__ = ("inputs_hash", "task_index")
        INPUTS_HASH_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        inputs_hash: str
        task_index: int
        def __init__(self, inputs_hash: _Optional[str] = ..., task_index: _Optional[int] = ...) -> None: ...
    class FetchInputResponse(_message.Message):
        __slots__ = ("item",)
        ITEM_FIELD_NUMBER: _ClassVar[int]
        item: bytes
        def __init__(self, item: _Optional[bytes] = ...) -> None: ...
    class Outputs(_message.Message):
        __slots__ = ("task_index", "attempt_id", "files", "reason", "missing")
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        FILES_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        MISSING_FIELD_NUMBER: _ClassVar[int]
        task_index: int
        attempt_id: int
        files: _containers.RepeatedCompositeFieldContainer[TaskFile]
        reason: OutputReason
        missing: str
        def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., files: _Optional[_Iterable[_Union[TaskFile, _Mapping]]] = ..., reason: _Optional[_Union[OutputReason, str]] = ..., missing: _Optional[str] = ...) -> None: ...
    class ListOutputsRequest(_message.Message):
        __slots__ = ("job_id", "task_indices", "all_attempts", "page_token")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
        ALL_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_indices: _containers.RepeatedScalarFieldContainer[int]
        all_attempts: bool
        page_token: str
        def __init__(self, job_id: _Optional[str] = ..., task_indices: _Optional[_Iterable[int]] = ..., all_attempts: _Optional[bool] = ..., page_token: _Optional[str] = ...) -> None: ...
    class ListOutputsResponse(_message.Message):
        __slots__ = ("outputs", "next_page_token")
        OUTPUTS_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        outputs: _containers.RepeatedCompositeFieldContainer[Controller.Outputs]
        next_page_token: str
        def __init__(self, outputs: _Optional[_Iterable[_Union[Controller.Outputs, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
    class StoreOutputsRequest(_message.Message):
        __slots__ = ("worker_id", "task_id", "attempt_id", "incarnation", "job_submitted_at_ms", "total_bytes", "position", "data", "sha256", "index_bytes", "reason", "problem")
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        INCARNATION_FIELD_NUMBER: _ClassVar[int]
        JOB_SUBMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        SHA256_FIELD_NUMBER: _ClassVar[int]
        INDEX_BYTES_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        worker_id: str
        task_id: str
        attempt_id: int
        incarnation: str
        job_submitted_at_ms: int
        total_bytes: int
        position: int
        data: bytes
        sha256: str
        index_bytes: int
        reason: OutputReason
        problem: str
        def __init__(self, worker_id: _Optional[str] = ..., task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., incarnation: _Optional[str] = ..., job_submitted_at_ms: _Optional[int] = ..., total_bytes: _Optional[int] = ..., position: _Optional[int] = ..., data: _Optional[bytes] = ..., sha256: _Optional[str] = ..., index_bytes: _Optional[int] = ..., reason: _Optional[_Union[OutputReason, str]] = ..., problem: _Optional[str] = ...) -> None: ...
    class StoreOutputsResponse(_message.Message):
        __slots__ = ("position", "reason", "refused")
        POSITION_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        REFUSED_FIELD_NUMBER: _ClassVar[int]
        position: int
        reason: OutputReason
        refused: str
        def __init__(self, position: _Optional[int] = ..., reason: _Optional[_Union[OutputReason, str]] = ..., refused: _Optional[str] = ...) -> None: ...
    class StoreLogsRequest(_message.Message):
        __slots__ = ("worker_id", "pieces")
        class Piece(_message.Message):
            __slots__ = ("task_id", "attempt_id", "incarnation", "position", "records", "offsets", "line", "end", "bytes_written", "job_submitted_at_ms")
            TASK_ID_FIELD_NUMBER: _ClassVar[int]
            ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
            INCARNATION_FIELD_NUMBER: _ClassVar[int]
            POSITION_FIELD_NUMBER: _ClassVar[int]
            RECORDS_FIELD_NUMBER: _ClassVar[int]
            OFFSETS_FIELD_NUMBER: _ClassVar[int]
            LINE_FIELD_NUMBER: _ClassVar[int]
            END_FIELD_NUMBER: _ClassVar[int]
            BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
            JOB_SUBMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
            task_id: str
            attempt_id: int
            incarnation: str
            position: int
            records: bytes
            offsets: _containers.RepeatedScalarFieldContainer[int]
            line: int
            end: bytes
            bytes_written: _containers.RepeatedScalarFieldContainer[int]
            job_submitted_at_ms: int
            def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., incarnation: _Optional[str] = ..., position: _Optional[int] = ..., records: _Optional[bytes] = ..., offsets: _Optional[_Iterable[int]] = ..., line: _Optional[int] = ..., end: _Optional[bytes] = ..., bytes_written: _Optional[_Iterable[int]] = ..., job_submitted_at_ms: _Optional[int] = ...) -> None: ...
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        PIECES_FIELD_NUMBER: _ClassVar[int]
        worker_id: str
        pieces: _containers.RepeatedCompositeFieldContainer[Controller.StoreLogsRequest.Piece]
        def __init__(self, worker_id: _Optional[str] = ..., pieces: _Optional[_Iterable[_Union[Controller.StoreLogsRequest.Piece, _Mapping]]] = ...) -> None: ...
    class StoreLogsResponse(_message.Message):
        __slots__ = ("positions",)
        POSITIONS_FIELD_NUMBER: _ClassVar[int]
        positions: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, positions: _Optional[_Iterable[int]] = ...) -> None: ...
    class Token(_message.Message):
        __slots__ = ("token_id", "name", "role", "created_at_ms", "expires_at_ms", "revoked_at_ms")
        TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        ROLE_FIELD_NUMBER: _ClassVar[int]
        CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
        REVOKED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        token_id: str
        name: str
        role: str
        created_at_ms: int
        expires_at_ms: int
        revoked_at_ms: int
        def __init__(self, token_id: _Optional[str] = ..., name: _Optional[str] = ..., role: _Optional[str] = ..., created_at_ms: _Optional[int] = ..., expires_at_ms: _Optional[int] = ..., revoked_at_ms: _Optional[int] = ...) -> None: ...
    class CreateTokenRequest(_message.Message):
        __slots__ = ("name", "role", "ttl_seconds", "request_id")
        NAME_FIELD_NUMBER: _ClassVar[int]
        ROLE_FIELD_NUMBER: _ClassVar[int]
        TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
        REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
        name: str
        role: str
        ttl_seconds: int
        request_id: str
        def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., ttl_seconds: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...
    class CreateTokenResponse(_message.Message):
        __slots__ = ("token", "secret")
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        SECRET_FIELD_NUMBER: _ClassVar[int]
        token: Controller.Token
        secret: str
        def __init__(self, token: _Optional[_Union[Controller.Token, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...
    class ListTokensRequest(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class ListTokensResponse(_message.Message):
        __slots__ = ("tokens",)
        TOKENS_FIELD_NUMBER: _ClassVar[int]
        tokens: _containers.RepeatedCompositeFieldContainer[Controller.Token]
        def __init__(self, tokens: _Optional[_Iterable[_Union[Controller.Token, _Mapping]]] = ...) -> None: ...
    class RevokeTokenRequest(_message.Message):
        __slots__ = ("token_id",)
        TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
        token_id: str
        def __init__(self, token_id: _Optional[str] = ...) -> None: ...
    class CreateSignInCodeRequest(_message.Message):
        __slots__ = ("same_user",)
        SAME_USER_FIELD_NUMBER: _ClassVar[int]
        same_user: bool
        def __init__(self, same_user: _Optional[bool] = ...) -> None: ...
    class CreateSignInCodeResponse(_message.Message):
        __slots__ = ("code", "expires_at_ms")
        CODE_FIELD_NUMBER: _ClassVar[int]
        EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
        code: str
        expires_at_ms: int
        def __init__(self, code: _Optional[str] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...
    class SignInRequest(_message.Message):
        __slots__ = ("code", "token", "page_path", "request_id")
        CODE_FIELD_NUMBER: _ClassVar[int]
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        PAGE_PATH_FIELD_NUMBER: _ClassVar[int]
        REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
        code: str
        token: str
        page_path: str
        request_id: str
        def __init__(self, code: _Optional[str] = ..., token: _Optional[str] = ..., page_path: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...
    class SignInResponse(_message.Message):
        __slots__ = ("session_path", "caller")
        SESSION_PATH_FIELD_NUMBER: _ClassVar[int]
        CALLER_FIELD_NUMBER: _ClassVar[int]
        session_path: str
        caller: Controller.Identity
        def __init__(self, session_path: _Optional[str] = ..., caller: _Optional[_Union[Controller.Identity, _Mapping]] = ...) -> None: ...
    class SignOutRequest(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class WriteStdinRequest(_message.Message):
        __slots__ = ("job_id", "attempt_id", "position", "data", "end")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        END_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        attempt_id: int
        position: int
        data: bytes
        end: bool
        def __init__(self, job_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., position: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...
    class WriteStdinResponse(_message.Message):
        __slots__ = ("attempt_id", "position", "closed")
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        CLOSED_FIELD_NUMBER: _ClassVar[int]
        attempt_id: int
        position: int
        closed: bool
        def __init__(self, attempt_id: _Optional[int] = ..., position: _Optional[int] = ..., closed: _Optional[bool] = ...) -> None: ...
    class DescribeClusterRequest(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class DescribeClusterResponse(_message.Message):
        __slots__ = ("engine", "place", "version", "caller")
        ENGINE_FIELD_NUMBER: _ClassVar[int]
        PLACE_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        CALLER_FIELD_NUMBER: _ClassVar[int]
        engine: str
        place: str
        version: str
        caller: Controller.Identity
        def __init__(self, engine: _Optional[str] = ..., place: _Optional[str] = ..., version: _Optional[str] = ..., caller: _Optional[_Union[Controller.Identity, _Mapping]] = ...) -> None: ...
    class Identity(_message.Message):
        __slots__ = ("name", "role", "token_id", "expires_at_ms")
        NAME_FIELD_NUMBER: _ClassVar[int]
        ROLE_FIELD_NUMBER: _ClassVar[int]
        TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
        EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
        name: str
        role: str
        token_id: str
        expires_at_ms: int
        def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., token_id: _Optional[str] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...
    class CheckClusterRequest(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class CheckClusterResponse(_message.Message):
        __slots__ = ("status", "now_ms", "engine_problem", "open_files", "max_files", "workers", "num_workers")
        STATUS_FIELD_NUMBER: _ClassVar[int]
        NOW_MS_FIELD_NUMBER: _ClassVar[int]
        ENGINE_PROBLEM_FIELD_NUMBER: _ClassVar[int]
        OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
        MAX_FILES_FIELD_NUMBER: _ClassVar[int]
        WORKERS_FIELD_NUMBER: _ClassVar[int]
        NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
        status: Controller.ClusterStatus
        now_ms: int
        engine_problem: str
        open_files: int
        max_files: int
        workers: _containers.RepeatedCompositeFieldContainer[Controller.WorkerCheck]
        num_workers: int
        def __init__(self, status: _Optional[_Union[Controller.ClusterStatus, _Mapping]] = ..., now_ms: _Optional[int] = ..., engine_problem: _Optional[str] = ..., open_files: _Optional[int] = ..., max_files: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[Controller.WorkerCheck, _Mapping]]] = ..., num_workers: _Optional[int] = ...) -> None: ...
    class WorkerCheck(_message.Message):
        __slots__ = ("worker", "problem", "latency_ms", "clock_offset_ms")
        WORKER_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
        CLOCK_OFFSET_MS_FIELD_NUMBER: _ClassVar[int]
        worker: Controller.WorkerHealthStatus
        problem: str
        latency_ms: int
        clock_offset_ms: int
        def __init__(self, worker: _Optional[_Union[Controller.WorkerHealthStatus, _Mapping]] = ..., problem: _Optional[str] = ..., latency_ms: _Optional[int] = ..., clock_offset_ms: _Optional[int] = ...) -> None: ...
    class GetUsageRequest(_message.Message):
        __slots__ = ("job_id", "task_indices", "worker_ids", "since_ms", "until_ms", "max_points")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
        WORKER_IDS_FIELD_NUMBER: _ClassVar[int]
        SINCE_MS_FIELD_NUMBER: _ClassVar[int]
        UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
        MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_indices: _containers.RepeatedScalarFieldContainer[int]
        worker_ids: _containers.RepeatedScalarFieldContainer[str]
        since_ms: int
        until_ms: int
        max_points: int
        def __init__(self, job_id: _Optional[str] = ..., task_indices: _Optional[_Iterable[int]] = ..., worker_ids: _Optional[_Iterable[str]] = ..., since_ms: _Optional[int] = ..., until_ms: _Optional[int] = ..., max_points: _Optional[int] = ...) -> None: ...
    class GetUsageResponse(_message.Message):
        __slots__ = ("series",)
        SERIES_FIELD_NUMBER: _ClassVar[int]
        series: _containers.RepeatedCompositeFieldContainer[UsageSeries]
        def __init__(self, series: _Optional[_Iterable[_Union[UsageSeries, _Mapping]]] = ...) -> None: ...
    class WatchClusterRequest(_message.Message):
        __slots__ = ("include_machines", "include_workers", "include_status", "include_events", "events_after")
        INCLUDE_MACHINES_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_WORKERS_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_STATUS_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_EVENTS_FIELD_NUMBER: _ClassVar[int]
        EVENTS_AFTER_FIELD_NUMBER: _ClassVar[int]
        include_machines: bool
        include_workers: bool
        include_status: bool
        include_events: bool
        events_after: int
        def __init__(self, include_machines: _Optional[bool] = ..., include_workers: _Optional[bool] = ..., include_status: _Optional[bool] = ..., include_events: _Optional[bool] = ..., events_after: _Optional[int] = ...) -> None: ...
    class WatchClusterResponse(_message.Message):
        __slots__ = ("complete", "machines", "removed_machines", "queue", "workers", "removed_workers", "status", "events")
        COMPLETE_FIELD_NUMBER: _ClassVar[int]
        MACHINES_FIELD_NUMBER: _ClassVar[int]
        REMOVED_MACHINES_FIELD_NUMBER: _ClassVar[int]
        QUEUE_FIELD_NUMBER: _ClassVar[int]
        WORKERS_FIELD_NUMBER: _ClassVar[int]
        REMOVED_WORKERS_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        EVENTS_FIELD_NUMBER: _ClassVar[int]
        complete: bool
        machines: _containers.RepeatedCompositeFieldContainer[Controller.Machine]
        removed_machines: _containers.RepeatedScalarFieldContainer[str]
        queue: Controller.MachineQueue
        workers: _containers.RepeatedCompositeFieldContainer[Controller.WorkerHealthStatus]
        removed_workers: _containers.RepeatedScalarFieldContainer[str]
        status: Controller.ClusterStatus
        events: _containers.RepeatedCompositeFieldContainer[Controller.Event]
        def __init__(self, complete: _Optional[bool] = ..., machines: _Optional[_Iterable[_Union[Controller.Machine, _Mapping]]] = ..., removed_machines: _Optional[_Iterable[str]] = ..., queue: _Optional[_Union[Controller.MachineQueue, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[Controller.WorkerHealthStatus, _Mapping]]] = ..., removed_workers: _Optional[_Iterable[str]] = ..., status: _Optional[_Union[Controller.ClusterStatus, _Mapping]] = ..., events: _Optional[_Iterable[_Union[Controller.Event, _Mapping]]] = ...) -> None: ...
    class WatchEventsRequest(_message.Message):
        __slots__ = ("job_id", "kinds", "since_ms", "cursor", "tail", "follow")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        KINDS_FIELD_NUMBER: _ClassVar[int]
        SINCE_MS_FIELD_NUMBER: _ClassVar[int]
        CURSOR_FIELD_NUMBER: _ClassVar[int]
        TAIL_FIELD_NUMBER: _ClassVar[int]
        FOLLOW_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        kinds: _containers.RepeatedScalarFieldContainer[str]
        since_ms: int
        cursor: str
        tail: int
        follow: bool
        def __init__(self, job_id: _Optional[str] = ..., kinds: _Optional[_Iterable[str]] = ..., since_ms: _Optional[int] = ..., cursor: _Optional[str] = ..., tail: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...
    class WatchEventsResponse(_message.Message):
        __slots__ = ("events", "cursor")
        EVENTS_FIELD_NUMBER: _ClassVar[int]
        CURSOR_FIELD_NUMBER: _ClassVar[int]
        events: _containers.RepeatedCompositeFieldContainer[Controller.Event]
        cursor: str
        def __init__(self, events: _Optional[_Iterable[_Union[Controller.Event, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...
    class ListWebhooksRequest(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class ListWebhooksResponse(_message.Message):
        __slots__ = ("webhooks",)
        WEBHOOKS_FIELD_NUMBER: _ClassVar[int]
        webhooks: _containers.RepeatedCompositeFieldContainer[Controller.WebhookStatus]
        def __init__(self, webhooks: _Optional[_Iterable[_Union[Controller.WebhookStatus, _Mapping]]] = ...) -> None: ...
    class WebhookStatus(_message.Message):
        __slots__ = ("url", "kinds", "num_delivered", "num_dropped", "num_waiting", "failing_since_ms", "problem", "retry_at_ms")
        URL_FIELD_NUMBER: _ClassVar[int]
        KINDS_FIELD_NUMBER: _ClassVar[int]
        NUM_DELIVERED_FIELD_NUMBER: _ClassVar[int]
        NUM_DROPPED_FIELD_NUMBER: _ClassVar[int]
        NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
        FAILING_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        RETRY_AT_MS_FIELD_NUMBER: _ClassVar[int]
        url: str
        kinds: _containers.RepeatedScalarFieldContainer[str]
        num_delivered: int
        num_dropped: int
        num_waiting: int
        failing_since_ms: int
        problem: str
        retry_at_ms: int
        def __init__(self, url: _Optional[str] = ..., kinds: _Optional[_Iterable[str]] = ..., num_delivered: _Optional[int] = ..., num_dropped: _Optional[int] = ..., num_waiting: _Optional[int] = ..., failing_since_ms: _Optional[int] = ..., problem: _Optional[str] = ..., retry_at_ms: _Optional[int] = ...) -> None: ...
    class MachineQueue(_message.Message):
        __slots__ = ("waiting", "num_waiting", "problem")
        WAITING_FIELD_NUMBER: _ClassVar[int]
        NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        waiting: _containers.RepeatedCompositeFieldContainer[Controller.WaitingGang]
        num_waiting: int
        problem: str
        def __init__(self, waiting: _Optional[_Iterable[_Union[Controller.WaitingGang, _Mapping]]] = ..., num_waiting: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...
    class ClusterStatus(_message.Message):
        __slots__ = ("engine", "version", "started_at_ms", "lease_s", "num_unfinished_jobs", "num_ended_jobs", "disk_total_bytes", "disk_free_bytes", "database_bytes", "shortage")
        ENGINE_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        LEASE_S_FIELD_NUMBER: _ClassVar[int]
        NUM_UNFINISHED_JOBS_FIELD_NUMBER: _ClassVar[int]
        NUM_ENDED_JOBS_FIELD_NUMBER: _ClassVar[int]
        DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
        DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
        DATABASE_BYTES_FIELD_NUMBER: _ClassVar[int]
        SHORTAGE_FIELD_NUMBER: _ClassVar[int]
        engine: str
        version: str
        started_at_ms: int
        lease_s: float
        num_unfinished_jobs: int
        num_ended_jobs: int
        disk_total_bytes: int
        disk_free_bytes: int
        database_bytes: int
        shortage: str
        def __init__(self, engine: _Optional[str] = ..., version: _Optional[str] = ..., started_at_ms: _Optional[int] = ..., lease_s: _Optional[float] = ..., num_unfinished_jobs: _Optional[int] = ..., num_ended_jobs: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., database_bytes: _Optional[int] = ..., shortage: _Optional[str] = ...) -> None: ...
    class Event(_message.Message):
        __slots__ = ("number", "time_ms", "level", "name", "fields", "job_id", "task_index", "attempt_id", "worker_id", "owner", "reason", "text", "cursor")
        class FieldsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        TIME_MS_FIELD_NUMBER: _ClassVar[int]
        LEVEL_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        FIELDS_FIELD_NUMBER: _ClassVar[int]
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        WORKER_ID_FIELD_NUMBER: _ClassVar[int]
        OWNER_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        CURSOR_FIELD_NUMBER: _ClassVar[int]
        number: int
        time_ms: int
        level: str
        name: str
        fields: _containers.ScalarMap[str, str]
        job_id: str
        task_index: int
        attempt_id: int
        worker_id: str
        owner: str
        reason: str
        text: str
        cursor: str
        def __init__(self, number: _Optional[int] = ..., time_ms: _Optional[int] = ..., level: _Optional[str] = ..., name: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ..., job_id: _Optional[str] = ..., task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., worker_id: _Optional[str] = ..., owner: _Optional[str] = ..., reason: _Optional[str] = ..., text: _Optional[str] = ..., cursor: _Optional[str] = ...) -> None: ...
    class OpenTunnelRequest(_message.Message):
        __slots__ = ("job_id", "task_index", "tunnel_id", "attempt_id", "resume")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        TUNNEL_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        RESUME_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_index: int
        tunnel_id: str
        attempt_id: int
        resume: bool
        def __init__(self, job_id: _Optional[str] = ..., task_index: _Optional[int] = ..., tunnel_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., resume: _Optional[bool] = ...) -> None: ...
    class WriteTunnelRequest(_message.Message):
        __slots__ = ("job_id", "task_index", "tunnel_id", "attempt_id", "parts", "close")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        TUNNEL_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        PARTS_FIELD_NUMBER: _ClassVar[int]
        CLOSE_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_index: int
        tunnel_id: str
        attempt_id: int
        parts: _containers.RepeatedCompositeFieldContainer[ChannelPart]
        close: bool
        def __init__(self, job_id: _Optional[str] = ..., task_index: _Optional[int] = ..., tunnel_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[ChannelPart, _Mapping]]] = ..., close: _Optional[bool] = ...) -> None: ...
    class ReadStacksRequest(_message.Message):
        __slots__ = ("job_id", "task_indices", "with_variables")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
        WITH_VARIABLES_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_indices: _containers.RepeatedScalarFieldContainer[int]
        with_variables: bool
        def __init__(self, job_id: _Optional[str] = ..., task_indices: _Optional[_Iterable[int]] = ..., with_variables: _Optional[bool] = ...) -> None: ...
    class SampleStacksRequest(_message.Message):
        __slots__ = ("job_id", "task_indices", "seconds", "rate", "with_idle")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDICES_FIELD_NUMBER: _ClassVar[int]
        SECONDS_FIELD_NUMBER: _ClassVar[int]
        RATE_FIELD_NUMBER: _ClassVar[int]
        WITH_IDLE_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_indices: _containers.RepeatedScalarFieldContainer[int]
        seconds: int
        rate: int
        with_idle: bool
        def __init__(self, job_id: _Optional[str] = ..., task_indices: _Optional[_Iterable[int]] = ..., seconds: _Optional[int] = ..., rate: _Optional[int] = ..., with_idle: _Optional[bool] = ...) -> None: ...
    class Endpoint(_message.Message):
        __slots__ = ("endpoint_id", "name", "address", "job_id", "metadata", "task_index", "attempt_id")
        class MetadataEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        METADATA_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        endpoint_id: str
        name: str
        address: str
        job_id: str
        metadata: _containers.ScalarMap[str, str]
        task_index: int
        attempt_id: int
        def __init__(self, endpoint_id: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., job_id: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ...) -> None: ...
    class RegisterEndpointRequest(_message.Message):
        __slots__ = ("name", "address", "job_id", "metadata")
        class MetadataEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        NAME_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        METADATA_FIELD_NUMBER: _ClassVar[int]
        name: str
        address: str
        job_id: str
        metadata: _containers.ScalarMap[str, str]
        def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., job_id: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...
    class RegisterEndpointResponse(_message.Message):
        __slots__ = ("endpoint_id",)
        ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
        endpoint_id: str
        def __init__(self, endpoint_id: _Optional[str] = ...) -> None: ...
    class UnregisterEndpointRequest(_message.Message):
        __slots__ = ("endpoint_id",)
        ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
        endpoint_id: str
        def __init__(self, endpoint_id: _Optional[str] = ...) -> None: ...
    class LookupEndpointRequest(_message.Message):
        __slots__ = ("name",)
        NAME_FIELD_NUMBER: _ClassVar[int]
        name: str
        def __init__(self, name: _Optional[str] = ...) -> None: ...
    class LookupEndpointResponse(_message.Message):
        __slots__ = ("endpoint",)
        ENDPOINT_FIELD_NUMBER: _ClassVar[int]
        endpoint: Controller.Endpoint
        def __init__(self, endpoint: _Optional[_Union[Controller.Endpoint, _Mapping]] = ...) -> None: ...
    class ListEndpointsRequest(_message.Message):
        __slots__ = ("prefix", "page_size", "page_token", "job_id")
        PREFIX_FIELD_NUMBER: _ClassVar[int]
        PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        prefix: str
        page_size: int
        page_token: str
        job_id: str
        def __init__(self, prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...
    class ListEndpointsResponse(_message.Message):
        __slots__ = ("endpoints", "next_page_token")
        ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        endpoints: _containers.RepeatedCompositeFieldContainer[Controller.Endpoint]
        next_page_token: str
        def __init__(self, endpoints: _Optional[_Iterable[_Union[Controller.Endpoint, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
    def __init__(self) -> None: ...

class Worker(_message.Message):
    __slots__ = ()
    class RunTaskRequest(_message.Message):
        __slots__ = ("job_id", "task_id", "task_index", "num_tasks", "serialized_entrypoint", "environment", "bundle_gcs_path", "resources", "timeout_seconds", "ports", "attempt_id", "command", "bundle_hash", "pickled_by", "gpu_ids", "kill_grace_period_ms", "working_directory", "max_log_bytes", "token", "incarnation", "hosts", "rendezvous", "master_port", "local_rank", "local_world_size", "visible_devices", "stdin", "stdin_spent", "seen_task_index", "seen_num_tasks", "traceparent", "tracestate", "inputs_hash", "input_command", "input_entrypoint", "timeout_warning_seconds", "job_left_ms", "job_submitted_at_ms", "outputs", "profile_memory", "owner", "last_ports")
        class LastPortsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: int
            def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
        SERIALIZED_ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
        ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
        BUNDLE_GCS_PATH_FIELD_NUMBER: _ClassVar[int]
        RESOURCES_FIELD_NUMBER: _ClassVar[int]
        TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
        PORTS_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        COMMAND_FIELD_NUMBER: _ClassVar[int]
        BUNDLE_HASH_FIELD_NUMBER: _ClassVar[int]
        PICKLED_BY_FIELD_NUMBER: _ClassVar[int]
        GPU_IDS_FIELD_NUMBER: _ClassVar[int]
        KILL_GRACE_PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
        WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
        MAX_LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        INCARNATION_FIELD_NUMBER: _ClassVar[int]
        HOSTS_FIELD_NUMBER: _ClassVar[int]
        RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
        MASTER_PORT_FIELD_NUMBER: _ClassVar[int]
        LOCAL_RANK_FIELD_NUMBER: _ClassVar[int]
        LOCAL_WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
        VISIBLE_DEVICES_FIELD_NUMBER: _ClassVar[int]
        STDIN_FIELD_NUMBER: _ClassVar[int]
        STDIN_SPENT_FIELD_NUMBER: _ClassVar[int]
        SEEN_TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
        SEEN_NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
        TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
        TRACESTATE_FIELD_NUMBER: _ClassVar[int]
        INPUTS_HASH_FIELD_NUMBER: _ClassVar[int]
        INPUT_COMMAND_FIELD_NUMBER: _ClassVar[int]
        INPUT_ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
        TIMEOUT_WARNING_SECONDS_FIELD_NUMBER: _ClassVar[int]
        JOB_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
        JOB_SUBMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        OUTPUTS_FIELD_NUMBER: _ClassVar[int]
        PROFILE_MEMORY_FIELD_NUMBER: _ClassVar[int]
        OWNER_FIELD_NUMBER: _ClassVar[int]
        LAST_PORTS_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        task_id: str
        task_index: int
        num_tasks: int
        serialized_entrypoint: bytes
        environment: EnvironmentConfig
        bundle_gcs_path: str
        resources: ResourceSpecProto
        timeout_seconds: int
        ports: _containers.RepeatedScalarFieldContainer[str]
        attempt_id: int
        command: _containers.RepeatedScalarFieldContainer[str]
        bundle_hash: str
        pickled_by: str
        gpu_ids: _containers.RepeatedScalarFieldContainer[int]
        kill_grace_period_ms: int
        working_directory: str
        max_log_bytes: int
        token: str
        incarnation: str
        hosts: _containers.RepeatedScalarFieldContainer[str]
        rendezvous: Rendezvous
        master_port: int
        local_rank: int
        local_world_size: int
        visible_devices: _containers.RepeatedScalarFieldContainer[str]
        stdin: bool
        stdin_spent: bool
        seen_task_index: int
        seen_num_tasks: int
        traceparent: str
        tracestate: str
        inputs_hash: str
        input_command: _containers.RepeatedScalarFieldContainer[str]
        input_entrypoint: bytes
        timeout_warning_seconds: int
        job_left_ms: int
        job_submitted_at_ms: int
        outputs: _containers.RepeatedScalarFieldContainer[str]
        profile_memory: bool
        owner: str
        last_ports: _containers.ScalarMap[str, int]
        def __init__(self, job_id: _Optional[str] = ..., task_id: _Optional[str] = ..., task_index: _Optional[int] = ..., num_tasks: _Optional[int] = ..., serialized_entrypoint: _Optional[bytes] = ..., environment: _Optional[_Union[EnvironmentConfig, _Mapping]] = ..., bundle_gcs_path: _Optional[str] = ..., resources: _Optional[_Union[ResourceSpecProto, _Mapping]] = ..., timeout_seconds: _Optional[int] = ..., ports: _Optional[_Iterable[str]] = ..., attempt_id: _Optional[int] = ..., command: _Optional[_Iterable[str]] = ..., bundle_hash: _Optional[str] = ..., pickled_by: _Optional[str] = ..., gpu_ids: _Optional[_Iterable[int]] = ..., kill_grace_period_ms: _Optional[int] = ..., working_directory: _Optional[str] = ..., max_log_bytes: _Optional[int] = ..., token: _Optional[str] = ..., incarnation: _Optional[str] = ..., hosts: _Optional[_Iterable[str]] = ..., rendezvous: _Optional[_Union[Rendezvous, str]] = ..., master_port: _Optional[int] = ..., local_rank: _Optional[int] = ..., local_world_size: _Optional[int] = ..., visible_devices: _Optional[_Iterable[str]] = ..., stdin: _Optional[bool] = ..., stdin_spent: _Optional[bool] = ..., seen_task_index: _Optional[int] = ..., seen_num_tasks: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., inputs_hash: _Optional[str] = ..., input_command: _Optional[_Iterable[str]] = ..., input_entrypoint: _Optional[bytes] = ..., timeout_warning_seconds: _Optional[int] = ..., job_left_ms: _Optional[int] = ..., job_submitted_at_ms: _Optional[int] = ..., outputs: _Optional[_Iterable[str]] = ..., profile_memory: _Optional[bool] = ..., owner: _Optional[str] = ..., last_ports: _Optional[_Mapping[str, int]] = ...) -> None: ...
    class RunTaskResponse(_message.Message):
        __slots__ = ("task_id", "state")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        STATE_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        state: TaskState
        def __init__(self, task_id: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ...) -> None: ...
    class RunTasksRequest(_message.Message):
        __slots__ = ("shared", "places")
        class Place(_message.Message):
            __slots__ = ("task_index", "attempt_id", "gpu_ids", "token", "local_rank", "local_world_size", "visible_devices", "seen_task_index", "last_ports", "traceparent")
            class LastPortsEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: int
                def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
            TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
            ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
            GPU_IDS_FIELD_NUMBER: _ClassVar[int]
            TOKEN_FIELD_NUMBER: _ClassVar[int]
            LOCAL_RANK_FIELD_NUMBER: _ClassVar[int]
            LOCAL_WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
            VISIBLE_DEVICES_FIELD_NUMBER: _ClassVar[int]
            SEEN_TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
            LAST_PORTS_FIELD_NUMBER: _ClassVar[int]
            TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
            task_index: int
            attempt_id: int
            gpu_ids: _containers.RepeatedScalarFieldContainer[int]
            token: str
            local_rank: int
            local_world_size: int
            visible_devices: _containers.RepeatedScalarFieldContainer[str]
            seen_task_index: int
            last_ports: _containers.ScalarMap[str, int]
            traceparent: str
            def __init__(self, task_index: _Optional[int] = ..., attempt_id: _Optional[int] = ..., gpu_ids: _Optional[_Iterable[int]] = ..., token: _Optional[str] = ..., local_rank: _Optional[int] = ..., local_world_size: _Optional[int] = ..., visible_devices: _Optional[_Iterable[str]] = ..., seen_task_index: _Optional[int] = ..., last_ports: _Optional[_Mapping[str, int]] = ..., traceparent: _Optional[str] = ...) -> None: ...
        SHARED_FIELD_NUMBER: _ClassVar[int]
        PLACES_FIELD_NUMBER: _ClassVar[int]
        shared: Worker.RunTaskRequest
        places: _containers.RepeatedCompositeFieldContainer[Worker.RunTasksRequest.Place]
        def __init__(self, shared: _Optional[_Union[Worker.RunTaskRequest, _Mapping]] = ..., places: _Optional[_Iterable[_Union[Worker.RunTasksRequest.Place, _Mapping]]] = ...) -> None: ...
    class RunTasksResponse(_message.Message):
        __slots__ = ("master_port",)
        MASTER_PORT_FIELD_NUMBER: _ClassVar[int]
        master_port: int
        def __init__(self, master_port: _Optional[int] = ...) -> None: ...
    class ForgetJobRequest(_message.Message):
        __slots__ = ("job_id", "num_tasks", "job_submitted_at_ms", "bundle_hash")
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
        JOB_SUBMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
        BUNDLE_HASH_FIELD_NUMBER: _ClassVar[int]
        job_id: str
        num_tasks: int
        job_submitted_at_ms: int
        bundle_hash: str
        def __init__(self, job_id: _Optional[str] = ..., num_tasks: _Optional[int] = ..., job_submitted_at_ms: _Optional[int] = ..., bundle_hash: _Optional[str] = ...) -> None: ...
    class GetTaskStatusRequest(_message.Message):
        __slots__ = ("task_id", "include_result")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_RESULT_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        include_result: bool
        def __init__(self, task_id: _Optional[str] = ..., include_result: _Optional[bool] = ...) -> None: ...
    class ListTasksRequest(_message.Message):
        __slots__ = ("page_size", "page_token")
        PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        page_size: int
        page_token: str
        def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...
    class ListTasksResponse(_message.Message):
        __slots__ = ("tasks", "next_page_token")
        TASKS_FIELD_NUMBER: _ClassVar[int]
        NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
        tasks: _containers.RepeatedCompositeFieldContainer[TaskStatus]
        next_page_token: str
        def __init__(self, tasks: _Optional[_Iterable[_Union[TaskStatus, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
    class LogEntry(_message.Message):
        __slots__ = ("timestamp_ms", "source", "data", "raw", "partial", "missing_bytes")
        TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        RAW_FIELD_NUMBER: _ClassVar[int]
        PARTIAL_FIELD_NUMBER: _ClassVar[int]
        MISSING_BYTES_FIELD_NUMBER: _ClassVar[int]
        timestamp_ms: int
        source: str
        data: str
        raw: bytes
        partial: bool
        missing_bytes: int
        def __init__(self, timestamp_ms: _Optional[int] = ..., source: _Optional[str] = ..., data: _Optional[str] = ..., raw: _Optional[bytes] = ..., partial: _Optional[bool] = ..., missing_bytes: _Optional[int] = ...) -> None: ...
    class FetchLogsFilter(_message.Message):
        __slots__ = ("regex", "start_line", "start_ms", "end_ms", "max_lines", "tail", "sources")
        REGEX_FIELD_NUMBER: _ClassVar[int]
        START_LINE_FIELD_NUMBER: _ClassVar[int]
        START_MS_FIELD_NUMBER: _ClassVar[int]
        END_MS_FIELD_NUMBER: _ClassVar[int]
        MAX_LINES_FIELD_NUMBER: _ClassVar[int]
        TAIL_FIELD_NUMBER: _ClassVar[int]
        SOURCES_FIELD_NUMBER: _ClassVar[int]
        regex: str
        start_line: int
        start_ms: int
        end_ms: int
        max_lines: int
        tail: int
        sources: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, regex: _Optional[str] = ..., start_line: _Optional[int] = ..., start_ms: _Optional[int] = ..., end_ms: _Optional[int] = ..., max_lines: _Optional[int] = ..., tail: _Optional[int] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...
    class FetchTaskLogsRequest(_message.Message):
        __slots__ = ("task_id", "filter", "attempt_id")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        FILTER_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        filter: Worker.FetchLogsFilter
        attempt_id: int
        def __init__(self, task_id: _Optional[str] = ..., filter: _Optional[_Union[Worker.FetchLogsFilter, _Mapping]] = ..., attempt_id: _Optional[int] = ...) -> None: ...
    class FetchTaskLogsResponse(_message.Message):
        __slots__ = ("logs", "next_line", "at_end", "complete", "attempt_id")
        LOGS_FIELD_NUMBER: _ClassVar[int]
        NEXT_LINE_FIELD_NUMBER: _ClassVar[int]
        AT_END_FIELD_NUMBER: _ClassVar[int]
        COMPLETE_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        logs: _containers.RepeatedCompositeFieldContainer[Worker.LogEntry]
        next_line: int
        at_end: bool
        complete: bool
        attempt_id: int
        def __init__(self, logs: _Optional[_Iterable[_Union[Worker.LogEntry, _Mapping]]] = ..., next_line: _Optional[int] = ..., at_end: _Optional[bool] = ..., complete: _Optional[bool] = ..., attempt_id: _Optional[int] = ...) -> None: ...
    class DrainRequest(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class WriteStdinRequest(_message.Message):
        __slots__ = ("task_id", "attempt_id", "position", "data", "end")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        POSITION_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        END_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        attempt_id: int
        position: int
        data: bytes
        end: bool
        def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., position: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...
    class WriteStdinResponse(_message.Message):
        __slots__ = ("position", "closed")
        POSITION_FIELD_NUMBER: _ClassVar[int]
        CLOSED_FIELD_NUMBER: _ClassVar[int]
        position: int
        closed: bool
        def __init__(self, position: _Optional[int] = ..., closed: _Optional[bool] = ...) -> None: ...
    class OpenTunnelRequest(_message.Message):
        __slots__ = ("task_id", "attempt_id", "tunnel_id", "resume", "exec_idle_ms", "exec_limit_ms")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        TUNNEL_ID_FIELD_NUMBER: _ClassVar[int]
        RESUME_FIELD_NUMBER: _ClassVar[int]
        EXEC_IDLE_MS_FIELD_NUMBER: _ClassVar[int]
        EXEC_LIMIT_MS_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        attempt_id: int
        tunnel_id: str
        resume: bool
        exec_idle_ms: int
        exec_limit_ms: int
        def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., tunnel_id: _Optional[str] = ..., resume: _Optional[bool] = ..., exec_idle_ms: _Optional[int] = ..., exec_limit_ms: _Optional[int] = ...) -> None: ...
    class WriteTunnelRequest(_message.Message):
        __slots__ = ("task_id", "attempt_id", "tunnel_id", "parts", "close")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        TUNNEL_ID_FIELD_NUMBER: _ClassVar[int]
        PARTS_FIELD_NUMBER: _ClassVar[int]
        CLOSE_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        attempt_id: int
        tunnel_id: str
        parts: _containers.RepeatedCompositeFieldContainer[ChannelPart]
        close: bool
        def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ..., tunnel_id: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ChannelPart, _Mapping]]] = ..., close: _Optional[bool] = ...) -> None: ...
    class StackedAttempt(_message.Message):
        __slots__ = ("task_id", "attempt_id")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        attempt_id: int
        def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[int] = ...) -> None: ...
    class ReadStacksRequest(_message.Message):
        __slots__ = ("attempts", "with_variables")
        ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
        WITH_VARIABLES_FIELD_NUMBER: _ClassVar[int]
        attempts: _containers.RepeatedCompositeFieldContainer[Worker.StackedAttempt]
        with_variables: bool
        def __init__(self, attempts: _Optional[_Iterable[_Union[Worker.StackedAttempt, _Mapping]]] = ..., with_variables: _Optional[bool] = ...) -> None: ...
    class SampleStacksRequest(_message.Message):
        __slots__ = ("attempts", "seconds", "rate", "with_idle")
        ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
        SECONDS_FIELD_NUMBER: _ClassVar[int]
        RATE_FIELD_NUMBER: _ClassVar[int]
        WITH_IDLE_FIELD_NUMBER: _ClassVar[int]
        attempts: _containers.RepeatedCompositeFieldContainer[Worker.StackedAttempt]
        seconds: int
        rate: int
        with_idle: bool
        def __init__(self, attempts: _Optional[_Iterable[_Union[Worker.StackedAttempt, _Mapping]]] = ..., seconds: _Optional[int] = ..., rate: _Optional[int] = ..., with_idle: _Optional[bool] = ...) -> None: ...
    class KillTaskRequest(_message.Message):
        __slots__ = ("task_id", "term_timeout_ms", "attempt_id")
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        TERM_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        term_timeout_ms: int
        attempt_id: int
        def __init__(self, task_id: _Optional[str] = ..., term_timeout_ms: _Optional[int] = ..., attempt_id: _Optional[int] = ...) -> None: ...
    def __init__(self) -> None: ...
