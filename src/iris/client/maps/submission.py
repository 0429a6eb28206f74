"""Makes the job that calls a callable once for each input.

The job has independent tasks, and each task works on a chunk of the inputs. The chunks have a fixed size, because a job
has a fixed number of tasks. The size is chosen from the number of inputs and the cores of the cluster. Each core then
works on about `_CHUNKS_PER_CORE` chunks. Starting a process takes some tenths of a second, so a few large chunks cost
less than many small chunks. With many small chunks, the results come sooner, and all cores finish at about the same
time.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from iris.arguments import MAX_INT32, check_callable, check_flag, check_whole_number, refuse
from iris.client.submission import (
    LaunchRequest,
    add_code,
    add_environment,
    add_limits,
    add_placement,
    add_retries,
    new_request,
)
from iris.client.workspace_upload import WorkspaceUpload, Wrap
from iris.cluster.client.pickling import pickle_inputs
from iris.cluster.task_inputs import pack_items
from iris.cluster.types import Entrypoint, JobInfo, ResourceSpec
from iris.cores import MILLICORES
from iris.errors import AlreadyExistsError, InvalidArgumentError
from iris.rpc import cluster_pb2

MAX_TASKS = 10_000  # The largest number of tasks that a controller accepts.
_CHUNKS_PER_CORE = 8
_UNKNOWN_CORES = 4  # Tasks may not read the list of machines, so a map inside a job assumes this number of cores.


class MapOptions(TypedDict, total=False):
    """The arguments of `IrisClient.submit_map` that describe the job. The docstring of `submit_map` explains each
    argument."""

    max_parallel: int | None
    chunk: int | None
    kwargs: Mapping[str, Any] | None
    name: str | None
    resources: ResourceSpec | Mapping[str, float | str | None] | None
    env: Mapping[str, str] | None
    workspace: str | os.PathLike[str] | None
    working_directory: str | os.PathLike[str] | None
    constraints: Mapping[str, str] | None
    max_retries_failure: int
    max_retries_preemption: int
    timeout: float | None
    job_timeout: float | None
    scheduling_timeout: float | None
    on_notice: Callable[[str], None] | None


class MapSubmission:
    """The checked arguments of a map.

    Args:
        function: The callable that gets each input.
        inputs: The inputs of the map.
        star: Whether each input is a tuple of arguments.
        options: The options of `IrisClient.submit_map`, which `MapOptions` lists.
        wrap: A function that wraps the callbacks of the user. The async client passes a wrapper with which callbacks
            run on the event loop.

    Attributes:
        name: The name that the caller gave to the job, or None if the caller gave none.
        upload: The workspace, or None if the job has none.

    Raises:
        InvalidArgumentError: An argument is invalid.
        TypeError: An option is unknown.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Iterable[Any],
        star: bool,
        options: Mapping[str, Any],
        wrap: Wrap = lambda function: function,
    ) -> None:
        unknown = sorted(options.keys() - MapOptions.__annotations__.keys())
        if unknown:
            known = ", ".join(sorted(MapOptions.__annotations__))
            raise TypeError(f"a map got an unexpected keyword argument {unknown[0]!r}: expected one of {known}")
        check_callable("function", function)
        self._options = options
        self._star = check_flag("star", star)
        self._inputs = _checked_inputs(inputs, star)
        self._entry = Entrypoint(callable=function, kwargs=options.get("kwargs") or {})
        self._resources = ResourceSpec.given(options.get("resources"))
        self.name: str | None = options.get("name")
        self.upload = WorkspaceUpload.checked(options.get("workspace"), options.get("on_notice"), None, wrap)
        self._chunk: int | None = options.get("chunk")
        if self._chunk is not None:
            check_whole_number("chunk", self._chunk, least=1, most=MAX_INT32, none="a size by the cores")
            if -(-len(self._inputs) // self._chunk) > MAX_TASKS:
                least = -(-len(self._inputs) // MAX_TASKS)
                refuse("chunk", f"at least {least} for {len(self._inputs):,} inputs", self._chunk)
        self._request = self._base_request()

    @property
    def needs_machines(self) -> bool:
        """Whether `request` needs the list of machines, to choose the size of the chunks."""
        return self._chunk is None

    def request(
        self, machines: cluster_pb2.Controller.ListMachinesResponse | None, parent: JobInfo | None
    ) -> LaunchRequest:
        """Return the complete request that submits the map. This method reads many files.

        Args:
            machines: The machines of the cluster, or None if they are unknown.
            parent: The task in which this program runs, or None if the job has no parent job.

        Raises:
            EntrypointError: The callable or an input cannot be pickled.
            FailedPreconditionError: A file of the workspace cannot be read.
            ResourceExhaustedError: The workspace or the callable is too large.
        """
        from pathlib import Path

        request, upload = self._request, self.upload
        pickled = pickle_inputs(self._inputs, workspace=None if upload is None else Path(upload.folder))
        chunk = self._chunk or choose_chunk(len(pickled), self._parallel(machines))
        tries = 1 + request.max_retries_failure
        items = [
            pickle.dumps((first, self._star, tries, pickled[first : first + chunk]))
            for first in range(0, len(pickled), chunk)
        ]
        request.resources.replicas = len(items)
        # A chunk that fails as a whole must not end the other chunks.
        request.max_task_failures = len(items) - 1
        request.inputs_blob = pack_items(items)
        request.inputs_hash = hashlib.sha256(request.inputs_blob).hexdigest()
        request.inputs_digest = _digest(pickled)
        request.num_inputs, request.inputs_per_task = len(pickled), chunk
        add_code(request, self._entry, upload, parent)
        return request

    def check_same(self, status: cluster_pb2.JobStatus, error: AlreadyExistsError) -> None:
        """Check that an existing job has the same inputs, so that this map can continue it.

        Raises:
            AlreadyExistsError: The existing job is not a map job, or has other inputs.
        """
        if status.inputs_digest == self._request.inputs_digest:
            return
        if not status.inputs_digest:
            raise AlreadyExistsError(
                f"the job {status.job_id!r} exists already and is not a map job: choose another name"
            ) from error
        raise AlreadyExistsError(
            f"the job {status.job_id!r} exists already and maps {status.num_inputs:,} other inputs: choose another"
            f" name, or collect the results of the existing job with client.map_job({status.job_id!r})"
        ) from error

    def _parallel(self, machines: cluster_pb2.Controller.ListMachinesResponse | None) -> int:
        limit = self._options.get("max_parallel") or MAX_INT32
        if machines is None:
            return min(limit, _UNKNOWN_CORES)
        millicores = sum(
            one.total.cpu_millicores or one.total.cpu * MILLICORES for one in machines.machines if one.alive
        )
        return max(1, min(limit, millicores // (self._resources.cpu_millicores or MILLICORES)))

    def _base_request(self) -> LaunchRequest:
        given = self._options.get
        request = new_request(self._entry, self.name, self._resources, 1)
        add_environment(request, given("env"), (), given("working_directory"), None, True)
        add_placement(request, False, None, given("constraints"), None, given("max_parallel"))
        retries, preemptions = given("max_retries_failure", 0), given("max_retries_preemption", 100)
        add_retries(request, 0, retries, preemptions, 1.0, (), ())
        add_limits(request, given("scheduling_timeout"), given("timeout"), given("job_timeout"), 0, 10.0, 0, ())
        return request


def choose_chunk(count: int, parallel: int) -> int:
    """Return the number of inputs in each chunk.

    Args:
        count: The number of inputs of the map.
        parallel: The number of chunks that the cluster can work on at the same time.
    """
    tasks = min(count, _CHUNKS_PER_CORE * parallel, MAX_TASKS)
    return -(-count // tasks)


def _checked_inputs(inputs: Iterable[Any], star: bool) -> Sequence[Any]:
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
        refuse("inputs", "a list or another iterable of the callable's arguments", inputs)
    items = list(inputs)
    if not items:
        raise InvalidArgumentError("inputs must not be empty: give at least one item")
    if len(items) > MAX_INT32:
        raise InvalidArgumentError(f"inputs must have at most {MAX_INT32} items, got {len(items)}")
    if star:
        for index, item in enumerate(items):
            if not isinstance(item, tuple | list):
                refuse(f"input {index} of starmap", "a tuple of the callable's arguments", item)
    return items


def _digest(pickled: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for one in pickled:
        digest.update(len(one).to_bytes(8, "little"))
        digest.update(one)
    return digest.hexdigest()
