"""Directories whose content is trusted: nobody but their owner may write in them.

Whoever can write in a state directory can run programs as its owner: it names the processes that are ended and holds
the key that signs tokens. Nothing in it is read before `check_private` has looked at it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from iris.errors import FailedPreconditionError

_PRIVATE_UMASK = 0o077
_umask_before = -1


def keep_files_private() -> None:
    """Create whatever this process creates from now on for its user only, whatever umask it was started with."""
    global _umask_before
    before = os.umask(_PRIVATE_UMASK)
    if _umask_before < 0:
        _umask_before = before


def inherited_umask() -> int:
    """Return the umask that programs of the user get, as `subprocess` takes it.

    That is the umask with which this process was started; -1, no change, when `keep_files_private` was never called.
    """
    return _umask_before


def make_private(directory: Path) -> None:
    """Make a directory and the missing ones above it, for this user only, whatever the umask.

    Raises:
        OSError: It cannot be made.
    """
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)  # says so where it is there, and is no directory


def open_private(path: str, flags: int) -> int:
    """Open a file for this user only; an `opener` for `open`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def check_private(directory: Path) -> None:
    """Refuse a directory in which another user could put something in the place of what is ours.

    Raises:
        FailedPreconditionError: It belongs to another user, others may write in it, or everybody may rename what is in
            a directory above it that this user can close. The text has the command that cures it.
        OSError: It cannot be looked at.
    """
    check_owned(directory)
    if directory.is_symlink():
        _check_owner(directory, directory.lstat())
    for above in {*directory.absolute().parents, *directory.resolve().parents}:
        status = above.stat()
        mode = status.st_mode
        # Where the directory above is not ours to close, as volumes of containers are, what somebody else would put
        # there is not ours either, and is refused for that.
        can_close = os.geteuid() in (status.st_uid, 0)
        if can_close and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise FailedPreconditionError(
                f"{above} can be written by every user of this machine (mode {_mode(mode)}), so anybody could put"
                f" another directory in the place of {directory}: chmod o-w {above}, or chmod +t {above}"
            )


def check_owned(path: Path) -> None:
    """Refuse a file or directory that another user than root owns or may write.

    Raises:
        FailedPreconditionError: That is so. The text has the command that cures it.
        OSError: It cannot be looked at.
    """
    status = path.stat()
    _check_owner(path, status)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FailedPreconditionError(
            f"{path} can be written by other users (mode {_mode(status.st_mode)}), who could run programs as you by"
            f" what they put there. Take another directory, or if you are certain that nobody has changed anything:"
            f" chmod go-w {path}"
        )


def check_entries(directory: Path) -> None:
    """Refuse what lies in a directory and is another user's, others may write, or leads elsewhere.

    A file that others could never reach, because the directory is closed to them, is closed silently: an earlier
    version of Iris has left it open under a generous umask.

    Raises:
        FailedPreconditionError: There is such a thing.
        OSError: It cannot be looked at.
    """
    is_closed = not directory.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    for path in map(Path, sorted(os.scandir(directory), key=lambda entry: entry.name)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # a worker that ends takes its own away
        if stat.S_ISLNK(status.st_mode):
            raise FailedPreconditionError(
                f"{path} is a symbolic link: a copy of the directory would use the same files as the original. Put what"
                f" it leads to in its place, or mount it there (mount --bind)"
            )
        _check_owner(path, status)
        if is_closed and status.st_uid == os.geteuid() and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            path.chmod(stat.S_IMODE(status.st_mode) & ~0o022)
        check_owned(path)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):  # root can replace anything anyway
        raise FailedPreconditionError(
            f"{path} belongs to {_name_of(status.st_uid)}, not to {_name_of(os.geteuid())}: its owner could run"
            " programs as you. Take a directory of your own, or have its owner changed:"
            f" chown -R {os.geteuid()} {path}"
        )


def _name_of(uid: int) -> str:
    import pwd  # clients run where there is none, too

    try:
        return f"user {pwd.getpwuid(uid).pw_name!r}"
    except KeyError:
        return f"user {uid}"


def _mode(mode: int) -> str:
    return f"{stat.S_IMODE(mode):04o}"
