"""Puts the temporary files of the tests into memory.

Clusters of tests create and delete many small files. After thousands of deletions, some file systems need twenty times
longer for a new file. Databases of tests also wait for a disk.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil

_MEMORY = Path("/dev/shm")
_LEAST_BYTES = 6 * 2**30


def use_memory() -> None:
    """Set TMPDIR to a directory in memory, unless TMPDIR is set, or the machine has too little memory.

    Tests and their clusters read the variable. A test that needs a disk uses another directory.
    """
    if "TMPDIR" in os.environ or not _has_room():
        return
    directory = _MEMORY / f"iris-tests-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = (
        None  # pytest has created a temporary file already, and Python has kept the directory of that file.
    )


def _has_room() -> bool:
    """Return whether the directory in memory exists, may contain programs, and has room for the files of all tests."""
    try:
        status = os.statvfs(_MEMORY)
    except OSError:
        return False
    free = min(status.f_bavail * status.f_frsize, psutil.virtual_memory().available)
    return os.access(_MEMORY, os.W_OK) and not status.f_flag & os.ST_NOEXEC and free >= _LEAST_BYTES
