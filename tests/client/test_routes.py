"""By which way logs are read: straight from workers that can be reached from here, else through the controller."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from contracts.log_following import Reading, python
from support.chaos_proxy import ChaosProxy
from support.cluster import running_http2_cluster
from support.waiting import wait_until

from iris.client import IrisClient
from iris.errors import WorkerUnreachableError
from iris.rpc import cluster_pb2 as pb

# Where workers say that they are. Only the proxies are there, so what each process reaches is the test's to say.
HOST = "127.0.0.3"
NOBODY = ("127.0.0.1", 9)  # a port of loopback on which nobody listens


def quiet(text: str) -> None:
    """For `on_notice`."""


@dataclass
class Cluster:
    """A cluster in a process of its own.

    Attributes:
        address: The controller's; everybody reaches it.
        doors: What is at the address of each worker, by worker id.
    """

    address: str
    doors: dict[str, ChaosProxy]

    def divert_us(self, target: tuple[str, int] | None) -> None:
        """From now on this process gets somebody else at the workers' addresses; None: nobody answers it."""
        for door in self.doors.values():
            door.diverted[os.getpid()] = target

    def diversions(self) -> int:
        """How many of our connections were diverted."""
        return sum(door.diversions for door in self.doors.values())

    def visits(self) -> int:
        """How many connections to workers there were, the controller's included."""
        return sum(door.connections for door in self.doors.values())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as opened:
        address, ports = opened.enter_context(running_http2_cluster(tmp_path / "cluster", HOST))
        doors = {
            worker_id: opened.enter_context(ChaosProxy(("127.0.0.1", port), host=HOST, port=port))
            for worker_id, port in ports.items()
        }
        yield Cluster(address, doors)


def speaker(gate: Path) -> list[str]:
    """Says something now, and something else once a file is there."""
    return python(f"print('now'); wait_for({str(gate)!r}); print('later')")


def test_logs_are_read_through_the_controller_if_no_worker_is_reachable(cluster: Cluster, tmp_path: Path) -> None:
    cluster.divert_us(None)
    gate = tmp_path / "gate"
    with IrisClient.remote(cluster.address) as client:
        job = client.run(speaker(gate), replicas=2)
        readings = [Reading(job.logs(follow=True)), *(Reading(task.logs(follow=True)) for task in job.tasks())]
        for reading, count in zip(readings, (2, 1, 1), strict=True):
            wait_until(lambda reading=reading, count=count: len(reading.entries) == count, "what is said now")
        wait_until(lambda: [line.message for line in client.fetch_task_logs(job.job_id, 1)] == ["now"], "a list")
        assert len(client.cluster.fetch_task_logs(f"{job.job_id}/task-0")) == 1
        gate.touch()
        for reading, count in zip(readings, (4, 2, 2), strict=True):
            assert [line.message for line in reading.rest()].count("later") == count / 2
            assert all(end.complete for end in reading.stream.ends.values())
        # Which worker cannot be reached is found out by the first who ask, and not again for each reader.
        assert cluster.diversions() <= 2 * len(readings)
        found_out = cluster.diversions()
        for _ in range(3):
            assert len(list(job.logs())) == 4
            assert len(client.fetch_task_logs(job.job_id, 0)) == 2
        assert cluster.diversions() == found_out


def test_logs_are_read_directly_from_reachable_workers(cluster: Cluster) -> None:
    with IrisClient.remote(cluster.address) as client:
        job = client.run(["echo", "hello"])
        job.wait()
        before = cluster.visits()
        assert [line.message for line in job.logs()] == ["hello"]
        assert cluster.visits() > before


def test_log_is_not_read_from_another_server_at_the_address_of_a_worker(cluster: Cluster) -> None:
    one, other = cluster.doors.values()
    one.diverted[os.getpid()], other.diverted[os.getpid()] = other.target, one.target
    with IrisClient.remote(cluster.address) as client:
        job = client.run(["echo", "hello"])
        assert [line.message for line in job.logs(follow=True)] == ["hello"]
        assert [line.message for line in client.fetch_task_logs(job.job_id, 0)] == ["hello"]


def follow_while_the_worker_becomes_unreachable(cluster: Cluster, gate: Path) -> list[str]:
    """Follow a task to its end, and return the notices of the follow."""
    for door in cluster.doors.values():
        door.diverted.clear()
    notices: list[str] = []
    with IrisClient.remote(cluster.address) as client:
        job = client.run(speaker(gate))
        reading = Reading(job.logs(follow=True, on_notice=notices.append))
        reading.see(b"now\n")
        cluster.divert_us(NOBODY)
        for door in cluster.doors.values():
            door.strike("reset")
        gate.touch()
        reading.rest()
        reading.see(b"now\nlater\n")
        assert reading.stream.ends[0].state == pb.TASK_STATE_SUCCEEDED
    return notices


def test_following_a_log_continues_through_the_controller_without_its_worker(cluster: Cluster, tmp_path: Path) -> None:
    gates = (tmp_path / f"gate-{number}" for number in itertools.count())
    # On a busy machine, the worker may answer the probe too late. Then the follow begins at the controller.
    wait_until(
        lambda: any(
            "trying again" in text for text in follow_while_the_worker_becomes_unreachable(cluster, next(gates))
        ),
        "a follow that begins at the worker",
    )


def test_logs_are_read_by_the_chosen_route(cluster: Cluster) -> None:
    cluster.divert_us(NOBODY)
    with IrisClient.remote(cluster.address) as client:
        job = client.run(["echo", "hello"])
        job.wait()
        with pytest.raises(WorkerUnreachableError):
            list(job.logs(route="worker", patience_s=0.5, on_notice=quiet))
        assert [line.message for line in job.logs(route="controller")] == ["hello"]
