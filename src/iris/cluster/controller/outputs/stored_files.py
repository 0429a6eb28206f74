"""Answers calls from the stored outputs of ended attempts."""

from __future__ import annotations

import hashlib

from iris.cluster.controller.outputs.output_store import Stored
from iris.cluster.files.output_pack import StoredPack
from iris.cluster.files.transfer_sizes import HASH_BYTES, PART_BYTES
from iris.cluster.types import is_task_finished, state_name
from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, quoted
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

_PAGE_FILES = 1000
# Clients recognise a replaced file by its inode number. Stored files are never replaced. Therefore all stored files
# have this inode number in answers.
_INODE = 1


def list_stored(pack: StoredPack, request: cluster_pb2.ListTaskFilesRequest) -> cluster_pb2.ListTaskFilesResponse:
    """Return a page of the files in stored outputs. The answer has the same form as a worker's answer about a
    directory.

    The order of the files and the page tokens are the same as on the worker. Therefore a client that got the first
    pages of a list from the worker can get the next pages from the controller, after the end of the attempt.
    """
    top = _find(pack, request.path)
    files = [] if request.page_token else [top]
    if request.recursive and top.type == cluster_pb2.FILE_TYPE_DIRECTORY:
        after = request.page_token.split("/") if request.page_token else []
        below = sorted(((file.path.split("/"), file) for file in pack.below(top.path)), key=lambda pair: pair[0])
        files += [file for parts, file in below if parts > after]
    page = files[:_PAGE_FILES]
    token = page[-1].path if len(page) < len(files) else ""
    return cluster_pb2.ListTaskFilesResponse(attempt_id=request.attempt_id, files=page, next_page_token=token)


def read_stored(pack: StoredPack, request: cluster_pb2.ReadTaskFileRequest) -> cluster_pb2.ReadTaskFileResponse:
    """Return a part of a stored file, or the hash of the part."""
    if request.offset < 0 or request.max_bytes < 0:
        raise InvalidArgumentError(
            f"offset and max_bytes must be 0 or greater, got {request.offset} and {request.max_bytes}"
        )
    file = _find(pack, request.path)
    if file.type != cluster_pb2.FILE_TYPE_REGULAR:
        raise FailedPreconditionError(f"{quoted(request.path)} is not a regular file")
    answer = cluster_pb2.ReadTaskFileResponse(attempt_id=request.attempt_id, inode=_INODE)
    most = HASH_BYTES if request.hash_only else PART_BYTES
    count = min(request.max_bytes or most, most)
    if not request.hash_only:
        answer.data = pack.read(file, request.offset, count)
        if request.with_hash:
            answer.sha256, answer.hashed_bytes = hashlib.sha256(answer.data).hexdigest(), len(answer.data)
        return answer
    digest, done = hashlib.sha256(), 0
    while done < count:
        part = pack.read(file, request.offset + done, min(PART_BYTES, count - done))
        if not part:
            break
        digest.update(part)
        done += len(part)
    answer.sha256, answer.hashed_bytes = digest.hexdigest(), done
    return answer


def why_missing(stored: Stored | None, attempt: cluster_pb2.TaskAttempt) -> tuple[int, str]:
    """Return the code and the text that say why the outputs of an attempt are not stored."""
    if stored is not None and stored.problem:
        return stored.reason, stored.problem
    if not is_task_finished(attempt.state):
        text = f"the attempt has not ended ({state_name(attempt.state)})"
        return cluster_pb2.OUTPUT_REASON_NOT_ENDED, text
    if attempt.state == cluster_pb2.TASK_STATE_WORKER_FAILED:
        text = f"worker {attempt.worker_id!r} was lost before it had sent them"
        return cluster_pb2.OUTPUT_REASON_WORKER_LOST, text
    if attempt.state == cluster_pb2.TASK_STATE_KILLED:
        return cluster_pb2.OUTPUT_REASON_TERMINATED, "the attempt was terminated"
    return (
        cluster_pb2.OUTPUT_REASON_NOT_COLLECTED,
        "the attempt ended before its program started, or its worker could not send them: the build lines of its log"
        " ('iris logs --source build') say why",
    )


def _find(pack: StoredPack, path: str) -> cluster_pb2.TaskFile:
    file = pack.find(path)
    if file is None:
        raise NotFoundError(
            f"there is no file {quoted(path)} in the outputs of the attempt",
            reason=ErrorReason.FILE_NOT_FOUND,
            metadata={"path": path},
        )
    return file
