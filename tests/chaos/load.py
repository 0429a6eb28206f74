"""Runs clients that submit jobs of many kinds, and records what the controller has acknowledged to them."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from support.cluster import unique
from support.waiting import wait_until

from chaos import task
from iris.client import IrisClient
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.types import is_job_finished
from iris.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from iris.rpc import cluster_pb2

_ACTIVE = 3  # jobs of one client that have not ended
_ASK_S = 0.3
_AWAY_S = 60.0  # the controller is never away for so long
# The pause before the second retry in a row. A job may have 12 retries in a row, and each pause is twice as long as the
# one before it. With the default of 1 s, such a job would need minutes after the last fault.
_RETRY_PAUSE_S = 0.05
T = TypeVar("T")


@dataclass(slots=True)
class Promise:
    """A submitted job, with everything that the controller has acknowledged to its client.

    Attributes:
        failures: How many runs of each task fail, by index, before one succeeds.
        acknowledged: The controller has said that it has the job.
        terminated: Its end was asked for.
        is_callable: Its tasks have results.
        seen_final: The final state that its client was told; None before.
    """

    job_id: str
    replicas: int
    failures: list[int]
    max_task_failures: int = 0
    max_retries_failure: int = 0
    max_retries_preemption: int = 100
    independent: bool = False
    acknowledged: bool = False
    terminated: bool = False
    is_callable: bool = False
    seen_final: int | None = None


@dataclass
class Load:
    """All clients of a run, each in a separate thread.

    Args:
        address: The controller's.
        proofs: A directory.
        seed: Of the run.

    Attributes:
        promises: By job id, those of tasks that submit jobs themselves left out.
        broken: Why a client, or a reader of logs, has given up: a bug.
    """

    address: str
    proofs: Path
    seed: str
    promises: dict[str, Promise] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, clients: int) -> None:
        """Begins."""
        for number in range(clients):
            thread = threading.Thread(target=self._guarded, args=(number,), name=f"client-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Submit no more jobs, and wait until the running calls are finished."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, number: int) -> None:
        try:
            with RemoteClusterClient(self.address) as cluster, IrisClient.remote(self.address) as client:
                _Client(self, number, cluster, client, self._stop).run()
        except Exception as error:  # noqa: BLE001 - it is reported
            self.broken.append(f"client {number}: {type(error).__name__}: {error}")


class _Client:
    """One client. The seed of the run and the number of the client determine its actions."""

    def __init__(
        self, load: Load, number: int, cluster: RemoteClusterClient, client: IrisClient, stop: threading.Event
    ) -> None:
        self._load = load
        self._number = number
        self._cluster = cluster
        self._client = client
        self._stop = stop
        self._draws = random.Random(f"{load.seed}/client-{number}")
        self._active: dict[str, float] = {}  # when it is to be terminated, by job id

    def run(self) -> None:
        """Submit, terminate and query jobs until the load is stopped."""
        count = 0
        while not self._stop.wait(_ASK_S):
            if len(self._active) < _ACTIVE:
                promise = self._submit(f"c{self._number}-{count}")
                count += 1
                after_s = self._draws.uniform(0, 3)
                self._active[promise.job_id] = time.monotonic() + after_s if self._draws.random() < 0.15 else 1e99
            for job_id, due in list(self._active.items()):
                if time.monotonic() > due:
                    self._load.promises[job_id].terminated = True
                    until_answered(lambda job_id=job_id: self._cluster.terminate_job(job_id))
                    self._active[job_id] = 1e99
                job = until_answered(lambda job_id=job_id: self._cluster.get_job_status(job_id))
                if is_job_finished(job.state):
                    self._load.promises[job_id].seen_final = job.state
                    del self._active[job_id]

    def _submit(self, name: str) -> Promise:
        draws = self._draws
        kind = draws.choices(["gang", "independent", "callable", "parent"], [4, 4, 3, 1])[0]
        replicas = draws.choice([1, 1, 2, 3, 4]) if kind != "parent" else 1
        seconds = draws.choice([0.05, 0.3, 1.0, 2.0, 4.0])
        failures = max(0, draws.choice([-3, -2, -1, 0, 1, 2]))
        promise = Promise(
            name,
            replicas,
            failures=[failures if draws.random() < 0.5 else 0 for _ in range(replicas)],
            max_task_failures=draws.choice([0, 0, 1]),
            max_retries_failure=draws.choice([0, 1, 2, 3]),
            max_retries_preemption=draws.choice([0, 1, 100, 100, 100, 100]),
            independent=kind == "independent",
            is_callable=kind in ("callable", "parent"),
        )
        self._load.promises[name] = promise
        if promise.is_callable:
            self._run_callable(promise, seconds, with_child=kind == "parent")
        else:
            self._run_command(promise, seconds)
        promise.acknowledged = True
        return promise

    def _run_command(self, promise: Promise, seconds: float) -> None:
        request = cluster_pb2.Controller.LaunchJobRequest(
            name=promise.job_id,
            command=[sys.executable, "-S", "-E", task.__file__, *self._arguments(promise, seconds)],
            submission_id=unique("submission"),
            max_task_failures=promise.max_task_failures,
            max_retries_failure=promise.max_retries_failure,
            max_retries_preemption=promise.max_retries_preemption,
            retry_pause_ms=round(_RETRY_PAUSE_S * 1000),
            independent_tasks=promise.independent,
            ports=["http"] if self._draws.random() < 0.3 else [],
        )
        request.resources.replicas = promise.replicas
        request.resources.cpu = 0  # With a reserved core each, few independent tasks would run at once.
        until_answered(lambda: self._cluster.launch_job(request))

    def _run_callable(self, promise: Promise, seconds: float, *, with_child: bool) -> None:
        directory, _, failures = self._arguments(promise, seconds)

        def submit() -> None:
            try:
                self._client.run(
                    run_parent if with_child else task.run,
                    args=[directory, seconds, failures],
                    name=promise.job_id,
                    replicas=promise.replicas,
                    max_task_failures=promise.max_task_failures,
                    max_retries_failure=promise.max_retries_failure,
                    max_retries_preemption=promise.max_retries_preemption,
                    retry_pause=_RETRY_PAUSE_S,
                )
            except AlreadyExistsError:
                pass  # an earlier call of ours came through, and nobody could tell us

        until_answered(submit)

    def _arguments(self, promise: Promise, seconds: float) -> list[str]:
        return [str(self._load.proofs), str(seconds), ",".join(map(str, promise.failures))]


def until_answered(ask: Callable[[], T]) -> T:
    """Repeat a call until the controller answers. The controller may not run at the moment, or its disk may be full."""

    def answer() -> list[T]:
        try:
            return [ask()]
        except (UnavailableError, ResourceExhaustedError):
            return []

    (answered,) = wait_until(answer, "an answer of the controller", timeout_s=_AWAY_S)
    return answered


def run_parent(directory: str, seconds: float, failures: str) -> list[int]:
    """Run a task like `task.run`, submit a child job, and register an endpoint."""

    def more(proof: task.Proof) -> None:
        import os

        child = [sys.executable, "-S", "-E", task.__file__, directory, "0.5", "0"]
        with IrisClient.remote() as client:

            def submit() -> str:
                client.register_endpoint(os.environ["IRIS_TASK_ID"], "127.0.0.1:1")
                return client.run(child, name=f"child-{os.environ['IRIS_ATTEMPT_ID']}").job_id

            try:
                proof.note(f"child {until_answered(submit)}")
            except AlreadyExistsError:
                pass  # as in `_run_callable`
            except (FailedPreconditionError, NotFoundError):
                pass  # this job has ended meanwhile

    return task.run(directory, seconds, failures, more)
