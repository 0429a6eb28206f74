"""Contains the methods of `IrisClient` about endpoints and ports of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from iris.arguments import JobReference
from iris.client.forwarding.forward import LOOPBACK, Forward
from iris.client.forwarding.port_pairs import PortPair
from iris.client.submission import parent_job
from iris.client.waiting import find_endpoint
from iris.cluster.client.remote_client import RemoteClusterClient
from iris.rpc import cluster_pb2


class EndpointMethods:
    """The methods of `IrisClient` about endpoints and ports of tasks.

    Args:
        cluster: The low-level client of the cluster.
    """

    def __init__(self, cluster: RemoteClusterClient) -> None:
        self.cluster = cluster

    def register_endpoint(self, name: str, address: str, metadata: Mapping[str, str] | None = None) -> str:
        """Register a name for an address, and return the endpoint's id. `unregister_endpoint` needs this id.

        Inside a job, the endpoint is removed when the current attempt ends. The same job may register the name again
        with another address, for example after a retry.

        Args:
            name: The endpoint's name.
            address: The address, such as `host:port`.
            metadata: Values that a lookup of the endpoint returns besides the address.

        Raises:
            AlreadyExistsError: Another job, or a program outside of jobs, has registered the name.
        """
        parent = parent_job(self.cluster.token(), self.cluster.controller_address)
        return self.cluster.register_endpoint(name, address, parent.job_id if parent else "", metadata)

    def unregister_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint.

        Raises:
            NotFoundError: There is no such endpoint.
        """
        self.cluster.unregister_endpoint(endpoint_id)

    def lookup_endpoint(self, name: str, timeout: float | None = 0.0) -> cluster_pb2.Controller.Endpoint:
        """Return the endpoint with the given name. The endpoint has an `.address`, `.metadata` and a `.job_id`.

        Args:
            name: The name with which the endpoint was registered.
            timeout: For how many seconds to wait until the endpoint is registered. 0: do not wait. None and `math.inf`:
                wait forever. The lookup is repeated at least once a second, or less often inside a job of more than
                1,000 tasks. Even with a shorter timeout, the controller gets one second to answer.

        Raises:
            NotFoundError: There is no such endpoint, and `timeout` is 0.
            DeadlineExceededError: (a `TimeoutError`) There was no such endpoint within `timeout` seconds.
        """
        return self.cluster.connection.perform(find_endpoint(name, timeout))

    def list_endpoints(self, prefix: str = "") -> list[cluster_pb2.Controller.Endpoint]:
        """Return the endpoints whose names start with a prefix, sorted by name."""
        return self.cluster.list_endpoints(prefix)

    def forward(
        self,
        job_id: str | JobReference,
        port: int | str,
        *,
        task_index: int = 0,
        local_port: int = 0,
        local_host: str = LOOPBACK,
        on_notice: Callable[[str], None] | None = None,
    ) -> Forward:
        """Return a context manager in which a local port leads to a port of a task, through the controller.

            with client.forward("serve-1a2b3c4d", 8000) as forward:
                print(httpx.get(forward.url).text)

        The task's machine need not be reachable from this machine. HTTP, WebSocket and every other protocol over TCP
        work. A connection continues after a lost connection to the controller. A connection is reset if some of its
        bytes are lost because the task has ended or its worker was lost. When the task is retried, new connections
        reach the next attempt. The block may begin before the task runs. Each context manager can be used for one block
        only.

        Args:
            job_id: The job: its id, or its `Job` handle.
            port: The number of a port on which the task listens, or the name of a port that the job has requested with
                `ports`.
            task_index: The index of the task.
            local_port: The number of the local port. 0: any free port. The forward has the number in `local_port`, the
                address in `address`, and a URL in `url`.
            local_host: The local address to listen on. Every program that reaches this address reaches the task.
            on_notice: A function that is called with a text when a connection was reset, when the controller does not
                answer, and when the task is retried. The texts are for people. Default: no notices.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            NotFoundError: (at the beginning of the block) There is no such job or task. If the task already runs, also:
                the job has not requested a port with the name in `port`.
            PermissionDeniedError: (at the beginning of the block) You are neither the owner of the job nor an admin.
            FailedPreconditionError: (at the beginning of the block) The task has ended, the local port is not free, or
                the cluster forwards no ports.
        """
        ports = [PortPair(port, local_port)]
        return Forward(self.cluster.connection, job_id, task_index, ports, host=local_host, on_notice=on_notice)
