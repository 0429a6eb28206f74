"""Answers the calls that read and sample the call stacks of attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from iris.arguments import check_whole_number
from iris.cluster.stacks.frame_table import FrameTable, TableFullError
from iris.cluster.stacks.merging import StackCounts
from iris.cluster.stacks.size_limit import SizeLimit
from iris.cluster.types import parse_task_id
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.inspect.process_facts import is_python, name_and_state, parents_first
from iris.cluster.worker.inspect.py_spy import PySpy
from iris.cluster.worker.inspect.py_spy_output import StackProblem
from iris.cluster.worker.limits.process_table import Process, read_process
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import (
    ProcessStacks,
    ReadStacksResponse,
    SampledTask,
    SampleStacksResponse,
    TaskStacks,
    ThreadStack,
)
from iris.system.clock import now_ms

DEFAULT_RATE = 100
_MOST_PROCESSES = 256  # The largest number of processes of one attempt whose stacks are read.
_NOT_RUNNING = StackProblem(cluster_pb2.STACK_REASON_NOT_RUNNING, "the task has no running process")
_NOT_PYTHON = StackProblem(cluster_pb2.STACK_REASON_NOT_PYTHON, "the process is not a Python program")
# A call must end before the deadline of the controller (controller/inspect/stack_calls.py). Otherwise its work would go
# on without a caller, and the answers about all tasks of this worker would be lost.
_READ_S = 15.0
_SAMPLE_EXTRA_S = 11.0
# The largest size of all stacks in the answer to a call of `read`. All frames in the answer have the same limit.
_MOST_BYTES = 8 * 1024 * 1024
_LATE = StackProblem(
    cluster_pb2.STACK_REASON_TIMEOUT, "the worker had no time left, because it read other processes first"
)
_TOO_LARGE = StackProblem(
    cluster_pb2.STACK_REASON_FAILED,
    "the stacks are too large for one answer: read fewer tasks at once, or leave out the values of variables",
)
_ENDED = StackProblem(cluster_pb2.STACK_REASON_ENDED, "the process has ended")
_ALL_FOREIGN = StackProblem(cluster_pb2.STACK_REASON_NOT_PYTHON, "no process of the task is a Python program")

StackedAttempt = cluster_pb2.Worker.StackedAttempt
Result = TypeVar("Result")
FindProcesses = Callable[[Sequence[Attempt]], Awaitable[list[list[Process]]]]


class _Found(NamedTuple):
    """An attempt whose call stacks were requested, with its processes.

    Attributes:
        job_id: The id of the job.
        task_index: The index of the task in its job, from 0.
        attempt_id: The number of the attempt, from 0.
        processes: Its running processes; the parent of a process is before the process.
    """

    job_id: str
    task_index: int
    attempt_id: int
    processes: list[Process]


class AttemptStacks:
    """The call stacks of the attempts of one worker.

    Args:
        registry: The records of the worker's attempts.
        find_processes: A function that returns the processes of each of several attempts.
        py_spy: The object that reads the stacks of processes.
        read_s: After how many seconds a call of `read` leaves out the processes that it has not read yet.
        most_bytes: The largest size of all stacks in an answer of `read`, and of all frames in the answer. Stacks of
            processes beyond this size are left out.
    """

    def __init__(
        self,
        registry: AttemptRegistry,
        find_processes: FindProcesses,
        py_spy: PySpy,
        *,
        read_s: float = _READ_S,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._registry = registry
        self._find_processes = find_processes
        self._py_spy = py_spy
        self._read_s = read_s
        self._most_bytes = most_bytes

    async def read(self, request: cluster_pb2.Worker.ReadStacksRequest) -> ReadStacksResponse:
        """Return the stacks of attempts.

        Raises:
            InvalidArgumentError: A task id is invalid.
        """
        table, limit = FrameTable(self._most_bytes), SizeLimit(self._most_bytes)
        until_s = asyncio.get_running_loop().time() + self._read_s

        async def read_process_of(found: _Found, process: Process) -> ProcessStacks:
            entry = await self._read(process, found.job_id, table, until_s, with_variables=request.with_variables)
            if entry.threads and not limit.admit(entry.ByteSize()):
                del entry.threads[:]
                entry.reason, entry.problem = _TOO_LARGE
            return entry

        async def read_task(found: _Found) -> TaskStacks:
            task = TaskStacks(
                task_index=found.task_index,
                attempt_id=found.attempt_id,
                worker_id=self._registry.worker_id,
                read_at_ms=now_ms(),
            )
            readings = (read_process_of(found, process) for process in found.processes)
            task.processes.extend(await asyncio.gather(*readings))
            if not task.processes:
                task.reason, task.problem = _NOT_RUNNING
            return task

        tasks = await asyncio.gather(*(read_task(found) for found in await self._find(request.attempts)))
        return ReadStacksResponse(frames=table.frames, tasks=tasks)

    async def sample(self, request: cluster_pb2.Worker.SampleStacksRequest) -> SampleStacksResponse:
        """Sample the call stacks of attempts, and return the number of samples with each stack.

        Raises:
            InvalidArgumentError: A task id, the duration or the rate is invalid.
        """
        check_whole_number("seconds", request.seconds, least=1, most=10)
        check_whole_number("rate", request.rate, most=1000)
        counts = StackCounts()
        until_s = asyncio.get_running_loop().time() + request.seconds + _SAMPLE_EXTRA_S

        async def sample_task(found: _Found) -> SampledTask:
            task = SampledTask(
                task_index=found.task_index, attempt_id=found.attempt_id, worker_id=self._registry.worker_id
            )
            python = await asyncio.to_thread(_python_only, found.processes)
            samplings = (
                self._py_spy.record(
                    process.pid,
                    counts,
                    job_id=found.job_id,
                    seconds=request.seconds,
                    rate=request.rate or DEFAULT_RATE,
                    with_idle=request.with_idle,
                )
                for process in python
            )
            results = await asyncio.gather(*(_until(until_s, one) for one in samplings))
            sampled = [result for result in results if isinstance(result, int)]
            task.samples, task.processes = sum(sampled), len(sampled)
            problems = [result for result in results if isinstance(result, StackProblem)]
            if not sampled:
                none = _ALL_FOREIGN if found.processes else _NOT_RUNNING
                task.reason, task.problem = problems[0] if problems else none
            return task

        tasks = await asyncio.gather(*(sample_task(found) for found in await self._find(request.attempts)))
        return SampleStacksResponse(frames=counts.table.frames, stacks=counts.messages(), tasks=tasks)

    async def _find(self, attempts: Iterable[StackedAttempt]) -> list[_Found]:
        found = []
        running: list[tuple[_Found, Attempt]] = []
        for wanted in attempts:
            job_id, task_index = parse_task_id(wanted.task_id)
            found.append(_Found(job_id, task_index, wanted.attempt_id, []))
            attempt = self._registry.get(wanted.task_id, wanted.attempt_id)
            if attempt is not None and attempt.process is not None and attempt.has_live_process:
                running.append((found[-1], attempt))
        all_processes = await self._find_processes([attempt for _, attempt in running])
        for (one, _), processes in zip(running, all_processes, strict=True):
            one.processes.extend(parents_first(processes)[:_MOST_PROCESSES])
        return found

    async def _read(
        self, process: Process, job_id: str, table: FrameTable, until_s: float, *, with_variables: bool
    ) -> ProcessStacks:
        name, state = name_and_state(process.pid)
        entry = ProcessStacks(pid=process.pid, parent_pid=process.parent, command=name, state=state)
        if not await asyncio.to_thread(is_python, process.pid):
            entry.reason, entry.problem = _NOT_PYTHON
            return entry
        reading = self._py_spy.dump(process.pid, table, job_id=job_id, with_variables=with_variables)
        threads: list[ThreadStack] | StackProblem
        try:
            threads = await _until(until_s, reading)
        except TableFullError:
            threads = _TOO_LARGE
        if isinstance(threads, StackProblem):
            entry.reason, entry.problem = threads
        # Another process, maybe of another user, may have got the process id meanwhile. The stacks of that process must
        # not be shown.
        elif not _is_same(process):
            entry.reason, entry.problem = _ENDED
        else:
            entry.threads.extend(threads)
        return entry


async def _until(deadline_s: float, work: Awaitable[Result]) -> Result | StackProblem:
    """Wait for a piece of work, and return its result. Cancel the work when the given time of the event loop's clock is
    reached.
    """
    try:
        async with asyncio.timeout_at(deadline_s):
            return await work
    except TimeoutError:
        return _LATE


def _python_only(processes: Iterable[Process]) -> list[Process]:
    return [process for process in processes if is_python(process.pid) and _is_same(process)]


def _is_same(process: Process) -> bool:
    """Return whether a process still runs."""
    now = read_process(process.pid)
    return now is not None and now.started == process.started
