"""Passes standard input on to the worker that runs a job's task.

It reaches one attempt: what was read from a pipe cannot be read again. An attempt that follows one which has taken some
of it gets none, and says so in its log; where none was taken, the next attempt gets all of it.
"""

from __future__ import annotations

import asyncio
import time

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.workers.dispatch import WorkerRecord
from iris.cluster.controller.workers.fleet import Fleet
from iris.errors import DeadlineExceededError, FailedPreconditionError, NotFoundError, UnavailableError
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.system.event_loop import happens

_WAIT_S = 8.0  # for an attempt to begin
_PAUSE_S = 0.1  # until a worker that has just been told of the attempt is asked again

Request = cluster_pb2.Controller.WriteStdinRequest
Response = cluster_pb2.Controller.WriteStdinResponse


async def write_stdin(record: JobRecord, fleet: Fleet, request: Request) -> Response:
    """Gives `data` to the attempt that is meant, or to the newest; answers with what that has taken.

    Raises:
        FailedPreconditionError: The job reads no standard input.
    """
    if not record.launch.stdin:
        raise FailedPreconditionError(f"job {record.job.job_id!r} was not submitted with standard input")
    until_s = time.monotonic() + _WAIT_S
    while True:
        changed = record.changed
        attempt = record.job.tasks[0].live_attempt
        if record.job.is_finished:
            return Response(closed=True)
        if request.HasField("attempt_id") and (attempt is None or attempt.attempt_id != request.attempt_id):
            return Response(attempt_id=request.attempt_id, position=request.position, closed=True)
        if attempt is None:
            if request.end and not request.data and not record.stdin_taken:
                record.stdin_over = True  # it is empty: the attempt that begins next needs no sender
                return Response(closed=True)
        else:
            worker = fleet.workers.get(attempt.worker_id)
            if worker is not None:
                answer = await _pass_on(record, worker, attempt.attempt_id, request)
                if answer is not None:
                    return answer
            await asyncio.sleep(_PAUSE_S)
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            return Response(position=request.position)
        if attempt is None:
            await happens(changed, left_s)


async def _pass_on(record: JobRecord, worker: WorkerRecord, attempt_id: int, request: Request) -> Response | None:
    """None: the worker does not answer, or does not know the attempt yet."""
    passed = cluster_pb2.Worker.WriteStdinRequest(
        task_id=record.job.tasks[0].task_id,
        attempt_id=attempt_id,
        position=request.position,
        data=request.data,
        end=request.end,
    )
    peer = Peer(worker.place.address, f"worker {worker.place.worker_id}")
    try:
        answer = await call_async(worker.stub.write_stdin, passed, peer)
    except (NotFoundError, UnavailableError, DeadlineExceededError):
        return None
    record.stdin_taken = record.stdin_taken or answer.position > 0
    is_all = answer.position >= request.position + len(request.data)
    record.stdin_over = record.stdin_over or answer.closed or (request.end and is_all)
    return Response(attempt_id=attempt_id, position=answer.position, closed=answer.closed)
