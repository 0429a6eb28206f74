"""Packs a workspace. A workspace is a folder that is sent with a job. `workspace_files.py` decides which files are
sent.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import stat
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from iris.cluster.client.workspace_files import FoundFiles, LeftOut, Member, unreadable
from iris.errors import InvalidArgumentError, ResourceExhaustedError

# A workspace has two limits: the size of all its files before compression, and the number of its files, links and
# folders. The limits exist because the client, the controller and the worker hold a workspace in memory while it is
# sent, and because each attempt gets a copy of the files. The worker checks the same limits when it unpacks the
# workspace.
MAX_WORKSPACE_BYTES = 100 * 1024**2
MAX_WORKSPACE_MEMBERS = 50_000

_CHUNK_BYTES = 1024**2  # The size of the chunks in which the archive is compressed.
_SAMPLE_BYTES = 32 * 1024
# A chunk is compressed only if a sample of the chunk shrinks at least to this fraction of its size.
_COMPRESSIBLE = 0.9
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_NO_COMPRESSION, _FAST_COMPRESSION = 0, 1

# A function that reports progress. Its arguments are the number of packed bytes and the total number of bytes.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bundle:
    """A packed workspace.

    Attributes:
        hash: The SHA-256 of `blob` in lower-case hex. The same content has the same hash.
        blob: A gzipped tar with names relative to the folder.
        files: The number of files and links in the archive.
        bytes: The size of all files before compression, in bytes.
        left_out: The files that cannot be sent, with the reasons.
    """

    hash: str
    blob: builtins.bytes
    files: int
    bytes: int
    left_out: tuple[LeftOut, ...] = ()


def pack_workspace(folder: str | os.PathLike[str], on_progress: Progress = lambda done, total: None) -> Bundle:
    """Pack a folder as a workspace.

    Executable files stay executable in the archive. Other permissions and all times are dropped. Symbolic links stay
    links. If a file grows during packing, only its first bytes are sent, up to its size at the start.

    Args:
        folder: The folder to pack.
        on_progress: A function that is called during packing with the packed bytes and the bytes of all files.

    Raises:
        InvalidArgumentError: There is no such folder.
        ResourceExhaustedError: The folder exceeds `MAX_WORKSPACE_BYTES` or `MAX_WORKSPACE_MEMBERS`.
        FailedPreconditionError: A file, a folder or an ignore file cannot be read, for example because it was changed
            while the workspace was packed.
    """
    try:
        root = Path(folder).resolve()
        is_folder = root.is_dir()
    except (OSError, RuntimeError) as error:  # Python before 3.13 raises RuntimeError for a cycle of links.
        raise InvalidArgumentError(
            f"workspace must be an existing folder, got {os.fspath(folder)!r}: {error}"
        ) from error
    if not is_folder:
        reason = "not a folder" if root.exists() else "no such folder"
        raise InvalidArgumentError(f"workspace must be an existing folder, got {os.fspath(folder)!r} ({reason})")
    found = FoundFiles(root)
    members = _scan(found)
    blob = _write(root, members, on_progress)
    return Bundle(
        hash=hashlib.sha256(blob).hexdigest(),
        blob=blob,
        files=sum(not member.isdir() for member in members),
        bytes=sum(member.size for member in members),
        left_out=tuple(found.left_out),
    )


def _scan(found: FoundFiles) -> list[tarfile.TarInfo]:
    """Return the members of the archive, sorted by name. The limits are checked before any file is read."""
    members = []
    for member in found.members():
        members.append(_tar_info(member))
        if len(members) > MAX_WORKSPACE_MEMBERS:
            raise _too_many(found.root, members)
    if sum(member.size for member in members) > MAX_WORKSPACE_BYTES:
        raise _too_large(found.root, members)
    return sorted(members, key=lambda member: member.name)


def _tar_info(member: Member) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.name)  # the owner and the time are 0
    if member.kind == stat.S_IFDIR:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    elif member.kind == stat.S_IFLNK:
        info.type, info.linkname = tarfile.SYMTYPE, member.target
    else:
        info.size, info.mode = member.size, 0o755 if member.is_executable else 0o644
    return info


def _write(root: Path, members: list[tarfile.TarInfo], on_progress: Progress = lambda done, total: None) -> bytes:
    total = sum(member.size for member in members)
    packed = _PackedStream(lambda done: on_progress(min(done, total), total))
    with tarfile.open(
        mode="w|", fileobj=cast(IO[bytes], packed), format=tarfile.PAX_FORMAT, bufsize=_CHUNK_BYTES
    ) as tar:
        for member in members:
            if not member.isreg():
                tar.addfile(member)
                continue
            try:
                with open(root / member.name, "rb") as file:
                    # `addfile` raises OSError if it cannot read the file, or if the file has become smaller.
                    tar.addfile(member, file)
            except OSError as error:
                raise unreadable(root, member.name, error) from error
    return b"".join(packed.parts)


class _PackedStream:
    """A stream that compresses each chunk of data as a separate gzip file. The concatenated files are one valid gzip
    file.

    Compression takes most of the time of packing. Therefore incompressible chunks, for example parts of images and
    model weights, are stored uncompressed.
    """

    def __init__(self, on_written: Callable[[int], None]) -> None:
        self.parts: list[bytes] = []
        self._on_written = on_written
        self._written = 0

    def write(self, data: bytes) -> int:
        """Compress a chunk."""
        sample = data[:_SAMPLE_BYTES]
        is_worth_it = len(zlib.compress(sample, _FAST_COMPRESSION)) < _COMPRESSIBLE * len(sample)
        self.parts.append(_gzip(data, _FAST_COMPRESSION if is_worth_it else _NO_COMPRESSION))
        self._written += len(data)
        self._on_written(self._written)
        return len(data)


def _gzip(data: bytes, level: int) -> bytes:
    """Return data as a gzip file. The header of the file contains no name, time or system, so that equal data has an
    equal hash.
    """
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    return _GZIP_HEADER + body + struct.pack("<LL", zlib.crc32(data), len(data))


def _too_large(root: Path, members: list[tarfile.TarInfo]) -> ResourceExhaustedError:
    sizes = {member.name: member.size for member in members}
    largest = ", ".join(f"{name} ({_mib(size)})" for name, size in _largest(sizes))
    return ResourceExhaustedError(
        f"the workspace {str(root)!r} is too large: {_mib(sum(sizes.values()))}, over the limit of"
        f" {_mib(MAX_WORKSPACE_BYTES)}; most of it is in {largest}. Name what the task does not need in"
        f" {str(root / '.gitignore')!r}, and have the task itself read large data from where it is stored"
    )


def _too_many(root: Path, members: list[tarfile.TarInfo]) -> ResourceExhaustedError:
    largest = ", ".join(f"{name} ({count:,})" for name, count in _largest({member.name: 1 for member in members}))
    size = sum(member.size for member in members)
    return ResourceExhaustedError(
        f"the workspace {str(root)!r} has too many files: more than the limit of {MAX_WORKSPACE_MEMBERS:,}"
        f" files and folders (the first {MAX_WORKSPACE_MEMBERS:,} have {_mib(size)}); most of these are in {largest}."
        f" Name unneeded files in {str(root / '.gitignore')!r}, or send a smaller folder"
    )


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    """Return the three largest files and folders, the largest first. No returned folder contains another one.

    If one file or folder has more than half of the bytes of its parent folder, this file or folder is returned instead
    of the parent folder.
    """
    totals: Counter[PurePosixPath] = Counter()
    for name, size in sizes.items():
        path = PurePosixPath(name)
        totals[path] += size
        # The sizes are added for all parents except the last, which is the workspace itself.
        for parent in path.parents[:-1]:
            totals[parent] += size
    passed_on = {path.parent for path, total in totals.items() if total * 2 > totals[path.parent] > 0}
    folders = {path.parent for path in totals}
    named: list[PurePosixPath] = []
    for path, _ in totals.most_common():
        if len(named) < 3 and path not in passed_on and not set(named) & set(path.parents):
            named.append(path)
    return [(f"{path}/" if path in folders else str(path), totals[path]) for path in named]


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
