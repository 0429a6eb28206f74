"""What the controller keeps for itself: with little left of its disk or its file descriptors it takes nothing new.

What it has goes on: reports of running attempts are heard and saved, states are told, jobs can be ended. That is what
the reserve is for.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from iris.errors import ResourceExhaustedError, UnavailableError
from iris.system.event_loop import open_file_limit

DISK_RESERVE_BYTES = 64 * 1024 * 1024
INODE_RESERVE = 1000  # files of the database, of workers and of logs
_SHARE = 20  # of a disk with few inodes: one part in so many
# Calls of workers and of those who look, connections to workers, logs. Of a very low limit a quarter.
DESCRIPTOR_RESERVE = 64
_DESCRIPTORS = "/proc/self/fd"


class Reserve:
    """Looks at what is left, whenever something new comes.

    Args:
        directory: Where the controller's memory is; None when it is on no disk.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def check_job(self, size: int) -> None:
        """Whether a job may come that brings so many bytes.

        Raises:
            ResourceExhaustedError: There is too little left of something; the text says of what, and what to do.
        """
        if self._directory is not None:
            disk = os.statvfs(self._directory)
            # Some file systems make inodes as they need them, and count none.
            if disk.f_files and disk.f_favail < min(INODE_RESERVE, disk.f_files // _SHARE):
                raise ResourceExhaustedError(
                    f"the disk of the controller has hardly any inodes left: {disk.f_favail} of {disk.f_files} in"
                    f" {self._directory}; what runs goes on; remove files there"
                )
            free = disk.f_bavail * disk.f_frsize
            # What comes is written twice: to the log of the database, then to its place.
            if free < DISK_RESERVE_BYTES + 2 * size:
                raise ResourceExhaustedError(
                    f"the disk of the controller is nearly full: {free // 2**20} MiB are free in {self._directory},"
                    f" and {(DISK_RESERVE_BYTES + 2 * size) // 2**20} MiB are needed to take this job;"
                    " what runs goes on; make room there, or end what fills it"
                )
        if not self._has_descriptors():
            raise ResourceExhaustedError(self._words("jobs"))

    def check_stream(self) -> None:
        """Whether a stream may be opened.

        Raises:
            UnavailableError: Not now: there are hardly any file descriptors left. It is worth another try.
        """
        if not self._has_descriptors():
            raise UnavailableError(self._words("streams"))

    def _has_descriptors(self) -> bool:
        limit = open_file_limit()
        if limit == resource.RLIM_INFINITY:
            return True
        # Linux says how many there are as the size of the directory, since 6.2; before, they have to be counted.
        used = os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))
        return limit - used >= min(DESCRIPTOR_RESERVE, limit // 4)

    @staticmethod
    def _words(what: str) -> str:
        return (
            f"the controller takes no new {what} now: it has nearly all of the {open_file_limit()} files and"
            " connections open that it may have; what runs goes on; close clients, or raise its hard limit (ulimit -Hn)"
            " and start it again"
        )
