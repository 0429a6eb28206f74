"""Workers of other releases, and of other Pythons: they work, or it is said why they do not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import other_release
from support.cluster import launch, shell, wait_for_end, wait_for_state
from support.controller_thread import serving
from support.process_engine import ProcessEngine, Slots, slot_processes
from support.waiting import wait_until

from iris.cluster.client.pickling import pickle_entrypoint
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.cluster.controller.logs.keeper import Keeping
from iris.cluster.controller.storage.store import Store
from iris.cluster.logs.directories import LogDirectories
from iris.cluster.types import Entrypoint
from iris.rpc import cluster_pb2 as pb
from iris.versions import VERSION, python_version


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[Slots]:
    with slot_processes(tmp_path / "workers") as made:
        yield made


@contextmanager
def cluster_of(slots: Slots, version: str, python: str = "") -> Iterator[RemoteClusterClient]:
    """One whose workers are of another release."""
    assert other_release.__file__ is not None
    slots.program = (sys.executable, other_release.__file__, version, python)
    keeping = Keeping(LogDirectories(slots.directory / "kept"))
    with (
        serving(ProcessEngine(slots), Store(None), kept_logs=keeping) as controller,
        RemoteClusterClient(controller.address) as client,
    ):
        slots.address = controller.address
        yield client


@pytest.mark.parametrize("version", ["", "0.2.5"], ids=["0.1.0, which does not say", "0.2.5"])
def test_worker_of_a_neighbouring_release_runs_tasks(slots: Slots, version: str) -> None:
    with cluster_of(slots, version) as client:
        job_id = launch(client, shell("echo done"))
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_SUCCEEDED
        wait_until(lambda: not slots.processes and not client.list_workers(), "the release of its room")
        if version:  # the other one cannot be drained
            assert [line.data for line in client.fetch_task_logs(f"{job_id}/task-0")] == ["done"]


def test_waiting_reason_names_a_refused_worker_of_an_incompatible_release(slots: Slots) -> None:
    with cluster_of(slots, "7.3.0") as client:
        job_id = launch(client, shell("echo done"))
        reason = wait_until(
            lambda: (text := client.get_job_status(job_id).status_message) and "was refused" in text and text,
            "the reason",
        )
        assert f"worker {job_id}@0.0 on " in reason
        assert f"was refused: it has Iris 7.3.0, this controller has {VERSION}; install" in reason
        assert client.list_workers() == []
        worker = slots.processes[f"{job_id}@0.0"]
        worker.wait(30)
        said = (slots.directory / f"{job_id}@0.0.log").read_text()
        assert "this worker ends: the controller refuses this worker: it has Iris 7.3.0" in said
        client.terminate_job(job_id)
        wait_for_end(client, job_id)


def test_gang_whose_worker_was_refused_pauses_before_its_next_request(slots: Slots) -> None:
    with cluster_of(slots, "7.3.0") as client:
        slots.ends_gang = True
        job_id = launch(client, shell("echo done"), replicas=1)
        reason = wait_until(
            lambda: (text := client.get_job_status(job_id).status_message) and "the last one was lost" in text and text,
            "the pause",
        )
        assert reason.startswith(
            "waiting: the next allocation is requested after a pause, because the last one was lost: worker "
        )
        assert "it has Iris 7.3.0" in reason
        client.terminate_job(job_id)
        assert wait_for_end(client, job_id).state == pb.JOB_STATE_KILLED


def test_callable_pickled_by_another_python_version_fails_before_the_task_starts(slots: Slots) -> None:
    with cluster_of(slots, VERSION, "3.99") as client:
        entrypoint = pickle_entrypoint(Entrypoint.from_callable(print, "here"))
        request = pb.Controller.LaunchJobRequest(
            name="pickled", serialized_entrypoint=entrypoint, pickled_by=python_version(), submission_id="1"
        )
        client.launch_job(request)
        job = wait_for_end(client, "pickled")
        assert job.state == pb.JOB_STATE_FAILED
        assert job.error == (
            f"the callable was pickled by Python {python_version()} and cannot run on this worker's Python 3.99: submit"
            f" it from Python 3.99, use a worker with Python {python_version()}, or submit a command instead"
        )
        (task,) = job.tasks
        (attempt,) = task.attempts
        assert (attempt.started_at_ms, attempt.is_worker_failure, task.preemption_count) == (0, False, 0)
        command = launch(client, shell("echo any Python will do"))
        wait_for_state(client, command, pb.JOB_STATE_SUCCEEDED)
