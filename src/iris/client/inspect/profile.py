"""Defines `Profile`, which says how many times the tasks of a job were seen in each call stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from iris.arguments import check_callable, check_whole_number
from iris.client.inspect.stacks import Frame, reason_name
from iris.cluster.types import make_task_id
from iris.rpc import cluster_pb2

DEFAULT_RATE = 100
MAX_DURATION_S = 86_400
_SLICE_S = 2  # Each call samples for this many seconds. Ctrl-C loses only the samples of the last call.

OnProgress = Callable[[int, int], object]


class FunctionShare(NamedTuple):
    """How many times a function was seen in the sampled call stacks.

    Attributes:
        function: The name of the function.
        file: The path of the source file on the machine of the task.
        self_samples: The samples in which the function was the innermost one, so that its own code was running.
        total_samples: The samples in which the function was anywhere in the stack.
    """

    function: str
    file: str
    self_samples: int
    total_samples: int


@dataclass(frozen=True)
class ProfiledTask:
    """The part of a profile that is about one task.

    Attributes:
        task_id: The id of the task.
        task_index: The index of the task.
        samples: The number of samples of all threads of the task.
        reason: Why the task has no samples, as a code, for example `"NOT_PYTHON"`. Empty if its processes were sampled.
        problem: Why the task has no samples, for people.
    """

    task_id: str
    task_index: int
    samples: int
    reason: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Profile:
    """How many times the tasks of a job were seen in each call stack, summed over all tasks. `str` returns a table of
    the most frequent functions.

    Attributes:
        job_id: The id of the job.
        seconds: For how many seconds the tasks were sampled.
        rate: The samples per second of each process.
        stacks: The number of samples of each stack. The outermost frame of a stack is first.
        tasks: The requested tasks, in index order.
    """

    job_id: str
    seconds: int
    rate: int
    stacks: Mapping[tuple[Frame, ...], int]
    tasks: tuple[ProfiledTask, ...]

    @property
    def samples(self) -> int:
        """The number of samples of all tasks together."""
        return sum(self.stacks.values())

    def functions(self) -> list[FunctionShare]:
        """Return the functions that were seen. The functions whose own code ran most often come first."""
        from iris.client.inspect.profile_formats import function_shares

        return function_shares(self.stacks)

    def collapsed(self) -> str:
        """Return one line for each stack, for other tools: the frames with semicolons between them, and the number of
        samples.
        """
        from iris.client.inspect.profile_formats import collapsed

        return collapsed(self.stacks)

    def speedscope(self) -> str:
        """Return the profile as a JSON document for https://www.speedscope.app, a viewer of profiles that also works
        without a network."""
        from iris.client.inspect.profile_formats import speedscope

        return speedscope(self)

    def flamegraph(self) -> str:
        """Return a flame graph as an SVG image that a browser opens without a network. A click on a frame zooms."""
        from iris.client.inspect.flamegraph import flamegraph

        return flamegraph(self)

    def __str__(self) -> str:
        from iris.client.inspect.profile_formats import describe

        return describe(self)


class ProfileSum:
    """Adds up the samples of a profile. A profile needs several calls, one every two seconds.

    Args:
        job_id: The id of the job.
        rate: The samples per second of each process.
    """

    def __init__(self, job_id: str, rate: int) -> None:
        self._job_id = job_id
        self._rate = rate
        self._seconds = 0
        self._is_over = False
        self._stacks: dict[tuple[Frame, ...], int] = {}
        self._tasks: dict[int, ProfiledTask] = {}

    def add(self, answer: cluster_pb2.SampleStacksResponse, seconds: int) -> None:
        """Add the answer of a call that has sampled the tasks for `seconds` seconds."""
        self._is_over = bool(answer.tasks) and all(task.reason for task in answer.tasks)
        if not self._is_over:
            self._seconds += seconds
        frames = [Frame(frame.function, frame.file, frame.line) for frame in answer.frames]
        for stack in answer.stacks:
            key = tuple(frames[position] for position in stack.frames)
            self._stacks[key] = self._stacks.get(key, 0) + stack.samples
        for task in answer.tasks:
            before = self._tasks.get(task.task_index)
            samples = task.samples + (0 if before is None else before.samples)
            # If a task ends during the profile, its earlier samples are kept. The reason why the last call could not
            # sample the task is dropped.
            reason, problem = ("", "") if samples else (reason_name(task.reason), task.problem)
            task_id = make_task_id(self._job_id, task.task_index)
            self._tasks[task.task_index] = ProfiledTask(task_id, task.task_index, samples, reason, problem)

    @property
    def is_over(self) -> bool:
        """Whether the profile should end, because the last call could not sample any task."""
        return self._is_over

    @property
    def seconds(self) -> int:
        """For how many seconds the tasks were sampled so far."""
        return self._seconds

    def profile(self) -> Profile:
        """Return the sum of all answers so far."""
        tasks = tuple(self._tasks[index] for index in sorted(self._tasks))
        return Profile(self._job_id, self._seconds, self._rate, dict(self._stacks), tasks)


def slices(duration_s: int) -> Iterator[int]:
    """Divide the duration of a profile into calls, and yield for how many seconds each call samples."""
    while duration_s > 0:
        yield min(_SLICE_S, duration_s)
        duration_s -= _SLICE_S


def check_profile(duration_s: object, rate: object, on_progress: object) -> tuple[int, int]:
    """Check the duration and the rate of a profile, and return both.

    Raises:
        InvalidArgumentError: An argument is invalid.
    """
    if on_progress is not None:
        check_callable("on_progress", on_progress)
    return (
        check_whole_number("duration_s", duration_s, least=1, most=MAX_DURATION_S),
        check_whole_number("rate", rate, least=1, most=1000),
    )
