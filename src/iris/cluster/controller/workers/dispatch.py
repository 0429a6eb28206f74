"""The workers that have registered, and the calls that start and stop attempts on them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pyqwest import Client

from iris.cluster.controller.jobs.instructions import StartAttempt, StopAttempt
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import WorkerIdentity
from iris.cluster.controller.submission.request import LaunchJobRequest
from iris.cluster.engine.base import Slot
from iris.cluster.lease_terms import heartbeat_s, lost_after_s
from iris.cluster.types import make_task_id
from iris.errors import (
    DeadlineExceededError,
    IrisError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    shown,
)
from iris.failpoints import failpoint
from iris.rpc import cluster_connect, cluster_pb2
from iris.rpc.auth.credentials import BearerInterceptor
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.system.backoff import Backoff
from iris.system.clock import now_ms

if TYPE_CHECKING:
    from iris.cluster.controller.workers.call_slots import WorkerCalls

_MISSED_UNTIL_UNHEALTHY = 3
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_REASON_CHARACTERS = 500  # of what a worker says of itself
_log = logging.getLogger(__name__)

# Whether an attempt is still wanted (task index, attempt id), asked before a call is made again.
StillLive = Callable[[int, int], bool]


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """A registered worker. Only `Fleet` changes a record.

    Attributes:
        identity: The worker's process.
        metadata: What the worker reported about its machine.
        stub: The client for calls to the worker.
        lease_s: The worker's lease in seconds, see worker/supervision/lease.py.
        heard_s: When the worker called last, by `time.monotonic`. Decisions use this time.
        last_heartbeat_ms: When the worker called last, as wall clock time for people.
        registered_s: When the worker registered, by `time.monotonic`.
        python_version: The Python version of the worker's tasks; empty if unknown.
        short_of: Why the worker can start no new attempts now, in its words; empty if it can.
        is_dead: True if the worker's process is dead or was declared lost. Another process may register.
        visible_devices: The devices of the slot, as CUDA names them, if the worker serves one slot only.
        starting: By job, task and attempt: an event that is set when the worker has answered the start.
    """

    identity: WorkerIdentity
    metadata: cluster_pb2.WorkerMetadata
    stub: cluster_connect.WorkerServiceClient
    lease_s: float
    heard_s: float
    last_heartbeat_ms: int
    registered_s: float
    python_version: str = ""
    short_of: str = ""
    is_dead: bool = False
    visible_devices: tuple[str, ...] = ()
    starting: dict[tuple[str, int, int], asyncio.Event] = field(default_factory=dict)

    def missed_heartbeats(self, now_s: float) -> int:
        """Return the number of heartbeats that are missing in a row."""
        return int(max(0.0, now_s - self.heard_s) / heartbeat_s(self.lease_s))

    def is_healthy(self, now_s: float) -> bool:
        """Return True if the worker may get new attempts. An unhealthy worker keeps the attempts that it has."""
        return not self.is_dead and self.missed_heartbeats(now_s) < _MISSED_UNTIL_UNHEALTHY

    def is_lost(self, now_s: float) -> bool:
        """Return True if the worker has been silent for so long that it has ended all its attempts itself."""
        return now_s - self.heard_s > lost_after_s(self.lease_s)

    def heard(self, lease_s: float, short_of: str) -> None:
        """Record a call of the worker.

        Args:
            lease_s: The lease that the worker is granted, in seconds.
            short_of: Why the worker can start no new attempts now; empty if it can.
        """
        self.short_of = shown(short_of[:_REASON_CHARACTERS])
        self.lease_s = lease_s
        self.heard_s = time.monotonic()
        self.last_heartbeat_ms = now_ms()


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
        bearer: Adds the token to calls to the worker.
        http_client: Makes the calls; None uses connectrpc's own client.
    """
    stub = cluster_connect.WorkerServiceClient(
        request.address,
        accept_compression=(),
        send_compression=None,
        interceptors=(bearer,),
        http_client=http_client,
    )
    # One stub for each worker, because the stub keeps the connections.
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
        short_of=shown(request.short_of[:_REASON_CHARACTERS]),
        visible_devices=tuple(request.visible_devices),
    )


def hosts_of(job: Job) -> list[str]:
    """Return the host of each task of a gang, by task index; an empty list for independent tasks.

    A task's host is the host of its current or last worker, or an empty string if the task never had a worker.
    """
    if not job.coscheduled:
        return []
    by_address: dict[str, str] = {"": ""}
    for address in {task.attempts[-1].worker_address for task in job.tasks if task.attempts}:
        by_address[address] = urlsplit(address).hostname or ""
    return [by_address[task.attempts[-1].worker_address if task.attempts else ""] for task in job.tasks]


def run_tasks_request(
    worker: WorkerIdentity,
    job_id: str,
    launch: LaunchJobRequest,
    starts: Sequence[StartAttempt],
    slots: Mapping[int, Slot],
    hosts: Sequence[str],
    token_of: Callable[[str, int, int], str],
) -> cluster_pb2.Worker.RunTasksRequest:
    """Return the request that tells a worker to run attempts of a job.

    Args:
        worker: The worker.
        job_id: The job.
        launch: The job's submission.
        starts: The attempts.
        slots: The job's slots, by task index.
        hosts: The hosts of all tasks of the gang, by task index; empty for independent tasks.
        token_of: Makes the token of an attempt from job id, task index and attempt id.
    """
    shared = cluster_pb2.Worker.RunTaskRequest(
        job_id=job_id,
        incarnation=worker.incarnation,
        num_tasks=launch.resources.replicas or 1,
        serialized_entrypoint=launch.serialized_entrypoint,
        command=launch.command,
        pickled_by=launch.pickled_by,
        environment=launch.environment,
        bundle_hash=launch.bundle_hash,
        resources=launch.resources,
        timeout_seconds=launch.timeout_seconds,
        ports=launch.ports,
        working_directory=launch.working_directory,
        max_log_bytes=launch.max_log_bytes,
        hosts=hosts,
    )
    if launch.HasField("kill_grace_period_ms"):
        shared.kill_grace_period_ms = launch.kill_grace_period_ms
    request = cluster_pb2.Worker.RunTasksRequest(shared=shared)
    for start in starts:
        request.places.add(
            task_index=start.task_index,
            attempt_id=start.attempt_id,
            gpu_ids=slots[start.task_index].gpu_ids if start.task_index in slots else (),
            token=token_of(job_id, start.task_index, start.attempt_id),
        )
    return request


async def start_attempts(
    worker: WorkerRecord,
    job_id: str,
    starts: Sequence[StartAttempt],
    request: cluster_pb2.Worker.RunTasksRequest,
    still_live: StillLive,
    calls: WorkerCalls,
) -> cluster_pb2.Worker.RunTasksResponse | None:
    """Tell a worker to run attempts of a job, and try again until the worker answers or the attempts have ended.

    Returns:
        The worker's answer; None if the attempts have ended before.

    Raises:
        IrisError: The worker refuses the attempts.
    """
    heard = asyncio.Event()
    keys = [(job_id, start.task_index, start.attempt_id) for start in starts]
    worker.starting |= dict.fromkeys(keys, heard)
    peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id}")
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def is_wanted() -> bool:
        return not worker.is_dead and any(still_live(start.task_index, start.attempt_id) for start in starts)

    try:
        while is_wanted():
            try:
                async with calls.turn(worker):
                    if not is_wanted():  # the attempts may have ended during the wait for a turn
                        return None
                    failpoint("start.before")
                    answer = await call_async(worker.stub.run_tasks, request, peer)
                    failpoint("start.after")
                calls.answered(worker)
                return answer
            except (UnavailableError, DeadlineExceededError, UnauthenticatedError, PermissionDeniedError) as error:
                # The worker may live. Only the engine, the worker's lease, or the registration of another process prove
                # that it is dead. A process that rejects the token may be another worker at the same address.
                calls.failed(worker)
                _log.warning("%s; trying again in %.1f s", error, backoff.expected_s)
                await asyncio.sleep(backoff.next_s())
        return None
    finally:
        heard.set()
        for key in keys:
            worker.starting.pop(key, None)


async def stop_attempt(
    worker: WorkerRecord, job_id: str, stop: StopAttempt, still_live: StillLive, calls: WorkerCalls
) -> bool:
    """Tell a worker to stop an attempt, and try again until the worker answers or the attempt has ended.

    Returns:
        False if the worker does not know the attempt, so that it will not report the attempt's end.
    """
    starting = worker.starting.get((job_id, stop.task_index, stop.attempt_id))
    if starting is not None:
        await starting.wait()  # otherwise the stop could overtake the start
    request = cluster_pb2.Worker.KillTaskRequest(
        task_id=make_task_id(job_id, stop.task_index), attempt_id=stop.attempt_id
    )
    peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id}")
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    while not worker.is_dead and still_live(stop.task_index, stop.attempt_id):
        try:
            async with calls.turn(worker):
                if worker.is_dead or not still_live(stop.task_index, stop.attempt_id):
                    return True
                failpoint("stop.before")
                await call_async(worker.stub.kill_task, request, peer)
                failpoint("stop.after")
            calls.answered(worker)
            return True
        except NotFoundError:
            return False
        except IrisError as error:
            calls.failed(worker)
            _log.warning("%s; trying again in %.1f s", error, backoff.expected_s)
            await asyncio.sleep(backoff.next_s())
    return True
