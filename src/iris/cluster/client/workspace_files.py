"""Decides which files of a workspace are sent, without reading the content of files.

These files and folders are never sent: `.git`, `__pycache__`, virtual environments, and folders in which nothing else
lies. Ignored files are not sent either: inside a checkout git lists the ignored files, and otherwise `ignore_rules.py`
applies the same rules. As in git, a repository inside the workspace has separate rules. The rules of the folders above
the repository do not apply inside the repository.

Files that cannot be sent are left out and listed: links that lead out of the folder or cannot be followed, sockets,
pipes, devices, and files that this user may not read. Such a file causes no error, because the job may not need the
file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from iris.cluster.client.git_checkout import Ignored, find_ignored, git_folder
from iris.cluster.client.ignore_rules import Rule, is_ignored, parse_rules
from iris.errors import FailedPreconditionError

_NEVER_SENT = frozenset({".git", "__pycache__"})
_IGNORE_FILE = ".gitignore"


class WhyLeftOut(Enum):
    """The reason why a file of a workspace cannot be sent."""

    LINK_OUT = "a link that leads out of the folder"
    LINK_BROKEN = "a link that cannot be followed"
    SPECIAL = "a socket, pipe or device"
    UNREADABLE = "not readable for this user"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that cannot be sent.

    Attributes:
        name: The path of the file, relative to the workspace.
        why: The reason why the file cannot be sent.
        target: The target of a link. Empty for other files.
    """

    name: str
    why: WhyLeftOut
    target: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A file, link or folder that is sent.

    Attributes:
        name: The path of the entry, relative to the workspace, with "/" between its parts.
        kind: The type of the entry: `stat.S_IFREG`, `stat.S_IFLNK` or `stat.S_IFDIR`.
        size: The size of a file in bytes.
        is_executable: Whether the owner of a file may run it.
        target: The target of a link, changed so that the link is valid on another machine.
    """

    name: str
    kind: int
    size: int = 0
    is_executable: bool = False
    target: str = ""


@dataclass(slots=True)
class FoundFiles:
    """Finds the files of a workspace.

    Attributes:
        root: The path of the workspace, without links in the path.
        left_out: The files found so far that cannot be sent.
    """

    root: Path
    left_out: list[LeftOut] = field(default_factory=list)

    def members(self) -> Iterator[Member]:
        """Yield the files, links and folders of the workspace that are sent. A folder comes after its content.

        Raises:
            FailedPreconditionError: A folder or an ignore file cannot be read, for example because it was changed
                during the search.
        """
        return self._walk("", _scope_of(self.root, is_asked_for=True))

    def _walk(self, folder: str, scope: _Scope) -> Iterator[Member]:
        """Yield the files, links and folders below `folder` that are sent. Finally yield `folder` itself, unless all
        files in `folder` are left out.

        Args:
            folder: The path of the folder, relative to the root: empty, or with "/" at its end.
            scope: The files that are ignored in the folder.
        """
        try:
            with os.scandir(self.root / folder) as entries:
                children = sorted(entries, key=lambda entry: entry.name)
        except PermissionError as error:
            if not folder:
                raise unreadable(self.root, folder, error) from error
            self.left_out.append(LeftOut(folder.rstrip("/"), WhyLeftOut.UNREADABLE))
            return
        except OSError as error:
            raise unreadable(self.root, folder, error) from error
        scope = scope.enter(self.root / folder, children)
        some = False
        for child in children:
            if child.name in _NEVER_SENT or _is_virtual_environment(child):
                continue
            name = folder + child.name
            try:
                status = child.stat(follow_symlinks=False)
            except OSError as error:
                raise unreadable(self.root, name, error) from error
            is_folder = stat.S_ISDIR(status.st_mode)
            if scope.ignores(child.name, is_folder):
                continue
            if is_folder:
                for member in self._walk(name + "/", scope.below(self.root / name, child.name)):
                    some = True
                    yield member
                continue
            found = self._file_or_link(name, status)
            if isinstance(found, LeftOut):
                self.left_out.append(found)
            else:
                some = True
                yield found
        if folder and (some or not children):
            yield Member(folder.rstrip("/"), stat.S_IFDIR)

    def _file_or_link(self, name: str, status: os.stat_result) -> Member | LeftOut:
        if stat.S_ISLNK(status.st_mode):
            return self._link(name)
        if not stat.S_ISREG(status.st_mode):
            return LeftOut(name, WhyLeftOut.SPECIAL)
        if not os.access(self.root / name, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            return LeftOut(name, WhyLeftOut.UNREADABLE)
        return Member(name, stat.S_IFREG, status.st_size, bool(status.st_mode & stat.S_IXUSR))

    def _link(self, name: str) -> Member | LeftOut:
        link = self.root / name
        try:
            target = os.readlink(link)
        except OSError as error:
            raise unreadable(self.root, name, error) from error
        real = os.path.realpath(link)
        if not Path(real).is_relative_to(self.root):
            return LeftOut(name, WhyLeftOut.LINK_OUT, target)
        try:
            link.stat()
        except OSError as error:  # A link without a target is sent, because the task may create the target.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                return LeftOut(name, WhyLeftOut.LINK_BROKEN, target)
        # A link with an absolute target, or with a path that leaves the workspace and returns, would break on another
        # machine. Therefore such a link is changed: it leads from its own folder directly to the file.
        steps = os.path.normpath(os.path.join(os.path.dirname(name), target)).split(os.sep)
        if os.path.isabs(target) or steps[0] == os.pardir:
            target = os.path.relpath(real, link.parent)
        return Member(name, stat.S_IFLNK, target=target.replace(os.sep, "/"))


class _Scope:
    """Decides which files of one folder of a workspace are not sent, because an ignore file names them."""

    def enter(self, folder: Path, children: list[os.DirEntry[str]]) -> _Scope:
        """Return the scope of this folder with the rules of its own ignore file. This scope is used for the content of
        the folder.

        Args:
            folder: The path of this folder.
            children: The entries of this folder, among which is its ignore file, if it has one.
        """
        return self

    def ignores(self, child: str, is_folder: bool) -> bool:
        """Return whether a file or folder directly in this folder is ignored."""
        raise NotImplementedError

    def below(self, folder: Path, child: str) -> _Scope:
        """Return the scope of a subfolder."""
        return _scope_of(folder) if git_folder(folder) is not None else self._descend(os.fsencode(child) + b"/")

    def _descend(self, child: bytes) -> _Scope:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _AnswerOfGit(_Scope):
    """Decides which files of one folder are ignored. Git has listed the ignored files of the workspace, or of the
    repository in the workspace."""

    ignored: Ignored
    # The path of the folder whose files are checked, relative to the workspace or repository in which Iris ran git.
    base: bytes = b""

    def ignores(self, child: str, is_folder: bool) -> bool:
        return self.base + os.fsencode(child) + b"/" * is_folder in self.ignored.paths

    def _descend(self, child: bytes) -> _Scope:
        return _AnswerOfGit(self.ignored, self.base + child)


@dataclass(frozen=True, slots=True)
class _Rules(_Scope):
    """Decides which files of one folder are ignored, by the rules of ignore files. Iris uses this class if git gives no
    answer.
    """

    rules: tuple[Rule, ...] = ()
    base: bytes = b""  # The path of the folder, relative to the top of its checkout.

    def enter(self, folder: Path, children: list[os.DirEntry[str]]) -> _Scope:
        has_own = any(child.name == _IGNORE_FILE and child.is_file(follow_symlinks=False) for child in children)
        return _Rules(self.rules + _read_rules(folder / _IGNORE_FILE, self.base), self.base) if has_own else self

    def ignores(self, child: str, is_folder: bool) -> bool:
        return is_ignored(self.base + os.fsencode(child), is_folder, self.rules)

    def _descend(self, child: bytes) -> _Scope:
        return _Rules(self.rules, self.base + child)


def _scope_of(folder: Path, *, is_asked_for: bool = False) -> _Scope:
    """Return an object that decides which files in the top folder of a workspace or repository are ignored.

    Args:
        folder: The workspace, or a repository in it.
        is_asked_for: Whether the folder is the workspace, and not a repository in the workspace. The user has chosen
            the workspace explicitly. Therefore a rule above the workspace that ignores the whole workspace has no
            effect.
    """
    top = next((above for above in (folder, *folder.parents) if os.path.exists(above / ".git")), None)
    if top is None:
        return _Rules()
    ignored = find_ignored(folder)
    if ignored is None:
        return _rules_around(folder) if is_asked_for else _rules_around(folder, top=folder)
    return _Rules() if ignored.itself else _AnswerOfGit(ignored)


def _rules_around(folder: Path, top: Path | None = None) -> _Rules:
    """Return the rules that apply to a folder: of `info/exclude`, and of the ignore files above the folder. Return no
    rules if the folder is in no checkout, or if a rule ignores the folder itself.

    Args:
        folder: The path of the folder.
        top: The top folder of the checkout. None: find it.
    """
    top = top or next((above for above in (folder, *folder.parents) if git_folder(above) is not None), None)
    repository = None if top is None else git_folder(top)
    if top is None or repository is None:
        return _Rules()
    rules = _read_rules(repository / "info" / "exclude", b"")
    base = b""
    at = top
    for part in folder.relative_to(top).parts:
        if not (at / _IGNORE_FILE).is_symlink():  # Like git, Iris does not follow a link to an ignore file.
            rules += _read_rules(at / _IGNORE_FILE, base)
        if is_ignored(base + os.fsencode(part), True, rules):
            return _Rules()
        base += os.fsencode(part) + b"/"
        at /= part
    return _Rules(rules, base)


def _read_rules(file: Path, above: bytes) -> tuple[Rule, ...]:
    try:
        return parse_rules(file.read_bytes(), above)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ()
    except OSError as error:
        raise FailedPreconditionError(
            f"cannot read the ignore file {str(file)!r}: {error.strerror}; make the file readable, or remove it"
        ) from error


def _is_virtual_environment(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
    # This user may not enter a folder in the path, or its links form a cycle. Such a folder does not count as a virtual
    # environment.
    except OSError:
        return False


def unreadable(root: Path, name: str, error: OSError) -> FailedPreconditionError:
    """Return the error to raise if a file cannot be read, or was changed while the workspace was packed."""
    reason = error.strerror or "it was changed while it was packed"
    return FailedPreconditionError(
        f"cannot send the workspace {str(root)!r}: {name or '.'!r} cannot be read: {reason}"
        " (try again, or name it in .gitignore)"
    )
