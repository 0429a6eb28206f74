"""The states of jobs and tasks: as numbers in messages, and as text that can be compared with names. In the protobuf
messages, JobState and TaskState have the same number for the same state. The states 4 to 8 are final.
"""

from __future__ import annotations

import warnings
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from iris.arguments import MAX_INT32, check_whole_number, refuse
from iris.errors import UnknownStateWarning, quoted

STATE_NAMES = {
    0: "UNSPECIFIED",
    1: "PENDING",
    2: "BUILDING",
    3: "RUNNING",
    4: "SUCCEEDED",
    5: "FAILED",
    6: "KILLED",
    7: "WORKER_FAILED",
    8: "UNSCHEDULABLE",
}
FINAL_STATES = frozenset({4, 5, 6, 7, 8})
_NUMBERS = {name: number for number, name in STATE_NAMES.items()}
# The beginning of the name of a state that only a newer server knows. The number of the state follows.
_UNKNOWN = "STATE_"
# The texts with which the names of states begin in protobuf messages.
_PREFIXES = ("JOB_STATE_", "TASK_STATE_")


def is_job_finished(state: int | State) -> bool:
    """Return whether a `JobState` is final: SUCCEEDED, FAILED, KILLED, WORKER_FAILED or UNSCHEDULABLE.

    Args:
        state: A `JobState`, or the number that stands for the state in protobuf messages.

    Raises:
        InvalidArgumentError: (a `ValueError`) `state` is neither a state nor a number.
    """
    return _check_state(state) in FINAL_STATES


def is_task_finished(state: int | State) -> bool:
    """Return whether a `TaskState` is final. The state of a task that will be retried is PENDING, which is not final.

    Args:
        state: A `TaskState`, or the number that stands for the state in protobuf messages.

    Raises:
        InvalidArgumentError: (a `ValueError`) `state` is neither a state nor a number.
    """
    return _check_state(state) in FINAL_STATES


def state_name(state: int | State) -> str:
    """Return the short name of a `JobState` or `TaskState`, for example `RUNNING`.

    Raises:
        InvalidArgumentError: (a `ValueError`) `state` is neither a state nor a number.
    """
    number = _check_state(state)
    return STATE_NAMES.get(number, f"{_UNKNOWN}{number}")


def _check_state(state: object) -> int:
    return check_whole_number("state", state, least=-MAX_INT32 - 1, most=MAX_INT32)


class State(StrEnum):
    """The base class of `JobState` and `TaskState`.

    A state is a `str`. It compares equal with its name in any letter case (`"RUNNING"`, `"running"`), with its name in
    messages (`"JOB_STATE_RUNNING"`), and with its number in messages (`cluster_pb2.JOB_STATE_RUNNING`). A comparison
    with a text that names no state gives an `UnknownStateWarning`, because such a comparison is always False. If a
    state is the key of a dict, only its name in upper case finds the entry.

    `JobState(x)` and `TaskState(x)` return the state with the name or the number `x`, for example
    `JobState("running")`.
    """

    if TYPE_CHECKING:  # Type checkers do not know that `Enum` calls `_missing_` for a number.

        def __new__(cls, value: str | int) -> Self: ...

    @property
    def number(self) -> int:
        """The number of the state in messages."""
        number = _NUMBERS.get(self.value)
        return int(self.value.removeprefix(_UNKNOWN)) if number is None else number

    @property
    def is_final(self) -> bool:
        """Whether the state is final: SUCCEEDED, FAILED, KILLED, WORKER_FAILED or UNSCHEDULABLE."""
        return self.number in FINAL_STATES

    def __index__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> Any:
        return self._equals(other)

    def __ne__(self, other: object) -> Any:
        equal = self._equals(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = str.__hash__

    def _equals(self, other: object) -> Any:
        if isinstance(other, State):
            return self.value == other.value
        if isinstance(other, str):
            name = _plain_name(other)
            if name and name not in _NUMBERS and not name.startswith(_UNKNOWN):
                warnings.warn(
                    f"no state is called {quoted(other)}, so this comparison is always False: the states are"
                    f" {', '.join(STATE_NAMES.values())}",
                    UnknownStateWarning,
                    # The warning names the line of the comparison, which is two calls above this call in the stack.
                    stacklevel=3,
                )
            return self.value == name
        if isinstance(other, int) and not isinstance(other, bool):
            return self.number == other
        return NotImplemented

    @classmethod
    def _missing_(cls, value: object) -> Self:
        """Return the state for a number, or for a name such as `running` or `JOB_STATE_RUNNING`. `Enum` calls this
        method.
        """
        if isinstance(value, str):
            name = _plain_name(value)
            if name in _NUMBERS:
                return cls(name)
            digits = name.removeprefix(_UNKNOWN)
            if name.startswith(_UNKNOWN) and digits.isdecimal():
                return cls._unknown(int(digits))
        elif isinstance(value, int) and not isinstance(value, bool):
            return cls(STATE_NAMES[value]) if value in STATE_NAMES else cls._unknown(value)
        return refuse("the state", f"one of {', '.join(STATE_NAMES.values())}, or the number of a state", value)

    @classmethod
    def _unknown(cls, number: int) -> Self:
        """Return a state for a number that this version does not know, because a newer server has sent it."""
        name = f"{_UNKNOWN}{number}"
        member = str.__new__(cls, name)
        member._name_ = member._value_ = name
        return member


class JobState(State):
    """The state of a job, as `Job.state` returns it. `JobState(status.state)` is the state in a `JobStatus` message.
    The message itself contains a number, which never equals a name.
    """

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    BUILDING = "BUILDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    WORKER_FAILED = "WORKER_FAILED"
    UNSCHEDULABLE = "UNSCHEDULABLE"


class TaskState(State):
    """The state of a task, as `Task.state` returns it. `TaskState(status.state)` is the state in a `TaskStatus`
    message. The message itself contains a number, which never equals a name.
    """

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    BUILDING = "BUILDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    WORKER_FAILED = "WORKER_FAILED"
    UNSCHEDULABLE = "UNSCHEDULABLE"


def _plain_name(text: str) -> str:
    name = str.__str__(text).upper()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
