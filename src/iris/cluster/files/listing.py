"""Lists the files below a directory of an attempt, in pages."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from iris.cluster.files.confined_tree import MAX_DEPTH, OPEN_DIRECTORY, ConfinedTree, parts_of
from iris.errors import InvalidArgumentError, ResourceExhaustedError, quoted
from iris.rpc import cluster_pb2
from iris.rpc.cluster_pb2 import FileType, TaskFile

MAX_NAMES = 1_000_000  # The largest number of files in one directory that is listed, because all names are sorted.
_PAGE_FILES = 1000
_PAGE_BYTES = 1 << 20


def list_page(tree: ConfinedTree, path: str, *, recursive: bool, page_token: str) -> tuple[list[TaskFile], str]:
    """Return a page of files, and the token of the next page.

    The first file is the file at `path`. If this file is a link to a directory, the directory is listed. Links below
    the directory are listed as links. A directory comes before its contents, and the files of a directory are in the
    order of their names. Therefore a page can begin after any file, also if files were added or removed.

    Args:
        tree: The directory of the attempt.
        path: The file or directory to list, relative to the tree.
        recursive: Whether to list everything below a directory.
        page_token: The token that the previous page returned; empty for the first page.

    Returns:
        The files, with paths relative to the tree, and the token; the token is empty after the last page.

    Raises:
        NotFoundError: There is no file at the path.
        InvalidArgumentError: The path or the token is not a path inside of the tree.
        FailedPreconditionError: A link leads out of the tree.
        ResourceExhaustedError: A directory has more than `MAX_NAMES` files.
        OSError: The directory at the path cannot be read.
    """
    begin = parts_of(path)
    status = tree.status(path)
    page = [] if page_token else [describe("/".join(begin), status)]
    if not recursive or not stat.S_ISDIR(status.st_mode):
        return page, ""
    fd = tree.open_directory(path)
    size, last = 0, page_token
    try:
        for file in _below(fd, begin, parts_of(page_token)[len(begin) :]):
            if is_valid_path(file.path) and (len(page) >= _PAGE_FILES or size >= _PAGE_BYTES):
                return page, last
            page.append(file)
            size += file.ByteSize()
            last = file.path if is_valid_path(file.path) else last
    finally:
        os.close(fd)
    return page, ""


def describe(path: str, status: os.stat_result, link_target: str = "") -> TaskFile:
    """Return the protobuf message that describes a file."""
    return TaskFile(
        path=path,
        type=_type_of(status.st_mode),
        size=status.st_size if stat.S_ISREG(status.st_mode) else 0,
        mode=stat.S_IMODE(status.st_mode) & 0o777,
        modified_ns=status.st_mtime_ns,
        link_target=link_target,
    )


def _below(directory: int, begin: Sequence[str], after: Sequence[str]) -> Iterator[TaskFile]:
    """Yield the files below an open directory that come after a given file.

    Args:
        directory: The open file descriptor of the directory.
        begin: The parts of the directory's path.
        after: The parts of the last file of the previous page, relative to the directory; empty for all files.
    """
    names, other = _names(directory, begin)
    if other and not after:
        # A path in a message must be text. Therefore one entry stands for all files of the directory whose names are
        # not text.
        yield TaskFile(path="/".join([*begin, other]), type=cluster_pb2.FILE_TYPE_OTHER)
    for name in names:
        if after and name < after[0]:
            continue
        is_listed = bool(after) and name == after[0]
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else ""
        except OSError:
            continue  # A file is left out if the task has just removed or replaced it.
        path = [*begin, name]
        if not is_listed:
            is_usable = _is_text(target) and is_valid_path("/".join(path))
            file = describe("/".join(path), status, target if is_usable else "")
            file.type = file.type if is_usable else cluster_pb2.FILE_TYPE_OTHER
            yield file
        if stat.S_ISDIR(status.st_mode) and len(path) <= MAX_DEPTH:
            try:
                fd = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
            except OSError:
                continue  # The contents are left out if the task has replaced the directory, or has made it unreadable.
            try:
                yield from _below(fd, path, after[1:] if is_listed else ())
            finally:
                os.close(fd)


def _names(directory: int, begin: Sequence[str]) -> tuple[list[str], str]:
    """Return the names of a directory's files in order, and one of the names that are not UTF-8, or an empty text if
    all names are UTF-8.
    """
    names, other, count = [], "", 0
    with os.scandir(directory) as entries:
        for entry in entries:
            count += 1
            if count > MAX_NAMES:
                raise ResourceExhaustedError(
                    f"the directory {quoted('/'.join(begin) or '.')} has more than {MAX_NAMES:,} files: pack them into"
                    " an archive, and copy the archive"
                )
            if _is_text(entry.name):
                names.append(entry.name)
            else:
                other = entry.name.encode(errors="backslashreplace").decode()
    return sorted(names), other


def is_valid_path(path: str) -> bool:
    """Return whether a path is valid, as `parts_of` decides."""
    try:
        parts_of(path)
    except InvalidArgumentError:
        return False
    return True


def _is_text(name: str) -> bool:
    """Return whether a name is valid UTF-8. Python reads other bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _type_of(mode: int) -> FileType:
    if stat.S_ISREG(mode):
        return cluster_pb2.FILE_TYPE_REGULAR
    if stat.S_ISDIR(mode):
        return cluster_pb2.FILE_TYPE_DIRECTORY
    return cluster_pb2.FILE_TYPE_SYMLINK if stat.S_ISLNK(mode) else cluster_pb2.FILE_TYPE_OTHER
