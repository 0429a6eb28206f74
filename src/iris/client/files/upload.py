"""The operation that copies local files into the directory of a running task."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import secrets
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from iris.client.files.copied import MAX_TRIES, Copied, Progress
from iris.client.files.local_folder import leads_outside, local_error
from iris.cluster.client.operations.files import AttemptRoute
from iris.cluster.client.operations.steps import Operation, Work
from iris.cluster.files.confined_tree import ConfinedTree
from iris.cluster.files.listing import describe, list_page
from iris.cluster.files.transfer_sizes import PART_BYTES
from iris.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, IrisError, quoted
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

TaskFile = cluster_pb2.TaskFile


def upload(route: AttemptRoute, source: Path | BinaryIO, path: str, progress: Progress) -> Operation[Copied]:
    """Copy a local file or directory into the directory of an attempt.

    Args:
        route: The object that sends the calls for the files of the attempt to a server.
        source: The local path, or an open binary file.
        path: Where to copy: a directory of the task, or the name of the copy. Missing directories are created.
        progress: The object that reports the progress to the user.
    """
    there = yield from route.status(path)
    is_directory = path.endswith("/") or (there is not None and there.type == cluster_pb2.FILE_TYPE_DIRECTORY)
    if not isinstance(source, Path):
        if is_directory:
            raise InvalidArgumentError(f"path must name a file for the bytes of a stream, got {quoted(path)}")
        copied = Copied(path)
        yield from _send_file(route, TaskFile(path=path), source, progress, copied)
        return copied
    with _reading(source):
        status = source.stat()
    name = "" if source.name in ("", "..") or str(source) == "." else source.name
    target = posixpath.join(path, name) if is_directory else path
    copied = Copied(target)
    if stat.S_ISDIR(status.st_mode):
        yield from _send_directory(route, source, target, progress, copied)
    elif stat.S_ISREG(status.st_mode):
        progress.expect(status.st_size)
        with _reading(source), source.open("rb") as file:
            yield from _send_file(route, describe(target, status), file, progress, copied)
    else:
        raise InvalidArgumentError(f"{source} is not a regular file or a directory, so it cannot be copied")
    return copied


def _send_directory(
    route: AttemptRoute, source: Path, target: str, progress: Progress, copied: Copied
) -> Operation[None]:
    token = ""
    with _reading(source), ConfinedTree(source.resolve(), f"the directory {source}") as tree:
        while True:
            page, token = yield Work(partial(list_page, tree, "", recursive=True, page_token=token))
            progress.expect(sum(file.size for file in page))
            for file in page:
                yield from _send(route, tree, file, target, progress, copied)
            if not token:
                return


def _send(
    route: AttemptRoute, tree: ConfinedTree, file: TaskFile, target: str, progress: Progress, copied: Copied
) -> Operation[None]:
    path = file.path
    there = TaskFile()
    there.CopyFrom(file)
    there.path = posixpath.join(target, path) if path else target
    if file.type == cluster_pb2.FILE_TYPE_REGULAR:
        with os.fdopen((yield Work(partial(tree.open_file, path))), "rb") as opened:
            yield from _send_file(route, there, opened, progress, copied)
    elif file.type == cluster_pb2.FILE_TYPE_OTHER:
        copied.skipped.append(f"{path}: not a regular file, or its name is not valid")
    elif file.type == cluster_pb2.FILE_TYPE_SYMLINK and leads_outside(path, file.link_target):
        copied.skipped.append(f"{path}: a symbolic link out of the directory")
    else:
        yield from route.call("write_task_file", cluster_pb2.WriteTaskFileRequest(file=there))


def _send_file(
    route: AttemptRoute, file: TaskFile, source: BinaryIO, progress: Progress, copied: Copied
) -> Operation[None]:
    """Send a file in parts. If the worker has lost the earlier parts, or the hash is wrong, send the file again."""
    there = TaskFile()
    there.CopyFrom(file)
    there.type = cluster_pb2.FILE_TYPE_REGULAR
    begin = _position(source)
    for tries in range(1, MAX_TRIES + 1):
        sending = _Sending(route, there, source, progress)
        try:
            copied.bytes += yield from sending.send()
        except (DataLossError, FailedPreconditionError) as error:
            if begin is None or not _is_lost(error) or tries == MAX_TRIES:
                raise
            progress.add(-sending.sent)
            source.seek(begin)
            continue
        copied.files += 1
        return


def _position(source: BinaryIO) -> int | None:
    """Return the current position of a stream, so that a second try can start at this position again. Return None if
    the stream cannot go back.
    """
    try:
        return source.tell() if source.seekable() else None
    except (AttributeError, OSError):  # The stream has only `read`.
        return None


def _is_lost(error: IrisError) -> bool:
    return isinstance(error, DataLossError) or error.reason == ErrorReason.TRANSFER_UNKNOWN


class _Sending:
    """One try to send a file.

    Attributes:
        sent: The number of bytes that were sent so far.
    """

    def __init__(self, route: AttemptRoute, file: TaskFile, source: BinaryIO, progress: Progress) -> None:
        self._route, self._file, self._source, self._progress = route, file, source, progress
        self._transfer_id = secrets.token_hex(16)
        self.sent = 0

    def send(self) -> Operation[int]:
        """Send the file, and return its size."""
        digest = hashlib.sha256()
        part: bytes = yield Work(partial(self._source.read, PART_BYTES))
        while True:
            # Each call says whether it sends the last part of the file. Therefore the next part is read before this
            # part is sent.
            following: bytes = b""
            if part:
                following = yield Work(partial(self._source.read, PART_BYTES))
            digest.update(part)
            request = cluster_pb2.WriteTaskFileRequest(
                file=self._file, transfer_id=self._transfer_id, offset=self.sent, data=part
            )
            if not following:
                request.end, request.sha256 = True, digest.hexdigest()
            yield from self._route.call("write_task_file", request)
            self.sent += len(part)
            self._progress.add(len(part))
            if not following:
                return self.sent
            part = following


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except IrisError:
        raise
    except OSError as error:
        raise local_error(error, path) from error
