"""Unpacks the workspace of a job, never outside its directory, and copies it for each attempt.

A client may send anything as a workspace. Therefore this module trusts no part of the archive. Only files, folders and
symbolic links are allowed. All links are created after all files. Therefore no file is ever written through a link, not
even on a file system where two different names can mean the same file. The standard module `tarfile` only reads the
archive. This module writes the files itself, because tarfile's filter `data` is missing before Python 3.11.4 and had
security holes up to 3.11.12.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from iris.errors import (
    DataLossError,
    InvalidArgumentError,
    IrisError,
    ResourceExhaustedError,
    quoted,
)

# The largest size of all files of a workspace together, after decompression. The client checks this limit when it packs
# a workspace. The worker checks the limit again, because a few bytes can unpack to gigabytes.
MAX_WORKSPACE_BYTES = 100 * 1024**2
# The largest number of files, links and folders in a workspace. Folders that occur only in the paths of other members
# count, too.
MAX_WORKSPACE_MEMBERS = 50_000

# The largest size of the decompressed tar: the files, and for each file a header, padding and a long name.
_MAX_TAR_BYTES = MAX_WORKSPACE_BYTES + MAX_WORKSPACE_MEMBERS * 4096
# The largest size of the headers between two files. tarfile reads these headers into memory before it returns the next
# member.
_MAX_HEADER_BYTES = 128 * 1024
# The longest name of a file in bytes. Linux has the same limit.
_MAX_NAME_BYTES = 255
# The longest path of a file in bytes. Linux allows 4,096 bytes, which include the path of the worker directory.
_MAX_PATH_BYTES = 4000
# The largest number of symbolic links that one path may go through.
_MAX_LINKS = 40
# The largest number of steps for resolving all links. One step takes less than a microsecond.
_MAX_STEPS = 5_000_000


def unpack_workspace(blob: bytes, bundle_hash: str, into: Path, *, max_members: int = MAX_WORKSPACE_MEMBERS) -> None:
    """Unpack a workspace into a directory that appears completely or not at all.

    The files are unpacked into a temporary directory `.{name}-…` beside the wanted directory, and the temporary
    directory is then renamed. A killed worker leaves its temporary directory behind. If `into` exists already or
    appears during the unpacking, another process has unpacked the same workspace, and this call uses that directory.

    Args:
        blob: The workspace as a gzipped tar archive.
        bundle_hash: The SHA-256 of `blob` in lower-case hexadecimal digits.
        into: The directory for the unpacked workspace. Missing parents are created.
        max_members: How many files, links and folders are allowed.

    Raises:
        DataLossError: The content does not match the hash.
        InvalidArgumentError: The blob is not a gzipped tar, or contains a member that a workspace must not contain.
        ResourceExhaustedError: The workspace exceeds `MAX_WORKSPACE_BYTES` or `max_members`.
        OSError: The disk is full or cannot be written.
    """
    actual = hashlib.sha256(blob).hexdigest()
    if actual != bundle_hash:
        raise DataLossError(f"the workspace is damaged: its SHA-256 is {actual}, expected {bundle_hash}")
    if into.is_dir():
        return
    into.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    try:
        _extract(blob, beside, max_members)
        try:
            beside.rename(into)
        except OSError:
            if not into.is_dir():
                raise
    finally:
        # After a success, the temporary directory was renamed, and there is nothing to remove.
        shutil.rmtree(beside, ignore_errors=True)


def copy_workspace(cached: Path, into: Path) -> None:
    """Copy an unpacked workspace for one attempt, because the attempt may change the files of its copy. Links are
    copied as links. Permissions are kept, but modification times are not.

    Args:
        cached: The directory that `unpack_workspace` has created.
        into: The attempt's directory, which may exist if it is empty.

    Raises:
        OSError: The disk is full or cannot be written.
    """
    shutil.copytree(cached, into, symlinks=True, copy_function=shutil.copy, dirs_exist_ok=True)


class _BoundedGzip(gzip.GzipFile):
    """Decompresses an archive, but never more than `_MAX_TAR_BYTES` bytes, even if the headers in the archive state
    wrong sizes.
    """

    def __init__(self, blob: bytes) -> None:
        super().__init__(fileobj=io.BytesIO(blob), mode="rb")
        self._left = _MAX_TAR_BYTES
        self._header_left = _MAX_HEADER_BYTES
        self._in_header = True

    def begin_header(self) -> None:
        """Count the bytes that are read from now on as headers, and not as the content of a file."""
        self._in_header, self._header_left = True, _MAX_HEADER_BYTES

    def begin_content(self) -> None:
        """Count the bytes that are read from now on as the content of a file, and not as headers."""
        self._in_header = False

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ResourceExhaustedError(f"the workspace unpacks to more than {_MAX_TAR_BYTES:,} bytes")
        self._header_left -= len(data)
        if self._in_header and self._header_left < 0:
            raise ResourceExhaustedError(
                f"a tar header in the archive of the workspace is over the limit of {_MAX_HEADER_BYTES:,} bytes"
            )
        return data


class _Members:
    """Checks each member of a tar against the rules for workspaces, and against the members before it.

    Args:
        max_members: How many members are allowed.

    Attributes:
        links: The targets of the symbolic links, by the paths of the links.
    """

    def __init__(self, max_members: int) -> None:
        self._max_members = max_members
        self._count = 0
        self._bytes = 0
        self._folders: set[str] = {"."}
        # The paths of all files and links. No further member may lie below one of these paths.
        self._leaves: set[str] = set()
        self.links: dict[str, str] = {}

    def admit(self, member: tarfile.TarInfo) -> None:
        """Check the next member of a workspace.

        Raises:
            InvalidArgumentError: A workspace must not contain this member.
            ResourceExhaustedError: There are too many members, or they are too large.
        """
        self._count += 1
        self._bytes += abs(member.size)  # `abs` is needed because a broken header can claim a negative size.
        if self._count > self._max_members:
            raise self._too_many()
        if self._bytes > MAX_WORKSPACE_BYTES:
            raise ResourceExhaustedError(f"the files of the workspace have more than {MAX_WORKSPACE_BYTES:,} bytes")

        name = self._check_name(member)
        self._add(member, name)
        if len(self._folders) + len(self._leaves) > self._max_members + 1:
            raise self._too_many()
        if member.issym():
            self._add_link(member, name)

    def _check_name(self, member: tarfile.TarInfo) -> str:
        if not (member.isreg() or member.isdir() or member.issym()) or member.issparse():
            raise InvalidArgumentError(
                f"the workspace contains {quoted(member.name)}, which is neither file, folder nor symbolic link"
            )
        if posixpath.isabs(member.name) or ".." in member.name.split("/") or "\0" in member.name:
            raise InvalidArgumentError(f"the path {quoted(member.name)} leads out of the workspace")
        name = posixpath.normpath(member.name)
        if _is_too_long(name) or (member.issym() and _is_too_long(member.linkname)):
            raise InvalidArgumentError(
                f"the workspace contains {quoted(member.name)}, which has a name of over {_MAX_NAME_BYTES} bytes,"
                f" or a path of over {_MAX_PATH_BYTES}"
            )
        if any(str(parent) in self._leaves for parent in PurePosixPath(name).parents):
            raise InvalidArgumentError(f"the workspace contains {quoted(member.name)} below a file or a link")
        if name in self._leaves or (name in self._folders and not member.isdir()):
            raise InvalidArgumentError(f"the workspace contains {quoted(member.name)} twice")
        return name

    def _add(self, member: tarfile.TarInfo, name: str) -> None:
        self._folders.update(map(str, PurePosixPath(name).parents))
        if member.isdir():
            self._folders.add(name)
        else:
            self._leaves.add(name)

    def _add_link(self, member: tarfile.TarInfo, name: str) -> None:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        if posixpath.isabs(target) or target.split("/")[0] == ".." or "\0" in member.linkname:
            raise InvalidArgumentError(
                f"the link {quoted(member.name)} leads out of the workspace, to {quoted(member.linkname)}"
            )
        if not member.linkname:
            raise InvalidArgumentError(f"the workspace contains the link {quoted(member.name)} without a target")
        self.links[name] = member.linkname

    def _too_many(self) -> ResourceExhaustedError:
        return ResourceExhaustedError(f"the workspace has more than {self._max_members:,} members")

    def check_links(self) -> None:
        """Check that no link leads out of the workspace, directly or through other links.

        Raises:
            InvalidArgumentError: A link leads out of the workspace, or goes through more links than Linux follows.
            ResourceExhaustedError: Resolving the links takes too many steps.
        """
        steps = 0
        for name, target in self.links.items():
            at = name.split("/")[:-1]
            ahead = target.split("/")[::-1]
            followed = 1
            while ahead:
                steps += 1
                part = ahead.pop()
                if part == "..":
                    if not at:
                        raise InvalidArgumentError(f"the link {quoted(name)} leads out of the workspace")
                    at.pop()
                    continue
                if part in ("", "."):
                    continue
                at.append(part)
                further = self.links.get("/".join(at))
                if further is not None:
                    followed += 1
                    at.pop()
                    ahead += further.split("/")[::-1]
                if followed > _MAX_LINKS:
                    raise InvalidArgumentError(
                        f"the link {quoted(name)} in the workspace leads through more than {_MAX_LINKS} links"
                    )
            if steps > _MAX_STEPS:
                raise ResourceExhaustedError("the links of the workspace lead through too many folders and links")


def _extract(blob: bytes, into: Path, max_members: int) -> None:
    members = _Members(max_members)
    try:
        source = _BoundedGzip(blob)
        # `tarfile.open` already reads the first header, which may be broken.
        with tarfile.open(fileobj=source, mode="r|") as tar:
            while (member := tar.next()) is not None:
                members.admit(member)
                source.begin_content()
                _write(tar, member, into / posixpath.normpath(member.name))
                tar.members = []  # type: ignore[attr-defined] # Without this, tarfile would keep all members in memory.
                source.begin_header()
    except IrisError:
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        # ValueError is caught because tarfile raises it for some broken headers.
        raise InvalidArgumentError(f"the workspace cannot be unpacked, expected a gzipped tar: {error}") from error
    members.check_links()
    for name, target in members.links.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a file or folder of a workspace to the disk. Only the executable bit of its permissions is kept. The owner
    and the times are new.
    """
    if member.issym():
        return
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise InvalidArgumentError(f"the workspace contains {quoted(member.name)} without content")
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file)
    path.chmod(0o755 if member.mode & 0o111 else 0o644)


def _is_too_long(path: str) -> bool:
    parts = path.encode(errors="surrogateescape").split(b"/")
    return max(map(len, parts)) > _MAX_NAME_BYTES or sum(map(len, parts)) + len(parts) > _MAX_PATH_BYTES
