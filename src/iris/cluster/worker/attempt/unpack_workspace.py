"""Unpacks the workspace that came with a job, never outside its directory, and copies it for an attempt.

A workspace is whatever a client sent, so nothing in it is believed. Files, folders and symbolic links are all that
it may hold. Links are made when all files are written, so nothing is ever written by way of one, whatever a file system
takes for the same name. `tarfile` reads it, in bounds, but it is written here, by these rules: tarfile's own `data`
filter is missing before Python 3.11.4, and had holes up to 3.11.12.
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

# The limits that the client holds when it packs (client/workspace.py), held again: a few bytes can unpack to
# gigabytes.
MAX_WORKSPACE_BYTES = 100 * 1024**2  # of the files, after decompression
MAX_WORKSPACE_MEMBERS = 50_000  # files, links and folders, those included that only others' names speak of

# What the decompressed tar may be: beside the files, a header for each, its padding, and a long name.
_MAX_TAR_BYTES = MAX_WORKSPACE_BYTES + MAX_WORKSPACE_MEMBERS * 4096
# And what may lie between two files: headers, which tarfile reads into memory before it tells of them.
_MAX_HEADER_BYTES = 128 * 1024
# As Linux has them.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4000  # a worker's own directory stands before it where it can
_MAX_LINKS = 40  # that one path may go through
_MAX_STEPS = 5_000_000  # taken to see where all links lead; one takes less than a microsecond


def unpack_workspace(blob: bytes, bundle_hash: str, into: Path, *, max_members: int = MAX_WORKSPACE_MEMBERS) -> None:
    """Unpacks a workspace into a directory that appears whole or not at all.

    It is unpacked beside, as `.{name}-…`, and renamed; what a killed worker leaves behind has such a name. When
    `into` is there, or appears meanwhile, somebody else has unpacked it: that is as good.

    Args:
        blob: A gzipped tar.
        bundle_hash: SHA-256 of `blob` in lower-case hex.
        into: The directory; the ones above it are made.
        max_members: How many files, links and folders it may have.

    Raises:
        DataLossError: The content is not what the hash says.
        InvalidArgumentError: It is no gzipped tar, or has a member that a workspace may not have.
        ResourceExhaustedError: It is over `MAX_WORKSPACE_BYTES` or `max_members`.
        OSError: The disk is full, or cannot be written.
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
        shutil.rmtree(beside, ignore_errors=True)  # not there any more when all went well


def copy_workspace(cached: Path, into: Path) -> None:
    """Copies an unpacked workspace for one attempt, which may then write in it.

    Links are copied as links, permissions are kept, times are not.

    Args:
        cached: What `unpack_workspace` made.
        into: The attempt's directory; it may be there already, empty.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    shutil.copytree(cached, into, symlinks=True, copy_function=shutil.copy, dirs_exist_ok=True)


class _BoundedGzip(gzip.GzipFile):
    """Decompresses no more than `_MAX_TAR_BYTES`, whatever the headers inside claim."""

    def __init__(self, blob: bytes) -> None:
        super().__init__(fileobj=io.BytesIO(blob), mode="rb")
        self._left = _MAX_TAR_BYTES
        self._header_left = _MAX_HEADER_BYTES
        self._in_header = True

    def begin_header(self) -> None:
        """What is read from now on are headers."""
        self._in_header, self._header_left = True, _MAX_HEADER_BYTES

    def begin_content(self) -> None:
        """What is read from now on is a file."""
        self._in_header = False

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ResourceExhaustedError(f"the workspace unpacks to more than {_MAX_TAR_BYTES:,} bytes")
        self._header_left -= len(data)
        if self._in_header and self._header_left < 0:
            raise ResourceExhaustedError(f"a header in the workspace is over the limit of {_MAX_HEADER_BYTES:,} bytes")
        return data


class _Members:
    """What has been seen of a tar so far, and whether the next member may follow."""

    def __init__(self, max_members: int) -> None:
        self._max_members = max_members
        self._count = 0
        self._bytes = 0
        self._folders: set[str] = {"."}
        self._leaves: set[str] = set()  # files and links: nothing can be below them
        self.links: dict[str, str] = {}  # where they lead, as they say it

    def admit(self, member: tarfile.TarInfo) -> None:
        """Takes the next member in.

        Raises:
            InvalidArgumentError: A workspace may not have it.
            ResourceExhaustedError: It is one too many, or too large.
        """
        self._count += 1
        self._bytes += abs(member.size)  # a broken header can say less than nothing
        if self._count > self._max_members:
            raise self._too_many()
        if self._bytes > MAX_WORKSPACE_BYTES:
            raise ResourceExhaustedError(f"the files of the workspace are over {MAX_WORKSPACE_BYTES:,} bytes")

        if not (member.isreg() or member.isdir() or member.issym()) or member.issparse():
            raise _refused(member, "is neither file, folder nor symbolic link")
        if posixpath.isabs(member.name) or ".." in member.name.split("/") or "\0" in member.name:
            raise _refused(member, "has a name that leads out of it")
        name = posixpath.normpath(member.name)
        if _is_too_long(name) or (member.issym() and _is_too_long(member.linkname)):
            raise _refused(member, f"has a name of over {_MAX_NAME_BYTES} bytes, or a path of over {_MAX_PATH_BYTES}")
        if any(str(parent) in self._leaves for parent in PurePosixPath(name).parents):
            raise _refused(member, "is below a file or a link")
        if name in self._leaves or (name in self._folders and not member.isdir()):
            raise _refused(member, "is in it twice")

        self._folders.update(map(str, PurePosixPath(name).parents))
        if member.isdir():
            self._folders.add(name)
        else:
            self._leaves.add(name)
        if len(self._folders) + len(self._leaves) > self._max_members + 1:
            raise self._too_many()
        if member.issym():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            if posixpath.isabs(target) or target.split("/")[0] == ".." or "\0" in member.linkname:
                raise _refused(member, f"is a link that leads out of it, to {quoted(member.linkname)}")
            if not member.linkname:
                raise _refused(member, "is a link to nothing")
            self.links[name] = member.linkname

    def _too_many(self) -> ResourceExhaustedError:
        return ResourceExhaustedError(f"the workspace has more than {self._max_members:,} members")

    def check_links(self) -> None:
        """A link may lead out by way of another one, in whatever order the two came.

        Raises:
            InvalidArgumentError: One does, or goes through more links than Linux follows.
            ResourceExhaustedError: It would take too long to see.
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
                        raise InvalidArgumentError(f"not a workspace: the link {quoted(name)} leads out of it")
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
                        f"not a workspace: the link {quoted(name)} leads through more than {_MAX_LINKS} links"
                    )
            if steps > _MAX_STEPS:
                raise ResourceExhaustedError("the links of the workspace lead through too many folders and links")


def _extract(blob: bytes, into: Path, max_members: int) -> None:
    members = _Members(max_members)
    try:
        source = _BoundedGzip(blob)
        with tarfile.open(fileobj=source, mode="r|") as tar:  # reads the first header
            while (member := tar.next()) is not None:
                members.admit(member)
                source.begin_content()
                _write(tar, member, into / posixpath.normpath(member.name))
                tar.members = []  # type: ignore[attr-defined]  # it would keep all that were read
                source.begin_header()
    except IrisError:
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        # ValueError: what tarfile makes of some broken headers.
        raise InvalidArgumentError(f"not a workspace: expected a gzipped tar ({error})") from error
    members.check_links()
    for name, target in members.links.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Writes a file or folder that was admitted. Of its permissions only "executable" counts; owner and times are
    ours."""
    if member.issym():
        return
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise _refused(member, "has no content")
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file)
    path.chmod(0o755 if member.mode & 0o111 else 0o644)


def _refused(member: tarfile.TarInfo, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"not a workspace: its member {quoted(member.name)} {why}")


def _is_too_long(path: str) -> bool:
    parts = path.encode(errors="surrogateescape").split(b"/")
    return max(map(len, parts)) > _MAX_NAME_BYTES or sum(map(len, parts)) + len(parts) > _MAX_PATH_BYTES
