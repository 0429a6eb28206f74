"""A cgroup (version 2) for each attempt, where this process may make them; see cgroups(7).

A cgroup whose controllers are given on to cgroups below it may hold no processes itself, the root alone excepted. So
the place for the cgroups of attempts is the one that this process is in, if that is ours to use (a systemd unit with
`Delegate=yes`, or a container) and nobody else is in it: the server makes room by moving itself one step down.
Nothing outside of the own cgroup is touched, and no process is moved that is not ours.

The reaper imports this module and stays small: nothing of the rest of Iris is imported here.
"""

from __future__ import annotations

import contextlib
import os
import time

_CONTROLLERS = frozenset({"memory", "pids"})
_SERVER = "iris-server"
_PREFIX = "iris-"
_REMOVE_S = 2.0
_PAUSE_S = 0.01


def move_into_child_cgroup() -> None:
    """Moves this process one step down in its cgroup, so that attempts can have cgroups beside it. Call it before
    others are started. Does nothing where that would not help."""
    place = find_parent()
    if place is None or not os.path.exists(f"{place.path}/cgroup.type"):  # the root, which may hold processes
        return
    with contextlib.suppress(OSError):
        os.makedirs(f"{place.path}/{_SERVER}", exist_ok=True)
        _write(f"{place.path}/{_SERVER}/cgroup.procs", str(os.getpid()))


def find_parent() -> CgroupParent | None:
    """Where this process may make cgroups; None where it may not, or memory and pids cannot be limited there."""
    mount, own = _mount_point(), _own_path()
    if mount is None or own is None:
        return None
    if os.path.basename(own) == _SERVER:
        own = os.path.dirname(own)
    path = mount if own == "/" else mount + own
    if not set(_read(f"{path}/cgroup.controllers").split()) >= _CONTROLLERS:
        return None
    needed = (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control")
    if not all(os.access(name, os.W_OK) for name in needed):
        return None
    # What looks like the root is one, or a container's. Elsewhere systemd says whether it has given the cgroup away.
    return CgroupParent(path) if own == "/" or _is_delegated(path) else None


class CgroupParent:
    """The cgroup below which those of attempts are made.

    Attributes:
        path: Its directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def make(self, name: str) -> Cgroup | None:
        """A new cgroup, `name` part of its name; None: not now, processes that are not ours are in this one too."""
        try:
            given = set(_read(f"{self.path}/cgroup.subtree_control").split())
            if not given >= _CONTROLLERS:
                _write(f"{self.path}/cgroup.subtree_control", "+memory +pids")
            return Cgroup(f"{self.path}/{_PREFIX}{name}")
        except OSError:
            return None

    def sweep(self, name: str = "", *, kill: bool = False) -> None:
        """Removes cgroups in which nothing runs, of workers that ended before they could.

        Args:
            name: Only those whose names start like that.
            kill: Ends what runs there first: they are of a worker that is gone.
        """
        left = [f"{self.path}/{one}" for one in _folders(self.path) if one.startswith(_PREFIX + name)]
        left = [path for path in left if os.path.basename(path) != _SERVER]
        end_s = time.monotonic() + _REMOVE_S
        while left:
            for path in left:
                if kill:
                    with contextlib.suppress(OSError):
                        _write(f"{path}/cgroup.kill", "1")
            left = [path for path in left if not _remove(path)]
            if not kill or time.monotonic() > end_s:
                return
            time.sleep(_PAUSE_S)


class Cgroup:
    """The cgroup of one attempt, made when this is.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        os.mkdir(path)

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Sets limits; 0: none. When memory runs out all of its processes are killed, not the largest one.

        Raises:
            OSError: A limit cannot be set.
        """
        if processes:
            _write(f"{self._path}/pids.max", str(processes))
        if memory_bytes:
            _write(f"{self._path}/memory.max", str(memory_bytes))
            with contextlib.suppress(OSError):  # a kernel that cannot swap
                _write(f"{self._path}/memory.swap.max", "0")
        with contextlib.suppress(OSError):  # before Linux 4.19
            _write(f"{self._path}/memory.oom.group", "1")

    def enter(self, pid: int) -> None:
        """Moves a process here, with what it has started in the meantime; one that is gone is fine.

        Raises:
            OSError: It cannot be moved.
        """
        with contextlib.suppress(ProcessLookupError):
            _write(f"{self._path}/cgroup.procs", str(pid))
            for child in _read(f"/proc/{pid}/task/{pid}/children").split():
                self.enter(int(child))

    def count(self, name: str, event: str) -> int:
        """How often something has happened here: an event of `memory.events` or `pids.events`."""
        return _count(f"{self._path}/{name}", event)

    def kill(self) -> None:
        """Kills all processes in it; without effect before Linux 5.14."""
        with contextlib.suppress(OSError):
            _write(f"{self._path}/cgroup.kill", "1")

    def remove(self) -> bool:
        """Removes it; False where something in it is still ending."""
        return _remove(self._path)


def count_oom_kills() -> int:
    """How many processes the system has killed since memory ran out: in the cgroup that this process is in (or, where
    it is in none, on the whole machine)."""
    mount, own = _mount_point(), _own_path()
    if mount is not None and own is not None and os.path.exists(f"{mount}{own}/memory.events"):
        return _count(f"{mount}{own}/memory.events", "oom_kill")
    return _count("/proc/vmstat", "oom_kill")


def smallest_pids_limit() -> int | None:
    """The tightest `pids.max` of the cgroup that this process is in and those above it; None: there is none."""
    mount, own = _mount_point(), _own_path()
    if mount is None or own is None:
        return None
    limits = [_read(f"{mount}{path}/pids.max").strip() for path in with_those_above(own)]
    return min((int(limit) for limit in limits if limit.isdigit()), default=None)


def with_those_above(path: str) -> list[str]:
    """A cgroup and those above it, up to the root: what looks like that is a container's, and may have limits."""
    found = [path]
    while found[-1] != "/":
        found.append(found[-1].rpartition("/")[0] or "/")
    return found


def _mount_point() -> str | None:
    """Where the hierarchy of version 2 is mounted, from its root on."""
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        root, mounted_at = fields.split()[3:5]
        if kind.startswith("cgroup2 ") and root == "/":
            return mounted_at.replace("\\040", " ")
    return None


def _own_path() -> str | None:
    """The cgroup of this process, from that root on; None where it lies outside of what we see."""
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::/") and not line.startswith("0::/.."):
            return line[3:]
    return None


def _is_delegated(path: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    return False


def _remove(path: str) -> bool:
    """Removes a cgroup in which nothing runs, with the ones below it; True when it is gone."""
    if _count(f"{path}/cgroup.events", "populated"):
        return False
    for name in _folders(path):
        _remove(f"{path}/{name}")
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _count(path: str, event: str) -> int:
    for line in _read(path).splitlines():
        name, _, number = line.partition(" ")
        if name == event:
            return int(number)
    return 0


def _folders(path: str) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""  # not there: no Linux, no cgroups of version 2, or not this controller


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
