"""Opens files below one directory, without ever leaving the directory.

A task may write anything into its directory while files are copied, for example symbolic links to other directories.
Therefore no path is resolved by the system. Each part of a path is opened by itself, relative to the open directory
before it, with O_NOFOLLOW. Symbolic links are resolved here, and only to targets inside of the directory. A directory
that a task replaces by a link during a copy leads to an error, and never to a file outside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from iris.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, quoted
from iris.reasons import ErrorReason

# The largest number of parts of a path. Each part needs an open file while the path is resolved.
MAX_DEPTH = 100
# The largest number of symbolic links in one path. Linux has the same limit.
_MAX_LINKS = 40
# The longest path in bytes. Linux has the same limit.
_MAX_PATH = 4096
_FLAGS = ("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")
# Windows has none of these flags. The client is imported there, too, and `ConfinedTree` refuses to work there.
_ONLY_DIRECTORY, _NO_FOLLOW, _NO_WAIT, _CLOSE_IN_CHILD = (getattr(os, name, 0) for name in _FLAGS)
OPEN_DIRECTORY = os.O_RDONLY | _ONLY_DIRECTORY | _NO_FOLLOW | _CLOSE_IN_CHILD
# With O_NONBLOCK, opening a pipe does not wait for the other end of the pipe.
_READ = os.O_RDONLY | _NO_FOLLOW | _NO_WAIT | _CLOSE_IN_CHILD


def parts_of(path: str, what: str = "a path") -> list[str]:
    """Return the parts of a path inside of a directory. Empty parts and "." are left out.

    Raises:
        InvalidArgumentError: The path is absolute, contains ".." or NUL, is not valid UTF-8, or is too long.
    """
    if path.startswith("/"):
        refuse_path(what, path, "is absolute")
    if "\0" in path:
        refuse_path(what, path, "contains NUL")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        refuse_path(what, path, 'contains ".."')
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        refuse_path(what, path, "is not valid text")
    if len(parts) > MAX_DEPTH or length > _MAX_PATH:
        refuse_path(what, path, f"is longer than {MAX_DEPTH} parts or {_MAX_PATH:,} bytes")
    return parts


def refuse_path(what: str, path: str, fault: str) -> None:
    """Raise InvalidArgumentError for a path with the given fault."""
    raise InvalidArgumentError(f"{what} must be relative and must not leave its directory; {quoted(path)} {fault}")


class ConfinedTree:
    """A directory whose files are opened without leaving the directory. Use it as a context manager.

    Args:
        root: The path of the directory, which must not be a symbolic link itself.
        name: The name of the directory in error texts.

    Raises:
        FailedPreconditionError: This system cannot open files without following links.
        OSError: The directory cannot be opened.
    """

    def __init__(self, root: Path, name: str = "the attempt's directory") -> None:
        self._root = root
        self._name = name
        if not _NO_FOLLOW:
            raise FailedPreconditionError("this system cannot copy directories safely: copy them on Linux or macOS")
        self._fd = os.open(root, OPEN_DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def locate(self, path: str, *, follow: bool = True, create: bool = False) -> Iterator[tuple[int, str]]:
        """Yield where a path leads: an open directory, and the name of the file in this directory.

        The yielded name is "." if the path leads to the root, or if a link leads to a directory by "..". The named file
        may be missing. It may also be a link, if another program has just replaced it. Therefore the caller must open
        the file with O_NOFOLLOW.

        Args:
            path: The path of the file or directory, relative to the root.
            follow: Whether to resolve a link at the end of the path. Links before the end are always resolved.
            create: Whether to create missing directories before the end of the path.

        Raises:
            InvalidArgumentError: `parts_of` refuses the path.
            FailedPreconditionError: A link leads out of the root, or there are too many links or parts.
            NotFoundError: A directory in the path is missing.
            OSError: A part of the path cannot be opened.
        """
        opened = [os.dup(self._fd)]
        try:
            todo, links, name = deque(parts_of(path)), 0, "."
            while todo:
                name = todo.popleft()
                if name == "..":
                    if len(opened) == 1:
                        raise self._leads_out(path)
                    os.close(opened.pop())
                    name = "."
                    continue
                is_last = not todo
                target = self._link_target(opened[-1], name) if follow or not is_last else None
                if target is not None:
                    links += 1
                    if links > _MAX_LINKS:
                        raise FailedPreconditionError(
                            f"{quoted(path)} leads through more than {_MAX_LINKS} symbolic links"
                        )
                    todo.extendleft(reversed(self._inside(path, target, opened)))
                    name = "."
                elif not is_last:
                    opened.append(self._enter(opened[-1], name, path, create=create))
                    if len(opened) > MAX_DEPTH:
                        raise FailedPreconditionError(
                            f"{quoted(path)} leads to a directory that is more than {MAX_DEPTH} levels deep"
                        )
                    name = "."
            yield opened[-1], name
        finally:
            for fd in opened:
                os.close(fd)

    def open_file(self, path: str) -> int:
        """Open a regular file for reading, and return its descriptor.

        Raises:
            InvalidArgumentError: `parts_of` refuses the path.
            NotFoundError: There is no such file.
            FailedPreconditionError: The path leads to something else than a regular file, or out of the root.
            OSError: The file cannot be opened.
        """
        with self.locate(path) as (directory, name):
            try:
                fd = os.open(name, _READ, dir_fd=directory)
            except OSError as error:
                raise self._explained(error, path) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FailedPreconditionError(f"{quoted(path)} is not a regular file")
        return fd

    def open_directory(self, path: str) -> int:
        """Open a directory, and return its descriptor. The errors are the errors of `open_file`, except that a path
        must lead to a directory.
        """
        with self.locate(path) as (directory, name):
            try:
                return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            except OSError as error:
                raise self._explained(error, path) from error

    def status(self, path: str, *, follow: bool = True) -> os.stat_result:
        """Return the status of a file.

        Raises:
            InvalidArgumentError: `parts_of` refuses the path.
            NotFoundError: There is no such file.
            FailedPreconditionError: The path leads out of the root.
            OSError: A part of the path cannot be opened.
        """
        with self.locate(path, follow=follow) as (directory, name):
            try:
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                raise self._explained(error, path) from error

    def make_directory(self, path: str) -> None:
        """Create a directory and its missing parents. An existing directory is left as it is.

        Raises:
            InvalidArgumentError: `parts_of` refuses the path.
            FailedPreconditionError: A part of the path is not a directory, or leads out of the root.
            OSError: A directory cannot be created.
        """
        with self.locate(path, create=True) as (directory, name):
            if name != ".":
                os.close(self._enter(directory, name, path, create=True))

    @staticmethod
    def _link_target(directory: int, name: str) -> str | None:
        """Return the target of a symbolic link, or None if the file is missing or is not a link."""
        try:
            return os.readlink(name, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def _inside(self, path: str, target: str, opened: list[int]) -> list[str]:
        """Return the parts of the target of a link. An absolute target inside of the root continues at the root."""
        if target.startswith("/"):
            root = str(self._root)
            if target != root and not target.startswith(f"{root}/"):
                raise self._leads_out(path)
            while len(opened) > 1:
                os.close(opened.pop())
            target = target[len(root) :]
        return [part for part in target.split("/") if part not in ("", ".")]

    def _enter(self, directory: int, name: str, path: str, *, create: bool) -> int:
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o777, dir_fd=directory)
            return os.open(name, OPEN_DIRECTORY, dir_fd=directory)
        except OSError as error:
            raise self._explained(error, path) from error

    def _explained(self, error: OSError, path: str) -> OSError | NotFoundError | FailedPreconditionError:
        if error.errno == errno.ENOENT:
            return NotFoundError(
                f"there is no file {quoted(path)} in {self._name}",
                reason=ErrorReason.FILE_NOT_FOUND,
                metadata={"path": path},
            )
        if error.errno == errno.ENOTDIR:
            return FailedPreconditionError(f"a part of {quoted(path)} is not a directory")
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return FailedPreconditionError(f"{quoted(path)} is not a regular file or a directory")
        return error

    def _leads_out(self, path: str) -> FailedPreconditionError:
        return FailedPreconditionError(
            f"{quoted(path)} leads out of {self._name} by a symbolic link: only files inside can be copied"
        )
