"""Passes standard input from a client to the worker that runs the job's task.

Only one attempt gets the standard input, because bytes that were read from a pipe cannot be read again. If an attempt
has received some of the input, a retry gets none, and the log of the retry contains a notice. If the attempt has
received nothing, a retry gets all of the input.
"""

from __future__ import annotations

import asyncio
import time

from iris.cluster.controller.api.watch import JobWatches
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.workers.fleet import Fleet
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.system.event_loop import happens

# The seconds for which a client's call waits until an attempt starts.
_WAIT_S = 8.0
# The seconds between two calls to a worker that has not started the attempt yet.
_PAUSE_S = 0.1

Request = cluster_pb2.Controller.WriteStdinRequest
Response = cluster_pb2.Controller.WriteStdinResponse


class StandardInput:
    """The standard input of all jobs.

    Args:
        fleet: The object that knows all workers of the cluster.
        watches: The object that notifies other code of changes of jobs.
    """

    def __init__(self, fleet: Fleet, watches: JobWatches) -> None:
        self._fleet = fleet
        self._watches = watches
        self._taken: set[str] = set()
        self._ended: set[str] = set()

    def is_taken(self, job_id: str) -> bool:
        """Return whether an attempt has received some of the job's standard input."""
        return job_id in self._taken

    def has_ended(self, job_id: str) -> bool:
        """Return whether the job accepts no further standard input."""
        return job_id in self._ended

    def forget_job(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._taken.discard(job_id)
        self._ended.discard(job_id)

    async def write(self, record: JobRecord, request: Request) -> Response:
        """Pass standard input to the attempt that the request names, or to the live attempt of task 0 if it names none.

        Returns:
            The attempt, and the position up to which it has received input. `closed` means that no attempt accepts
            further input. If no attempt has received the input after `_WAIT_S` seconds, the position is the position of
            the request, and the client must repeat the call.

        Raises:
            FailedPreconditionError: The job was submitted without standard input.
            UnavailableError: The worker of the attempt refuses the token of the controller.
        """
        job = record.job
        if not record.launch.stdin:
            raise FailedPreconditionError(
                f"job {job.job_id!r} was submitted without standard input: submit a job with stdin to send input",
                reason=ErrorReason.NO_STDIN,
                metadata={"job_id": job.job_id},
            )
        until_s = time.monotonic() + _WAIT_S
        while True:
            changed = self._watches.next_change(job.job_id)
            attempt = job.tasks[0].live_attempt
            if job.is_finished:
                return Response(closed=True)
            if request.HasField("attempt_id") and (attempt is None or attempt.attempt_id != request.attempt_id):
                return Response(attempt_id=request.attempt_id, position=request.position, closed=True)
            if attempt is None:
                if request.end and not request.data and not self.is_taken(job.job_id):
                    # Standard input of no bytes is accepted at once, because there are no bytes that an attempt must
                    # receive.
                    self._ended.add(job.job_id)
                    return Response(closed=True)
            else:
                worker = self._fleet.workers.get(attempt.worker_id)
                if worker is not None:
                    answer = await self._pass_on(record, worker, attempt.attempt_id, request)
                    if answer is not None:
                        return answer
                await asyncio.sleep(_PAUSE_S)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return Response(position=request.position)
            if attempt is None:
                await happens(changed, left_s)

    async def _pass_on(
        self, record: JobRecord, worker: WorkerRecord, attempt_id: int, request: Request
    ) -> Response | None:
        """Pass standard input to the attempt's worker. Return None if the worker does not answer, or has not started
        the attempt yet.
        """
        passed = cluster_pb2.Worker.WriteStdinRequest(
            task_id=record.job.tasks[0].task_id,
            attempt_id=attempt_id,
            position=request.position,
            data=request.data,
            end=request.end,
        )
        peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id}")
        try:
            answer = await call_async(worker.stub.write_stdin, passed, peer)
        except (NotFoundError, UnavailableError, DeadlineExceededError):
            return None
        except (UnauthenticatedError, PermissionDeniedError) as error:
            # The worker has refused the token of the controller. The client gets another error, because the client's
            # own token is valid.
            raise UnavailableError(str(error)) from error
        # A job that has ended meanwhile starts no further attempt. If its id were added to the sets now, the id could
        # stay there after `forget_job`, and would count for a new job with the same name.
        if not record.job.is_finished:
            if answer.position > 0:
                self._taken.add(record.job_id)
            is_all = answer.position >= request.position + len(request.data)
            if answer.closed or (request.end and is_all):
                self._ended.add(record.job_id)
        return Response(attempt_id=attempt_id, position=answer.position, closed=answer.closed)
