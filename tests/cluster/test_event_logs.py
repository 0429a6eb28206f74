"""The event logs of a real cluster: the life of a job, as the controller and its worker write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.cluster import launch, running_cluster, shell, wait_for_end
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient


def events_in(path: Path) -> list[dict[str, Any]]:
    """The events of a log in JSON. Other lines, such as the warnings of failpoints, are not events."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if "event" in line]


def fields_of(events: list[dict[str, Any]], event: str, *names: str, **wanted: object) -> list[tuple[Any, ...]]:
    """These fields of the events of one kind which have the wanted values."""
    found = [one for one in events if one["event"] == event and wanted.items() <= one.items()]
    return [tuple(one.get(name) for name in names) for one in found]


def test_event_logs_contain_each_state_of_a_job_as_json(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with (
        running_cluster(directory, log_format="json", log_level="debug") as server,
        RemoteClusterClient(server.address) as client,
    ):
        script = "test $IRIS_ATTEMPT_ID = 1 || exit 3"
        job_id = launch(client, shell(script), max_retries_failure=1, retry_pause_ms=1)
        wait_for_end(client, job_id)
        warned = shell("trap 'exit 0' USR1; sleep 600 & wait")
        warned_id = launch(client, warned, timeout_seconds=600, timeout_warning_seconds=599)
        wait_for_end(client, warned_id)
        ended = wait_until(
            lambda: (
                (events := events_in(directory / "server.log"))
                and fields_of(events, "gang.state", "state", gang_id=f"{job_id}@1")[-1:] == [("removed",)]
                and events
            ),
            "the end of the job's last gang",
        )
        of_worker = events_in(directory / "workers" / "local-0.log")
    assert fields_of(ended, "server.started", "address") == [(server.address,)]
    assert fields_of(ended, "worker.registered", "worker_id") == [("local-0",)]
    assert fields_of(ended, "lease.granted", "worker_id", "lease_s") == [("local-0", 300.0)]
    assert fields_of(ended, "job.submitted", "tasks", "owner", job_id=job_id) == [(1, "tests")]
    assert [state for (state,) in fields_of(ended, "job.state", "state", job_id=job_id)][-1] == "SUCCEEDED"
    warnings = fields_of(of_worker, "attempt.timeout_warning", "limit", "processes", task_id=f"{warned_id}/task-0")
    assert warnings == [("the attempt's timeout", 1)]
    task_id = f"{job_id}/task-0"
    attempts = [
        (0, "BUILDING", None),
        (0, "RUNNING", None),
        (0, "FAILED", 3),
        (1, "BUILDING", None),
        (1, "RUNNING", None),
        (1, "SUCCEEDED", 0),
    ]
    fields = ("attempt_id", "state", "exit_code")
    # A worker reports only the last state of an attempt that has ended before the report is sent.
    reported = fields_of(ended, "attempt.state", *fields, task_id=task_id)
    assert [attempt for attempt in attempts if attempt[1] != "RUNNING" or attempt in reported] == reported
    assert fields_of(of_worker, "attempt.state", *fields, task_id=task_id) == attempts
    gangs = [state for (state,) in fields_of(ended, "gang.state", "state", gang_id=f"{job_id}@0")]
    # The first gang is granted, and not yet held, if its worker has not registered when the engine grants the slots.
    gangs = [state for state in gangs if state != "granted"]
    assert gangs == ["queued", "requested", "held", "releasedue", "releasing", "removed"]
    assert ("LaunchJob", None) in fields_of(ended, "call.answered", "method", "error")
    assert "run_tasks" in [method for (method,) in fields_of(ended, "call.made", "method")]
    assert fields_of(of_worker, "worker.started", "worker_id") == [("local-0",)]


def test_event_log_of_a_default_cluster_is_text_without_calls(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with running_cluster(directory) as server, RemoteClusterClient(server.address) as client:
        job_id = launch(client, shell("true"))
        wait_for_end(client, job_id)
        text = wait_until(
            lambda: (
                f"job.state job_id={job_id} state=SUCCEEDED" in (said := (directory / "server.log").read_text())
                and said
            ),
            "the end of the job in server.log",
        )
    assert "call.answered" not in text
    assert f"INFO iris.cluster.controller.jobs.job_events job.submitted job_id={job_id} tasks=1 owner=tests\n" in text


def test_lost_worker_is_written_to_the_event_log(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with running_cluster(directory, log_format="json") as server, RemoteClusterClient(server.address) as client:
        first = wait_until(client.list_workers, "the worker")[0]
        launch(client, shell("kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); sleep 600"))
        lost = wait_until(
            lambda: fields_of(events_in(directory / "server.log"), "worker.fenced", "worker_id"),
            "the loss of the worker",
        )
    assert lost == [(first.worker_id,)]
