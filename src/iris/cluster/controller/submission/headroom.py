"""Keeps some disk space, inodes and file descriptors of the controller free, by refusing new jobs and streams.

The headroom serves the jobs that the controller has already accepted. With the headroom, the controller can still save
the reports of running attempts, answer read calls, and end jobs.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from iris.errors import ResourceExhaustedError, UnavailableError
from iris.reasons import ErrorReason
from iris.system.event_loop import open_file_limit

DISK_HEADROOM_BYTES = 64 * 1024 * 1024
INODE_HEADROOM = 1000  # Iris needs free inodes for files of the database, of workers and of logs.
_INODE_SHARE = 20  # On a disk with few inodes, one twentieth of all inodes is kept free.
# Calls, connections to workers and logs need these descriptors. A process with few descriptors keeps a quarter free.
DESCRIPTOR_HEADROOM = 64
_DESCRIPTORS = "/proc/self/fd"


class Headroom:
    """Checks the free disk space, inodes and file descriptors before each new job and stream.

    Args:
        directory: The state directory; None if the controller stores nothing on a disk.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def check_job(self, size: int) -> None:
        """Refuse a new job if the job would use the headroom of the disk.

        Args:
            size: The size of the submission in bytes.

        Raises:
            ResourceExhaustedError: Too little disk space or too few inodes are left. The message names the resource and
                what to do.
        """
        if self._directory is not None:
            disk = os.statvfs(self._directory)
            # File systems that create inodes on demand report a total of 0 inodes.
            if disk.f_files and disk.f_favail < min(INODE_HEADROOM, disk.f_files // _INODE_SHARE):
                raise ResourceExhaustedError(
                    f"the disk of the controller has hardly any inodes left: {disk.f_favail} of {disk.f_files} in"
                    f" {self._directory}. Running jobs continue. Remove files there",
                    reason=ErrorReason.SHORTAGE,
                )
            free = disk.f_bavail * disk.f_frsize
            # The submission is written twice: to the database's log, and then to the database.
            if free < DISK_HEADROOM_BYTES + 2 * size:
                raise ResourceExhaustedError(
                    f"the disk of the controller is nearly full: {free // 2**20} MiB are free in {self._directory},"
                    f" and {(DISK_HEADROOM_BYTES + 2 * size) // 2**20} MiB are needed to accept this job."
                    " Running jobs continue. Free some space there, or end the jobs that fill the disk",
                    reason=ErrorReason.SHORTAGE,
                )
        if not self._has_descriptors():
            raise ResourceExhaustedError(_descriptor_error("jobs"), reason=ErrorReason.SHORTAGE)

    def check_stream(self) -> None:
        """Refuse a new stream if the stream would use the headroom of file descriptors.

        Raises:
            UnavailableError: Hardly any file descriptors are left. The caller may try again later.
        """
        if not self._has_descriptors():
            raise UnavailableError(_descriptor_error("streams"), reason=ErrorReason.SHORTAGE)

    def _has_descriptors(self) -> bool:
        limit = open_file_limit()
        if limit == resource.RLIM_INFINITY:
            return True
        # Since Linux 6.2 the size of /proc/self/fd is the number of open descriptors. Older kernels report the size 0.
        used = os.stat(_DESCRIPTORS).st_size or len(os.listdir(_DESCRIPTORS))
        return limit - used >= min(DESCRIPTOR_HEADROOM, limit // 4)


def _descriptor_error(what: str) -> str:
    return (
        f"the controller accepts no new {what} now: nearly all of its {open_file_limit()} file descriptors are in use."
        " Running jobs continue. Close clients, or raise the hard limit (ulimit -Hn) and restart the controller"
    )
