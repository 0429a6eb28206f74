"""Turns the results of a map's tasks into one outcome for each input."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iris.client.results import Loads
from iris.client.task_exceptions import load_exception, load_raised
from iris.cluster.types import state_name
from iris.display.progress import Progress
from iris.errors import ResultError, visible
from iris.rpc import cluster_pb2

_LARGE_BYTES = 10_000
# The outcome of an input: the callable has returned a value, has raised an exception, or has failed in another way.
# `run_inputs.py` of the worker writes the same numbers.
VALUE, RAISED, FAILED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one input: its value, or why it has none.

    Attributes:
        job_id: The id of the job.
        index: The index of the input.
        task: The task that worked on the input, with its result.
        kind: The kind of the outcome: `VALUE`, `RAISED` or `FAILED`.
        data: The pickled value or exception, or no bytes if there is none.
        text: The traceback of the exception, or the reason why there is no value.
        shown: The `repr` of the input, shortened. An empty string if the input is unknown.
    """

    job_id: str
    index: int
    task: cluster_pb2.TaskStatus
    kind: int
    data: bytes = b""
    text: str = ""
    shown: str = ""

    @property
    def is_large(self) -> bool:
        """Whether the pickled value of an input is so large that an event loop should not wait until it is loaded."""
        return len(self.data) > _LARGE_BYTES

    def load(self, loads: Loads) -> tuple[Any, BaseException | None]:
        """Return two values: the value that the callable returned for the input, and None. If the input has no value,
        return None, and the error that explains why.

        Args:
            loads: A function that converts the bytes sent by the task into the value or the exception.
        """
        which = f"input {self.index} of job {self.job_id!r}"
        shown = f": {self.shown}" if self.shown else ""
        if self.kind == VALUE:
            try:
                return loads(self.data), None
            except Exception as cause:  # noqa: BLE001 - Unpickling runs the user's code, which can raise any exception.
                why = f"its value cannot be loaded here: {type(cause).__name__}: {cause}"
                return None, self._error(f"{which} has no result: {why}", cause)
        if self.kind == FAILED:
            about = f"; the input is {self.shown}" if self.shown else ""
            return None, self._error(f"{which} has no result: {self.text}{about}", load_exception(self.task, loads))
        error = load_raised(self.data, self.text, loads)
        error.add_note(visible(f"raised for {which}{shown}"))
        return None, error

    def _error(self, text: str, cause: BaseException | None) -> ResultError:
        error = ResultError(visible(text), task_id=self.task.task_id)
        error.__cause__ = cause
        return error


class MapOutcomes:
    """Collects the outcomes of a map's inputs. If `order` is set, each outcome is kept until the outcomes of all
    earlier inputs were yielded.

    Args:
        job_id: The id of the job.
        num_inputs: The number of inputs.
        inputs_per_task: The number of inputs of each task, except the last one.
        order: Whether to release the outcomes in the order of the inputs.
    """

    def __init__(self, job_id: str, num_inputs: int, inputs_per_task: int, *, order: bool) -> None:
        self._job_id = job_id
        self._num_inputs = num_inputs
        self._inputs_per_task = inputs_per_task
        self._order = order
        self._next = 0
        self._held: dict[int, Outcome] = {}
        self._done = self._failed = 0
        self._state = ""
        self._note = ""

    def add(self, status: cluster_pb2.TaskStatus | cluster_pb2.JobStatus) -> Iterator[Outcome]:
        """Add the status of an ended task or of the job, and yield the outcomes that the user can get now."""
        if isinstance(status, cluster_pb2.JobStatus):
            self._state, self._note = state_name(status.state), status.status_message
            return
        outcomes = self._outcomes_of(status)
        self._done += len(outcomes)
        self._failed += sum(outcome.kind != VALUE for outcome in outcomes)
        self._state, self._note = "RUNNING", ""
        if not self._order:
            yield from outcomes
            return
        self._held.update((outcome.index, outcome) for outcome in outcomes)
        while self._next in self._held:
            yield self._held.pop(self._next)
            self._next += 1

    @property
    def progress(self) -> Progress:
        """How many inputs are done."""
        return Progress(
            f"map {self._job_id}",
            total=self._num_inputs,
            done=self._done,
            failed=self._failed,
            unit="inputs",
            state=self._state,
            note=self._note,
        )

    def _outcomes_of(self, task: cluster_pb2.TaskStatus) -> list[Outcome]:
        first = task.task_index * self._inputs_per_task
        indices = range(first, min(first + self._inputs_per_task, self._num_inputs))
        if task.state == cluster_pb2.TASK_STATE_SUCCEEDED and task.serialized_result:
            # This pickle was written by Iris in the task. It contains only tuples, texts, bytes and numbers.
            items = _plain(task.serialized_result)
            if len(items) == len(indices):
                return [Outcome(self._job_id, i, task, *item) for i, item in zip(indices, items, strict=True)]
        why = task.result_error or task.error or "the task has sent no results"
        text = f"task {task.task_index} ended as {state_name(task.state)}: {why}"
        return [Outcome(self._job_id, index, task, FAILED, b"", text) for index in indices]


class _PlainUnpickler(pickle.Unpickler):
    """Loads a pickle without classes and functions, so that loading runs no code of the job's owner."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"the results of a map job must not contain the class or function {module}.{name}")


def _plain(data: bytes) -> list[tuple[Any, ...]]:
    import io

    try:
        items = _PlainUnpickler(io.BytesIO(data)).load()
    except Exception:  # noqa: BLE001 - Damaged data may cause any exception.
        return []
    return (
        items if isinstance(items, list) and all(isinstance(item, tuple) and len(item) >= 3 for item in items) else []
    )
