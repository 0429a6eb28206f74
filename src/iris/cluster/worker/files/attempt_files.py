"""Reads and writes files in the directories of attempts, for calls of clients and of the controller.

The calls use only the attempt's own directory, which is the working directory of the task unless the job has chosen
another working directory. Threads do the work, and each caller has a limited number of turns. Therefore large copies
delay neither the capture of logs nor other callers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from iris.cluster.files.confined_tree import ConfinedTree
from iris.cluster.files.listing import list_page
from iris.cluster.files.transfer_sizes import HASH_BYTES, PART_BYTES
from iris.cluster.worker.attempt.attempt_record import Attempt
from iris.cluster.worker.attempt.registry import AttemptRegistry
from iris.cluster.worker.files.incoming import IncomingFiles
from iris.cluster.worker.paths import AttemptDir
from iris.cluster.worker.process.shortage import WorkerHeadroom, shortage_of
from iris.errors import FailedPreconditionError, InvalidArgumentError, IrisError, ResourceExhaustedError
from iris.event_log import log_event
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2
from iris.rpc.auth.caller import caller
from iris.rpc.serving.fair_lane import FairLane

_AT_ONCE = 8  # The number of threads that read and write files at the same time.
_PER_CALLER = 4
_HASH_STEP = 1 << 20
_log = logging.getLogger(__name__)
T = TypeVar("T")


class AttemptFiles:
    """The files of the attempts of one worker.

    Args:
        registry: The records of the worker's attempts.
        headroom: The object that measures whether the disk has space for more files.
    """

    def __init__(self, registry: AttemptRegistry, headroom: WorkerHeadroom) -> None:
        self._registry = registry
        self._headroom = headroom
        self._incoming = IncomingFiles()
        self._lane = FairLane("copies of files", at_once=_AT_ONCE, per_caller=_PER_CALLER, waiting=10_000)

    async def list_files(self, request: cluster_pb2.ListTaskFilesRequest) -> cluster_pb2.ListTaskFilesResponse:
        """Return a page of files.

        Raises:
            NotFoundError: This worker does not have the attempt, or there is no file at the path.
            InvalidArgumentError: The path is invalid.
            FailedPreconditionError: The attempt has no directory of its own, or the path leads out of the directory.
        """
        attempt_id, directory, attempt = self._find(request)
        listing = partial(list_page, path=request.path, recursive=request.recursive, page_token=request.page_token)
        files, token = await self._in_tree(directory, attempt, listing)
        return cluster_pb2.ListTaskFilesResponse(attempt_id=attempt_id, files=files, next_page_token=token)

    async def read_file(self, request: cluster_pb2.ReadTaskFileRequest) -> cluster_pb2.ReadTaskFileResponse:
        """Return a part of a regular file, or the hash of the part. The errors are the errors of `list_files`."""
        if request.offset < 0 or request.max_bytes < 0:
            raise InvalidArgumentError(
                f"offset and max_bytes must be 0 or greater, got {request.offset} and {request.max_bytes}"
            )
        attempt_id, directory, attempt = self._find(request)
        answer = cluster_pb2.ReadTaskFileResponse(attempt_id=attempt_id)
        await self._in_tree(directory, attempt, lambda tree: _read(tree.open_file(request.path), request, answer))
        return answer

    async def write_file(self, request: cluster_pb2.WriteTaskFileRequest) -> cluster_pb2.WriteTaskFileResponse:
        """Write a part of a file into the directory of a running attempt.

        Raises:
            NotFoundError: This worker does not have the attempt.
            InvalidArgumentError: The path or another field is invalid.
            FailedPreconditionError: The attempt does not run, or the path cannot be written.
            ResourceExhaustedError: The disk is nearly full.
            DataLossError: The hash of the complete file is wrong.
        """
        attempt_id, directory, attempt = self._find(request)
        if attempt is None or not attempt.has_live_process:
            raise FailedPreconditionError(
                f"attempt {attempt_id} of {request.task_id!r} does not run: files can be written only while it runs",
                reason=ErrorReason.ATTEMPT_NOT_RUNNING,
                metadata={"task_id": request.task_id, "attempt_id": str(attempt_id)},
            )
        shortage = self._headroom.shortage()
        if shortage:
            raise ResourceExhaustedError(f"the file cannot be written: {shortage.text}", reason=ErrorReason.SHORTAGE)
        _check_own_directory(attempt, directory)
        offset = await self._in_thread(partial(self._incoming.write, directory, request))
        if request.end or request.file.type != cluster_pb2.FILE_TYPE_REGULAR:
            log_event(
                _log,
                "file.written",
                task_id=request.task_id,
                attempt_id=attempt_id,
                path=request.file.path,
                size=offset,
                caller=caller().name,
            )
        return cluster_pb2.WriteTaskFileResponse(attempt_id=attempt_id, offset=offset)

    def _find(
        self,
        request: (
            cluster_pb2.ListTaskFilesRequest | cluster_pb2.ReadTaskFileRequest | cluster_pb2.WriteTaskFileRequest
        ),
    ) -> tuple[int, AttemptDir, Attempt | None]:
        attempt_id = request.attempt_id if request.HasField("attempt_id") else None
        return self._registry.directory_of(request.task_id, attempt_id)

    async def _in_tree(self, directory: AttemptDir, attempt: Attempt | None, work: Callable[[ConfinedTree], T]) -> T:
        _check_own_directory(attempt, directory)

        def opened() -> T:
            with ConfinedTree(directory.work) as tree:
                return work(tree)

        with self._registry.reading(directory):
            return await self._in_thread(opened)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with self._lane.turn(caller().key):
            try:
                return await asyncio.to_thread(work)
            except IrisError:
                raise
            except OSError as error:
                lack = shortage_of(error)
                if lack is not None:
                    raise ResourceExhaustedError(str(lack), reason=ErrorReason.SHORTAGE) from error
                raise FailedPreconditionError(f"the file cannot be copied: {error.strerror}") from error


def _check_own_directory(attempt: Attempt | None, directory: AttemptDir) -> None:
    if attempt is not None and attempt.request.working_directory:
        chosen = attempt.request.working_directory
        raise FailedPreconditionError(
            f"task {attempt.request.task_id} runs in the directory {chosen} of its machine, and has no directory of its"
            " own to copy from or to: copy files there without Iris, or submit the job with --workspace DIR, so that"
            " each task runs in a copy of DIR, or with --output DIR, which stores files at the end"
        )
    if directory.work.is_dir():
        return
    if attempt is not None and not attempt.is_final and not attempt.build_finished_ms:
        raise FailedPreconditionError(
            "the attempt is still being prepared: try again when it runs", reason=ErrorReason.ATTEMPT_NOT_RUNNING
        )
    raise FailedPreconditionError("the directory of the attempt no longer exists on its worker")


def _read(fd: int, request: cluster_pb2.ReadTaskFileRequest, answer: cluster_pb2.ReadTaskFileResponse) -> None:
    try:
        most = HASH_BYTES if request.hash_only else PART_BYTES
        count = min(request.max_bytes or most, most)
        answer.inode = os.fstat(fd).st_ino & (1 << 63) - 1
        if not request.hash_only:
            answer.data = os.pread(fd, count, request.offset)
            if request.with_hash:
                answer.sha256, answer.hashed_bytes = hashlib.sha256(answer.data).hexdigest(), len(answer.data)
            return
        digest, done = hashlib.sha256(), 0
        while done < count:
            part = os.pread(fd, min(_HASH_STEP, count - done), request.offset + done)
            if not part:
                break
            digest.update(part)
            done += len(part)
        answer.sha256, answer.hashed_bytes = digest.hexdigest(), done
    finally:
        os.close(fd)
