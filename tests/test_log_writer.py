"""The program of tests/support/log_writer.py by itself."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from support.log_writer import SOURCES, Writing, expected
from support.waiting import wait_until


@pytest.mark.parametrize("attempt", [0, 1])
def test_log_writer_writes_the_expected_bytes(attempt: int) -> None:
    writing = Writing(seed=5, exits=(3, 0))
    env = {**os.environ, "IRIS_ATTEMPT_ID": str(attempt)}
    ran = subprocess.run(writing.command(), env=env, capture_output=True, check=False)
    assert ran.stdout == writing.expected(attempt, "stdout") == expected(5, attempt, "stdout")
    assert ran.stderr == writing.expected(attempt, "stderr") == expected(5, attempt, "stderr")
    assert ran.returncode == writing.exit_code(attempt) == (3, 0)[attempt]


def test_log_writer_output_contains_unusual_bytes() -> None:
    logs = [Writing(seed).expected(0, source) for seed in range(10) for source in SOURCES]
    assert len(set(logs)) == len(logs)
    for log in logs:
        assert 2 << 20 <= max(len(line) for line in log.split(b"\n")) <= 4 << 20
        assert all(odd in log for odd in (b"\0", b"\xff", b"%\r", b"\n\n", b"I am no record", b"0\r\n"))
        with pytest.raises(UnicodeDecodeError):
            log.decode()
    assert {log.endswith(b"\n") for log in logs} == {True, False}


def test_log_writer_splits_its_output_at_any_byte() -> None:
    writing = Writing(seed=3)
    written = dict.fromkeys(SOURCES, b"")
    pieces = list(writing.writes(0))
    for source, data in pieces:
        written[source] += data
    assert written == {source: writing.expected(0, source) for source in SOURCES}
    assert any(data.endswith(b"\n") for _, data in pieces)
    assert sum(not data.endswith(b"\n") for _, data in pieces) > 50
    sources = [source for source, _ in pieces]
    assert sum(a != b for a, b in pairwise(sources)) > 10, "both sources in turn"


def test_log_writer_pauses_until_its_gate_file_exists(tmp_path: Path) -> None:
    writing = Writing(seed=4, size=2000, long_lines=0, gate=str(tmp_path / "gate"))
    path = tmp_path / "stdout"
    with (
        path.open("wb") as stdout,
        subprocess.Popen(writing.command(), stdout=stdout, stderr=subprocess.DEVNULL) as ran,
    ):
        wait_until(lambda: path.stat().st_size > 0, "the first lines")
        assert ran.poll() is None
        (tmp_path / "gate").touch()
        assert ran.wait() == 0
    assert path.read_bytes() == writing.expected(0, "stdout")
