"""Who is calling: what a token says of its holder, within reach of whatever serves the call."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

ADMIN, USER, READER, WORKER, TASK, CONTROLLER = "admin", "user", "reader", "worker", "task", "controller"
# The roles of tokens that people make; the others are the cluster's own.
GIVEN_ROLES = (ADMIN, USER, READER, WORKER)
# Who decides, and who signs: clocks of different machines may differ by so much.
LEEWAY_S = 30.0
# What who has no token, or a wrong one, can do.
ADVICE = (
    "set IRIS_TOKEN, or give token=…; on the machine of 'iris up' its own user needs neither;"
    " 'iris token create NAME' makes one"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a token that was found to be valid.

    Attributes:
        name: Whose token it is.
        role: One of those above.
        token_id: By which it is listed and revoked.
        expires_at_s: Seconds since the epoch.
        job_id: Of a task's: the job,
        task_index: the task,
        attempt_id: and the attempt that it was given to.
        worker_id: Of a worker's: its id. Of the controller's: the worker that it is for, and for no other.
        incarnation: Of the controller's: the process of that worker which takes it whatever the time is; empty: none.
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

    @property
    def key(self) -> str:
        """Who this is, where callers share something: a person by name and role, a task and a worker by its id."""
        if self.job_id:
            return f"task {self.job_id}/task-{self.task_index}"
        if self.worker_id:
            return f"{self.role} {self.worker_id}"
        return f"{self.role} {self.name}"

    def owns(self, job_id: str) -> bool:
        """Whether a job is the one that this task belongs to."""
        return bool(self.job_id) and job_id == self.job_id

    def is_above(self, job_id: str) -> bool:
        """Whether a job is a child of this task's job, or a child's child."""
        return bool(self.job_id) and job_id.startswith(f"{self.job_id}/")


# Set for the time of a call, by the guard of the server.
current_caller: ContextVar[Caller | None] = ContextVar("iris_caller", default=None)


def caller() -> Caller:
    """Who makes the call that is being served."""
    known = current_caller.get()
    assert known is not None, "a call that no guard has let in"
    return known
