"""Attempts that a worker cannot supervise to their ends because of a fault of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import shell

from iris.cluster.logs.log_writer import LogWriter
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.ports import PortReservations
from iris.cluster.worker.attempt.preparation import AttemptPreparer
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.attempt.runner import AttemptRunner, ProcessSetup
from iris.cluster.worker.controller_link.connection import ControllerConnection
from iris.cluster.worker.limits.enforcement import Enforcement
from iris.cluster.worker.limits.sampler import Sampler
from iris.cluster.worker.limits.timeout_warning import TimeoutWarnings
from iris.cluster.worker.paths import WorkerDir
from iris.cluster.worker.process.launcher import Launcher, start_launcher
from iris.cluster.worker.process.shortage import WorkerHeadroom
from iris.cluster.worker.supervision.reaper import Reaper
from iris.cluster.worker.supervision.shutdown import Shutdown
from iris.cluster.worker.supervision.strays import StrayProcesses
from iris.reasons import FailureCode
from iris.rpc import cluster_pb2
from iris.system.inherited import reset_signals

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    reset_signals()
    own = start_launcher()
    yield own
    own.close()
    await asyncio.to_thread(os.waitpid, own.pid, 0)


class FaultyWorker:
    """The parts of a worker that run attempts. The end of the first attempt raises an error."""

    def __init__(self, root: Path, launcher: Launcher) -> None:
        self._directory = WorkerDir(root)
        self._registry = AttemptRegistry("w", self._directory)
        self._has_failed = False
        self._reports, writing = os.pipe()
        enforcement = Enforcement("none", "token")
        setup = ProcessSetup(
            token="token",
            parent_mark="",
            file_limit=1024,
            launcher=launcher,
            reaper=Reaper(0, writing),
            enforcement=enforcement,
            strays=NoStrays(self._registry, "token", ()),
        )
        nobody: Any = None
        controller = ControllerConnection("http://nowhere", None, lambda address: nobody)
        self._runner = AttemptRunner(
            self._registry,
            Shutdown("w", self._registry),
            AttemptPreparer(self._directory, controller, PortReservations("127.0.0.1")),
            setup,
            WorkerHeadroom([root]),
            None,
            lambda attempt: dict(os.environ),
            TimeoutWarnings(Sampler(enforcement), "token"),
            lambda job_id, task_index, attempt_id: None,
            end_execs=self._fail_once,
        )

    async def _fail_once(self, attempt: Attempt) -> None:
        if not self._has_failed:
            self._has_failed = True
            raise RuntimeError("a fault of the worker")

    async def run(self, task_id: str, script: str) -> Attempt:
        """Run an attempt to its end."""
        directory = self._directory.attempt(task_id, 0)
        directory.create()
        request = cluster_pb2.Worker.RunTaskRequest(job_id="job", task_id=task_id, command=shell(script))
        attempt = Attempt(request, 1, directory, LogWriter(directory.log))
        self._registry.add(attempt)
        await self._runner.run(attempt, b"", "")
        return attempt

    def running_groups(self) -> set[bytes]:
        """Return the process groups that the reaper would kill now."""
        groups: set[bytes] = set()
        for line in os.read(self._reports, 65536).splitlines():
            (groups.add if line[:1] == b"+" else groups.discard)(line[1:])
        return groups


class NoStrays(StrayProcesses):
    """Kills no process, because the other children of the test's process are not left behind by attempts."""

    async def kill(self) -> None:
        pass


async def test_worker_continues_after_a_fault_at_the_end_of_an_attempt(tmp_path: Path, launcher: Launcher) -> None:
    worker = FaultyWorker(tmp_path / "worker", launcher)
    attempt = await worker.run("job/task-0", "echo hello")
    assert attempt.failure == FailureCode.INTERNAL
    assert "a fault of the worker" in attempt.error
    assert attempt.log.offsets == (6, 0, 0)
    assert worker.running_groups() == set()
    attempt = await worker.run("job/task-1", "echo hello")
    assert attempt.state == cluster_pb2.TASK_STATE_SUCCEEDED
    assert worker.running_groups() == set()
