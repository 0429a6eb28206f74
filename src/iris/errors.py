"""Every error that Iris raises.

    IrisError
    ├── InvalidArgumentError (ValueError)     an argument is invalid: a name, an id, an index, a size
    │   ├── InvalidAddressError               an address is invalid
    │   └── EntrypointError                   a callable or a command cannot be sent to a worker
    ├── NotFoundError (LookupError)           no such job, task, file, endpoint, context or other object
    ├── AlreadyExistsError                    the name is taken
    ├── ResourceExhaustedError                a limit is reached, or a disk or another resource is full
    ├── FailedPreconditionError               the call is valid, but not in the present state
    │   └── ClientClosedError                 the client is closed
    ├── UnauthenticatedError                  the caller has no valid token
    ├── PermissionDeniedError                 the caller may not make this call
    ├── DeadlineExceededError (TimeoutError)  no answer in time
    ├── UnavailableError (ConnectionError)    the server does not answer, or the connection broke
    │   ├── ControllerUnreachableError        the controller does not answer
    │   └── WorkerUnreachableError            the worker that has a log or a file does not answer
    ├── UnimplementedError                    the server is an older release, or not Iris
    ├── InternalError                         a bug in Iris, or an answer that is not from Iris
    ├── DataLossError                         stored data cannot be read, or a copy has other bytes
    ├── MissingExtraError (ImportError)       an optional part of Iris is not installed
    ├── LocalClusterError                     a cluster on this machine did not start
    ├── JobFailedError                        a job that the program waited for did not succeed
    ├── ResultError                           a task has no return value
    └── RemoteTraceback                       the traceback of an exception in a task

Most classes also derive from the matching built-in exception, so that code which does not know Iris can catch them:
`InvalidArgumentError` is a `ValueError`. The text of an error contains the given value, the accepted values and the
next step. Programs compare the class, `code` and `reason` instead of the text.

`BlockingCallWarning` and `UnknownStateWarning` are not errors but warnings, as the module `warnings` handles them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from iris.reasons import ErrorReason

# A longer text of an error is cut to this number of characters when it becomes part of a message.
_MAX_TEXT = 4000
# A quoted text is cut to this many characters, and any other value to twice as many.
_QUOTED = 100

# Characters that change what a terminal shows: the controls of C0 and C1 (except newline and tab), Unicode's line ends,
# marks that turn the direction of text around, and surrogates.
_NOT_VISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class IrisError(Exception):
    """The root of all errors of Iris.

    Every error can be pickled and copied, with its text, attributes and notes.

    Args:
        text: A description of the problem and its solution.
        reason: The `ErrorReason` of the error. If None, the error has the reason of its class.
        metadata: The objects that the error names, for example `{"job_id": "train"}`.

    Attributes:
        code: The Connect code that stands for the class on the wire.
        reason: The `ErrorReason` of the error, or text if a newer server sent a reason that this release does not know.
        metadata: The objects that the error names, by key. Empty for most errors.
    """

    code: ClassVar[str] = "unknown"
    reason: str = ErrorReason.INTERNAL
    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *text: object, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(*text)
        if reason is not None:
            self.reason = reason
        if metadata is not None:
            self.metadata = dict(metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, pickle rebuilds an exception by calling its class with the text alone. That fails for a class
        # whose `__init__` needs more arguments, and it breaks a process pool whose worker raises such an error.
        reduced = super().__reduce__()
        assert isinstance(reduced, tuple)
        return (_rebuild_error, (type(self), reduced[1]), *reduced[2:])


class InvalidArgumentError(IrisError, ValueError):
    """An argument is invalid. The text contains the given value and the accepted values."""

    code = "invalid_argument"
    reason = ErrorReason.INVALID_ARGUMENT


class InvalidAddressError(InvalidArgumentError):
    """An address has none of the accepted forms."""

    reason = ErrorReason.INVALID_ADDRESS


class EntrypointError(InvalidArgumentError):
    """A callable or a command cannot be sent to a worker."""

    reason = ErrorReason.INVALID_ENTRYPOINT


class NotFoundError(IrisError, LookupError):
    """The object that a call names does not exist, for example a job, a task, an attempt, a file or an endpoint."""

    code = "not_found"
    reason = ErrorReason.NOT_FOUND


class AlreadyExistsError(IrisError):
    """The name is already used."""

    code = "already_exists"
    reason = ErrorReason.ALREADY_EXISTS


class ResourceExhaustedError(IrisError):
    """A limit is reached, or a disk or another resource is full. The text names the limit or resource."""

    code = "resource_exhausted"
    reason = ErrorReason.RESOURCE_EXHAUSTED


class FailedPreconditionError(IrisError):
    """The call is valid, but not allowed in the present state of the job, worker or cluster."""

    code = "failed_precondition"
    reason = ErrorReason.FAILED_PRECONDITION


class ClientClosedError(FailedPreconditionError):
    """The client was closed before or during the call, possibly by another thread."""

    reason = ErrorReason.CLIENT_CLOSED


class UnauthenticatedError(IrisError):
    """The caller has no valid token."""

    code = "unauthenticated"
    reason = ErrorReason.UNAUTHENTICATED


class PermissionDeniedError(IrisError):
    """The server knows the caller and does not allow the call."""

    code = "permission_denied"
    reason = ErrorReason.PERMISSION_DENIED


class DeadlineExceededError(IrisError, TimeoutError):
    """No answer arrived in time."""

    code = "deadline_exceeded"
    reason = ErrorReason.DEADLINE_EXCEEDED


class UnavailableError(IrisError, ConnectionError):
    """The server does not answer, or the connection broke before the whole answer had arrived."""

    code = "unavailable"
    reason = ErrorReason.UNAVAILABLE


class ControllerUnreachableError(UnavailableError):
    """The controller does not answer."""

    reason = ErrorReason.CONTROLLER_UNREACHABLE


class WorkerUnreachableError(UnavailableError):
    """The worker that has the requested log or file does not answer."""

    reason = ErrorReason.WORKER_UNREACHABLE


class UnimplementedError(IrisError):
    """The server does not know the call.

    Either the server is older than this client, or another program answers at the server's address.
    """

    code = "unimplemented"
    reason = ErrorReason.UNIMPLEMENTED


class InternalError(IrisError):
    """There is a bug in Iris, or another program has answered a call instead of Iris."""

    code = "internal"
    reason = ErrorReason.INTERNAL


class DataLossError(IrisError):
    """Stored data cannot be read, or the hash of a copied file is wrong, for example because the file changed during
    the copy."""

    code = "data_loss"
    reason = ErrorReason.DATA_LOSS


class MissingExtraError(IrisError, ImportError):
    """An optional part of Iris is not installed.

    Args:
        what: The feature that needs the optional part, as the subject of a sentence.
        extra: The extra of the distribution `iris-cluster` that installs the part.
    """

    reason = ErrorReason.MISSING_EXTRA

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra [{extra}]: pip install 'iris-cluster[{extra}]', or '.[{extra}]' in a checkout"
        )


class UnknownStateWarning(UserWarning):
    """A state of a job or a task is compared with a text that names no state. Such a comparison is always False."""


class BlockingCallWarning(UserWarning):
    """A blocking call of `IrisClient` was made in a running asyncio event loop. Each process gives the warning once."""


class LocalClusterError(IrisError):
    """A cluster on this machine did not start. The text contains the reason, or the last lines of the cluster's event
    log if the reason is unknown."""

    reason = ErrorReason.LOCAL_CLUSTER_FAILED


class JobFailedError(IrisError):
    """A job that the program waited for has ended without success.

    Attributes:
        job_id: The id of the job.
        status: The job's final `cluster_pb2.JobStatus`.
        task_index: The index of the first task that failed, or None if no task failed because the job was terminated or
            never started.
        exit_code: The exit code of the failed task, or None if the task has no exit code.
        signal: The number of the signal that killed the failed task, or None if no signal killed it.
        last_lines: The last lines that the task wrote, oldest first.
    """

    reason = ErrorReason.JOB_FAILED

    def __init__(
        self,
        text: str,
        *,
        job_id: str,
        status: object,
        task_index: int | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        last_lines: tuple[str, ...] = (),
    ) -> None:
        super().__init__(text)
        self.job_id = job_id
        self.status = status
        self.task_index = task_index
        self.exit_code = exit_code
        self.signal = signal
        self.last_lines = last_lines


class ResultError(IrisError):
    """A task has no return value, because the task failed, has not ended, or returned a value that cannot be sent.

    Attributes:
        task_id: The id of the task.
    """

    reason = ErrorReason.NO_RESULT

    def __init__(self, text: str, *, task_id: str, reason: str | None = None) -> None:
        super().__init__(text, reason=reason)
        self.task_id = task_id


class RemoteTraceback(IrisError):
    """The traceback of an exception in a task. The client raises the exception with this error as its `__cause__`."""

    reason = ErrorReason.REMOTE_TRACEBACK

    def __str__(self) -> str:
        return f'\n"""\n{super().__str__()}"""'


def _rebuild_error(kind: type[IrisError], text: tuple[object, ...]) -> IrisError:
    """Return an unpickled error without a call of its `__init__`. The pickle module sets the attributes afterwards."""
    error = kind.__new__(kind, *text)
    # The `__init__` of the built-in class is called, because ImportError and OSError store parts of the text there.
    built_in = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    built_in.__init__(error, *text)  # type: ignore[misc] # the class was looked up above
    return error


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of the cause and so on. The cause of an error is its `__cause__`, or
    otherwise its `__context__`. Each error is yielded only once, because errors can be the causes of each other.
    """
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is one for one in found):
        found.append(link)
        yield link
        link = link.__cause__ or link.__context__


def quoted(text: object) -> str:
    """Return a value as an error quotes it: the value's `repr`, shortened if it is long."""
    if isinstance(text, str) and len(text) > _QUOTED:
        return f"{text[:_QUOTED]!r}… ({len(text):,} characters)"
    try:
        written = repr(text)
    except Exception:  # noqa: BLE001 - A `__repr__` may raise any exception, for example for a number of 5,000 digits.
        return f"an object of type {type(text).__name__}"
    if isinstance(text, str):
        return written
    # All lines are joined into one, because the `repr` of a protobuf message has many lines.
    written = " ".join(written.split())
    return written if len(written) <= 2 * _QUOTED else f"{written[: 2 * _QUOTED]}…"


def shown(text: str) -> str:
    """Return the text of an error in a form for messages: shortened, and without characters that control a terminal."""
    return visible(text[:_MAX_TEXT] + "…" if len(text) > _MAX_TEXT else text)


def visible(text: str) -> str:
    """Return text with its control characters, except newline and tab, written as escape sequences."""
    return _NOT_VISIBLE.sub(lambda found: repr(found.group())[1:-1], text)


# The class that stands for each Connect code. In the other direction, `IrisError.code` is the code of a class.
ERROR_FOR_CODE: dict[str, type[IrisError]] = {
    "invalid_argument": InvalidArgumentError,
    "out_of_range": InvalidArgumentError,
    "not_found": NotFoundError,
    "already_exists": AlreadyExistsError,
    "resource_exhausted": ResourceExhaustedError,
    "failed_precondition": FailedPreconditionError,
    "unauthenticated": UnauthenticatedError,
    "permission_denied": PermissionDeniedError,
    "deadline_exceeded": DeadlineExceededError,
    "unavailable": UnavailableError,
    "aborted": UnavailableError,
    # A server cancels its open calls when it shuts down, so a cancelled call means that the server is unavailable.
    "canceled": UnavailableError,
    "unimplemented": UnimplementedError,
    "internal": InternalError,
    "unknown": InternalError,
    "data_loss": DataLossError,
}
