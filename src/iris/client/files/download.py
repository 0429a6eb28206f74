"""The operation that copies files of a task to this machine."""

from __future__ import annotations

import hashlib
import os
import posixpath
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from iris.client.files.copied import MAX_TRIES, Copied, Progress
from iris.client.files.local_folder import LocalFolder, leads_outside
from iris.cluster.client.operations.files import AttemptRoute, next_page
from iris.cluster.client.operations.steps import Operation, Work
from iris.cluster.files.transfer_sizes import HASH_BYTES, PART_BYTES
from iris.errors import DataLossError, FailedPreconditionError, quoted
from iris.rpc import cluster_pb2

TaskFile = cluster_pb2.TaskFile


class _Destination(Protocol):
    """Where the bytes of one file are written."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""

    def cut(self, size: int, /) -> None:
        """Cut the local copy to its first `size` bytes."""


def download(route: AttemptRoute, path: str, to: Path | BinaryIO, progress: Progress) -> Operation[Copied]:
    """Copy a file or a directory of an attempt.

    1. List the file, or a page of the files in the directory.
    2. Copy each file in parts, under another name. Compare the hash after each block of 64 MiB and at the end, and copy
       a block again if its hash is wrong. A lost connection only repeats the call for one part.
    3. Give the complete file its name, permissions and time.
    4. Continue with the next page of the directory.

    Args:
        route: The object that sends the calls for the files of the attempt to a server.
        path: The path of the file or directory, relative to the attempt's directory.
        to: A local path: a directory into which to copy, or the name of the copy. Or an open binary file, which gets
            the bytes of one file.
        progress: The object that reports the progress to the user.
    """
    pages = route.list_pages(path, recursive=True)
    page = yield from next_page(pages)
    assert page, "the first page has the file itself"
    top = page[0]
    if not isinstance(to, Path):
        return (yield from _to_stream(route, top, to, progress))
    if top.type == cluster_pb2.FILE_TYPE_DIRECTORY:
        root = _directory_for(path, to)
    elif top.type == cluster_pb2.FILE_TYPE_REGULAR:
        root = to / _last_part(path) if os.path.isdir(to) else to
    else:
        raise FailedPreconditionError(f"{quoted(path)} is not a regular file or a directory, so it cannot be copied")
    copied = Copied(root)
    if top.type == cluster_pb2.FILE_TYPE_REGULAR:
        progress.expect(top.size)
        with LocalFolder(root.parent) as folder:
            yield from _copy_file(route, top, root.name, folder, progress, copied)
        return copied
    with LocalFolder(root) as folder:
        begin = f"{top.path}/" if top.path else ""
        while page is not None:
            progress.expect(sum(file.size for file in page))
            for file in page:
                if file is not top and file.path.startswith(begin):
                    yield from _copy(route, file, file.path[len(begin) :], folder, progress, copied)
            page = yield from next_page(pages)
        yield Work(folder.finish)
    return copied


def _directory_for(path: str, to: Path) -> Path:
    """Return the local directory for the contents of a directory of a task, by the rules of `cp -r`."""
    name = _last_part(path)
    return to / name if name and os.path.isdir(to) else to


def _last_part(path: str) -> str:
    """Return the name of a file of a task. Return an empty string for the attempt's directory, and for the contents of
    a directory (`DIR/.`).
    """
    name = posixpath.basename(path.rstrip("/"))
    return "" if name == "." else name


def _copy(
    route: AttemptRoute, file: TaskFile, path: str, folder: LocalFolder, progress: Progress, copied: Copied
) -> Operation[None]:
    if file.type == cluster_pb2.FILE_TYPE_DIRECTORY:
        yield Work(partial(folder.make_directory, path, file))
    elif file.type == cluster_pb2.FILE_TYPE_REGULAR:
        yield from _copy_file(route, file, path, folder, progress, copied)
    elif file.type == cluster_pb2.FILE_TYPE_SYMLINK and not leads_outside(path, file.link_target):
        yield Work(partial(folder.make_link, path, file.link_target))
    elif file.type == cluster_pb2.FILE_TYPE_SYMLINK:
        copied.skipped.append(f"{file.path}: a symbolic link out of the directory")
    else:
        copied.skipped.append(f"{file.path}: not a regular file, or its name is not valid")


def _copy_file(
    route: AttemptRoute, file: TaskFile, path: str, folder: LocalFolder, progress: Progress, copied: Copied
) -> Operation[None]:
    new = yield Work(partial(folder.new_file, path, file))
    try:
        yield from _copy_bytes(route, file, new, progress)
        yield Work(new.complete)
    finally:
        new.discard()
    copied.files += 1
    copied.bytes += file.size


def _to_stream(route: AttemptRoute, file: TaskFile, to: BinaryIO, progress: Progress) -> Operation[Copied]:
    if file.type != cluster_pb2.FILE_TYPE_REGULAR:
        raise FailedPreconditionError(
            f"{quoted(file.path or '.')} is not a regular file: only one regular file can be written to a stream"
        )
    progress.expect(file.size)
    yield from _copy_bytes(route, file, _Stream(to), progress)
    return Copied(None, 1, file.size)


class _Stream:
    """The destination of a download that is an open stream, and not a file. Bytes that were written to a stream cannot
    be dropped again."""

    def __init__(self, stream: BinaryIO) -> None:
        self.write = stream.write

    def cut(self, size: int) -> None:
        raise DataLossError(
            "the file changed after its first bytes were written to the stream: copy the file to a local file, not to"
            " a stream"
        )


def _copy_bytes(route: AttemptRoute, file: TaskFile, to: _Destination, progress: Progress) -> Operation[None]:
    """Copy the bytes that a file had when it was listed. Bytes that the task appends meanwhile are left out."""
    for _ in range(MAX_TRIES):
        one_file = _FileCopy(route, file, to, progress)
        if (yield from one_file.copy()):
            return
        progress.add(-one_file.done)
        yield Work(partial(to.cut, 0))
    raise DataLossError(
        f"{quoted(file.path)} changes while it is copied: copy it when the task no longer writes it, or let the task"
        " write it under another name and rename the complete file"
    )


class _FileCopy:
    """One try to copy a file.

    Attributes:
        done: The number of bytes that were copied so far.
    """

    def __init__(self, route: AttemptRoute, file: TaskFile, to: _Destination, progress: Progress) -> None:
        self._route, self._file, self._to, self._progress = route, file, to, progress
        self._inode: int | None = None
        self.done = 0

    def copy(self) -> Operation[bool]:
        """Copy the file block by block. A block with a wrong hash is copied again. Return whether the whole file was
        copied."""
        tries = 0
        while self.done < self._file.size:
            begin = self.done
            is_right = yield from self._copy_block(min(HASH_BYTES, self._file.size - begin))
            if is_right is None:
                return False
            tries = 0 if is_right else tries + 1
            if tries == MAX_TRIES:
                return False
            if not is_right:
                self._progress.add(begin - self.done)
                yield Work(partial(self._to.cut, begin))
                self.done = begin
        return True

    def _copy_block(self, size: int) -> Operation[bool | None]:
        """Copy a block. Return whether its hash is right. Return None if the file was replaced or has become
        shorter.
        """
        digest, begin = hashlib.sha256(), self.done
        while (left := begin + size - self.done) > 0:
            # If the block fits into one part, the answer contains the hash, and no further call is needed. Most files
            # are that small.
            answer = yield from self._read(self.done, min(PART_BYTES, left), with_hash=size <= PART_BYTES)
            if answer is None or not answer.data:
                return None
            digest.update(answer.data)
            yield Work(partial(self._to.write, answer.data))
            self.done += len(answer.data)
            self._progress.add(len(answer.data))
            if answer.sha256 and len(answer.data) == size:
                return answer.sha256 == digest.hexdigest()
        answer = yield from self._read(begin, size, hash_only=True)
        return None if answer is None else answer.sha256 == digest.hexdigest()

    def _read(
        self, offset: int, size: int, *, hash_only: bool = False, with_hash: bool = False
    ) -> Operation[cluster_pb2.ReadTaskFileResponse | None]:
        """Read a part of the file from the worker or the controller, and return the answer. Return None if the path now
        names another file than at the last call.
        """
        request = cluster_pb2.ReadTaskFileRequest(
            path=self._file.path, offset=offset, max_bytes=size, hash_only=hash_only, with_hash=with_hash
        )
        answer: cluster_pb2.ReadTaskFileResponse = yield from self._route.call("read_task_file", request)
        self._inode = answer.inode if self._inode is None else self._inode
        return answer if answer.inode == self._inode else None
