"""Computes the rendezvous of a gang: the local rank of each task, and the devices that each task sees.

Programs choose their device by their rank on the machine (`LOCAL_RANK`), so `cuda:{LOCAL_RANK}` must be the task's own
device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.submission.request import need_of
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.engine.base import Slot
from iris.rpc import cluster_pb2


@dataclass(frozen=True, slots=True)
class LocalRank:
    """The rank of a task among the tasks of its gang on the same machine.

    Attributes:
        local_rank: The number of tasks on the machine that have a lower index.
        local_world_size: The number of tasks on the machine.
        visible_devices: The devices that the task sees; empty if the task sees its own devices only.
    """

    local_rank: int
    local_world_size: int
    visible_devices: tuple[str, ...] = ()


def assign_local_ranks(
    machines: Sequence[str], devices: Sequence[Sequence[str]], *, share_devices: bool
) -> list[LocalRank]:
    """Return the local rank of each task, by task index.

    Args:
        machines: The machine of each task.
        devices: The devices that belong to each task.
        share_devices: True if each task sees the devices of all tasks of the gang on its machine, in the order of their
            ranks. Devices are shared only if each of these tasks has exactly one device. All other tasks see their own
            devices only.
    """
    found: dict[int, LocalRank] = {}
    groups: dict[str, list[int]] = {}
    for index, machine in enumerate(machines):
        groups.setdefault(machine, []).append(index)
    for here in groups.values():
        visible: tuple[str, ...] = ()
        if share_devices and len(here) > 1 and all(len(devices[index]) == 1 for index in here):
            visible = tuple(devices[index][0] for index in here)
        if len(set(visible)) < len(visible):
            # The engine numbers the devices of each slot from 0, so no task can see another task's device. Each task
            # therefore counts as alone on its machine.
            found |= {index: LocalRank(0, 1) for index in here}
        else:
            found |= {index: LocalRank(rank, len(here), visible) for rank, index in enumerate(here)}
    return [found[index] for index in range(len(machines))]


@dataclass(slots=True)
class GangRendezvous:
    """The rendezvous of the attempts of one gang.

    Attributes:
        framework: The framework whose variables the tasks get.
        local_ranks: The local rank of each task.
        master_port: The port on which task 0 accepts the other tasks; 0 until the worker of task 0 has reserved a port.
    """

    framework: cluster_pb2.Rendezvous
    local_ranks: Sequence[LocalRank]
    master_port: int = 0

    @classmethod
    def of(cls, record: JobRecord, slots: Mapping[int, Slot], workers: Mapping[str, WorkerRecord]) -> GangRendezvous:
        """Return the rendezvous of a job's tasks as they are placed now.

        Args:
            record: The job.
            slots: The slot of each placed task, by task index.
            workers: The registered workers, among them the worker of each live attempt.
        """
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
        # A process that uses JAX claims all devices that it sees.
        share_devices = framework == cluster_pb2.RENDEZVOUS_TORCH
        return cls(framework, assign_local_ranks(machines, devices, share_devices=share_devices))

    def describe(self, request: cluster_pb2.Worker.RunTasksRequest) -> None:
        """Add the rendezvous to a request that starts some of the gang's attempts."""
        request.shared.rendezvous = self.framework
        request.shared.master_port = self.master_port
        for place in request.places:
            own = self.local_ranks[place.task_index]
            place.local_rank = own.local_rank
            place.local_world_size = own.local_world_size
            place.visible_devices.extend(own.visible_devices)
