"""Decides which logs are removed, by their age and by their total size. Pure: sweep.py carries the decision out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Retention:
    """The rules of retention.

    Attributes:
        keep_ms: How long after the end of its attempt a log is kept, in milliseconds; None keeps it for ever.
        keep_bytes: How many bytes of logs this machine keeps; the oldest logs are removed first. None keeps all.
    """

    keep_ms: int | None = None
    keep_bytes: int | None = None

    @property
    def age_reason(self) -> str:
        """The reason that a reader gets for a log that was removed because it was too old."""
        return f"removed: logs are kept for {_readable_time(self.keep_ms or 0)}"

    @property
    def size_reason(self) -> str:
        """The reason that a reader gets for a log that was removed to free space."""
        return f"removed: only the newest {self.keep_bytes} bytes of all logs are kept"


class Found(NamedTuple):
    """A log on this machine.

    Attributes:
        name: The directory of the log, below the root of all logs.
        size: The size of the segments in bytes.
        changed_ms: The time when a part was last added, in milliseconds since the epoch.
        closed: Whether the log has an end.
        stored: Whether the whole log is at the log location.
        away: Whether the segments are only at the log location, because they were removed from this machine.
    """

    name: str
    size: int
    changed_ms: int
    closed: bool = False
    stored: bool = False
    away: bool = False


class Known(NamedTuple):
    """The facts about an attempt that decide how long its log is kept.

    Attributes:
        ended_ms: When the attempt ended, in milliseconds since the epoch; None if it is live.
        stored_as: The name of the attempt's log at the log location, see `sweep.stored_as`.
    """

    ended_ms: int | None
    stored_as: str = ""


class Removal(NamedTuple):
    """A log to remove, and the reason for its readers. An empty reason removes the log from this machine only."""

    name: str
    reason: str


def choose(
    found: Iterable[Found], known: Mapping[str, Known], retention: Retention, now_ms: int, *, has_location: bool = False
) -> list[Removal]:
    """Return the logs to remove, oldest first.

    A log that is too old is removed from this machine and from the log location. If all logs take too much space, the
    oldest logs are removed from this machine. If there is a log location, only logs that are stored there are removed
    to free space.

    Args:
        found: The logs on this machine.
        known: The attempts, by the names of their logs. The age of a log without a known attempt counts from the log's
            last change.
        retention: The rules.
        now_ms: The time, in milliseconds since the epoch.
        has_location: Whether there is a log location.
    """
    logs = list(found)
    total = sum(log.size for log in logs)
    ended = []
    for log in logs:
        attempt = known.get(log.name)
        at = log.changed_ms if attempt is None else attempt.ended_ms
        if at is not None and (log.size or log.away or attempt is None):
            ended.append((at, log))
    removals = []
    for at, log in sorted(ended):
        is_old = retention.keep_ms is not None and now_ms - at > retention.keep_ms
        is_too_much = retention.keep_bytes is not None and total > retention.keep_bytes and log.size > 0
        if is_old:
            removals.append(Removal(log.name, retention.age_reason))
        elif is_too_much and not has_location:
            removals.append(Removal(log.name, retention.size_reason))
        elif is_too_much and log.stored:
            removals.append(Removal(log.name, ""))
        else:
            continue
        total -= log.size
    return removals


def _readable_time(milliseconds: int) -> str:
    for unit, size in (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000)):
        if milliseconds >= size and milliseconds % size == 0:
            count = milliseconds // size
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{milliseconds / 1000:g} s"
