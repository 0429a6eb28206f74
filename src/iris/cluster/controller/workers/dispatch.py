"""Calls workers to start and stop attempts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from iris.cluster.controller.jobs.instructions import StartAttempt, StopAttempt
from iris.cluster.controller.jobs.job import Job
from iris.cluster.controller.jobs.task import WorkerIdentity
from iris.cluster.controller.submission.request import LaunchJobRequest
from iris.cluster.controller.tracing.job_spans import task_parents
from iris.cluster.controller.workers.call_slots import WorkerCalls
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.engine.base import Slot
from iris.cluster.types import make_task_id
from iris.errors import (
    DeadlineExceededError,
    IrisError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from iris.failpoints import failpoint
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.system.backoff import Backoff

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_log = logging.getLogger(__name__)

# A function that returns whether an attempt is live. Its arguments are the task index and the attempt id. The function
# is called before each call to a worker, so that no worker is called for an ended attempt.
StillLive = Callable[[int, int], bool]


def hosts_of(job: Job) -> list[str]:
    """Return the hosts of a gang's tasks, in the order of the task indices. For independent tasks, the list is empty.
    The host of a task is the host of its current or last worker. If the task never had a worker, its host is an empty
    string.
    """
    if not job.coscheduled:
        return []
    by_address: dict[str, str] = {"": ""}
    for address in {task.attempts[-1].worker_address for task in job.tasks if task.attempts}:
        by_address[address] = urlsplit(address).hostname or ""
    return [by_address[task.attempts[-1].worker_address if task.attempts else ""] for task in job.tasks]


def run_tasks_request(
    worker: WorkerIdentity,
    job: Job,
    launch: LaunchJobRequest,
    starts: Sequence[StartAttempt],
    slots: Mapping[int, Slot],
    hosts: Sequence[str],
    token_of: Callable[[Job, int, int], str],
) -> cluster_pb2.Worker.RunTasksRequest:
    """Return the request for a worker to run attempts of a job.

    Args:
        worker: The id and the address of the worker's process.
        job: The job.
        launch: The job's submission.
        starts: The attempts to start.
        slots: The job's slots, by task index.
        hosts: The hosts of the gang's tasks, in the order of the task indices; empty for independent tasks.
        token_of: A function that makes the token of an attempt. Its arguments are the job, the task index and the
            attempt id.
    """
    shared = cluster_pb2.Worker.RunTaskRequest(
        job_id=job.job_id,
        job_submitted_at_ms=job.submitted_at_ms,
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
        timeout_warning_seconds=launch.timeout_warning_seconds,
        hosts=hosts,
        owner=job.owner,
        outputs=launch.outputs,
        profile_memory=launch.profile_memory,
        tracestate=launch.tracestate,
    )
    if launch.inputs_hash:
        _add_inputs(shared, launch)
    _add_optional(shared, launch)
    request = cluster_pb2.Worker.RunTasksRequest(shared=shared)
    trace_parent = task_parents(job, launch)
    for start in starts:
        token = token_of(job, start.task_index, start.attempt_id)
        place = request.places.add(task_index=start.task_index, attempt_id=start.attempt_id, token=token)
        if start.task_index in slots:
            gpus = slots[start.task_index].gpu_ids
            place.gpu_ids.extend(gpu for gpu in gpus if isinstance(gpu, int))
            place.visible_devices.extend(gpu for gpu in gpus if isinstance(gpu, str))
        place.traceparent = trace_parent(start.task_index, start.attempt_id)
        if launch.seen_task_indices:
            place.seen_task_index = launch.seen_task_indices[start.task_index]
    return request


def _add_optional(shared: cluster_pb2.Worker.RunTaskRequest, launch: LaunchJobRequest) -> None:
    if launch.HasField("kill_grace_period_ms"):
        shared.kill_grace_period_ms = launch.kill_grace_period_ms
    if launch.seen_task_indices:
        shared.seen_num_tasks = launch.seen_num_tasks


def _add_inputs(shared: cluster_pb2.Worker.RunTaskRequest, launch: LaunchJobRequest) -> None:
    # The command or callable goes into fields that a worker of an older release ignores. Such a worker finds nothing to
    # run, and does not start the attempt without its inputs.
    shared.inputs_hash = launch.inputs_hash
    shared.input_command.extend(launch.command)
    shared.input_entrypoint = launch.serialized_entrypoint
    shared.ClearField("command")
    shared.ClearField("serialized_entrypoint")


async def start_attempts(
    worker: WorkerRecord,
    job_id: str,
    starts: Sequence[StartAttempt],
    request: cluster_pb2.Worker.RunTasksRequest,
    still_live: StillLive,
    calls: WorkerCalls,
    before_try: Callable[[], None],
) -> cluster_pb2.Worker.RunTasksResponse | None:
    """Call a worker to run attempts of a job, until the worker answers or all the attempts have ended.

    Args:
        worker: The controller's record of the worker.
        job_id: The id of the job.
        starts: The attempts to start.
        request: The request that the worker gets.
        still_live: A function that returns whether an attempt is live.
        calls: The object that limits the calls to each worker.
        before_try: A function that updates the request before each call.

    Returns:
        The worker's answer; None if the attempts ended, or the worker died, before the worker answered.

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
                    if not is_wanted():  # All attempts have ended while this call waited for its turn.
                        return None
                    before_try()
                    failpoint("start.before")
                    answer = await call_async(worker.stub.run_tasks, request, peer)
                    failpoint("start.after")
                calls.answered(worker)
                return answer
            except (UnavailableError, DeadlineExceededError, UnauthenticatedError, PermissionDeniedError) as error:
                # A failed call does not prove that the worker is dead. The only proofs are a report of the engine, the
                # expiry of the worker's lease, or the registration of another process of the worker. An answer that
                # rejects the controller's token proves nothing either, because it may come from another worker at the
                # same address.
                calls.failed(worker)
                _log.warning("%s; trying again in %.1f s", error, backoff.expected_s)
                await asyncio.sleep(backoff.next_s())
        return None
    finally:
        heard.set()
        for key in keys:
            worker.starting.pop(key, None)


async def forget_job(worker: WorkerRecord, job: Job, bundle_hash: str, calls: WorkerCalls) -> None:
    """Call a worker to remove its files and records of a removed job. A failed call is not repeated, because the worker
    removes old attempts anyway.

    Args:
        worker: The controller's record of the worker.
        job: The job that was removed.
        bundle_hash: The hash of the job's workspace if no other job uses this workspace; otherwise empty.
        calls: The object that limits the calls to workers.
    """
    request = cluster_pb2.Worker.ForgetJobRequest(
        job_id=job.job_id,
        num_tasks=len(job.tasks),
        job_submitted_at_ms=job.submitted_at_ms,
        bundle_hash=bundle_hash,
    )
    peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id}")
    try:
        async with calls.turn(worker):
            await call_async(worker.stub.forget_job, request, peer)
    except IrisError as error:
        _log.warning("the files of a removed job stay on a worker for now: %s", error)


async def stop_attempt(
    worker: WorkerRecord, job_id: str, stop: StopAttempt, still_live: StillLive, calls: WorkerCalls
) -> bool:
    """Call a worker to stop an attempt. The call is repeated until the worker answers or dies, or the attempt has
    ended.

    Returns:
        False if the worker does not know the attempt, and therefore will not report the attempt's end. Otherwise True.
    """
    starting = worker.starting.get((job_id, stop.task_index, stop.attempt_id))
    if starting is not None:
        # Another task may still be calling the worker to start this attempt. This call waits for the end of that call,
        # because the worker must receive the start of an attempt before the stop.
        await starting.wait()
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
