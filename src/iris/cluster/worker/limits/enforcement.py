"""Enforces the resource limits of attempts, and explains which limit an attempt has exceeded.

There are two ways of enforcement. If this worker may create cgroups (cgroup.py), each attempt has its own cgroup, and
the kernel enforces the limits at every moment. Otherwise, the worker measures each attempt twice per second and kills
an attempt that uses too much. Both ways kill all processes of the attempt, because a program that has lost some of its
processes rarely ends by itself.

The limits of setrlimit are not used, because they cannot limit a whole attempt. RLIMIT_AS and RLIMIT_DATA count the
address space of each single process, and CUDA, the JVM and many allocators reserve address space without using it.
RLIMIT_NPROC counts all processes of the user, including the processes of the worker and of other attempts, and does not
limit root. Linux ignores RLIMIT_RSS.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from iris.cluster.worker.limits import cgroup, process_table
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.process.attempt_process import Exit
from iris.reasons import FailureCode

Enforce = Literal["auto", "watch", "none"]
_MOST_PROCESSES = 32768
# The largest share of the worker's time that measuring the memory of one attempt may take.
_SHARE = 0.02
# The exit code of a process killed by SIGKILL, and of a shell whose last command was killed by SIGKILL.
_KILLED = 128 + signal.SIGKILL
# The number that the kernel adds to the score of a task's process. When memory runs out, the kernel kills the process
# with the highest score. The number 500 counts as much as half of the machine's memory.
_OOM_SCORE = 500


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """The resource limits of an attempt. 0 means no limit.

    Attributes:
        memory_bytes: The largest memory of the attempt in bytes, without swap.
        processes: The number of processes and threads together.
    """

    memory_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Explains which limit an attempt has exceeded, or may have exceeded.

    Attributes:
        text: The reason and a remedy, as text for people.
        code: The code of the failure; None if the attempt may have failed for another reason than this limit.
    """

    text: str
    code: FailureCode | None = None

    @property
    def is_out_of_memory(self) -> bool:
        """Whether memory ran out."""
        return self.code is not None and self.code.is_out_of_memory


class AttemptEnforcer(Protocol):
    """Enforces the limits of one attempt."""

    def enter(self, pid: int) -> None:
        """Begin to enforce the limits of the attempt's main process, which has just started."""

    def check(self, processes: Sequence[Process]) -> LimitExceeded | None:
        """Return the reason why the attempt must be killed now, or None. A call may take milliseconds, so use a thread.

        Args:
            processes: The attempt's processes.
        """

    def kill(self) -> None:
        """Kill the remaining processes of the attempt that this enforcer can find."""

    def explain(self, exited: Exit) -> LimitExceeded | None:
        """Return why the system killed processes of a failed attempt; None if the system killed no process."""

    def close(self) -> bool:
        """Release the resources of this enforcer. Return False if a process of the attempt is still ending, so that the
        caller tries again later.
        """


class Enforcement:
    """Creates the enforcers of a worker's attempts.

    Args:
        enforce: `auto` uses cgroups where possible and otherwise measures the processes, `watch` always measures the
            processes, and `none` enforces no limits.
        token: The worker's token, with which the names of its cgroups begin.
        max_processes: How many processes and threads each attempt may have; None means `default_max_processes`.
    """

    def __init__(self, enforce: Enforce, token: str, max_processes: int | None = None) -> None:
        self._enforce = enforce
        self._token = token
        self._max_processes = default_max_processes() if max_processes is None else max_processes
        self._oom_kills = OomKills()
        self._closing: deque[AttemptEnforcer] = deque()
        self._cgroups = cgroup.find_parent() if enforce == "auto" else None
        if self._cgroups is not None:
            self._cgroups.sweep()

    @property
    def method(self) -> str:
        """How limits are enforced: `cgroup`, `watch` (by measuring the processes), or `none`."""
        if self._enforce == "none":
            return "none"
        return "watch" if self._cgroups is None else "cgroup"

    def create_enforcer(self, attempt_number: int, memory_bytes: int) -> AttemptEnforcer:
        """Return the object that enforces the limits of an attempt. The attempt is about to start."""
        if self._enforce == "none":
            return WatchEnforcer(AttemptLimits(), self._oom_kills)
        limits = AttemptLimits(memory_bytes, self._max_processes)
        watching = WatchEnforcer(limits, self._oom_kills)
        made = None if self._cgroups is None else self._cgroups.make(f"{self._token}.{attempt_number}")
        return watching if made is None else CgroupEnforcer(made, limits, watching)

    def pause(self) -> bool:
        """Return whether no call of `refresh` is needed until an attempt starts. Call this method while no attempt is
        running. An idle worker must hardly use the CPU.
        """
        self._oom_kills.forget()
        return not self._closing

    def refresh(self) -> None:
        """Count the processes that the system has killed, and close released enforcers. While an attempt is running,
        call this method before each check, in the same thread.
        """
        self._oom_kills.refresh()
        for _ in range(len(self._closing)):
            self.release(self._closing.popleft())

    def release(self, enforcer: AttemptEnforcer) -> None:
        """Close the enforcer of an ended attempt. If a process is still ending, a later call of `refresh` closes the
        enforcer.
        """
        if not enforcer.close():
            self._closing.append(enforcer)

    def close(self) -> None:
        """Close all remaining enforcers, because the worker is ending."""
        if self._cgroups is not None:
            self._cgroups.sweep(f"{self._token}.", kill=True)


class WatchEnforcer:
    """Enforces limits by measuring the attempt's processes.

    Args:
        limits: The limits of the attempt.
        oom_kills: The object that counts the processes that the system killed because memory ran out. The enforcer
            ignores kills before its own creation.
        clock_s: A function that returns the time of the monotonic clock, in seconds.
    """

    def __init__(
        self, limits: AttemptLimits, oom_kills: OomKills, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._oom_kills = oom_kills
        self._oom_kills_before = oom_kills.count()
        self._clock_s = clock_s
        self._measure_at_s = 0.0

    def enter(self, pid: int) -> None:
        """See `AttemptEnforcer.enter`."""
        prefer_for_oom_kill(pid)

    def check(self, processes: Sequence[Process]) -> LimitExceeded | None:
        """See `AttemptEnforcer.check`."""
        limits = self._limits
        count = sum(process.threads for process in processes)
        if limits.processes and count > limits.processes:
            return too_many_processes(limits.processes, count)
        # The sum of the resident sizes is cheap to compute. This sum is almost never below the real use, because it
        # counts shared memory once for each process. Therefore the slow exact measurement is needed only if the sum
        # exceeds the limit.
        resident = sum(process.resident_bytes for process in processes)
        if not limits.memory_bytes or resident <= limits.memory_bytes or self._clock_s() < self._measure_at_s:
            return None
        began_s = self._clock_s()
        used = process_table.memory_held(processes)
        if used > limits.memory_bytes:
            # The processes are measured one after another. During the measurement, one process may end and another may
            # start, and the result may be too high. Therefore a second measurement must confirm that the attempt
            # exceeds its limit.
            used = min(used, process_table.memory_held(processes))
        ended_s = self._clock_s()
        self._measure_at_s = ended_s + (ended_s - began_s) / _SHARE
        return out_of_memory(limits.memory_bytes, used) if used > limits.memory_bytes else None

    def kill(self) -> None:
        """Do nothing, because the worker itself kills the attempt's process group and marked processes."""

    def explain(self, exited: Exit) -> LimitExceeded | None:
        """Return an explanation that memory ran out, if the system has killed processes recently. These processes may
        belong to other attempts, because the system does not report which processes it has killed.
        """
        if not self._oom_kills.recently(self._oom_kills_before):
            return None
        if exited.code == _KILLED:
            return machine_out_of_memory()
        return LimitExceeded(
            "just before the attempt ended, memory ran out, and the system killed a process, perhaps one of the task's"
        )

    def close(self) -> bool:
        """Return True, because this enforcer has nothing to release."""
        return True


class CgroupEnforcer:
    """Lets the system enforce limits by a cgroup.

    Args:
        own: The cgroup of the attempt.
        limits: The limits of the attempt.
        fallback: The object that enforces the limits when the process cannot be moved into the cgroup.
    """

    def __init__(self, own: cgroup.Cgroup, limits: AttemptLimits, fallback: WatchEnforcer) -> None:
        self._own = own
        self._limits = limits
        self._fallback = fallback
        self._is_inside = False

    def enter(self, pid: int) -> None:
        """See `AttemptEnforcer.enter`."""
        self._fallback.enter(pid)
        with contextlib.suppress(OSError):
            self._own.limit(self._limits.memory_bytes, self._limits.processes)
            self._own.enter(pid)
            self._is_inside = True

    def check(self, processes: Sequence[Process]) -> LimitExceeded | None:
        """See `AttemptEnforcer.check`."""
        return None if self._is_inside else self._fallback.check(processes)

    def kill(self) -> None:
        """See `AttemptEnforcer.kill`."""
        self._own.kill()

    def explain(self, exited: Exit) -> LimitExceeded | None:
        """See `AttemptEnforcer.explain`."""
        if not self._is_inside:
            return self._fallback.explain(exited)
        if self._own.count("memory.events", "oom_kill"):
            if self._limits.memory_bytes and self._own.count("memory.events", "oom"):
                return out_of_memory(self._limits.memory_bytes)
            return machine_out_of_memory()
        if self._own.count("pids.events", "max"):
            return too_many_processes(self._limits.processes)
        return None

    def close(self) -> bool:
        """See `AttemptEnforcer.close`."""
        return self._own.remove()


class OomKills:
    """Counts the processes that the system has killed because memory ran out."""

    def __init__(self) -> None:
        self._counts: list[int] = []

    def refresh(self) -> None:
        """Count the killed processes now."""
        # The counts of the last three checks are kept, because a large process may take longer to end than the time
        # between two checks.
        self._counts = [*self._counts[-2:], cgroup.count_oom_kills()]

    def count(self) -> int:
        """Return the number of processes that the system has killed since its start."""
        return cgroup.count_oom_kills()

    def forget(self) -> None:
        """Forget the counts of earlier checks, because no attempt is running, and checks pause."""
        self._counts = []

    def recently(self, before: int) -> bool:
        """Return whether the system has killed a process during the last three calls of `refresh` or between these
        calls.

        Args:
            before: An earlier result of `count`. Kills that are contained in this number are ignored.
        """
        return cgroup.count_oom_kills() > max([before, *self._counts[:1]])


def out_of_memory(limit_bytes: int, used_bytes: int | None = None) -> LimitExceeded:
    """Return the explanation for an attempt that exceeded its memory limit. If the used memory is known, the
    explanation contains the amount.
    """
    limit = f"{_size(limit_bytes)}, the memory that it asked for"
    used = f"needed more than {limit}" if used_bytes is None else f"used {_size(used_bytes)}, its limit is {limit}"
    text = f"out of memory: the task {used}; request more memory for the job, or use less"
    return LimitExceeded(text, FailureCode.MEMORY_LIMIT)


def machine_out_of_memory() -> LimitExceeded:
    """Return the explanation for an attempt that the system killed because the machine or the container had no memory
    left.
    """
    return LimitExceeded(
        "out of memory: this machine, or the container that the worker is in, had no memory left, and the system killed"
        " the task; request the memory that each task needs, so that fewer tasks run at once",
        FailureCode.OUT_OF_MEMORY,
    )


def too_many_processes(limit: int, count: int | None = None) -> LimitExceeded:
    """Return the explanation for an attempt that exceeded its process limit. If the number of processes is known, the
    explanation contains the number.
    """
    had = "wanted more" if count is None else f"had {count}"
    text = (
        f"too many processes: the task {had} (processes and threads together), its limit is {limit}"
        " (iris up --max-processes)"
    )
    return LimitExceeded(text, FailureCode.TOO_MANY_PROCESSES)


def default_max_processes() -> int:
    """Return how many processes and threads an attempt may have. The number is half of the worker's own limit. The
    other half is left for the worker. Therefore the worker survives an attempt that starts processes without an end.
    """
    own = [cgroup.smallest_pids_limit()]
    for name in ("pid_max", "threads-max"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/sys/kernel/{name}") as file:
            own.append(int(file.read()))
    user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if user != resource.RLIM_INFINITY and os.geteuid() != 0:
        own.append(user)
    return max(1, min([_MOST_PROCESSES, *(limit // 2 for limit in own if limit is not None)]))


def prefer_for_oom_kill(pid: int) -> None:
    """When memory runs out, make the system kill this process and its children earlier than the worker or the
    controller.
    """
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/oom_score_adj") as file:
            own = int(file.read())
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(min(own + _OOM_SCORE, 1000)))


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MiB"
