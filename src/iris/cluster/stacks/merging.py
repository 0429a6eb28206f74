"""Merges the answers of several workers into one answer, with one table of frames."""

from __future__ import annotations

from collections.abc import Iterable

from iris.cluster.stacks.frame_table import FrameTable, translate
from iris.rpc.cluster_pb2 import (
    ReadStacksResponse,
    SampledStack,
    SampledTask,
    SampleStacksResponse,
    TaskStacks,
)


class StackCounts:
    """Counts the samples of each call stack.

    Attributes:
        table: The table that contains the frames of all stacks.
        counts: The number of samples of each stack. A stack is a tuple with the positions of its frames in `table`, the
            outermost frame first.
    """

    def __init__(self) -> None:
        self.table = FrameTable()
        self.counts: dict[tuple[int, ...], int] = {}

    def add(self, stack: Iterable[int], samples: int) -> None:
        """Add samples of a stack."""
        key = tuple(stack)
        self.counts[key] = self.counts.get(key, 0) + samples

    def add_answer(self, answer: SampleStacksResponse) -> None:
        """Add the samples of an answer."""
        translation = self.table.translation(answer.frames)
        for stack in answer.stacks:
            self.add(translate(stack.frames, translation), stack.samples)

    def messages(self) -> list[SampledStack]:
        """Return the stacks as messages."""
        return [SampledStack(frames=stack, samples=samples) for stack, samples in self.counts.items()]


def merge_stacks(answers: Iterable[ReadStacksResponse], others: Iterable[TaskStacks]) -> ReadStacksResponse:
    """Merge several answers into one answer with the call stacks of all tasks, in index order.

    Args:
        answers: The answers of the workers. The function changes these answers.
        others: The entries of the tasks that no worker could read.
    """
    table = FrameTable()
    tasks = list(others)
    for answer in answers:
        translation = table.translation(answer.frames)
        for task in answer.tasks:
            for process in task.processes:
                for thread in process.threads:
                    thread.frames[:] = translate(thread.frames, translation)
            tasks.append(task)
    tasks.sort(key=lambda task: task.task_index)
    return ReadStacksResponse(frames=table.frames, tasks=tasks)


def merge_samples(answers: Iterable[SampleStacksResponse], others: Iterable[SampledTask]) -> SampleStacksResponse:
    """Merge several answers into one answer, with the sum of the samples of each stack, and with all tasks in index
    order.

    Args:
        answers: The answers of workers.
        others: The entries of the tasks that no worker could sample.
    """
    total = StackCounts()
    tasks = list(others)
    for answer in answers:
        total.add_answer(answer)
        tasks += answer.tasks
    tasks.sort(key=lambda task: task.task_index)
    return SampleStacksResponse(frames=total.table.frames, stacks=total.messages(), tasks=tasks)
