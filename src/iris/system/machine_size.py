"""The memory and the disk of this machine."""

from __future__ import annotations

import os
import shutil


def total_memory_bytes() -> int:
    """Return the size of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def total_disk_bytes(path: str = "/") -> int:
    """Return the size of the file system that contains a path."""
    return shutil.disk_usage(path).total
