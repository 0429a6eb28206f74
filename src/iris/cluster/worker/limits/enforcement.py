"""What an attempt may use, what keeps it to that, and in which words it is told when it wanted more.

Two ways. Where this worker may make cgroups (cgroup.py), each attempt has one: the kernel holds it to its limits at
any moment. Elsewhere the worker looks twice a second at what each attempt holds, and kills one that holds too much.
Either way all of the attempt's processes go, since what is left of a program that lost some of them rarely ends.

Why not resource limits (setrlimit): RLIMIT_AS and RLIMIT_DATA count address space, which CUDA, the JVM and many
allocators reserve without using it, and each process alone. RLIMIT_NPROC counts all processes of the user, ours and
those of other attempts among them, and none of root's. Linux ignores RLIMIT_RSS.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from iris.cluster.worker.limits import cgroup, process_table
from iris.cluster.worker.limits.process_table import Process
from iris.cluster.worker.process.attempt_process import Exit

Enforce = Literal["auto", "watch", "none"]
ENFORCE: tuple[Enforce, ...] = get_args(Enforce)
_MOST_PROCESSES = 32768
_SHARE = 0.02  # of the time, at most, is spent on measuring one attempt
_KILLED = 128 + signal.SIGKILL  # the exit code, also of a shell whose last command was killed
_OOM_SCORE = 500  # of -1000 to 1000: half of the machine's memory on top of what it holds


@dataclass(frozen=True, slots=True)
class Limits:
    """What an attempt may use; 0: as much as there is.

    Attributes:
        memory_bytes: Of memory, without swap.
        processes: Processes and threads, all counted.
    """

    memory_bytes: int = 0
    processes: int = 0


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Why an attempt was ended, or has lost processes.

    Attributes:
        text: In words, with what can be done.
        out_of_memory: Memory was it.
    """

    text: str
    out_of_memory: bool = False


class Holder(Protocol):
    """What keeps one attempt to its limits."""

    def enter(self, pid: int) -> None:
        """The attempt's main process has just started: it is held from now on, with all that it starts."""

    def check(self, held: Sequence[Process]) -> Exceeded | None:
        """Whether the attempt is to be ended now. `held` are its processes. May take some ms: call it in a thread."""

    def kill(self) -> None:
        """Ends what is left of the attempt, as far as this holder can."""

    def explain(self, exited: Exit) -> Exceeded | None:
        """What the system did to an attempt that has ended, and failed."""

    def close(self) -> bool:
        """Lets go of what it has of the system. False: something is still ending, ask again."""


class Enforcement:
    """Makes the holders of a worker's attempts.

    Args:
        enforce: `auto`: by cgroups where that is possible, else by watching. `watch`: by watching. `none`: not at all.
        token: The worker's; part of the names of its cgroups.
        max_processes: Of each attempt, with threads; None: what `default_max_processes` says.
    """

    def __init__(self, enforce: Enforce, token: str, max_processes: int | None = None) -> None:
        self._enforce = enforce
        self._token = token
        self._max_processes = default_max_processes() if max_processes is None else max_processes
        self._oom_kills = OomKills()
        self._closing: deque[Holder] = deque()
        self._place = cgroup.find_place() if enforce == "auto" else None
        if self._place is not None:
            self._place.sweep()

    def hold(self, attempt_number: int, memory_bytes: int) -> Holder:
        """The holder of an attempt that is about to start."""
        if self._enforce == "none":
            return Watched(Limits(), self._oom_kills)
        limits = Limits(memory_bytes, self._max_processes)
        watched = Watched(limits, self._oom_kills)
        made = None if self._place is None else self._place.make(f"{self._token}.{attempt_number}")
        return watched if made is None else Enclosed(made, limits, watched)

    def look(self) -> None:
        """To be called before attempts are checked, each time, in the thread that checks them."""
        self._oom_kills.look()
        for _ in range(len(self._closing)):
            self.release(self._closing.popleft())

    def release(self, holder: Holder) -> None:
        """The attempt is over: closes its holder, now or at one of the next looks."""
        if not holder.close():
            self._closing.append(holder)

    def close(self) -> None:
        """The worker ends: closes what is left."""
        if self._place is not None:
            self._place.sweep(f"{self._token}.", kill=True)


class Watched:
    """Measures what an attempt holds."""

    def __init__(self, limits: Limits, oom_kills: OomKills) -> None:
        self._limits = limits
        self._oom_kills = oom_kills
        self._measure_at_s = 0.0

    def enter(self, pid: int) -> None:
        """See `Holder.enter`."""
        offer_to_the_system(pid)

    def check(self, held: Sequence[Process]) -> Exceeded | None:
        """See `Holder.check`."""
        limits = self._limits
        count = sum(process.threads for process in held)
        if limits.processes and count > limits.processes:
            return too_many_processes(limits.processes, count)
        # Cheap, and hardly ever too small: shared memory counts for each that shares it, and mapped files do.
        resident = sum(process.resident_bytes for process in held)
        if not limits.memory_bytes or resident <= limits.memory_bytes or time.monotonic() < self._measure_at_s:
            return None
        began_s = time.monotonic()
        used = process_table.memory_held(held)
        if used > limits.memory_bytes:
            # Processes are looked at in turn: one may have ended, and another taken its place, in between.
            used = min(used, process_table.memory_held(held))
        ended_s = time.monotonic()
        self._measure_at_s = ended_s + (ended_s - began_s) / _SHARE
        return out_of_memory(limits.memory_bytes, used) if used > limits.memory_bytes else None

    def kill(self) -> None:
        """See `Holder.kill`. Groups and marks are the worker's own nets."""

    def explain(self, exited: Exit) -> Exceeded | None:
        """See `Holder.explain`. Whom the system has killed is not known, only that it has, and when."""
        if not self._oom_kills.recently():
            return None
        if exited.code == _KILLED:
            return machine_out_of_memory()
        return Exceeded("just before it ended memory ran out, and the system killed a process, maybe one of its")

    def close(self) -> bool:
        """See `Holder.close`."""
        return True


class Enclosed:
    """Has the system keep an attempt to its limits, in a cgroup.

    Args:
        own: Its cgroup.
        limits: What it may use.
        instead: What holds it when the cgroup cannot.
    """

    def __init__(self, own: cgroup.Cgroup, limits: Limits, instead: Watched) -> None:
        self._own = own
        self._limits = limits
        self._watched = instead
        self._is_inside = False

    def enter(self, pid: int) -> None:
        """See `Holder.enter`."""
        self._watched.enter(pid)
        with contextlib.suppress(OSError):
            self._own.limit(self._limits.memory_bytes, self._limits.processes)
            self._own.enter(pid)
            self._is_inside = True

    def check(self, held: Sequence[Process]) -> Exceeded | None:
        """See `Holder.check`."""
        return None if self._is_inside else self._watched.check(held)

    def kill(self) -> None:
        """See `Holder.kill`."""
        self._own.kill()

    def explain(self, exited: Exit) -> Exceeded | None:
        """See `Holder.explain`."""
        if not self._is_inside:
            return self._watched.explain(exited)
        if self._own.count("memory.events", "oom_kill"):
            if self._limits.memory_bytes and self._own.count("memory.events", "oom"):
                return out_of_memory(self._limits.memory_bytes)
            return machine_out_of_memory()
        if self._own.count("pids.events", "max"):
            return too_many_processes(self._limits.processes)
        return None

    def close(self) -> bool:
        """See `Holder.close`."""
        return self._own.remove()


class OomKills:
    """How often the system has killed processes because memory ran out."""

    def __init__(self) -> None:
        self._seen = [cgroup.count_oom_kills()]

    def look(self) -> None:
        """Remembers how it is now."""
        # Three: a large process may take longer to end than from one look to the next.
        self._seen = [*self._seen[-2:], cgroup.count_oom_kills()]

    def recently(self) -> bool:
        """Whether it has since the third last look."""
        return cgroup.count_oom_kills() > self._seen[0]


def out_of_memory(limit_bytes: int, used_bytes: int | None = None) -> Exceeded:
    """An attempt reached its limit; what it used, where that is known."""
    limit = f"{_size(limit_bytes)}, the memory that it asked for"
    used = f"needed more than {limit}" if used_bytes is None else f"used {_size(used_bytes)}, its limit is {limit}"
    return Exceeded(f"out of memory: it {used}; let it ask for more, or use less", out_of_memory=True)


def machine_out_of_memory() -> Exceeded:
    """There was none left for anybody."""
    return Exceeded(
        "out of memory: this machine, or the container that the worker is in, had none left, and the system killed it;"
        " let each task ask for the memory that it needs, so that fewer run at once",
        out_of_memory=True,
    )


def too_many_processes(limit: int, count: int | None = None) -> Exceeded:
    """An attempt reached its limit; how many it had, where that is known."""
    had = "wanted more" if count is None else f"had {count}"
    return Exceeded(f"too many processes: with threads it {had}, its limit is {limit} (iris up --max-processes)")


def default_max_processes() -> int:
    """How many processes and threads an attempt may have: half of what the worker could have itself, so that others
    go on when it forks without end."""
    own = [cgroup.smallest_pids_limit()]
    for name in ("pid_max", "threads-max"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/sys/kernel/{name}") as file:
            own.append(int(file.read()))
    user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if user != resource.RLIM_INFINITY and os.geteuid() != 0:
        own.append(user)
    return max(1, min([_MOST_PROCESSES, *(limit // 2 for limit in own if limit is not None)]))


def offer_to_the_system(pid: int) -> None:
    """When the machine's memory runs out, the system shall end a task, rather than a worker or the controller. What the
    process starts inherits that."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/oom_score_adj") as file:
            own = int(file.read())
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(min(own + _OOM_SCORE, 1000)))


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MiB"
