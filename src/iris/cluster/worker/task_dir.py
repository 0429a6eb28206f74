"""Where everything of a worker lies on disk: the one owner of every path.

{root}/attempts/{task}/{attempt}/log           what the attempt wrote (log_store.py)
                                 work/         its working directory: a copy of the workspace, or empty
                                 entrypoint    the pickled callable
                                 result        what it returned; `result.error`, `result.failure`: why there is none
{root}/bundles/{hash}/                         workspaces, unpacked once for all attempts
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AttemptDir:
    """The paths of one attempt. `create` makes the directory; nothing else does."""

    path: Path

    @property
    def log(self) -> Path:
        """The attempt's log."""
        return self.path / "log"

    @property
    def work(self) -> Path:
        """The attempt's working directory."""
        return self.path / "work"

    @property
    def entrypoint(self) -> Path:
        """The pickled callable."""
        return self.path / "entrypoint"

    @property
    def result(self) -> Path:
        """The pickled return value."""
        return self.path / "result"

    @property
    def result_error(self) -> Path:
        """Why a callable that returned has no result: one sentence."""
        return self.path / "result.error"

    @property
    def failure(self) -> Path:
        """Why a callable failed: one sentence."""
        return self.path / "result.failure"

    def create(self) -> None:
        """Makes the attempt's directory anew: what an earlier worker with the same place left is removed."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)


class WorkerDir:
    """The directory of one worker.

    Args:
        root: Made when it is missing, readable by its owner only: logs and code are private.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in (root / "bundles").glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)  # half unpacked when an earlier worker was killed

    def attempt(self, task_id: str, attempt_id: int) -> AttemptDir:
        """The paths of an attempt, whether it exists or not."""
        return AttemptDir(self._task(task_id) / str(attempt_id))

    def attempt_ids(self, task_id: str) -> list[int]:
        """The attempts of a task that are on disk, in order."""
        try:
            return sorted(int(entry.name) for entry in self._task(task_id).iterdir() if entry.name.isdigit())
        except FileNotFoundError:
            return []

    def bundle(self, bundle_hash: str) -> Path:
        """Where the workspace with this hash lies, or will lie."""
        return self._root / "bundles" / bundle_hash

    def _task(self, task_id: str) -> Path:
        # Readable for people, and safe for any id: no separators, no length limit, no two ids in one place.
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", task_id)[:80].lstrip(".")
        return self._root / "attempts" / f"{readable}-{hashlib.sha256(task_id.encode()).hexdigest()[:16]}"
