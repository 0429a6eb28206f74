"""The exception of a task reaches the caller as the cause of the error, with its remote traceback."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from iris.client import IrisClient, Job
from iris.cluster.pickles.transfer_limits import MAX_EXCEPTION_BYTES, MAX_TRACEBACK_BYTES
from iris.cluster.types import get_job_info
from iris.errors import JobFailedError, RemoteTraceback, ResultError


class ShardError(Exception):
    """Has more than its text, and an `__init__` that takes no text."""

    def __init__(self, shard: int, *, path: str = "p") -> None:
        super().__init__(shard)
        self.shard = shard
        self.path = path

    def __str__(self) -> str:
        return f"shard {self.shard} of {self.path}"


class StubbornError(Exception):
    """Pickles, and does not unpickle: its `__init__` has an argument that `args` has not."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)
        self.second = second


def raise_in(error: BaseException) -> None:
    raise error


def fail_with_shard() -> None:
    error = ShardError(3, path="q")
    error.add_note("while reading")
    raise error


def results_error(job: Job) -> JobFailedError:
    with pytest.raises(JobFailedError) as caught:
        job.results()
    return caught.value


def test_results_of_failed_job_have_the_exception_as_cause(client: IrisClient) -> None:
    error = results_error(client.run(fail_with_shard))
    cause = error.__cause__
    assert type(cause) is ShardError
    assert (cause.shard, cause.path, cause.__notes__) == (3, "q", ["while reading"])
    remote = cause.__cause__
    assert isinstance(remote, RemoteTraceback)
    assert 'test_task_exceptions.py", line' in str(remote)
    assert "    raise error\n" in str(remote)
    shown = "".join(traceback.format_exception(error))
    assert shown.index("in fail_with_shard") < shown.index("ended as FAILED")


def test_result_error_of_a_tolerated_failure_has_the_exception_as_cause(client: IrisClient) -> None:
    def work() -> int:
        index = get_job_info().task_index
        if index == 1:
            raise ShardError(index)
        return index

    job = client.run(work, replicas=3, coscheduled=False, max_task_failures=1)
    with pytest.raises(ResultError, match="task-1' has no result") as caught:
        job.results()
    assert isinstance(caught.value.__cause__, ShardError)
    assert caught.value.__cause__.shard == 1
    tasks = job.tasks()
    assert [type(task.exception()) for task in tasks] == [type(None), ShardError, type(None)]
    assert tasks[2].result() == 2


def raise_local() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("made in the task")


def raise_with_lock() -> None:
    error = RuntimeError("has a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def raise_large() -> None:
    raise RuntimeError("x" * (MAX_EXCEPTION_BYTES + 1))


def raise_deep(depth: int = 200) -> None:
    try:
        raise RuntimeError(f"depth {depth} " + "y" * 200)
    except RuntimeError:
        if depth:
            raise_deep(depth - 1)
        raise


def raise_unprintable() -> None:
    raise RuntimeError("\udcff\x00é")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (raise_local, "LocalError: made in the task"),
        (raise_with_lock, "RuntimeError: has a lock"),
        (raise_large, "xxx"),
        (raise_deep, "RuntimeError: depth 0 y"),
        (raise_unprintable, "é"),
    ],
)
def test_exception_of_a_task_that_cannot_be_pickled_is_returned_as_text(
    client: IrisClient, function: Any, expected: str
) -> None:
    cause = results_error(client.run(function)).__cause__
    remote = cause if isinstance(cause, RemoteTraceback) else cause.__cause__ if cause else None
    assert isinstance(remote, RemoteTraceback)
    assert expected in str(remote)
    assert len(str(remote)) < MAX_TRACEBACK_BYTES + 100
    assert isinstance(cause, RemoteTraceback) == (function in (raise_with_lock, raise_large))


def test_exception_that_cannot_be_unpickled_is_returned_as_text(client: IrisClient) -> None:
    def fail() -> None:
        raise StubbornError(1, 2)

    job = client.run(fail)
    cause = results_error(job).__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "StubbornError: 1" in str(cause)
    assert isinstance(job.tasks()[0].exception(), RemoteTraceback)


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", "raise ValueError('a command')"],
        ["sh", "-c", "exit 3"],
    ],
)
def test_failed_command_has_no_exception(client: IrisClient, command: list[str]) -> None:
    job = client.run(command)
    assert results_error(job).__cause__ is None
    assert job.tasks()[0].exception() is None


@pytest.mark.parametrize("function", [lambda: sys.exit(3), lambda: os._exit(3), lambda: os.kill(os.getpid(), 9)])
def test_task_that_fails_without_an_exception_has_no_exception(client: IrisClient, function: Any) -> None:
    assert results_error(client.run(function)).__cause__ is None


def test_exception_of_an_earlier_attempt_is_not_returned_for_the_task(client: IrisClient) -> None:
    def fail() -> None:
        if get_job_info().attempt_id == 0:
            raise ShardError(0)
        os._exit(4)

    job = client.run(fail, max_retries_failure=1)
    assert results_error(job).__cause__ is None

    def succeed() -> None:
        if get_job_info().attempt_id == 0:
            raise ShardError(0)
        sys.exit()

    job = client.run(succeed, max_retries_failure=1)
    with pytest.raises(ResultError, match=r"ended by sys\.exit\(\)") as caught:
        job.results()
    assert caught.value.__cause__ is None
    assert job.tasks()[0].exception() is None
    status = client.cluster.get_task_status(job.job_id, 0, include_result=True)
    assert (status.serialized_result, status.HasField("exception")) == (b"", False)


class Note(Exception):
    """Writes down which process has loaded it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._note = path

    def __reduce__(self) -> Any:
        program = "import os; open({!r}, 'a').write(f'{{os.getpid()}}\\n')"
        return exec, (program.format(str(self._note)),)


def raise_note(path: Path) -> None:
    raise Note(path)


def test_exception_of_a_task_is_unpickled_only_when_results_are_requested(client: IrisClient, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    job = client.run(raise_note, args=[notes])
    with pytest.raises(JobFailedError) as caught:
        job.wait()
    assert caught.value.__cause__ is None
    assert repr(caught.value)
    status = client.cluster.get_task_status(job.job_id, 0, include_result=True)
    assert status.exception.pickled
    assert str(status)
    client.cluster.get_job_status(job.job_id)
    client.list_tasks(job.job_id)
    assert not client.task_status(job.job_id, 0).HasField("exception"), "only where results are asked for"
    with pytest.raises(ResultError) as no_result:
        job.tasks()[0].result_bytes()
    with pytest.raises(JobFailedError) as not_loaded:
        job.results(loads=bytes)
    for cause in (no_result.value.__cause__, not_loaded.value.__cause__, job.tasks()[0].exception(loads=len)):
        assert isinstance(cause, RemoteTraceback)
    assert not notes.exists()
    results_error(job)
    assert notes.read_text().split() == [str(os.getpid())]
