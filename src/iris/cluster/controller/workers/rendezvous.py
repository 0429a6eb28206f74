"""How the tasks of a gang meet in their framework's words: who is where, and which devices each of them sees.

A rank's number on its machine (`LOCAL_RANK`) is what programs choose their device by: `cuda:{LOCAL_RANK}` is to be the
task's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.submission.request import need_of
from iris.cluster.controller.workers.dispatch import WorkerRecord
from iris.cluster.engine.base import Slot
from iris.rpc import cluster_pb2


@dataclass(frozen=True, slots=True)
class Seat:
    """One task among those of its gang on the same machine.

    Attributes:
        local_rank: How many of them have a lower index.
        local_world_size: How many there are.
        visible_devices: What it sees instead of its own devices; empty: only those.
    """

    local_rank: int
    local_world_size: int
    visible_devices: tuple[str, ...] = ()


def seats(machines: Sequence[str], devices: Sequence[Sequence[str]], *, share_devices: bool) -> list[Seat]:
    """Where each task sits.

    Args:
        machines: Of each task.
        devices: Of each task, its own.
        share_devices: Whether those on one machine, with one device each, see the devices of all of them, in the order
            of their ranks. With several each, or none, everybody sees his own only.
    """
    found: dict[int, Seat] = {}
    groups: dict[str, list[int]] = {}
    for index, machine in enumerate(machines):
        groups.setdefault(machine, []).append(index)
    for here in groups.values():
        visible: tuple[str, ...] = ()
        if share_devices and len(here) > 1 and all(len(devices[index]) == 1 for index in here):
            visible = tuple(devices[index][0] for index in here)
        if len(set(visible)) < len(visible):
            # The engine counts anew for each slot, and no task can see another's: each is alone with its own, number 0.
            found |= {index: Seat(0, 1) for index in here}
        else:
            found |= {index: Seat(rank, len(here), visible) for rank, index in enumerate(here)}
    return [found[index] for index in range(len(machines))]


@dataclass(slots=True)
class Meeting:
    """The rendezvous of the attempts of one gang.

    Attributes:
        framework: In whose words.
        seats: Of each task.
        master_port: Where task 0 is waited for; 0 until its worker has said it.
    """

    framework: cluster_pb2.Rendezvous
    seats: Sequence[Seat]
    master_port: int = 0

    @classmethod
    def of(cls, record: JobRecord, slots: Mapping[int, Slot], workers: Mapping[str, WorkerRecord]) -> Meeting:
        """That of a job's tasks as they are placed now; the workers of those that go on have registered."""
        there = [workers.get(task.attempts[-1].worker_id) for task in record.job.tasks]
        devices: list[Sequence[str]] = [()] * len(there)
        if need_of(record.launch).gpu:
            devices = [
                [str(number) for number in (slots[index].gpu_ids if index in slots else ())]
                or (worker.visible_devices if worker else ())
                for index, worker in enumerate(there)
            ]
        machines = [
            (slots[index].machine if index in slots else "") or (worker.metadata.hostname if worker else "")
            for index, worker in enumerate(there)
        ]
        framework = record.launch.rendezvous
        # A process of JAX takes all devices that it sees.
        share_devices = framework == cluster_pb2.RENDEZVOUS_TORCH
        return cls(framework, seats(machines, devices, share_devices=share_devices))

    def describe(self, request: cluster_pb2.Worker.RunTasksRequest) -> None:
        """Adds it to what a worker is told of some of the attempts."""
        request.shared.rendezvous = self.framework
        request.shared.master_port = self.master_port
        for place in request.places:
            seat = self.seats[place.task_index]
            place.local_rank = seat.local_rank
            place.local_world_size = seat.local_world_size
            place.visible_devices.extend(seat.visible_devices)
