"""Errors that travel between processes."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import iris
from iris.errors import ERROR_FOR_CODE, IrisError, NotFoundError, ResultError, causes
from iris.reasons import ErrorReason, FailureCode, HangCode, PendingCode, Shortage, ShortageCode
from iris.rpc import cluster_pb2

# Values for the arguments of the error classes, by annotation. A class that needs another kind adds it here.
SAMPLES: dict[str, object] = {
    "str": "some text",
    "Shortage": Shortage("no more processes", ShortageCode.PROCESSES),
    "str | None": ErrorReason.SHORTAGE,
    "Mapping[str, str] | None": {"job_id": "train"},
    "object": cluster_pb2.JobStatus(job_id="train", state=cluster_pb2.JOB_STATE_FAILED, exit_code=3),
    "int | None": 9,
    "tuple[str, ...]": ("one line", "another line"),
}


def error_classes() -> list[type[IrisError]]:
    """Return all error classes of Iris, also those outside of errors.py.

    Tests call this function, and not the collection of the tests, because the function imports all modules of Iris and
    also Ray.
    """
    for module in pkgutil.walk_packages(iris.__path__, "iris."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[IrisError]] = [IrisError]
    for kind in found:
        found += [
            child for child in kind.__subclasses__() if child.__module__.startswith("iris") and child not in found
        ]
    return sorted(found, key=lambda kind: kind.__qualname__)


def make_error(kind: type[IrisError]) -> IrisError:
    """Return an error of a class with a value for each of its arguments, a note and an attribute of the user's."""
    parameters = inspect.signature(kind).parameters.values()
    positional = ["replicas must be 1 or greater, got 0" for one in parameters if one.kind is one.VAR_POSITIONAL]
    named = {one.name: SAMPLES[str(one.annotation)] for one in parameters if one.kind is not one.VAR_POSITIONAL}
    return decorated(kind(*positional, **named))  # type: ignore[arg-type]


def decorated(error: IrisError) -> IrisError:
    error.add_note("seen in experiment 7")
    error.experiment = 7  # type: ignore[attr-defined]
    return error


def through_pickle(error: IrisError) -> IrisError:
    loaded: IrisError = pickle.loads(pickle.dumps(error))
    return loaded


def assert_same(found: BaseException, error: IrisError) -> None:
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)
    built_in = ("errno", "strerror", "filename", "name", "path", "msg")
    for name in built_in:
        assert getattr(found, name, None) == getattr(error, name, None), name


@pytest.mark.parametrize("duplicate", [through_pickle, copy.copy, copy.deepcopy])
def test_pickled_or_copied_error_is_unchanged(duplicate: Callable[[IrisError], IrisError]) -> None:
    for kind in error_classes():
        error = make_error(kind)
        assert_same(duplicate(error), error)


def raise_error(kind: type[IrisError]) -> None:
    raise make_error(kind)


def test_error_raised_in_process_pool_reaches_caller() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for kind in error_classes():
            found = pool.submit(raise_error, kind).exception()
            assert found is not None
            assert_same(found, make_error(kind))
        assert pool.submit(abs, -1).result() == 1


def test_pickled_error_of_a_users_subclass_is_unchanged() -> None:
    error = StepFailedError("the step failed", step=3)
    assert_same(through_pickle(error), error)


class StepFailedError(ResultError):
    """A class of a user, with an argument of its own."""

    def __init__(self, text: str, *, step: int) -> None:
        super().__init__(text, task_id="train/task-0")
        self.step = step


def test_every_error_class_has_a_known_code_and_reason() -> None:
    for kind in error_classes():
        assert kind.code in ERROR_FOR_CODE, kind
        assert kind.reason in ErrorReason.__members__, kind


def test_error_without_metadata_has_the_reason_of_its_class_and_no_metadata() -> None:
    error = NotFoundError("no job named 'train'")
    assert (error.reason, dict(error.metadata)) == (ErrorReason.NOT_FOUND, {})
    precise = NotFoundError("no job named 'train'", reason=ErrorReason.JOB_NOT_FOUND, metadata={"job_id": "train"})
    assert (precise.reason, precise.metadata) == ("JOB_NOT_FOUND", {"job_id": "train"})


@pytest.mark.parametrize("name", ["PendingReason", "FailureReason", "HangReason", "ShortageReason", "ErrorReason"])
def test_enums_of_the_python_package_have_the_values_of_the_proto_file(name: str) -> None:
    wire = getattr(cluster_pb2, name)
    prefix = name.removesuffix("Reason").upper() + "_REASON_"
    on_wire = {value.removeprefix(prefix): number for value, number in wire.items()}
    if name == "ErrorReason":
        assert set(on_wire) - {"UNSPECIFIED"} == set(ErrorReason.__members__)
    else:
        own = {
            "PendingReason": PendingCode,
            "FailureReason": FailureCode,
            "HangReason": HangCode,
            "ShortageReason": ShortageCode,
        }[name]
        assert on_wire == {one.name: one.value for one in own}


def test_errors_page_lists_every_code_and_error_class() -> None:
    page = (Path(__file__).parents[1] / "docs" / "errors.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z]\w+)`", page, re.MULTILINE))
    kinds = (PendingCode, FailureCode, HangCode, ShortageCode, ErrorReason)
    reasons = {one.name for kind in kinds for one in kind} - {"UNSPECIFIED"}
    classes = {kind.__name__ for kind in error_classes() if kind.__module__ == "iris.errors"}
    assert listed == reasons | classes


def test_causes_that_form_a_circle_are_each_yielded_once() -> None:
    first, second, third = ValueError("first"), ValueError("second"), ValueError("third")
    first.__cause__, second.__context__, third.__cause__ = second, third, first
    assert list(causes(first)) == [first, second, third]
    assert [str(one) for one in causes(ValueError("alone"))] == ["alone"]
