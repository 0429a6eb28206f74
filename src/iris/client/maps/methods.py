"""The methods of `IrisClient` that map a function over many inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Unpack, cast

from iris.arguments import check_flag
from iris.client.job import Job, JobClient
from iris.client.maps.map_job import MapJob
from iris.client.maps.submission import MapOptions, MapSubmission
from iris.client.submission import parent_job
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.display.board import check_progress
from iris.errors import AlreadyExistsError, PermissionDeniedError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2


class MapMethods:
    """The methods of `IrisClient` that map a function over many inputs."""

    cluster: RemoteClusterClient

    def map(
        self,
        function: Callable[..., Any],
        inputs: Iterable[Any],
        *,
        order: bool = True,
        return_exceptions: bool = False,
        progress: bool | None = None,
        **options: Unpack[MapOptions],
    ) -> Iterator[Any]:
        """Submit a job that calls a function once for each input, and return an iterator over the values that the
        function returns. The iterator yields the values of a task when the task has ended.

        The job continues if this program ends early or an input fails. With `submit_map` and a name, another program
        can collect the results.

        Args:
            function: The function, which gets one input as its argument.
            inputs: The inputs. Without any input, no job is submitted.
            order: Whether to return the values in the order of the inputs. If False, the values come in the order in
                which the tasks end.
            return_exceptions: If True, an input that failed does not raise an error. Its item is the exception that the
                function raised, or a `ResultError` with the reason.
            progress: Whether to show the progress, on stderr or in the notebook. If None, the progress is shown on a
                terminal and in a notebook.
            **options: The options of the job, such as `max_parallel` and `resources`. `submit_map` documents them.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. No job was submitted. `submit_map` documents
                further errors of the submission.
            Exception: The function has raised this exception. A note names the index of the input and the input.
            ResultError: An input has no value for another reason, for example because it killed the process.
        """
        return self._map(function, inputs, False, order, return_exceptions, progress, options)

    def starmap(
        self,
        function: Callable[..., Any],
        inputs: Iterable[Any],
        *,
        order: bool = True,
        return_exceptions: bool = False,
        progress: bool | None = None,
        **options: Unpack[MapOptions],
    ) -> Iterator[Any]:
        """Submit a job that calls a function once for each tuple of arguments, and return an iterator over the values
        that the function returns. `map` documents the arguments and errors.

        Args:
            function: The function that is called with each input.
            inputs: The tuples of the function's arguments.
            order, return_exceptions, progress, **options: `map` documents these arguments.
        """
        return self._map(function, inputs, True, order, return_exceptions, progress, options)

    def submit_map(
        self,
        function: Callable[..., Any],
        inputs: Iterable[Any],
        *,
        star: bool = False,
        **options: Unpack[MapOptions],
    ) -> MapJob:
        """Submit a job that calls a function once for each input, and return its handle.

        The job has independent tasks, and each task works on a chunk of the inputs, one after the other. The function
        and the inputs are stored once. An input that fails, or that kills its process, does not affect the other
        inputs. If the name already belongs to a map of the same inputs, the handle of that map is returned. Therefore
        the results can be collected after the first program was lost.

        Args:
            function: The function, which gets one input as its argument. A coroutine function is run by `asyncio.run`.
            inputs: The inputs. All inputs together may have up to about 110 MB when pickled.
            star: Whether each input is a tuple with all arguments of the function.
            max_parallel: How many chunks may be worked on at the same time. Default: as many as fit on the
                machines.
            chunk: The number of inputs of each task. Default: about 8 chunks for each core, and at least one input.
            kwargs: Keyword arguments of the function, the same for each input.
            name: The name of the job. Default: the function's name and a random suffix.
            resources: The resources that each chunk needs. Default: one core.
            env, workspace, working_directory, constraints, on_notice: `run` documents these arguments.
            max_retries_failure: How many times an input that failed is tried again. A chunk that failed as a whole, for
                example because it ran out of memory, is tried again up to the same number of times.
            max_retries_preemption: How many times a chunk is tried again after its worker was lost.
            timeout: How many seconds a chunk may take.
            job_timeout, scheduling_timeout: `run` documents these arguments.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid, or `inputs` is empty. No job was submitted.
            EntrypointError: The function or an input cannot be pickled. The message contains the reason.
            AlreadyExistsError: Another job has this name, and is not a map of the same inputs.
            FailedPreconditionError: A file of the workspace cannot be read.
            ResourceExhaustedError: The function, the inputs or the workspace are too large, a quota is used up, or the
                controller has too little disk space.
            UnimplementedError: The controller has an older release of Iris.
        """
        submission = MapSubmission(function, inputs, star, options)
        machines = self._machines() if submission.needs_machines else None
        parent = parent_job(self.cluster.token(), self.cluster.controller_address)
        request = submission.request(machines, parent)
        upload = submission.upload
        try:
            with nullcontext() if upload is None else upload.sending():
                job_id = self.cluster.launch_job(request)
        except AlreadyExistsError as error:
            if submission.name is None or error.reason != ErrorReason.JOB_EXISTS:
                raise
            status = self.cluster.get_job_status(error.metadata["job_id"], without_tasks=True)
            submission.check_same(status, error)
            return MapJob._of(self._handles, status)
        return MapJob(self._handles, job_id, request.num_inputs, request.inputs_per_task)

    def map_job(self, job_id: str | Job) -> MapJob:
        """Return the handle of an existing map.

        Args:
            job_id: The job: its id, or its `Job` handle.

        Raises:
            NotFoundError: There is no such job.
            InvalidArgumentError: (a `ValueError`) The job is not a map job.
        """
        return MapJob._of(self._handles, self.cluster.get_job_status(job_id, without_tasks=True))

    @property
    def _handles(self) -> JobClient:
        """This client, typed as the protocol that the handles on maps use."""
        # The cast is safe. Only clients inherit from this class, and a client has all methods of the protocol.
        return cast(JobClient, self)

    def _map(
        self,
        function: Callable[..., Any],
        inputs: Iterable[Any],
        star: bool,
        order: bool,
        return_exceptions: bool,
        progress: bool | None,
        options: MapOptions,
    ) -> Iterator[Any]:
        check_flag("order", order)
        check_flag("return_exceptions", return_exceptions)
        check_progress(progress)
        inputs = as_list(inputs)
        if inputs == []:
            return iter(())
        handle = self.submit_map(function, inputs, star=star, **options)
        return handle.results(order=order, return_exceptions=return_exceptions, progress=progress)

    def _machines(self) -> cluster_pb2.Controller.ListMachinesResponse | None:
        try:
            return self.cluster.list_machines()
        except PermissionDeniedError:
            return None  # A task has no permission to list the machines. The map then assumes a number of cores.


def as_list(inputs: Any) -> Any:
    """Return the inputs as a list. A value that is not a collection is returned unchanged, because a later check
    refuses it.
    """
    return inputs if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable) else list(inputs)
