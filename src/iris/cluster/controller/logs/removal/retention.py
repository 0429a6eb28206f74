"""Decides which logs to remove, by their age and their total size. The module is pure; sweep.py removes the logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from iris.counts import counted


@dataclass(frozen=True, slots=True)
class Retention:
    """The rules of retention.

    Attributes:
        keep_ms: How long a log is kept after its attempt has ended, in milliseconds. None keeps all logs forever.
        keep_bytes: How many bytes of logs this machine keeps. If the logs on this machine are larger together, the
            oldest logs are removed. None sets no limit.
    """

    keep_ms: int | None = None
    keep_bytes: int | None = None

    @property
    def age_reason(self) -> str:
        """Return the text that readers of a log get if the log was removed because of its age."""
        return f"removed: logs are kept for {_readable_time(self.keep_ms or 0)}"

    @property
    def size_reason(self) -> str:
        """Return the text that readers of a log get if the log was removed to free space."""
        return f"removed: only the newest {self.keep_bytes} bytes of all logs are kept"


class Found(NamedTuple):
    """A log on this machine.

    Attributes:
        name: The directory of the log, below the root of all logs.
        size: The size of the log's segments in bytes.
        changed_ms: When a file of the log was last written, in milliseconds since the epoch. For a folded log, when the
            attempt ended.
        closed: Whether the log has a file `end`, so that the log is complete.
        stored: Whether the log location has the whole log.
        away: Whether the segments were removed from this machine, so that only the log location has the segments.
    """

    name: str
    size: int
    changed_ms: int
    closed: bool = False
    stored: bool = False
    away: bool = False


class Known(NamedTuple):
    """The facts about an attempt that determine how long the attempt's log is kept.

    Attributes:
        ended_ms: When the attempt ended, in milliseconds since the epoch; None if the attempt is live.
        stored_as: The name of the attempt's log at the log location (see `logged_attempts.stored_as`).
    """

    ended_ms: int | None
    stored_as: str = ""


class Removal(NamedTuple):
    """A log to remove, with the reason that readers of the log get. If the reason is empty, the log is removed from
    this machine only, and its copy at the log location remains.
    """

    name: str
    reason: str


def choose(
    found: Iterable[Found],
    known: Mapping[str, Known],
    retention: Retention,
    now_ms: int,
    *,
    has_location: bool = False,
    other_bytes: int = 0,
) -> list[Removal]:
    """Return the logs to remove, oldest first.

    A log that is too old is removed from this machine and from the log location. If the logs take too much space, the
    oldest logs are removed from this machine. If the cluster has a log location, a log is removed to free space only
    after it was copied to the log location.

    Args:
        found: The logs on this machine.
        known: The attempts, by the names of their logs. If the attempt of a log is not in this mapping, the log's age
            counts from the log's last change.
        retention: The rules by which logs are removed.
        now_ms: The time, in milliseconds since the epoch.
        has_location: Whether the cluster has a log location.
        other_bytes: The size of further logs on this machine, which are newer than the logs in `found`.
    """
    logs = list(found)
    total = other_bytes + sum(log.size for log in logs)
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
            return counted(count, unit)
    return f"{milliseconds / 1000:g} s"
