"""Describes the call stacks of the tasks of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from iris.cluster.types import make_task_id
from iris.rpc import cluster_pb2


class Frame(NamedTuple):
    """A place in a program.

    Attributes:
        function: The name of the function.
        file: The path of the source file on the machine of the task.
        line: The number of the line; 0 if it is unknown.
    """

    function: str
    file: str
    line: int


@dataclass(frozen=True)
class Variable:
    """A local variable of a frame.

    Attributes:
        name: The name of the variable.
        value: The value as text. Long values are cut.
        is_argument: Whether the variable is an argument of the function.
    """

    name: str
    value: str
    is_argument: bool


@dataclass(frozen=True)
class ThreadStack:
    """The call stack of a thread.

    Attributes:
        name: The name of the thread, or an empty string if the thread has none.
        thread_id: The id that the operating system gives the thread.
        is_active: Whether the thread uses the CPU.
        holds_gil: Whether the thread holds the global interpreter lock.
        frames: The stack frames of the thread; the innermost frame is first.
        variables: The local variables of each frame. Empty unless they were requested.
    """

    name: str
    thread_id: int
    is_active: bool
    holds_gil: bool
    frames: tuple[Frame, ...]
    variables: tuple[tuple[Variable, ...], ...] = ()


@dataclass(frozen=True)
class ProcessStacks:
    """The call stacks of a process.

    Attributes:
        pid: The process id on the machine of the task.
        parent_pid: The process id of the parent process.
        command: The name of the program that the process runs.
        state: A word for the state of the process, for example `"running"`, `"sleeping"` or `"disk wait"`.
        threads: The threads; the main thread is first. Empty if the stacks could not be read.
        reason: Why the stacks could not be read, as a code: the name of a `StackReason` of the wire without its prefix,
            for example `"NOT_PYTHON"`. Empty if they were read.
        problem: Why the stacks could not be read, for people.
    """

    pid: int
    parent_pid: int
    command: str
    state: str
    threads: tuple[ThreadStack, ...]
    reason: str = ""
    problem: str = ""


@dataclass(frozen=True)
class TaskStacks:
    """The call stacks of the newest attempt of a task.

    Attributes:
        task_id: The id of the task.
        task_index: The index of the task.
        attempt_id: The number of the attempt, from 0. None if the task has had no attempt.
        worker_id: The id of the worker that runs the attempt.
        read_at_ms: When the worker began to read, in milliseconds since the epoch.
        processes: The processes of the attempt. The parent of a process is before the process.
        reason: Why no process could be read, as a code, for example `"WORKER_UNREACHABLE"`. Empty if the processes were
            found.
        problem: Why no process could be read, for people.
    """

    task_id: str
    task_index: int
    attempt_id: int | None
    worker_id: str
    read_at_ms: int
    processes: tuple[ProcessStacks, ...]
    reason: str = ""
    problem: str = ""


@dataclass(frozen=True)
class JobStacks:
    """The call stacks of the requested tasks of a job. `str` returns a summary in which identical stacks are merged.

    Attributes:
        job_id: The id of the job.
        tasks: The requested tasks, in index order.
    """

    job_id: str
    tasks: tuple[TaskStacks, ...]

    def groups(self) -> list[StackGroup]:
        """Return each distinct call stack once, with the tasks whose threads have this stack. Threads that wait for
        work are left out, for example the workers of a thread pool.
        """
        from iris.client.inspect.stack_groups import merge

        return merge(self.tasks).groups

    def __str__(self) -> str:
        from iris.client.inspect.stack_text import describe

        return describe(self)


@dataclass(frozen=True)
class StackGroup:
    """A call stack, and the tasks whose threads have this stack.

    Attributes:
        command: The name of the program that the processes run.
        thread: The name of the threads, without a number at its end.
        frames: The stack frames of the thread; the innermost frame is first.
        variables: The local variables of each frame. Empty unless they were requested.
        task_indices: The indices of the tasks, in ascending order.
        num_threads: The number of threads in all these tasks.
        is_active: Whether one of these threads uses the CPU.
    """

    command: str
    thread: str
    frames: tuple[Frame, ...]
    variables: tuple[tuple[Variable, ...], ...]
    task_indices: tuple[int, ...]
    num_threads: int
    is_active: bool


def reason_name(reason: int) -> str:
    """Return the name of a `StackReason` without its prefix. Return an empty string for 0, and the number as text for
    an unknown reason.
    """
    if not reason:
        return ""
    if reason in cluster_pb2.StackReason.values():
        return cluster_pb2.StackReason.Name(reason).removeprefix("STACK_REASON_")
    return str(reason)


def from_answer(job_id: str, answer: cluster_pb2.ReadStacksResponse) -> JobStacks:
    """Return the stacks in an answer of the controller."""
    frames = [Frame(frame.function, frame.file, frame.line) for frame in answer.frames]
    return JobStacks(job_id, tuple(_task(job_id, task, frames) for task in answer.tasks))


def _task(job_id: str, task: cluster_pb2.TaskStacks, frames: Sequence[Frame]) -> TaskStacks:
    return TaskStacks(
        make_task_id(job_id, task.task_index),
        task.task_index,
        task.attempt_id if task.attempt_id >= 0 else None,
        task.worker_id,
        task.read_at_ms,
        tuple(_process(process, frames) for process in task.processes),
        reason_name(task.reason),
        task.problem,
    )


def _process(process: cluster_pb2.ProcessStacks, frames: Sequence[Frame]) -> ProcessStacks:
    return ProcessStacks(
        process.pid,
        process.parent_pid,
        process.command,
        process.state,
        tuple(_thread(thread, frames) for thread in process.threads),
        reason_name(process.reason),
        process.problem,
    )


def _thread(thread: cluster_pb2.ThreadStack, frames: Sequence[Frame]) -> ThreadStack:
    return ThreadStack(
        thread.name,
        thread.thread_id,
        thread.is_active,
        thread.holds_gil,
        tuple(frames[position] for position in thread.frames),
        tuple(
            tuple(Variable(one.name, one.value, one.is_argument) for one in of_frame.variables)
            for of_frame in thread.variables
        ),
    )
