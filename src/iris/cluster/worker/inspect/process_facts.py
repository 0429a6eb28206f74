"""Reads facts about a process from /proc: the name and state of the process, and whether it is a Python program."""

from __future__ import annotations

from collections.abc import Sequence

from iris.cluster.worker.limits.process_table import Process

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk wait",
    "T": "stopped",
    "t": "traced",
    "Z": "ended",
    "X": "ended",
    "I": "idle",
}


def name_and_state(pid: int) -> tuple[str, str]:
    """Return the name of a process and a word for its state. Both are empty if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "", ""
    head, _, fields = text.rpartition(")")
    state = fields.split()[0] if fields.split() else ""
    return head.partition("(")[2], _STATES.get(state, state)


def is_python(pid: int) -> bool:
    """Return whether a process seems to run Python. Return True also if the system does not allow this process to read
    the facts about the other process. py-spy then explains the refusal.
    """
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            # A line of the file `maps` contains the word "python" only in the path of a mapped file. The other fields
            # of the line are numbers and flags.
            return any("python" in line for line in file)
    except PermissionError:
        return True
    except OSError:
        return False


def parents_first(processes: Sequence[Process]) -> list[Process]:
    """Return processes so that each one follows its parent. The children of one parent are in the order of their
    starts.
    """
    pids = {process.pid for process in processes}
    children: dict[int, list[Process]] = {}
    for process in sorted(processes, key=lambda one: (one.started, one.pid)):
        parent = process.parent if process.parent in pids and process.parent != process.pid else 0
        children.setdefault(parent, []).append(process)
    ordered: list[Process] = []
    waiting = children.get(0, [])[::-1]
    while waiting:
        process = waiting.pop()
        ordered.append(process)
        waiting += children.get(process.pid, [])[::-1]
    return ordered
