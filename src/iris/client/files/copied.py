"""Describes a finished copy of files, and reports the progress of a running copy to the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from iris.arguments import check_callable

OnProgress = Callable[[int, int], None]
# If a file changes during the copy, the hash of a copied block or of the whole file is wrong. A block and a file are
# copied at most this many times.
MAX_TRIES = 3


@dataclass
class Copied:
    """What a copy has copied.

    Attributes:
        path: The copy: a local path after a download, or a path in the task's directory after an upload. None if a
            download was written to an open file.
        files: The number of copied regular files.
        bytes: The number of copied bytes.
        skipped: The files that were not copied, each with the reason, for people. Pipes, sockets and devices are not
            copied, nor are symbolic links that lead out of the copied directory.
    """

    path: Path | str | None = None
    files: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)


class Progress:
    """The progress of one copy.

    Args:
        on_progress: A function that is called with the number of copied bytes and the number of all known bytes. If
            None, the progress is not reported.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = None if on_progress is None else check_callable("on_progress", on_progress)
        self._done = 0
        self._total = 0

    def expect(self, count: int) -> None:
        """Add the size of a file to the number of bytes that have to be copied."""
        self._total += count

    def add(self, count: int) -> None:
        """Add copied bytes, and notify the user. A negative number takes back bytes that are copied again."""
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, max(self._done, self._total))
