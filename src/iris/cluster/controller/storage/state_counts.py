"""Counts the jobs and tasks in the database of a controller that has ended. Counting does not change the database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from iris.cluster.types import state_name
from iris.errors import DataLossError


def count_states(database: Path) -> dict[str, dict[str, int]]:
    """Return how many jobs and tasks are in each state: `{"jobs": {"RUNNING": 2}, "tasks": {…}}`.

    Raises:
        DataLossError: The database cannot be read.
    """
    counts: dict[str, dict[str, int]] = {}
    try:
        db = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        try:
            for table in ("jobs", "tasks"):
                rows = db.execute(f"SELECT json_extract(record, '$.state'), count(*) FROM {table} GROUP BY 1")
                counts[table] = {state_name(state or 0): count for state, count in rows}
        finally:
            db.close()
    except sqlite3.Error as error:
        raise DataLossError(f"{database} cannot be read: {error}") from error
    return counts
