"""What `list_machines` shows while jobs come and go: each core is free or held, in every reading."""

from __future__ import annotations

import pytest
from support.cluster import launch, running_cluster
from support.waiting import wait_until

from iris import failpoints
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2 as pb


@pytest.mark.parametrize("slow_place", ["store.commit.before", "placement.before", "stop.before"])
def test_each_core_is_listed_as_free_or_allocated_while_jobs_start_and_end(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, slow_place: str
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{slow_place}=delay:100")  # makes the time between two states longer
    with (
        running_cluster(tmp_path_factory.mktemp("books")) as server,
        RemoteClusterClient(server.address) as client,
    ):
        (machine,) = wait_until(lambda: client.list_machines().machines, "the worker")
        cores = machine.total.cpu
        need = pb.ResourceSpecProto(cpu=1)
        running = launch(client, ["sleep", "300"], resources=need)
        short = [launch(client, ["true"], cores - 1, resources=need) for _ in range(3)] if cores > 1 else []
        wrong = []

        def ended() -> bool:
            (machine,) = client.list_machines().machines
            held = {holding.job_id: list(holding.task_indices) for holding in machine.holdings}
            if machine.free.cpu + sum(map(len, held.values())) != cores:
                wrong.append((machine.free.cpu, held))
            statuses = [client.get_job_status(job_id) for job_id in short]
            if all(status.finished_at_ms for status in statuses):
                client.terminate_job(running)
            return machine.free.cpu == cores

        wait_until(ended, "the end of all jobs")
        assert not wrong, f"of {cores} cores: (free, held)"
