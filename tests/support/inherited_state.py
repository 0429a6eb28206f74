"""Reads the attributes that a new process inherits, in order to compare two processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Python, its libraries and the modules of Iris read these environment variables while they are loaded.
_READ_WHEN_LOADED = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "TZ", "OPENSSL", "IRIS_FAILPOINTS", "IRIS_CLOCK")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "user", "uts")
_STATUS = ("Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Cap", "NoNewPrivs", "Seccomp", "Cpus_allowed")


def inherited_state() -> list[str]:
    """Return the attributes that a new process inherits from this thread.

    The umask, the resource limits, the environment and the descriptors are left out.
    """
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    own = Path("/proc/self")
    return [
        *(line for line in lines if line.startswith(_STATUS)),
        *(os.readlink(own / "ns" / name) for name in _NAMESPACES if (own / "ns" / name).is_symlink()),
        (own / "cgroup").read_text(),
        (own / "oom_score_adj").read_text(),
        str(os.getpriority(os.PRIO_PROCESS, 0)),
    ]


def read_when_loaded(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that have an effect while a program loads its modules."""
    return {name: value for name, value in env.items() if name.startswith(_READ_WHEN_LOADED)}
