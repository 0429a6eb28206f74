"""The tables of events and of webhooks, and the SQL statements that read and change these tables."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from iris.event_kinds import is_chosen, is_for_admins
from iris.rpc import cluster_pb2

Event = cluster_pb2.Controller.Event

# The database migration (storage/schema.py) that creates the tables of events and webhooks.
EVENTS_SCHEMA = """
CREATE TABLE event_journal (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    journal_id TEXT NOT NULL                   -- part of each cursor: a cursor of another journal is recognised
);
INSERT INTO event_journal VALUES (1, lower(hex(randomblob(4))));
CREATE TABLE events (                          -- the newest events of the cluster
    number INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    job_id TEXT NOT NULL,                      -- empty if the event concerns no job
    message BLOB NOT NULL                      -- Event
);
CREATE TABLE webhooks (
    url_hash TEXT PRIMARY KEY,
    number INTEGER NOT NULL                    -- the last event that was delivered or given up
) WITHOUT ROWID;
"""
ADD = "INSERT INTO events VALUES (?, ?, ?, ?, ?)"
REMOVE_UP_TO = "DELETE FROM events WHERE number<=?"
# If the state directory is a copy, the controller starts a new cluster from it. The new cluster gets a new journal id,
# so that it refuses the event cursors of the original cluster.
NEW_JOURNAL = "UPDATE event_journal SET journal_id=lower(hex(randomblob(4)))"
SAVE_WEBHOOK = "INSERT OR REPLACE INTO webhooks VALUES (?, ?)"
REMOVE_WEBHOOK = "DELETE FROM webhooks WHERE url_hash=?"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The conditions that events must meet.

    Attributes:
        kinds: The kinds of the events, which may be groups such as `job.*`. An empty tuple accepts all kinds.
        job_id: Only events of this job and of its child jobs are accepted. An empty string accepts the events of all
            jobs and of the cluster.
        since_ms: The earliest time of an event, in milliseconds since the epoch.
        for_admin: Whether to include events that only admins may see.
    """

    kinds: tuple[str, ...] = ()
    job_id: str = ""
    since_ms: int = 0
    for_admin: bool = False
    _kinds: frozenset[str] = field(init=False, repr=False, compare=False)
    _has_groups: bool = field(init=False, repr=False, compare=False)
    _clause: tuple[str, tuple[object, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kinds", frozenset(self.kinds))
        object.__setattr__(self, "_has_groups", not self.kinds or any("*" in kind for kind in self.kinds))
        object.__setattr__(self, "_clause", self._make_clause())

    def accepts(self, event: Event) -> bool:
        """Return whether an event meets all conditions."""
        # The exact kinds are looked up first, because this lookup is the fastest check, and a busy cluster calls this
        # method thousands of times in a second.
        kind = event.name
        return (
            (kind in self._kinds or (self._has_groups and is_chosen(kind, self.kinds)))
            and (not self.job_id or event.job_id == self.job_id or event.job_id.startswith(f"{self.job_id}/"))
            and (not self.since_ms or event.time_ms >= self.since_ms)
            and (self.for_admin or not is_for_admins(kind))
        )

    def clause(self) -> tuple[str, tuple[object, ...]]:
        """Return the conditions in SQL, and their parameters."""
        return self._clause

    def _make_clause(self) -> tuple[str, tuple[object, ...]]:
        conditions, values = ["time_ms>=?"], [self.since_ms, *self.kinds]
        if self.kinds:
            conditions.append(f"({' OR '.join(['kind GLOB ?'] * len(self.kinds))})")
        if self.job_id:
            # The ids of child jobs begin with the job's id and a slash. They are the ids between "id/" and "id0",
            # because '0' is the next character after the slash.
            conditions.append("(job_id=? OR (job_id>? AND job_id<?))")
            values += [self.job_id, f"{self.job_id}/", f"{self.job_id}0"]
        if not self.for_admin:
            conditions.append("kind NOT GLOB 'session.*'")
        return " AND ".join(conditions), tuple(values)


def read_journal(db: sqlite3.Connection) -> tuple[str, int, int]:
    """Return the id of the journal, the number of the oldest stored event, and the number of the newest stored event.
    If no events are stored, the two numbers are 1 and 0.
    """
    (journal_id,) = db.execute("SELECT journal_id FROM event_journal").fetchone()
    first, last = db.execute("SELECT min(number), max(number) FROM events").fetchone()
    return journal_id, first or 1, last or 0


def read_newest(db: sqlite3.Connection, count: int) -> list[Event]:
    """Return the newest events, the oldest of them first."""
    rows = db.execute("SELECT message FROM events ORDER BY number DESC LIMIT ?", (count,)).fetchall()
    return [Event.FromString(message) for (message,) in reversed(rows)]


def read_page(db: sqlite3.Connection, after: int, until: int, chosen: EventFilter, limit: int) -> list[Event]:
    """Return a page of the events that meet the conditions, the oldest first. Only events whose numbers are higher than
    `after`, and at most `until`, are read.
    """
    clause, values = chosen.clause()
    statement = f"SELECT message FROM events WHERE number>? AND number<=? AND {clause} ORDER BY number LIMIT ?"
    return [Event.FromString(message) for (message,) in db.execute(statement, (after, until, *values, limit))]


def place_of_tail(db: sqlite3.Connection, until: int, chosen: EventFilter, count: int) -> int:
    """Find the newest `count` events that meet the conditions, and return the number that precedes the oldest of them.
    Return 0 if fewer than `count` events meet the conditions.
    """
    clause, values = chosen.clause()
    statement = f"SELECT number FROM events WHERE number<=? AND {clause} ORDER BY number DESC LIMIT 1 OFFSET ?"
    row = db.execute(statement, (until, *values, count - 1)).fetchone()
    return 0 if row is None else int(row[0]) - 1


def count_after(db: sqlite3.Connection, after: int, chosen: EventFilter) -> int:
    """Return how many stored events with a number higher than `after` meet the conditions."""
    clause, values = chosen.clause()
    return int(db.execute(f"SELECT count(*) FROM events WHERE number>? AND {clause}", (after, *values)).fetchone()[0])


def read_webhooks(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of the last event that each delivery has handled, by the name of the delivery. The name of a
    webhook is the hash of its URL.
    """
    return {url_hash: int(number) for url_hash, number in db.execute("SELECT url_hash, number FROM webhooks")}
