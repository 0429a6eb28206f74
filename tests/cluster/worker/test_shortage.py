"""Shortages of a worker's machine are recognised from errors and measurements."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from iris.cluster.worker.process.shortage import WorkerHeadroom, WorkerShortageError, shortage_of
from iris.errors import EntrypointError


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk or its inodes are full"),
        (errno.EDQUOT, "disk or its inodes are full"),
        (errno.EROFS, "disk cannot be written"),
        (errno.EIO, "disk cannot be written"),
        (errno.EMFILE, "ulimit -Hn"),
        (errno.ENFILE, "ulimit -Hn"),
        (errno.EAGAIN, "ulimit -u"),
        (errno.ENOMEM, "no memory left"),
    ],
)
def test_start_error_caused_by_the_machine_is_a_shortage(number: int, words: str) -> None:
    short = shortage_of(OSError(number, os.strerror(number), "/some/file"))
    assert short is not None
    assert words in str(short)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "x"), PermissionError(13, "x"), EntrypointError("x")])
def test_start_error_caused_by_the_job_is_no_shortage(error: Exception) -> None:
    assert shortage_of(error) is None


def test_failed_starts_in_a_row_pause_new_starts_longer_each_time(tmp_path: Path) -> None:
    now_s = 0.0
    headroom = WorkerHeadroom([tmp_path / "not" / "there" / "yet"], lambda: now_s)
    assert headroom.shortage() == ""
    rests = []
    for _ in range(6):
        headroom.start_failed(WorkerShortageError("no more processes"))
        began_s = now_s
        while headroom.shortage():
            assert headroom.shortage() == "no more processes"
            now_s += 1
        rests.append(now_s - began_s)
    assert rests == [5, 10, 20, 40, 60, 60]
    headroom.start_failed(WorkerShortageError("no more processes"))
    headroom.started()
    assert headroom.shortage() == ""
