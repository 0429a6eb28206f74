"""What each check of an argument accepts, and what it makes of it.

What is refused is in client/test_public_arguments.py, for each argument of each public method.
"""

from __future__ import annotations

import enum
import math
from collections import UserDict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from iris import arguments
from iris.errors import InvalidArgumentError, quoted


class Index:
    """A whole number of another library."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __index__(self) -> int:
        return self._number

    def __repr__(self) -> str:
        return f"Index({self._number})"


class Color(str, enum.Enum):  # noqa: UP042 - the older way, whose str() is another text
    """Text that shows itself in another way."""

    RED = "red"


@pytest.mark.parametrize("value", [3, Index(3), True + 2])
def test_whole_number_of_any_type_with_an_index_method_becomes_int(value: Any) -> None:
    number = arguments.check_whole_number("replicas", value)
    assert type(number) is int
    assert number == 3


def test_whole_number_of_numpy_becomes_int() -> None:
    numpy = pytest.importorskip("numpy")
    for kind in (numpy.int8, numpy.int32, numpy.int64, numpy.uint64):
        number = arguments.check_whole_number("replicas", kind(3))
        assert type(number) is int
        assert number == 3
    assert arguments.check_seconds("retry_pause", numpy.float32(0.5)) == 0.5
    assert arguments.check_timeout("timeout", numpy.float64("inf")) == math.inf
    assert arguments.check_flag("follow", numpy.bool_(True)) is True
    assert arguments.check_items("args", numpy.array([1, 2]), "a list") == (1, 2)
    for wrong in (numpy.float64(3), numpy.bool_(True), numpy.array([3, 4])):
        with pytest.raises(InvalidArgumentError, match="replicas must be a whole number"):
            arguments.check_whole_number("replicas", wrong)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (Index(0), "Index(0)"), (2**31, "2147483648"), (True, "True"), ("1", "'1'"), (1.0, "1.0")],
)
def test_error_for_a_refused_whole_number_names_argument_bounds_and_value(value: Any, written: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        arguments.check_whole_number("replicas", value, least=1, most=arguments.MAX_INT32)
    assert str(caught.value) == f"replicas must be a whole number from 1 to 2147483647, got {written}"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(1, 1.0), (0.25, 0.25), (Fraction(1, 4), 0.25), (Decimal("0.25"), 0.25), (Index(7), 7.0), (0, 0.0)],
)
def test_seconds_of_any_real_number_type_are_converted_to_float(value: Any, seconds: float) -> None:
    number = arguments.check_seconds("retry_pause", value)
    assert type(number) is float
    assert number == seconds
    assert arguments.check_timeout("timeout", value) == seconds


@pytest.mark.parametrize("value", [None, math.inf, Decimal("inf")])
def test_timeout_none_or_infinite_is_no_limit(value: Any) -> None:
    assert arguments.check_timeout("timeout", value, most=60) == math.inf


@pytest.mark.parametrize("value", [math.nan, Decimal("sNaN"), -math.inf, -1e-9, 60.1, 2**1023])
def test_timeout_out_of_bounds_is_refused_with_bounds(value: Any) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"timeout must be a number of seconds from 0 to 60, or None or math.inf"
    ):
        arguments.check_timeout("timeout", value, most=60)


@pytest.mark.parametrize("value", [1e10, 1e300, pytest.param(10**400, id="huge")])
def test_timeout_of_centuries_means_no_limit(value: float) -> None:
    assert arguments.check_timeout("timeout", value) == math.inf


def test_timedelta_given_as_a_timeout_is_refused_with_advice() -> None:
    from datetime import timedelta

    with pytest.raises(InvalidArgumentError, match="total_seconds"):
        arguments.check_timeout("timeout", timedelta(minutes=1))


def test_string_enum_member_given_as_argument_is_converted_to_its_value() -> None:
    text = arguments.check_text("regex", Color.RED)
    assert type(text) is str
    assert text == "red"
    assert arguments.check_choice("color", Color.RED, ("red", "blue")) == "red"
    assert arguments.check_names("colors", [Color.RED], "['red']") == ("red",)


@pytest.mark.parametrize("given", [["a", "b"], ("a", "b"), deque("ab"), (c for c in "ab"), {"a": 1, "b": 2}.keys()])
def test_ordered_collection_of_names_given_as_argument_becomes_a_tuple(given: Any) -> None:
    assert sorted(arguments.check_names("ports", given, "['http']")) == ["a", "b"]


@pytest.mark.parametrize("given", [[2, 0, 2], {0, 2}, (Index(2), Index(0)), range(0, 3, 2)])
def test_task_indices_given_as_argument_become_a_sorted_list_without_duplicates(given: Any) -> None:
    assert arguments.check_task_indices("task_indices", given) == [0, 2]


def test_mapping_given_as_argument_is_copied_into_a_new_dict() -> None:
    given = UserDict({"a": "b"})
    found = arguments.check_text_mapping("env", given)
    assert found == {"a": "b"}
    assert type(found) is dict


@pytest.mark.parametrize("given", ["/data", Path("/data"), PurePosixPath("/data")])
def test_path_object_as_argument_is_converted_to_text(given: Any) -> None:
    assert arguments.check_path("workspace", given) == "/data"


def test_handle_of_a_job_or_task_is_accepted_as_its_id() -> None:
    job, task = arguments.JobReference(), arguments.TaskReference()
    job.job_id, task.job_id, task.task_index = "sweep/train", "sweep/train", 3
    assert arguments.check_job_id(job) == "sweep/train"
    assert arguments.check_task_id(task) == "sweep/train/task-3"
    with pytest.raises(
        InvalidArgumentError, match=r"job_id must be a job id or a Job, got .*: its job_id is 'sweep/train'"
    ):
        arguments.check_job_id(task)


class Unwritable:
    def __repr__(self) -> str:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("x" * 1000, f"{'x' * 100!r}… (1,000 characters)"),
        (list(range(10_000)), f"{str(list(range(10_000)))[:200]}…"),
        (Unwritable(), "an object of type Unwritable"),
        pytest.param(10**5000, "an object of type int", id="huge"),
    ],
)
def test_long_or_unprintable_value_is_shortened_in_errors(value: object, written: str) -> None:
    assert quoted(value) == written


CHECKS: list[Callable[[Any], Any]] = [
    lambda value: arguments.check_whole_number("a", value),
    lambda value: arguments.check_timeout("a", value),
    lambda value: arguments.check_text("a", value),
    lambda value: arguments.check_names("a", value, "['b']"),
    lambda value: arguments.check_text_mapping("a", value),
    lambda value: arguments.check_path("a", value),
    lambda value: arguments.check_flag("a", value),
    lambda value: arguments.check_job_id(value),
]


@pytest.mark.parametrize("check", CHECKS)
def test_value_with_a_failing_repr_is_refused_with_a_readable_error(check: Callable[[Any], Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="an object of type Unwritable"):
        check(Unwritable())
