"""Files that are written as a whole."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iris.system.files import create_file, write_file


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_written_file_is_private_and_leaves_no_temporary_file(tmp_path: Path, durable: bool, shared: bool) -> None:
    path = tmp_path / "file"
    write_file(path, "old", durable=durable, shared=shared)
    write_file(path, "né", durable=durable, shared=shared)
    assert path.read_bytes() == "né".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_temporary_file_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    rest = tmp_path / "file.new"
    rest.write_text("half")
    rest.chmod(0o644)
    write_file(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


_FULL = """
import sys
from pathlib import Path
from iris.system.files import write_file
write_file(Path(sys.argv[1]), b"x" * 100_000)
"""


def test_failed_write_keeps_old_content_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def limit_file_size() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    ended = subprocess.run(
        [sys.executable, "-B", "-c", _FULL, str(path)], preexec_fn=limit_file_size, capture_output=True, text=True
    )
    assert "File too large" in ended.stderr
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_file_that_exists_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert create_file(path, "first", durable=True)
    assert not create_file(path, "second")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["key"]


def test_file_created_by_many_threads_keeps_the_content_of_the_first_thread(tmp_path: Path) -> None:
    path = tmp_path / "key"
    won: list[str] = []
    barrier = threading.Barrier(8)

    def create(name: str) -> None:
        barrier.wait()
        if create_file(path, name):
            won.append(name)

    threads = [threading.Thread(target=create, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [path.read_text()]
