"""Kills everything that an attempt has started, even if the worker is killed with SIGKILL.

The worker and the reaper find the processes of an attempt in four ways:
* Each attempt has a process group. The worker kills this group. If the worker has ended, the reaper kills the group.
* Processes that leave the process group still inherit a mark in their environment, which is readable in /proc.
* The worker is the subreaper of its descendants. If the parent of a process ends, the process becomes a child of the
  worker, and the worker finds its children quickly.
* Where cgroups are available, no process can leave the cgroup of its attempt (cgroup.py).

The reaper is a small process with its own session, which the worker forks at its start. The reaper waits for the end of
a pipe whose other end only the worker holds. Without cgroups, a process survives if three conditions hold: the process
has cleared its environment, has left its group, and the worker is killed with SIGKILL.

The reaper also enforces the worker's lease (lease.py), because a worker that is stopped or hangs cannot kill its
attempts. When the last deadline that the worker has set has passed, the reaper kills the worker and its attempts.
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
from iris.system.process_identity import identify_process, set_process_name

MARK_VARIABLE = "IRIS_ATTEMPT_MARK"
_PR_SET_CHILD_SUBREAPER = 36
# The number of passes that kill processes. A process may fork while the reaper kills it. Therefore each further pass
# finds children that the previous pass has missed.
_PASSES = 50
_CALM_PASSES = 2
_PASS_PAUSE_S = 0.01
# Timers stand still while the machine is suspended. Therefore the clock is read at least every `_LOOK_S` seconds.
_LOOK_S = 0.5


def clock_s() -> float:
    """Return the seconds of a clock that cannot be set and that also runs while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process. On a kernel without subreapers, nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def make_mark(worker_token: str, attempt_number: int, outer: str) -> str:
    """Return the mark of an attempt.

    Args:
        worker_token: The worker's token.
        attempt_number: The number of the attempt among all attempts of its worker process.
        outer: The mark of the attempt in which the worker itself runs; empty if the worker runs in no attempt.
    """
    own = f"{worker_token}.{attempt_number}"
    return f"{outer},{own}" if outer else own


def is_marked(pid: int, prefix: str) -> bool:
    """Return whether a process belongs to an attempt, which the environment of the process names. `prefix` is the token
    of a worker, for any attempt of this worker, or the whole mark of one attempt.
    """
    name = MARK_VARIABLE.encode() + b"="
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        # The environment of this process cannot be read: the process has ended, or belongs to another user.
        return False
    marks = next((variable[len(name) :] for variable in variables if variable.startswith(name)), None)
    if marks is None:
        # A process without the variable belongs to no attempt, even if `prefix` is empty.
        return False
    wanted = prefix.encode()
    return any(part == wanted or part.startswith(wanted + b".") for part in marks.split(b","))


class Reaper:
    """The worker's connection to its reaper. The worker reports all running process groups to the reaper.

    Attributes:
        pid: The process id of the reaper.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        # Only the worker has the write end of the pipe, because this end is closed on exec. When the reaper reads the
        # end of the file, the worker has ended.
        self._pipe = pipe

    def group_started(self, group: int) -> None:
        """Report to the reaper that a process group has started."""
        self._tell(b"+%d\n" % group)

    def group_ended(self, group: int) -> None:
        """Report to the reaper that a process group has ended. The reaper must not kill the group afterwards,
        because the id of the group may then belong to other processes.
        """
        self._tell(b"-%d\n" % group)

    def set_deadline(self, at_s: float) -> None:
        """Set the time, by `clock_s`, at which the reaper kills this worker. A later call replaces the time; inf means
        never.
        """
        self._tell(b"=%s\n" % repr(at_s).encode())

    def _tell(self, line: bytes) -> None:
        # Sending to a reaper that has ended fails. The error is ignored, because the worker notices the end of its
        # reaper, kills its attempts itself, and ends.
        with contextlib.suppress(OSError):
            os.write(self._pipe, line)


def start_reaper(worker_token: str, launcher: Launcher | None = None) -> Reaper:
    """Fork the reaper of this process. Call this function before the process has threads.

    Args:
        worker_token: The worker's token. Each process of an attempt has a mark in its environment, and the mark begins
            with this token.
        launcher: The launcher, which the reaper kills together with the worker.
    """
    reading, writing = os.pipe()
    worker_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            os.setsid()
            set_process_name("iris-reaper")  # A kill of all processes with the worker's name must not kill the reaper.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            known = None
            if launcher is not None:
                known = launcher.pid, identify_process(launcher.pid)
                launcher.close()  # The worker's connection to the launcher must end with the worker.
            _reap_at_end(reading, worker_token, worker_pid, known)
        finally:
            os._exit(0)
    os.close(reading)
    return Reaper(pid, writing)


def _reap_at_end(reading: int, worker_token: str, worker_pid: int, launcher: tuple[int, str] | None) -> None:
    """Run the steps of the reaper:
    1. Wait for the end of the worker, or for the deadline.
    2. Kill the worker and its launcher, so that no new process starts after the next steps.
    3. Kill the process groups and the cgroups of the attempts. Then kill the processes with the worker's mark, until
       two passes in a row find none. A process that is just starting shows its mark only after a moment.
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
    """Kill the launcher, and wait until the launcher has ended. A process that has reused the launcher's process id is
    not killed.
    """
    for _ in range(_PASSES):
        if not identity or identify_process(pid) != identity:
            return
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(_PASS_PAUSE_S)


def _wait_for_end(reading: int) -> set[int]:
    """Wait until the worker has ended or its deadline has passed. Return the process groups that are running at that
    time.
    """
    groups: set[int] = set()
    deadline_s = math.inf
    rest = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while True:
        left_s = deadline_s - clock_s()
        # Read messages before checking the deadline, because a message may have extended the deadline while this
        # process was slow.
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
    """Kill all processes that carry the mark of a worker that has ended."""
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
    """Return the ids of all processes on this machine except this process."""
    own = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]


def orphans(known: set[int]) -> list[int]:
    """Return the children of this process whose original parents have ended. These are all children that are not in
    `known`.
    """
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split() if int(pid) not in known]
    except OSError:
        return []  # A kernel without CONFIG_PROC_CHILDREN has no file `children`, and the children are not known.
