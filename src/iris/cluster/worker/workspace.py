"""Unpacks the workspace that came with a job, never outside its directory, and copies it for an attempt.

A workspace is whatever a client sent, so nothing in it is believed. Files, folders and symbolic links are all that
it may hold, and nothing is ever written by way of a link. `tarfile` reads it, but it is written here, by these rules:
tarfile's own `data` filter is missing before Python 3.11.4, and had holes up to 3.11.12.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
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
)

# The limits that the client holds when it packs (client/workspace.py), held again: a few bytes can unpack to
# gigabytes.
MAX_WORKSPACE_BYTES = 100 * 1024**2  # of the files, after decompression
MAX_WORKSPACE_MEMBERS = 50_000  # files, links and folders

# What the decompressed tar may be: beside the files, a header for each, its padding, and a long name.
_MAX_TAR_BYTES = MAX_WORKSPACE_BYTES + MAX_WORKSPACE_MEMBERS * 4096


def unpack_workspace(blob: bytes, bundle_hash: str, into: Path) -> None:
    """Unpacks a workspace into a directory that appears whole or not at all.

    It is unpacked beside, as `.{name}-…`, and renamed; what a killed worker leaves behind has such a name. When
    `into` is there, or appears meanwhile, somebody else has unpacked it: that is as good.

    Args:
        blob: A gzipped tar.
        bundle_hash: SHA-256 of `blob` in lower-case hex.
        into: The directory; the ones above it are made.

    Raises:
        DataLossError: The content is not what the hash says.
        InvalidArgumentError: It is no gzipped tar, or has a member that a workspace may not have.
        ResourceExhaustedError: It is over `MAX_WORKSPACE_BYTES` or `MAX_WORKSPACE_MEMBERS`.
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
        _extract(blob, beside)
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

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ResourceExhaustedError(f"the workspace unpacks to more than {_MAX_TAR_BYTES:,} bytes")
        return data


class _Members:
    """What has been seen of a tar so far, and whether the next member may follow."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0
        self._folders: set[str] = {"."}
        self._leaves: set[str] = set()  # files and links: nothing can be below them
        self.links: list[str] = []

    def admit(self, member: tarfile.TarInfo) -> None:
        """Takes the next member in.

        Raises:
            InvalidArgumentError: A workspace may not have it.
            ResourceExhaustedError: It is one too many, or too large.
        """
        self._count += 1
        self._bytes += abs(member.size)  # a broken header can say less than nothing
        if self._count > MAX_WORKSPACE_MEMBERS:
            raise ResourceExhaustedError(f"the workspace has more than {MAX_WORKSPACE_MEMBERS:,} members")
        if self._bytes > MAX_WORKSPACE_BYTES:
            raise ResourceExhaustedError(f"the files of the workspace are over {MAX_WORKSPACE_BYTES:,} bytes")

        if not (member.isreg() or member.isdir() or member.issym()):
            raise _refused(member, "is neither file, folder nor symbolic link")
        if posixpath.isabs(member.name) or ".." in member.name.split("/") or "\0" in member.name:
            raise _refused(member, "has a name that leads out of it")
        name = posixpath.normpath(member.name)
        if any(str(parent) in self._leaves for parent in PurePosixPath(name).parents):
            raise _refused(member, "is below a file or a link")
        if name in self._leaves or (name in self._folders and not member.isdir()):
            raise _refused(member, "is in it twice")

        self._folders.update(map(str, PurePosixPath(name).parents))
        if member.isdir():
            self._folders.add(name)
        else:
            self._leaves.add(name)
        if member.issym():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            if posixpath.isabs(target) or target.split("/")[0] == ".." or "\0" in member.linkname:
                raise _refused(member, f"is a link that leads out of it, to {member.linkname!r}")
            self.links.append(name)


def _extract(blob: bytes, into: Path) -> None:
    members = _Members()
    try:
        with tarfile.open(fileobj=_BoundedGzip(blob), mode="r|") as tar:
            for member in tar:
                members.admit(member)
                _write(tar, member, into / posixpath.normpath(member.name))
    except IrisError:
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        # ValueError: what tarfile makes of some broken headers.
        raise InvalidArgumentError(f"not a workspace: expected a gzipped tar ({error})") from error
    # A link may lead out by way of another link, in whatever order the two came. Nothing was written through it.
    root = into.resolve()
    for name in members.links:
        if not Path(os.path.realpath(root / name)).is_relative_to(root):
            raise InvalidArgumentError(f"not a workspace: the link {name!r} leads out of it")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Writes a member that was admitted. Of its permissions only "executable" counts; owner and times are ours."""
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
        return
    source = tar.extractfile(member)
    if source is None:
        raise _refused(member, "has no content")
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file)
    path.chmod(0o755 if member.mode & 0o111 else 0o644)


def _refused(member: tarfile.TarInfo, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"not a workspace: its member {member.name!r} {why}")
