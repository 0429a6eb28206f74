"""Checks the arguments that users give, with one function for each kind of argument.

Every public function and method of Iris checks its arguments with these functions before it sends anything. Each check
returns the value in the type that the rest of Iris works with (a numpy integer becomes an `int`, a job handle its id),
or raises InvalidArgumentError: `replicas must be a whole number from 1 to 2147483647, got 0`.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from decimal import Decimal
from numbers import Real
from typing import Any, NoReturn, TypeVar

from iris.errors import InvalidArgumentError, quoted

# The largest numbers that the integer fields of messages can hold.
MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1
# Python's clocks and locks accept waits of up to about 290 years. A longer timeout is treated as no limit.
_LONGEST_WAIT_S = 9e9

Kind = TypeVar("Kind")
Choice = TypeVar("Choice", bound=str)


class JobReference:
    """A handle on a job, which is accepted wherever a job id is accepted.

    Attributes:
        job_id: The job's id.
    """

    job_id: str


class TaskReference:
    """A handle on a task, which is accepted wherever a task id is accepted.

    Attributes:
        job_id: The id of the task's job.
        task_index: The task's index in the job, from 0.
    """

    job_id: str
    task_index: int

    @property
    def task_id(self) -> str:
        """The id of the task, in the form `"{job_id}/task-{index}"`."""
        return f"{self.job_id}/task-{self.task_index}"


def refuse(name: str, accepted: str, value: object, advice: str = "") -> NoReturn:
    """Raise InvalidArgumentError for an argument with a wrong value.

    Args:
        name: The argument's name.
        accepted: The accepted values, as the end of a sentence "NAME must be …".
        value: The given value.
        advice: What the caller can do instead, as a clause.

    Raises:
        InvalidArgumentError: Always.
    """
    raise InvalidArgumentError(f"{name} must be {accepted}, got {quoted(value)}{advice and ': ' + advice}")


# Numbers.


def check_whole_number(
    name: str,
    value: object,
    *,
    least: int = 0,
    most: int = MAX_INT64,
    none: str = "",
    accepted: str = "",
    advice: str = "",
) -> int:
    """Return a whole number as an `int`. Values of all types with `__index__` are accepted, except `bool`.

    Args:
        name: The argument's name.
        value: The given value.
        least: The smallest accepted number.
        most: The largest accepted number.
        none: What the value None means, as words for the error's text. An empty string if None is not accepted.
        accepted: The accepted values, as words for the error's text. The default is "a whole number" within the bounds.
        advice: What a user can do instead, as words for the error's text.

    Raises:
        InvalidArgumentError: The value is not a whole number, or is out of bounds.
    """
    if type(value) is int and least <= value <= most:
        return value  # nearly always
    if not isinstance(value, bool):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            if least <= number <= most:
                return number
    refuse(name, (accepted or f"a whole number from {least} to {most}") + _or_none(none), value, advice)


def check_millicores(name: str, value: object, *, none: str = "") -> int:
    """Return a number of CPU cores in millicores. The number may have up to three decimals.

    Args:
        name: The argument's name.
        value: The number of cores.
        none: What the value None means, as words for the error's text. An empty string if None is not accepted.

    Raises:
        InvalidArgumentError: The value is not a number, is out of bounds, or has more than three decimals.
    """
    accepted = f"a number of cores from 0 to {MAX_INT32} with at most three decimals, such as 2, 0.25 or '250m'"
    accepted += _or_none(none)
    number = _real(value)
    if (
        number is None
        or not 0 <= number <= MAX_INT32
        or abs(number * 1000 - round(number * 1000)) > 1e-6 * (1 + number)
    ):
        refuse(name, accepted, value)
    return round(number * 1000)


def check_task_index(value: object, name: str = "task_index", *, none: str = "") -> int:
    """Return the index of a task.

    Raises:
        InvalidArgumentError: The value cannot be the index of a task.
    """
    return check_whole_number(name, value, most=MAX_INT32, none=none)


def check_seconds(name: str, value: object, *, most: float = MAX_INT32, above_zero: bool = False) -> float:
    """Return a finite number of seconds as a `float`. All real numbers are accepted, including fractions and numbers of
    numpy.

    Args:
        name: The argument's name.
        value: The given value.
        most: The largest accepted number of seconds.
        above_zero: Whether 0 is refused.

    Raises:
        InvalidArgumentError: The value is not a number, or is out of bounds.
    """
    number = _real(value)
    if number is None or not 0 <= number <= most or (above_zero and not number):
        refuse(name, f"a number of seconds {_bounds(most, above_zero)}", value, _duration_advice(value))
    return number


def check_timeout(
    name: str,
    value: object,
    *,
    most: float = math.inf,
    above_zero: bool = False,
) -> float:
    """Return a timeout in seconds. The result is `math.inf`, which means no timeout, for None, for `math.inf`
    and for more than 285 years.

    Args:
        name: The argument's name.
        value: The given value.
        most: The largest accepted number of seconds, apart from `math.inf`.
        above_zero: Whether 0 is refused.

    Raises:
        InvalidArgumentError: The value is not a number, or is out of bounds.
    """
    number = math.inf if value is None else _real(value)
    if number is None or not number >= 0 or most < number < math.inf or (above_zero and not number):
        accepted = f"a number of seconds {_bounds(most, above_zero)}, or None or math.inf for no limit"
        refuse(name, accepted, value, _duration_advice(value))
    return number if number <= _LONGEST_WAIT_S else math.inf


def _real(value: object) -> float | None:
    """Return a value as a float. Return None if the value is not a real number. The result may be NaN."""
    if isinstance(value, bool):
        return None
    try:
        if isinstance(value, Real | Decimal):
            return float(value)
        return float(operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        return None
    except OverflowError:
        # The number is too large for a float. The result is not `math.inf`, because `math.inf` means no limit.
        return sys.float_info.max if value > 0 else -sys.float_info.max  # type: ignore[operator]
    except ValueError:
        # `float` raises ValueError only for a signaling NaN of the module `decimal`.
        return math.nan


def _bounds(most: float, above_zero: bool) -> str:
    if most == math.inf:
        return "above 0" if above_zero else "from 0 on"
    return f"{'above 0, up to' if above_zero else 'from 0 to'} {most:.15g}"


def _duration_advice(value: object) -> str:
    return "its total_seconds() are a number of seconds" if hasattr(value, "total_seconds") else ""


def check_flag(name: str, value: object) -> bool:
    """Check that an argument is True or False, and return it as a `bool`. Booleans of numpy are accepted, too.

    Raises:
        InvalidArgumentError: The value is neither True nor False.
    """
    kind = type(value)
    if isinstance(value, bool) or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_")):
        return bool(value)
    refuse(name, "True or False", value)


# Text.


def check_text(name: str, value: object, *, empty: bool = True, accepted: str = "text", none: str = "") -> str:
    """Return text that can be sent in a message.

    Args:
        name: The argument's name.
        value: The given value.
        empty: Whether empty text is accepted.
        accepted: The accepted values, as words for the error's text.
        none: What the value None means, as words for the error's text. An empty string if None is not accepted.

    Raises:
        InvalidArgumentError: The value is not text, is empty although `empty` is False, or cannot be encoded in UTF-8.
    """
    if not isinstance(value, str):
        refuse(name, accepted + _or_none(none), value)
    if not value and not empty:
        refuse(name, f"{accepted}{_or_none(none)}, and not empty", value)
    check_utf8(name, value)
    return str.__str__(value)  # A member of a `StrEnum` is converted to a plain `str`.


def check_utf8(what: str, text: str) -> None:
    """Check that text can be encoded in UTF-8. A file name that Python has read may contain bytes that are not valid
    UTF-8, and then cannot be encoded.

    Raises:
        InvalidArgumentError: The text cannot be encoded in UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            f"{what} must be text that can be encoded in UTF-8, got {quoted(text)}: is the locale's encoding UTF-8?"
        ) from None


def check_choice(name: str, value: object, choices: Sequence[Choice], *, none: str = "") -> Choice:
    """Check that an argument is one of the accepted words, and return it.

    Args:
        name: The argument's name.
        value: The given value.
        choices: The accepted words.
        none: What the value None means, as words for the error's text. An empty string if None is not accepted.

    Raises:
        InvalidArgumentError: The value is not one of the words.
    """
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    refuse(name, f"one of {', '.join(map(repr, choices))}{_or_none(none)}", value)


def check_path(name: str, value: object, *, none: str = "") -> str:
    """Return a path as text.

    Raises:
        InvalidArgumentError: The value is neither text nor a path object, is empty, or cannot be a path.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path or "\0" in path:
        refuse(name, f"a path, as text or a path object, neither empty nor with NUL{_or_none(none)}", value)
    check_utf8(name, path)
    return path


# Several values at once.


def check_text_mapping(name: str, value: object, *, none: str = "") -> dict[str, str]:
    """Return a mapping of text to text, as a new dict.

    Raises:
        InvalidArgumentError: The argument is not a mapping, or one of its keys or values is not text.
    """
    if not isinstance(value, Mapping):
        refuse(name, f"a mapping of text to text{_or_none(none)}", value)
    for key, text in value.items():
        if not isinstance(key, str):
            refuse(f"each key of {name}", "text", key)
        check_utf8(f"each key of {name}", key)
        check_text(f"{name}[{quoted(key)}]", text)
    return dict(value)


def check_keyword_arguments(name: str, value: object) -> dict[str, Any]:
    """Return the named arguments for a callable, as a new dict.

    Raises:
        InvalidArgumentError: The argument is not a mapping, or one of its keys is not text.
    """
    if not isinstance(value, Mapping):
        refuse(name, "a mapping of the callable's argument names to values, or None", value)
    for key in value:
        if not isinstance(key, str):
            refuse(f"each key of {name}", "the name of an argument", key)
    return dict(value)


def check_items(name: str, value: object, accepted: str) -> tuple[Any, ...]:
    """Return the items of a list or of another ordered collection.

    Args:
        name: The argument's name.
        value: The given value.
        accepted: The accepted values, as words for the error's text.

    Raises:
        InvalidArgumentError: The value is not iterable, or is text, bytes, a mapping or a set.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | memoryview | Mapping | Set):
        try:
            return tuple(value)
        except TypeError:
            pass  # A numpy array without dimensions looks iterable, but raises TypeError.
    refuse(name, accepted, value)


def check_names(name: str, value: object, example: str) -> tuple[str, ...]:
    """Return a list of names.

    Args:
        name: The argument's name.
        value: The given value. A set of names is accepted, too.
        example: An example of an accepted list. The error's text shows it.

    Raises:
        InvalidArgumentError: The value is not a list of text.
    """
    accepted = f"a list of names, such as {example}"
    names = tuple(value) if isinstance(value, Set) else check_items(name, value, accepted)
    for item in names:
        if not isinstance(item, str):
            refuse(name, accepted, value)
        check_utf8(f"each of {name}", item)
    return tuple(map(str.__str__, names))


def check_task_indices(name: str, value: object) -> list[int]:
    """Return the sorted indices of tasks without duplicates. A list or a set of indices is accepted.

    Raises:
        InvalidArgumentError: The value is not a list of indices, or is empty.
    """
    accepted = "a list of at least one task index, or None for all tasks"
    indices = tuple(value) if isinstance(value, Set) else check_items(name, value, accepted)
    if not indices:
        refuse(name, accepted, value)
    return sorted({check_task_index(index, f"each of {name}") for index in indices})


# Handles, and other objects.


def check_job_id(value: object, name: str = "job_id") -> str:
    """Return a job id. If the argument is a `Job`, return its id.

    Raises:
        InvalidArgumentError: The value is neither an id nor a `Job`.
    """
    if isinstance(value, JobReference):
        return value.job_id
    known = getattr(value, "job_id", None)  # A `Task` and a `TaskStatus` have a job id, but are not accepted as a job.
    if isinstance(known, str):
        refuse(name, "a job id or a Job", value, f"its job_id is {quoted(known)}")
    return check_text(name, value, empty=False, accepted="a job id or a Job")


def check_task_id(value: object, name: str = "task_id") -> str:
    """Return a task id as text. The form of the text is not checked. If the argument is a `Task`, return its id.

    Raises:
        InvalidArgumentError: The value is neither text nor a `Task`.
    """
    if isinstance(value, TaskReference):
        return value.task_id
    if not isinstance(value, str):
        refuse(name, "a task id or a Task", value)
    return value


def check_callable(name: str, value: Kind, *, none: str = "") -> Kind:
    """Check that an argument can be called, and return it.

    Raises:
        InvalidArgumentError: The value cannot be called.
    """
    if not callable(value):
        refuse(name, f"a function or another callable{_or_none(none)}", value)
    return value


def check_instance(name: str, value: object, kind: type[Kind], advice: str = "") -> Kind:
    """Check that an argument is an object of a given class, and return it.

    Raises:
        InvalidArgumentError: The argument is an object of another class.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        refuse(name, f"{article} {kind.__name__}", value, advice)
    return value


def check_token(value: str | Callable[[], str] | None) -> str | Callable[[], str] | None:
    """Check that the argument `token` is a text, a function, or None, and return it.

    Raises:
        InvalidArgumentError: The argument is neither a text, a function, nor None.
    """
    if value is None or callable(value):
        return value
    return check_text("token", value, accepted="text, or a function that returns text", none="the one in IRIS_TOKEN")


def _or_none(meaning: str) -> str:
    return meaning and f", or None for {meaning}"
