"""Fenced worker processes: their reports change nothing, also after a restart of the controller."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import launch
from support.controller_thread import ControllerThread, serving
from support.fake_engine import FakeEngine
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.storage.store import Changes, Store
from iris.cluster.controller.workers.worker_record import WorkerLimits
from iris.errors import NotFoundError, ResourceExhaustedError
from iris.rpc import cluster_pb2 as pb

NOWHERE = "http://127.0.0.1:9"
Registered = pb.Controller.RegisterWorkerResponse
Answer = pb.Controller.ReportTaskStatesResponse


def register(controller: ControllerThread, incarnation: str, worker_id: str = "w") -> Registered:
    request = pb.Controller.RegisterWorkerRequest(worker_id=worker_id, address=NOWHERE, incarnation=incarnation)
    return controller.run(controller.controller.reports.register(request))


def report(controller: ControllerThread, incarnation: str, *states: tuple[str, int, int]) -> Answer:
    """Return a report of a worker process about the state of an attempt of task 0."""
    request = pb.Controller.ReportTaskStatesRequest(worker_id="w", incarnation=incarnation)
    for job_id, attempt_id, state in states:
        request.reports.add(
            worker_id="w",
            task_id=f"{job_id}/task-0",
            job_id=job_id,
            attempt_id=attempt_id,
            state=state,  # type: ignore[arg-type]
            started_at_ms=1,
        )
    return controller.run(controller.controller.reports.report_states(request))


def placed(client: RemoteClusterClient, job_id: str, attempts: int) -> pb.TaskStatus:
    """Wait until task 0 has had `attempts` attempts, and return its status."""
    return wait_until(
        lambda: (task := client.get_task_status(job_id, 0)) and len(task.attempts) == attempts and task,
        f"{attempts} attempts",
    )


@pytest.mark.parametrize("restarted", [False, True], ids=["at once", "after a restart"])
def test_worker_process_is_fenced_once_another_process_registers_as_the_same_worker(
    tmp_path: Path, restarted: bool
) -> None:
    engine = FakeEngine()
    path = tmp_path / "controller.db"
    with serving(engine, Store(path)) as controller, RemoteClusterClient(controller.address) as client:
        answer = register(controller, "first")
        assert (answer.accepted, answer.lease_ms) == (True, 300_000)
        job_id = launch(client, ["true"])
        placed(client, job_id, 1)
        assert not report(controller, "first", (job_id, 0, pb.TASK_STATE_RUNNING)).fenced
        assert register(controller, "second").accepted
        assert placed(client, job_id, 2).preemption_count == 1
        if not restarted:
            _assert_fenced(controller, client, job_id)
    if restarted:
        with (
            serving(engine.for_next_controller(), Store(path)) as controller,
            RemoteClusterClient(controller.address) as client,
        ):
            _assert_fenced(controller, client, job_id)


def _assert_fenced(controller: ControllerThread, client: RemoteClusterClient, job_id: str) -> None:
    for attempt_id in (0, 1):
        answer = report(controller, "first", (job_id, attempt_id, pb.TASK_STATE_SUCCEEDED))
        assert answer.fenced
    assert not register(controller, "first").accepted, "nor does it take the place back"
    task = client.get_task_status(job_id, 0)
    assert [attempt.state for attempt in task.attempts] == [pb.TASK_STATE_WORKER_FAILED, pb.TASK_STATE_BUILDING]
    assert register(controller, "second").accepted
    assert not report(controller, "second", (job_id, 1, pb.TASK_STATE_SUCCEEDED)).unwanted
    assert client.get_job_status(job_id).state == pb.JOB_STATE_SUCCEEDED


def test_worker_silent_for_longer_than_its_lease_is_lost_and_fenced(tmp_path: Path) -> None:
    with (
        serving(FakeEngine(), Store(tmp_path / "db"), lease_s=2) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        job_id = launch(client, ["true"])
        register(controller, "first")
        placed(client, job_id, 1)
        task = wait_until(
            lambda: (task := client.get_task_status(job_id, 0)) and task.preemption_count and task, "it to be lost"
        )
        assert task.attempts[0].error == "worker w was lost: it has been silent for longer than its lease of 2 s"
        assert report(controller, "first", (job_id, 0, pb.TASK_STATE_SUCCEEDED)).fenced
        assert client.get_task_status(job_id, 0).attempts[0].state == pb.TASK_STATE_WORKER_FAILED


def test_worker_that_does_not_register_again_after_a_controller_restart_is_lost(tmp_path: Path) -> None:
    engine = FakeEngine()
    with (
        serving(engine, Store(tmp_path / "db"), lease_s=6) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        job_id = launch(client, ["true"])
        register(controller, "first")
        placed(client, job_id, 1)
    with (
        serving(engine.for_next_controller(), Store(tmp_path / "db"), lease_s=6) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        assert client.get_task_status(job_id, 0).preemption_count == 0, "it has its time to come back"
        wait_until(lambda: client.get_task_status(job_id, 0).preemption_count == 1, "it to be lost")
        assert report(controller, "first", (job_id, 0, pb.TASK_STATE_SUCCEEDED)).fenced
        assert not register(controller, "first").accepted


def test_restarted_controller_waits_for_the_longer_lease_of_an_earlier_controller(tmp_path: Path) -> None:
    """After a restart of the controller with a shorter lease, a worker may still have the longer lease."""
    engine = FakeEngine()
    with (
        serving(engine, Store(tmp_path / "db"), lease_s=6) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        register(controller, "first")
        job_id = launch(client, ["true"])
        placed(client, job_id, 1)
    for lease_s in (1.0, 2.0):  # the second life with another one does not forget the first
        with serving(engine.for_next_controller(), Store(tmp_path / "db"), lease_s=lease_s) as controller:
            store_lease = controller.call(lambda: controller.controller.fleet.longest_lease_s)
            assert store_lease == 6
    began_s = time.monotonic()
    with (
        serving(engine.for_next_controller(), Store(tmp_path / "db"), lease_s=1) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        wait_until(lambda: client.get_task_status(job_id, 0).preemption_count == 1, "it to be lost")
        assert time.monotonic() - began_s > 6, "no sooner than by the lease that it had"
        wait_until(lambda: controller.controller.fleet.longest_lease_s == 1, "the earlier lives to be over")


def test_worker_that_registers_again_after_a_controller_restart_keeps_its_attempts(tmp_path: Path) -> None:
    engine = FakeEngine()
    with serving(engine, Store(tmp_path / "db")) as controller, RemoteClusterClient(controller.address) as client:
        register(controller, "first")
        job_id = launch(client, ["true"])
        placed(client, job_id, 1)
    with (
        serving(engine.for_next_controller(), Store(tmp_path / "db")) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        assert report(controller, "first", (job_id, 0, pb.TASK_STATE_SUCCEEDED)).register_again
        assert client.get_task_status(job_id, 0).state != pb.TASK_STATE_SUCCEEDED
        assert register(controller, "first").accepted
        assert not report(controller, "first", (job_id, 0, pb.TASK_STATE_SUCCEEDED)).unwanted
        assert client.get_job_status(job_id).state == pb.JOB_STATE_SUCCEEDED


def test_waiting_reason_names_a_worker_refused_because_of_the_worker_limit(tmp_path: Path) -> None:
    with (
        serving(FakeEngine(), Store(None), worker_limits=WorkerLimits(count=1)) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        assert register(controller, "first", "other").accepted
        job_id = launch(client, ["true"])
        with pytest.raises(ResourceExhaustedError, match="the limit of a cluster"):
            register(controller, "first")
        said = "worker w on a host that it does not name was refused: there are 1 workers already"
        wait_until(lambda: said in client.get_job_status(job_id).status_message, "why it waits")
        controller.call(lambda: controller.controller.fleet.forget("other"))
        assert register(controller, "first").accepted
        placed(client, job_id, 1)


@pytest.mark.parametrize(("field", "size"), [("version", 201), ("python_version", 1_000_000)])
def test_worker_registration_with_an_oversized_version_is_refused(tmp_path: Path, field: str, size: int) -> None:
    request = pb.Controller.RegisterWorkerRequest(worker_id="w", address=NOWHERE)
    setattr(request, field, "3" * size)
    with serving(FakeEngine(), Store(None)) as controller, pytest.raises(ResourceExhaustedError, match=field):
        controller.run(controller.controller.reports.register(request))


def test_terminal_escape_codes_in_a_worker_version_are_shown_escaped(tmp_path: Path) -> None:
    request = pb.Controller.RegisterWorkerRequest(worker_id="w", address=NOWHERE, version="\x1b[2J")
    with serving(FakeEngine(), Store(None)) as controller:
        answer = controller.run(controller.controller.reports.register(request))
    assert answer.refused.startswith("it has Iris \\x1b[2J, this controller has")


def test_report_task_state_for_an_unknown_task_raises_not_found(tmp_path: Path) -> None:
    with serving(FakeEngine(), Store(None)) as controller, pytest.raises(NotFoundError):
        controller.run(
            controller.controller.reports.report_state(
                pb.Controller.ReportTaskStateRequest(worker_id="w", task_id="no/task-0", state=pb.TASK_STATE_FAILED)
            )
        )


def test_restarted_controller_ends_child_jobs_of_a_parent_whose_end_was_saved(tmp_path: Path) -> None:
    from support.stored_jobs import killed, new_job, stored, waiting

    from iris.cluster.controller.storage.store import Changes

    store = Store(tmp_path / "db")
    for name, bring in (("parent", killed), ("child", waiting)):
        job = new_job(name)
        job.parent_job_id = "parent" if name == "child" else ""
        bring(job)
        store.write(Changes().add_job(stored(job), b""))
    store.write(
        Changes().save_endpoints([pb.Controller.Endpoint(endpoint_id="e", name="name", address="h:1", job_id="parent")])
    )
    with serving(FakeEngine(), store) as controller, RemoteClusterClient(controller.address) as client:
        wait_until(lambda: client.get_job_status("child").state == pb.JOB_STATE_KILLED, "the end of the child")
        with pytest.raises(NotFoundError):
            client.lookup_endpoint("name")


DAY_S = 86_400


@pytest.mark.parametrize(("days", "kept"), [(29, True), (31, False)])
def test_fenced_worker_process_is_remembered_until_its_last_token_has_expired(
    tmp_path: Path, days: int, kept: bool
) -> None:
    store = Store(tmp_path / "db")
    store.write(Changes().fence("w", "old").fence("w", "new"))
    store.close()
    with closing(sqlite3.connect(tmp_path / "db")) as db, db:
        db.execute("UPDATE fenced SET since_ms = since_ms - ? WHERE incarnation='old'", (days * DAY_S * 1000,))
    with serving(FakeEngine(), Store(tmp_path / "db"), lease_s=1) as controller:
        if not kept:
            wait_until(lambda: register(controller, "old").accepted, "it to be of no interest any more")
        assert register(controller, "old").accepted is not kept
        assert not register(controller, "new").accepted
    store = Store(tmp_path / "db")
    assert sorted(incarnation for _, incarnation in store.load_fenced()) == (["new", "old"] if kept else ["new"])
    store.close()
