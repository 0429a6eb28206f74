"""The tables that store what tasks have used over time, and the SQL statements that read and change these tables.

Each row has the series of one task. The row with the index `SUM_INDEX` has the sum over the tasks of a job. A trigger
removes the rows together with the row of their job. Triggers also count the bytes of all rows, so that no code has to
read all rows for the sum.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

SUM_INDEX = -1

# The database migration (storage/schema.py) that creates the tables of usage over time.
USAGE_SCHEMA = """
CREATE TABLE usage_history (                   -- what tasks have used over time (usage/series.py)
    number INTEGER NOT NULL,                   -- the number of the job
    task_index INTEGER NOT NULL,               -- -1 for the sum over the tasks
    points BLOB NOT NULL,
    PRIMARY KEY (number, task_index)
) WITHOUT ROWID;
CREATE TABLE usage_bytes (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    total INTEGER NOT NULL                     -- the bytes of all points in usage_history
);
INSERT INTO usage_bytes VALUES (1, 0);
CREATE TRIGGER usage_added AFTER INSERT ON usage_history BEGIN
    UPDATE usage_bytes SET total = total + length(NEW.points);
END;
CREATE TRIGGER usage_changed AFTER UPDATE ON usage_history BEGIN
    UPDATE usage_bytes SET total = total + length(NEW.points) - length(OLD.points);
END;
CREATE TRIGGER usage_removed AFTER DELETE ON usage_history BEGIN
    UPDATE usage_bytes SET total = total - length(OLD.points);
END;
CREATE TRIGGER usage_of_removed_job AFTER DELETE ON jobs BEGIN
    DELETE FROM usage_history WHERE number = OLD.number;
END;
"""
# The arguments of this statement are the number of the job, the task index, and the points. A job that was removed
# meanwhile gets no row.
SAVE = (
    "INSERT INTO usage_history SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM jobs WHERE number=?1)"
    " ON CONFLICT (number, task_index) DO UPDATE SET points=excluded.points"
)
# This statement removes the usage of the oldest ended jobs. The argument is the number of jobs.
REMOVE_OLDEST = (
    "DELETE FROM usage_history WHERE number IN (SELECT DISTINCT number FROM usage_history"
    " WHERE number IN (SELECT number FROM jobs WHERE state>0) ORDER BY number LIMIT ?)"
)


def total_bytes(db: sqlite3.Connection) -> int:
    """Return the bytes of all stored points."""
    return int(db.execute("SELECT total FROM usage_bytes").fetchone()[0])


def read_job(db: sqlite3.Connection, number: int) -> dict[int, bytes]:
    """Return the stored points of a job's tasks and of their sum, by task index. The sum has the index `SUM_INDEX`."""
    rows = db.execute("SELECT task_index, points FROM usage_history WHERE number=?", (number,))
    return dict(rows.fetchall())


def read_tasks(db: sqlite3.Connection, number: int, indices: Sequence[int]) -> dict[int, bytes]:
    """Return the stored points of some tasks of a job, by task index."""
    found = {}
    for index in indices:
        row = db.execute("SELECT points FROM usage_history WHERE number=? AND task_index=?", (number, index)).fetchone()
        if row is not None:
            found[index] = row[0]
    return found
