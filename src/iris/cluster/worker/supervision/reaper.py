"""Nothing that an attempt started may outlive it, not even when its worker is killed with -9.

Three nets. A process group: each attempt has one, and the worker (or, after its death, the reaper) kills it. A mark in
the environment, for what left the group: children inherit it, and it can be read in /proc. The worker also is the
"subreaper" of its descendants, so that what lost its parent becomes the worker's child, where it is found quickly. And
where the worker may make them, a cgroup for each attempt (cgroup.py), which nothing leaves.

The reaper is a small process that the worker forks before anything else, in a session of its own. It waits for the
end of a pipe whose other end only the worker has. Where there are no cgroups, what clears its environment *and* leaves
its group can escape it, but only when the worker is killed with -9.

It also holds the worker to its lease (lease.py). A worker that is stopped, or hangs, cannot end its attempts: when the
deadline that it told last has passed, its reaper kills it, and then does the same as after any other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import time

from iris.cluster.worker.limits import cgroup
from iris.cluster.worker.process.launcher import Launcher
from iris.system.process_identity import identify_process

MARK_VARIABLE = "IRIS_ATTEMPT_MARK"
_PR_SET_CHILD_SUBREAPER = 36
_PASSES = 50  # what is killed may have forked in between; each pass finds the children of the one before
_CALM_PASSES = 2
_PASS_PAUSE_S = 0.01
_LOOK_S = 0.5  # a timer does not count the time in which the machine was suspended: look at the clock again


def clock_s() -> float:
    """A clock that nobody sets, and that counts the time in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def become_subreaper() -> None:
    """Makes orphaned descendants children of this process. Without effect where the kernel does not know it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def make_mark(worker_token: str, attempt_number: int, outer: str) -> str:
    """The mark of an attempt. `outer` is the mark of the attempt that this worker itself runs in, if any."""
    own = f"{worker_token}.{attempt_number}"
    return f"{outer},{own}" if outer else own


def is_marked(pid: int, prefix: str) -> bool:
    """Whether the process inherited a mark that starts with `prefix`: a worker's token, or one attempt's mark."""
    name = MARK_VARIABLE.encode() + b"="
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return False  # gone, or not ours
    marks = next((variable[len(name) :] for variable in variables if variable.startswith(name)), None)
    if marks is None:
        return False  # also for an empty prefix, which would fit every process of this machine
    wanted = prefix.encode()
    return any(part == wanted or part.startswith(wanted + b".") for part in marks.split(b","))


class Reaper:
    """The worker's side of its reaper: tells it of the process groups that run.

    Attributes:
        pid: The reaper's process.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe  # closed on exec: only this process holds it, and its end is how the reaper learns of ours

    def group_started(self, group: int) -> None:
        """A process group runs."""
        self._tell(b"+%d\n" % group)

    def group_ended(self, group: int) -> None:
        """Nothing of the group is left, its id may be given to others."""
        self._tell(b"-%d\n" % group)

    def set_deadline(self, at_s: float) -> None:
        """When, by `clock_s`, this worker is to be killed unless another deadline is set before; inf: never."""
        self._tell(b"=%s\n" % repr(at_s).encode())

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # without its reaper a worker still ends its attempts itself
            os.write(self._pipe, line)


def start_reaper(worker_token: str, launcher: Launcher | None = None) -> Reaper:
    """Forks the reaper of this process; call it before there are threads.

    Args:
        worker_token: Begins the marks of what this worker starts.
        launcher: What starts it.
    """
    reading, writing = os.pipe()
    worker_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            known = None
            if launcher is not None:
                known = launcher.pid, identify_process(launcher.pid)
                launcher.close()  # the connection ends with the worker
            _reap_at_end(reading, worker_token, worker_pid, known)
        finally:
            os._exit(0)
    os.close(reading)
    return Reaper(pid, writing)


def _reap_at_end(reading: int, worker_token: str, worker_pid: int, launcher: tuple[int, str] | None) -> None:
    """1. Waits for the worker's end, or for its deadline.
    2. Kills the worker, and its launcher. First of all: nobody would see what they start after step 3.
    3. Kills the groups of its attempts, then what carries its mark, until nothing of that is found twice in a row: a
       process that was being started takes a moment until it shows its mark.
    """
    groups = _wait_for_end(reading)
    with contextlib.suppress(OSError):
        if os.getppid() == worker_pid:
            os.kill(worker_pid, signal.SIGKILL)
    if launcher is not None:
        _kill_launcher(*launcher)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    parent = cgroup.find_parent()
    if parent is not None:
        parent.sweep(f"{worker_token}.", kill=True)
    kill_marked(worker_token)


def _kill_launcher(pid: int, identity: str) -> None:
    """Returns when it is gone: by its identity, since its process id may be another's by now."""
    for _ in range(_PASSES):
        if not identity or identify_process(pid) != identity:
            return
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(_PASS_PAUSE_S)


def _wait_for_end(reading: int) -> set[int]:
    """The process groups that run when the worker ends, or its deadline has passed."""
    groups: set[int] = set()
    deadline_s = math.inf
    rest = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while True:
        left_s = deadline_s - clock_s()
        # What was told counts before the deadline: when we were slow it may have been renewed meanwhile.
        if not poll.poll(max(0.0, min(left_s, _LOOK_S)) * 1000 if left_s < math.inf else None):
            if left_s <= 0:
                return groups
            continue
        told = os.read(reading, 65536)
        if not told:
            return groups
        *lines, rest = (rest + told).split(b"\n")
        for line in lines:
            if line[:1] == b"+":
                groups.add(int(line[1:]))
            elif line[:1] == b"-":
                groups.discard(int(line[1:]))
            else:
                deadline_s = float(line[1:])


def kill_marked(worker_token: str) -> None:
    """Kills what carries the mark of a worker that has ended."""
    calm = 0
    for _ in range(_PASSES):
        marked = [pid for pid in all_pids() if is_marked(pid, worker_token)]
        for pid in marked:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        calm = 0 if marked else calm + 1
        if calm == _CALM_PASSES:
            return
        time.sleep(_PASS_PAUSE_S)


def all_pids() -> list[int]:
    """The processes of this machine, without this one."""
    own = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]


def orphans(known: set[int]) -> list[int]:
    """The children of this process that it did not start itself: what lost its parent and came to its subreaper."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split() if int(pid) not in known]
    except OSError:
        return []  # a kernel without CONFIG_PROC_CHILDREN
