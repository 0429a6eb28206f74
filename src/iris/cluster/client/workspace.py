"""Packs a folder, so that it can be sent along with a job: the workspace.

What is left out: what `.gitignore` files name (those above the folder too, up to the top of its git checkout, and
the checkout's `.git/info/exclude`), every `.git`, `__pycache__` and virtual environment, sockets, pipes and
devices, and folders of which nothing else remains. Unlike git, a file that is ignored and yet tracked is left out
as well, and the user's global ignore file is not read: what is sent depends on the folder alone.
"""

from __future__ import annotations

import builtins
import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from iris.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError

# A workspace is for code: it is kept in the memory of client, controller and worker while it travels, and each
# attempt gets its own copy. The worker holds the same two limits when it unpacks (worker/workspace.py).
MAX_WORKSPACE_BYTES = 100 * 1024**2  # of the files, before compression
MAX_WORKSPACE_MEMBERS = 50_000  # files, links and folders

_LEFT_OUT = frozenset({".git", "__pycache__"})


@dataclass(frozen=True)
class _Rule:
    """One line of a `.gitignore`.

    Attributes:
        above: The file's folder relative to the top of the checkout: empty, or with "/" at its end.
        pattern: The line without the "/" at its end.
        folders_only: Whether there was one.
    """

    above: str
    pattern: GitIgnoreSpecPattern
    folders_only: bool


_Rules = tuple[_Rule, ...]  # from the weakest to the strongest


@dataclass(frozen=True)
class Bundle:
    """A packed workspace.

    Attributes:
        hash: SHA-256 of `blob` in lower-case hex; the same content gives the same hash.
        blob: A gzipped tar, with names relative to the folder.
        files: How many files and links are in it.
        bytes: The size of the files, before compression.
    """

    hash: str
    blob: builtins.bytes
    files: int
    bytes: int


def pack_workspace(folder: str | os.PathLike[str]) -> Bundle:
    """Packs a folder with all that is below it, except what the module's docstring says is left out.

    Executable files stay executable, other permissions and all times are dropped. Symbolic links stay links. A
    file that grows meanwhile is sent as long as it was found.

    Raises:
        InvalidArgumentError: There is no such folder, or it has a link that leads out of it.
        ResourceExhaustedError: It is over `MAX_WORKSPACE_BYTES` or `MAX_WORKSPACE_MEMBERS`.
        FailedPreconditionError: Something in it cannot be read, or was changed while it was packed.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise InvalidArgumentError(f"not a workspace: {os.fspath(folder)!r} ({what})")
    members = _scan(root)
    blob = _write(root, members)
    return Bundle(
        hash=hashlib.sha256(blob).hexdigest(),
        blob=blob,
        files=sum(not member.isdir() for member in members),
        bytes=sum(member.size for member in members),
    )


def _scan(root: Path) -> list[tarfile.TarInfo]:
    """What is to be packed, in the order of the names. Reads no file's content, so that limits come first."""
    base, rules = _rules_above(root)
    members = []
    for member in _walk(root, "", base, rules):
        members.append(member)
        if len(members) > MAX_WORKSPACE_MEMBERS:
            raise _too_many(root, members)
    if sum(member.size for member in members) > MAX_WORKSPACE_BYTES:
        raise _too_large(root, members)
    return sorted(members, key=lambda member: member.name)


def _walk(root: Path, folder: str, base: str, rules: _Rules) -> Iterator[tarfile.TarInfo]:
    """Yields the members below `folder`, and last the folder itself, unless all in it is left out.

    Args:
        root: The workspace.
        folder: Relative to the workspace: empty, or with "/" at its end.
        base: The workspace relative to the top of its checkout, in the same form.
        rules: What is ignored, by the files above `folder`.
    """
    try:
        with os.scandir(root / folder) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(root, folder, error) from error

    for child in children:
        if child.name == ".gitignore" and child.is_file(follow_symlinks=False):
            rules += _read_rules(Path(child.path), base + folder)

    some = False
    for child in children:
        name = folder + child.name
        if child.name in _LEFT_OUT or _is_virtual_environment(child):
            continue
        try:
            status = child.stat(follow_symlinks=False)
        except OSError as error:
            raise _unreadable(root, name, error) from error
        is_folder = stat.S_ISDIR(status.st_mode)
        if _ignored(base + name, is_folder, rules):
            continue
        if is_folder:
            for member in _walk(root, name + "/", base, rules):
                some = True
                yield member
            continue
        member = tarfile.TarInfo(name)  # owner 0, time 0
        if stat.S_ISLNK(status.st_mode):
            member.type = tarfile.SYMTYPE
            member.linkname = _link_target(root, name)
        elif stat.S_ISREG(status.st_mode):
            member.size = status.st_size
            member.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        else:
            continue
        some = True
        yield member

    if folder and (some or not children):
        member = tarfile.TarInfo(folder.rstrip("/"))
        member.type = tarfile.DIRTYPE
        member.mode = 0o755
        yield member


def _is_virtual_environment(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))


def _write(root: Path, members: list[tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    # No file name and no time in gzip's header: both would be part of the hash.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0) as packed,
        tarfile.open(mode="w", fileobj=packed, format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in members:
            if not member.isreg():
                tar.addfile(member)
                continue
            try:
                with open(root / member.name, "rb") as file:
                    tar.addfile(member, file)  # OSError, too, when the file is shorter by now
            except OSError as error:
                raise _unreadable(root, member.name, error) from error
    return buffer.getvalue()


def _link_target(root: Path, name: str) -> str:
    """Where a link leads, as text that means the same on another machine.

    Raises:
        InvalidArgumentError: It leads out of the workspace.
    """
    link = root / name
    target = os.readlink(link)
    real = os.path.realpath(link)
    if not Path(real).is_relative_to(root):
        raise InvalidArgumentError(
            f"cannot send the workspace {str(root)!r}: the link {name!r} leads out of it, to {target!r}"
            f" (put what it leads to into the folder, or name the link in {str(root / '.gitignore')!r})"
        )
    # Absolute, or by way of a folder above: it is inside, but only on this machine.
    steps = os.path.normpath(os.path.join(os.path.dirname(name), target)).split(os.sep)
    if os.path.isabs(target) or steps[0] == os.pardir:
        target = os.path.relpath(real, link.parent)
    return target.replace(os.sep, "/")


def _rules_above(root: Path) -> tuple[str, _Rules]:
    """The workspace relative to the top of its git checkout, and what the checkout ignores by files above it."""
    top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
    if top is None:
        return "", ()
    rules = _read_rules(_git_folder(top) / "info" / "exclude", "")
    base = ""
    for part in root.relative_to(top).parts:
        rules += _read_rules(top / base / ".gitignore", base)
        if _ignored(base + part, True, rules):
            # A folder that its checkout ignores, and that is asked for all the same: only its own rules count.
            return "", ()
        base += part + "/"
    return base, rules


def _git_folder(top: Path) -> Path:
    """Where a checkout has its `info/exclude`; `.git` is a file in a worktree and in a submodule."""
    git = top / ".git"
    try:
        if git.is_file():
            git = top / git.read_text().removeprefix("gitdir:").strip()
        common = git / "commondir"
        return git / common.read_text().strip() if common.is_file() else git
    except (OSError, UnicodeDecodeError):
        return git  # no checkout that git could read; it has no rules then


def _read_rules(file: Path, above: str) -> _Rules:
    """The rules in a file of `.gitignore`'s form; none when there is no such file.

    Args:
        file: Where to read.
        above: The folder that the rules are relative to, relative to the top of the checkout.

    Raises:
        FailedPreconditionError: The file cannot be read.
    """
    try:
        # As the names of files are decoded, so that they compare; git, too, skips a byte order mark.
        text = file.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ()
    except OSError as error:
        raise FailedPreconditionError(f"cannot read {str(file)!r}: {error.strerror}") from error
    rules = []
    for line in text.split("\n"):
        line = line if line.endswith("\\ ") else line.rstrip()
        try:
            pattern = GitIgnoreSpecPattern(line.removesuffix("/"))
        except ValueError:
            continue  # no pattern; git passes over it as well
        if pattern.include is not None:
            rules.append(_Rule(above, pattern, folders_only=line.endswith("/")))
    return tuple(rules)


def _ignored(path: str, is_folder: bool, rules: _Rules) -> bool:
    """Whether the strongest rule that names a path says that it is ignored.

    Folders above the path are not looked at: nobody walks into one that is ignored, as git says. That is why the
    patterns are asked one by one, and not `pathspec.GitIgnoreSpec`: it takes each path by itself, so that in
    `data/**`, `!data/keep` the first line names `data/` as well, and `!/src` all that is below `src`.

    Args:
        path: Relative to the top of the checkout.
    """
    for rule in reversed(rules):
        if is_folder or not rule.folders_only:
            found = rule.pattern.match_file(path[len(rule.above) :])
            # A group that took part means that the pattern names a folder above the path, not the path.
            if found is not None and found.match.lastindex is None:
                return bool(rule.pattern.include)
    return False


def _unreadable(root: Path, name: str, error: OSError) -> FailedPreconditionError:
    reason = error.strerror or "it was changed while it was packed"
    return FailedPreconditionError(
        f"cannot send the workspace {str(root)!r}: {name or '.'!r} cannot be read: {reason}"
        " (try again, or name it in .gitignore)"
    )


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
        f" files and folders, and {_mib(size)} up to there; most of those seen are in {largest}. Name what the"
        f" task does not need in {str(root / '.gitignore')!r}, or send a smaller folder"
    )


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    """The three largest files and folders, largest first, none inside another.

    A folder of which one thing makes up more than half is not named: that thing is.
    """
    totals: Counter[PurePosixPath] = Counter()
    for name, size in sizes.items():
        path = PurePosixPath(name)
        totals[path] += size
        for parent in path.parents[:-1]:  # the last is the workspace itself
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
