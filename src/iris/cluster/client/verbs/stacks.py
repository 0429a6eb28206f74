"""Calls that read and sample the call stacks of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from iris.arguments import JobReference
from iris.cluster.client.operations import stacks as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.rpc import cluster_pb2


class StackVerbs(ClusterVerbs):
    """Calls that read and sample the call stacks of tasks. `IrisClient.stacks` returns the stacks as data classes."""

    def read_stacks(
        self, job_id: str | JobReference, task_indices: Sequence[int] | None = None, *, variables: bool = False
    ) -> cluster_pb2.ReadStacksResponse:
        """Return the call stacks of all processes of a job's tasks.

        Args:
            job_id: The job: its id, or a `Job`.
            task_indices: The tasks. Default: all tasks.
            variables: Whether to return the values of local variables, which may be secrets.

        Raises:
            NotFoundError: There is no such job or task.
            PermissionDeniedError: The caller is neither the owner of the job nor an admin.
            UnimplementedError: The controller has an older release of Iris.
        """
        return self.connection.perform(operations.read_stacks(job_id, task_indices, variables=variables))

    def sample_stacks(
        self,
        job_id: str | JobReference,
        task_indices: Sequence[int] | None = None,
        *,
        seconds: int = 1,
        rate: int = 0,
        idle: bool = False,
    ) -> cluster_pb2.SampleStacksResponse:
        """Sample the call stacks of all processes of a job's tasks, and return the number of samples with each stack.

        Args:
            job_id: The job: its id, or a `Job`.
            task_indices: The tasks. Default: all tasks.
            seconds: How long to sample, from 1 to 10 seconds.
            rate: The samples per second and process, up to 1000. 0 means 100.
            idle: Whether to count the samples of threads that wait.

        Raises:
            NotFoundError: There is no such job or task.
            PermissionDeniedError: The caller is neither the owner of the job nor an admin.
            UnimplementedError: The controller has an older release of Iris.
        """
        operation = operations.sample_stacks(job_id, task_indices, seconds=seconds, rate=rate, idle=idle)
        return self.connection.perform(operation)
