"""Defines the controller's record of a job: its state, its submission, and the facts reported by workers about its
tasks.

Other parts of the controller store further facts by job id: the saver stores which changes are saved
(storage/saver.py), the scheduler stores where the tasks are placed (scheduling/slots.py), and the watches store which
clients wait for changes (api/watch.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from iris.cluster.controller.hangs.detection import Hang
from iris.cluster.controller.jobs.job import Job
from iris.errors import NotFoundError
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

_USAGE = [field.name for field in cluster_pb2.ResourceUsage.DESCRIPTOR.fields]
# The fields of a submission that can be large, and that only a start of an attempt needs. Together these fields are the
# *entry point* of a job. The store keeps the entry point apart from the job, and the record of an ended job has no
# entry point.
ENTRY_POINT_FIELDS = ("serialized_entrypoint", "command", "environment")
# A sum over many tasks that is larger than this value is replaced by it, because the fields of the protobuf message
# ResourceUsage are int32.
_MAX_INT32 = 2**31 - 1


@dataclass(slots=True)
class JobRecord:
    """A job, its submission, and the facts reported by workers about its tasks.

    Attributes:
        job: The job's state, which only the job's own methods change.
        launch: The submission, without its workspace and its inputs.
        facts: The ports, resource usage, build metrics and warnings of each task, by task index.
        why_outdated: If the record shows an older state because newer changes cannot be saved, the error of the failed
            write. Empty in the current record.
        number: The place of the job in the order of submission, from 1. With 0, the database chooses the number of a
            new job.
        hang: Why the job seems to hang; None if the job does not seem to hang, or is not watched. Only `HangWatch` sets
            it.
    """

    job: Job
    launch: cluster_pb2.Controller.LaunchJobRequest
    facts: list[cluster_pb2.TaskStatus]
    why_outdated: str = ""
    number: int = 0
    hang: Hang | None = None
    _usage: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._usage = dict.fromkeys(_USAGE, 0)
        for facts in self.facts:
            self._add_usage(facts.resource_usage, 1)

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.job_id

    @property
    def usage(self) -> cluster_pb2.ResourceUsage:
        """The latest resource usage of all tasks, summed."""
        return cluster_pb2.ResourceUsage(**{name: min(amount, _MAX_INT32) for name, amount in self._usage.items()})

    def without_entry_point(self) -> JobRecord:
        """Return the record of an ended job without its entry point, which can be large."""
        launch = cluster_pb2.Controller.LaunchJobRequest()
        launch.CopyFrom(self.launch)
        for name in ENTRY_POINT_FIELDS:
            launch.ClearField(name)
        return JobRecord(self.job, launch, self.facts, number=self.number)

    def check_index(self, task_index: int) -> None:
        """Raise NotFoundError if the job has no task with this index."""
        count = len(self.job.tasks)
        if not 0 <= task_index < count:
            raise NotFoundError(
                f"job {self.job_id!r} has no task {task_index}: its tasks are 0 to {count - 1}",
                reason=ErrorReason.TASK_NOT_FOUND,
                metadata={"job_id": self.job_id, "task_index": str(task_index)},
            )

    def update_facts(self, report: cluster_pb2.Controller.ReportTaskStateRequest) -> None:
        """Store the facts of a worker's report about a task."""
        facts = self.facts[report.task_index]
        self._add_usage(facts.resource_usage, -1)
        facts.ClearField("ports")
        facts.ports.update(report.ports)
        facts.resource_usage.CopyFrom(report.resource_usage)
        facts.build_metrics.CopyFrom(report.build_metrics)
        facts.log_warning = report.log_warning
        facts.idle_ms = report.idle_ms
        facts.output_warning = report.output_warning
        self._add_usage(facts.resource_usage, 1)

    def _add_usage(self, usage: cluster_pb2.ResourceUsage, sign: int) -> None:
        for name in _USAGE:
            self._usage[name] += sign * getattr(usage, name)
