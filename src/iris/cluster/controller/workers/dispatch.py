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
from iris.cluster.controller.jobs.task import WorkerPlace
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
    """A worker as it registered.

    Attributes:
        lease_s: For how long it may be silent, see worker/supervision/lease.py.
        heard_s: When it was heard last, by `time.monotonic`: what is decided by; `last_heartbeat_ms` is for people.
        registered_s: When it registered, by the same clock.
        python_version: Of its tasks; empty: it does not say.
        short_of: Why new attempts cannot be started there now, in its words; empty: they can.
        gone: Its process is certainly dead, or was declared lost; another one may register.
        visible_devices: What the engine has given to it alone, where it serves one slot, as CUDA names it.
    """

    place: WorkerPlace
    metadata: cluster_pb2.WorkerMetadata
    stub: cluster_connect.WorkerServiceClient
    lease_s: float
    heard_s: float
    last_heartbeat_ms: int
    registered_s: float
    python_version: str = ""
    short_of: str = ""
    gone: bool = False
    visible_devices: tuple[str, ...] = ()
    starting: dict[tuple[str, int, int], asyncio.Event] = field(default_factory=dict)

    def missed_heartbeats(self, now_s: float) -> int:
        """How many heartbeats in a row have not come."""
        return int(max(0.0, now_s - self.heard_s) / heartbeat_s(self.lease_s))

    def is_healthy(self, now_s: float) -> bool:
        """Whether new attempts may go there. Those that it has go on until its lease is over."""
        return not self.gone and self.missed_heartbeats(now_s) < _MISSED_UNTIL_UNHEALTHY

    def is_lost(self, now_s: float) -> bool:
        """Whether it has been silent for so long that all that it ran has ended."""
        return now_s - self.heard_s > lost_after_s(self.lease_s)

    def heard(self, lease_s: float, short_of: str) -> None:
        """It has called, as one that has been granted this lease, and says what it is short of."""
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
    """The record of a worker that registers; it is called with a token, by an HTTP client if one is given."""
    stub = cluster_connect.WorkerServiceClient(
        request.address,
        accept_compression=(),
        send_compression=None,
        interceptors=(bearer,),
        http_client=http_client,
    )
    # One stub per address, kept: it holds the connections.
    place = WorkerPlace(request.worker_id, request.address, request.incarnation)
    now_s = time.monotonic()
    return WorkerRecord(
        place,
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
    """Where the tasks of a job that start together are, by index: each at the host of the worker that it has, or had
    last; empty for one that never had any. None for independent tasks."""
    if not job.coscheduled:
        return []
    by_address: dict[str, str] = {"": ""}
    for address in {task.attempts[-1].worker_address for task in job.tasks if task.attempts}:
        by_address[address] = urlsplit(address).hostname or ""
    return [by_address[task.attempts[-1].worker_address if task.attempts else ""] for task in job.tasks]


def run_tasks_request(
    place: WorkerPlace,
    job_id: str,
    launch: LaunchJobRequest,
    starts: Sequence[StartAttempt],
    slots: Mapping[int, Slot],
    hosts: Sequence[str],
    token_of: Callable[[str, int, int], str],
) -> cluster_pb2.Worker.RunTasksRequest:
    """Return the request that tells a worker to run attempts of a job.

    Args:
        place: The worker.
        job_id: The job.
        launch: The job's submission.
        starts: The attempts.
        slots: The job's slots, by task index.
        hosts: The hosts of all tasks of the gang, by task index; empty for independent tasks.
        token_of: Makes the token of an attempt from job id, task index and attempt id.
    """
    shared = cluster_pb2.Worker.RunTaskRequest(
        job_id=job_id,
        incarnation=place.incarnation,
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
    """Tells a worker to run attempts of a job, until it has heard it or nobody wants them any more.

    Returns:
        What the worker answers; None when nobody wants them any more.

    Raises:
        IrisError: Why the worker refuses them.
    """
    heard = asyncio.Event()
    keys = [(job_id, start.task_index, start.attempt_id) for start in starts]
    worker.starting |= dict.fromkeys(keys, heard)
    peer = Peer(worker.place.address, f"worker {worker.place.worker_id}")
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def is_wanted() -> bool:
        return not worker.gone and any(still_live(start.task_index, start.attempt_id) for start in starts)

    try:
        while is_wanted():
            try:
                async with calls.turn(worker):
                    if not is_wanted():  # the turn may have taken a while to come
                        return None
                    failpoint("start.before")
                    answer = await call_async(worker.stub.run_tasks, request, peer)
                    failpoint("start.after")
                calls.answered(worker)
                return answer
            except (UnavailableError, DeadlineExceededError, UnauthenticatedError, PermissionDeniedError) as error:
                # Not a verdict: whether the worker is dead is for the engine and for its own registration to say. Who
                # does not take our token may be another worker, which has come to that address.
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
    """Tells a worker to end an attempt, until it has heard it or the attempt has ended anyway.

    Returns:
        False when the worker has no such attempt, so that no report of its end will come.
    """
    starting = worker.starting.get((job_id, stop.task_index, stop.attempt_id))
    if starting is not None:
        await starting.wait()  # or the stop could overtake the start
    request = cluster_pb2.Worker.KillTaskRequest(
        task_id=make_task_id(job_id, stop.task_index), attempt_id=stop.attempt_id
    )
    peer = Peer(worker.place.address, f"worker {worker.place.worker_id}")
    backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    while not worker.gone and still_live(stop.task_index, stop.attempt_id):
        try:
            async with calls.turn(worker):
                if worker.gone or not still_live(stop.task_index, stop.attempt_id):
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
