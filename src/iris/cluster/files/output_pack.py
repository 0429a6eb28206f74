"""Defines how the outputs of an attempt are packed: the contents of all regular files, and an index of all files.

The worker makes each part of the pack when the part is sent, and stores no pack. The controller stores the pack as one
file, so that names which a task has chosen never become names on the controller's disk.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from iris.cluster.files.confined_tree import ConfinedTree, parts_of
from iris.cluster.files.listing import list_page
from iris.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError, quoted
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import TaskFile

# The largest number of files and directories in the outputs of one attempt.
MAX_FILES = 10_000
# The largest number of output directories of a job.
MAX_DIRECTORIES = 100
# If the controller refuses outputs for one of these reasons, it may accept a part of the outputs.
SIZE_REASONS = frozenset(
    {
        cluster_pb2.OUTPUT_REASON_TOO_LARGE,
        cluster_pb2.OUTPUT_REASON_CLUSTER_LIMIT,
        cluster_pb2.OUTPUT_REASON_SHORTAGE,
    }
)
_HASH_STEP = 1 << 20


class OutputsChangedError(Exception):
    """An error: a file has become shorter, or disappeared, while the outputs were packed."""


def check_directories(outputs: Sequence[str]) -> list[str]:
    """Return the output directories of a job in their normal form.

    Raises:
        InvalidArgumentError: A directory is not accepted.
    """
    if len(outputs) > MAX_DIRECTORIES:
        raise InvalidArgumentError(f"a job can have up to {MAX_DIRECTORIES} output directories, got {len(outputs):,}")
    found: list[str] = []
    for text in outputs:
        path = "/".join(parts_of(text, "an output"))
        if not path:
            raise InvalidArgumentError(
                f"an output must be a directory below the working directory, got {quoted(text)}: name the directory"
                " into which the tasks write"
            )
        if any(character in path for character in "*?["):
            raise InvalidArgumentError(f"an output must be a directory, not a pattern, got {quoted(text)}")
        for other in found:
            if f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/"):
                raise InvalidArgumentError(
                    f"outputs must not contain each other, got {quoted(other)} and {quoted(path)}"
                )
        found.append(path)
    return found


class OutputPack:
    """The outputs of an ended attempt.

    Args:
        trees: Directories, such as the working directory, each with its output directories. The output directories are
            relative to their tree, and differ from each other.

    Attributes:
        contents_bytes: The size of the contents of all files together.
        size: The size of the whole pack in bytes.
        index_bytes: The size of the index at the end of the pack.
        skipped: How many pipes, sockets and other files are listed in the index without contents.
        num_files: The number of regular files.

    Raises:
        ResourceExhaustedError: There are more than `MAX_FILES` files.
        OSError, IrisError: A directory cannot be read.
    """

    def __init__(self, *trees: tuple[ConfinedTree, Sequence[str]]) -> None:
        files: list[TaskFile] = []
        self._trees: dict[str, ConfinedTree] = {}
        for tree, outputs in trees:
            for path in outputs:
                found = _files_below(tree, path, MAX_FILES - len(files))
                self._trees |= {file.path: tree for file in found}
                files += found
        regular = [file for file in files if file.type == cluster_pb2.FILE_TYPE_REGULAR]
        self._regular = [file for file in regular if file.size]
        self._begins = [0]
        for file in self._regular:
            self._begins.append(self._begins[-1] + file.size)
        self._index = cluster_pb2.OutputIndex(files=files).SerializeToString()
        self.contents_bytes = self._begins[-1]
        self.index_bytes = len(self._index)
        self.size = self.contents_bytes + self.index_bytes
        self.skipped = sum(file.type == cluster_pb2.FILE_TYPE_OTHER for file in files)
        self.num_files = len(regular)
        self._digest, self._digested = hashlib.sha256(), 0

    def read(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes of the pack.

        Raises:
            OutputsChangedError: A file has become shorter or has disappeared.
            OSError, IrisError: A file cannot be opened.
        """
        parts: list[bytes] = []
        end = min(position + count, self.size)
        at = position
        while at < end:
            part = self._read_part(at, end - at)
            parts.append(part)
            at += len(part)
        data = b"".join(parts)
        if position <= self._digested < at:
            self._digest.update(data[self._digested - position :])
            self._digested = at
        return data

    def sha256(self) -> str:
        """Return the SHA-256 of the whole pack. Bytes that were not read yet are read."""
        while self._digested < self.size:
            self.read(self._digested, _HASH_STEP)
        return self._digest.hexdigest()

    def _read_part(self, position: int, count: int) -> bytes:
        if position >= self.contents_bytes:
            begin = position - self.contents_bytes
            return self._index[begin : begin + count]
        number = bisect.bisect_right(self._begins, position) - 1
        file, offset = self._regular[number], position - self._begins[number]
        try:
            fd = self._trees[file.path].open_file(file.path)
        except NotFoundError as error:
            raise OutputsChangedError(f"{quoted(file.path)} has disappeared") from error
        try:
            data = os.pread(fd, min(count, file.size - offset), offset)
        finally:
            os.close(fd)
        if not data:
            raise OutputsChangedError(f"{quoted(file.path)} has become shorter")
        return data


def _files_below(tree: ConfinedTree, path: str, most: int) -> list[TaskFile]:
    files: list[TaskFile] = []
    token = ""
    while True:
        try:
            page, token = list_page(tree, path, recursive=True, page_token=token)
        except NotFoundError:
            return files  # An output directory that the task has removed has no files.
        files += page
        if len(files) > most:
            raise ResourceExhaustedError(
                f"the outputs have more than {MAX_FILES:,} files: let the task pack them into an archive"
            )
        if not token:
            return files


class StoredPack:
    """A pack that the controller has stored.

    Args:
        path: The path of the file that contains the pack.
        index_bytes: The size of the index at the end of the pack.

    Raises:
        OSError, ValueError: The pack cannot be read.
    """

    def __init__(self, path: Path, index_bytes: int) -> None:
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as opened:
            opened.seek(size - index_bytes)
            index = opened.read()
        try:
            self.files = list(cluster_pb2.OutputIndex.FromString(index).files)
        except DecodeError as error:
            raise ValueError(f"the index of the pack is damaged: {error}") from error
        self._by_path = {file.path: file for file in self.files}
        self._begins: dict[str, int] = {}
        position = 0
        for file in self.files:
            if file.type == cluster_pb2.FILE_TYPE_REGULAR:
                self._begins[file.path] = position
                position += file.size
        # The index does not contain the parents of the output directories, so they are added here.
        for file in self.files:
            parent = posixpath.dirname(file.path)
            while parent and parent not in self._by_path:
                self._by_path[parent] = TaskFile(path=parent, type=cluster_pb2.FILE_TYPE_DIRECTORY, mode=0o755)
                parent = posixpath.dirname(parent)

    def find(self, path: str) -> TaskFile | None:
        """Return the file at a path, or None. Symbolic links inside of the outputs are resolved.

        Raises:
            InvalidArgumentError: The path is absolute or leads out of the outputs.
        """
        name = "/".join(parts_of(path))
        if not name:
            return TaskFile(type=cluster_pb2.FILE_TYPE_DIRECTORY, mode=0o755)
        for _ in range(40):
            file = self._by_path.get(name)
            if file is None or file.type != cluster_pb2.FILE_TYPE_SYMLINK:
                return file
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), file.link_target))
        return None

    def below(self, path: str) -> list[TaskFile]:
        """Return the files below a directory, in the order of the index."""
        begin = f"{path}/" if path else ""
        return [file for file in self.files if file.path.startswith(begin)]

    def read(self, file: TaskFile, offset: int, count: int) -> bytes:
        """Return up to `count` bytes of a regular file."""
        left = max(0, min(count, file.size - offset))
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, left, self._begins[file.path] + offset)
        finally:
            os.close(fd)
