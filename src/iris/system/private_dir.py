"""Protects directories with trusted content, in which only their owner may write.

A user who can write in a state directory can run programs as the directory's owner, because the directory names the
processes that Iris signals and contains the server key. `check_private` must check the directory before anything in it
is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from iris.errors import FailedPreconditionError

_PRIVATE_UMASK = 0o077
_umask_before = -1


def keep_files_private() -> None:
    """Make all files that this process creates from now on private to its user, regardless of the inherited umask."""
    global _umask_before
    before = os.umask(_PRIVATE_UMASK)
    if _umask_before < 0:
        _umask_before = before


def inherited_umask() -> int:
    """Return the umask for the user's programs, in the form of `subprocess`. The result is the umask with which this
    process was started, or -1 (no change) if `keep_files_private` was never called.
    """
    return _umask_before


def make_private(directory: Path) -> None:
    """Create a directory and its missing parents, private to this user regardless of the umask.

    Raises:
        OSError: The directory cannot be created.
    """
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)  # `mkdir` raises an error if the path exists and is not a directory.


def open_private(path: str, flags: int) -> int:
    """Open a file, and make a new file private to this user. The function is an `opener` for `open`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def check_private(directory: Path) -> None:
    """Check that no other user can replace the content of a directory.

    Raises:
        FailedPreconditionError: The directory belongs to another user, or other users may write in it. The error is
            also raised if a parent directory lets every user rename its entries, and this user could change the
            parent's mode. The text of the error has the command that repairs the directory.
        OSError: The directory cannot be read.
    """
    check_owned(directory)
    if directory.is_symlink():
        _check_owner(directory, directory.lstat())
    for above in {*directory.absolute().parents, *directory.resolve().parents}:
        status = above.stat()
        mode = status.st_mode
        # A parent directory that every user can write to is refused only if this user can change its mode. In a
        # container's volume, for example, this user cannot change the mode. Another user could then replace the
        # directory, but the replacement would belong to the other user, and Iris would refuse it because of its owner.
        can_close = os.geteuid() in (status.st_uid, 0)
        if can_close and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise FailedPreconditionError(
                f"{above} can be written by every user of this machine (mode {_mode(mode)}), so anybody could"
                f" replace {directory} by another directory: chmod o-w {above}, or chmod +t {above}"
            )


def check_owned(path: Path) -> None:
    """Check that a file or directory belongs to this user or root, and that no other user may write to it.

    Raises:
        FailedPreconditionError: Another user owns the file or directory, or may write to it. The text of the error has
            the command that repairs the problem.
        OSError: The file or directory cannot be read.
    """
    status = path.stat()
    _check_owner(path, status)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FailedPreconditionError(
            f"{path} can be written by other users (mode {_mode(status.st_mode)}), who could run programs as you by"
            " changing its content. Use another directory, or if you are certain that nobody has changed anything:"
            f" chmod go-w {path}"
        )


def check_entries(directory: Path) -> None:
    """Check that each entry of a directory belongs to this user or root, that no other user may write to it, and that
    it is not a link.

    An earlier release of Iris could create files that other users may write. If other users cannot enter the directory,
    such a file of this user is made private, and no error is raised.

    Raises:
        FailedPreconditionError: An entry belongs to another user, others may write to it, or it is a symbolic link.
        OSError: An entry cannot be read.
    """
    is_closed = not directory.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    for path in map(Path, sorted(os.scandir(directory), key=lambda entry: entry.name)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # An entry may disappear during this loop, because a worker that ends removes its files.
        if stat.S_ISLNK(status.st_mode):
            raise FailedPreconditionError(
                f"{path} is a symbolic link: a copy of the directory would use the same files as the original."
                " Replace the link by its target, or mount the target there (mount --bind)"
            )
        _check_owner(path, status)
        if is_closed and status.st_uid == os.geteuid() and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            path.chmod(stat.S_IMODE(status.st_mode) & ~0o022)
        check_owned(path)


def _check_owner(path: Path, status: os.stat_result) -> None:
    # Files of root are accepted, because root can replace every file of every user anyway.
    if status.st_uid not in (os.geteuid(), 0):
        raise FailedPreconditionError(
            f"{path} belongs to {_name_of(status.st_uid)}, not to {_name_of(os.geteuid())}: its owner could run"
            " programs as you. Use your own directory, or have the owner changed:"
            f" chown -R {os.geteuid()} {path}"
        )


def _name_of(uid: int) -> str:
    import pwd  # Imported here, because clients import this module on Windows, where `pwd` does not exist.

    try:
        return f"user {pwd.getpwuid(uid).pw_name!r}"
    except KeyError:
        return f"user {uid}"


def _mode(mode: int) -> str:
    return f"{stat.S_IMODE(mode):04o}"
