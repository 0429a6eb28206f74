"""Every error that Iris raises, drawn first.

    IrisError
    ├── InvalidArgumentError (ValueError)     what was given cannot be meant: a name, an id, an index, a size
    │   ├── InvalidAddressError               … an address
    │   └── EntrypointError                   … a callable that cannot be sent
    ├── NotFoundError (LookupError)           no such job, task, worker or endpoint
    ├── AlreadyExistsError                    the name is taken
    ├── ResourceExhaustedError                too large, or too many: a workspace, jobs; or too little left: of a disk
    ├── FailedPreconditionError               right in itself, but not now
    │   └── ClientClosedError                 … since this client was closed
    ├── UnauthenticatedError                  who are you?
    ├── PermissionDeniedError                 you may not
    ├── DeadlineExceededError (TimeoutError)  no answer in time
    ├── UnavailableError (ConnectionError)    nobody there, or gone in mid-answer
    │   ├── ControllerUnreachableError        … the controller
    │   └── WorkerUnreachableError            … the worker that has a log
    ├── UnimplementedError                    the other side is older, or no Iris
    ├── InternalError                         a bug of ours, or an answer that makes no sense
    ├── DataLossError                         something that was stored cannot be read back
    ├── MissingExtraError (ImportError)       the part of Iris for this is not installed
    ├── LocalClusterError                     a cluster on this machine did not start, or died
    ├── JobFailedError                        a job that was waited for did not succeed
    ├── ResultError                           a task has no return value to hand out
    └── RemoteTraceback                       where in a task an exception was raised: the cause of the exception

`InvalidArgumentError` is a `ValueError` and so on, so that code which knows nothing of Iris can catch them.
The text of an error says what was given and what would be right, or what to do next.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

_MAX_TEXT = 4000  # characters of an error that travels
_QUOTED = 100  # characters of what somebody gave
# What a terminal does not show as it is: controls of C0 and C1, the ends of lines of Unicode, and what turns the
# direction of text around. Newline and tab are text.
_NOT_VISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class IrisError(Exception):
    """The root of all errors of Iris. `code` is the Connect code that stands for the class on the wire.

    Every error can be pickled and copied, with its text, attributes and notes.
    """

    code: ClassVar[str] = "unknown"

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way calls the class with the text alone, which fails where `__init__` needs more than that: a
        # process pool whose worker raises such an error is broken for good.
        reduced = super().__reduce__()
        assert isinstance(reduced, tuple)
        return (_rebuild_error, (type(self), reduced[1]), *reduced[2:])


class InvalidArgumentError(IrisError, ValueError):
    """What was given cannot be meant; the text says what was given and what form is expected."""

    code = "invalid_argument"


class InvalidAddressError(InvalidArgumentError):
    """An address in none of the accepted forms."""


class EntrypointError(InvalidArgumentError):
    """A callable or a command that cannot be sent to a worker."""


class NotFoundError(IrisError, LookupError):
    """No job, task, worker or endpoint of that name."""

    code = "not_found"


class AlreadyExistsError(IrisError):
    """The name is taken."""

    code = "already_exists"


class ResourceExhaustedError(IrisError):
    """Too large, or too many, for a limit, or too little is left of something; the text says of what."""

    code = "resource_exhausted"


class FailedPreconditionError(IrisError):
    """Right in itself, but not in the state that things are in."""

    code = "failed_precondition"


class ClientClosedError(FailedPreconditionError):
    """The client was closed, before the call or during it, in this thread or in another one."""


class UnauthenticatedError(IrisError):
    """The other side does not know who is calling."""

    code = "unauthenticated"


class PermissionDeniedError(IrisError):
    """The other side knows who is calling, and says no."""

    code = "permission_denied"


class DeadlineExceededError(IrisError, TimeoutError):
    """No answer within the time that the call was given."""

    code = "deadline_exceeded"


class UnavailableError(IrisError, ConnectionError):
    """Nobody answers at that address, or the connection ended in mid-answer."""

    code = "unavailable"


class ControllerUnreachableError(UnavailableError):
    """The controller does not answer."""


class WorkerUnreachableError(UnavailableError):
    """The worker that has the log does not answer."""


class UnimplementedError(IrisError):
    """The other side does not know the call: it is older than this client, or it is not Iris."""

    code = "unimplemented"


class InternalError(IrisError):
    """A bug of Iris, or an answer that makes no sense."""

    code = "internal"


class DataLossError(IrisError):
    """Something that was stored cannot be read back."""

    code = "data_loss"


class MissingExtraError(IrisError, ImportError):
    """The part of Iris that is asked for is not installed.

    Args:
        what: What needs it, as the start of a sentence.
        extra: The extra of the distribution `iris-cluster` that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra [{extra}]: pip install 'iris-cluster[{extra}]', or '.[{extra}]' in a checkout"
        )


class LocalClusterError(IrisError):
    """A cluster on this machine did not start, or has died; the text ends with what it wrote last."""


class JobFailedError(IrisError):
    """A job that was waited for has ended and did not succeed.

    Attributes:
        job_id: The job.
        status: Its final `cluster_pb2.JobStatus`.
        task_index: The first task that failed; None when none did (the job was cancelled, or never started).
        exit_code: That task's exit code; None when it has none.
        signal: The number of the signal that ended it; None when none did.
        last_lines: The last lines that it wrote, oldest first.
    """

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
    """A task has no return value to hand out: it failed, is not done, or what it returned cannot be sent.

    Attributes:
        task_id: The task.
    """

    def __init__(self, text: str, *, task_id: str) -> None:
        super().__init__(text)
        self.task_id = task_id


class RemoteTraceback(IrisError):
    """The traceback of an exception that a task raised: the `__cause__` of that exception."""

    def __str__(self) -> str:
        return f'\n"""\n{super().__str__()}"""'


def _rebuild_error(kind: type[IrisError], text: tuple[object, ...]) -> IrisError:
    """Return an unpickled error without a call of its `__init__`; pickle sets its attributes afterwards."""
    error = kind.__new__(kind, *text)
    # ImportError and OSError keep parts of their text in attributes that only their own `__init__` sets.
    built_in = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    built_in.__init__(error, *text)  # type: ignore[misc] # of the class that was just looked up
    return error


def quoted(text: object) -> str:
    """What was given, for an error: as Python would write it, and not all of it where it is long."""
    if isinstance(text, str) and len(text) > _QUOTED:
        return f"{text[:_QUOTED]!r}… ({len(text):,} characters)"
    try:
        written = repr(text)
    except Exception:  # noqa: BLE001 - a `__repr__` of the user's, or a number of over 4,300 digits
        return f"an object of type {type(text).__name__}"
    if isinstance(text, str):
        return written
    written = " ".join(written.split())  # messages of the wire write themselves as many lines
    return written if len(written) <= 2 * _QUOTED else f"{written[: 2 * _QUOTED]}…"


def shown(text: str) -> str:
    """The text of an error as it may travel: nothing in it steers a terminal, and it has an end."""
    return visible(text[:_MAX_TEXT] + "…" if len(text) > _MAX_TEXT else text)


def visible(text: str) -> str:
    """Return text of somebody else for a message of ours: controls other than newline and tab become escapes."""
    return _NOT_VISIBLE.sub(lambda found: repr(found.group())[1:-1], text)


# The one table between the wire and our errors: Connect code -> the class that stands for it on this side.
# In the other direction, a class carries its code.
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
    "canceled": UnavailableError,  # the other side gave up on the call, as a server that shuts down does
    "unimplemented": UnimplementedError,
    "internal": InternalError,
    "unknown": InternalError,
    "data_loss": DataLossError,
}
