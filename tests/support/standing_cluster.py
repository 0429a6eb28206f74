"""Runs a cluster like `iris up`, whose server a test can kill and restart. Tasks write proofs of the times when they
ran."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.ports import free_port
from support.tokens import keep_key
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.client.server_process import LocalServer, start_server
from iris.cluster.engine.worker_process import end_standing, find_standing
from iris.cluster.worker.supervision.worker_identity import Identity, identity_file, read_identity
from iris.config import ClusterConfig


class StandingCluster:
    """A server in a state directory, with workers that outlive the server.

    Args:
        directory: The state directory.
        options: Options of `ClusterConfig`. The port stays the same after a restart.
    """

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        # The kernel could give a port that it has chosen to another program between the kill and the restart.
        self.options = {"port": free_port(), **options}
        self.server: LocalServer | None = None
        self.start()

    @property
    def address(self) -> str:
        assert self.server is not None
        return self.server.address

    def start(self, **changed: Any) -> LocalServer:
        """Start the server, which continues with the state and the workers of an earlier server."""
        self.options |= changed
        keep_key(self.directory)
        self.server = start_server(ClusterConfig(**{"state_dir": self.directory, **self.options}))
        return self.server

    def kill(self) -> None:
        """Kill only the server, with SIGKILL."""
        assert self.server is not None
        self.server.process.kill()
        self.server.process.wait()

    def client(self) -> RemoteClusterClient:
        """Return a client of the server."""
        return RemoteClusterClient(self.address)

    def worker(self, worker_id: str = "local-0") -> Identity:
        """Wait until a worker runs, and return the identity of its process."""
        return wait_until(lambda: self.find_worker(worker_id), f"worker {worker_id}")

    def find_worker(self, worker_id: str = "local-0") -> Identity | None:
        """Return the identity of a worker's process. None if the worker does not run."""
        identity = read_identity(identity_file(self.directory / "workers", worker_id))
        return identity if identity is not None and identity.is_alive else None

    def standing(self) -> list[str]:
        """Return the ids of workers of which a process still runs."""
        return find_standing(self.directory / "workers")

    def kill_worker(self, worker_id: str = "local-0") -> None:
        """Kill a worker with SIGKILL."""
        os.kill(self.worker(worker_id).pid, signal.SIGKILL)

    def wait_for_workers(self, count: int = 1) -> None:
        """Wait until the given number of workers has registered."""
        with self.client() as client:
            wait_until(
                lambda: sum(worker.healthy for worker in client.list_workers()) == count,
                f"{count} workers; there are {self.standing()}",
            )

    def stop(self) -> None:
        """End the server and all workers, also if the server was killed."""
        if self.server is not None:
            self.server.stop()
        asyncio.run(end_standing(self.directory / "workers"))


@contextmanager
def standing_cluster(directory: Path, **options: Any) -> Iterator[StandingCluster]:
    """Run a cluster during a test, with workers that outlive the server."""
    cluster = StandingCluster(directory, **options)
    try:
        yield cluster
    finally:
        cluster.stop()


_PROOF = """
import os, sys, time
path = os.path.join(sys.argv[1], os.environ["IRIS_TASK_INDEX"] + "." + os.environ["IRIS_ATTEMPT_ID"])
with open(path, "x") as proof:  # an attempt that is run twice fails here
    while not os.path.exists(sys.argv[2]):
        proof.write("%d\\n" % time.monotonic_ns())
        proof.flush()
        time.sleep(0.005)
print("went on", flush=True)
sys.exit(int(sys.argv[3]))
"""


class Proofs:
    """The proofs that tasks write: while an attempt runs, it appends the time to a file again and again.

    Args:
        directory: Where.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        self._gate = directory / "gate"

    def command(self, exit_code: int = 0) -> list[str]:
        """Return the command of a task that runs until `open` is called."""
        return [sys.executable, "-S", "-c", _PROOF, str(self._directory), str(self._gate), str(exit_code)]

    def open(self) -> None:
        """Let all tasks end."""
        self._gate.touch()

    def attempts(self, task_index: int = 0) -> list[int]:
        """Return the ids of the attempts of a task that have run."""
        return sorted(int(path.suffix[1:]) for path in self._directory.glob(f"{task_index}.*"))

    def times(self, task_index: int = 0, attempt_id: int = 0) -> list[int]:
        """Return the times at which an attempt ran, in nanoseconds of the monotonic clock."""
        lines = (self._directory / f"{task_index}.{attempt_id}").read_text().splitlines(keepends=True)
        return [int(line) for line in lines if line.endswith("\n")]

    def wait_for(self, task_index: int = 0, attempt_id: int = 0) -> None:
        """Wait until an attempt runs."""
        path = self._directory / f"{task_index}.{attempt_id}"
        wait_until(lambda: path.exists() and self.times(task_index, attempt_id), f"attempt {attempt_id} to run")

    def wait_for_more(self, task_index: int = 0, attempt_id: int = 0) -> None:
        """Wait until an attempt has written another time."""
        before = len(self.times(task_index, attempt_id))
        wait_until(lambda: len(self.times(task_index, attempt_id)) > before, f"attempt {attempt_id} to go on")

    def assert_no_overlap(self, task_index: int = 0) -> None:
        """Check that no attempt of a task began before the end of the previous attempt."""
        spans = [self.times(task_index, attempt_id) for attempt_id in self.attempts(task_index)]
        spans = [span for span in spans if span]  # one may have ended before it wrote its first time
        for earlier, later in itertools.pairwise(spans):
            assert earlier[-1] < later[0], f"two attempts of task {task_index} ran at once"
