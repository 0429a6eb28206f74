"""Contains the calls about the engine, the workers and the machines of the cluster."""

from __future__ import annotations

from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.cluster.client.verbs.jobs import PAGE_SIZE
from iris.errors import PermissionDeniedError, UnimplementedError
from iris.rpc import cluster_pb2


class MachineVerbs(ClusterVerbs):
    """Calls about the engine, the workers and the machines."""

    def describe_cluster(self) -> cluster_pb2.Controller.DescribeClusterResponse:
        """Return the cluster's engine, and where its controller runs.

        All fields of the result are empty if the controller is too old for this call, or refuses the call to this
        client.
        """
        request = cluster_pb2.Controller.DescribeClusterRequest()
        try:
            return self._connection.call(self._connection.controller.describe_cluster, request)
        except (UnimplementedError, PermissionDeniedError):
            return cluster_pb2.Controller.DescribeClusterResponse()

    def list_workers(self) -> list[cluster_pb2.Controller.WorkerHealthStatus]:
        """Return the workers and their health, sorted by worker id."""
        request = cluster_pb2.Controller.ListWorkersRequest(page_size=PAGE_SIZE)
        workers: list[cluster_pb2.Controller.WorkerHealthStatus] = []
        while True:
            answer = self._connection.call(self._connection.controller.list_workers, request)
            workers += answer.workers
            if not answer.next_page_token:
                return workers
            request.page_token = answer.next_page_token

    def list_machines(self) -> cluster_pb2.Controller.ListMachinesResponse:
        """Return the machines of the cluster, the tasks on them, and the queued gangs."""
        request = cluster_pb2.Controller.ListMachinesRequest(page_size=PAGE_SIZE)
        found = self._connection.call(self._connection.controller.list_machines, request)
        request.page_token = found.next_page_token
        while request.page_token:
            answer = self._connection.call(self._connection.controller.list_machines, request)
            found.machines.extend(answer.machines)
            request.page_token = answer.next_page_token
        found.ClearField("next_page_token")
        return found
