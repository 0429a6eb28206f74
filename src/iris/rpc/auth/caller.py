"""Describes the caller of the call that is being served, based on the caller's token."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

ADMIN, USER, READER, WORKER, TASK, CONTROLLER = "admin", "user", "reader", "worker", "task", "controller"
# The roles with which people can create tokens. Tokens with the roles `task` and `controller` are created only by the
# cluster.
GIVEN_ROLES = (ADMIN, USER, READER, WORKER)
# The longest lifetime of a token that a person can create, in seconds.
MAX_TTL_S = 10 * 366 * 86400
# The clocks of two machines may differ by up to this many seconds without making a valid token invalid.
LEEWAY_S = 30.0
# Each error message for a caller without a valid token ends with this advice.
ADVICE = (
    "set IRIS_TOKEN, pass token=…, or send the header 'Authorization: Bearer TOKEN'; 'iris token create NAME' creates a"
    " token. The user who ran 'iris up' needs none on that machine"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid token.

    Attributes:
        name: The name of the person, task or worker to whom the token was given.
        role: The role of the token, for example `USER`.
        token_id: The id by which the token is listed and revoked.
        expires_at_s: The expiry time of the token, in seconds since the epoch.
        job_id: The job of the task that holds the token. Empty if the holder is not a task.
        task_index: The index of the task that holds the token.
        attempt_id: The attempt of the task that holds the token.
        job_submitted_at_ms: When the job of the task was submitted. A later job may have the same name, because jobs
            can be removed. 0 in a token of an older release.
        worker_id: If a worker holds the token, the id of this worker. If the controller holds the token, the id of the
            only worker that accepts the token. Otherwise empty.
        session_id: The id of the web session in which a browser makes the call. Empty if the caller sent the token
            itself.
        incarnation: For a token of the controller, the worker process that accepts the token even after its expiry
            time. Empty if no process does so.
    """

    name: str
    role: str
    token_id: str
    expires_at_s: float
    job_id: str = ""
    task_index: int = -1
    attempt_id: int = -1
    worker_id: str = ""
    incarnation: str = ""
    job_submitted_at_ms: int = 0
    session_id: str = ""

    @property
    def key(self) -> str:
        """The name under which limits count this caller: the role and name of a person, or the id of a task or
        worker.
        """
        if self.job_id:
            return f"task {self.job_id}/task-{self.task_index}"
        if self.worker_id:
            return f"{self.role} {self.worker_id}"
        return f"{self.role} {self.name}"

    def owns(self, job_id: str) -> bool:
        """Return whether a job is the one to which the calling task belongs."""
        return bool(self.job_id) and job_id == self.job_id

    def is_above(self, job_id: str) -> bool:
        """Return whether a job is a child job of the calling task's job, or a descendant of such a child job."""
        return bool(self.job_id) and job_id.startswith(f"{self.job_id}/")


# The caller of the call that is being served. `AuthenticationInterceptor` sets the caller for the time of the call.
current_caller: ContextVar[Caller | None] = ContextVar("iris_caller", default=None)
# If a browser makes the present call in a web session, this function returns the caller or raises an IrisError. None
# for all other calls. `WebSessionRoute` sets this function for the time of the call.
find_web_caller: ContextVar[Callable[[], Caller] | None] = ContextVar("iris_web_caller", default=None)

# The address and port of the client, and of this server, on the connection of the call that is being served. None if
# they are not known.
Ends = tuple[tuple[str, int] | None, tuple[str, int] | None]
connection_ends: ContextVar[Ends] = ContextVar("iris_connection_ends", default=(None, None))


def caller() -> Caller:
    """Return who made the call that this server is answering."""
    known = current_caller.get()
    assert known is not None, "the call was not authenticated"
    return known
