"""The fork server: its workers, and a machine on which no more processes can be forked."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster import is_alive
from support.waiting import wait_until

from iris.cluster.worker.supervision.fork_client import Order
from iris.cluster.worker.supervision.fork_server import ForkedWorker, ForkServer
from iris.system.process_identity import process_name


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


def test_fork_server_that_cannot_fork_a_cleaning_process_cleans_up_after_a_worker_itself(tmp_path: Path) -> None:
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


# A fork server that is killed between the fork of a worker and the first instruction of the worker.
KILLED_SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from iris.cluster.worker.supervision.fork_client import Order
from iris.cluster.worker.supervision.fork_server import ForkServer
server = os.getpid()
def fork():
    pid = os.fork()
    if pid == 0:
        while os.getppid() == server:
            time.sleep(0.01)
        return 0
    print(pid, flush=True)
    os.kill(server, signal.SIGKILL)
order = Order("w.0", ["--controller", "127.0.0.1:9"], json.dumps({"token": "none"}), dict(os.environ))
ForkServer(Path(sys.argv[1]), fork).start_worker(order, None)
"""


def test_forked_worker_ends_if_its_fork_server_dies_during_the_fork(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED_SERVER, str(tmp_path)], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
    try:
        wait_until(lambda: not is_alive(worker), "the end of the worker", timeout_s=20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    (scratch,) = tmp_path.iterdir()
    assert list(scratch.iterdir()) == [], "files of a worker that has started"


def test_forked_worker_has_the_name_of_a_worker_and_rotates_its_event_log(tmp_path: Path) -> None:
    controller = "http://127.0.0.1:1"  # No controller listens at this port, and each failed call is an event.
    config = json.dumps({"event_log_bytes": 1000, "log_level": "debug"})
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    program = (
        "import json, os, sys; from iris.cluster.worker.supervision.fork_client import Order, start_worker;"
        " order = Order('w.0', sys.argv[1:], json.dumps({'token': 'none'}), dict(os.environ));"
        " worker = start_worker('rotation', order);"
        " sys.stdin.read(); worker.stop(and_template=True); worker.wait()"
    )
    command = [sys.executable, "-c", program, "--controller", controller, "--config", config]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as starter:
        wait_until(lambda: list(tmp_path.glob("*/*/attempts.log.1")), "a rotated event log")
        (identity,) = tmp_path.glob("*/*/identity")
        assert process_name(json.loads(identity.read_text())["pid"]) == "iris-worker"
    assert starter.returncode == 0
