"""Which processes belong to which attempt, and what they hold: read from /proc, one look for all attempts.

A process belongs to the attempt in whose session it is, or to that of its parent, or, where its parent is gone and it
came to the worker, to the one that its mark names. See proc(5) for the files and their fields.
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
_FORGET_AFTER = 20  # looks; a process id that was a stranger's may be given to one of ours
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}.get(os.uname().machine)
_KCMP_VM = 1
_STRANGER, _OURS = 0, -1  # no descendant of this process; one that belongs to no attempt, or to one that just begins


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was at the time of a look.

    Attributes:
        group: Its process group.
        started: When, in the system's own ticks: with the pid it names a process for ever.
        threads: How many it has.
        resident_bytes: What it holds in memory, shared or not.
        cpu_s: CPU seconds that it and the children that it has waited for used.
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
    """Looks at the processes of this machine again and again; at strangers seldom, since they may be many."""

    def __init__(self) -> None:
        self._strangers: set[int] = set()
        self._looks = 0

    def look(self, marks: Mapping[int, str]) -> dict[int, list[Process]]:
        """The processes of attempts. Takes some ms per hundred processes: call it from a thread.

        Args:
            marks: The attempts that run: the pid of the main process, which leads a session, and their mark.

        Returns:
            By the pid of the main process.
        """
        self._looks += 1
        if self._looks % _FORGET_AFTER == 0:
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
    """One process; None when it is gone, or a zombie."""
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
    """What processes hold together, in bytes, as a limit counts it: what several share counts once, and files that they
    have mapped do not, since the system can take that memory back.

    Takes up to some ms per GiB that they hold.
    """
    total = 0
    by_pid = {process.pid: process for process in processes}
    for pid, process in by_pid.items():
        parent = by_pid.get(process.parent)
        # Between vfork and exec a child is in its parent's memory: a program that starts others would count double.
        if parent is None or not _same_memory(process, parent):
            total += _proportional_bytes(pid)
    return total


def kill(processes: Iterable[Process]) -> None:
    """Kills the process groups of the processes, all of a group at once: a group that forks does not get away."""
    for group, process in {process.group: process for process in processes}.items():
        now = read_process(process.pid)
        if now is not None and (now.started, now.group) == (process.started, group):  # it is still the same
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)


def _owner(process: Process, table: Mapping[int, Process], marks: Mapping[int, str], owners: dict[int, int]) -> int:
    """The main process of the attempt that a process belongs to, or what it is else, remembered for all on the way."""
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
        # A kernel before 5.4 does not tell files apart. What is lazily freed is as good as free.
        return max(0, sizes[b"Pss"] - sizes.get(b"Pss_File", 0) - sizes.get(b"LazyFree", 0))
    except (OSError, KeyError):
        pass  # a kernel before 4.14, or a program that became another user: what is shared counts more than once
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            sizes = _sizes(file.read())
    except OSError:
        return 0  # it is gone
    return sizes.get(b"RssAnon", 0) + sizes.get(b"RssShmem", 0)


def _sizes(text: bytes) -> dict[bytes, int]:
    """The lines `Name:   12 kB` of a file of /proc, in bytes."""
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
    # Where the call is not allowed: to the byte the same size is hardly chance.
    return one.resident_bytes == other.resident_bytes
