"""Merges identical call stacks of many tasks, and recognises threads that wait for work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from iris.client.inspect.stacks import Frame, ProcessStacks, StackGroup, TaskStacks, ThreadStack, Variable

# Functions in which threads wait for work. Each entry is the end of the file's path and the name of the function. A
# thread counts as idle if it is in one of these functions and has called only functions of the standard library from
# there.
_IDLE = (
    ("concurrent/futures/thread.py", "_worker"),
    ("multiprocessing/pool.py", "_handle_workers"),
    ("multiprocessing/pool.py", "_handle_tasks"),
    ("multiprocessing/pool.py", "_handle_results"),
    ("multiprocessing/queues.py", "_feed"),
    ("multiprocessing/resource_sharer.py", "_serve"),
    ("multiprocessing/managers.py", "serve_forever"),
    ("threading.py", "Timer.run"),
    ("socketserver.py", "serve_forever"),
    ("tqdm/_monitor.py", "run"),
    ("logging/handlers.py", "_monitor"),
    ("torch/utils/data/_utils/pin_memory.py", "_pin_memory_loop"),
)
_LIBRARY = re.compile(r"/lib(64)?/python\d+(\.\d+)?t?/(?!(site|dist)-packages/)|^<frozen |^<string>")
_INSTALLED = re.compile(r"/(site|dist)-packages/")
# The frames with which every program and every thread begins. They are left out of shown stacks, because they are the
# same in all stacks.
_BEGINNINGS = (
    ("threading.py", ("_bootstrap", "_bootstrap_inner", "run")),
    ("iris/cluster/worker/process/start_callable.py", ("<module>",)),
    ("iris/cluster/worker/process/run_callable.py", ("main", "<module>")),  # older workers start this file
    ("iris/cluster/worker/process/run_inputs.py", ("run_inputs", "<module>")),
    ("<frozen runpy>", ("_run_code", "_run_module_as_main", "run_path", "_run_module_code")),
    ("/runpy.py", ("_run_code", "_run_module_as_main", "run_path", "_run_module_code")),
)
_NUMBER = re.compile(r"[-_ ]?\d+(_\d+)?$|[-_ ]\d+ \(.*\)$")

Variables = tuple[tuple[Variable, ...], ...]


@dataclass
class Merged:
    """The merged stacks of several tasks.

    Attributes:
        groups: The distinct stacks. The stacks of main threads come first, and then frequent stacks.
        idle_threads: The number of threads that wait for work.
        unread: The tasks and processes whose stacks could not be read, with the reasons.
    """

    groups: list[StackGroup]
    idle_threads: int
    unread: list[Unread]


@dataclass(frozen=True)
class Unread:
    """Tasks or processes that could not be read for the same reason.

    Attributes:
        what: The process, as its command and its state. Empty if no process of the tasks could be read.
        reason: The reason, as a code for programs.
        problem: The reason as text for people.
        task_indices: The indices of the tasks, in ascending order.
    """

    what: str
    reason: str
    problem: str
    task_indices: tuple[int, ...]


@dataclass
class _Threads:
    """All threads that have the same call stack."""

    tasks: set[int] = field(default_factory=set)
    count: int = 0
    is_active: bool = False


_Key = tuple[str, str, tuple[Frame, ...], Variables]


def merge(tasks: Iterable[TaskStacks]) -> Merged:
    """Return the distinct stacks of tasks."""
    found: dict[_Key, _Threads] = {}
    unread: dict[tuple[str, str, str], set[int]] = {}
    idle = 0
    for task in tasks:
        if task.reason:
            unread.setdefault(("", task.reason, task.problem), set()).add(task.task_index)
        for process in task.processes:
            if process.reason:
                what = f"{process.command or 'a process'} ({process.state or 'ended'})"
                unread.setdefault((what, process.reason, process.problem), set()).add(task.task_index)
            for thread in process.threads:
                if is_idle(thread):
                    idle += 1
                    continue
                threads = found.setdefault(_key(process, thread), _Threads())
                threads.tasks.add(task.task_index)
                threads.count += 1
                threads.is_active |= thread.is_active
    groups = [
        StackGroup(command, name, frames, variables, tuple(sorted(one.tasks)), one.count, one.is_active)
        for (command, name, frames, variables), one in found.items()
    ]
    # The summary has a section for each command and thread name. Sections with many tasks come first.
    weights: dict[tuple[str, str], int] = {}
    for group in groups:
        section = group.command, group.thread
        weights[section] = weights.get(section, 0) + len(group.task_indices)
    groups.sort(
        key=lambda group: (
            group.thread != "MainThread",
            -weights[group.command, group.thread],
            group.command,
            group.thread,
            -len(group.task_indices),
            group.task_indices,
        )
    )
    return Merged(
        groups,
        idle,
        [Unread(what, reason, problem, tuple(sorted(of))) for (what, reason, problem), of in unread.items()],
    )


def is_idle(thread: ThreadStack) -> bool:
    """Return whether the call stack of a thread shows that the thread waits for work."""
    if thread.is_active or thread.name == "MainThread":
        return False
    for frame in thread.frames:
        function = frame.function.rpartition(".")[2]
        for file, name in _IDLE:
            if frame.file.endswith(file) and name in (function, frame.function):
                return True
        if not is_library(frame.file):
            return False
    return False


def is_library(file: str) -> bool:
    """Return whether a file belongs to the standard library."""
    return bool(_LIBRARY.search(file))


def is_own(file: str) -> bool:
    """Return whether a file belongs neither to the standard library nor to an installed package, so that it is probably
    the user's own code.
    """
    return bool(file) and not is_library(file) and not _INSTALLED.search(file) and "iris/cluster/" not in file


def without_beginning(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return the frames of a stack without the outermost frames that are the same in every program or thread. At least
    one frame is kept."""
    end = len(frames)
    while end > 1 and _is_beginning(frames[end - 1]):
        end -= 1
    return tuple(frames[:end])


def _is_beginning(frame: Frame) -> bool:
    function = frame.function.rpartition(".")[2]
    return any(frame.file.endswith(file) and function in names for file, names in _BEGINNINGS)


def _key(process: ProcessStacks, thread: ThreadStack) -> _Key:
    frames = without_beginning(thread.frames)
    return process.command, thread_role(thread.name), frames, thread.variables[: len(frames)]


def thread_role(name: str) -> str:
    """Return the name of a thread without the number at its end, so that the threads of a pool have one name."""
    return _NUMBER.sub("", name) or name or "unnamed thread"
