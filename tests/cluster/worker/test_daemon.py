"""A worker that cannot start says why, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("options", "token", "why"),
    [
        ([], "", "a worker needs a token: give --credentials FILE, or set IRIS_TOKEN"),
        (["--controller", "no address"], "some", "not an address: 'no address'"),
        (["--advertise", "no address"], "some", "not an address: 'no address'"),
        (
            ["--advertise", "0.0.0.0"],
            "some",
            "not an address: '0.0.0.0': the host stands for all addresses of a machine",
        ),
        (["--advertise", "forwarded:0"], "some", "not an address: 'forwarded:0': a client cannot connect to port 0"),
        (["--port", "99999"], "some", "cannot listen on 127.0.0.1:99999: "),
        (["--lease", "-1"], "some", "--lease must be 0 or greater, got -1.0"),
        (["--config", '{"max_processes": -1}'], "some", "--max-processes: expected a whole number from 0 to "),
    ],
    ids=[
        "missing token",
        "malformed controller address",
        "malformed advertised address",
        "advertised address for all interfaces",
        "advertised port 0",
        "too large port",
        "negative lease",
        "negative max_processes",
    ],
)
def test_a_worker_with_an_invalid_argument_ends_with_an_error(
    tmp_path: Path, options: list[str], token: str, why: str
) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "iris.cluster.worker", "--worker-id", "w", "--controller", "127.0.0.1:9"),
            *("--directory", str(tmp_path / "w"), *options),
        ],
        env={**os.environ, "IRIS_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"iris: {why}")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_worker_directory_that_other_users_can_write_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "w"
    directory.mkdir()
    directory.chmod(0o777)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "iris.cluster.worker", "--worker-id", "w", "--controller", "127.0.0.1:9"),
            *("--directory", str(directory)),
        ],
        env={**os.environ, "IRIS_TOKEN": "some"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert f"chmod go-w {directory}" in ended.stderr
    assert list(directory.iterdir()) == []
