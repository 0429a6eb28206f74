"""Tests of workers that are forked from the server of their cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
from support.cluster import is_alive, running_cluster
from support.tokens import keep_key
from support.waiting import wait_until

from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import start_server
from iris.config import ClusterConfig
from iris.rpc import cluster_pb2

PREPARE = """
import os, signal
from iris.cluster.worker.supervision.prepared_worker import prepare_workers
first, second, third = prepare_workers(3)
"""
END_TWO = """
os.kill(first.pid, signal.SIGKILL)
os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
print(first.start(["--worker-id", "w"], {}, -1, event_log=2, lock=2, credentials=0), first.poll())
second.discard()
print(second.poll(), third.poll(), third.pid)
os._exit(0)
"""


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # The process has just ended.
        return []


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:  # The process has just ended.
        return ""


def test_prepared_workers_without_an_order_end_on_request_and_with_their_server() -> None:
    killed, waiting = run(PREPARE + END_TWO).splitlines()
    assert killed == "False -9"
    discarded, running, pid = waiting.split()
    assert (discarded, running) == ("0", "None")
    wait_until(lambda: not is_alive(int(pid)), f"the end of {pid}, whose server has ended")


def test_server_has_a_single_thread_when_it_forks_workers() -> None:
    count = 'print(len(os.listdir("/proc/self/task")))'
    assert run(PREPARE + count).strip() == "1"


def test_first_workers_are_forked_from_the_server_and_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with running_cluster(tmp_path, workers=2) as server, IrisClient.remote(server.address) as client:
        forked = psutil.Process(server.process.pid).children()
        wait_until(lambda: [name_of(worker) for worker in forked] == ["iris-worker"] * 2, "the names of the workers")
        wait_until(
            lambda: {name_of(child) for child in forked[0].children()} == {"iris-launcher", "iris-reaper"},
            "the names of the launcher and the reaper, which differ from the name of the worker",
        )
        forked[1].kill()
        wait_until(
            lambda: [
                worker
                for worker in psutil.Process(server.process.pid).children()
                if worker not in forked
                and "iris.cluster.worker" in command_of(worker)
                and name_of(worker) == "iris-worker"
            ],
            "another worker, whose name is that of a worker",
        )
        job = client.run(["true"], replicas=2, placement="spread")
        assert job.wait(stream_logs=False).state == cluster_pb2.JOB_STATE_SUCCEEDED


def test_forked_workers_that_outlive_their_server_are_adopted_and_ended(tmp_path: Path) -> None:
    config = ClusterConfig(state_dir=tmp_path, port=0)
    keep_key(tmp_path)
    first = start_server(config)
    with RemoteClusterClient(first.address) as client:
        wait_until(client.list_workers, "the worker")
    (worker,) = psutil.Process(first.process.pid).children()
    assert worker.name() == "iris-worker"
    first.process.kill()
    first.process.wait()
    second = start_server(config)
    assert second.found["workers_running"] == 1
    assert worker.is_running()
    second.stop()
    wait_until(lambda: not is_alive(worker.pid), "the end of the adopted worker")
