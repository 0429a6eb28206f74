"""A job as the controller holds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iris.cluster.controller.jobs.job import Instruction
from iris.cluster.controller.storage.store import StoredJob
from iris.errors import NotFoundError
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from iris.cluster.controller.api.watch import Watch

_USAGE = [field.name for field in cluster_pb2.ResourceUsage.DESCRIPTOR.fields]
_MOST = 2**31 - 1  # what each of these fields can hold, however many tasks there are


@dataclass(slots=True)
class JobRecord(StoredJob):
    """A job, and what the controller holds of it besides.

    Attributes:
        saved_revision: Up to here it is in the store.
        changed: Set, and replaced, when there is news for watchers.
        concluded: Whether what follows from its end has been done.
        to_do: What is to be done once it is saved.
        unsaved_results: Return values, pickled, by task index.
        gpu_ids: By task index, the devices that its current slot brings.
        machines: By task index, the machine that its current slot is on, as the engine names it.
        watch: The clients that watch it; None while there are none.
        kept: What the store has of it, while what has changed since cannot be saved; None: nothing has failed.
        why_behind: Of what another record has in `kept`: why that cannot be saved; else empty.
        stdin_taken: Whether an attempt has taken some of the job's standard input.
        stdin_over: Whether nothing more of it comes, or is taken.
        children: The jobs that its tasks have submitted, and that have not ended when it was looked at last.
    """

    saved_revision: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    concluded: bool = False
    to_do: list[Instruction] = field(default_factory=list)
    unsaved_results: list[tuple[int, bytes]] = field(default_factory=list)
    gpu_ids: dict[int, tuple[int, ...]] = field(default_factory=dict)
    machines: dict[int, str] = field(default_factory=dict)
    stdin_taken: bool = False
    stdin_over: bool = False
    children: list[JobRecord] = field(default_factory=list)
    watch: Watch | None = None
    kept: JobRecord | None = None
    why_behind: str = ""
    _usage: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._usage = dict.fromkeys(_USAGE, 0)
        for facts in self.facts:
            self._add_usage(facts.resource_usage, 1)

    def check_index(self, task_index: int) -> None:
        """Raises NotFoundError where it has no such task."""
        count = len(self.job.tasks)
        if not 0 <= task_index < count:
            raise NotFoundError(f"job {self.job.job_id!r} has no task {task_index}: its tasks are 0 to {count - 1}")

    @property
    def shown(self) -> JobRecord:
        """What readers may see: nothing that a controller which is killed now would not know afterwards."""
        return self.kept or self

    @property
    def usage(self) -> cluster_pb2.ResourceUsage:
        """What its tasks use together, each as it was measured last."""
        return cluster_pb2.ResourceUsage(**{name: min(amount, _MOST) for name, amount in self._usage.items()})

    def take_facts(self, report: cluster_pb2.Controller.ReportTaskStateRequest) -> None:
        """What a worker has found out about a task, beside its state."""
        facts = self.facts[report.task_index]
        self._add_usage(facts.resource_usage, -1)
        facts.ClearField("ports")
        facts.ports.update(report.ports)
        facts.resource_usage.CopyFrom(report.resource_usage)
        facts.build_metrics.CopyFrom(report.build_metrics)
        facts.log_warning = report.log_warning
        self._add_usage(facts.resource_usage, 1)

    def _add_usage(self, usage: cluster_pb2.ResourceUsage, sign: int) -> None:
        for name in _USAGE:
            self._usage[name] += sign * getattr(usage, name)

    def tell_watchers(self) -> None:
        """There is news for who watches it."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        if self.watch is not None:
            self.watch.job_changed()
