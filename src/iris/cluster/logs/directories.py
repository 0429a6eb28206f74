"""The directory in which the logs of attempts outlive the workers that wrote them. The log of an attempt lies in
`{root}/{task folder}/{attempt id}/`. `segments.py` describes the files of one log.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from iris.cluster.logs.segments import has_end


class LogDirectories:
    """The paths of the kept logs below one root directory.

    Args:
        root: The root directory. Writing the first log creates the directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def name(self, task_id: str, attempt_id: int) -> str:
        """Return the path of an attempt's log relative to the root."""
        return f"{task_folder(task_id)}/{attempt_id}"

    def attempt(self, task_id: str, attempt_id: int) -> Path:
        """Return the path of an attempt's log, whether or not the log exists."""
        return self.root / task_folder(task_id) / str(attempt_id)

    def is_complete(self, task_id: str, attempt_id: int) -> bool:
        """Return whether the end of an attempt's log is on this disk, so that the log cannot grow any more."""
        return has_end(self.attempt(task_id, attempt_id))

    def task(self, task_id: str) -> Path:
        """Return the path of the directory that holds the logs of a task's attempts."""
        return self.root / task_folder(task_id)

    def names(self) -> Iterator[str]:
        """Yield the paths of all logs, relative to the root."""
        for task in subfolders(self.root):
            if not task.startswith("."):
                yield from (f"{task}/{attempt}" for attempt in subfolders(self.root / task) if attempt.isdigit())


def task_folder(task_id: str) -> str:
    """Return the name of a task's folder. The name is readable, unique to the task, limited in length, and has no
    separators.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", task_id)[:80].lstrip(".")
    return f"{readable}-{hashlib.sha256(task_id.encode()).hexdigest()[:16]}"


def subfolders(path: Path) -> list[str]:
    """Return the names of the folders in a directory; a missing directory has none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []
