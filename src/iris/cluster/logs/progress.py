"""Decides which attempt of each task a reader reads next, and when the reader has read everything.

A reader reads the attempts of a task one after the other, each to its end. A task is over when its last attempt was
read to the end and the controller says that the task is final. This module is pure: the reader reports what happened,
and `Progress` returns what to read next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from iris.cluster.logs.cursor import Position
from iris.cluster.types import is_task_finished
from iris.rpc import cluster_pb2


class NextAttempt(NamedTuple):
    """A change: the reader has finished an attempt of a task and continues with the task's next attempt.

    Attributes:
        task_index: The index of the task.
        ended: The attempt that was read to its end.
    """

    task_index: int
    ended: cluster_pb2.TaskAttempt


class NoAttempt(NamedTuple):
    """A change: nothing more of a task will be read, because the task does not have the attempt that the reader wants.

    Attributes:
        task: The task, as the controller described it.
    """

    task: cluster_pb2.TaskStatus


Outcome = NextAttempt | NoAttempt


class _Stage(Enum):
    # In the stage TO_READ, no stream reads the attempt, or the attempt does not exist yet.
    TO_READ = auto()
    # In the stage READING, a stream reads the attempt.
    READING = auto()
    # In the stage READ, the attempt was read to its end, and the next status is awaited.
    READ = auto()
    # In the stage OVER, nothing more of the task will be read.
    OVER = auto()


@dataclass(slots=True)
class _TaskProgress:
    """How far one task was read.

    Attributes:
        position: The attempt to read, and the offsets at which reading it starts.
        status: The newest status that the controller has sent.
        stage: Whether the attempt waits to be read, is being read, or was read.
    """

    position: Position
    status: cluster_pb2.TaskStatus | None = None
    stage: _Stage = _Stage.TO_READ


class Progress:
    """The progress of a reader through the attempts of one or several tasks.

    Args:
        positions: The position at which the reader starts in the log of each task, by task index.
        follow: Whether the reader also waits for future attempts. Without `follow`, the reader reads only existing
            attempts.
        one_attempt: Whether the reader wants only the attempts that `positions` names.
    """

    def __init__(self, positions: Mapping[int, Position], *, follow: bool, one_attempt: bool = False) -> None:
        self._tasks = {index: _TaskProgress(position) for index, position in positions.items()}
        self._follow = follow
        self._one_attempt = one_attempt

    @property
    def is_over(self) -> bool:
        """Whether all tasks are over."""
        return all(task.stage is _Stage.OVER for task in self._tasks.values())

    @property
    def is_waiting(self) -> bool:
        """Whether at least one task is not over, and no stream reads its attempt. After a call of `to_open`, such a
        task waits for its next attempt.
        """
        return any(task.stage in (_Stage.TO_READ, _Stage.READ) for task in self._tasks.values())

    def update(self, tasks: Iterable[cluster_pb2.TaskStatus]) -> list[Outcome]:
        """Apply the newest statuses of tasks from the controller, and return the changes. Unknown tasks are ignored."""
        outcomes: list[Outcome] = []
        for status in tasks:
            task = self._tasks.get(status.task_index)
            if task is not None:
                task.status = status
                outcomes += self._advance(status.task_index, task)
        return outcomes

    def to_open(self) -> list[tuple[int, cluster_pb2.TaskAttempt, Position]]:
        """Return the attempts that the caller must start to read now, as (task index, attempt, start position). Each
        attempt is returned once. After a call of `interrupted` for its task, the attempt is returned again.
        """
        found = []
        for index, task in self._tasks.items():
            attempt = self.attempt(index)
            if task.stage is _Stage.TO_READ and attempt is not None:
                task.stage = _Stage.READING
                found.append((index, attempt, task.position))
        return found

    def attempt(self, task_index: int) -> cluster_pb2.TaskAttempt | None:
        """Return the attempt that is being read, as the controller described it last; None if the attempt does not
        exist yet.
        """
        task = self._tasks[task_index]
        attempts = task.status.attempts if task.status is not None else ()
        number = task.position.attempt_id
        return attempts[number] if number < len(attempts) else None

    def interrupted(self, task_index: int) -> None:
        """Report that the stream of the current attempt has ended before the end of the attempt's log."""
        task = self._tasks[task_index]
        if task.stage is _Stage.READING:
            task.stage = _Stage.TO_READ

    def give_up(self, task_index: int) -> None:
        """Record that the reader reads no more logs of this task, for example because they cannot be read."""
        self._tasks[task_index].stage = _Stage.OVER

    def attempt_ended(self, task_index: int) -> list[Outcome]:
        """Report that the attempt was read to its end, and return what changed."""
        task = self._tasks[task_index]
        if task.stage is not _Stage.OVER:
            task.stage = _Stage.READ
        return self._advance(task_index, task)

    def _advance(self, task_index: int, task: _TaskProgress) -> list[Outcome]:
        status = task.status
        if status is None or task.stage is _Stage.OVER:
            return []
        number, count = task.position.attempt_id, len(status.attempts)
        is_final = is_task_finished(status.state)
        if task.stage is not _Stage.READ:
            if number >= count and (is_final or not self._follow):
                task.stage = _Stage.OVER
                return [NoAttempt(status)]
        elif self._one_attempt:
            task.stage = _Stage.OVER
        elif number + 1 < count or (self._follow and _will_be_retried(status, number)):
            task.position = Position(number + 1)
            task.stage = _Stage.TO_READ
            return [NextAttempt(task_index, status.attempts[number])]
        elif not self._follow or (is_final and number < count):
            task.stage = _Stage.OVER
        # The worker may know of the attempt's end before the controller does. Therefore nothing changes yet: the next
        # status from the controller decides whether the task is over.
        return []


def _will_be_retried(task: cluster_pb2.TaskStatus, attempt_id: int) -> bool:
    return (
        attempt_id < len(task.attempts)
        and is_task_finished(task.attempts[attempt_id].state)
        and not is_task_finished(task.state)
    )


def end_without_attempt(task: cluster_pb2.TaskStatus) -> cluster_pb2.LogEnd:
    """Return the message that ends the log of a task without an attempt to read. It contains the task's state."""
    return cluster_pb2.LogEnd(complete=is_task_finished(task.state), state=task.state, error=task.error)


def complete_end(end: cluster_pb2.LogEnd, attempt: cluster_pb2.TaskAttempt) -> None:
    """Add to the end of a log how its attempt ended, unless the worker has already added this outcome."""
    if end.state != cluster_pb2.TASK_STATE_UNSPECIFIED:
        return
    end.state = attempt.state
    end.error = attempt.error
    if attempt.HasField("exit_code"):
        end.exit_code = attempt.exit_code
    if attempt.HasField("term_signal"):
        end.term_signal = attempt.term_signal
