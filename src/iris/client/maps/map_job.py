"""Defines the handle on a map: a job that calls a callable once for each input."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from iris.arguments import check_callable, check_flag
from iris.client.job import Job, JobClient
from iris.client.maps.outcomes import MapOutcomes, Outcome
from iris.client.results import Loads
from iris.cluster.pickles.loading import load_here
from iris.cluster.types import JobState
from iris.display.board import check_progress, show_progress
from iris.errors import InvalidArgumentError
from iris.rpc import cluster_pb2


class MapJob:
    """A handle on a map, as `IrisClient.submit_map` and `IrisClient.map_job` return it.

    Attributes:
        job_id: The id of the job.
        num_inputs: The number of inputs.
        inputs_per_task: The number of inputs of each task, except the last one.
        job: The handle on the job, for its tasks, its logs and its status.
    """

    def __init__(self, client: JobClient, job_id: str, num_inputs: int, inputs_per_task: int) -> None:
        self._client = client
        self.job_id = job_id
        self.num_inputs = num_inputs
        self.inputs_per_task = inputs_per_task
        self.job = Job(client, job_id)

    @classmethod
    def _of(cls, client: JobClient, status: cluster_pb2.JobStatus) -> MapJob:
        """Return the handle on an existing map.

        Raises:
            InvalidArgumentError: The job is not a map job.
        """
        return cls(client, status.job_id, *sizes_of(status))

    def __repr__(self) -> str:
        return f"MapJob({self.job_id!r}, num_inputs={self.num_inputs})"

    def __len__(self) -> int:
        return self.num_inputs

    def __iter__(self) -> Iterator[Any]:
        return self.results()

    def results(
        self,
        timeout: float | None = None,
        *,
        order: bool = True,
        return_exceptions: bool = False,
        progress: bool | None = None,
        loads: Loads = load_here,
    ) -> Iterator[Any]:
        """Yield the value that the callable has returned for each input. The values of a task arrive when the task has
        ended. Each call of this method begins with the first input again.

        Args:
            timeout: How many seconds to wait before TimeoutError is raised. None waits forever.
            order: Whether to yield the values in the order of the inputs. If False, the values come in the order in
                which the tasks end.
            return_exceptions: If True, an input that failed does not raise an error. Its item is the exception that the
                callable raised, or a `ResultError` with the reason.
            progress: Whether to show the progress, on stderr or in the notebook. If None, the progress is shown on a
                terminal and in a notebook.
            loads: A function that converts the bytes sent by a task into the value. `Task.result` describes the
                default.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid.
            Exception: The callable has raised this exception. A note names the index of the input and the input. The
                `__cause__` is a `RemoteTraceback`. The job continues with the other inputs.
            ResultError: An input has no value for another reason, for example because it killed the process. The
                message names the index of the input.
            NotFoundError: There is no such job.
            TimeoutError: A task has not ended within `timeout` seconds.
        """
        check_callable("loads", loads)
        check_flag("return_exceptions", return_exceptions)
        outcomes = self._outcomes(timeout, check_flag("order", order), check_progress(progress))
        return (value for _, value in loaded(outcomes, loads, return_exceptions))

    def as_completed(
        self, timeout: float | None = None, *, progress: bool | None = None, loads: Loads = load_here
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each input, and the value that the callable has returned for the input. The values of a
        task arrive when the task has ended. For an input that failed, the second item is the exception.

        Args:
            timeout, progress, loads: `results` documents these arguments.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid.
            TimeoutError: A task has not ended within `timeout` seconds.
        """
        check_callable("loads", loads)
        return loaded(self._outcomes(timeout, False, check_progress(progress)), loads, True)

    @property
    def state(self) -> JobState:
        """The current state of the job. Each time the value is read, the client calls the controller. The value can be
        compared with a name, such as `"SUCCEEDED"`.
        """
        return self.job.state

    def wait(
        self, timeout: float | None = None, *, progress: bool | None = None, raise_on_failure: bool = True
    ) -> cluster_pb2.JobStatus:
        """Wait for the end of the job, and return its final status. Inputs that failed do not fail the job. The job
        fails only if every task fails as a whole, for example because each task runs out of memory.

        Args:
            timeout: How many seconds to wait before TimeoutError is raised. None waits forever.
            progress: Whether to show how many tasks have ended. If None, the progress is shown on a terminal and in a
                notebook.
            raise_on_failure: Whether to raise an error if the job has not succeeded.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid.
            TimeoutError: The job has not ended within `timeout` seconds.
            JobFailedError: The job has not succeeded, and `raise_on_failure` is True.
        """
        return self.job.wait(timeout, progress=progress, raise_on_failure=raise_on_failure)

    def terminate(self) -> None:
        """Request the termination of the job. For each input that has no value by then, the result is a
        `ResultError`.
        """
        self.job.terminate()

    def _outcomes(self, timeout: float | None, order: bool, progress: bool | None) -> Generator[Outcome, None, None]:
        collected = MapOutcomes(self.job_id, self.num_inputs, self.inputs_per_task, order=order)
        stream = self._client.cluster.stream_results(self.job_id, timeout=timeout)

        def outcomes() -> Generator[Outcome, None, None]:
            with show_progress(progress, collected.progress) as display:
                for status in stream:
                    due = list(collected.add(status))
                    display.update(collected.progress)
                    yield from due

        return outcomes()


def sizes_of(status: cluster_pb2.JobStatus) -> tuple[int, int]:
    """Return the number of inputs of a map, and the number of inputs of each task.

    Raises:
        InvalidArgumentError: The job is not a map job.
    """
    if not status.num_inputs or not status.inputs_digest:
        raise InvalidArgumentError(f"job_id must be the id of a map job, got {status.job_id!r}, which is another job")
    return status.num_inputs, status.inputs_per_task


def loaded(
    outcomes: Generator[Outcome, None, None], loads: Loads, return_exceptions: bool
) -> Iterator[tuple[int, Any]]:
    """Yield the index of each input and the value that the callable returned for it. `MapJob.results` documents the
    errors."""
    # Without `closing`, a raised exception would keep the suspended generator and its progress display alive.
    with closing(outcomes):
        for outcome in outcomes:
            value, error = outcome.load(loads)
            if error is not None and not return_exceptions:
                raise error
            yield outcome.index, value if error is None else error
