"""Identifies processes by their ids and start times, because process ids are reused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from iris.system.clock import boot_id


def identify_process(pid: int) -> str:
    """Return a text that identifies a process among all processes that ever have the same id. The text is empty if the
    process has ended or is a zombie.
    """
    try:
        # The manual page proc(5) lists the fields. After the process's name in parentheses, the first field is the
        # state and the 20th field is the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    boot = boot_id()
    return f"{boot}/{fields[19]}" if boot and fields[0] not in "ZX" else ""


def runs_program(pid: int, module: str, *words: str) -> bool:
    """Return whether a process of this user runs `python -m module` with the given words in a row on its command line.

    Call this function before a signal is sent to a process whose id was read from a file, because the file may be a
    copy or come from a backup.
    """
    try:
        is_ours = os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False
    command = command_line(pid)
    return is_ours and _has_row(command, ("-m", module)) and (not words or _has_row(command, words))


def process_name(pid: int) -> str:
    """Return the name of a process, at most 15 characters, as `ps` and `top` show it. The name is empty if the process
    has ended.
    """
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="surrogateescape").removesuffix("\n")
    except OSError:
        return ""


def set_process_name(name: str) -> bool:
    """Set the name of this process, which `ps -e` and `top` show. Linux keeps the first 15 bytes. Return whether the
    name was set.
    """
    try:
        Path("/proc/self/comm").write_text(name)
    except OSError:
        return False
    return True


def command_line(pid: int) -> list[str]:
    """Return the words of a process's command line. The list is empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return []


def _has_row(words: Sequence[str], row: Sequence[str]) -> bool:
    return any(tuple(words[i : i + len(row)]) == tuple(row) for i in range(len(words)))


def own_place() -> str:
    """Return a text that is equal for two processes that see the same files as the same user.

    The returned text consists of the id of the machine's boot, the mount namespace of this process, and the user. If
    the system does not provide these facts, the text is empty.
    """
    boot = boot_id()
    try:
        mounts = os.readlink("/proc/self/ns/mnt")
    except OSError:
        return ""
    # The mount namespaces of two machines may have equal numbers. Only the boot id then distinguishes the machines.
    if not boot:
        return ""
    return hashlib.sha256(f"{boot}/{mounts}/{os.getuid()}".encode()).hexdigest()[:32]
