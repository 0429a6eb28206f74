"""Describes the progress of a piece of work as one line of text or as HTML. This module writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from iris.display.table import escaped, plain_line
from iris.durations import words_of_seconds

_BAR = 24  # The width of the bar in characters.
_MB = 1_000_000
# The remaining time is shown only if the work has at least this many items, and this share of them has ended. With
# fewer items, the estimate would jump.
_LEAST_ITEMS, _LEAST_SHARE = 20, 0.02


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a piece of work.

    Attributes:
        title: The name of the work, for example "job train".
        total: The number of items. 0: the number is unknown, and no bar is shown.
        done: The number of items that have ended, including the failed ones.
        failed: The number of items that have failed.
        running: The number of items that are being worked on.
        unit: What an item is, in the plural, for example "tasks". With "bytes", sizes are shown in megabytes.
        state: The state of the work in one word, for example "PENDING". If it is an empty string, no state is shown.
        note: A remark about the present moment, for example why the work waits. Control characters are replaced.
    """

    title: str
    total: int = 0
    done: int = 0
    failed: int = 0
    running: int = 0
    unit: str = "tasks"
    state: str = ""
    note: str = ""

    @property
    def share(self) -> float:
        """The share of the items that have ended, from 0 to 1. 0 if the number of items is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


def progress_line(progress: Progress, elapsed_s: float) -> str:
    """Return one line of text about the progress. The line has no control characters.

    Args:
        progress: The amount of work that is done, and the whole amount.
        elapsed_s: The time in seconds since the work began.
    """
    parts = [progress.title]
    # An empty bar is left out if there is a note, for example while a job waits, so that the note has more room.
    if progress.total > 0 and (progress.done or not progress.note):
        filled = int(_BAR * progress.share)
        parts.append(f"[{'#' * filled}{'.' * (_BAR - filled)}]")
    parts += [progress.state, facts_of(progress, elapsed_s), progress.note]
    return "  ".join(plain_line(part) for part in parts if part)


def progress_html(progress: Progress, elapsed_s: float) -> str:
    """Return the progress as a fragment of HTML. All text of `progress` is escaped.

    Args:
        progress: The amount of work that is done, and the whole amount.
        elapsed_s: The time in seconds since the work began.
    """
    bar = ""
    if progress.total > 0:
        bar = f'<progress max="{progress.total}" value="{min(progress.done, progress.total)}"></progress> '
    words = [progress.state, facts_of(progress, elapsed_s), progress.note]
    shown = " &nbsp; ".join(escaped(word) for word in words if word)
    return f'<div class="iris-progress"><b>{escaped(progress.title)}</b> {bar}{shown}</div>'


def facts_of(progress: Progress, elapsed_s: float) -> str:
    """Return the counts and the times of the progress, for example `3/8 tasks, 1 failed, 4 running, 12s`."""
    facts = []
    if progress.unit == "bytes":
        facts += [f"{progress.done // _MB} of {progress.total // _MB} MB"] if progress.total else []
    elif progress.total > 0:
        facts.append(f"{progress.done}/{progress.total} {progress.unit}")
    elif progress.done:
        facts.append(f"{progress.done} {progress.unit}")
    if progress.failed:
        facts.append(f"{progress.failed} failed")
    if progress.running:
        facts.append(f"{progress.running} running")
    facts.append(words_of_seconds(elapsed_s))
    left_s = seconds_left(progress, elapsed_s)
    if left_s is not None:
        facts.append(f"about {words_of_seconds(left_s)} left")
    return ", ".join(facts)


def seconds_left(progress: Progress, elapsed_s: float) -> float | None:
    """Return the estimated remaining time in seconds. None if no estimate is possible yet, or the work has ended."""
    if progress.total < _LEAST_ITEMS or progress.share < _LEAST_SHARE or progress.done >= progress.total:
        return None
    return elapsed_s * (progress.total - progress.done) / progress.done
