"""Counts the jobs and tasks in the database of a controller that has ended. Counting does not change the database."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import Counter
from pathlib import Path

from iris.cluster.controller.storage.records import unpack_states
from iris.cluster.types import state_name
from iris.errors import DataLossError


def count_states(database: Path) -> dict[str, dict[str, int]]:
    """Return how many jobs and tasks are in each state: `{"jobs": {"RUNNING": 2}, "tasks": {…}}`.

    Raises:
        DataLossError: The database cannot be read.
    """
    try:
        db = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        try:
            jobs, tasks = _count(db)
        finally:
            db.close()
    except (sqlite3.Error, zlib.error, ValueError) as error:
        raise DataLossError(f"{database} cannot be read: {error}") from error
    return {"jobs": _named(jobs), "tasks": _named(tasks)}


def _count(db: sqlite3.Connection) -> tuple[Counter[int], Counter[int]]:
    jobs: Counter[int] = Counter()
    tasks: Counter[int] = Counter()
    for (record,) in db.execute("SELECT record FROM jobs"):
        # Databases of older versions contain only records in text form, and no packed records.
        if isinstance(record, bytes):
            job, states = unpack_states(record)
            jobs[job] += 1
            tasks.update(states)
        else:
            jobs[json.loads(record)["state"]] += 1
    tasks.update(json.loads(record)["state"] for (record,) in db.execute("SELECT record FROM tasks"))
    return jobs, tasks


def _named(counts: Counter[int]) -> dict[str, int]:
    return {state_name(state): counts[state] for state in sorted(counts)}
