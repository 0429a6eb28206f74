"""The process that workers are forked from, where the machine has no room for one more process."""

from __future__ import annotations

import gc
import os
import selectors
import signal
import subprocess
from pathlib import Path

import pytest

from iris.cluster.worker.supervision.fork_client import Order
from iris.cluster.worker.supervision.fork_server import _Template, _Worker


def no_fork() -> int:
    raise BlockingIOError("Resource temporarily unavailable")


def test_a_worker_that_cannot_be_forked_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = _Template(tmp_path)
    monkeypatch.setattr(os, "fork", no_fork)
    gc.collect()  # of the tests before it: what is closed meanwhile would be in the way
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(BlockingIOError):
        template._fork(Order("w.0", [], "", {}), None)  # type: ignore[arg-type]
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_ends_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would clean up after it cannot be forked."""
    template = _Template(tmp_path)
    scratch = tmp_path / "w.0-x"
    scratch.mkdir()
    alive, held = os.pipe()
    left = subprocess.Popen(["sleep", "1000"], env=os.environ | {"IRIS_ATTEMPT_MARK": "some-token.1"})
    child = subprocess.Popen(["true"])
    os.close(held)
    template._selector.register(alive, selectors.EVENT_READ)
    monkeypatch.setattr(os, "fork", no_fork)
    template._worker_ended(_Worker(child.pid, "some-token", scratch, alive, None))
    child.returncode = 0  # it has been waited for
    assert left.wait() == -signal.SIGKILL
    assert not scratch.exists()
