"""The memory of processes, as a memory limit counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iris.cluster.worker.limits.process_table import Process, kill, memory_held, read_process

MIB = 2**20


@contextmanager
def running(program: str, *words: str) -> Iterator[Process]:
    """Start a program in a process group of its own, and wait until it says that it is ready."""
    command = [sys.executable, "-c", f"{program}\nprint(flush=True); input()", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = read_process(process.pid)
        assert seen is not None
        try:
            yield seen
        finally:
            process.kill()


@pytest.mark.parametrize(
    "block", ["b'x' * (50 << 20)", "mmap.mmap(-1, 50 << 20)"], ids=["private memory", "shared memory"]
)
def test_measured_memory_of_processes_includes_private_memory(block: str) -> None:
    touch = "for page in range(0, len(block), 4096): block[page]" + (" = 1" if "mmap" in block else "")
    with running("import mmap") as small, running(f"import mmap; block = {block}\n{touch}") as large:
        assert 50 * MIB <= memory_held([large]) - memory_held([small]) < 60 * MIB
        assert large.resident_bytes - small.resident_bytes >= 45 * MIB, "the system does not count this exactly"


def test_measured_memory_of_processes_excludes_mapped_files() -> None:
    """The system can reclaim the memory of mapped files at any time."""
    file = max((path for path in Path(sys.prefix).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    size = file.stat().st_size
    assert size > 8 * MIB, "there is a large file in the environment of the tests"
    program = """
import mmap, sys
file = open(sys.argv[1], 'rb')
block = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
for page in range(0, len(block), 4096): block[page]
"""
    with running("import mmap") as small, running(program, str(file)) as large:
        assert large.resident_bytes - small.resident_bytes > size * 0.9
        assert memory_held([large]) - memory_held([small]) < size * 0.2


def test_ended_process_is_read_as_none_and_occupies_no_memory() -> None:
    with running("") as seen:
        pass
    assert read_process(seen.pid) is None
    assert memory_held([seen]) == 0
    kill([seen])


def test_a_process_that_reuses_an_id_is_not_killed() -> None:
    with running("") as seen:
        earlier = Process(**{name: getattr(seen, name) for name in Process.__slots__} | {"started": seen.started - 1})
        kill([earlier])
        assert read_process(seen.pid) is not None
        kill([seen])
        assert os.waitid(os.P_PID, seen.pid, os.WEXITED | os.WNOWAIT) is not None
