"""Contains the calls about the engine, the workers and the machines of the cluster."""

from __future__ import annotations

from iris.cluster.client.operations import machines as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.rpc import cluster_pb2


class MachineVerbs(ClusterVerbs):
    """Calls about the engine, the workers and the machines."""

    def describe_cluster(self) -> cluster_pb2.Controller.DescribeClusterResponse:
        """Return the cluster's engine, where its controller runs, and the name and role of this client.

        All fields of the result are empty if the controller is too old for this call, or refuses the call to this
        client.
        """
        return self.connection.perform(operations.describe_cluster())

    def list_workers(self) -> list[cluster_pb2.Controller.WorkerHealthStatus]:
        """Return the workers and their health, sorted by worker id."""
        return self.connection.perform(operations.list_workers())

    def list_machines(self) -> cluster_pb2.Controller.ListMachinesResponse:
        """Return the machines of the cluster, the tasks on them, and the queued gangs."""
        return self.connection.perform(operations.list_machines())
