"""Runs a cluster on simulated machines, which are made of namespaces. The controller runs beside the test, and the
workers run on the machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from support.machine_engine import Place
from support.machines import ENDS_WITH_US, Lan, Machine, Process, machines
from support.standing_cluster import Proofs
from support.waiting import wait_until

from iris.client import IrisClient, Job
from iris.rpc import cluster_pb2 as pb

PROMISED_S = 2.0  # so long after it was written a line is with the controller
# How an attempt ended, and whether that was its worker's fault.
LOST = (pb.TASK_STATE_WORKER_FAILED, True)
SUCCEEDED = (pb.TASK_STATE_SUCCEEDED, False)
PEER = (pb.TASK_STATE_KILLED, False)

_WITNESS = """
import os, signal, sys, time
index, attempt = os.environ["IRIS_TASK_INDEX"], os.environ["IRIS_ATTEMPT_ID"]
number = 0
with open(os.path.join(sys.argv[1], index + "." + attempt), "x") as proof:  # an attempt that is run twice fails here
    while not os.path.exists(sys.argv[2]):
        number += 1
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # whoever ends it finds both lines, or none
        proof.write("%d\\n" % now)
        proof.flush()
        print(number, now, flush=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        time.sleep(0.01)
print("end", flush=True)
"""


def now_ns() -> int:
    """Return the time of the clock that all simulated machines share, in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Witness(Proofs):
    """A job whose tasks record when they run, in files that all machines share and in their logs."""

    def command(self, exit_code: int = 0) -> list[str]:
        return [sys.executable, "-S", "-c", _WITNESS, str(self._directory), str(self._gate)]

    def is_running(self, task_index: int, attempt_id: int) -> bool:
        """Return whether an attempt has written something in the last second."""
        return now_ns() - self.times(task_index, attempt_id)[-1] < 1e9


def attempts(job: Job, index: int = 0) -> list[tuple[int, bool]]:
    """Return how each attempt of a task has ended."""
    return [(attempt.state, attempt.is_worker_failure) for attempt in job.tasks()[index].status().attempts]


class MachineCluster:
    """The cluster.

    Args:
        lan: Its machines.
        lease_s: How long workers live that nobody answers.
        options: More for the controller's program, see machine_engine.py.

    Attributes:
        said: Where the controller says that it serves.
    """

    def __init__(self, lan: Lan, lease_s: float, *options: str) -> None:
        self.lan = lan
        self.lease_s = lease_s
        self._options = options
        self._port = 0
        self.directory = lan.directory / "controller"
        self.directory.mkdir(exist_ok=True)
        self.said = self.directory / "said"
        self.address = ""
        self.process: Process
        self.start()

    def start(self) -> None:
        """Start the controller. The address stays the same after a restart."""
        with (self.directory / "server.log").open("ab") as log:
            self.process = self.spawn(self.command(self._port), log)

        def said() -> str:
            text = self.said.read_text() if self.said.exists() else ""
            return text if text.endswith("\n") else ""

        wait_until(lambda: said() or self.process.poll() is not None, "the controller to serve", 90)
        assert said(), (self.directory / "server.log").read_text()[-5000:]
        self.address = json.loads(said())["address"]
        self._port = int(self.address.rpartition(":")[2])

    def command(self, port: int) -> list[str]:
        """Return the command line of the controller."""
        options = ["--directory", str(self.directory), "--lan", str(self.lan.directory)]
        options += ["--machines", *(machine.name for machine in self.lan.machines)]
        options += ["--host", self.lan.host_address, "--port", str(port), "--lease", str(self.lease_s)]
        return [sys.executable, "-m", "support.machine_engine", *options, *self._options]

    def spawn(self, command: list[str], log: IO[bytes]) -> Process:
        """Start the program of the controller."""
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        popen = subprocess.Popen([*ENDS_WITH_US, *command], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return Process(popen, popen.pid)

    def kill(self) -> None:
        """Kill the controller with SIGKILL."""
        self.process.signal(signal.SIGKILL)
        self.process.wait()
        self.said.unlink(missing_ok=True)

    def client(self) -> IrisClient:
        """Return a client of the controller."""
        return IrisClient.remote(self.address)

    def start_worker(self, machine: Machine) -> None:
        """Start the standing worker of a machine after a boot. If each slot has a worker, do nothing."""
        if "--worker-per-slot" not in self._options:
            names = tuple(other.name for other in self.lan.machines)
            Place(self.lan.directory, names, self.address, self.lease_s).start_worker(machine.name, machine.name)

    def kept(self) -> bytes:
        """Return the contents of all logs on the controller's disk."""
        return b"".join(path.read_bytes() for path in self.directory.rglob("logs/*/*/*") if path.is_file())

    def machine_of(self, worker_address: str) -> Machine:
        """Return the machine of a worker."""
        host = urlsplit(worker_address).hostname
        (found,) = (machine for machine in self.lan.machines if machine.address == host)
        return found


@contextmanager
def machine_cluster(directory: Path, count: int, lease_s: float, *options: str) -> Iterator[MachineCluster]:
    """Run a cluster on `count` machines during a test. `machines` says when the test is skipped."""
    with machines(directory, count) as lan:
        cluster = MachineCluster(lan, lease_s, *options)
        try:
            yield cluster
        finally:
            cluster.kill()


@dataclass
class Log:
    """The log of an attempt after it was read: the times of its lines, its missing bytes, and its end."""

    written_ns: list[int]
    missing: list[str]
    end: pb.LogEnd


def read_log(client: IrisClient, job_id: str, attempt_id: int = 0, task_index: int = 0, **options: Any) -> Log:
    """Read the log of an attempt of a witness, and check that no line is missing before the end."""
    log = Log([], [], pb.LogEnd())
    options = {"route": "controller", "follow": False, "on_notice": log.missing.append} | options
    with client.stream_task_logs(job_id, task_index, attempt_id=attempt_id, **options) as stream:
        for line in stream:
            if line.missing_bytes:
                log.missing.append(line.message)
            elif line.source == "stdout" and not line.partial and line.data != b"end":
                number, written_ns = map(int, line.message.split())
                assert number == len(log.written_ns) + 1, "no line is doubled, and none is missing before the last"
                log.written_ns.append(written_ns)
        log.end = stream.ends[task_index]
    return log


@dataclass
class Follower:
    """Follows a task in a thread, from its first line to its end.

    Attributes:
        lines: What has come, of which attempt.
        notices: What it was told.
        error: What ended it before the task's end.
    """

    lines: list[tuple[int, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    error: Exception | None = None
    thread: threading.Thread | None = None

    def of(self, attempt_id: int) -> list[str]:
        """Return the lines of an attempt."""
        return [text for attempt, text in self.lines if attempt == attempt_id]

    def check_whole(self, attempt_id: int) -> None:
        """Check that the lines of an attempt are numbered from 1 without a gap, and that the last line of a finished
        attempt is `end`."""
        numbers = [int(text.split()[0]) for text in self.of(attempt_id) if text != "end"]
        assert numbers == list(range(1, len(numbers) + 1))

    def wait_for_more(self, attempt_id: int = 0) -> None:
        """Wait for another line of an attempt."""
        before = len(self.of(attempt_id))
        wait_until(lambda: len(self.of(attempt_id)) > before, "more lines")

    def finish(self) -> None:
        """Wait for the end of the task."""
        assert self.thread is not None
        self.thread.join(60)
        assert not self.thread.is_alive(), "the follow does not end"
        assert self.error is None, self.error


@contextmanager
def following(client: IrisClient, job_id: str, task_index: int = 0, **options: Any) -> Iterator[Follower]:
    """Follow a task of a witness while the `with` block runs."""
    follower = Follower()

    def follow() -> None:
        try:
            options["on_notice"] = follower.notices.append
            with client.stream_task_logs(job_id, task_index, **options) as stream:
                for line in stream:
                    if line.missing_bytes:
                        follower.notices.append(line.message)
                    elif line.source == "stdout" and not line.partial:
                        follower.lines.append((line.attempt_id, line.message))
        except Exception as error:  # noqa: BLE001 - `finish` shows it
            follower.error = error

    follower.thread = threading.Thread(target=follow, daemon=True)
    follower.thread.start()
    yield follower
