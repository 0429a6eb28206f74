"""Somebody removes the log of a task that runs: readers are told at once, and what comes later is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.cluster import launch, running_cluster, shell, wait_for_end
from support.waiting import wait_until

from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2 as pb

SCRIPT = (
    "echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo second; while [ ! -e {end} ]; do sleep 0.05; done"
)


@pytest.mark.parametrize("removed", ["log", "task", "logs"])
def test_log_files_deleted_during_a_task_are_reported_and_the_log_continues(tmp_path: Path, removed: str) -> None:
    gate, end = tmp_path / "gate", tmp_path / "end"
    with running_cluster(tmp_path / "state") as server, RemoteClusterClient(server.address) as client:
        job_id = launch(client, shell(SCRIPT.format(gate=gate, end=end)))
        task_id = f"{job_id}/task-0"

        def read() -> list[pb.Worker.LogEntry]:
            return list(client.fetch_task_logs(task_id))

        wait_until(lambda: [entry.data for entry in read()] == ["first"], "the first line")
        (log,) = (tmp_path / "state" / "logs").glob("*/0")
        shutil.rmtree({"log": log, "task": log.parent, "logs": log.parent.parent}[removed])
        told = wait_until(read, "readers to be told")
        assert [entry.missing_bytes for entry in told] == [6, 0]
        assert told[0].source == "stdout"
        assert "removed, or moved, while the task ran" in told[0].data
        assert told[1].source == "build"
        task = wait_until(
            lambda: (seen := client.get_task_status(job_id, 0)).log_warning and seen, "the status to tell it"
        )
        assert "6 bytes of its log are missing: the log was removed, or moved" in task.log_warning
        assert task.status_message == task.log_warning
        assert task.state == pb.TASK_STATE_RUNNING
        gate.touch()
        entries = wait_until(lambda: (seen := read()) and len(seen) == 3 and seen, "the second line")
        assert entries[2].data == "second"
        end.touch()
        job = wait_for_end(client, job_id)
        assert job.state == pb.JOB_STATE_SUCCEEDED
        assert [entry.missing_bytes for entry in read()] == [6, 0, 0]
        assert "6 bytes" in job.tasks[0].log_warning
