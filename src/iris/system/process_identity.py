"""Which process it was that had an id, since ids are given again; and where this process is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from iris.system.clock import boot_id


def identify_process(pid: int) -> str:
    """What tells a process from others that had or will have its id; empty when it is gone, or a zombie."""
    try:
        # See proc(5): the fields after the name in parentheses, state the first of them, the start time the 20th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    boot = boot_id()
    return f"{boot}/{fields[19]}" if boot and fields[0] not in "ZX" else ""


def runs_program(pid: int, module: str, *words: str) -> bool:
    """Return whether a process of this user runs `python -m module`, with these words in a row on its command line.

    Asked before a process is signalled that a file names: files can be copied, and restored from a backup.
    """
    try:
        is_ours = os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False
    command = command_line(pid)
    return is_ours and _has_row(command, ("-m", module)) and (not words or _has_row(command, words))


def command_line(pid: int) -> list[str]:
    """Return the words of a process's command line; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return []


def _has_row(words: Sequence[str], row: Sequence[str]) -> bool:
    return any(tuple(words[i : i + len(row)]) == tuple(row) for i in range(len(words)))


def own_place() -> str:
    """What two processes share that see the same files as the same user: boot of the machine, mount namespace, user.

    Empty where the system does not tell.
    """
    boot = boot_id()
    try:
        mounts = os.readlink("/proc/self/ns/mnt")
    except OSError:
        return ""
    if not boot:  # the first mount namespace of every machine has the same number
        return ""
    return hashlib.sha256(f"{boot}/{mounts}/{os.getuid()}".encode()).hexdigest()[:32]
