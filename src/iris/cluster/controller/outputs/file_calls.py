"""Answers the calls that list, read and write files of tasks. The worker of an attempt has the files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from iris.cluster.controller.api import messages
from iris.cluster.controller.jobs.job_record import JobRecord
from iris.cluster.controller.jobs.job_table import JobTable
from iris.cluster.controller.outputs.output_store import OutputStore
from iris.cluster.controller.outputs.stored_files import list_stored, read_stored, why_missing
from iris.cluster.controller.storage.saver import SavedJobs
from iris.cluster.controller.workers.worker_record import WorkerRecord
from iris.cluster.files.output_pack import StoredPack
from iris.cluster.memory_profile import PROFILE_PATH, stores_outputs
from iris.cluster.types import is_task_finished, parse_task_id, state_name
from iris.errors import (
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import caller
from iris.rpc.auth.permissions import refusal_of_memory_profile
from iris.rpc.calls import call_async
from iris.rpc.peer import Peer
from iris.rpc.serving.fair_lane import FairLane

# The worker must answer within this many seconds, which is less than the timeout of clients. Therefore clients learn
# which server does not answer.
_TIMEOUT_S = 25.0
# The number of calls that run at the same time is limited, because each call keeps up to 1 MiB in memory.
_AT_ONCE = 64
_PER_CALLER = 8

ListRequest = cluster_pb2.ListTaskFilesRequest
ListResponse = cluster_pb2.ListTaskFilesResponse
ReadRequest = cluster_pb2.ReadTaskFileRequest
ReadResponse = cluster_pb2.ReadTaskFileResponse
WriteRequest = cluster_pb2.WriteTaskFileRequest
WriteResponse = cluster_pb2.WriteTaskFileResponse
Request = TypeVar("Request", ListRequest, ReadRequest, WriteRequest)


class FileCalls:
    """The calls about files of tasks.

    Args:
        jobs: The table of all jobs of the cluster.
        saved: The object that returns the last saved state of a job, which callers may see.
        workers: The workers that have registered, by id.
        outputs: The stored outputs of ended attempts; None if this controller stores none.
    """

    def __init__(
        self, jobs: JobTable, saved: SavedJobs, workers: Mapping[str, WorkerRecord], outputs: OutputStore | None
    ) -> None:
        self._outputs = outputs
        self._jobs = jobs
        self._saved = saved
        self._workers = workers
        self._lane = FairLane("copies of files", at_once=_AT_ONCE, per_caller=_PER_CALLER, waiting=10_000)

    async def list_files(self, request: ListRequest) -> ListResponse:
        """Return a page of the files of an attempt.

        Raises:
            NotFoundError: There is no such job, task, attempt or file.
            FailedPreconditionError: The task has had no attempt yet, or the path cannot be read.
            UnavailableError: The worker of the attempt does not answer.
            DataLossError: The stored outputs of the attempt are damaged.
            PermissionDeniedError: The file is a memory profile, and the caller is neither the owner of the job nor an
                admin.
        """
        found = await self._find(request)
        pack = await self._stored(found, request.path)
        if pack is not None:
            _check_readable(found, pack, request.path)
            stored = await asyncio.to_thread(list_stored, pack, request)
            if _refusal(found, pack, PROFILE_PATH):
                # A copy of a whole directory must not fail because of a file that the caller may not read.
                kept = [file for file in stored.files if file.path != PROFILE_PATH]
                del stored.files[:]
                stored.files.extend(kept)
            return stored
        answer: ListResponse = await self._pass_on(found, "list_task_files", request)
        return answer

    async def read_file(self, request: ReadRequest) -> ReadResponse:
        """Return a part of a file of an attempt, or the hash of the part. This method raises the same errors as
        `list_files`.
        """
        found = await self._find(request)
        pack = await self._stored(found, request.path)
        if pack is not None:
            _check_readable(found, pack, request.path)
            async with self._lane.turn(caller().key):
                return await asyncio.to_thread(read_stored, pack, request)
        answer: ReadResponse = await self._pass_on(found, "read_task_file", request)
        return answer

    async def write_file(self, request: WriteRequest) -> WriteResponse:
        """Write a part of a file into the directory of a running attempt.

        Raises:
            NotFoundError: There is no such job, task or attempt.
            FailedPreconditionError: The attempt does not run, or the path cannot be written.
            UnavailableError: The worker of the attempt does not answer.
        """
        found = await self._find(request)
        if is_task_finished(found.attempt.state):
            raise FailedPreconditionError(
                f"attempt {found.attempt.attempt_id} of {request.task_id!r} has ended"
                f" ({state_name(found.attempt.state)}): files can be written only while it runs",
                reason=ErrorReason.ATTEMPT_NOT_RUNNING,
            )
        answer: WriteResponse = await self._pass_on(found, "write_task_file", request)
        return answer

    async def _stored(self, found: _Found, path: str) -> StoredPack | None:
        """Return the stored outputs of an ended attempt if they have a file at the path, or if the worker is gone."""
        if (
            self._outputs is None
            or not stores_outputs(found.record.launch)
            or not is_task_finished(found.attempt.state)
        ):
            return None
        directory = self._outputs.directory_of(found.record, found.task_index, found.attempt.attempt_id)
        try:
            pack = await asyncio.to_thread(self._outputs.pack, directory)
        except (OSError, ValueError) as error:
            raise DataLossError(f"the outputs of the attempt cannot be read: {error}") from error
        if pack is None or pack.find(path) is not None or not self._has_worker(found):
            return pack
        return None

    def _has_worker(self, found: _Found) -> bool:
        worker = self._workers.get(found.attempt.worker_id)
        return worker is not None and not worker.is_dead

    async def _find(self, request: Request) -> _Found:
        """Find the attempt of a request, and set the attempt's id in the request."""
        job_id, task_index = parse_task_id(request.task_id)
        record = await self._jobs.find(job_id)
        record.check_index(task_index)
        task = messages.task_status(self._saved.shown(record), task_index)
        number = request.attempt_id if request.HasField("attempt_id") else len(task.attempts) - 1
        if not task.attempts:
            raise FailedPreconditionError(
                f"task {request.task_id!r} has not started yet ({state_name(task.state)}), so it has no files",
                reason=ErrorReason.ATTEMPT_NOT_RUNNING,
            )
        if not 0 <= number < len(task.attempts):
            raise NotFoundError(
                f"task {request.task_id!r} has no attempt {number}: its attempts are 0 to {len(task.attempts) - 1}",
                reason=ErrorReason.ATTEMPT_NOT_FOUND,
                metadata={"task_id": request.task_id, "attempt_id": str(number)},
            )
        request.attempt_id = number
        return _Found(record, task_index, task.attempts[number])

    async def _pass_on(self, found: _Found, method: str, request: Request) -> Any:
        """Pass a call to the worker of the attempt, and return the worker's answer."""
        worker = self._workers.get(found.attempt.worker_id)
        if worker is None or worker.is_dead:
            raise self._unreachable(found)
        peer = Peer(worker.identity.address, f"worker {worker.identity.worker_id!r}, which has the files,")
        async with self._lane.turn(caller().key):
            try:
                return await call_async(getattr(worker.stub, method), request, peer, timeout_s=_TIMEOUT_S)
            except (UnauthenticatedError, PermissionDeniedError) as error:
                # The worker has refused the token of the controller. The caller gets another error, because the
                # caller's own token is valid.
                raise UnavailableError(str(error)) from error

    def _unreachable(self, found: _Found) -> UnavailableError | NotFoundError:
        attempt = found.attempt
        if is_task_finished(attempt.state):
            why = "submit the job with --output DIR to keep outputs"
            if self._outputs is not None and stores_outputs(found.record.launch):
                directory = self._outputs.directory_of(found.record, found.task_index, attempt.attempt_id)
                why = f"its outputs are not stored, because {why_missing(self._outputs.stored(directory), attempt)[1]}"
            return NotFoundError(
                f"the files of attempt {attempt.attempt_id} are gone with its worker {attempt.worker_id!r}: {why}",
                reason=ErrorReason.FILE_NOT_FOUND,
            )
        return UnavailableError(
            f"worker {attempt.worker_id!r}, which has the files, does not answer",
            reason=ErrorReason.WORKER_UNREACHABLE,
            metadata={"worker_id": attempt.worker_id},
        )


def _refusal(found: _Found, pack: StoredPack, path: str) -> str:
    """Return why the caller may not read a stored file, or an empty text. The path may be a link to the file."""
    if not found.record.launch.profile_memory:
        return ""
    file = pack.find(path)
    if file is None or file.path != PROFILE_PATH:
        return ""
    return refusal_of_memory_profile(caller(), found.record.job_id, found.record.job.owner)


def _check_readable(found: _Found, pack: StoredPack, path: str) -> None:
    if refused := _refusal(found, pack, path):
        raise PermissionDeniedError(refused)


class _Found(NamedTuple):
    """The attempt that a request names.

    Attributes:
        record: The record of the job.
        task_index: The index of the task in its job, from 0.
        attempt: The status of the attempt.
    """

    record: JobRecord
    task_index: int
    attempt: cluster_pb2.TaskAttempt
