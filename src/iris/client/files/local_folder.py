"""Writes copied files below a local directory, without leaving the directory.

A task chooses the names and links of its files, and a hostile worker may send any path. Therefore `ConfinedTree`
resolves each path, so that no file outside of the local directory is written.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from iris.cluster.files.confined_tree import ConfinedTree
from iris.errors import FailedPreconditionError, InvalidArgumentError
from iris.rpc import cluster_pb2


class LocalFolder:
    """A local directory into which files are copied. Use it as a context manager.

    Args:
        root: The path of the local directory. A missing directory is created, with its parents.

    Raises:
        FailedPreconditionError: The directory cannot be created or opened.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._tree = ConfinedTree(root.resolve(), f"the directory {root}")
        except OSError as error:
            raise local_error(error, root) from error
        self._directories: list[cluster_pb2.TaskFile] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tree.__exit__(kind, error, trace)

    def make_directory(self, path: str, file: cluster_pb2.TaskFile) -> None:
        """Create a directory. `finish` sets the permissions and times of directories, after their files are written."""
        with _explained(path):
            self._tree.make_directory(path)
        kept = cluster_pb2.TaskFile(path=path, mode=file.mode, modified_ns=file.modified_ns)
        self._directories.append(kept)

    def make_link(self, path: str, target: str) -> None:
        """Create a symbolic link, which replaces an existing file or link."""
        with _explained(path), self._tree.locate(path, follow=False, create=True) as (parent, name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            os.symlink(target, name, dir_fd=parent)

    def new_file(self, path: str, file: cluster_pb2.TaskFile) -> NewFile:
        """Begin to write a regular file under a temporary name, and return the open file."""
        with _explained(path), self._tree.locate(path, follow=False, create=True) as (parent, name):
            if name == ".":
                raise FailedPreconditionError(f"{path or '.'} is a directory, not a file")
            return NewFile(parent, name, file)

    def finish(self) -> None:
        """Set the permissions and times of the created directories."""
        for file in reversed(self._directories):
            with _explained(file.path):
                fd = self._tree.open_directory(file.path)
                try:
                    os.fchmod(fd, file.mode & 0o777 | 0o700)
                    os.utime(fd, ns=(file.modified_ns, file.modified_ns))
                finally:
                    os.close(fd)


class NewFile:
    """A local file that is being written under another name, so that an incomplete copy never looks complete.

    Args:
        parent: The descriptor of the open directory that contains the file.
        name: The name of the file.
        file: The permissions and the time that the complete file gets.
    """

    def __init__(self, parent: int, name: str, file: cluster_pb2.TaskFile) -> None:
        self._name, self._file = name, file
        self._partial = f".iris-copy-{secrets.token_hex(8)}"
        self._parent = os.dup(parent)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._partial, flags, 0o600, dir_fd=parent)
        except OSError:
            os.close(self._parent)
            raise
        self._size = 0
        self._is_open = True

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with _explained(self._name):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self._size += len(data)

    def cut(self, size: int) -> None:
        """Shorten the file to its first `size` bytes."""
        with _explained(self._name):
            os.ftruncate(self._fd, size)
            os.lseek(self._fd, size, os.SEEK_SET)
        self._size = size

    def complete(self) -> None:
        """Give the file its name, permissions and time."""
        with _explained(self._name):
            os.fchmod(self._fd, self._file.mode & 0o777 or 0o644)
            os.utime(self._fd, ns=(self._file.modified_ns, self._file.modified_ns))
            os.rename(self._partial, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        self._close()

    def discard(self) -> None:
        """Remove the file if it is not complete."""
        if self._is_open:
            with contextlib.suppress(OSError):
                os.unlink(self._partial, dir_fd=self._parent)
            self._close()

    def _close(self) -> None:
        self._is_open = False
        os.close(self._fd)
        os.close(self._parent)


def leads_outside(path: str, target: str) -> bool:
    """Return whether a symbolic link would lead out of the copied directory. The path of the link is relative to this
    directory."""
    if posixpath.isabs(target):
        return True
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return end == ".." or end.startswith("../")


def local_error(error: OSError, path: object) -> FailedPreconditionError:
    """Return the error for a local file that cannot be read or written."""
    return FailedPreconditionError(f"{path}: {error.strerror or error}")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (FailedPreconditionError, InvalidArgumentError):
        raise
    except OSError as error:
        raise local_error(error, path or ".") from error
