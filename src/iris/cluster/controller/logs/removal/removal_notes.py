"""Notes which logs are being removed together with their jobs, as files in the root directory of the kept logs.

A job is removed from the database before its logs. If the controller is killed in between, only the note tells the next
controller which logs to remove. Logs without a note stay, although their job is unknown: another cluster may have
written them. All functions block on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from iris.cluster.controller.jobs.job_record import JobRecord
from iris.system.files import write_file

NOTE = ".removing-"  # The name of a note begins with this prefix.


def write_note(root: Path, records: Sequence[JobRecord]) -> None:
    """Note that the logs of these jobs are removed if their jobs are removed from the database.

    Raises:
        OSError: The note cannot be written.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    tasks = {record.job_id: len(record.job.tasks) for record in records}
    write_file(_path(root, records), json.dumps(tasks))


def remove_note(root: Path, records: Sequence[JobRecord]) -> None:
    """Remove the note about these jobs, because their logs were removed.

    Raises:
        OSError: The note cannot be removed.
    """
    _path(root, records).unlink(missing_ok=True)


def read_note(path: Path) -> dict[str, int]:
    """Return the number of tasks of each job in a note, by job id. A damaged note names no jobs.

    Raises:
        OSError: The note cannot be read.
    """
    try:
        return {str(job_id): int(tasks) for job_id, tasks in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _path(root: Path, records: Sequence[JobRecord]) -> Path:
    ids = json.dumps(sorted(record.job_id for record in records))
    return root / f"{NOTE}{hashlib.sha256(ids.encode()).hexdigest()[:16]}"
