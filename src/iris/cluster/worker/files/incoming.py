"""Receives files for the directories of attempts.

The parts of a file are collected in a file of the folder `incoming`, which is beside the attempt's working directory.
The complete file is moved to its path, so that the task never sees a part of a file. Threads call the methods, one at a
time for each transfer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from iris.cluster.files.confined_tree import ConfinedTree
from iris.cluster.worker.paths import AttemptDir
from iris.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, quoted
from iris.reasons import ErrorReason
from iris.rpc import cluster_pb2

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_TRANSFERS = 1000  # The largest number of unfinished transfers. If there are more, the oldest transfer is dropped.
_TRANSFER_ID = re.compile("[0-9a-f]{32}")
Request = cluster_pb2.WriteTaskFileRequest


@dataclass(slots=True)
class _Transfer:
    """A file that is being received.

    Attributes:
        file: The path of the file with the parts that have arrived.
        size: The number of bytes of the file that have arrived.
        digest: The hash of the bytes that have arrived.
        lock: The lock that is held while a part is written, because a call may be repeated before the first call has
            ended.
        is_done: Whether the complete file was moved to its path.
    """

    file: Path
    size: int = 0
    digest: _Hash = field(default_factory=hashlib.sha256)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_done: bool = False


class IncomingFiles:
    """The files that clients are sending to the attempts of this worker."""

    def __init__(self) -> None:
        self._transfers: OrderedDict[tuple[Path, str], _Transfer] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, directory: AttemptDir, request: Request) -> int:
        """Write a part of a regular file, a directory, or a symbolic link. Return the number of bytes that this worker
        has of the file.

        Raises:
            InvalidArgumentError: A field of the request is invalid.
            FailedPreconditionError: The path leads out of the attempt's directory, something else than a file is at the
                path, or the worker does not have the parts before `offset`.
            DataLossError: The hash of the file is wrong.
            OSError: The file cannot be written.
        """
        kind = request.file.type
        with ConfinedTree(directory.work) as tree:
            if kind == cluster_pb2.FILE_TYPE_REGULAR:
                return self._write_part(tree, directory, request)
            if kind == cluster_pb2.FILE_TYPE_DIRECTORY:
                _make_directory(tree, directory, request.file)
            elif kind == cluster_pb2.FILE_TYPE_SYMLINK:
                _make_link(tree, request.file)
            else:
                raise InvalidArgumentError(
                    f"file.type must be FILE_TYPE_REGULAR, FILE_TYPE_DIRECTORY or FILE_TYPE_SYMLINK, got {kind}"
                )
        return 0

    def _write_part(self, tree: ConfinedTree, directory: AttemptDir, request: Request) -> int:
        transfer = self._transfer(directory, request)
        with transfer.lock:
            if transfer.is_done:
                return transfer.size
            if request.offset > transfer.size:
                raise FailedPreconditionError(
                    f"the worker has {transfer.size:,} bytes of the file, but the part begins at {request.offset:,}:"
                    " send the file from its beginning, with a new transfer_id",
                    reason=ErrorReason.TRANSFER_UNKNOWN,
                )
            new = request.data[transfer.size - request.offset :]
            if new:
                _append(transfer.file, new, transfer.size)
                transfer.digest.update(new)
                transfer.size += len(new)
            if request.end and transfer.size == request.offset + len(request.data):
                self._finish(tree, directory, transfer, request)
            return transfer.size

    def _transfer(self, directory: AttemptDir, request: Request) -> _Transfer:
        if not _TRANSFER_ID.fullmatch(request.transfer_id):
            raise InvalidArgumentError(
                f"transfer_id must have 32 hexadecimal digits in lower case, got {quoted(request.transfer_id)}"
            )
        if request.offset < 0:
            raise InvalidArgumentError(f"offset must be 0 or greater, got {request.offset}")
        key = directory.path, request.transfer_id
        with self._lock:
            transfer = self._transfers.get(key)
            if transfer is None:
                transfer = _Transfer(directory.incoming / request.transfer_id)
                with contextlib.suppress(FileExistsError):
                    directory.incoming.mkdir(mode=0o700)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(transfer.file, flags, 0o600))
                self._transfers[key] = transfer
            self._transfers.move_to_end(key)
            while len(self._transfers) > MAX_TRANSFERS:
                _, dropped = self._transfers.popitem(last=False)
                dropped.file.unlink(missing_ok=True)
            return transfer

    def _finish(self, tree: ConfinedTree, directory: AttemptDir, transfer: _Transfer, request: Request) -> None:
        if transfer.digest.hexdigest() != request.sha256:
            with self._lock:
                self._transfers.pop((directory.path, request.transfer_id), None)
            transfer.file.unlink(missing_ok=True)
            raise DataLossError(
                f"the SHA-256 of the {transfer.size:,} received bytes is not {quoted(request.sha256)}: the file changed"
                " while it was sent, or the transfer is damaged; send it again"
            )
        file = request.file
        fd = os.open(transfer.file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give_to_task(fd, directory)
            os.fchmod(fd, file.mode & 0o777 or 0o644)
            if file.modified_ns:
                os.utime(fd, ns=(file.modified_ns, file.modified_ns))
        finally:
            os.close(fd)
        with tree.locate(file.path, create=True) as (parent, name):
            try:
                os.rename(transfer.file, name, dst_dir_fd=parent)
            except OSError as error:
                if error.errno in (errno.EISDIR, errno.EBUSY, errno.EINVAL, errno.ENOTEMPTY):
                    raise FailedPreconditionError(f"{quoted(file.path)} is a directory, not a file") from error
                raise
        transfer.is_done = True


def _make_directory(tree: ConfinedTree, directory: AttemptDir, file: cluster_pb2.TaskFile) -> None:
    tree.make_directory(file.path)
    fd = tree.open_directory(file.path)
    try:
        if file.path:
            _give_to_task(fd, directory)
            # The owner keeps all permissions, because files must be written into the directory afterwards.
            os.fchmod(fd, file.mode & 0o777 | 0o700 if file.mode else 0o755)
    finally:
        os.close(fd)


def _make_link(tree: ConfinedTree, file: cluster_pb2.TaskFile) -> None:
    if not file.link_target or "\0" in file.link_target:
        raise InvalidArgumentError(f"file.link_target must be a path, got {quoted(file.link_target)}")
    with tree.locate(file.path, follow=False, create=True) as (parent, name):
        if name == ".":
            raise FailedPreconditionError(f"{quoted(file.path)} is a directory, so it cannot become a symbolic link")
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=parent)
        os.symlink(file.link_target, name, dir_fd=parent)


def _append(file: Path, data: bytes, offset: int) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, offset)
            rest, offset = rest[written:], offset + written
    finally:
        os.close(fd)


def _give_to_task(fd: int, directory: AttemptDir) -> None:
    """Make the owner of the attempt's working directory the owner of a file. Only root may give files away."""
    owner = directory.work.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(fd, owner.st_uid, owner.st_gid)
