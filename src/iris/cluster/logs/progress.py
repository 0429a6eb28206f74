"""Which attempts of a job's tasks are to be read now, and when a follow is over: decided purely, for who reads.

For each task, attempts are read one after the other, each to its end. A task is over only when its last attempt was
read to an end that was said, and the controller says that no other one will come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from iris.cluster.logs.cursor import Position
from iris.cluster.types import is_task_finished
from iris.rpc import cluster_pb2


@dataclass(slots=True)
class _Reading:
    """One task.

    Attributes:
        position: How far it was read.
        status: What the controller said last.
        open: Somebody is reading this attempt.
        ended: This attempt was read to its end.
        over: There is nothing more to read.
        said: How it ended was said.
    """

    position: Position
    status: cluster_pb2.TaskStatus | None = None
    open: bool = False
    ended: bool = False
    over: bool = False
    said: bool = False


# Attempts after which another one follows: the task's index, and the attempt that ended.
Retried = list[tuple[int, cluster_pb2.TaskAttempt]]


class Progress:
    """The books of one who reads the logs of tasks.

    Args:
        positions: From where each task is read, by task index.
        follow: Wait for attempts that are still to come; else only those that there are.
        one_attempt: Only the attempts that the positions name.
    """

    def __init__(self, positions: Mapping[int, Position], *, follow: bool, one_attempt: bool = False) -> None:
        self._readings = {index: _Reading(position) for index, position in positions.items()}
        self._follow = follow
        self._one_attempt = one_attempt

    @property
    def is_over(self) -> bool:
        """Whether all was read that there is, or will ever be."""
        return all(reading.over for reading in self._readings.values())

    @property
    def is_waiting(self) -> bool:
        """Whether there is a task that only news from the controller can bring further."""
        return any(not reading.over and not reading.open for reading in self._readings.values())

    def update(self, tasks: Iterable[cluster_pb2.TaskStatus]) -> Retried:
        """Takes what the controller says of tasks; those that are not read here are passed over."""
        retried: Retried = []
        for task in tasks:
            reading = self._readings.get(task.task_index)
            if reading is not None:
                reading.status = task
                self._go_on(task.task_index, reading, retried)
        return retried

    def to_open(self) -> list[tuple[int, cluster_pb2.TaskAttempt, Position]]:
        """The attempts to be read that nobody reads: task index, attempt, from where. Whoever asks opens them."""
        found = []
        for index, reading in self._readings.items():
            attempts = reading.status.attempts if reading.status is not None else ()
            number = reading.position.attempt_id
            if not reading.open and not reading.ended and not reading.over and number < len(attempts):
                reading.open = True
                found.append((index, attempts[number], reading.position))
        return found

    def attempt(self, task_index: int) -> cluster_pb2.TaskAttempt | None:
        """What the controller said last of the attempt that is being read."""
        reading = self._readings[task_index]
        attempts = reading.status.attempts if reading.status is not None else ()
        number = reading.position.attempt_id
        return attempts[number] if number < len(attempts) else None

    def interrupted(self, task_index: int) -> None:
        """Nobody reads the task any more, and it has not ended: it is to be opened again."""
        self._readings[task_index].open = False

    def give_up(self, task_index: int) -> None:
        """Nothing more of the task is read."""
        reading = self._readings[task_index]
        reading.over = reading.said = True

    def without_attempt(self) -> list[cluster_pb2.TaskStatus]:
        """The tasks that are over, since they do not have the attempt that was to be read: each is told of once."""
        found = []
        for reading in self._readings.values():
            if reading.over and not reading.said and reading.status is not None:
                reading.said = True
                found.append(reading.status)
        return found

    def attempt_ended(self, task_index: int) -> Retried:
        """The attempt of the task that was being read was read to its end."""
        retried: Retried = []
        reading = self._readings[task_index]
        reading.open = False
        reading.ended = reading.said = True
        self._go_on(task_index, reading, retried)
        return retried

    def _go_on(self, task_index: int, reading: _Reading, retried: Retried) -> None:
        task = reading.status
        if reading.over or task is None:
            return
        number = reading.position.attempt_id
        if not reading.ended:
            if number >= len(task.attempts) and (is_task_finished(task.state) or not self._follow):
                reading.over = True  # it never had this attempt, or has not had it yet
        elif self._one_attempt:
            reading.over = True
        elif number + 1 < len(task.attempts) or (self._follow and _will_be_retried(task, number)):
            reading.position = Position(number + 1)
            reading.ended = reading.said = False
            retried.append((task_index, task.attempts[number]))
        elif not self._follow or (is_task_finished(task.state) and number < len(task.attempts)):
            reading.over = True
        # Else the worker knows of the end before the controller does: there will be news.


def _will_be_retried(task: cluster_pb2.TaskStatus, attempt_id: int) -> bool:
    return (
        attempt_id < len(task.attempts)
        and is_task_finished(task.attempts[attempt_id].state)
        and not is_task_finished(task.state)
    )


def end_without_attempt(task: cluster_pb2.TaskStatus) -> cluster_pb2.LogEnd:
    """How the log of a task ends that does not have an attempt to read."""
    return cluster_pb2.LogEnd(complete=is_task_finished(task.state), state=task.state, error=task.error)


def complete_end(end: cluster_pb2.LogEnd, attempt: cluster_pb2.TaskAttempt) -> None:
    """What a log does not say itself: how its attempt ended. A worker knows it better than we do, until it is gone."""
    if end.state != cluster_pb2.TASK_STATE_UNSPECIFIED:
        return
    end.state = attempt.state
    end.error = attempt.error
    if attempt.HasField("exit_code"):
        end.exit_code = attempt.exit_code
    if attempt.HasField("term_signal"):
        end.term_signal = attempt.term_signal
