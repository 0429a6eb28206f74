"""Computes the rendezvous variables of a gang: the local rank of each task, and the devices visible to each task.

A program computes on the device `cuda:{LOCAL_RANK}`. Therefore the local rank of a task must be the index of one of the
task's own devices among the visible devices.
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
        visible_devices: The devices of all tasks on the machine, if the task sees all of them. Empty if the task sees
            only its own devices.
    """

    local_rank: int
    local_world_size: int
    visible_devices: tuple[str, ...] = ()


def assign_local_ranks(
    machines: Sequence[str], devices: Sequence[Sequence[str]], *, share_devices: bool
) -> list[LocalRank]:
    """Return the local rank of each task, by task index.

    Args:
        machines: The name of the machine of each task.
        devices: The devices that belong to each task.
        share_devices: True if the tasks of the gang on one machine share their devices. Each of these tasks then sees
            all their devices, in the order of the local ranks. If a task of the gang on a machine does not have exactly
            one device, each task on this machine sees only its own devices.
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
            # The engine numbers the devices of each slot from 0, so a task cannot see the devices of other tasks.
            # Therefore each task counts as the only task on its machine.
            found |= {index: LocalRank(0, 1) for index in here}
        else:
            found |= {index: LocalRank(rank, len(here), visible) for rank, index in enumerate(here)}
    return [found[index] for index in range(len(machines))]


@dataclass(slots=True)
class GangRendezvous:
    """The rendezvous of one gang, for the requests that start the gang's attempts.

    Attributes:
        framework: The framework whose variables the tasks get.
        local_ranks: The local rank of each task.
        master_port: The port at which the tasks meet task 0; 0 until the worker of task 0 has reserved the port.
    """

    framework: cluster_pb2.Rendezvous
    local_ranks: Sequence[LocalRank]
    master_port: int = 0

    @classmethod
    def of(cls, record: JobRecord, slots: Mapping[int, Slot], workers: Mapping[str, WorkerRecord]) -> GangRendezvous:
        """Return the rendezvous of a gang, for the current placement of the job's tasks.

        Args:
            record: The record of the job.
            slots: The slot of each placed task, by task index.
            workers: The registered workers. The worker of each live attempt must be registered.
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
        # Each JAX task sees only its own devices, because a JAX process claims all devices that it sees.
        share_devices = framework == cluster_pb2.RENDEZVOUS_TORCH
        return cls(framework, assign_local_ranks(machines, devices, share_devices=share_devices))

    def describe(self, request: cluster_pb2.Worker.RunTasksRequest) -> None:
        """Add the rendezvous to a request that starts attempts of the gang."""
        request.shared.rendezvous = self.framework
        request.shared.master_port = self.master_port
        for place in request.places:
            own = self.local_ranks[place.task_index]
            place.local_rank = own.local_rank
            place.local_world_size = own.local_world_size
            if own.visible_devices:
                # The request may already contain the ids of the task's own devices.
                del place.visible_devices[:]
                place.visible_devices.extend(own.visible_devices)
