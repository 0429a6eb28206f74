"""Asks git which files of a checkout git ignores. If git does not answer, `ignore_rules.py` applies the same rules."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Git gets only these environment variables. They name the files with git's settings and limit the search for a
# checkout. A git hook sets further variables. With these variables, git would answer about the repository of the hook.
_KEPT_VARIABLES = frozenset(
    {
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CONFIG_SYSTEM",
        "GIT_CEILING_DIRECTORIES",
        "GIT_DISCOVERY_ACROSS_FILESYSTEM",
        "GIT_EXEC_PATH",
    }
)
# The two exit codes with which `git check-ignore` answers. All other exit codes are failures.
_IS_IGNORED, _IS_NOT_IGNORED = 0, 1


@dataclass(frozen=True, slots=True)
class Ignored:
    """The files and folders that git ignores below a folder. Git never ignores a tracked file.

    Attributes:
        itself: Whether git ignores the folder itself. If True, `paths` is empty.
        paths: The ignored files and folders, relative to the folder. The path of a folder ends with "/". The content
            of an ignored folder is ignored, too, but not listed.
    """

    itself: bool
    paths: frozenset[bytes]


def find_ignored(folder: Path) -> Ignored | None:
    """Return the files and folders that git ignores below a folder of a checkout. Git reads the `.gitignore` files of
    all folders up to the top of the checkout, `info/exclude`, and the user's global ignore file.

    Returns:
        None if git gives no answer: git is not installed, the folder is in no checkout, or git refuses the checkout
        because it belongs to another user (`safe.directory`).
    """
    asked = _git(folder, "check-ignore", "-q", ".")
    if asked is None or asked.returncode not in (_IS_IGNORED, _IS_NOT_IGNORED):
        return None
    if asked.returncode == _IS_IGNORED:
        return Ignored(True, frozenset())
    listed = _git(folder, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z")
    if listed is None or listed.returncode != 0:
        return None
    return Ignored(False, frozenset(listed.stdout.split(b"\0")[:-1]))


def git_folder(top: Path) -> Path | None:
    """Return the folder with the repository of a checkout, usually `.git`, or None if `top` is not a checkout.

    Args:
        top: The top folder of the checkout. In a worktree or a submodule, its `.git` is a file.
    """
    git = top / ".git"
    if not os.path.lexists(git):
        return None
    try:
        if git.is_file():
            git = top / os.fsdecode(git.read_bytes()).removeprefix("gitdir:").strip()
        common = git / "commondir"
        shared = git / os.fsdecode(common.read_bytes()).strip() if common.is_file() else git
        is_valid = (git / "HEAD").is_file() and (shared / "objects").is_dir() and (shared / "refs").is_dir()
    except OSError:
        return None
    return shared if is_valid else None


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes] | None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT_VARIABLES
    }
    # With these settings, git neither writes the index nor starts a daemon that outlives this process.
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        return subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:  # Git gives no answer if git is not installed, or if this user may not enter the folder.
        return None
