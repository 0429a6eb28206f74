"""Which process it was that had an id: ids are given again."""

from __future__ import annotations

from pathlib import Path


def identify_process(pid: int) -> str:
    """What tells a process from others that had or will have its id; empty when it is gone, or a zombie."""
    try:
        # See proc(5): the fields after the name in parentheses, state the first of them, the start time the 20th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"
