"""The controller's record of a registered worker, and the limits for workers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from pyqwest import Client

from iris.cluster.controller.jobs.task import WorkerIdentity
from iris.cluster.lease_terms import heartbeat_s, lost_after_s
from iris.errors import shown
from iris.reasons import NO_SHORTAGE, Shortage
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.system.clock import now_ms

_MISSED_UNTIL_UNHEALTHY = 3
_REASON_CHARACTERS = 500  # The maximum length of a worker's text about its shortage.


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """How many workers a cluster may have, and how long the controller waits for workers.

    Attributes:
        count: The largest number of registered workers.
        start_s: How long the workers of an allocation have to register, in seconds. After this time the allocation is
            released, and a new one is requested, because a worker may be unable to start on its machine.
        drain_s: How long the workers of an ended gang may drain, in seconds, if each worker serves one slot only. Logs
            that are not uploaded within this time are lost, and readers see a gap.
        unplaced_s: How long a registered worker without a gang is kept, in seconds, if each worker serves one slot
            only. A worker may register before the engine reports its gang as granted. For example, Slurm reports a gang
            as granted when the last of its slots has started.
    """

    count: int = 10_000
    start_s: float = 300.0
    drain_s: float = 60.0
    unplaced_s: float = 300.0


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """A registered worker. Only `Fleet` changes a record, except `starting`, which `dispatch.start_attempts` changes.

    Attributes:
        identity: The id of the worker, and the address and the incarnation of its process.
        metadata: The worker's description of its machine.
        stub: The client for calls to the worker.
        lease_s: The length of the worker's lease in seconds (see worker/supervision/lease.py).
        heard_s: When the worker called last, by `time.monotonic`. All decisions use this time.
        last_heartbeat_ms: When the worker called last, as wall clock time. This time is only shown to people.
        registered_s: When the worker registered, by `time.monotonic`.
        python_version: The Python version of the worker's tasks; empty if unknown.
        short_of: Why the worker cannot start new attempts now, or `NO_SHORTAGE` if it can start attempts.
        is_dead: True if the worker's process is dead or was declared lost. A new process of the worker may still
            register.
        visible_devices: If the worker serves only one slot, the CUDA names of the slot's devices. Otherwise empty.
        starting: The attempts that the worker was asked to start, and about which the worker has not answered yet. Each
            key is a job id, task index and attempt id. Each value is an event that is set when the worker has answered,
            or when the controller has stopped asking.
    """

    identity: WorkerIdentity
    metadata: cluster_pb2.WorkerMetadata
    stub: cluster_connect.WorkerServiceClient
    lease_s: float
    heard_s: float
    last_heartbeat_ms: int
    registered_s: float
    python_version: str = ""
    short_of: Shortage = NO_SHORTAGE
    is_dead: bool = False
    visible_devices: tuple[str, ...] = ()
    starting: dict[tuple[str, int, int], asyncio.Event] = field(default_factory=dict)

    def missed_heartbeats(self, now_s: float) -> int:
        """Return the number of heartbeats that the worker has missed in a row."""
        return int(max(0.0, now_s - self.heard_s) / heartbeat_s(self.lease_s))

    def is_healthy(self, now_s: float) -> bool:
        """Return True if the worker may get new attempts. An unhealthy worker keeps its running attempts."""
        return not self.is_dead and self.missed_heartbeats(now_s) < _MISSED_UNTIL_UNHEALTHY

    def is_lost(self, now_s: float) -> bool:
        """Return True if the worker's lease has expired, so that the worker has ended all its attempts."""
        return now_s - self.heard_s > lost_after_s(self.lease_s)

    def heard(self, lease_s: float, short_of: Shortage) -> None:
        """Record a call of the worker.

        Args:
            lease_s: The new lease of the worker, in seconds.
            short_of: Why the worker cannot start new attempts now, or `NO_SHORTAGE` if it can start attempts.
        """
        self.short_of = short_of
        self.lease_s = lease_s
        self.heard_s = time.monotonic()
        self.last_heartbeat_ms = now_ms()


def reported_shortage(
    request: cluster_pb2.Controller.RegisterWorkerRequest | cluster_pb2.Controller.ReportTaskStatesRequest,
) -> Shortage:
    """Return the shortage that a worker reports. A long text is cut, and control characters are shown as escapes."""
    return Shortage(shown(request.short_of[:_REASON_CHARACTERS]), request.shortage_reason)


def new_record(
    request: cluster_pb2.Controller.RegisterWorkerRequest,
    lease_s: float,
    bearer: BearerInterceptor,
    http_client: Client | None,
) -> WorkerRecord:
    """Return the record of a worker that registers.

    Args:
        request: The worker's request.
        lease_s: The worker's lease, in seconds.
        bearer: The object that adds the controller's token to calls to the worker.
        http_client: The HTTP client that makes the calls; None uses connectrpc's own client.
    """
    stub = cluster_connect.WorkerServiceClient(
        request.address,
        accept_compression=(),
        send_compression=None,
        interceptors=(bearer,),
        http_client=http_client,
    )
    # Each worker needs a separate stub, because a stub holds the connections to one worker.
    identity = WorkerIdentity(request.worker_id, request.address, request.incarnation)
    now_s = time.monotonic()
    return WorkerRecord(
        identity,
        request.metadata,
        stub,
        lease_s,
        heard_s=now_s,
        last_heartbeat_ms=now_ms(),
        registered_s=now_s,
        python_version=request.python_version,
        short_of=reported_shortage(request),
        visible_devices=tuple(request.visible_devices),
    )
