"""The real controller on an engine with knobs, with real workers where attempts have to run."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cluster import launch, wait_for_end, wait_for_state
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.standing_cluster import Proofs
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.task import FAILED, SUCCEEDED, AttemptEnd, WorkerIdentity
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.lease_terms import DEFAULT_LEASE_S
from iris.errors import ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def controller(engine: FakeEngine) -> Iterator[ControllerThread]:
    with serving(engine, Store(None)) as running:
        yield running


@pytest.fixture
def client(controller: ControllerThread) -> Iterator[RemoteClusterClient]:
    with RemoteClusterClient(controller.address) as remote:
        yield remote


@contextmanager
def worker(controller: ControllerThread, directory: Path, worker_id: str = "w") -> Iterator[subprocess.Popen[bytes]]:
    """A real worker, started by hand as an engine would."""
    with (directory.with_suffix(".log")).open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "iris.cluster.worker", "--worker-id", worker_id),
                *("--controller", controller.address, "--directory", str(directory)),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def message(client: RemoteClusterClient, job_id: str) -> str:
    return client.get_job_status(job_id).status_message


def test_job_waits_until_the_engine_grants_its_allocation(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path
) -> None:
    engine.granting = False
    job_id = launch(client, ["true"])
    wait_until(lambda: "takes its time" in message(client, job_id), "the engine's reason")
    assert client.get_task_status(job_id, 0).state == pb.TASK_STATE_PENDING
    engine.granting = True
    wait_until(lambda: "worker w is still starting" in message(client, job_id), "the wait for the worker")
    assert client.fetch_task_logs(f"{job_id}/task-0") == []
    with worker(controller, tmp_path / "w"):
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
    wait_until(lambda: engine.released == [f"{job_id}@0"], "the room to be given back")


def test_job_is_unschedulable_when_the_engine_rejects_its_gang(engine: FakeEngine, client: RemoteClusterClient) -> None:
    engine.refusal = "no quota for gangs on Mondays"
    job = wait_for_end(client, launch(client, ["true"]))
    assert job.state == pb.JOB_STATE_UNSCHEDULABLE
    assert "no quota for gangs on Mondays" in job.error


def test_job_waits_while_the_engine_is_unreachable_and_then_runs(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path
) -> None:
    with worker(controller, tmp_path / "w"):
        runs = launch(client, ["sleep", "300"])
        wait_for_state(client, runs, pb.JOB_STATE_RUNNING)
        engine.reachable = False
        waits = launch(client, ["true"])
        assert client.get_job_status(waits).state == pb.JOB_STATE_PENDING
        assert client.get_job_status(runs).state == pb.JOB_STATE_RUNNING, "cannot tell is not dead"
        engine.reachable = True
        assert wait_for_end(client, waits).state == pb.JOB_STATE_SUCCEEDED
        client.terminate_job(runs)
        task = wait_for_end(client, runs).tasks[0]
        assert len(task.attempts) == 1


def test_job_timeout_expires_while_the_engine_is_unreachable(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient
) -> None:
    engine.reachable = False
    job_id = launch(client, ["true"], job_timeout_seconds=1)
    assert wait_for_end(client, job_id).error == "job timed out after 1 s"


def test_allocation_lost_before_the_attempts_started_is_requested_again(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path
) -> None:
    job_id = launch(client, ["true"])
    wait_until(lambda: "starting" in message(client, job_id), "the wait for the worker")
    controller.call(lambda: engine.lose(f"{job_id}@0", 0))
    wait_until(lambda: f"{job_id}@1" in engine.submitted, "another request")
    with worker(controller, tmp_path / "w"):
        (task,) = wait_for_end(client, job_id).tasks
    assert task.preemption_count == 0, "an attempt that never started costs nothing"


@pytest.mark.parametrize("how", ["lost", "forgotten"])
def test_gang_lost_by_the_engine_restarts_on_other_slots(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path, how: str
) -> None:
    script = "[ $IRIS_ATTEMPT_ID = 1 ] || exec sleep 300"
    with worker(controller, tmp_path / "w"):
        job_id = launch(client, ["sh", "-c", script], replicas=2)
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        if how == "lost":
            controller.call(lambda: engine.lose(f"{job_id}@0", 1))
        else:
            controller.call(lambda: engine.forget(f"{job_id}@0"))
        with worker(controller, tmp_path / "another"):
            job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED
    lost = [task.preemption_count for task in job.tasks]
    assert lost == ([0, 1] if how == "lost" else [1, 1])


def test_restarted_controller_has_the_jobs_and_their_logs(tmp_path: Path) -> None:
    database = tmp_path / "controller.db"
    engine = FakeEngine()
    with (
        serving(engine, Store(database)) as first,
        RemoteClusterClient(first.address) as client,
        worker(first, tmp_path / "w"),
    ):
        job_id = launch(client, ["sh", "-c", "echo done"])
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
    again = FakeEngine()
    with serving(again, Store(database)) as second, RemoteClusterClient(second.address) as client:
        assert client.get_job_status(job_id).state == pb.JOB_STATE_SUCCEEDED
        with worker(second, tmp_path / "w"):
            wait_until(client.list_workers, "the worker to register with the new controller")
            (entry,) = client.fetch_task_logs(f"{job_id}/task-0")
            assert entry.data == "done", "its log is where it was"


def test_restarted_controller_ends_child_jobs_of_a_job_that_ended_before_the_kill(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "controller.db")
    for name, parent in (("parent", ""), ("parent/child", "parent"), ("parent/child/child", "parent/child")):
        job = Job.new(name, 1, 1, parent_job_id=parent)
        job.submit()
        if not parent:
            job.terminate("terminated by a user", 2)
        launch_request = pb.Controller.LaunchJobRequest(name=name.rpartition("/")[2], command=["true"])
        store.write(Changes().add_job(JobRecord(job, launch_request, [pb.TaskStatus()]), b""))
    store.write(Changes().save_endpoints([pb.Controller.Endpoint(endpoint_id="1", name="files", job_id="parent")]))
    with serving(FakeEngine(), store) as controller, RemoteClusterClient(controller.address) as client:
        for name in ("parent/child", "parent/child/child"):
            assert wait_for_end(client, name).state == pb.JOB_STATE_KILLED
        assert client.list_endpoints() == []
        assert "its parent job 'parent' has ended" in client.get_job_status("parent/child").error


class CountingStore(Store):
    """A store that knows how often a job was saved."""

    def __init__(self) -> None:
        super().__init__(None)
        self.saves: Counter[str] = Counter()

    def write(self, changes: Changes) -> None:
        for statement, rows in changes.statements:
            if statement.startswith("UPDATE jobs"):
                self.saves.update(str(row[-1]) for row in (rows() if callable(rows) else rows))
        super().write(changes)


def test_changed_waiting_reason_is_announced_and_not_stored(engine: FakeEngine) -> None:
    store = CountingStore()
    with serving(engine, store) as controller, RemoteClusterClient(controller.address) as client:
        need = pb.ResourceSpecProto(cpu=3)
        first = launch(client, ["true"], resources=need)
        wait_until(lambda: "still starting" in message(client, first), "its room")
        need.cpu = 2
        waits = launch(client, ["true"], resources=need)
        wait_until(lambda: "needs 2 cpu; free now: 1 of 4 cpu" in message(client, waits), "the reason")
        watched = client.watch_job(waits, include_tasks=True)
        assert "free now: 1 of 4 cpu" in next(watched).status_message
        saves = store.saves[waits]
        need.cpu = 1
        launch(client, ["true"], resources=need)
        (task,) = next(watched).tasks
        assert "needs 2 cpu; free now: 0 of 4 cpu" in task.status_message
        assert store.saves[waits] == saves
        client.terminate_job(first)
        wait_until(lambda: "still starting" in message(client, waits), "its turn")


def hours_ago(hours: float) -> int:
    """Milliseconds since the epoch."""
    return int((time.time() - hours * 3600) * 1000)


def remembered(
    store: Store, name: str, submitted_at_ms: int, waits_for: Mapping[str, str] | None = None, **fields: Any
) -> Job:
    """A job of one task in a store, as an earlier controller has left it behind: it runs on worker `w`."""
    launch = pb.Controller.LaunchJobRequest(name=name, command=["true"], **fields)
    parent = launch.parent_job_id
    job = Job.new(f"{parent}/{name}" if parent else name, 1, submitted_at_ms, parent_job_id=parent)
    job.waits_for = dict(waits_for or {})
    job.submit()
    store.write(Changes().add_job(JobRecord(job, launch, [pb.TaskStatus()]), b""))
    return job


def keep(store: Store, job: Job) -> None:
    """Saves what has become of a job."""
    (record,) = [record for record in store.load() if record.job.job_id == job.job_id]
    store.write(Changes().save_job(JobRecord(job, record.launch, record.facts), 0))


def test_job_timeout_includes_the_time_without_a_controller(engine: FakeEngine) -> None:
    engine.granting = False
    store = Store(None)
    remembered(store, "late", hours_ago(2), job_timeout_seconds=3600)
    remembered(store, "early", hours_ago(2), job_timeout_seconds=3 * 3600)
    with serving(engine, store) as controller, RemoteClusterClient(controller.address) as client:
        job = wait_for_end(client, "late")
        assert (job.state, job.error) == (pb.JOB_STATE_FAILED, "job timed out after 3600 s")
        assert client.get_job_status("early").state == pb.JOB_STATE_PENDING


def test_scheduling_timeout_includes_the_time_without_a_controller(engine: FakeEngine) -> None:
    engine.granting = False
    store = Store(None)
    remembered(store, "late", hours_ago(2), scheduling_timeout_seconds=3600)
    remembered(store, "early", hours_ago(2), scheduling_timeout_seconds=3 * 3600)
    with serving(engine, store) as controller, RemoteClusterClient(controller.address) as client:
        job = wait_for_end(client, "late")
        assert job.state == pb.JOB_STATE_UNSCHEDULABLE
        assert "not placed within its scheduling timeout of 3600 s" in job.error
        assert client.get_job_status("early").state == pb.JOB_STATE_PENDING


@pytest.mark.parametrize(
    ("ended_as", "condition", "state"),
    [
        (SUCCEEDED, "ok", pb.JOB_STATE_PENDING),
        (FAILED, "ok", pb.JOB_STATE_UNSCHEDULABLE),
        (FAILED, "any", pb.JOB_STATE_PENDING),
        (None, "ok", pb.JOB_STATE_UNSCHEDULABLE),  # The state is None because the job was removed.
        (None, "any", pb.JOB_STATE_PENDING),
    ],
)
def test_restarted_controller_reports_the_ends_of_jobs_to_the_jobs_that_wait_for_them(
    engine: FakeEngine, ended_as: int | None, condition: str, state: int
) -> None:
    """The earlier controller saved the end of a job. It was killed before it reported the end to a waiting job."""
    engine.granting = False
    store = Store(None)
    if ended_as is not None:
        first = remembered(store, "first", hours_ago(1))
        first.gang_placed("first@0", [WorkerIdentity("w", "http://w", "1")])
        first.attempt_ended(0, 0, AttemptEnd(ended_as, hours_ago(1), exit_code=0, error="over"))
        keep(store, first)
    remembered(store, "second", hours_ago(1), waits_for={"first": condition})
    with serving(engine, store) as controller, RemoteClusterClient(controller.address) as client:
        status = wait_until(lambda: (now := client.get_job_status("second")) and not now.waits_for and now)
        assert status.state == state
        if (ended_as, condition) == (None, "ok"):
            assert "was removed, and its final state is unknown" in status.error


def test_restarted_controller_ends_child_jobs_that_outlived_their_parent_job(engine: FakeEngine) -> None:
    engine.granting = False
    store = Store(None)
    here = WorkerIdentity("w", "http://w", "1")
    ended, retried = remembered(store, "ended", hours_ago(1)), remembered(store, "retried", hours_ago(1))
    retried.tasks[0].max_retries_failure = 1
    for job, how in ((ended, SUCCEEDED), (retried, FAILED)):
        job.gang_placed(f"{job.job_id}@0", [here])
        remembered(store, "child", hours_ago(1), parent_job_id=job.job_id, parent_task_index=0, parent_attempt_id=0)
        job.attempt_ended(0, 0, AttemptEnd(how, hours_ago(0.5), error="the end"))
        keep(store, job)
    remembered(store, "of-the-job", hours_ago(1), parent_job_id="retried")  # by a client that names no attempt
    left = pb.Controller.Endpoint(endpoint_id="1", name="left", address="h:1", job_id="ended")
    store.write(Changes().save_endpoints([left]))
    with serving(engine, store) as controller, RemoteClusterClient(controller.address) as client:
        assert wait_for_end(client, "ended/child").error == "its parent job 'ended' has ended (SUCCEEDED)"
        assert "attempt 0 of retried/task-0" in wait_for_end(client, "retried/child").error
        assert client.get_job_status("retried/of-the-job").state == pb.JOB_STATE_PENDING
        assert client.list_endpoints() == []


def test_scheduling_timeout_does_not_end_a_job_whose_other_independent_tasks_run(
    engine: FakeEngine, controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path
) -> None:
    with worker(controller, tmp_path / "w"):
        wait_until(client.list_workers, "the worker")
        job_id = launch(
            client,
            ["sleep", "2.5"],
            replicas=2,
            independent_tasks=True,
            scheduling_timeout_seconds=2,
            resources=pb.ResourceSpecProto(cpu=4),  # all that there is: one after the other
        )
        job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED, job.error


def test_scheduling_timeout_begins_after_the_retry_pause(
    controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path
) -> None:
    with worker(controller, tmp_path / "w"):
        wait_until(client.list_workers, "the worker")
        job_id = launch(
            client,
            ["sh", "-c", "[ $IRIS_ATTEMPT_ID = 2 ]"],
            max_retries_failure=2,
            retry_pause_ms=4000,  # 3.2 s at least
            scheduling_timeout_seconds=3,
        )
        job = wait_for_end(client, job_id)
    assert job.state == pb.JOB_STATE_SUCCEEDED, job.error


class FullDisk(Store):
    """A store that cannot write while its disk is full."""

    full = False

    def write(self, changes: Changes) -> None:
        if self.full:
            raise ResourceExhaustedError("no space left on device")
        super().write(changes)


def test_no_change_is_lost_while_the_disk_of_the_controller_is_full(engine: FakeEngine, tmp_path: Path) -> None:
    store = FullDisk(tmp_path / "controller.db")
    gate = tmp_path / "gate"
    with (
        serving(engine, store) as controller,
        RemoteClusterClient(controller.address) as client,
        worker(controller, tmp_path / "w"),
    ):
        script = f"[ $IRIS_TASK_INDEX = 1 ] && exec sleep 300; while [ ! -e {gate} ]; do sleep 0.05; done; exit 3"
        job_id = launch(client, ["sh", "-c", script], replicas=2)
        both = [pb.TASK_STATE_RUNNING] * 2
        wait_until(lambda: [task.state for task in client.list_tasks(job_id)] == both, "both tasks to run")
        controller.call(lambda: setattr(store, "full", True))
        gate.touch()
        tasks = controller.controller.jobs.by_id[job_id].job.tasks
        wait_until(lambda: tasks[0].state == pb.TASK_STATE_FAILED, "the news, which nobody keeps yet")
        wait_until(
            lambda: tasks[1].state == pb.TASK_STATE_KILLED,
            "the end of its peer: what is stopped may be what fills the disk",
        )
        assert [task.state for task in client.list_tasks(job_id)] == both, "the saved state"
        controller.call(lambda: setattr(store, "full", False))
        job = wait_for_end(client, job_id)
        assert (job.state, job.exit_code) == (pb.JOB_STATE_FAILED, 3)
        assert job.tasks[1].state == pb.TASK_STATE_KILLED
    with (
        serving(FakeEngine(), Store(tmp_path / "controller.db")) as again,
        RemoteClusterClient(again.address) as client,
    ):
        assert client.get_job_status(job_id).exit_code == 3


def test_job_can_be_terminated_while_the_disk_of_the_controller_is_full(engine: FakeEngine, tmp_path: Path) -> None:
    store = FullDisk(None)
    with (
        serving(engine, store) as controller,
        RemoteClusterClient(controller.address) as client,
        worker(controller, tmp_path / "w"),
    ):
        job_id = launch(client, ["sleep", "300"])
        wait_for_state(client, job_id, pb.JOB_STATE_RUNNING)
        controller.call(lambda: setattr(store, "full", True))
        with pytest.raises(ResourceExhaustedError, match="no space left"):
            client.terminate_job(job_id)
        (task,) = controller.controller.jobs.by_id[job_id].job.tasks
        wait_until(lambda: task.state == pb.TASK_STATE_KILLED, "its end")
        controller.call(lambda: setattr(store, "full", False))
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_KILLED


def test_job_that_is_terminated_while_its_gangs_join_the_queue_leaves_no_gang_there(
    controller: ControllerThread, client: RemoteClusterClient
) -> None:
    jobs = controller.controller.jobs

    async def terminate_early() -> None:
        """Terminate the job as soon as it is in memory, while most of its gangs are not in the queue yet."""
        while "many" not in jobs.by_id:  # noqa: ASYNC110 - No event says that a job is in memory.
            await asyncio.sleep(0)
        await controller.controller.control.terminate_job("many")

    with ThreadPoolExecutor(1) as thread:
        submission = thread.submit(launch, client, ["true"], 2000, name="many", independent_tasks=True)
        controller.run(terminate_early())
        assert submission.result() == "many"
    assert wait_for_end(client, "many").state == pb.JOB_STATE_KILLED
    wait_until(lambda: not client.list_machines().waiting, "an empty queue")


def test_controller_starts_on_a_full_disk_and_saves_its_changes_later(tmp_path: Path) -> None:
    store = FullDisk(tmp_path / "controller.db")
    for name, parent in (("parent", ""), ("parent/child", "parent"), ("waits", "")):
        job = Job.new(name, 1, 1, parent_job_id=parent)
        job.submit()
        if name == "parent":
            job.terminate("terminated by a user", 2)
        launch_request = pb.Controller.LaunchJobRequest(name=name.rpartition("/")[2], command=["true"])
        store.write(Changes().add_job(JobRecord(job, launch_request, [pb.TaskStatus()]), b""))
    store.write(Changes().save_endpoints([pb.Controller.Endpoint(endpoint_id="1", name="files", job_id="parent")]))
    store.write(Changes().set_lease(DEFAULT_LEASE_S))  # as whoever wrote the rest has
    store.full = True
    with serving(FakeEngine(), store) as controller, RemoteClusterClient(controller.address) as client:
        assert client.get_job_status("waits").state == pb.JOB_STATE_PENDING
        controller.call(lambda: setattr(store, "full", False))
        assert wait_for_end(client, "parent/child").state == pb.JOB_STATE_KILLED
        wait_until(lambda: "still starting" in message(client, "waits"), "its turn")
        assert client.list_endpoints() == []
    again = Store(tmp_path / "controller.db")
    assert {stored.job.job_id: stored.job.state for stored in again.load()}["parent/child"] == pb.JOB_STATE_KILLED
    assert again.load_endpoints() == []
    again.close()


def test_attempts_continue_while_the_disk_is_full_for_longer_than_a_lease(engine: FakeEngine, tmp_path: Path) -> None:
    store = FullDisk(None)
    proofs = Proofs(tmp_path / "proofs")
    with (
        serving(engine, store, lease_s=5) as controller,
        RemoteClusterClient(controller.address) as client,
        worker(controller, tmp_path / "w"),
    ):
        other = launch(client, ["sleep", "300"])
        job_id = launch(client, proofs.command())
        proofs.wait_for()
        controller.call(lambda: setattr(store, "full", True))
        with pytest.raises(ResourceExhaustedError):
            client.terminate_job(other)
        with pytest.raises(ResourceExhaustedError):
            launch(client, ["true"])
        began_ns = proofs.times()[-1]
        wait_until(lambda: proofs.times()[-1] - began_ns > 11e9, "the task to run for more than two leases")
        controller.call(lambda: setattr(store, "full", False))
        proofs.open()
        (task,) = wait_for_end(client, job_id).tasks
        assert (task.state, len(task.attempts)) == (pb.TASK_STATE_SUCCEEDED, 1)
        assert wait_for_end(client, other).state == pb.JOB_STATE_KILLED


def test_unhealthy_worker_gets_no_attempts(
    controller: ControllerThread, client: RemoteClusterClient, tmp_path: Path
) -> None:
    with worker(controller, tmp_path / "w") as process:
        wait_until(client.list_workers, "the worker")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not client.list_workers()[0].healthy, "its silence to be noticed", timeout_s=60)
        job_id = launch(client, ["true"])
        wait_until(lambda: "worker w does not answer" in message(client, job_id), "words about it")
        assert not client.get_task_status(job_id, 0).attempts
        process.send_signal(signal.SIGCONT)
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
