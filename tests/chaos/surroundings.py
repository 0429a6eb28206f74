"""Controls the surroundings of a cluster: the wall clock that it reads, and the disk of its state directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

HOUR_S = 3600
STEPS_S = (-HOUR_S, 30 * HOUR_S, 40 * 24 * HOUR_S, 0)
_DISK_MIB = 192  # of which the controller keeps 64 free
FILLING = "filling"  # the file that takes all that is free


class Clock:
    """The wall clock of a cluster, which reads the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock to a time that is the given number of seconds after the right time."""
        beside = self.path.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.rename(self.path)


class Disk:
    """The disk of the state directory. As root, this is a small disk of its own, which can be filled.

    Attributes:
        is_mounted: Whether it is; else nothing is filled.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=700", "tmpfs", str(path)]
        with contextlib.suppress(FileNotFoundError):
            self.is_mounted = not subprocess.run(command, capture_output=True, check=False).returncode
            return
        self.is_mounted = False

    def fill(self) -> None:
        """Fill the disk."""
        with (self._path / FILLING).open("wb") as file:
            free = os.statvfs(self._path).f_bavail * os.statvfs(self._path).f_frsize
            while free > 0:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
                    file.seek(0, os.SEEK_END)
                free //= 2

    def make_room(self) -> None:
        """Free the space that `fill` has taken."""
        (self._path / FILLING).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount the disk. Its files stay in a directory with the same name as evidence."""
        if self.is_mounted:
            kept = self._path.with_name(f"{self._path.name}-kept")
            shutil.copytree(self._path, kept, symlinks=True, ignore_dangling_symlinks=True)
            subprocess.run(["umount", "-l", str(self._path)], check=True)
            self._path.rmdir()
            kept.rename(self._path)
            self.is_mounted = False
