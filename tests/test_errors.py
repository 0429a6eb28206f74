"""Errors that travel between processes."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import iris
from iris.errors import IrisError, ResultError
from iris.rpc import cluster_pb2

# Values for the arguments of the error classes, by annotation. A class that needs another kind adds it here.
SAMPLES: dict[str, object] = {
    "str": "some text",
    "object": cluster_pb2.JobStatus(job_id="train", state=cluster_pb2.JOB_STATE_FAILED, exit_code=3),
    "int | None": 9,
    "tuple[str, ...]": ("one line", "another line"),
}


def error_classes() -> list[type[IrisError]]:
    """Return all error classes of Iris, also those outside of errors.py."""
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
    if "__init__" in {name for base in kind.__mro__ if base.__module__.startswith("iris") for name in vars(base)}:
        arguments: dict[str, Any] = {
            name: SAMPLES[str(parameter.annotation)] for name, parameter in inspect.signature(kind).parameters.items()
        }
    else:
        return decorated(kind("replicas must be 1 or greater, got 0"))
    return decorated(kind(**arguments))


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
@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_error_pickled_or_copied_is_unchanged(
    kind: type[IrisError], duplicate: Callable[[IrisError], IrisError]
) -> None:
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


def test_error_of_users_subclass_pickled_is_unchanged() -> None:
    error = StepFailedError("the step failed", step=3)
    assert_same(through_pickle(error), error)


class StepFailedError(ResultError):
    """A class of a user, with an argument of its own."""

    def __init__(self, text: str, *, step: int) -> None:
        super().__init__(text, task_id="train/task-0")
        self.step = step
