"""Finds and measures the processes of each attempt, with one pass over /proc for all attempts.

A process in the session of an attempt belongs to this attempt. A process in another session belongs to the attempt of
its parent. A command that a client runs in the attempt leads another session, and is found by its mark. A process whose
parent has ended becomes a child of the worker. Such a process belongs to the attempt named by its mark. See proc(5) for
the files and their fields.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from iris.cluster.worker.supervision.reaper import is_marked

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# After this many passes over /proc, processes that belong to no attempt are checked again. Such a process may have
# ended, and a new process of an attempt may have its process id.
_FORGET_AFTER = 20
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}.get(os.uname().machine)
_KCMP_VM = 1
# _STRANGER and _OURS take the place of an attempt as the owner of a process. A process of _STRANGER does not descend
# from the worker. A process of _OURS is one of the worker's own processes, or its attempt is starting.
_STRANGER, _OURS = 0, -1


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as a pass over /proc has found it.

    Attributes:
        pid: The id of the process.
        parent: The process id of the parent process.
        group: The id of the process group.
        session: The id of the session.
        started: When the process started, in ticks since boot. `started` and `pid` together identify the process.
        threads: The number of threads of the process.
        resident_bytes: The resident memory, shared memory included.
        cpu_s: The CPU seconds that the process and its collected children have used.
    """

    pid: int
    parent: int
    group: int
    session: int
    started: int
    threads: int
    resident_bytes: int
    cpu_s: float


class ProcessTable:
    """Lists the processes of this machine repeatedly. The machine may have many foreign processes, so the table rarely
    reads these processes again.
    """

    def __init__(self) -> None:
        self._strangers: set[int] = set()
        self._passes = 0

    def refresh(self, marks: Mapping[int, str]) -> dict[int, list[Process]]:
        """Return the processes of attempts. A call takes some milliseconds per hundred processes, so call this method
        in a thread.

        Args:
            marks: The mark of each running attempt, by the process id of its main process, which leads a session.

        Returns:
            The processes of each attempt, by the process id of the main process.
        """
        self._passes += 1
        if self._passes % _FORGET_AFTER == 0:
            self._strangers.clear()
        listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        table = {}
        for pid in listed - self._strangers:
            process = read_process(pid)
            if process is not None:
                table[pid] = process
        owners: dict[int, int] = {}
        found: dict[int, list[Process]] = {main: [] for main in marks}
        for process in table.values():
            owner = _owner(process, table, marks, owners)
            if owner in found:
                found[owner].append(process)
        self._strangers = (self._strangers & listed) | {pid for pid in table if owners[pid] == _STRANGER}
        return found


def read_process(pid: int) -> Process | None:
    """Return the process with the given id; None if the process has ended or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if fields[0] in b"ZX":
        return None
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        threads=int(fields[17]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
        cpu_s=sum(map(int, fields[11:15])) / _TICKS_PER_S,
    )


def memory_held(processes: Iterable[Process]) -> int:
    """Return the memory that processes occupy together, in bytes. The memory is counted in the same way as for a memory
    limit.

    Shared memory counts once. Mapped files do not count, because the system can reclaim that memory. The call takes up
    to some milliseconds per GiB.
    """
    total = 0
    by_pid = {process.pid: process for process in processes}
    for pid, process in by_pid.items():
        parent = by_pid.get(process.parent)
        # Between vfork and exec, a child uses the memory of its parent. This check prevents the memory of such a parent
        # from being counted twice.
        if parent is None or not _same_memory(process, parent):
            total += _proportional_bytes(pid)
    return total


def kill(processes: Iterable[Process]) -> None:
    """Kill processes together with their process groups. Killing a group also kills the processes that the group is
    just forking.
    """
    for group, process in {process.group: process for process in processes}.items():
        now = read_process(process.pid)
        # The id of an ended process may belong to a new process by now. The new process must not be killed.
        if now is not None and (now.started, now.group) == (process.started, group):
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)


def _owner(process: Process, table: Mapping[int, Process], marks: Mapping[int, str], owners: dict[int, int]) -> int:
    """Return the main process of the attempt to which a process belongs; `_STRANGER` or `_OURS` for other processes.
    The search goes from a process to its ancestors. The result is stored for each process on the way.
    """
    way = []
    while True:
        known = owners.get(process.pid)
        if known is not None:
            owner = known
            break
        way.append(process.pid)
        if process.session in marks:
            owner = process.session
            break
        if process.parent == os.getpid():
            owner = next((main for main, mark in marks.items() if is_marked(process.pid, mark)), _OURS)
            break
        parent = table.get(process.parent)
        if process.session == process.pid and parent is not None and parent.parent == os.getpid():
            # The launcher is a child of the worker. The launcher also starts the commands that clients run in an
            # attempt (worker/exec). Each of these commands leads a separate session.
            marked = next((main for main, mark in marks.items() if is_marked(process.pid, mark)), None)
            if marked is not None:
                owner = marked
                break
        if parent is None or parent.pid in way:
            owner = _STRANGER
            break
        process = parent
    owners.update(dict.fromkeys(way, owner))
    return owner


def _proportional_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            sizes = _sizes(file.read())
        # Linux before 5.4 does not report the memory of mapped files separately. Lazily freed memory counts as free.
        return max(0, sizes[b"Pss"] - sizes.get(b"Pss_File", 0) - sizes.get(b"LazyFree", 0))
    except (OSError, KeyError):
        # Linux before 4.14 has no file smaps_rollup, and the file of another user's process is unreadable. In these two
        # cases, shared memory counts once for each process.
        pass
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            sizes = _sizes(file.read())
    except OSError:
        return 0  # The process has ended.
    return sizes.get(b"RssAnon", 0) + sizes.get(b"RssShmem", 0)


def _sizes(text: bytes) -> dict[bytes, int]:
    """Return the lines of the form `Name:   12 kB` of a file in /proc, with their values in bytes."""
    sizes = {}
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        if value.endswith(b" kB"):
            sizes[name] = int(value[:-3]) * 1024
    return sizes


def _same_memory(one: Process, other: Process) -> bool:
    if _KCMP is not None:
        answer = ctypes.CDLL(None).syscall(_KCMP, one.pid, other.pid, _KCMP_VM, 0, 0)
        if answer >= 0:
            return bool(answer == 0)
    # Where the system call kcmp is forbidden, two processes with exactly the same size are assumed to share their
    # memory.
    return one.resident_bytes == other.resident_bytes
