"""Tasks that meet, on a cluster of this machine: the contract, and what is true of workers that share a machine."""

from __future__ import annotations

from contracts.rendezvous import *  # noqa: F403 - the contract
from contracts.rendezvous import environments
from support.cluster import shell

from iris.client import IrisClient


def test_workers_on_a_shared_machine_count_as_separate_machines_for_local_ranks(client: IrisClient) -> None:
    job = client.run(shell("env"), replicas=5, rendezvous="torch")
    job.wait(timeout=100)
    seats: dict[str, list[tuple[str, str]]] = {}
    for env in environments(job):
        seats.setdefault(env["IRIS_WORKER_ID"], []).append((env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"]))
    assert seats == {"local-0": [("0", "3"), ("1", "3"), ("2", "3")], "local-1": [("0", "2"), ("1", "2")]}
