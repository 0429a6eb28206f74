"""Shortages of a worker's machine are recognised from errors and measurements."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from iris.cluster.worker.process.shortage import WorkerHeadroom, WorkerShortageError, shortage_of
from iris.errors import EntrypointError
from iris.reasons import NO_SHORTAGE, Shortage, ShortageCode

SHORTAGE = Shortage("no more processes", ShortageCode.PROCESSES)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, ShortageCode.DISK_SPACE, "device (/some/file); remove files there"),
        (errno.EDQUOT, ShortageCode.DISK_SPACE, "disk or its inodes are full"),
        (errno.EROFS, ShortageCode.DISK_UNUSABLE, "disk cannot be written"),
        (errno.EIO, ShortageCode.DISK_UNUSABLE, "disk cannot be written"),
        (errno.EMFILE, ShortageCode.FILE_DESCRIPTORS, "ulimit -Hn"),
        (errno.ENFILE, ShortageCode.FILE_DESCRIPTORS, "ulimit -Hn"),
        (errno.EAGAIN, ShortageCode.PROCESSES, "ulimit -u"),
        (errno.ENOMEM, ShortageCode.MEMORY, "no memory left"),
    ],
)
def test_start_error_caused_by_the_machine_is_a_shortage(number: int, code: ShortageCode, words: str) -> None:
    short = shortage_of(OSError(number, os.strerror(number), "/some/file"))
    assert short is not None
    assert (short.shortage.text, short.shortage.code) == (str(short), code)
    assert words in str(short)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "x"), PermissionError(13, "x"), EntrypointError("x")])
def test_start_error_caused_by_the_job_does_not_count_as_a_shortage(error: Exception) -> None:
    assert shortage_of(error) is None


def test_failed_starts_in_a_row_pause_new_starts_longer_each_time(tmp_path: Path) -> None:
    now_s = 0.0
    headroom = WorkerHeadroom([tmp_path / "not" / "there" / "yet"], lambda: now_s)
    assert headroom.shortage() == NO_SHORTAGE
    rests = []
    for _ in range(6):
        headroom.start_failed(WorkerShortageError(SHORTAGE))
        began_s = now_s
        while headroom.shortage():
            assert headroom.shortage() == SHORTAGE
            now_s += 1
        rests.append(now_s - began_s)
    assert rests == [5, 10, 20, 40, 60, 60]
    headroom.start_failed(WorkerShortageError(SHORTAGE))
    headroom.started()
    assert headroom.shortage() == NO_SHORTAGE
