"""Contains the calls about the engine, the workers, the machines, and the resource usage of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from iris.arguments import JobReference
from iris.cluster.client.operations import machines as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.rpc import cluster_pb2


class MachineVerbs(ClusterVerbs):
    """Calls about the engine, the workers and the machines."""

    def describe_cluster(self) -> cluster_pb2.Controller.DescribeClusterResponse:
        """Return the cluster's engine, where its controller runs, and the name and role of this client. All fields of
        the result are empty if the controller is too old for this call, or refuses the call to this client.
        """
        return self.connection.perform(operations.describe_cluster())

    def check_cluster(self) -> cluster_pb2.Controller.CheckClusterResponse:
        """Return the results of checks that the controller makes of itself, its engine and its workers. The controller
        calls each worker for these checks.

        Raises:
            UnimplementedError: The controller is too old for this call.
        """
        return self.connection.perform(operations.check_cluster())

    def list_workers(self) -> list[cluster_pb2.Controller.WorkerHealthStatus]:
        """Return the workers and their health, sorted by worker id."""
        return self.connection.perform(operations.list_workers())

    def list_machines(self) -> cluster_pb2.Controller.ListMachinesResponse:
        """Return the machines of the cluster, the tasks on them, and the queued gangs."""
        return self.connection.perform(operations.list_machines())

    def get_usage(
        self,
        job_id: str | JobReference = "",
        task_indices: Sequence[int] = (),
        *,
        worker_ids: Sequence[str] = (),
        since_ms: int = 0,
        until_ms: int = 0,
        max_points: int = 0,
    ) -> list[cluster_pb2.UsageSeries]:
        """Return the resource usage over time of the tasks of a job, or of the tasks on workers.

        Args:
            job_id: The job: its id, or a `Job`.
            task_indices: The tasks, each with a series of its own. Without them, the result has one series: the sum
                over all tasks of the job.
            worker_ids: The workers, each with a series of its own. Not together with `job_id`.
            since_ms: The beginning of the requested time span, in milliseconds since the epoch. 0 means the beginning
                of the stored series.
            until_ms: The end of the requested time span, in milliseconds since the epoch. 0 means now.
            max_points: The largest number of points of each series, up to 1000. 0 means 240.

        Returns:
            The series, in the order of the arguments. A task, job or worker without a sample is left out.

        Raises:
            NotFoundError: There is no such job or task.
            InvalidArgumentError: (a `ValueError`) An argument is invalid.
            UnimplementedError: The controller has an older release of Iris.
        """
        operation = operations.get_usage(
            job_id,
            task_indices,
            worker_ids=worker_ids,
            since_ms=since_ms,
            until_ms=until_ms,
            max_points=max_points,
        )
        return self.connection.perform(operation)
