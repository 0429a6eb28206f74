"""The fork server, on a machine on which no more processes can be forked."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from pathlib import Path

import pytest

from iris.cluster.worker.supervision.fork_client import Order
from iris.cluster.worker.supervision.fork_server import ForkedWorker, ForkServer


def no_fork() -> int:
    raise BlockingIOError("Resource temporarily unavailable")


def test_worker_that_cannot_be_forked_leaves_no_descriptor_or_file_behind(tmp_path: Path) -> None:
    server = ForkServer(tmp_path, fork=no_fork)
    gc.collect()  # of the tests before it: what is closed meanwhile would be in the way
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        server.start_worker(Order("w.0", [], "", {}), None)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_the_fork_server_cleans_up_itself_when_it_cannot_fork_a_janitor(tmp_path: Path) -> None:
    server = ForkServer(tmp_path, fork=no_fork)
    scratch = tmp_path / "w.0-x"
    scratch.mkdir()
    alive, held = os.pipe()
    left = subprocess.Popen(["sleep", "1000"], env=os.environ | {"IRIS_ATTEMPT_MARK": "some-token.1"})
    child = subprocess.Popen(["true"])
    os.close(held)
    worker = ForkedWorker(child.pid, "some-token", scratch, alive, None)
    server.add_worker(worker)
    server.worker_ended(worker)
    child.returncode = 0  # it has been waited for
    assert left.wait() == -signal.SIGKILL
    assert not scratch.exists()
