"""How long logs are kept: by age, and by how much there is of them. Decided purely; `sweep.py` carries it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept.

    Attributes:
        keep_ms: Of attempts that ended longer ago, nothing; None: for ever.
        keep_bytes: Of all that is on this machine, the oldest goes while there is more; None: all.
    """

    keep_ms: int | None = None
    keep_bytes: int | None = None

    @property
    def age_reason(self) -> str:
        """Why something is gone that was too old."""
        return f"removed: logs are kept for {_readable_time(self.keep_ms or 0)}"

    @property
    def size_reason(self) -> str:
        """Why something is gone that was too much."""
        return f"removed: logs are kept up to {self.keep_bytes} bytes in total, the newest"


class Found(NamedTuple):
    """A log that lies here.

    Attributes:
        name: Of its directory, below the root.
        size: Of its segments, bytes.
        changed_ms: When something was added last.
        closed: It has an end.
        stored: All of it is at the location.
        away: It was removed from here, and is only there.
    """

    name: str
    size: int
    changed_ms: int
    closed: bool = False
    stored: bool = False
    away: bool = False


class Known(NamedTuple):
    """An attempt as the controller knows it.

    Attributes:
        ended_ms: When it ended; None while it has not.
        stored_as: The name of its log at the location: new for each job, also where one of that name has been before.
    """

    ended_ms: int | None
    stored_as: str = ""


class Removal(NamedTuple):
    """A log that is to go, and why; without a reason only from this machine."""

    name: str
    reason: str


def choose(
    found: Iterable[Found], known: Mapping[str, Known], retention: Retention, now_ms: int, *, has_location: bool = False
) -> list[Removal]:
    """What is to be removed, the oldest first.

    What is too old goes for good. What is too much goes from here; for good where there is no location, and only once
    it is stored where there is one.

    Args:
        found: What there is.
        known: The attempts, by the names of their logs. A log that is not among them belongs to no job of ours: it
            counts from when it was changed last.
        retention: What is kept.
        now_ms: The time.
        has_location: Logs are stored elsewhere too.
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
