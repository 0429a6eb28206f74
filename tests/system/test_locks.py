"""Locks on files that processes share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from support.waiting import wait_until

from iris.system.locks import try_lock, try_lock_directory, wait_for_lock


def test_locked_file_cannot_be_locked_again_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = try_lock(path)
    assert held is not None
    assert try_lock(path) is None
    os.close(held)
    again = try_lock(path)
    assert again is not None
    os.close(again)


def test_lock_of_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = "import sys, pathlib; from iris.system.locks import try_lock; try_lock(pathlib.Path(sys.argv[1]))"
    program += "; print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert try_lock(path) is None
        holder.kill()
    held = try_lock(path)
    assert held is not None
    os.close(held)


def test_locked_directory_cannot_be_locked_again(tmp_path: Path) -> None:
    held = try_lock_directory(tmp_path)
    assert held is not None
    assert try_lock_directory(tmp_path) is None
    os.close(held)


def test_wait_for_lock_locks_the_file_that_exists_when_the_lock_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = wait_for_lock(path)
    locked: list[int] = []
    waiting = threading.Thread(target=lambda: locked.append(wait_for_lock(path)))
    waiting.start()
    path.unlink()  # whoever waits has perhaps opened this file already: it is nobody's any more
    path.touch()
    os.close(first)
    wait_until(lambda: locked, "the lock is taken")
    waiting.join()
    assert os.fstat(locked[0]).st_ino == path.stat().st_ino
    assert try_lock(path) is None
    os.close(locked[0])
