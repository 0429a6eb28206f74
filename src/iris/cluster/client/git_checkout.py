"""Asks git what a checkout ignores. Without git, or where it does not answer, the caller applies the rules itself."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Of git's variables only those that say where its settings are, and where to look for a checkout. Inside a hook git
# sets others, which would make it speak of the hook's repository and index, whatever the folder.
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
_IS_IGNORED, _IS_NOT_IGNORED = 0, 1  # exit codes of `git check-ignore`


@dataclass(frozen=True, slots=True)
class Ignored:
    """What git ignores below a folder. Tracked files are never among it, whatever the rules say.

    Attributes:
        itself: Whether the folder is ignored itself; nothing is known of what is below it then.
        paths: What is ignored, relative to the folder. Folders end with "/", and what is below them is not listed.
    """

    itself: bool
    paths: frozenset[bytes]


def find_ignored(folder: Path) -> Ignored | None:
    """Ask git what is ignored below a folder of a checkout.

    Git reads all that counts for it: `.gitignore` files up to the top, `info/exclude`, the user's global ignore file.

    Returns None where git does not say: it is not installed, there is no checkout, or git refuses this one because it
    belongs to another user (`safe.directory`).
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
    """Return the folder of a repository that belongs to a checkout, where `info/exclude` is; None: it is no checkout.

    Args:
        top: The top of the checkout. Its `.git` is a file in a worktree and in a submodule.
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
    # Reading must neither write the index nor start a daemon that outlives us.
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
    except OSError:  # no git, or a folder that may not be entered
        return None
