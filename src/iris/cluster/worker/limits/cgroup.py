"""Creates a cgroup (version 2) for each attempt, if this process may create cgroups; see cgroups(7).

The cgroups of attempts are children of the cgroup in which the Iris server was started. A cgroup that enables
controllers for its children cannot contain processes itself, unless it is the root. Therefore the server moves itself
into a child cgroup. The server's cgroup must be delegated to Iris (a systemd unit with `Delegate=yes`, or a container),
and must contain no foreign processes. Iris changes nothing outside its own cgroup and moves only its own processes.

The reaper imports this module and must stay small, so this module imports nothing else of Iris.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time

_CONTROLLERS = frozenset({"memory", "pids"})
_SERVER = "iris-server"
_PREFIX = "iris-"
_REMOVE_S = 2.0
_PAUSE_S = 0.01


def move_into_child_cgroup() -> None:
    """Move this process into a child of its cgroup, so that attempts can have cgroups beside the process's new cgroup.
    Call this function before starting other processes. The function does nothing if this process cannot create cgroups.
    """
    place = find_parent()
    # The root cgroup, which has no file `cgroup.type`, may contain processes. Therefore this process can stay there.
    if place is None or not os.path.exists(f"{place.path}/cgroup.type"):
        return
    with contextlib.suppress(OSError):
        os.makedirs(f"{place.path}/{_SERVER}", exist_ok=True)
        _write(f"{place.path}/{_SERVER}/cgroup.procs", str(os.getpid()))


def find_parent() -> CgroupParent | None:
    """Return the cgroup below which this process may create cgroups that limit memory and processes; None if there is
    none.
    """
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
    # The path `/` means the root cgroup or, in a container, the container's cgroup. In any other cgroup, Iris may
    # create cgroups only if systemd has marked the cgroup as delegated.
    return CgroupParent(path) if own == "/" or _is_delegated(path) else None


class CgroupParent:
    """The cgroup below which the cgroups of attempts are created.

    Args:
        path: The directory of the cgroup.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def make(self, name: str) -> Cgroup | None:
        """Create and return a cgroup whose name ends with `name`. Return None if the cgroup cannot be created, for
        example because the parent contains foreign processes now.
        """
        try:
            given = set(_read(f"{self.path}/cgroup.subtree_control").split())
            if not given >= _CONTROLLERS:
                _write(f"{self.path}/cgroup.subtree_control", "+memory +pids")
            return Cgroup(f"{self.path}/{_PREFIX}{name}")
        except OSError:
            return None

    def sweep(self, name: str = "", *, kill: bool = False) -> None:
        """Remove empty cgroups left behind by killed workers.

        Args:
            name: The beginning of the names of the cgroups to remove, without the common prefix.
            kill: Whether to kill the processes in these cgroups first, because their worker is gone.
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
    """The cgroup of one attempt. Creating the object creates the cgroup.

    Args:
        path: The directory of the cgroup.

    Raises:
        OSError: The cgroup cannot be created.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        os.mkdir(path)

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Set the limits of this cgroup. 0 means no limit. When memory runs out, the kernel kills all processes of the
        cgroup together.

        Raises:
            OSError: A limit cannot be set.
        """
        if processes:
            _write(f"{self._path}/pids.max", str(processes))
        if memory_bytes:
            _write(f"{self._path}/memory.max", str(memory_bytes))
            # The error is ignored, because a kernel without swap has no file memory.swap.max.
            with contextlib.suppress(OSError):
                _write(f"{self._path}/memory.swap.max", "0")
        # The error is ignored, because Linux before 4.19 has no file memory.oom.group.
        with contextlib.suppress(OSError):
            _write(f"{self._path}/memory.oom.group", "1")

    def enter(self, pid: int) -> None:
        """Move a process and its children into this cgroup. A process that has already ended is ignored.

        Raises:
            OSError: The process cannot be moved.
        """
        with contextlib.suppress(ProcessLookupError):
            _write(f"{self._path}/cgroup.procs", str(pid))
            for child in _read(f"/proc/{pid}/task/{pid}/children").split():
                self.enter(int(child))

    def count(self, name: str, event: str) -> int:
        """Return how many times an event has happened in this cgroup, according to the kernel's file `memory.events` or
        `pids.events`.
        """
        return _count(f"{self._path}/{name}", event)

    def kill(self) -> None:
        """Kill all processes in this cgroup. Linux before 5.14 ignores the request."""
        with contextlib.suppress(OSError):
            _write(f"{self._path}/cgroup.kill", "1")

    def remove(self) -> bool:
        """Remove this cgroup. Return False if a process in the cgroup is still ending."""
        return _remove(self._path)


def count_oom_kills() -> int:
    """Return how many processes the system has killed because memory ran out. The kills are counted in this process's
    own cgroup and the cgroups below it, or on the whole machine if this cgroup does not count them.
    """
    mount, own = _mount_point(), _own_path()
    if mount is not None and own is not None and os.path.exists(f"{mount}{own}/memory.events"):
        return _count(f"{mount}{own}/memory.events", "oom_kill")
    return _count("/proc/vmstat", "oom_kill")


def smallest_pids_limit() -> int | None:
    """Return the smallest limit on processes (`pids.max`) among this process's cgroup and all cgroups above it. Return
    None if none of these cgroups has such a limit.
    """
    mount, own = _mount_point(), _own_path()
    if mount is None or own is None:
        return None
    limits = [_read(f"{mount}{path}/pids.max").strip() for path in with_those_above(own)]
    return min((int(limit) for limit in limits if limit.isdigit()), default=None)


def with_those_above(path: str) -> list[str]:
    """Return a cgroup and all cgroups above this cgroup, up to the root. The result ends with the visible root. In a
    container, this root is the container's own cgroup, which may have limits.
    """
    found = [path]
    while found[-1] != "/":
        found.append(found[-1].rpartition("/")[0] or "/")
    return found


@functools.cache  # The table of mounts can be long, and the mount point does not change while this process runs.
def _mount_point() -> str | None:
    """Return the mount point of the cgroup hierarchy (version 2). Return None if only a part of the hierarchy is
    mounted.
    """
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, kind = line.partition(" - ")
        root, mounted_at = fields.split()[3:5]
        if kind.startswith("cgroup2 ") and root == "/":
            return mounted_at.replace("\\040", " ")
    return None


def _own_path() -> str | None:
    """Return the path of this process's cgroup below the mount point; None if the cgroup lies outside the mount."""
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
    """Remove a cgroup without processes, together with the cgroups below it. Return whether the cgroup is gone."""
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
        # A missing file counts as empty. It is missing on systems other than Linux, on systems without cgroups of
        # version 2, and if the cgroup controller for this limit is not enabled.
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
