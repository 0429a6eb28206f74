"""Writes merged stacks as text: a compact form with one line for each distinct stack, and a full form."""

from __future__ import annotations

from collections.abc import Sequence

from iris.client.inspect.stack_groups import Merged, is_own, merge
from iris.client.inspect.stacks import Frame, JobStacks, StackGroup
from iris.counts import counted

_SHOWN_FRAMES = 4
_SHOWN_RANGES = 6
_CODES_OF_FOREIGN = ("NOT_PYTHON",)


def describe(stacks: JobStacks, *, full: bool = False) -> str:
    """Return the stacks of a job as text, with identical stacks merged.

    Args:
        stacks: The stacks of the job's tasks.
        full: Whether to show all frames, with their variables if they were requested.
    """
    merged = merge(stacks.tasks)
    count = len(stacks.tasks)
    lines = [f"job {stacks.job_id}: the stacks of {counted(count, 'task')}"]
    section = None
    for group in merged.groups:
        if (group.command, group.thread) != section:
            section = group.command, group.thread
            lines += ["", f"{group.command} · {group.thread}"]
        lines += _full(group, count) if full else [f"  {_who(group, count)}  {compact(group.frames)}"]
    lines += _rest(merged, count)
    return "\n".join(lines)


def compact(frames: Sequence[Frame]) -> str:
    """Return a stack in one line: the innermost frames, and the innermost frame of the user's own code."""
    if not frames:
        return "no frames"
    shown = list(frames[:_SHOWN_FRAMES])
    words = [_place(frame) for frame in shown]
    if not any(is_own(frame.file) for frame in shown):
        own = next((frame for frame in frames[_SHOWN_FRAMES:] if is_own(frame.file)), None)
        if own is not None:
            if frames[_SHOWN_FRAMES] != own:
                words.append("…")
            words.append(_place(own))
    return " < ".join(words)


def _place(frame: Frame) -> str:
    line = f":{frame.line}" if frame.line else ""
    return f"{frame.function} {frame.file.rpartition('/')[2]}{line}" if frame.file else frame.function


def _who(group: StackGroup, count: int) -> str:
    more = f", {group.num_threads} threads" if group.num_threads > len(group.task_indices) else ""
    busy = ", busy" if group.is_active else ""
    return f"{tasks_text(group.task_indices, count)}{more}{busy}:"


def tasks_text(indices: Sequence[int], count: int) -> str:
    """Return the number and the indices of tasks, for example `31 tasks (0-6, 8-31)`.

    Args:
        indices: The indices of the tasks, in ascending order.
        count: The number of requested tasks. If `indices` contains all of them, the text leaves the indices out.
    """
    if len(indices) == 1:
        return f"task {indices[0]}"
    if len(indices) == count:
        return f"all {count} tasks"
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    more = ", …" if len(words) > _SHOWN_RANGES else ""
    return f"{len(indices)} tasks ({', '.join(words[:_SHOWN_RANGES])}{more})"


def _full(group: StackGroup, count: int) -> list[str]:
    lines = [f"  {_who(group, count)}"]
    for position, frame in enumerate(group.frames):
        line = f":{frame.line}" if frame.line else ""
        lines.append(f"      {frame.function}  {frame.file}{line}")
        if position < len(group.variables):
            lines += [f"          {one.name} = {one.value}" for one in group.variables[position]]
    return lines


def _rest(merged: Merged, count: int) -> list[str]:
    lines = []
    if merged.idle_threads:
        lines.append(f"{counted(merged.idle_threads, 'thread')} waiting for work: not shown")
    foreign = [one for one in merged.unread if one.what and one.reason in _CODES_OF_FOREIGN]
    lines += [f"not Python: {one.what} in {tasks_text(one.task_indices, count)}" for one in foreign]
    for one in merged.unread:
        if one not in foreign:
            what = f"{one.what} in " if one.what else ""
            lines.append(f"not read: {what}{tasks_text(one.task_indices, count)}: {one.problem}")
    return ["", *lines] if lines else []
